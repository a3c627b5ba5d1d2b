"""From a recording without depth to a continuum twin: `physgym reconstruct --method mosa`.

Shapes: T frames, C cameras, H W image.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from physgym.errors import DataError

if TYPE_CHECKING:
    from physgym.twin import Twin
    from recon.episode import Episode
    from recon.identify.mosa_config import MosaConfig
    from recon.identify.progress import Progress
    from recon.perception.lift import View
    from recon.perception.prompt import Prompt
    from recon.reconstruct import ReconstructConfig
    from recon.splats.video import PosedVideo

__all__ = [
    "RecordedVideo",
    "VideoJob",
    "has_depth",
    "mosa_fit",
    "reconstruct_film",
    "recorded_video",
]

_GRAVITY = (0.0, 0.0, -9.81)


@dataclass(frozen=True)
class VideoJob:
    """What must be the same when a run is resumed."""

    config: str
    ground_m: float | None
    source_sha256: str


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
    from recon.episode import Episode
    from recon.importers.phystwin_final import matches

    found = matches(source)
    if not found:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever reads the images says what is wrong
            episode = Episode.open(source, calibration=config.calibration)
        with episode:
            found = any(
                episode.frame(camera, 0).depth_m is not None
                for camera in episode.cameras
                if episode.frame_count(camera)
            )
    if found and config.ground_m is not None:
        raise DataError(
            f"{config.ground_m} m for a recording with depth",
            where="--ground",
            expected="no height: the table is found in the depth",
            fix="leave it out",
        )
    return found


@dataclass(frozen=True, eq=False)
class RecordedVideo:
    """A recording's images, and what of the recording they do not tell.

    Attributes:
        video: all frames, cut to the object.
        gravity: [m/s^2].
        mass_kg: that the recording notes, or None.
        source_sha256: of its files.
    """

    video: PosedVideo
    gravity: tuple[float, float, float]
    mass_kg: float | None
    source_sha256: str


def recorded_video(source: Path, *, calibration: Path | None = None) -> RecordedVideo:
    """The images of a recording; no depth is needed.

    Masks are the recorded ones (label ``object``); a camera that has only the first one has it
    carried on by flow and colour.

    Args:
        source: a bag.
        calibration: as in `recon.episode.Episode.open`.

    Returns:
        The video.

    Raises:
        DataError: if the recording cannot be opened, or a camera has no pose or no mask.
    """
    from recon.episode import Episode
    from recon.episode_files import bag_folder
    from recon.perception.episode_views import episode_views
    from recon.perception.perceive_episode import episode_fingerprint, recorded_gravity
    from recon.perception.recorded import recorded_masks
    from recon.splats.video import make_video

    with Episode.open(source, calibration=calibration) as episode:
        _check_free(episode)
        sets = episode.synchronized()
        views = episode_views(episode, sets.cameras, sets.index)
        recorded = recorded_masks(episode, sets.cameras, sets.index)
        whole = recorded.objects or [None] * len(views)
        masks = [
            _masks(episode.name, view, own, recorded.prompts)
            for view, own in zip(views, whole, strict=True)
        ]
        video = make_video(
            [view.rgb for view in views],
            masks,
            [view.camera for view in views],
            sets.stamp_s,
            hidden=recorded.blocked,
            name=episode.name,
        )
        gravity = recorded_gravity(episode) or _GRAVITY
        about = episode.metadata.get("object")
    mass = about.get("mass_kg") if isinstance(about, dict) else None
    known = float(mass) if isinstance(mass, (int, float)) and mass > 0 else None
    return RecordedVideo(video, gravity, known, episode_fingerprint(bag_folder(source)))


def mosa_fit(config: ReconstructConfig, mass_kg: float | None) -> MosaConfig:
    """What `recon.identify.mosa` is to find.

    Args:
        config: of the job.
        mass_kg: of the object, where it is known.

    Returns:
        Its configuration.
    """
    from recon.identify.mosa_config import MosaConfig
    from recon.identify.motion_losses import MotionWeights

    weights = MotionWeights()
    return MosaConfig(
        prior=config.prior,
        adapter=config.adapter,
        heterogeneity=config.heterogeneity,
        budget=config.budget,
        seed=config.seed,
        train_share=config.train_share,
        mass_kg=mass_kg,
        weights=weights.only(config.losses) if config.losses else weights,
    )


def reconstruct_film(
    source: Path, out: Path, config: ReconstructConfig, *, progress: Progress
) -> Twin:
    """Make a continuum twin of a recording without depth: identify, save, score, save again.

    Args:
        source: a bag whose cameras measured no depth.
        out: where the twin goes; ``OUT.run`` keeps what a run that is cut off goes on with.
        config: how; ``ground_m`` must tell of a ground: images alone do not.
        progress: told about every step.

    Returns:
        The twin, with metrics of its own recording.

    Raises:
        PhysGymError: if the recording cannot be used.
    """
    from physgym.run_folder import RunFolder
    from physgym.sim.contact import GroundPlane
    from recon.identify.mosa_video import begun, identify_film
    from recon.identify.video_scene import VideoScene
    from recon.score_video import score_video

    if config.kind not in ("auto", "volume"):
        raise DataError(
            f"--kind {config.kind} with --method mosa",
            where="reconstruct",
            expected="--kind auto or volume: particles need several layers",
            fix="use --method phystwin with depth for sheets and ropes",
        )
    started, fit = time.monotonic(), mosa_fit(config, config.mass_kg)
    recorded = recorded_video(source, calibration=config.calibration)
    fit = dataclasses.replace(fit, mass_kg=fit.mass_kg or recorded.mass_kg)
    whole = recorded.video
    ground = None if config.ground_m is None else GroundPlane(offset_m=config.ground_m)
    scene = VideoScene.plain(whole, gravity=recorded.gravity, ground=ground)
    scene = dataclasses.replace(
        scene, source_sha256=recorded.source_sha256, recorded_frames=scene.clock.ticks
    )
    stop = max(3, round(config.train_share * scene.clock.ticks))
    count = int(np.searchsorted(scene.tick, stop))
    learned = dataclasses.replace(scene, tick=scene.tick[:count])
    folder = out.with_name(out.name + ".run")
    job = VideoJob(json.dumps(dataclasses.asdict(fit)), config.ground_m, recorded.source_sha256)
    resume = config.resume or not (folder / "config.yaml").is_file()
    run, finished = RunFolder(folder, job, resume=resume), False
    try:
        with run:
            twin = identify_film(
                whole.first(count), learned, fit, name=out.name, progress=progress, run=run
            )
        seconds = {"identify_s": time.monotonic() - started}
        notes = {"command": " ".join(sys.argv[1:]), "seconds": seconds, "source": str(source)}
        twin = twin.replace(provenance={**twin.provenance, **notes})
        twin.save(out)
        finished = not twin.provenance["stopped_early"]
    finally:
        if finished or not begun(run):
            shutil.rmtree(folder, ignore_errors=True)
    twin = twin.replace(metrics=score_video(twin, whole, scene, int(whole.index[count - 1]) + 1))
    twin.save(out)
    return twin


def _check_free(episode: Episode) -> None:
    moved = [f"gripper {n}" for n in episode.grippers] + [f"plate {n}" for n in episode.plates]
    if moved:
        raise DataError(
            f"{', '.join(moved)} and no depth",
            where=f"{episode.name}: --method mosa from images",
            expected="a body that nothing holds or pushes",
            fix="record depth too (--method mosa then knows grips and pushers)",
        )


def _masks(
    name: str, view: View, known: Sequence[np.ndarray] | None, prompts: Mapping[str, Prompt]
) -> Sequence[np.ndarray]:
    """Masks of a camera, as recorded or carried on from the first."""
    from recon.perception.segment import FlowSegmenter

    if known is not None:
        return known
    prompt = prompts.get(view.camera.name)
    if prompt is None or prompt.mask is None:
        raise DataError(
            f"no mask of the object is recorded for {view.camera.name}, and no depth to find it by",
            where=f"{name}: --method mosa from images",
            expected="masks with the label 'object', of the first frame at least, in every camera",
            fix="record masks (physgym record), or depth",
        )
    return FlowSegmenter(view.camera).propagate(view.rgb, view.depth_m, prompt.mask)
