"""Sheets, volumes and any other set of points as an identification problem: spring networks.

Search coordinates are relative to the object: lengths in spacings of its points, speeds in what its
own weight asks for, so that a handkerchief and a mattress are as near to the start.
All candidates of a generation run side by side although each has its own topology: they share the
union of their springs, and a spring that a candidate does not have weighs nothing in its world.
Shapes: Q candidates, P coordinates, G of them global, S springs, N nodes, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import BlowUpError, DataError
from physgym.sim.contact import GroundPlane
from physgym.sim.spring_mass import (
    SpringMassModel,
    SpringMassParameters,
    SpringMassSolver,
    rest_lengths,
)
from physgym.sim.timestep import StepLimit, substep_count
from recon.identify.network_topology import Topology, make_topology, network_springs
from recon.identify.problem import Loss, Prior
from recon.identify.segments import Segment
from recon.tracks import Tracks

__all__ = ["GLOBALS", "TOPOLOGY", "SpringNetworkProblem"]

# Coordinate: (prior mean, prior sigma, step of a difference).
GLOBALS: dict[str, tuple[float, float, float]] = {
    # Stiffness over that of an object which its own weight strains by 1 %.
    "log_stiffness": (0.0, 2.0, 1e-2),
    # Damping ratio of neighbouring points against each other; 0.03 is PhysTwin's start.
    "log_damping_ratio": (float(np.log(0.05)), 1.5, 2e-2),
    # 1/s; PhysTwin searches 0 to 20 from 3.
    "log_drag": (0.0, 1.2, 2e-2),
}
_CONTACT: dict[str, tuple[float, float, float]] = {
    "logit_restitution": (-1.0, 1.0, 2e-2),
    "log_friction": (float(np.log(0.4)), 0.7, 2e-2),
}
# PhysTwin, on dense clouds: radius 2 to 10 spacings, 10 to 50 neighbours; driven points 2 to 16
# spacings, 10 to 80. Tracked points are sparser, so the means sit at the lower ends.
TOPOLOGY: dict[str, tuple[float, float, float]] = {
    "log_radius": (float(np.log(2.2)), 0.35, 5e-2),
    "log_neighbours": (float(np.log(14.0)), 0.4, 5e-2),
    "log_driven_radius": (float(np.log(2.5)), 0.4, 5e-2),
    "log_driven_neighbours": (float(np.log(14.0)), 0.5, 5e-2),
}
_OWN_STRAIN = 0.01
# A candidate may need so many times the substeps of the prior's mean; stiffer ones count as blown.
_STIFF_CANDIDATE = 4
_SAFETY = 0.5  # as the solver's own, so that a twin is simulated as it was fitted
# Springs shorter than this share of the spacing would set the step and mean nothing.
_SHORTEST = 0.1


class SpringNetworkProblem:
    """Rollouts of one object under candidate parameters; see `recon.identify.problem.Problem`.

    Args:
        recordings: tracks of one object.
        segments: what is simulated.
        mass_kg: mass of the whole object, shared equally by its free nodes.
        ground_height_m: height of a horizontal ground that is touched, along minus gravity.
        frame_stride: compare every so many frames.
        substeps_per_frame: override of the stability limit.
        chamfer: also compare every seen point with the nearest simulated one.
        topology: springs that are no longer searched for.
        log_offset: of every spring's stiffness from the global one, shape (S,).
    """

    def __init__(
        self,
        recordings: list[Tracks],
        segments: list[Segment],
        *,
        mass_kg: float,
        ground_height_m: float | None = None,
        frame_stride: int = 1,
        substeps_per_frame: int | None = None,
        chamfer: bool = False,
        topology: Topology | None = None,
        log_offset: np.ndarray | None = None,
    ) -> None:
        first = recordings[0]
        self.recordings, self.segments, self.mass_kg = recordings, segments, mass_kg
        self.stride, self.chamfer, self._substeps = frame_stride, chamfer, substeps_per_frame
        self.topology, self.log_offset = topology, log_offset
        self._ground_height_m = ground_height_m
        self.driven_index = np.asarray(first.driven_index)
        self.free_index = first.free_index
        rest = first.rest_position if first.rest_position is not None else segments[0].position
        self.rest_position = np.asarray(rest, np.float64)
        self.spacing_m, self.size_m = _spacing_and_size(self.rest_position, first)
        self.gravity = np.asarray(first.gravity, np.float64)
        strength = float(np.linalg.norm(self.gravity))
        self.ground = _ground(self.gravity, ground_height_m)
        # Strain under its own weight is g L / c^2 at a wave speed c; without weight, the Earth's.
        self._speed2 = (strength or 9.81) * self.size_m / _OWN_STRAIN
        self.loss = Loss(scale_m=8e-3 * self.size_m, knee_m=3e-2 * self.size_m)
        self.prior = _prior(with_ground=self.ground is not None, with_topology=topology is None)
        self._made: dict[tuple[int, ...], Topology] = {}
        inverse = np.full(len(self.rest_position), len(self.free_index) / mass_kg)
        inverse[self.driven_index] = 0.0
        self._inverse_mass = inverse
        self._substeps_at_most = 10**9
        usual = self._needed_substeps(self.prior.mean[None], [self.topology_of(self.prior.mean)])
        self._substeps_at_most = _STIFF_CANDIDATE * int(usual[0])

    @property
    def global_count(self) -> int:
        """G, coordinates that are no topology."""
        return len(GLOBALS) + (len(_CONTACT) if self.ground is not None else 0)

    def frozen(
        self, topology: Topology, log_offset: np.ndarray | None = None
    ) -> SpringNetworkProblem:
        """The same problem with its springs decided.

        Args:
            topology: the springs.
            log_offset: of every spring's stiffness from the global one, shape (S,).

        Returns:
            A problem whose coordinates are the global ones.
        """
        return SpringNetworkProblem(
            self.recordings,
            self.segments,
            mass_kg=self.mass_kg,
            ground_height_m=self._ground_height_m,
            frame_stride=self.stride,
            substeps_per_frame=self._substeps,
            chamfer=self.chamfer,
            topology=topology,
            log_offset=log_offset,
        )

    def topology_of(self, theta: np.ndarray) -> Topology:
        """Springs of one candidate.

        Args:
            theta: shape (P,).

        Returns:
            The springs; the frozen ones where there are any.
        """
        if self.topology is not None:
            return self.topology
        radius, count, driven_radius, driven_count = np.asarray(theta[self.global_count :], float)
        # Steps of 4 %: finer ones hardly change which springs there are.
        key = (
            round(radius / 0.04),
            max(3, round(math.exp(min(count, 4.6)))),
            round(driven_radius / 0.04),
            max(2, round(math.exp(min(driven_count, 4.6)))),
        )
        if key not in self._made:
            edges = network_springs(
                self.rest_position,
                self.driven_index,
                radius_m=self.spacing_m * math.exp(0.04 * min(key[0], 64)),
                neighbours=key[1],
                driven_radius_m=self.spacing_m * math.exp(0.04 * min(key[2], 64)),
                driven_neighbours=key[3],
                shortest_m=_SHORTEST * self.spacing_m,
            )
            self._made[key] = make_topology(self.rest_position, edges, self._inverse_mass)
        return self._made[key]

    def scalars(self, theta: torch.Tensor, topologies: list[Topology]) -> dict[str, torch.Tensor]:
        """Physical parameters of candidates; differentiable.

        A network strained by e stores sum(Y L0) e^2 / 2, so Y sum(L0) / mass is its wave speed
        squared whatever its springs; the same holds for dashpots and sum(L0^2).

        Args:
            theta: shape (Q, P), or at least its global columns.
            topologies: of every candidate.

        Returns:
            ``stiffness_n``, ``dashpot_ns_per_m``, ``drag_per_s``, ``restitution`` and ``friction``,
            each of shape (Q,).
        """
        column = dict(zip([*GLOBALS, *_CONTACT], theta[:, : self.global_count].unbind(1)))
        length = torch.tensor([t.rest_length_m.sum() for t in topologies], dtype=theta.dtype)
        square = torch.tensor([(t.rest_length_m**2).sum() for t in topologies], dtype=theta.dtype)
        speed2 = self._speed2 * column["log_stiffness"].exp()
        stiffness = speed2 * self.mass_kg / length
        delay = 2.0 * column["log_damping_ratio"].exp() * self.spacing_m / speed2.sqrt()
        zero = torch.zeros_like(stiffness)
        touching = self.ground is not None
        return {
            "stiffness_n": stiffness,
            "dashpot_ns_per_m": delay * stiffness * length / square,
            "drag_per_s": column["log_drag"].exp(),
            "restitution": torch.sigmoid(column["logit_restitution"]) if touching else zero,
            "friction": column["log_friction"].exp() if touching else zero,
        }

    def model(self, edges: np.ndarray) -> SpringMassModel:
        """The simulated object.

        Args:
            edges: springs, shape (S, 2).

        Returns:
            The model.
        """
        return SpringMassModel(
            self.rest_position,
            edges,
            driven_index=self.driven_index,
            gravity_m_per_s2=(
                float(self.gravity[0]),
                float(self.gravity[1]),
                float(self.gravity[2]),
            ),
            ground=self.ground,
        )

    def parameters(
        self, scalars: dict[str, torch.Tensor], topology: Topology, log_offset: torch.Tensor
    ) -> SpringMassParameters:
        """Solver parameters of candidates with one topology; differentiable.

        Args:
            scalars: from `scalars`, each of shape (Q,).
            topology: the springs.
            log_offset: stiffness of each spring over the global one, shape (S,).

        Returns:
            Parameters of Q worlds.
        """
        return SpringMassParameters(
            log_stiffness=scalars["stiffness_n"].log()[:, None] + log_offset,
            rest_length_m=torch.as_tensor(topology.rest_length_m)[None],
            dashpot_ns_per_m=scalars["dashpot_ns_per_m"][:, None],
            mass_kg=self.node_mass(),
            drag_per_s=scalars["drag_per_s"],
            restitution=scalars["restitution"],
            friction=scalars["friction"],
        )

    def node_mass(self) -> torch.Tensor:
        """Mass of every node [kg], shape (1, N)."""
        nodes = len(self.rest_position)
        return torch.full((1, nodes), self.mass_kg / len(self.free_index), dtype=torch.float64)

    def weights(self, recordings: list[int]) -> float:
        """Independent samples in these segments; see `recon.identify.problem.Loss`."""
        seconds = sum(len(self.segments[r].target) * self.segments[r].dt_s for r in recordings)
        return self.loss.rate_hz * seconds * 3 * len(self.free_index)

    def residuals(
        self, theta: np.ndarray, recordings: list[int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Simulated minus seen positions of the free nodes; see `Problem.residuals`."""
        for r in recordings:
            predicted = self.simulate(theta, self.segments[r])
            target = self.segments[r].target[:: self.stride, self.free_index]
            chosen = predicted[:, 1 :: self.stride, self.free_index]
            seen = np.isfinite(target)
            off = chosen - np.where(seen, target, 0.0)
            parts, masks = [off.reshape(len(theta), -1)], [seen.reshape(-1)]
            if self.chamfer:
                parts.append(np.stack([_nearest(one, target) for one in chosen]))
                masks.append(seen.all(-1).reshape(-1))
            yield np.concatenate(parts, axis=1), np.concatenate(masks)

    def simulate(self, theta: np.ndarray, segment: Segment) -> np.ndarray:
        """Roll out one segment under every candidate.

        Args:
            theta: shape (Q, P).
            segment: what to simulate.

        Returns:
            [m], shape (Q, T, N, 3); frame 0 is the start. NaN where a world blew up or would need
            too many substeps.
        """
        theta = np.asarray(theta, np.float64)
        topologies = [self.topology_of(one) for one in theta]
        substeps = self._needed_substeps(theta, topologies, segment.dt_s)
        shape = (len(theta), len(segment.driven), *self.rest_position.shape)
        result = np.full(shape, np.nan, np.float32)
        alive = np.flatnonzero(substeps <= self._substeps_at_most)
        while len(alive):
            try:
                result[alive] = self._roll(
                    theta[alive],
                    [topologies[q] for q in alive],
                    segment,
                    int(substeps[alive].max()),
                )
                break
            except BlowUpError as error:
                alive = np.delete(alive, error.world)
        return result

    def _roll(
        self, theta: np.ndarray, topologies: list[Topology], segment: Segment, substeps: int
    ) -> np.ndarray:
        """Candidates side by side on the union of their springs; (Q, T, N, 3)."""
        worlds, nodes = len(theta), len(self.rest_position)
        codes = [t.edges[:, 0].astype(np.int64) * nodes + t.edges[:, 1] for t in topologies]
        union = np.unique(np.concatenate(codes))
        edges = np.stack([union // nodes, union % nodes], axis=1)
        shared = Topology(edges, rest_lengths(self.rest_position, edges), 0.0, 0.0)
        offset = torch.zeros(len(union)) if self.log_offset is None else self.log_offset
        scalars = self.scalars(torch.as_tensor(theta), topologies)
        given = self.parameters(scalars, shared, torch.as_tensor(offset))
        if any(len(code) < len(union) for code in codes):
            has = torch.as_tensor(np.stack([np.isin(union, code) for code in codes]))
            given = given.replace(
                eta=has.double(), dashpot_ns_per_m=given.dashpot_ns_per_m * has.double()
            )
        solver = SpringMassSolver(
            self.model(edges), given, worlds=worlds, device="cpu", substeps=substeps
        )
        state = solver.initial_state(
            torch.as_tensor(segment.position), torch.as_tensor(segment.velocity)
        )
        driven = torch.as_tensor(segment.driven)[None].expand(worlds, -1, -1, -1)
        with torch.no_grad():
            return np.asarray(solver.rollout(state, driven, segment.dt_s).position)

    def _needed_substeps(
        self, theta: np.ndarray, topologies: list[Topology], dt_s: float | None = None
    ) -> np.ndarray:
        """Substeps a frame that each candidate asks for, shape (Q,)."""
        if self._substeps is not None:
            return np.full(len(theta), self._substeps)
        dt_s = self.segments[0].dt_s if dt_s is None else dt_s
        scalars = self.scalars(torch.as_tensor(theta), topologies)
        highest = 0.0 if self.log_offset is None else float(np.max(self.log_offset))
        counts = []
        for q, topology in enumerate(topologies):
            omega2 = float(scalars["stiffness_n"][q]) * topology.stiff_eigenvalue
            omega2 *= math.exp(highest)
            rate = float(scalars["dashpot_ns_per_m"][q]) * topology.damp_eigenvalue
            total = math.sqrt(rate**2 + 4.0 * omega2) + rate  # see physgym.sim.timestep
            limit = StepLimit(4.0 / total, math.sqrt(omega2), rate, 0)
            counts.append(substep_count(dt_s, limit, safety=_SAFETY))
        return np.array(counts)


def _prior(*, with_ground: bool, with_topology: bool) -> Prior:
    table = dict(GLOBALS)
    if with_ground:
        table |= _CONTACT
    if with_topology:
        table |= TOPOLOGY
    mean, sigma, step = (np.array(column) for column in zip(*table.values()))
    return Prior(tuple(table), mean, sigma, step)


def _spacing_and_size(rest: np.ndarray, tracks: Tracks) -> tuple[float, float]:
    free = rest[tracks.free_index]
    if len(free) < 2:
        raise DataError(
            f"{len(free)} free point(s) of {len(rest)}",
            where=f"{tracks.name}: driven_index",
            expected="at least two points that are not driven",
            fix="name only the points that a gripper holds",
        )
    distance, _ = cKDTree(free).query(free, k=2)
    return float(np.median(distance[:, 1])), float(np.linalg.norm(np.ptp(rest, axis=0)))


def _ground(gravity: np.ndarray, height_m: float | None) -> GroundPlane | None:
    if height_m is None:
        return None
    strength = float(np.linalg.norm(gravity))
    up = -gravity / strength if strength > 0.0 else np.array([0.0, 0.0, 1.0])
    return GroundPlane((float(up[0]), float(up[1]), float(up[2])), float(height_m))


def _nearest(simulated: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Distance [m] from every seen point to the nearest simulated one; 0 where not seen."""
    found = np.zeros(seen.shape[:2], np.float32)
    for frame, (model, points) in enumerate(zip(simulated, seen)):
        known = np.isfinite(points).all(-1)
        if not np.isfinite(model).all():
            found[frame] = np.nan
        elif known.any():
            found[frame, known] = cKDTree(model).query(points[known])[0]
    return found.reshape(-1)
