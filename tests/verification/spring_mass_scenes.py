"""Scenes that several spring-mass tests share."""

import numpy as np
import torch

from physgym.sim.spring_mass import SpringMassModel, SpringMassSolver, springs_from_points


def run(model, parameters, position, velocity, *, frame_s, frames, substeps, engine, driven=None):
    """One world from rest or not; gives (T, N, 3) positions and velocities as NumPy."""
    solver = SpringMassSolver(
        model, parameters, substeps=substeps, engine=engine, device="cpu", threads=1
    )
    state = solver.initial_state(torch.tensor(np.array(position)), torch.tensor(np.array(velocity)))
    if driven is None:
        driven = state.position[:, None, solver.driven_index].repeat(1, frames + 1, 1, 1)
    out = solver.rollout(state, driven, frame_s)
    return out.position[0].double().numpy(), out.velocity[0].double().numpy()


def cloud(seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0.0, 0.1, (60, 3))
    model = SpringMassModel(
        points, springs_from_points(points, radius_m=0.05, max_neighbours=10), **kwargs
    )
    velocity = rng.normal(0.0, 0.3, points.shape)
    return model, points, velocity
