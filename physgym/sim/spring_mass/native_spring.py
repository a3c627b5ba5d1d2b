"""One spring in the SIMD bodies: the force on its two ends, and its derivative.

With the unit vector d from the near end to the far one, elongation u and A, A' the coefficients of
the two ends (equal but in a directed model), the ends feel ``(A g(u) + D (dv . d)) d`` and
``-(A' g(u) + D (dv . d)) d``. For the adjoints b, c of these forces and ``w = b - c``,
``W = A b - A' c``: ``S = g W + D (dv . d) w`` is the adjoint of d by the elastic force and by the
dashpot's size, ``av = D (w . d)`` that of dv . d, and
``gap adjoint = g' (W . d) d + (S + av dv - ((S + av dv) . d) d) / L``.
"""

from __future__ import annotations

__all__ = ["SPRING", "SPRING_ADJOINT"]

SPRING = """
    // what the elastic force is per coefficient, for elongation u
    auto law = [&](vf u, vf rest) -> vf {
        if (KIND == 1) return u * power(1.0f + vabs(u) / rest, expo);
        if (KIND == 2) return u * power(vmax(vabs(u), (vf)1.0e-6f), expo - 1.0f);
        return u;
    };
    // force on the near end is near * (dx, dy, dz), on the far end -far * (dx, dy, dz)
    struct Pull { vf near, far; };
    auto spring = [&](vf dx, vf dy, vf dz, vf dvx, vf dvy, vf dvz, vf a, vf a_far, vf rest,
                      vf dash) -> Pull {
        vf l2 = vmax(fma(dx, dx, fma(dy, dy, dz * dz)), (vf)1.0e-12f);
        vf inv = rsqrt(l2);
        vf g = law(l2 * inv - rest, rest);
        vf vd = fma(dvx, dx, fma(dvy, dy, dvz * dz)) * inv;
        vf near = fma(dash, vd, a * g) * inv;
        return Pull{near, DIRECTED ? fma(dash, vd, a_far * g) * inv : near};
    };
"""

SPRING_ADJOINT = """
    // law per coefficient, its slope in u, its derivative in the rest length
    struct Law { vf value, slope, by_rest; };
    auto law_adjoint = [&](vf u, vf rest) -> Law {
        if (KIND == 1) {
            vf strain = vabs(u) / rest;
            vf base = 1.0f + strain;
            vf pw = power(base, expo - 1.0f);
            vf by_rest = -(u * expo * pw * strain / rest);
            return Law{u * base * pw, pw * fma(strain, (vf)expo, base), by_rest};
        }
        if (KIND == 2) {
            vf m = vmax(vabs(u), (vf)1.0e-6f);
            vf pw = power(m, expo - 1.0f);
            return Law{u * pw, vabs(u) > 1.0e-6f ? pw * expo : pw, (vf)0.0f};
        }
        return Law{u, (vf)1.0f, (vf)0.0f};
    };
    // what a spring adds to the adjoints of the far end's position and velocity
    struct Spring { vf gx, gy, gz, ux, uy, uz, a, a_far, rest, dash; };
    // (bx, by, bz) and (cx, cy, cz): adjoints of the forces on the near end and on the far end
    auto spring_adjoint = [&](vf dx, vf dy, vf dz, vf dvx, vf dvy, vf dvz, vf bx, vf by, vf bz,
                              vf cx, vf cy, vf cz, vf a, vf a_far, vf rest, vf dash) -> Spring {
        vf wx = bx - cx, wy = by - cy, wz = bz - cz;
        vf l2 = vmax(fma(dx, dx, fma(dy, dy, dz * dz)), (vf)1.0e-12f);
        vf inv = rsqrt(l2);
        vf x = dx * inv, y = dy * inv, z = dz * inv;
        Law g = law_adjoint(l2 * inv - rest, rest);
        vf vd = fma(dvx, x, fma(dvy, y, dvz * z));
        vf as = fma(wx, x, fma(wy, y, wz * z));
        vf av = as * dash, vi_ = av * inv;
        Spring r;
        vf slope;
        if (DIRECTED) {
            vf near = fma(bx, x, fma(by, y, bz * z)), far = fma(cx, x, fma(cy, y, cz * z));
            vf pull = fma(a, near, -(a_far * far)), damp = dash * vd;
            vf sx = fma(g.value, fma(a, bx, -(a_far * cx)), damp * wx);
            vf sy = fma(g.value, fma(a, by, -(a_far * cy)), damp * wy);
            vf sz = fma(g.value, fma(a, bz, -(a_far * cz)), damp * wz);
            slope = pull * g.slope;
            vf radial = slope - fma(sx, x, fma(sy, y, fma(sz, z, av * vd))) * inv;
            r.gx = fma(x, radial, fma(inv, sx, vi_ * dvx));
            r.gy = fma(y, radial, fma(inv, sy, vi_ * dvy));
            r.gz = fma(z, radial, fma(inv, sz, vi_ * dvz));
            r.a = near * g.value; r.a_far = -(far * g.value);
            r.rest = fma(pull, g.by_rest, -slope);
        } else {
            vf s = fma(dash, vd, a * g.value);
            slope = as * a * g.slope;
            vf radial = slope - fma(s, as, av * vd) * inv;
            vf si = s * inv;
            r.gx = fma(x, radial, fma(si, wx, vi_ * dvx));
            r.gy = fma(y, radial, fma(si, wy, vi_ * dvy));
            r.gz = fma(z, radial, fma(si, wz, vi_ * dvz));
            r.a = as * g.value; r.a_far = (vf)0.0f;
            r.rest = fma(as * a, g.by_rest, -slope);
        }
        r.ux = av * x; r.uy = av * y; r.uz = av * z;
        r.dash = as * vd;
        return r;
    };
"""
