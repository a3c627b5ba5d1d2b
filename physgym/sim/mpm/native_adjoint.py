"""SIMD body that walks the frames of one world backwards.

A frame is cut where the forward pass sorts. One pass finds the states at the cuts; then each piece,
last first, is run again with its states and grid velocities kept, and turned round substep by
substep: adjoint of grid to particles (a scatter), of the grid, and of particles to grid (a gather).
"""

from __future__ import annotations

from functools import cache

from physgym.sim.mpm.native import FLOATS, INTS, STEP, instantiate, work_floats
from physgym.sim.mpm.native_boundary import BOUNDARY
from physgym.sim.mpm.native_common import COMMON, ROWS
from physgym.sim.mpm.native_material import MATERIAL
from physgym.sim.mpm.native_material_adjoint import MATERIAL_ADJOINT
from physgym.sim.mpm.native_operator import OPERATOR, OPERATOR_ADJOINT
from physgym.sim.mpm.native_transfer import TRANSFER
from physgym.sim.native_kernel import NativeKernel

__all__ = ["adjoint_floats", "adjoint_kernel"]

_GRID = """
    // adjoint of grid velocities into that of node masses and momenta; `before` has mass and
    // velocity before contact
    auto grid_adjoint = [&](float* ga, const float* before, Window win, const float* table,
                            int floats) {
        for (int c = K - 1; c >= 0; --c) {
            const float* r = table + c * 25;
            if ((int)r[1] == PENALTY) continue;
            each_node(r, win, before, [&](int at, Vec x) {
                Touch t = touch(r, x);
                if (t.gap > 1.0e-6f) return;
                Vec v{before[at + 1], before[at + 2], before[at + 3]};
                for (int e = 0; e < c; ++e) {
                    const int condition = (int)table[e * 25 + 1];
                    if (condition == PENALTY) continue;
                    Touch u = touch(table + e * 25, x);
                    if (u.gap <= 1.0e-6f) v = after_contact(condition, v, u, friction.data[e]);
                }
                Vec g{ga[at + 1], ga[at + 2], ga[at + 3]};
                grad_friction.data[c] += contact_adjoint((int)r[1], v, t, friction.data[c], g);
                ga[at + 1] = g.x; ga[at + 2] = g.y; ga[at + 3] = g.z;
            });
        }
        for (int a = 0; a < floats; a += W) {
            vf g = ld(before + a), b = ld(ga + a);
            vf m = __builtin_shufflevector(g, g, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8,
                                           12, 12, 12, 12);
            vf p = b / m, e = (g - gravity) * p;
            vf s1 = __builtin_shufflevector(e, e, 1, 1, 2, 3, 5, 5, 6, 7, 9, 9, 10, 11,
                                            13, 13, 14, 15);
            vf s2 = __builtin_shufflevector(e, e, 2, 1, 2, 3, 6, 5, 6, 7, 10, 9, 10, 11,
                                            14, 13, 14, 15);
            vf s3 = __builtin_shufflevector(e, e, 3, 1, 2, 3, 7, 5, 6, 7, 11, 9, 10, 11,
                                            15, 13, 14, 15);
            p = __builtin_shufflevector(p, -(s1 + s2 + s3), 16, 1, 2, 3, 20, 5, 6, 7,
                                        24, 9, 10, 11, 28, 13, 14, 15);
            st(ga + a, m > MIN_MASS ? p : (vf)0.0f);
        }
    };
    // sum over nodes of (slope of w) g . (affine field of the particle), for two grids
    auto slopes = [&](const float* g1, const float* r1, const float* g2, const float* r2,
                      float* rec, const Weights& w, int sx, int sy) INLINE {
        for (int l = 0; l < W; ++l) {
            vf t[3], d[3];
            const vf y0 = (vf)w.w[3][l], y1 = (vf)w.w[4][l], y2 = (vf)w.w[5][l];
            const vf d0 = (vf)w.d[3][l], d1 = (vf)w.d[4][l], d2 = (vf)w.d[5][l];
            const float* p = r1 + l * W;
            const float* q = r2 + l * W;
            vf b1 = fma(KZ, quad(p + 12), quad(p)), x1 = quad(p + 4), e1 = quad(p + 8);
            vf b2 = fma(KZ, quad(q + 12), quad(q)), x2 = quad(q + 4), e2 = quad(q + 8);
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                const float* u = g1 + w.at[l] + i * sx;
                const float* v = g2 + w.at[l] + i * sx;
                vf z0 = fma(ld(u), b1, ld(v) * b2);
                vf z1 = fma(ld(u + sy), b1 + e1, ld(v + sy) * (b2 + e2));
                vf z2 = fma(ld(u + 2 * sy), fma((vf)2.0f, e1, b1),
                            ld(v + 2 * sy) * fma((vf)2.0f, e2, b2));
                t[i] = fma(z2, y2, fma(z1, y1, z0 * y0));
                d[i] = fma(z2, d2, fma(z1, d1, z0 * d0));
                b1 += x1; b2 += x2;
            }
            const vf wz = spread(w.w[6][l], w.w[7][l], w.w[8][l]);
            const vf dz = spread(w.d[6][l], w.d[7][l], w.d[8][l]);
            vf x = fma(t[2], (vf)w.d[2][l], fma(t[1], (vf)w.d[1][l], t[0] * w.d[0][l])) * wz;
            vf y = fma(d[2], (vf)w.w[2][l], fma(d[1], (vf)w.w[1][l], d[0] * w.w[0][l])) * wz;
            vf z = fma(t[2], (vf)w.w[2][l], fma(t[1], (vf)w.w[1][l], t[0] * w.w[0][l])) * dz;
            st(rec + l * W, sum_nodes(x, y, z, z));
        }
    };
"""

