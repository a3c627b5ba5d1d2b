"""Which way is up: worlds whose z points into the table become worlds with z up.

PhysTwin and others calibrate to a ChArUco board, whose z points away from the cameras, down. A turn
by half a circle about x makes z point up and leaves x and the handedness alone.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from physgym.errors import DataError

__all__ = ["TURN_Z_DOWN", "WorldZ", "turn_to_z_up"]

WorldZ = Literal["auto", "up", "down"]

TURN_Z_DOWN = np.diag([1.0, -1.0, -1.0, 1.0])
"""``T_up_down``: half a turn about x; its own inverse."""

_CLEAR_SHARE = 0.95  # of the heights on one side of the table; the rest may be noise


def turn_to_z_up(world_z: WorldZ, heights: np.ndarray, where: str) -> np.ndarray:
    """The turn that makes z point up.

    Args:
        world_z: ``up`` or ``down`` when the user knows; ``auto`` to tell by the heights.
        heights: z of cameras, or of points of an object on a table at z = 0, which are above it.
        where: file, for the message.

    Returns:
        ``T_up_world``, shape (4, 4).

    Raises:
        DataError: if ``auto`` cannot tell, or the word is unknown.
    """
    if world_z not in ("auto", "up", "down"):
        raise DataError(f"world_z {world_z!r}", where=where, expected="auto, up or down")
    if world_z == "auto":
        known = heights[np.isfinite(heights) & (heights != 0)]
        below = float((known < 0).mean()) if len(known) else 0.5
        if 1 - _CLEAR_SHARE < below < _CLEAR_SHARE:
            raise DataError(
                f"nothing tells whether z is up or down: {below:.0%} of the heights are negative",
                where=where,
                expected="cameras, or the object, on one side of the table at z = 0",
                fix="say it: world_z='down' for PhysTwin's own data, else 'up'; or write it into a "
                'case\'s metadata.json: "world_z": "down"',
            )
        world_z = "down" if below >= _CLEAR_SHARE else "up"
    return TURN_Z_DOWN.copy() if world_z == "down" else np.eye(4)
