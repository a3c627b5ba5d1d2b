"""Return maps as Warp functions: from a trial deformation gradient to one that the material bears.

All maps scale the deviator of the Hencky strain ``H = ln(F F^T) / 2`` and may change its mean:
``H' = k dev(H) + m' I``, and ``F' = exp(H' - H) F``. Rotations stay. Yield surfaces: `ReturnMap`.
"""

from __future__ import annotations

import warp as wp

from physgym.sim.mpm.elasticity import sym_exp, sym_log

__all__ = ["return_map"]

SQRT_TWO_THIRDS = wp.constant(0.8164965809277260)
MIN_VOLUME_RATIO = wp.constant(0.05)


@wp.func
def _norm(a: wp.mat33) -> float:
    """Frobenius norm with a finite derivative at 0."""
    return wp.sqrt(wp.ddot(a, a) + 1.0e-20)


@wp.func
def return_map(
    kind: int,
    fluid: int,
    f: wp.mat33,
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
        f: trial deformation gradient.
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
        n = _norm(dev)
        keep = float(1.0)
        mean_new = mean
        if kind == 1:
            keep = wp.min(1.0, yield_stress / (2.0 * mu * n))
        if kind == 2:
            tension = 3.0 * (mean - cohesion)
            if tension >= 0.0:
                keep = 0.0
                mean_new = cohesion
            else:
                keep = wp.min(1.0, -(1.0 + 1.5 * lam / mu) * tension * alpha / n)
        if kind == 3:
            s = 2.0 * mu * n
            if s > SQRT_TWO_THIRDS * yield_stress:
                slow = 1.0 + viscosity / (2.0 * mu * wp.trace(b) / 3.0 * dt)
                keep = 1.0 - (1.0 - SQRT_TWO_THIRDS * yield_stress / s) / slow
        if keep < 1.0 or mean_new != mean:
            out = sym_exp((keep - 1.0) * dev + (mean_new - mean) * one) * f
    return out
