"""A rod in float64 whose forces come from autograd of its turning angles, for tests alone.

Slow and short: no closed-form gradient, dense linear algebra, all worlds as one torch batch.
Directors are carried with exact normalisation. Shapes: B worlds, T frames, N nodes, E edges.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from physgym.sim.rod import RodModel

Tensor = torch.Tensor


def _unit(a: Tensor) -> Tensor:
    return a / a.norm(dim=-1, keepdim=True)


def _rotate_onto(m: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Rodrigues' formula for the least rotation from one tangent to another."""
    axis = torch.linalg.cross(start, end)
    cosine = (start * end).sum(-1, keepdim=True)
    along = (axis * m).sum(-1, keepdim=True)
    return _unit(m * cosine + torch.linalg.cross(axis, m) + axis * along / (1.0 + cosine))


def _frames(x: Tensor, base_t: Tensor, base_m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = _unit(x[:, 1:] - x[:, :-1])
    m1 = _rotate_onto(base_m, base_t, t)
    return t, m1, torch.linalg.cross(t, m1)


def _turning(t: Tensor, m1: Tensor, m2: Tensor) -> Tensor:
    """Turning angles along both directors, as 2 tan(half the angle), (B, N-2, 2)."""
    a, b = t[:, :-1], t[:, 1:]
    binormal = 2.0 * torch.linalg.cross(a, b) / (1.0 + (a * b).sum(-1, keepdim=True))
    k1 = (binormal * (m2[:, :-1] + m2[:, 1:])).sum(-1) / 2.0
    k2 = -(binormal * (m1[:, :-1] + m1[:, 1:])).sum(-1) / 2.0
    return torch.stack([k1, k2], -1)


def _twist(t: Tensor, m1: Tensor) -> Tensor:
    """Angle from the carried director to the next edge's [rad], (B, N-2)."""
    moved = _rotate_onto(m1[:, :-1], t[:, :-1], t[:, 1:])
    sine = (torch.linalg.cross(moved, m1[:, 1:]) * t[:, 1:]).sum(-1)
    return torch.atan2(sine, (moved * m1[:, 1:]).sum(-1))


def reference_rollout(
    model: RodModel,
    parameters: Mapping[str, Tensor],
    parts: list[Tensor],
    driven: Tensor,
    substeps: int,
    dt_s: float,
) -> Tensor:
    """Positions at all frames, (B, T, N, 3); all inputs float64 with a world axis."""
    p = parameters
    x, v, m1, tangent, memory = (a.clone() for a in parts)
    angle, slider, rolled = memory[:, 1:-1, :2], memory[:, 1:-1, 2:4], memory[:, 1:-1, 4:]
    worlds, nodes = x.shape[:2]
    edges, h = nodes - 1, dt_s / substeps
    rest = p["rest_length_m"]
    spread = torch.zeros_like(x[..., 0])
    spread[:, :-1] += rest / 2.0
    spread[:, 1:] += rest / 2.0
    mass = p["linear_density_kg_per_m"][:, None] * spread
    bending = (p["bending_stiffness_nm2"] / spread[:, 1:-1])[..., None]
    twisting = p["twist_stiffness_nm2"][:, None] / spread[:, 1:-1]
    damp = p["bending_damping_s"][:, None, None] / h
    ratio = p["friction_ratio"][:, None, None]
    slip = p["friction_yield_rad"][:, None, None]
    gravity = torch.tensor(model.gravity_m_per_s2, dtype=x.dtype)
    index = list(model.driven_index)
    free = [i for i in range(nodes) if i not in index]
    holds_first, holds_last = model.clamped
    loose = list(range(int(holds_first), edges - int(holds_last)))
    frames = [x]
    for frame in range(driven.shape[1] - 1):
        d0, d1 = driven[:, frame], driven[:, frame + 1]
        for s in range(substeps):
            base_t, base_m = tangent.clone(), m1.clone()
            if holds_first:
                base_t[:, 0], base_m[:, 0] = p["clamp_tangent"][:, 0], p["clamp_director"][:, 0]
            if holds_last:
                base_t[:, -1] = p["clamp_tangent"][:, 1]
                m = p["clamp_director"][:, 1]
                roll = p["end_roll_rad"][:, None]
                across = torch.linalg.cross(base_t[:, -1], m)
                base_m[:, -1] = m * torch.cos(roll) + across * torch.sin(roll)
            t, d, _ = _frames(x, base_t, base_m)
            # The forces: moments times the gradient of the angles, directors held by the clamps and
            # carried along by the least rotation elsewhere. A clamp's director moves as freely.
            q = x.detach().requires_grad_()
            with torch.enable_grad():
                frame_q = _frames(q, t, d)
                kappa, psi = _turning(*frame_q), _twist(*frame_q[:2])
                length = (q[:, 1:] - q[:, :-1]).norm(dim=-1)
            k = kappa.detach()
            stuck = k - slider
            size = stuck.norm(dim=-1, keepdim=True)
            stuck = torch.where(size > slip, stuck * slip / size, stuck)
            static = bending * (k - p["natural_curvature_rad"] + damp * (k - angle) + ratio * stuck)
            moment = static + bending * damp * rolled
            # Energy GJ/l (2 tan(psi/2))^2 / 2.
            half = torch.tan(0.5 * psi.detach())
            twist_moment = twisting * 2.0 * half * (1.0 + half * half)
            velocity = v[:, 1:] - v[:, :-1]
            strain_rate = (velocity * t).sum(-1) / rest
            tension = p["stretch_stiffness_n"][:, None] * (
                length.detach() / rest - 1.0 + p["stretch_damping_s"][:, None] * strain_rate
            )
            moments = [moment, twist_moment, tension]
            (pull,) = torch.autograd.grad([kappa, psi, length], q, moments)
            # Roll: dense Newton step on the free edges.
            d2 = torch.linalg.cross(t, d)
            # The angles are linear in the directors, and a roll turns d into d2 and d2 into -d.
            alone = torch.eye(edges, dtype=x.dtype)[:, :, None]
            lever = torch.stack([_turning(t, d2 * e, -d * e) for e in alone], -1)  # (B, N-2, 2, E)
            gradient = torch.einsum("bna,bnae->be", static, lever)
            gradient[:, 1:] += twist_moment
            gradient[:, :-1] -= twist_moment
            stiff = (bending * (1.0 + ratio + damp)).expand(-1, nodes - 2, 2)
            hessian = torch.einsum("bnae,bna,bnaf->bef", lever, stiff, lever)
            difference = torch.zeros((nodes - 2, edges), dtype=x.dtype)
            difference[range(nodes - 2), range(nodes - 2)] = -1.0
            difference[range(nodes - 2), range(1, edges)] = 1.0
            hessian = hessian + torch.einsum("ne,bn,nf->bef", difference, twisting, difference)
            if not (holds_first or holds_last):
                hessian[:, 0, 0] += 1e-3 * p["twist_stiffness_nm2"] / rest[:, 0]
            turn = torch.zeros((worlds, edges), dtype=x.dtype)
            if loose:
                block = hessian[:, loose][:, :, loose]
                turn[:, loose] = -torch.linalg.solve(block, gradient[:, loose])
            m1 = d + d2 * turn[..., None]
            tangent = t
            rolled = torch.einsum("bnae,be->bna", lever, turn)
            slider, angle = k - stuck, k + rolled
            # Motion.
            x_new, v_new = x.clone(), v.clone()
            u = v + h * (gravity - pull / mass[..., None])
            speed = u.norm(dim=-1, keepdim=True)
            drag = p["drag_per_s"][:, None, None] + p["drag_quadratic_per_m"][:, None, None] * speed
            u = u / (1.0 + h * drag)
            v_new[:, free] = u[:, free]
            x_new[:, free] = x[:, free] + h * u[:, free]
            f = (s + 1.0) / substeps
            v_new[:, index] = (d1 - d0) / dt_s
            x_new[:, index] = (1.0 - f) * d0 + f * d1
            x, v = x_new, v_new
        frames.append(x)
    return torch.stack(frames, 1)
