"""The hand-written derivative of the SIMD bodies in `native`.

Frames are walked backwards. A frame is run again from its checkpoint, in segments of substeps whose
states are kept; the last frame of a single world is left by the forward pass where there is room.
Then each substep is turned round: contact and drag (`update_adjoint`), springs (`spring_adjoint`),
driven points. Springs gather exactly as forward, so nothing is atomic.
"""

from __future__ import annotations

import math
from functools import cache

from physgym.sim.native_kernel import NativeKernel
from physgym.sim.spring_mass.native import (
    FLOATS,
    LANES_INTS,
    SINGLE_INTS,
    Variant,
    common_source,
    instantiate,
)
from physgym.sim.spring_mass.native_box import box_adjoint_source
from physgym.sim.spring_mass.native_ground import ground_adjoint_source
from physgym.sim.spring_mass.native_lanes import LANES
from physgym.sim.spring_mass.native_single import SINGLE
from physgym.sim.spring_mass.native_spring import SPRING_ADJOINT

__all__ = ["ADJOINT_FLOATS", "adjoint_kernel", "adjoint_room", "segment_length"]

_SEGMENT_BYTES = 96 * 2**20

_COMMON = """
    const int M = ci.data[10];  // substeps in a segment
    const int segments = (n + M - 1) / M;
    const bool kept_last = ci.data[11];
    struct Adjoint { vf x, y, z, vx, vy, vz; };
    struct Sums { vf decay, e, mu, box_e, box_mu; };
"""

_UPDATE = """
    // Turn contact, drag and gravity round. p: state before; v1: velocity before contact. The
    // adjoint becomes that of the state before, without springs; force: adjoint of the force.
    auto update_adjoint = [&](Node p, vf v1x, vf v1y, vf v1z, Adjoint& t, Sums& sums, vf& mass,
                              vf hm, vf decay, vf e, vf mu, vf& fx, vf& fy, vf& fz) {
        const Node z = boxes(Node{p.x, p.y, p.z, v1x, v1y, v1z});  // as the ground sees it
        vf bx = fma((vf)h, t.x, t.vx), by = fma((vf)h, t.y, t.vy), bz = fma((vf)h, t.z, t.vz);
        turn_ground(z, t, bx, by, bz, sums, e, mu);
        turn_boxes(Node{p.x, p.y, p.z, v1x, v1y, v1z}, t, bx, by, bz, sums);
        vf inv = 1.0f / decay;
        sums.decay += fma(bx, v1x, fma(by, v1y, bz * v1z)) * inv;
        t.vx = bx * decay; t.vy = by * decay; t.vz = bz * decay;
        mass += fma(t.vx, fma(v1x, inv, -p.vx) - hgx,
                    fma(t.vy, fma(v1y, inv, -p.vy) - hgy, t.vz * (fma(v1z, inv, -p.vz) - hgz)));
        fx = t.vx * hm; fy = t.vy * hm; fz = t.vz * hm;
    };
    Sums sums = {};
    vf dash_sum = (vf)0.0f;
    auto add = [&](float* p, vf a) { st(p, ld(p) + a); };
"""

