"""Chunks: the short trajectories that a policy streams. Knows no ROS.

A chunk moves for one control period and then brakes to rest by itself, so a robot whose planner
dies stops even without a watchdog. A later chunk replaces an earlier one while it still moves.
Shapes: P points, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym_ros.setpoints import JointPath, sample

__all__ = ["Chunk", "brake", "move"]

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

    def at(self, now_s: float) -> tuple[np.ndarray, np.ndarray]:
        """What is commanded at a time.

        Args:
            now_s: when, on the policy's clock.

        Returns:
            Position and velocity, each of shape (J,); at rest before the start and after the end.
        """
        path = self.path
        return sample(path.time_s, path.position, path.velocity, now_s - self.start_s)


def move(
    names: tuple[str, ...],
    position: np.ndarray,
    velocity_before: np.ndarray,
    velocity: np.ndarray,
    *,
    start_s: float,
    period_s: float,
    deceleration: float,
) -> Chunk:
    """Move at a velocity for one period, then brake.

    Args:
        names: joint names, J of them.
        position: what is commanded at the start, shape (J,).
        velocity_before: velocity commanded up to then, shape (J,).
        velocity: mean velocity over the period, shape (J,).
        start_s: when it starts, on the policy's clock.
        period_s: how long to move.
        deceleration: of the fastest joint while braking.

    Returns:
        Three points: the start at the mean of old and new velocity, so that position and velocity
        are smooth when chunk follows chunk; the end of the period; and rest.
    """
    end = position + period_s * velocity
    brake_s = _brake_time_s(velocity, deceleration)
    path = JointPath(
        names,
        np.array([0.0, period_s, period_s + brake_s]),
        np.stack([position, end, end + 0.5 * brake_s * velocity]),
        np.stack([0.5 * (velocity_before + velocity), velocity, np.zeros_like(velocity)]),
    )
    return Chunk(start_s, path)


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
