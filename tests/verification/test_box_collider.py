"""Box colliders: engines against the float64 reference, and the promises about bits."""

import pytest
import torch
from box_collider_reference import reference_rollout
from box_collider_scenes import FRAME_S, SUBSTEPS, crowd

from physgym.errors import DataError
from physgym.sim.contact import BoxCollider, SelfCollision
from physgym.sim.spring_mass import SpringMassModel, SpringMassSolver

ENGINES = ["plain", "native"]


def single(parameters, worlds=None):
    """Float32 parameters, of some worlds."""
    return parameters.replace(
        **{
            k: (t if worlds is None or len(t) == 1 else t[worlds]).float()
            for k, t in vars(parameters).items()
        }
    )


def simulate(model, parameters, x, v, path, pose, **kwargs):
    kwargs.setdefault("device", "cpu")
    solver = SpringMassSolver(model, parameters, worlds=len(x), substeps=SUBSTEPS, **kwargs)
    start = solver.initial_state(x, v)
    path = path.float().to(solver.device)
    out = solver.rollout(start, path, FRAME_S, collider_pose=pose)
    return out.position, out.velocity


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_with_the_reference(engine):
    model, parameters, x0, v0, path, pose = crowd(4)
    x, v = simulate(model, single(parameters), x0, v0, path, pose, engine=engine)
    x64, v64, touched = reference_rollout(
        model, parameters, x0, v0, path, pose.numpy(), FRAME_S, SUBSTEPS
    )
    assert touched.min() > 100  # each box was met often
    # The bounds of test_spring_mass_engines, whose scene is of the same kind.
    assert (x.double() - x64).abs().max() < 4e-7
    assert (v.double() - v64).abs().max() < 1e-4


def test_a_world_alone_has_the_bits_it_has_in_a_batch_on_any_threads():
    model, parameters, *start = crowd(21)
    whole = simulate(model, single(parameters), *start, threads=1)  # 16 lanes and 8 lanes
    for threads in (2, 3, 7):
        again = simulate(model, single(parameters), *start, threads=threads)
        assert torch.equal(again[0], whole[0])
        assert torch.equal(again[1], whole[1])
    for worlds in ([0], [11], [20], [5, 9], list(range(4, 15))):
        part = simulate(model, single(parameters, worlds), *(t[worlds] for t in start), threads=1)
        assert torch.equal(part[0], whole[0][worlds])
        assert torch.equal(part[1], whole[1][worlds])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("worlds", [1, 12])
def test_far_boxes_change_no_bit(engine, worlds):
    model, parameters, x, v, path, pose = crowd(worlds)
    far = pose.clone()
    far[..., :3] += 1.0
    empty = SpringMassModel(
        model.rest_position, model.edges, driven_index=model.driven_index, ground=model.ground
    )
    leaves = [t.float().requires_grad_(True) for t in (x, v, parameters.log_stiffness)]
    made = []
    for used, poses in ((model, far), (empty, None)):
        given = single(parameters).replace(log_stiffness=leaves[2])
        solver = SpringMassSolver(
            used, given, worlds=worlds, substeps=SUBSTEPS, engine=engine, device="cpu", threads=1
        )
        state = solver.initial_state(x)
        state.position, state.velocity = leaves[:2]
        out = solver.rollout(state, path, FRAME_S, collider_pose=poses)
        loss = (
            out.position * torch.linspace(0.0, 1.0, out.position.numel()).view_as(out.position)
        ).sum()
        made.append((out.position, out.velocity, *torch.autograd.grad(loss, leaves)))
    for with_box, without in zip(*made, strict=True):
        assert torch.equal(with_box, without)


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_are_a_rollouts_frames(engine):
    model, parameters, x, v, path, pose = crowd(2)
    solver = SpringMassSolver(
        model, single(parameters), worlds=2, substeps=SUBSTEPS, engine=engine, device="cpu"
    )
    state = solver.initial_state(x, v)
    state.position[:, solver.driven_index] = path[:, 0].float()
    whole = solver.rollout(state, path, FRAME_S, collider_pose=pose)
    for frame in range(path.shape[1] - 1):
        pair = pose[:, frame : frame + 2]
        solver.step(state, state, path[:, frame + 1], FRAME_S, collider_pose=pair)
        assert torch.equal(state.position, whole.position[:, frame + 1])
    assert torch.equal(state.velocity, whole.final.velocity)


def test_native_agrees_with_plain_when_nodes_collide_too():
    model, parameters, *start = crowd(2)
    model = SpringMassModel(
        model.rest_position, model.edges, driven_index=model.driven_index, ground=model.ground,
        colliders=model.colliders, self_collision=SelfCollision(0.012, restitution=0.3),
    )  # fmt: skip
    ends, grads = [], []
    for engine in ENGINES:
        given = single(parameters)
        given.log_stiffness.requires_grad_(True)
        given.collider_friction.requires_grad_(True)
        x, v = simulate(model, given, *start, engine=engine)
        ends.append(v.detach())
        fitted = (given.log_stiffness, given.collider_friction)
        grads.append(torch.autograd.grad(x.square().sum(), fitted))
    # The bound of test_spring_mass_collision: a collision magnifies rounding some tens of times.
    assert (ends[0] - ends[1]).abs().max() < 1e-4
    for plain, native in zip(*grads, strict=True):  # both from the tape, around different states
        assert (plain - native).norm() < 1e-2 * plain.norm()


def test_a_quaternion_and_its_negative_are_one_rotation():
    model, parameters, *start, pose = crowd(1)
    turned = pose.clone()
    turned[:, 1::2, :, 3:] *= -1.0
    a = simulate(model, single(parameters), *start, pose)
    b = simulate(model, single(parameters), *start, turned)
    assert torch.equal(a[0], b[0])


def test_bad_input_is_refused():
    model, parameters, x, v, path, pose = crowd(2)
    bare = SpringMassModel(model.rest_position, model.edges, driven_index=model.driven_index)
    wrong = {
        "missing": (model, None),
        "given": (bare, pose),
        "shape": (model, pose[:, :-1]),
        "unit quaternion": (model, 2.0 * pose),
        r"collider_pose\[0, 3, 1\]": (
            model,
            pose.clone().index_put(
                (torch.tensor(0), torch.tensor(3), torch.tensor(1), torch.tensor(2)),
                torch.tensor(float("nan")).double(),
            ),
        ),
    }
    for message, (used, given) in wrong.items():
        with pytest.raises(DataError, match=message):
            simulate(used, single(parameters), x, v, path, given)
    with pytest.raises(DataError, match="BoxCollider"):
        BoxCollider((0.1, 0.0, 0.1))
    with pytest.raises(DataError, match="margin"):
        BoxCollider((0.1, 0.1, 0.1), margin_m=-1e-3)
    with pytest.raises(DataError, match="colliders"):
        SpringMassModel(model.rest_position, model.edges, colliders=(1.0,))
    with pytest.raises(DataError, match="collider_friction"):
        single(parameters).replace(collider_friction=torch.ones(3)).check(model, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_cuda_agrees_with_cpu():
    model, parameters, *start = crowd(4)
    x, v = simulate(model, single(parameters), *start)
    xg, vg = simulate(model, single(parameters), *start, device="cuda")
    # The bound between an engine and the reference, once for each side.
    assert (xg.cpu() - x).abs().max() < 8e-7
    assert (vg.cpu() - v).abs().max() < 2e-4
