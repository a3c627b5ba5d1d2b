"""Slow, obvious spring-mass step in float64: what every kernel is checked against.

Torch is used like NumPy, so that its autograd gives gradients that no hand-written adjoint touched.
Written from the formulas in `physgym.sim.spring_mass.force_law` and the solver's docstring, spring
by spring with index_add, no shared code with the kernels.
"""

from __future__ import annotations

import torch

from physgym.sim.contact import GroundLaw
from physgym.sim.spring_mass import ForceLaw, SpringMassModel, SpringMassParameters

# Tensors here are small: torch's threads would only wait for each other.
torch.set_num_threads(1)


def spring_force(model, parameters, x, v):
    """Force on every node [N]; x, v (B, N, 3)."""
    edges = torch.as_tensor(model.edges.astype("int64"))
    i, j = edges[:, 0], edges[:, 1]
    gap = x[:, j] - x[:, i]
    length = gap.norm(dim=-1)
    along = gap / length[..., None]
    rest = parameters.rest_length_m
    stiffness = parameters.log_stiffness.exp() * parameters.eta
    strain, u, p = length / rest - 1.0, length - rest, model.law_exponent
    elastic = {
        ForceLaw.STRAIN: lambda: stiffness * strain,
        ForceLaw.HOOKE: lambda: stiffness * u,
        ForceLaw.SOFT: lambda: stiffness / rest * u * (1.0 + strain.abs()) ** p,
        ForceLaw.POWER: lambda: stiffness * u * u.abs().clamp(min=1e-6) ** (p - 1.0),
    }[model.law]()
    rate = ((v[:, j] - v[:, i]) * along).sum(-1)
    damping = parameters.dashpot_ns_per_m * rate
    first = ((1.0 + parameters.asymmetry) * elastic + damping)[..., None] * along
    second = ((1.0 - parameters.asymmetry) * elastic + damping)[..., None] * along
    return torch.zeros_like(x).index_add(1, i, first).index_add(1, j, -second)


def meet_ground(model, parameters, x, v, h):
    """Position and velocity after a substep of free motion and the plane."""
    free = x + h * v
    if model.ground is None:
        return free, v
    n = torch.tensor(model.ground.normal, dtype=x.dtype)
    if model.ground.law is GroundLaw.FACTOR:
        low = (free @ n - model.ground.offset_m)[..., None]
        kept = parameters.tangential_factor[:, None, None] ** (h / model.ground.factor_step_s)
        slid = kept * (v - (v @ n)[..., None] * n)
        return torch.where(low <= 0.0, free - low * n, free), torch.where(low <= 0.0, slid, v)
    e, mu = parameters.restitution[:, None], parameters.friction[:, None]
    height, vn = x @ n - model.ground.offset_m, v @ n
    under = height + h * vn < 0.0
    hit = under & (vn < 0.0)
    vt = v - vn[..., None] * n
    speed = (vt.square().sum(-1) + 1e-12).sqrt()
    keep = (1.0 - mu * (1.0 + e) * -vn / speed).clamp(min=0.0)
    after = keep[..., None] * vt - (e * vn)[..., None] * n
    toi = (-height / torch.where(hit, vn, -1.0)).clamp(0.0, h)[..., None]
    x_new = torch.where(hit[..., None], x + toi * v + (h - toi) * after, free)
    depth = (x_new @ n - model.ground.offset_m).clamp(max=0.0) * under
    return x_new - depth[..., None] * n, torch.where(hit[..., None], after, v)


def reference_rollout(
    model: SpringMassModel,
    parameters: SpringMassParameters,
    x: torch.Tensor,
    v: torch.Tensor,
    driven: torch.Tensor,
    frame_dt_s: float,
    substeps: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and velocities at all frames, (B, T, N, 3), float64."""
    h = frame_dt_s / substeps
    index = torch.as_tensor(model.driven_index.astype("int64"))
    free = torch.ones(model.node_count, dtype=torch.float64)
    free[index] = 0.0
    gravity = torch.tensor(model.gravity_m_per_s2, dtype=torch.float64)
    inv_mass = (free / parameters.mass_kg)[..., None]
    decay = torch.exp(-h * parameters.drag_per_s)[:, None, None]
    x = x.index_copy(1, index, driven[:, 0])
    xs, vs = [x], [v]
    for frame in range(driven.shape[1] - 1):
        start, end = driven[:, frame], driven[:, frame + 1]
        speed = (end - start) / frame_dt_s if model.driven_dashpot else torch.zeros_like(end)
        for s in range(substeps):
            x = x.index_copy(1, index, start + (s + 1) / substeps * (end - start))
            v = v.index_copy(1, index, speed)
            v = (v + h * (inv_mass * spring_force(model, parameters, x, v) + gravity)) * decay
            x, v = meet_ground(model, parameters, x, v, h)
        x, v = x.index_copy(1, index, end), v.index_copy(1, index, speed)
        xs.append(x)
        vs.append(v)
    return torch.stack(xs, dim=1), torch.stack(vs, dim=1)
