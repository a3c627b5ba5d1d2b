"""Velocity and spin at the start, from the frames before anything touches the body.

A body in free flight moves rigidly: its centre on a parabola, its rotation at a steady rate. (A
tumbling body with unequal moments of inertia precesses; over the few frames of a drop that is
small beside the noise of tracks.) PAC-NeRF and GIC fit the velocity to these frames by descent
through the simulator; with tracks the fit is closed.
Shapes: T frames, N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from recon.identify.motion import Motion, Pose, rigid_fit

__all__ = ["FEWEST_FREE_FRAMES", "StartVelocity", "fit_start_velocity", "noise_of"]

FEWEST_FREE_FRAMES = 3
"""Two tell a velocity, the third whether the body is in free flight at all."""

_FAR_SIGMA = 6.0  # of the noise of a centre of many points: no free flight strays that far
_FAR_SIZE = 0.01  # of the body's size: what calibration and drifting tracks do to a parabola
# Of the body's size: tracked points may be so far above its underside, which no camera sees.
_NEAR_SIZE = 0.25


@dataclass(frozen=True, eq=False)
class StartVelocity:
    """How the body moves in frame 0.

    Attributes:
        linear_m_per_s: of the centre, shape (3,).
        angular_rad_per_s: around the centre, world axes, shape (3,).
        centre_m: mean of the tracked points in frame 0 [m], shape (3,).
        contact_frame: first frame that is no free flight; 0 where the body is held or stands.
    """

    linear_m_per_s: np.ndarray
    angular_rad_per_s: np.ndarray
    centre_m: np.ndarray
    contact_frame: int

    def at(self, points: np.ndarray) -> np.ndarray:
        """Velocity of points of the body in frame 0 [m/s], shape (..., 3)."""
        return np.asarray(
            self.linear_m_per_s + np.cross(self.angular_rad_per_s, points - self.centre_m)
        )


def noise_of(motion: Motion) -> float:
    """Standard deviation of a coordinate's noise [m], from how rough the tracks are.

    Third differences take away positions, velocities and accelerations; noise grows by sqrt(20).
    Contact is short, so the median does not see it.
    """
    rough = np.abs(np.diff(motion.position, n=3, axis=0))
    good = np.isfinite(rough)
    if not good.any():
        return 0.0
    return float(np.median(rough[good]) / 0.6745 / np.sqrt(20.0))


def fit_start_velocity(motion: Motion) -> StartVelocity:
    """Fit a rigid ballistic motion to the longest run of first frames that is one.

    Args:
        motion: of the body.

    Returns:
        Velocity and spin; zero where something holds the body or it stands on the ground.

    Raises:
        DataError: if the body is in flight but fewer than `FEWEST_FREE_FRAMES` frames are free.
    """
    poses, seen = _poses(motion)
    centre = motion.start_pose().apply(motion.rest.mean(axis=0))
    held = any(grip.start == 0 for grip in motion.grips)
    if held or _stands(motion, poses):
        return StartVelocity(np.zeros(3), np.zeros(3), centre, 0)
    tolerance = _tolerance(motion, seen)
    contact = _contact_frame(motion, poses, tolerance)
    if contact < FEWEST_FREE_FRAMES:
        raise DataError(
            f"the tracks are too short for the start velocity: frame {contact} is no free flight",
            where=f"{motion.name}: stage velocity, frames 0 to {contact}",
            expected=f"at least {FEWEST_FREE_FRAMES} frames before contact, or a body that is held "
            "or stands in frame 0",
            fix="begin the recording earlier, raise the camera's rate, or give the velocity",
        )
    linear, _ = _parabola(motion, poses, contact)
    return StartVelocity(linear, _spin(motion, poses, contact), centre, contact)


def _poses(motion: Motion) -> tuple[dict[int, Pose], int]:
    """Rigid fits of the first frames that have enough points, and how many points they had."""
    poses, seen = {}, []
    for frame, points in enumerate(motion.position):
        good = np.isfinite(points).all(axis=-1)
        if good.sum() >= 4:
            poses[frame] = rigid_fit(motion.rest[good], points[good])
            seen.append(int(good.sum()))
    return poses, int(np.median(seen))


def _tolerance(motion: Motion, seen: int) -> float:
    return _FAR_SIGMA * noise_of(motion) / np.sqrt(seen) + _FAR_SIZE * motion.size_m


def _stands(motion: Motion, poses: dict[int, Pose]) -> bool:
    """Whether the body is at rest in the first frames, and not only for lack of time to fall."""
    start = poses[0].apply(motion.rest)
    if motion.ground is not None:
        # Cameras from above track no point of the underside, which the surface has.
        body = start if motion.surface is None else poses[0].apply(motion.surface)
        height = body @ np.array(motion.ground.normal) - motion.ground.offset_m
        near = float(height.min()) < 0.03 * motion.size_m
    else:
        near = not np.any(motion.gravity)
    early = [f for f in poses if 0 < f <= 4]
    if not near or not early:
        return False
    last = poses[early[-1]].apply(motion.rest)
    time = early[-1] * motion.dt_s
    moved = float(np.linalg.norm((last - start).mean(axis=0)))
    # An object that falls or flies would have moved by about this.
    return moved < max(0.25 * 0.5 * 9.81 * time**2, 3.0 * noise_of(motion))


def _parabola(motion: Motion, poses: dict[int, Pose], stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Velocity and place of the centre in frame 0, from the frames before ``stop``."""
    used = [f for f in poses if f < stop]
    time = motion.dt_s * np.array(used)
    gravity = np.array(motion.gravity)
    centre = np.array([poses[f].apply(motion.rest.mean(axis=0)) for f in used])
    straight = centre - 0.5 * time[:, None] ** 2 * gravity
    found, *_ = np.linalg.lstsq(np.stack([time, np.ones_like(time)], axis=1), straight, rcond=None)
    return found[0], found[1]


