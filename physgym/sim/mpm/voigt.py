"""Linear maps of symmetric stresses as 6 x 6 matrices, and the invertible 3 x 3 factors of MoSA.

A stress is the vector (xx, yy, zz, xy, xz, yz), shears without a factor 2. MoSA (2026), Sec. 3.1,
App. C and App. O. All functions take batches in front and any float dtype.
"""

from __future__ import annotations

import torch

__all__ = [
    "after_microplanes",
    "after_product",
    "from_voigt",
    "identity",
    "invertible",
    "linear",
    "microplanes",
    "rotation_matrix",
    "symmetric",
    "to_voigt",
]

_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
_PLACE = {pair: at for at, (i, j) in enumerate(_PAIRS) for pair in ((i, j), (j, i))}
# What acts on each plane: its normal stress and its two shears (MoSA, Eq. 5).
_PLANES = (((0, 0), (0, 1), (0, 2)), ((1, 1), (1, 0), (1, 2)), ((2, 2), (2, 0), (2, 1)))


def to_voigt(stress: torch.Tensor) -> torch.Tensor:
    """Upper triangle of symmetric matrices.

    Args:
        stress: shape (..., 3, 3).

    Returns:
        (xx, yy, zz, xy, xz, yz), shape (..., 6).
    """
    return stress.flatten(-2)[..., [0, 4, 8, 1, 2, 5]]


