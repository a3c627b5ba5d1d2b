"""The elastic laws as torch functions with derivatives that stay finite where stretches are equal.

What a stress adapter reads between rollouts. The kernels' own laws: `elasticity`, which explains
the derivatives. Shapes: B worlds, P particles; all functions take batches in front.
"""

from __future__ import annotations

from typing import Any

import torch

from physgym.sim.mpm.material import ElasticLaw

__all__ = [
    "elastic_stress",
    "polar_rotation",
    "prior_stress",
    "right_stretch",
    "strain_energy",
    "symmetric_log",
    "viscous_stress",
]

_MIN_SQUARED_STRETCH = 0.0025  # as the kernels have it


# Entries of a 3 x 3 matrix, row by row: cofactor k is a b - c d.
_COFACTOR = ((4, 5, 3, 7, 8, 6, 1, 2, 0), (8, 6, 7, 2, 0, 1, 5, 3, 4),
             (5, 3, 4, 8, 6, 7, 2, 0, 1), (7, 8, 6, 1, 2, 0, 4, 5, 3))  # fmt: skip


def _rows(matrix: torch.Tensor) -> torch.Tensor:
    """Nine contiguous rows, one for each entry, (9, N): small matrices side by side are fast."""
    return matrix.reshape(-1, 9).mT.contiguous()


