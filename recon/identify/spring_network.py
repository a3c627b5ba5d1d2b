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

from physgym.errors import BlowUpError
from physgym.sim.contact import GroundPlane
from physgym.sim.spring_mass import (
    SpringMassModel,
    SpringMassParameters,
    SpringMassSolver,
    rest_lengths,
)
from physgym.sim.timestep import StepLimit, gershgorin_bound, substep_count
from recon.identify.network_coordinates import CONTACT, GLOBALS, MOST_DRAG_PER_S, TOPOLOGY
from recon.identify.network_topology import (
    Topology,
    network_springs,
    spacing_and_size,
    triple,
)
from recon.identify.problem import Loss, Prior
from recon.identify.segments import Segment
from recon.identify.windows import alike, nearest_distance, stacked
from recon.tracks import Tracks

__all__ = ["SpringNetworkProblem"]

_OWN_STRAIN = 0.01
# A candidate may need so many times the substeps of the prior's mean; stiffer ones count as blown.
_STIFF_CANDIDATE = 4
# Radii go in steps of 8 %: finer ones hardly change which springs there are.
_LOG_STEP = 0.08
_LANE_BUDGET = 640
_SAFETY = 0.5  # as the solver's own, so that a twin is simulated as it was fitted
# Springs shorter than this share of the spacing would set the step and mean nothing.
_SHORTEST = 0.1