def from_voigt(vector: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_voigt`.

    Args:
        vector: shape (..., 6).

    Returns:
        Symmetric matrices, shape (..., 3, 3).
    """
    return vector[..., [0, 3, 4, 3, 1, 5, 4, 5, 2]].unflatten(-1, (3, 3))


def symmetric(matrix: torch.Tensor) -> torch.Tensor:
    """Symmetric part.

    Args:
        matrix: shape (..., 3, 3).

    Returns:
        Shape (..., 3, 3).
    """
    return 0.5 * (matrix + matrix.mT)


def invertible(numbers: torch.Tensor, strength: float) -> torch.Tensor:
    """A matrix near the identity whose determinant is positive whatever the numbers are.

    ``(I + e L)(I + e U)`` with the triangles of ``tanh(numbers)``, upper first (MoSA, App. C). The
    hyperbolic tangent bounds every entry, and with strength below 1 no diagonal reaches 0.

    Args:
        numbers: six of the upper triangle, six of the lower one, row by row, shape (..., 12).
        strength: e, in [0, 1).

    Returns:
        Shape (..., 3, 3), entries first in memory; exactly the identity where the numbers are 0.
    """
    t = strength * torch.tanh(numbers.movedim(-1, 0).contiguous())
    u0, u01, u02, u1, u12, u2, l0, l10, l1, l20, l21, l2 = t.unbind(0)
    u0, u1, u2, l0, l1, l2 = (1.0 + d for d in (u0, u1, u2, l0, l1, l2))
    rows = [
        l0 * u0, l0 * u01, l0 * u02,
        l10 * u0, l10 * u01 + l1 * u1, l10 * u02 + l1 * u12,
        l20 * u0, l20 * u01 + l21 * u1, l20 * u02 + l21 * u12 + l2 * u2,
    ]  # fmt: skip
    return torch.stack(rows).unflatten(0, (3, 3)).movedim((0, 1), (-2, -1))


def identity(like: torch.Tensor) -> torch.Tensor:
    """The operator that changes nothing, for a batch.

    Args:
        like: matrices of the batch, shape (..., 3, 3).

    Returns:
        Shape (6, 6, ...).
    """
    one = torch.eye(6, dtype=like.dtype, device=like.device)
    batch = like.shape[:-2]
    return one.reshape(6, 6, *(1 for _ in batch)).expand(6, 6, *batch)


def after_product(factor: torch.Tensor, operator: torch.Tensor) -> torch.Tensor:
    """The operator ``sym(M operator(stress))``.

    Args:
        factor: M, shape (..., 3, 3).
        operator: as a 6 x 6 matrix, entries first, shape (6, 6, ...).

    Returns:
        Shape (6, 6, ...).
    """
    m = factor.movedim((-2, -1), (0, 1))
    x = {}
    for i in range(3):
        for j in range(3):
            columns = [operator[_PLACE[k, j]] for k in range(3)]
            x[i, j] = _combination(m[i], columns)
    shear = [0.5 * (x[i, j] + x[j, i]) for i, j in _PAIRS[3:]]
    return torch.stack([x[0, 0], x[1, 1], x[2, 2], *shear])


def after_microplanes(
    planes: torch.Tensor, normals: torch.Tensor, operator: torch.Tensor
) -> torch.Tensor:
    """The operator of `microplanes` behind another one (MoSA, App. O, Eq. 29).

    Args:
        planes: matrices of the x, y and z plane, shape (..., 3, 3, 3).
        normals: matrix of the normal stresses, shape (..., 3, 3).
        operator: as a 6 x 6 matrix, entries first, shape (6, 6, ...).

    Returns:
        Shape (6, 6, ...).
    """
    p = planes.movedim((-3, -2, -1), (0, 1, 2))
    x = {}
    for plane, names in enumerate(_PLANES):
        columns = [operator[_PLACE[name]] for name in names]
        for i, name in enumerate(names):
            x[name] = _combination(p[plane, i], columns)
    direct = [x[0, 0], x[1, 1], x[2, 2]]
    n = normals.movedim((-2, -1), (0, 1))
    shear = [0.5 * (x[i, j] + x[j, i]) for i, j in _PAIRS[3:]]
    return torch.stack([*(_combination(n[i], direct) for i in range(3)), *shear])


def _combination(weights: torch.Tensor, columns: list[torch.Tensor]) -> torch.Tensor:
    """Sum of three columns (6, ...) with weights (3, ...)."""
    total = weights[0] * columns[0]
    return total.addcmul(weights[1], columns[1]).addcmul(weights[2], columns[2])


def microplanes(stress: torch.Tensor, planes: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """Stress redistributed plane by plane, step by step (MoSA, Eqs. 5 to 7).

    On each plane its normal stress and its two shears are mixed; the two values that a shear gets
    from its two planes are averaged; then the three normal stresses are mixed.

    Args:
        stress: symmetric, shape (..., 3, 3).
        planes: matrices of the x, y and z plane, shape (..., 3, 3, 3).
        normals: matrix of the normal stresses, shape (..., 3, 3).

    Returns:
        Symmetric stress, shape (..., 3, 3).
    """
    index = torch.tensor(_PLANES, device=stress.device)
    on_planes = stress[..., index[..., 0], index[..., 1]]
    mixed = (planes @ on_planes[..., None])[..., 0]
    direct = (normals @ mixed[..., 0, None])[..., 0]
    shear = [
        0.5 * (mixed[..., 0, 1] + mixed[..., 1, 1]),
        0.5 * (mixed[..., 0, 2] + mixed[..., 2, 1]),
        0.5 * (mixed[..., 1, 2] + mixed[..., 2, 2]),
    ]
    return from_voigt(torch.cat([direct, torch.stack(shear, dim=-1)], dim=-1))


def rotation_matrix(rotation: torch.Tensor) -> torch.Tensor:
    """The 6 x 6 matrix of ``S stress S^T``; its inverse is that of the transpose.

    Args:
        rotation: S, shape (..., 3, 3).

    Returns:
        Shape (..., 6, 6).
    """
    i, j = torch.tensor(_PAIRS, device=rotation.device).T
    first = rotation[..., i[:, None], i] * rotation[..., j[:, None], j]
    second = rotation[..., i[:, None], j] * rotation[..., j[:, None], i]
    return first + second * (i != j)


def linear(vectors: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Row vectors times one matrix as one flat product.

    torch.matmul would flatten a batch or not by whether a gradient is wanted, with other bits.

    Args:
        vectors: shape (..., n).
        matrix: shape (n, m).

    Returns:
        Shape (..., m).
    """
    flat = vectors.reshape(-1, matrix.shape[0]) @ matrix
    return flat.reshape(*vectors.shape[:-1], matrix.shape[1])
