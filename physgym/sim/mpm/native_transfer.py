"""C++ of the transfers between sixteen particles and the grid; the reference is `kernels`.

A grid node holds four floats: mass, then velocity or momentum. A vector is three nodes along z with
their four numbers, so a particle touches nine vectors. Particles are sorted by cell: the nine
vectors of a cell stay in registers until the next particle lies in another cell.
"""

from __future__ import annotations

__all__ = ["TRANSFER"]

TRANSFER = """
    struct Window { int x, y, z, nx, ny, nz; };   // first node and size
    // Where sixteen particles are: offset of their base node, place in the cell, weights.
    struct Place { vf f[3]; vi at; };
    struct Weights { float w[9][W]; float d[9][W]; int at[W]; };  // rows: axis * 3 + node

    auto place = [&](const float* s, Window win) INLINE -> Place {
        Place p;
        vf base[3];
#pragma unroll
        for (int a = 0; a < 3; ++a) {
            vf x = ld(s + a * W);
            base[a] = __builtin_elementwise_floor(fma(x, (vf)inv_h, (vf)-0.5f));
            p.f[a] = fma(x, (vf)inv_h, -base[a]);
        }
        vi i = __builtin_convertvector(base[0], vi) - win.x;
        vi j = __builtin_convertvector(base[1], vi) - win.y;
        vi k = __builtin_convertvector(base[2], vi) - win.z;
        p.at = ((i * win.ny + j) * win.nz + k) * 4;
        return p;
    };
    auto weigh = [&](const Place& p, Weights& w, bool slopes) INLINE {
#pragma unroll
        for (int a = 0; a < 3; ++a) {
            vf f = p.f[a], u = 1.5f - f, v = f - 1.0f, t = f - 0.5f;
            st(w.w[3 * a], 0.5f * u * u);
            st(w.w[3 * a + 1], 0.75f - v * v);
            st(w.w[3 * a + 2], 0.5f * t * t);
            if (slopes) {
                st(w.d[3 * a], -u * inv_h);
                st(w.d[3 * a + 1], -2.0f * v * inv_h);
                st(w.d[3 * a + 2], t * inv_h);
            }
        }
        *(viu*)w.at = p.at;
    };
    // Records of a field that is affine around each particle: value at the base node (mass, then
    // three components), and its change per node along the three axes.
    auto affine_records = [&](float* rec, vf m, const vf* value, const Mat& a, const Place& p)
        INLINE {
        vf r[16];
        r[0] = m; r[4] = r[8] = r[12] = (vf)0.0f;
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            vf x = a.a[3 * i] * h, y = a.a[3 * i + 1] * h, z = a.a[3 * i + 2] * h;
            r[1 + i] = value[i] - fma(x, p.f[0], fma(y, p.f[1], z * p.f[2]));
            r[5 + i] = x; r[9 + i] = y; r[13 + i] = z;
        }
        transpose(r);
#pragma unroll
        for (int l = 0; l < W; ++l) st(rec + l * W, r[l]);
    };

    // particles to grid: the nine vectors of the cell that particles are added to
    struct Cell { vf a00, a01, a02, a10, a11, a12, a20, a21, a22; int at; };
    auto flush = [&](const Cell& c, float* grid, int sx, int sy) INLINE {
        if (c.at < 0) return;
        float* g = grid + c.at;
        add(g, c.a00); add(g + sy, c.a01); add(g + 2 * sy, c.a02); g += sx;
        add(g, c.a10); add(g + sy, c.a11); add(g + 2 * sy, c.a12); g += sx;
        add(g, c.a20); add(g + sy, c.a21); add(g + 2 * sy, c.a22);
    };
    auto scatter = [&](Cell& c, float* grid, const float* rec, const Weights& w, int sx, int sy)
        INLINE {
        for (int l = 0; l < W; ++l) {
            if (w.at[l] != c.at) {
                flush(c, grid, sx, sy);
                c.a00 = c.a01 = c.a02 = c.a10 = c.a11 = c.a12 = c.a20 = c.a21 = c.a22 = (vf)0.0f;
                c.at = w.at[l];
            }
            const float* q = rec + l * W;
            const vf wz = spread(w.w[6][l], w.w[7][l], w.w[8][l]);
            const vf y0 = (vf)w.w[3][l], y1 = (vf)w.w[4][l], y2 = (vf)w.w[5][l];
            vf t = fma(KZ, quad(q + 12), quad(q)) * wz;
            const vf x = quad(q + 4) * wz, y = quad(q + 8) * wz;
            vf b = t * w.w[0][l], d = y * w.w[0][l];
            c.a00 = fma(b, y0, c.a00); b += d; c.a01 = fma(b, y1, c.a01); b += d;
            c.a02 = fma(b, y2, c.a02);
            t += x; b = t * w.w[1][l]; d = y * w.w[1][l];
            c.a10 = fma(b, y0, c.a10); b += d; c.a11 = fma(b, y1, c.a11); b += d;
            c.a12 = fma(b, y2, c.a12);
            t += x; b = t * w.w[2][l]; d = y * w.w[2][l];
            c.a20 = fma(b, y0, c.a20); b += d; c.a21 = fma(b, y1, c.a21); b += d;
            c.a22 = fma(b, y2, c.a22);
        }
    };
    // grid to particles: sums of w g, and of w g times the node's number along each axis
    auto gather = [&](const float* grid, float* rec, const Weights& w, int sx, int sy) INLINE {
        vf g00, g01, g02, g10, g11, g12, g20, g21, g22;
        int at = -1;
        for (int l = 0; l < W; ++l) {
            if (w.at[l] != at) {
                at = w.at[l];
                const float* g = grid + at;
                g00 = ld(g); g01 = ld(g + sy); g02 = ld(g + 2 * sy); g += sx;
                g10 = ld(g); g11 = ld(g + sy); g12 = ld(g + 2 * sy); g += sx;
                g20 = ld(g); g21 = ld(g + sy); g22 = ld(g + 2 * sy);
            }
            const vf wz = spread(w.w[6][l], w.w[7][l], w.w[8][l]);
            const vf y0 = (vf)w.w[3][l], y1 = (vf)w.w[4][l], y2 = (vf)w.w[5][l], z2 = y2 + y2;
            const vf x0 = (vf)w.w[0][l], x1 = (vf)w.w[1][l], x2 = (vf)w.w[2][l];
            vf s1 = fma(g12, y2, fma(g11, y1, g10 * y0)), s2 = fma(g22, y2, fma(g21, y1, g20 * y0));
            vf s = fma(s2, x2, fma(s1, x1, fma(g02, y2, fma(g01, y1, g00 * y0)) * x0)) * wz;
            vf sx_ = fma(s2, x2 + x2, s1 * x1) * wz;
            vf sy_ = fma(fma(g22, z2, g21 * y1), x2, fma(fma(g12, z2, g11 * y1), x1,
                         fma(g02, z2, g01 * y1) * x0)) * wz;
            st(rec + l * W, sum_nodes(s, sx_, sy_, s * KZ));
        }
    };
    // value and gradient matrix from the records of `gather`: sum w g, sum w g (x_i - x_p)^T
    auto moments = [&](const float* rec, const Place& p, vf* mass, vf* value, Mat& m) INLINE {
        vf r[16];
#pragma unroll
        for (int l = 0; l < W; ++l) r[l] = ld(rec + l * W);
        transpose(r);
        if (mass) *mass = r[0];
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            value[i] = r[1 + i];
#pragma unroll
            for (int a = 0; a < 3; ++a)
                m.a[3 * i + a] = h * fma(-p.f[a], r[1 + i], r[4 * (a + 1) + 1 + i]);
        }
    };
"""
