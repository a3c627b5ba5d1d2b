"""The rod's hot loop for CPU: 16 worlds in the lanes of one vector, a whole rollout in one call.

`physgym.sim.rod.plain` is the same rod written for reading, and the CUDA path; a test holds that
both agree. Arrays that are (B, N, 3) outside are (groups, N, 3, 16) here, lanes innermost.
"""

from __future__ import annotations

import warp as wp

__all__ = ["LANES", "MAX_NODES", "MEMORY", "SCALARS", "rod_rollout_kernel"]

LANES = 16
MAX_NODES = 256
# Per node: both turning angles after the last turn of the directors, both of the friction slider,
# and what the last turn of the directors added to the turning angles.
MEMORY = 6
SCALARS = (
    "twist_stiffness_nm2",
    "bending_damping_s",
    "drag_per_s",
    "drag_quadratic_per_m",
    "stretch_stiffness_n",
    "stretch_damping_s",
    "friction_ratio",
    "friction_yield_rad",
    "end_roll_rad",
)

_ROLLOUT = r"""
typedef float V __attribute__((ext_vector_type(16)));
struct V3 { V x, y, z; };
#define INL __attribute__((always_inline))
auto add = [](const V3& a, const V3& b) INL { return V3{a.x+b.x, a.y+b.y, a.z+b.z}; };
auto sub = [](const V3& a, const V3& b) INL { return V3{a.x-b.x, a.y-b.y, a.z-b.z}; };
auto mul = [](const V3& a, V s) INL { return V3{a.x*s, a.y*s, a.z*s}; };
auto dot = [](const V3& a, const V3& b) INL { return a.x*b.x + a.y*b.y + a.z*b.z; };
auto cross = [](const V3& a, const V3& b) INL {
    return V3{a.y*b.z - a.z*b.y, a.z*b.x - a.x*b.z, a.x*b.y - a.y*b.x}; };
auto splat = [](float s) INL { V v = s; return v; };
const V one = splat(1.0f), half = splat(0.5f), two = splat(2.0f), zero = splat(0.0f);
// A director perpendicular to `from`, turned by the least rotation onto `to` (parallel transport)
// and pulled back to unit length by one Newton step.
auto carry = [&](const V3& m, const V3& from, const V3& to) INL {
    V3 r = sub(m, mul(add(from, to), dot(m, to) / (one + dot(from, to))));
    return mul(r, splat(1.5f) - half * dot(r, r)); };

// A cable at rest damps down to denormal numbers, which cost a hundred times a normal one.
#if defined(__SSE__)
const unsigned control = __builtin_ia32_stmxcsr();
__builtin_ia32_ldmxcsr(control | 0x8040u);
#endif
const int n = node_count, ne = n - 1;
const long long g = group;
V3* x = (V3*)x_.data + g * n;
V3* v = (V3*)v_.data + g * n;
V3* m1 = (V3*)director_.data + g * ne;
V3* tan = (V3*)tangent_.data + g * ne;
V* memory = (V*)memory_.data + g * n * 6;
const V3* clamp_t = (const V3*)clamp_tangent_.data + g * 2;
const V3* clamp_m = (const V3*)clamp_director_.data + g * 2;
const V* bend = (const V*)bend_.data + g * n * 3;   // EI/l and the rest turning angles of a node
const V* rest = (const V*)rest_.data + g * ne;
const V* inv_mass = (const V*)inv_mass_.data + g * n;   // zero where driven
const V* scalar = (const V*)scalar_.data + g * 10;
const V3* driven = (const V3*)driven_.data + g * (frames + 1) * driven_count;
V3* out = (V3*)out_.data + g * frames * n;
const int* index = (const int*)driven_index_.data;

const V twist = scalar[0], bend_damp = scalar[1], drag1 = scalar[2], drag2 = scalar[3];
const V stretch = scalar[4], stretch_damp = scalar[5], fric = scalar[6], slip = scalar[7];
const V roll_cos = scalar[8], roll_sin = scalar[9];
const V inv_dt = splat(1.0f / dt), dtv = splat(dt);
const V damp = bend_damp * inv_dt;
// Edges whose roll is free: all but the clamped ones.
const int lo = clamp_first ? 1 : 0;
const int hi = clamp_last ? ne - 2 : ne - 1;

V3 G[256], m2[256];
V inv_len[256], turn[256], diag[256], side[256], dk[256 * 4];
bool is_driven[256];
for (int i = 0; i < n; ++i) is_driven[i] = false;
for (int k = 0; k < driven_count; ++k) is_driven[index[k]] = true;

for (int frame = 0; frame < frames; ++frame) {
  const V3* d0 = driven + (long long)frame * driven_count;
  const V3* d1 = d0 + driven_count;
  for (int s = 0; s < substeps; ++s) {
    // Edges: tangent, directors, stretching.
    for (int j = 0; j < ne; ++j) {
      V3 e = sub(x[j+1], x[j]);
      V len = __builtin_elementwise_sqrt(dot(e, e));
      V inv = one / len;
      V3 t = mul(e, inv);
      inv_len[j] = inv;
      if (j == 0 && clamp_first) {
        m1[j] = carry(clamp_m[0], clamp_t[0], t);
      } else if (j == ne - 1 && clamp_last) {
        V3 m = carry(clamp_m[1], clamp_t[1], t);
        m1[j] = add(mul(m, roll_cos), mul(cross(t, m), roll_sin));
      } else {
        m1[j] = carry(m1[j], tan[j], t);
      }
      tan[j] = t;
      m2[j] = cross(t, m1[j]);
      V strain = len / rest[j] - one;
      V rate = dot(sub(v[j+1], v[j]), t) / rest[j];
      G[j] = mul(t, stretch * (strain + stretch_damp * rate));
      turn[j] = zero; diag[j] = zero;
    }
    // Interior nodes: turning angles, twist, moments and their gradients to both edges.
    for (int i = 1; i < ne; ++i) {
      const int a = i - 1, b = i;
      const V3 ta = tan[a], tb = tan[b];
      V inv_chi = one / (one + dot(ta, tb));
      V3 kb = mul(cross(ta, tb), two * inv_chi);
      V3 sum = add(ta, tb);
      V3 s1 = add(m1[a], m1[b]), s2 = add(m2[a], m2[b]);
      V k1 = half * dot(kb, s2), k2 = -half * dot(kb, s1);
      V3 u = sub(m1[a], mul(sum, dot(m1[a], tb) * inv_chi));
      V psi = two * (-dot(u, m2[b])) / (one + dot(u, m1[b]));
      V* mem = memory + i * 6;
      V q1 = k1 - mem[2], q2 = k2 - mem[3];
      V keep = __builtin_elementwise_min(
          one, slip / (__builtin_elementwise_sqrt(q1*q1 + q2*q2) + splat(1e-9f)));
      q1 *= keep; q2 *= keep;
      mem[2] = k1 - q1; mem[3] = k2 - q2;
      const V B = bend[i*3];
      V T1 = B * (k1 - bend[i*3+1] + damp * (k1 - mem[0]) + fric * q1);
      V T2 = B * (k2 - bend[i*3+2] + damp * (k2 - mem[1]) + fric * q2);
      V M1 = T1 + B * damp * mem[4], M2 = T2 + B * damp * mem[5];
      mem[0] = k1; mem[1] = k2;
      V gj = twist * two / (rest[a] + rest[b]);
      V Mt = gj * psi * (one + splat(0.25f) * psi * psi);
      V3 along = mul(sum, inv_chi * (k1 * M1 + k2 * M2));
      V3 w = mul(sub(mul(s2, M1), mul(s1, M2)), inv_chi);
      V3 spin = mul(kb, half * Mt);
      G[a] = add(G[a], mul(add(sub(cross(tb, w), along), spin), inv_len[a]));
      G[b] = add(G[b], mul(sub(sub(spin, cross(ta, w)), along), inv_len[b]));
      // Turning a director by an angle takes this off the turning angles (k1, k2).
      V c1a = half * dot(kb, m1[a]), c2a = half * dot(kb, m2[a]);
      V c1b = half * dot(kb, m1[b]), c2b = half * dot(kb, m2[b]);
      dk[i*4] = c1a; dk[i*4+1] = c2a; dk[i*4+2] = c1b; dk[i*4+3] = c2b;
      V stiff = B * (one + fric + damp);
      turn[a] += Mt + T1 * c1a + T2 * c2a;
      turn[b] += T1 * c1b + T2 * c2b - Mt;
      diag[a] += gj + stiff * (c1a*c1a + c2a*c2a);
      diag[b] += gj + stiff * (c1b*c1b + c2b*c2b);
      side[b] = stiff * (c1a*c1b + c2a*c2b) - gj;
    }
    // Roll is quasi-static: one Newton step a substep, implicit in the damping that resists it.
    // A straight rod without a clamp does not resist being rolled as a whole: slow the first edge.
    if (!clamp_first && !clamp_last) diag[0] += splat(1e-3f) * twist / rest[0];
    for (int j = lo + 1; j <= hi; ++j) {
      V below = side[j] / diag[j-1];
      diag[j] -= below * side[j];
      turn[j] -= below * turn[j-1];
    }
    if (lo == 1) turn[0] = zero;
    if (hi == ne - 2) turn[ne-1] = zero;
    for (int j = hi; j >= lo; --j) {
      V r = (turn[j] - (j < hi ? side[j+1] * turn[j+1] : zero)) / diag[j];
      turn[j] = __builtin_elementwise_max(__builtin_elementwise_min(r, splat(0.2f)), splat(-0.2f));
      m1[j] = add(m1[j], mul(m2[j], turn[j]));
    }
    for (int i = 1; i < ne; ++i) {
      V* mem = memory + i * 6;
      mem[4] = -(dk[i*4] * turn[i-1] + dk[i*4+2] * turn[i]);
      mem[5] = -(dk[i*4+1] * turn[i-1] + dk[i*4+3] * turn[i]);
      mem[0] += mem[4]; mem[1] += mem[5];
    }
    // Symplectic Euler: velocity, then position; driven nodes go where they must.
    for (int i = 0; i < n; ++i) {
      if (is_driven[i]) continue;
      V3 f = i == 0 ? G[0] : (i == ne ? mul(G[ne-1], -one) : sub(G[i], G[i-1]));
      V im = inv_mass[i] * dtv;
      V3 u = V3{v[i].x + im*f.x + dt*gx, v[i].y + im*f.y + dt*gy, v[i].z + im*f.z + dt*gz};
      V speed = __builtin_elementwise_sqrt(dot(u, u));
      u = mul(u, one / (one + dtv * (drag1 + drag2 * speed)));
      v[i] = u;
      x[i] = add(x[i], mul(u, dtv));
    }
    const float f1 = (float)(s + 1) / (float)substeps, f0 = 1.0f - f1;
    for (int k = 0; k < driven_count; ++k) {
      V3 p = s + 1 == substeps ? d1[k] : add(mul(d0[k], splat(f0)), mul(d1[k], splat(f1)));
      const int i = index[k];
      v[i] = mul(sub(d1[k], d0[k]), inv_dt * splat(1.0f / (float)substeps));
      x[i] = p;
    }
  }
  for (int i = 0; i < n; ++i) out[(long long)frame * n + i] = x[i];
}
#if defined(__SSE__)
__builtin_ia32_ldmxcsr(control);
#endif
#undef INL
"""


