"""C++ that the SIMD bodies of the rasteriser share: vectors, exp2, log2, transposition, sums.

A vector holds one number of sixteen Gaussians, or of the sixteen pixels of a tile's row. A record
holds sixteen numbers of one Gaussian, which is one line of the cache.
"""

from __future__ import annotations

__all__ = ["COMMON", "TILE"]

TILE = 16

COMMON = """
    constexpr int W = 16;
    // A record: mean in pixels (the image's corners are whole numbers), the exponent of 2
    // (QA dx^2 + QB dx dy + QC dy^2 + LOG2_OPACITY), colour, depth, and how far it reaches:
    // half the size of the box around alpha >= 1/255, and the value of -2 ln there.
    enum { MX, MY, QA, QB, QC, LOG2_OPACITY, RED, GREEN, BLUE, DEPTH, REACH_X, REACH_Y, LEVEL };
    constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
    constexpr float LOG2_255 = 7.994353436858858f;
    typedef float vf __attribute__((ext_vector_type(16)));
    typedef float vfu __attribute__((ext_vector_type(16), aligned(4)));
    typedef int vi __attribute__((ext_vector_type(16)));
#define INLINE __attribute__((always_inline))
    const vf LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    auto ld = [](const float* p) INLINE -> vf { return *(const vfu*)p; };
    auto st = [](float* p, vf a) INLINE { *(vfu*)p = a; };
    auto fma = [](vf a, vf b, vf c) INLINE -> vf { return __builtin_elementwise_fma(a, b, c); };
    auto vmax = [](vf a, vf b) INLINE -> vf { return __builtin_elementwise_max(a, b); };
    auto vmin = [](vf a, vf b) INLINE -> vf { return __builtin_elementwise_min(a, b); };
    auto vabs = [](vf a) INLINE -> vf { return __builtin_elementwise_abs(a); };
    auto vsqrt = [](vf a) INLINE -> vf { return __builtin_elementwise_sqrt(a); };
    auto any = [](vi a) INLINE -> bool { return __builtin_reduce_or(a) != 0; };
    auto vexp2 = [](vf x) INLINE -> vf {      // -126 < x < 126; within 3e-7 of the value
        vf moved = x + 12582912.0f;           // 1.5 * 2^23: leaves the whole part in the last bits
        vf f = x - (moved - 12582912.0f);
        vf p = __builtin_elementwise_fma(f, (vf)1.3276472e-3f, (vf)9.6755419e-3f);
        p = __builtin_elementwise_fma(p, f, (vf)5.5507131e-2f);
        p = __builtin_elementwise_fma(p, f, (vf)2.4022120e-1f);
        p = __builtin_elementwise_fma(p, f, (vf)6.9314694e-1f);
        p = __builtin_elementwise_fma(p, f, (vf)1.0f);
        vi whole = __builtin_bit_cast(vi, moved) << 23;
        return __builtin_bit_cast(vf, __builtin_bit_cast(vi, p) + whole);
    };
    auto vexp = [&](vf x) INLINE -> vf {
        return vexp2(vmin(vmax(x * LOG2E, (vf)-125.0f), (vf)125.0f));
    };
    auto vlog2 = [&](vf b) INLINE -> vf {     // of positive numbers: series in (m-1)/(m+1)
        vi bits = __builtin_bit_cast(vi, b);
        vi shift = (bits - 0x3f3504f3) >> 23;
        vf m = __builtin_bit_cast(vf, bits - (shift << 23));
        vf z = (m - 1.0f) / (m + 1.0f), z2 = z * z;
        vf p = fma(z2, (vf)(1.0f / 9.0f), (vf)(1.0f / 7.0f));
        p = fma(p, z2, (vf)0.2f);
        p = fma(p, z2, (vf)(1.0f / 3.0f));
        vf r = fma(p * z2, z * 2.0f, z * 2.0f);
        return fma(r, (vf)LOG2E, __builtin_convertvector(shift, vf));
    };
    auto low_turns = [](vf a, vf b) INLINE -> vf {   // a0 b0 a1 b1 ... a7 b7
        return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22,
                                       7, 23);
    };
    auto high_turns = [](vf a, vf b) INLINE -> vf {  // a8 b8 ... a15 b15
        return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
                                       15, 31);
    };
    // Row and lane are eight bits of an address, and taking turns rotates them by one: four rounds
    // exchange row and lane.
    auto transpose = [&](vf* r) INLINE {
#pragma unroll
        for (int round = 0; round < 4; ++round) {
            vf t[16];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                t[2 * i] = low_turns(r[i], r[i + 8]);
                t[2 * i + 1] = high_turns(r[i], r[i + 8]);
            }
#pragma unroll
            for (int i = 0; i < 16; ++i) r[i] = t[i];
        }
    };
    // The same rounds with each pair added: lane k is the sum of the lanes of row k.
    auto lane_sums = [&](vf* r) INLINE -> vf {
#pragma unroll
        for (int n = 8; n > 0; n /= 2)
#pragma unroll
            for (int i = 0; i < n; ++i)
                r[i] = low_turns(r[i], r[i + n]) + high_turns(r[i], r[i + n]);
        return r[0];
    };
"""
