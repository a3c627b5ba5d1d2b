"""SIMD body of the gradient of the projection: from records of slots to the inputs of the model.

The camera's gradient is summed in chunks of Gaussians of fixed size, so that its bits do not depend
on the number of threads.
"""

from __future__ import annotations

from functools import cache

from physgym.splats.native_call import NativeBody
from physgym.splats.native_common import COMMON
from physgym.splats.native_project import COUNTS, INPUTS, MODEL

__all__ = ["CHUNK", "project_adjoint_body"]

CHUNK = 512  # Gaussians per partial sum of the camera's gradient

_HARMONICS_ADJOINT = """
    // gradient along the direction u, from those of the harmonics
    auto harmonics_adjoint = [&](const vf* u, const vf* g, vf* du) INLINE {
        const vf x = u[0], y = u[1], z = u[2];
        du[0] = -0.4886025119029199f * g[3];
        du[1] = -0.4886025119029199f * g[1];
        du[2] = 0.4886025119029199f * g[2];
        if (degree < 2) return;
        const vf c4 = 1.0925484305920792f * g[4], c5 = -1.0925484305920792f * g[5];
        const vf c6 = 0.6307831305050401f * g[6], c7 = -1.0925484305920792f * g[7];
        const vf c8 = 1.0925484305920792f * g[8];
        du[0] += c4 * y - c6 * x + c7 * z + c8 * x;
        du[1] += c4 * x + c5 * z - c6 * y - c8 * y;
        du[2] += c5 * y + 2.0f * c6 * z + c7 * x;
        if (degree < 3) return;
        const vf xx = x * x, yy = y * y, zz = z * z;
        const vf c9 = -0.5900435899266435f * g[9], c10 = 2.890611442640554f * g[10];
        const vf c11 = -0.4570457994644658f * g[11], c12 = 0.3731763325901154f * g[12];
        const vf c13 = -0.4570457994644658f * g[13], c14 = 1.445305721320277f * g[14];
        const vf c15 = -0.5900435899266435f * g[15];
        du[0] += 6.0f * c9 * x * y + c10 * y * z - 2.0f * c11 * x * y - 6.0f * c12 * x * z
               + c13 * (4.0f * zz - 3.0f * xx - yy) + 2.0f * c14 * x * z + 3.0f * c15 * (xx - yy);
        du[1] += 3.0f * c9 * (xx - yy) + c10 * x * z + c11 * (4.0f * zz - xx - 3.0f * yy)
               - 6.0f * c12 * y * z - 2.0f * c13 * x * y - 2.0f * c14 * y * z - 6.0f * c15 * x * y;
        du[2] += c10 * x * y + 8.0f * c11 * y * z + c12 * (6.0f * zz - 3.0f * xx - 3.0f * yy)
               + 8.0f * c13 * x * z + c14 * (xx - yy);
    };
"""

_SHAPE_ADJOINT = """
    // gradients along the six numbers of the covariance, written to what it was made from
    auto put_shape = [&](const int* at, int count, const Shape& f, const vf* ds) INLINE {
        auto put = [&](float* to, int stride, int k, vf v) INLINE {
            for (int l = 0; l < count; ++l) to[(size_t)at[l] * stride + k] += v[l];
        };
        if (scale_size == 6) {
#pragma unroll
            for (int k = 0; k < 6; ++k) put(grad_scale, 6, k, ds[k]);
            return;
        }
        if (scale_size == 1) {
            put(grad_scale, 1, 0, 2.0f * f.s[0] * (ds[0] + ds[3] + ds[5]));
            return;
        }
        vf r[9], q[4], norm;
        turn(at, r, q, norm);
        // Sigma = V V^T: gradient along V is twice the symmetric gradient times V
        const vf full[9] = {2.0f * ds[0], ds[1], ds[2], ds[1], 2.0f * ds[3], ds[4],
                            ds[2], ds[4], 2.0f * ds[5]};
        vf dr[9];
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            const vf e = vexp(pick(scale, at, 3, k));
            vf grow = (vf)0.0f;
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                const vf dv = fma(full[3 * i], f.v[k], fma(full[3 * i + 1], f.v[3 + k],
                                                           full[3 * i + 2] * f.v[6 + k]));
                grow = fma(dv, f.v[3 * i + k], grow);
                dr[3 * i + k] = dv * e;
            }
            put(grad_scale, 3, k, grow);
        }
        const vf w = q[0], x = q[1], y = q[2], z = q[3];
        vf dq[4] = {
            2.0f * (x * (dr[7] - dr[5]) + y * (dr[2] - dr[6]) + z * (dr[3] - dr[1])),
            2.0f * (w * (dr[7] - dr[5]) + y * (dr[1] + dr[3]) + z * (dr[2] + dr[6])
                    - 2.0f * x * (dr[4] + dr[8])),
            2.0f * (w * (dr[2] - dr[6]) + x * (dr[1] + dr[3]) + z * (dr[5] + dr[7])
                    - 2.0f * y * (dr[0] + dr[8])),
            2.0f * (w * (dr[3] - dr[1]) + x * (dr[2] + dr[6]) + y * (dr[5] + dr[7])
                    - 2.0f * z * (dr[0] + dr[4]))};
        const vf radial = q[0] * dq[0] + q[1] * dq[1] + q[2] * dq[2] + q[3] * dq[3];
#pragma unroll
        for (int k = 0; k < 4; ++k) put(grad_quat, 4, k, (dq[k] - q[k] * radial) / norm);
    };
"""

