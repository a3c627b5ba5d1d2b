"""Gaussians of a twin carried by its nodes, fast enough to be looked at while it moves.

What `physgym.splats.follower.Follower` does, without gradients and without quaternions: both ways
of following are linear in what the nodes tell, so they are products with sparse matrices.
Shapes: N nodes, G Gaussians, k neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array

from physgym.sim.mpm.elastic_torch import polar_rotation
from physgym.splats.follower import FLAT, Follower
from physgym.splats.skinning import node_rotations
from physgym.twin import Twin

__all__ = ["SplatMotion"]


class SplatMotion:
    """Where the Gaussians of a twin are, and their shapes.

    Args:
        twin: with splats.

    Attributes:
        mean: Gaussians at rest [m], shape (G, 3).
        covariance: at rest [m^2], shape (G, 3, 3).

    Raises:
        TwinError: if it has no splats.
    """

    def __init__(self, twin: Twin) -> None:
        follower = Follower(twin)
        self._bound, self._stretches = follower.binding, follower.stretches
        cloud = follower.rest.detach()
        self.mean = cloud.mean.numpy()
        self.covariance = cloud.covariance().numpy()
        self._ball = cloud.log_scale.shape[1] == 1
        self._rest = self._bound.rest_position.numpy().astype(np.float32)
        near, weight = self._bound.point_node.numpy(), self._bound.weight.numpy()
        self._begins = np.arange(0, near.size + 1, near.shape[1])
        self._weight = self._sparse(weight)
        if self._stretches:
            self._prepare_stretch(near, weight.astype(np.float64))

    def blend(self, value: np.ndarray) -> np.ndarray:
        """Means of what nodes have, weighted as they carry the Gaussians.

        Args:
            value: of nodes, shape (N, M).

        Returns:
            Of Gaussians, shape (G, M), float32.
        """
        return np.asarray(self._weight @ value.astype(np.float32))

    def at(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The Gaussians when the nodes are here.

        Args:
            position: [m], shape (N, 3).

        Returns:
            Means [m], shape (G, 3), and covariances [m^2], shape (G, 3, 3); float32.
        """
        now = np.asarray(position, np.float32)
        with torch.no_grad():
            turn = node_rotations(self._bound, torch.from_numpy(now)).numpy()
        if self._stretches:
            return self._stretched(now, turn)
        # sum_j w_j (R_j (mu - X_j) + x_j) = (sum_j w_j R_j) mu + sum_j w_j (x_j - R_j X_j)
        shift = now - (turn @ self._rest[:, :, None])[..., 0]
        both = self.blend(np.concatenate([turn.reshape(-1, 9), shift], axis=1))
        blended = both[:, :9].reshape(-1, 3, 3)
        mean = (blended @ self.mean[:, :, None])[..., 0] + both[:, 9:]
        if self._ball:
            return mean, self.covariance
        return mean, _spread(_nearest(blended), self.covariance)

    def _sparse(self, weight: np.ndarray) -> csr_array:
        """Sums over the neighbours of each Gaussian, shape (G, N)."""
        near = self._bound.point_node.numpy()
        shape = (len(near), len(self._rest))
        return csr_array((weight.astype(np.float32).ravel(), near.ravel(), self._begins), shape)

    def _prepare_stretch(self, near: np.ndarray, weight: np.ndarray) -> None:
        """The best affine map of a Gaussian's neighbours as sums over where they are.

        ``F = (sum_k w_k x_k d_k^T + b R) (sum_k w_k d_k d_k^T + b)^-1``, with d_k from the middle
        of the neighbours at rest: their weighted sum is 0, so x needs no middle.
        """
        rest = self._bound.rest_position.numpy().astype(np.float64)[near]
        middle = np.einsum("gk,gki->gi", weight, rest)
        apart = rest - middle[:, None]
        moment = np.einsum("gk,gki,gkj->gij", weight, apart, apart)
        usual = np.maximum(np.trace(moment, axis1=1, axis2=2) / 3, 1e-12)
        bias = FLAT * usual[:, None, None]
        inverse = np.linalg.inv(moment + bias * np.eye(3))
        share = weight[..., None] * (apart @ inverse)
        self._columns = [self._sparse(share[..., axis]) for axis in range(3)]
        self._held = (bias * inverse).astype(np.float32)
        self._arm = (self.mean - middle).astype(np.float32)

    def _stretched(self, now: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        held = _nearest(self.blend(turn.reshape(-1, 9)).reshape(-1, 3, 3)) @ self._held
        # From the mean: far from the origin float32 would leave little of a small difference.
        centre = now.mean(axis=0)
        F = np.stack([column @ (now - centre) for column in self._columns], axis=-1) + held
        mean = self._weight @ now + (F @ self._arm[..., None])[..., 0]
        return np.asarray(mean), _spread(F, self.covariance)


def _nearest(matrix: np.ndarray) -> np.ndarray:
    """Rotations nearest to means of rotations; where they cancel there is none, and the mean stays.

    Newton's iteration is for matrices that do not mirror. A mean of rotations that do not disagree
    by a half turn does not; and a covariance is the same for a rotation and its mirror image.
    """
    with torch.no_grad():
        made = polar_rotation(torch.from_numpy(np.ascontiguousarray(matrix))).numpy()
    known = np.isfinite(made).all(axis=(1, 2))
    return np.where(known[:, None, None], made, matrix)


def _spread(F: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """``F Sigma F^T``."""
    return np.asarray(F @ covariance @ F.transpose(0, 2, 1))
