"""Predictions of a continuum twin: a throw, recordings in tracks, what is shown of it.

Shapes: T frames, P particles, N tracked points, M surface points, K driven points.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.grip import Grip
from physgym.registration.surface import find_surface
from physgym.sim.mpm.gripped import MpmMotion, centre_of_mass, simulate_mpm
from physgym.sim.mpm.ride import carry, mount
from physgym.sim.mpm.twins import mpm_of
from physgym.twin import Twin
from recon.start import Start
from recon.tracks import Tracks

__all__ = ["predict_mpm", "ridden", "shown"]

# Tracked points lie on the body they were taken of: further off than this many grid spacings, it is
# placed wrongly. Surfaces are half a spacing outside the outermost particles.
_OFF = 3.0


def predict_mpm(
    twin: Twin, tracks: Tracks, *, start: Start | None = None, adapted: bool = True
) -> tuple[np.ndarray, MpmMotion]:
    """Simulate a recording from its first three frames and its driven points alone.

    The recording that a twin was made from begins with the twin's rest pose and start velocity. Of
    another one the pose is found from the points of the first frame, rigidly, and the velocity from
    the first three frames. Driven points are a grip that holds in all frames.

    Args:
        twin: of dynamics ``mpm``.
        tracks: of the same object; its points need not be particles.
        start: pose and velocity that are known; of velocity and spin, one given, the other is zero.
        adapted: with the twin's stress adapter, where it has one.

    Returns:
        The recording's points [m], shape (T, N, 3), NaN for points that were not seen in the first
        frame; and the particles.

    Raises:
        DataError: if the body cannot be brought to the recording's points.
        BlowUpError: if the simulation leaves the finite numbers.
    """
    start = start or Start()
    gravity = np.asarray(twin.parameters["gravity_m_per_s2"])
    if not np.allclose(gravity, tracks.gravity, atol=0.05):
        raise DataError(
            f"gravity {tracks.gravity.tolist()} m/s^2",
            where=f"{tracks.name}, predicted by twin {twin.name}",
            expected=f"{gravity.tolist()} m/s^2, as when the twin was made",
            fix="bring the recording into the frame that the twin was made in",
        )
    own = _made_from(twin, tracks)
    pose = start.T_world_object
    if pose is None and not own:
        seen = np.asarray(tracks.position[0], np.float64)[tracks.visible[0]]
        pose = twin.register(seen).T_world_object
    placed = twin if pose is None else twin.place(pose)
    if not own and start.velocity_m_per_s is None and start.spin_rad_per_s is None:
        velocity, spin = _velocity(placed, tracks)
    else:
        velocity, spin = start.or_as_recorded(twin)
    grips = [Grip(tracks.driven, 0, tracks.frame_count)] if len(tracks.driven_index) else []
    motion = simulate_mpm(
        placed,
        grips,
        tracks.dt_s,
        frames=tracks.frame_count,
        adapted=adapted,
        velocity_m_per_s=velocity,
        spin_rad_per_s=spin,
    )
    points = np.full(tracks.position.shape, np.nan, np.float32)
    known = np.flatnonzero(tracks.visible[0])
    _check_on_body(placed, tracks, known)
    points[:, known] = ridden(placed, motion, tracks.position[0, known])
    points[:, tracks.driven_index] = tracks.driven
    return points, motion


def _made_from(twin: Twin, tracks: Tracks) -> bool:
    """Whether the twin's rest pose and start velocity are those of this recording."""
    sources = [twin.provenance.get("train"), *twin.provenance.get("recordings", [])[:1]]
    known = [s.get("source_sha256") for s in sources if isinstance(s, dict)]
    return bool(tracks.source_sha256) and tracks.source_sha256 in known


def _velocity(twin: Twin, tracks: Tracks) -> tuple[np.ndarray, np.ndarray]:
    """Velocity [m/s] and spin [rad/s] at the first frame."""
    if tracks.frame_count < 3:
        return np.zeros(3), np.zeros(3)
    seen = np.asarray(tracks.visible[:3].all(axis=0))
    seen[tracks.driven_index] = False
    if seen.sum() < 4:
        raise DataError(
            f"{int(seen.sum())} free points seen in all of the first three frames",
            where=tracks.name,
            expected="four or more, from which the velocity at the start follows",
            fix="give --initial-velocity, or cut the recording (Tracks.slice)",
        )
    x = tracks.position[:3, seen].astype(np.float64)
    # To second order, exact for a parabola: one-sided differences would miss half a frame's fall.
    speed = (-3.0 * x[0] + 4.0 * x[1] - x[2]) / (2.0 * tracks.dt_s)
    arm = x[0] - x[0].mean(axis=0)
    # Least squares of v + w x arm: (sum |a|^2 I - a a^T) w = sum a x (v - mean v).
    moment = (arm**2).sum() * np.eye(3) - arm.T @ arm
    torque = np.cross(arm, speed - speed.mean(axis=0)).sum(axis=0)
    spin = np.linalg.lstsq(moment, torque, rcond=1e-6)[0]
    lever = centre_of_mass(mpm_of(twin)) - x[0].mean(axis=0)
    return speed.mean(axis=0) + np.cross(spin, lever), spin


def _check_on_body(twin: Twin, tracks: Tracks, known: np.ndarray) -> None:
    limit_m = _OFF * float(twin.parameters["spacing_m"])
    free = np.setdiff1d(known, tracks.driven_index)
    if len(free) == 0:
        return
    away, _ = cKDTree(twin.rest_position).query(tracks.position[0, free])
    if float(np.median(away)) > limit_m:
        raise DataError(
            f"half of the points are over {np.median(away):.4g} m from the body at the start",
            where=f"{tracks.name}, predicted by twin {twin.name}",
            expected=f"points on the body, within {limit_m:.4g} m of its particles",
            fix="say where it starts with --initial-pose, or use a recording of this object",
        )


def ridden(twin: Twin, motion: MpmMotion, points: np.ndarray) -> np.ndarray:
    """Points that ride on the body.

    Args:
        twin: as it was simulated.
        motion: of its particles.
        points: in the twin's rest pose [m], shape (M, 3).

    Returns:
        [m], shape (T, M, 3), float32.
    """
    parts = mpm_of(twin)
    ride = mount(points, twin.rest_position)
    total = torch.as_tensor(motion.deformation) if parts.keeps_total_deformation else None
    return carry(ride, torch.as_tensor(motion.position), total).numpy()


def shown(twin: Twin, motion: MpmMotion) -> tuple[np.ndarray, np.ndarray]:
    """What is shown of a body: its surface, then its particles.

    Args:
        twin: as it was simulated.
        motion: of its particles.

    Returns:
        Points [m], shape (T, M + P, 3), float32, and which are surface, shape (M + P,): of a twin
        without surface points, the outer particles.
    """
    surface = twin.parameters.get("surface_position_m")
    if surface is None or len(surface) == 0:
        outer = np.zeros(twin.node_count, bool)
        outer[find_surface(twin.rest_position.astype(np.float64), kind=twin.kind).index] = True
        return motion.position, outer
    points = np.concatenate([ridden(twin, motion, surface), motion.position], axis=1)
    return points, np.arange(points.shape[1]) < len(surface)