_ADJOINT = """
    for (int chunk = first_chunk; chunk < last_chunk; ++chunk) {
        vf pose[W];                        // rotation (9), translation (3), centre (3)
        for (int k = 0; k < W; ++k) pose[k] = (vf)0.0f;
        const int end = (chunk + 1) * chunk_size;
        const int stop = end < gaussian_count ? end : gaussian_count;
        for (int next = chunk * chunk_size; next < stop;) {
            int at[W], count = 0;
            vf g[W];
            for (; next < stop && count < W; ++next) {       // those that touch the image
                const int after = slot_span[2 * next + 1];
                int s = slot_span[2 * next];
                if (next + 24 < stop) {
                    const float* line = slot_grad + (size_t)slot_span[2 * (next + 24)] * line_size;
                    for (int k = 0; k < 3; ++k) __builtin_prefetch(line + k * line_size);
                }
                if (s == after) continue;
                vf sum = (vf)0.0f;
                for (; s < after; ++s) {
                    const float* line = slot_grad + (size_t)s * line_size;
                    sum += ld(line);
                    for (int k = 0; k < features; ++k)
                        grad_extra[(size_t)next * features + k] += line[10 + k];
                }
                at[count] = next;
                g[count++] = sum;
            }
            if (!count) break;
            for (int l = count; l < W; ++l) { at[l] = at[0]; g[l] = (vf)0.0f; }
            transpose(g);
            const Shape f = shape_of(at);
            const Seen o = see(at, f);
            // exponent -> mean and inverse covariance in the image
            const vf dmx = fma(o.a, g[1], o.b * g[2]), dmy = fma(o.b, g[1], o.c * g[2]);
            const vf da = -0.5f * g[3], db = -g[4], dc = -0.5f * g[5];
            vf dxx = -(o.a * o.a * da + o.a * o.b * db + o.b * o.b * dc);
            vf dyy = -(o.b * o.b * da + o.b * o.c * db + o.c * o.c * dc);
            vf dxy = -(2.0f * o.a * o.b * da + (o.a * o.c + o.b * o.b) * db
                       + 2.0f * o.b * o.c * dc);
            if (antialiased) {             // ln sqrt(det0 / det)
                const vf i0 = 1.0f / o.det0, half = 0.5f * g[0];
                dxx += half * (o.syy * i0 - o.a);
                dyy += half * (o.sxx * i0 - o.c);
                dxy += g[0] * o.sxy * (1.0f / o.det - i0);
            }
            // S = m Sigma m^T
            vf ds[6], n[6], dm[6];
            const vf* m = o.m;
            auto outer = [&](int i, int j) INLINE -> vf {
                return dxx * m[i] * m[j] + dyy * m[3 + i] * m[3 + j]
                     + 0.5f * dxy * (m[i] * m[3 + j] + m[3 + i] * m[j]);
            };
            ds[0] = outer(0, 0); ds[3] = outer(1, 1); ds[5] = outer(2, 2);
            ds[1] = 2.0f * outer(0, 1); ds[2] = 2.0f * outer(0, 2); ds[4] = 2.0f * outer(1, 2);
            put_shape(at, count, f, ds);
            times(m, f.s, n);
#pragma unroll
            for (int k = 0; k < 3; ++k) {
                dm[k] = 2.0f * dxx * n[k] + dxy * n[3 + k];
                dm[3 + k] = 2.0f * dyy * n[3 + k] + dxy * n[k];
            }
            // m = J R, and the mean
            vf drz = (vf)0.0f, dslope[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float focal = i ? fy : fx;
                const vf* d = dm + 3 * i;
                const vf s = focal * o.rz;
                vf along = (vf)0.0f, sum = (vf)0.0f;
#pragma unroll
                for (int k = 0; k < 3; ++k) {
                    sum = fma(d[k], m[3 * i + k], sum);
                    along = fma(d[k], (vf)R[6 + k], along);
                    pose[3 * i + k] += s * d[k];
                    pose[6 + k] -= s * o.held[i] * d[k];
                }
                drz += sum * o.p[2];
                const vi free = o.held[i] == o.slope[i];
                dslope[i] = focal * (i ? dmy : dmx) - (free ? s * along : (vf)0.0f);
            }
            vf dp[3] = {dslope[0] * o.rz, dslope[1] * o.rz, g[9]};
            drz += dslope[0] * o.p[0] + dslope[1] * o.p[1];
            dp[2] -= o.rz * o.rz * drz;
            vf dmean[3];
#pragma unroll
            for (int k = 0; k < 3; ++k) {
                dmean[k] = fma((vf)R[k], dp[0], fma((vf)R[3 + k], dp[1], (vf)R[6 + k] * dp[2]));
                pose[9 + k] += dp[k];
#pragma unroll
                for (int i = 0; i < 3; ++i) pose[3 * i + k] += dp[i] * pick(mean, at, 3, k);
            }
            // opacity and colour
            const vf strength = opacity_of(at);
            const vf dopacity = logit ? g[0] * (1.0f - strength) : g[0] / strength;
            vf drgb[3] = {g[6], g[7], g[8]};
            auto put = [&](float* to, int stride, int k, vf v) INLINE {
                for (int l = 0; l < count; ++l) to[(size_t)at[l] * stride + k] += v[l];
            };
            if (degree < 0) {
#pragma unroll
                for (int k = 0; k < 3; ++k) put(grad_colour, 3, k, drgb[k]);
            } else {
                vf u[3], h[16], rgb[3], dh[16], du[3];
                const vf inverse = look(at, u);
                harmonics(u, h);
                shade(at, h, rgb);
#pragma unroll
                for (int k = 0; k < 3; ++k) drgb[k] = rgb[k] > 0.0f ? drgb[k] : (vf)0.0f;
                for (int j = 0; j < used; ++j) {
                    dh[j] = (vf)0.0f;
#pragma unroll
                    for (int k = 0; k < 3; ++k) {
                        put(grad_colour, 3 * basis_count, 3 * j + k, drgb[k] * h[j]);
                        dh[j] = fma(drgb[k], pick(colour, at, 3 * basis_count, 3 * j + k), dh[j]);
                    }
                }
                if (degree > 0) {
                    harmonics_adjoint(u, dh, du);
                    const vf radial = u[0] * du[0] + u[1] * du[1] + u[2] * du[2];
#pragma unroll
                    for (int k = 0; k < 3; ++k) {
                        const vf v = (du[k] - u[k] * radial) * inverse;
                        dmean[k] += v;
                        pose[12 + k] -= v;
                    }
                }
            }
            put(grad_opacity, 1, 0, dopacity);
#pragma unroll
            for (int k = 0; k < 3; ++k) put(grad_mean, 3, k, dmean[k]);
        }
        st(grad_camera + (size_t)chunk * W, lane_sums(pose));
    }
"""


@cache
def project_adjoint_body() -> NativeBody:
    """The body that adds a camera's gradients to those of the inputs.

    Returns:
        The body; ``grad_camera`` gets, for every chunk of `CHUNK` Gaussians, the gradient along
        T_cam_world's rotation (9) and translation (3) and along the camera's centre (3).
    """
    return NativeBody(
        COMMON + MODEL + _HARMONICS_ADJOINT + _SHAPE_ADJOINT + _ADJOINT,
        floats=(
            *INPUTS, "slot_grad", "grad_mean", "grad_scale", "grad_quat", "grad_opacity",
            "grad_colour", "grad_extra", "grad_camera",
        ),
        ints=("slot_span",),
        counts=(*COUNTS, "line_size", "features", "chunk_size", "first_chunk", "last_chunk"),
    )  # fmt: skip
