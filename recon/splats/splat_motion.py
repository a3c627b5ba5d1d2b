"""From Gaussians that follow a video to a Motion: what MoSA's identification learns from.

Gaussians are its tracked points, their turns and stretches its local frames; those that a camera
sees in a frame are that frame's cloud.
Shapes: T frames of the video, G Gaussians, N tracked points, C cameras.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from physgym.errors import DataError
from physgym.splats.cloud import Gaussians
from physgym.splats.projection import packed_covariance, project
from physgym.splats.rasterize import rasterize
from recon.identify.clip import above_ground
from recon.identify.motion import Motion
from recon.identify.solid import PointSolid
from recon.identify.video_scene import VideoScene
from recon.splats.dynamic_cloud import DynamicCloud
from recon.splats.posed_images import PosedImages
from recon.splats.splat_body import SOLID, splat_body
from recon.splats.video import PosedVideo

__all__ = ["motion_from_splats", "seen_share"]

# Of its light that must reach a camera. Fitted Gaussians overlap: what is in front keeps a quarter,
# what is behind a hundredth.
_SEEN = 0.1
_CLOUD_POINTS = 300  # as Motion.from_perception
_FEWEST = 4


def motion_from_splats(
    dynamic: DynamicCloud,
    video: PosedVideo,
    scene: VideoScene,
    *,
    frames: bool = True,
    seed: int = 0,
) -> Motion:
    """The motion of a cloud that was fitted to a video (`recon.splats.dynamic`).

    Points are those that a camera sees in the first frame, and only in frames in which one does:
    elsewhere the fit says where they are, but no image. The body at rest is what the views
    show of the cloud (`recon.splats.splat_body`).

    Args:
        dynamic: of the video.
        video: its images, for what hides what.
        scene: world and clock of the video.
        frames: hand over the local frames too.
        seed: of the choice among cloud points.

    Returns:
        The motion, with gaps where a frame was dropped, up to where handling is known.

    Raises:
        DataError: if cloud, video and scene are of other frames, the object is no volume, or fewer
            than four Gaussians are seen in the first frame.
    """
    _check(dynamic, video, scene)
    seen = np.stack([_seen(dynamic.at(t), f) for t, f in enumerate(video.frames)])
    points = np.flatnonzero(seen[0] & (dynamic.cloud.opacity.numpy() >= SOLID))
    if len(points) < _FEWEST:
        raise DataError(
            f"{len(points)} solid Gaussians are seen in the first frame",
            where=f"{dynamic.name}: motion of splats",
            expected=f"at least {_FEWEST}",
            fix="fit the static cloud to more views, or with more steps",
        )
    ticks = int(scene.tick[-1]) + 1
    shown = seen[:, points]
    position = _on_ticks(dynamic.mean.double().numpy()[:, points], shown, scene.tick, ticks)
    gradients = None
    if frames:
        every = torch.stack([dynamic.F(t)[points] for t in range(len(dynamic))])
        gradients = _on_ticks(every.double().numpy(), shown, scene.tick, ticks)
    rest = dynamic.mean[0, points].double().numpy()
    body = splat_body(dynamic, video, scene)
    handling = scene.handling(body)
    until = min(handling.until, ticks)
    x, y, z = (float(c) for c in scene.gravity)
    return Motion(
        dynamic.name,
        scene.clock.dt_s,
        position[:until],
        rest,
        PointSolid.of(body),
        clouds=_clouds(position[:until], np.random.default_rng([seed, 12])),
        surface=above_ground(rest, scene.ground),
        frames=None if gradients is None else gradients[:until],
        ground=scene.ground,
        gravity=(x, y, z),
        grips=tuple(handling.grips),
        pushers=tuple(handling.pushers),
        kind=scene.kind,
        source_sha256=scene.source_sha256,
        recorded_frames=scene.clock.ticks,
    )


def seen_share(drawn: Gaussians, views: PosedImages) -> torch.Tensor:
    """How much of the light of every Gaussian reaches each camera.

    Its light is ``sum_pixels w``, the gradient of the drawn image along its colour, over what it
    would be with nothing in front, ``2 pi opacity sqrt(det S)`` of its projected covariance.

    Args:
        drawn: the Gaussians.
        views: where something hides the object, no light counts.

    Returns:
        About 0 to 1, shape (C, G).
    """
    plain = Gaussians(
        drawn.mean.detach(), drawn.covariance.detach(), drawn.opacity.detach(),
        torch.ones(len(drawn), 3),
    )  # fmt: skip
    camera = views.cameras[0]
    T = torch.from_numpy(np.stack([c.T_world_cam for c in views.cameras])).float()
    K = torch.from_numpy(np.stack([c.K for c in views.cameras])).float()
    packed = packed_covariance(plain.covariance)
    flat = project(plain.mean, packed, T, K, camera.width, camera.height)
    blur = 0.3 * torch.eye(2)  # as `rasterize`
    alone = 2.0 * math.pi * torch.linalg.det(flat.covariance + blur).clamp(min=1e-6).sqrt()
    made = []
    for view, own in enumerate(views.cameras):
        colour = torch.ones(len(drawn), 3, requires_grad=True)
        lit = Gaussians(plain.mean, plain.covariance, plain.opacity, colour)
        light = rasterize(lit, own).rgb[0, ..., 0] * views.known[view]
        (weight,) = torch.autograd.grad(light.sum(), colour)
        made.append(weight[:, 0] / (alone[view] * plain.opacity).clamp(min=1e-6))
    return torch.stack(made)


def _seen(drawn: Gaussians, views: PosedImages) -> np.ndarray:
    """Which Gaussians some camera sees, shape (G,), bool."""
    return np.asarray((seen_share(drawn, views) >= _SEEN).any(dim=0))


def _on_ticks(values: np.ndarray, seen: np.ndarray, tick: np.ndarray, ticks: int) -> np.ndarray:
    """Values of frames on the clock; NaN where a point is not seen or no frame is."""
    made = np.full((ticks, *values.shape[1:]), np.nan)
    made[tick] = np.where(seen.reshape(*seen.shape, *[1] * (values.ndim - 2)), values, np.nan)
    return made


def _clouds(position: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Some of what is seen in every frame."""
    made = []
    for points in position:
        known = points[np.isfinite(points).all(axis=1)]
        made.append(known[rng.permutation(len(known))[:_CLOUD_POINTS]])
    return tuple(made)


def _check(dynamic: DynamicCloud, video: PosedVideo, scene: VideoScene) -> None:
    same = len(dynamic) == len(video) == len(scene.tick)
    if not same or not np.allclose(dynamic.time_s, video.time_s):
        raise DataError(
            f"{len(dynamic)} frames of Gaussians, {len(video)} of images, {len(scene.tick)} ticks",
            where=f"{dynamic.name}: motion of splats",
            expected="the video that the Gaussians were fitted to, and its scene",
        )
    if scene.kind != "volume":
        raise DataError(
            f"a {scene.kind}",
            where=f"{dynamic.name}: motion of splats",
            expected="a volume: particles need several layers across the thinnest part",
        )
