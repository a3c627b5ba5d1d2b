"""From a recording without depth to a twin: what `physgym reconstruct` does with images alone.

Shapes: T frames, C cameras, H W image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.errors import DataError
from recon.episode_files import noted_mass_kg
from recon.method_config import image_method_config
from recon.perceive_video import cached_video_perception, records_depth
from recon.score_source import prompts_of

if TYPE_CHECKING:
    from physgym.run_folder import RunFolder
    from physgym.twin import Twin
    from recon.identify.mosa_config import MosaConfig
    from recon.identify.progress import Progress
    from recon.identify.spring_gaus_config import SpringGausConfig
    from recon.identify.video_scene import VideoScene
    from recon.perception.result import Perception
    from recon.reconstruct import ReconstructConfig
    from recon.splats.video import PosedVideo

__all__ = ["VIDEO_METHODS", "VideoJob", "has_depth", "reconstruct_film", "video_scene"]

VIDEO_METHODS = ("spring-gaus", "mosa")
"""Methods that need no depth."""


@dataclass(frozen=True)
class VideoJob:
    """What must be the same when a run is resumed."""

    config: str
    ground_m: float | None
    source_sha256: str
    masks_sha256: str


def has_depth(source: Path, config: ReconstructConfig) -> bool:
    """Whether any camera of a recording measured depth.

    Args:
        source: a bag, or a processed PhysTwin case.
        config: of the job.

    Returns:
        True also of a processed PhysTwin case.

    Raises:
        DataError: if the recording cannot be opened, or the height of the ground is given though
            depth tells it.
    """
    found = records_depth(source, calibration=config.calibration)
    if found and config.ground_m is not None:
        raise DataError(
            f"{config.ground_m} m for a recording with depth",
            where="--ground",
            expected="no height: the table is found in the depth",
            fix="leave it out",
        )
    return found


def video_scene(perception: Perception, video: PosedVideo) -> VideoScene:
    """World and clock of a recording without depth.

    Args:
        perception: of it (`recon.perceive_video`).
        video: some of its frames.

    Returns:
        The scene; its body is the visual hull, and nothing holds or pushes it.
    """
    from recon.identify.clip import ground_of
    from recon.identify.even_clock import even_clock
    from recon.identify.video_scene import VideoScene

    clock = even_clock(perception.time_s)
    x, y, z = (float(part) for part in perception.tracks.gravity)
    plain = VideoScene.plain(
        video, gravity=(x, y, z), ground=ground_of(perception), kind=perception.kind
    )
    rest = np.asarray(perception.tracks.rest_position, np.float64)
    return dataclasses.replace(
        plain,
        surface=rest[: perception.surface_count],
        inside=rest[perception.surface_count :],
        clock=clock,
        tick=clock.tick[video.index],
        source_sha256=perception.tracks.source_sha256,
        recorded_frames=len(perception.time_s),
    )


def reconstruct_film(
    source: Path,
    out: Path,
    config: ReconstructConfig,
    *,
    progress: Progress,
    settings: Mapping[str, Any] | None = None,
    perception: Perception | None = None,
) -> Twin:
    """Make a twin of a recording without depth: identify, save, score, save again.

    Args:
        source: a bag whose cameras measured no depth.
        out: where the twin goes; ``OUT.run`` keeps what a run that is cut off goes on with.
        config: how; ``ground_m`` must tell of a ground: images alone do not.
        progress: told about every step.
        settings: fields of the method's own configuration that ``config`` has no word for.
        perception: of the recording (`recon.perceive_video`); made or read when None.

    Returns:
        The twin, with metrics of its own recording.

    Raises:
        PhysGymError: if the recording cannot be used.
    """
    from physgym.run_folder import RunFolder
    from recon.identify.mosa_video import begun
    from recon.score_video import score_video
    from recon.splats.video import posed_video
    from recon.video_fall import above_landing

    _check_method(config)
    started = time.monotonic()
    fit = dataclasses.replace(image_method_config(config, config.mass_kg), **(settings or {}))
    if perception is None:
        perception = cached_video_perception(
            source,
            ground_m=config.ground_m,
            kind=config.kind,
            prompts=prompts_of(config.click, config.box),
            calibration=config.calibration,
        )
    _check_free(perception, config.method)
    fit = dataclasses.replace(fit, mass_kg=fit.mass_kg or noted_mass_kg(source))
    whole = posed_video(source, perception, calibration=config.calibration)
    scene = video_scene(perception, whole)
    perceived_s = time.monotonic() - started
    stop = max(3, round(config.train_share * len(perception.time_s)))
    count = int(np.searchsorted(whole.index, stop))
    learned = dataclasses.replace(scene, tick=scene.tick[:count])
    learned = above_landing(learned, whole.first(count))
    folder = out.with_name(out.name + ".run")
    job = _job_of(fit, config, perception)
    resume = config.resume or not (folder / "config.yaml").is_file()
    run, finished = RunFolder(folder, job, resume=resume), False
    try:
        with run:
            twin = _identified(whole.first(count), learned, fit, out.name, progress, run)
        spent_s = time.monotonic() - started - perceived_s
        notes = {
            "command": " ".join(sys.argv[1:]),
            "seconds": {"perceive_s": perceived_s, "identify_s": spent_s},
            "source": str(source),
        }
        twin = twin.replace(provenance={**twin.provenance, **notes})
        twin.save(out)
        finished = not twin.provenance["stopped_early"]
    except DataError:
        finished = True  # to go on would end likewise, and other flags must not meet this run
        raise
    finally:
        if finished or not begun(run):
            shutil.rmtree(folder, ignore_errors=True)
    twin = twin.replace(metrics=score_video(twin, whole, scene, int(whole.index[count - 1]) + 1))
    twin.save(out)
    return twin


def _check_method(config: ReconstructConfig) -> None:
    if config.method not in VIDEO_METHODS:
        raise DataError(
            f"{config.method} fits points that depth images tell, and the recording has no depth",
            where=f"--method {config.method}",
            expected=f"depth, or --method {' or '.join(VIDEO_METHODS)}",
            fix="use another method, or record depth too",
        )
    if config.method == "mosa" and config.kind not in ("auto", "volume"):
        raise DataError(
            f"--kind {config.kind} with --method mosa",
            where="reconstruct",
            expected="--kind auto or volume: particles need several layers",
            fix="use --method phystwin with depth for sheets and ropes",
        )


def _identified(
    video: PosedVideo,
    scene: VideoScene,
    fit: MosaConfig | SpringGausConfig,
    name: str,
    progress: Progress,
    run: RunFolder,
) -> Twin:
    from recon.identify.mosa_config import MosaConfig

    if isinstance(fit, MosaConfig):
        from recon.identify.mosa_video import identify_film

        return identify_film(video, scene, fit, name=name, progress=progress, run=run)
    from recon.identify.spring_gaus import identify_video

    return identify_video(video, scene, fit, name=name, progress=progress, run=run)


def _job_of(
    fit: MosaConfig | SpringGausConfig, config: ReconstructConfig, perception: Perception
) -> VideoJob:
    assert perception.masks is not None  # `perceive_video` keeps them
    return VideoJob(
        json.dumps(dataclasses.asdict(fit)),
        config.ground_m,
        perception.tracks.source_sha256,
        hashlib.sha256(perception.masks.tobytes()).hexdigest(),
    )


def _check_free(perception: Perception, method: str) -> None:
    jaws = [one.jaws for one in perception.grippers]
    moved = [f"gripper {n}" for n in range(jaws.count(True))]
    moved += [f"plate {n}" for n in range(jaws.count(False))]
    if moved:
        raise DataError(
            f"{', '.join(moved)} and no depth",
            where=f"{perception.name}: --method {method} from images",
            expected="a body that nothing holds or pushes",
            fix="record depth too: the methods then know grips and pushers",
        )
