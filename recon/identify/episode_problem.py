"""One episode as an identification problem: open loop from its first frame, as PhysTwin has it.

The object's springs, its grip, its contacts and its damping are searched together; what is compared
is every tracked node with where it was seen, and every cloud with the nearest simulated surface
(PhysTwin, section 3.3, eq. 4). Twelve coordinates are PhysTwin's own; length exponent, grip
stiffness, friction of pushers, the natural shape of ropes, the bending length of sheets, and
velocity and spin of what moves at the start are added, and a sheet's own springs are not searched
for (`recon.identify.sheet_springs`).
Shapes: Q candidates, P coordinates, T ticks, N nodes, K driven points, S springs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.grip import grip_springs
from physgym.sim.spring_mass import (
    SpringMassParameters,
    rest_lengths,
)
from recon.identify.clip import Clip
from recon.identify.episode_coordinates import COLLISION, coordinates_of, without
from recon.identify.episode_rollouts import EpisodeRollouts
from recon.identify.first_motion import FirstMotion
from recon.identify.network_coordinates import TOPOLOGY
from recon.identify.network_topology import Topology, network_springs
from recon.identify.problem import Loss, Prior
from recon.identify.segments import Segment
from recon.identify.sheet_springs import preloaded, sheet_springs
from recon.tracks import Tracks

__all__ = ["INDEPENDENT_POINTS", "EpisodeProblem"]

_SHORTEST = 0.1  # as `recon.identify.spring_network`
# Nodes move together.
INDEPENDENT_POINTS = 30
"""An object says no more than so many points that move for themselves."""
# Steps of a grip's reach: up to four spacings. A grip that reached over half a cloth fitted one
# lift a little better and carried the whole cloth along in every other interaction.
_LONGEST_GRIP = 17
# Between nodes the nearest one is up to so many spacings away whatever the motion.
_BETWEEN = 0.6


class EpisodeProblem(EpisodeRollouts):
    """Rollouts of one episode under candidate parameters; see `recon.identify.problem.Problem`.

    Its ``recordings`` are always ``[0]``: one clip, in one piece.

    Args:
        clip: the episode.
        mass_kg: mass of the whole object.
        first_motion: how the object moves in the clip's first tick; None where it rests.
        self_collision: let nodes collide.
        frame_stride: compare every so many ticks.
        substeps_per_frame: override of the stability limit.
        topology: springs that are no longer searched for.
        log_offset: of every spring's stiffness from the global one, shape (S,).
        stop: ticks from here on are not compared; None takes the clip's.

    Attributes:
        carried: nodes that the ground carries in the first frame, shape (N,), bool.
    """

    _SPACING_NEIGHBOUR = 4
    LOG_STEP = 0.08  # radii go in steps of 8 %

    def __init__(
        self,
        clip: Clip,
        *,
        mass_kg: float,
        first_motion: FirstMotion | None = None,
        self_collision: bool = False,
        frame_stride: int = 1,
        substeps_per_frame: int | None = None,
        topology: Topology | None = None,
        log_offset: np.ndarray | None = None,
        stop: int | None = None,
    ) -> None:
        self.clip, self.self_collision = clip, self_collision
        self.first_motion = first_motion
        self.stop = clip.stop if stop is None else stop
        self.object_count = len(clip.rest_position)
        held = [grip.position[max(grip.start, clip.first)] for grip in clip.grips]
        whole = np.concatenate([clip.rest_position, *held])
        self._owner = np.repeat(np.arange(len(held)), [len(h) for h in held])
        still = Tracks(
            time_s=np.zeros(1),
            position=whole[None],
            visible=np.ones((1, len(whole)), bool),
            driven_index=np.arange(self.object_count, len(whole)),
            name=clip.name,
            gravity=clip.gravity,
            rest_position=whole,
        )
        segment = Segment(
            f"{clip.name}@0",
            whole,
            np.zeros_like(whole),
            np.zeros((self.stop - clip.first, len(whole) - self.object_count, 3)),
            np.zeros((1, len(whole), 3)),
            clip.dt_s,
        )
        super().__init__(
            [still],
            [segment],
            mass_kg=mass_kg,
            ground=clip.ground,
            frame_stride=frame_stride,
            substeps_per_frame=substeps_per_frame,
            topology=topology,
            log_offset=log_offset,
        )
        self.loss = Loss(scale_m=8e-3 * self.size_m, knee_m=2e-2 * self.size_m)
        self.carried = self._standing()
        self._path = np.concatenate(
            [np.zeros((self.stop, 0, 3)), *(g.position[: self.stop] for g in clip.grips)], axis=1
        )

    def frozen(self, topology: Topology, log_offset: np.ndarray | None = None) -> EpisodeProblem:
        """The same problem with its springs decided; see `SpringNetworkProblem.frozen`."""
        return EpisodeProblem(
            self.clip,
            mass_kg=self.mass_kg,
            first_motion=self.first_motion,
            self_collision=self.self_collision,
            frame_stride=self.stride,
            substeps_per_frame=self._substeps,
            topology=topology,
            log_offset=log_offset,
            stop=self.stop,
        )

    def _coordinates(self) -> dict[str, tuple[float, float, float]]:
        usual = super()._coordinates()
        table = coordinates_of(self.clip, usual, self_collision=self.self_collision)
        return table | ({} if self.first_motion is None else self.first_motion.coordinates)

    def _prior(self) -> Prior:
        """Without reach and neighbours of a sheet's springs, which are not searched for."""
        found = super()._prior()
        return without(found, ("log_radius", "log_neighbours")) if self._sheet else found

    @property
    def _sheet(self) -> bool:
        return self.clip.kind == "sheet"

    def topology_of(self, theta: np.ndarray) -> Topology:
        """Springs of one candidate, those of its grips included."""
        if self.topology is not None:
            return self.topology
        key = self.topology_key(theta)
        if key not in self._made:
            nodes = self.rest_position[: self.object_count]
            own, strut = self._own_springs(nodes, key)
            edges = [own]
            for grip in range(len(self.clip.grips)):
                points = self.object_count + np.flatnonzero(self._owner == grip)
                held = grip_springs(
                    nodes,
                    self.rest_position[points],
                    radius_m=self.spacing_m * math.exp(self.LOG_STEP * key[2]),
                    neighbours=key[3],
                    shortest_m=_SHORTEST * self.spacing_m,
                )
                edges.append(np.stack([held.node, points[held.point]], axis=1).astype(np.int32))
            whole = np.concatenate(edges)
            # The search compares springs of candidates by their nodes, in this order.
            order = np.lexsort((whole[:, 1], whole[:, 0]))
            if strut is not None:
                strut = np.append(strut, np.zeros(len(whole) - len(own), bool))[order]
            whole = whole[order]
            self._made[key] = Topology(whole, rest_lengths(self.rest_position, whole), strut)
        return self._made[key]

    def _own_springs(
        self, nodes: np.ndarray, key: tuple[int, int, int, int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The object's springs, and which of them are struts of a sheet."""
        shortest_m = _SHORTEST * self.spacing_m
        if self._sheet:
            return sheet_springs(nodes, spacing_m=self.spacing_m, shortest_m=shortest_m)
        reach_m = self.spacing_m * math.exp(self.LOG_STEP * key[0])
        edges = network_springs(
            nodes,
            np.zeros(0, np.int64),
            radius_m=reach_m,
            neighbours=key[1],
            driven_radius_m=reach_m,
            driven_neighbours=1,
            shortest_m=shortest_m,
        )
        return edges, None

    def topology_key(self, theta: np.ndarray) -> tuple[int, int, int, int]:
        """Radius, neighbours, grip radius and grip neighbours of a candidate; radii in steps."""
        names = self.prior.names[self.global_count :]
        usual = {name: mean for name, (mean, _, _) in TOPOLOGY.items()}
        at = usual | dict(zip(names, np.asarray(theta[self.global_count :], float)))
        return (
            min(round(at["log_radius"] / self.LOG_STEP), 32),
            max(3, round(math.exp(min(at["log_neighbours"], 4.6)))),
            min(round(at["log_driven_radius"] / self.LOG_STEP), _LONGEST_GRIP),
            max(2, round(math.exp(min(at["log_driven_neighbours"], 4.6)))),
        )

    def scalars(self, theta: torch.Tensor, topologies: list[Topology]) -> dict[str, torch.Tensor]:
        """As `SpringNetworkProblem.scalars`, with ``grip_stiffness_ratio``; where nodes collide,
        ``collision_distance_m``, ``collision_restitution`` and ``collision_friction``; of a sheet,
        whose stiffness is that of its membrane, ``bending_length_m``; of what moves at the start,
        ``start_velocity_m_per_s`` and ``start_spin_rad_per_s``, shape (Q, 3)."""
        found = super().scalars(theta, topologies)
        column = dict(zip(self.global_names, theta[:, : self.global_count].unbind(1)))
        one = torch.ones_like(found["stiffness_n"])
        held = column.get("log_grip_stiffness")
        found["grip_stiffness_ratio"] = one if held is None else held.exp()
        if "log_pusher_friction" in column:
            found["pusher_friction"] = column["log_pusher_friction"].exp()
        if "log_bending_length" in column:
            found["bending_length_m"] = column["log_bending_length"].exp()
            weight = [
                (t, torch.as_tensor(t.rest_length_m / self.spacing_m) ** (1.0 + a))
                for t, a in zip(topologies, found["length_exponent"])
            ]
            share = [w[torch.as_tensor(self._membrane(t))].sum() / w.sum() for t, w in weight]
            found["stiffness_n"] = found["stiffness_n"] / torch.stack(share)
        if self.first_motion is not None:
            found |= self.first_motion.scalars(column)
        if "logit_straightness" in column:
            found["straightness"] = torch.sigmoid(column["logit_straightness"])
        if self.self_collision:
            usual = {name: torch.full_like(one, mean) for name, (mean, _, _) in COLLISION.items()}
            at = usual | column
            found["collision_distance_m"] = at["log_collision_distance"].exp() * self.spacing_m
            found["collision_restitution"] = torch.sigmoid(at["logit_collision_restitution"])
            found["collision_friction"] = at["log_collision_friction"].exp()
        return found

    def parameters(
        self, scalars: dict[str, torch.Tensor], topology: Topology, log_offset: torch.Tensor
    ) -> SpringMassParameters:
        """See `SpringNetworkProblem.parameters`."""
        made = super().parameters(scalars, topology, log_offset)
        grip = torch.as_tensor(self.grip_of_spring(topology.edges) >= 0).double()
        ratio = scalars["grip_stiffness_ratio"].log()[:, None] * grip
        made = made.replace(
            log_stiffness=made.log_stiffness + ratio,
            rest_length_m=self.natural_lengths(scalars, topology),
        )
        if topology.strut is not None:
            made = self._preloaded(made, scalars, topology, log_offset)
        if "pusher_friction" in scalars:
            made = made.replace(collider_friction=scalars["pusher_friction"])
        return made

    def natural_lengths(self, scalars: dict[str, torch.Tensor], topology: Topology) -> torch.Tensor:
        """Lengths at which springs pull at nothing [m], shape (Q or 1, S); differentiable.

        Args:
            scalars: from `scalars`.
            topology: the springs.

        Returns:
            As in the first frame; of a rope, between that and those of the straight rope.
        """
        length = torch.as_tensor(topology.rest_length_m)[None]
        straight = self.clip.straight_position
        if straight is None:
            return length
        own = self.grip_of_spring(topology.edges) < 0
        change = np.zeros(len(own))
        change[own] = rest_lengths(straight, topology.edges[own]) - topology.rest_length_m[own]
        # No spring loses more than half its length: a point bound to the wrong bend would.
        change = np.maximum(change, -0.5 * topology.rest_length_m)
        return length + scalars["straightness"][:, None] * torch.as_tensor(change)

    def _preloaded(
        self,
        made: SpringMassParameters,
        scalars: dict[str, torch.Tensor],
        topology: Topology,
        log_offset: torch.Tensor,
    ) -> SpringMassParameters:
        """With the struts of a sheet pushing and its membrane pulling."""
        weight_n = self.mass_kg * (float(np.linalg.norm(self.gravity)) or 9.81)
        log_stiffness, natural = preloaded(
            topology,
            torch.as_tensor(self.grip_of_spring(topology.edges) < 0),
            made.log_stiffness,
            log_offset,
            # D A = weight per area times cubed bending length times area.
            weight_n * scalars["bending_length_m"].pow(3),
        )
        return made.replace(log_stiffness=log_stiffness, rest_length_m=natural)

    def _membrane(self, topology: Topology) -> np.ndarray:
        assert topology.strut is not None
        return (self.grip_of_spring(topology.edges) < 0) & ~topology.strut

    def _stiffness_scale(
        self, scalars: dict[str, torch.Tensor], candidate: int, topology: Topology
    ) -> np.ndarray:
        one = {name: value[candidate : candidate + 1] for name, value in scalars.items()}
        none = torch.zeros(len(topology.edges))
        plain, made = super().parameters(one, topology, none), self.parameters(one, topology, none)
        change = (made.log_stiffness - plain.log_stiffness).exp()
        return (change * plain.rest_length_m / made.rest_length_m)[0].numpy()

    def weights(self, recordings: list[int]) -> float:
        """Independent samples; see `recon.identify.problem.Loss`."""
        seconds = (self.stop - self.clip.first) * self.clip.dt_s
        count = min(self.object_count, INDEPENDENT_POINTS)
        return self.loss.rate_hz * seconds * 3 * count

    def residuals(
        self, theta: np.ndarray, recordings: list[int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Simulated minus seen; see `Problem.residuals`."""
        yield self.compared(self.roll(theta).position)

    def compared(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tracks and clouds against rollouts.

        Args:
            position: from `roll`, shape (Q, T, N + K, 3).

        Returns:
            Residuals [m], shape (Q, F), and which were seen, shape (F,).
        """
        clip = self.clip
        ticks = np.arange(clip.first + 1, self.stop)[:: self.stride]
        simulated = position[:, ticks - clip.first, : self.object_count]
        target = clip.position[ticks]
        seen = np.isfinite(target)
        known = seen.any(axis=(0, 2))
        off = simulated[:, :, known] - np.where(seen, target, 0.0)[:, known]
        gaps = [self._cloud_gaps(simulated[:, i], clip.clouds[t]) for i, t in enumerate(ticks)]
        far = np.concatenate(gaps, axis=1)
        residual = np.concatenate([off.reshape(len(off), -1), far], axis=1)
        return residual, np.concatenate([seen[:, known].ravel(), np.ones(far.shape[1], bool)])

    def _cloud_gaps(self, simulated: np.ndarray, cloud: np.ndarray) -> np.ndarray:
        """From every seen point to the nearest simulated surface node, shape (Q, M)."""
        gaps = np.full((len(simulated), len(cloud)), np.nan, np.float32)
        if len(cloud):
            for q, one in enumerate(simulated):
                if np.isfinite(one).all():
                    gaps[q] = cKDTree(one[self.clip.surface]).query(cloud)[0]
        return np.maximum(gaps - self.between_m, 0.0)

    @property
    def between_m(self) -> float:
        """A cloud point between nodes is so far from the nearest whatever the motion [m]."""
        return _BETWEEN * self.spacing_m
