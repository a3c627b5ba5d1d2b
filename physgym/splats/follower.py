"""Follower: what a twin looks like when its nodes are somewhere else.

Gaussians ride on the nodes that are near them at rest: of springs and rods by linear blend skinning
(PhysTwin, section 3.4), of a continuum by its local deformation gradient, ``Sigma_t = F Sigma_0
F^T`` (MoSA, eq. 10). F is the best affine map of the particles around a Gaussian, so it is the
total one where the material yields too. Shapes: N nodes, G Gaussians, k neighbours.
"""

from __future__ import annotations

import numpy as np
import torch

from physgym.errors import TwinError
from physgym.splats.cloud import GaussianCloud, Gaussians
from physgym.splats.skinning import bind, deformed, linear_blend, moved, node_rotations
from physgym.twin import Twin

__all__ = ["FLAT", "Follower"]

_NEIGHBOURS, _FLOOR_M = 16, 1e-6  # PhysTwin's
# Weight of the rotation over that of a usual neighbourhood: it decides across a flat one alone.
FLAT = 1e-4


class Follower:
    """The appearance of a twin, carried by its nodes.

    Args:
        twin: with splats.

    Attributes:
        rest: the Gaussians where the nodes are at rest.
        binding: which nodes carry which Gaussian.
        stretches: whether they stretch with the matter, or only turn.

    Raises:
        TwinError: if it has none.
    """

    def __init__(self, twin: Twin) -> None:
        if twin.splats is None:
            raise TwinError(
                "no appearance",
                where=f"twin {twin.name}: splats",
                expected="Gaussians",
                fix="reconstruct it with --appearance",
            )
        self.rest = twin.splats
        self.stretches = twin.dynamics == "mpm"
        self._nodes = torch.tensor(twin.rest_position)
        self.binding = bind(self.rest.mean, self._nodes, neighbours=_NEIGHBOURS, floor_m=_FLOOR_M)
        if self.stretches:
            self._prepare_affine()

    def at(self, position: np.ndarray | torch.Tensor) -> GaussianCloud | Gaussians:
        """The appearance when the nodes are here.

        Args:
            position: [m], shape (N, 3).

        Returns:
            What `physgym.splats.rasterize` draws; of a continuum stretched with it.

        Raises:
            TwinError: if there are not N positions, or one is not finite.
        """
        now = self._checked(position)
        return self._affine(now) if self.stretches else self.turned(now)

    def turned(self, position: np.ndarray | torch.Tensor) -> GaussianCloud:
        """The same without stretching: Gaussians move and turn.

        Args:
            position: [m], shape (N, 3).

        Returns:
            The cloud.

        Raises:
            TwinError: as `at`.
        """
        now = self._checked(position)
        if self.rest.log_scale.shape[1] == 1 and self.rest.sh_degree == 0:
            # balls of one colour have nothing to turn, which is most of the work
            return self.rest.replace(mean=self._carried(now))
        motion = linear_blend(self.binding, now)
        return moved(self.rest, motion.mean, motion.rotation)

    def _carried(self, now: torch.Tensor) -> torch.Tensor:
        near, bound = self.binding.point_node, self.binding
        turn = node_rotations(bound, now)
        offset = bound.rest_mean[:, None] - bound.rest_position[near]
        carried = (turn[near] @ offset[..., None])[..., 0] + now[near]
        return (bound.weight[..., None] * carried).sum(-2)

    def _prepare_affine(self) -> None:
        """What of the affine fits does not depend on where the particles are."""
        bound = self.binding
        rest = bound.rest_position[bound.point_node]
        self._rest_middle = (bound.weight[..., None] * rest).sum(1)
        self._rest_spread = rest - self._rest_middle[:, None]
        moment = torch.einsum("gk,gki,gkj->gij", bound.weight, self._rest_spread, self._rest_spread)
        usual = moment.diagonal(dim1=1, dim2=2).mean(-1).clamp(min=1e-12)
        self._bias = FLAT * usual[:, None, None]
        self._inverse = torch.linalg.inv(moment + self._bias * torch.eye(3))

    def _affine(self, now: torch.Tensor) -> Gaussians:
        bound = self.binding
        turn = linear_blend(bound, now).rotation
        around = now[bound.point_node]
        middle = (bound.weight[..., None] * around).sum(1)
        both = torch.einsum(
            "gk,gki,gkj->gij", bound.weight, around - middle[:, None], self._rest_spread
        )
        F = (both + self._bias * turn) @ self._inverse
        arm = (self.rest.mean - self._rest_middle)[..., None]
        return deformed(self.rest, middle + (F @ arm)[..., 0], F)

    def _checked(self, position: np.ndarray | torch.Tensor) -> torch.Tensor:
        now = torch.as_tensor(position, dtype=torch.float32, device=self.rest.mean.device)
        if now.shape != self._nodes.shape or not now.isfinite().all():
            raise TwinError(
                f"positions of shape {tuple(now.shape)}, or not finite",
                where="Follower",
                expected=f"finite metres of shape {tuple(self._nodes.shape)}",
            )
        return now
