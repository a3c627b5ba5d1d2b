"""SIMD body that projects Gaussians into one camera, sixteen at a time.

The same equations, readable, stand in `projection`; the derivative is `native_project_adjoint`.
"""

from __future__ import annotations

from functools import cache

from physgym.splats.native_call import NativeBody
from physgym.splats.native_common import COMMON

__all__ = ["COUNTS", "INPUTS", "MODEL", "project_body"]

# Inputs of the model, and the counts that say how to read them. `scale` holds logarithms beside
# `quat`, and covariances (xx xy xz yy yz zz) when `scale_size` is 6; `opacity` holds logits when
# `logit` is 1; `colour` is (G, K, 3) harmonics of some degree, or RGB when `degree` is -1.
INPUTS = ("camera", "mean", "scale", "quat", "opacity", "colour")
COUNTS = ("gaussian_count", "scale_size", "logit", "degree", "basis_count")

MODEL = """
    const float* R = camera;                      // T_cam_world, row by row
    const float* t = camera + 9;
    const float* centre = camera + 12;            // of the camera, in the world
    const float fx = camera[15], fy = camera[16], cx = camera[17], cy = camera[18];
    const float near = camera[19], blur = camera[20];
    const bool antialiased = camera[21] != 0.0f;
    const float width = camera[22], height = camera[23];
    const float *low = camera + 24, *high = camera + 26;   // slopes at which the Jacobian is held
    struct Shape { vf s[6]; vf v[9]; };           // covariance; R(quat) diag(scale) if there
    struct Seen {
        vf p[3], rz, slope[2], held[2], m[6];     // in the camera; Jacobian times rotation
        vf sxx, sxy, syy, det0, det, ratio, a, b, c, mx, my;
    };
    auto pick = [](const float* p, const int* at, int stride, int k) INLINE -> vf {
        vf v;
#pragma unroll
        for (int l = 0; l < W; ++l) v[l] = p[(size_t)at[l] * stride + k];
        return v;
    };
    auto turn = [&](const int* at, vf* r, vf* q, vf& norm) INLINE {   // unit quaternion, rotation
#pragma unroll
        for (int k = 0; k < 4; ++k) q[k] = pick(quat, at, 4, k);
        norm = vsqrt(fma(q[0], q[0], fma(q[1], q[1], fma(q[2], q[2], q[3] * q[3]))));
#pragma unroll
        for (int k = 0; k < 4; ++k) q[k] /= norm;
        const vf w = q[0], x = q[1], y = q[2], z = q[3];
        r[0] = 1.0f - 2.0f * (y * y + z * z); r[1] = 2.0f * (x * y - w * z);
        r[2] = 2.0f * (x * z + w * y); r[3] = 2.0f * (x * y + w * z);
        r[4] = 1.0f - 2.0f * (x * x + z * z); r[5] = 2.0f * (y * z - w * x);
        r[6] = 2.0f * (x * z - w * y); r[7] = 2.0f * (y * z + w * x);
        r[8] = 1.0f - 2.0f * (x * x + y * y);
    };
    auto shape_of = [&](const int* at) INLINE -> Shape {
        Shape f;
        if (scale_size == 6) {
#pragma unroll
            for (int k = 0; k < 6; ++k) f.s[k] = pick(scale, at, 6, k);
            return f;
        }
        if (scale_size == 1) {
            vf e = vexp(pick(scale, at, 1, 0));
            f.s[0] = f.s[3] = f.s[5] = e * e;
            f.s[1] = f.s[2] = f.s[4] = (vf)0.0f;
            return f;
        }
        vf r[9], q[4], norm;
        turn(at, r, q, norm);
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            vf e = vexp(pick(scale, at, 3, k));
            f.v[k] = r[k] * e; f.v[3 + k] = r[3 + k] * e; f.v[6 + k] = r[6 + k] * e;
        }
        const vf* v = f.v;
        f.s[0] = fma(v[0], v[0], fma(v[1], v[1], v[2] * v[2]));
        f.s[1] = fma(v[0], v[3], fma(v[1], v[4], v[2] * v[5]));
        f.s[2] = fma(v[0], v[6], fma(v[1], v[7], v[2] * v[8]));
        f.s[3] = fma(v[3], v[3], fma(v[4], v[4], v[5] * v[5]));
        f.s[4] = fma(v[3], v[6], fma(v[4], v[7], v[5] * v[8]));
        f.s[5] = fma(v[6], v[6], fma(v[7], v[7], v[8] * v[8]));
        return f;
    };
    // m Sigma, two rows of three
    auto times = [&](const vf* m, const vf* s, vf* out) INLINE {
#pragma unroll
        for (int k = 0; k < 6; k += 3) {
            out[k] = fma(m[k], s[0], fma(m[k + 1], s[1], m[k + 2] * s[2]));
            out[k + 1] = fma(m[k], s[1], fma(m[k + 1], s[3], m[k + 2] * s[4]));
            out[k + 2] = fma(m[k], s[2], fma(m[k + 1], s[4], m[k + 2] * s[5]));
        }
    };
    auto see = [&](const int* at, const Shape& f) INLINE -> Seen {
        Seen o;
        const vf x = pick(mean, at, 3, 0), y = pick(mean, at, 3, 1), z = pick(mean, at, 3, 2);
#pragma unroll
        for (int k = 0; k < 3; ++k)
            o.p[k] = fma((vf)R[3 * k], x, fma((vf)R[3 * k + 1], y,
                                              fma((vf)R[3 * k + 2], z, (vf)t[k])));
        o.rz = 1.0f / o.p[2];
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            o.slope[k] = o.p[k] * o.rz;
            o.held[k] = vmin(vmax(o.slope[k], (vf)low[k]), (vf)high[k]);
        }
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            o.m[k] = fx * o.rz * fma(-o.held[0], (vf)R[6 + k], (vf)R[k]);
            o.m[3 + k] = fy * o.rz * fma(-o.held[1], (vf)R[6 + k], (vf)R[3 + k]);
        }
        vf n[6];
        times(o.m, f.s, n);
        o.sxx = fma(n[0], o.m[0], fma(n[1], o.m[1], n[2] * o.m[2]));
        o.sxy = fma(n[0], o.m[3], fma(n[1], o.m[4], n[2] * o.m[5]));
        o.syy = fma(n[3], o.m[3], fma(n[4], o.m[4], n[5] * o.m[5]));
        o.det0 = vmax(fma(o.sxx, o.syy, -o.sxy * o.sxy), (vf)0.0f);
        // not from the blurred numbers: the small difference of large products would be lost
        o.det = fma((vf)blur, o.sxx + o.syy, o.det0) + blur * blur;
        o.ratio = o.det0 / o.det;
        o.a = (o.syy + blur) / o.det; o.b = -o.sxy / o.det; o.c = (o.sxx + blur) / o.det;
        o.mx = fma((vf)fx, o.slope[0], (vf)cx); o.my = fma((vf)fy, o.slope[1], (vf)cy);
        return o;
    };
    auto opacity_of = [&](const int* at) INLINE -> vf {
        vf o = pick(opacity, at, 1, 0);
        return logit ? 1.0f / (1.0f + vexp(-o)) : o;
    };
    // unit direction from the camera, and one over the distance
    auto look = [&](const int* at, vf* u) INLINE -> vf {
#pragma unroll
        for (int k = 0; k < 3; ++k) u[k] = pick(mean, at, 3, k) - centre[k];
        vf r = 1.0f / vsqrt(vmax(fma(u[0], u[0], fma(u[1], u[1], u[2] * u[2])), (vf)1.0e-30f));
#pragma unroll
        for (int k = 0; k < 3; ++k) u[k] *= r;
        return r;
    };
    // real spherical harmonics in the order and with the signs of 3DGS files, up to `degree`
    auto harmonics = [&](const vf* u, vf* h) INLINE {
        const vf x = u[0], y = u[1], z = u[2];
        h[0] = (vf)0.28209479177387814f;
        if (degree < 1) return;
        h[1] = -0.4886025119029199f * y; h[2] = 0.4886025119029199f * z;
        h[3] = -0.4886025119029199f * x;
        if (degree < 2) return;
        const vf xx = x * x, yy = y * y, zz = z * z;
        h[4] = 1.0925484305920792f * x * y; h[5] = -1.0925484305920792f * y * z;
        h[6] = 0.31539156525252005f * (2.0f * zz - xx - yy);
        h[7] = -1.0925484305920792f * x * z; h[8] = 0.5462742152960396f * (xx - yy);
        if (degree < 3) return;
        h[9] = -0.5900435899266435f * y * (3.0f * xx - yy);
        h[10] = 2.890611442640554f * x * y * z;
        h[11] = -0.4570457994644658f * y * (4.0f * zz - xx - yy);
        h[12] = 0.3731763325901154f * z * (2.0f * zz - 3.0f * xx - 3.0f * yy);
        h[13] = -0.4570457994644658f * x * (4.0f * zz - xx - yy);
        h[14] = 1.445305721320277f * z * (xx - yy);
        h[15] = -0.5900435899266435f * x * (xx - 3.0f * yy);
    };
    const int used = degree < 0 ? 0 : (degree + 1) * (degree + 1);
    // colour, not below zero; which channels were held there
    auto shade = [&](const int* at, const vf* h, vf* rgb) INLINE {
        if (degree < 0) {
#pragma unroll
            for (int k = 0; k < 3; ++k) rgb[k] = pick(colour, at, 3, k);
            return;
        }
#pragma unroll
        for (int k = 0; k < 3; ++k) rgb[k] = (vf)0.5f;
        for (int j = 0; j < used; ++j)
#pragma unroll
            for (int k = 0; k < 3; ++k)
                rgb[k] = fma(h[j], pick(colour, at, 3 * basis_count, 3 * j + k), rgb[k]);
    };
"""

