"""Collisions between nodes: impact law, momentum, gradient, both engines."""

import math

import numpy as np
import pytest
import torch
from spring_mass_scenes import cloud, run

from physgym.sim.contact import SelfCollision
from physgym.sim.spring_mass import SpringMassModel, SpringMassSolver, springs_from_points

EPS = 2.0**-24  # rounding of float32
ENGINES = ["plain", "native"]
NO_SPRINGS = np.zeros((0, 2), dtype=np.int32)


@pytest.mark.parametrize("e", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("engine", ENGINES)
def test_colliding_nodes_keep_momentum(e, engine):
    model = SpringMassModel(
        np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]),
        NO_SPRINGS,
        gravity_m_per_s2=(0.0, 0.0, 0.0),
        self_collision=SelfCollision(0.02, restitution=e, friction=0.0),
    )
    parameters = model.default_parameters(stiffness=1.0, mass_kg=1.0)
    parameters = parameters.replace(mass_kg=torch.tensor([[0.1, 0.3]]))
    x, v = run(
        model, parameters, [[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]], [[1.0, 0.2, 0.0], [-1.0, 0.2, 0.0]],
        frame_s=0.02, frames=5, substeps=20, engine=engine,
    )  # fmt: skip
    mass = np.array([0.1, 0.3])
    momentum = (mass[None, :, None] * v).sum(axis=1)
    # Two roundings per node and contact.
    assert np.abs(momentum - momentum[0]).max() < 8 * EPS
    assert v[-1, 1, 0] - v[-1, 0, 0] == pytest.approx(2.0 * e, abs=1e-6)
    assert np.abs(v[:, :, 1] - 0.2).max() < 1e-6  # no friction: the common motion goes on
    gap = np.linalg.norm(x[:, 1] - x[:, 0], axis=1)
    assert gap.min() > 0.02 - 2.0 * 0.001  # at most one substep of approach deep


@pytest.mark.parametrize("engine", ENGINES)
def test_colliding_clouds_keep_momentum(engine):
    rng = np.random.default_rng(1)
    # Lattices of 2 cm: a node passes through a hole if it may come within 1.4 cm of its corners.
    grid = np.stack(np.meshgrid(*[np.arange(4) * 0.02] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.concatenate([grid, grid + np.array([0.13, 0.013, 0.007])]) + rng.normal(
        0.0, 5e-4, (128, 3)
    )
    edges = springs_from_points(points, radius_m=0.036, max_neighbours=18)
    model = SpringMassModel(
        points,
        edges,
        gravity_m_per_s2=(0.0, 0.0, 0.0),
        self_collision=SelfCollision(0.018, restitution=0.5, friction=0.2),
    )
    assert edges.max() == 127
    assert not ((edges[:, 0] < 64) & (edges[:, 1] >= 64)).any()  # two bodies
    parameters = model.default_parameters(stiffness=4.0, mass_kg=0.64, dashpot_ns_per_m=0.01)
    velocity = np.zeros_like(points)
    velocity[:64, 0], velocity[64:, 0] = 0.8, -0.8
    x, v = run(
        model, parameters, points, velocity, frame_s=0.02, frames=10, substeps=40, engine=engine
    )
    momentum = 0.005 * v.sum(axis=1)
    # 400 steps of 128 roundings of velocities near 1 m/s, as a random walk, 10 sigma.
    assert np.abs(momentum - momentum[0]).max() < 10 * 0.005 * EPS * math.sqrt(400 * 128)
    # They met and did not pass: the order along x holds and the approach is gone.
    assert x[-1, :64, 0].mean() < x[-1, 64:, 0].mean() - 0.04
    assert v[-1, :64, 0].mean() < 0.1


@pytest.mark.parametrize("engine", ENGINES)
def test_gradient_through_a_collision(engine):
    e, m1, m2 = 0.6, 0.1, 0.3
    model = SpringMassModel(
        np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]),
        NO_SPRINGS,
        gravity_m_per_s2=(0.0, 0.0, 0.0),
        self_collision=SelfCollision(0.02, restitution=e, friction=0.0),
    )
    parameters = model.default_parameters(stiffness=1.0, mass_kg=1.0)
    parameters = parameters.replace(mass_kg=torch.tensor([[m1, m2]]))
    solver = SpringMassSolver(model, parameters, substeps=20, engine=engine, device="cpu")
    state = solver.initial_state(torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]]))
    start = torch.tensor([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]], requires_grad=True)
    state.velocity = start
    out = solver.rollout(state, torch.zeros(1, 5, 0, 3), 0.02)
    out.velocity[0, -1, 0, 0].backward()
    # Newton's impact law: v1' = v1 - m2 (1 + e) (v1 - v2) / (m1 + m2), whatever the instant.
    share = m2 * (1.0 + e) / (m1 + m2)
    assert start.grad[0, :, 0].tolist() == pytest.approx([1.0 - share, share], abs=1e-6)
    # The step also moves nodes to the impact before v changes: nothing else reaches the velocity.
    assert start.grad[0, :, 1:].abs().max() < 1e-3


def test_native_collisions_agree_with_the_plain_kernels():
    rng = np.random.default_rng(4)
    model, points, velocity = cloud(
        4,
        gravity_m_per_s2=(0.0, 0.0, 0.0),
        driven_index=np.array([0, 1]),
        self_collision=SelfCollision(0.012, restitution=0.3, friction=0.5, excluded_hops=0),
    )
    parameters = model.default_parameters(stiffness=5.0, mass_kg=0.6, dashpot_ns_per_m=0.01)
    driven = np.repeat(points[None, None, :2], 7, axis=1) + rng.normal(
        0.0, 2e-3, (1, 7, 2, 3)
    ).cumsum(1)
    driven[:, 0] = points[:2]
    ends = []
    for engine in ENGINES:
        _, v = run(
            model, parameters, points, 2.0 * velocity, frame_s=0.01, frames=6, substeps=20,
            engine=engine, driven=torch.tensor(driven),
        )  # fmt: skip
        ends.append(v)
    free = SpringMassModel(
        points, model.edges, gravity_m_per_s2=(0.0, 0.0, 0.0), driven_index=np.array([0, 1])
    )
    _, apart = run(
        free, parameters, points, 2.0 * velocity, frame_s=0.01, frames=6, substeps=20,
        engine="native", driven=torch.tensor(driven),
    )  # fmt: skip
    # Collisions change velocities by about their own size; the engines differ by rounding, which a
    # collision of two nodes 1 cm apart magnifies some tens of times: 1e-7 m/s becomes 1e-4 m/s.
    assert np.abs(ends[0] - ends[1]).max() < 1e-4
    assert np.abs(ends[1] - apart).max() > 0.1
