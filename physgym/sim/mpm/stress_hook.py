"""Where a stress adapter plugs in: a torch function between the elastic law and the grid.

The plain engine calls it for all particles in every substep; it runs on CPU and CUDA and is as
slow as its torch code. A native engine does not know it.
Shapes: B worlds, P particles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

__all__ = ["StressHook"]


class StressHook(Protocol):
    """A differentiable change of the stress.

    It must not depend on anything but its arguments, because substeps are computed again for the
    gradient.
    """

    def parameters(self) -> Sequence[torch.Tensor]:
        """Tensors it is fitted by; gradients flow to those that require them."""
        ...

    def __call__(
        self, deformation: torch.Tensor, stress: torch.Tensor, parameters: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The stress that reaches the grid.

        Args:
            deformation: elastic F after the return map, shape (B, P, 3, 3).
            stress: Kirchhoff stress of the elastic law [Pa], shape (B, P, 3, 3).
            parameters: what `parameters` gave, in its order.

        Returns:
            Kirchhoff stress [Pa], symmetric, shape (B, P, 3, 3).
        """
        ...


def apply_hook(
    hook: StressHook, f: torch.Tensor, tau: torch.Tensor, extra: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The hook's stress, without a graph.

    Args:
        hook: the hook.
        f: deformation gradients, shape (B, P, 3, 3).
        tau: stresses [Pa], shape (B, P, 3, 3).
        extra: the hook's tensors.

    Returns:
        Stresses [Pa], shape (B, P, 3, 3).
    """
    with torch.no_grad():
        return hook(f.detach(), tau.detach(), extra).detach()


def turn_hook(
    hook: StressHook,
    f: torch.Tensor,
    tau: torch.Tensor,
    extra: Sequence[torch.Tensor],
    adjoint: torch.Tensor,
) -> list[torch.Tensor]:
    """Adjoints of the hook's arguments.

    Args:
        hook: the hook.
        f: deformation gradients, shape (B, P, 3, 3).
        tau: stresses [Pa], shape (B, P, 3, 3).
        extra: the hook's tensors.
        adjoint: of the stress that the hook returned.

    Returns:
        Adjoints of f, of tau and of each tensor; zeros where there is no dependence.
    """
    inputs = [t.detach().clone().requires_grad_() for t in (f, tau, *extra)]
    with torch.enable_grad():
        made = hook(inputs[0], inputs[1], inputs[2:])
        found = torch.autograd.grad(made, inputs, adjoint.detach(), allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for g, i in zip(found, inputs)]
