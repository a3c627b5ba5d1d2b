"""C++ of gravity and boundaries on nodes and particles, with adjoints; reference: `collide`."""

from __future__ import annotations

__all__ = ["BOUNDARY"]

BOUNDARY = """
    constexpr int PENALTY = 3;
    struct Vec { float x, y, z; };
    struct Touch { float gap; Vec n, v; };
    auto dot3 = [](Vec a, Vec b) INLINE -> float { return a.x * b.x + a.y * b.y + a.z * b.z; };
    auto axpy = [](float s, Vec a, Vec b) INLINE -> Vec {
        return Vec{s * a.x + b.x, s * a.y + b.y, s * a.z + b.z};
    };
    auto root = [](float a) INLINE -> float { return __builtin_sqrtf(a); };
    auto fabs1 = [](float a) INLINE -> float { return __builtin_fabsf(a); };
    auto pick = [](float a, float b, bool larger) INLINE -> float {
        return (a > b) == larger ? a : b;
    };
    auto unit3 = [&](Vec a) INLINE -> Vec {
        float l = root(dot3(a, a));
        return l > 1.0e-12f ? Vec{a.x / l, a.y / l, a.z / l} : Vec{0.0f, 0.0f, 1.0f};
    };
    auto lerp1 = [](float a, float b, float t) INLINE -> float { return a + (b - a) * t; };
    auto mesh_gap = [&](const float* r, Vec q, Vec& n) APART -> float {
        const float* s = samples.data + (size_t)r[24];
        const int nx = (int)s[0], ny = (int)s[1], nz = (int)s[2];
        s += 3;
        float u = (q.x - r[2]) / r[5], v = (q.y - r[3]) / r[5], w = (q.z - r[4]) / r[5];
        int i = (int)__builtin_floorf(u), j = (int)__builtin_floorf(v);
        int k = (int)__builtin_floorf(w);
        n = Vec{0.0f, 0.0f, 1.0f};
        if (i < 0 || j < 0 || k < 0 || i + 1 >= nx || j + 1 >= ny || k + 1 >= nz) return 1.0e6f;
        float a = u - i, b = v - j, c = w - k;
        const float* p = s + ((size_t)i * ny + j) * nz + k;
        const float* y = p + nz;
        const float* x = p + (size_t)ny * nz;
        const float* xy = x + nz;
        float x0 = lerp1(lerp1(p[0], p[1], c), lerp1(y[0], y[1], c), b);
        float x1 = lerp1(lerp1(x[0], x[1], c), lerp1(xy[0], xy[1], c), b);
        n.x = x1 - x0;
        n.y = lerp1(lerp1(y[0] - p[0], y[1] - p[1], c), lerp1(xy[0] - x[0], xy[1] - x[1], c), a);
        n.z = lerp1(lerp1(p[1] - p[0], y[1] - y[0], b), lerp1(x[1] - x[0], xy[1] - xy[0], b), a);
        n = unit3(n);
        return lerp1(x0, x1, a);
    };
    auto touch = [&](const float* r, Vec x) APART -> Touch {
        Vec arm{x.x - r[15], x.y - r[16], x.z - r[17]};
        Vec q{r[6] * arm.x + r[9] * arm.y + r[12] * arm.z,
              r[7] * arm.x + r[10] * arm.y + r[13] * arm.z,
              r[8] * arm.x + r[11] * arm.y + r[14] * arm.z};
        const int kind = (int)r[0];
        Vec n{0.0f, 0.0f, 1.0f};
        float gap = q.z;
        if (kind == 1) { gap = root(dot3(q, q)) - r[2]; n = unit3(q); }
        if (kind == 2) {
            float sx = q.x < 0 ? -1.0f : 1.0f, sy = q.y < 0 ? -1.0f : 1.0f;
            float sz = q.z < 0 ? -1.0f : 1.0f;
            float dx = fabs1(q.x) - r[2], dy = fabs1(q.y) - r[3], dz = fabs1(q.z) - r[4];
            float deep = pick(dx, pick(dy, dz, true), true);
            Vec far{pick(dx, 0, true), pick(dy, 0, true), pick(dz, 0, true)};
            gap = root(dot3(far, far)) + pick(deep, 0, false);
            if (deep > 0) n = unit3(Vec{far.x * sx, far.y * sy, far.z * sz});
            else if (dx == deep) n = Vec{sx, 0, 0};
            else if (dy == deep) n = Vec{0, sy, 0};
            else n = Vec{0, 0, sz};
        }
        if (kind == 3) {
            float along = pick(pick(q.z, -r[3], true), r[3], false);
            Vec g{q.x, q.y, q.z - along};
            gap = root(dot3(g, g)) - r[2];
            n = unit3(g);
        }
        if (kind == 4) gap = mesh_gap(r, q, n);
        Touch t;
        t.gap = gap;
        t.n = Vec{r[6] * n.x + r[7] * n.y + r[8] * n.z, r[9] * n.x + r[10] * n.y + r[11] * n.z,
                  r[12] * n.x + r[13] * n.y + r[14] * n.z};
        t.v = Vec{r[18] + r[22] * arm.z - r[23] * arm.y, r[19] + r[23] * arm.x - r[21] * arm.z,
                  r[20] + r[21] * arm.y - r[22] * arm.x};
        return t;
    };
    auto after_contact = [&](int condition, Vec v, const Touch& t, float mu) -> Vec {
        if (condition == 0) return t.v;
        Vec u = axpy(-1.0f, t.v, v);
        float un = dot3(u, t.n);
        Vec s = axpy(-un, t.n, u);
        if (condition == 1) return axpy(1.0f, s, t.v);
        if (!(un < 0)) return v;
        float keep = 1.0f + mu * un / root(dot3(s, s) + 1.0e-20f);
        return axpy(pick(keep, 0, true), s, t.v);
    };
    // adjoint g of the velocity after contact, turned into that of the velocity before; friction's
    auto contact_adjoint = [&](int condition, Vec v, const Touch& t, float mu, Vec& g) -> float {
        if (condition == 0) { g = Vec{0, 0, 0}; return 0.0f; }
        Vec u = axpy(-1.0f, t.v, v);
        float un = dot3(u, t.n);
        if (condition == 2 && !(un < 0)) return 0.0f;
        Vec a = axpy(-dot3(g, t.n), t.n, g);
        if (condition == 1) { g = a; return 0.0f; }
        Vec s = axpy(-un, t.n, u);
        float speed = root(dot3(s, s) + 1.0e-20f), keep = 1.0f + mu * un / speed;
        if (!(keep > 0)) { g = Vec{0, 0, 0}; return 0.0f; }
        Vec dir{s.x / speed, s.y / speed, s.z / speed};
        float along = dot3(dir, a);
        g = Vec{keep * a.x, keep * a.y, keep * a.z};
        g = axpy(-mu * un / speed * along, dir, g);
        g = axpy(mu * along, t.n, g);
        return un * along;
    };
    // A particle that a plane pushes out: how deep it is, the spring's strength over the particle's
    // mass, and the side of the cube that it fills.
    struct Press { Touch t; float depth, rate, side; };
    // Velocity after a step of that spring, and of the friction that it allows.
    auto pressed = [&](Vec v, const Press& p, float mu) -> Vec {
        const float kick = dt * p.rate * p.depth;
        Vec u = axpy(-1.0f, p.t.v, v);
        Vec s = axpy(-dot3(u, p.t.n), p.t.n, u);
        const float lose = pick(mu * kick / root(dot3(s, s) + 1.0e-20f), 1.0f, false);
        return axpy(kick, p.t.n, axpy(-lose, s, v));
    };
    // adjoint g of that velocity, turned into that of the one before; also of kick and friction
    auto pressed_adjoint = [&](Vec v, const Press& p, float mu, Vec& g, float& kick_b) -> float {
        const float kick = dt * p.rate * p.depth;
        const Vec n = p.t.n;
        Vec u = axpy(-1.0f, p.t.v, v);
        Vec s = axpy(-dot3(u, n), n, u);
        const float speed = root(dot3(s, s) + 1.0e-20f), lose = mu * kick / speed;
        const float gn = dot3(g, n);
        Vec along = axpy(-gn, n, g);
        kick_b = gn;
        if (!(lose < 1.0f)) { g = Vec{gn * n.x, gn * n.y, gn * n.z}; return 0.0f; }
        Vec dir{s.x / speed, s.y / speed, s.z / speed};
        const float slide = dot3(dir, g);
        kick_b -= mu * slide;
        g = axpy(lose * slide, dir, axpy(-lose, along, g));
        return -kick * slide;
    };
    // calls visit(lane, boundary, press) for those of sixteen particles that a plane pushes out;
    // q: their state, k: their constants
    auto each_pressed = [&](const float* q, const float* k, const float* table, auto visit) {
        for (int c = 0; c < K; ++c) {
            const float* r = table + c * 25;
            if ((int)r[1] != PENALTY) continue;
            vf g = fma((vf)r[8], ld(q) - r[15],
                       fma((vf)r[11], ld(q + W) - r[16], (vf)r[14] * (ld(q + 2 * W) - r[17])));
            const vf side = vexp(vlog(
                vmax(ld(k + VOLUME * W), (vf)1.0e-30f)) * (1.0f / 3.0f));
            const vf mass = ld(k + MASS * W);
            vi near = (g < 0.5f * side) & (mass > (vf)0.0f);   // padding has no mass
            if (!any(near)) continue;
            for (int l = 0; l < W; ++l) if (near[l]) {
                Press p;
                p.t = touch(r, Vec{q[l], q[W + l], q[2 * W + l]});
                p.side = side[l];
                p.depth = 0.5f * p.side - p.t.gap;
                p.rate = (k[LAM * W + l] + 2.0f * k[MU * W + l]) * p.side * p.side
                       * inv_h / mass[l];
                if (p.depth > 0.0f) visit(l, c, p);
            }
        }
    };
    // Nodes of the window that a boundary may touch: a box of nodes, and for a plane row by row.
    struct Range { int x0, x1, y0, y1, z0, z1; };
    auto reach = [&](const float* r, Window win) -> Range {
        Range g{0, win.nx, 0, win.ny, 0, win.nz};
        const int kind = (int)r[0];
        if (kind == 0) return g;
        Vec half{r[2], r[2], r[2]}, mid{0, 0, 0};
        if (kind == 2) half = Vec{r[2], r[3], r[4]};
        if (kind == 3) half.z += r[3];
        if (kind == 4) {
            const float* s = samples.data + (size_t)r[24];
            half = Vec{0.5f * r[5] * s[0], 0.5f * r[5] * s[1], 0.5f * r[5] * s[2]};
            mid = Vec{r[2] + half.x, r[3] + half.y, r[4] + half.z};
        }
        int* low[3] = {&g.x0, &g.y0, &g.z0};
        int* high[3] = {&g.x1, &g.y1, &g.z1};
        const int first[3] = {win.x, win.y, win.z};
        for (int a = 0; a < 3; ++a) {
            const float* m = r + 6 + 3 * a;
            float c = r[15 + a] + m[0] * mid.x + m[1] * mid.y + m[2] * mid.z;
            float e = fabs1(m[0]) * half.x + fabs1(m[1]) * half.y + fabs1(m[2]) * half.z;
            float lo = pick((c - e) * inv_h - first[a] - 1, 0.0f, true);
            float hi = pick((c + e) * inv_h - first[a] + 2, -1.0f, true);
            if (lo > *high[a]) lo = (float)*high[a];
            if (hi > *high[a]) hi = (float)*high[a];
            *low[a] = (int)lo;
            *high[a] = hi < lo ? (int)lo : (int)hi;
        }
        return g;
    };
    // calls visit(node, place) for the nodes with mass that a boundary may touch
    auto each_node = [&](const float* r, Window win, const float* grid, auto visit) {
        Range g = reach(r, win);
        const bool plane = r[0] == 0.0f;
        for (int i = g.x0; i < g.x1; ++i) for (int j = g.y0; j < g.y1; ++j) {
            const float x = (win.x + i) * h, y = (win.y + j) * h;
            int k0 = g.z0, k1 = g.z1;
            if (plane) {
                const Vec n{r[8], r[11], r[14]};
                float low = n.x * (x - r[15]) + n.y * (y - r[16]) + n.z * ((win.z) * h - r[17]);
                float step = n.z * h, high = low + step * (win.nz - 1);
                if (low > 1.0e-5f && high > 1.0e-5f) continue;   // metres, as in `touch`'s callers
            }
            for (int k = k0; k < k1; ++k) {
                const int at = ((i * win.ny + j) * win.nz + k) * 4;
                if (grid[at] > MIN_MASS) visit(at, Vec{x, y, (win.z + k) * h});
            }
        }
    };
    // momentum to velocity, gravity
    auto grid_velocity = [&](float* grid, int floats) INLINE {
        for (int a = 0; a < floats; a += W) {
            vf g = ld(grid + a);
            vf m = __builtin_shufflevector(g, g, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8,
                                           12, 12, 12, 12);
            vf v = g / m + gravity;
            v = __builtin_shufflevector(v, g, 16, 1, 2, 3, 20, 5, 6, 7, 24, 9, 10, 11,
                                        28, 13, 14, 15);
            st(grid + a, m > MIN_MASS ? v : (vf)0.0f);
        }
    };
    auto boundaries = [&](float* grid, Window win, const float* table) APART {
        for (int c = 0; c < K; ++c) {
            const float* r = table + c * 25;
            const int condition = (int)r[1];
            if (condition == PENALTY) continue;
            const float mu = friction.data[c];
            each_node(r, win, grid, [&](int at, Vec x) {
                Touch t = touch(r, x);
                if (t.gap > 1.0e-6f) return;
                float* g = grid + at;
                Vec v = after_contact(condition, Vec{g[1], g[2], g[3]}, t, mu);
                g[1] = v.x; g[2] = v.y; g[3] = v.z;
            });
        }
    };
"""
