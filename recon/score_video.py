"""How well a twin with Gaussians predicts a video, beside a frozen and a rigid object.

Open loop: from the pose and velocity in frame 0 alone. Shapes: T frames, C cameras, H W image.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from physgym.errors import BlowUpError, TwinError
from physgym.grip import simulate_gripped
from physgym.sim.mpm.gripped import simulate_mpm
from physgym.splats.cloud import GaussianCloud, Gaussians
from physgym.splats.follower import Follower
from physgym.twin import Twin
from recon.identify.spring_gaus_twin import rigid_means
from recon.identify.torch_threads import one_torch_thread
from recon.identify.video_scene import VideoScene
from recon.identify.video_start import Flight
from recon.splats.posed_images import PosedImages
from recon.splats.static import held_out_scores
from recon.splats.video import PosedVideo
from recon.start import Start
from recon.tracks import PhysGymWarning

__all__ = ["VIDEO_DEFINITION", "predict_video", "score_video"]

VIDEO_DEFINITION = (
    "means over cameras and frames, open loop from pose and velocity in frame 0, in windows around "
    "the masks. psnr_db, ssim: of the windows, the object before black; psnr_object_db: of the "
    "pixels of the masks; iou: of drawn alpha above a half and the masks. train: frames that were "
    "learned from, frame 0 left out; future: those after. frozen: the object stays where it is in "
    "frame 0. rigid: it flies with the start velocity, and stays where it first touches the "
    "ground. prior: the twin without its adapter"
)


def predict_video(
    twin: Twin, scene: VideoScene, *, adapted: bool = True
) -> list[GaussianCloud | Gaussians]:
    """What a twin looks like in every frame of the recording that it was made from.

    Args:
        twin: a continuum or springs, with Gaussians; its rest pose is that of frame 0.
        scene: world and clock.
        adapted: with the twin's stress adapter, where it has one.

    Returns:
        T clouds.

    Raises:
        TwinError: if the twin is neither, or has no Gaussians.
        BlowUpError: if the simulation leaves the finite numbers.
    """
    if twin.dynamics not in ("mpm", "spring_mass"):
        raise TwinError(
            f"a twin of {twin.dynamics}",
            where=f"twin {twin.name}",
            expected="mpm or spring_mass",
        )
    follower, frames = Follower(twin), int(scene.tick[-1]) + 1
    velocity, spin = Start().or_as_recorded(twin)
    with torch.no_grad(), one_torch_thread():
        if twin.dynamics == "mpm":
            position = simulate_mpm(
                twin,
                [],
                scene.clock.dt_s,
                frames=frames,
                adapted=adapted,
                velocity_m_per_s=velocity,
                spin_rad_per_s=spin,
            ).position
        else:
            speed = Start().of_nodes(twin, np.asarray(twin.rest_position, np.float64))
            position = simulate_gripped(twin, [], scene.clock.dt_s, frames=frames, velocity=speed)
        return [follower.at(position[tick]) for tick in scene.tick]


def score_video(
    twin: Twin, video: PosedVideo, scene: VideoScene, train_stop: int
) -> dict[str, Any]:
    """Scores of a twin on the video that it was made from, beside the trivial baselines.

    Args:
        twin: a continuum or springs, with Gaussians.
        video: all of its frames.
        scene: world and clock of all of them.
        train_stop: frames of the recording before it were learned from.

    Returns:
        JSON values: ``definition``, and ``parts`` by part (``train`` and ``future``) and row
        (``twin``, ``frozen``, ``rigid``, and ``prior`` where the twin has an adapter). Empty, with
        a warning, where the twin blows up.
    """
    try:
        rows = {"twin": predict_video(twin, scene)}
        if any(key.startswith("adapter.") for key in twin.residual):
            rows["prior"] = predict_video(twin, scene, adapted=False)
    except BlowUpError as error:
        warnings.warn(f"the twin is not scored: {error}", PhysGymWarning, stacklevel=2)
        return {}
    cloud = twin.splats
    assert cloud is not None  # `predict_video` refuses a twin without
    start, _ = Start().or_as_recorded(twin)
    carried = rigid_means(cloud, scene, Flight(start, 1 if start.any() else 0))
    count = len(video)
    rows["frozen"] = [cloud] * count
    rows["rigid"] = [cloud.replace(mean=carried(t)) for t in range(count)]
    first = int(np.searchsorted(video.index, train_stop))
    spans = {"train": (1, first), "future": (first, count)}
    return {
        "definition": VIDEO_DEFINITION,
        "video": video.name,
        "parts": {
            part: {
                "start": int(video.index[a]),
                "stop": int(video.index[b - 1]) + 1,
                **{row: _means(made[a:b], video.frames[a:b]) for row, made in rows.items()},
            }
            for part, (a, b) in spans.items()
            if a < b
        },
    }


def _means(
    clouds: list[GaussianCloud | Gaussians], frames: tuple[PosedImages, ...]
) -> dict[str, float | None]:
    each = [held_out_scores(cloud, views) for cloud, views in zip(clouds, frames, strict=True)]
    found: dict[str, float | None] = {}
    for key in each[0]:
        values = np.array([scores[key] for scores in each])
        good = np.isfinite(values)
        found[key] = float(values[good].mean()) if good.any() else None
    return found
