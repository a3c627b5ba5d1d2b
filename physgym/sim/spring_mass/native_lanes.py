"""SIMD body for many worlds: W worlds side by side in the lanes of a vector, state ``[N][6][W]``.

A node scatters each spring's force to its higher neighbour, rows in ascending order.
"""

from __future__ import annotations

__all__ = ["LANES", "LANES_FORWARD"]

LANES = """
    const vf dash_w = ld(dashpot.data), decay_w = ld(decay.data);
    const vf e_w = ld(restitution.data), mu_w = ld(friction.data);
    auto node_at = [&](const float* p) -> Node {
        return Node{ld(p), ld(p + W), ld(p + 2 * W), ld(p + 3 * W), ld(p + 4 * W), ld(p + 5 * W)};
    };
    auto put_node = [&](float* p, Node q) {
        st(p, q.x); st(p + W, q.y); st(p + 2 * W, q.z);
        st(p + 3 * W, q.vx); st(p + 4 * W, q.vy); st(p + 5 * W, q.vz);
    };
    auto value = [&](const float* p, int at, bool shared) -> vf {
        return shared ? (vf)p[at] : ld(p + (size_t)at * W);
    };
    auto stiffness_of = [&](int s) -> vf { return value(stiffness.data, s, shared_a); };
    // the coefficient of the spring's other end
    auto far_of = [&](int s) -> vf { return stiffness_of(DIRECTED ? upper_start.data[N] + s : s); };
    auto dash_of = [&](int s) -> vf {
        return dashpot_springs ? ld(dashpot.data + (size_t)s * W) : dash_w;
    };
    // driven points at the start of substep s of frame f
    auto place = [&](float* state, int f, int s) {
        vf back = 1.0f - weight_of(s);
        for (int k = 0; k < K; ++k) {
            const float* c0 = driven.data + (size_t)(f * K + k) * 3 * W;
            const float* c1 = c0 + (size_t)K * 3 * W;
            float* p = state + (size_t)driven_index.data[k] * 6 * W;
            for (int a = 0; a < 3; ++a) {
                vf step = ld(c1 + a * W) - ld(c0 + a * W);
                st(p + a * W, ld(c1 + a * W) - back * step);
                st(p + (3 + a) * W, step * inv_frame);
            }
        }
    };
    auto substep = [&](const float* src, float* dst, float* force, float* v1) -> bool {
        __builtin_memset(force, 0, (size_t)N * 3 * W * sizeof(float));
        for (int i = 0; i < N; ++i) {
            Node p = node_at(src + (size_t)i * 6 * W);
            float* own = force + (size_t)i * 3 * W;
            vf fx = ld(own), fy = ld(own + W), fz = ld(own + 2 * W);
            const int stop = upper_start.data[i + 1];
            for (int r = upper_start.data[i]; r < stop; ++r) {
                const int j = upper_node.data[r];
                Node q = node_at(src + (size_t)j * 6 * W);
                vf dx = q.x - p.x, dy = q.y - p.y, dz = q.z - p.z;
                Pull c = spring(dx, dy, dz, q.vx - p.vx, q.vy - p.vy, q.vz - p.vz, stiffness_of(r),
                                far_of(r), value(rest.data, r, shared_l), dash_of(r));
                fx = fma(c.near, dx, fx); fy = fma(c.near, dy, fy); fz = fma(c.near, dz, fz);
                float* far = force + (size_t)j * 3 * W;
                st(far, fma(-c.far, dx, ld(far)));
                st(far + W, fma(-c.far, dy, ld(far + W)));
                st(far + 2 * W, fma(-c.far, dz, ld(far + 2 * W)));
            }
            st(own, fx); st(own + W, fy); st(own + 2 * W, fz);
        }
        vi bad = (vi)0;
        for (int i = 0; i < N; ++i) {
            const float* f = force + (size_t)i * 3 * W;
            Node p = accelerate(node_at(src + (size_t)i * 6 * W), ld(f), ld(f + W), ld(f + 2 * W),
                                value(h_over_m.data, i, shared_m), decay_w);
            if (v1) {
                float* keep = v1 + (size_t)i * 3 * W;
                st(keep, p.vx); st(keep + W, p.vy); st(keep + 2 * W, p.vz);
            }
            p = move(boxes(p), e_w, mu_w);
            bad |= too_fast(p);
            put_node(dst + (size_t)i * 6 * W, p);
        }
        return __builtin_reduce_or(bad) != 0;
    };
    auto report = [&](const float* state, int at) {
        for (int i = 0; i < N; ++i) {
            vi bad = too_fast(node_at(state + (size_t)i * 6 * W));
            for (int w = 0; w < W; ++w) if (bad[w]) {
                status.data[0] = 1; status.data[1] = w; status.data[2] = i; status.data[3] = at;
                return;
            }
        }
    };
"""

LANES_FORWARD = """
    float* state = work.data;
    float* force = work.data + (size_t)N * 6 * W;
    for (int f = 0; f < F; ++f) {
        place(state, f, 1);
        for (int s = 0; s < n; ++s) {
            set_boxes(f, s + 1);
            if (substep(state, state, force, nullptr)) { report(state, f * n + s); return; }
            place(state, f, s + 2 < n ? s + 2 : n);
        }
        const size_t size = (size_t)N * 6 * W;
        __builtin_memcpy(out.data + f * size, state, size * sizeof(float));
    }
"""
