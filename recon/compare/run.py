"""The comparison: perceive once, then one process for each contestant, one table of all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from physgym import __version__
from physgym.errors import DataError
from physgym.files import check_writable, write_atomically
from physgym.run_folder import RunFolder
from recon.compare.contestants import Contestant, check_contestants, train_stop_of
from recon.compare.process import run_worker, unfinished
from recon.compare.table import MEASURES, baseline_rows, markdown, shown_measures
from recon.compare.worker import WorkerJob
from recon.identify.progress import Progress

if TYPE_CHECKING:
    from recon.perception.result import Perception

__all__ = ["FORMAT", "FORMAT_VERSION", "CompareConfig", "compare"]

FORMAT, FORMAT_VERSION = "physgym-compare", 1
_PERCEPTION = "perception.npz"  # in the folder: what every contestant is told


@dataclass(frozen=True)
class CompareConfig:
    """What is the same for all contestants.

    Attributes:
        train: how much is learned from (`recon.compare.contestants.train_stop_of`).
        budget: how long to search.
        kind: what the object is; ``auto`` looks at the first frame.
        mass_kg: of the object; that of the recording's metadata when None.
        nodes: of a network at most.
        emd_points: points of a cloud in EMD.
        seed: of all random numbers.
        calibration: file with ``T_world_cam`` in place of the recording's own.
        ground_m: of a recording without depth: height of a level ground [m].
        click: of one: where the object is in first images (`recon.score_source.prompts_of`).
        box: likewise.
        report: draw ``report.html``.
        resume: go on with what is in the folder.
    """

    train: str = "auto"
    budget: Literal["quick", "full"] = "quick"
    kind: Literal["auto", "volume", "sheet", "rope"] = "auto"
    mass_kg: float | None = None
    nodes: int = 700
    emd_points: int = 1000
    seed: int = 0
    calibration: str | None = None
    ground_m: float | None = None
    click: tuple[str, ...] = ()
    box: tuple[str, ...] = ()
    report: bool = True
    resume: bool = False

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("--emd-points", self.emd_points, 10, 2000),
            ("--nodes", self.nodes, 20, 100_000),
        ):
            if not low <= value <= high:
                raise DataError(f"{value}", where=name, expected=f"{low} to {high}")

    @property
    def common(self) -> dict[str, Any]:
        """Fields of `recon.reconstruct.ReconstructConfig` that all contestants share."""
        shared = ("budget", "kind", "mass_kg", "nodes", "seed", "ground_m")
        return {k: getattr(self, k) for k in shared}


@dataclass(frozen=True)
class _Comparison:
    """What must be the same when a comparison is resumed; contestants may come and go."""

    source_sha256: str
    train_stop: int
    common: str
    emd_points: int
    masks_sha256: str


def compare(
    source: Path,
    contestants: Sequence[Contestant],
    folder: Path,
    config: CompareConfig | None = None,
    *,
    json_path: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Let every contestant learn from the first frames of an episode and predict the rest.

    Ctrl-C ends it; contestants that were done by then are kept, and the result says ``stopped``.

    Args:
        source: an episode, as `recon.reconstruct.reconstruct_episode` takes it.
        contestants: rows of the table, in this order.
        folder: where everything goes.
        config: what is the same for all.
        json_path: where the figures go; ``FOLDER/compare.json`` when None.
        progress: told how it goes.

    Returns:
        JSON values: ``episode``, ``frames``, ``seconds``, ``cameras``, ``train_stop``,
        ``contestants``: a list of ``name``, ``method``, ``options``, ``status`` (``done``,
        ``failed``, ``stopped`` or ``waiting``) and what `recon.compare.worker.work` returns, or
        ``error``; ``baselines`` by row, part and measure; ``definitions``; ``notes``: why measures
        are missing, and what else a reader must know; ``stopped``.

    Raises:
        PhysGymError: if the episode cannot be perceived, or a contestant, a place or the
            configuration cannot be used.
    """
    from recon.compare.source import as_episode
    from recon.splats.perceptual import load_lpips

    config, progress = config or CompareConfig(), progress or Progress()
    check_contestants(contestants)
    out = json_path or folder / "compare.json"
    if out.is_dir():
        raise DataError("a folder", where=f"--json {out}", expected="the name of a file")
    _check_folder(folder, config)
    check_writable(out, f"--json {out}")
    lpips = load_lpips() is not None  # a file that cannot be used is refused now
    source = as_episode(Path(source).expanduser(), folder, resume=config.resume)
    perception, perceive_s = _perceived(source, config, progress)
    frames = perception.tracks.frame_count
    train_stop = train_stop_of(config.train, frames)
    jobs = [_job_of(one, source, folder, config, frames, train_stop) for one in contestants]
    same = _Comparison(
        perception.tracks.source_sha256,
        train_stop,
        json.dumps({**config.common, "calibration": config.calibration}),
        config.emd_points,
        _masks_sha256(perception),
    )
    _check_recording(folder, same)
    with RunFolder(folder, same, resume=config.resume):
        perception.save(folder / _PERCEPTION)
        rows = _rows(jobs, progress)
        progress.say("score the baselines")
        baselines = _baselines(rows, source, perception, train_stop, config)
        result = _result(rows, baselines, perception, train_stop, perceive_s)
        result["notes"] = _notes(result, perception, lpips=lpips)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, json.dumps(result, indent=1, allow_nan=False).encode())
        write_atomically(folder / "compare.md", markdown(result).encode())
        if config.report and any(row["status"] == "done" for row in rows):
            from recon.compare.report import write_report

            progress.say("draw the report")
            write_report(folder / "report.html", result, source, folder, perception)
    return result


