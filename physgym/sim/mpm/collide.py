"""What boundaries do to grid nodes and particles, as plain Warp kernels; shapes: `collider`."""

from __future__ import annotations

import warp as wp

__all__ = ["apply_collider", "press_particles"]


@wp.struct
class Touch:
    """Signed distance to a boundary, its outward normal and its velocity."""

    distance: float
    normal: wp.vec3
    velocity: wp.vec3


@wp.func
def _sample(
    samples: wp.array(dtype=float), at: int, ny: int, nz: int, i: int, j: int, k: int
) -> float:
    return samples[at + 3 + (i * ny + j) * nz + k]


@wp.func
def _mesh_distance(
    samples: wp.array(dtype=float), at: int, low: wp.vec3, spacing: float, q: wp.vec3
) -> wp.vec4:
    """Trilinear signed distance and its gradient; 1e6 outside the lattice."""
    nx = int(samples[at])
    ny = int(samples[at + 1])
    nz = int(samples[at + 2])
    u = (q - low) / spacing
    i = int(wp.floor(u[0]))
    j = int(wp.floor(u[1]))
    k = int(wp.floor(u[2]))
    out = wp.vec4(1.0e6, 0.0, 0.0, 1.0)
    if i >= 0 and j >= 0 and k >= 0 and i + 1 < nx and j + 1 < ny and k + 1 < nz:
        a = u[0] - float(i)
        b = u[1] - float(j)
        c = u[2] - float(k)
        s000 = _sample(samples, at, ny, nz, i, j, k)
        s001 = _sample(samples, at, ny, nz, i, j, k + 1)
        s010 = _sample(samples, at, ny, nz, i, j + 1, k)
        s011 = _sample(samples, at, ny, nz, i, j + 1, k + 1)
        s100 = _sample(samples, at, ny, nz, i + 1, j, k)
        s101 = _sample(samples, at, ny, nz, i + 1, j, k + 1)
        s110 = _sample(samples, at, ny, nz, i + 1, j + 1, k)
        s111 = _sample(samples, at, ny, nz, i + 1, j + 1, k + 1)
        x0 = wp.lerp(wp.lerp(s000, s001, c), wp.lerp(s010, s011, c), b)
        x1 = wp.lerp(wp.lerp(s100, s101, c), wp.lerp(s110, s111, c), b)
        dy0 = wp.lerp(s010 - s000, s011 - s001, c)
        dy1 = wp.lerp(s110 - s100, s111 - s101, c)
        dz0 = wp.lerp(s001 - s000, s011 - s010, b)
        dz1 = wp.lerp(s101 - s100, s111 - s110, b)
        out = wp.vec4(wp.lerp(x0, x1, a), x1 - x0, wp.lerp(dy0, dy1, a), wp.lerp(dz0, dz1, a))
    return out


@wp.func
def _unit(a: wp.vec3) -> wp.vec3:
    """Unit vector; z for a vector without length."""
    length = wp.length(a)
    out = wp.vec3(0.0, 0.0, 1.0)
    if length > 1.0e-12:
        out = a / length
    return out


@wp.func
def _local_distance(r: wp.array(dtype=float), samples: wp.array(dtype=float), q: wp.vec3) -> Touch:
    """Distance and normal in the boundary's own frame."""
    out = Touch()
    kind = int(r[0])
    out.distance = q[2]
    out.normal = wp.vec3(0.0, 0.0, 1.0)
    if kind == 1:
        out.distance = wp.length(q) - r[2]
        out.normal = _unit(q)
    if kind == 2:
        d = wp.vec3(wp.abs(q[0]) - r[2], wp.abs(q[1]) - r[3], wp.abs(q[2]) - r[4])
        sign = wp.vec3(wp.sign(q[0]), wp.sign(q[1]), wp.sign(q[2]))
        far = wp.vec3(wp.max(d[0], 0.0), wp.max(d[1], 0.0), wp.max(d[2], 0.0))
        deepest = wp.max(d[0], wp.max(d[1], d[2]))
        out.distance = wp.length(far) + wp.min(deepest, 0.0)
        if deepest > 0.0:
            out.normal = _unit(wp.cw_mul(far, sign))
        elif d[0] == deepest:
            out.normal = wp.vec3(sign[0], 0.0, 0.0)
        elif d[1] == deepest:
            out.normal = wp.vec3(0.0, sign[1], 0.0)
        else:
            out.normal = wp.vec3(0.0, 0.0, sign[2])
    if kind == 3:
        gap = q - wp.vec3(0.0, 0.0, wp.clamp(q[2], -r[3], r[3]))
        out.distance = wp.length(gap) - r[2]
        out.normal = _unit(gap)
    if kind == 4:
        made = _mesh_distance(samples, int(r[24]), wp.vec3(r[2], r[3], r[4]), r[5], q)
        out.distance = made[0]
        out.normal = _unit(wp.vec3(made[1], made[2], made[3]))
    return out


