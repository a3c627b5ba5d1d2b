"""Prediction of an object that nothing holds or pushes: it falls, flies and comes to rest.

Shapes: T frames, N nodes or particles, M surface points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.errors import DataError
from physgym.grip import simulate_gripped
from physgym.sim.mpm.gripped import simulate_mpm
from physgym.skinning import bind, skin
from physgym.twin import Twin
from recon.predict_mpm import shown
from recon.start import Start

__all__ = ["FreeMotion", "predict_free"]

_MOST_FRAMES = 100_000


@dataclass(frozen=True, eq=False)
class FreeMotion:
    """What a twin does when it is left alone.

    Attributes:
        points: the surface, then the nodes [m], shape (T, M + N, 3), float32.
        visible_surface: True for the points of the surface, shape (M + N,).
        time_s: [s], shape (T,).
        deformation: of a continuum, the elastic F of its particles, shape (T, N, 3, 3); else None.
    """

    points: np.ndarray
    visible_surface: np.ndarray
    time_s: np.ndarray
    deformation: np.ndarray | None


def predict_free(
    twin: Twin,
    start: Start | None = None,
    *,
    duration_s: float,
    fps: float = 30.0,
    adapted: bool = True,
) -> FreeMotion:
    """Simulate a twin from a pose and a velocity.

    Args:
        twin: of dynamics ``mpm`` or ``spring_mass``, without driven nodes.
        start: what is not given is the rest pose; and velocity and spin at the start of the
            recording that the twin was made from (one of them given, the other is zero).
        duration_s: [s].
        fps: frames a second.
        adapted: with the stress adapter of a continuum twin.

    Returns:
        The motion, the first frame at time 0.

    Raises:
        DataError: if the time makes no sense, the twin has driven nodes, or it starts underground.
        BlowUpError: if the simulation leaves the finite numbers.
    """
    frames, dt_s = _frames(duration_s, fps), 1.0 / fps
    start = start or Start()
    if twin.dynamics == "rod" or len(twin.driven_index):
        raise DataError(
            f"twin {twin.name} ({twin.dynamics}) has {len(twin.driven_index)} driven nodes",
            where="simulate",
            expected="their motion: it cannot be simulated from a pose and a velocity alone",
            fix="give a recording of what drives it (--tracks)",
        )
    placed = twin if start.T_world_object is None else twin.place(start.T_world_object)
    time_s = dt_s * np.arange(frames)
    if twin.dynamics == "mpm":
        velocity, spin = start.or_as_recorded(twin)
        motion = simulate_mpm(
            placed,
            [],
            dt_s,
            frames=frames,
            velocity_m_per_s=velocity,
            spin_rad_per_s=spin,
            adapted=adapted,
        )
        return FreeMotion(*shown(placed, motion), time_s, motion.deformation)
    nodes = placed.rest_position.astype(np.float64)
    _check_above_ground(placed, nodes)
    moved = simulate_gripped(
        placed, [], dt_s, frames=frames, velocity=start.of_nodes(placed, nodes)
    )
    surface = placed.parameters.get("surface_position_m")
    if surface is None:
        return FreeMotion(moved, np.ones(len(nodes), bool), time_s, None)
    points = np.concatenate([skin(bind(surface, nodes), moved), moved], axis=1)
    return FreeMotion(points, np.arange(points.shape[1]) < len(surface), time_s, None)


def _frames(duration_s: float, fps: float) -> int:
    good = np.isfinite([duration_s, fps]).all() and fps > 0 and 1 <= duration_s * fps < _MOST_FRAMES
    if not good:
        raise DataError(
            f"{duration_s} s at {fps} frames a second",
            where="simulate: --duration, --fps",
            expected=f"from one to {_MOST_FRAMES} frames",
        )
    return round(duration_s * fps) + 1


def _check_above_ground(twin: Twin, nodes: np.ndarray) -> None:
    """Nodes under the ground would be thrown out of it."""
    if "ground_normal" not in twin.parameters:
        return
    height = nodes @ twin.parameters["ground_normal"] - float(twin.parameters["ground_offset_m"])
    deepest = int(height.argmin())
    allowed_m = 0.1 * float(twin.parameters.get("spacing_m", 0.01))
    if height[deepest] < -allowed_m:
        raise DataError(
            f"node {deepest} starts {-height[deepest]:.4g} m below the ground",
            where="simulate: --initial-pose",
            expected=f"no deeper than {allowed_m:.4g} m",
            fix="raise the object",
        )
