"""Every engine against the float64 reference; worlds, threads, frames, saved states, blow-ups."""

import numpy as np
import pytest
import torch
from mpm_reference import reference_rollout
from mpm_scenes import (
    MATERIALS,
    VALUES,
    name_of,
    parameters,
    path,
    springs,
    thrown_body,
)

from physgym.errors import BlowUpError, DataError
from physgym.sim.mpm import ElasticLaw, Material, MpmParameters, MpmSolver, native_engine

FRAMES, SUBSTEPS, FRAME_S = 3, 12, 0.012
ENGINES = ("plain", "native")


def simulate(engine, material, driven=4, colliders=None, **options):
    model, x, v = thrown_body(material, driven=driven, colliders=colliders)
    track = path(model, x, FRAMES, FRAME_S)
    solver = MpmSolver(
        model, parameters(VALUES), substeps=SUBSTEPS, device="cpu", engine=engine, **options
    )
    state = solver.initial_state(torch.tensor(x), torch.tensor(v))
    made = solver.rollout(
        state, torch.tensor(track)[None].expand(solver.worlds, -1, -1, -1), FRAME_S
    )
    return model, x, v, track, made


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("material", MATERIALS, ids=name_of)
def test_engine_follows_the_reference(engine, material):
    model, x, v, track, made = simulate(engine, material)
    want_x, want_v, want_f = reference_rollout(model, VALUES, x, v, SUBSTEPS, FRAME_S, track)
    # float32: 36 substeps with some 1e-7 of rounding each, on motions of 4 cm at 1.5 m/s; return
    # maps and contact switch a substep early or late, which costs up to 1e-4 of a velocity.
    assert np.abs(want_x[-1] - want_x[0]).max() > 0.02
    np.testing.assert_allclose(made.position[0], want_x, atol=3e-6)
    np.testing.assert_allclose(made.velocity[0], want_v, atol=2e-3)
    np.testing.assert_allclose(made.deformation[0], want_f, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_planes_that_push_particles_follow_the_reference(engine):
    material = Material(ElasticLaw.NEO_HOOKEAN)
    model, x, v, track, made = simulate(engine, material, colliders=springs())
    want_x, want_v, _ = reference_rollout(model, VALUES, x, v, SUBSTEPS, FRAME_S, track)
    free = simulate(engine, material, colliders=())[4]
    assert (made.position - free.position).abs().max() > 1e-3  # they do push
    np.testing.assert_allclose(made.position[0], want_x, atol=3e-6)  # as above
    np.testing.assert_allclose(made.velocity[0], want_v, atol=2e-3)


def some_operator(count, size=0.1):
    """Maps near the identity, not symmetric, one per particle: (count, 6, 6)."""
    return np.eye(6) + np.random.default_rng(4).normal(0.0, size, (count, 6, 6))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("law", [ElasticLaw.NEO_HOOKEAN, ElasticLaw.HENCKY])
def test_stress_operator_follows_the_reference(engine, law):
    model, x, v = thrown_body(Material(law))
    operator = some_operator(len(x))
    given = parameters(VALUES).replace(stress_operator=torch.tensor(operator[None]).float())
    solver = MpmSolver(model, given, substeps=SUBSTEPS, device="cpu", engine=engine)
    state = solver.initial_state(torch.tensor(x), torch.tensor(v))
    made = solver.rollout(state, torch.zeros(1, FRAMES + 1, 0, 3), FRAME_S)
    track = np.zeros((FRAMES + 1, 0, 3))
    values = {**VALUES, "stress_operator": operator}
    want_x, want_v, _ = reference_rollout(model, values, x, v, SUBSTEPS, FRAME_S, track)
    np.testing.assert_allclose(made.position[0], want_x, atol=3e-6)
    np.testing.assert_allclose(made.velocity[0], want_v, atol=2e-3)
    without, _, _ = reference_rollout(model, VALUES, x, v, SUBSTEPS, FRAME_S, track)
    assert np.abs(without[-1] - want_x[-1]).max() > 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_the_identity_operator_changes_nothing_but_roundings(engine):
    model, x, v = thrown_body(Material(ElasticLaw.FIXED_COROTATED))
    ends = []
    for operator in (None, torch.eye(6)[None, None]):
        given = MpmParameters(stress_operator=operator)
        solver = MpmSolver(model, given, substeps=SUBSTEPS, device="cpu", engine=engine)
        state = solver.initial_state(torch.tensor(x), torch.tensor(v))
        ends.append(solver.rollout(state, torch.zeros(1, 4, 0, 3), FRAME_S).position)
    torch.testing.assert_close(ends[0], ends[1], atol=2e-6, rtol=0.0)


def states_of(made):
    return torch.cat([made.position, made.velocity, made.internal], dim=-1)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_is_its_worlds_one_by_one(engine):
    material = Material(ElasticLaw.FIXED_COROTATED)
    model, x, v = thrown_body(material, driven=2)
    worlds = 3
    young = torch.tensor([[1e4], [2e4], [3e4]])
    push = torch.tensor([[[0.0, 0, 0]], [[0.2, 0, 0]], [[0, 0.3, -0.1]]])
    track = torch.tensor(path(model, x, FRAMES, FRAME_S), dtype=torch.float32)
    start, speed = torch.tensor(x).float(), torch.tensor(v).float() + push

    def solve(young_pa, velocity, threads):
        solver = MpmSolver(
            model, MpmParameters(young_pa=young_pa), worlds=len(velocity), substeps=SUBSTEPS,
            device="cpu", engine=engine, threads=threads,
        )  # fmt: skip
        state = solver.initial_state(start.expand(len(velocity), -1, -1), velocity)
        return states_of(solver.rollout(state, track.expand(len(velocity), -1, -1, -1), FRAME_S))

    batch = solve(young, speed, 2)
    alone = torch.cat([solve(young[b : b + 1], speed[b : b + 1], 1) for b in range(worlds)])
    assert torch.equal(batch, alone)  # the same bits, whatever the neighbours and threads
    assert not torch.equal(batch[0], batch[1])


def test_gradients_have_the_same_bits_at_any_thread_count():
    model, x, v = thrown_body(Material(), driven=2)
    track = torch.tensor(path(model, x, FRAMES, FRAME_S), dtype=torch.float32)
    found = []
    for threads in (1, 2):
        young = torch.full((3, 1), 2e4, requires_grad=True)
        solver = MpmSolver(
            model, MpmParameters(young_pa=young), worlds=3, substeps=SUBSTEPS, device="cpu",
            threads=threads,
        )  # fmt: skip
        speed = (torch.tensor(v).float() * torch.tensor([1.0, 0.8, 1.2])[:, None, None]).clone()
        speed.requires_grad_()
        state = solver.initial_state(torch.tensor(x).float().expand(3, -1, -1), speed)
        made = solver.rollout(state, track.expand(3, -1, -1, -1), FRAME_S)
        found.append(torch.autograd.grad((made.position**2).sum(), [young, speed]))
    assert all(torch.equal(a, b) for a, b in zip(*found))
    assert (found[0][0] != 0.0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_saved_state_goes_on_with_the_same_bits(engine):
    model, x, v = thrown_body(Material(), driven=2)
    solver = MpmSolver(model, parameters(VALUES), substeps=SUBSTEPS, device="cpu", engine=engine)
    track = torch.tensor(path(model, x, FRAMES, FRAME_S), dtype=torch.float32)
    state = solver.initial_state(torch.tensor(x), torch.tensor(v))
    whole = solver.rollout(state, track[None], FRAME_S).final
    for frame in range(FRAMES):
        saved = state.clone()
        solver.step(saved, state, track[None, frame + 1], FRAME_S)
    assert torch.equal(state.position, whole.position)
    assert torch.equal(state.velocity, whole.velocity)
    assert torch.equal(state.internal, whole.internal)


def test_sorting_within_a_frame_changes_only_roundings(monkeypatch):
    # A frame longer than the sort period, forward and backward, against one that is never sorted.
    model, x, v = thrown_body(Material(ElasticLaw.FIXED_COROTATED))
    found = []
    for period in (64, 5):
        monkeypatch.setattr(native_engine, "SORT_PERIOD", period)
        young = torch.full((1, 1), 2e4, requires_grad=True)
        solver = MpmSolver(model, MpmParameters(young_pa=young), substeps=48, device="cpu")
        speed = torch.tensor(v).float().requires_grad_()
        made = solver.rollout(
            solver.initial_state(torch.tensor(x), speed), torch.zeros(1, 2, 0, 3), 0.03
        )
        weight = torch.linspace(-1.0, 1.0, made.position[0, 1].numel()).view(-1, 3)
        grads = torch.autograd.grad((made.position[0, 1] * weight).sum(), [young, speed])
        found.append((made.position.detach(), *grads))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=0.0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=0.0)
    torch.testing.assert_close(found[0][2], found[1][2], rtol=0.0, atol=2e-5)


def test_grids_that_are_made_again_give_the_same_gradient(monkeypatch):
    model, x, v = thrown_body(Material(ElasticLaw.HENCKY))
    found = []
    for room in (native_engine.KEPT_GRID_BYTES, 0):
        monkeypatch.setattr(native_engine, "KEPT_GRID_BYTES", room)
        speed = torch.tensor(v).float().requires_grad_()
        solver = MpmSolver(model, parameters(VALUES), substeps=20, device="cpu", engine="native")
        state = solver.initial_state(torch.tensor(x), speed)
        made = solver.rollout(state, torch.zeros(1, 3, 0, 3), 0.01)
        found.append(torch.autograd.grad((made.position**2).sum(), speed)[0])
    assert torch.equal(found[0], found[1])
    assert found[0].abs().max() > 0.0


def test_a_body_that_spreads_gets_a_larger_grid():
    # Two halves fly apart: the window grows beyond the room that the start asked for.
    model, x, _ = thrown_body(Material(), colliders=())
    v = np.sign(x[:, :1] + 1e-9) * np.array([30.0, 10.0, 5.0])
    x = x + np.sign(x[:, :1] + 1e-9) * np.array([0.05, 0.0, 0.0])
    track = np.zeros((3, 0, 3))
    solver = MpmSolver(model, parameters(VALUES), substeps=40, device="cpu", engine="native")
    made = solver.rollout(
        solver.initial_state(torch.tensor(x), torch.tensor(v)), torch.zeros(1, 3, 0, 3), 0.02
    )
    assert made.position[0, -1, :, 0].max() - made.position[0, -1, :, 0].min() > 2.0
    want_x, _, _ = reference_rollout(model, VALUES, x, v, 40, 0.02, track)
    np.testing.assert_allclose(made.position[0], want_x, atol=3e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_blow_up_names_the_particle_and_the_setting(engine):
    model, x, v = thrown_body(Material(ElasticLaw.FIXED_COROTATED))
    solver = MpmSolver(
        model, parameters({**VALUES, "young_pa": 1e9}), substeps=3, device="cpu", engine=engine
    )
    state = solver.initial_state(torch.tensor(x), torch.tensor(v))
    with pytest.raises(BlowUpError, match=r"particle \d+ .*(.|\n)*substeps: 3 a frame") as caught:
        solver.rollout(state, torch.zeros(1, 4, 0, 3), 0.02)
    assert 0 <= caught.value.node < model.particle_count
    assert caught.value.world == 0
    assert 0 <= caught.value.substep < 9


@pytest.mark.parametrize("engine", ENGINES)
def test_the_automatic_step_is_stable_where_twice_the_limit_is_not(engine):
    model, x, v = thrown_body(Material())
    values = {**VALUES, "young_pa": 1e6}
    solver = MpmSolver(model, parameters(values), device="cpu", engine=engine)
    state = solver.initial_state(torch.tensor(x), torch.tensor(v))
    made = solver.rollout(state, torch.zeros(1, 5, 0, 3), 0.02)
    assert made.velocity.norm(dim=-1).max() < 4.0
    count = solver.plan(0.02, 4).substeps
    wild = MpmSolver(
        model, parameters(values), substeps=int(0.4 * count / 2.5), device="cpu", engine=engine
    )
    with pytest.raises(BlowUpError):
        wild.rollout(state, torch.zeros(1, 5, 0, 3), 0.02)


@pytest.mark.parametrize("engine", ENGINES)
def test_driven_particles_lift_the_body(engine):
    model, x, _ = thrown_body(Material(), driven=16, colliders=())
    frames, frame_s = 6, 0.02
    up = 0.5
    track = x[model.driven_index][None] + up * frame_s * np.arange(frames + 1)[:, None, None] * [
        0,
        0,
        1,
    ]
    solver = MpmSolver(model, parameters({**VALUES, "young_pa": 1e5}), device="cpu", engine=engine)
    made = solver.rollout(solver.initial_state(torch.tensor(x)), torch.tensor(track)[None], frame_s)
    held = made.position[0][:, solver.driven_index]
    np.testing.assert_allclose(held, track, atol=1e-6)
    free = np.setdiff1d(np.arange(len(x)), model.driven_index)
    rise = (made.position[0, -1] - made.position[0, 0])[free, 2].numpy()
    # It swings on the clamp: weight stretches it by rho g L^2 / 2E = 0.1 mm, the jerk by some
    # millimetres; nothing slips off.
    np.testing.assert_allclose(rise, up * frame_s * frames, atol=6e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_runaway_particles_are_named(engine):
    model, x, v = thrown_body(Material(), colliders=())
    x[11] += [4000.0, 4000.0, 0.0]
    solver = MpmSolver(model, parameters(VALUES), substeps=5, device="cpu", engine=engine)
    state = solver.initial_state(torch.tensor(x), torch.tensor(v))
    with pytest.raises(DataError, match="particle 11 is 4e"):
        solver.rollout(state, torch.zeros(1, 2, 0, 3), 0.005)


@pytest.mark.gpu
@pytest.mark.parametrize("material", MATERIALS, ids=name_of)
def test_cuda_follows_the_cpu(material):
    model, x, v = thrown_body(material, driven=4)
    track = torch.tensor(path(model, x, FRAMES, FRAME_S))[None]
    made = []
    for device in ("cpu", "cuda"):
        solver = MpmSolver(
            model, parameters(VALUES), substeps=SUBSTEPS, device=device, engine="plain"
        )
        state = solver.initial_state(torch.tensor(x), torch.tensor(v))
        made.append(solver.rollout(state, track, FRAME_S).position.cpu())
    torch.testing.assert_close(made[0], made[1], atol=3e-6, rtol=0.0)
