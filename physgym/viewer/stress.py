"""How hard the matter of a continuum is strained, in pascals: what force is to a spring.

Shapes: P particles.
"""

from __future__ import annotations

import numpy as np
import torch

from physgym.sim.mpm.adapted_solver import neighbour_groups
from physgym.sim.mpm.elastic_torch import polar_rotation, prior_stress, right_stretch
from physgym.sim.mpm.twins import mpm_of
from physgym.sim.mpm.voigt import from_voigt, to_voigt
from physgym.twin import Twin

__all__ = ["Stress"]


class Stress:
    """Von Mises stress of the particles of a twin, by the law and the adapter that it moves by.

    Args:
        twin: of dynamics ``mpm``.

    Raises:
        TwinError: if the twin is damaged.
    """

    def __init__(self, twin: Twin) -> None:
        parts = mpm_of(twin)
        coefficients = parts.parameters.coefficients(parts.model)
        self._law, self._adapter = parts.model.material.law, parts.adapter
        self._constants = (coefficients.mu, coefficients.lam, coefficients.viscosity)
        self._group: torch.Tensor | None = None
        if self._adapter is not None:
            config = self._adapter.config
            if config.clusters is not None and config.evaluations_per_frame is not None:
                found = neighbour_groups(parts.model.rest_position, config.clusters)
                self._group = torch.as_tensor(found)

    def von_mises_pa(self, internal: torch.Tensor) -> np.ndarray:
        """``sqrt(3/2) |dev sigma|`` of the Cauchy stress sigma.

        Args:
            internal: of `physgym.sim.model.State`, of one world, shape (18 P,).

        Returns:
            [Pa], shape (P,).
        """
        with torch.no_grad():
            carried = internal.detach().cpu().float().reshape(1, -1, 18)
            f = carried[..., :9].unflatten(-1, (3, 3))
            tau = self._adapted(f, prior_stress(self._law, carried, *self._constants))
            sigma = tau / torch.linalg.det(f)[..., None, None]
            trace = sigma.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
            deviator = sigma - trace / 3.0 * torch.eye(3)
            return np.asarray((1.5 * deviator.square().sum((-2, -1))).sqrt()[0].numpy())

    def _adapted(self, f: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """As the solver has it: of each particle, or with the operator of its group's mean."""
        if self._adapter is None:
            return tau
        if self._group is None:
            return self._adapter.stress(f, tau)
        rotation = polar_rotation(f)
        own = to_voigt(rotation.mT @ tau @ rotation)
        both = torch.cat([to_voigt(right_stretch(f, rotation)), own], dim=-1)
        count = torch.bincount(self._group)
        sums = both.new_zeros(1, len(count), 12).index_add(1, self._group, both)
        mean = sums / count[:, None]
        operator = self._adapter.operator_at(from_voigt(mean[..., :6]), from_voigt(mean[..., 6:]))
        adapted = (operator.index_select(1, self._group) @ own[..., None])[..., 0]
        return rotation @ from_voigt(adapted) @ rotation.mT
