"""One contestant in a process of its own: ``python -m recon.compare JOB.json``.

Standard output is for the comparison: one JSON object a line, what `recon.identify.progress` would
show. Standard input ends when the comparison does, however it ended, and so does this process. What
goes wrong is written into ``result.json`` like what goes well.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.errors import PhysGymError
from physgym.files import write_atomically
from recon.identify.progress import Progress
from recon.tracks import PhysGymWarning

if TYPE_CHECKING:
    from physgym.twin import Twin
    from recon.perception.result import Perception
    from recon.reconstruct import ReconstructConfig

__all__ = ["WorkerJob", "main", "parts_and_rows", "peak_memory_mb", "work"]

_TICK_S = 0.1  # no more often does the comparison hear of a step


@dataclass(frozen=True)
class WorkerJob:
    """What one process does.

    Attributes:
        source: the episode.
        place: folder of the contestant.
        perception: file of what was perceived of the episode.
        name: of the contestant.
        method: one of `recon.compare.contestants.METHODS`.
        options: of `Contestant`.
        common: fields of `recon.reconstruct.ReconstructConfig` that all contestants share.
        calibration: file with ``T_world_cam``, or None.
        train_stop: frames that are learned from.
        frames: T.
        emd_points: points of a cloud in EMD.
        seed: of all random numbers.
    """

    source: str
    place: str
    perception: str
    name: str
    method: str
    options: dict[str, Any]
    common: dict[str, Any]
    calibration: str | None
    train_stop: int
    frames: int
    emd_points: int
    seed: int


class _LineProgress(Progress):
    """A line of JSON for every stage, step and sentence."""

    def __init__(self) -> None:
        self._last_s = 0.0

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int, float], None]]:
        """See `Progress.stage`."""
        _tell({"stage": name, "total": total})
        yield self._tick
        _tell({"end": name})

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        _tell({"say": text})

    def _tick(self, step: int, value: float) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s >= _TICK_S:
            self._last_s = now_s
            _tell({"step": step, "value": float(value)})


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def work(job: WorkerJob, progress: Progress) -> dict[str, Any]:
    """Reconstruct, predict, score.

    Args:
        job: what.
        progress: told about every step.

    Returns:
        JSON values: ``parts`` by part, row (`recon.score_episode.rows_of`) and measure, null where
        it was not measured; ``seconds`` and ``resumed``: whether that is of the last start
        alone; ``peak_memory_mb`` until the twin was saved;
        ``twin``: what it is; ``lpips``: whether it was measured, or why not.

    Raises:
        PhysGymError: if the method does not work on the episode.
    """
    from recon.compare.cloud_scores import cloud_scores
    from recon.compare.contestants import Contestant
    from recon.perception.result import Perception
    from recon.reconstruct import ReconstructConfig
    from recon.score_commands import score_recording

    place, source = Path(job.place), Path(job.source)
    options, settings = Contestant(job.name, job.method, job.options).parted()
    config = ReconstructConfig(
        **{**job.common, **options},
        method=job.method,  # type: ignore[arg-type]  # one of METHODS, which were checked
        train_share=job.train_stop / job.frames,
        calibration=None if job.calibration is None else Path(job.calibration),
        resume=True,
    )
    resumed = (place / "twin.run").is_dir()
    perception = Perception.load(job.perception)
    twin = _reconstructed(source, place / "twin", config, settings, perception, progress)
    peak_mb, spent = peak_memory_mb(), twin.provenance["seconds"]
    progress.say("predict and score")
    scored = score_recording(
        twin, source, images=True, train_stop=job.train_stop, perception=perception
    )
    score, prediction = scored.score, scored.prediction
    assert prediction is not None  # `score_recording` has one
    points = prediction.points
    clouds = cloud_scores(
        perception,
        points[:, prediction.visible_surface],
        train_stop=job.train_stop,
        points=job.emd_points,
        seed=job.seed,
    )
    write_atomically(place / "score.json", json.dumps(score, allow_nan=False).encode())
    np.savez_compressed(place / "nodes.npz", nodes=points[:, -twin.node_count :])
    return {
        "parts": parts_and_rows(score, clouds),
        # Perceiving is left out: it was done before, for all.
        "seconds": {
            "identify": spent["identify_s"],
            "appearance": spent.get("appearance_s", 0.0),
            "learn": spent["identify_s"] + spent.get("appearance_s", 0.0),
            "predict": score["seconds_of"]["predict"],
        },
        "resumed": resumed,
        "peak_memory_mb": peak_mb,
        "true_tracks": scored.has_truth,
        "lpips": score.get("images", {}).get("lpips", "not measured: nothing was drawn"),
        "twin": _about(twin),
    }


def _about(twin: Twin) -> dict[str, Any]:
    return {
        "kind": twin.kind,
        "dynamics": twin.dynamics,
        "nodes": twin.node_count,
        "gaussians": 0 if twin.splats is None else len(twin.splats),
        "fitted": twin.provenance["train"],
    }


def _reconstructed(
    source: Path,
    out: Path,
    config: ReconstructConfig,
    settings: dict[str, Any],
    perception: Perception,
    progress: Progress,
) -> Twin:
    from recon.perceive_video import is_video
    from recon.reconstruct import reconstruct_episode
    from recon.reconstruct_video import reconstruct_film

    if is_video(perception):
        return reconstruct_film(
            source, out, config, progress=progress, settings=settings, perception=perception
        )
    return reconstruct_episode(source, out, config, progress=progress, settings=settings)


def parts_and_rows(
    score: dict[str, Any], clouds: dict[str, dict[str, float | None]]
) -> dict[str, Any]:
    """All measures of a part and row side by side.

    Args:
        score: of `recon.score_episode.score_prediction`, with or without ``images``.
        clouds: of `recon.compare.cloud_scores`, of the twin.

    Returns:
        By part: ``start``, ``stop``, and by row (`recon.score_episode.rows_of`) the measures; those
        of images say so in their names.
    """
    from recon.score_episode import rows_of

    made: dict[str, Any] = {}
    for part, entry in score["parts"].items():
        drawn = score.get("images", {}).get("parts", {}).get(part, {})
        made[part] = {"start": entry["start"], "stop": entry["stop"]}
        for row in rows_of(score):
            images = {f"image_{k}": v for k, v in _figures(drawn.get(row, {})).items()}
            made[part][row] = {**_figures(entry[row]), **images}
        made[part]["twin"] |= clouds[part]
    return made


def _figures(entry: dict[str, Any]) -> dict[str, float | None]:
    """Measures, without what tells them apart by camera or counts frames."""
    return {k: v for k, v in entry.items() if v is None or isinstance(v, float)}


def peak_memory_mb() -> float:
    """Most memory that this process has had since it began [MB].

    Linux carries ``ru_maxrss`` over from the process that started this one; the high-water mark of
    ``/proc`` begins anew with the program.

    Returns:
        Megabytes of 1e6 bytes, resident.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _end_with_the_comparison() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # a buffered reader's lock would abort a normal end
        pass
    os._exit(1)