_LANES = """
    const size_t SZ = (size_t)N * 6 * W, VZ = (size_t)N * 3 * W;
    float* keep = work.data;                // M + 1 states
    float* kept_v = keep + (M + 1) * SZ;    // M velocities before contact
    float* starts = kept_v + M * VZ;        // a state per segment
    float* force = starts + segments * SZ;  // forces, then their adjoints
    float* adj = grad_state.data;
    // adjoint of placing the driven points at the start of substep s of frame f
    auto unplace = [&](int f, int s) {
        vf back = 1.0f - weight_of(s), stay = 1.0f - back;
        for (int k = 0; k < K; ++k) {
            float* g0 = grad_driven.data + (size_t)(f * K + k) * 3 * W;
            float* g1 = g0 + (size_t)K * 3 * W;
            float* p = adj + (size_t)driven_index.data[k] * 6 * W;
            for (int a = 0; a < 3; ++a) {
                vf gx = ld(p + a * W), gv = ld(p + (3 + a) * W) * inv_frame;
                add(g1 + a * W, fma(stay, gx, gv));
                add(g0 + a * W, fma(back, gx, -gv));
                st(p + a * W, (vf)0.0f); st(p + (3 + a) * W, (vf)0.0f);
            }
        }
    };
    auto turn = [&](const float* src, const float* v1) {
        for (int i = 0; i < N; ++i) {
            float* p = adj + (size_t)i * 6 * W;
            const float* v = v1 + (size_t)i * 3 * W;
            float* b = force + (size_t)i * 3 * W;
            Adjoint t{ld(p), ld(p + W), ld(p + 2 * W), ld(p + 3 * W), ld(p + 4 * W), ld(p + 5 * W)};
            vf mass = ld(grad_mass.data + (size_t)i * W), fx, fy, fz;
            update_adjoint(node_at(src + (size_t)i * 6 * W), ld(v), ld(v + W), ld(v + 2 * W), t,
                           sums, mass, value(h_over_m.data, i, shared_m), decay_w, e_w, mu_w,
                           fx, fy, fz);
            st(grad_mass.data + (size_t)i * W, mass);
            put_node(p, Node{t.x, t.y, t.z, t.vx, t.vy, t.vz});
            st(b, fx); st(b + W, fy); st(b + 2 * W, fz);
        }
        for (int i = 0; i < N; ++i) {
            Node p = node_at(src + (size_t)i * 6 * W), g = node_at(adj + (size_t)i * 6 * W);
            const float* b = force + (size_t)i * 3 * W;
            vf bx = ld(b), by = ld(b + W), bz = ld(b + 2 * W);
            const int stop = upper_start.data[i + 1];
            for (int r = upper_start.data[i]; r < stop; ++r) {
                const int j = upper_node.data[r];
                Node q = node_at(src + (size_t)j * 6 * W);
                const float* bj = force + (size_t)j * 3 * W;
                Spring s = spring_adjoint(
                    q.x - p.x, q.y - p.y, q.z - p.z, q.vx - p.vx, q.vy - p.vy, q.vz - p.vz,
                    bx, by, bz, ld(bj), ld(bj + W), ld(bj + 2 * W), stiffness_of(r), far_of(r),
                    value(rest.data, r, shared_l), dash_of(r));
                g.x -= s.gx; g.y -= s.gy; g.z -= s.gz;
                g.vx -= s.ux; g.vy -= s.uy; g.vz -= s.uz;
                float* far = adj + (size_t)j * 6 * W;
                add(far, s.gx); add(far + W, s.gy); add(far + 2 * W, s.gz);
                add(far + 3 * W, s.ux); add(far + 4 * W, s.uy); add(far + 5 * W, s.uz);
                add(grad_stiffness.data + (size_t)r * W, s.a);
                if (DIRECTED)
                    add(grad_stiffness.data + ((size_t)upper_start.data[N] + r) * W, s.a_far);
                add(grad_rest.data + (size_t)r * W, s.rest);
                if (dashpot_springs) add(grad_dashpot.data + (size_t)r * W, s.dash);
                else dash_sum += s.dash;
            }
            put_node(adj + (size_t)i * 6 * W, g);
        }
    };
    auto add_output = [&](int f) {
        const float* g = grad_out.data + (size_t)f * SZ;
        for (size_t a = 0; a < SZ; a += W) st(adj + a, ld(adj + a) + ld(g + a));
    };
    auto advance = [&](int f, int s, const float* src, float* dst, float* v1) {
        set_boxes(f, s + 1);
        substep(src, dst, force, v1);
        place(dst, f, s + 2 < n ? s + 2 : n);
    };
"""

