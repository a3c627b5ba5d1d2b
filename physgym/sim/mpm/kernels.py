"""The MPM substep as plain Warp kernels: the reference, and what runs on CUDA.

MLS-MPM (Hu 2018) with quadratic B-splines and APIC (Jiang 2015), explicit: trial deformation,
return map and stress; particles to grid; gravity and boundaries on the grid; grid to particles.
Shapes: B worlds, P particles, K boundaries, X Y Z grid nodes of the window. Coefficients with an
axis of length 1 are shared along it.
"""

from __future__ import annotations

import warp as wp

from physgym.sim.mpm.elasticity import elastic_stress, polar_rotation, viscous_stress
from physgym.sim.mpm.plasticity import return_map

__all__ = [
    "add_viscous",
    "apply_operator",
    "deform",
    "gather",
    "grid_velocity",
    "mat66",
    "place_driven",
    "scatter",
    "stress",
]

mat66 = wp.types.matrix(shape=(6, 6), dtype=float)
vec6 = wp.types.vector(length=6, dtype=float)
LEFT_WINDOW = wp.constant(1)
BLEW_UP = wp.constant(2)


@wp.func
def _at(c: wp.array2d(dtype=float), b: int, p: int) -> float:
    """Coefficient of a particle; axes of length 1 are shared."""
    return c[wp.min(b, c.shape[0] - 1), wp.min(p, c.shape[1] - 1)]


@wp.kernel
def place_driven(
    x_in: wp.array2d(dtype=wp.vec3),
    v_in: wp.array2d(dtype=wp.vec3),
    driven_slot: wp.array(dtype=int),
    driven_from: wp.array2d(dtype=wp.vec3),
    driven_to: wp.array2d(dtype=wp.vec3),
    weight: float,
    inv_frame: float,
    gravity_step: wp.vec3,
    # Out:
    x_out: wp.array2d(dtype=wp.vec3),
    v_out: wp.array2d(dtype=wp.vec3),
):
    """Copy the state and put driven particles on their straight path, exact at its end.

    Nodes fall by ``gravity_step`` before they move anything, so what holds them is so much slower.
    """
    b, p = wp.tid()
    slot = driven_slot[p]
    if slot >= 0:
        c0 = driven_from[b, slot]
        c1 = driven_to[b, slot]
        x_out[b, p] = c1 - (1.0 - weight) * (c1 - c0)
        v_out[b, p] = (c1 - c0) * inv_frame - gravity_step
    else:
        x_out[b, p] = x_in[b, p]
        v_out[b, p] = v_in[b, p]


@wp.kernel
def deform(
    deformation: wp.array2d(dtype=wp.mat33),
    affine: wp.array2d(dtype=wp.mat33),
    mu: wp.array2d(dtype=float),
    lam: wp.array2d(dtype=float),
    yield_stress: wp.array2d(dtype=float),
    alpha: wp.array2d(dtype=float),
    cohesion: wp.array2d(dtype=float),
    viscosity: wp.array2d(dtype=float),
    plastic: wp.array2d(dtype=wp.mat33),
    map_kind: int,
    fluid: int,
    oriented: int,
    dt: float,
    key: wp.int64,
    # Out:
    deformation_out: wp.array2d(dtype=wp.mat33),
    status: wp.array2d(dtype=wp.int64),
):
    """Trial deformation ``(I + dt C) F`` and its return map; inverted particles are reported."""
    b, p = wp.tid()
    f = (wp.identity(n=3, dtype=float) + dt * affine[b, p]) * deformation[b, p]
    if fluid == 0 and not (wp.determinant(f) > 0.0):
        wp.atomic_min(status, b, BLEW_UP, key + wp.int64(p))
        f = wp.identity(n=3, dtype=float)
    deformation_out[b, p] = return_map(
        map_kind,
        fluid,
        oriented,
        f,
        plastic[wp.min(b, plastic.shape[0] - 1), wp.min(p, plastic.shape[1] - 1)],
        _at(mu, b, p),
        _at(lam, b, p),
        _at(yield_stress, b, p),
        _at(alpha, b, p),
        _at(cohesion, b, p),
        _at(viscosity, b, p),
        dt,
    )


