"""Real spherical harmonics as 3DGS files hold them: their values, and how they turn.

Order and signs are those of the ecosystem: degree by degree, m from -l to l, with the
Condon-Shortley sign. A colour is ``max(0, 0.5 + sum_k h_k(direction) sh_k)``, the direction going
from the camera to the Gaussian.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from physgym.errors import DataError

__all__ = ["BASIS_COUNTS", "harmonics", "harmonics_degree", "rotate_harmonics", "shade"]

BASIS_COUNTS = (1, 4, 9, 16)  # of degrees 0 to 3
_SAMPLES = 64  # directions that tell the turned coefficients; 16 would do, more condition it well


def harmonics_degree(basis_count: int) -> int:
    """Degree of a number of coefficients.

    Args:
        basis_count: K.

    Returns:
        0 to 3.

    Raises:
        DataError: if K is none of 1, 4, 9, 16.
    """
    if basis_count not in BASIS_COUNTS:
        raise DataError(
            f"{basis_count} harmonics", where="sh", expected="1, 4, 9 or 16 (degree 0 to 3)"
        )
    return BASIS_COUNTS.index(basis_count)


def harmonics(direction: torch.Tensor, degree: int) -> torch.Tensor:
    """Values of the basis.

    Args:
        direction: unit vectors, shape (..., 3).
        degree: 0 to 3.

    Returns:
        Shape (..., (degree + 1)^2).
    """
    x, y, z = direction.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    values = [torch.full_like(x, 0.28209479177387814)]
    if degree > 0:
        values += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree > 1:
        values += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree > 2:
        values += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(values, dim=-1)


def shade(sh: torch.Tensor, direction: torch.Tensor, degree: int) -> torch.Tensor:
    """Colour of Gaussians seen along directions.

    Args:
        sh: coefficients, shape (G, K, 3).
        direction: from the camera to each Gaussian, of any length but zero, shape (..., G, 3).
        degree: to use, at most that of the coefficients.

    Returns:
        RGB, not below zero, shape (..., G, 3).
    """
    unit = torch.nn.functional.normalize(direction, dim=-1)
    used = (degree + 1) ** 2
    values = harmonics(unit, degree)
    return (torch.einsum("...gk,gkc->...gc", values, sh[:, :used]) + 0.5).clamp(min=0.0)


def rotate_harmonics(sh: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Coefficients of the same appearance, turned.

    Coefficients c turn by the matrix M(R) with ``h(R^T d) . c = h(d) . (M c)`` for every direction
    d; each degree turns on its own (Wigner). M follows from well-spread directions: with H the
    basis at them, ``M = H^+ H(R^T d)``, exact because rotation keeps a degree's functions together.

    Args:
        sh: shape (G, K, 3).
        rotation: of each Gaussian, shape (G, 3, 3), or of all, shape (3, 3).

    Returns:
        Shape (G, K, 3); differentiable along both.
    """
    degree = harmonics_degree(sh.shape[1])
    turn = rotation.expand(len(sh), 3, 3)
    made = [sh[:, :1]]
    for level in range(1, degree + 1):
        first, last = level**2, (level + 1) ** 2
        spread, inverse = _samples(level)
        directions, back = spread.to(sh), inverse.to(sh)
        turned = torch.einsum("di,gij->gdj", directions, turn)  # R^T d
        values = harmonics(turned, level)[..., first:last]
        made.append(torch.einsum("kd,gdl,glc->gkc", back, values, sh[:, first:last]))
    return torch.cat(made, dim=1)


@cache
def _samples(level: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions on a Fibonacci sphere, and the pseudo-inverse of one degree's basis at them."""
    k = np.arange(_SAMPLES) + 0.5
    z, turn = 1.0 - 2.0 * k / _SAMPLES, np.pi * (1.0 + 5.0**0.5) * k
    ring = np.sqrt(1.0 - z * z)
    spread = torch.from_numpy(np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1))
    basis = harmonics(spread, level)[:, level**2 :]
    return spread, torch.linalg.pinv(basis)
