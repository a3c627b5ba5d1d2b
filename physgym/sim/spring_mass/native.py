"""SIMD bodies of the spring-mass step on CPU, written with clang's vector types.

Two layouts run the same arithmetic in the same order, so they give the same bits:

- *lanes*: up to W worlds side by side in the lanes of a vector, state ``[N][6][W]``. A node
  scatters each spring's force to its higher neighbour, rows in ascending order.
- *single*: one world, 16 nodes side by side. State is a record of 8 floats per node (x y z 0 vx vy
  vz 0); sixteen neighbours' records are loaded and transposed in registers, which costs half of
  what the machine's gather instruction does.

Every multiply-add is written out and contraction is off, so the compiler cannot make the layouts
differ. The reference is `kernels`; the derivative is `native_adjoint`.
"""

from __future__ import annotations

from functools import cache

from physgym.sim.native_kernel import NativeKernel
from physgym.sim.spring_mass.native_box import box_source
from physgym.sim.spring_mass.native_contact import CONTACT
from physgym.sim.spring_mass.native_lanes import LANES, LANES_FORWARD
from physgym.sim.spring_mass.native_single import SINGLE, SINGLE_FORWARD

__all__ = [
    "COMMON",
    "FLOATS",
    "LANES_INTS",
    "SINGLE_INTS",
    "forward_kernel",
    "instantiate",
]

COMMON = """
    constexpr int W = @W@;
    constexpr int KIND = @KIND@;
    typedef float vf __attribute__((ext_vector_type(@W@)));
    typedef float vfu __attribute__((ext_vector_type(@W@), aligned(4)));
    typedef int vi __attribute__((ext_vector_type(@W@)));
    auto ld = [](const float* p) -> vf { return *(const vfu*)p; };
    auto st = [](float* p, vf a) { *(vfu*)p = a; };
    auto fma = [](vf a, vf b, vf c) -> vf { return __builtin_elementwise_fma(a, b, c); };
    auto vmax = [](vf a, vf b) -> vf { return __builtin_elementwise_max(a, b); };
    auto vmin = [](vf a, vf b) -> vf { return __builtin_elementwise_min(a, b); };
    auto vabs = [](vf a) -> vf { return __builtin_elementwise_abs(a); };

    // scalars
    const int N = ci.data[0], K = ci.data[1], F = ci.data[2], n = ci.data[3];
    const bool shared_a = ci.data[4], shared_l = ci.data[5], shared_m = ci.data[6];
    const bool dashpot_springs = ci.data[7];
    const bool ground = ci.data[8];
    const int C = ci.data[9];
    const float h = cf.data[0], inv_frame = cf.data[1];
    const vf hgx = cf.data[2], hgy = cf.data[3], hgz = cf.data[4];
    const vf nx = cf.data[5], ny = cf.data[6], nz = cf.data[7], offset = cf.data[8];
    const float expo = cf.data[9];

    // 1/sqrt(a), a > 0: bit trick, two Newton steps, one step with the residual formed exactly
    auto rsqrt = [&](vf a) -> vf {
        vi b = 0x5f375a86 - (__builtin_bit_cast(vi, a) >> 1);
        vf y = __builtin_bit_cast(vf, b);
        vf m = a * -0.5f;
        y = y * fma(m * y, y, (vf)1.5f);
        y = y * fma(m * y, y, (vf)1.5f);
        vf t = a * y;
        vf r = fma(-t, y, (vf)1.0f);
        return fma(y * 0.5f, r, y);
    };
    // b^e for b > 0, through log2 (series in (m-1)/(m+1)) and exp2 (Taylor, degree 7)
    auto power = [&](vf b, float e) -> vf {
        vi bits = __builtin_bit_cast(vi, b);
        vi shift = (bits - 0x3f3504f3) >> 23;
        vf m = __builtin_bit_cast(vf, bits - (shift << 23));
        vf z = (m - 1.0f) / (m + 1.0f);
        vf z2 = z * z;
        vf p = fma(z2, (vf)(1.0f / 9.0f), (vf)(1.0f / 7.0f));
        p = fma(p, z2, (vf)0.2f);
        p = fma(p, z2, (vf)(1.0f / 3.0f));
        p = fma(p, z2, (vf)1.0f);
        vf lg = fma(p * z, (vf)2.8853900817779268f, __builtin_convertvector(shift, vf));
        vf t = vmin(vmax(lg * e, (vf)-126.0f), (vf)126.0f);
        vf r = __builtin_elementwise_roundeven(t);
        vf f = (t - r) * 0.6931471805599453f;
        vf q = fma(f, (vf)(1.0f / 5040.0f), (vf)(1.0f / 720.0f));
        q = fma(q, f, (vf)(1.0f / 120.0f));
        q = fma(q, f, (vf)(1.0f / 24.0f));
        q = fma(q, f, (vf)(1.0f / 6.0f));
        q = fma(q, f, (vf)0.5f);
        q = fma(q, f, (vf)1.0f);
        q = fma(q, f, (vf)1.0f);
        vi scale = (__builtin_convertvector(r, vi) + 127) << 23;
        return q * __builtin_bit_cast(vf, scale);
    };
    // what the elastic force is per coefficient, for elongation u
    auto law = [&](vf u, vf rest) -> vf {
        if (KIND == 1) return u * power(1.0f + vabs(u) / rest, expo);
        if (KIND == 2) return u * power(vmax(vabs(u), (vf)1.0e-6f), expo - 1.0f);
        return u;
    };
    // force on the near end is c * (dx, dy, dz)
    auto spring = [&](vf dx, vf dy, vf dz, vf dvx, vf dvy, vf dvz, vf a, vf rest, vf dash) -> vf {
        vf l2 = vmax(fma(dx, dx, fma(dy, dy, dz * dz)), (vf)1.0e-12f);
        vf inv = rsqrt(l2);
        vf f = a * law(l2 * inv - rest, rest);
        vf vd = fma(dvx, dx, fma(dvy, dy, dvz * dz)) * inv;
        return fma(dash, vd, f) * inv;
    };
    struct Node { vf x, y, z, vx, vy, vz; };
    auto accelerate = [&](Node p, vf fx, vf fy, vf fz, vf hm, vf decay) -> Node {
        p.vx = (fma(fx, hm, p.vx) + hgx) * decay;
        p.vy = (fma(fy, hm, p.vy) + hgy) * decay;
        p.vz = (fma(fz, hm, p.vz) + hgz) * decay;
        return p;
    };
    auto move = [&](Node p, vf e, vf mu) -> Node {
        Node q = p;
        q.x = fma(p.vx, (vf)h, p.x); q.y = fma(p.vy, (vf)h, p.y); q.z = fma(p.vz, (vf)h, p.z);
        if (!ground) return q;
        vf height = fma(nx, p.x, fma(ny, p.y, nz * p.z)) - offset;
        vf vn = fma(nx, p.vx, fma(ny, p.vy, nz * p.vz));
        vi under = fma(vn, (vf)h, height) < 0.0f;
        if (!__builtin_reduce_or(under)) return q;
        vi hit = under & (vn < 0.0f);
        vf tx = fma(-vn, nx, p.vx), ty = fma(-vn, ny, p.vy), tz = fma(-vn, nz, p.vz);
        vf t2 = fma(tx, tx, fma(ty, ty, tz * tz)) + 1.0e-12f;
        vf slow = 1.0f / vmax(t2 * rsqrt(t2), (vf)1.0e-6f);
        vf keep = vmax(fma(mu * (1.0f + e) * vn, slow, (vf)1.0f), (vf)0.0f);
        vf back = -(e * vn);
        vf wx = fma(keep, tx, back * nx), wy = fma(keep, ty, back * ny);
        vf wz = fma(keep, tz, back * nz);
        vf toi = vmin(vmax(-height / (hit ? vn : (vf)-1.0f), (vf)0.0f), (vf)h);
        vf left = h - toi;
        q.x = hit ? fma(wx, left, fma(p.vx, toi, p.x)) : q.x;
        q.y = hit ? fma(wy, left, fma(p.vy, toi, p.y)) : q.y;
        q.z = hit ? fma(wz, left, fma(p.vz, toi, p.z)) : q.z;
        q.vx = hit ? wx : q.vx; q.vy = hit ? wy : q.vy; q.vz = hit ? wz : q.vz;
        vf depth = fma(nx, q.x, fma(ny, q.y, nz * q.z)) - offset;
        vf push = under ? vmax(-depth, (vf)0.0f) : (vf)0.0f;
        q.x = fma(push, nx, q.x); q.y = fma(push, ny, q.y); q.z = fma(push, nz, q.z);
        return q;
    };
    auto too_fast = [&](Node p) -> vi {
        return ~(fma(p.vx, p.vx, fma(p.vy, p.vy, p.vz * p.vz)) < 1.0e10f);
    };
    auto weight_of = [&](int s) -> float { return s >= n ? 1.0f : (float)s / (float)n; };
"""

