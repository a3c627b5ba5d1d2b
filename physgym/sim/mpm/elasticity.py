"""Elastic laws as Warp functions, and the tensor functions they need, with derivatives that stay
finite where stretches are equal.

A singular value decomposition is never differentiated. The tensor logarithm and exponential of a
symmetric matrix ``A = N diag(a) N^T`` have the derivative ``N ((N^T dA N) o D) N^T`` with divided
differences ``D_ij = (f(a_i) - f(a_j)) / (a_i - a_j)`` (Daleckii-Krein), which are smooth through
``a_i = a_j``. The polar rotation ``F = R U`` has ``dR = R [w]x`` with
``(tr(U) I - U) w = axial(R^T dF - dF^T R)``.
"""

from __future__ import annotations

import warp as wp

__all__ = [
    "elastic_stress",
    "jacobi_eigen",
    "polar_rotation",
    "sym_exp",
    "sym_log",
    "viscous_stress",
]

# Stretches below 0.05 are taken as 0.05 in logarithms (all published codes do).
MIN_SQUARED_STRETCH = wp.constant(0.0025)


@wp.struct
class Eigen:
    """Eigenvectors in columns, and eigenvalues, of a symmetric matrix."""

    vectors: wp.mat33
    values: wp.vec3


@wp.func
def _rotate(a: wp.mat33, n: wp.mat33, p: int, q: int) -> tuple[wp.mat33, wp.mat33]:
    """One Jacobi rotation; returns the matrix and the eigenvectors so far."""
    off = a[p, q]
    d = a[q, q] - a[p, p]
    sign = wp.where(d < 0.0, -1.0, 1.0)
    t = 2.0 * off * sign / (wp.abs(d) + wp.sqrt(d * d + 4.0 * off * off) + 1.0e-30)
    c = 1.0 / wp.sqrt(1.0 + t * t)
    s = t * c
    g = wp.identity(n=3, dtype=float)
    g[p, p] = c
    g[q, q] = c
    g[p, q] = s
    g[q, p] = -s
    return wp.transpose(g) * a * g, n * g


@wp.func
def jacobi_eigen(a_in: wp.mat33) -> Eigen:
    """Eigenvectors and eigenvalues of a symmetric matrix by four cyclic Jacobi sweeps.

    Args:
        a_in: symmetric matrix.

    Returns:
        Eigenvalues in no order; four sweeps reach float32's last digits for any 3 x 3 matrix.
    """
    a = a_in
    n = wp.identity(n=3, dtype=float)
    for _sweep in range(4):
        a, n = _rotate(a, n, 0, 1)
        a, n = _rotate(a, n, 0, 2)
        a, n = _rotate(a, n, 1, 2)
    out = Eigen()
    out.vectors = n
    out.values = wp.vec3(a[0, 0], a[1, 1], a[2, 2])
    return out


@wp.func
def _log_difference(a: float, b: float) -> float:
    """(ln a - ln b) / (a - b): 2 atanh(z) / (a - b), a series where a and b are close."""
    z = (a - b) / (a + b)
    z2 = z * z
    series = 1.0 + z2 * (1.0 / 3.0 + z2 * (0.2 + z2 * (1.0 / 7.0 + z2 / 9.0)))
    far = 0.5 * wp.log(a / b) / wp.where(wp.abs(z) > 0.1, z, 1.0)
    return 2.0 / (a + b) * wp.where(wp.abs(z) > 0.1, far, series)


@wp.func
def _exp_difference(a: float, b: float) -> float:
    """(e^a - e^b) / (a - b), a series where a and b are close."""
    d = 0.5 * (a - b)
    d2 = d * d
    series = 1.0 + d2 * (1.0 / 6.0 + d2 * (1.0 / 120.0 + d2 / 5040.0))
    far = wp.sinh(d) / wp.where(wp.abs(d) > 0.5, d, 1.0)
    return wp.exp(0.5 * (a + b)) * wp.where(wp.abs(d) > 0.5, far, series)


@wp.func
def sym_log(a: wp.mat33) -> wp.mat33:
    """Logarithm of a symmetric positive matrix; eigenvalues below the floor are taken as it.

    Args:
        a: symmetric matrix.

    Returns:
        Symmetric matrix.
    """
    e = jacobi_eigen(a)
    v = wp.vec3(0.0)
    for i in range(3):
        v[i] = wp.log(wp.max(e.values[i], MIN_SQUARED_STRETCH))
    return e.vectors * wp.diag(v) * wp.transpose(e.vectors)


