"""Gaussians that follow a simulation: three published ways, batched and differentiable.

- `linear_blend`: mass points turn with their neighbours and carry the Gaussians (PhysTwin).
- `inverse_distance`: displacements of anchors, weighted (Spring-Gaus, ReconPhys).
- `deformed`: ``Sigma_t = F Sigma_0 F^T`` with an MPM particle's F (MoSA, eq. 10).

Rotations are from the rest shape, not from frame to frame, so errors do not add up. Harmonics turn
with the Gaussians. `physgym.skinning` does the first way for points alone, in NumPy.
Shapes: N nodes, k neighbours, ``...`` frames or worlds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.splats.cloud import GaussianCloud, Gaussians, matrix_from_quat
from physgym.splats.harmonics import rotate_harmonics

__all__ = [
    "Binding",
    "Motion",
    "bind",
    "deformed",
    "inverse_distance",
    "linear_blend",
    "moved",
    "nearest_rotation",
    "node_rotations",
]

# Weight of the rotation known before, over that of a neighbour at the usual distance: it decides
# what neighbours leave open, such as the twist of a line of nodes. Used twice, its bias is squared.
_INERTIA = 1e-3
_TINY = 1e-14  # Spring-Gaus's: a point on an anchor is that anchor's


@dataclass(frozen=True, eq=False)
class Binding:
    """Which nodes carry which Gaussian.

    Attributes:
        rest_position: nodes at rest [m], shape (N, 3).
        rest_mean: Gaussians at rest [m], shape (G, 3).
        frame_node: neighbours that tell a node's rotation, shape (N, k).
        point_node: nodes that carry a Gaussian, shape (G, k).
        weight: of each of them, shape (G, k); rows sum to 1.
    """

    rest_position: torch.Tensor
    rest_mean: torch.Tensor
    frame_node: torch.Tensor
    point_node: torch.Tensor
    weight: torch.Tensor


class Motion(NamedTuple):
    """Where Gaussians are and how they turned from rest.

    Attributes:
        mean: [m], shape (..., G, 3).
        rotation: shape (..., G, 3, 3).
    """

    mean: torch.Tensor
    rotation: torch.Tensor


def bind(
    mean: torch.Tensor,
    nodes: torch.Tensor,
    *,
    neighbours: int = 16,
    power: float = 1.0,
    floor_m: float = 0.0,
) -> Binding:
    """Bind Gaussians to nodes at rest, with weights ``1 / (d + floor)^power``.

    PhysTwin: 16 neighbours, power 1, floor 1e-6. Spring-Gaus: 16 neighbours, power 0.5, no floor.

    Args:
        mean: Gaussians [m], shape (G, 3).
        nodes: mass points or anchors [m], shape (N, 3).
        neighbours: k.
        power: of the distance.
        floor_m: added to the distance [m].

    Returns:
        The binding; no gradient goes through it.

    Raises:
        DataError: if there is no node, or a position is not finite.
    """
    points, at = (t.detach().cpu().double().numpy() for t in (mean, nodes))
    if not len(at) or not np.isfinite(points).all() or not np.isfinite(at).all():
        raise DataError(
            f"{len(at)} nodes and {len(points)} Gaussians, not all finite",
            where="skinning.bind",
            expected="at least one node, finite positions",
        )
    tree = cKDTree(at)
    distance, near = tree.query(points, k=np.arange(1, min(neighbours, len(at)) + 1))
    weight = 1.0 / ((distance + floor_m) ** power + _TINY)
    weight /= weight.sum(axis=1, keepdims=True)
    # the first of a node's neighbours is the node itself, which says nothing
    _, frame = tree.query(at, k=np.arange(1, min(neighbours + 1, len(at)) + 1))
    device = mean.device
    return Binding(
        nodes.detach(),
        mean.detach(),
        torch.from_numpy(frame).to(device),
        torch.from_numpy(near).to(device),
        torch.from_numpy(weight).to(mean),
    )


def linear_blend(binding: Binding, position: torch.Tensor) -> Motion:
    """Linear blend skinning: ``sum_j w_j (R_j (mu - X_j) + x_j)`` (PhysTwin, section 3.4).

    Args:
        binding: from `bind`.
        position: nodes now [m], shape (..., N, 3).

    Returns:
        Means, and the rotation nearest to the weighted mean of the nodes'.
    """
    turn = node_rotations(binding, position)
    near = binding.point_node
    offset = binding.rest_mean[:, None] - binding.rest_position[near]
    carried = (turn[..., near, :, :] @ offset[..., None])[..., 0] + position[..., near, :]
    mean = (binding.weight[..., None] * carried).sum(-2)
    blended = torch.einsum("gk,...gkij->...gij", binding.weight, turn[..., near, :, :])
    return Motion(mean, nearest_rotation(blended))


def inverse_distance(
    binding: Binding, position: torch.Tensor, *, absolute: bool = False
) -> torch.Tensor:
    """Inverse-distance weighting of anchors (Spring-Gaus, section 3.3; ReconPhys).

    Displacements keep the rest shape; absolute positions, as Spring-Gaus's code has them in its
    dynamic stage, pull Gaussians together even at rest.

    Args:
        binding: from `bind`, Spring-Gaus's with ``power=0.5``.
        position: anchors now [m], shape (..., N, 3).
        absolute: ``sum_j w_j x_j`` instead of ``mu + sum_j w_j (x_j - X_j)``.

    Returns:
        Means [m], shape (..., G, 3).
    """
    near = binding.point_node
    weight = binding.weight[..., None]
    if absolute:
        return (weight * position[..., near, :]).sum(-2)
    shift = position - binding.rest_position
    return binding.rest_mean + (weight * shift[..., near, :]).sum(-2)


def moved(cloud: GaussianCloud, mean: torch.Tensor, rotation: torch.Tensor) -> GaussianCloud:
    """A cloud whose Gaussians were carried and turned.

    Args:
        cloud: at rest.
        mean: [m], shape (G, 3).
        rotation: from rest, shape (G, 3, 3).

    Returns:
        The cloud with new means, axes and harmonics.
    """
    turned = _quat_from_matrix(rotation @ matrix_from_quat(cloud.quat_wxyz))
    return cloud.replace(mean=mean, quat_wxyz=turned, sh=rotate_harmonics(cloud.sh, rotation))


def deformed(cloud: GaussianCloud, mean: torch.Tensor, F: torch.Tensor) -> Gaussians:
    """Gaussians that stretch with the matter: ``Sigma_t = F Sigma_0 F^T`` (MoSA, eq. 10).

    Args:
        cloud: at rest, a Gaussian per particle.
        mean: particles now [m], shape (G, 3).
        F: total deformation gradients (of plastic matter too), shape (G, 3, 3).

    Returns:
        Gaussians; harmonics turn with the polar rotation of F.
    """
    spread = F @ cloud.covariance() @ F.transpose(-1, -2)
    colour = cloud.sh
    if cloud.sh_degree > 0:
        colour = rotate_harmonics(colour, nearest_rotation(F))
    return Gaussians(mean, spread, cloud.opacity, colour)


def node_rotations(binding: Binding, position: torch.Tensor) -> torch.Tensor:
    """Rotation of every node from rest, from its neighbours (Kabsch 1976).

    Args:
        binding: from `bind`.
        position: nodes now [m], shape (..., N, 3).

    Returns:
        Shape (..., N, 3, 3); the identity where neighbours leave a turn open.
    """
    p = binding.rest_position[binding.frame_node] - binding.rest_position[:, None]
    q = position[..., binding.frame_node, :] - position[..., :, None, :]
    count = max(p.shape[1], 1)
    scale = p.square().sum(dim=(1, 2)) / count
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))[:, None, None]
    h = torch.einsum("...nki,nkj->...nij", q, p) / scale
    known = torch.eye(3).to(h)
    for _ in range(2):
        turn = nearest_rotation(h + _INERTIA * known)
        known = turn.detach()
    return turn


def nearest_rotation(matrix: torch.Tensor) -> torch.Tensor:
    """The rotation nearest to a matrix (least squares), the polar rotation where det > 0.

    Its gradient does not go through the singular vectors, which may be any where singular values
    are equal: with R the rotation and S = R^T M symmetric, ``dR = R [w]x`` and
    ``(tr(S) I - S) w = axial(R^T dM - dM^T R)``.

    Args:
        matrix: shape (..., 3, 3).

    Returns:
        Shape (..., 3, 3).
    """
    made: torch.Tensor = _NearestRotation.apply(matrix)
    return made


class _NearestRotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor) -> torch.Tensor:
        u, _, vt = torch.linalg.svd(matrix)
        sign = torch.ones_like(matrix[..., 0])
        sign[..., 2] = torch.sign(torch.linalg.det(u @ vt))
        turn = (u * sign[..., None, :]) @ vt
        ctx.save_for_backward(matrix, turn)
        return turn

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        matrix, turn = ctx.saved_tensors
        stretch = turn.transpose(-1, -2) @ matrix
        stretch = 0.5 * (stretch + stretch.transpose(-1, -2))
        trace = stretch.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        system = trace * torch.eye(3).to(matrix) - stretch
        along = turn.transpose(-1, -2) @ grads[0]
        # a matrix of rank one has no nearest rotation: the least solution leaves open what is open
        w = torch.linalg.pinv(system, hermitian=True, rtol=1e-6) @ _axial(along)[..., None]
        return turn @ _cross(w[..., 0])


def _axial(m: torch.Tensor) -> torch.Tensor:
    odd = m - m.transpose(-1, -2)
    return torch.stack([odd[..., 2, 1], odd[..., 0, 2], odd[..., 1, 0]], dim=-1)


def _cross(w: torch.Tensor) -> torch.Tensor:
    x, y, z = w.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def _quat_from_matrix(rotation: torch.Tensor) -> torch.Tensor:
    """Differentiable; of four ways to divide the one with the largest denominator (Shepperd)."""
    m = [[rotation[..., i, j] for j in range(3)] for i in range(3)]
    xx, yy, zz = m[0][0], m[1][1], m[2][2]
    wx, wy, wz = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    rows = [
        [1 + xx + yy + zz, wx, wy, wz],
        [wx, 1 + xx - yy - zz, xy, xz],
        [wy, xy, 1 - xx + yy - zz, yz],
        [wz, xz, yz, 1 - xx - yy + zz],
    ]
    table = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    best = table.detach().diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = table.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    return torch.nn.functional.normalize(row, dim=-1)