def main(words: list[str]) -> int:
    """Do the job of a file.

    Args:
        words: the file's name.

    Returns:
        0 when ``result.json`` says that it went well, else 1.
    """
    threading.Thread(target=_end_with_the_comparison, daemon=True).start()
    job = WorkerJob(**json.loads(Path(words[0]).read_text()))
    place = Path(job.place)
    result: dict[str, Any] = {"name": job.name, "method": job.method, "options": job.options}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", PhysGymWarning)
        try:
            result |= {"status": "done", **work(job, _LineProgress())}
        except PhysGymError as error:
            keys = ("what", "where", "expected", "fix")
            why = {key: getattr(error, key) for key in keys}
            result |= {"status": "failed", "error": {"kind": type(error).__name__, **why}}
        except Exception as error:  # whatever it is, it is this contestant's row alone
            traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            result |= {
                "status": "failed",
                "error": {
                    "kind": type(error).__name__,
                    "what": str(error) or type(error).__name__,
                    "where": f"{os.path.basename(where.filename)}, line {where.lineno}",
                    "expected": "no error of this kind: it is a fault of the program",
                    "fix": f"see {place / 'log.txt'}, and report it",
                },
            }
    ours = [str(one.message) for one in said if issubclass(one.category, PhysGymWarning)]
    result["warnings"] = list(dict.fromkeys(ours))
    result["job"] = asdict(job)
    write_atomically(place / "result.json", json.dumps(result, indent=1, allow_nan=False).encode())
    return 0 if result["status"] == "done" else 1