_SINGLE = """
    const size_t SZ = (size_t)(N + 1) * 8, VZ = (size_t)C * 3 * W;
    float* keep = work.data;
    float* kept_v = keep + (M + 1) * SZ;
    float* starts = kept_v + M * VZ;
    float* force = starts + segments * SZ;  // adjoints of forces, 4 floats per node
    float* adj = grad_state.data;           // [C][6][W], lane by lane of the chunks
    auto vectors = [&](const float* base, const int* at, vf& x, vf& y, vf& z) {
        auto four = [&](int k) -> vf {
            auto get = [&](int lane) -> f4 { return *(const f4u*)(base + (at[lane] >> 1)); };
            f4 a = get(k), b = get(k + 4), c = get(k + 8), d = get(k + 12);
            f8 l = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
            f8 u = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7);
            return __builtin_shufflevector(
                l, u, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        };
        vf r0 = four(0), r1 = four(1), r2 = four(2), r3 = four(3);
        vf t0 = low1(r0, r1), t1 = high1(r0, r1), t2 = low1(r2, r3), t3 = high1(r2, r3);
        x = low2(t0, t2); y = high2(t0, t2); z = low2(t1, t3);
    };
    auto unplace = [&](int f, int s) {
        float back = 1.0f - weight_of(s), stay = 1.0f - back;
        for (int k = 0; k < K; ++k) {
            float* g0 = grad_driven.data + (size_t)(f * K + k) * 3;
            float* g1 = g0 + (size_t)K * 3;
            const int slot = driven_slot.data[k];
            float* p = adj + (size_t)(slot / W) * 6 * W + slot % W;
            for (int a = 0; a < 3; ++a) {
                float gx = p[a * W], gv = p[(3 + a) * W] * inv_frame;
                g1[a] += stay * gx + gv;
                g0[a] += back * gx - gv;
                p[a * W] = 0.0f; p[(3 + a) * W] = 0.0f;
            }
        }
    };
    auto turn = [&](const float* src, const float* v1) {
        for (int c = 0; c < C; ++c) {
            const int* own = chunk_node.data + c * W;
            float* p = adj + (size_t)c * 6 * W;
            const float* v = v1 + (size_t)c * 3 * W;
            Adjoint t{ld(p), ld(p + W), ld(p + 2 * W), ld(p + 3 * W), ld(p + 4 * W), ld(p + 5 * W)};
            vf mass = ld(grad_mass.data + c * W), fx, fy, fz;
            update_adjoint(records(src, own), ld(v), ld(v + W), ld(v + 2 * W), t, sums, mass,
                           ld(h_over_m.data + c * W), decay_w, e_w, mu_w, fx, fy, fz);
            st(grad_mass.data + c * W, mass);
            st(p, t.x); st(p + W, t.y); st(p + 2 * W, t.z);
            st(p + 3 * W, t.vx); st(p + 4 * W, t.vy); st(p + 5 * W, t.vz);
            put_vector(force, own, 1, fx, fy, fz);
        }
        for (int c = 0; c < C; ++c) {
            const int* own = chunk_node.data + c * W;
            float* g = adj + (size_t)c * 6 * W;
            Node p = records(src, own);
            vf bx, by, bz;
            vectors(force, own, bx, by, bz);
            vf gx = (vf)0.0f, gy = gx, gz = gx, ux = gx, uy = gx, uz = gx;
            const int stop = chunk_start.data[c + 1];
            for (int e = chunk_start.data[c]; e < stop; ++e) {
                const int* at = column_node.data + (size_t)e * W;
                Node q = records(src, at);
                vf wx, wy, wz;
                vectors(force, at, wx, wy, wz);
                Spring s = spring_adjoint(
                    q.x - p.x, q.y - p.y, q.z - p.z, q.vx - p.vx, q.vy - p.vy, q.vz - p.vz,
                    bx, by, bz, wx, wy, wz, stiffness_of(e), far_of(e),
                    ld(rest.data + (size_t)e * W), dash_of(e));
                gx += s.gx; gy += s.gy; gz += s.gz; ux += s.ux; uy += s.uy; uz += s.uz;
                add(grad_stiffness.data + (size_t)e * W, s.a);
                add(grad_rest.data + (size_t)e * W, s.rest);
                if (dashpot_springs) add(grad_dashpot.data + (size_t)e * W, s.dash);
                else dash_sum += s.dash;
            }
            add(g, -gx); add(g + W, -gy); add(g + 2 * W, -gz);
            add(g + 3 * W, -ux); add(g + 4 * W, -uy); add(g + 5 * W, -uz);
        }
    };
    auto add_output = [&](int f) {
        const float* g = grad_out.data + (size_t)f * C * 6 * W;
        for (size_t a = 0; a < (size_t)C * 6 * W; a += W) st(adj + a, ld(adj + a) + ld(g + a));
    };
    auto advance = [&](int f, int s, const float* src, float* dst, float* v1) {
        set_boxes(f, s + 1);
        substep(src, dst, v1, true);
        place(dst, f, s + 2 < n ? s + 2 : n);
    };
"""

