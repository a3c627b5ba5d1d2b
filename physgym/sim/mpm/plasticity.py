"""Return maps as Warp functions: from a trial deformation gradient to one that the material bears.

All maps scale the deviator of the Hencky strain ``H = ln(F F^T) / 2`` and may change its mean:
``H' = k dev(H) + m' I``, and ``F' = exp(H' - H) F``. Rotations stay. Yield surfaces: `ReturnMap`.
"""

from __future__ import annotations

import warp as wp

from physgym.sim.mpm.elasticity import Eigen, jacobi_eigen, sym_exp, sym_log

__all__ = ["return_map", "sorted_flow"]

SQRT_TWO_THIRDS = wp.constant(0.8164965809277260)
MIN_VOLUME_RATIO = wp.constant(0.05)
MIN_GAP = wp.constant(1.0e-4)


@wp.func
def _norm(a: wp.mat33) -> float:
    """Frobenius norm with a finite derivative at 0."""
    return wp.sqrt(wp.ddot(a, a) + 1.0e-20)


@wp.func
def _sorted_eigen(h: wp.mat33) -> Eigen:
    """Eigenvalues with their vectors, largest first."""
    e = jacobi_eigen(h)
    for k in range(3):
        p = k % 2  # 0 and 1, 1 and 2, 0 and 1
        q = p + 1
        if e.values[q] > e.values[p]:
            x = e.values[p]
            e.values[p] = e.values[q]
            e.values[q] = x
            for i in range(3):
                y = e.vectors[i, p]
                e.vectors[i, p] = e.vectors[i, q]
                e.vectors[i, q] = y
    return e


@wp.func
def _without_mean(v: wp.vec3) -> wp.vec3:
    m = (v[0] + v[1] + v[2]) / 3.0
    return wp.vec3(v[0] - m, v[1] - m, v[2] - m)


@wp.func
def sorted_flow(h: wp.mat33, plastic: wp.mat33) -> wp.mat33:
    """``N diag(dev(M dev(d))) N^T`` of ``h = N diag(d) N^T``, d sorted (MoSA, Eq. 9).

    Args:
        h: symmetric matrix.
        plastic: M; follows the order of the eigenvalues.

    Returns:
        Symmetric matrix without trace.
    """
    e = _sorted_eigen(h)
    star = _without_mean(plastic * _without_mean(e.values))
    return e.vectors * wp.diag(star) * wp.transpose(e.vectors)


@wp.func_grad(sorted_flow)
def adj_sorted_flow(h: wp.mat33, plastic: wp.mat33, adj_ret: wp.mat33) -> None:
    e = _sorted_eigen(h)
    dev = _without_mean(e.values)
    star = _without_mean(plastic * dev)
    m = wp.transpose(e.vectors) * adj_ret * e.vectors
    star_b = _without_mean(wp.vec3(m[0, 0], m[1, 1], m[2, 2]))
    own = _without_mean(wp.transpose(plastic) * star_b)
    out = wp.diag(own)
    for i in range(3):
        for j in range(3):
            if i != j:
                gap = e.values[i] - e.values[j]
                # A map that follows the order jumps where two are equal: its slope is floored.
                gap = wp.where(i < j, wp.max(gap, MIN_GAP), wp.min(gap, -MIN_GAP))
                out[i, j] = 0.5 * (m[i, j] + m[j, i]) * (star[i] - star[j]) / gap
    wp.adjoint[h] += e.vectors * out * wp.transpose(e.vectors)
    wp.adjoint[plastic] += wp.outer(star_b, dev)


@wp.func
def return_map(
    kind: int,
    fluid: int,
    oriented: int,
    f: wp.mat33,
    plastic: wp.mat33,
    mu: float,
    lam: float,
    yield_stress: float,
    alpha: float,
    cohesion: float,
    viscosity: float,
    dt: float,
) -> wp.mat33:
    """Deformation gradient after the plastic projection.

    Args:
        kind: `ReturnMap.kernel_kind`.
        fluid: 1 keeps only the volume, ``J^(1/3) I``.
        oriented: 1 takes `sorted_flow` with ``plastic`` for the deviator.
        f: trial deformation gradient.
        plastic: matrix on the sorted principal deviator.
        mu: shear modulus [Pa].
        lam: Lame's first constant [Pa].
        yield_stress: [Pa], of von Mises and Herschel-Bulkley.
        alpha: ``sqrt(2/3) 2 sin(phi) / (3 - sin(phi))`` of the friction angle phi.
        cohesion: tensile Hencky strain that sand bears.
        viscosity: plastic viscosity of Herschel-Bulkley [Pa s].
        dt: length of the substep [s].

    Returns:
        Elastic deformation gradient.
    """
    out = f
    if fluid == 1:
        j = wp.max(wp.determinant(f), MIN_VOLUME_RATIO)
        out = wp.pow(j, 1.0 / 3.0) * wp.identity(n=3, dtype=float)
    if kind > 0:
        one = wp.identity(n=3, dtype=float)
        b = f * wp.transpose(f)
        h = 0.5 * sym_log(b)
        mean = wp.trace(h) / 3.0
        dev = h - mean * one
        if oriented == 1:
            dev = sorted_flow(h, plastic)
        n = _norm(dev)
        keep = float(1.0)
        mean_new = mean
        left = wp.mat33(0.0)  # deviator that opening sand would keep of its own
        if kind == 1:
            keep = wp.min(1.0, yield_stress / (2.0 * mu * n))
        if kind == 2:
            tension = 3.0 * (mean - cohesion)
            if tension >= 0.0:
                keep = 0.0
                mean_new = cohesion
                left = h - mean * one - dev
            else:
                keep = wp.min(1.0, -(1.0 + 1.5 * lam / mu) * tension * alpha / n)
        if kind == 3:
            s = 2.0 * mu * n
            if s > SQRT_TWO_THIRDS * yield_stress:
                slow = 1.0 + viscosity / (2.0 * mu * wp.trace(b) / 3.0 * dt)
                keep = 1.0 - (1.0 - SQRT_TWO_THIRDS * yield_stress / s) / slow
        if keep < 1.0 or mean_new != mean:
            out = sym_exp((keep - 1.0) * dev - left + (mean_new - mean) * one) * f
    return out
