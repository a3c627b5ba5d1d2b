"""SIMD body for one world: 16 nodes side by side, a record of 8 floats per node.

A record is x y z 0 vx vy vz 0. Sixteen neighbours' records are loaded and transposed in registers,
which costs half of what the machine's gather instruction does.
"""

from __future__ import annotations

__all__ = ["SINGLE", "SINGLE_FORWARD"]

SINGLE = """
    typedef float f4 __attribute__((ext_vector_type(4)));
    typedef float f4u __attribute__((ext_vector_type(4), aligned(4)));
    typedef float f8 __attribute__((ext_vector_type(8)));
    typedef float f8u __attribute__((ext_vector_type(8), aligned(4)));
    const vf dash_w = dashpot.data[0], decay_w = decay.data[0];
    const vf e_w = restitution.data[0], mu_w = friction.data[0];
    auto pair8 = [](const float* a, const float* b) -> vf {
        f8 p = *(const f8u*)a, q = *(const f8u*)b;
        return __builtin_shufflevector(p, q, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    };
    // unpack within each group of four floats, by float and by pair of floats
    auto low1 = [](vf a, vf b) -> vf {
        return __builtin_shufflevector(
            a, b, 0, 16, 1, 17, 4, 20, 5, 21,
            8, 24, 9, 25, 12, 28, 13, 29);
    };
    auto high1 = [](vf a, vf b) -> vf {
        return __builtin_shufflevector(
            a, b, 2, 18, 3, 19, 6, 22, 7, 23,
            10, 26, 11, 27, 14, 30, 15, 31);
    };
    auto low2 = [](vf a, vf b) -> vf {
        return __builtin_shufflevector(
            a, b, 0, 1, 16, 17, 4, 5, 20, 21,
            8, 9, 24, 25, 12, 13, 28, 29);
    };
    auto high2 = [](vf a, vf b) -> vf {
        return __builtin_shufflevector(
            a, b, 2, 3, 18, 19, 6, 7, 22, 23,
            10, 11, 26, 27, 14, 15, 30, 31);
    };
    auto even4 = [](vf a, vf b) -> vf {
        return __builtin_shufflevector(
            a, b, 0, 1, 2, 3, 8, 9, 10, 11,
            16, 17, 18, 19, 24, 25, 26, 27);
    };
    auto odd4 = [](vf a, vf b) -> vf {
        return __builtin_shufflevector(
            a, b, 4, 5, 6, 7, 12, 13, 14, 15,
            20, 21, 22, 23, 28, 29, 30, 31);
    };
    // records of 16 nodes; an index counts floats, so it is 8 times the node
    auto records = [&](const float* base, const int* at) -> Node {
        vf r0 = pair8(base + at[0], base + at[4]), r1 = pair8(base + at[1], base + at[5]);
        vf r2 = pair8(base + at[2], base + at[6]), r3 = pair8(base + at[3], base + at[7]);
        vf r4 = pair8(base + at[8], base + at[12]), r5 = pair8(base + at[9], base + at[13]);
        vf r6 = pair8(base + at[10], base + at[14]), r7 = pair8(base + at[11], base + at[15]);
        vf a0 = low1(r0, r1), a1 = high1(r0, r1), a2 = low1(r2, r3), a3 = high1(r2, r3);
        vf b0 = low1(r4, r5), b1 = high1(r4, r5), b2 = low1(r6, r7), b3 = high1(r6, r7);
        vf xa = low2(a0, a2), ya = high2(a0, a2), za = low2(a1, a3);
        vf xb = low2(b0, b2), yb = high2(b0, b2), zb = low2(b1, b3);
        return Node{even4(xa, xb), even4(ya, yb), even4(za, zb),
                    odd4(xa, xb), odd4(ya, yb), odd4(za, zb)};
    };
    auto put4 = [](float* base, const int* at, int shift, int first, vf r) {
        *(f4u*)(base + (at[first] >> shift)) = __builtin_shufflevector(r, r, 0, 1, 2, 3);
        *(f4u*)(base + (at[first + 4] >> shift)) = __builtin_shufflevector(r, r, 4, 5, 6, 7);
        *(f4u*)(base + (at[first + 8] >> shift)) = __builtin_shufflevector(r, r, 8, 9, 10, 11);
        *(f4u*)(base + (at[first + 12] >> shift)) = __builtin_shufflevector(r, r, 12, 13, 14, 15);
    };
    auto put_vector = [&](float* base, const int* at, int shift, vf x, vf y, vf z) {
        vf zero = (vf)0.0f;
        vf t0 = low1(x, y), t1 = high1(x, y), t2 = low1(z, zero), t3 = high1(z, zero);
        put4(base, at, shift, 0, low2(t0, t2)); put4(base, at, shift, 1, high2(t0, t2));
        put4(base, at, shift, 2, low2(t1, t3)); put4(base, at, shift, 3, high2(t1, t3));
    };
    auto put_records = [&](float* base, const int* at, Node p) {
        put_vector(base, at, 0, p.x, p.y, p.z);
        put_vector(base + 4, at, 0, p.vx, p.vy, p.vz);
    };
    auto stiffness_of = [&](int e) -> vf { return ld(stiffness.data + (size_t)e * W); };
    // the coefficient of the spring's other end
    auto far_of = [&](int e) -> vf { return stiffness_of(DIRECTED ? chunk_start.data[C] + e : e); };
    auto dash_of = [&](int e) -> vf {
        return dashpot_springs ? ld(dashpot.data + (size_t)e * W) : dash_w;
    };
    auto place = [&](float* state, int f, int s) {
        float back = 1.0f - weight_of(s);
        for (int k = 0; k < K; ++k) {
            const float* c0 = driven.data + (size_t)(f * K + k) * 3;
            const float* c1 = c0 + (size_t)K * 3;
            float* p = state + (size_t)driven_index.data[k] * 8;
            for (int a = 0; a < 3; ++a) {
                float step = c1[a] - c0[a];
                p[a] = c1[a] - back * step;
                p[4 + a] = step * inv_frame;
            }
        }
    };
    auto clear_padding = [&](float* state) {
        for (int a = 0; a < 8; ++a) state[(size_t)N * 8 + a] = 0.0f;
    };
    // without `whole` the substep ends before contact: old positions, new velocities
    auto substep = [&](const float* src, float* dst, float* v1, bool whole) -> bool {
        vi bad = (vi)0;
        for (int c = 0; c < C; ++c) {
            const int* own = chunk_node.data + c * W;
            Node p = records(src, own);
            vf fx = (vf)0.0f, fy = (vf)0.0f, fz = (vf)0.0f;
            const int stop = chunk_start.data[c + 1];
            for (int e = chunk_start.data[c]; e < stop; ++e) {
                Node q = records(src, column_node.data + (size_t)e * W);
                vf dx = q.x - p.x, dy = q.y - p.y, dz = q.z - p.z;
                // the neighbour's lane finds its own force
                const vf a = stiffness_of(e);
                vf k = spring(dx, dy, dz, q.vx - p.vx, q.vy - p.vy, q.vz - p.vz, a, a,
                              ld(rest.data + (size_t)e * W), dash_of(e)).near;
                fx = fma(k, dx, fx); fy = fma(k, dy, fy); fz = fma(k, dz, fz);
            }
            p = accelerate(p, fx, fy, fz, ld(h_over_m.data + c * W), decay_w);
            if (v1) {
                float* keep = v1 + (size_t)c * 3 * W;
                st(keep, p.vx); st(keep + W, p.vy); st(keep + 2 * W, p.vz);
            }
            if (whole) {
                p = move(boxes(p), e_w, mu_w);
                bad |= too_fast(p);
            }
            put_records(dst, own, p);
        }
        clear_padding(dst);
        return __builtin_reduce_or(bad) != 0;
    };
    auto move_all = [&](float* state) -> bool {
        vi bad = (vi)0;
        for (int c = 0; c < C; ++c) {
            const int* own = chunk_node.data + c * W;
            Node p = move(boxes(records(state, own)), e_w, mu_w);
            bad |= too_fast(p);
            put_records(state, own, p);
        }
        clear_padding(state);
        return __builtin_reduce_or(bad) != 0;
    };
    auto copy_driven_velocity = [&](const float* src, float* dst) {
        for (int k = 0; k < K; ++k) for (int a = 4; a < 7; ++a) {
            const size_t at = (size_t)driven_index.data[k] * 8 + a;
            dst[at] = src[at];
        }
    };
    auto report = [&](const float* state, int at) {
        for (int i = 0; i < N; ++i) {
            const float* p = state + (size_t)i * 8 + 4;
            if (!(p[0] * p[0] + p[1] * p[1] + p[2] * p[2] < 1.0e10f)) {
                status.data[0] = 1; status.data[1] = 0; status.data[2] = i; status.data[3] = at;
                return;
            }
        }
    };
"""

