"""The ground in the SIMD bodies, by its law, and its derivative.

`move` ends a substep: position, and what the ground makes of it. `turn_ground` turns that round.
The references are `contact.ground_response` and `contact.factor_response`.
"""

from __future__ import annotations

from physgym.sim.contact import GroundLaw

__all__ = ["ground_adjoint_source", "ground_source"]

_COULOMB = """
    auto move = [&](Node p, vf e, vf mu) -> Node {
        Node q = p;
        q.x = fma(p.vx, (vf)h, p.x); q.y = fma(p.vy, (vf)h, p.y); q.z = fma(p.vz, (vf)h, p.z);
        if (!ground) return q;
        vf height = fma(nx, p.x, fma(ny, p.y, nz * p.z)) - offset;
        vf vn = fma(nx, p.vx, fma(ny, p.vy, nz * p.vz));
        vi under = fma(vn, (vf)h, height) < 0.0f;
        if (!__builtin_reduce_or(under)) return q;
        vi hit = under & (vn < 0.0f);
        vf tx = fma(-vn, nx, p.vx), ty = fma(-vn, ny, p.vy), tz = fma(-vn, nz, p.vz);
        vf t2 = fma(tx, tx, fma(ty, ty, tz * tz)) + 1.0e-12f;
        vf slow = 1.0f / vmax(t2 * rsqrt(t2), (vf)1.0e-6f);
        vf keep = vmax(fma(mu * (1.0f + e) * vn, slow, (vf)1.0f), (vf)0.0f);
        vf back = -(e * vn);
        vf wx = fma(keep, tx, back * nx), wy = fma(keep, ty, back * ny);
        vf wz = fma(keep, tz, back * nz);
        vf toi = vmin(vmax(-height / (hit ? vn : (vf)-1.0f), (vf)0.0f), (vf)h);
        vf left = h - toi;
        q.x = hit ? fma(wx, left, fma(p.vx, toi, p.x)) : q.x;
        q.y = hit ? fma(wy, left, fma(p.vy, toi, p.y)) : q.y;
        q.z = hit ? fma(wz, left, fma(p.vz, toi, p.z)) : q.z;
        q.vx = hit ? wx : q.vx; q.vy = hit ? wy : q.vy; q.vz = hit ? wz : q.vz;
        vf depth = fma(nx, q.x, fma(ny, q.y, nz * q.z)) - offset;
        vf push = under ? vmax(-depth, (vf)0.0f) : (vf)0.0f;
        q.x = fma(push, nx, q.x); q.y = fma(push, ny, q.y); q.z = fma(push, nz, q.z);
        return q;
    };
"""

_FACTOR = """
    // mu: what a substep leaves of the tangential velocity
    auto move = [&](Node p, vf, vf mu) -> Node {
        Node q = p;
        q.x = fma(p.vx, (vf)h, p.x); q.y = fma(p.vy, (vf)h, p.y); q.z = fma(p.vz, (vf)h, p.z);
        vf height = fma(nx, p.x, fma(ny, p.y, nz * p.z)) - offset;
        vf vn = fma(nx, p.vx, fma(ny, p.vy, nz * p.vz));
        vi under = fma(vn, (vf)h, height) <= 0.0f;
        if (!__builtin_reduce_or(under)) return q;
        q.vx = under ? mu * fma(-vn, nx, p.vx) : p.vx;
        q.vy = under ? mu * fma(-vn, ny, p.vy) : p.vy;
        q.vz = under ? mu * fma(-vn, nz, p.vz) : p.vz;
        vf depth = fma(nx, q.x, fma(ny, q.y, nz * q.z)) - offset;
        vf push = under ? -depth : (vf)0.0f;
        q.x = fma(push, nx, q.x); q.y = fma(push, ny, q.y); q.z = fma(push, nz, q.z);
        return q;
    };
"""

