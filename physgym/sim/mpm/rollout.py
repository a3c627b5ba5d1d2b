"""A rollout of an MPM solver and its gradient: one checkpoint per frame, substeps computed again.

As `physgym.sim.rollout`, with what a particle carries besides position and velocity.
Shapes: B worlds, T frames, P particles, D driven particles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from physgym.sim.model import Trajectory
from physgym.sim.mpm.collider import ColliderTable
from physgym.sim.rollout import Plan

__all__ = ["INTERNAL", "Gradients", "MpmEngine", "MpmTrajectory", "Particles", "rollout"]

INTERNAL = 18  # numbers a particle carries: deformation gradient and affine velocity, row by row


class Particles(NamedTuple):
    """State of all particles, or its adjoint; with a frame axis after B where all frames are meant.

    Attributes:
        position: [m], shape (B, P, 3).
        velocity: [m/s], shape (B, P, 3).
        internal: F, then C [1/s], row by row, shape (B, P, 18).
    """

    position: torch.Tensor
    velocity: torch.Tensor
    internal: torch.Tensor


class Gradients(NamedTuple):
    """Adjoints that an engine gives back.

    Attributes:
        start: of the state at frame 0.
        driven: of the driven trajectories, shape (B, T, D, 3).
        coefficients: of every coefficient; the first axis is B, or 1 where worlds share it.
    """

    start: Particles
    driven: torch.Tensor
    coefficients: tuple[torch.Tensor, ...]


class MpmEngine(Protocol):
    """Runs frames of one model on one device."""

    def forward(
        self,
        plan: Plan,
        tables: Sequence[ColliderTable],
        start: Particles,
        driven: torch.Tensor,
        coefficients: Sequence[torch.Tensor],
    ) -> Particles:
        """States at all frames, (B, T, P, ...)."""
        ...

    def backward(
        self,
        plan: Plan,
        tables: Sequence[ColliderTable],
        states: Particles,
        driven: torch.Tensor,
        coefficients: Sequence[torch.Tensor],
        grads: Particles,
    ) -> Gradients:
        """Adjoints of `forward`, from its outputs and their adjoints."""
        ...


@dataclass
class MpmTrajectory(Trajectory):
    """A trajectory with all that particles carry.

    Attributes:
        velocity: [m/s], shape (B, T, P, 3).
        internal: F, then C [1/s], row by row, shape (B, T, P, 18).
    """

    velocity: torch.Tensor
    internal: torch.Tensor

    @property
    def deformation(self) -> torch.Tensor:
        """Elastic deformation gradient, shape (B, T, P, 3, 3)."""
        return self.internal[..., :9].unflatten(-1, (3, 3))


class _Rollout(torch.autograd.Function):
    """The torch function; saves the state at frames only, so memory does not grow with substeps."""

    @staticmethod
    def forward(
        ctx: Any,
        engine: MpmEngine,
        plan: Plan,
        tables: Sequence[ColliderTable],
        position: torch.Tensor,
        velocity: torch.Tensor,
        internal: torch.Tensor,
        driven: torch.Tensor,
        *coefficients: torch.Tensor,
    ) -> Particles:
        start = Particles(position, velocity, internal)
        states = engine.forward(plan, tables, start, driven, coefficients)
        ctx.engine, ctx.plan, ctx.tables = engine, plan, tables
        ctx.save_for_backward(*states, driven, *coefficients)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, v, internal, driven, *coefficients = ctx.saved_tensors
        made = ctx.engine.backward(
            ctx.plan,
            ctx.tables,
            Particles(x, v, internal),
            driven,
            coefficients,
            Particles(*grads),
        )
        shared = (
            g.sum_to_size(c.shape) for g, c in zip(made.coefficients, coefficients, strict=True)
        )
        return None, None, None, *made.start, made.driven, *shared


def rollout(
    engine: MpmEngine,
    plan: Plan,
    tables: Sequence[ColliderTable],
    start: Particles,
    driven: torch.Tensor,
    coefficients: Sequence[torch.Tensor],
) -> Particles:
    """Advance all worlds; differentiable in every tensor.

    Args:
        engine: what runs the frames.
        plan: how time is cut.
        tables: motion of the boundaries in every frame.
        start: state at frame 0.
        driven: driven particles at every frame [m], shape (B, T, D, 3).
        coefficients: what the kernels multiply with; a first axis of 1 is shared by all worlds.

    Returns:
        States at all frames, (B, T, P, ...).

    Raises:
        BlowUpError: if a world leaves the finite numbers.
    """
    made = _Rollout.apply(engine, plan, tables, *start, driven, *coefficients)
    return Particles(*made)
