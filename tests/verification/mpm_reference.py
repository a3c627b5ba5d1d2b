"""Slow, obvious MPM step in float64 NumPy: what every engine is checked against.

One world, particle by particle weights in whole arrays, plain singular value decompositions, the
boundaries written out again from their definition. No code is shared with the kernels.
"""

from __future__ import annotations

import numpy as np

from physgym.sim.mpm import Box, Capsule, Condition, ElasticLaw, Plane, ReturnMap, Sphere

EYE = np.eye(3)
_OWN_SHAPE = ("friction", "stress_operator", "plastic_operator")


def svd(f):
    """Proper singular value decomposition: rotations U, V and stretches."""
    u, s, vt = np.linalg.svd(f)
    flip = np.where(np.linalg.det(u) < 0.0, -1.0, 1.0)
    u[..., :, 2] *= flip[..., None]
    s[..., 2] *= flip
    flip = np.where(np.linalg.det(vt) < 0.0, -1.0, 1.0)
    vt[..., 2, :] *= flip[..., None]
    s[..., 2] *= flip
    return u, s, vt


def _diag(u, d, w):
    return np.einsum("...ij,...j,...jk->...ik", u, d, w)


def stress(law, f, grad_v, mu, lam, viscosity):
    """Kirchhoff stress (..., 3, 3) [Pa]; parameters (...)."""
    mu, lam, viscosity = (np.asarray(a, float)[..., None, None] for a in (mu, lam, viscosity))
    ft = np.swapaxes(f, -1, -2)
    j = np.linalg.det(f)[..., None, None]
    if law is ElasticLaw.LINEAR:
        e = 0.5 * (f + ft) - EYE
        return 2.0 * mu * e + lam * np.trace(e, axis1=-2, axis2=-1)[..., None, None] * EYE
    if law is ElasticLaw.NEO_HOOKEAN:
        return mu * (f @ ft - EYE) + lam * np.log(j) * EYE
    if law is ElasticLaw.FLUID:
        sym = 0.5 * (grad_v + np.swapaxes(grad_v, -1, -2))
        return lam * (j - j**-6.0) * EYE + 2.0 * viscosity * j * sym
    u, s, vt = svd(f)
    if law is ElasticLaw.FIXED_COROTATED:
        return 2.0 * mu * (f - u @ vt) @ ft + lam * j * (j - 1.0) * EYE
    e = np.log(s)
    d = 2.0 * mu[..., 0] * e + lam[..., 0] * e.sum(-1, keepdims=True)
    return _diag(u, d, np.swapaxes(u, -1, -2))


def project(kind, f, mu, lam, yield_stress, alpha, cohesion, viscosity, dt, plastic=None):
    """Return map (..., 3, 3); parameters (...); a plastic operator (..., 3, 3) or None."""
    if kind is ReturnMap.NONE:
        return f
    u, s, vt = svd(f)
    e = np.log(s)
    mean = e.mean(-1, keepdims=True)
    dev = e - mean
    if plastic is not None:  # stretches come out of the decomposition largest first
        dev = np.einsum("...ij,...j->...i", plastic, dev)
        dev = dev - dev.mean(-1, keepdims=True)
    n = np.maximum(np.linalg.norm(dev, axis=-1), 1e-30)
    if kind is ReturnMap.VON_MISES:
        over = np.maximum(n - yield_stress / (2.0 * mu), 0.0)
        new = e - (over / n)[..., None] * dev
    elif kind is ReturnMap.DRUCKER_PRAGER:
        t = 3.0 * (mean[..., 0] - cohesion)
        over = np.maximum(n + (3.0 * lam + 2.0 * mu) / (2.0 * mu) * t * alpha, 0.0)
        new = e - (over / n)[..., None] * dev
        new = np.where((t >= 0.0)[..., None], np.broadcast_to(cohesion, n.shape)[..., None], new)
    else:
        size = 2.0 * mu * n
        over = np.maximum(size - np.sqrt(2.0 / 3.0) * yield_stress, 0.0)
        bulk = mu * (s**2).sum(-1) / 3.0
        size_new = size - over / (1.0 + viscosity / (2.0 * bulk * dt))
        new = (size_new / size)[..., None] * dev + mean
    return _diag(u, np.exp(new), vt)


