"""MPM configuration: what is refused, what presets say, heterogeneity, the stress hook."""

import numpy as np
import pytest
import torch

from physgym.errors import BlowUpError, DataError
from physgym.sim.mpm import (
    PRESETS,
    Collider,
    Condition,
    ElasticLaw,
    Material,
    MpmModel,
    MpmParameters,
    MpmSolver,
    ReturnMap,
    box_walls,
    fill_box,
)
from physgym.sim.mpm.stability import step_limit
from physgym.sim.solver import Solver

ENGINES = ("plain", "native")


def cube(material=None, *, h=0.04, low=(0.0, 0.0, 0.1), size=0.12, colliders=(), **more):
    x, volume = fill_box(low, tuple(c + size for c in low), h / 2)
    return MpmModel(x, volume, h, material or Material(), colliders, **more)


def drop(solver, frames=4, frame_s=0.01, velocity=(0.0, 0.0, 0.0)):
    state = solver.initial_state(velocity=torch.tensor([velocity]).expand(solver.node_count, 3))
    return solver.rollout(state, torch.zeros(solver.worlds, frames + 1, 0, 3), frame_s)


def test_it_is_a_solver():
    solver = MpmSolver(cube(), MpmParameters(), device="cpu")
    assert isinstance(solver, Solver)
    assert solver.node_count == 216


def test_fill_box_fills_the_box():
    x, volume = fill_box((0, 0, 0), (0.1, 0.05, 0.03), 0.011)
    assert len(x) * volume == pytest.approx(0.1 * 0.05 * 0.03)
    assert x.min() > 0.0
    assert (x.max(0) < (0.1, 0.05, 0.03)).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("young_pa", 0.0), ("young_pa", -1e5), ("young_pa", np.nan), ("poisson_ratio", 0.5),
        ("poisson_ratio", -1.0), ("density_kg_per_m3", 0.0), ("yield_stress_pa", 0.0),
        ("heterogeneity", 0.0),
    ],
)  # fmt: skip
def test_parameters_outside_the_physical_range_are_refused_by_name(name, value):
    model = cube(Material(ElasticLaw.HENCKY, ReturnMap.VON_MISES))
    tensor = torch.full((1, model.particle_count), 0.3)
    tensor[0, 7] = value
    with pytest.raises(DataError, match=rf"{name}\[0, 7\]"):
        MpmSolver(model, MpmParameters(**{name: tensor}), device="cpu")


def test_a_parameter_that_the_material_does_not_use_is_not_judged():
    MpmSolver(cube(), MpmParameters.of(yield_stress_pa=0.0), device="cpu")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"spacing_m": 0.0}, "spacing_m"),
        ({"volume_m3": -1.0}, "volume_m3"),
        ({"driven_index": [0, 0]}, "driven_index"),
        ({"driven_index": [999]}, "driven_index"),
        ({"driven_mass_factor": 0.5}, "driven_mass_factor"),
        ({"domain_m": ((0, 0, 0), (1, 1, 0.01))}, "domain_m"),
        ({"rest_position": [[0.0, np.nan, 0.0]]}, "rest_position"),
    ],
)
def test_models_that_make_no_sense_are_refused(change, match):
    good = {"rest_position": np.random.default_rng(0).uniform(0, 0.1, (5, 3)), "volume_m3": 1e-6,
            "spacing_m": 0.02}  # fmt: skip
    MpmModel(**good)
    with pytest.raises(DataError, match=match):
        MpmModel(**{**good, **change})


def test_a_fluid_does_not_yield():
    with pytest.raises(DataError, match="return_map"):
        Material(ElasticLaw.FLUID, ReturnMap.VON_MISES)


