"""Gradients through contact with boxes: the chain of `test_spring_mass_gradients`.

Central differences check the float64 reference; the reference's autograd checks the plain kernels'
tape and the hand-written SIMD adjoint.
"""

import pytest
import torch
from box_collider_reference import reference_rollout
from box_collider_scenes import FRAME_S, FRAMES, NAMES, SUBSTEPS, crowd

from physgym.errors import DataError
from physgym.sim.spring_mass import SpringMassSolver

WORLDS = 4
LEAVES = (*NAMES, "position", "velocity", "driven")


def scene(*, per_world=True):
    model, base, x, v, path, pose = crowd(WORLDS, per_world=per_world)
    leaves = {name: getattr(base, name) for name in NAMES}
    return model, base, leaves | {"position": x, "velocity": v, "driven": path}, pose


def loss_of(x, v):
    """A loss that weighs every output differently; velocities in units of a frame."""
    generator = torch.Generator().manual_seed(11)
    shape = (WORLDS, FRAMES + 1, x.shape[2], 3)
    wx, wv = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return (x * wx).sum() + FRAME_S * (v * wv).sum()


def reference_loss(model, base, leaves, pose):
    parameters = base.replace(**{k: leaves[k] for k in NAMES})
    start = (leaves[k] for k in ("position", "velocity", "driven"))
    x, v, _ = reference_rollout(model, parameters, *start, pose.numpy(), FRAME_S, SUBSTEPS)
    return loss_of(x, v)


def reference_gradients(model, base, leaves, pose):
    leaves = {k: t.clone().requires_grad_(True) for k, t in leaves.items()}
    reference_loss(model, base, leaves, pose).backward()
    return {k: t.grad for k, t in leaves.items()}


def engine_gradients(model, base, leaves, pose, **kwargs):
    leaves = {k: t.float().requires_grad_(True) for k, t in leaves.items()}
    parameters = base.replace(**{k: leaves[k] for k in NAMES})
    worlds = len(leaves["position"])
    solver = SpringMassSolver(
        model, parameters, worlds=worlds, substeps=SUBSTEPS, device="cpu", **kwargs
    )
    state = solver.initial_state(leaves["position"].detach())
    state.position, state.velocity = leaves["position"], leaves["velocity"]
    out = solver.rollout(state, leaves["driven"], FRAME_S, collider_pose=pose)
    repeats = worlds // WORLDS
    x, v = (t.double().unflatten(0, (repeats, WORLDS)) for t in (out.position, out.velocity))
    sum(loss_of(x[r], v[r]) for r in range(repeats)).backward()
    return {k: t.grad.double() for k, t in leaves.items()}


@pytest.fixture(scope="module")
def checked():
    model, base, leaves, pose = scene()
    return model, base, leaves, pose, reference_gradients(model, base, leaves, pose)


@pytest.mark.parametrize("name", LEAVES)
def test_finite_differences_agree_with_the_reference(checked, name):
    model, base, leaves, pose, gradients = checked
    gradient = gradients[name]
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
    # Parameters are of very different size; a step of 1e-7 of theirs keeps the contact set.
    direction *= leaves[name].abs().mean()
    step = 1e-7
    moved = [
        reference_loss(model, base, {**leaves, name: leaves[name] + s * step * direction}, pose)
        for s in (1.0, -1.0)
    ]
    numeric = (moved[0] - moved[1]) / (2.0 * step)
    exact = (gradient * direction).sum()
    # Round-off of the loss, about 1e-15 of its size over 2e-7, is 1e-8; truncation is smaller.
    assert abs(float(numeric - exact)) < 1e-5 * max(abs(float(exact)), 1e-3)
    assert float(exact) != 0.0


def compare(got, want):
    for name in LEAVES:
        # Float32 state: see test_spring_mass_gradients._compare, the scene is the same kind.
        error = (got[name] - want[name]).norm() / want[name].norm()
        assert error < 1e-3, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("engine", ["plain", "native"])
def test_engines_agree_with_the_reference(checked, engine):
    *inputs, want = checked
    compare(engine_gradients(*inputs, engine=engine), want)


def test_shared_parameters_and_poses_gather_over_worlds():
    inputs = scene(per_world=False)
    compare(engine_gradients(*inputs, engine="native"), reference_gradients(*inputs))


def test_worlds_in_lanes_agree_with_the_reference(checked):
    model, base, leaves, pose, want = checked
    # The four worlds three times over on one thread: twelve worlds in sixteen lanes.
    wide = {k: t.repeat(3, *[1] * (t.dim() - 1)) for k, t in leaves.items()}
    got = engine_gradients(model, base, wide, pose.repeat(3, 1, 1, 1), threads=1)
    compare({k: t.unflatten(0, (3, WORLDS))[1] for k, t in got.items()}, want)


def test_gradient_of_the_pose_is_refused():
    model, base, leaves, pose = scene()
    with pytest.raises(DataError, match="gradient"):
        engine_gradients(model, base, leaves, pose.requires_grad_(True))