_PROJECT = """
    for (int block = first_block; block < last_block; ++block) {
        int at[W];
        for (int l = 0; l < W; ++l) {
            const int g = block * W + l;
            at[l] = g < gaussian_count ? g : gaussian_count - 1;
        }
        const Shape f = shape_of(at);
        const Seen o = see(at, f);
        vf strength = opacity_of(at);
        if (antialiased) strength *= vsqrt(o.ratio);
        // -2 ln of the Gaussian where alpha is 1/255
        const vf log2_opacity = vlog2(vmax(strength, (vf)1.0e-20f));
        const vf level = (log2_opacity + LOG2_255) * (2.0f * LN2);
        const vf reach = vsqrt(vmax(level, (vf)0.0f));
        const vf reach_x = reach * vsqrt(o.sxx + blur), reach_y = reach * vsqrt(o.syy + blur);
        // centres of pixels lie at halves
        // without a determinant there is no ellipse: the lists would have no end
        vi shown = (o.det > 0.0f) & (o.det < 1.0e37f) & (o.p[2] > near) & (level > 0.0f)
                 & (o.mx + reach_x >= 0.5f) & (o.mx - reach_x <= width - 0.5f)
                 & (o.my + reach_y >= 0.5f) & (o.my - reach_y <= height - 0.5f);
        vf u[3], h[16], rgb[3];
        const bool some = any(shown);
        if (some) { look(at, u); harmonics(u, h); shade(at, h, rgb); }
        vf sum = strength + f.s[0] + f.s[1] + f.s[2] + f.s[3] + f.s[4] + f.s[5]
               + o.p[0] + o.p[1] + o.p[2];
        if (some) sum += rgb[0] + rgb[1] + rgb[2];
        // not a number, not a sensible one, or no covariance
        const vi bad = ~(vabs(sum) < 1.0e30f) | (vmin(f.s[0], vmin(f.s[3], f.s[5])) < 0.0f);
        if (any(bad)) {
            for (int l = W - 1; l >= 0; --l) if (bad[l] && (!status[0] || at[l] < status[1])) {
                status[0] = 1; status[1] = at[l];
            }
        }
        for (int l = 0; l < W; ++l) {
            const int g = block * W + l;
            if (g >= gaussian_count) break;
            key[g] = shown[l] ? __builtin_bit_cast(int, (float)o.p[2][l]) : -1;
        }
        if (!some) continue;
        if (degree >= 0)
#pragma unroll
            for (int k = 0; k < 3; ++k) rgb[k] = vmax(rgb[k], (vf)0.0f);
        vf r[W] = {o.mx, o.my, -0.5f * LOG2E * o.a, -LOG2E * o.b, -0.5f * LOG2E * o.c, log2_opacity,
                   rgb[0], rgb[1], rgb[2], o.p[2], reach_x, reach_y, level, (vf)0.0f, (vf)0.0f,
                   (vf)0.0f};
        transpose(r);
#pragma unroll
        for (int l = 0; l < W; ++l) st(record + ((size_t)block * W + l) * W, r[l]);
    }
"""


@cache
def project_body() -> NativeBody:
    """The body that writes the record and the depth key of every Gaussian.

    Returns:
        The body. ``key`` is -1 for Gaussians that the camera does not see; ``status`` becomes
        (1, Gaussian) where a number is not finite.
    """
    return NativeBody(
        COMMON + MODEL + _PROJECT,
        floats=(*INPUTS, "record"),
        ints=("key", "status"),
        counts=(*COUNTS, "first_block", "last_block"),
    )
