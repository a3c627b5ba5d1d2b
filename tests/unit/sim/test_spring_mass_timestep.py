"""The stability limit: eigenvalues against dense ones, the limit against what blows up."""

import math

import numpy as np
import pytest
import torch

from physgym.errors import BlowUpError, DataError
from physgym.sim.spring_mass import (
    ForceLaw,
    SpringMassModel,
    SpringMassSolver,
    springs_from_points,
)
from physgym.sim.timestep import (
    StepLimit,
    gershgorin_bound,
    largest_eigenvalue,
    stable_step,
    substep_count,
)


def network(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.0, 0.1, (60, 3))
    edges = springs_from_points(x, radius_m=0.05, max_neighbours=8)
    inv_mass = rng.uniform(50.0, 200.0, 60)
    inv_mass[:3] = 0.0
    return x, edges, rng.uniform(100.0, 1000.0, len(edges)), inv_mass


def dense_largest(edges, slope, inv_mass):
    laplacian = np.zeros((len(inv_mass), len(inv_mass)))
    for (i, j), k in zip(edges, slope, strict=True):
        laplacian[[i, j], [i, j]] += k
        laplacian[i, j] -= k
        laplacian[j, i] -= k
    root = np.sqrt(inv_mass)
    return float(np.linalg.eigvalsh(root[:, None] * laplacian * root[None]).max())


@pytest.mark.parametrize("seed", range(4))
def test_largest_eigenvalue_brackets_the_true_one(seed):
    _, edges, slope, inv_mass = network(seed)
    exact = dense_largest(edges, slope, inv_mass)
    found = largest_eigenvalue(edges, slope, inv_mass)
    # Power iteration stops a few per cent low at worst; its margin is 5 %.
    assert exact <= found <= 1.06 * exact
    assert exact <= gershgorin_bound(edges, slope, inv_mass).max()


@pytest.mark.parametrize("damping", [0.0, 0.05, 1.0, 50.0])
def test_limit_is_where_a_single_mode_turns_unstable(damping):
    # One free node of 0.1 kg on one spring of 1000 N/m.
    edges, inv_mass = np.array([[0, 1]]), np.array([0.0, 10.0])
    limit = stable_step(edges, np.array([1000.0]), np.array([damping]), inv_mass)
    w2, c = limit.omega_rad_per_s**2, limit.damping_per_s
    assert w2 == pytest.approx(1000.0 * 10.0, rel=1e-9)  # Gershgorin is exact here
    for factor, stable in ((0.999, True), (1.001, False)):
        h = factor * limit.dt_s
        step = np.array([[1.0 - h * h * w2, h - h * h * c], [-h * w2, 1.0 - h * c]])
        assert (np.abs(np.linalg.eigvals(step)).max() <= 1.0 + 1e-9) == stable


@pytest.mark.parametrize("dashpot", [0.0, 1.0])
def test_network_is_stable_below_the_limit_and_not_far_above(dashpot):
    x, edges, _, _ = network()
    model = SpringMassModel(x, edges, law=ForceLaw.HOOKE, gravity_m_per_s2=(0.0, 0.0, 0.0))
    parameters = model.default_parameters(stiffness=500.0, mass_kg=0.6, dashpot_ns_per_m=dashpot)
    limit = stable_step(
        edges, np.full(len(edges), 500.0), np.full(len(edges), dashpot), np.full(60, 100.0)
    )
    frame = 2000 * limit.dt_s
    # The bound holds for any directions, so the network itself turns unstable somewhat above it.
    for factor, stable in ((0.95, True), (2.5, False)):
        solver = SpringMassSolver(
            model, parameters, substeps=math.ceil(2000 / factor), device="cpu"
        )
        state = solver.initial_state(torch.tensor(x * (1.0 + 1e-3)))
        driven = torch.zeros(1, 2, 0, 3)
        if stable:
            end = solver.rollout(state, driven, frame).position
            assert float((end - state.position[:, None]).abs().max()) < 1e-2
        else:
            with pytest.raises(BlowUpError):
                solver.rollout(state, driven, frame)


def test_counts():
    assert substep_count(0.03, StepLimit(0.01, 1.0, 0.0, 0), safety=1.0) == 3
    assert substep_count(0.03, StepLimit(0.01, 1.0, 0.0, 0), safety=0.5) == 6
    assert substep_count(0.03, StepLimit(math.inf, 0.0, 0.0, 0)) == 1
    assert stable_step(np.zeros((0, 2), int), np.zeros(0), np.zeros(0), np.ones(3)).dt_s == math.inf
    with pytest.raises(DataError, match="safety"):
        substep_count(0.03, StepLimit(0.01, 1.0, 0.0, 0), safety=1.5)
    with pytest.raises(DataError, match="frame"):
        substep_count(-1.0, StepLimit(0.01, 1.0, 0.0, 0))
