"""Box colliders in the SIMD bodies: contact of a vector of nodes with each box, and its derivative.

`set_boxes` finds the boxes at the end of a substep, `boxes` moves the start and changes the
velocity of nodes that would end inside one (the reference is `contact.box_response`), `turn_boxes`
turns that round. A body without boxes gets stand-ins that the compiler removes.

The array ``box`` holds: 1 / frame; per box half edges and margin; per lane restitution and
friction; then x y z qw qx qy qz per frame, box and lane. One world has one lane here.
"""

from __future__ import annotations

import torch

from physgym.sim.contact import BoxCollider
from physgym.sim.rollout import Plan
from physgym.sim.spring_mass.model import Coefficients

__all__ = ["box_adjoint_source", "box_floats", "box_source"]

_NO_BOX = """
    auto set_boxes = [](int, int) {};
    auto boxes = [](Node p) -> Node { return p; };
"""

_BOX = """
    constexpr int BOXES = @BOXES@;
    constexpr bool PER_LANE = @PER_LANE@;
    constexpr int L = PER_LANE ? W : 1;
    const float* box_lane = box.data + 1 + 4 * BOXES;
    auto of_lane = [&](size_t k) -> vf {
        return PER_LANE ? ld(box_lane + k * L) : (vf)box_lane[k];
    };
    const vf box_e = of_lane(0), box_mu = of_lane(1);
    struct Box { vf cx, cy, cz, vx, vy, vz, ox, oy, oz, r[9]; };
    Box box_now[BOXES];
    // boxes at the end of substep s - 1 of frame f
    auto set_boxes = [&](int f, int s) {
        const float rate = box.data[0];
        const vf back = 1.0f - weight_of(s);
        for (int b = 0; b < BOXES; ++b) {
            vf from[7], step[7], now[7];
            for (int a = 0; a < 7; ++a) {
                from[a] = of_lane(2 + (size_t)(f * BOXES + b) * 7 + a);
                vf to = of_lane(2 + (size_t)((f + 1) * BOXES + b) * 7 + a);
                step[a] = to - from[a];
                now[a] = fma(-back, step[a], to);
            }
            Box& k = box_now[b];
            k.cx = now[0]; k.cy = now[1]; k.cz = now[2];
            k.vx = step[0] * rate; k.vy = step[1] * rate; k.vz = step[2] * rate;
            vf w = now[3], x = now[4], y = now[5], z = now[6];
            vf inv = 1.0f / fma(w, w, fma(x, x, fma(y, y, z * z)));
            // a turn from a to b: vector part of (b - a) a*, which the path along b - a keeps
            vf w0 = from[3], x0 = from[4], y0 = from[5], z0 = from[6];
            vf dw = step[3], dx = step[4], dy = step[5], dz = step[6];
            vf turn = 2.0f * rate * inv;
            k.ox = turn * (fma(w0, dx, -(dw * x0)) + fma(y0, dz, -(z0 * dy)));
            k.oy = turn * (fma(w0, dy, -(dw * y0)) + fma(z0, dx, -(x0 * dz)));
            k.oz = turn * (fma(w0, dz, -(dw * z0)) + fma(x0, dy, -(y0 * dx)));
            vf two = 2.0f * inv;
            k.r[0] = fma(-two, fma(y, y, z * z), (vf)1.0f);
            k.r[4] = fma(-two, fma(x, x, z * z), (vf)1.0f);
            k.r[8] = fma(-two, fma(x, x, y * y), (vf)1.0f);
            k.r[1] = two * fma(x, y, -(w * z)); k.r[3] = two * fma(x, y, w * z);
            k.r[2] = two * fma(x, z, w * y); k.r[6] = two * fma(x, z, -(w * y));
            k.r[5] = two * fma(y, z, -(w * x)); k.r[7] = two * fma(y, z, w * x);
        }
    };
    // signed distance and normal; bend is 1 / distance to the box where the normal turns with the
    // place, on says along which edges of the box
    struct Near { vi touch; vf d, nx, ny, nz, bend, on[3]; };
    auto near_box = [&](int b, vf rx, vf ry, vf rz) -> Near {
        const float* shape = box.data + 1 + 4 * b;
        const vf margin = shape[3];
        const vf* r = box_now[b].r;
        vf p[3], q[3], n[3];
        for (int a = 0; a < 3; ++a) {
            p[a] = fma(r[a], rx, fma(r[3 + a], ry, r[6 + a] * rz));
            q[a] = vabs(p[a]) - shape[a];
        }
        vf deepest = vmax(vmax(q[0], q[1]), q[2]);
        Near g = {};
        g.touch = deepest < margin;
        if (!__builtin_reduce_or(g.touch)) return g;
        vi outside = deepest > 0.0f;
        vf sx = vmax(q[0], (vf)0.0f), sy = vmax(q[1], (vf)0.0f), sz = vmax(q[2], (vf)0.0f);
        vf s2 = vmax(fma(sx, sx, fma(sy, sy, sz * sz)), (vf)1.0e-30f);
        vf inv = rsqrt(s2);
        g.d = (outside ? s2 * inv : deepest) - margin;
        g.touch = g.touch & (g.d < 0.0f);
        vi x = q[0] == deepest, y = ~x & (q[1] == deepest), z = ~x & ~y;
        n[0] = outside ? sx * inv : (x ? (vf)1.0f : (vf)0.0f);
        n[1] = outside ? sy * inv : (y ? (vf)1.0f : (vf)0.0f);
        n[2] = outside ? sz * inv : (z ? (vf)1.0f : (vf)0.0f);
        for (int a = 0; a < 3; ++a) {
            n[a] = p[a] < 0.0f ? -n[a] : n[a];
            g.on[a] = q[a] > 0.0f ? (vf)1.0f : (vf)0.0f;
        }
        g.bend = outside ? inv : (vf)0.0f;
        g.nx = fma(r[0], n[0], fma(r[1], n[1], r[2] * n[2]));
        g.ny = fma(r[3], n[0], fma(r[4], n[1], r[5] * n[2]));
        g.nz = fma(r[6], n[0], fma(r[7], n[1], r[8] * n[2]));
        return g;
    };
    // what forward and backward need of an impact
    struct Hit {
        Near g;
        vi hit;
        vf rx, ry, rz, sx, sy, sz, vn, tx, ty, tz, slow, keep, back, raw, left, push, dx, dy, dz;
    };
    auto hit_box = [&](int b, Node p) -> Hit {
        const Box& k = box_now[b];
        Hit o;
        o.rx = fma(p.vx, (vf)h, p.x) - k.cx; o.ry = fma(p.vy, (vf)h, p.y) - k.cy;
        o.rz = fma(p.vz, (vf)h, p.z) - k.cz;
        o.g = near_box(b, o.rx, o.ry, o.rz);
        if (!__builtin_reduce_or(o.g.touch)) return o;
        o.sx = p.vx - k.vx - fma(k.oy, o.rz, -(k.oz * o.ry));
        o.sy = p.vy - k.vy - fma(k.oz, o.rx, -(k.ox * o.rz));
        o.sz = p.vz - k.vz - fma(k.ox, o.ry, -(k.oy * o.rx));
        o.vn = fma(o.sx, o.g.nx, fma(o.sy, o.g.ny, o.sz * o.g.nz));
        o.hit = o.g.touch & (o.vn < 0.0f);
        o.tx = fma(-o.vn, o.g.nx, o.sx); o.ty = fma(-o.vn, o.g.ny, o.sy);
        o.tz = fma(-o.vn, o.g.nz, o.sz);
        vf t2 = fma(o.tx, o.tx, fma(o.ty, o.ty, o.tz * o.tz)) + 1.0e-12f;
        o.slow = rsqrt(t2);
        o.keep = vmax(fma(box_mu * (1.0f + box_e) * o.vn, o.slow, (vf)1.0f), (vf)0.0f);
        o.back = (1.0f + box_e) * o.vn;
        vf lose = o.keep - 1.0f, zero = (vf)0.0f;
        o.dx = o.hit ? fma(lose, o.tx, -(o.back * o.g.nx)) : zero;
        o.dy = o.hit ? fma(lose, o.ty, -(o.back * o.g.ny)) : zero;
        o.dz = o.hit ? fma(lose, o.tz, -(o.back * o.g.nz)) : zero;
        o.raw = o.g.d / (o.hit ? o.vn : (vf)-1.0f);
        o.left = o.hit ? vmin(vmax(o.raw, zero), (vf)h) : zero;
        o.push = vmax(fma(o.left, o.back, -o.g.d), zero);
        return o;
    };
    auto meet_box = [&](int b, Node p) -> Node {
        Hit o = hit_box(b, p);
        if (!__builtin_reduce_or(o.g.touch)) return p;
        vf toi = h - o.left;
        p.x = o.g.touch ? fma(-toi, o.dx, fma(o.push, o.g.nx, p.x)) : p.x;
        p.y = o.g.touch ? fma(-toi, o.dy, fma(o.push, o.g.ny, p.y)) : p.y;
        p.z = o.g.touch ? fma(-toi, o.dz, fma(o.push, o.g.nz, p.z)) : p.z;
        p.vx = p.vx + o.dx; p.vy = p.vy + o.dy; p.vz = p.vz + o.dz;
        return p;
    };
    // start and velocity with which a free substep ends where the boxes let it
    auto boxes = [&](Node p) -> Node {
        for (int b = 0; b < BOXES; ++b) p = meet_box(b, p);
        return p;
    };
"""