def test_an_inverted_or_missing_start_is_refused_by_particle():
    solver = MpmSolver(cube(), MpmParameters(), device="cpu")
    f = torch.eye(3).repeat(solver.node_count, 1, 1)
    f[5] = torch.diag(torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(DataError, match=r"particle 5(.|\n)*deformation\[0, 5\]"):
        solver.initial_state(deformation=f)
    x = torch.zeros(solver.node_count, 3)
    x[3, 1] = torch.nan
    with pytest.raises(DataError, match=r"position\[0, 3, 1\]"):
        solver.initial_state(x)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_particle_that_leaves_the_domain_is_named(engine):
    model = cube(domain_m=((-1.0, -1.0, 0.0), (1.0, 1.0, 1.0)))
    solver = MpmSolver(model, MpmParameters(), device="cpu", engine=engine)
    with pytest.raises(BlowUpError, match=r"particle \d+ left the domain"):
        drop(solver, frames=30)


def test_unknown_names_and_engines_are_refused():
    with pytest.raises(DataError, match="youngs"):
        MpmParameters.of(youngs=1e5)
    with pytest.raises(DataError, match="engine"):
        MpmSolver(cube(), MpmParameters(), device="cpu", engine="fast")


def test_walls_keep_a_splash_inside_a_box():
    walls = box_walls((0.0, 0.0, 0.0), (0.2, 0.2, 0.4))
    model = cube(Material(ElasticLaw.FLUID), low=(0.02, 0.02, 0.02), colliders=walls)
    solver = MpmSolver(model, MpmParameters.of(bulk_modulus_pa=2e4), device="cpu")
    made = drop(solver, frames=30, frame_s=0.02, velocity=(0.8, 0.3, 0.0))
    low, high = made.position.amin(dim=(0, 1, 2)), made.position.amax(dim=(0, 1, 2))
    # Particles stop within half a cell of a wall; they cross it by less than that.
    assert (low > -0.02).all()
    assert (high < torch.tensor([0.22, 0.22, 0.42])).all()
    assert made.position[0, -1, :, 2].max() < 0.12  # it spread out


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_run(name):
    preset = PRESETS[name]
    h = preset.spacing_m
    x, volume = fill_box((0, 0, 2 * h), (6 * h, 6 * h, 8 * h), h / 2, jitter=0.3)
    ground = Collider.ground(condition=Condition.STICKY)
    model = MpmModel(x, volume, h, preset.material, (ground,))
    assert set(preset.values) < set(preset.material.used)
    solver = MpmSolver(model, MpmParameters.of(preset.values), device="cpu")
    made = drop(solver, frames=4, frame_s=preset.frame_dt_s, velocity=(0.2, 0.0, -1.0))
    assert torch.isfinite(made.internal).all()
    assert made.position[..., 2].min() > -0.5 * h
    free = -1.0 - 9.81 * 4 * preset.frame_dt_s
    assert made.velocity[0, -1, :, 2].mean() > free + 0.5  # the ground stopped it


# Step [s] in which a wave crosses a cell, for PAC-NeRF's settings; from the notes on materials.
CROSSING_S = {
    "torus": 5.5e-4, "bird": 1.0e-3, "playdoh": 3.9e-4, "trophy": 4.1e-4, "droplet": 7.6e-4,
    "letter": 4.7e-4, "cream": 4.7e-4, "toothpaste": 1.9e-4,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CROSSING_S))
def test_step_limit_is_the_time_a_wave_takes_through_a_cell(name):
    preset = PRESETS[name]
    model = cube(preset.material, h=preset.spacing_m)
    coefficients = MpmParameters.of(preset.values).coefficients(model)
    limit = step_limit(model, coefficients)
    assert limit.dt_s == pytest.approx(CROSSING_S[name], rel=0.04)  # two digits are given
    faster = step_limit(model, coefficients, speed_m_per_s=limit.wave_m_per_s)
    assert faster.dt_s == pytest.approx(0.5 * limit.dt_s)
    count = limit.substeps(1.0 / 24.0, safety=0.4)
    assert count - 1 < 1.0 / 24.0 / (0.4 * limit.dt_s) <= count