_DRIVER = """
    for (int f = F - 1; f >= 0; --f) {
        add_output(f + 1);
        unplace(f, n);
        const bool kept = kept_last && f == F - 1;  // the forward pass left its states
        __builtin_memcpy(starts, frames.data + (size_t)f * SZ, SZ * sizeof(float));
        place(starts, f, 1);
        for (int g = 0; g + 1 < segments; ++g) {  // find the states where segments start
            __builtin_memcpy(keep, starts + g * SZ, SZ * sizeof(float));
            for (int s = 0; s < M; ++s) {
                float* last = s + 1 < M ? keep + ((s + 1) & 1) * SZ : starts + (g + 1) * SZ;
                advance(f, g * M + s, keep + (s & 1) * SZ, last, nullptr);
            }
        }
        for (int g = segments - 1; g >= 0; --g) {
            const int first = g * M, count = n - first < M ? n - first : M;
            if (!kept) __builtin_memcpy(keep, starts + g * SZ, SZ * sizeof(float));
            for (int s = 0; s < count && !kept; ++s)
                advance(f, first + s, keep + s * SZ, keep + (s + 1) * SZ, kept_v + s * VZ);
            for (int s = count - 1; s >= 0; --s) {
                set_boxes(f, first + s + 1);
                turn(keep + s * SZ, kept_v + s * VZ);
                unplace(f, first + s + 1);
            }
        }
    }
    add_output(0);
    st(grad_scalars.data, sums.decay); st(grad_scalars.data + W, sums.e);
    st(grad_scalars.data + 2 * W, sums.mu); st(grad_scalars.data + 3 * W, dash_sum);
    st(grad_scalars.data + 4 * W, sums.box_e); st(grad_scalars.data + 5 * W, sums.box_mu);
"""

ADJOINT_FLOATS = (
    *FLOATS, "frames", "grad_out", "grad_state", "grad_driven", "grad_stiffness", "grad_rest",
    "grad_dashpot", "grad_mass", "grad_scalars",
)  # fmt: skip


def segment_length(substeps: int, state_floats: int) -> int:
    """Substeps whose states are kept at once while a frame is turned round.

    A whole frame where that fits, else the square root, which costs one more forward pass.

    Args:
        substeps: substeps in a frame.
        state_floats: floats of one state.

    Returns:
        Between 1 and ``substeps``.
    """
    if substeps * state_floats * 6 <= _SEGMENT_BYTES:  # state and velocity before contact
        return substeps
    return math.ceil(math.sqrt(substeps))


def adjoint_room(substeps: int, segment: int, state_floats: int, velocity_floats: int) -> int:
    """Floats of working memory that the adjoint needs.

    Args:
        substeps: substeps in a frame.
        segment: substeps in a segment.
        state_floats: floats of one state.
        velocity_floats: floats of one velocity.

    Returns:
        Number of floats.
    """
    segments = -(-substeps // segment)
    return (segment + 1 + segments) * state_floats + (segment + 2) * velocity_floats + state_floats


@cache
def adjoint_kernel(variant: Variant) -> NativeKernel:
    """Kernel that walks all frames of one block of worlds backwards in one launch.

    Args:
        variant: which body.

    Returns:
        The kernel.
    """
    lanes = variant.lanes
    turned = _COMMON + SPRING_ADJOINT + ground_adjoint_source(variant.ground)
    turned += box_adjoint_source(variant.boxes) + _UPDATE + (_LANES if lanes else _SINGLE)
    body = common_source(variant) + (LANES if lanes else SINGLE) + turned + _DRIVER
    return NativeKernel(
        f"spring_mass_{'lanes' if lanes else 'single'}_adjoint",
        instantiate(body, variant),
        ints=LANES_INTS if lanes else (*SINGLE_INTS, "driven_slot"),
        floats=ADJOINT_FLOATS,
    )
