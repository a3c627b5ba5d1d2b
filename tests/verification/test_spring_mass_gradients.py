"""Gradients of a rollout: finite differences in float64, then every engine against the reference.

The chain: central differences check the float64 reference; the reference's autograd checks the
plain kernels' tape and the hand-written SIMD adjoint, for every parameter and every law.
"""

import numpy as np
import pytest
import torch
from spring_mass_reference import reference_rollout

from physgym.sim.contact import GroundPlane
from physgym.sim.spring_mass import (
    ForceLaw,
    SpringMassModel,
    SpringMassSolver,
    springs_from_points,
)

SUBSTEPS, FRAME_S, FRAMES, WORLDS = 12, 0.012, 4, 4
NAMES = (
    "log_stiffness",
    "rest_length_m",
    "dashpot_ns_per_m",
    "mass_kg",
    "drag_per_s",
    "restitution",
    "friction",
    "eta",
    "position",
    "velocity",
    "driven",
)


def scene(law: ForceLaw, *, per_world: bool, per_spring_dashpot: bool = False):
    """A small cloud thrown at the ground, two nodes driven; all leaves in float64."""
    rng = np.random.default_rng(3)
    points = rng.uniform(0.0, 0.06, (21, 3)) + np.array([0.0, 0.0, 0.002])
    edges = springs_from_points(points, radius_m=0.05, max_neighbours=6)
    model = SpringMassModel(
        points,
        edges,
        driven_index=np.array([4, 17]),
        law=law,
        law_exponent=1.3 if law is ForceLaw.POWER else 0.5,
        ground=GroundPlane(),
    )
    base = model.default_parameters(
        stiffness=20.0 if law is not ForceLaw.POWER else 300.0,
        mass_kg=0.1,
        dashpot_ns_per_m=0.02,
        drag_per_s=2.0,
        restitution=0.4,
        friction=0.2,
    )
    count = WORLDS if per_world else 1
    leaves = {}
    for name in NAMES[:8]:
        value = getattr(base, name).double()
        value = value.expand(count, *value.shape[1:]).clone()
        if name in ("dashpot_ns_per_m", "eta") and per_spring_dashpot:
            value = value.expand(count, len(edges)).clone()
        scale = torch.as_tensor(rng.uniform(0.97, 1.0, value.shape))
        leaves[name] = value * scale
    x = torch.as_tensor(points).expand(WORLDS, -1, -1).clone()
    leaves["position"] = x + torch.as_tensor(rng.normal(0.0, 5e-4, x.shape)).abs()
    thrown = torch.tensor([0.5, 0.1, -0.6], dtype=torch.float64)
    leaves["velocity"] = thrown + torch.as_tensor(rng.normal(0.0, 0.2, x.shape))
    path = x[:, None, [4, 17]].repeat(1, FRAMES, 1, 1)
    leaves["driven"] = path + torch.as_tensor(rng.normal(0.0, 1e-3, path.shape)).cumsum(1)
    # All engines must start from the same numbers, so the leaves are float32 numbers in float64.
    return model, base, {k: t.float().double() for k, t in leaves.items()}


def weights(seed: int):
    generator = torch.Generator().manual_seed(seed)
    shape = (WORLDS, FRAMES, 21, 3)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]


def loss_of(x, v):
    """A loss that weighs every output differently; velocities in units of a frame."""
    wx, wv = weights(11)
    return (x * wx).sum() + FRAME_S * (v * wv).sum()


def reference_loss(model, base, leaves):
    parameters = base.replace(**{k: leaves[k] for k in NAMES[:8]})
    x, v = reference_rollout(
        model,
        parameters,
        leaves["position"],
        leaves["velocity"],
        leaves["driven"],
        FRAME_S,
        SUBSTEPS,
    )
    return loss_of(x, v)


def reference_gradients(model, base, leaves):
    leaves = {k: t.clone().requires_grad_(True) for k, t in leaves.items()}
    reference_loss(model, base, leaves).backward()
    return {k: t.grad for k, t in leaves.items()}


def engine_gradients(model, base, leaves, engine):
    leaves = {k: t.float().requires_grad_(True) for k, t in leaves.items()}
    parameters = base.replace(**{k: leaves[k] for k in NAMES[:8]})
    solver = SpringMassSolver(
        model, parameters, worlds=WORLDS, substeps=SUBSTEPS, engine=engine, device="cpu"
    )
    state = solver.initial_state(leaves["position"].detach())
    state.position, state.velocity = leaves["position"], leaves["velocity"]
    out = solver.rollout(state, leaves["driven"], FRAME_S)
    loss_of(out.position.double(), out.velocity.double()).backward()
    return {k: t.grad.double() for k, t in leaves.items()}


@pytest.mark.parametrize("name", NAMES)
def test_finite_differences_agree_with_the_reference(name):
    model, base, leaves = scene(ForceLaw.STRAIN, per_world=True)
    gradient = reference_gradients(model, base, leaves)[name]
    direction = torch.randn(
        gradient.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    # Parameters are of very different size; a step of 1e-7 of theirs keeps the contact set.
    direction *= leaves[name].abs().mean()
    step = 1e-7
    moved = [
        reference_loss(model, base, {**leaves, name: leaves[name] + s * step * direction})
        for s in (1.0, -1.0)
    ]
    numeric = (moved[0] - moved[1]) / (2.0 * step)
    exact = (gradient * direction).sum()
    # Round-off of the loss, about 1e-15 of its size over 2e-7, is 1e-8; truncation is smaller.
    scale = max(abs(float(exact)), 1e-3)
    assert abs(float(numeric - exact)) < 1e-5 * scale
    assert float(exact) != 0.0


@pytest.mark.parametrize("engine", ["plain", "native"])
@pytest.mark.parametrize("law", list(ForceLaw))
def test_engines_agree_with_the_reference(law, engine):
    model, base, leaves = scene(law, per_world=True)
    _compare(model, base, leaves, engine)


@pytest.mark.parametrize("engine", ["plain", "native"])
def test_shared_parameters_gather_over_worlds(engine):
    model, base, leaves = scene(ForceLaw.STRAIN, per_world=False, per_spring_dashpot=True)
    _compare(model, base, leaves, engine)


def _compare(model, base, leaves, engine):
    want = reference_gradients(model, base, leaves)
    got = engine_gradients(model, base, leaves, engine)
    for name in NAMES:
        # Float32 state: a position error of 4e-9 m against elongations of 1e-3 m is 4e-6 of every
        # force; 36 substeps and the division by the speed of a graze magnify it a hundredfold.
        error = (got[name] - want[name]).norm() / want[name].norm()
        assert error < 1e-3, f"{name}: relative error {error:.2e}"
