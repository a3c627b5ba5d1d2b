"""SafetyFilter: the last thing between a policy and a robot.

It lets through what is fresh, finite and within the limits, changes what is not, and counts every
change. Shapes: G grippers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from physgym.errors import DataError
from physgym.limits import GripperLimits, limit_velocity

__all__ = ["SafeCommand", "SafetyFilter"]


@dataclass(frozen=True, eq=False)
class SafeCommand:
    """What is really sent.

    Attributes:
        velocity: gripper velocities [m/s], shape (G, 3).
        target: where the grippers will be after the interval [m], shape (G, 3): on a Cartesian
            gantry the joint positions to send.
        held: whether the command was rejected and the grippers brake instead.
        reasons: what was changed or why it was rejected: ``speed``, ``acceleration``,
            ``workspace``, ``reach``, ``stale``, ``not finite``, ``shape``, ``no command``.
    """

    velocity: np.ndarray
    target: np.ndarray
    held: bool
    reasons: tuple[str, ...]


class SafetyFilter:
    """Checks each command against limits and age.

    A rejected command makes the grippers brake at the acceleration limit and then stand still.

    Args:
        limits: speed, acceleration, workspace and reach.
        max_age_s: older commands are stale.

    Attributes:
        counts: how often each reason occurred since the start.
        passed: how many commands went through unchanged.

    Raises:
        DataError: if ``max_age_s`` is not positive.
    """

    def __init__(self, limits: GripperLimits, *, max_age_s: float = 0.2) -> None:
        if not max_age_s > 0:
            raise DataError(
                f"max_age_s is {max_age_s}", where="SafetyFilter.max_age_s", expected="above zero"
            )
        self.limits, self.max_age_s = limits, max_age_s
        self.counts: Counter[str] = Counter()
        self.passed = 0
        self._previous = np.zeros((limits.gripper_count, 3))

    def filter(
        self,
        velocity: np.ndarray | None,
        *,
        gripper_position: np.ndarray,
        dt_s: float,
        stamp_s: float,
        now_s: float,
    ) -> SafeCommand:
        """The command that may be sent.

        Args:
            velocity: gripper velocities asked for [m/s], shape (G, 3); None when there are none.
            gripper_position: where the grippers are [m], finite, shape (G, 3).
            dt_s: how long the command will be held.
            stamp_s: time of the observation that the command came from.
            now_s: the time now, on the same clock.

        Returns:
            What to send, and what was done to it.

        Raises:
            DataError: if the gripper position is unusable: without it nothing is safe.
        """
        shape = (self.limits.gripper_count, 3)
        position = np.asarray(gripper_position, dtype=np.float64)
        if position.shape != shape or not np.isfinite(position).all():
            raise DataError(
                f"gripper position {gripper_position!r}",
                where="SafetyFilter.filter",
                expected=f"finite metres, shape {shape}",
                fix="stop the robot: its joint states cannot be trusted",
            )
        rejected = self._rejection(velocity, shape, age_s=now_s - stamp_s)
        wanted = np.zeros(shape) if rejected else np.asarray(velocity, dtype=np.float64)
        limited, changed = limit_velocity(
            self.limits,
            position[None],
            wanted[None],
            dt_s=dt_s,
            previous=self._previous[None],
        )
        clamps = [name for name, worlds in changed.items() if worlds[0]]
        # While braking the acceleration limit shapes the stop; that is no fault of a command.
        reasons = (rejected,) if rejected else tuple(clamps)
        self.counts.update(reasons)
        self.passed += not reasons
        self._previous = limited[0]
        return SafeCommand(limited[0], position + dt_s * limited[0], bool(rejected), reasons)

    def reset(self) -> None:
        """The grippers stand still now; the counts stay."""
        self._previous = np.zeros_like(self._previous)

    def _rejection(
        self, velocity: np.ndarray | None, shape: tuple[int, int], *, age_s: float
    ) -> str:
        if velocity is None:
            return "no command"
        if np.shape(velocity) != shape:
            return "shape"
        if not np.isfinite(velocity).all():
            return "not finite"
        # A stamp from the future means that the clocks do not agree, so its age says nothing.
        if not -self.max_age_s <= age_s <= self.max_age_s:
            return "stale"
        return ""
