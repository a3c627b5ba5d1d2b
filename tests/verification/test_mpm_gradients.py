"""Gradients of a rollout against central differences of the float64 reference."""

import numpy as np
import pytest
import torch
from mpm_reference import reference_rollout
from mpm_scenes import MATERIALS, VALUES, name_of, path, springs, thrown_body

from physgym.sim.mpm import MpmParameters, MpmSolver

FRAMES, SUBSTEPS, FRAME_S = 2, 10, 0.010
# Fewer than a sort period, and a frame that is cut into pieces by sorts.
ENGINES = ("plain", "native")


def scene(material, operator=False, strain=0.03, colliders=None):
    """Leaves in float64 by name: parameters per particle, start and path; weights of the loss."""
    model, x, v = thrown_body(
        material, size_m=0.05, particle_m=0.0125, driven=3, colliders=colliders
    )
    rng = np.random.default_rng(0)
    p = model.particle_count
    names = [*material.used, "friction"]
    leaves = {n: VALUES[n] * rng.uniform(0.95, 1.05, p) for n in names if n != "friction"}
    if "cohesion_strain" in leaves:
        leaves["cohesion_strain"] = rng.uniform(0.001, 0.003, p)
    leaves["friction"] = VALUES["friction"] * rng.uniform(0.9, 1.1, len(model.colliders))
    if operator:
        leaves["stress_operator"] = np.eye(6) + rng.normal(0.0, 0.1, (p, 6, 6))
    f = np.eye(3) + rng.normal(0.0, strain, (p, 3, 3))
    leaves |= {"x": x, "v": v, "f": f, "driven": path(model, x, FRAMES, FRAME_S)}
    weights = [rng.normal(size=(FRAMES + 1, p, *s)) for s in ((3,), (3,), (3, 3))]
    # Of one size: centimetres of motion, metres a second, per cent of stretch.
    return model, leaves, [weights[0], 0.01 * weights[1], 0.01 * weights[2]]


def split(leaves):
    values = {k: a for k, a in leaves.items() if k not in ("x", "v", "f", "driven")}
    return values, leaves["x"], leaves["v"], leaves["f"], leaves["driven"]


def reference_loss(model, leaves, weights):
    values, x, v, f, driven = split(leaves)
    made = reference_rollout(model, values, x, v, SUBSTEPS, FRAME_S, driven, f)
    return sum(float((a * w).sum()) for a, w in zip(made, weights))


def engine_gradients(engine, model, leaves, weights):
    given = {k: torch.tensor(a, dtype=torch.float32).requires_grad_() for k, a in leaves.items()}
    values, x, v, f, driven = split(given)
    parameters = MpmParameters(**{k: a[None] for k, a in values.items()})
    solver = MpmSolver(model, parameters, substeps=SUBSTEPS, device="cpu", engine=engine)
    made = solver.rollout(solver.initial_state(x, v, f), driven[None], FRAME_S)
    parts = (made.position, made.velocity, made.deformation)
    loss = sum((a[0] * torch.tensor(w, dtype=torch.float32)).sum() for a, w in zip(parts, weights))
    found = torch.autograd.grad(loss, list(given.values()))
    return {k: g.double().numpy() for k, g in zip(given, found)}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("material", MATERIALS, ids=name_of)
def test_gradients_against_finite_differences(engine, material):
    check(engine, *scene(material))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("material", [MATERIALS[1], MATERIALS[5]], ids=name_of)
def test_gradients_through_a_stress_operator(engine, material):
    check(engine, *scene(material, operator=True))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("material", [MATERIALS[2], MATERIALS[3], MATERIALS[5]], ids=name_of)
def test_gradients_from_rest_where_all_stretches_are_equal(engine, material):
    # F = I exactly: the derivative of a singular value decomposition does not exist here.
    check(engine, *scene(material, strain=0.0))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("material", [MATERIALS[1], MATERIALS[5]], ids=name_of)
def test_gradients_through_planes_that_push_particles(engine, material):
    check(engine, *scene(material, colliders=springs()))


def check(engine, model, leaves, weights):
    found = engine_gradients(engine, model, leaves, weights)
    for name, leaf in leaves.items():
        # Along the gradient itself, so that the directional derivative is its norm: any wrong part
        # lowers the difference quotient. A return map or contact that switches inside the step
        # would spoil the quotient; the step is small enough for float64 and few switches.
        g = found[name]
        size = np.linalg.norm(g)
        assert size > 0.0, name
        step = 1e-7 * (np.linalg.norm(leaf) + 1e-3) * g / size
        up, down = (
            reference_loss(model, {**leaves, name: leaf + s * step}, weights) for s in (1.0, -1.0)
        )
        quotient = (up - down) / (2.0 * np.linalg.norm(step))
        # float32 sums over 20 substeps and some hundred particles keep three digits.
        assert quotient == pytest.approx(size, rel=5e-3), name
