"""From Gaussians in space to Gaussians in the image, in plain torch: the readable form.

Zwicker et al., "EWA splatting" (2002), as 3DGS and gsplat use it: the mean goes through the
pinhole, the covariance through the pinhole's Jacobian at the mean. The SIMD body of
`native_project` does the same. Pixels here are those of `physgym.camera`: (0, 0) is the centre of
the top left one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["MARGIN", "Projection", "full_covariance", "packed_covariance", "project"]

MARGIN = 0.15  # of the view on each side: beyond it the Jacobian is that of the edge (gsplat)


class Projection(NamedTuple):
    """Gaussians in images.

    Attributes:
        pixel: mean (u, v), shape (C, G, 2).
        covariance: without blur [pixels^2], shape (C, G, 2, 2).
        depth: along the optical axis [m], shape (C, G).
        direction: from the camera to the mean, in the world [m], shape (C, G, 3).
    """

    pixel: torch.Tensor
    covariance: torch.Tensor
    depth: torch.Tensor
    direction: torch.Tensor


def packed_covariance(covariance: torch.Tensor) -> torch.Tensor:
    """The six numbers of symmetric matrices, ``xx xy xz yy yz zz``.

    Args:
        covariance: shape (..., 3, 3), of which the symmetric part is taken, or (..., 6).

    Returns:
        Shape (..., 6).
    """
    if covariance.shape[-2:] != (3, 3):
        return covariance
    even = 0.5 * (covariance + covariance.transpose(-1, -2))
    return torch.stack([even[..., i, j] for i in range(3) for j in range(i, 3)], dim=-1)


def full_covariance(packed: torch.Tensor) -> torch.Tensor:
    """Symmetric matrices of their six numbers.

    Args:
        packed: ``xx xy xz yy yz zz``, shape (..., 6).

    Returns:
        Shape (..., 3, 3).
    """
    return packed[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].unflatten(-1, (3, 3))


def project(
    mean: torch.Tensor,
    covariance: torch.Tensor,
    T_world_cam: torch.Tensor,
    K: torch.Tensor,
    width: int,
    height: int,
) -> Projection:
    """Project Gaussians into cameras.

    Args:
        mean: [m], shape (G, 3).
        covariance: ``xx xy xz yy yz zz`` [m^2], shape (G, 6).
        T_world_cam: rigid, shape (C, 4, 4).
        K: intrinsics, shape (C, 3, 3).
        width: W [pixels].
        height: H [pixels].

    Returns:
        The projection; differentiable along everything.
    """
    turn = T_world_cam[:, :3, :3].transpose(1, 2)
    direction = mean[None] - T_world_cam[:, None, :3, 3]
    placed = torch.einsum("cij,cgj->cgi", turn, direction)
    depth = placed[..., 2]
    # What is not ahead is not drawn; dividing by its depth could make its gradient NaN, not zero.
    away = torch.where(depth > 0, depth, torch.ones_like(depth))[..., None]
    focal = K[:, [0, 1], [0, 1]][:, None]
    middle = K[:, None, :2, 2]
    slope = placed[..., :2] / away
    size = K.new_tensor([width, height])
    edge = MARGIN * size / focal
    low, high = -(middle + 0.5) / focal - edge, (size - middle - 0.5) / focal + edge
    held = torch.minimum(torch.maximum(slope, low), high)
    # rows of the Jacobian times the rotation
    rows = turn[:, None, :2] - held[..., None] * turn[:, None, 2:]
    rows = rows * (focal / away)[..., None]
    spread = torch.einsum("cgia,gab,cgjb->cgij", rows, full_covariance(covariance), rows)
    return Projection(slope * focal + middle, spread, depth, direction)