@wp.func
def _touch(r: wp.array(dtype=float), samples: wp.array(dtype=float), x: wp.vec3) -> Touch:
    """Distance, normal and velocity of a boundary at a point of the world."""
    turn = wp.mat33(r[6], r[7], r[8], r[9], r[10], r[11], r[12], r[13], r[14])
    arm = x - wp.vec3(r[15], r[16], r[17])
    out = _local_distance(r, samples, wp.transpose(turn) * arm)
    out.normal = turn * out.normal
    out.velocity = wp.vec3(r[18], r[19], r[20]) + wp.cross(wp.vec3(r[21], r[22], r[23]), arm)
    return out


@wp.func
def _contact(condition: int, v: wp.vec3, n: wp.vec3, friction: float) -> wp.vec3:
    """Velocity relative to a boundary after contact."""
    out = wp.vec3(0.0)
    vn = wp.dot(v, n)
    vt = v - vn * n
    if condition == 1:
        out = vt
    if condition == 2:
        out = v
        if vn < 0.0:
            speed = wp.sqrt(wp.dot(vt, vt) + 1.0e-20)
            out = wp.max(0.0, 1.0 + friction * vn / speed) * vt
    return out


@wp.kernel
def apply_collider(
    grid_mass: wp.array4d(dtype=float),
    v_in: wp.array4d(dtype=wp.vec3),
    records: wp.array4d(dtype=float),
    samples: wp.array(dtype=float),
    friction: wp.array2d(dtype=float),
    substep: int,
    index: int,
    origin: wp.array(dtype=wp.vec3i),
    h: float,
    # Out:
    v_out: wp.array4d(dtype=wp.vec3),
) -> None:
    """One boundary on all nodes; one launch each, so that the reverse pass sees each stage."""
    b, i, j, k = wp.tid()
    v = v_in[b, i, j, k]
    out = v
    if grid_mass[b, i, j, k] > 0.0:
        at = wp.vec3i(i, j, k) + origin[b]
        x = wp.vec3(float(at[0]), float(at[1]), float(at[2])) * h
        record = records[wp.min(b, records.shape[0] - 1), substep, index]
        touch = _touch(record, samples, x)
        if touch.distance <= 1.0e-6:
            relative = v - touch.velocity
            mu = friction[wp.min(b, friction.shape[0] - 1), index]
            out = touch.velocity + _contact(int(record[1]), relative, touch.normal, mu)
    v_out[b, i, j, k] = out


@wp.kernel
def press_particles(
    x: wp.array2d(dtype=wp.vec3),
    v_in: wp.array2d(dtype=wp.vec3),
    mass: wp.array2d(dtype=float),
    mu: wp.array2d(dtype=float),
    lam: wp.array2d(dtype=float),
    volume: wp.array(dtype=float),
    records: wp.array4d(dtype=float),
    friction: wp.array2d(dtype=float),
    substep: int,
    index: int,
    h: float,
    dt: float,
    # Out:
    v_out: wp.array2d(dtype=wp.vec3),
) -> None:
    """A plane's springs: velocity of every particle after they and friction acted for a step."""
    b, p = wp.tid()
    r = records[wp.min(b, records.shape[0] - 1), substep, index]
    normal = wp.vec3(r[8], r[11], r[14])
    arm = x[b, p] - wp.vec3(r[15], r[16], r[17])
    side = wp.pow(volume[p], 1.0 / 3.0)
    depth = wp.max(0.5 * side - wp.dot(normal, arm), 0.0)
    v = v_in[b, p]
    relative = v - wp.vec3(r[18], r[19], r[20]) - wp.cross(wp.vec3(r[21], r[22], r[23]), arm)
    slide = relative - wp.dot(relative, normal) * normal
    m = mass[wp.min(b, mass.shape[0] - 1), wp.min(p, mass.shape[1] - 1)]
    first = mu[wp.min(b, mu.shape[0] - 1), wp.min(p, mu.shape[1] - 1)]
    second = lam[wp.min(b, lam.shape[0] - 1), wp.min(p, lam.shape[1] - 1)]
    kick = dt * depth * (second + 2.0 * first) * side * side / (h * m)
    rub = friction[wp.min(b, friction.shape[0] - 1), index] * kick
    speed = wp.sqrt(wp.dot(slide, slide) + 1.0e-20)
    v_out[b, p] = v + kick * normal - wp.min(rub / speed, 1.0) * slide
