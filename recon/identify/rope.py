"""Ropes and cables as an identification problem: search coordinates to rod parameters and back.

Shapes: Q candidates, P coordinates, N nodes, T frames.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from physgym.sim.rod import RodModel, RodParameters, RodSolver
from physgym.sim.rod.directors import transport, unit
from physgym.sim.rod.model import voronoi_length
from recon.identify.problem import Loss, Prior
from recon.identify.segments import Segment
from recon.tracks import Tracks

__all__ = ["GLOBALS", "RopeProblem"]

# Coordinate: (prior mean, prior sigma, step of a difference). Ratios and times do not depend on
# the cable's size; the widths are those of a cable nobody knows. Bending stiffness is per mass and
# per length cubed, as a decay time would be, so that a thin thread and a garden hose are as near.
GLOBALS: dict[str, tuple[float, float, float]] = {
    "log_bending": (-7.0, 3.0, 1e-2),
    "log_twist_ratio": (float(np.log(0.8)), 0.7, 1e-2),
    "log_bending_damping": (float(np.log(0.04)), 0.7, 1e-2),
    "log_friction_ratio": (0.0, 1.0, 1e-2),
    "log_friction_yield": (float(np.log(0.15)), 1.0, 1e-2),
    "log_drag": (float(np.log(0.05)), 1.0, 2e-2),
    "log_drag_quadratic": (float(np.log(0.03)), 1.0, 2e-2),
    "end_roll": (0.0, 2.0, 1e-2),
}
_DENSE_BENDING_SIGMA = 0.5
# Natural curvature: a coil set of 40 cm radius, and markers that sit off the centre line.
_CURVATURE_PER_M = 2.5
_CURVATURE_FLOOR_RAD = 0.03
# Waves of stretch at 50 m/s: strains stay below 1 % at the accelerations of a robot arm, and the
# motion of a cable does not tell a higher stiffness from this one.
_STRETCH_WAVE_M_PER_S = 50.0
_STRETCH_DAMPING_S = 5e-4
_LANE_BUDGET = 640
# A candidate may need so many times the substeps of the prior's mean; stiffer ones flail and lose.
_STIFF_CANDIDATE = 3


class RopeProblem:
    """Rollouts of one rope under candidate parameters.

    Args:
        recordings: tracks of one rope, nodes in order along it.
        segments: what is simulated.
        linear_density_kg_per_m: mass per length; the motion alone does not tell it.
        frame_stride: compare every so many frames.
        substeps_per_frame: override of the stability limit.
    """

    def __init__(
        self,
        recordings: list[Tracks],
        segments: list[Segment],
        *,
        linear_density_kg_per_m: float = 0.02,
        frame_stride: int = 2,
        substeps_per_frame: int | None = None,
    ) -> None:
        self.segments = segments
        self._stride = frame_stride
        self._substeps = substeps_per_frame
        first = recordings[0]
        self.model = RodModel(
            node_count=first.node_count,
            driven_index=tuple(int(i) for i in first.driven_index),
            gravity_m_per_s2=(
                float(first.gravity[0]),
                float(first.gravity[1]),
                float(first.gravity[2]),
            ),
        )
        self._free = first.free_index
        self.density = linear_density_kg_per_m
        self.rest_length_m = _median_edges(recordings)
        self._clamps = _clamp_frames(recordings)
        length = float(self.rest_length_m.sum())
        self.loss = Loss(scale_m=8e-3 * length, knee_m=3e-2 * length)
        self.prior = self._make_prior(length)
        self._solvers: dict[int, RodSolver] = {}
        self._substeps_at_most: int | None = None
        usual = self._solver(1, self.parameters(self.prior.mean[None]))
        slowest_s = max(s.dt_s for s in segments)
        self._substeps_at_most = _STIFF_CANDIDATE * usual.substeps(slowest_s)
        self._solvers.clear()

    def search_directions(self) -> np.ndarray:
        """What a global search varies: the global coordinates and an even coil of the whole rope.

        Returns:
            One standard deviation of the prior along each, shape (D, P).
        """
        count, inner = len(GLOBALS), self.model.node_count - 2
        directions = np.zeros((count + 2, len(self.prior.mean)))
        directions[:count, :count] = np.diag(self.prior.sigma[:count])
        for axis in (0, 1):
            first = count + inner + axis
            directions[count + axis, first::2] = self.prior.sigma[first::2]
        return directions

    def _make_prior(self, length: float) -> Prior:
        inner = self.model.node_count - 2
        names = list(GLOBALS)
        mean, sigma, step = (list(column) for column in zip(*GLOBALS.values()))
        # -7 is log(EI / N m^2) of a 1 m cable of 20 g/m.
        mean[0] += float(np.log(self.density / 0.02) + 3.0 * np.log(length))
        spread = voronoi_length(self.rest_length_m)[1:-1]
        curvature = np.hypot(_CURVATURE_PER_M * spread, _CURVATURE_FLOOR_RAD)
        names += [f"log_bending[{i + 1}]" for i in range(inner)]
        names += [f"natural_curvature[{i + 1}][{axis}]" for i in range(inner) for axis in (0, 1)]
        dense = 2 * inner
        return Prior(
            names=tuple(names),
            mean=np.array(mean + [0.0] * (inner + dense)),
            sigma=np.concatenate(
                [sigma, np.full(inner, _DENSE_BENDING_SIGMA), np.repeat(curvature, 2)]
            ),
            step=np.concatenate([step, np.full(inner, 1e-2), np.full(dense, 2e-3)]),
        )

    def parameters(self, theta: np.ndarray) -> RodParameters:
        """Rod parameters of candidates.

        Args:
            theta: shape (Q, P) or (P,).

        Returns:
            Parameters with a leading axis Q, or none.
        """
        theta = np.asarray(theta, np.float64)
        lead, inner, count = theta.shape[:-1], self.model.node_count - 2, len(GLOBALS)
        g = {name: theta[..., i] for i, name in enumerate(GLOBALS)}
        bending = np.exp(g["log_bending"])
        constant = lambda value: np.broadcast_to(value, (*lead, *np.shape(value)))  # noqa: E731
        tangents, directors = self._clamps
        return RodParameters(
            rest_length_m=constant(self.rest_length_m),
            linear_density_kg_per_m=constant(self.density),
            bending_stiffness_nm2=bending[..., None] * np.exp(theta[..., count : count + inner]),
            natural_curvature_rad=theta[..., count + inner :].reshape(*lead, inner, 2),
            twist_stiffness_nm2=bending * np.exp(g["log_twist_ratio"]),
            bending_damping_s=np.exp(g["log_bending_damping"]),
            friction_ratio=np.exp(g["log_friction_ratio"]),
            friction_yield_rad=np.exp(g["log_friction_yield"]),
            drag_per_s=np.exp(g["log_drag"]),
            drag_quadratic_per_m=np.exp(g["log_drag_quadratic"]),
            stretch_stiffness_n=constant(self.density * _STRETCH_WAVE_M_PER_S**2),
            stretch_damping_s=constant(_STRETCH_DAMPING_S),
            end_roll_rad=g["end_roll"],
            clamp_tangent=constant(tangents),
            clamp_director=constant(directors),
        )

    def weights(self, recordings: list[int]) -> float:
        """Independent samples in these segments; see `recon.identify.problem.Loss`."""
        seconds = sum(len(self.segments[r].target) * self.segments[r].dt_s for r in recordings)
        return self.loss.rate_hz * seconds * 3 * len(self._free)

    def residuals(
        self, theta: np.ndarray, recordings: list[int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Simulated minus seen positions of the free nodes; see `Problem.residuals`."""
        batches: list[list[int]] = []
        for r in sorted(recordings, key=lambda r: (len(self.segments[r].driven), self._dt(r), r)):
            last = self.segments[batches[-1][-1]] if batches else None
            alike = (
                last is not None
                and len(last.driven) == len(self.segments[r].driven)
                and last.dt_s == self.segments[r].dt_s
                and (len(batches[-1]) + 1) * len(theta) <= _LANE_BUDGET
            )
            if alike:
                batches[-1].append(r)
            else:
                batches.append([r])
        for batch in batches:
            predicted = self.simulate(theta, [self.segments[r] for r in batch])
            for r, one in zip(batch, predicted):
                target = self.segments[r].target[:: self._stride, self._free].reshape(-1)
                seen = np.isfinite(target)
                chosen = one[:, 1 :: self._stride, self._free].reshape(len(theta), -1)
                yield chosen - np.where(seen, target, 0.0), seen

    def _dt(self, segment: int) -> float:
        return self.segments[segment].dt_s

    def simulate(self, theta: np.ndarray, segments: list[Segment]) -> np.ndarray:
        """Roll out every segment under every candidate.

        Args:
            theta: shape (Q, P).
            segments: of one length and frame rate.

        Returns:
            [m], shape (R, Q, T, N, 3); frame 0 is the start. NaN where a world blew up.
        """
        count, runs = len(theta), len(segments)
        full = self.parameters(theta)
        tiled = RodParameters(
            **{
                name: np.tile(value, (runs,) + (1,) * (value.ndim - 1))
                for name, value in full.to_mapping().items()
            }
        )
        solver = self._solver(count * runs, tiled)
        repeat = lambda key: torch.as_tensor(  # noqa: E731
            np.repeat(np.stack([getattr(s, key) for s in segments]), count, axis=0)
        )
        state = solver.initial_state(repeat("position"), repeat("velocity"))
        with np.errstate(invalid="ignore", over="ignore"):
            rolled = solver.rollout(state, repeat("driven"), segments[0].dt_s, check=False)
        return rolled.position.numpy().reshape(runs, count, *rolled.position.shape[1:])

    def _solver(self, worlds: int, parameters: RodParameters) -> RodSolver:
        if worlds not in self._solvers:
            self._solvers[worlds] = RodSolver(
                self.model,
                parameters,
                worlds=worlds,
                device="cpu",
                substeps_per_frame=self._substeps,
                substeps_at_most=self._substeps_at_most,
            )
        else:
            self._solvers[worlds].set_parameters(parameters)
        return self._solvers[worlds]


def _median_edges(recordings: list[Tracks]) -> np.ndarray:
    stacked = np.concatenate([t.position for t in recordings])
    return np.nanmedian(np.linalg.norm(np.diff(stacked, axis=1), axis=-1), axis=0).astype(float)


def _clamp_frames(recordings: list[Tracks]) -> tuple[np.ndarray, np.ndarray]:
    """Mean tangent of both ends and a director there; the second is the first, carried over."""
    stacked = np.concatenate([t.position for t in recordings]).astype(float)
    ends = np.stack([stacked[:, 1] - stacked[:, 0], stacked[:, -1] - stacked[:, -2]], axis=1)
    tangents = unit(np.nanmean(unit(ends), axis=0))
    axis = np.eye(3)[np.argmin(np.abs(tangents[0]))]
    first = unit(axis - tangents[0] * (axis @ tangents[0]))
    if 1.0 + tangents[0] @ tangents[1] > 1e-2:
        second = unit(transport(first, tangents[0], tangents[1]))
    else:
        second = unit(first - tangents[1] * (first @ tangents[1]))
    return tangents, np.stack([first, second])
