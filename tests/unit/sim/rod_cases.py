"""Rods with every effect on, for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from physgym.sim.model import State
from physgym.sim.rod import RodModel, RodParameters, RodSolver

DT_S = 0.01


def parameters(nodes: int, **changes: Any) -> RodParameters:
    """A metre of cable, 50 g, curved by nature, with friction, damping, drag and twist."""
    rng = np.random.default_rng(nodes)
    made = RodParameters(
        rest_length_m=(1.0 + 0.1 * rng.uniform(-1, 1, nodes - 1)) / (nodes - 1),
        linear_density_kg_per_m=np.array(0.05),
        bending_stiffness_nm2=1e-3 * (1.0 + 0.2 * rng.uniform(-1, 1, nodes - 2)),
        natural_curvature_rad=0.2 * rng.normal(size=(nodes - 2, 2)),
        twist_stiffness_nm2=np.array(8e-4),
        bending_damping_s=np.array(0.02),
        friction_ratio=np.array(0.5),
        friction_yield_rad=np.array(0.02),
        drag_per_s=np.array(0.1),
        drag_quadratic_per_m=np.array(0.2),
        stretch_stiffness_n=np.array(200.0),
        stretch_damping_s=np.array(1e-3),
        end_roll_rad=np.array(0.4),
        clamp_tangent=np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
        clamp_director=np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
    )
    return replace(made, **changes)


def case(
    nodes: int,
    driven_index: tuple[int, ...],
    *,
    worlds: int = 3,
    frames: int = 8,
    threads: int | None = None,
    device: str = "cpu",
    **changes: Any,
) -> tuple[RodSolver, State, torch.Tensor]:
    """A solver, a rough start (each world its own) and a drive that lifts and pushes."""
    rng = np.random.default_rng(7)
    given = parameters(nodes, **changes)
    solver = RodSolver(
        RodModel(nodes, driven_index), given, worlds=worlds, threads=threads, device=device
    )
    x = np.zeros((worlds, nodes, 3))
    x[:, 1:, 0] = np.cumsum(np.broadcast_to(given.rest_length_m, (worlds, nodes - 1)), -1)
    x += 0.01 * rng.normal(size=x.shape)
    v = 0.3 * rng.normal(size=x.shape)
    time = DT_S * np.arange(frames)
    driven = np.repeat(x[:, None, list(driven_index)], frames, axis=1)
    driven[..., 2] += 0.1 * np.sin(20.0 * time)[None, :, None]
    late = [k for k, i in enumerate(driven_index) if i > nodes // 2]
    driven[:, :, late, 0] -= 0.5 * (10.0 * time**2)[None, :, None]
    return solver, solver.initial_state(*map(torch.tensor, (x, v))), torch.tensor(driven).float()
