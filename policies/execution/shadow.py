"""The twin run alongside the real cable, so that planning is free of a lasting offset.

A twin is never quite right: planned from what is seen, the twin falls back to its own shape within
the horizon, and the cable would come to rest beside the goal. So the twin follows the commands by
itself, and what the cable is off from it is taken off the goal: the output-disturbance model of
offset-free predictive control (Pannocchia and Rawlings, AIChE J. 49(2), 2003, section 3).
Shapes: N nodes, G grippers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.errors import BlowUpError, DataError
from physgym.twin import Twin
from physgym.world import World

__all__ = ["Seen", "Shadow"]

_GAIN = 0.3
"""Share of a new offset that is believed each period: marker noise and swing average out in 1 s."""


@dataclass(frozen=True, eq=False)
class Seen:
    """The cable as it was last seen.

    Attributes:
        stamp_s: when it was measured.
        nodes: the twin's nodes [m], shape (N, 3); NaN where not seen.
        velocity: [m/s], shape (N, 3).
    """

    stamp_s: float
    nodes: np.ndarray
    velocity: np.ndarray


class Shadow:
    """One world of the twin that follows the commands.

    Args:
        twin: the twin.
        period_s: control period; after three without a command it starts from what is seen again.
        device: where to simulate.

    Attributes:
        bias: what the cable is off from the twin [m], shape (N, 3); zero at driven nodes.
    """

    def __init__(self, twin: Twin, *, period_s: float, device: str) -> None:
        self._world = World(twin, worlds=1, device=device)
        self._free = np.ones(self._world.node_count, dtype=bool)
        self._free[np.concatenate(self._world.gripper_nodes)] = False
        self._period_s = period_s
        self.forget()

    def forget(self) -> None:
        """Start from what is seen next."""
        self.bias = np.zeros((self._world.node_count, 3))
        self._at_s: float | None = None
        self._grippers = np.zeros((self._world.gripper_count, 3))

    def follow(self, seen: Seen, grippers: np.ndarray, *, at_s: float) -> np.ndarray:
        """Run the twin on to when the next command takes over, and note how far it is off.

        Args:
            seen: the cable.
            grippers: where the grippers will be then, as commanded [m], shape (G, 3).
            at_s: when the next command takes over, on the clock of ``seen.stamp_s``.

        Returns:
            The twin's nodes then [m], shape (N, 3).
        """
        try:
            if self._at_s is None or not 0.0 < at_s - self._at_s < 3.5 * self._period_s:
                self._begin(seen, at_s=at_s)
            else:
                self._compare(seen, self._at_s)
                self._advance((grippers - self._grippers) / (at_s - self._at_s), at_s - self._at_s)
        except BlowUpError:
            self._begin(seen, at_s=seen.stamp_s)
        self._at_s, self._grippers = at_s, np.array(grippers, dtype=np.float64)
        return np.asarray(self._world.position[0].cpu(), dtype=np.float64)

    def _begin(self, seen: Seen, *, at_s: float) -> None:
        """From what is seen; until the command takes over, the cable goes on as it moves."""
        nodes, velocity = _filled(seen.nodes), np.nan_to_num(seen.velocity)
        ahead_s = float(np.clip(at_s - seen.stamp_s, 0.0, self._period_s))
        self._world.set_points(nodes + ahead_s * velocity, velocity=velocity)
        self.bias = np.zeros_like(self.bias)

    def _compare(self, seen: Seen, now_s: float) -> None:
        state = self._world.state
        position, velocity = (
            np.asarray(value[0].cpu(), dtype=np.float64)
            for value in (state.position, state.velocity)
        )
        # Seen a moment before or after: along a straight line, over at most one period.
        apart_s = float(np.clip(seen.stamp_s - now_s, -self._period_s, self._period_s))
        off = seen.nodes - (position + apart_s * velocity)
        known = self._free & np.isfinite(off).all(axis=1)
        self.bias[known] += _GAIN * (off[known] - self.bias[known])

    def _advance(self, velocity: np.ndarray, dt_s: float) -> None:
        self._world.step(velocity[None], dt_s=dt_s)


def _filled(nodes: np.ndarray) -> np.ndarray:
    """Nodes that were not seen, along straight lines between those that were."""
    seen = np.isfinite(nodes).all(axis=1)
    if seen.sum() < 2:
        raise DataError(
            f"{int(seen.sum())} nodes seen", where="object points", expected="at least two"
        )
    index = np.arange(len(nodes))
    return np.stack([np.interp(index, index[seen], column[seen]) for column in nodes.T], axis=1)
