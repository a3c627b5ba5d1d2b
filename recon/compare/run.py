"""The comparison: perceive once, then one process for each contestant, one table of all."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from physgym import __version__
from physgym.errors import DataError
from physgym.files import write_atomically
from physgym.run_folder import RunFolder
from recon.compare.contestants import Contestant, check_contestants, train_stop_of
from recon.compare.process import run_worker, unfinished
from recon.compare.table import MEASURES, baseline_rows, markdown
from recon.compare.worker import WorkerJob
from recon.identify.progress import Progress

if TYPE_CHECKING:
    from recon.perception.result import Perception

__all__ = ["FORMAT", "FORMAT_VERSION", "CompareConfig", "compare"]

FORMAT, FORMAT_VERSION = "physgym-compare", 1


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
        return {k: getattr(self, k) for k in ("budget", "kind", "mass_kg", "nodes", "seed")}


@dataclass(frozen=True)
class _Comparison:
    """What must be the same when a comparison is resumed; contestants may come and go."""

    source_sha256: str
    train_stop: int
    common: str
    emd_points: int


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
        ``error``; ``baselines`` by row, part and measure; ``definitions``; ``stopped``.

    Raises:
        PhysGymError: if the episode cannot be perceived, or a contestant, a place or the
            configuration cannot be used.
    """
    config, progress = config or CompareConfig(), progress or Progress()
    check_contestants(contestants)
    out = json_path or folder / "compare.json"
    if out.is_dir():
        raise DataError("a folder", where=f"--json {out}", expected="the name of a file")
    if folder.exists() and not folder.is_dir():
        raise DataError("a file", where=f"--out {folder}", expected="a folder")
    source = _as_episode(Path(source).expanduser(), folder, config)
    perception, perceive_s = _perceived(source, config, progress)
    frames = perception.tracks.frame_count
    train_stop = train_stop_of(config.train, frames)
    jobs = [_job_of(one, source, folder, config, frames, train_stop) for one in contestants]
    same = _Comparison(
        perception.tracks.source_sha256,
        train_stop,
        json.dumps({**config.common, "calibration": config.calibration}),
        config.emd_points,
    )
    with RunFolder(folder, same, resume=config.resume):
        rows = _rows(jobs, progress)
        progress.say("score the baselines")
        baselines = _baselines(rows, source, folder, perception, train_stop, config)
        result = _result(rows, baselines, perception, train_stop, perceive_s)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, json.dumps(result, indent=1, allow_nan=False).encode())
        write_atomically(folder / "compare.md", markdown(result).encode())
        if config.report and any(row["status"] == "done" for row in rows):
            from recon.compare.report import write_report

            progress.say("draw the report")
            write_report(folder / "report.html", result, source, folder, perception)
    return result


def _as_episode(source: Path, folder: Path, config: CompareConfig) -> Path:
    """The recording as a bag; other layouts are converted once, beside the comparison's folder."""
    from recon.importers import convert_episode
    from recon.importers.phystwin_final import matches
    from recon.reconstruct import is_episode

    if not source.exists() and not source.with_name(source.name + ".partial").is_dir():
        raise DataError("no such file or folder", where=str(source), expected="an episode")
    if not is_episode(source):
        raise DataError(
            f"{source} is no recording of cameras",
            where="compare",
            expected="an episode: a rosbag2 folder, a PhysTwin case, a folder of images",
            fix="tracks have no images; reconstruct them with one method after the other",
        )
    if not source.is_dir() or not (source / "color").is_dir() or matches(source):
        return source
    made = folder.with_name(f"{folder.name}.episode") / source.name
    if made.is_dir() and config.resume:
        return made
    shutil.rmtree(made, ignore_errors=True)
    made.parent.mkdir(parents=True, exist_ok=True)
    return convert_episode(source, made)


def _perceived(source: Path, config: CompareConfig, progress: Progress) -> tuple[Perception, float]:
    """What every contestant is told of the episode, and how long it took."""
    from recon.perception.perceive_config import PerceiveConfig
    from recon.perception.perceive_episode import cached_perception

    began_s = time.perf_counter()
    with progress.stage("perceive", 100) as tick:
        found = cached_perception(
            source,
            PerceiveConfig(kind=config.kind),
            calibration=config.calibration,
            on_progress=lambda _, share: tick(round(100 * share), 0.0),
        )
    return found, time.perf_counter() - began_s


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
    place, moved = Path(job.place), {"source": "", "place": ""}  # the folder may have been moved
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
    folder: Path,
    perception: Perception,
    train_stop: int,
    config: CompareConfig,
) -> dict[str, Any]:
    """By row, part and measure; nothing where no contestant was done."""
    from physgym.twin import Twin
    from recon.compare.cloud_scores import baseline_surfaces, cloud_scores
    from recon.compare.falling import falling_scores

    done = [row for row in rows if row["status"] == "done"]
    if not done:
        return {}
    how: Any = {"train_stop": train_stop, "points": config.emd_points, "seed": config.seed}
    clouds = {
        name: cloud_scores(perception, surface, **how)
        for name, surface in baseline_surfaces(perception).items()
    }
    seen = [row["name"] for row in done if row["twin"]["gaussians"]]
    twin = Twin.load(folder / seen[0] / "twin") if seen else None
    falling = falling_scores(source, perception, twin, **how)
    return {**baseline_rows(rows, clouds), **({"falling": falling} if falling else {})}


def _result(
    rows: list[dict[str, Any]],
    baselines: dict[str, Any],
    perception: Perception,
    train_stop: int,
    perceive_s: float,
) -> dict[str, Any]:
    from recon.compare.cloud_scores import CLOUD_DEFINITIONS
    from recon.compare.falling import FALLING_DEFINITION
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
            "falling": FALLING_DEFINITION,
            "image_baselines": "of each measure the best that any contestant's appearance reaches "
            "when it is frozen, or moved rigidly; falls that of the first contestant",
            "learn": "wall time of identifying, appearance included; perceiving is done once, "
            "before, and scoring afterwards [s]",
            "peak_memory_mb": "most resident memory of the contestant's own process until its twin "
            "was saved [MB]",
        },
        "measures": list(MEASURES),
    }