def _perceived(source: Path, config: CompareConfig, progress: Progress) -> tuple[Perception, float]:
    """What every contestant is told of the episode, and how long it took."""
    from recon.compare.source import perceived

    began_s = time.perf_counter()
    found = perceived(source, config, progress)
    return found, time.perf_counter() - began_s


def _check_folder(folder: Path, config: CompareConfig) -> None:
    """Refuse a folder that cannot be used, before the episode is perceived rather than after."""
    if folder.exists() and not folder.is_dir():
        raise DataError("a file", where=f"--out {folder}", expected="a folder")
    if (folder / "config.yaml").is_file() and not config.resume:
        raise DataError(
            "the folder already holds a comparison",
            where=f"--out {folder}",
            expected="a new or empty folder",
            fix="add --resume to go on with it, or choose another --out",
        )
    if folder.is_dir() and not (folder / "config.yaml").is_file() and any(folder.iterdir()):
        raise DataError(
            "the folder is not empty and holds no comparison",
            where=f"--out {folder}",
            expected="a new or empty folder",
            fix="choose another --out",
        )
    check_writable(folder, f"--out {folder}")


def _check_recording(folder: Path, same: _Comparison) -> None:
    """Refuse to go on with another recording in plain words; all else `RunFolder` compares."""
    file = folder / "config.yaml"
    begun = yaml.safe_load(file.read_text("utf-8")) if file.is_file() else None
    if isinstance(begun, dict) and begun.get("source_sha256") != same.source_sha256:
        raise DataError(
            "the folder holds a comparison on another recording, or the recording has changed",
            where=f"--out {folder}",
            expected="the recording that it was begun with",
            fix="choose another --out",
        )


def _job_of(
    one: Contestant,
    source: Path,
    folder: Path,
    config: CompareConfig,
    frames: int,
    train_stop: int,
) -> WorkerJob:
    return WorkerJob(
        source=str(source.absolute()),
        place=str((folder / one.name).absolute()),
        perception=str((folder / _PERCEPTION).absolute()),
        name=one.name,
        method=one.method,
        options=json.loads(json.dumps(dict(one.options))),  # as a file would have them
        common=config.common,
        calibration=config.calibration,
        train_stop=train_stop,
        frames=frames,
        emd_points=config.emd_points,
        seed=config.seed,
    )


def _rows(jobs: Sequence[WorkerJob], progress: Progress) -> list[dict[str, Any]]:
    """One contestant after the other; those after Ctrl-C wait for --resume."""
    rows: list[dict[str, Any]] = []
    stopped = False
    for job in jobs:
        known = _known(job)
        if known is not None and known["status"] == "done":
            progress.say(f"{job.name}: done before")
            rows.append(known)
            continue
        if stopped:
            rows.append(unfinished(job, "waiting"))
            continue
        if known is None:  # nothing there, or something else
            shutil.rmtree(job.place, ignore_errors=True)
        try:
            rows.append(run_worker(job, progress))
        except KeyboardInterrupt:
            progress.say(f"stopped: {job.name} is not done; --resume goes on with it")
            stopped = True
            rows.append(unfinished(job, "stopped"))
    return rows


