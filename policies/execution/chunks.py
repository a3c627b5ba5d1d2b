"""Chunks: the short trajectories that a policy streams.

A chunk moves for one control period, goes on for a moment of grace in case the next plan is late,
and then brakes to rest by itself: a robot whose planner dies stops even without a watchdog. A later
chunk replaces an earlier one while it still moves.
Shapes: P points, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.execution.setpoints import JointPath, sample

__all__ = ["Chunk", "Stream", "brake", "move", "reach_time_s"]

# Short enough to stop at once, long enough for a 100 Hz controller to follow.
_SHORTEST_BRAKE_S = 0.1


@dataclass(frozen=True)
class Chunk:
    """A path with the time at which it starts.

    Attributes:
        start_s: when time zero of the path is, on the policy's clock.
        path: what to follow; it ends at rest.
    """

    start_s: float
    path: JointPath

    @property
    def end_s(self) -> float:
        """When it has come to rest, on the policy's clock."""
        return self.start_s + float(self.path.time_s[-1])


class Stream:
    """What has been commanded: the newest chunk, and before its start the one it replaces."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []

    @property
    def last(self) -> Chunk | None:
        """The newest chunk, or None."""
        return self._chunks[-1] if self._chunks else None

    def add(self, chunk: Chunk) -> None:
        """Note a chunk that was sent.

        Args:
            chunk: starts no earlier than now.
        """
        self._chunks = [*self._chunks[-1:], chunk]

    def resting(self, now_s: float) -> bool:
        """Whether the newest chunk has come to rest, or there is none."""
        return self.last is None or now_s >= self.last.end_s

    def at(self, now_s: float) -> tuple[np.ndarray, np.ndarray]:
        """What is commanded at a time.

        Args:
            now_s: when, on the policy's clock.

        Returns:
            Position and velocity, each of shape (J,); at rest after the end of the newest chunk.

        Raises:
            LookupError: if nothing was sent yet.
        """
        if not self._chunks:
            raise LookupError("no chunk was sent yet")
        begun = [chunk for chunk in self._chunks if chunk.start_s <= now_s]
        chunk = begun[-1] if begun else self._chunks[0]
        path = chunk.path
        return sample(path.time_s, path.position, path.velocity, now_s - chunk.start_s)


def move(
    names: tuple[str, ...],
    position: np.ndarray,
    velocity_before: np.ndarray,
    velocity: np.ndarray,
    *,
    start_s: float,
    period_s: float,
    grace_s: float,
    deceleration: float,
) -> Chunk:
    """Move at a velocity for one period and the grace, then brake.

    Args:
        names: joint names, J of them.
        position: what is commanded at the start, shape (J,).
        velocity_before: velocity commanded up to then, shape (J,).
        velocity: mean velocity over the period, shape (J,).
        start_s: when it starts, on the policy's clock.
        period_s: when the next chunk is due to take over.
        grace_s: how long to go on when it does not, above zero.
        deceleration: of the fastest joint while braking.

    Returns:
        Four points: the start at the mean of old and new velocity, so that position and velocity
        are smooth when chunk follows chunk; the end of the period; of the grace; and rest.
    """
    brake_s = _brake_time_s(velocity, deceleration)
    moved_s = np.array([0.0, period_s, period_s + grace_s, period_s + grace_s + 0.5 * brake_s])
    rest_s = moved_s + np.array([0.0, 0.0, 0.0, 0.5 * brake_s])
    first = 0.5 * (velocity_before + velocity)
    path = JointPath(
        names,
        rest_s,
        position + moved_s[:, None] * velocity,
        np.stack([first, velocity, velocity, np.zeros_like(velocity)]),
    )
    return Chunk(start_s, path)


def reach_time_s(*, period_s: float, grace_s: float, speed: float, deceleration: float) -> float:
    """How long a joint at full speed would have to move to get as far as a chunk may take it.

    Args:
        period_s: see `move`.
        grace_s: see `move`.
        speed: full speed.
        deceleration: see `move`.

    Returns:
        The time [s]; a position limit kept over it is kept to the end of the chunk.
    """
    return period_s + grace_s + 0.5 * max(_SHORTEST_BRAKE_S, speed / deceleration)


def brake(
    names: tuple[str, ...],
    position: np.ndarray,
    velocity: np.ndarray,
    *,
    start_s: float,
    deceleration: float,
) -> Chunk:
    """Come to rest and stay there.

    Args:
        names: joint names, J of them.
        position: what is commanded at the start, shape (J,).
        velocity: what is commanded at the start, shape (J,).
        start_s: when it starts, on the policy's clock.
        deceleration: of the fastest joint.

    Returns:
        Two points: the start, and rest.
    """
    brake_s = _brake_time_s(velocity, deceleration)
    path = JointPath(
        names,
        np.array([0.0, brake_s]),
        np.stack([position, position + 0.5 * brake_s * velocity]),
        np.stack([velocity, np.zeros_like(velocity)]),
    )
    return Chunk(start_s, path)


def _brake_time_s(velocity: np.ndarray, deceleration: float) -> float:
    return max(_SHORTEST_BRAKE_S, float(np.abs(velocity).max()) / deceleration)
