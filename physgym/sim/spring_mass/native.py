"""SIMD bodies of the spring-mass step on CPU, written with clang's vector types.

Two layouts run the same arithmetic in the same order, so they give the same bits:

- *lanes*: up to W worlds side by side in the lanes of a vector, state ``[N][6][W]``. A node scatters
  each spring's force to its higher neighbour, rows in ascending order.
- *single*: one world, 16 nodes side by side. State is a record of 8 floats per node (x y z 0 vx vy vz
  0); sixteen neighbours' records are loaded and transposed in registers, which costs half of what
  the machine's gather instruction does.

Every multiply-add is written out and contraction is off, so the compiler cannot make the layouts
differ. The reference is `kernels`; the derivative is `native_adjoint`.
"""

from __future__ import annotations

from functools import lru_cache

from physgym.sim.spring_mass.native_kernel import NativeKernel

__all__ = [
    "COMMON",
    "FLOATS",
    "LANES",
    "LANES_INTS",
    "SINGLE",
    "SINGLE_INTS",
    "forward_kernel",
    "instantiate",
]

COMMON = """
    constexpr int W = @W@;
    constexpr int KIND = @KIND@;
    typedef float vf __attribute__((ext_vector_type(@W@)));
    typedef float vfu __attribute__((ext_vector_type(@W@), aligned(4)));
    typedef int vi __attribute__((ext_vector_type(@W@)));
    auto ld = [](const float* p) -> vf { return *(const vfu*)p; };
    auto st = [](float* p, vf a) { *(vfu*)p = a; };
    auto fma = [](vf a, vf b, vf c) -> vf { return __builtin_elementwise_fma(a, b, c); };
    auto vmax = [](vf a, vf b) -> vf { return __builtin_elementwise_max(a, b); };
    auto vmin = [](vf a, vf b) -> vf { return __builtin_elementwise_min(a, b); };
    auto vabs = [](vf a) -> vf { return __builtin_elementwise_abs(a); };

    // scalars
    const int N = ci.data[0], K = ci.data[1], F = ci.data[2], n = ci.data[3];
    const bool shared_a = ci.data[4], shared_l = ci.data[5], shared_m = ci.data[6];
    const bool dashpot_springs = ci.data[7];
    const bool ground = ci.data[8];
    const int C = ci.data[9];
    const float h = cf.data[0], inv_frame = cf.data[1];
    const vf hgx = cf.data[2], hgy = cf.data[3], hgz = cf.data[4];
    const vf nx = cf.data[5], ny = cf.data[6], nz = cf.data[7], offset = cf.data[8];
    const float expo = cf.data[9];

    // 1/sqrt(a), a > 0: bit trick, two Newton steps, one step with the residual formed exactly
    auto rsqrt = [&](vf a) -> vf {
        vi b = 0x5f375a86 - (__builtin_bit_cast(vi, a) >> 1);
        vf y = __builtin_bit_cast(vf, b);
        vf m = a * -0.5f;
        y = y * fma(m * y, y, (vf)1.5f);
        y = y * fma(m * y, y, (vf)1.5f);
        vf t = a * y;
        vf r = fma(-t, y, (vf)1.0f);
        return fma(y * 0.5f, r, y);
    };
    // b^e for b > 0, through log2 (series in (m-1)/(m+1)) and exp2 (Taylor, degree 7)
    auto power = [&](vf b, float e) -> vf {
        vi bits = __builtin_bit_cast(vi, b);
        vi shift = (bits - 0x3f3504f3) >> 23;
        vf m = __builtin_bit_cast(vf, bits - (shift << 23));
        vf z = (m - 1.0f) / (m + 1.0f);
        vf z2 = z * z;
        vf p = fma(z2, (vf)(1.0f / 9.0f), (vf)(1.0f / 7.0f));
        p = fma(p, z2, (vf)0.2f);
        p = fma(p, z2, (vf)(1.0f / 3.0f));
        p = fma(p, z2, (vf)1.0f);
        vf lg = fma(p * z, (vf)2.8853900817779268f, __builtin_convertvector(shift, vf));
        vf t = vmin(vmax(lg * e, (vf)-126.0f), (vf)126.0f);
        vf r = __builtin_elementwise_roundeven(t);
        vf f = (t - r) * 0.6931471805599453f;
        vf q = fma(f, (vf)(1.0f / 5040.0f), (vf)(1.0f / 720.0f));
        q = fma(q, f, (vf)(1.0f / 120.0f));
        q = fma(q, f, (vf)(1.0f / 24.0f));
        q = fma(q, f, (vf)(1.0f / 6.0f));
        q = fma(q, f, (vf)0.5f);
        q = fma(q, f, (vf)1.0f);
        q = fma(q, f, (vf)1.0f);
        vi scale = (__builtin_convertvector(r, vi) + 127) << 23;
        return q * __builtin_bit_cast(vf, scale);
    };
    // what the elastic force is per coefficient, for elongation u
    auto law = [&](vf u, vf rest) -> vf {
        if (KIND == 1) return u * power(1.0f + vabs(u) / rest, expo);
        if (KIND == 2) return u * power(vmax(vabs(u), (vf)1.0e-6f), expo - 1.0f);
        return u;
    };
    // force on the near end is c * (dx, dy, dz)
    auto spring = [&](vf dx, vf dy, vf dz, vf dvx, vf dvy, vf dvz, vf a, vf rest, vf dash) -> vf {
        vf l2 = vmax(fma(dx, dx, fma(dy, dy, dz * dz)), (vf)1.0e-12f);
        vf inv = rsqrt(l2);
        vf f = a * law(l2 * inv - rest, rest);
        vf vd = fma(dvx, dx, fma(dvy, dy, dvz * dz)) * inv;
        return fma(dash, vd, f) * inv;
    };
    struct Node { vf x, y, z, vx, vy, vz; };
    auto accelerate = [&](Node p, vf fx, vf fy, vf fz, vf hm, vf decay) -> Node {
        p.vx = (fma(fx, hm, p.vx) + hgx) * decay;
        p.vy = (fma(fy, hm, p.vy) + hgy) * decay;
        p.vz = (fma(fz, hm, p.vz) + hgz) * decay;
        return p;
    };
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
        vf wx = fma(keep, tx, back * nx), wy = fma(keep, ty, back * ny), wz = fma(keep, tz, back * nz);
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
    auto too_fast = [&](Node p) -> vi {
        return ~(fma(p.vx, p.vx, fma(p.vy, p.vy, p.vz * p.vz)) < 1.0e10f);
    };
    auto weight_of = [&](int s) -> float { return s >= n ? 1.0f : (float)s / (float)n; };
"""

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
    auto dash_of = [&](int s) -> vf { return dashpot_springs ? ld(dashpot.data + (size_t)s * W) : dash_w; };
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
                vf c = spring(dx, dy, dz, q.vx - p.vx, q.vy - p.vy, q.vz - p.vz,
                              value(stiffness.data, r, shared_a), value(rest.data, r, shared_l),
                              dash_of(r));
                fx = fma(c, dx, fx); fy = fma(c, dy, fy); fz = fma(c, dz, fz);
                float* far = force + (size_t)j * 3 * W;
                st(far, fma(-c, dx, ld(far)));
                st(far + W, fma(-c, dy, ld(far + W)));
                st(far + 2 * W, fma(-c, dz, ld(far + 2 * W)));
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
            p = move(p, e_w, mu_w);
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
            if (substep(state, state, force, nullptr)) { report(state, f * n + s); return; }
            place(state, f, s + 2 < n ? s + 2 : n);
        }
        __builtin_memcpy(out.data + (size_t)f * N * 6 * W, state, (size_t)N * 6 * W * sizeof(float));
    }
