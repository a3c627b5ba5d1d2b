"""Engines against the float64 reference, and the promise about bits."""

import numpy as np
import pytest
import torch
from spring_mass_reference import reference_rollout

from physgym.errors import BlowUpError, DataError
from physgym.sim.contact import GroundPlane, SelfCollision
from physgym.sim.model import State
from physgym.sim.solver import Solver
from physgym.sim.spring_mass import (
    ForceLaw,
    SpringMassModel,
    SpringMassSolver,
    driven_springs,
    merge_springs,
    native_adjoint,
    native_engine,
    springs_from_points,
)

FRAME_S, FRAMES, SUBSTEPS, NODES = 0.01, 5, 20, 70
X_TOLERANCE_M, V_TOLERANCE_M_PER_S = 4e-7, 1e-4


def scene(law=ForceLaw.STRAIN, worlds=37, **kwargs):
    rng = np.random.default_rng(0)
    points = rng.uniform(0.0, 0.1, (NODES, 3)) + np.array([0.0, 0.0, 0.005])
    driven = np.array([3, 40, 69])
    edges = merge_springs(
        springs_from_points(points, radius_m=0.04, max_neighbours=9),
        driven_springs(points, driven, radius_m=0.06, max_neighbours=5),
    )
    model = SpringMassModel(
        points, edges, driven_index=driven, law=law, ground=GroundPlane(), **kwargs
    )
    parameters = model.default_parameters(
        stiffness=20.0 if law is not ForceLaw.POWER else 2.0,
        mass_kg=0.35,
        dashpot_ns_per_m=0.02,
        drag_per_s=1.0,
        restitution=0.3,
        friction=0.4,
    )
    spread = torch.as_tensor(rng.uniform(0.9, 1.1, (worlds, len(edges))), dtype=torch.float32)
    parameters = parameters.replace(
        log_stiffness=parameters.log_stiffness + spread.log(),
        friction=torch.as_tensor(rng.uniform(0.0, 1.0, worlds), dtype=torch.float32),
    )
    velocity = rng.normal(0.0, 0.2, (worlds, NODES, 3)) + np.array([0.3, 0.0, -0.5])
    position = torch.as_tensor(points, dtype=torch.float32).repeat(worlds, 1, 1)
    path = position[:, None, driven].repeat(1, FRAMES + 1, 1, 1)
    path += torch.as_tensor(rng.normal(0.0, 1e-3, path.shape), dtype=torch.float32).cumsum(1)
    return model, parameters, position, torch.as_tensor(velocity, dtype=torch.float32), path


def pick(parameters, worlds):
    """Parameters of some worlds; those shared by all stay shared."""
    fields = {name: value[worlds] for name, value in vars(parameters).items() if value.shape[0] > 1}
    return parameters.replace(**fields)


def simulate(model, parameters, position, velocity, path, **kwargs):
    kwargs.setdefault("device", "cpu")
    solver = SpringMassSolver(model, parameters, worlds=len(position), substeps=SUBSTEPS, **kwargs)
    out = solver.rollout(solver.initial_state(position, velocity), path.to(solver.device), FRAME_S)
    return out.position, out.velocity


@pytest.mark.parametrize("engine", ["plain", "native"])
@pytest.mark.parametrize("law", list(ForceLaw))
def test_engines_agree_with_the_reference(law, engine):
    model, parameters, *start = scene(law, worlds=5)
    x, v = simulate(model, parameters, *start, engine=engine)
    doubled = parameters.replace(**{k: t.double() for k, t in vars(parameters).items()})
    x64, v64 = reference_rollout(model, doubled, *(t.double() for t in start), FRAME_S, SUBSTEPS)
    # A position of 0.1 m rounds by 4e-9 m; the shortest springs have 4000 N/m and nodes 5 g, so one
    # rounding changes a velocity by 1.6e-6 m/s in a substep of 0.5 ms. 100 substeps of 10 springs
    # as a random walk are 5e-5 m/s, doubled here; a tenth of a period later that is 4e-7 m.
    assert (x.double() - x64).abs().max() < X_TOLERANCE_M
    assert (v.double() - v64).abs().max() < V_TOLERANCE_M_PER_S
    assert float(x64[..., 2].min()) < 1e-6  # the ground was met


