"""C++ of the linear stress operator for sixteen particles, and its adjoint; see `kernels`.

``tau' = tau + R mat((G - I) vec(R^T tau R)) R^T`` with the polar rotation R of F and the order xx,
yy, zz, xy, xz, yz; so G = I leaves the bits of tau. With the adjoint T of tau' (symmetric) and
those of the two matrices in the matter's frame, ``M'`` and ``M``, the adjoint of R is
``2 (T R M' + tau R Mbar)``.
"""

from __future__ import annotations

__all__ = ["OPERATOR", "OPERATOR_ADJOINT"]

OPERATOR = """
    auto into_frame = [&](const Sym& s, const Mat& r) INLINE -> Sym {   // r^T s r
        Mat m = t_mul(r, mul(sym(s), r));
        return Sym{m.a[0], m.a[4], m.a[8], m.a[1], m.a[2], m.a[5]};
    };
    auto from_frame = [&](const Sym& s, const Mat& r) INLINE -> Sym {   // r s r^T
        Mat m = mul_t(mul(r, sym(s)), r);
        return Sym{m.a[0], m.a[4], m.a[8], m.a[1], m.a[2], m.a[5]};
    };
    auto change = [&](const float* g, const Sym& v) INLINE -> Sym {     // (G - I) v; 16 lanes
        const vf in[6] = {v.xx, v.yy, v.zz, v.xy, v.xz, v.yz};
        vf out[6];
#pragma unroll
        for (int i = 0; i < 6; ++i) {
            out[i] = -in[i];
#pragma unroll
            for (int j = 0; j < 6; ++j) out[i] = fma(ld(g + (6 * i + j) * W), in[j], out[i]);
        }
        return Sym{out[0], out[1], out[2], out[3], out[4], out[5]};
    };
    auto plus = [&](const Sym& a, const Sym& b) INLINE -> Sym {
        return Sym{a.xx + b.xx, a.yy + b.yy, a.zz + b.zz, a.xy + b.xy, a.xz + b.xz, a.yz + b.yz};
    };
    auto operate = [&](const float* g, const Sym& tau, const Mat& f) INLINE -> Sym {
        Mat r = polar(f);
        return plus(tau, from_frame(change(g, into_frame(tau, r)), r));
    };
"""

OPERATOR_ADJOINT = """
    // Turns the adjoint t of the stress after the operator into that of the stress before it; adds
    // to the adjoints of the deformation and of the operator.
    auto operate_adjoint = [&](const float* g, const Sym& tau, const Mat& f, Mat& t, Mat& fb,
                               float* gb) INLINE {
        Mat r = polar(f);
        Sym given = symmetric(t), m = into_frame(tau, r), made = change(g, m);
        Sym tb = into_frame(given, r);
        const vf out[6] = {tb.xx, tb.yy, tb.zz, 2.0f * tb.xy, 2.0f * tb.xz, 2.0f * tb.yz};
        const vf in[6] = {m.xx, m.yy, m.zz, m.xy, m.xz, m.yz};
        vf mb[6];
#pragma unroll
        for (int j = 0; j < 6; ++j) {
            mb[j] = -out[j];
#pragma unroll
            for (int i = 0; i < 6; ++i) {
                mb[j] = fma(ld(g + (6 * i + j) * W), out[i], mb[j]);
                add(gb + (6 * i + j) * W, out[i] * in[j]);
            }
        }
        Sym before{mb[0], mb[1], mb[2], 0.5f * mb[3], 0.5f * mb[4], 0.5f * mb[5]};
        // R^T times the adjoint of R
        Mat q = mul(sym(tb), sym(made)), p = mul(sym(m), sym(before));
#pragma unroll
        for (int i = 0; i < 9; ++i) q.a[i] = 2.0f * (q.a[i] + p.a[i]);
        Mat turn = polar_adjoint(r, f, q);
#pragma unroll
        for (int i = 0; i < 9; ++i) fb.a[i] += turn.a[i];
        t = sym(plus(given, from_frame(before, r)));
    };
"""
