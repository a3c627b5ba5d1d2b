"""Gradients of the rod's rollout against finite differences of a float64 rod of other code."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from rod_cases import DT_S, case
from rod_reference import reference_rollout

from physgym.errors import BlowUpError, DataError
from physgym.sim.model import State
from physgym.sim.rod import RodSolver, gradient
from physgym.sim.rod.gradient import rod_initial_state, rod_rollout

# What identification fits, and what a planner moves.
PARAMETERS = (
    "rest_length_m",
    "linear_density_kg_per_m",
    "bending_stiffness_nm2",
    "natural_curvature_rad",
    "twist_stiffness_nm2",
    "bending_damping_s",
    "friction_ratio",
    "friction_yield_rad",
    "drag_per_s",
    "drag_quadratic_per_m",
    "stretch_stiffness_n",
    "stretch_damping_s",
    "end_roll_rad",
    "clamp_tangent",
    "clamp_director",
)
Inputs = dict[str, torch.Tensor]
# Nodes, driven nodes, tolerance over the largest entry. The adjoint is float32 and divides by the
# substep (1 ms) where damping acts: 4e-4 was seen. Without a clamp it divides by the small
# resistance to being rolled as a whole besides: 6e-3.
CASES = [
    (5, (0, 1, 3, 4), 1e-3),
    (5, (0, 1), 1e-3),
    (5, (3, 4), 1e-3),
    (4, (0,), 1e-2),
]


def _inputs(solver: RodSolver, state: State, driven: torch.Tensor) -> Inputs:
    given = {n: torch.tensor(np.array(v[0])) for n, v in solver.parameters.to_mapping().items()}
    start = {"position": state.position[0], "velocity": state.velocity[0], "driven": driven[0]}
    return given | {name: tensor.double() for name, tensor in start.items()}


def _reference(solver: RodSolver, inputs: Inputs) -> torch.Tensor:
    """Positions (B, T, N, 3) in float64; inputs have a world axis."""
    nodes, worlds = solver.node_count, len(inputs["position"])
    wide = RodSolver(solver.model, solver.parameters.__class__(**{
        n: v[0] for n, v in solver.parameters.to_mapping().items()}), worlds=worlds)  # fmt: skip
    given = {name: inputs[name] for name in PARAMETERS}
    state = rod_initial_state(wide, inputs["position"], inputs["velocity"], given)
    sizes = [3 * (nodes - 1), 3 * (nodes - 1), 6 * nodes]
    directors, tangents, memory = state.internal.split(sizes, 1)
    parts = [
        state.position,
        state.velocity,
        directors.reshape(worlds, -1, 3),
        tangents.reshape(worlds, -1, 3),
        memory.reshape(worlds, nodes, 6),
    ]
    substeps = solver.substeps(DT_S)
    return reference_rollout(solver.model, given, parts, inputs["driven"], substeps, DT_S)


def _differences(loss: Callable[[Inputs], torch.Tensor], inputs: Inputs, name: str) -> torch.Tensor:
    """Central differences for every number of one input, all of them worlds of one batch."""
    value = inputs[name]
    count = value.numel()
    # The truncation is of order step^2 of the value, the rounding of order 1e-16 / step.
    step = 1e-6 * max(float(value.abs().max()), 1e-3)
    bumps = step * torch.eye(count, dtype=torch.float64).reshape(count, *value.shape)
    worlds = {
        key: tensor.expand(2 * count, *tensor.shape).clone() for key, tensor in inputs.items()
    }
    worlds[name][:count] += bumps
    worlds[name][count:] -= bumps
    up, down = loss(worlds).split(count)
    return ((up - down) / (2.0 * step)).reshape(value.shape)


def _adjoint(solver: RodSolver, inputs: Inputs, weight: torch.Tensor, *, native: bool) -> Inputs:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    given = {name: leaves[name] for name in PARAMETERS}
    start = rod_initial_state(solver, leaves["position"][None], leaves["velocity"][None], given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "uses_native", lambda device: native)
        positions = rod_rollout(solver, start, leaves["driven"][None], given, DT_S)
        (positions[0] * weight).sum().backward()
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


class Sides(NamedTuple):
    """Adjoints of one random loss by input, central differences, the tolerance."""

    native: Inputs
    plain: Inputs
    differences: Inputs
    room: float


@pytest.fixture(scope="module", params=CASES, ids=["both", "first", "last", "pin"])
def sides(request: pytest.FixtureRequest) -> Sides:
    nodes, held, room = request.param
    slip = np.array(0.004)  # some nodes stick and some slip
    solver, state, driven = case(nodes, held, worlds=1, frames=3, friction_yield_rad=slip)
    inputs = _inputs(solver, state, driven)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn((driven.shape[1], nodes, 3), generator=generator).double()

    def loss(worlds: Inputs) -> torch.Tensor:
        return (_reference(solver, worlds) * weight).sum((1, 2, 3))

    return Sides(
        _adjoint(solver, inputs, weight, native=True),
        _adjoint(solver, inputs, weight, native=False),
        {name: _differences(loss, inputs, name) for name in inputs},
        room,
    )


@pytest.mark.parametrize("engine", ["native", "plain"])
@pytest.mark.parametrize("name", [*PARAMETERS[:-2], "position", "velocity", "driven"])
def test_adjoint_equals_finite_differences(sides: Sides, name: str, engine: str) -> None:
    adjoint, differences = getattr(sides, engine)[name], sides.differences[name]
    scale = differences.abs().max()
    assert (adjoint - differences).abs().max() <= sides.room * scale + 1e-9
    if name != "end_roll_rad":  # shows only where the last end is clamped
        assert scale > 0.0


@pytest.mark.parametrize("engine", ["native", "plain"])
def test_adjoint_of_turning_a_clamp(sides: Sides, engine: str) -> None:
    """Tangent and director are unit and perpendicular, so only turns of both mean anything."""
    adjoint, differences = (
        torch.stack([torch.linalg.cross(CLAMP[n], side[n]) for n in CLAMP]).sum(0)
        for side in (getattr(sides, engine), sides.differences)
    )
    assert (adjoint - differences).abs().max() <= sides.room * differences.abs().max() + 1e-9


@pytest.mark.parametrize("held", [(0, 1, 5, 6), (0, 1), (5, 6), (2,), ()])
def test_native_adjoint_equals_warps(held: tuple[int, ...]) -> None:
    """All inputs of 20 worlds (a vector and a part of one), the internal state included."""
    made = []
    for native in (True, False):
        solver, state, driven = case(7, held, worlds=20, frames=6)
        leaves = [
            t.clone().requires_grad_()
            for t in (state.position, state.velocity, state.internal, driven)
        ]
        given = {
            name: torch.tensor(np.array(value)).requires_grad_()
            for name, value in solver.parameters.to_mapping().items()
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gradient, "uses_native", lambda device, native=native: native)
            positions = rod_rollout(solver, State(*leaves[:3]), leaves[3], given, DT_S)
            generator = torch.Generator().manual_seed(1)
            (positions * torch.randn(positions.shape, generator=generator)).sum().backward()
        made.append({str(k): t.grad for k, t in enumerate(leaves)})
        made[-1] |= {name: tensor.grad for name, tensor in given.items()}
    for name, one in made[0].items():
        other = made[1][name]
        if other.numel():
            # The same derivative of the same float32 steps, rounded in another order.
            assert (one - other).abs().max() <= 2e-3 * other.abs().max() + 1e-9, name


CLAMP = {
    "clamp_tangent": torch.tensor([[1.0, 0.0, 0.0]] * 2, dtype=torch.float64),
    "clamp_director": torch.tensor([[0.0, 0.0, 1.0]] * 2, dtype=torch.float64),
}


@pytest.mark.parametrize("held", [(0, 1, 5, 6), (0, 1), (5, 6), (2,), ()])
def test_initial_state_is_the_solvers(held: tuple[int, ...]) -> None:
    solver, state, _ = case(7, held)
    made = rod_initial_state(solver, state.position, state.velocity)
    # float32 against float64, both of unit vectors.
    assert (made.internal - state.internal).abs().max() < 2e-6


def _gradient(threads: int, world: int | None) -> list[torch.Tensor]:
    solver, state, driven = case(6, (0, 1, 5), worlds=40, threads=threads)
    if world is not None:
        alone, _, _ = case(6, (0, 1, 5), worlds=1)
        solver, state, driven = alone, state.select([world]), driven[[world]]
    leaves = [t.clone().requires_grad_() for t in (state.position, state.velocity, state.internal)]
    path = driven.clone().requires_grad_()
    stiffness = torch.tensor(solver.parameters.bending_stiffness_nm2.copy()).requires_grad_()
    given = {"bending_stiffness_nm2": stiffness}
    rod_rollout(solver, State(*leaves), path, given, DT_S).square().sum().backward()
    return [t.grad for t in (*leaves, path, stiffness) if t.grad is not None]


def test_gradient_is_the_same_bits_on_any_number_of_threads_and_alone() -> None:
    one, two, alone = _gradient(1, None), _gradient(2, None), _gradient(1, 33)
    assert len(one) == 5
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(a[33:34], b) for a, b in zip(one, alone, strict=True))


def test_shared_parameter_sums_over_worlds() -> None:
    solver, state, driven = case(6, (0, 1), worlds=3)
    shared = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
    each = torch.full((3,), 0.02, dtype=torch.float64, requires_grad=True)
    for tensor in (shared, each):
        rod_rollout(solver, state, driven, {"bending_damping_s": tensor}, DT_S).sum().backward()
    assert shared.grad is not None
    assert each.grad is not None
    torch.testing.assert_close(shared.grad, each.grad.sum())


def test_descent_finds_the_stiffness_that_made_a_motion() -> None:
    """The use of it: start 40 % off, follow the gradient of the squared error."""
    solver, state, driven = case(7, (0, 1, 5, 6), worlds=1, frames=30)
    target = solver.rollout(state, driven, DT_S).position
    truth = torch.tensor(solver.parameters.bending_stiffness_nm2[0])
    log = torch.full((), 0.34, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([log], lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.93)
    for _ in range(50):
        optimiser.zero_grad()
        given = {"bending_stiffness_nm2": truth * torch.exp(log)}
        loss = (rod_rollout(solver, state, driven, given, DT_S) - target).square().mean()
        loss.backward()
        optimiser.step()
        schedule.step()
    assert abs(float(log.detach())) < 0.02  # the last steps are 0.1 * 0.93^50 = 0.003 long


def test_no_driven_node_and_no_frame() -> None:
    solver, state, driven = case(5, (), worlds=2)
    start = State(state.position.clone().requires_grad_(), state.velocity, state.internal)
    rod_rollout(solver, start, driven, {}, DT_S).sum().backward()
    # Nothing outside holds it: moving the start moves every one of the frames along.
    assert start.position.grad is not None
    total = start.position.grad.sum(1)
    expected = torch.full_like(total, 5.0 * driven.shape[1])
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=0.0)  # float32 sums of forces
    only_start = rod_rollout(solver, state, driven[:, :1], {}, DT_S)
    assert torch.equal(only_start[:, 0], state.position)


def test_errors_say_what_to_change() -> None:
    solver, state, driven = case(5, (0, 1))
    with pytest.raises(DataError, match="stiffness"):
        rod_rollout(solver, state, driven, {"stiffness": torch.tensor(1.0)}, DT_S)
    with pytest.raises(DataError, match="twist_stiffness_nm2 has shape"):
        rod_rollout(solver, state, driven, {"twist_stiffness_nm2": torch.ones(2)}, DT_S)
    with pytest.raises(DataError, match="driven points"):
        rod_rollout(solver, state, driven[:, :, :1], {}, DT_S)
    # Quadratic drag is implicit and would bound the velocities.
    stiff = {"stretch_stiffness_n": torch.tensor(1e7), "drag_quadratic_per_m": torch.tensor(0.0)}
    with pytest.raises(BlowUpError, match="substeps_per_frame") as caught:
        rod_rollout(solver, state, driven, stiff, DT_S)
    assert caught.value.world == 0


@pytest.mark.gpu
def test_cuda_gradient_agrees_with_cpu() -> None:
    grads = []
    for device in ("cpu", "cuda"):
        solver, state, driven = case(6, (0, 1, 5), worlds=40, device=device)
        stiffness = torch.tensor(solver.parameters.bending_stiffness_nm2.copy()).requires_grad_()
        given = {"bending_stiffness_nm2": stiffness}
        rod_rollout(solver, state, driven, given, DT_S).square().sum().backward()
        assert stiffness.grad is not None
        grads.append(stiffness.grad)
    # float32 adjoints of about 50 substeps, contracted and ordered differently.
    assert (grads[0] - grads[1]).abs().max() < 1e-3 * grads[0].abs().max()
