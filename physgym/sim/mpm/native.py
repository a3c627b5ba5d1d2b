"""SIMD body of the MPM substep on CPU: all frames of one world in one launch.

Sixteen particles side by side in a vector; particles sorted by cell every few substeps; the grid
covers exactly the particles, anew in every substep. Scatter and gather run in one order, so the
bits depend on the state alone. The reference is `kernels`, the derivative is `native_adjoint`.
"""

from __future__ import annotations

from functools import cache

from physgym.sim.mpm.native_boundary import BOUNDARY
from physgym.sim.mpm.native_common import COMMON, ROWS
from physgym.sim.mpm.native_material import MATERIAL
from physgym.sim.mpm.native_operator import OPERATOR
from physgym.sim.mpm.native_transfer import TRANSFER
from physgym.sim.native_kernel import NativeKernel

__all__ = ["FLOATS", "INTS", "STEP", "forward_kernel", "instantiate", "work_floats", "work_ints"]

INTS = ("ci", "status", "driven_index", "iwork")
FLOATS = (
    "cf", "xs", "vs", "internals", "coef", "operator_", "friction", "driven", "records",
    "samples", "work", "grid",
)  # fmt: skip
OK, BLEW_UP, NEEDS_ROOM, TOO_SPREAD = 0, 1, 2, 3

