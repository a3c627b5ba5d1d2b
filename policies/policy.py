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
    """Plans on the twin, and hands out the plan's commands by time.

    In a simple loop `act` does both. On a robot, where planning takes longer than a control
    interval, one thread calls `plan` with each new observation while the control loop calls
    `command_at`; state ``latency_s`` then, and a plan leaves alone what will have been sent by the
    time it is ready. Node velocities are estimated from the last two observations. A node that was
    not seen is filled in from the plan's own prediction, or along the cable from its neighbours.

    Args:
        planner: MPPI or CEM.
        goal: goal shape [m], shape (N, 3).
        plan_every: `act` plans anew after this many commands.
        latency_s: how long after an observation its plan takes effect.
        arrived_m: stand still while the mean distance to the goal is below this.

    Attributes:
        goal: the goal shape.
        last_plan: the plan in force; None while holding.
        holds: how often it stood still because the twin could not be simulated.

    Raises:
        DataError: if ``plan_every`` or ``latency_s`` does not fit in the horizon.
    """

    def __init__(
        self,
        planner: Planner,
        goal: np.ndarray,
        *,
        plan_every: int = 1,
        latency_s: float = 0.0,
        arrived_m: float = 0.0,
    ) -> None:
        config = planner.config
        if not 1 <= plan_every <= config.horizon:
            raise DataError(
                f"plan_every is {plan_every}",
                where="MpcPolicy.plan_every",
                expected=f"between 1 and the horizon, {config.horizon}",
            )
        if not 0 <= latency_s <= 0.5 * config.horizon * config.dt_s:
            raise DataError(
                f"latency_s is {latency_s}",
                where="MpcPolicy.latency_s",
                expected=f"between 0 and half the horizon, {0.5 * config.horizon * config.dt_s} s",
                fix="plan with fewer samples or iterations, or look further ahead",
            )
        self.planner, self.goal = planner, np.asarray(goal, dtype=np.float64)
        self.arrived_m = arrived_m
        self._every_s = plan_every * config.dt_s
        self._committed_count = int(np.ceil(latency_s / config.dt_s - 1e-9))
        self.reset()

    def reset(self) -> None:
        """Forget observations and plan."""
        self.planner.reset()
        self.holds = 0
        self._seen: tuple[float, np.ndarray] | None = None
        # Plan and its time change together, in one assignment: the control loop may read meanwhile.
        self._in_force: tuple[Plan, float] | None = None

    @property
    def last_plan(self) -> Plan | None:
        """The plan in force; None while holding."""
        return self._in_force[0] if self._in_force else None

    def act(self, observation: CableObservation, stamp_s: float) -> np.ndarray:
        """Gripper velocities for the next command interval, planned anew when it is time.

        Args:
            observation: the cable as seen.
            stamp_s: when it was seen.

        Returns:
            Velocities [m/s], shape (G, 3), within the planner's limits.

        Raises:
            DataError: if the observation has the wrong shape or shows no node at all.
        """
        # Half an interval of slack, or a clock's jitter would put a plan off by a whole one.
        slack_s = 0.5 * self.planner.config.dt_s
        due = self._in_force is None or stamp_s - self._in_force[1] > self._every_s - slack_s
        if due:
            self.plan(observation, stamp_s)
        else:
            self._look(observation, stamp_s)
        return self.command_at(stamp_s)

    def plan(self, observation: CableObservation, stamp_s: float) -> Plan | None:
        """Plan from an observation and put the plan in force.

        Args:
            observation: the cable as seen.
            stamp_s: when it was seen, not before the last one.

        Returns:
            The plan; None when the goal is reached or the twin cannot be simulated.

        Raises:
            DataError: if the observation has the wrong shape or shows no node at all.
        """
        points, velocity = self._look(observation, stamp_s)
        if np.linalg.norm(points - self.goal, axis=1).mean() < self.arrived_m:
            self._hold()
            return None
        elapsed_s = stamp_s - self._in_force[1] if self._in_force else None
        dt_s = self.planner.config.dt_s
        committed = [self.command_at(stamp_s + i * dt_s) for i in range(self._committed_count)]
        try:
            plan = self.planner.plan(
                self.planner.world.state_from(points, velocity=velocity).select([0]),
                self.goal,
                # What was being sent just before; half an interval, to be safe from jitter.
                gripper_velocity=self.command_at(stamp_s - 0.5 * dt_s),
                elapsed_s=elapsed_s,
                committed=np.array(committed) if committed else None,
            )
        except BlowUpError:
            # The robot must not keep moving on a plan that the twin cannot follow.
            self.holds += 1
            self._hold()
            return None
        self._in_force = (plan, stamp_s)
        return plan

    def command_at(self, time_s: float) -> np.ndarray:
        """What the plan in force says for a time; safe to call while another thread plans.

        Args:
            time_s: on the clock of the observations' stamps.

        Returns:
            Velocities [m/s], shape (G, 3); zero without a plan and after its end.
        """
        found = self._command(time_s)
        return np.zeros((self.planner.world.gripper_count, 3)) if found is None else found[0]

    def _command(self, time_s: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Velocity and predicted nodes of the plan's interval that a time falls in."""
        in_force = self._in_force
        if in_force is None:
            return None
        plan, start_s = in_force
        # Times come from sums of intervals: a microsecond early is still the next interval.
        index = int(np.floor((time_s - start_s) / self.planner.config.dt_s + 1e-6))
        if not 0 <= index < len(plan.velocity):
            return None
        return plan.velocity[index], plan.positions[index]

    def _hold(self) -> None:
        self._in_force = None
        self.planner.reset()

    def _look(self, observation: CableObservation, stamp_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Nodes without gaps, and their velocities."""
        points = self._filled(observation.points, stamp_s)
        velocity = np.zeros_like(points)
        if self._seen is not None and stamp_s > self._seen[0]:
            velocity = (points - self._seen[1]) / (stamp_s - self._seen[0])
        self._seen = (stamp_s, points)
        return points, velocity

    def _filled(self, points: np.ndarray, stamp_s: float) -> np.ndarray:
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
        # The prediction for now stands at the end of the interval before.
        predicted = self._command(stamp_s - 0.5 * self.planner.config.dt_s)
        if predicted is not None:
            value[~seen] = predicted[1][~seen]
            return value
        index = np.arange(len(value))
        for axis in range(3):
            value[~seen, axis] = np.interp(index[~seen], index[seen], value[seen, axis])
        return value
