"""C++ source of the rod's adjoint: vector types, a substep forward, a substep back.

`physgym.sim.rod.native_adjoint` wraps it into a kernel and says what it does. The adjoint of a
quantity ``q`` is named ``q_``. Kept per substep: ``Edge`` and ``Node``.
"""

from __future__ import annotations

__all__ = ["BACKWARD", "FORWARD", "SETUP"]

SETUP = r"""
typedef float V __attribute__((ext_vector_type(16), aligned(4)));
struct V3 { V x, y, z; };
#define INL __attribute__((always_inline))
auto add = [](const V3& a, const V3& b) INL { return V3{a.x+b.x, a.y+b.y, a.z+b.z}; };
auto sub = [](const V3& a, const V3& b) INL { return V3{a.x-b.x, a.y-b.y, a.z-b.z}; };
auto mul = [](const V3& a, V s) INL { return V3{a.x*s, a.y*s, a.z*s}; };
auto dot = [](const V3& a, const V3& b) INL -> V { return a.x*b.x + a.y*b.y + a.z*b.z; };
auto cross = [](const V3& a, const V3& b) INL {
    return V3{a.y*b.z - a.z*b.y, a.z*b.x - a.x*b.z, a.x*b.y - a.y*b.x}; };
auto inc = [](V3& a, const V3& b) INL { a.x += b.x; a.y += b.y; a.z += b.z; };
auto splat = [](float s) INL -> V { V v = s; return v; };
const V one = splat(1.0f), half = splat(0.5f), two = splat(2.0f), zero = splat(0.0f);
const V3 none = V3{zero, zero, zero};
auto carry = [&](const V3& m, const V3& from, const V3& to) INL {
    V3 r = sub(m, mul(add(from, to), dot(m, to) / (one + dot(from, to))));
    return mul(r, splat(1.5f) - half * dot(r, r)); };
// Adjoint of carry: adds to those of its three inputs.
auto carry_back = [&](const V3& m, const V3& from, const V3& to, const V3& out_,
                      V3& m_, V3& from_, V3& to_) INL {
    V chi = one + dot(from, to);
    V h = dot(m, to) / chi;
    V3 sum = add(from, to), r = sub(m, mul(sum, h));
    V3 r_ = sub(mul(out_, splat(1.5f) - half * dot(r, r)), mul(r, dot(out_, r)));
    V h_ = -dot(r_, sum), along_ = h_ / chi, chi_ = -h_ * h / chi;
    inc(m_, add(r_, mul(to, along_)));
    inc(from_, sub(mul(to, chi_), mul(r_, h)));
    inc(to_, add(sub(mul(m, along_), mul(r_, h)), mul(from, chi_))); };

const int n = node_count, ne = n - 1;
const long long g = group;
const int state_size = n * 18, edge_size = n * 20, node_size = n * 5;
V* saved = (V*)given_saved.data + g * (frames + 1) * state_size;
V* saved_adj = (V*)adjoint_saved.data + g * (frames + 1) * state_size;
const V3* clamp_t = (const V3*)given_clamp_tangent.data + g * 2;
const V3* clamp_m = (const V3*)given_clamp_director.data + g * 2;
const V* bend = (const V*)given_bend.data + g * n * 3;
const V* rest = (const V*)given_rest.data + g * ne;
const V* inv_mass = (const V*)given_inv_mass.data + g * n;
const V* scalar = (const V*)given_scalar.data + g * 10;
const V3* driven = (const V3*)given_driven.data + g * (frames + 1) * driven_count;
V3* clamp_t_ = (V3*)adjoint_clamp_tangent.data + g * 2;
V3* clamp_m_ = (V3*)adjoint_clamp_director.data + g * 2;
V* bend_ = (V*)adjoint_bend.data + g * n * 3;
V* rest_ = (V*)adjoint_rest.data + g * ne;
V* inv_mass_ = (V*)adjoint_inv_mass.data + g * n;
V* scalar_ = (V*)adjoint_scalar.data + g * 10;
V3* driven_ = (V3*)adjoint_driven.data + g * (frames + 1) * driven_count;
const int* slot = (const int*)given_driven_slot.data;
V* pool = (V*)given_scratch.data;
auto take = [&](long long count) { V* p = pool; pool += count; return p; };
const int slots = adjoint ? substeps : 1;
V* states = take((long long)(slots + 1) * state_size);
V* edges = take((long long)slots * edge_size);
V* nodes = take((long long)slots * node_size);

const V twist = scalar[0], bend_damp = scalar[1], drag1 = scalar[2], drag2 = scalar[3];
const V stretch = scalar[4], stretch_damp = scalar[5], fric = scalar[6], slip = scalar[7];
const V roll_cos = scalar[8], roll_sin = scalar[9];
const V dtv = splat(dt), inv_dt = splat(1.0f / dt);
const V damp = bend_damp * inv_dt;
const int lo = clamp_first ? 1 : 0, hi = clamp_last ? ne - 2 : ne - 1;
const bool loose = !clamp_first && !clamp_last;

struct State { V3 *x, *v, *m1, *tan; V* mem; };
auto state_at = [&](V* base) {
    V3* p = (V3*)base;
    return State{p, p + n, p + 2*n, p + 3*n, base + 12*n}; };
struct Edge { V3 t, c, m2, G; V inv, len, diag, turn, pivot, reduced, raw, roll; };  // 20
struct Node { V lever[4], side; };
"""

