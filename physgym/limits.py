"""Limits on gripper motion, shared by environments, planners and the safety filter on the robot.

Training, planning and running under the same limits keeps a policy from learning what the robot
will refuse. Shapes: B worlds, G grippers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.errors import DataError

__all__ = ["GripperLimits", "limit_velocity"]


@dataclass(frozen=True, eq=False)
class GripperLimits:
    """Where grippers may go and how fast.

    Attributes:
        low_m: lowest corner of each gripper's workspace [m], shape (G, 3).
        high_m: highest corner of each gripper's workspace [m], shape (G, 3).
        speed_m_s: largest speed of a gripper.
        acceleration_m_s2: largest change of a gripper's velocity per second.
        reach_m: largest distance between neighbouring grippers, below the length of what they hold.
        gap_m: smallest distance between neighbouring grippers.
    """

    low_m: np.ndarray
    high_m: np.ndarray
    speed_m_s: float
    acceleration_m_s2: float
    reach_m: float
    gap_m: float = 0.0

    def __post_init__(self) -> None:
        """Refuse limits that no motion can meet.

        Raises:
            DataError: naming the field.
        """
        for field in ("low_m", "high_m"):
            value = np.array(getattr(self, field), dtype=np.float64)
            if value.ndim != 2 or value.shape[1] != 3 or not np.isfinite(value).all():
                raise _bad(field, value, "finite metres, shape (G, 3)")
            value.setflags(write=False)
            object.__setattr__(self, field, value)
        if self.low_m.shape != self.high_m.shape or not (self.low_m < self.high_m).all():
            raise _bad("low_m", self.low_m, "below high_m in every coordinate")
        for field in ("speed_m_s", "acceleration_m_s2"):
            if not getattr(self, field) > 0:
                raise _bad(field, getattr(self, field), "above zero")
        if not 0 <= self.gap_m < self.reach_m:
            raise _bad("gap_m", self.gap_m, f"between 0 and reach_m = {self.reach_m}")

    @property
    def gripper_count(self) -> int:
        """G."""
        return len(self.low_m)


def limit_velocity(
    limits: GripperLimits,
    position: np.ndarray,
    velocity: np.ndarray,
    *,
    dt_s: float,
    previous: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The velocity nearest to the one asked for that keeps every limit over the next step.

    Stopping for a position limit goes before the acceleration limit. A gripper that is already
    outside may only come back.

    Args:
        limits: the limits.
        position: where the grippers are [m], shape (B, G, 3).
        velocity: what is asked for [m/s], finite, shape (B, G, 3).
        dt_s: how long the velocity will be held.
        previous: the velocity before, for the acceleration limit, shape (B, G, 3).

    Returns:
        The limited velocity, shape (B, G, 3), and per limit (``speed``, ``acceleration``,
        ``workspace``, ``reach``) which worlds it changed, shape (B,).
    """
    changed: dict[str, np.ndarray] = {}

    def note(name: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        # A change below a micrometre per second is rounding, not a clamp.
        changed[name] = (np.abs(after - before) > 1e-6).any(axis=(1, 2))
        return after

    now = note("speed", velocity, _shorten(velocity, limits.speed_m_s))
    if previous is not None:
        step = _shorten(now - previous, limits.acceleration_m_s2 * dt_s)
        now = note("acceleration", now, previous + step)
    else:
        changed["acceleration"] = np.zeros(len(now), dtype=bool)
    now = note("workspace", now, _inside_box(limits, position, now, dt_s))
    now = note("reach", now, _inside_reach(limits, position, now, dt_s))
    return now, changed


def _shorten(vectors: np.ndarray, length: float) -> np.ndarray:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors * np.minimum(1.0, length / np.maximum(norm, 1e-12))


def _inside_box(
    limits: GripperLimits, position: np.ndarray, velocity: np.ndarray, dt_s: float
) -> np.ndarray:
    # Outside the box the nearest wall is where the gripper stands: it may not go further.
    low = np.minimum(limits.low_m, position)
    high = np.maximum(limits.high_m, position)
    lowest, highest = (low - position) / dt_s, (high - position) / dt_s
    return np.clip(velocity, lowest, highest)


def _inside_reach(
    limits: GripperLimits, position: np.ndarray, velocity: np.ndarray, dt_s: float
) -> np.ndarray:
    """Keep neighbours between gap and reach: first slide along the limit, else move less."""
    if limits.gripper_count < 2:
        return velocity
    now = velocity
    apart = position[:, 1:] - position[:, :-1]
    distance = np.linalg.norm(apart, axis=-1)
    low = np.minimum(limits.gap_m, distance)
    high = np.maximum(limits.reach_m, distance)
    for index in range(limits.gripper_count - 1):
        next_apart = apart[:, index] + dt_s * (now[:, index + 1] - now[:, index])
        length = np.linalg.norm(next_apart, axis=-1)
        wanted = np.clip(length, low[:, index], high[:, index])
        unit = next_apart / np.maximum(length, 1e-9)[:, None]
        share = 0.5 * ((wanted - length) / dt_s)[:, None] * unit
        now = now.copy()
        now[:, index + 1] += share
        now[:, index] -= share
    # Sliding may have pushed a gripper over another limit; shrink until all hold. Standing still
    # always does.
    now = _shorten(_inside_box(limits, position, now, dt_s), limits.speed_m_s)
    fine = np.zeros(len(now), dtype=bool)
    scale = np.ones(len(now))
    for _ in range(12):
        after = position + dt_s * scale[:, None, None] * now
        length = np.linalg.norm(after[:, 1:] - after[:, :-1], axis=-1)
        # A micrometre of slack, or rounding would count as a violation.
        fine = ((length <= high + 1e-6) & (length >= low - 1e-6)).all(axis=1)
        if fine.all():
            break
        scale = np.where(fine, scale, 0.7 * scale)
    scale = np.where(fine, scale, 0.0)
    return np.asarray(now * scale[:, None, None])


def _bad(field: str, value: object, expected: str) -> DataError:
    return DataError(f"{field} is {value}", where=f"GripperLimits.{field}", expected=expected)
