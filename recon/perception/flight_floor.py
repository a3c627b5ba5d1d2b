"""Where an object that falls cannot be: under the table, as long as it still falls freely.

Cameras that look down see no underside; how far it may reach is told by the frames before anything
touches it. Shapes: T frames, N points.
"""

from __future__ import annotations

import numpy as np

from physgym.registration.rigid import best_rigid
from recon.perception.table import Plane

__all__ = ["flight_floors"]

_FEWEST_POINTS = 8
# What tracks wander, and what calibration does to a parabola, as a share of the object's size.
_WANDER_M, _WANDER_SIZE = 1e-3, 0.01


def flight_floors(
    position: np.ndarray, time_s: np.ndarray, gravity: np.ndarray, table: Plane
) -> list[Plane]:
    """The table as the object of frame 0 sees it, in each frame of a free flight.

    Flight ends with the first frame in which the middle of the tracked points is off the parabola
    through those before. Something soft is touched a little earlier than its middle tells, so the
    last planes may lie too high by what it falls in a frame or two.

    Args:
        position: of tracked points [m], shape (T, N, 3); NaN where not seen.
        time_s: stamps [s], shape (T,).
        gravity: [m/s^2], shape (3,).
        table: normal up.

    Returns:
        One plane for each frame of the flight but the first two, in the coordinates of frame 0:
        nothing of the object is below any of them. None where the object does not fly at first.
    """
    start, time_s = position[0], np.asarray(time_s) - time_s[0]
    known = np.isfinite(start).all(axis=1)
    if known.sum() < _FEWEST_POINTS:
        return []
    size_m = float(np.ptp(start[known], axis=0).max())
    slack_m = _WANDER_M + _WANDER_SIZE * size_m
    floors: list[Plane] = []
    time, moved = [0.0], [np.zeros(3)]
    for frame in range(1, len(time_s)):
        seen = known & np.isfinite(position[frame]).all(axis=1)
        if seen.sum() < _FEWEST_POINTS:
            break
        # Less what gravity does; what is left is straight.
        fall = 0.5 * time_s[frame] ** 2 * gravity
        here = position[frame, seen]
        (turn,), (shift,) = best_rigid(start[seen][None], here, np.ones((1, len(here))))
        straight = here.mean(axis=0) - start[seen].mean(axis=0) - fall
        if frame >= 2:
            rate = np.asarray(time) @ np.asarray(moved) / (np.asarray(time) @ np.asarray(time))
            if np.linalg.norm(straight - rate * time_s[frame]) > slack_m * (1 + (frame == 2)):
                break
            normal = turn.T @ table.normal
            floors.append(Plane(normal, table.offset_m - float(table.normal @ shift)))
        time.append(float(time_s[frame]))
        moved.append(straight)
    # Two steps of something still look like a flight only while gravity does not show.
    fallen = 0.5 * time[-1] ** 2 * float(np.linalg.norm(gravity))
    return floors if fallen > 2.0 * slack_m else []
