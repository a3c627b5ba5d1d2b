"""How numbers get into the arrays of the SIMD bodies, and gradients out of them.

Shapes: B worlds, S springs, E padded columns of 16 lanes, W worlds side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import warp as wp

from physgym.sim.rollout import Plan
from physgym.sim.spring_mass.layout import Layout
from physgym.sim.spring_mass.model import Coefficients, SpringMassModel

__all__ = ["SpringOrder", "float_scalars", "int_scalars", "of_worlds", "wp_floats", "wp_ints"]


class SpringOrder:
    """Numbers of springs in the orders that the bodies read.

    A coefficient has S columns, or 2 S where each end of a spring has its own.

    Args:
        layout: the orders.
    """

    def __init__(self, layout: Layout) -> None:
        def index(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, dtype=torch.long)

        self._springs = len(layout.spring_slot)
        # By whether ends have their own.
        self._column = (index(layout.column_spring), index(layout.column_pull))
        self._upper = (index(layout.upper_spring), index(layout.upper_pull))
        self._slot = (index(layout.spring_slot), index(layout.pull_slot))

    def single(self, value: torch.Tensor, worlds: torch.Tensor, pad: float) -> torch.Tensor:
        """For one world.

        Args:
            value: shape (B or 1, S or 2 S).
            worlds: which world, shape (1,).
            pad: where there is no spring.

        Returns:
            Shape (E, 16), or (2, E, 16): of a lane's own end, then of the other one.
        """
        padded = torch.cat([of_worlds(value, worlds)[0], torch.tensor([pad])])
        return padded[self._column[self._by_end(value.shape[1])]]

    def lanes(self, value: torch.Tensor, worlds: torch.Tensor, pad: float) -> torch.Tensor:
        """For worlds side by side.

        Args:
            value: shape (B or 1, S or 2 S).
            worlds: which worlds, shape (W,).
            pad: not used: rows are not padded.

        Returns:
            Shape (S or 2 S, W), or (S or 2 S,) where worlds share it; lower nodes' ends come first.
        """
        order = self._upper[self._by_end(value.shape[1])]
        return value[0][order] if value.shape[0] == 1 else value[worlds][:, order].T

    def from_single(self, grad: torch.Tensor, columns: int) -> torch.Tensor:
        """Gradients of one world.

        Args:
            grad: of the lanes' own ends, E times 16 numbers.
            columns: S or 2 S.

        Returns:
            Shape (1, columns).
        """
        return grad[self._slot[self._by_end(columns)]][None]

    def from_lanes(self, grad: torch.Tensor, columns: int) -> torch.Tensor:
        """Gradients of worlds side by side.

        Args:
            grad: columns times W numbers.
            columns: S or 2 S.

        Returns:
            Shape (W, columns).
        """
        back = torch.argsort(self._upper[self._by_end(columns)])
        return grad.view(columns, -1)[back].T

    def _by_end(self, columns: int) -> bool:
        return columns != self._springs


def int_scalars(
    model: SpringMassModel, layout: Layout, plan: Plan, given: Coefficients
) -> np.ndarray:
    """The start of ``ci``.

    Args:
        model: topology and constants.
        layout: of its springs.
        plan: how time is cut.
        given: what is shared by all worlds.

    Returns:
        Ten ints; the eighth says whether every spring has its own dashpot.
    """
    return np.array(
        [
            model.node_count,
            len(model.driven_index),
            plan.frames,
            plan.substeps,
            given.stiffness.shape[0] == 1,
            given.rest_length.shape[0] == 1,
            given.inv_mass.shape[0] == 1,
            not (given.dashpot.shape[1] == 1 and model.spring_count != 1),
            model.ground is not None,
            len(layout.chunk_node),
        ]
    )


def float_scalars(model: SpringMassModel, plan: Plan) -> list[float]:
    """The start of ``cf``.

    Args:
        model: topology and constants.
        plan: how time is cut.

    Returns:
        Ten floats.
    """
    h = plan.substep_s
    normal = model.ground.normal if model.ground else (0.0, 0.0, 1.0)
    return [
        h,
        1.0 / plan.frame_dt_s if model.driven_dashpot else 0.0,
        *(h * g for g in model.gravity_m_per_s2),
        *normal,
        model.ground.offset_m if model.ground else 0.0,
        model.law_exponent,
    ]


def of_worlds(value: torch.Tensor, worlds: torch.Tensor) -> torch.Tensor:
    """Rows of a tensor whose first axis is B, or 1 for shared by all worlds.

    Args:
        value: shape (B or 1, ...).
        worlds: which rows, shape (W,).

    Returns:
        Shape (W, ...).
    """
    return value[worlds] if value.shape[0] > 1 else value.expand(len(worlds), *value.shape[1:])


def wp_floats(tensor: torch.Tensor) -> Any:
    """A flat Warp array on the CPU; of one zero where there is nothing.

    Args:
        tensor: of numbers.

    Returns:
        float32, sharing memory where that fits.
    """
    flat = tensor.detach().to(torch.float32).contiguous().flatten()
    return wp.from_torch(flat if flat.numel() else torch.zeros(1))


def wp_ints(array: np.ndarray) -> Any:
    """A flat Warp array on the CPU; of one zero where there is nothing.

    Args:
        array: of whole numbers.

    Returns:
        int32.
    """
    flat = np.ascontiguousarray(array, dtype=np.int32).ravel()
    return wp.array(flat if flat.size else np.zeros(1, np.int32), dtype=wp.int32, device="cpu")