STEP = """
    int* order = iwork.data;               // [NB * 16] particle in each slot
    int* slot = order + NB * W;            // [P] slot of each particle
    int* count = slot + P;                 // [capacity + 1] particles up to each cell
    float* state = work.data;              // [NB][24][16]
    float* constant = state + (size_t)NB * ROWS * W;    // [NB][8][16]
    float* operators = constant + (size_t)NB * NC * W;  // [NB][NO + NP][16]
    float* spare_x = operators + (size_t)NB * NA * W;   // a state in the particles' own order
    float* spare_v = spare_x + (size_t)P * 3;
    float* spare_i = spare_v + (size_t)P * 3;
    float lo[3], hi[3];                    // bounds of the particles' positions

    auto window = [&](bool& fits) -> Window {
        int a[3], b[3];
        fits = true;
        double nodes = 1.0;
        for (int k = 0; k < 3; ++k) {
            a[k] = node_of(lo[k]);
            b[k] = node_of(hi[k]) - a[k] + 3;
            nodes *= b[k];
        }
        Window w{a[0], a[1], a[2], b[0], b[1], b[2]};
        if (!(nodes < 500.0e6)) { status.data[0] = 3; fits = false; }
        else if ((int)nodes + 8 > capacity) {
            status.data[0] = 2; status.data[2] = (int)nodes + 8; fits = false;
        }
        return w;
    };
    auto bounds_of = [&](const float* x) {
        for (int k = 0; k < 3; ++k) { lo[k] = x[k]; hi[k] = x[k]; }
        for (int p = 1; p < P; ++p) for (int k = 0; k < 3; ++k) {
            float v = x[3 * p + k];
            lo[k] = v < lo[k] ? v : lo[k]; hi[k] = v > hi[k] ? v : hi[k];
        }
    };
    // counting sort by cell, particles of a cell in their own order
    auto sort = [&](const float* x) -> bool {
        bool fits;
        bounds_of(x);
        Window w = window(fits);
        if (!fits) return false;
        const int cells = w.nx * w.ny * w.nz;
        auto key = [&](int p) INLINE -> int {
            int i = node_of(x[3 * p]) - w.x;
            int j = node_of(x[3 * p + 1]) - w.y;
            int k = node_of(x[3 * p + 2]) - w.z;
            return (i * w.ny + j) * w.nz + k;
        };
        __builtin_memset(count, 0, (size_t)(cells + 1) * sizeof(int));
        for (int p = 0; p < P; ++p) ++count[key(p) + 1];
        for (int c = 0; c < cells; ++c) count[c + 1] += count[c];
        for (int p = 0; p < P; ++p) { int s = count[key(p)]++; order[s] = p; slot[p] = s; }
        for (int s = P; s < NB * W; ++s) order[s] = order[P - 1];   // padding: without mass
        return true;
    };
    auto load_rows = [&](const float* x, const float* v, const float* in, float* to) APART {
        for (int b = 0; b < NB; ++b) for (int l = 0; l < W; ++l) {
            const size_t p = order[b * W + l];
            float* s = to + (size_t)b * ROWS * W + l;
            for (int k = 0; k < 3; ++k) s[k * W] = x[p * 3 + k];
            for (int k = 0; k < 3; ++k) s[(3 + k) * W] = v[p * 3 + k];
            for (int k = 0; k < 18; ++k) s[(6 + k) * W] = in[p * 18 + k];
        }
    };
    auto store_rows = [&](const float* from, float* x, float* v, float* in) APART {
        for (int s = 0; s < P; ++s) {
            const size_t p = order[s];
            const float* q = from + (size_t)(s / W) * ROWS * W + s % W;
            for (int k = 0; k < 3; ++k) x[p * 3 + k] = q[k * W];
            for (int k = 0; k < 3; ++k) v[p * 3 + k] = q[(3 + k) * W];
            for (int k = 0; k < 18; ++k) in[p * 18 + k] = q[(6 + k) * W];
        }
    };
    auto load_constants = [&]() {
        for (int b = 0; b < NB; ++b) for (int l = 0; l < W; ++l) {
            const int s = b * W + l;
            const size_t p = order[s];
            for (int k = 0; k < NC; ++k) {
                float value = coef.data[(size_t)k * P + p];
                constant[((size_t)b * NC + k) * W + l] = s >= P && k >= MASS ? 0.0f : value;
            }
            for (int k = 0; k < NA; ++k)
                operators[((size_t)b * NA + k) * W + l] = operator_.data[p * NA + k];
        }
    };
    auto begin = [&](const float* x, const float* v, const float* in, float* to) APART -> bool {
        if (!sort(x)) return false;
        load_rows(x, v, in, to);
        load_constants();
        return true;
    };
    auto law_of = [&](int b) INLINE -> Law {
        const float* c = constant + (size_t)b * NC * W;
        return Law{ld(c + MU * W), ld(c + LAM * W), ld(c + YIELD * W), ld(c + ALPHA * W),
                   ld(c + COHESION * W), ld(c + VISCOSITY * W),
                   operators + ((size_t)b * NA + NO) * W};
    };
    // what a particle gives to the grid around it: m C - dt V (4/h^2) tau
    auto affine_of = [&](int b, const Mat& c, const Sym& tau, vf& m) INLINE -> Mat {
        const float* k = constant + (size_t)b * NC * W;
        m = ld(k + MASS * W);
        const vf s = ld(k + VOLUME * W) * (-4.0f * dt * inv_h * inv_h);
        Mat t = sym(tau), a;
#pragma unroll
        for (int i = 0; i < 9; ++i) a.a[i] = fma(m, c.a[i], s * t.a[i]);
        return a;
    };
    auto blame = [&](const float* s, int substep, auto bad) {
        int worst = P;
        for (int k = 0; k < P; ++k) {
            const float* q = s + (size_t)(k / W) * ROWS * W + k % W;
            if (order[k] < worst && bad(q)) worst = order[k];
        }
        status.data[0] = 1; status.data[1] = worst < P ? worst : 0; status.data[2] = substep;
    };
    auto put_driven = [&](float* s, int frame, int substep, float inv) APART {
        const float back = 1.0f - (substep >= n ? 1.0f : (float)substep / (float)n);
        // Nodes fall for a step; what holds them must not, or matter around it creeps down.
        const float hold = substep < n ? 1.0f : 0.0f;
        for (int d = 0; d < D; ++d) {
            const float* c0 = driven.data + ((size_t)frame * D + d) * 3;
            const float* c1 = c0 + (size_t)D * 3;
            const int at = slot[driven_index.data[d]];
            float* q = s + (size_t)(at / W) * ROWS * W + at % W;
            for (int k = 0; k < 3; ++k) {
                q[k * W] = c1[k] - back * (c1[k] - c0[k]);
                q[(3 + k) * W] = (c1[k] - c0[k]) * inv - hold * cf.data[4 + k];
            }
        }
    };
    auto block_bounds = [&](const float* s) {   // of blocks, padding lies on a particle
        vf a[3] = {ld(s), ld(s + W), ld(s + 2 * W)}, b[3] = {a[0], a[1], a[2]};
        for (int k = 1; k < NB; ++k) for (int i = 0; i < 3; ++i) {
            vf x = ld(s + ((size_t)k * ROWS + i) * W);
            a[i] = vmin(a[i], x); b[i] = vmax(b[i], x);
        }
        for (int i = 0; i < 3; ++i) {
            lo[i] = __builtin_reduce_min(a[i]); hi[i] = __builtin_reduce_max(b[i]);
        }
    };
    // velocities of sixteen particles after planes have pushed them
    auto press = [&](float* q, int b, const float* table) INLINE {
        each_pressed(q, constant + (size_t)b * NC * W, table, [&](int l, int c, const Press& p) {
            float* v = q + 3 * W + l;
            Vec made = pressed(Vec{v[0], v[W], v[2 * W]}, p, friction.data[c]);
            v[0] = made.x; v[W] = made.y; v[2 * W] = made.z;
        });
    };
    // One substep in place; leaves mass and velocity of the nodes in the grid. `before` gets the
    // velocities before contact, `free_v` those of the particles before driven ones are placed.
    auto substep = [&](float* s, float* g, int frame, int step, Window& win, float* before,
                       float* free_v) @INLINE_STEP@ -> bool {
        bool fits;
        block_bounds(s);
        win = window(fits);
        if (!fits) return false;
        const int sy = win.nz * 4, sx = win.ny * sy, floats = win.nx * sx;
        __builtin_memset(g, 0, ((size_t)floats + 32) * sizeof(float));
        float rec[W * W];
        Weights w;
        vi bad = (vi)0;
        const float* table = records.data + ((size_t)frame * n + step) * K * 25;
        Cell cell;
        cell.at = -1;
        for (int b = 0; b < NB; ++b) {
            float* q = s + (size_t)b * ROWS * W;
            Mat c = load_mat(q + 15 * W), f = trial(load_mat(q + 6 * W), c);
            Kept kept;
            Sym tau = material(f, c, law_of(b), bad, kept);
            if (NO) tau = operate(operators + (size_t)b * NA * W, tau, f);
            if (DAMPED) tau = add_viscous(tau, f, c, law_of(b));
            store_mat(q + 6 * W, f);
            vf m;
            Mat a = affine_of(b, c, tau, m);
            press(q, b, table);
            vf push[3] = {m * ld(q + 3 * W), m * ld(q + 4 * W), m * ld(q + 5 * W)};
            Place p = place(q, win);
            weigh(p, w, false);
            affine_records(rec, m, push, a, p);
            scatter(cell, g, rec, w, sx, sy);
        }
        flush(cell, g, sx, sy);
        if (any(bad)) {
            blame(s, frame * n + step, [&](const float* q) {
                auto at = [&](int k) { return q[(6 + k) * W]; };
                float d = at(0) * (at(4) * at(8) - at(5) * at(7))
                        - at(1) * (at(3) * at(8) - at(5) * at(6))
                        + at(2) * (at(3) * at(7) - at(4) * at(6));
                return !(d > 0.0f);
            });
            return false;
        }
        grid_velocity(g, floats);
        if (before) __builtin_memcpy(before, g, (size_t)floats * sizeof(float));
        boundaries(g, win, table);
        const vf limit = (vf)(h / dt) * (h / dt);
        for (int b = 0; b < NB; ++b) {
            float* q = s + (size_t)b * ROWS * W;
            Place p = place(q, win);
            weigh(p, w, false);
            gather(g, rec, w, sx, sy);
            vf v[3];
            Mat m;
            moments(rec, p, nullptr, v, m);
            bad |= ~(fma(v[0], v[0], fma(v[1], v[1], v[2] * v[2])) < limit);
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                st(q + (3 + i) * W, v[i]);
                st(q + i * W, fma(v[i], (vf)dt, ld(q + i * W)));
                if (free_v) st(free_v + ((size_t)b * 3 + i) * W, v[i]);
            }
#pragma unroll
            for (int i = 0; i < 9; ++i) st(q + (15 + i) * W, m.a[i] * (4.0f * inv_h * inv_h));
        }
        if (any(bad)) {
            blame(s, frame * n + step, [&](const float* q) {
                float x = q[3 * W], y = q[4 * W], z = q[5 * W];
                return !(x * x + y * y + z * z < (h / dt) * (h / dt));
            });
            return false;
        }
        put_driven(s, frame, step + 1, inv_frame);
        return true;
    };
"""

