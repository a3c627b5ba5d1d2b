"""What the policy node plans with: twin, planner, marker map and safety filter.

Shapes: M markers, N nodes, G grippers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from physgym.envs.tasks.cable import cable_limits
from physgym.errors import DataError
from physgym.limits import GripperLimits
from physgym.world import World
from policies.execution.chunks import reach_time_s
from policies.execution.markers import MarkerMap, PointHistory, rest_fraction
from policies.execution.shadow import Seen, Shadow
from policies.mpc import Cem, CemConfig, Mppi, MppiConfig, Planner
from policies.policy import CableObservation, MpcPolicy
from policies.safety import SafeCommand, SafetyFilter

__all__ = ["GOAL_KEY", "Steering", "SteeringConfig", "read_goal"]

GOAL_KEY = "points"
"""Name of the array in a goal file."""

_METHODS = ("mppi", "cem")


def _setting(default: Any, description: str, *, span: tuple[float, float] | None = None) -> Any:
    """A field with what it means and its lowest and highest value, for whoever offers it."""
    return field(default=default, metadata={"description": description, "span": span})


@dataclass(frozen=True)
class SteeringConfig:
    """How to plan.

    Each field's metadata holds its ``description`` and, for numbers, its ``span``: lowest and
    highest value. The policy node declares its parameters ``plan.*`` from them.

    Raises:
        DataError: naming the field that is out of range.
    """

    method: str = _setting("mppi", "mppi or cem.")
    samples: int = _setting(32, "Motions tried per round.", span=(8, 4096))
    iterations: int = _setting(2, "Rounds per plan.", span=(1, 20))
    horizon: int = _setting(8, "Control periods looked ahead.", span=(1, 200))
    knots: int = _setting(4, "Velocities searched per axis over the horizon.", span=(1, 50))
    period_s: float = _setting(0.2, "Control period [s]; a plan must fit.", span=(0.02, 5))
    grace_s: float = _setting(
        0.1, "Keep moving this long when a plan is late [s], then brake.", span=(0.01, 5)
    )
    speed_m_s: float = _setting(0.25, "Largest gripper speed [m/s].", span=(0.001, 5))
    acceleration_m_s2: float = _setting(
        2.0, "Largest gripper acceleration [m/s^2].", span=(0.01, 50)
    )
    height_m: float = _setting(
        0.0, "Middle of the workspace above the table [m]; 0: 0.75 cable lengths.", span=(0, 5)
    )
    arrived_m: float = _setting(
        0.005, "Stand still below this mean distance to the goal [m].", span=(0, 1)
    )
    max_age_s: float = _setting(
        1.0,
        "The safety filter refuses commands planned on older observations [s].",
        span=(0.05, 60),
    )
    device: str = _setting("auto", "auto, cpu or cuda.")
    seed: int = _setting(0, "Seed of the planner.", span=(0, 2**31 - 1))

    def __post_init__(self) -> None:
        """Refuse what cannot be planned with."""
        if self.method not in _METHODS:
            raise _bad("method", repr(self.method), " or ".join(_METHODS))
        for item in fields(self):
            span, value = item.metadata["span"], getattr(self, item.name)
            # Written so that NaN is refused too.
            if span is not None and not span[0] <= value <= span[1]:
                raise _bad(item.name, value, f"{span[0]} to {span[1]}")


def _bad(name: str, value: object, expected: str) -> DataError:
    return DataError(f"{name} is {value}", where=f"SteeringConfig.{name}", expected=expected)


class Steering:
    """Turns markers into gripper velocities.

    While one command runs, the next is planned: from where the twin will be when the next command
    takes over, towards the goal less what the cable is off from the twin (`Shadow`).

    Args:
        folder: the twin.
        config: how to plan.

    Raises:
        PhysGymError: if the twin cannot be read or is no cable held at both ends.
    """

    def __init__(self, folder: Path, config: SteeringConfig) -> None:
        self.config = config
        world = World(folder, worlds=config.samples, device=config.device)
        if world.gripper_count != 2 or world.twin.kind != "rope":
            raise DataError(
                f"a {world.twin.kind} in {world.gripper_count} grippers",
                where=str(folder),
                expected="the twin of a rope whose two ends are driven",
            )
        self._shadow = Shadow(world.twin, period_s=config.period_s, device=config.device)
        self.limits = cable_limits(
            world.length_m,
            speed_m_s=config.speed_m_s,
            acceleration_m_s2=config.acceleration_m_s2,
            height_m=config.height_m or None,
        )
        self._planner = _planner(world, self.limits, config)
        self._filter = SafetyFilter(self.limits, max_age_s=config.max_age_s)
        self._fraction = rest_fraction(world.twin.rest_position)
        self._history = PointHistory()
        self._map: MarkerMap | None = None
        self._policy: MpcPolicy | None = None
        self._goal = np.zeros((world.node_count, 3))

    @property
    def has_goal(self) -> bool:
        """Whether there is anything to do."""
        return self._policy is not None

    def set_goal(self, goal: np.ndarray) -> None:
        """Head for another shape.

        Args:
            goal: where each node shall be [m], shape (N, 3).

        Raises:
            DataError: if the shape is not that of the twin's nodes, or a number is not finite.
        """
        value = np.asarray(goal, dtype=np.float64)
        if value.shape != self._goal.shape or not np.isfinite(value).all():
            raise DataError(
                f"a goal of shape {value.shape}",
                where="goal",
                expected=f"finite metres, shape {self._goal.shape}: one row per node of the twin",
            )
        self._goal = value
        self._policy = MpcPolicy(self._planner, value, arrived_m=self.config.arrived_m)

    def see(self, stamp_s: float, markers: np.ndarray) -> bool:
        """Take a frame of markers.

        Args:
            stamp_s: when it was measured.
            markers: [m], shape (M, 3); NaN where not seen. The first frame must show all.

        Returns:
            Whether it is news.

        Raises:
            DataError: if the markers cannot be matched to the twin.
        """
        if self._map is None:
            self._map = MarkerMap(markers, self._fraction)
        return self._history.add(stamp_s, self._map.nodes(markers))

    def latest(self) -> Seen:
        """The newest frame.

        Returns:
            A copy that later frames do not change.
        """
        return Seen(*self._history.latest())

    def distance_m(self) -> float:
        """Mean distance of the nodes seen last to the goal [m]."""
        nodes = self._history.latest()[1]
        return float(np.nanmean(np.linalg.norm(nodes - self._goal, axis=1)))

    def act(self, seen: Seen, grippers: np.ndarray, *, at_s: float) -> np.ndarray:
        """Gripper velocities for the period that begins at a time.

        Args:
            seen: the cable.
            grippers: where the grippers will be by then, as commanded [m], shape (G, 3).
            at_s: when the command takes over, on the clock of ``seen.stamp_s``.

        Returns:
            Velocities [m/s], shape (G, 3), within the planner's limits.
        """
        assert self._policy is not None
        then = self._shadow.follow(seen, grippers, at_s=at_s)
        self._policy.goal = self._goal - self._shadow.bias
        return self._policy.act(CableObservation(then), at_s)

    def safe(
        self, velocity: np.ndarray, grippers: np.ndarray, *, seen_s: float, now_s: float
    ) -> SafeCommand:
        """What may be sent.

        Args:
            velocity: what is wanted [m/s], shape (G, 3).
            grippers: where the grippers will be when it starts [m], shape (G, 3).
            seen_s: when the observation behind it came.
            now_s: the time now, on the same clock.

        Returns:
            The filtered command.
        """
        return self._filter.filter(
            velocity,
            gripper_position=grippers,
            # Workspace and reach must hold to the end of the chunk, where it has come to rest.
            dt_s=reach_time_s(
                period_s=self.config.period_s,
                grace_s=self.config.grace_s,
                speed=self.config.speed_m_s,
                deceleration=self.config.acceleration_m_s2,
            ),
            stamp_s=seen_s,
            now_s=now_s,
        )

    def rest(self) -> None:
        """The grippers were stopped: what was planned holds no more."""
        self._filter.reset()
        self._shadow.forget()
        if self._policy is not None:
            self._policy.reset()

    def figures(self) -> dict[str, str]:
        """Figures for a status message."""
        plan = self._policy.last_plan if self._policy is not None else None
        values = {
            "clamped": str(sum(self._filter.counts.values())),
            "passed": str(self._filter.passed),
            "blow_ups": str(self._policy.holds if self._policy is not None else 0),
        }
        if plan is not None:
            values |= {
                "plan_s": f"{plan.duration_s:.4f}",
                "rollouts": str(plan.rollouts),
                "outside_validity": str(plan.outside_validity),
            }
        return values


def _planner(world: World, limits: GripperLimits, config: SteeringConfig) -> Planner:
    horizon, knots = config.horizon, min(config.knots, config.horizon)
    if config.method == "mppi":
        return Mppi(
            world,
            limits,
            MppiConfig(
                horizon=horizon,
                dt_s=config.period_s,
                knots=knots,
                iterations=config.iterations,
                seed=config.seed,
            ),
        )
    return Cem(
        world,
        limits,
        CemConfig(
            horizon=horizon,
            dt_s=config.period_s,
            knots=knots,
            iterations=config.iterations,
            seed=config.seed,
        ),
    )


def read_goal(path: Path) -> np.ndarray:
    """Read a goal shape.

    Args:
        path: an ``.npz`` file with the array ``points``, shape (N, 3), in metres.

    Returns:
        The points.

    Raises:
        DataError: if the file cannot be read or holds no such array.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return np.asarray(content[GOAL_KEY], dtype=np.float64)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"no goal there: {error}",
            where=str(path),
            expected=f"a .npz file with an array {GOAL_KEY!r} of shape (N, 3), in metres",
            fix=f"np.savez(path, {GOAL_KEY}=shape)",
        ) from error