_TURN = """
    const int M = period < n ? period : n, pieces = (n + M - 1) / M;
    const size_t SZ = (size_t)NB * ROWS * W, RAW = (size_t)P * ROWS;
    float* starts = spare_i + (size_t)P * 18;     // [pieces][P * 24] states at the cuts
    float* keep = starts + pieces * RAW;          // [M][NB][24][16]
    float* keep_v = keep + M * SZ;                // [M][NB][3][16] velocities from the grid
    float* adj = keep_v + (size_t)M * NB * 3 * W; // [NB][24][16]
    float* law_b = adj + SZ;                      // [NB][8][16] adjoints of the constants
    float* op_b = law_b + (size_t)NB * NC * W;    // [NB][NO + NP][16] adjoints of the operators
    float* raw = op_b + (size_t)NB * NA * W;      // adjoint in the particles' own order
    const size_t GZ = (size_t)capacity * 4;
    float* moved = grid.data + GZ;                // velocities after contact
    float* before = grid.data + 2 * GZ;           // [M or 1] mass and velocity before contact
    const bool keeps = ci.data[7];                // the grids of all M substeps, or of one
    Window wins[64];

    auto unplace = [&](int frame, int step) {
        const float back = 1.0f - (step >= n ? 1.0f : (float)step / (float)n);
        for (int d = 0; d < D; ++d) {
            float* g0 = grad_driven.data + ((size_t)frame * D + d) * 3;
            float* g1 = g0 + (size_t)D * 3;
            const int at = slot[driven_index.data[d]];
            float* q = adj + (size_t)(at / W) * ROWS * W + at % W;
            for (int k = 0; k < 3; ++k) {
                float gx = q[k * W], gv = q[(3 + k) * W] * inv_frame;
                g1[k] += (1.0f - back) * gx + gv;
                g0[k] += back * gx - gv;
                q[k * W] = 0.0f; q[(3 + k) * W] = 0.0f;
            }
        }
    };
    // adjoint of `press`, from the velocities of g on
    auto unpress = [&](const float* q, float* g, int b, const float* table, float* to) INLINE {
        float v[3 * W];
        __builtin_memcpy(v, q + 3 * W, sizeof(v));
        int count = 0;
        // in the order in which they act; `MpmModel` allows six planes
        struct Kept { int l, c; Press p; Vec v; } kept[6 * W];
        each_pressed(q, constant + (size_t)b * NC * W, table, [&](int l, int c, const Press& p) {
            Vec before{v[l], v[W + l], v[2 * W + l]};
            kept[count++] = Kept{l, c, p, before};
            Vec made = pressed(before, p, friction.data[c]);
            v[l] = made.x; v[W + l] = made.y; v[2 * W + l] = made.z;
        });
        for (int e = count - 1; e >= 0; --e) {
            const Kept& k = kept[e];
            const float* own = constant + (size_t)b * NC * W + k.l;
            const float* r = table + k.c * 25;
            float* gv = g + 3 * W + k.l;
            Vec after{gv[0], gv[W], gv[2 * W]}, a = after;
            float kick_b;
            grad_friction.data[k.c] += pressed_adjoint(k.v, k.p, friction.data[k.c], a, kick_b);
            gv[0] = a.x; gv[W] = a.y; gv[2 * W] = a.z;
            // the plane's own velocity at the particle turns with its position
            Vec own_b = axpy(-1.0f, a, after), spin{r[21], r[22], r[23]};
            const float depth_b = kick_b * dt * k.p.rate, rate_b = kick_b * dt * k.p.depth;
            Vec x = axpy(-depth_b, k.p.t.n, Vec{own_b.y * spin.z - own_b.z * spin.y,
                own_b.z * spin.x - own_b.x * spin.z, own_b.x * spin.y - own_b.y * spin.x});
            g[k.l] += x.x; g[W + k.l] += x.y; g[2 * W + k.l] += x.z;
            const float modulus_b = rate_b * k.p.side * k.p.side * inv_h / own[MASS * W];
            to[LAM * W + k.l] += modulus_b;
            to[MU * W + k.l] += 2.0f * modulus_b;
            to[MASS * W + k.l] -= rate_b * k.p.rate / own[MASS * W];
        }
    };
    auto turn = [&](const float* s, const float* free_v, const float* pre, Window win, int frame,
                    int step) {
        const float* table = records.data + ((size_t)frame * n + step) * K * 25;
        const int sy = win.nz * 4, sx = win.ny * sy, floats = win.nx * sx;
        float* ga = grid.data;
        __builtin_memset(ga, 0, ((size_t)floats + 32) * sizeof(float));
        __builtin_memcpy(moved, pre, (size_t)floats * sizeof(float));
        __builtin_memset(moved + floats, 0, 32 * sizeof(float));
        boundaries(moved, win, table);
        float rec[W * W], rec2[W * W];
        Weights w;
        const float unit = 4.0f * inv_h * inv_h;
        Cell cell;
        cell.at = -1;
        for (int b = 0; b < NB; ++b) {
            float* g = adj + (size_t)b * ROWS * W;
            Place p = place(s + (size_t)b * ROWS * W, win);
            weigh(p, w, false);
            vf v[3];
            Mat c;
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                v[i] = fma(ld(g + i * W), (vf)dt, ld(g + (3 + i) * W));
                st(g + (3 + i) * W, v[i]);
            }
#pragma unroll
            for (int i = 0; i < 9; ++i) c.a[i] = ld(g + (15 + i) * W) * unit;
            affine_records(rec, (vf)0.0f, v, c, p);
            scatter(cell, ga, rec, w, sx, sy);
        }
        flush(cell, ga, sx, sy);
        grid_adjoint(ga, pre, win, table, floats);
        vi bad = (vi)0;
        for (int b = 0; b < NB; ++b) {
            const float* q = s + (size_t)b * ROWS * W;
            float* g = adj + (size_t)b * ROWS * W;
            float* to = law_b + (size_t)b * NC * W;
            Mat f = load_mat(q + 6 * W), c = load_mat(q + 15 * W);
            Mat ft = trial(f, c), after = ft;
            Law law = law_of(b);
            Kept kept;
            Sym prior = material(after, c, law, bad, kept), tau = prior;
            if (NO) tau = operate(operators + (size_t)b * NA * W, prior, after);
            if (DAMPED) tau = add_viscous(tau, after, c, law);
            vf m;
            Mat a = affine_of(b, c, tau, m);
            vf v[3], vb[3], push[3], sum[3], node_m;
            Mat cb, mom;
            float at_start[6 * W];   // positions, and velocities before planes pushed
            __builtin_memcpy(at_start, q, sizeof(at_start));
            press(at_start, b, table);
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                v[i] = ld(at_start + (3 + i) * W); push[i] = m * v[i];
                vb[i] = ld(g + (3 + i) * W);
            }
#pragma unroll
            for (int i = 0; i < 9; ++i) cb.a[i] = ld(g + (15 + i) * W) * unit;
            Place p = place(q, win);
            weigh(p, w, true);
            affine_records(rec, (vf)0.0f, vb, cb, p);
            affine_records(rec2, m, push, a, p);
            float out[W * W];
            slopes(moved, rec, ga, rec2, out, w, sx, sy);
            gather(ga, rec, w, sx, sy);
            moments(rec, p, &node_m, sum, mom);
            vf r[16];
#pragma unroll
            for (int l = 0; l < W; ++l) r[l] = ld(out + l * W);
            transpose(r);
            const float* fv = free_v + (size_t)b * 3 * W;
            vf n0 = ld(fv), n1 = ld(fv + W), n2 = ld(fv + 2 * W);
            vf mass_b = node_m + dots(c, mom);
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                vf x = ld(g + i * W) + ((r[4 * i] + r[4 * i + 1]) + (r[4 * i + 2] + r[4 * i + 3]));
                x -= fma(cb.a[i], n0, fma(cb.a[3 + i], n1, cb.a[6 + i] * n2));
                x -= fma(a.a[i], sum[0], fma(a.a[3 + i], sum[1], a.a[6 + i] * sum[2]));
                st(g + i * W, x);
                st(g + (3 + i) * W, m * sum[i]);
                mass_b = fma(v[i], sum[i], mass_b);
            }
            const vf s4 = ld(constant + ((size_t)b * NC + VOLUME) * W) * (-dt * unit);
            Mat tb, grad_b;
#pragma unroll
            for (int i = 0; i < 9; ++i) { tb.a[i] = s4 * mom.a[i]; grad_b.a[i] = m * mom.a[i]; }
            LawBar lb{(vf)0.0f, (vf)0.0f, (vf)0.0f, (vf)0.0f, (vf)0.0f, (vf)0.0f,
                      op_b + ((size_t)b * NA + NO) * W};
            Mat fb = load_mat(g + 6 * W);
            if (DAMPED) viscous_adjoint(after, c, law, tb, fb, grad_b, lb);
            if (NO) operate_adjoint(operators + (size_t)b * NA * W, prior, after, tb, fb,
                                    op_b + (size_t)b * NA * W);
            fb = material_adjoint(kept, ft, c, law, tb, fb, grad_b, lb);
            Mat more = mul_t(fb, f), back = t_mul(c, fb);
#pragma unroll
            for (int i = 0; i < 9; ++i) {
                st(g + (15 + i) * W, fma(more.a[i], (vf)dt, grad_b.a[i]));
                st(g + (6 + i) * W, fma(back.a[i], (vf)dt, fb.a[i]));
            }
            add(to + MU * W, lb.mu); add(to + LAM * W, lb.lam);
            add(to + YIELD * W, lb.yield); add(to + ALPHA * W, lb.alpha);
            add(to + COHESION * W, lb.cohesion); add(to + VISCOSITY * W, lb.viscosity);
            add(to + MASS * W, mass_b);
            unpress(q, g, b, table, to);
        }
    };
    auto flush_constants = [&]() {
        for (int s = 0; s < P; ++s) for (int k = 0; k < MASS + 1; ++k)
            grad_coef.data[(size_t)k * P + order[s]] +=
                law_b[((size_t)(s / W) * NC + k) * W + s % W];
        for (int s = 0; s < P; ++s) for (int k = 0; k < NA; ++k)
            grad_operator.data[(size_t)order[s] * NA + k] +=
                op_b[((size_t)(s / W) * NA + k) * W + s % W];
    };
    auto start_piece = [&](int f, int g) -> bool {
        const float* x = starts + g * RAW;
        if (!begin(x, x + (size_t)P * 3, x + (size_t)P * 6, state)) return false;
        if (g == 0) put_driven(state, f, 0, inv_frame);
        return true;
    };
"""

