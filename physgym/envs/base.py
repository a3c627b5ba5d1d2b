"""TwinEnv: what every environment on a World shares.

Actions in [-1, 1] become gripper velocities, the limits of `physgym.limits` act on them, and a
simulation that blows up ends the episode with the reason in ``info``. Shapes: N nodes, G grippers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym.errors import BlowUpError
from physgym.limits import GripperLimits, limit_velocity
from physgym.sim.model import State
from physgym.world import World

__all__ = ["TwinEnv"]

Observation = np.ndarray


class TwinEnv(gymnasium.Env[Observation, np.ndarray]):
    """One World, two or more grippers, velocities as actions.

    A task subclasses it and sets ``observation_space``.

    Args:
        world: a World of one world.
        limits: speed, acceleration, workspace and reach of the grippers.
        dt_s: time that one action lasts.

    Attributes:
        world: the World.
        limits: the limits.
        dt_s: time that one action lasts.
    """

    def __init__(self, world: World, limits: GripperLimits, *, dt_s: float) -> None:
        self.world, self.limits, self.dt_s = world, limits, dt_s
        self.action_space = spaces.Box(-1.0, 1.0, (3 * world.gripper_count,), np.float32)
        self.gripper_velocity = np.zeros((world.gripper_count, 3))
        self.clamps: dict[str, int] = {}

    @property
    def points(self) -> np.ndarray:
        """Nodes of the object [m], shape (N, 3)."""
        return np.asarray(self.world.state.position[0].cpu(), dtype=np.float64)

    @property
    def gripper_position(self) -> np.ndarray:
        """Reference points of the grippers [m], shape (G, 3)."""
        return np.asarray(self.world.gripper_position[0].cpu(), dtype=np.float64)

    def restart(self, state: State) -> None:
        """Begin an episode at a state with the grippers at rest and no clamps counted.

        Args:
            state: a state of one world.
        """
        self.world.state = state
        self.gripper_velocity = np.zeros((self.world.gripper_count, 3))
        self.clamps = {}

    def move(self, action: np.ndarray) -> str:
        """Turn an action into a limited velocity and step the World with it.

        Args:
            action: gripper velocities over the speed limit, shape (3 G,).

        Returns:
            An empty text, or why the simulation could not go on; the World then stays where it was.
        """
        scaled = np.asarray(action, dtype=np.float64).reshape(self.world.gripper_count, 3)
        if not np.isfinite(scaled).all():
            return "the action is not finite"
        wanted = np.clip(scaled, -1.0, 1.0) * self.limits.speed_m_s
        velocity, changed = limit_velocity(
            self.limits,
            self.gripper_position[None],
            wanted[None],
            dt_s=self.dt_s,
            previous=self.gripper_velocity[None],
        )
        for name, worlds in changed.items():
            self.clamps[name] = self.clamps.get(name, 0) + int(worlds.sum())
        before = self.world.state
        try:
            self.world.step(velocity, dt_s=self.dt_s)
        except BlowUpError as error:
            self.world.state = before
            return f"the simulation blew up: {error.what} ({error.where})"
        if not np.isfinite(self.points).all():
            self.world.state = before
            return "the simulation left the finite numbers"
        self.gripper_velocity = velocity[0]
        return ""

    def settled(self, state: State, *, duration_s: float) -> State:
        """Let an object come to rest with the grippers held.

        Args:
            state: where to start.
            duration_s: how long to wait.

        Returns:
            The state at the end, with all velocities zero.
        """
        keep = self.world.state
        self.world.state = state
        hold = np.zeros((1, self.world.gripper_count, 3))
        for _ in range(round(duration_s / self.dt_s)):
            self.world.step(hold, dt_s=self.dt_s)
        settled = self.world.state
        self.world.state = keep
        return dataclasses.replace(settled, velocity=settled.velocity * 0.0)

    def reached(self, state: State, gripper_motion: np.ndarray) -> State:
        """Where a limited gripper motion leads from a state.

        Args:
            state: where to start.
            gripper_motion: velocities asked for [m/s], shape (T, G, 3); limits act on them.

        Returns:
            The state after the motion. The World's own state stays as it is.
        """
        keep = self.world.state
        self.world.state = state
        previous = np.zeros((1, self.world.gripper_count, 3))
        for wanted in gripper_motion:
            position = np.asarray(self.world.gripper_position.cpu(), dtype=np.float64)
            previous, _ = limit_velocity(
                self.limits, position, wanted[None], dt_s=self.dt_s, previous=previous
            )
            self.world.step(previous, dt_s=self.dt_s)
        reached = self.world.state
        self.world.state = keep
        return reached

    def common_info(self, failure: str) -> dict[str, Any]:
        """Entries of ``info`` that every task reports.

        Args:
            failure: why the simulation could not go on, or an empty text.

        Returns:
            ``clamps`` (counts since the reset) and, after a failure, ``failure``.
        """
        info: dict[str, Any] = {"clamps": dict(self.clamps)}
        if failure:
            info["failure"] = failure
        return info