"""

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
        return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    };
    auto high1 = [](vf a, vf b) -> vf {
        return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    };
    auto low2 = [](vf a, vf b) -> vf {
        return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    };
    auto high2 = [](vf a, vf b) -> vf {
        return __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    };
    auto even4 = [](vf a, vf b) -> vf {
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    };
    auto odd4 = [](vf a, vf b) -> vf {
        return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
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
        return Node{even4(xa, xb), even4(ya, yb), even4(za, zb), odd4(xa, xb), odd4(ya, yb), odd4(za, zb)};
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
    auto dash_of = [&](int e) -> vf { return dashpot_springs ? ld(dashpot.data + (size_t)e * W) : dash_w; };
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
    auto substep = [&](const float* src, float* dst, float* v1) -> bool {
        vi bad = (vi)0;
        for (int c = 0; c < C; ++c) {
            const int* own = chunk_node.data + c * W;
            Node p = records(src, own);
            vf fx = (vf)0.0f, fy = (vf)0.0f, fz = (vf)0.0f;
            const int stop = chunk_start.data[c + 1];
            for (int e = chunk_start.data[c]; e < stop; ++e) {
                Node q = records(src, column_node.data + (size_t)e * W);
                vf dx = q.x - p.x, dy = q.y - p.y, dz = q.z - p.z;
                vf k = spring(dx, dy, dz, q.vx - p.vx, q.vy - p.vy, q.vz - p.vz,
                              ld(stiffness.data + (size_t)e * W), ld(rest.data + (size_t)e * W), dash_of(e));
                fx = fma(k, dx, fx); fy = fma(k, dy, fy); fz = fma(k, dz, fz);
            }
            p = accelerate(p, fx, fy, fz, ld(h_over_m.data + c * W), decay_w);
            if (v1) {
                float* keep = v1 + (size_t)c * 3 * W;
                st(keep, p.vx); st(keep + W, p.vy); st(keep + 2 * W, p.vz);
            }
            p = move(p, e_w, mu_w);
            bad |= too_fast(p);
            put_records(dst, own, p);
        }
        clear_padding(dst);
        return __builtin_reduce_or(bad) != 0;
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
    float* now = work.data;
    float* next = work.data + (size_t)(N + 1) * 8;
    clear_padding(now);
    for (int f = 0; f < F; ++f) {
        place(now, f, 1);
        for (int s = 0; s < n; ++s) {
            if (substep(now, next, nullptr)) { report(next, f * n + s); return; }
            place(next, f, s + 2 < n ? s + 2 : n);
            float* other = now; now = next; next = other;
        }
        __builtin_memcpy(out.data + (size_t)f * N * 8, now, (size_t)N * 8 * sizeof(float));
    }
"""