LANES_INTS = ("ci", "status", "driven_index", "upper_start", "upper_node")
SINGLE_INTS = ("ci", "status", "driven_index", "chunk_start", "chunk_node", "column_node")
CONTACT_INTS = ("excluded_start", "excluded_node", "iwork")
FLOATS = (
    "cf", "stiffness", "rest", "dashpot", "h_over_m", "decay", "restitution", "friction", "driven",
    "work", "box",
)  # fmt: skip


def instantiate(source: str, *, width: int, kind: int) -> str:
    """Fill the compile-time constants into a body.

    Args:
        source: C++ statements with ``@W@`` and ``@KIND@``.
        width: lanes in a vector.
        kind: `ForceLaw.kernel_kind`.

    Returns:
        C++ statements for `NativeKernel`.
    """
    return source.replace("@W@", str(width)).replace("@KIND@", str(kind))


@cache
def forward_kernel(layout: str, width: int, kind: int, boxes: int) -> NativeKernel:
    """Kernel that runs all frames of one block of worlds in one launch.

    Args:
        layout: ``"lanes"`` or ``"single"``.
        width: lanes in a vector; 16 for ``"single"``.
        kind: `ForceLaw.kernel_kind`.
        boxes: number of box colliders; the code for them is left out where there are none.

    Returns:
        The kernel; it writes the state after each frame to ``out``.
    """
    lanes = layout == "lanes"
    own = LANES + LANES_FORWARD if lanes else SINGLE + CONTACT + SINGLE_FORWARD
    body = COMMON + box_source(boxes, per_lane=lanes) + own
    return NativeKernel(
        f"spring_mass_{layout}",
        instantiate(body, width=width, kind=kind),
        ints=LANES_INTS if lanes else (*SINGLE_INTS, *CONTACT_INTS),
        floats=(*FLOATS, "out") if lanes else (*FLOATS, "out", "inv_mass", "fwork", "states"),
    )
