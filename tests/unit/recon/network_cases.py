"""Grids of points, how their driven ones move, and what our own solver makes of them."""

import numpy as np
import torch

from physgym.sim.spring_mass import SpringMassModel, SpringMassSolver, springs_from_points
from recon.tracks import Tracks

SPACING_M = 0.03
STIFFNESS_N, DASHPOT_NS_PER_M, DRAG_PER_S = 3.0, 0.05, 1.5


def grid(*sides, height=1.0):
    axes = [np.arange(side) * SPACING_M for side in sides]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(sides))
    return np.pad(points, ((0, 0), (0, 3 - len(sides)))) + np.array([0.0, 0.0, height])


def neighbours(rest):
    """Edges and diagonals of a grid's cells."""
    return springs_from_points(rest, radius_m=1.5 * SPACING_M, max_neighbours=8)


def moved(rest, driven, *, frames, fps, seed=0):
    """Paths of driven points: sines of a few centimetres that begin at rest."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)[:, None, None] / fps
    shape = (len(driven), 3)
    size, rate, phase = (rng.uniform(*r, shape) for r in ((0.03, 0.05), (3.0, 7.0), (0.0, 6.3)))
    ramp = np.minimum(1.0, 2.0 * t)
    return rest[driven] + ramp * size * (np.sin(rate * t + phase) - np.sin(phase))


def own_recording(
    rest,
    edges,
    driven,
    *,
    log_ratio=0.0,
    seconds=1.4,
    fps=60,
    ground=None,
    velocity_m_per_s=(0.0, 0.0, 0.0),
    **more,
):
    """What our own solver makes of known parameters."""
    driven = np.array(driven, dtype=int)
    model = SpringMassModel(rest, edges, driven_index=driven, ground=ground)
    parameters = model.default_parameters(
        stiffness=STIFFNESS_N,
        mass_kg=1e-3 * len(rest),
        dashpot_ns_per_m=DASHPOT_NS_PER_M,
        drag_per_s=DRAG_PER_S,
        **more,
    )
    ratio = torch.as_tensor(np.broadcast_to(log_ratio, len(edges)).copy())
    parameters = parameters.replace(log_stiffness=parameters.log_stiffness + ratio[None])
    frames = round(seconds * fps) + 1
    path = moved(rest, driven, frames=frames, fps=fps)
    solver = SpringMassSolver(model, parameters, device="cpu")
    velocity = torch.tensor(velocity_m_per_s).expand(len(rest), 3)
    state = solver.initial_state(torch.as_tensor(rest), velocity)
    position = solver.rollout(state, torch.as_tensor(path)[None], 1.0 / fps).position[0].numpy()
    visible = np.ones(position.shape[:2], bool)
    return Tracks(np.arange(frames) / fps, position, visible, driven, "own")