@pytest.mark.parametrize("law", [ForceLaw.STRAIN, ForceLaw.SOFT])
def test_a_world_alone_has_the_bits_it_has_in_a_batch(law):
    model, parameters, x0, v0, path = scene(law)
    whole = simulate(model, parameters, x0, v0, path, threads=1)
    # 37 worlds on one thread are blocks of 16, 16 and 5 in 8 lanes; one alone has the layout of
    # one.
    for worlds in ([0], [20], [36], [5, 30], list(range(10, 23))):
        part = simulate(
            model, pick(parameters, worlds), x0[worlds], v0[worlds], path[worlds], threads=1
        )
        assert torch.equal(part[0], whole[0][worlds])
        assert torch.equal(part[1], whole[1][worlds])


def test_threads_and_repeats_keep_the_bits():
    model, parameters, *start = scene()
    once = simulate(model, parameters, *start, threads=1)
    for threads in (1, 2, 3, 7):
        again = simulate(model, parameters, *start, threads=threads)
        assert torch.equal(again[0], once[0])
        assert torch.equal(again[1], once[1])


def test_shared_parameters_have_the_bits_of_equal_ones():
    model, parameters, *start = scene(worlds=6)
    shared = pick(parameters, [2]).replace(friction=parameters.friction[2:3])
    alike = shared.replace(
        **{k: t.expand(6, *t.shape[1:]).clone() for k, t in vars(shared).items()}
    )
    for threads in (1, 6):
        a = simulate(model, shared, *start, threads=threads)
        b = simulate(model, alike, *start, threads=threads)
        assert torch.equal(a[0], b[0])


@pytest.mark.parametrize("engine", ["plain", "native"])
def test_a_rollout_goes_on_exactly_and_steps_are_its_frames(engine):
    model, parameters, x0, v0, path = scene(worlds=3)
    solver = SpringMassSolver(
        model, parameters, worlds=3, substeps=SUBSTEPS, engine=engine, device="cpu"
    )
    assert isinstance(solver, Solver)
    state = solver.initial_state(x0, v0)
    state.position[:, solver.driven_index] = path[:, 0]
    whole = solver.rollout(state, path, FRAME_S)
    half = solver.rollout(state, path[:, :3], FRAME_S)
    rest = solver.rollout(half.final.clone(), path[:, 2:], FRAME_S)
    assert torch.equal(rest.position, whole.position[:, 2:])
    stepped: State = state.clone()
    for frame in range(1, FRAMES + 1):
        solver.step(stepped, stepped, path[:, frame], FRAME_S)
        assert torch.equal(stepped.position, whole.position[:, frame])
    assert torch.equal(stepped.velocity, whole.final.velocity)


def gradients(model, parameters, x0, v0, path, **kwargs):
    leaf = parameters.log_stiffness.clone().requires_grad_(True)
    x = x0.clone().requires_grad_(True)
    moving = path.clone().requires_grad_(True)
    solver = SpringMassSolver(
        model, parameters, worlds=len(x0), substeps=SUBSTEPS, device="cpu", **kwargs
    )
    state = solver.initial_state(x0, v0)
    state.position = x
    used = parameters.replace(log_stiffness=leaf)
    solver.rollout(state, moving, FRAME_S, parameters=used).position.square().sum().backward()
    return leaf.grad, x.grad, moving.grad


def test_gradients_do_not_depend_on_threads_or_segments(monkeypatch):
    model, parameters, *start = scene(worlds=19)
    whole = gradients(model, parameters, *start, threads=1)  # 16 lanes and single worlds
    again = gradients(model, parameters, *start, threads=1)
    monkeypatch.setattr(native_adjoint, "_SEGMENT_BYTES", 0)  # segments of 5 substeps
    cut = gradients(model, parameters, *start, threads=1)
    other = gradients(model, parameters, *start, threads=4)  # 8 lanes
    for w, a, c, o in zip(whole, again, cut, other, strict=True):
        assert torch.equal(w, a)
        assert torch.equal(w, c)  # what is computed again has the same bits
        # Other layouts add the same terms in another order: 1e-5 is 100 roundings.
        assert (w - o).norm() < 1e-5 * w.norm()


