"""AdaptedMpmSolver: an MPM solver whose elastic stress a `StressAdapter` corrects.

A frame is cut into equal parts. At the start of each the networks are evaluated for every particle
(or group of particles), and the operator that they give is held for the part while it turns with
the matter; the native engine applies it in every substep. For the gradient the networks are
evaluated again (unless particles share them in groups), so memory grows by the states and operators
of the parts alone.
Shapes: B worlds, T frames, P particles, D driven particles, K boundaries, C groups.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from physgym.errors import BlowUpError, DataError
from physgym.sim.model import State
from physgym.sim.mpm.adapter_energy import EnergyReport, energy_report
from physgym.sim.mpm.collider import ColliderTable
from physgym.sim.mpm.elastic_torch import polar_rotation, prior_stress, right_stretch
from physgym.sim.mpm.material import ReturnMap
from physgym.sim.mpm.model import Coefficients, MpmParameters
from physgym.sim.mpm.rollout import MpmTrajectory, Particles, rollout
from physgym.sim.mpm.solver import MpmSolver
from physgym.sim.mpm.stability import raise_blow_up, step_limit
from physgym.sim.mpm.stress_adapter import StressAdapter
from physgym.sim.mpm.voigt import from_voigt, to_voigt
from physgym.sim.rollout import Plan

__all__ = ["AdaptedMpmSolver", "neighbour_groups"]


class AdaptedMpmSolver(MpmSolver):
    """Steps B worlds of one continuum object with an adapted stress.

    What `MpmSolver` says of rollouts holds here. With equal substeps, a rollout and the same frames
    in single steps give the same bits, and an untrained adapter that is evaluated once a frame
    gives those of the solver without it.

    Args:
        solver: the body without an adapter; operators among its parameters are not used.
        adapter: what corrects the stress; gradients flow to its weights.
    """

    def __init__(self, solver: MpmSolver, adapter: StressAdapter) -> None:
        if solver.hook is not None:
            raise DataError(
                "a solver that has a stress hook already",
                where="AdaptedMpmSolver",
                expected="a solver without a hook",
                fix="set evaluations_per_frame=None to evaluate the adapter through a hook",
            )
        yields = solver.model.material.return_map in (
            ReturnMap.VON_MISES,
            ReturnMap.DRUCKER_PRAGER,
        )
        if adapter.config.plastic and not yields:
            raise DataError(
                f"a plastic operator for {solver.model.material.return_map.value!r}",
                where="AdaptedMpmSolver: AdapterConfig.plastic",
                expected="a material with von-mises or drucker-prager",
                fix="leave plastic out",
            )
        self.adapter = adapter
        every_substep = adapter.config.evaluations_per_frame is None
        super().__init__(
            solver.model,
            solver.parameters,
            worlds=solver.worlds,
            device=solver.device,
            substeps=solver.substeps,
            safety=solver.safety,
            engine="plain",
            hook=adapter.hook() if every_substep else None,
        )
        if not every_substep:
            self._engine = solver._engine
        self._group: torch.Tensor | None = None
        if adapter.config.clusters is not None:
            groups = neighbour_groups(self.model.rest_position, adapter.config.clusters)
            self._group = torch.as_tensor(groups, device=self.device)

    def plan(
        self,
        dt_s: float,
        frames: int,
        parameters: MpmParameters | None = None,
        *,
        speed_m_per_s: float = 0.0,
    ) -> Plan:
        """How a rollout would cut time; allows for waves that the adapter makes faster.

        Args:
            dt_s: time between frames [s].
            frames: frames to advance.
            parameters: used instead of the solver's own.
            speed_m_per_s: fastest particle that is expected [m/s].

        Returns:
            Frames, substeps (as many in every part of a frame) and frame length.

        Raises:
            DataError: if the frame length makes no sense.
        """
        given = self.parameters if parameters is None else parameters
        with torch.no_grad():
            wave = step_limit(self.model, given.coefficients(self.model)).wave_m_per_s
            rest = torch.eye(3).to(self.adapter.rest_6d)
            operator = self.adapter.operator(rest, torch.zeros_like(rest))
            gain = float(torch.linalg.matrix_norm(operator, 2))
        faster = (math.sqrt(max(1.0, gain)) - 1.0) * wave
        plan = super().plan(dt_s, frames, given, speed_m_per_s=speed_m_per_s + faster)
        parts = self.adapter.config.evaluations_per_frame or 1
        return plan._replace(substeps=-(-plan.substeps // parts) * parts)

    def rollout(
        self,
        state: State,
        driven: torch.Tensor,
        dt_s: float,
        *,
        parameters: MpmParameters | None = None,
        collider_poses: torch.Tensor | np.ndarray | None = None,
    ) -> MpmTrajectory:
        """Advance T - 1 frames; differentiable in the adapter and in all that `MpmSolver` is.

        Args:
            state: the state at frame 0; driven particles are taken from ``driven``.
            driven: driven particles at every frame [m], shape (B, T, D, 3).
            dt_s: time between frames [s].
            parameters: used instead of the solver's own, for identification.
            collider_poses: position [m] and quaternion (w first) of every boundary at every frame,
                shape (B or 1, T, K, 7); at rest when absent. No gradient flows to them.

        Returns:
            Positions, velocities and deformation at all T frames and the final state.

        Raises:
            BlowUpError: if a world leaves the finite numbers, or a particle the domain.
            DataError: if a shape is wrong or a value is not finite.
        """
        given = self.parameters if parameters is None else parameters
        if self.adapter.config.evaluations_per_frame is None:
            given = replace(given, stress_operator=None, plastic_operator=None)
            return super().rollout(
                state, driven, dt_s, parameters=given, collider_poses=collider_poses
            )
        begun = self._begin(state, driven, dt_s, given, collider_poses)
        coefficients = Coefficients(*(c.to(self.device) for c in given.coefficients(self.model)))
        made = [begun.start]
        for frame, table in enumerate(begun.tables):
            ends = begun.driven[:, frame : frame + 2]
            made.append(self._frame(begun.plan, frame, table, made[-1], ends, coefficients))
        states = Particles(*(torch.stack(parts, dim=1) for parts in zip(*made)))
        return self._end(states, begun.plan)

    def energy_report(
        self,
        trajectory: MpmTrajectory,
        dt_s: float,
        *,
        parameters: MpmParameters | None = None,
    ) -> EnergyReport:
        """Energy over a trajectory, and the work of what the adapter adds; see `EnergyReport`.

        Args:
            trajectory: of a rollout of this solver.
            dt_s: time between its frames [s].
            parameters: those of the rollout, where they are not the solver's own.

        Returns:
            The report.
        """
        given = self.parameters if parameters is None else parameters
        return energy_report(self.model, given, self.adapter, trajectory, dt_s)

    def _frame(
        self,
        plan: Plan,
        frame: int,
        table: ColliderTable,
        start: Particles,
        ends: torch.Tensor,
        coefficients: Coefficients,
    ) -> Particles:
        """The state a frame later, part by part."""
        parts = self.adapter.config.evaluations_per_frame or 1
        substeps = plan.substeps // parts
        part_plan = Plan(1, substeps, plan.frame_dt_s / parts)
        first, last = ends.unbind(1)
        for part in range(parts):
            path = [last - (1.0 - p / parts) * (last - first) for p in (part, part + 1)]
            at = part * substeps
            records = table.records[:, at : at + substeps]
            operator, plastic = self._operators(start, coefficients)
            given = coefficients._replace(operator=operator, plastic=plastic)
            try:
                made = rollout(
                    self._engine,
                    part_plan,
                    [table._replace(records=records)],
                    start,
                    torch.stack(path, dim=1),
                    given,
                )
            except BlowUpError as error:
                # The engine counts from the part's start.
                done = frame * plan.substeps + at + error.substep
                raise_blow_up(self.model, given, plan, error.world, error.node, done)
            start = Particles(*(a[:, 1] for a in made))
        return start

    def _operators(
        self, state: Particles, coefficients: Coefficients
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stress and plastic operators, (B, P, 36) and (B, P, 9) or (1, 1, 1) where there is none.

        For the gradient they are made again: the networks' inner values are not kept.
        """
        inputs = (state.internal, coefficients.mu, coefficients.lam, coefficients.viscosity)
        wanted = torch.is_grad_enabled() and any(
            t.requires_grad for t in (*inputs, *self.adapter.parameters())
        )
        # Groups are few: what their evaluation keeps is small, and evaluating again takes longer
        # than the substeps.
        if not wanted or self._group is not None:
            return self._evaluate(*inputs)
        made: tuple[torch.Tensor, torch.Tensor] = checkpoint(
            self._evaluate, *inputs, use_reentrant=False, preserve_rng_state=False
        )
        return made

    def _evaluate(
        self,
        internal: torch.Tensor,
        mu: torch.Tensor,
        lam: torch.Tensor,
        viscosity: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        f = internal[..., :9].unflatten(-1, (3, 3))
        tau = prior_stress(self.model.material.law, internal, mu, lam, viscosity)
        r = polar_rotation(f)
        u, turned = right_stretch(f, r), r.mT @ tau @ r
        if self._group is not None:
            both = torch.cat([to_voigt(u), to_voigt(turned)], dim=-1)
            mean = _group_means(both, self._group)
            u, turned = from_voigt(mean[..., :6]), from_voigt(mean[..., 6:])
        made = [self.adapter.operator_at(u, turned).flatten(-2)]
        plastic = self.adapter.plastic_operator(u)
        made.append(u.new_zeros(1, 1, 1) if plastic is None else plastic.flatten(-2))
        if self._group is not None:
            made = [m if m.shape[-1] == 1 else m.index_select(1, self._group) for m in made]
        return made[0], made[1]


def _group_means(values: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Means over the particles of each group, (B, P, n) -> (B, C, n)."""
    count = torch.bincount(group)
    sums = values.new_zeros(len(values), len(count), values.shape[-1])
    return sums.index_add(1, group, values) / count[:, None]


def neighbour_groups(position: np.ndarray, count: int) -> np.ndarray:
    """Split points into groups of neighbours of nearly equal size, by halving the longest side.

    Args:
        position: shape (P, 3).
        count: C; no more than P groups are made.

    Returns:
        Group of every point, shape (P,), int64.
    """
    group = np.zeros(len(position), np.int64)
    made = 0

    def split(members: np.ndarray, parts: int) -> None:
        nonlocal made
        if parts == 1:
            group[members] = made
            made += 1
            return
        axis = np.ptp(position[members], axis=0).argmax()
        order = members[np.argsort(position[members, axis], kind="stable")]
        left = parts // 2
        cut = round(len(order) * left / parts)
        split(order[:cut], left)
        split(order[cut:], parts - left)

    split(np.arange(len(position)), min(count, len(position)))
    return group
