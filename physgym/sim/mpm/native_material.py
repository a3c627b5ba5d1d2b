"""C++ of the elastic laws and return maps for sixteen particles; the reference is `elasticity`.

Eigenvectors come from Jacobi sweeps on F F^T, so no singular value decomposition is needed:
``F' = exp(H' - H) F`` and ``tau = N diag(t) N^T``.
"""

from __future__ import annotations

__all__ = ["MATERIAL"]

MATERIAL = """
    struct Eigen { Mat n; vf l[3]; };
    struct Law { vf mu, lam, yield, alpha, cohesion, viscosity; const float* plastic; };
    // What the plastic projection made of the Hencky strain e: e' = keep dev(e) + mean', or with
    // a plastic operator M and star = dev(M dev(e)): e' = e - (1 - keep) star.
    struct Flow { vf e[3], dev[3], star[3], norm, mean, mean_new, keep, made[3]; vi open; };

    // What the adjoint needs from the forward evaluation.
    struct Kept { Eigen g; Flow s; Mat f, cof, r; vf j; vi moved; };

    auto jacobi = [&](Sym s) INLINE -> Eigen {
        Eigen g;
        vf d[3] = {s.xx, s.yy, s.zz};
        vf o[3] = {s.xy, s.xz, s.yz};   // off-diagonal of the pairs (0,1), (0,2), (1,2)
#pragma unroll
        for (int k = 0; k < 9; ++k) g.n.a[k] = (vf)(k % 4 == 0 ? 1.0f : 0.0f);
        for (int sweep = 0; sweep < 5; ++sweep) {
            vf off = fma(o[0], o[0], fma(o[1], o[1], o[2] * o[2]));
            vf scale = fma(d[0], d[0], fma(d[1], d[1], d[2] * d[2]));
            if (!any(off > scale * 1.0e-15f)) break;
            auto rotate = [&](int p, int q, vf& opq, vf& orp, vf& orq) INLINE {
                vf gap = d[q] - d[p];
                vf twice = opq + opq;
                vf root = vsqrt(fma(gap, gap, twice * twice));
                vf t = (gap < 0.0f ? -twice : twice) / (vabs(gap) + root + 1.0e-30f);
                vf c = 1.0f / vsqrt(fma(t, t, (vf)1.0f));
                vf sn = t * c;
                d[p] = fma(-t, opq, d[p]);
                d[q] = fma(t, opq, d[q]);
                opq = (vf)0.0f;
                vf rp = fma(c, orp, -(sn * orq)), rq = fma(sn, orp, c * orq);
                orp = rp; orq = rq;
#pragma unroll
                for (int i = 0; i < 3; ++i) {
                    vf x = g.n.a[3 * i + p], y = g.n.a[3 * i + q];
                    g.n.a[3 * i + p] = fma(c, x, -(sn * y));
                    g.n.a[3 * i + q] = fma(sn, x, c * y);
                }
            };
            rotate(0, 1, o[0], o[1], o[2]);
            rotate(0, 2, o[1], o[0], o[2]);
            rotate(1, 2, o[2], o[0], o[1]);
        }
        g.l[0] = d[0]; g.l[1] = d[1]; g.l[2] = d[2];
        return g;
    };
    // largest first, as a plastic operator counts them
    auto sort_eigen = [&](Eigen& g) INLINE {
        auto order = [&](int p, int q) INLINE {
            vi swap = g.l[q] > g.l[p];
            vf x = g.l[p], y = g.l[q];
            g.l[p] = swap ? y : x; g.l[q] = swap ? x : y;
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                vf u = g.n.a[3 * i + p], v = g.n.a[3 * i + q];
                g.n.a[3 * i + p] = swap ? v : u; g.n.a[3 * i + q] = swap ? u : v;
            }
        };
        order(0, 1); order(1, 2); order(0, 1);
    };
    // n diag(d) n^T
    auto assemble = [&](const Mat& q, vf d0, vf d1, vf d2) INLINE -> Sym {
        const vf* a = q.a;
        auto dot = [&](int i, int j) INLINE -> vf {
            return fma(a[3 * i] * d0, a[3 * j],
                       fma(a[3 * i + 1] * d1, a[3 * j + 1], a[3 * i + 2] * d2 * a[3 * j + 2]));
        };
        return Sym{dot(0, 0), dot(1, 1), dot(2, 2), dot(0, 1), dot(0, 2), dot(1, 2)};
    };
    auto flow = [&](const Eigen& g, const Law& c) INLINE -> Flow {
        Flow s;
#pragma unroll
        for (int i = 0; i < 3; ++i) s.e[i] = 0.5f * vlog(vmax(g.l[i], (vf)0.0025f));
        s.mean = (s.e[0] + s.e[1] + s.e[2]) * (1.0f / 3.0f);
#pragma unroll
        for (int i = 0; i < 3; ++i) s.dev[i] = s.e[i] - s.mean;
#pragma unroll
        for (int i = 0; i < 3; ++i) s.star[i] = s.dev[i];
        if (NP) {
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                const float* m = c.plastic + 3 * i * W;
                s.star[i] = fma(ld(m), s.dev[0],
                                fma(ld(m + W), s.dev[1], ld(m + 2 * W) * s.dev[2]));
            }
            vf middle = (s.star[0] + s.star[1] + s.star[2]) * (1.0f / 3.0f);
#pragma unroll
            for (int i = 0; i < 3; ++i) s.star[i] -= middle;
        }
        s.norm = vsqrt(fma(s.star[0], s.star[0],
            fma(s.star[1], s.star[1], fma(s.star[2], s.star[2], (vf)1.0e-20f))));
        s.keep = (vf)1.0f;
        s.mean_new = s.mean;
        s.open = (vi)0;
        if (MAP == 1) s.keep = vmin((vf)1.0f, c.yield / (2.0f * c.mu * s.norm));
        if (MAP == 2) {
            vf t = 3.0f * (s.mean - c.cohesion);
            vf shear = -(1.0f + 1.5f * c.lam / c.mu) * t * c.alpha / s.norm;
            s.open = t >= 0.0f;
            s.keep = s.open ? (vf)0.0f : vmin((vf)1.0f, shear);
            s.mean_new = s.open ? c.cohesion : s.mean;
        }
        if (MAP == 3) {
            vf size = 2.0f * c.mu * s.norm, limit = 0.8164965809277260f * c.yield;
            vf trace = g.l[0] + g.l[1] + g.l[2];
            vf slow = 1.0f + c.viscosity / (c.mu * trace * (dt * (2.0f / 3.0f)));
            s.keep = size > limit ? 1.0f - (1.0f - limit / size) / slow : (vf)1.0f;
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            s.made[i] = fma(s.keep, s.dev[i], s.mean_new);
            if (NP) s.made[i] = s.open ? s.mean_new : fma(s.keep - 1.0f, s.star[i], s.e[i]);
        }
        return s;
    };
    auto polar = [&](const Mat& f) INLINE -> Mat {
        Mat r = f;
        for (int k = 0; k < 12; ++k) {
            Mat c = cofactor(r);
            vf scale = 0.5f / det(r, c), change = (vf)0.0f;
#pragma unroll
            for (int i = 0; i < 9; ++i) {
                vf next = fma(c.a[i], scale, 0.5f * r.a[i]);
                change = vmax(change, vabs(next - r.a[i]));
                r.a[i] = next;
            }
            if (!any(change > 1.0e-4f)) break;  // quadratic: the next change would be below 1e-8
        }
        return r;
    };
    // F after (I + dt C) F
    auto trial = [&](const Mat& f, const Mat& c) INLINE -> Mat {
        Mat g = mul(c, f);
#pragma unroll
        for (int i = 0; i < 9; ++i) g.a[i] = fma(g.a[i], (vf)dt, f.a[i]);
        return g;
    };
    // tau + eta J (grad v + grad v^T), J of the deformation after the return map
    auto add_viscous = [&](const Sym& s, const Mat& f, const Mat& grad_v, const Law& c) INLINE
        -> Sym {
        vf v = c.viscosity * det(f, cofactor(f)), twice = v + v;
        const vf* a = grad_v.a;
        return Sym{fma(twice, a[0], s.xx), fma(twice, a[4], s.yy), fma(twice, a[8], s.zz),
                   fma(v, a[1] + a[3], s.xy), fma(v, a[2] + a[6], s.xz),
                   fma(v, a[5] + a[7], s.yz)};
    };
    // Return map and stress: replaces the trial deformation f; bad lanes are turned inside out.
    auto material = [&](Mat& f, const Mat& grad_v, const Law& c, vi& bad, Kept& kept)
        INLINE -> Sym {
        Mat cof = cofactor(f);
        vf j = det(f, cof);
        if (LAW == 4) {
            kept.cof = cof; kept.moved = j > 0.05f;
            j = vmax(j, (vf)0.05f);
            kept.j = j;
            vf side = vexp(vlog(j) * (1.0f / 3.0f));
#pragma unroll
            for (int i = 0; i < 9; ++i) f.a[i] = i % 4 == 0 ? side : (vf)0.0f;
            vf j2 = 1.0f / (j * j);
            vf p = c.lam * (j - j2 * j2 * j2), v = c.viscosity * j;
            const vf* a = grad_v.a;
            return Sym{fma(2.0f * v, a[0], p), fma(2.0f * v, a[4], p), fma(2.0f * v, a[8], p),
                       v * (a[1] + a[3]), v * (a[2] + a[6]), v * (a[5] + a[7])};
        }
        bad |= ~(j > 0.0f);
        if (LAW == 3 || MAP > 0) {
            Eigen g = jacobi(square(f));
            if (NP) sort_eigen(g);
            Flow s = flow(g, c);
            vi moved = (s.keep < 1.0f) | (s.mean_new != s.mean);
            kept.g = g; kept.s = s; kept.moved = moved;
            if (MAP > 0 && any(moved)) {
                Mat e = sym(assemble(g.n, vexp(s.made[0] - s.e[0]), vexp(s.made[1] - s.e[1]),
                                     vexp(s.made[2] - s.e[2])));
                Mat next = mul(e, f);
#pragma unroll
                for (int i = 0; i < 9; ++i) f.a[i] = moved ? next.a[i] : f.a[i];
            }
            if (LAW == 3) {
                vf p = c.lam * (s.made[0] + s.made[1] + s.made[2]), m = 2.0f * c.mu;
                return assemble(g.n, fma(m, s.made[0], p), fma(m, s.made[1], p),
                                fma(m, s.made[2], p));
            }
            cof = cofactor(f);
            j = det(f, cof);
        }
        kept.f = f; kept.cof = cof; kept.j = j;   // what laws 0, 1 and 2 see
        if (LAW == 0) {
            const vf* a = f.a;
            vf p = c.lam * (a[0] + a[4] + a[8] - 3.0f), m = 2.0f * c.mu;
            return Sym{fma(m, a[0] - 1.0f, p), fma(m, a[4] - 1.0f, p), fma(m, a[8] - 1.0f, p),
                       c.mu * (a[1] + a[3]), c.mu * (a[2] + a[6]), c.mu * (a[5] + a[7])};
        }
        if (LAW == 1) {
            Sym b = square(f);
            vf p = c.lam * vlog(j) - c.mu;
            return Sym{fma(c.mu, b.xx, p), fma(c.mu, b.yy, p), fma(c.mu, b.zz, p),
                       c.mu * b.xy, c.mu * b.xz, c.mu * b.yz};
        }
        Mat r = polar(f);
        kept.r = r;
        vf m = 2.0f * c.mu, p = c.lam * j * (j - 1.0f);
        Mat g;
#pragma unroll
        for (int i = 0; i < 9; ++i) g.a[i] = m * (f.a[i] - r.a[i]);
        auto dot = [&](int i, int k) INLINE -> vf {
            return fma(g.a[3 * i], f.a[3 * k],
                fma(g.a[3 * i + 1], f.a[3 * k + 1], g.a[3 * i + 2] * f.a[3 * k + 2]));
        };
        return Sym{dot(0, 0) + p, dot(1, 1) + p, dot(2, 2) + p, dot(0, 1), dot(0, 2), dot(1, 2)};
    };
"""