def _spin(motion: Motion, poses: dict[int, Pose], stop: int) -> np.ndarray:
    """Steady rate of rotation over the frames before ``stop`` [rad/s]."""
    used = [f for f in poses if f < stop]
    first = poses[used[0]].turn
    steps = [Rotation.from_matrix(poses[f].turn @ first.T) for f in used]
    total = np.zeros((len(used), 3))
    for i in range(1, len(used)):  # from frame to frame, so that turns beyond pi add up
        total[i] = total[i - 1] + (steps[i] * steps[i - 1].inv()).as_rotvec()
    time = motion.dt_s * (np.array(used) - used[0])
    return np.asarray(time @ total / max(float(time @ time), 1e-12))


def _contact_frame(motion: Motion, poses: dict[int, Pose], tolerance: float) -> int:
    """First frame that no rigid free flight explains, or that would be below the ground."""
    frames = [f for f in poses]
    for at, frame in enumerate(frames):
        if at < 2:
            continue
        linear, start = _parabola(motion, poses, frame)
        time = frame * motion.dt_s
        guess = start + linear * time + 0.5 * time**2 * np.array(motion.gravity)
        centre = poses[frame].apply(motion.rest.mean(axis=0))
        # Two frames fix a velocity with all their noise; extrapolating them takes it along.
        slack = tolerance * (2.0 if at == 2 else 1.0)
        if np.linalg.norm(guess - centre) > slack:
            return frame
        height = np.inf if motion.ground is None else _height(motion, poses[frame], guess - centre)
        if height < -tolerance:
            return frame
        # Tracks drift on what turns or is plain, and look bent then; high above the ground there is
        # nothing that could bend the body.
        high = np.isfinite(height) and height > _NEAR_SIZE * motion.size_m
        if not high and _is_bent(motion, poses[frame], frame):
            return frame
    return motion.frame_count


def _height(motion: Motion, pose: Pose, shift: np.ndarray) -> float:
    """Of the lowest point over the ground [m]."""
    assert motion.ground is not None
    rigid = pose.apply(motion.rest) + shift
    return float((rigid @ np.array(motion.ground.normal)).min()) - motion.ground.offset_m


def _is_bent(motion: Motion, pose: Pose, frame: int) -> bool:
    """Whether the body is clearly not its rest shape in a frame."""
    error = np.linalg.norm(pose.apply(motion.rest) - motion.position[frame], axis=-1)
    start = np.linalg.norm(motion.start_pose().apply(motion.rest) - motion.position[0], axis=-1)
    seen = np.isfinite(error)
    usual = float(np.nanmedian(start))
    limit = 2.0 * usual + 4.0 * noise_of(motion) + 0.01 * motion.size_m
    return float(np.percentile(error[seen], 90)) > limit