_COULOMB_ADJOINT = """
    // z: as the ground sees it; t: adjoint of the state after, then of the position before;
    // bx by bz: adjoint of the velocity before, given for free motion
    auto turn_ground = [&](Node z, Adjoint& t, vf& bx, vf& by, vf& bz, Sums& sums, vf e, vf mu) {
        if (ground) {
            vf height = fma(nx, z.x, fma(ny, z.y, nz * z.z)) - offset;
            vf vn = fma(nx, z.vx, fma(ny, z.vy, nz * z.vz));
            vi under = fma(vn, (vf)h, height) < 0.0f;
            if (__builtin_reduce_or(under)) {
                vi hit = under & (vn < 0.0f);
                vf safe = hit ? vn : (vf)-1.0f;
                vf tx = fma(-vn, nx, z.vx), ty = fma(-vn, ny, z.vy), tz = fma(-vn, nz, z.vz);
                vf t2 = fma(tx, tx, fma(ty, ty, tz * tz)) + 1.0e-12f;
                vf slow = 1.0f / vmax(t2 * rsqrt(t2), (vf)1.0e-6f);
                vf rub = mu * (1.0f + e);
                vf keep = vmax(fma(rub * vn, slow, (vf)1.0f), (vf)0.0f);
                vf back = -(e * vn);
                vf wx = fma(keep, tx, back * nx), wy = fma(keep, ty, back * ny);
                vf wz = fma(keep, tz, back * nz);
                vf raw = -height / safe;
                vf toi = vmin(vmax(raw, (vf)0.0f), (vf)h);
                vf left = h - toi;
                vf qx = hit ? fma(wx, left, fma(z.vx, toi, z.x)) : fma(z.vx, (vf)h, z.x);
                vf qy = hit ? fma(wy, left, fma(z.vy, toi, z.y)) : fma(z.vy, (vf)h, z.y);
                vf qz = hit ? fma(wz, left, fma(z.vz, toi, z.z)) : fma(z.vz, (vf)h, z.z);
                vi pushed = under & (fma(nx, qx, fma(ny, qy, nz * qz)) - offset < 0.0f);
                vf along = pushed ? fma(nx, t.x, fma(ny, t.y, nz * t.z)) : (vf)0.0f;
                t.x = fma(-along, nx, t.x); t.y = fma(-along, ny, t.y); t.z = fma(-along, nz, t.z);
                bx = fma((vf)h, t.x, t.vx); by = fma((vf)h, t.y, t.vy); bz = fma((vf)h, t.z, t.vz);
                vf ax = fma(left, t.x, t.vx), ay = fma(left, t.y, t.vy), az = fma(left, t.z, t.vz);
                vf atoi = fma(t.x, z.vx - wx, fma(t.y, z.vy - wy, t.z * (z.vz - wz)));
                atoi = ((raw > 0.0f) & (raw < h)) ? atoi : (vf)0.0f;
                vf akeep = fma(ax, tx, fma(ay, ty, az * tz));
                akeep = keep > 0.0f ? akeep : (vf)0.0f;
                vf aback = fma(ax, nx, fma(ay, ny, az * nz));
                vf vs = vn * slow;
                vf zero = (vf)0.0f;
                sums.e += hit ? fma(akeep * mu, vs, -(vn * aback)) : zero;
                sums.mu += hit ? akeep * (1.0f + e) * vs : zero;
                vf turn = -(akeep * rub * vs * slow * slow);
                vf ox = fma(keep, ax, turn * tx), oy = fma(keep, ay, turn * ty);
                vf oz = fma(keep, az, turn * tz);
                vf avn = fma(akeep * rub, slow, -(e * aback)) + atoi * height / (safe * safe);
                avn -= fma(ox, nx, fma(oy, ny, oz * nz));
                vf ah = hit ? -(atoi / safe) : zero;
                bx = hit ? fma(toi, t.x, fma(avn, nx, ox)) : bx;
                by = hit ? fma(toi, t.y, fma(avn, ny, oy)) : by;
                bz = hit ? fma(toi, t.z, fma(avn, nz, oz)) : bz;
                t.x = fma(ah, nx, t.x); t.y = fma(ah, ny, t.y); t.z = fma(ah, nz, t.z);
            }
        }
    };
"""

_FACTOR_ADJOINT = """
    auto turn_ground = [&](Node z, Adjoint& t, vf& bx, vf& by, vf& bz, Sums& sums, vf, vf mu) {
        vf height = fma(nx, z.x, fma(ny, z.y, nz * z.z)) - offset;
        vf vn = fma(nx, z.vx, fma(ny, z.vy, nz * z.vz));
        vi under = fma(vn, (vf)h, height) <= 0.0f;
        if (!__builtin_reduce_or(under)) return;
        const vf zero = (vf)0.0f;
        vf along = under ? fma(nx, t.x, fma(ny, t.y, nz * t.z)) : zero;
        vf lost = fma(nx, t.vx, fma(ny, t.vy, nz * t.vz));
        t.x = fma(-along, nx, t.x); t.y = fma(-along, ny, t.y); t.z = fma(-along, nz, t.z);
        bx = under ? fma((vf)h, t.x, mu * fma(-lost, nx, t.vx)) : bx;
        by = under ? fma((vf)h, t.y, mu * fma(-lost, ny, t.vy)) : by;
        bz = under ? fma((vf)h, t.z, mu * fma(-lost, nz, t.vz)) : bz;
        vf slid = fma(t.vx, z.vx, fma(t.vy, z.vy, fma(t.vz, z.vz, -(lost * vn))));
        sums.mu += under ? slid : zero;
    };
"""


def ground_source(law: GroundLaw) -> str:
    """The end of a substep.

    Args:
        law: of the ground.

    Returns:
        C++ statements that define `move`.
    """
    return _FACTOR if law is GroundLaw.FACTOR else _COULOMB


def ground_adjoint_source(law: GroundLaw) -> str:
    """Its derivative.

    Args:
        law: of the ground.

    Returns:
        C++ statements that define `turn_ground`.
    """
    return _FACTOR_ADJOINT if law is GroundLaw.FACTOR else _COULOMB_ADJOINT