SINGLE_FORWARD = """
    const bool keep_last = ci.data[15];  // for the adjoint: states and velocities of the last frame
    const size_t SZ = (size_t)(N + 1) * 8, VZ = (size_t)C * 3 * W;
    float* now = work.data;
    float* next = work.data + SZ;
    clear_padding(now);
    for (int f = 0; f < F; ++f) {
        const bool kept = keep_last && f == F - 1;
        place(now, f, 1);
        pairs = -1;  // a frame depends on its first state only, wherever a rollout is cut
        if (kept) {
            __builtin_memcpy(states.data, now, SZ * sizeof(float));
            now = states.data;
        }
        for (int s = 0; s < n; ++s) {
            float* to = kept ? states.data + (s + 1) * SZ : next;
            float* v1 = kept ? states.data + (n + 1) * SZ + s * VZ : nullptr;
            set_boxes(f, s + 1);
            bool bad = substep(now, to, v1, !collide);
            if (collide) {
                copy_driven_velocity(now, to);
                if (!impulses(to)) return;
                bad = move_all(to);
            }
            if (bad) { report(to, f * n + s); return; }
            place(to, f, s + 2 < n ? s + 2 : n);
            if (!kept) next = now;
            now = to;
        }
        __builtin_memcpy(out.data + (size_t)f * N * 8, now, (size_t)N * 8 * sizeof(float));
    }
"""
