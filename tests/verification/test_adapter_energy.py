"""The energy report, how cheap modes come close to the full one, and the black box."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from adapter_scenes import CONFIGS, adapter_of, deformations, rotation
from mpm_scenes import parameters

from physgym.errors import DataError
from physgym.sim.mpm import ElasticLaw, Material, MpmModel, MpmSolver, fill_box
from physgym.sim.mpm.adapted_solver import AdaptedMpmSolver
from physgym.sim.mpm.adapter_energy import skew_operator
from physgym.sim.mpm.black_box import BlackBoxConfig, BlackBoxStress
from physgym.sim.mpm.directional import effective_modulus, fibonacci_directions

CASCADE, SHARED = CONFIGS["cascade"], CONFIGS["shared"]
VALUES = {"young_pa": 2e4, "poisson_ratio": 0.3, "density_kg_per_m3": 1000.0}
STRETCH = torch.tensor([[1.08, 0.06, 0.0], [0.0, 0.95, 0.0], [0.0, 0.0, 1.0]])


def floating(frames, *, gravity=0.0, stretch=STRETCH, span_s=0.03):
    """A cube that starts stretched in free space: solver, state, driven points, frame length."""
    x, volume = fill_box((-0.06, -0.06, -0.06), (0.06, 0.06, 0.06), 0.02)
    model = MpmModel(
        x, volume, 0.04, Material(ElasticLaw.HENCKY), gravity_m_per_s2=(0.0, 0.0, gravity)
    )
    prior = MpmSolver(model, parameters(VALUES), device="cpu", threads=1, substeps=240 // frames)
    start = torch.tensor(x, dtype=torch.float32) @ stretch.T
    state = prior.initial_state(start, None, stretch.expand(len(x), 3, 3))
    return prior, state, torch.zeros(1, frames + 1, 0, 3), span_s / frames


def report(adapter, frames=40, **more):
    prior, state, driven, dt_s = floating(frames, **more)
    solver = AdaptedMpmSolver(prior, adapter)
    with torch.no_grad():
        return solver.energy_report(solver.rollout(state, driven, dt_s), dt_s)


def test_an_untrained_adapter_does_no_work():
    found = report(adapter_of(CASCADE))
    assert (found.adapter_work_j == 0.0).all()
    # The two halves of the skew part cancel to float32 round-off.
    assert found.skew_work_j.abs().max() < 1e-6 * found.elastic_j[0, 0]


def test_falling_matter_keeps_its_energy():
    found = report(adapter_of(SHARED, size=0.5), gravity=-9.81, stretch=torch.eye(3), span_s=0.1)
    mass = 1000.0 * 0.12**3
    fallen = 0.5 * mass * (9.81 * 0.1) ** 2
    # An explicit step of 0.4 ms in 0.1 s is wrong by their ratio.
    assert float(found.kinetic_j[0, -1]) == pytest.approx(fallen, rel=0.01)
    assert (found.total_j - found.total_j[:, :1]).abs().max() < 0.01 * fallen


def test_the_adapter_s_work_balances_the_energy():
    # What the transfer of MLS-MPM loses is about the same with and without an adapter; what is
    # left is the adapter's work.
    plain, adapted = report(adapter_of(CASCADE)), report(adapter_of(CASCADE, size=0.5))
    gained = adapted.total_j - adapted.total_j[:, :1]
    lost = plain.total_j - plain.total_j[:, :1]
    work = float(adapted.adapter_work_j[0].abs().max())
    gap = (gained + adapted.adapter_work_j - lost)[0].abs().max()
    assert gap < 0.3 * work
    assert (gained - lost)[0].abs().max() > 0.7 * work
    # A twentieth of the stored energy: enough to see.
    assert work > 0.05 * float(adapted.elastic_j[0, 0])


def stiffness(lam_over_mu):
    c = 2.0 * np.eye(6)
    c[:3, :3] += lam_over_mu
    return c  # on tensor strains, over mu


def test_only_the_skew_part_works_round_a_closed_loop_of_strain():
    rng, ratio = np.random.default_rng(0), 1.5
    k = np.eye(6) + rng.normal(0.0, 0.1, (6, 6))
    skew = skew_operator(torch.tensor(k), torch.tensor(ratio, dtype=torch.float64)).numpy()
    weight = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    angle = np.linspace(0.0, 2.0 * np.pi, 721)
    first, second = rng.normal(size=(2, 6))
    strain = np.outer(np.cos(angle), first) + np.outer(np.sin(angle), second)
    stress = strain @ stiffness(ratio).T

    def work(operator):
        power = stress @ operator.T
        return ((0.5 * (power[1:] + power[:-1])) * np.diff(strain, axis=0) @ weight).sum()

    # The trapezoidal rule is exact for the symmetric part and the same for both.
    assert work(skew) == pytest.approx(work(k), rel=1e-9)
    assert abs(work(k)) > 0.1
    assert abs(work(k - skew)) < 1e-9


def test_an_orthotropic_operator_with_an_energy_has_no_skew_part():
    rng, ratio = np.random.default_rng(1), 1.5
    some = rng.normal(size=(6, 6))
    weight = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    # Stress from tensor strains: work counts shears twice, so columns carry the weight.
    energetic = (some + some.T) * weight
    k = energetic @ np.linalg.inv(stiffness(ratio))
    skew = skew_operator(torch.tensor(k), torch.tensor(ratio, dtype=torch.float64)).numpy()
    assert np.abs(skew).max() < 1e-12 * np.abs(k).max() * 10.0


@pytest.mark.parametrize("base", [CASCADE, SHARED], ids=["cascade", "shared"])
def test_cheap_modes_come_close_to_the_full_one(base):
    prior, state, driven, dt_s = floating(10)

    def run(config):
        with torch.no_grad():
            solver = AdaptedMpmSolver(prior, adapter_of(config, size=0.5))
            return solver.rollout(state, driven, dt_s).position

    full = run(replace(base, evaluations_per_frame=None))
    with torch.no_grad():
        changes = (full - prior.rollout(state, driven, dt_s).position).norm(dim=-1).max()
    error = [
        float((run(replace(base, evaluations_per_frame=k)) - full).norm(dim=-1).max())
        for k in (1, 2, 4, 8)
    ]
    # First order in the length of a part, down to float32; the operator lags half a part behind.
    assert error[0] < 0.1 * changes
    for coarse, fine in pairwise(error):
        assert fine < 0.7 * coarse
    grouped = run(replace(base, evaluations_per_frame=8, clusters=27)) - full
    # 216 particles in 27 groups: strain varies within a group, but little.
    assert grouped.norm(dim=-1).max() < 0.05 * changes


def test_the_black_box_is_frame_indifferent_and_ignores_the_law():
    box = BlackBoxStress(BlackBoxConfig(), stress_scale_pa=2e4, seed=0).double()
    f, s = deformations(20, 0), rotation(3)
    made = box.stress(f, torch.zeros_like(f))
    assert torch.equal(box.stress(f, torch.ones_like(f)), made)
    assert (box.stress(s @ f, f) - s @ made @ s.T).abs().max() < 1e-12 * made.abs().max()
    assert (made - made.mT).abs().max() < 1e-12 * made.abs().max()


def test_the_black_box_learns_a_law_and_runs_as_a_hook():
    box = BlackBoxStress(BlackBoxConfig(), stress_scale_pa=2e4, seed=0)
    error = box.imitate(ElasticLaw.HENCKY, young_pa=2e4, poisson_ratio=0.3, strain=0.1, steps=600)
    assert error < 0.1
    double = BlackBoxStress.from_arrays(box.to_arrays()).double()
    found = effective_modulus(lambda f: double.stress(f, f), fibonacci_directions(10))
    # As good as the fit, at the strain 0 that is no more than one of the shown ones.
    assert found == pytest.approx(np.full(10, 2e4), rel=0.3)
    prior, state, driven, dt_s = floating(10)
    solver = MpmSolver(prior.model, prior.parameters, substeps=24, device="cpu", hook=box.hook())
    weight = box.head.weight
    made = solver.rollout(state, driven, dt_s).position
    # The stretched cube springs back nearly as with the law.
    truth = prior.rollout(state, driven, dt_s).position
    assert (made - truth).norm(dim=-1).max() < 0.3 * (truth - truth[:, :1]).norm(dim=-1).max()
    made.square().sum().backward()
    assert weight.grad.norm() > 0.0


def test_damaged_black_boxes_are_refused():
    arrays = BlackBoxStress(BlackBoxConfig(hidden=8), stress_scale_pa=2e4, seed=0).to_arrays()
    with pytest.raises(DataError, match=r"black_box\.head\.bias"):
        BlackBoxStress.from_arrays({**arrays, "black_box.head.bias": np.zeros(5)})
    with pytest.raises(DataError, match="stress_scale_pa"):
        BlackBoxStress(BlackBoxConfig(), stress_scale_pa=0.0, seed=0)
    with pytest.raises(DataError, match="hidden"):
        BlackBoxConfig(hidden=0)