@wp.kernel
def stress(
    deformation: wp.array2d(dtype=wp.mat33),
    affine: wp.array2d(dtype=wp.mat33),
    mu: wp.array2d(dtype=float),
    lam: wp.array2d(dtype=float),
    viscosity: wp.array2d(dtype=float),
    law_kind: int,
    # Out:
    tau: wp.array2d(dtype=wp.mat33),
):
    """Kirchhoff stress [Pa] of the elastic law."""
    b, p = wp.tid()
    tau[b, p] = elastic_stress(
        law_kind,
        deformation[b, p],
        affine[b, p],
        _at(mu, b, p),
        _at(lam, b, p),
        _at(viscosity, b, p),
    )


@wp.kernel
def apply_operator(
    deformation: wp.array2d(dtype=wp.mat33),
    tau: wp.array2d(dtype=wp.mat33),
    linear: wp.array2d(dtype=mat66),
    # Out:
    tau_out: wp.array2d(dtype=wp.mat33),
):
    """A linear map of the stress in the frame that turns with the matter; symmetric stress."""
    b, p = wp.tid()
    r = polar_rotation(deformation[b, p])
    m = wp.transpose(r) * tau[b, p] * r
    v = vec6(m[0, 0], m[1, 1], m[2, 2], m[0, 1], m[0, 2], m[1, 2])
    # The change alone is turned back, so that the identity leaves the bits of the stress.
    u = linear[wp.min(b, linear.shape[0] - 1), wp.min(p, linear.shape[1] - 1)] * v - v
    made = wp.mat33(u[0], u[3], u[4], u[3], u[1], u[5], u[4], u[5], u[2])
    tau_out[b, p] = tau[b, p] + r * made * wp.transpose(r)


@wp.kernel
def add_viscous(
    deformation: wp.array2d(dtype=wp.mat33),
    affine: wp.array2d(dtype=wp.mat33),
    tau: wp.array2d(dtype=wp.mat33),
    viscosity: wp.array2d(dtype=float),
    # Out:
    tau_out: wp.array2d(dtype=wp.mat33),
):
    """Kelvin-Voigt: the stress of the rate of stretching, besides the elastic one as it is."""
    b, p = wp.tid()
    own = viscous_stress(deformation[b, p], affine[b, p], _at(viscosity, b, p))
    tau_out[b, p] = tau[b, p] + own


@wp.func
def _weights(f: wp.vec3) -> wp.mat33:
    """Quadratic B-spline weights; row i holds those of the node ``base + i`` for the three axes."""
    w = wp.mat33(0.0)
    for d in range(3):
        w[0, d] = 0.5 * (1.5 - f[d]) * (1.5 - f[d])
        w[1, d] = 0.75 - (f[d] - 1.0) * (f[d] - 1.0)
        w[2, d] = 0.5 * (f[d] - 0.5) * (f[d] - 0.5)
    return w


@wp.func
def _base(x: wp.vec3, inv_h: float) -> wp.vec3:
    return wp.vec3(
        wp.floor(x[0] * inv_h - 0.5), wp.floor(x[1] * inv_h - 0.5), wp.floor(x[2] * inv_h - 0.5)
    )