def _known(job: WorkerJob) -> dict[str, Any] | None:
    """What is there of the very same job: its result, or that it was begun."""
    # The folder may have been moved.
    place, moved = Path(job.place), {"source": "", "place": "", "perception": ""}
    try:
        begun = json.loads((place / "job.json").read_text())
        if {**begun, **moved} != {**asdict(job), **moved}:
            return None
        if (place / "result.json").is_file():
            return dict(json.loads((place / "result.json").read_text()))
    except (OSError, ValueError):
        return None
    return {"status": "stopped"}


def _baselines(
    rows: list[dict[str, Any]],
    source: Path,
    perception: Perception,
    train_stop: int,
    config: CompareConfig,
) -> dict[str, Any]:
    """By row, part and measure; nothing where no contestant was done."""
    from recon.compare.cloud_scores import baseline_surfaces, cloud_scores
    from recon.falling import fall_of
    from recon.perceive_video import is_video

    if not any(row["status"] == "done" for row in rows):
        return {}
    how: Any = {"train_stop": train_stop, "points": config.emd_points, "seed": config.seed}
    # Without depth there are no clouds to compare.
    fall = None if is_video(perception) else fall_of(source, perception, train_stop)
    clouds = {
        name: cloud_scores(perception, surface, **how)
        for name, surface in baseline_surfaces(perception, fall).items()
    }
    return baseline_rows(rows, clouds)


def _masks_sha256(perception: Perception) -> str:
    """Of masks that somebody pointed out; what depth tells follows from the recording."""
    from recon.perceive_video import is_video

    if not is_video(perception) or perception.masks is None:
        return ""
    return hashlib.sha256(perception.masks.tobytes()).hexdigest()


def _notes(result: dict[str, Any], perception: Perception, *, lpips: bool) -> list[str]:
    from recon.perceive_video import is_video
    from recon.unmeasured import blank_parts, reasons, sentences

    shown = shown_measures(result)
    if not shown:  # nobody was done: rows say why
        return []
    done = [row for row in result["contestants"] if row["status"] == "done"]
    lost = [key for key in MEASURES if key not in shown and not (key == "image_lpips" and lpips)]
    truth = any(row.get("true_tracks", False) for row in done)
    drawn = any(row["twin"]["gaussians"] for row in done)
    why = reasons(perception, lost, truth=truth, appearance=drawn)
    made = sentences(why, {key: measure.title for key, measure in MEASURES.items()})
    made += blank_parts(done[0]["parts"])
    if is_video(perception) and perception.table is None:
        made.append("no height of the ground is given (--ground): nothing stops what falls")
    return made


def _result(
    rows: list[dict[str, Any]],
    baselines: dict[str, Any],
    perception: Perception,
    train_stop: int,
    perceive_s: float,
) -> dict[str, Any]:
    from recon.compare.cloud_scores import CLOUD_DEFINITIONS
    from recon.render_episode import IMAGE_DEFINITIONS
    from recon.score_episode import DEFINITIONS

    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "physgym": __version__,
        "command": sys.argv[1:],
        "processors": len(affinity(0)) if affinity else os.cpu_count(),
        "episode": perception.name,
        "source_sha256": perception.tracks.source_sha256,
        "frames": perception.tracks.frame_count,
        "seconds": float(perception.time_s[-1] - perception.time_s[0]),
        "cameras": [camera.name for camera in perception.cameras],
        "kind": perception.kind,
        "train_stop": train_stop,
        "perceive_s": perceive_s,
        "stopped": any(row["status"] in ("stopped", "waiting") for row in rows),
        "contestants": rows,
        "baselines": baselines,
        "definitions": {
            **DEFINITIONS,
            **CLOUD_DEFINITIONS,
            **{f"image_{k}": text for k, text in IMAGE_DEFINITIONS.items()},
            "image_baselines": "of each measure the best that any contestant's appearance reaches "
            "when it is frozen, moved rigidly, or falls",
            "learn": "wall time of identifying, appearance included; perceiving is done once, "
            "before, and scoring afterwards [s]",
            "peak_memory_mb": "most resident memory of the contestant's own process until its twin "
            "was saved [MB]",
        },
        "measures": list(MEASURES),
    }
