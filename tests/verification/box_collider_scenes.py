"""Scenes that the box collider tests share."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from physgym.sim.contact import BoxCollider, GroundPlane
from physgym.sim.spring_mass import SpringMassModel, SpringMassSolver, springs_from_points

FRAME_S, FRAMES, SUBSTEPS = 0.012, 4, 12
NO_SPRINGS = np.zeros((0, 2), dtype=np.int32)
NAMES = (
    "log_stiffness",
    "rest_length_m",
    "dashpot_ns_per_m",
    "mass_kg",
    "drag_per_s",
    "restitution",
    "friction",
    "eta",
    "collider_restitution",
    "collider_friction",
)


def quat(*angles_deg):
    """quat_wxyz of turns about x, y and z, in this order, in degrees."""
    return Rotation.from_euler("xyz", angles_deg, degrees=True).as_quat(scalar_first=True)


def still(position, frames, angles_deg=(0.0, 0.0, 0.0)):
    """Pose of a box at rest, (1, T, 1, 7)."""
    return torch.tensor(np.r_[position, quat(*angles_deg)]).repeat(1, frames + 1, 1, 1)


def free_nodes(points, boxes, **kwargs):
    """Nodes without springs; no gravity unless said."""
    kwargs.setdefault("gravity_m_per_s2", (0.0, 0.0, 0.0))
    return SpringMassModel(np.array(points), NO_SPRINGS, colliders=boxes, **kwargs)


def run(model, parameters, pose, *, frame_s, substeps, engine, velocity=None):
    """One world from the rest shape; gives (T, N, 3) positions and velocities as NumPy."""
    solver = SpringMassSolver(model, parameters, substeps=substeps, engine=engine, device="cpu")
    given = None if velocity is None else torch.tensor(np.array(velocity, dtype=np.float32))
    state = solver.initial_state(torch.tensor(model.rest_position), given)
    driven = state.position[:, None, solver.driven_index].repeat(1, pose.shape[1], 1, 1)
    out = solver.rollout(state, driven, frame_s, collider_pose=pose)
    return out.position[0].double().numpy(), out.velocity[0].double().numpy()


def crowd(worlds, *, per_world=True):
    """A cloud with driven nodes between the table, a turning plate and a tilted round-edged bar.

    Returns the model, its parameters, and position, velocity, driven and poses of some worlds, all
    float64 numbers that float32 holds exactly.
    """
    rng = np.random.default_rng(7)
    points = rng.uniform(0.0, 0.06, (24, 3)) + np.array([0.0, 0.0, 0.002])
    driven = np.array([4, 17])
    model = SpringMassModel(
        points,
        springs_from_points(points, radius_m=0.05, max_neighbours=6),
        driven_index=driven,
        ground=GroundPlane(),
        colliders=(
            BoxCollider((0.004, 0.05, 0.03)),
            BoxCollider((0.008, 0.006, 0.01), margin_m=0.009),
        ),
    )
    parameters = model.default_parameters(
        stiffness=20.0, mass_kg=0.1, dashpot_ns_per_m=0.02, drag_per_s=2.0, restitution=0.4,
        friction=0.2, collider_restitution=0.3, collider_friction=0.25,
    )  # fmt: skip
    count = worlds if per_world else 1
    changed = {}
    for name in NAMES:
        value = getattr(parameters, name).double()
        value = value.expand(count, *value.shape[1:])
        changed[name] = value * torch.as_tensor(rng.uniform(0.97, 1.0, value.shape))
    x = torch.as_tensor(points).expand(worlds, -1, -1).clone()
    x += torch.as_tensor(rng.normal(0.0, 5e-4, x.shape)).abs()
    v = torch.tensor([0.5, 0.1, -0.6]) + torch.as_tensor(rng.normal(0.0, 0.2, x.shape))
    path = x[:, None, driven].repeat(1, FRAMES + 1, 1, 1)
    path += torch.as_tensor(rng.normal(0.0, 1e-3, path.shape)).cumsum(1)
    time = np.arange(FRAMES + 1) * FRAME_S
    pose = np.zeros((count, FRAMES + 1, 2, 7))
    for world in range(count):
        for f, t in enumerate(time):
            plate = [0.075 - 0.6 * t, 0.03 + 0.2 * t, 0.03]
            bar = [0.02 + 0.3 * t, 0.03 + 0.02 * world, 0.028 - 0.1 * t]
            pose[world, f, 0] = np.r_[plate, quat(0.0, 10.0, 15.0 + 300.0 * t)]
            pose[world, f, 1] = np.r_[bar, quat(30.0 + 400.0 * t, 20.0, 40.0 - 200.0 * t)]
    base = parameters.replace(**{k: t.float().double() for k, t in changed.items()})
    start = (x, v, path, torch.as_tensor(pose))
    return model, base, *(t.float().double() for t in start)