LANES_INTS = ("ci", "status", "driven_index", "upper_start", "upper_node")
SINGLE_INTS = ("ci", "status", "driven_index", "chunk_start", "chunk_node", "column_node")
FLOATS = (
    "cf", "stiffness", "rest", "dashpot", "h_over_m", "decay", "restitution", "friction", "driven",
    "work",
)  # fmt: skip


def instantiate(source: str, *, width: int, kind: int) -> str:
    """Fill the compile-time constants into a body.

    Args:
        source: C++ statements with ``@W@`` and ``@KIND@``.
        width: lanes in a vector.
        kind: `ForceLaw.kernel_kind`.

    Returns:
        C++ statements for `NativeKernel`.
    """
    return source.replace("@W@", str(width)).replace("@KIND@", str(kind))


@lru_cache(maxsize=None)
def forward_kernel(layout: str, width: int, kind: int) -> NativeKernel:
    """Kernel that runs all frames of one block of worlds in one launch.

    Args:
        layout: ``"lanes"`` or ``"single"``.
        width: lanes in a vector; 16 for ``"single"``.
        kind: `ForceLaw.kernel_kind`.

    Returns:
        The kernel; it writes the state after each frame to ``out``.
    """
    lanes = layout == "lanes"
    body = COMMON + (LANES + LANES_FORWARD if lanes else SINGLE + SINGLE_FORWARD)
    return NativeKernel(
        f"spring_mass_{layout}",
        instantiate(body, width=width, kind=kind),
        ints=LANES_INTS if lanes else SINGLE_INTS,
        floats=(*FLOATS, "out"),
    )
