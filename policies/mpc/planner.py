"""Planner: sample gripper motions, roll them out on the twin, keep what works.

Noise is drawn for a few knots per gripper and axis and joined by straight lines, so every sample is
smooth; the limits of `physgym.limits` are applied before the rollout, so what is planned is what
will be run. Subclasses only say how the next samples follow from the costs of the last.
Shapes: B samples, T commands, H knots, N nodes, G grippers.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from physgym.errors import DataError
from physgym.limits import GripperLimits, limit_velocity
from physgym.sim.model import State
from physgym.world import World
from policies.mpc.cost import ShapeCost

__all__ = ["Plan", "Planner", "PlannerConfig", "bad_field"]

# Tried in every round besides the samples: hold, the mean, the best so far, straight to the goal.
_CANDIDATES = 4
_SCALES = (1.0, 0.3, 0.1)


@dataclass(frozen=True)
class PlannerConfig:
    """What every sampling planner needs.

    Attributes:
        horizon: T, number of commands that are planned.
        dt_s: how long each command is held.
        knots: H, number of velocities that are searched per gripper and axis.
        iterations: rounds of sampling per plan.
        noise: standard deviation of the sampled knots over the speed limit.
        head_for_goal: also try moving both grippers straight to where the goal has its ends.
        cost: weights of the cost.
        seed: seeds the sampling.
    """

    horizon: int = 30
    dt_s: float = 0.05
    knots: int = 5
    iterations: int = 2
    noise: float = 0.5
    head_for_goal: bool = True
    cost: ShapeCost = field(default_factory=ShapeCost)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be planned with.

        Raises:
            DataError: naming the field.
        """
        for name in ("horizon", "knots", "iterations"):
            if getattr(self, name) < 1:
                raise bad_field(self, name, "at least 1")
        for name in ("dt_s", "noise"):
            if not getattr(self, name) > 0:
                raise bad_field(self, name, "above zero")
        if self.knots > self.horizon:
            raise bad_field(self, "knots", f"at most horizon = {self.horizon}")


