"""C++ of the adjoint of the elastic laws and return maps; derivations: `elasticity`.

In the eigenvectors of ``F F^T`` a tensor function's adjoint is an entry-wise product with divided
differences, which stay finite where stretches are equal.
"""

from __future__ import annotations

__all__ = ["MATERIAL_ADJOINT"]

MATERIAL_ADJOINT = """
    struct LawBar { vf mu, lam, yield, alpha, cohesion, viscosity; float* plastic; };

    // n^T s n and n s n^T of symmetric matrices
    auto into = [&](const Sym& s, const Mat& n) INLINE -> Sym {
        Mat m = t_mul(n, mul(sym(s), n));
        return Sym{m.a[0], m.a[4], m.a[8], m.a[1], m.a[2], m.a[5]};
    };
    auto out_of = [&](const Sym& s, const Mat& n) INLINE -> Mat {
        return mul_t(mul(n, sym(s)), n);
    };
    auto symmetric = [&](const Mat& m) INLINE -> Sym {
        const vf* a = m.a;
        return Sym{a[0], a[4], a[8], 0.5f * (a[1] + a[3]), 0.5f * (a[2] + a[6]),
                   0.5f * (a[5] + a[7])};
    };
    // (ln a - ln b) / (a - b), with ea = ln(a) / 2
    auto log_difference = [&](vf a, vf b, vf ea, vf eb) INLINE -> vf {
        vf sum = a + b, gap = a - b;
        vf z = gap / sum, z2 = z * z;
        vf p = fma(z2, (vf)(1.0f / 9.0f), (vf)(1.0f / 7.0f));
        p = fma(p, z2, (vf)0.2f);
        p = fma(p, z2, (vf)(1.0f / 3.0f));
        p = fma(p, z2, (vf)1.0f);
        vi close = vabs(z) < 0.1f;
        return close ? 2.0f * p / sum : 2.0f * (ea - eb) / (close ? (vf)1.0f : gap);
    };
    auto exp_difference = [&](vf a, vf b, vf xa, vf xb) INLINE -> vf {  // xa = exp(a)
        vf d = 0.5f * (a - b), d2 = d * d;
        vf p = fma(d2, (vf)(1.0f / 5040.0f), (vf)(1.0f / 120.0f));
        p = fma(p, d2, (vf)(1.0f / 6.0f));
        p = fma(p, d2, (vf)1.0f);
        vi close = vabs(d) < 0.5f;
        return close ? vexp(0.5f * (a + b)) * p : (xa - xb) / (close ? (vf)1.0f : a - b);
    };
    auto trace_of = [](const Mat& m) INLINE -> vf { return m.a[0] + m.a[4] + m.a[8]; };
    auto dots = [&](const Mat& x, const Mat& y) INLINE -> vf {
        vf s = x.a[0] * y.a[0];
#pragma unroll
        for (int i = 1; i < 9; ++i) s = fma(x.a[i], y.a[i], s);
        return s;
    };

    // adjoint of f through its polar rotation r; q is r^T times the adjoint of r
    auto polar_adjoint = [&](const Mat& r, const Mat& f, const Mat& q) INLINE -> Mat {
        Sym us = symmetric(t_mul(r, f));
        Mat g = Mat{{us.yy + us.zz, -us.xy, -us.xz, -us.xy, us.xx + us.zz, -us.yz,
                     -us.xz, -us.yz, us.xx + us.yy}};
        Mat inv = cofactor(g);
        vf scale = 1.0f / det(g, inv);
        vf a0 = (q.a[7] - q.a[5]) * scale, a1 = (q.a[2] - q.a[6]) * scale;
        vf a2 = (q.a[3] - q.a[1]) * scale;
        vf y0 = fma(inv.a[0], a0, fma(inv.a[1], a1, inv.a[2] * a2));
        vf y1 = fma(inv.a[3], a0, fma(inv.a[4], a1, inv.a[5] * a2));
        vf y2 = fma(inv.a[6], a0, fma(inv.a[7], a1, inv.a[8] * a2));
        Mat skew = Mat{{(vf)0.0f, -y2, y1, y2, (vf)0.0f, -y0, -y1, y0, (vf)0.0f}};
        return mul(r, skew);
    };
    // adds the adjoint of the law's stress (laws 0, 1, 2) to that of the deformation it saw
    auto law_adjoint = [&](const Kept& k, const Law& c, const Mat& t, Mat& fb, LawBar& out) INLINE {
        const Mat& f = k.f;
        Sym s = symmetric(t);
        Mat ts = sym(s);
        vf tr = trace_of(t);
        if (LAW == 0) {
            Mat e = sym(symmetric(f));
            e.a[0] -= 1.0f; e.a[4] -= 1.0f; e.a[8] -= 1.0f;
#pragma unroll
            for (int i = 0; i < 9; ++i) fb.a[i] += 2.0f * c.mu * ts.a[i];
            fb.a[0] += c.lam * tr; fb.a[4] += c.lam * tr; fb.a[8] += c.lam * tr;
            out.mu += 2.0f * dots(ts, e);
            out.lam += tr * trace_of(e);
            return;
        }
        Mat tf = mul(ts, f);
        if (LAW == 1) {
            vf p = c.lam * tr / k.j;
#pragma unroll
            for (int i = 0; i < 9; ++i) fb.a[i] += fma(2.0f * c.mu, tf.a[i], p * k.cof.a[i]);
            out.mu += dots(tf, f) - tr;
            out.lam += tr * vlog(k.j);
            return;
        }
        const Mat& r = k.r;
        Mat tr_ = t_mul(t, r);          // t^T r
        Mat rb = mul(t, f);             // adjoint of R is -2 mu t f
        vf p = c.lam * (2.0f * k.j - 1.0f) * tr;
        Mat gap;
#pragma unroll
        for (int i = 0; i < 9; ++i) {
            fb.a[i] += fma(2.0f * c.mu, 2.0f * tf.a[i] - tr_.a[i], p * k.cof.a[i]);
            gap.a[i] = f.a[i] - r.a[i];
        }
        Mat q = t_mul(r, rb);
#pragma unroll
        for (int i = 0; i < 9; ++i) q.a[i] *= -2.0f * c.mu;
        Mat turn = polar_adjoint(r, f, q);
#pragma unroll
        for (int i = 0; i < 9; ++i) fb.a[i] += turn.a[i];
        out.mu += 2.0f * dots(rb, gap);
        out.lam += k.j * (k.j - 1.0f) * tr;
    };
    // Adjoint of keep and mean' by what they depend on; adds to the diagonal of H's adjoint.
    auto flow_adjoint = [&](const Kept& k, const Law& c, vf keep_b, vf mean_b, vf* star_b, Sym& hb,
                            vf& trace_b, LawBar& out) INLINE {
        const Flow& s = k.s;
        const vf zero = (vf)0.0f;
        vf norm_b = zero, slope = keep_b / s.norm;
        vi plastic = s.keep < 1.0f;
        if (MAP == 1) {
            norm_b = plastic ? -slope * s.keep : zero;
            out.yield += plastic ? slope * 0.5f / c.mu : zero;
            out.mu += plastic ? -keep_b * s.keep / c.mu : zero;
        }
        if (MAP == 2) {
            vf t = 3.0f * (s.mean - c.cohesion), c1 = 1.0f + 1.5f * c.lam / c.mu;
            vi open = t >= 0.0f, shear = plastic & ~open;
            norm_b = shear ? -slope * s.keep : zero;
            vf t_b = shear ? -slope * c1 * c.alpha : zero;
            vf c1_b = shear ? -slope * t * c.alpha : zero;
            out.alpha += shear ? -slope * c1 * t : zero;
            out.lam += c1_b * 1.5f / c.mu;
            out.mu -= c1_b * 1.5f * c.lam / (c.mu * c.mu);
            out.cohesion += open ? mean_b : -3.0f * t_b;
            mean_b = open ? zero : fma((vf)3.0f, t_b, mean_b);
        }
        if (MAP == 3) {
            vf size = 2.0f * c.mu * s.norm, limit = 0.8164965809277260f * c.yield;
            vf trace = k.g.l[0] + k.g.l[1] + k.g.l[2];
            vf inv = 1.0f / (c.mu * trace * (dt * (2.0f / 3.0f)));
            vf slow = fma(c.viscosity, inv, (vf)1.0f), part = 1.0f - limit / size;
            vf kb = plastic ? keep_b : zero;
            vf size_b = -kb * limit / (size * size * slow), slow_b = kb * part / (slow * slow);
            norm_b = size_b * 2.0f * c.mu;
            out.mu += size_b * 2.0f * s.norm - slow_b * (slow - 1.0f) / c.mu;
            out.yield += kb * 0.8164965809277260f / (size * slow);
            out.viscosity += slow_b * inv;
            trace_b = -slow_b * (slow - 1.0f) / trace;
        }
        vf unit = norm_b / s.norm, third = mean_b * (1.0f / 3.0f);
        hb.xx += third; hb.yy += third; hb.zz += third;
        if (!NP) {
            hb.xx = fma(unit, s.dev[0], hb.xx);
            hb.yy = fma(unit, s.dev[1], hb.yy);
            hb.zz = fma(unit, s.dev[2], hb.zz);
            return;
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) star_b[i] = fma(unit, s.star[i], star_b[i]);
        vf middle = (star_b[0] + star_b[1] + star_b[2]) * (1.0f / 3.0f), back[3];
#pragma unroll
        for (int i = 0; i < 3; ++i) star_b[i] -= middle;
#pragma unroll
        for (int j = 0; j < 3; ++j) {
            back[j] = zero;
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                back[j] = fma(ld(c.plastic + (3 * i + j) * W), star_b[i], back[j]);
                add(out.plastic + (3 * i + j) * W, star_b[i] * s.dev[j]);
            }
        }
        middle = (back[0] + back[1] + back[2]) * (1.0f / 3.0f);
        hb.xx += back[0] - middle; hb.yy += back[1] - middle; hb.zz += back[2] - middle;
    };
    // adds to the adjoints of what `add_viscous` read; t is that of the stress after it
    auto viscous_adjoint = [&](const Mat& f, const Mat& grad_v, const Law& c, const Mat& t, Mat& fb,
                               Mat& grad_b, LawBar& out) INLINE {
        Mat cof = cofactor(f), ts = sym(symmetric(t));
        vf j = det(f, cof), rate = 2.0f * dots(ts, grad_v);
        vf slope = c.viscosity * rate, twice = 2.0f * c.viscosity * j;
#pragma unroll
        for (int i = 0; i < 9; ++i) {
            fb.a[i] = fma(slope, cof.a[i], fb.a[i]);
            grad_b.a[i] = fma(twice, ts.a[i], grad_b.a[i]);
        }
        out.viscosity += j * rate;
    };
    // From the adjoints of stress t and of the deformation after the return map fb: that of the
    // trial deformation. `ft` is the trial deformation.
    auto material_adjoint = [&](const Kept& k, const Mat& ft, const Mat& grad_v, const Law& c,
                                const Mat& t, Mat fb, Mat& grad_b, LawBar& out) INLINE -> Mat {
        if (LAW == 4) {
            vf j = k.j, inv = 1.0f / j, inv2 = inv * inv, p6 = inv2 * inv2 * inv2;
            vf tr = trace_of(t), half = vexp(vlog(j) * (-2.0f / 3.0f)) * (1.0f / 3.0f);
            Mat ts = sym(symmetric(t));
            vf rate = 2.0f * dots(ts, grad_v);
            vf jb = fma(half, trace_of(fb), fma(c.lam * fma((vf)6.0f, p6 * inv, (vf)1.0f), tr,
                        c.viscosity * rate));
            jb = k.moved ? jb : (vf)0.0f;
            out.lam += (j - p6) * tr;
            out.viscosity += j * rate;
            Mat made;
#pragma unroll
            for (int i = 0; i < 9; ++i) {
                grad_b.a[i] = fma(2.0f * c.viscosity * j, ts.a[i], grad_b.a[i]);
                made.a[i] = jb * k.cof.a[i];
            }
            return made;
        }
        if (LAW != 3) law_adjoint(k, c, t, fb, out);
        if (LAW != 3 && MAP == 0) return fb;
        const Flow& s = k.s;
        const Mat& n = k.g.n;
        Sym hb{(vf)0.0f, (vf)0.0f, (vf)0.0f, (vf)0.0f, (vf)0.0f, (vf)0.0f};
        if (LAW == 3) {
            Sym q = into(symmetric(t), n);
            vf tr = q.xx + q.yy + q.zz, p = c.lam * tr, m = 2.0f * c.mu;
            hb = Sym{fma(m, q.xx, p), fma(m, q.yy, p), fma(m, q.zz, p), m * q.xy, m * q.xz,
                     m * q.yz};
            out.mu += 2.0f * fma(q.xx, s.made[0], fma(q.yy, s.made[1], q.zz * s.made[2]));
            out.lam += tr * (s.made[0] + s.made[1] + s.made[2]);
        }
        vf trace_b = (vf)0.0f;
        Mat made = fb;
        if (MAP > 0) {
            vf x[3], e[3];
#pragma unroll
            for (int i = 0; i < 3; ++i) { x[i] = s.made[i] - s.e[i]; e[i] = vexp(x[i]); }
            Mat next = mul(sym(assemble(n, e[0], e[1], e[2])), fb);
            Sym q = into(symmetric(mul_t(fb, ft)), n);
            const vf zero = (vf)0.0f;
            Sym xb{q.xx * e[0], q.yy * e[1], q.zz * e[2],
                   q.xy * exp_difference(x[0], x[1], e[0], e[1]),
                   q.xz * exp_difference(x[0], x[2], e[0], e[2]),
                   q.yz * exp_difference(x[1], x[2], e[1], e[2])};
#define ONLY_MOVED(part) xb.part = k.moved ? xb.part : zero; hb.part += xb.part;
            ONLY_MOVED(xx) ONLY_MOVED(yy) ONLY_MOVED(zz) ONLY_MOVED(xy) ONLY_MOVED(xz)
            ONLY_MOVED(yz)
#pragma unroll
            for (int i = 0; i < 9; ++i) made.a[i] = k.moved ? next.a[i] : fb.a[i];
            vf mean_b = hb.xx + hb.yy + hb.zz, third = mean_b * (1.0f / 3.0f);
            vf keep_b = fma(hb.xx, s.star[0], fma(hb.yy, s.star[1], hb.zz * s.star[2]));
            Sym own{fma(s.keep, hb.xx - third, -xb.xx), fma(s.keep, hb.yy - third, -xb.yy),
                    fma(s.keep, hb.zz - third, -xb.zz), fma(s.keep, hb.xy, -xb.xy),
                    fma(s.keep, hb.xz, -xb.xz), fma(s.keep, hb.yz, -xb.yz)};
            vf star_b[3] = {zero, zero, zero};
            if (NP) {
                vf shift = s.keep - 1.0f;
                auto part = [&](vf full, vf moved) INLINE -> vf {
                    return s.open ? -moved : full - moved;
                };
                auto slope = [&](int i, int j) INLINE -> vf {  // of a sorted map, floored
                    return (s.star[i] - s.star[j]) / vmax(s.e[i] - s.e[j], (vf)1.0e-4f);
                };
                own = Sym{part(hb.xx - third, xb.xx), part(hb.yy - third, xb.yy),
                          part(hb.zz - third, xb.zz),
                          part(fma(hb.xy * shift, slope(0, 1), hb.xy), xb.xy),
                          part(fma(hb.xz * shift, slope(0, 2), hb.xz), xb.xz),
                          part(fma(hb.yz * shift, slope(1, 2), hb.yz), xb.yz)};
                star_b[0] = s.open ? zero : shift * hb.xx;
                star_b[1] = s.open ? zero : shift * hb.yy;
                star_b[2] = s.open ? zero : shift * hb.zz;
            }
            flow_adjoint(k, c, keep_b, mean_b, star_b, own, trace_b, out);
            hb = own;
        }
        vf l[3];
#pragma unroll
        for (int i = 0; i < 3; ++i) l[i] = vmax(k.g.l[i], (vf)0.0025f);
        Sym bb{fma(hb.xx * 0.5f, 1.0f / l[0], trace_b), fma(hb.yy * 0.5f, 1.0f / l[1], trace_b),
               fma(hb.zz * 0.5f, 1.0f / l[2], trace_b),
               hb.xy * 0.5f * log_difference(l[0], l[1], s.e[0], s.e[1]),
               hb.xz * 0.5f * log_difference(l[0], l[2], s.e[0], s.e[2]),
               hb.yz * 0.5f * log_difference(l[1], l[2], s.e[1], s.e[2])};
        Mat back = mul(out_of(bb, n), ft);
#pragma unroll
        for (int i = 0; i < 9; ++i)
            made.a[i] = fma((vf)2.0f, back.a[i], made.a[i]);
        return made;
    };
"""