class SpringNetworkProblem:
    """Rollouts of one object under candidate parameters; see `recon.identify.problem.Problem`.

    Args:
        recordings: tracks of one object.
        segments: what is simulated.
        mass_kg: mass of the whole object, shared equally by its free nodes.
        ground: what the object touches, or None.
        frame_stride: compare every so many frames.
        substeps_per_frame: override of the stability limit.
        chamfer: also compare every seen point with the nearest simulated one.
        topology: springs that are no longer searched for.
        log_offset: of every spring's stiffness from the global one, shape (S,).
    """

    _SPACING_NEIGHBOUR = 1

    def __init__(
        self,
        recordings: list[Tracks],
        segments: list[Segment],
        *,
        mass_kg: float,
        ground: GroundPlane | None = None,
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
        self.driven_index = np.asarray(first.driven_index)
        self.free_index = first.free_index
        rest = first.rest_position if first.rest_position is not None else segments[0].position
        self.rest_position = np.asarray(rest, np.float64)
        self.spacing_m, self.size_m = spacing_and_size(
            self.rest_position, first, neighbour=self._SPACING_NEIGHBOUR
        )
        self.gravity = np.asarray(first.gravity, np.float64)
        strength = float(np.linalg.norm(self.gravity))
        self.ground = ground
        # Strain under its own weight is g L / c^2 at a wave speed c; without weight, the Earth's.
        self._speed2 = (strength or 9.81) * self.size_m / _OWN_STRAIN
        self.loss = Loss(scale_m=8e-3 * self.size_m, knee_m=3e-2 * self.size_m)
        self.global_names = tuple(self._coordinates())
        self.prior = self._prior()
        self._made: dict[tuple[int, ...], Topology] = {}
        inverse = np.full(len(self.rest_position), len(self.free_index) / mass_kg)
        inverse[self.driven_index] = 0.0
        self._inverse_mass = inverse
        self._substeps_at_most = 10**9
        usual = self._needed_substeps(self.prior.mean[None], [self.topology_of(self.prior.mean)])
        if topology is None:
            self._substeps_at_most = _STIFF_CANDIDATE * int(usual[0])

    @property
    def global_count(self) -> int:
        """G, coordinates that are no topology."""
        return len(self.global_names)

    def _stiffness_scale(
        self, scalars: dict[str, torch.Tensor], candidate: int, topology: Topology
    ) -> np.ndarray | float:
        """What multiplies the stiffness of single springs, shape (S,), or 1."""
        return 1.0

    def _coordinates(self) -> dict[str, tuple[float, float, float]]:
        """The global ones, with mean, sigma and step of each."""
        return GLOBALS | (CONTACT if self.ground is not None else {})

    def _prior(self) -> Prior:
        table = self._coordinates() | (TOPOLOGY if self.topology is None else {})
        mean, sigma, step = (np.array(column) for column in zip(*table.values()))
        return Prior(tuple(table), mean, sigma, step)

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
            ground=self.ground,
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
        key = (
            round(radius / _LOG_STEP),
            max(3, round(math.exp(min(count, 4.6)))),
            round(driven_radius / _LOG_STEP),
            max(2, round(math.exp(min(driven_count, 4.6)))),
        )
        if key not in self._made:
            edges = network_springs(
                self.rest_position,
                self.driven_index,
                radius_m=self.spacing_m * math.exp(_LOG_STEP * min(key[0], 32)),
                neighbours=key[1],
                driven_radius_m=self.spacing_m * math.exp(_LOG_STEP * min(key[2], 32)),
                driven_neighbours=key[3],
                shortest_m=_SHORTEST * self.spacing_m,
            )
            self._made[key] = Topology(edges, rest_lengths(self.rest_position, edges))
        return self._made[key]

    def scalars(self, theta: torch.Tensor, topologies: list[Topology]) -> dict[str, torch.Tensor]:
        """Physical parameters of candidates; differentiable.

        A network strained by e stores sum(Y L0) e^2 / 2, so sum(Y L0) / mass is its wave speed
        squared whatever its springs; the same holds for dashpots and sum(L0^2).

        Args:
            theta: shape (Q, P), or at least its global columns.
            topologies: of every candidate.

        Returns:
            ``stiffness_n`` (of a spring as long as the spacing), ``length_exponent``,
            ``dashpot_ns_per_m``, ``drag_per_s``, ``restitution`` and ``friction``, shape (Q,).
        """
        column = dict(zip(self.global_names, theta[:, : self.global_count].unbind(1)))
        exponent = column["length_exponent"]
        lengths = [torch.as_tensor(t.rest_length_m) for t in topologies]
        weighted = torch.stack(
            [(L * (L / self.spacing_m) ** a).sum() for L, a in zip(lengths, exponent)]
        )
        square = torch.stack([L.square().sum() for L in lengths])
        speed2 = self._speed2 * column["log_stiffness"].exp()
        stiffness = speed2 * self.mass_kg / weighted
        delay = 2.0 * column["log_damping_ratio"].exp() * self.spacing_m / speed2.sqrt()
        zero = torch.zeros_like(stiffness)
        touching = self.ground is not None
        return {
            "stiffness_n": stiffness,
            "length_exponent": exponent,
            "dashpot_ns_per_m": delay * speed2 * self.mass_kg / square,
            "drag_per_s": column["log_drag"].exp().clamp(max=MOST_DRAG_PER_S),
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
            gravity_m_per_s2=triple(self.gravity),
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
        length = torch.as_tensor(topology.rest_length_m)
        nodes = len(self.rest_position)
        return SpringMassParameters(
            log_stiffness=scalars["stiffness_n"].log()[:, None]
            + scalars["length_exponent"][:, None] * (length / self.spacing_m).log()
            + log_offset,
            rest_length_m=length[None],
            dashpot_ns_per_m=scalars["dashpot_ns_per_m"][:, None],
            mass_kg=torch.full((1, nodes), self.mass_kg / len(self.free_index)),
            drag_per_s=scalars["drag_per_s"],
            restitution=scalars["restitution"],
            friction=scalars["friction"],
        )

    def weights(self, recordings: list[int]) -> float:
        """Independent samples in these segments; see `recon.identify.problem.Loss`."""
        seconds = sum(len(self.segments[r].target) * self.segments[r].dt_s for r in recordings)
        return self.loss.rate_hz * seconds * 3 * len(self.free_index)

    def residuals(
        self, theta: np.ndarray, recordings: list[int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Simulated minus seen positions of the free nodes; see `Problem.residuals`."""
        most = max(1, _LANE_BUDGET // len(theta))
        for group in alike([self.segments[r] for r in recordings]):
            for first in range(0, len(group), most):
                batch = group[first : first + most]
                for segment, predicted in zip(batch, self.simulate(theta, batch)):
                    yield self._compared(predicted, segment)

    def _compared(self, predicted: np.ndarray, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """Residuals (Q, F) of one segment, and which were seen."""
        target = segment.target[:: self.stride, self.free_index]
        chosen = predicted[:, 1 :: self.stride, self.free_index]
        seen = np.isfinite(target)
        off = chosen - np.where(seen, target, 0.0)
        parts, masks = [off.reshape(len(off), -1)], [seen.reshape(-1)]
        if self.chamfer:
            parts.append(np.stack([nearest_distance(one, target) for one in chosen]))
            masks.append(seen.all(-1).reshape(-1))
        return np.concatenate(parts, axis=1), np.concatenate(masks)

    def simulate(self, theta: np.ndarray, segments: list[Segment]) -> np.ndarray:
        """Roll out segments under every candidate.

        Args:
            theta: shape (Q, P).
            segments: R of one length and frame rate.

        Returns:
            [m], shape (R, Q, T, N, 3); frame 0 is the start. NaN where a world blew up or would
            need too many substeps.
        """
        theta = np.asarray(theta, np.float64)
        topologies = [self.topology_of(one) for one in theta]
        substeps = self._needed_substeps(theta, topologies, segments[0].dt_s)
        shape = (len(segments) * len(theta), len(segments[0].driven), *self.rest_position.shape)
        result = np.full(shape, np.nan, np.float32)
        candidate = np.tile(np.arange(len(theta)), len(segments))
        alive = np.flatnonzero(substeps[candidate] <= self._substeps_at_most)
        while len(alive):
            used, inverse = np.unique(candidate[alive], return_inverse=True)
            back = torch.as_tensor(inverse)
            edges, given = self._union(theta[used], [topologies[q] for q in used])
            given = SpringMassParameters(
                **{
                    name: value[back] if len(value) == len(used) else value
                    for name, value in vars(given).items()
                }
            )
            try:
                result[alive] = self._roll(
                    edges,
                    given,
                    [segments[w // len(theta)] for w in alive],
                    int(substeps[used].max()),
                )
                break
            except BlowUpError as error:
                alive = np.delete(alive, error.world)
        return result.reshape(len(segments), len(theta), *shape[1:])

    def _union(
        self, theta: np.ndarray, topologies: list[Topology]
    ) -> tuple[np.ndarray, SpringMassParameters]:
        """Springs that any candidate has, and parameters in which each has only its own."""
        nodes = len(self.rest_position)
        codes = [t.edges[:, 0].astype(np.int64) * nodes + t.edges[:, 1] for t in topologies]
        union = np.unique(np.concatenate(codes))
        edges = np.stack([union // nodes, union % nodes], axis=1)
        shared = Topology(edges, rest_lengths(self.rest_position, edges))
        offset = torch.zeros(len(union)) if self.log_offset is None else self.log_offset
        scalars = self.scalars(torch.as_tensor(theta), topologies)
        given = self.parameters(scalars, shared, torch.as_tensor(offset))
        if any(len(code) < len(union) for code in codes):
            has = torch.as_tensor(np.stack([np.isin(union, code) for code in codes])).float()
            given = given.replace(eta=has, dashpot_ns_per_m=given.dashpot_ns_per_m * has)
        return edges, given

    def _roll(
        self,
        edges: np.ndarray,
        given: SpringMassParameters,
        segments: list[Segment],
        substeps: int,
    ) -> np.ndarray:
        """One world per segment; (B, T, N, 3)."""
        solver = SpringMassSolver(
            self.model(edges), given, worlds=len(segments), device="cpu", substeps=substeps
        )
        state = solver.initial_state(stacked(segments, "position"), stacked(segments, "velocity"))
        with torch.no_grad():
            driven = stacked(segments, "driven")
            return np.asarray(solver.rollout(state, driven, segments[0].dt_s).position)

    def _needed_substeps(
        self, theta: np.ndarray, topologies: list[Topology], dt_s: float | None = None
    ) -> np.ndarray:
        """Substeps a frame that each candidate asks for, shape (Q,)."""
        if self._substeps is not None:
            return np.full(len(theta), self._substeps)
        dt_s = self.segments[0].dt_s if dt_s is None else dt_s
        scalars = self.scalars(torch.as_tensor(theta), topologies)
        offset = 0.0 if self.log_offset is None else self.log_offset
        counts = []
        for q, topology in enumerate(topologies):
            length = topology.rest_length_m / self.spacing_m
            slope = np.exp(offset) * length ** float(scalars["length_exponent"][q])
            slope *= float(scalars["stiffness_n"][q]) / topology.rest_length_m
            slope *= self._stiffness_scale(scalars, q, topology)
            # Gershgorin's bound costs next to nothing and asks for a tenth more substeps.
            omega2 = float(gershgorin_bound(topology.edges, slope, self._inverse_mass).max())
            even = np.full(len(slope), float(scalars["dashpot_ns_per_m"][q]))
            rate = float(gershgorin_bound(topology.edges, even, self._inverse_mass).max())
            dt_max_s = 4.0 / (math.sqrt(rate**2 + 4.0 * omega2) + rate)  # as `stable_step`
            limit = StepLimit(dt_max_s, math.sqrt(omega2), rate, 0)
            counts.append(substep_count(dt_s, limit, safety=_SAFETY))
        return np.array(counts)