FORWARD = r"""
// One substep from state a to state b; what it computes on its way stays in E and D.
auto forward = [&](const State& a, const State& b, Edge* E, Node* D,
                   const V3* d0, const V3* d1, int s) {
  for (int j = 0; j < ne; ++j) {
    V3 e = sub(a.x[j+1], a.x[j]);
    V len = __builtin_elementwise_sqrt(dot(e, e));
    V inv = one / len;
    V3 t = mul(e, inv), c;
    if (j == 0 && clamp_first) {
      c = carry(clamp_m[0], clamp_t[0], t);
    } else if (j == ne - 1 && clamp_last) {
      V3 m = carry(clamp_m[1], clamp_t[1], t);
      c = add(mul(m, roll_cos), mul(cross(t, m), roll_sin));
    } else {
      c = carry(a.m1[j], a.tan[j], t);
    }
    V strain = len / rest[j] - one;
    V rate = dot(sub(a.v[j+1], a.v[j]), t) / rest[j];
    E[j].t = t; E[j].c = c; E[j].m2 = cross(t, c); E[j].inv = inv; E[j].len = len;
    E[j].G = mul(t, stretch * (strain + stretch_damp * rate));
    E[j].diag = zero; E[j].turn = zero;
    b.tan[j] = t;
  }
  for (int i = 1; i < ne; ++i) {
    Edge &p = E[i-1], &q = E[i];
    V ic = one / (one + dot(p.t, q.t));
    V3 kb = mul(cross(p.t, q.t), two * ic), sum = add(p.t, q.t);
    V3 s1 = add(p.c, q.c), s2 = add(p.m2, q.m2);
    V k1 = half * dot(kb, s2), k2 = -half * dot(kb, s1);
    V3 u = sub(p.c, mul(sum, dot(p.c, q.t) * ic));
    V psi = two * (-dot(u, q.m2)) / (one + dot(u, q.c));
    const V* mem = a.mem + i * 6;
    V q1 = k1 - mem[2], q2 = k2 - mem[3];
    V keep = __builtin_elementwise_min(
        one, slip / (__builtin_elementwise_sqrt(q1*q1 + q2*q2) + splat(1e-9f)));
    q1 *= keep; q2 *= keep;
    const V B = bend[i*3];
    V T1 = B * (k1 - bend[i*3+1] + damp * (k1 - mem[0]) + fric * q1);
    V T2 = B * (k2 - bend[i*3+2] + damp * (k2 - mem[1]) + fric * q2);
    V M1 = T1 + B * damp * mem[4], M2 = T2 + B * damp * mem[5];
    V gj = twist * two / (rest[i-1] + rest[i]);
    V Mt = gj * psi * (one + splat(0.25f) * psi * psi);
    V3 along = mul(sum, ic * (k1 * M1 + k2 * M2));
    V3 w = mul(sub(mul(s2, M1), mul(s1, M2)), ic), spin = mul(kb, half * Mt);
    inc(p.G, mul(add(sub(cross(q.t, w), along), spin), p.inv));
    inc(q.G, mul(sub(sub(spin, cross(p.t, w)), along), q.inv));
    V* c = D[i].lever;
    c[0] = half * dot(kb, p.c); c[1] = half * dot(kb, p.m2);
    c[2] = half * dot(kb, q.c); c[3] = half * dot(kb, q.m2);
    V stiff = B * (one + fric + damp);
    p.turn += Mt + T1 * c[0] + T2 * c[1];
    q.turn += T1 * c[2] + T2 * c[3] - Mt;
    p.diag += gj + stiff * (c[0]*c[0] + c[1]*c[1]);
    q.diag += gj + stiff * (c[2]*c[2] + c[3]*c[3]);
    D[i].side = stiff * (c[0]*c[2] + c[1]*c[3]) - gj;
    V* after = b.mem + i * 6;
    after[0] = k1; after[1] = k2; after[2] = k1 - q1; after[3] = k2 - q2;
  }
  if (loose) E[0].diag += splat(1e-3f) * twist / rest[0];
  for (int j = 0; j < ne; ++j) {
    E[j].pivot = E[j].diag; E[j].reduced = E[j].turn; E[j].raw = zero; E[j].roll = zero;
    if (j > lo && j <= hi) {
      V below = D[j].side / E[j-1].pivot;
      E[j].pivot -= below * D[j].side;
      E[j].reduced -= below * E[j-1].reduced;
    }
  }
  for (int j = hi; j >= lo; --j) {
    V right = j < hi ? E[j].reduced - D[j+1].side * E[j+1].roll : E[j].reduced;
    E[j].raw = right / E[j].pivot;
    E[j].roll = __builtin_elementwise_max(
        __builtin_elementwise_min(E[j].raw, splat(0.2f)), splat(-0.2f));
  }
  for (int j = 0; j < ne; ++j) b.m1[j] = add(E[j].c, mul(E[j].m2, E[j].roll));
  for (int k = 0; k < 6; ++k) { b.mem[k] = a.mem[k]; b.mem[ne*6+k] = a.mem[ne*6+k]; }
  for (int i = 1; i < ne; ++i) {
    V *after = b.mem + i * 6, *c = D[i].lever;
    after[4] = -(c[0] * E[i-1].roll + c[2] * E[i].roll);
    after[5] = -(c[1] * E[i-1].roll + c[3] * E[i].roll);
    after[0] += after[4]; after[1] += after[5];
  }
  const float f1 = (float)(s + 1) / (float)substeps, f0 = 1.0f - f1;
  for (int i = 0; i < n; ++i) {
    const int k = slot[i];
    if (k >= 0) {
      b.v[i] = mul(sub(d1[k], d0[k]), inv_dt * splat(1.0f / (float)substeps));
      b.x[i] = s + 1 == substeps ? d1[k] : add(mul(d0[k], splat(f0)), mul(d1[k], splat(f1)));
      continue;
    }
    V3 f = i == 0 ? E[0].G : (i == ne ? mul(E[ne-1].G, -one) : sub(E[i].G, E[i-1].G));
    V im = inv_mass[i] * dtv;
    V3 w = V3{a.v[i].x + im*f.x + dt*gx, a.v[i].y + im*f.y + dt*gy, a.v[i].z + im*f.z + dt*gz};
    V speed = __builtin_elementwise_sqrt(dot(w, w));
    b.v[i] = mul(w, one / (one + dtv * (drag1 + drag2 * speed)));
    b.x[i] = add(a.x[i], mul(b.v[i], dtv));
  }
};
"""