def distance(shape, q):
    """Signed distance and outward normal of a shape in its own frame, points (N, 3)."""
    if isinstance(shape, Plane):
        return q[:, 2], np.broadcast_to([0.0, 0.0, 1.0], q.shape)
    if isinstance(shape, Sphere):
        r = np.linalg.norm(q, axis=1)
        return r - shape.radius_m, q / np.maximum(r, 1e-12)[:, None]
    if isinstance(shape, Capsule):
        gap = q.copy()
        gap[:, 2] -= np.clip(q[:, 2], -shape.half_length_m, shape.half_length_m)
        r = np.linalg.norm(gap, axis=1)
        return r - shape.radius_m, gap / np.maximum(r, 1e-12)[:, None]
    assert isinstance(shape, Box)
    half = np.asarray(shape.half_size_m)
    d = np.abs(q) - half
    nearest = np.clip(q, -half, half)
    outside = np.linalg.norm(q - nearest, axis=1)
    axis = d.argmax(axis=1)
    inner = np.zeros_like(q)
    inner[np.arange(len(q)), axis] = np.sign(q[np.arange(len(q)), axis])
    outer = (q - nearest) / np.maximum(outside, 1e-12)[:, None]
    return (
        np.where(outside > 0.0, outside, d.max(axis=1)),
        np.where((outside > 0.0)[:, None], outer, inner),
    )


def meet(collider, friction, points, v):
    """Velocity of nodes after one boundary at rest."""
    w, x, y, z = collider.quat_wxyz
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    gap, normal = distance(collider.shape, (points - np.asarray(collider.position_m)) @ turn)
    normal = normal @ turn.T
    hit = gap <= 1e-6
    vn = (v * normal).sum(1)
    vt = v - vn[:, None] * normal
    if collider.condition is Condition.STICKY:
        after = np.zeros_like(v)
    elif collider.condition is Condition.SLIP:
        after = vt
    else:
        speed = np.sqrt((vt**2).sum(1) + 1e-20)
        keep = np.maximum(0.0, 1.0 + friction * vn / speed)
        after = np.where((vn < 0.0)[:, None], keep[:, None] * vt, v)
    return np.where(hit[:, None], after, v)


def push_out(collider, friction, c, volume, h, x, v, dt):
    """Velocity of particles after the springs of a plane at rest and its friction."""
    w, i, j, _ = collider.quat_wxyz  # a plane that was turned out of z about an axis in x, y
    n = np.array([2 * w * j, -2 * w * i, 1 - 2 * (i * i + j * j)])
    side = volume ** (1.0 / 3.0)
    depth = np.maximum(0.5 * side - (x - np.asarray(collider.position_m)) @ n, 0.0)
    force = (c["lam"] + 2.0 * c["mu"]) * side**2 * depth / h
    kick = dt * force / c["mass"]
    vt = v - (v @ n)[:, None] * n
    speed = np.sqrt((vt**2).sum(1) + 1e-20)
    return v + kick[:, None] * n - np.minimum(friction * kick / speed, 1.0)[:, None] * vt


def substep(model, c, x, v, f, affine, dt):
    """One substep; c holds float64 coefficient arrays by name, (P,) each, friction (K,)."""
    h, p = model.spacing_m, len(x)
    material = model.material
    trial = (EYE + dt * affine) @ f
    if material.law is ElasticLaw.FLUID:
        j = np.maximum(np.linalg.det(trial), 0.05)
        f = j[:, None, None] ** (1.0 / 3.0) * EYE
    else:
        f = project(
            material.return_map, trial, c["mu"], c["lam"], c["yield_stress"], c["alpha"],
            c["cohesion"], c["viscosity"], dt, c["plastic"],
        )  # fmt: skip
    tau = stress(material.law, f, affine, c["mu"], c["lam"], c["viscosity"])
    if c["operator"] is not None:
        u, _, vt = svd(f)
        r = u @ vt
        m = np.swapaxes(r, 1, 2) @ tau @ r
        i, j = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
        made = np.zeros_like(m)
        made[:, i, j] = np.einsum("...ij,...j->...i", c["operator"], m[:, i, j])
        made[:, j, i] = made[:, i, j]
        tau = r @ made @ np.swapaxes(r, 1, 2)
    if material.law is not ElasticLaw.FLUID and material.return_map is not (
        ReturnMap.HERSCHEL_BULKLEY
    ):
        damping = (c["viscosity"] * np.linalg.det(f))[:, None, None]
        tau = tau + damping * (affine + np.swapaxes(affine, 1, 2))
    for k, collider in enumerate(model.colliders):
        if collider.condition is Condition.PENALTY:
            volume = np.asarray(model.volume_m3)
            v = push_out(collider, c["friction"][k], c, volume, h, x, v, dt)
    base = np.floor(x / h - 0.5)
    g = x / h - base
    w = np.stack([0.5 * (1.5 - g) ** 2, 0.75 - (g - 1.0) ** 2, 0.5 * (g - 0.5) ** 2])
    offsets = np.stack(np.meshgrid(*[[0, 1, 2]] * 3, indexing="ij"), -1).reshape(-1, 3)
    weight = w[offsets[:, 0], :, 0] * w[offsets[:, 1], :, 1] * w[offsets[:, 2], :, 2]  # (27, P)
    nodes = base[None] + offsets[:, None]  # (27, P, 3)
    reach = (nodes - x / h) * h
    a = c["mass"][:, None, None] * affine
    a = a - (4.0 * dt / h**2 * np.asarray(model.volume_m3))[:, None, None] * tau
    push = c["mass"][:, None] * v + np.einsum("pij,npj->npi", a, reach)
    flat = nodes.reshape(-1, 3)
    low = flat.min(axis=0)
    size = (flat.max(axis=0) - low + 1).astype(int)
    keys = np.ravel_multi_index((flat - low).astype(int).T, size)
    used, back = np.unique(keys, return_inverse=True)
    unique = low + np.stack(np.unravel_index(used, size), 1)
    mass = np.bincount(back, (weight * c["mass"]).ravel())
    impulse = (weight[..., None] * push).reshape(-1, 3)
    momentum = np.stack([np.bincount(back, impulse[:, a]) for a in range(3)], 1)
    grid = momentum / mass[:, None] + dt * np.asarray(model.gravity_m_per_s2)
    for k, collider in enumerate(model.colliders):
        if collider.condition is not Condition.PENALTY:
            grid = meet(collider, c["friction"][k], unique * h, grid)
    around = grid[back].reshape(27, p, 3)
    v = (weight[..., None] * around).sum(0)
    affine = 4.0 / h**2 * np.einsum("np,npi,npj->pij", weight, around, reach)
    return x + dt * v, v, f, affine