_NO_BOX_ADJOINT = """
    auto turn_boxes = [](Node, Adjoint&, vf&, vf&, vf&, Sums&) {};
"""

_BOX_ADJOINT = """
    // t.x t.y t.z: adjoint of the start, bx by bz: of the velocity; `change` is the impact's
    auto turn_box = [&](int b, Node p, Adjoint& t, vf& bx, vf& by, vf& bz, Sums& sums) {
        Hit o = hit_box(b, p);
        if (!__builtin_reduce_or(o.g.touch)) return;
        const Box& k = box_now[b];
        const vf zero = (vf)0.0f, nx = o.g.nx, ny = o.g.ny, nz = o.g.nz;
        vf toi = h - o.left;
        vf ax = fma(-toi, t.x, bx), ay = fma(-toi, t.y, by), az = fma(-toi, t.z, bz);
        vf a_push = fma(t.x, nx, fma(t.y, ny, t.z * nz));
        a_push = o.push > 0.0f ? a_push : zero;
        vf a_left = fma(t.x, o.dx, fma(t.y, o.dy, t.z * o.dz)) + a_push * o.back;
        a_left = (o.hit & (o.raw > 0.0f) & (o.raw < h)) ? a_left : zero;
        vf a_back = fma(a_push, o.left, -fma(ax, nx, fma(ay, ny, az * nz)));
        vf inv = 1.0f / (o.hit ? o.vn : (vf)-1.0f);
        vf a_d = fma(a_left, inv, -a_push);
        vf a_keep = fma(ax, o.tx, fma(ay, o.ty, az * o.tz));
        a_keep = o.keep > 0.0f ? a_keep : zero;
        vf rub = box_mu * (1.0f + box_e), vs = o.vn * o.slow;
        sums.box_e += o.hit ? fma(a_back, o.vn, a_keep * box_mu * vs) : zero;
        sums.box_mu += o.hit ? a_keep * (1.0f + box_e) * vs : zero;
        vf lose = o.keep - 1.0f, turn = -(a_keep * rub * vs * o.slow * o.slow);
        vf ux = fma(lose, ax, turn * o.tx), uy = fma(lose, ay, turn * o.ty);
        vf uz = fma(lose, az, turn * o.tz);
        vf a_vn = fma(a_back, 1.0f + box_e, a_keep * rub * o.slow) - a_left * o.raw * inv;
        a_vn -= fma(ux, nx, fma(uy, ny, uz * nz));
        // adjoints of the slip, then of the normal
        vf wx = o.hit ? fma(a_vn, nx, ux) : zero, wy = o.hit ? fma(a_vn, ny, uy) : zero;
        vf wz = o.hit ? fma(a_vn, nz, uz) : zero;
        vf mx = o.push * t.x, my = o.push * t.y, mz = o.push * t.z;
        mx += o.hit ? fma(a_vn, o.sx, -fma(o.back, ax, o.vn * ux)) : zero;
        my += o.hit ? fma(a_vn, o.sy, -fma(o.back, ay, o.vn * uy)) : zero;
        mz += o.hit ? fma(a_vn, o.sz, -fma(o.back, az, o.vn * uz)) : zero;
        // adjoint of where the free substep ends: surface velocity, distance, turning normal
        vf gx = fma(a_d, nx, fma(k.oy, wz, -(k.oz * wy)));
        vf gy = fma(a_d, ny, fma(k.oz, wx, -(k.ox * wz)));
        vf gz = fma(a_d, nz, fma(k.ox, wy, -(k.oy * wx)));
        vf along = fma(mx, nx, fma(my, ny, mz * nz)) * o.g.bend;
        gx = fma(-along, nx, gx); gy = fma(-along, ny, gy); gz = fma(-along, nz, gz);
        for (int a = 0; a < 3; ++a) {
            vf part = fma(k.r[a], mx, fma(k.r[3 + a], my, k.r[6 + a] * mz)) * o.g.on[a] * o.g.bend;
            gx = fma(k.r[a], part, gx); gy = fma(k.r[3 + a], part, gy);
            gz = fma(k.r[6 + a], part, gz);
        }
        gx = o.g.touch ? gx : zero; gy = o.g.touch ? gy : zero; gz = o.g.touch ? gz : zero;
        t.x += gx; t.y += gy; t.z += gz;
        bx += fma((vf)h, gx, wx); by += fma((vf)h, gy, wy); bz += fma((vf)h, gz, wz);
    };
    auto turn_boxes = [&](Node p, Adjoint& t, vf& bx, vf& by, vf& bz, Sums& sums) {
        Node before[BOXES];
        before[0] = p;
        for (int b = 0; b + 1 < BOXES; ++b) before[b + 1] = meet_box(b, before[b]);
        for (int b = BOXES - 1; b >= 0; --b) turn_box(b, before[b], t, bx, by, bz, sums);
    };
"""