@wp.kernel
def scatter(
    x: wp.array2d(dtype=wp.vec3),
    v: wp.array2d(dtype=wp.vec3),
    affine: wp.array2d(dtype=wp.mat33),
    tau: wp.array2d(dtype=wp.mat33),
    mass: wp.array2d(dtype=float),
    volume: wp.array(dtype=float),
    origin: wp.array(dtype=wp.vec3i),
    h: float,
    dt: float,
    key: wp.int64,
    # Out:
    grid_mass: wp.array4d(dtype=float),
    grid_momentum: wp.array4d(dtype=wp.vec3),
    status: wp.array2d(dtype=wp.int64),
):
    """Mass and momentum of the particles to their 27 nodes, with the stress's impulse."""
    b, p = wp.tid()
    inv_h = 1.0 / h
    base = _base(x[b, p], inv_h)
    f = x[b, p] * inv_h - base
    i0 = int(base[0]) - origin[b][0]
    j0 = int(base[1]) - origin[b][1]
    k0 = int(base[2]) - origin[b][2]
    inside = (
        i0 >= 0
        and j0 >= 0
        and k0 >= 0
        and i0 + 2 < grid_mass.shape[1]
        and j0 + 2 < grid_mass.shape[2]
        and k0 + 2 < grid_mass.shape[3]
    )
    if inside:
        w = _weights(f)
        m = _at(mass, b, p)
        momentum = m * v[b, p]
        a = m * affine[b, p] - (4.0 * dt * volume[p] * inv_h * inv_h) * tau[b, p]
        for i in range(3):
            for j in range(3):
                for k in range(3):
                    weight = w[i, 0] * w[j, 1] * w[k, 2]
                    reach = (wp.vec3(float(i), float(j), float(k)) - f) * h
                    wp.atomic_add(grid_mass, b, i0 + i, j0 + j, k0 + k, weight * m)
                    wp.atomic_add(
                        grid_momentum, b, i0 + i, j0 + j, k0 + k, weight * (momentum + a * reach)
                    )
    else:
        wp.atomic_min(status, b, LEFT_WINDOW, key + wp.int64(p))


@wp.kernel
def grid_velocity(
    grid_mass: wp.array4d(dtype=float),
    grid_momentum: wp.array4d(dtype=wp.vec3),
    gravity_step: wp.vec3,
    # Out:
    velocity: wp.array4d(dtype=wp.vec3),
):
    """Velocity of the nodes that have mass, after gravity."""
    b, i, j, k = wp.tid()
    m = grid_mass[b, i, j, k]
    if m > 0.0:
        velocity[b, i, j, k] = grid_momentum[b, i, j, k] / m + gravity_step


@wp.kernel
def gather(
    x: wp.array2d(dtype=wp.vec3),
    velocity: wp.array4d(dtype=wp.vec3),
    origin: wp.array(dtype=wp.vec3i),
    h: float,
    dt: float,
    key: wp.int64,
    # Out:
    x_out: wp.array2d(dtype=wp.vec3),
    v_out: wp.array2d(dtype=wp.vec3),
    affine_out: wp.array2d(dtype=wp.mat33),
    status: wp.array2d(dtype=wp.int64),
):
    """Velocity and its gradient from the 27 nodes, and the move; faster than a cell is reported."""
    b, p = wp.tid()
    inv_h = 1.0 / h
    base = _base(x[b, p], inv_h)
    f = x[b, p] * inv_h - base
    i0 = int(base[0]) - origin[b][0]
    j0 = int(base[1]) - origin[b][1]
    k0 = int(base[2]) - origin[b][2]
    inside = (
        i0 >= 0
        and j0 >= 0
        and k0 >= 0
        and i0 + 2 < velocity.shape[1]
        and j0 + 2 < velocity.shape[2]
        and k0 + 2 < velocity.shape[3]
    )
    v = wp.vec3(0.0)
    a = wp.mat33(0.0)
    if inside:
        w = _weights(f)
        for i in range(3):
            for j in range(3):
                for k in range(3):
                    weight = w[i, 0] * w[j, 1] * w[k, 2]
                    reach = (wp.vec3(float(i), float(j), float(k)) - f) * h
                    wv = weight * velocity[b, i0 + i, j0 + j, k0 + k]
                    v = v + wv
                    a = a + wp.outer(wv, reach)
    a = (4.0 * inv_h * inv_h) * a
    if inside and not (wp.length(v) * dt < h):
        wp.atomic_min(status, b, BLEW_UP, key + wp.int64(p))
        v = wp.vec3(0.0)
    x_out[b, p] = x[b, p] + dt * v
    v_out[b, p] = v
    affine_out[b, p] = a
