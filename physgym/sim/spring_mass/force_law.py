"""The one spring law: eta * K(L0) * g(L, L0) along the spring, plus a dashpot along it.

Every method writes its law as a coefficient times a function of the elongation u = L - L0:

============= ================================== ============================= ==============
law           as the method writes it            coefficient A                 function of u
============= ================================== ============================= ==============
``strain``    Y (L/L0 - 1), PhysTwin             eta Y / L0                    u
``hooke``     k (L - L0)                         eta k                         u
``soft``      (k/L0) (L - L0) (1 + |L/L0-1|)^p,  eta k / L0                    u (1 + |u|/L0)^p
              Spring-Gaus, equation 9
``power``     k sign(L - L0) |L - L0|^p,         eta k                         sign(u) |u|^p
              ReconPhys, equation 4
============= ================================== ============================= ==============

The coefficient is made by torch, so gradients to the log stiffness, the rest length and eta
need no kernel of their own. Shapes: B worlds, S springs.
"""

from __future__ import annotations

import enum
from typing import Any

import torch

__all__ = ["ForceLaw", "clamp_one_sided", "stiffness_coefficient"]


class ForceLaw(enum.Enum):
    """Which elastic law the springs follow; the value is its name in files."""

    STRAIN = "strain"
    HOOKE = "hooke"
    SOFT = "soft"
    POWER = "power"

    @property
    def kernel_kind(self) -> int:
        """Number by which the kernels know the law: 0 linear in u, 1 soft, 2 power."""
        return {"strain": 0, "hooke": 0, "soft": 1, "power": 2}[self.value]

    @property
    def divides_by_rest_length(self) -> bool:
        """True where K(L0) is the stiffness over the rest length."""
        return self in (ForceLaw.STRAIN, ForceLaw.SOFT)


class _OneSidedClamp(torch.autograd.Function):
    """Clamp whose gradient survives where a descent step would come back into the range."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, low: float, high: float) -> torch.Tensor:
        ctx.save_for_backward(value)
        ctx.low, ctx.high = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        (value,) = ctx.saved_tensors
        leaves = ((value > ctx.high) & (grad < 0)) | ((value < ctx.low) & (grad > 0))
        return grad.masked_fill(leaves, 0.0), None, None


def clamp_one_sided(value: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Clamp a parameter without trapping it outside its range.

    A plain clamp has no gradient outside, so an optimiser that steps over a bound never comes
    back. Here the gradient is cut only where descent would move farther out.

    Args:
        value: any shape.
        low: lower bound.
        high: upper bound.

    Returns:
        The clamped value, the same shape.
    """
    result: torch.Tensor = _OneSidedClamp.apply(value, low, high)
    return result


def stiffness_coefficient(
    law: ForceLaw,
    log_stiffness: torch.Tensor,
    rest_length_m: torch.Tensor,
    *,
    eta: torch.Tensor | float = 1.0,
    stiffness_range: tuple[float, float] = (0.0, float("inf")),
) -> torch.Tensor:
    """Coefficient A of the law: the force is A times the law's function of L - L0.

    Args:
        law: the elastic law.
        log_stiffness: natural logarithm of the stiffness (N for ``strain`` and ``soft``, N/m for
            ``hooke``, N/m^p for ``power``), shape (B or 1, S or 1).
        rest_length_m: rest lengths L0 [m], shape (B or 1, S).
        eta: dimensionless weight of each spring (Spring-Gaus's soft vector), broadcastable.
        stiffness_range: the stiffness is clamped to this range, in its own unit.

    Returns:
        A, shape (B or 1, S).
    """
    low, high = stiffness_range
    log_low = float("-inf") if low <= 0.0 else float(torch.log(torch.tensor(low)))
    log_high = float(torch.log(torch.tensor(high)))
    stiffness = clamp_one_sided(log_stiffness, log_low, log_high).exp()
    if law.divides_by_rest_length:
        return eta * stiffness / rest_length_m
    return (eta * stiffness).expand(torch.broadcast_shapes(stiffness.shape, rest_length_m.shape))
