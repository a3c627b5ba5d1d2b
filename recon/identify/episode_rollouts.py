"""Rollouts of one episode: stretches of time in which the same grips hold, and windows of them.

Shapes: Q candidates, B worlds, T ticks, L ticks of a window, N nodes, K driven points, S springs.
"""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from physgym.errors import BlowUpError, DataError
from physgym.grip import Pusher, phases
from physgym.sim.contact import SelfCollision
from physgym.sim.rollout import RolloutTrajectory
from physgym.sim.spring_mass import (
    SpringMassModel,
    SpringMassParameters,
    SpringMassSolver,
    rest_lengths,
)
from recon.identify.clip import Clip
from recon.identify.first_motion import FirstMotion
from recon.identify.network_topology import Topology, triple
from recon.identify.sag import unloaded
from recon.identify.spring_network import SpringNetworkProblem

__all__ = ["EpisodeRollouts", "Rolled", "Windows"]

# Nodes up to so many spacings above the ground stand on it.
_STANDING = 0.4


class Windows(NamedTuple):
    """Short stretches of one clip.

    Attributes:
        first: tick at which each starts, shape (B,).
        length: ticks to predict.
        held: grips that hold and pushers that are solid, as `phases` counts them.
    """

    first: np.ndarray
    length: int
    held: tuple[int, ...]


class Rolled:
    """Rollouts of candidates.

    Attributes:
        position: [m], shape (Q, T, N + K, 3); NaN where a world blew up.
        velocity: [m/s], the same shape.
    """

    def __init__(self, count: int, ticks: int, nodes: int) -> None:
        self.position = np.full((count, ticks, nodes, 3), np.nan, np.float32)
        self.velocity = np.full((count, ticks, nodes, 3), np.nan, np.float32)


