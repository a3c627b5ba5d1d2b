"""Plan and run, for the demo: show a goal to the cell, then let the policy shape the cable to it.

Over ROS 2 the cell and the policy are two processes; where rclpy is missing, the same steering and
the same cell run in this process. Shapes: T frames, M markers, N nodes, G grippers.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from physgym.cell import CellConfig, SimulatedCell
from physgym.cell.config import JOINT_NAMES
from physgym.envs.tasks.cable import cable_limits
from physgym.errors import DataError
from physgym.twin import Twin
from policies.execution.chunks import Stream, move
from policies.execution.markers import MarkerMap, rest_fraction
from policies.execution.setpoints import SetpointTracker
from policies.execution.steering import GOAL_KEY, Steering, SteeringConfig

if TYPE_CHECKING:
    from physgym_ros.harness import CellLog, CellWatcher, NodeProcess

__all__ = ["Run", "cell_like", "run_in_process", "run_over_ros", "save_goal", "show_goal"]

SUCCESS_M = 0.02
_HOLD_S = 0.5
_AFTERWARDS_S = 1.0
_PATIENCE_S = 60.0
_TICK_S = 0.01
# The cell's cable is this much stiffer than the twin says: a plan has to cross a gap.
_STIFFER = 1.25


@dataclass(frozen=True, eq=False)
class Run:
    """What the cell published while the policy ran it.

    Attributes:
        time_s: time of each frame since the first command [s], shape (T,); negative before it.
        nodes: markers taken to the twin's nodes [m], shape (T, N, 3).
        joint_time_s: time of each joint state [s].
        joint_position: [m], one row per joint state, shape (., 6).
        joint_speed: largest joint speed at each joint state [m/s].
        reached: whether the policy reported success.
        how: over what it ran, in words.
        figures: the policy's last figures on itself.
    """

    time_s: np.ndarray
    nodes: np.ndarray
    joint_time_s: np.ndarray
    joint_position: np.ndarray
    joint_speed: np.ndarray
    reached: bool
    how: str
    figures: dict[str, str]

    def distance_m(self, goal: np.ndarray) -> np.ndarray:
        """Mean distance of the nodes to a goal at each frame [m], shape (T,)."""
        return np.asarray(np.linalg.norm(self.nodes - goal, axis=2).mean(axis=1))


def cell_like(twin: Twin) -> CellConfig:
    """A cell that holds a cable such as the twin's, made a quarter stiffer.

    Args:
        twin: a rod twin of a rope held at both ends.

    Returns:
        Length, number of markers, mass and stiffness after the twin; the markers in between stand
        evenly, wherever the twin's nodes stand.
    """
    edges = np.linalg.norm(np.diff(twin.rest_position.astype(np.float64), axis=0), axis=1)
    length_m = float(edges.sum())
    base = CellConfig()
    radius_m = base.radius_m
    density = float(np.mean(twin.parameters["linear_density_kg_per_m"]))
    area_moment = math.pi * radius_m**4 / 4
    bending_pa = _STIFFER * float(np.mean(twin.parameters["bending_stiffness_nm2"])) / area_moment
    twist_pa = _STIFFER * float(np.mean(twin.parameters["twist_stiffness_nm2"])) / 2 / area_moment
    damping_s = float(np.mean(twin.parameters["bending_damping_s"]))
    return CellConfig(
        length_m=length_m,
        mass_kg=density * length_m,
        radius_m=radius_m,
        bending_modulus_pa=bending_pa,
        twist_modulus_pa=twist_pa,
        # Undamped joints ring at the physics step; 5 ms is far below what a cable shows.
        damping_pa_s=max(damping_s, 0.005) * bending_pa,
        clamp_length_m=float(0.5 * (edges[0] + edges[-1])),
        marker_count=twin.node_count,
        home_height_m=0.75 * length_m,
    )


def show_goal(config: CellConfig, twin: Twin, *, seed: int) -> np.ndarray:
    """Goal by showing: bring the cell's own cable into a shape and note down where it is.

    Args:
        config: the cell.
        twin: whose nodes the goal is for.
        seed: which shape.

    Returns:
        The goal [m], shape (N, 3).

    Raises:
        DataError: if no shape worth the way was found, which another seed may cure.
    """
    cell = SimulatedCell(config)
    limits = cable_limits(config.length_m)
    home = cell.joint_position.reshape(2, 3)
    mapping = MarkerMap(cell.object_points(), rest_fraction(twin.rest_position))
    rng = np.random.default_rng(seed)
    for _ in range(200):
        # A tenth inside the workspace: the planner must be able to come from any side.
        inset = 0.1 * (limits.high_m - limits.low_m)
        goal = rng.uniform(limits.low_m + inset, limits.high_m - inset)
        distance = np.linalg.norm(goal[0] - goal[1])
        way = np.linalg.norm(goal - home, axis=1)
        apart = 0.35 * config.length_m < distance < 0.85 * config.length_m
        if apart and way.min() > 0.12 * config.length_m and way.max() < 0.4 * config.length_m:
            break
    else:
        raise DataError("no goal found", where=f"seed {seed}", expected="another seed")
    steps = 300
    for index in range(1, steps + 1):
        s = index / steps
        # Smoothstep: begins and ends at rest.
        cell.step((home + s * s * (3 - 2 * s) * (goal - home)).ravel(), _TICK_S)
    for _ in range(400):
        cell.step(goal.ravel(), _TICK_S)
    return mapping.nodes(cell.object_points())


def save_goal(goal: np.ndarray, path: Path) -> Path:
    """Write a goal file for the policy node.

    Args:
        goal: [m], shape (N, 3).
        path: an ``.npz`` file.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream:
        np.savez(stream, allow_pickle=False, **{GOAL_KEY: goal})
    return path