def coefficients(model, values):
    """Float64 coefficients of a dict of numbers or (P,) arrays by field name of MpmParameters."""
    p = model.particle_count
    get = {
        k: np.broadcast_to(np.asarray(a, float), (p,))
        for k, a in values.items()
        if k not in _OWN_SHAPE
    }
    factor = get.get("heterogeneity", np.ones(p))
    zero = np.zeros(p)
    if model.material.law is ElasticLaw.FLUID:
        mu, lam = zero, get["bulk_modulus_pa"] * factor
    else:
        young, nu = get["young_pa"] * factor, get["poisson_ratio"]
        mu, lam = young / (2 * (1 + nu)), young * nu / ((1 + nu) * (1 - 2 * nu))
    sine = np.sin(get.get("friction_angle_rad", zero))
    heavy = np.ones(p)
    heavy[model.driven_index] = model.driven_mass_factor
    return {
        "operator": values.get("stress_operator"),
        "plastic": values.get("plastic_operator"),
        "mu": mu,
        "lam": lam,
        "yield_stress": get.get("yield_stress_pa", zero) * factor,
        "alpha": np.sqrt(2.0 / 3.0) * 2.0 * sine / (3.0 - sine),
        "cohesion": get.get("cohesion_strain", zero),
        "viscosity": get.get("viscosity_pa_s", zero),
        "mass": get["density_kg_per_m3"] * np.asarray(model.volume_m3) * heavy,
        "friction": np.broadcast_to(values.get("friction", 0.5), (max(1, len(model.colliders)),)),
    }


def reference_rollout(
    model, values, position, velocity, substeps, frame_s, driven=None, f=None, affine=0.0
):
    """All frames of one world: x, v (T, P, 3), F (T, P, 3, 3). driven: (T, D, 3)."""
    c = coefficients(model, values)
    x, v = np.array(position, float), np.array(velocity, float)
    f = np.broadcast_to(EYE if f is None else f, (len(x), 3, 3)).copy()
    affine = affine + np.zeros_like(f)
    index = np.asarray(model.driven_index)
    frames = len(driven) - 1
    x[index] = driven[0]
    made = [(x.copy(), v.copy(), f.copy())]
    for frame in range(frames):
        c0, c1 = driven[frame], driven[frame + 1]
        # Every node falls for a substep before it moves anything, also those of what is held.
        fall = frame_s / substeps * np.asarray(model.gravity_m_per_s2)
        for s in range(substeps):
            if s == 0 and len(index):
                x[index], v[index] = c0, (c1 - c0) / frame_s - fall
            x, v, f, affine = substep(model, c, x, v, f, affine, frame_s / substeps)
            if len(index):
                x[index] = c0 + (s + 1) / substeps * (c1 - c0)
                v[index] = (c1 - c0) / frame_s - (fall if s + 1 < substeps else 0.0)
        made.append((x.copy(), v.copy(), f.copy()))
    return tuple(np.stack(a) for a in zip(*made))