def box_source(boxes: int, *, per_lane: bool) -> str:
    """Statements that follow `native.COMMON`.

    Args:
        boxes: number of colliders.
        per_lane: True where each lane is a world with poses of its own.

    Returns:
        C++ statements; ``set_boxes`` and ``boxes`` are defined after them.
    """
    if boxes == 0:
        return _NO_BOX
    return _BOX.replace("@BOXES@", str(boxes)).replace("@PER_LANE@", str(per_lane).lower())


def box_adjoint_source(boxes: int) -> str:
    """Statements that the adjoint needs besides `box_source`.

    Args:
        boxes: number of colliders.

    Returns:
        C++ statements; ``turn_boxes`` is defined after them.
    """
    return _BOX_ADJOINT if boxes else _NO_BOX_ADJOINT


def box_floats(
    colliders: tuple[BoxCollider, ...], plan: Plan, given: Coefficients, worlds: torch.Tensor
) -> torch.Tensor:
    """The array ``box`` of one block.

    Args:
        colliders: the model's.
        plan: how time is cut.
        given: with restitution, friction and poses.
        worlds: world of each lane, shape (L,).

    Returns:
        Float32, one axis; empty without colliders.
    """
    if not colliders:
        return torch.zeros(0)

    def lanes(value: torch.Tensor) -> torch.Tensor:
        wide = value[worlds] if value.shape[0] > 1 else value.expand(len(worlds), *value.shape[1:])
        return wide.movedim(0, -1).flatten()

    shape = [number for box in colliders for number in (*box.half_m, box.margin_m)]
    return torch.cat(
        [
            torch.tensor([1.0 / plan.frame_dt_s, *shape]),
            lanes(given.collider_restitution),
            lanes(given.collider_friction),
            lanes(given.collider_pose),
        ]
    )