def test_states_left_by_the_forward_pass_change_nothing(monkeypatch):
    model, parameters, x0, v0, path = scene(worlds=1)
    kept = gradients(model, parameters, x0, v0, path)
    monkeypatch.setattr(native_engine.NativeEngine, "_kept_room", lambda *_: 0)
    for again, want in zip(gradients(model, parameters, x0, v0, path), kept, strict=True):
        assert torch.equal(again, want)
    monkeypatch.undo()
    # A second rollout before the first one's backward pass, and a backward pass taken twice.
    solver = SpringMassSolver(model, parameters, substeps=SUBSTEPS, device="cpu")
    state = solver.initial_state(x0, v0)
    leaf = path.clone().requires_grad_(True)
    first = solver.rollout(state, leaf, FRAME_S).position.square().sum()
    solver.rollout(state, leaf + 1e-3, FRAME_S)
    for _ in range(2):
        leaf.grad = None
        first.backward(retain_graph=True)
        assert torch.equal(leaf.grad, kept[2])


def test_blow_up_is_caught_and_says_what_to_change():
    model, parameters, x0, v0, path = scene(worlds=3)
    stiff = parameters.log_stiffness.clone()
    stiff[1] = 14.0
    parameters = parameters.replace(log_stiffness=stiff)
    for engine in ("plain", "native"):
        solver = SpringMassSolver(
            model, parameters, worlds=3, substeps=SUBSTEPS, engine=engine, device="cpu"
        )
        with pytest.raises(BlowUpError, match="substeps") as caught:
            solver.rollout(solver.initial_state(x0, v0), path, FRAME_S)
        assert caught.value.world == 1
        assert 0 <= caught.value.node < NODES
        assert 0 < caught.value.substep < SUBSTEPS * FRAMES
        assert "log_stiffness" in str(caught.value)
    # What the message asks for cures it.
    solver = SpringMassSolver(model, parameters, worlds=3, device="cpu")
    assert torch.isfinite(
        solver.rollout(solver.initial_state(x0, v0), path, FRAME_S).position
    ).all()


def test_full_candidate_list_is_an_error():
    rng = np.random.default_rng(0)
    points = rng.uniform(0.0, 1.0, (50, 3))
    model = SpringMassModel(
        points, np.array([[0, 1]]), self_collision=SelfCollision(0.05, max_neighbours=2)
    )
    solver = SpringMassSolver(model, model.default_parameters(stiffness=1.0, mass_kg=1.0))
    heap = torch.as_tensor(points * 0.02, dtype=torch.float32)
    with pytest.raises(DataError, match="max_neighbours"):
        solver.step(
            solver.initial_state(heap), solver.initial_state(heap), torch.zeros(1, 0, 3), 0.01
        )


def test_bad_input_is_refused():
    model, parameters, x0, v0, path = scene(worlds=2)
    solver = SpringMassSolver(model, parameters, worlds=2, substeps=SUBSTEPS, device="cpu")
    state = solver.initial_state(x0, v0)
    hole = path.clone()
    hole[1, 2, 0, 1] = float("nan")
    with pytest.raises(DataError, match=r"driven\[1, 2, 0, 1\]"):
        solver.rollout(state, hole, FRAME_S)
    with pytest.raises(DataError, match="shape"):
        solver.rollout(state, path[:1], FRAME_S)
    with pytest.raises(DataError, match="dt_s"):
        solver.rollout(state, path, 0.0)
    with pytest.raises(DataError, match="mass_kg"):
        SpringMassSolver(model, parameters.replace(mass_kg=torch.zeros(1, NODES)), worlds=2)
    with pytest.raises(DataError, match="log_stiffness"):
        SpringMassSolver(model, parameters, worlds=5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_cuda_agrees_with_cpu():
    model, parameters, *start = scene(worlds=5)
    x, v = simulate(model, parameters, *start)
    xg, vg = simulate(model, parameters, *start, device="cuda")
    # The bound between an engine and the reference, once for each side.
    assert (xg.cpu() - x).abs().max() < 2 * X_TOLERANCE_M
    assert (vg.cpu() - v).abs().max() < 2 * V_TOLERANCE_M_PER_S
