"""Policy: what turns observations into actions, and MpcPolicy, which plans them on a twin.

Shapes: N nodes, G grippers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from physgym.errors import BlowUpError, DataError
from policies.mpc.planner import Plan, Planner

__all__ = ["CableObservation", "MpcPolicy", "Policy"]


@runtime_checkable
class Policy(Protocol):
    """Anything that runs a robot."""

    def act(self, observation: Any, stamp_s: float) -> np.ndarray:
        """What to do now.

        Args:
            observation: what the sensors saw, in the policy's own form.
            stamp_s: when they saw it, on one clock.

        Returns:
            The action.
        """
        ...


@dataclass(frozen=True, eq=False)
class CableObservation:
    """What is known about a cable at one time.

    Attributes:
        points: the twin's nodes as seen [m], shape (N, 3); rows that were not seen are NaN.
    """

    points: np.ndarray


class MpcPolicy:
    """Plans on the twin from every observation, or from every few.

    Node velocities are estimated from the last two observations. A node that was not seen is filled
    in from the plan's own prediction, or along the cable between its neighbours.

    Args:
        planner: MPPI or CEM.
        goal: goal shape [m], shape (N, 3).
        plan_every: act this many times on one plan; 1 plans anew each time.
        arrived_m: stop moving while the mean distance to the goal is below this.

    Attributes:
        last_plan: the plan that the last action came from; None while holding.
        holds: how often it stood still because the twin could not be simulated.
    """

    def __init__(
        self, planner: Planner, goal: np.ndarray, *, plan_every: int = 1, arrived_m: float = 0.0
    ) -> None:
        if plan_every < 1 or plan_every > planner.config.horizon:
            raise DataError(
                f"plan_every is {plan_every}",
                where="MpcPolicy.plan_every",
                expected=f"between 1 and the horizon, {planner.config.horizon}",
            )
        self.planner, self.goal = planner, np.asarray(goal, dtype=np.float64)
        self.plan_every, self.arrived_m = plan_every, arrived_m
        self.reset()

    def reset(self) -> None:
        """Forget observations and plan."""
        self.planner.reset()
        self.last_plan: Plan | None = None
        self.holds = 0
        self._used = 0
        self._planned_s = 0.0
        self._seen: tuple[float, np.ndarray] | None = None
        self._command = np.zeros((self.planner.world.gripper_count, 3))

    def act(self, observation: CableObservation, stamp_s: float) -> np.ndarray:
        """Gripper velocities for the next command interval.

        Args:
            observation: the cable as seen.
            stamp_s: when it was seen.

        Returns:
            Velocities [m/s], shape (G, 3), within the planner's limits.

        Raises:
            DataError: if the observation has the wrong shape or shows no node at all.
        """
        points = self._filled(observation.points)
        velocity = self._velocity(points, stamp_s)
        self._seen = (stamp_s, points)
        if np.linalg.norm(points - self.goal, axis=1).mean() < self.arrived_m:
            self._command, self.last_plan = np.zeros_like(self._command), None
            self.planner.reset()
            return self._command
        if self.last_plan is None or self._used >= self.plan_every:
            self._plan(points, velocity, stamp_s)
        if self.last_plan is None:
            self._command = np.zeros_like(self._command)
        else:
            self._command = self.last_plan.velocity[self._used]
            self._used += 1
        return self._command

    def _plan(self, points: np.ndarray, velocity: np.ndarray, stamp_s: float) -> None:
        world = self.planner.world
        elapsed_s = stamp_s - self._planned_s if self.last_plan is not None else None
        try:
            state = world.state_from(points, velocity=velocity).select([0])
            self.last_plan = self.planner.plan(
                state, self.goal, gripper_velocity=self._command, elapsed_s=elapsed_s
            )
        except BlowUpError:
            # The robot must not keep moving on a plan that the twin cannot follow.
            self.holds += 1
            self.last_plan = None
            self.planner.reset()
        self._used, self._planned_s = 0, stamp_s

    def _velocity(self, points: np.ndarray, stamp_s: float) -> np.ndarray:
        if self._seen is None or stamp_s <= self._seen[0]:
            return np.zeros_like(points)
        return np.asarray((points - self._seen[1]) / (stamp_s - self._seen[0]))

    def _filled(self, points: np.ndarray) -> np.ndarray:
        value = np.array(points, dtype=np.float64)
        expected = (self.planner.world.node_count, 3)
        seen = np.isfinite(value).all(axis=1) if value.shape == expected else np.zeros(1, bool)
        if not seen.any():
            raise DataError(
                f"points of shape {value.shape}, {int(seen.sum())} of them finite",
                where="CableObservation.points",
                expected=f"{expected}, metres, in the order of the twin's nodes",
                fix="check that the cell's markers match the twin's nodes",
            )
        if seen.all():
            return value
        if self.last_plan is not None and 0 < self._used <= len(self.last_plan.positions):
            value[~seen] = self.last_plan.positions[self._used - 1][~seen]
            return value
        index = np.arange(len(value))
        for axis in range(3):
            value[~seen, axis] = np.interp(index[~seen], index[seen], value[seen, axis])
        return value