BACKWARD = r"""
// Adjoints of one substep: those of the state after it (z) become those of the state before it.
V3 *force_ = (V3*)take(3 * n), *G_ = (V3*)take(3 * n), *t_ = (V3*)take(3 * n);
V3 *c_ = (V3*)take(3 * n), *m2_ = (V3*)take(3 * n);
V *roll_ = take(n), *diag_ = take(n), *turn_ = take(n), *side_ = take(n), *inv_ = take(n);
V *lever_ = take(4 * n), *kappa_ = take(4 * n);
auto mask = [&](V low, V high) INL -> V {
    return -__builtin_convertvector(low < high, V); };
auto backward = [&](const State& a, const Edge* E, const Node* D, const State& z,
                    const V3* d0, const V3* d1, V3* d0_, V3* d1_, int s) {
  const float f1 = (float)(s + 1) / (float)substeps, f0 = 1.0f - f1;
  for (int i = 0; i < n; ++i) {
    force_[i] = none;
    const int k = slot[i];
    if (k >= 0) {
      V3 v_ = mul(z.v[i], inv_dt * splat(1.0f / (float)substeps));
      inc(d0_[k], sub(mul(z.x[i], splat(f0)), v_));
      inc(d1_[k], add(mul(z.x[i], splat(f1)), v_));
      z.x[i] = none; z.v[i] = none;
      continue;
    }
    V3 f = i == 0 ? E[0].G : (i == ne ? mul(E[ne-1].G, -one) : sub(E[i].G, E[i-1].G));
    V im = inv_mass[i] * dtv;
    V3 w = V3{a.v[i].x + im*f.x + dt*gx, a.v[i].y + im*f.y + dt*gy, a.v[i].z + im*f.z + dt*gz};
    V speed = __builtin_elementwise_sqrt(dot(w, w));
    V scale = one / (one + dtv * (drag1 + drag2 * speed));
    V3 u_ = add(z.v[i], mul(z.x[i], dtv));
    V drag_ = -scale * scale * dtv * dot(u_, w);
    scalar_[2] += drag_; scalar_[3] += drag_ * speed;
    V3 w_ = add(mul(u_, scale), mul(w, drag_ * drag2 / (speed + splat(1e-30f))));
    z.v[i] = w_;
    inv_mass_[i] += dtv * dot(w_, f);
    force_[i] = mul(w_, im);
  }
  for (int j = 0; j < ne; ++j) {
    G_[j] = sub(force_[j], force_[j+1]);
    roll_[j] = dot(E[j].m2, z.m1[j]);
    c_[j] = z.m1[j]; m2_[j] = mul(z.m1[j], E[j].roll);
    t_[j] = z.tan[j];
    diag_[j] = zero; turn_[j] = zero; side_[j] = zero; inv_[j] = zero;
  }
  for (int i = 1; i < ne; ++i) {
    const V *m_ = z.mem + i * 6, *c = D[i].lever;
    V e1 = m_[4] + m_[0], e2 = m_[5] + m_[1];
    V ra = E[i-1].roll, rb = E[i].roll;
    lever_[i*4] = -e1 * ra; lever_[i*4+1] = -e2 * ra;
    lever_[i*4+2] = -e1 * rb; lever_[i*4+3] = -e2 * rb;
    roll_[i-1] -= e1 * c[0] + e2 * c[1];
    roll_[i] -= e1 * c[2] + e2 * c[3];
    kappa_[i*4] = m_[0] + m_[2]; kappa_[i*4+1] = m_[1] + m_[3];
    kappa_[i*4+2] = -m_[2]; kappa_[i*4+3] = -m_[3];  // of the friction's spring
  }
  // The roll's linear system: back substitution, then elimination, each in reverse.
  // Until it is moved on, diag_ is the pivot's adjoint and turn_ that of the reduced right side.
  for (int j = lo; j <= hi; ++j) {
    V raw_ = roll_[j] * mask(__builtin_elementwise_abs(E[j].raw), splat(0.2f)) / E[j].pivot;
    turn_[j] += raw_; diag_[j] -= raw_ * E[j].raw;
    if (j < hi) { side_[j+1] -= raw_ * E[j+1].roll; roll_[j+1] -= raw_ * D[j+1].side; }
  }
  for (int j = hi; j > lo; --j) {
    V side = D[j].side, below = side / E[j-1].pivot;
    V below_ = -(diag_[j] * side + turn_[j] * E[j-1].reduced);
    side_[j] += below_ / E[j-1].pivot - diag_[j] * below;
    turn_[j-1] -= turn_[j] * below;
    diag_[j-1] -= below_ * below / E[j-1].pivot;
  }
  if (loose) {
    scalar_[0] += splat(1e-3f) * diag_[0] / rest[0];
    rest_[0] -= splat(1e-3f) * diag_[0] * twist / (rest[0] * rest[0]);
  }
  V damp_ = zero;
  for (int i = 1; i < ne; ++i) {
    const Edge &p = E[i-1], &q = E[i];
    const V *c = D[i].lever, *mem = a.mem + i * 6;
    // Forward once more.
    V ic = one / (one + dot(p.t, q.t));
    V3 C = cross(p.t, q.t), kb = mul(C, two * ic), sum = add(p.t, q.t);
    V3 s1 = add(p.c, q.c), s2 = add(p.m2, q.m2);
    V k1 = half * dot(kb, s2), k2 = -half * dot(kb, s1);
    V mt = dot(p.c, q.t), h = mt * ic;
    V3 u = sub(p.c, mul(sum, h));
    V den = one + dot(u, q.c), psi = two * (-dot(u, q.m2)) / den;
    V g1 = k1 - mem[2], g2 = k2 - mem[3];
    V size = __builtin_elementwise_sqrt(g1*g1 + g2*g2) + splat(1e-9f);
    V ratio = slip / size, keep = __builtin_elementwise_min(one, ratio);
    V q1 = g1 * keep, q2 = g2 * keep;
    const V B = bend[i*3];
    V y1 = k1 - bend[i*3+1] + damp * (k1 - mem[0]) + fric * q1;
    V y2 = k2 - bend[i*3+2] + damp * (k2 - mem[1]) + fric * q2;
    V T1 = B * y1, T2 = B * y2;
    V M1 = T1 + B * damp * mem[4], M2 = T2 + B * damp * mem[5];
    V spread = rest[i-1] + rest[i], gj = twist * two / spread;
    V Mt = gj * psi * (one + splat(0.25f) * psi * psi), Q = k1 * M1 + k2 * M2;
    V3 along = mul(sum, ic * Q), w0 = sub(mul(s2, M1), mul(s1, M2)), w = mul(w0, ic);
    V3 spin = mul(kb, half * Mt);
    V stiff = B * (one + fric + damp);
    // The roll's system.
    V da = diag_[i-1], db = diag_[i], ua = turn_[i-1], ub = turn_[i], sd = side_[i];
    V gj_ = da + db - sd;
    V stiff_ = da * (c[0]*c[0] + c[1]*c[1]) + db * (c[2]*c[2] + c[3]*c[3])
               + sd * (c[0]*c[2] + c[1]*c[3]);
    V l0 = lever_[i*4] + two * stiff * da * c[0] + stiff * sd * c[2] + ua * T1;
    V l1 = lever_[i*4+1] + two * stiff * da * c[1] + stiff * sd * c[3] + ua * T2;
    V l2 = lever_[i*4+2] + two * stiff * db * c[2] + stiff * sd * c[0] + ub * T1;
    V l3 = lever_[i*4+3] + two * stiff * db * c[3] + stiff * sd * c[1] + ub * T2;
    V T1_ = ua * c[0] + ub * c[2], T2_ = ua * c[1] + ub * c[3], Mt_ = ua - ub;
    // The pulls on both edges.
    V3 pa = mul(G_[i-1], p.inv), pb = mul(G_[i], q.inv), both = add(pa, pb);
    inv_[i-1] += dot(G_[i-1], add(sub(cross(q.t, w), along), spin));
    inv_[i] += dot(G_[i], sub(sub(spin, cross(p.t, w)), along));
    V3 w_ = sub(cross(pa, q.t), cross(pb, p.t));
    V3 ta_ = mul(cross(w, pb), -one), tb_ = cross(w, pa);
    V3 kb_ = mul(both, half * Mt);
    Mt_ += half * dot(both, kb);
    V3 s2_ = mul(w_, M1 * ic), s1_ = mul(w_, -M2 * ic), sum_ = mul(both, -ic * Q);
    V M1_ = ic * dot(w_, s2), M2_ = -ic * dot(w_, s1);
    V drawn = -dot(both, sum), ic_ = dot(w_, w0) + drawn * Q, Q_ = drawn * ic;
    V k1_ = kappa_[i*4] + Q_ * M1, k2_ = kappa_[i*4+1] + Q_ * M2;
    M1_ += Q_ * k1; M2_ += Q_ * k2;
    // Moments.
    gj_ += Mt_ * psi * (one + splat(0.25f) * psi * psi);
    V psi_ = Mt_ * gj * (one + splat(0.75f) * psi * psi);
    scalar_[0] += gj_ * two / spread;
    rest_[i-1] -= gj_ * gj / spread; rest_[i] -= gj_ * gj / spread;
    T1_ += M1_; T2_ += M2_;
    V rolling = M1_ * mem[4] + M2_ * mem[5];
    V B_ = damp * rolling + stiff_ * (one + fric + damp) + T1_ * y1 + T2_ * y2;
    V y1_ = T1_ * B, y2_ = T2_ * B;
    damp_ += B * (rolling + stiff_) + y1_ * (k1 - mem[0]) + y2_ * (k2 - mem[1]);
    scalar_[6] += stiff_ * B + y1_ * q1 + y2_ * q2;
    bend_[i*3] += B_; bend_[i*3+1] -= y1_; bend_[i*3+2] -= y2_;
    k1_ += y1_ * (one + damp); k2_ += y2_ * (one + damp);
    V q1_ = kappa_[i*4+2] + y1_ * fric, q2_ = kappa_[i*4+3] + y2_ * fric;
    V slips = mask(ratio, one), keep_ = slips * (q1_ * g1 + q2_ * g2);
    scalar_[7] += keep_ / size;
    V size_ = -keep_ * keep / (size * size);
    V g1_ = q1_ * keep + size_ * g1, g2_ = q2_ * keep + size_ * g2;
    k1_ += g1_; k2_ += g2_;
    V* m_ = z.mem + i * 6;
    m_[0] = -y1_ * damp; m_[1] = -y2_ * damp; m_[2] = -g1_; m_[3] = -g2_;
    m_[4] = M1_ * B * damp; m_[5] = M2_ * B * damp;
    // Geometry.
    V across_ = -two * psi_ / den, near_ = -psi * psi_ / den;
    V3 u_ = add(mul(q.m2, across_), mul(q.c, near_));
    V h_ = -dot(u_, sum);
    sum_ = sub(sum_, mul(u_, h));
    ic_ += h_ * mt;
    inc(kb_, sub(mul(s2, half * k1_), mul(s1, half * k2_)));
    inc(s2_, mul(kb, half * k1_)); inc(s1_, mul(kb, -half * k2_));
    inc(kb_, mul(add(add(mul(p.c, l0), mul(p.m2, l1)), add(mul(q.c, l2), mul(q.m2, l3))), half));
    inc(c_[i-1], add(add(u_, mul(q.t, h_ * ic)), add(s1_, mul(kb, half * l0))));
    inc(m2_[i-1], add(s2_, mul(kb, half * l1)));
    inc(c_[i], add(mul(u, near_), add(s1_, mul(kb, half * l2))));
    inc(m2_[i], add(mul(u, across_), add(s2_, mul(kb, half * l3))));
    V3 C_ = mul(kb_, two * ic);
    ic_ += two * dot(kb_, C);
    V chi_ = -ic_ * ic * ic;
    inc(t_[i-1], add(add(ta_, cross(q.t, C_)), add(sum_, mul(q.t, chi_))));
    inc(t_[i], add(add(add(tb_, cross(C_, p.t)), add(sum_, mul(p.t, chi_))), mul(p.c, h_ * ic)));
  }
  scalar_[1] += damp_ * inv_dt;
  for (int j = 0; j < ne; ++j) {
    const Edge& e = E[j];
    inc(c_[j], cross(m2_[j], e.t));
    inc(t_[j], cross(e.c, m2_[j]));
    V3 dv = sub(a.v[j+1], a.v[j]);
    V strain = e.len / rest[j] - one, rate = dot(dv, e.t) / rest[j];
    V stretched = strain + stretch_damp * rate, pull_ = dot(G_[j], e.t);
    scalar_[4] += pull_ * stretched;
    scalar_[5] += pull_ * stretch * rate;
    V strain_ = pull_ * stretch, rate_ = strain_ * stretch_damp;
    rest_[j] -= (strain_ * e.len / rest[j] + rate_ * rate) / rest[j];
    inc(t_[j], add(mul(G_[j], stretch * stretched), mul(dv, rate_ / rest[j])));
    V3 dv_ = mul(e.t, rate_ / rest[j]);
    inc(z.v[j+1], dv_);
    z.v[j] = sub(z.v[j], dv_);
    V3 m1_ = none, tan_ = none;
    if (j == 0 && clamp_first) {
      carry_back(clamp_m[0], clamp_t[0], e.t, c_[j], clamp_m_[0], clamp_t_[0], t_[j]);
    } else if (j == ne - 1 && clamp_last) {
      V3 m = carry(clamp_m[1], clamp_t[1], e.t);
      scalar_[8] += dot(c_[j], m);
      scalar_[9] += dot(c_[j], cross(e.t, m));
      V3 m_ = add(mul(c_[j], roll_cos), mul(cross(c_[j], e.t), roll_sin));
      inc(t_[j], mul(cross(m, c_[j]), roll_sin));
      carry_back(clamp_m[1], clamp_t[1], e.t, m_, clamp_m_[1], clamp_t_[1], t_[j]);
    } else {
      carry_back(a.m1[j], a.tan[j], e.t, c_[j], m1_, tan_, t_[j]);
    }
    z.m1[j] = m1_; z.tan[j] = tan_;
    V len_ = strain_ / rest[j] - inv_[j] * e.inv * e.inv;
    V3 e_ = add(mul(sub(t_[j], mul(e.t, dot(e.t, t_[j]))), e.inv), mul(e.t, len_));
    inc(z.x[j+1], e_);
    z.x[j] = sub(z.x[j], e_);
  }
};
"""
