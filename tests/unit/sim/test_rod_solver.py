"""The rod behind the Solver contract: bits, batches, forks, errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rod_cases import DT_S, case, parameters

from physgym.errors import BlowUpError, DataError
from physgym.sim.model import State
from physgym.sim.rod import RodModel, RodParameters, RodSolver
from physgym.sim.rod.stability import rod_step_limit
from physgym.sim.solver import Solver

CLAMPED = (0, 1, 5, 6)


def _equal(one: State, other: State) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("position", "velocity", "internal")
    )


def test_is_a_solver() -> None:
    solver, _, _ = case(7, CLAMPED)
    assert isinstance(solver, Solver)
    assert solver.driven_index.tolist() == list(CLAMPED)


def test_world_alone_is_the_same_bits_as_in_a_batch() -> None:
    rng = np.random.default_rng(0)
    many = parameters(7, bending_stiffness_nm2=1e-3 * rng.uniform(0.5, 1.5, (37, 5)))
    substeps = 20
    solver, state, driven = case(7, CLAMPED, worlds=37)
    solver = RodSolver(solver.model, many, worlds=37, device="cpu", substeps_per_frame=substeps)
    batch = solver.rollout(state, driven, DT_S)
    for world in (0, 15, 16, 36):
        one = replace(many, bending_stiffness_nm2=many.bending_stiffness_nm2[world])
        alone = RodSolver(solver.model, one, device="cpu", substeps_per_frame=substeps)
        made = alone.rollout(state.select([world]), driven[[world]], DT_S)
        assert torch.equal(made.position[0], batch.position[world])
        assert _equal(made.final, batch.final.select([world]))


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_number_of_threads_does_not_change_a_bit(threads: int) -> None:
    runs = []
    for count in (1, threads):
        solver, state, driven = case(7, CLAMPED, worlds=100, threads=count)
        runs.append(solver.rollout(state, driven, DT_S))
    assert torch.equal(runs[0].position, runs[1].position)
    assert _equal(runs[0].final, runs[1].final)


def test_steps_are_the_same_bits_as_a_rollout() -> None:
    solver, state, driven = case(7, CLAMPED, frames=6)
    whole = solver.rollout(state, driven, DT_S)
    now = state.clone()
    for frame in range(1, 6):
        solver.step(now, now, driven[:, frame], DT_S)  # in place
        assert torch.equal(now.position, whole.position[:, frame])
    assert _equal(now, whole.final)


def test_saved_and_forked_worlds_go_on_exactly() -> None:
    solver, state, driven = case(7, CLAMPED, frames=9)
    whole = solver.rollout(state, driven, DT_S)
    middle = solver.rollout(state, driven[:, :5], DT_S).final
    saved = middle.clone()
    rest = solver.rollout(middle, driven[:, 4:], DT_S)
    assert torch.equal(rest.position, whole.position[:, 4:])
    assert _equal(middle, saved)  # a rollout leaves its start alone
    assert _equal(rest.final, whole.final)
    fork = solver.rollout(saved.select([2, 2, 0]), driven[[2, 2, 0], 4:], DT_S)
    assert torch.equal(fork.position, whole.position[[2, 2, 0], 4:])


def test_driven_nodes_are_where_they_must_be() -> None:
    solver, state, driven = case(7, CLAMPED)
    positions = solver.rollout(state, driven, DT_S).position
    assert torch.equal(positions[:, 1:, list(CLAMPED)], driven[:, 1:])


def test_driven_path_that_does_not_start_at_the_state_is_taken_as_given() -> None:
    solver, state, driven = case(7, CLAMPED)
    moved = driven + torch.tensor([0.0, 0.0, 0.001])
    positions = solver.rollout(state, moved, DT_S).position
    assert torch.equal(positions[:, 0], state.position)
    assert torch.equal(positions[:, 1:, list(CLAMPED)], moved[:, 1:])


def test_blow_up_names_world_node_and_substep() -> None:
    # Two substeps where 20 are needed; without drag, which would bound the speed.
    solver, state, driven = case(
        7, (0, 1), worlds=20, frames=30, drag_quadratic_per_m=np.array(0.0)
    )
    stiff = np.full(20, 200.0)
    stiff[17] = 2e5
    solver = RodSolver(
        solver.model,
        replace(parameters(7, drag_quadratic_per_m=np.array(0.0)), stretch_stiffness_n=stiff),
        worlds=20,
        device="cpu",
        substeps_per_frame=20,
    )
    with pytest.raises(BlowUpError, match="substeps_per_frame") as caught:
        solver.rollout(state, driven, DT_S)
    error = caught.value
    assert error.world == 17
    assert 2 <= error.node < 7
    assert 0 < error.substep <= 29 * 20
    assert error.substep % 20 == 0
    unchecked = solver.rollout(state, driven, DT_S, check=False).position
    bad = ~torch.isfinite(unchecked).all(-1).all(-1).all(-1)
    assert bad.nonzero().flatten().tolist() == [17]  # the neighbours in its vector are unharmed
    frame = error.substep // 20
    assert torch.isfinite(unchecked[17, frame - 1]).all()
    assert not torch.isfinite(unchecked[17, frame, error.node]).all()


def test_blow_up_is_seen_where_drag_keeps_it_finite() -> None:
    solver, state, driven = case(7, (0, 1), worlds=1, frames=60)
    stiff = replace(parameters(7), stretch_stiffness_n=np.array(2e5))
    solver = RodSolver(solver.model, stiff, device="cpu", substeps_per_frame=20)
    torn = solver.rollout(state, driven, DT_S, check=False).position
    assert torch.isfinite(torn).all()  # quadratic drag bounds the speed
    with pytest.raises(BlowUpError, match="10 times its length") as caught:
        solver.rollout(state, driven, DT_S)
    edges = (torn[0, :, 1:] - torn[0, :, :-1]).norm(dim=-1)
    first = int((edges[1:] > 10.0 * stiff.rest_length_m.max()).any(-1).nonzero()[0]) + 1
    assert caught.value.substep <= 20 * first


@pytest.mark.parametrize("nodes", [5, 13])
def test_step_limit_is_where_the_rod_blows_up(nodes: int) -> None:
    """Just inside the limit a straight rod stays straight, just outside it flies apart."""
    spacing = 1.0 / (nodes - 1)
    straight = parameters(
        nodes,
        rest_length_m=np.full(nodes - 1, spacing),
        bending_stiffness_nm2=np.full(nodes - 2, 1e-3),
        natural_curvature_rad=np.zeros((nodes - 2, 2)),
        bending_damping_s=np.array(0.0),
        stretch_damping_s=np.array(0.0),
        friction_ratio=np.array(0.0),
        drag_per_s=np.array(0.0),
        drag_quadratic_per_m=np.array(0.0),
        end_roll_rad=np.array(0.0),
    )
    model = RodModel(nodes, (), gravity_m_per_s2=(0.0, 0.0, 0.0))
    limit = rod_step_limit(model, straight.broadcast(1, nodes)).dt_s
    x = torch.zeros(nodes, 3)
    x[:, 0] = torch.linspace(0.0, 1.0, nodes)
    rng = torch.Generator().manual_seed(0)
    x += 1e-6 * torch.randn(x.shape, generator=rng)
    error = []
    # Row sums bound the eigenvalue from above, at most 30 % too high for these few nodes.
    for factor in (0.99, 1.3):
        solver = RodSolver(model, straight, device="cpu", substeps_per_frame=1)
        driven = torch.zeros(1, 400, 0, 3)
        run = solver.rollout(solver.initial_state(x), driven, factor * limit, check=False)
        last = run.position[0, -1]
        moved = (last - x).abs().max() if torch.isfinite(last).all() else torch.tensor(torch.inf)
        error.append(float(moved))
    assert error[0] < 1e-4
    assert error[1] > 1e-2


def test_parameters_may_differ_between_worlds_and_change() -> None:
    solver, state, driven = case(7, CLAMPED, worlds=3)
    stiff = parameters(7, bending_stiffness_nm2=np.array([[1e-3] * 5, [2e-3] * 5, [4e-3] * 5]))
    solver.set_parameters(stiff)
    same = State(*(t[[0, 0, 0]] for t in (state.position, state.velocity, state.internal)))
    positions = solver.rollout(same, driven[[0, 0, 0]], DT_S).position
    assert (positions[0] - positions[1]).abs().max() > 1e-4
    assert (positions[1] - positions[2]).abs().max() > 1e-4


def test_parameters_survive_a_mapping() -> None:
    given = parameters(6)
    back = RodParameters.from_mapping(given.to_mapping())
    for name in RodParameters.names():
        assert np.array_equal(getattr(back, name), getattr(given, name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bending_stiffness_nm2": np.ones(3)}, "bending_stiffness_nm2 has shape"),
        ({"bending_stiffness_nm2": -np.ones(5)}, "bending_stiffness_nm2 is -1"),
        ({"twist_stiffness_nm2": np.array(0.0)}, "twist_stiffness_nm2 is 0"),
        ({"friction_ratio": np.array(-0.1)}, "friction_ratio"),
        ({"end_roll_rad": np.array(np.nan)}, "end_roll_rad"),
    ],
)
def test_bad_parameters_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        RodSolver(RodModel(7, CLAMPED), parameters(7, **change), device="cpu")


def test_bad_mapping_names_what_is_missing_and_unknown() -> None:
    values = parameters(6).to_mapping()
    values["colour"] = values.pop("drag_per_s")
    with pytest.raises(DataError, match=r"missing \['drag_per_s'\], unknown \['colour'\]"):
        RodParameters.from_mapping(values)


@pytest.mark.parametrize(
    ("nodes", "driven"), [(2, ()), (10**6, ()), (5, (0, 5)), (5, (1, 1)), (5, (-1,))]
)
def test_bad_models_are_refused(nodes: int, driven: tuple[int, ...]) -> None:
    with pytest.raises(DataError):
        RodModel(nodes, driven)


def test_bad_starts_and_drives_are_refused() -> None:
    solver, state, driven = case(7, CLAMPED)
    with pytest.raises(DataError, match="position of shape"):
        solver.initial_state(state.position[:, :-1])
    with pytest.raises(DataError, match="not finite"):
        solver.initial_state(state.position * torch.nan)
    twice = state.position.clone()
    twice[:, 3] = twice[:, 2]
    with pytest.raises(DataError, match="two neighbouring nodes"):
        solver.initial_state(twice)
    with pytest.raises(DataError, match="driven points of shape"):
        solver.rollout(state, driven[:, :, :2], DT_S)
    with pytest.raises(DataError, match="driven points of shape"):
        solver.rollout(state, driven[0], DT_S)
