"""Slow, obvious contact with moving boxes in float64, on top of `spring_mass_reference`.

Written from the contact law in `physgym.sim.contact.box_response`'s docstring. Rotations are
SciPy's, spins are differences of rotations, the nearest point of a box is a clamp: no formula is
shared with the kernels. Torch's autograd gives the gradients.
"""

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from spring_mass_reference import meet_ground, spring_force


def pose_at(start, end, t):
    """Centre (3,) and rotation of a box at the fraction t of a frame; poses are x y z w x y z."""
    a, b = start[3:], end[3:]
    b = b if a @ b >= 0.0 else -b
    quat = (1.0 - t) * a + t * b
    return (1.0 - t) * start[:3] + t * end[:3], Rotation.from_quat(quat, scalar_first=True)


def box_motion(start, end, t, frame_dt_s):
    """Centre, rotation matrix, velocity and spin at the fraction t, as float64 tensors."""
    centre, turn = pose_at(start, end, t)
    small = 1e-4  # a second-order difference: the error is 1e-8 of the spin's own change
    spin = (pose_at(start, end, t + small)[1] * pose_at(start, end, t - small)[1].inv()).as_rotvec()
    numbers = centre, turn.as_matrix(), (end[:3] - start[:3]) / frame_dt_s
    return *(torch.tensor(n) for n in numbers), torch.tensor(spin / (2.0 * small * frame_dt_s))


def distance_and_normal(point, half, margin):
    """Signed distance and outward normal in the box's frame; point (N, 3)."""
    sign = torch.where(point < 0.0, -1.0, 1.0).to(point)
    nearest = torch.maximum(torch.minimum(point, half), -half)
    gap = point - nearest
    outside = (gap.detach() != 0.0).any(-1)
    # The norm of zero has no slope; inside points get another gap, which is not used.
    length = torch.where(outside[:, None], gap, torch.ones_like(gap)).norm(dim=-1)
    depth = half - point.abs()
    face = torch.nn.functional.one_hot(depth.argmin(dim=-1), 3).to(point)
    distance = torch.where(outside, length, -depth.min(dim=-1).values) - margin
    normal = torch.where(outside[:, None], gap / length[:, None], face * sign)
    return distance, normal


def meet_box(box, motion, restitution, friction, x, v, h):
    """End position and velocity of one world's nodes (N, 3), and whether each one touched."""
    centre, turn, velocity, spin = motion
    half = torch.tensor(box.half_m, dtype=x.dtype)
    end = x + h * v
    distance, normal = distance_and_normal((end - centre) @ turn, half, box.margin_m)
    normal = normal @ turn.T
    touch = distance < 0.0
    surface = velocity + torch.cross(spin.expand_as(x), end - centre, dim=-1)
    slip = v - surface
    vn = (slip * normal).sum(-1)
    hit = touch & (vn < 0.0)
    vt = slip - vn[:, None] * normal
    speed = (vt.square().sum(-1) + 1e-12).sqrt()
    keep = (1.0 - friction * (1.0 + restitution) * -vn / speed).clamp(min=0.0)
    after = surface + keep[:, None] * vt - restitution * vn[:, None] * normal
    # The surface was met so long before the substep's end that the depth is what was gone since.
    left = (distance / torch.where(hit, vn, -1.0)).clamp(0.0, h)[:, None]
    bounced = x + (h - left) * v + left * after
    x_end = torch.where(hit[:, None], bounced, end)
    depth = distance + ((x_end - end) * normal).sum(-1)
    x_end = x_end + torch.where(touch, (-depth).clamp(min=0.0), 0.0)[:, None] * normal
    return x_end, torch.where(hit[:, None], after, v), touch


def reference_rollout(model, parameters, x, v, driven, pose, frame_dt_s, substeps):
    """Positions and velocities at all frames (B, T, N, 3), and how often each box was touched."""
    h = frame_dt_s / substeps
    worlds = len(x)
    index = torch.as_tensor(model.driven_index.astype("int64"))
    free = torch.ones(model.node_count, dtype=torch.float64)
    free[index] = 0.0
    gravity = torch.tensor(model.gravity_m_per_s2, dtype=torch.float64)
    inv_mass = (free / parameters.mass_kg)[..., None]
    decay = torch.exp(-h * parameters.drag_per_s)[:, None, None]
    pose = np.broadcast_to(pose, (worlds, *pose.shape[1:]))
    e = parameters.collider_restitution.expand(worlds)
    mu = parameters.collider_friction.expand(worlds)
    touched = np.zeros(len(model.colliders), dtype=int)
    x = x.index_copy(1, index, driven[:, 0])
    xs, vs = [x], [v]
    for frame in range(driven.shape[1] - 1):
        start, end = driven[:, frame], driven[:, frame + 1]
        speed = (end - start) / frame_dt_s if model.driven_dashpot else torch.zeros_like(end)
        for s in range(substeps):
            t = (s + 1) / substeps
            x = x.index_copy(1, index, start + t * (end - start))
            v = v.index_copy(1, index, speed)
            v = (v + h * (inv_mass * spring_force(model, parameters, x, v) + gravity)) * decay
            made = []
            for world in range(worlds):
                xw, vw = x[world], v[world]
                for c, box in enumerate(model.colliders):
                    poses = pose[world, frame, c], pose[world, frame + 1, c]
                    motion = box_motion(*poses, t, frame_dt_s)
                    end_w, vw, touch = meet_box(box, motion, e[world], mu[world], xw, vw, h)
                    xw = end_w - h * vw
                    touched[c] += int((touch & (free > 0.0)).sum())
                made.append((xw, vw))
            x, v = (torch.stack(part) for part in zip(*made, strict=True))
            x, v = meet_ground(model, parameters, x, v, h)
        x, v = x.index_copy(1, index, end), v.index_copy(1, index, speed)
        xs.append(x)
        vs.append(v)
    return torch.stack(xs, dim=1), torch.stack(vs, dim=1), touched
