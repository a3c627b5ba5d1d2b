"""C++ that all SIMD bodies of the MPM step share: vectors, 3 x 3 matrices, log, exp, transposition.

A vector holds one number of sixteen particles. State lies in blocks of sixteen particles, row by
row: x (3), v (3), F (9), C (9), see `ROWS`.
"""

from __future__ import annotations

__all__ = ["COMMON", "ROWS"]

ROWS = 24

COMMON = """
    constexpr float MIN_MASS = 1.0e-25f;   // lighter nodes are empty: their weights are as small
    constexpr int W = 16, LAW = @LAW@, MAP = @MAP@, ROWS = 24, NC = 8;
    constexpr int NO = @OPERATOR@;   // numbers of the stress operator: 36, or 0
    constexpr int NP = @PLASTIC@;    // numbers of the plastic operator: 9, or 0
    constexpr int NA = NO + NP;
    constexpr bool DAMPED = @DAMPED@;   // a solid with viscosity
    enum { MU, LAM, YIELD, ALPHA, COHESION, VISCOSITY, MASS, VOLUME };   // a particle's constants
    typedef float vf __attribute__((ext_vector_type(16)));
    typedef float vfu __attribute__((ext_vector_type(16), aligned(4)));
    typedef int vi __attribute__((ext_vector_type(16)));
    typedef int viu __attribute__((ext_vector_type(16), aligned(4)));
    typedef float f4u __attribute__((ext_vector_type(4), aligned(4)));
#define INLINE __attribute__((always_inline))
#define APART __attribute__((noinline))
    struct Mat { vf a[9]; };   // row by row
    struct Sym { vf xx, yy, zz, xy, xz, yz; };
    auto ld = [](const float* p) INLINE -> vf { return *(const vfu*)p; };
    auto st = [](float* p, vf a) INLINE { *(vfu*)p = a; };
    auto add = [](float* p, vf a) INLINE { *(vfu*)p += a; };
    auto fma = [](vf a, vf b, vf c) INLINE -> vf { return __builtin_elementwise_fma(a, b, c); };
    auto vmax = [](vf a, vf b) INLINE -> vf { return __builtin_elementwise_max(a, b); };
    auto vmin = [](vf a, vf b) INLINE -> vf { return __builtin_elementwise_min(a, b); };
    auto vabs = [](vf a) INLINE -> vf { return __builtin_elementwise_abs(a); };
    auto vsqrt = [](vf a) INLINE -> vf { return __builtin_elementwise_sqrt(a); };
    auto any = [](vi a) INLINE -> bool { return __builtin_reduce_or(a) != 0; };
    auto quad = [](const float* p) INLINE -> vf {  // four floats, four times
        f4u q = *(const f4u*)p;
        return __builtin_shufflevector(q, q, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    };
    auto spread = [](float a, float b, float c) INLINE -> vf {  // a a a a b b b b c c c c 0 0 0 0
        vf ab = __builtin_shufflevector((vf)a, (vf)b, 0, 0, 0, 0, 16, 16, 16, 16,
                                        0, 0, 0, 0, 16, 16, 16, 16);
        vf c0 = __builtin_shufflevector((vf)c, (vf)0.0f, 0, 0, 0, 0, 0, 0, 0, 0,
                                        0, 0, 0, 0, 16, 16, 16, 16);
        return __builtin_shufflevector(ab, c0, 0, 1, 2, 3, 4, 5, 6, 7,
                                       24, 25, 26, 27, 28, 29, 30, 31);
    };
    const vf KZ = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0};

    auto vlog = [&](vf b) INLINE -> vf {  // series in (m-1)/(m+1), exact to float32 near 1 as well
        vi bits = __builtin_bit_cast(vi, b);
        vi shift = (bits - 0x3f3504f3) >> 23;
        vf m = __builtin_bit_cast(vf, bits - (shift << 23));
        vf z = (m - 1.0f) / (m + 1.0f);
        vf z2 = z * z;
        vf p = fma(z2, (vf)(1.0f / 11.0f), (vf)(1.0f / 9.0f));
        p = fma(p, z2, (vf)(1.0f / 7.0f));
        p = fma(p, z2, (vf)0.2f);
        p = fma(p, z2, (vf)(1.0f / 3.0f));
        vf r = fma(p * z2, z * 2.0f, z * 2.0f);
        return fma(__builtin_convertvector(shift, vf), (vf)0.6931471805599453f, r);
    };
    auto vexp = [&](vf x) INLINE -> vf {
        vf t = vmin(vmax(x * 1.4426950408889634f, (vf)-126.0f), (vf)126.0f);
        vf r = __builtin_elementwise_roundeven(t);
        vf f = fma(r, (vf)-0.693145752f, x);
        f = fma(r, (vf)-1.42860677e-6f, f);
        vf q = fma(f, (vf)(1.0f / 5040.0f), (vf)(1.0f / 720.0f));
        q = fma(q, f, (vf)(1.0f / 120.0f));
        q = fma(q, f, (vf)(1.0f / 24.0f));
        q = fma(q, f, (vf)(1.0f / 6.0f));
        q = fma(q, f, (vf)0.5f);
        q = fma(q, f, (vf)1.0f);
        q = fma(q, f, (vf)1.0f);
        return q * __builtin_bit_cast(vf, (__builtin_convertvector(r, vi) + 127) << 23);
    };

    auto mul = [&](const Mat& x, const Mat& y) INLINE -> Mat {  // x y
        Mat z;
#pragma unroll
        for (int i = 0; i < 3; ++i)
#pragma unroll
            for (int j = 0; j < 3; ++j)
                z.a[3 * i + j] = fma(x.a[3 * i], y.a[j],
                    fma(x.a[3 * i + 1], y.a[3 + j], x.a[3 * i + 2] * y.a[6 + j]));
        return z;
    };
    auto mul_t = [&](const Mat& x, const Mat& y) INLINE -> Mat {  // x y^T
        Mat z;
#pragma unroll
        for (int i = 0; i < 3; ++i)
#pragma unroll
            for (int j = 0; j < 3; ++j)
                z.a[3 * i + j] = fma(x.a[3 * i], y.a[3 * j],
                    fma(x.a[3 * i + 1], y.a[3 * j + 1], x.a[3 * i + 2] * y.a[3 * j + 2]));
        return z;
    };
    auto t_mul = [&](const Mat& x, const Mat& y) INLINE -> Mat {  // x^T y
        Mat z;
#pragma unroll
        for (int i = 0; i < 3; ++i)
#pragma unroll
            for (int j = 0; j < 3; ++j)
                z.a[3 * i + j] = fma(x.a[i], y.a[j],
                    fma(x.a[3 + i], y.a[3 + j], x.a[6 + i] * y.a[6 + j]));
        return z;
    };
    auto cofactor = [&](const Mat& f) INLINE -> Mat {  // det(f) f^-T
        const vf* a = f.a;
        Mat c;
        c.a[0] = a[4] * a[8] - a[5] * a[7]; c.a[1] = a[5] * a[6] - a[3] * a[8];
        c.a[2] = a[3] * a[7] - a[4] * a[6]; c.a[3] = a[2] * a[7] - a[1] * a[8];
        c.a[4] = a[0] * a[8] - a[2] * a[6]; c.a[5] = a[1] * a[6] - a[0] * a[7];
        c.a[6] = a[1] * a[5] - a[2] * a[4]; c.a[7] = a[2] * a[3] - a[0] * a[5];
        c.a[8] = a[0] * a[4] - a[1] * a[3];
        return c;
    };
    auto det = [&](const Mat& f, const Mat& c) INLINE -> vf {
        return fma(f.a[0], c.a[0], fma(f.a[1], c.a[1], f.a[2] * c.a[2]));
    };
    auto sym = [&](const Sym& s) INLINE -> Mat {
        return Mat{{s.xx, s.xy, s.xz, s.xy, s.yy, s.yz, s.xz, s.yz, s.zz}};
    };
    auto square = [&](const Mat& f) INLINE -> Sym {  // f f^T
        const vf* a = f.a;
        return Sym{
            fma(a[0], a[0], fma(a[1], a[1], a[2] * a[2])),
            fma(a[3], a[3], fma(a[4], a[4], a[5] * a[5])),
            fma(a[6], a[6], fma(a[7], a[7], a[8] * a[8])),
            fma(a[0], a[3], fma(a[1], a[4], a[2] * a[5])),
            fma(a[0], a[6], fma(a[1], a[7], a[2] * a[8])),
            fma(a[3], a[6], fma(a[4], a[7], a[5] * a[8]))};
    };
    auto load_mat = [&](const float* p) INLINE -> Mat {
        Mat m;
#pragma unroll
        for (int k = 0; k < 9; ++k) m.a[k] = ld(p + k * W);
        return m;
    };
    auto store_mat = [&](float* p, const Mat& m) INLINE {
#pragma unroll
        for (int k = 0; k < 9; ++k) st(p + k * W, m.a[k]);
    };

    // rows of sixteen particles to sixteen records, and back
    auto transpose = [&](vf* r) INLINE {
        vf t[16];
#pragma unroll
        for (int i = 0; i < 16; i += 2) {
            t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 16, 1, 17, 4, 20, 5, 21,
                                           8, 24, 9, 25, 12, 28, 13, 29);
            t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 18, 3, 19, 6, 22, 7, 23,
                                               10, 26, 11, 27, 14, 30, 15, 31);
        }
#pragma unroll
        for (int i = 0; i < 16; i += 4) {
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                r[i + 2 * k] = __builtin_shufflevector(t[i + k], t[i + k + 2], 0, 1, 16, 17,
                    4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
                r[i + 2 * k + 1] = __builtin_shufflevector(t[i + k], t[i + k + 2], 2, 3, 18, 19,
                    6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
            }
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            vf a = __builtin_shufflevector(r[c], r[4 + c], 0, 1, 2, 3, 8, 9, 10, 11,
                                           16, 17, 18, 19, 24, 25, 26, 27);
            vf b = __builtin_shufflevector(r[c], r[4 + c], 4, 5, 6, 7, 12, 13, 14, 15,
                                           20, 21, 22, 23, 28, 29, 30, 31);
            vf d = __builtin_shufflevector(r[8 + c], r[12 + c], 0, 1, 2, 3, 8, 9, 10, 11,
                                           16, 17, 18, 19, 24, 25, 26, 27);
            vf e = __builtin_shufflevector(r[8 + c], r[12 + c], 4, 5, 6, 7, 12, 13, 14, 15,
                                           20, 21, 22, 23, 28, 29, 30, 31);
#define EVEN 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27
#define ODD 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31
            t[c] = __builtin_shufflevector(a, d, EVEN);
            t[8 + c] = __builtin_shufflevector(a, d, ODD);
            t[4 + c] = __builtin_shufflevector(b, e, EVEN);
            t[12 + c] = __builtin_shufflevector(b, e, ODD);
        }
#pragma unroll
        for (int i = 0; i < 16; ++i) r[i] = t[i];
    };
    // sums over the three nodes k of four vectors (k, component): one vector (vector, component)
    auto sum_nodes = [&](vf a, vf b, vf c, vf d) INLINE -> vf {
        vf ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7,
                                        16, 17, 18, 19, 20, 21, 22, 23);
        vf cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7,
                                        16, 17, 18, 19, 20, 21, 22, 23);
        vf ab2 = __builtin_shufflevector(a, b, 8, 9, 10, 11, 8, 9, 10, 11,
                                         24, 25, 26, 27, 24, 25, 26, 27);
        vf cd2 = __builtin_shufflevector(c, d, 8, 9, 10, 11, 8, 9, 10, 11,
                                         24, 25, 26, 27, 24, 25, 26, 27);
        return __builtin_shufflevector(ab, cd, EVEN) + __builtin_shufflevector(ab, cd, ODD)
             + __builtin_shufflevector(ab2, cd2, EVEN);
    };

    // first node of a coordinate's stencil; one rounding everywhere, or indices would differ
    auto node_of = [&](float x) INLINE -> int {
        return (int)__builtin_floorf(__builtin_fmaf(x, cf.data[2], -0.5f));
    };

    // scalars
    const int P = ci.data[0], D = ci.data[1], F = ci.data[2], n = ci.data[3], K = ci.data[4];
    const int first_frame = ci.data[5], capacity = ci.data[6];
    const int NB = (P + W - 1) / W, period = ci.data[8];
    const float dt = cf.data[0], h = cf.data[1], inv_h = cf.data[2], inv_frame = cf.data[3];
    const vf gravity = {0.0f, cf.data[4], cf.data[5], cf.data[6], 0.0f, cf.data[4], cf.data[5],
        cf.data[6], 0.0f, cf.data[4], cf.data[5], cf.data[6], 0.0f, cf.data[4], cf.data[5],
        cf.data[6]};
"""
