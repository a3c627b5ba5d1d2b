"""Kelvin-Voigt solids against mechanics: decay of a swinging bar, rigid motions, momentum, energy.

Gradients and agreement of the engines with the float64 reference: `test_mpm_gradients` and
`test_mpm_engines`, whose scenes have a viscosity.
"""

import numpy as np
import pytest
import torch
from mpm_reference import reference_rollout
from mpm_scenes import MATERIALS, VALUES, name_of, parameters, thrown_body

from physgym.errors import BlowUpError
from physgym.sim.mpm import (
    AdaptedMpmSolver,
    AdapterConfig,
    ElasticLaw,
    Material,
    MpmModel,
    MpmParameters,
    MpmSolver,
    ReturnMap,
    StressAdapter,
    fill_box,
)
from physgym.sim.mpm.elastic_torch import elastic_stress, strain_energy, viscous_stress
from physgym.sim.mpm.model import is_damped
from physgym.sim.mpm.stability import step_limit

ENGINES = ("plain", "native")
SOLIDS = [m for m in MATERIALS if m.damped]
ELASTIC = [Material(law) for law in ElasticLaw if law is not ElasticLaw.FLUID]
NO_GRAVITY = (0.0, 0.0, 0.0)
YOUNG, NU, DENSITY = 5e4, 0.3, 1000.0
LENGTH, WIDTH, H = 0.24, 0.04, 0.01


def bar(material=None):
    x, volume = fill_box((-LENGTH / 2, -WIDTH / 2, -WIDTH / 2), (LENGTH / 2, WIDTH / 2, WIDTH / 2),
                         H / 2)  # fmt: skip
    return MpmModel(x, volume, H, material or Material(), gravity_m_per_s2=NO_GRAVITY)


def amplitude(eta, frames=60, frame_s=2e-3):
    """Velocity of the bar's slowest longitudinal mode over time [m/s]."""
    model = bar()
    x = np.asarray(model.rest_position)
    shape = np.sin(np.pi * x[:, 0] / LENGTH)
    velocity = np.zeros_like(x)
    velocity[:, 0] = 0.05 * shape  # strains of a per cent: linear
    given = MpmParameters.of(
        young_pa=YOUNG, poisson_ratio=NU, density_kg_per_m3=DENSITY, viscosity_pa_s=eta
    )
    solver = MpmSolver(model, given, substeps=8, device="cpu")
    state = solver.initial_state(velocity=torch.tensor(velocity))
    with torch.no_grad():
        made = solver.rollout(state, torch.zeros(1, frames + 1, 0, 3), frame_s)
    return (made.velocity[0, :, :, 0].double().numpy() * shape).sum(1) / (shape**2).sum(), frame_s


def decay(eta):
    """Rate [1/s] and angular frequency [rad/s] of a decaying cosine that fits best."""
    from scipy.optimize import curve_fit

    found, frame_s = amplitude(eta)
    time = frame_s * np.arange(len(found))
    guess = (found[0], 2.0, np.pi / LENGTH * np.sqrt(YOUNG / DENSITY))
    best, _ = curve_fit(lambda t, a, r, w: a * np.exp(-r * t) * np.cos(w * t), time, found, guess)
    return best[1], best[2]


def test_a_swinging_bar_decays_as_a_kelvin_voigt_solid():
    eta = 10.0
    own, _ = decay(0.0)
    rate, omega = decay(eta)
    k = np.pi / LENGTH
    # Free sides: the rate of stretching is e diag(1, -nu, -nu), which takes 2 eta (1 + 2 nu^2) e^2.
    want = 2.0 * eta * (1.0 + 2.0 * NU**2) * k**2 / (2.0 * DENSITY)
    # The transfers' own decay is subtracted, which is 0.07 per second here. Thickness makes the
    # wave slower by (nu pi b / L)^2 / 12 = 0.2 %; ends and sides are half a cell of 24 and of 4.
    assert rate - own == pytest.approx(want, rel=0.05)
    assert omega == pytest.approx(k * np.sqrt(YOUNG / DENSITY), rel=0.04)
    assert 0.0 < own < 0.1 * want


