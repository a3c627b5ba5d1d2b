"""A rollout and its gradient: one checkpoint per frame, the substeps inside are computed again.

An engine knows how to run frames forward and backward; this module makes it a torch function.
Shapes: B worlds, T frames, N nodes, K driven points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from physgym.sim.model import Trajectory

__all__ = ["Engine", "Gradients", "Plan", "RolloutTrajectory", "rollout"]


class Plan(NamedTuple):
    """How time is cut.

    Attributes:
        frames: frames to advance, T - 1.
        substeps: equal substeps in a frame.
        frame_dt_s: length of a frame [s].
    """

    frames: int
    substeps: int
    frame_dt_s: float

    @property
    def substep_s(self) -> float:
        """Length of a substep [s]."""
        return self.frame_dt_s / self.substeps


class Gradients(NamedTuple):
    """Adjoints that an engine gives back.

    Attributes:
        position: of the initial position, shape (B, N, 3).
        velocity: of the initial velocity, shape (B, N, 3).
        driven: of the driven trajectories, shape (B, T, K, 3).
        coefficients: of every coefficient; the first axis is B, or 1 where worlds share it.
    """

    position: torch.Tensor
    velocity: torch.Tensor
    driven: torch.Tensor
    coefficients: tuple[torch.Tensor, ...]


class Engine(Protocol):
    """Runs frames of one model on one device."""

    def forward(
        self,
        plan: Plan,
        position: torch.Tensor,
        velocity: torch.Tensor,
        driven: torch.Tensor,
        coefficients: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions [m] and velocities [m/s] at all frames, each (B, T, N, 3)."""
        ...

    def backward(
        self,
        plan: Plan,
        positions: torch.Tensor,
        velocities: torch.Tensor,
        driven: torch.Tensor,
        coefficients: Sequence[torch.Tensor],
        grad_positions: torch.Tensor,
        grad_velocities: torch.Tensor,
    ) -> Gradients:
        """Adjoints of `forward`, from its outputs and their adjoints."""
        ...


@dataclass
class RolloutTrajectory(Trajectory):
    """A trajectory with velocities.

    Attributes:
        velocity: [m/s], shape (B, T, N, 3).
    """

    velocity: torch.Tensor


class _Rollout(torch.autograd.Function):
    """The torch function; saves the state at frames only, so memory does not grow with substeps."""

    @staticmethod
    def forward(
        ctx: Any,
        engine: Engine,
        plan: Plan,
        position: torch.Tensor,
        velocity: torch.Tensor,
        driven: torch.Tensor,
        *coefficients: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions, velocities = engine.forward(plan, position, velocity, driven, coefficients)
        ctx.engine, ctx.plan = engine, plan
        ctx.save_for_backward(positions, velocities, driven, *coefficients)
        return positions, velocities

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        positions, velocities, driven, *coefficients = ctx.saved_tensors
        made = ctx.engine.backward(ctx.plan, positions, velocities, driven, coefficients, *grads)
        shared = (
            g.sum_to_size(c.shape) for g, c in zip(made.coefficients, coefficients, strict=True)
        )
        return None, None, made.position, made.velocity, made.driven, *shared


def rollout(
    engine: Engine,
    plan: Plan,
    position: torch.Tensor,
    velocity: torch.Tensor,
    driven: torch.Tensor,
    coefficients: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advance all worlds; differentiable in every tensor.

    Args:
        engine: what runs the frames.
        plan: how time is cut.
        position: at frame 0 [m], shape (B, N, 3).
        velocity: at frame 0 [m/s], shape (B, N, 3).
        driven: driven points at every frame [m], shape (B, T, K, 3).
        coefficients: what the kernels multiply with; a first axis of 1 is shared by all worlds.

    Returns:
        Positions [m] and velocities [m/s] at all frames, each (B, T, N, 3).

    Raises:
        BlowUpError: if a world leaves the finite numbers.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _Rollout.apply(
        engine, plan, position, velocity, driven, *coefficients
    )
    return result