_FORWARD = """
    for (int f = first_frame; f < F; ++f) {
        float* x = xs.data + (size_t)f * P * 3;
        float* v = vs.data + (size_t)f * P * 3;
        float* in = internals.data + (size_t)f * P * 18;
        status.data[3] = f;
        if (!begin(x, v, in, state)) return;
        put_driven(state, f, 0, inv_frame);
        for (int s = 0; s < n; ++s) {
            if (s > 0 && s % period == 0) {
                store_rows(state, spare_x, spare_v, spare_i);
                if (!begin(spare_x, spare_v, spare_i, state)) return;
            }
            Window win;
            if (!substep(state, grid.data, f, s, win, nullptr, nullptr)) return;
        }
        store_rows(state, x + (size_t)P * 3, v + (size_t)P * 3, in + (size_t)P * 18);
    }
"""


def instantiate(
    source: str,
    *,
    law: int,
    return_map: int,
    operator: bool,
    plastic: bool,
    damped: bool,
    step: str = "",
) -> str:
    """Fill the compile-time constants into a body.

    Args:
        source: C++ statements with ``@LAW@`` and ``@MAP@``.
        law: `ElasticLaw.kernel_kind`.
        return_map: `ReturnMap.kernel_kind`.
        operator: whether a stress operator is applied.
        plastic: whether a plastic operator is.
        damped: whether it is a solid with viscosity.
        step: attribute of the substep's function: "noinline" where it is called twice.

    Returns:
        C++ statements for `NativeKernel`, multiply-adds allowed.
    """
    body = source.replace("@LAW@", str(law)).replace("@MAP@", str(return_map))
    body = body.replace("@OPERATOR@", "36" if operator else "0")
    body = body.replace("@PLASTIC@", "9" if plastic else "0")
    body = body.replace("@DAMPED@", "true" if damped else "false")
    body = body.replace("@INLINE_STEP@", step and f"__attribute__(({step}))")
    return "{\n#pragma clang fp contract(fast)\n" + body + "}\n"