@pytest.mark.parametrize("material", ELASTIC, ids=name_of)
@pytest.mark.parametrize("engine", ENGINES)
def test_viscous_stress_of_a_lone_particle(engine, material):
    rate = np.array([[0.0, 30.0, 0.0], [-10.0, 5.0, 0.0], [0.0, 0.0, -20.0]])
    f = np.diag([1.2, 0.9, 1.1])
    volume, dt, h = 1e-6, 1e-5, 0.1
    model = MpmModel(np.full((1, 3), 0.03), volume, h, material, gravity_m_per_s2=NO_GRAVITY)
    got = []
    for eta in (0.0, 40.0):
        given = MpmParameters.of(young_pa=1e4, viscosity_pa_s=eta)
        solver = MpmSolver(model, given, substeps=1, device="cpu", engine=engine)
        state = solver.initial_state(deformation=torch.tensor(f[None]))
        state.internal[0, 9:] = torch.tensor(rate.ravel())
        made = solver.rollout(state, torch.zeros(1, 2, 0, 3), dt).internal[0, 1, 0, 9:]
        got.append(-made.double().numpy().reshape(3, 3) * h**2 * DENSITY / (4.0 * dt))
    want = 40.0 * np.linalg.det(f) * (rate + rate.T)
    # J grows by 5e-5 in the step; C is rounded to 2e-6 of 30 where the stress adds 3e-3.
    np.testing.assert_allclose(got[1] - got[0], want, atol=5e-3 * np.abs(want).max())
    there = viscous_stress(torch.tensor(f), torch.tensor(rate), torch.tensor(40.0).double())
    np.testing.assert_allclose(there, want, rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_rigid_motion_costs_nothing(engine):
    model = bar()
    x = np.asarray(model.rest_position)
    spin = np.array([0.3, -0.4, 0.5])
    velocity = np.cross(spin, x) + np.array([0.05, -0.03, 0.02])
    gradient = np.array([[0, -spin[2], spin[1]], [spin[2], 0, -spin[0]], [-spin[1], spin[0], 0.0]])
    ends = []
    for eta in (0.0, 50.0):
        given = MpmParameters.of(young_pa=YOUNG, viscosity_pa_s=eta)
        solver = MpmSolver(model, given, substeps=20, device="cpu", engine=engine)
        state = solver.initial_state(velocity=torch.tensor(velocity))
        state.internal.unflatten(1, (len(x), 18))[..., 9:] = torch.tensor(gradient).reshape(9)
        with torch.no_grad():
            made = solver.rollout(state, torch.zeros(1, 5, 0, 3), 4e-3)
        ends.append(0.5 * made.velocity[0].double().square().sum((1, 2)))
    before = ends[1][0]
    # Centrifugal forces stretch by 1e-4, which takes 2e-6 of the energy (the fourth power of the
    # spin over the second); the rest is rounding. A viscosity that saw the spin would stop it.
    assert abs(float(ends[1][-1] - ends[0][-1])) < 2e-5 * float(before)
    assert float(ends[1][-1]) == pytest.approx(float(before), rel=5e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_momentum_is_kept_and_energy_falls(engine):
    model = bar()
    x = np.asarray(model.rest_position)
    drift = np.array([0.4, 0.1, -0.2])
    velocity = 3.0 * np.stack([x[:, 0], -x[:, 1], 0.0 * x[:, 0]], 1) + drift
    given = MpmParameters.of(young_pa=YOUNG, poisson_ratio=NU, viscosity_pa_s=20.0)
    substeps, frame_s = 10, 2e-3
    solver = MpmSolver(model, given, substeps=substeps, device="cpu", engine=engine)
    state = solver.initial_state(velocity=torch.tensor(velocity))
    with torch.no_grad():
        made = solver.rollout(state, torch.zeros(1, 13, 0, 3), frame_s)
    v = made.velocity[0].double()
    momentum = v.sum(1)
    # float32 sums of some thousand particles over 120 substeps
    np.testing.assert_allclose(
        momentum, momentum[:1].expand(13, 3), atol=2e-5 * float(v.abs().sum(1).max())
    )
    c = given.coefficients(model)
    affine = made.internal[0, :, :, 9:].double()
    kinetic = 0.5 * (v.square().sum(-1) + 0.25 * H**2 * affine.square().sum(-1))
    f, mu, lam = made.deformation[0].double(), c.mu.double(), c.lam.double()
    stored = strain_energy(Material().law, f, mu, lam)
    # Symplectic Euler keeps an energy that differs by half a step's work (its shadow).
    power = (elastic_stress(Material().law, f, mu, lam).flatten(-2) * affine).sum(-1)
    stored = stored + 0.5 * frame_s / substeps * power
    swing = kinetic - 0.5 * float(drift @ drift)
    energy = (DENSITY * swing + stored)[1:].sum(1)  # C is built in the first substep
    assert (energy.diff() < 0.0).all()
    assert float(energy[-1]) < 0.9 * float(energy[0])


def states_of(made):
    return torch.cat([made.position, made.velocity, made.internal], dim=-1)


def rolled(engine, given, worlds=1, material=None, **options):
    model, x, v = thrown_body(material or Material())
    solver = MpmSolver(
        model, given, worlds=worlds, substeps=12, device="cpu", engine=engine, **options
    )
    state = solver.initial_state(torch.tensor(x), torch.tensor(v))
    return solver.rollout(state, torch.zeros(worlds, 3, 0, 3), 0.012)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_is_its_worlds_whether_damped_or_not(engine):
    eta = torch.tensor([[0.0], [1.0], [5.0]])
    given = MpmParameters.of(young_pa=2e4)
    batch = states_of(rolled(engine, given.replace(viscosity_pa_s=eta), 3))
    for b in range(3):
        alone = states_of(rolled(engine, given.replace(viscosity_pa_s=eta[b : b + 1])))
        # The world without viscosity runs other code when it is alone: the same bits all the same.
        assert torch.equal(batch[b], alone[0])
    assert not torch.equal(batch[0], batch[1])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_viscosity_of_nothing_has_a_gradient_where_it_is_asked_for(engine):
    def loss(eta):
        given = MpmParameters.of(young_pa=2e4).replace(viscosity_pa_s=eta)
        made = rolled(engine, given)
        weight = torch.linspace(-1.0, 1.0, made.velocity[0, -1].numel()).view(-1, 3)
        return (made.velocity[0, -1] * weight).sum()

    eta = torch.zeros(1, 1, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(eta), eta)
    model, x, v = thrown_body(Material())

    def reference(value):
        track = np.zeros((3, 0, 3))
        values = {**VALUES, "young_pa": 2e4, "viscosity_pa_s": value, "friction": 0.5}
        made = reference_rollout(model, values, x, v, 12, 0.012, track)
        return (made[1][-1] * np.linspace(-1.0, 1.0, made[1][-1].size).reshape(-1, 3)).sum()

    quotient = (reference(1e-4) - reference(-1e-4)) / 2e-4
    assert float(slope) == pytest.approx(quotient, rel=5e-3)  # float32, as test_mpm_gradients


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_through_the_velocity_gradient_at_the_start(engine):
    """C of a state that goes on: the rate that the viscous stress reads first."""
    material = Material(ElasticLaw.HENCKY)
    model, x, v = thrown_body(material, colliders=())
    values = {**VALUES, "viscosity_pa_s": 20.0}
    rng = np.random.default_rng(0)
    c = rng.normal(0.0, 5.0, (len(x), 3, 3))
    weight = rng.normal(size=(len(x), 3))
    solver = MpmSolver(model, parameters(values), substeps=4, device="cpu", engine=engine)
    state = solver.initial_state(torch.tensor(x), torch.tensor(v))
    leaf = torch.tensor(c.reshape(len(x), 9)).float().requires_grad_()
    f9 = state.internal.unflatten(1, (len(x), 18))[0, :, :9]
    state.internal = torch.cat([f9, leaf], dim=-1).reshape(1, -1)
    made = solver.rollout(state, torch.zeros(1, 2, 0, 3), 4e-3)
    loss = (made.velocity[0, -1] * torch.tensor(weight).float()).sum()
    found = torch.autograd.grad(loss, leaf)[0].double().numpy().reshape(c.shape)

    def reference(at):
        track = np.zeros((2, 0, 3))
        return (
            reference_rollout(model, values, x, v, 4, 4e-3, track, affine=at)[1][-1] * weight
        ).sum()

    size = np.linalg.norm(found)
    step = 1e-4 * found / size
    quotient = (reference(c + step) - reference(c - step)) / 2e-4
    assert quotient == pytest.approx(size, rel=5e-3)  # float32, as in test_mpm_gradients


def test_the_step_is_stable_where_both_limits_act_and_not_far_beyond():
    model = bar()
    noise = np.random.default_rng(0).normal(0.0, 0.2, (model.particle_count, 3))
    for eta in (3.0, 30.0):  # of 7 Pa s, where either limit is the same
        given = MpmParameters.of(young_pa=YOUNG, poisson_ratio=NU, viscosity_pa_s=eta)
        limit = step_limit(model, given.coefficients(model))

        def end(times, limit=limit, given=given):
            count = int(np.ceil(0.02 / (times * limit.dt_s)))
            solver = MpmSolver(model, given, substeps=count, device="cpu")
            state = solver.initial_state(velocity=torch.tensor(noise))
            return solver.rollout(state, torch.zeros(1, 4, 0, 3), 0.02).velocity[0, -1]

        assert end(0.8).norm(dim=-1).max() < 0.5
        with pytest.raises(BlowUpError):
            end(2.5)
    undamped = step_limit(model, MpmParameters.of(young_pa=YOUNG).coefficients(model))
    thick = step_limit(
        model, MpmParameters.of(young_pa=YOUNG, viscosity_pa_s=1e3).coefficients(model)
    )
    assert undamped.dt_s == H / undamped.wave_m_per_s
    assert thick.dt_s == pytest.approx(DENSITY * H**2 / (3.0 * 1e3), rel=0.01)


@pytest.mark.parametrize("hooked", [False, True])
def test_an_adapter_leaves_the_viscous_stress_as_it_is(hooked):
    """A lone particle at rest shape has no elastic stress: what is left is viscous, unadapted."""
    torch.manual_seed(0)
    config = AdapterConfig(evaluations_per_frame=None if hooked else 1, clusters=None)
    adapter = StressAdapter(config, stress_scale_pa=100.0, seed=0)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model = MpmModel(np.full((1, 3), 0.03), 1e-6, 0.1, Material(), gravity_m_per_s2=NO_GRAVITY)
    rate = torch.tensor([[0.0, 30.0, 0.0], [-10.0, 5.0, 0.0], [0.0, 0.0, -5.0]])
    ends = []
    for learned in (None, adapter):
        solver = MpmSolver(model, MpmParameters.of(young_pa=1.0, viscosity_pa_s=40.0), substeps=1,
                           device="cpu")  # fmt: skip
        chosen = solver if learned is None else AdaptedMpmSolver(solver, learned)
        state = chosen.initial_state()
        state.internal[0, 9:] = rate.reshape(9)
        with torch.no_grad():
            ends.append(chosen.rollout(state, torch.zeros(1, 2, 0, 3), 1e-5).internal)
    torch.testing.assert_close(ends[0], ends[1], atol=2e-6, rtol=0.0)  # roundings of C
    assert ends[0][..., 9:].abs().max() > 1e-3


def test_which_materials_are_damped():
    model = {m: thrown_body(m)[0] for m in MATERIALS}
    zero, some = MpmParameters.of(viscosity_pa_s=0.0), MpmParameters.of(viscosity_pa_s=1.0)
    for material, one in model.items():
        assert not is_damped(one, zero.coefficients(one))
        solid = material.law is not ElasticLaw.FLUID
        elastic = solid and material.return_map is not ReturnMap.HERSCHEL_BULKLEY
        assert is_damped(one, some.coefficients(one)) == elastic
        assert "viscosity_pa_s" in material.used
