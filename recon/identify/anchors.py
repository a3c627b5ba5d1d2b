"""Anchors of Spring-Gaus: where they are, their springs, and how stiff each spring is.

Zhong et al., "Reconstruction and Simulation of Elastic Objects with Spring-Mass 3D Gaussians", ECCV
2024, sections 4.2 and 4.3; what the text leaves open follows the authors' code.
Shapes: G Gaussians, A anchors, S springs, n_k neighbours of an anchor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from physgym.errors import DataError
from recon.identify.solid import PointSolid
from recon.perception.driven import farthest_points

__all__ = [
    "AnchorSprings",
    "anchor_springs",
    "asymmetry_of",
    "occupied_voxels",
    "soft_vector",
    "tangential_factor",
    "volume_sample",
]

_FEWEST = 8
_ROUNDS = 40  # of bisection: an edge length to twelve digits
_DENSE = 6  # points that fill a body for each anchor that is chosen of them
_VOXELS_EACH = 4  # voxels for each anchor that is drawn of them
_NO_PULL_N = 1e-30  # springs that the soft vector switches off at both ends pull these alike


def soft_vector(kappa: torch.Tensor, neighbours: int, certain: int) -> torch.Tensor:
    """Weight of the j-th nearest neighbour of an anchor (section 4.3; exponent as in the code).

    ``eta_j = 1`` for the first n_c, then ``clamp(2 - (1 + e^kappa)^u, 0, 1)`` with
    ``u = (j - n_c) / (n_k - n_c)``: large kappa switches all but the first n_c off.

    Args:
        kappa: a number.
        neighbours: n_k.
        certain: n_c.

    Returns:
        Shape (n_k,), with a gradient to `kappa`.
    """
    j = torch.arange(neighbours, dtype=kappa.dtype, device=kappa.device)
    u = (j - certain) / max(neighbours - certain, 1)
    ramp = (2.0 - torch.exp(torch.nn.functional.softplus(kappa) * u)).clamp(0.0, 1.0)
    return torch.where(j < certain, torch.ones_like(ramp), ramp)


def tangential_factor(phi: torch.Tensor) -> torch.Tensor:
    """Share of its tangential velocity that an anchor on the ground keeps in a substep (the code).

    Args:
        phi: what is fitted, a number; -1 at first, which is 0.22.

    Returns:
        ``clamp(1.2 sigmoid(phi) - 0.1, 0, 1)``; without gradient where it is clamped.
    """
    return (1.2 * torch.sigmoid(phi) - 0.1).clamp(0.0, 1.0)


def asymmetry_of(pulls: torch.Tensor) -> torch.Tensor:
    """What a spring that pulls its ends unlike adds to the mean at its first end, as a share.

    Args:
        pulls: stiffness at either end [N], shape (..., S, 2), see `AnchorSprings.pulls`.

    Returns:
        -1 to 1, shape (..., S); 0 where both are 0.
    """
    first, second = pulls.unbind(dim=-1)
    return (first - second) / (first + second).clamp(min=_NO_PULL_N)


def occupied_voxels(points: np.ndarray, edge_m: float) -> np.ndarray:
    """Centres of the voxels that hold a point.

    Args:
        points: [m], shape (G, 3).
        edge_m: of a voxel [m].

    Returns:
        [m], shape (V, 3), in the order of their cells.
    """
    cells = np.unique(np.floor(np.asarray(points, np.float64) / edge_m).astype(np.int64), axis=0)
    return (cells + 0.5) * edge_m


def volume_sample(
    points: np.ndarray, count: int, *, filled: bool = True, seed: int = 0
) -> np.ndarray:
    """Anchors all over a body (section 4.2, "volume sampling").

    The authors draw anchors from voxels that Gaussians occupy, which leaves bodies hollow that
    images show from outside only. Here what the points enclose is filled first; of all points those
    are taken that are farthest from the ones before, so anchors lie evenly and reach the surface,
    which is where they touch the ground.

    Args:
        points: Gaussians and points known to be inside [m], shape (G, 3).
        count: A.
        filled: False draws at random from fine voxels that points occupy, as the authors do.
        seed: of that draw.

    Returns:
        [m], shape (A, 3), float64; fewer where there are fewer points.

    Raises:
        DataError: if there are too few points, or they span no volume.
    """
    at = np.asarray(points, np.float64)
    if len(at) < _FEWEST or not np.isfinite(at).all() or count < _FEWEST:
        raise DataError(
            f"{len(at)} points, {count} anchors",
            where="volume_sample",
            expected=f"at least {_FEWEST} of each, all finite",
            fix="check the masks and the first frame, or ask for more anchors",
        )
    if filled:
        dense = PointSolid.of(at).fill(_DENSE * count).position
        at = np.concatenate([at, dense])
        return at[farthest_points(at, count)]
    low, high = 1e-6, float(np.ptp(at, axis=0).max())
    for _ in range(_ROUNDS):
        middle = float(np.sqrt(low * high))
        many = len(occupied_voxels(at, middle)) > _VOXELS_EACH * count
        low, high = (middle, high) if many else (low, middle)
    voxels = occupied_voxels(at, high)
    few = np.random.default_rng([seed, 5]).permutation(len(voxels))[:count]
    return voxels[np.sort(few)]


@dataclass(frozen=True, eq=False)
class AnchorSprings:
    """Springs between near anchors, each once.

    Attributes:
        edges: lower anchor first, shape (S, 2), int32.
        rest_length_m: shape (S,).
        rank: place of the second anchor among the neighbours of the first, and of the first among
            those of the second, from 0; n_k where it is none of them, shape (S, 2).
        neighbours: n_k.
        certain: n_c.
    """

    edges: np.ndarray
    rest_length_m: np.ndarray
    rank: np.ndarray
    neighbours: int
    certain: int

    def pulls(self, log_stiffness: torch.Tensor, kappa: torch.Tensor) -> torch.Tensor:
        """Stiffness of every spring as the authors' code has it, by end [N].

        Their springs pull anchor i by ``eta_ij k_i`` and anchor j by ``eta_ji k_j``, which changes
        the momentum of a body that nothing touches.

        Args:
            log_stiffness: natural logarithm of k_i [N], shape (..., A) or (..., 1).
            kappa: of the soft vector, a number.

        Returns:
            Shape (..., S, 2); zero where a weight is.
        """
        eta = soft_vector(kappa, self.neighbours, self.certain)
        eta = torch.cat([eta, eta.new_zeros(1)])[torch.as_tensor(self.rank)]  # (S, 2)
        stiffness = log_stiffness.exp()
        if stiffness.shape[-1] == 1:
            return stiffness[..., None] * eta
        return stiffness[..., torch.as_tensor(self.edges, dtype=torch.long)] * eta

    def stiffness(self, log_stiffness: torch.Tensor, kappa: torch.Tensor) -> torch.Tensor:
        """Stiffness that both ends of every spring feel, the mean of `pulls` [N].

        Args:
            log_stiffness: natural logarithm of k_i [N], shape (..., A) or (..., 1).
            kappa: of the soft vector, a number.

        Returns:
            ``(eta_ij k_i + eta_ji k_j) / 2``, shape (..., S).
        """
        return self.pulls(log_stiffness, kappa).mean(dim=-1)


def anchor_springs(anchors: np.ndarray, *, neighbours: int, certain: int) -> AnchorSprings:
    """Join every anchor to its nearest ones (section 4.2, eq. 5).

    Args:
        anchors: [m], shape (A, 3).
        neighbours: n_k; as many as there are where there are fewer.
        certain: n_c, those that the soft vector never weakens.

    Returns:
        The springs.

    Raises:
        DataError: if the anchors fall apart into bodies that no spring joins.
    """
    count = min(neighbours, len(anchors) - 1)
    certain = min(certain, count)
    distance, near = cKDTree(anchors).query(anchors, k=count + 1)
    away = np.argsort(near == np.arange(len(anchors))[:, None], axis=1, kind="stable")[:, :count]
    near = np.take_along_axis(near, away, axis=1)  # the anchor itself is no neighbour
    distance = np.take_along_axis(distance, away, axis=1)
    first = np.repeat(np.arange(len(anchors)), count)
    second, rank = near.ravel(), np.tile(np.arange(count), len(anchors))
    low, high = np.minimum(first, second), np.maximum(first, second)
    edges, of = np.unique(np.stack([low, high], axis=1), axis=0, return_inverse=True)
    both = np.full((len(edges), 2), count)
    both[of.reshape(-1), (first > second).astype(int)] = rank
    length = np.linalg.norm(anchors[edges[:, 0]] - anchors[edges[:, 1]], axis=1)
    _check_whole(edges[(both < max(certain, 1)).any(axis=1)], len(anchors))
    return AnchorSprings(edges.astype(np.int32), length, both, count, certain)


def _check_whole(edges: np.ndarray, count: int) -> None:
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    parts, label = connected_components(graph, directed=False)
    if parts > 1:
        sizes = np.sort(np.bincount(label))[::-1][:5].tolist()
        raise DataError(
            f"the anchors fall apart into {parts} bodies, the largest of {sizes} anchors",
            where="anchor_springs",
            expected="one body whose nearest neighbours hang together",
            fix="remove points that float beside the object, or raise n_c",
        )