def work_floats(particles: int, operators: int) -> int:
    """Floats of working memory of the forward pass.

    Args:
        particles: P.
        operators: numbers of a particle's stress and plastic operator.

    Returns:
        Number of floats.
    """
    return -(-particles // 16) * 16 * (ROWS + 8 + operators) + particles * ROWS


def work_ints(particles: int, capacity: int) -> int:
    """Integers of working memory.

    Args:
        particles: P.
        capacity: grid nodes.

    Returns:
        Number of integers.
    """
    return -(-particles // 16) * 16 + particles + capacity + 1


@cache
def forward_kernel(
    law: int, return_map: int, operator: bool, plastic: bool, damped: bool
) -> NativeKernel:
    """Kernel that runs all frames of one world.

    Args:
        law: `ElasticLaw.kernel_kind`.
        return_map: `ReturnMap.kernel_kind`.
        operator: whether a stress operator is applied.
        plastic: whether a plastic operator is.
        damped: whether it is a solid with viscosity.

    Returns:
        The kernel; it writes the states after each frame behind the first.
    """
    source = COMMON + MATERIAL + OPERATOR + TRANSFER + BOUNDARY + STEP + _FORWARD
    return NativeKernel(
        "mpm",
        instantiate(
            source,
            law=law,
            return_map=return_map,
            operator=operator,
            plastic=plastic,
            damped=damped,
        ),
        ints=INTS,
        floats=FLOATS,
    )