def test_viscosity_limits_the_step_of_a_thick_fluid():
    walls = box_walls((0.0, 0.0, 0.1), (0.12, 0.12, 1.0), condition=Condition.STICKY)
    model = cube(Material(ElasticLaw.FLUID), h=0.01, colliders=walls)
    given = MpmParameters.of(bulk_modulus_pa=1e3, viscosity_pa_s=200.0)
    limit = step_limit(model, given.coefficients(model))
    assert limit.dt_s == pytest.approx(1000.0 * 0.01**2 / (3.0 * 200.0))
    noise = np.random.default_rng(0).normal(0.0, 0.3, (model.particle_count, 3))

    def end(times):
        count = int(np.ceil(0.02 / (times * limit.dt_s)))
        solver = MpmSolver(model, given, substeps=count, device="cpu")
        state = solver.initial_state(velocity=torch.tensor(noise))
        return solver.rollout(state, torch.zeros(1, 6, 0, 3), 0.02).velocity[0, -1]

    assert end(1.0).norm(dim=-1).max() < 0.1  # calm after 0.1 s
    with pytest.raises(BlowUpError):
        end(1.3)


def test_paste_presets_have_the_published_moduli():
    values = PRESETS["cream"].values
    young, nu = values["young_pa"], values["poisson_ratio"]
    assert young / (2 * (1 + nu)) == pytest.approx(1e4)  # mu
    assert young / (3 * (1 - 2 * nu)) == pytest.approx(1e6)  # kappa


@pytest.mark.parametrize("engine", ENGINES)
def test_heterogeneity_is_a_factor_on_the_stiffness_of_each_particle(engine):
    ground = (Collider.ground(0.08),)
    model = cube(colliders=ground)
    field = torch.linspace(0.6, 1.5, model.particle_count)[None]

    def end(**given):
        solver = MpmSolver(model, MpmParameters(**given), substeps=30, device="cpu", engine=engine)
        return drop(solver, velocity=(0.0, 0.0, -2.0)).position[0, -1]

    young = torch.full((1, 1), 5e4)
    both, scaled = end(young_pa=young, heterogeneity=field), end(young_pa=young * field)
    assert torch.equal(both, scaled)
    assert (both - end(young_pa=young)).abs().max() > 1e-4


class Scale:
    """A stress hook that multiplies the stress: the same as another Young's modulus."""

    def __init__(self, weight):
        self.weight = weight

    def parameters(self):
        return [self.weight]

    def __call__(self, deformation, stress, parameters):
        return parameters[0] * stress


def test_stress_hook_scales_stress_and_gets_gradients():
    model = cube(colliders=(Collider.ground(0.08),), low=(0.0, 0.0, 0.085), size=0.08)

    def squash(hook, young):
        solver = MpmSolver(
            model, MpmParameters(young_pa=young), substeps=20, device="cpu", engine="plain",
            hook=hook,
        )  # fmt: skip
        made = drop(solver, frames=2, velocity=(0.0, 0.0, -1.0))
        return (made.position[0, -1] ** 2).sum()

    weight = torch.tensor(1.3, requires_grad=True)
    young = torch.full((1, 1), 4e4, requires_grad=True)
    hooked = squash(Scale(weight), young)
    plain_young = torch.full((1, 1), 1.3 * 4e4, requires_grad=True)
    plain = squash(None, plain_young)
    assert hooked.item() == pytest.approx(plain.item(), rel=1e-6)
    by_weight, by_young = torch.autograd.grad(hooked, [weight, young])
    (want,) = torch.autograd.grad(plain, [plain_young])
    assert want.abs().item() > 0.0
    # d/dweight = E d/dE and d/dyoung = 1.3 d/dE, to float32 sums over 40 substeps
    assert by_weight.item() == pytest.approx(4e4 * want.item(), rel=1e-3)
    assert by_young.item() == pytest.approx(1.3 * want.item(), rel=1e-3)


def test_a_stress_hook_needs_the_plain_engine():
    with pytest.raises(DataError, match="hook"):
        MpmSolver(cube(), MpmParameters(), device="cpu", engine="native", hook=Scale(1.0))