@dataclass(frozen=True, eq=False)
class Plan:
    """A planned motion and how it was found.

    Attributes:
        velocity: gripper velocities, limits applied [m/s], shape (T, G, 3).
        positions: nodes that the twin predicts after each command [m], shape (T, N, 3).
        cost_m: cost of the plan.
        distance_m: predicted mean distance to the goal at the end of the horizon.
        hold_cost_m: cost of standing still, for comparison.
        duration_s: wall time that planning took.
        rollouts: number of rollouts made.
        outside_validity: whether the plan leaves what the twin's data covered.
    """

    velocity: np.ndarray
    positions: np.ndarray
    cost_m: float
    distance_m: float
    hold_cost_m: float
    duration_s: float
    rollouts: int
    outside_validity: bool


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A motion that was rolled out: commands (T, G, 3), predicted nodes (T, N, 3)."""

    cost_m: float
    commands: np.ndarray
    positions: np.ndarray


class Planner(ABC):
    """Plans on a World whose number of worlds is the number of samples B.

    The same calls in the same order give the same bits on CPU. A plan starts from the previous one,
    moved on by the time that passed; `reset` forgets it.

    Args:
        world: the twin, in B worlds; its own state is never changed.
        limits: limits of the grippers.
        config: horizon, sampling and cost.

    Raises:
        DataError: if the World has too few worlds, or another number of grippers than the limits.
    """

    def __init__(self, world: World, limits: GripperLimits, config: PlannerConfig) -> None:
        if world.worlds < 2 * _CANDIDATES:
            raise DataError(
                f"a World of {world.worlds}",
                where="Planner.world",
                expected=f"at least {2 * _CANDIDATES} worlds, one for each sampled motion",
                fix="build it with World(twin, worlds=64)",
            )
        if world.gripper_count != limits.gripper_count:
            raise DataError(
                f"limits of {limits.gripper_count} grippers, a World of {world.gripper_count}",
                where="Planner.limits",
                expected="one workspace for each gripper",
            )
        self.world, self.limits, self.config = world, limits, config
        self._basis = _interpolation(config.horizon, config.knots)
        self._knots_of = np.linalg.pinv(self._basis)
        self.reset()

    def reset(self) -> None:
        """Forget the previous plan and start the random numbers anew."""
        self._rng = np.random.default_rng(self.config.seed)
        shape = (self.config.horizon, self.world.gripper_count, 3)
        self._mean, self._best = np.zeros(shape), np.zeros(shape)
        self._spread = self._first_spread()

    def plan(
        self,
        state: State,
        goal: np.ndarray,
        *,
        gripper_velocity: np.ndarray | None = None,
        elapsed_s: float | None = None,
        committed: np.ndarray | None = None,
    ) -> Plan:
        """Find a motion towards a goal shape.

        Args:
            state: where the cable is, one world.
            goal: goal shape [m], shape (N, 3).
            gripper_velocity: how the grippers move now, for the acceleration limit, shape (G, 3);
                at rest when absent.
            elapsed_s: time since the previous plan; one command when absent.
            committed: first commands that are already on their way and that every sample begins
                with [m/s], shape (T', G, 3).

        Returns:
            The best motion found; never worse than standing still, by the twin's own account.

        Raises:
            DataError: if the goal has the wrong shape or is not finite.
            BlowUpError: if the twin cannot be simulated from this state.
        """
        started = time.perf_counter()
        config, world = self.config, self.world
        goal = self._checked_goal(goal)
        self._shift(config.dt_s if elapsed_s is None else elapsed_s)
        now = np.zeros((world.gripper_count, 3)) if gripper_velocity is None else gripper_velocity
        best, hold_cost_m = self._search(state, goal, now, committed)
        excess = world.validity.excess(best.positions[None], dt_s=config.dt_s)
        return Plan(
            velocity=best.commands,
            positions=best.positions,
            cost_m=best.cost_m,
            distance_m=float(np.linalg.norm(best.positions[-1] - goal, axis=1).mean()),
            hold_cost_m=hold_cost_m,
            duration_s=time.perf_counter() - started,
            rollouts=config.iterations * world.worlds,
            outside_validity=any(bool((value > 0).any()) for value in excess.values()),
        )

    def _search(
        self,
        state: State,
        goal: np.ndarray,
        gripper_velocity: np.ndarray,
        committed: np.ndarray | None,
    ) -> tuple[_Candidate, float]:
        """Rounds of sampling: the best motion seen, and the cost of standing still."""
        grippers = np.asarray(self.world.reference_of(state)[0].cpu(), dtype=np.float64)
        heading = self._heading(grippers, goal)
        best, hold_cost_m = _Candidate(np.inf, self._mean, goal[None]), np.inf
        for _ in range(self.config.iterations):
            fixed = np.stack([np.zeros_like(self._mean), self._mean, self._best, heading])
            commands = np.concatenate([fixed, self._sample(self.world.worlds - len(fixed))])
            if committed is not None:
                commands[:, : len(committed)] = committed
            commands = self._limited(commands, grippers, gripper_velocity)
            predicted = self.world.rollout(state, commands, dt_s=self.config.dt_s)
            positions = np.asarray(predicted.cpu(), dtype=np.float64)
            costs = self.config.cost.evaluate(
                positions, commands, goal, dt_s=self.config.dt_s, validity=self.world.validity
            )
            hold_cost_m = float(costs[0])
            first = int(np.argmin(costs))
            if costs[first] < best.cost_m:
                best = _Candidate(float(costs[first]), commands[first], positions[first])
            self._best = best.commands
            self._refine(commands, costs)
        return best, hold_cost_m

    @abstractmethod
    def _refine(self, commands: np.ndarray, costs: np.ndarray) -> None:
        """Set ``_mean`` (T, G, 3), and ``_spread`` (H, G, 3), for the next samples.

        Args:
            commands: what was rolled out, shape (B, T, G, 3).
            costs: their costs [m], shape (B,).
        """

    def _first_spread(self) -> np.ndarray:
        shape = (self.config.knots, self.world.gripper_count, 3)
        return np.full(shape, self.config.noise * self.limits.speed_m_s)

    def _sample(self, count: int) -> np.ndarray:
        noise = self._rng.standard_normal((count, *self._spread.shape)) * self._spread
        # Wide samples find the way, narrow ones the last centimetre.
        scale = np.array(_SCALES)[np.arange(count) % len(_SCALES)]
        noise *= scale[:, None, None, None]
        return np.asarray(self._mean + np.einsum("th,bhgx->btgx", self._basis, noise))

    def _shift(self, elapsed_s: float) -> None:
        """Drop the commands that have been run; the end of the horizon stands still."""
        steps = min(self.config.horizon, round(elapsed_s / self.config.dt_s))
        for name in ("_mean", "_best"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old[steps:], np.zeros_like(old[:steps])]))
        self._spread = self._first_spread()

    def _heading(self, grippers: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Both grippers straight to where the goal has its ends, as fast as allowed."""
        if not self.config.head_for_goal:
            return np.zeros_like(self._mean)
        way = goal[np.asarray(self.world.reference_nodes)] - grippers
        distance = np.linalg.norm(way, axis=1, keepdims=True)
        # Together they arrive at once; the last tenth of a second is left for stopping.
        speed = self.limits.speed_m_s * distance / max(float(distance.max()), 1e-9)
        times = self.config.dt_s * np.arange(self.config.horizon)[:, None, None]
        velocity = way / np.maximum(distance, 1e-9) * speed
        left = np.maximum(distance - times * speed, 0.0)
        step = np.minimum(speed * self.config.dt_s, left)
        return np.asarray(velocity * step / np.maximum(speed * self.config.dt_s, 1e-12))

    def _limited(self, commands: np.ndarray, grippers: np.ndarray, now: np.ndarray) -> np.ndarray:
        """What the limits leave of sampled commands, shape (B, T, G, 3)."""
        limited = np.empty_like(commands)
        position = np.broadcast_to(grippers, (len(commands), *grippers.shape))
        previous = np.broadcast_to(now, position.shape)
        for index in range(self.config.horizon):
            previous, _ = limit_velocity(
                self.limits, position, commands[:, index], dt_s=self.config.dt_s, previous=previous
            )
            limited[:, index] = previous
            position = position + self.config.dt_s * previous
        return limited

    def _checked_goal(self, goal: np.ndarray) -> np.ndarray:
        value = np.asarray(goal, dtype=np.float64)
        expected = (self.world.node_count, 3)
        if value.shape != expected or not np.isfinite(value).all():
            raise DataError(
                f"a goal of shape {value.shape}",
                where="Planner.plan",
                expected=f"{expected}, finite metres, in the order of the twin's nodes",
                fix="resample the goal to the twin's nodes",
            )
        return value


def _interpolation(horizon: int, knots: int) -> np.ndarray:
    """Weights of linear interpolation from knots to commands, shape (T, H)."""
    at = np.linspace(0, knots - 1, horizon)
    return np.stack([np.interp(at, np.arange(knots), row) for row in np.eye(knots)], axis=1)


def bad_field(config: object, name: str, expected: str) -> DataError:
    """The error for a configuration value out of range.

    Args:
        config: the configuration.
        name: the field.
        expected: what would be right.

    Returns:
        The error, to be raised.
    """
    return DataError(
        f"{name} is {getattr(config, name)}",
        where=f"{type(config).__name__}.{name}",
        expected=expected,
    )