def run_over_ros(twin: Path, goal: Path, config: CellConfig, *, seed: int, logs: Path) -> Run:
    """Start cell and policy as two ROS 2 processes, watch, and stop both.

    Args:
        twin: folder of the twin.
        goal: goal file.
        config: the cell.
        seed: of the cell's noise and of the planner.
        logs: folder for what the processes print.

    Returns:
        What the cell published.

    Raises:
        PhysGymError: if a process ends early.
    """
    from physgym_ros.harness import CellWatcher, NodeProcess, fresh_domain

    logs.mkdir(parents=True, exist_ok=True)
    domain = fresh_domain()
    cell_parameters = {f"cell.{key}": value for key, value in asdict(config).items()}
    policy_parameters = {
        "twin": str(twin),
        "goal": str(goal),
        "success_distance_m": SUCCESS_M,
        "success_hold_s": _HOLD_S,
        "plan.seed": seed,
    }
    with (
        NodeProcess(
            "sim_cell",
            cell_parameters | {"seed": seed},
            domain_id=domain,
            log=logs / "sim_cell.log",
        ) as cell,
        NodeProcess(
            "policy", policy_parameters, domain_id=domain, log=logs / "policy.log"
        ) as policy,
        CellWatcher(JOINT_NAMES, domain_id=domain) as watcher,
    ):
        reached = _watch(watcher, (cell, policy))
        log = watcher.log.cut()
        policy.interrupt()
        cell.interrupt()
    if not log.points or not log.commands:
        raise DataError(
            "the cell or the policy never spoke",
            where=str(logs),
            expected="object points and commands within a minute",
            fix="read the logs there; `physgym doctor` says whether ROS 2 works here",
        )
    return _as_run(log, Twin.load(twin), reached=reached)


def _watch(watcher: CellWatcher, both: tuple[NodeProcess, NodeProcess]) -> bool:
    """Wait for success, and a moment longer; whether it came."""
    watcher.wait(lambda log: bool(log.commands), timeout_s=_PATIENCE_S, alive=both)
    reached = watcher.wait(
        lambda log: bool(log.policy) and log.policy[-1][1].values.get("success") == "True",
        timeout_s=_PATIENCE_S,
        alive=both,
    )
    end_s = time.monotonic() + _AFTERWARDS_S
    watcher.wait(lambda log: time.monotonic() > end_s, timeout_s=2 * _AFTERWARDS_S, alive=both)
    return reached


