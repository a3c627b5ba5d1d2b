"""Start velocity from a video: masks' centres on a parabola, then images before contact.

Nothing deforms before contact, so no springs are needed (Spring-Gaus fits the same frames through
its simulator). The rotation before contact is taken as none, as there.
Shapes: T frames, C cameras, G Gaussians.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from physgym.errors import DataError
from recon.identify.handling import Handling, touches
from recon.identify.video_loss import VideoLoss, mask_centres
from recon.identify.video_scene import VideoScene
from recon.splats.video import PosedVideo

__all__ = ["Flight", "find_flight", "polish_velocity"]

_FEWEST = 2  # frames before contact: where the body is in frame 0 is known
_FAR_SIZE = 0.02  # of the body's size: what masks' centres may stray by
_NEAR_SIZE = 0.04  # of the body's size: so far above the ground a body may stand on it
_EARLY = 4  # frames in which a body that is free would have moved


@dataclass(frozen=True, eq=False)
class Flight:
    """How the body moves in frame 0.

    Attributes:
        velocity_m_per_s: of the whole body, shape (3,).
        contact: first frame of the video that is no free flight; 0 where it is held or stands.
    """

    velocity_m_per_s: np.ndarray
    contact: int

    @property
    def free(self) -> bool:
        """Whether it flies at the start."""
        return self.contact > 0


@dataclass(frozen=True, eq=False)
class _Rays:
    """Where masks' centres are seen, moved so that those of frame 0 pass through the centre.

    Attributes:
        across: projectors across the rays, T arrays (C, 3, 3).
        origin: T arrays (C, 3).
    """

    across: list[np.ndarray]
    origin: list[np.ndarray]

    def miss(self, frame: int, at: np.ndarray) -> float:
        """Mean distance of a place from the rays of a frame [m]; NaN without rays."""
        away = self.across[frame] @ (at - self.origin[frame])[:, :, None]
        return float(np.linalg.norm(away[:, :, 0], axis=1).mean()) if len(away) else np.nan


def find_flight(
    video: PosedVideo, scene: VideoScene, points: np.ndarray, handling: Handling
) -> Flight:
    """Fit a parabola to the centres of the masks, as long as they are on one.

    With gravity known, one camera is enough: the parabola's curve tells its distance.

    Args:
        video: the video.
        scene: its world and clock.
        points: the body in frame 0 [m], shape (G, 3).
        handling: what holds and pushes it.

    Returns:
        The flight; no velocity where the body is held or stands.

    Raises:
        DataError: if the body is in flight but only the first frame is free.
    """
    size = float(np.ptp(points, axis=0).max())
    time = scene.clock.dt_s * scene.tick
    rays = _rays(video, points.mean(axis=0))
    last = _touched(scene, handling, points)
    held = any(grip.start == 0 for grip in handling.grips)
    if held or _stands(scene, rays, points, time, size, last):
        return Flight(np.zeros(3), 0)
    contact = len(video)
    for frame in range(1, len(video)):
        if scene.tick[frame] >= last or _beyond(scene, rays, points, time, size, frame):
            contact = frame
            break
    if contact < _FEWEST:
        raise DataError(
            f"the body moves in the first frame and frame {contact} is no free flight",
            where=f"{video.name}: stage velocity",
            expected=f"at least {_FEWEST} frames before contact, or a body that is held or stands",
            fix="begin the recording earlier, raise the camera's rate, or give the velocity "
            "(start_velocity_m_per_s)",
        )
    return Flight(_velocity(scene, rays, points, time, contact), contact)


def polish_velocity(
    loss: VideoLoss,
    flight: Flight,
    scene: VideoScene,
    *,
    steps: int,
    on_step: Callable[[int, float], None],
) -> np.ndarray:
    """Adam on the images before contact; the best velocity is kept.

    Args:
        loss: of the video.
        flight: from `find_flight`.
        scene: its world and clock.
        steps: how many.
        on_step: told the step and the loss.

    Returns:
        [m/s], shape (3,).
    """
    frames = range(1, flight.contact)
    time = scene.clock.dt_s * scene.tick
    span = float(time[flight.contact - 1])
    size = float((loss.cloud.mean.amax(dim=0) - loss.cloud.mean.amin(dim=0)).max())
    gravity = torch.as_tensor(scene.gravity, dtype=torch.float32)
    rate = 0.02 * size / span  # a fiftieth of the body at the last frame
    velocity = torch.tensor(flight.velocity_m_per_s, dtype=torch.float32, requires_grad=True)
    adam = torch.optim.Adam([velocity], lr=rate)
    best, lowest = flight.velocity_m_per_s, float("inf")
    for step in range(steps + 1):
        total = 0.0
        for t in frames:
            s = float(time[t])
            part = loss.frame(t, loss.cloud.mean + s * velocity + 0.5 * s * s * gravity)
            part = part / len(frames)
            part.backward()
            total += float(part.detach())
        if total < lowest:
            best, lowest = velocity.detach().double().numpy().copy(), total
        adam.param_groups[0]["lr"] = rate * 0.5 * (1.0 + np.cos(np.pi * step / (steps + 1)))
        adam.step()
        adam.zero_grad()
        on_step(step, lowest)
    return best


def _rays(video: PosedVideo, centre: np.ndarray) -> _Rays:
    offset: dict[str, np.ndarray] = {}
    across, origin = [], []
    for t, views in enumerate(video.frames):
        ways, whole = (part.numpy() for part in mask_centres(views))
        made, at = [], []
        for c, camera in enumerate(views.cameras):
            turn, place = camera.T_world_cam[:3, :3], camera.position
            if t == 0 and whole[c]:
                inside = turn.T @ (centre - place)
                offset[camera.name] = inside[:2] / inside[2] - ways[c]
            if not whole[c] or camera.name not in offset:
                continue
            way = turn @ np.append(ways[c] + offset[camera.name], 1.0)
            way /= np.linalg.norm(way)
            made.append(np.eye(3) - np.outer(way, way))
            at.append(place)
        across.append(np.array(made).reshape(-1, 3, 3))
        origin.append(np.array(at).reshape(-1, 3))
    return _Rays(across, origin)


def _touched(scene: VideoScene, handling: Handling, points: np.ndarray) -> int:
    """First tick at which something else than the ground may touch the body."""
    starts = [grip.start for grip in handling.grips] + touches(handling.pushers, points)
    return min([*starts, handling.until])


def _velocity(
    scene: VideoScene, rays: _Rays, points: np.ndarray, time: np.ndarray, stop: int
) -> np.ndarray:
    """Least squares over the frames before `stop`, which passes through the centre in frame 0."""
    centre, rows, right = points.mean(axis=0), [], []
    for frame in range(1, stop):
        s = time[frame]
        for across, origin in zip(rays.across[frame], rays.origin[frame]):
            rows.append(s * across)
            right.append(across @ (origin - centre - 0.5 * s * s * scene.gravity))
    if not rows:
        return np.zeros(3)
    # Along a single ray nothing tells: the smallest velocity is taken there.
    found, *_ = np.linalg.lstsq(np.concatenate(rows), np.concatenate(right), rcond=1e-6)
    return np.asarray(found)


def _beyond(
    scene: VideoScene,
    rays: _Rays,
    points: np.ndarray,
    time: np.ndarray,
    size: float,
    frame: int,
) -> bool:
    """Whether a frame is no free flight: its centre strays, or the body would be underground."""
    if frame == 1:  # fits any velocity
        velocity, slack = _velocity(scene, rays, points, time, 2), np.inf
    else:
        velocity = _velocity(scene, rays, points, time, frame)
        slack = _FAR_SIZE * size * (2.0 if frame == 2 else 1.0)
    s = time[frame]
    shift = s * velocity + 0.5 * s * s * scene.gravity
    if rays.miss(frame, points.mean(axis=0) + shift) > slack:
        return True
    if scene.ground is None:
        return False
    height = (points + shift) @ np.array(scene.ground.normal) - scene.ground.offset_m
    return float(np.percentile(height, 1.0)) < -_FAR_SIZE * size


def _stands(
    scene: VideoScene,
    rays: _Rays,
    points: np.ndarray,
    time: np.ndarray,
    size: float,
    touched: int,
) -> bool:
    """Whether the masks stay where they are, though a free body would have moved."""
    near = False
    if scene.ground is not None:
        height = points @ np.array(scene.ground.normal) - scene.ground.offset_m
        near = float(np.percentile(height, 1.0)) < _NEAR_SIZE * size
    early = [f for f in range(1, min(_EARLY, len(time) - 1) + 1) if scene.tick[f] < touched]
    moved = [rays.miss(frame, points.mean(axis=0)) for frame in early]
    if not early or np.isnan(moved).all():
        return near  # no time to see it move: what stands on the ground is at rest
    free = 0.2 * 0.5 * float(np.linalg.norm(scene.gravity)) * float(time[early[-1]]) ** 2
    still = _FAR_SIZE * size
    return bool(np.nanmax(moved) < max(free, still) and (near or free > still or free == 0.0))