@wp.func_native(_ROLLOUT)
def _rollout_group(
    group: int,
    node_count: int,
    clamp_first: int,
    clamp_last: int,
    x_: wp.array(dtype=float),
    v_: wp.array(dtype=float),
    director_: wp.array(dtype=float),
    tangent_: wp.array(dtype=float),
    memory_: wp.array(dtype=float),
    clamp_tangent_: wp.array(dtype=float),
    clamp_director_: wp.array(dtype=float),
    bend_: wp.array(dtype=float),
    rest_: wp.array(dtype=float),
    inv_mass_: wp.array(dtype=float),
    scalar_: wp.array(dtype=float),
    driven_index_: wp.array(dtype=int),
    driven_count: int,
    driven_: wp.array(dtype=float),
    frames: int,
    substeps: int,
    dt: float,
    gx: float,
    gy: float,
    gz: float,
    out_: wp.array(dtype=float),
) -> None: ...


@wp.kernel(enable_backward=False)
def rod_rollout_kernel(
    first_group: int,
    node_count: int,
    clamp_first: int,
    clamp_last: int,
    x_: wp.array(dtype=float),
    v_: wp.array(dtype=float),
    director_: wp.array(dtype=float),
    tangent_: wp.array(dtype=float),
    memory_: wp.array(dtype=float),
    clamp_tangent_: wp.array(dtype=float),
    clamp_director_: wp.array(dtype=float),
    bend_: wp.array(dtype=float),
    rest_: wp.array(dtype=float),
    inv_mass_: wp.array(dtype=float),
    scalar_: wp.array(dtype=float),
    driven_index_: wp.array(dtype=int),
    driven_count: int,
    driven_: wp.array(dtype=float),
    frames: int,
    substeps: int,
    dt: float,
    gx: float,
    gy: float,
    gz: float,
    out_: wp.array(dtype=float),
):
    """Advance groups ``first_group`` + thread by ``frames`` frames, the state in place.

    Bergou et al. 2008 and 2010 (discrete elastic rods) with internal friction and damping.
    """
    _rollout_group(
        first_group + wp.tid(), node_count, clamp_first, clamp_last, x_, v_, director_, tangent_,
        memory_, clamp_tangent_, clamp_director_, bend_, rest_, inv_mass_, scalar_, driven_index_,
        driven_count, driven_, frames, substeps, dt, gx, gy, gz, out_,
    )  # fmt: skip