_DRIVER = """
    for (int f = F - 1; f >= 0; --f) {
        const size_t at = (size_t)f * P;
        __builtin_memcpy(starts, xs.data + at * 3, (size_t)P * 3 * sizeof(float));
        __builtin_memcpy(starts + (size_t)P * 3, vs.data + at * 3, (size_t)P * 3 * sizeof(float));
        __builtin_memcpy(starts + (size_t)P * 6, internals.data + at * 18,
                         (size_t)P * 18 * sizeof(float));
        Window win;
        for (int g = 0; g + 1 < pieces; ++g) {
            if (!start_piece(f, g)) return;
            for (int s = g * M; s < (g + 1) * M; ++s)
                if (!substep(state, grid.data, f, s, win, nullptr, nullptr)) return;
            float* to = starts + (g + 1) * RAW;
            store_rows(state, to, to + (size_t)P * 3, to + (size_t)P * 6);
        }
        for (int g = pieces - 1; g >= 0; --g) {
            const int first = g * M, some = n - first < M ? n - first : M;
            if (!start_piece(f, g)) return;
            for (int s = 0; s < some; ++s) {
                __builtin_memcpy(keep + s * SZ, state, SZ * sizeof(float));
                if (!substep(state, grid.data, f, first + s, wins[s], before + (keeps ? s * GZ : 0),
                             keep_v + (size_t)s * NB * 3 * W)) return;
            }
            const bool last = g == pieces - 1;
            if (last) load_rows(grad_x.data + (at + P) * 3, grad_v.data + (at + P) * 3,
                                grad_i.data + (at + P) * 18, adj);
            else load_rows(raw, raw + (size_t)P * 3, raw + (size_t)P * 6, adj);
            for (int s = P; s < NB * W; ++s) for (int k = 0; k < ROWS; ++k)
                adj[((size_t)(s / W) * ROWS + k) * W + s % W] = 0.0f;   // padding
            __builtin_memset(law_b, 0, (size_t)NB * (NC + NA) * W * sizeof(float));
            for (int s = some - 1; s >= 0; --s) {
                float* velocity = keep_v + (size_t)s * NB * 3 * W;
                if (!keeps) {
                    __builtin_memcpy(state, keep + s * SZ, SZ * sizeof(float));
                    if (!substep(state, grid.data, f, first + s, wins[s], before, velocity)) return;
                }
                unplace(f, first + s + 1);
                turn(keep + s * SZ, velocity, before + (keeps ? s * GZ : 0), wins[s], f, first + s);
            }
            if (g == 0) unplace(f, 0);
            flush_constants();
            store_rows(adj, raw, raw + (size_t)P * 3, raw + (size_t)P * 6);
        }
        for (size_t k = 0; k < (size_t)P * 3; ++k) {
            grad_x.data[at * 3 + k] += raw[k];
            grad_v.data[at * 3 + k] += raw[(size_t)P * 3 + k];
        }
        for (size_t k = 0; k < (size_t)P * 18; ++k)
            grad_i.data[at * 18 + k] += raw[(size_t)P * 6 + k];
    }
"""