@wp.func_grad(sym_log)
def adj_sym_log(a: wp.mat33, adj_ret: wp.mat33) -> None:
    e = jacobi_eigen(a)
    m = wp.transpose(e.vectors) * adj_ret * e.vectors
    out = wp.mat33(0.0)
    for i in range(3):
        for j in range(3):
            both = 0.5 * (m[i, j] + m[j, i])
            p = wp.max(e.values[i], MIN_SQUARED_STRETCH)
            q = wp.max(e.values[j], MIN_SQUARED_STRETCH)
            out[i, j] = both * _log_difference(p, q)
    wp.adjoint[a] += e.vectors * out * wp.transpose(e.vectors)


@wp.func
def sym_exp(a: wp.mat33) -> wp.mat33:
    """Exponential of a symmetric matrix.

    Args:
        a: symmetric matrix.

    Returns:
        Symmetric positive matrix.
    """
    e = jacobi_eigen(a)
    v = wp.vec3(wp.exp(e.values[0]), wp.exp(e.values[1]), wp.exp(e.values[2]))
    return e.vectors * wp.diag(v) * wp.transpose(e.vectors)


@wp.func_grad(sym_exp)
def adj_sym_exp(a: wp.mat33, adj_ret: wp.mat33) -> None:
    e = jacobi_eigen(a)
    m = wp.transpose(e.vectors) * adj_ret * e.vectors
    out = wp.mat33(0.0)
    for i in range(3):
        for j in range(3):
            both = 0.5 * (m[i, j] + m[j, i])
            out[i, j] = both * _exp_difference(e.values[i], e.values[j])
    wp.adjoint[a] += e.vectors * out * wp.transpose(e.vectors)


@wp.func
def polar_rotation(f: wp.mat33) -> wp.mat33:
    """Rotation R of F = R U by Newton's iteration ``R <- (R + R^-T) / 2``; det F > 0.

    Args:
        f: deformation gradient.

    Returns:
        The rotation nearest to it.
    """
    r = f
    for _i in range(12):
        r = 0.5 * (r + wp.transpose(wp.inverse(r)))
    return r


@wp.func_grad(polar_rotation)
def adj_polar_rotation(f: wp.mat33, adj_ret: wp.mat33) -> None:
    r = f
    for _i in range(12):
        r = 0.5 * (r + wp.transpose(wp.inverse(r)))
    u = wp.transpose(r) * f
    k = wp.transpose(r) * adj_ret
    axial = wp.vec3(k[2, 1] - k[1, 2], k[0, 2] - k[2, 0], k[1, 0] - k[0, 1])
    g = wp.trace(u) * wp.identity(n=3, dtype=float) - 0.5 * (u + wp.transpose(u))
    y = wp.inverse(g) * axial
    wp.adjoint[f] += r * wp.skew(y)


@wp.func
def viscous_stress(f: wp.mat33, grad_v: wp.mat33, viscosity: float) -> wp.mat33:
    """Kirchhoff stress ``eta J (grad v + grad v^T)`` [Pa]: of the fluid, and of damped solids.

    Args:
        f: deformation gradient.
        grad_v: velocity gradient [1/s].
        viscosity: [Pa s].

    Returns:
        Symmetric stress.
    """
    return viscosity * wp.determinant(f) * (grad_v + wp.transpose(grad_v))


@wp.func
def elastic_stress(
    kind: int, f: wp.mat33, grad_v: wp.mat33, mu: float, lam: float, viscosity: float
) -> wp.mat33:
    """Kirchhoff stress [Pa] of an elastic law.

    Args:
        kind: `ElasticLaw.kernel_kind`.
        f: deformation gradient.
        grad_v: velocity gradient [1/s]; the fluid alone reads it.
        mu: shear modulus [Pa].
        lam: Lame's first constant [Pa]; the fluid's bulk modulus.
        viscosity: dynamic viscosity of the fluid [Pa s].

    Returns:
        Symmetric stress.
    """
    one = wp.identity(n=3, dtype=float)
    ft = wp.transpose(f)
    tau = wp.mat33(0.0)
    if kind == 0:
        e = 0.5 * (f + ft) - one
        tau = 2.0 * mu * e + lam * wp.trace(e) * one
    if kind == 1:
        tau = mu * (f * ft - one) + lam * wp.log(wp.determinant(f)) * one
    if kind == 2:
        j = wp.determinant(f)
        tau = 2.0 * mu * (f - polar_rotation(f)) * ft + lam * j * (j - 1.0) * one
    if kind == 3:
        h = 0.5 * sym_log(f * ft)
        tau = 2.0 * mu * h + lam * wp.trace(h) * one
    if kind == 4:
        j = wp.determinant(f)
        tau = lam * (j - wp.pow(j, -6.0)) * one
        tau = tau + viscous_stress(f, grad_v, viscosity)
    return tau
