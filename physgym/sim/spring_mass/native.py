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
from typing import NamedTuple

from physgym.sim.contact import GroundLaw
from physgym.sim.native_kernel import NativeKernel
from physgym.sim.spring_mass.layout import LANES as SINGLE_LANES
from physgym.sim.spring_mass.native_box import box_source
from physgym.sim.spring_mass.native_contact import CONTACT
from physgym.sim.spring_mass.native_ground import ground_source
from physgym.sim.spring_mass.native_lanes import LANES, LANES_FORWARD
from physgym.sim.spring_mass.native_single import SINGLE, SINGLE_FORWARD
from physgym.sim.spring_mass.native_spring import SPRING

__all__ = [
    "FLOATS",
    "LANES_INTS",
    "SINGLE_INTS",
    "Variant",
    "common_source",
    "forward_kernel",
    "instantiate",
]

_COMMON = """
    constexpr int W = @W@;
    constexpr int KIND = @KIND@;
    constexpr bool DIRECTED = @DIRECTED@;
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
    struct Node { vf x, y, z, vx, vy, vz; };
    auto accelerate = [&](Node p, vf fx, vf fy, vf fz, vf hm, vf decay) -> Node {
        p.vx = (fma(fx, hm, p.vx) + hgx) * decay;
        p.vy = (fma(fy, hm, p.vy) + hgy) * decay;
        p.vz = (fma(fz, hm, p.vz) + hgz) * decay;
        return p;
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


class Variant(NamedTuple):
    """What is compiled into a body.

    Attributes:
        width: lanes in a vector; 1 for the layout of a single world.
        kind: `ForceLaw.kernel_kind`.
        boxes: number of box colliders; the code for them is left out where there are none.
        directed: springs pull their ends unlike.
        ground: law of the ground.
    """

    width: int
    kind: int
    boxes: int
    directed: bool
    ground: GroundLaw

    @property
    def lanes(self) -> bool:
        """True for worlds side by side, false for one world."""
        return self.width > 1


def instantiate(source: str, variant: Variant) -> str:
    """Fill the compile-time constants into a body.

    Args:
        source: C++ statements with ``@W@``, ``@KIND@`` and ``@DIRECTED@``.
        variant: their values.

    Returns:
        C++ statements for `NativeKernel`.
    """
    width = variant.width if variant.lanes else SINGLE_LANES
    source = source.replace("@W@", str(width)).replace("@KIND@", str(variant.kind))
    return source.replace("@DIRECTED@", "true" if variant.directed else "false")


def common_source(variant: Variant) -> str:
    """What forward and backward bodies have in common, without the layout.

    Args:
        variant: which body.

    Returns:
        C++ statements.
    """
    ground = ground_source(variant.ground)
    return _COMMON + SPRING + ground + box_source(variant.boxes, per_lane=variant.lanes)


@cache
def forward_kernel(variant: Variant) -> NativeKernel:
    """Kernel that runs all frames of one block of worlds in one launch.

    Args:
        variant: which body.

    Returns:
        The kernel; it writes the state after each frame to ``out``.
    """
    lanes = variant.lanes
    own = LANES + LANES_FORWARD if lanes else SINGLE + CONTACT + SINGLE_FORWARD
    return NativeKernel(
        f"spring_mass_{'lanes' if lanes else 'single'}",
        instantiate(common_source(variant) + own, variant),
        ints=LANES_INTS if lanes else (*SINGLE_INTS, *CONTACT_INTS),
        floats=(*FLOATS, "out") if lanes else (*FLOATS, "out", "inv_mass", "fwork", "states"),
    )