def _matrices(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return rows.mT.reshape(shape)


def _cofactor_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``det(A) A^-T`` and ``det A`` of (9, N)."""
    a, b, c, d = (rows[list(index)] for index in _COFACTOR)
    cofactor = a * b - c * d
    return cofactor, (rows[:3] * cofactor[:3]).sum(0)


def _determinant(matrix: torch.Tensor) -> torch.Tensor:
    return _cofactor_rows(_rows(matrix))[1].reshape(matrix.shape[:-2])


class _Polar(torch.autograd.Function):
    """Rotation of F = R U by Newton's iteration; ``dR = R [w]x``."""

    @staticmethod
    def forward(ctx: Any, f: torch.Tensor) -> torch.Tensor:
        rows = _rows(f)
        close = 1e-4 if f.dtype == torch.float32 else 1e-8  # quadratic: the next step is exact
        for _ in range(12):
            cofactor, determinant = _cofactor_rows(rows)
            new = 0.5 * rows + (0.5 / determinant) * cofactor
            change = (new - rows).abs().amax() if new.numel() else 0.0
            rows = new
            if not change > close:
                break
        r = _matrices(rows, f.shape)
        ctx.save_for_backward(f, r)
        return r

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> torch.Tensor:
        f, r = ctx.saved_tensors
        u = r.mT @ f
        k = r.mT @ grads[0]
        axial = torch.stack(
            [k[..., 2, 1] - k[..., 1, 2], k[..., 0, 2] - k[..., 2, 0], k[..., 1, 0] - k[..., 0, 1]],
            dim=-1,
        )
        trace = u.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        g = trace * torch.eye(3, dtype=f.dtype, device=f.device) - 0.5 * (u + u.mT)
        cofactor, determinant = _cofactor_rows(_rows(g))  # symmetric: the inverse but for det
        inverse = _matrices(cofactor / determinant, g.shape)
        y = (inverse @ axial[..., None])[..., 0]
        zero = torch.zeros_like(y[..., 0])
        y0, y1, y2 = y.unbind(-1)
        skew = torch.stack([zero, -y2, y1, y2, zero, -y0, -y1, y0, zero], dim=-1)
        return r @ skew.unflatten(-1, (3, 3))


def polar_rotation(deformation: torch.Tensor) -> torch.Tensor:
    """Rotation R of F = R U; differentiable, also at F = I.

    Args:
        deformation: F with a positive determinant, shape (..., 3, 3).

    Returns:
        Shape (..., 3, 3).
    """
    made: torch.Tensor = _Polar.apply(deformation)
    return made


def right_stretch(deformation: torch.Tensor, rotation: torch.Tensor | None = None) -> torch.Tensor:
    """Stretch U of F = R U.

    Args:
        deformation: F with a positive determinant, shape (..., 3, 3).
        rotation: R where it is known already.

    Returns:
        Symmetric, shape (..., 3, 3).
    """
    rotation = polar_rotation(deformation) if rotation is None else rotation
    u = rotation.mT @ deformation
    return 0.5 * (u + u.mT)


def _eigen(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (3, N) and vectors (9, N, in columns) of symmetric (9, N) by Jacobi sweeps."""
    d = [a[0], a[4], a[8]]
    off = {(0, 1): a[1], (0, 2): a[2], (1, 2): a[5]}
    zero, one = torch.zeros_like(a[0]), torch.ones_like(a[0])
    n = [[one if i == j else zero for j in range(3)] for i in range(3)]
    tiny = torch.finfo(a.dtype).tiny
    for _sweep in range(4 if a.dtype == torch.float32 else 6):
        for p, q in off:
            other = 3 - p - q
            gap, twice = d[q] - d[p], 2.0 * off[p, q]
            root = torch.sqrt(gap * gap + twice * twice)
            t = torch.where(gap < 0.0, -twice, twice) / (gap.abs() + root + tiny)
            c = torch.rsqrt(1.0 + t * t)
            s = t * c
            d[p], d[q] = d[p] - t * off[p, q], d[q] + t * off[p, q]
            to_p, to_q = (min(p, other), max(p, other)), (min(q, other), max(q, other))
            off[to_p], off[to_q] = c * off[to_p] - s * off[to_q], s * off[to_p] + c * off[to_q]
            off[p, q] = zero
            for row in n:
                row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]
    return torch.stack(d), torch.stack([entry for row in n for entry in row])


class _SymmetricLog(torch.autograd.Function):
    """Logarithm of a symmetric matrix by divided differences (Daleckii-Krein)."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor) -> torch.Tensor:
        values, vectors = _eigen(_rows(a))
        values = values.mT.reshape(a.shape[:-1]).clamp(min=_MIN_SQUARED_STRETCH)
        n = _matrices(vectors, a.shape)
        logs = values.log()
        ctx.save_for_backward(values, logs, n)
        return (n * logs[..., None, :]) @ n.mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Any) -> torch.Tensor:
        values, logs, n = ctx.saved_tensors
        m = n.mT @ (0.5 * (grads[0] + grads[0].mT)) @ n
        gap = values[..., :, None] - values[..., None, :]
        total = values[..., :, None] + values[..., None, :]
        z2 = (gap / total) ** 2
        series = 1.0 + z2 * (1.0 / 3.0 + z2 * (0.2 + z2 * (1.0 / 7.0 + z2 / 9.0)))
        # As in the kernels, with less truncation where double precision shows it.
        close = z2 < (0.01 if gap.dtype == torch.float32 else 1e-4)
        far = (logs[..., :, None] - logs[..., None, :]) / torch.where(close, 1.0, gap)
        return n @ (m * torch.where(close, 2.0 * series / total, far)) @ n.mT


def symmetric_log(matrix: torch.Tensor) -> torch.Tensor:
    """Logarithm of symmetric positive matrices, differentiable where eigenvalues are equal.

    Args:
        matrix: shape (..., 3, 3); eigenvalues below 0.0025 are taken as it, as in the kernels.

    Returns:
        Symmetric, shape (..., 3, 3).
    """
    made: torch.Tensor = _SymmetricLog.apply(matrix)
    return made


def _trace(a: torch.Tensor) -> torch.Tensor:
    return a.diagonal(dim1=-2, dim2=-1).sum(-1)


def elastic_stress(
    law: ElasticLaw,
    deformation: torch.Tensor,
    mu: torch.Tensor,
    lam: torch.Tensor,
    *,
    velocity_gradient: torch.Tensor | None = None,
    viscosity: torch.Tensor | None = None,
) -> torch.Tensor:
    """Kirchhoff stress of an elastic law; equations: `ElasticLaw`.

    Args:
        law: the law.
        deformation: F, shape (..., 3, 3).
        mu: shear modulus [Pa], broadcast against the batch.
        lam: Lame's first constant [Pa], or the fluid's bulk modulus.
        velocity_gradient: [1/s], of the fluid alone, shape (..., 3, 3).
        viscosity: dynamic, of the fluid alone [Pa s].

    Returns:
        Symmetric stress [Pa], shape (..., 3, 3).
    """
    f = deformation
    one = torch.eye(3, dtype=f.dtype, device=f.device)
    mu, lam = mu[..., None, None], lam[..., None, None]
    if law is ElasticLaw.LINEAR:
        e = 0.5 * (f + f.mT) - one
        return 2.0 * mu * e + lam * _trace(e)[..., None, None] * one
    if law is ElasticLaw.HENCKY:
        h = 0.5 * symmetric_log(f @ f.mT)
        return 2.0 * mu * h + lam * _trace(h)[..., None, None] * one
    j = _determinant(f)[..., None, None]
    if law is ElasticLaw.NEO_HOOKEAN:
        return mu * (f @ f.mT - one) + lam * j.log() * one
    if law is ElasticLaw.FIXED_COROTATED:
        return 2.0 * mu * (f - polar_rotation(f)) @ f.mT + lam * j * (j - 1.0) * one
    stress = lam * (j - j**-6.0) * one
    if velocity_gradient is not None and viscosity is not None:
        stress = stress + viscous_stress(f, velocity_gradient, viscosity)
    return stress


def viscous_stress(
    deformation: torch.Tensor, velocity_gradient: torch.Tensor, viscosity: torch.Tensor
) -> torch.Tensor:
    """Kirchhoff stress ``eta J (grad v + grad v^T)``: of the fluid, and of damped solids.

    Solids have it besides `prior_stress`: no adapter sees or changes it (`Material.damped`).

    Args:
        deformation: F, shape (..., 3, 3).
        velocity_gradient: [1/s], shape (..., 3, 3).
        viscosity: [Pa s], broadcast against the batch.

    Returns:
        Symmetric stress [Pa], shape (..., 3, 3).
    """
    rate = velocity_gradient + velocity_gradient.mT
    return viscosity[..., None, None] * _determinant(deformation)[..., None, None] * rate


def prior_stress(
    law: ElasticLaw,
    internal: torch.Tensor,
    mu: torch.Tensor,
    lam: torch.Tensor,
    viscosity: torch.Tensor,
) -> torch.Tensor:
    """Kirchhoff stress of an elastic law in a state, before any adapter.

    Args:
        law: the law.
        internal: what particles carry, shape (..., 18).
        mu: shear modulus [Pa], broadcast against the batch.
        lam: Lame's first constant [Pa], or the fluid's bulk modulus.
        viscosity: dynamic, of the fluid alone [Pa s].

    Returns:
        [Pa], shape (..., 3, 3).
    """
    f, c = internal.unflatten(-1, (2, 3, 3)).unbind(-3)
    return elastic_stress(law, f, mu, lam, velocity_gradient=c, viscosity=viscosity)


def strain_energy(
    law: ElasticLaw, deformation: torch.Tensor, mu: torch.Tensor, lam: torch.Tensor
) -> torch.Tensor:
    """Energy stored per rest volume; the law's stress follows from it (LINEAR's to first order).

    Args:
        law: the law.
        deformation: F, shape (..., 3, 3).
        mu: shear modulus [Pa], broadcast against the batch.
        lam: Lame's first constant [Pa], or the fluid's bulk modulus.

    Returns:
        [J/m^3], shape (...).
    """
    f = deformation
    one = torch.eye(3, dtype=f.dtype, device=f.device)
    if law in (ElasticLaw.LINEAR, ElasticLaw.HENCKY):
        e = 0.5 * (f + f.mT) - one if law is ElasticLaw.LINEAR else 0.5 * symmetric_log(f @ f.mT)
        return mu * (e * e).sum((-2, -1)) + 0.5 * lam * _trace(e) ** 2
    j = _determinant(f)
    if law is ElasticLaw.NEO_HOOKEAN:
        log = j.log()
        return 0.5 * mu * ((f * f).sum((-2, -1)) - 3.0) - mu * log + 0.5 * lam * log**2
    if law is ElasticLaw.FIXED_COROTATED:
        gap = f - polar_rotation(f)
        return mu * (gap * gap).sum((-2, -1)) + 0.5 * lam * (j - 1.0) ** 2
    return lam * (j + j**-6.0 / 6.0 - 7.0 / 6.0)