class EpisodeRollouts(SpringNetworkProblem):
    """How one clip is simulated; `recon.identify.episode_problem` says under what.

    Attributes:
        clip: the episode.
        first_motion: how the object moves in the first tick; None where it rests.
        self_collision: let nodes collide.
        stop: one past the last tick that is simulated.
        object_count: N; driven points of the grips are the nodes after it.
        carried: nodes that the ground carries in the first frame, shape (N,), bool.
    """

    clip: Clip
    first_motion: FirstMotion | None
    self_collision: bool
    stop: int
    object_count: int
    carried: np.ndarray
    _owner: np.ndarray  # grip of each driven point, shape (K,)
    _path: np.ndarray  # of the driven points [m], shape (T, K, 3)

    def grip_of_spring(self, edges: np.ndarray) -> np.ndarray:
        """Which grip a spring belongs to, -1 for the object's own; shape (S,)."""
        upper = edges.max(axis=1)
        owner = np.concatenate([np.full(self.object_count, -1), self._owner])
        return np.asarray(owner[upper])

    def stretches(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """`physgym.grip.phases` from the clip's first tick to ``stop``."""
        every = phases([*self.clip.grips, *self.clip.pushers], self.stop)
        first = self.clip.first
        return [(max(a, first), b, held) for a, b, held in every if b > first]

    def roll(self, theta: np.ndarray) -> Rolled:
        """Roll out the clip under every candidate.

        Args:
            theta: shape (Q, P).

        Returns:
            Their motion from ``clip.first`` to ``stop``.
        """
        theta = np.asarray(theta, np.float64)
        # Made here, since threads would each make the same ones.
        topologies = [self.topology_of(one) for one in theta]
        substeps = self._needed_substeps(theta, topologies)
        made = Rolled(len(theta), self.stop - self.clip.first, len(self.rest_position))
        alive = np.flatnonzero(substeps <= self._substeps_at_most)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(lambda q: self._roll_one(theta[q], int(substeps[q]), made, q), alive))
        return made

    def _roll_one(self, theta: np.ndarray, substeps: int, made: Rolled, place: int) -> None:
        """One candidate by itself: its springs and its substeps are its own.

        Side by side in lanes they would share the union of their springs and the largest number of
        substeps, which costs more than the lanes gain (2.2 s of CPU against 2.9 for 24 candidates
        of 700 nodes).
        """
        topology = self.topology_of(theta)
        at = torch.as_tensor(theta[None])
        scalars = self.scalars(at, [topology])
        offset = torch.zeros(len(topology.edges)) if self.log_offset is None else self.log_offset
        given = self.settled(self.parameters(scalars, topology, torch.as_tensor(offset)), topology)
        collision = self._collision_of(scalars) if self.self_collision else None
        position = torch.as_tensor(self.rest_position, dtype=torch.float32)[None]
        velocity = self.start_velocity(scalars)
        try:
            for stretch in self.stretches():
                rolled = self.roll_stretch(
                    topology.edges, given, position, velocity, stretch, substeps, collision
                )
                span = slice(stretch[0] - self.clip.first, stretch[1] + 1 - self.clip.first)
                made.position[place, span] = rolled.position[0].numpy()
                made.velocity[place, span] = rolled.velocity[0].numpy()
                position, velocity = rolled.position[:, -1], rolled.velocity[:, -1]
        except (BlowUpError, DataError):
            # Data errors: more colliding neighbours than a list holds, which is a crumpled ball.
            made.position[place] = np.nan

    def start_velocity(self, scalars: dict[str, torch.Tensor]) -> torch.Tensor:
        """Velocity of all nodes in the first tick; those of driven points play no part.

        Args:
            scalars: of candidates.

        Returns:
            [m/s], shape (Q, N + K, 3), float32; differentiable.
        """
        still = torch.zeros(len(scalars["stiffness_n"]), *self.rest_position.shape)
        if self.first_motion is None:
            return still
        nodes = torch.as_tensor(self.rest_position[: self.object_count])
        arm = (nodes - nodes.mean(0)).expand(len(still), -1, -1)
        spin = scalars["start_spin_rad_per_s"][:, None].expand_as(arm)
        moving = scalars["start_velocity_m_per_s"][:, None] + torch.linalg.cross(spin, arm)
        return torch.cat([moving.float(), still[:, self.object_count :]], dim=1)

    def roll_stretch(
        self,
        edges: np.ndarray,
        given: SpringMassParameters,
        position: torch.Tensor,
        velocity: torch.Tensor,
        stretch: tuple[int, int, tuple[int, ...]],
        substeps: int | None,
        collision: SelfCollision | None = None,
    ) -> RolloutTrajectory:
        """One stretch with the springs of grips that do not hold taken away; differentiable.

        Args:
            edges: springs, shape (S, 2).
            given: parameters of B worlds.
            position: [m], shape (B, N + K, 3).
            velocity: [m/s], the same shape.
            stretch: from `stretches`.
            substeps: per tick; None for the stability limit.
            collision: how nodes collide, or None.

        Returns:
            The rollout.
        """
        first, last, acting = stretch
        worlds = len(position)
        solver = self._solver(edges, given, acting, worlds, substeps, collision)
        ticks = np.arange(first, last + 1)[None]
        state = solver.initial_state(position, velocity)
        return solver.rollout(
            state,
            self._path_at(ticks).expand(worlds, -1, -1, -1),
            self.clip.dt_s,
            collider_pose=self._pose_at(ticks, acting),
        )

    def windows(self, length: int) -> list[Windows]:
        """Stretches cut into windows, those that see nothing left out.

        Args:
            length: ticks to predict.

        Returns:
            Groups that can run side by side.
        """
        groups = []
        for first, last, held in self.stretches():
            size = min(length, last - first)
            starts = np.arange(first, last - size + 1, max(size, 1))
            if size > 0 and len(starts):
                groups.append(Windows(starts, size, held))
        return groups

    def roll_windows(
        self,
        topology: Topology,
        given: SpringMassParameters,
        rolled: Rolled,
        windows: Windows,
        start_velocity: torch.Tensor,
    ) -> torch.Tensor:
        """Windows side by side, each from where a rollout was; differentiable in the parameters.

        Args:
            topology: the springs.
            given: parameters of one world, shared by all windows.
            rolled: of one candidate: where windows start.
            windows: of one length and with the same grips holding.
            start_velocity: from `start_velocity`, shape (1, N + K, 3), where a window starts with
                the clip; differentiable too.

        Returns:
            Nodes [m], shape (B, L + 1, N, 3).
        """
        at = windows.first - self.clip.first
        solver = self._solver(topology.edges, given, windows.held, len(at), None, None)
        ticks = windows.first[:, None] + np.arange(windows.length + 1)
        position, velocity = torch.as_tensor(rolled.position[0, at]), rolled.velocity[0, at]
        at_start = torch.as_tensor(at == 0)[:, None, None]
        velocity = torch.where(at_start, start_velocity, torch.as_tensor(velocity))
        made = solver.rollout(
            solver.initial_state(position, velocity),
            self._path_at(ticks),
            self.clip.dt_s,
            collider_pose=self._pose_at(ticks, windows.held),
        )
        return made.position[:, :, : self.object_count]

    def model(self, edges: np.ndarray, collision: SelfCollision | None = None) -> SpringMassModel:
        """The simulated object with its driven points."""
        return SpringMassModel(
            self.rest_position,
            edges,
            driven_index=self.driven_index,
            gravity_m_per_s2=triple(self.gravity),
            ground=self.ground,
            self_collision=collision,
        )

    def settled(self, given: SpringMassParameters, topology: Topology) -> SpringMassParameters:
        """Rest lengths such that the first frame is in equilibrium with the weight.

        No gradient flows through them.

        Args:
            given: parameters of one world.
            topology: the springs.

        Returns:
            The same with other rest lengths; as given where nothing carries the object.
        """
        held = self.carried
        if not held.any():
            return given
        own = self.grip_of_spring(topology.edges) < 0
        edges = topology.edges[own]
        with torch.no_grad():
            length = given.rest_length_m[0].double().numpy().copy()
            stiffness = given.log_stiffness[0].double().exp().numpy() / length
            mass_kg = given.mass_kg[0, : self.object_count].double().numpy()
        nodes = self.rest_position[: self.object_count]
        shape = unloaded(nodes, edges, stiffness[own], mass_kg[:, None] * self.gravity, held)
        ratio = rest_lengths(shape, edges) / topology.rest_length_m[own]
        length[own] *= np.clip(ratio, 0.7, 1.4)
        return given.replace(rest_length_m=torch.as_tensor(length)[None])

    def _standing(self) -> np.ndarray:
        """Nodes that the ground carries in the first frame, shape (N,), bool.

        None of anything but a volume: sheets and ropes lie on what carries them, or hang in a shape
        that is far from linear. None of an object that starts in a grip or in flight.
        """
        nodes, ground = self.rest_position[: self.object_count], self.ground
        none = np.zeros(len(nodes), bool)
        free = self.first_motion is not None and self.first_motion.flying
        free = free or any(grip.start == 0 for grip in self.clip.grips)
        if ground is None or free or self.clip.kind != "volume":
            return none
        height = nodes @ np.array(ground.normal) - ground.offset_m
        low = height < _STANDING * self.spacing_m
        # Something that falls has no weight; a body stands on three points at least.
        return low if low.sum() >= 3 else none

    def _solver(
        self,
        edges: np.ndarray,
        given: SpringMassParameters,
        acting: tuple[int, ...],
        worlds: int,
        substeps: int | None,
        collision: SelfCollision | None,
    ) -> SpringMassSolver:
        """With the springs of grips that do not hold taken away, and the boxes that are solid."""
        owner = self.grip_of_spring(edges)
        on = torch.as_tensor((owner < 0) | np.isin(owner, acting)).to(given.log_stiffness.dtype)
        given = given.replace(eta=given.eta * on, dashpot_ns_per_m=given.dashpot_ns_per_m * on)
        boxes = [p.collider(self.spacing_m) for p in self._boxes(acting)]
        model = dataclasses.replace(self.model(edges, collision), colliders=tuple(boxes))
        return SpringMassSolver(model, given, worlds=worlds, device="cpu", substeps=substeps)

    def _collision_of(self, value: dict[str, torch.Tensor]) -> SelfCollision:
        return SelfCollision(
            float(value["collision_distance_m"][0]),
            restitution=float(value["collision_restitution"][0]),
            friction=float(value["collision_friction"][0]),
        )

    def _boxes(self, acting: tuple[int, ...]) -> list[Pusher]:
        count = len(self.clip.grips)
        return [self.clip.pushers[g - count] for g in acting if g >= count]

    def _path_at(self, ticks: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(self._path[ticks], dtype=torch.float32)

    def _pose_at(self, ticks: np.ndarray, acting: tuple[int, ...]) -> torch.Tensor | None:
        boxes = self._boxes(acting)
        if not boxes:
            return None
        return torch.as_tensor(np.stack([box.pose[ticks] for box in boxes], axis=2))