def _as_run(log: CellLog, twin: Twin, *, reached: bool) -> Run:
    start_s = log.commands[0][0]
    mapping = MarkerMap(log.points[0], rest_fraction(twin.rest_position))
    return Run(
        time_s=np.array(log.points_time_s) - start_s,
        nodes=np.stack([mapping.nodes(cloud) for cloud in log.points]),
        joint_time_s=np.array(log.joint_time_s) - start_s,
        joint_position=np.array(log.joint_position),
        joint_speed=np.abs(np.array(log.joint_velocity)).max(axis=1),
        reached=reached,
        how="two ROS 2 nodes in two processes, over DDS",
        figures=dict(log.policy[-1][1].values) if log.policy else {},
    )


def run_in_process(twin: Path, goal: np.ndarray, config: CellConfig, *, seed: int, why: str) -> Run:
    """The same steering and the same cell without ROS, in simulated time.

    Args:
        twin: folder of the twin.
        goal: [m], shape (N, 3).
        config: the cell.
        seed: of the cell's noise and of the planner.
        why: why it does not run over ROS.

    Returns:
        What the cell would have published.
    """
    cell = SimulatedCell(config)
    cell.reset(seed=seed)
    steering = Steering(twin, SteeringConfig(seed=seed))
    steering.set_goal(goal)
    loop = _Loop(cell, steering)
    reached_s = math.inf
    while cell.time_s < min(_PATIENCE_S, reached_s + _AFTERWARDS_S):
        loop.period()
        if reached_s == math.inf and loop.below_s >= _HOLD_S:
            reached_s = cell.time_s
    joints = np.array(loop.joints)
    return Run(
        time_s=np.array(loop.frame_time_s),
        nodes=np.stack(loop.frames),
        joint_time_s=np.array(loop.joint_time_s),
        joint_position=joints[:, :6],
        joint_speed=np.abs(joints[:, 6:]).max(axis=1),
        reached=math.isfinite(reached_s),
        how=f"in one process without ROS ({why})",
        figures=steering.figures(),
    )


class _Loop:
    """One control period after the other: plan, send, let the cell pass the time."""

    def __init__(self, cell: SimulatedCell, steering: Steering) -> None:
        self._cell, self._steering = cell, steering
        self._stream = Stream()
        self._tracker = SetpointTracker(
            cell.joint_position,
            names=JOINT_NAMES,
            limits=cell.joint_limits,
            velocity_limit=cell.velocity_limit,
            timeout_s=0.0,
            ramp_s=0.25,
        )
        self._map: MarkerMap | None = None
        self.below_s = 0.0
        self.frame_time_s: list[float] = []
        self.frames: list[np.ndarray] = []
        self.joint_time_s: list[float] = []
        self.joints: list[np.ndarray] = []
        self._observe()

    def period(self) -> None:
        now_s, period_s = self._cell.time_s, self._steering.config.period_s
        joints, before = self._tracker.position, self._tracker.velocity
        wanted = self._steering.act(self._steering.latest(), joints.reshape(2, 3), at_s=now_s)
        safe = self._steering.safe(wanted, joints.reshape(2, 3), seen_s=now_s, now_s=now_s)
        chunk = move(
            JOINT_NAMES,
            joints,
            before,
            safe.velocity.ravel(),
            start_s=now_s,
            period_s=period_s,
            grace_s=self._steering.config.grace_s,
            deceleration=self._steering.config.acceleration_m_s2,
        )
        self._tracker.accept(chunk.path)
        for tick in range(round(period_s / _TICK_S)):
            self._cell.step(self._tracker.advance(_TICK_S, command_age_s=0.0), _TICK_S)
            self.joint_time_s.append(self._cell.time_s)
            row = np.concatenate([self._cell.joint_position, self._cell.joint_velocity])
            self.joints.append(row)
            if tick % 2:
                self._observe()
        near = self._steering.distance_m() < SUCCESS_M
        self.below_s = self.below_s + period_s if near else 0.0

    def _observe(self) -> None:
        self._steering.see(self._cell.time_s, self._cell.object_points(noise_m=5e-4))
        self.frame_time_s.append(self._cell.time_s)
        self.frames.append(self._steering.latest().nodes)