def adjoint_floats(particles: int, substeps: int, period: int, operators: int) -> int:
    """Floats of working memory of the backward pass.

    Args:
        particles: P.
        substeps: substeps in a frame.
        period: substeps between sorts.
        operators: numbers of a particle's stress and plastic operator.

    Returns:
        Number of floats.
    """
    slots = -(-particles // 16) * 16
    kept = min(period, substeps)
    pieces = -(-substeps // period)
    return (
        work_floats(particles, operators)
        + (pieces + 1) * particles * ROWS
        + slots * (kept * (ROWS + 3) + ROWS + 8 + operators)
    )


@cache
def adjoint_kernel(
    law: int, return_map: int, operator: bool, plastic: bool, damped: bool
) -> NativeKernel:
    """Kernel that walks all frames of one world backwards.

    Args:
        law: `ElasticLaw.kernel_kind`.
        return_map: `ReturnMap.kernel_kind`.
        operator: whether a stress operator is applied.
        plastic: whether a plastic operator is.
        damped: whether it is a solid with viscosity, or a gradient to it is asked for.

    Returns:
        The kernel.
    """
    material = MATERIAL + OPERATOR + MATERIAL_ADJOINT + OPERATOR_ADJOINT
    source = COMMON + material + TRANSFER + BOUNDARY + STEP + _GRID + _TURN + _DRIVER
    body = instantiate(
        source,
        law=law,
        return_map=return_map,
        operator=operator,
        plastic=plastic,
        damped=damped,
        step="noinline",
    )
    grads = (
        "grad_x", "grad_v", "grad_i", "grad_coef", "grad_operator", "grad_friction", "grad_driven",
    )  # fmt: skip
    return NativeKernel("mpm_adjoint", body, ints=INTS, floats=(*FLOATS, *grads))
