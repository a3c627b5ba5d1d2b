"""Stress and return maps as the engines apply them, against closed forms.

A particle that is alone (no other within three cells), at rest and without gravity shows its
stress: one substep gives it the velocity gradient ``C = -4 dt V tau / (h^2 m)``, and its
deformation is that after the return map. So each engine is asked for many deformations at once.
"""

import numpy as np
import pytest
import torch

from physgym.sim.mpm import ElasticLaw, Material, MpmModel, MpmParameters, MpmSolver, ReturnMap

H, DT, VOLUME, DENSITY = 0.1, 1e-5, 1e-6, 1000.0
YOUNG, NU, YIELD, ANGLE, ETA = 3e5, 0.25, 6e3, 0.6, 40.0
MU = YOUNG / (2.0 * (1.0 + NU))
LAM = YOUNG * NU / ((1.0 + NU) * (1.0 - 2.0 * NU))
BULK = LAM + 2.0 * MU / 3.0
EYE = np.eye(3)
ENGINES = ("plain", "native")


def respond(engine, material, f):
    """Kirchhoff stress [Pa] and deformation after the return map of lone particles, (P, 3, 3)."""
    f = np.asarray(f, float)
    model = MpmModel(
        np.stack([0.4 * np.arange(len(f)), np.zeros(len(f)), np.zeros(len(f))], 1) + 0.03,
        VOLUME, H, material, gravity_m_per_s2=(0.0, 0.0, 0.0),
    )  # fmt: skip
    parameters = MpmParameters.of(
        young_pa=YOUNG, poisson_ratio=NU, density_kg_per_m3=DENSITY, yield_stress_pa=YIELD,
        friction_angle_rad=ANGLE, viscosity_pa_s=ETA, bulk_modulus_pa=BULK,
    )  # fmt: skip
    solver = MpmSolver(model, parameters, substeps=1, device="cpu", engine=engine)
    state = solver.initial_state(deformation=torch.tensor(f))
    made = solver.rollout(state, torch.zeros(1, 2, 0, 3), DT).internal[0, 1].double().numpy()
    gradient = made[:, 9:].reshape(-1, 3, 3)
    return -gradient * H**2 * DENSITY / (4.0 * DT), made[:, :9].reshape(-1, 3, 3)


def random_deformations(count, size, seed=0):
    """Deformations with positive determinant around the identity."""
    f = EYE + np.random.default_rng(seed).normal(0.0, size, (count, 3, 3))
    return f[np.linalg.det(f) > 0.2]


def rotations(count, seed=1):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(count, 3, 3)))
    q = q * np.sign(np.einsum("kii->ki", r))[:, None]
    return q * np.sign(np.linalg.det(q))[:, None, None]


def hencky(f):
    """Deviator and mean of the logarithmic strain, from a singular value decomposition."""
    u, s, _ = np.linalg.svd(f)
    e = np.log(s)
    mean = e.mean(-1)
    dev = u @ ((e - mean[:, None])[:, :, None] * np.swapaxes(u, 1, 2))
    return dev, mean


def uniaxial(law, a):
    """Stress along and across for F = diag(a, 1, 1)."""
    if law is ElasticLaw.LINEAR:
        return (2 * MU + LAM) * (a - 1), LAM * (a - 1)
    if law is ElasticLaw.NEO_HOOKEAN:
        return MU * (a * a - 1) + LAM * np.log(a), LAM * np.log(a)
    if law is ElasticLaw.FIXED_COROTATED:
        return 2 * MU * (a - 1) * a + LAM * a * (a - 1), LAM * a * (a - 1)
    if law is ElasticLaw.HENCKY:
        return (2 * MU + LAM) * np.log(a), LAM * np.log(a)
    return BULK * (a - a**-6), BULK * (a - a**-6)


def volumetric(law, a):
    """Pressure-like stress for F = a I."""
    j = a**3
    return {
        ElasticLaw.LINEAR: (2 * MU + 3 * LAM) * (a - 1),
        ElasticLaw.NEO_HOOKEAN: MU * (a * a - 1) + LAM * np.log(j),
        ElasticLaw.FIXED_COROTATED: 2 * MU * (a - 1) * a + LAM * j * (j - 1),
        ElasticLaw.HENCKY: (2 * MU + 3 * LAM) * np.log(a),
        ElasticLaw.FLUID: BULK * (j - j**-6.0),
    }[law]


def simple_shear(law, g):
    """Stress for F = I + g e_x e_y^T, from the stretches of simple shear."""
    if law is ElasticLaw.LINEAR:
        return MU * g * np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0.0]])
    if law is ElasticLaw.NEO_HOOKEAN:
        return MU * np.array([[g * g, g, 0], [g, 0, 0], [0, 0, 0.0]])
    if law is ElasticLaw.FLUID:
        return np.zeros((3, 3))
    # Polar rotation by atan(g / 2) about -z: V = F R^T = ((1 + g^2/2, g/2), (g/2, 1)) / c.
    c = np.sqrt(1.0 + 0.25 * g * g)
    left = np.array([[(1 + 0.5 * g * g) / c, 0.5 * g / c, 0], [0.5 * g / c, 1 / c, 0], [0, 0, 1.0]])
    if law is ElasticLaw.FIXED_COROTATED:
        return 2 * MU * (left @ left - left)
    # The stretches are c + g/2 and its inverse, their logarithms +- asinh(g / 2).
    direction = np.array([[g / 2, 1, 0], [1, -g / 2, 0], [0, 0, 0.0]]) / c
    return 2 * MU * np.arcsinh(0.5 * g) * direction


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("law", list(ElasticLaw))
def test_stress_against_closed_forms(engine, law):
    stretches = np.array([0.6, 0.9, 0.999, 1.0, 1.001, 1.2, 1.9])
    shears = np.array([-1.0, -0.1, 1e-3, 0.4, 1.5])
    f = [np.diag([a, 1.0, 1.0]) for a in stretches] + [a * EYE for a in stretches]
    f += [EYE + g * np.outer([1.0, 0, 0], [0, 1.0, 0]) for g in shears]
    want = [np.diag([u, v, v]) for u, v in (uniaxial(law, a) for a in stretches)]
    want += [volumetric(law, a) * EYE for a in stretches] + [simple_shear(law, g) for g in shears]
    tau, _ = respond(engine, Material(law), f)
    # float32 carries F = I to 6e-8, so the stress to some 1e-7 of the modulus; 7 of a fluid's.
    scale = np.abs(want).max(axis=(1, 2))[:, None, None]
    assert (np.abs(tau - want) <= 2e-6 * scale + 2e-6 * YOUNG).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("law", [e for e in ElasticLaw if e is not ElasticLaw.LINEAR])
def test_rotating_matter_rotates_its_stress(engine, law):
    f, q = random_deformations(40, 0.3), None
    q = rotations(len(f))
    tau, _ = respond(engine, Material(law), f)
    turned, _ = respond(engine, Material(law), q @ f)
    want = q @ tau @ np.swapaxes(q, 1, 2)
    np.testing.assert_allclose(turned, want, atol=1e-5 * np.abs(tau).max())


@pytest.mark.parametrize("engine", ENGINES)
def test_stress_of_equal_and_nearly_equal_stretches_is_smooth(engine):
    # Where a singular value decomposition has no unique vectors, the stress must not jump.
    tiny = np.array([0.0, 1e-7, 1e-6, 1e-5, 1e-4])
    f = np.stack([np.diag([1.2 + t, 1.2, 1.2 - t]) for t in tiny])
    tau, _ = respond(engine, Material(ElasticLaw.HENCKY), f)
    want = np.stack(
        [np.diag(2 * MU * np.log(np.diag(g)) + LAM * np.log(np.diag(g)).sum()) for g in f]
    )
    np.testing.assert_allclose(tau, want, atol=3e-6 * YOUNG)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("return_map", [ReturnMap.VON_MISES, ReturnMap.DRUCKER_PRAGER])
def test_return_map_lands_on_the_yield_surface_and_leaves_the_inside_alone(engine, return_map):
    f = np.concatenate([random_deformations(60, s, seed=3) for s in (0.002, 0.02, 0.3)])
    f *= np.random.default_rng(5).uniform(0.9, 1.01, len(f))[:, None, None]
    _, made = respond(engine, Material(ElasticLaw.HENCKY, return_map), f)
    dev, mean = hencky(f)
    size = np.linalg.norm(dev, axis=(1, 2))
    if return_map is ReturnMap.VON_MISES:
        limit = np.full(len(f), YIELD / (2 * MU))
        opened = np.zeros(len(f), bool)
    else:
        sine = np.sin(ANGLE)
        alpha = np.sqrt(2 / 3) * 2 * sine / (3 - sine)
        limit = -(3 * LAM + 2 * MU) / (2 * MU) * 3 * mean * alpha
        opened = mean >= 0.0
    inside = (size < 0.999 * limit) & ~opened
    outside = (size > 1.001 * limit) & ~opened
    assert inside.sum() > 10
    assert outside.sum() > 10
    np.testing.assert_allclose(made[inside], f[inside], atol=2e-7)  # a rounding of float32
    dev_new, mean_new = hencky(made)
    size_new = np.linalg.norm(dev_new, axis=(1, 2))
    # 1e-6: float32 of stretches around 1, where strains are read from
    np.testing.assert_allclose(size_new[outside], limit[outside], atol=2e-6, rtol=1e-5)
    np.testing.assert_allclose(mean_new[~opened], mean[~opened], atol=1e-6)
    along = np.einsum("kij,kij->k", dev_new, dev)[outside] / (size * size_new)[outside]
    np.testing.assert_allclose(along, 1.0, atol=1e-3)
    if return_map is ReturnMap.DRUCKER_PRAGER:
        assert opened.sum() > 5
        np.testing.assert_allclose(size_new[opened], 0.0, atol=2e-6)  # sand bears no tension
        np.testing.assert_allclose(mean_new[opened], 0.0, atol=1e-6)
    _, again = respond(engine, Material(ElasticLaw.HENCKY, return_map), made)
    np.testing.assert_allclose(again, made, atol=1e-6)  # a projection


@pytest.mark.parametrize("engine", ENGINES)
def test_herschel_bulkley_relaxes_between_elastic_and_von_mises(engine):
    f = random_deformations(40, 0.3, seed=7)
    _, made = respond(engine, Material(ElasticLaw.HENCKY, ReturnMap.HERSCHEL_BULKLEY), f)
    dev, _ = hencky(f)
    size = 2 * MU * np.linalg.norm(dev, axis=(1, 2))
    limit = np.sqrt(2 / 3) * YIELD
    assert (size > limit).any()
    trace = np.einsum("kij,kij->k", f, f) / 3.0
    over = np.maximum(size - limit, 0.0) / (1.0 + ETA / (2 * MU * trace * DT))
    dev_new, _ = hencky(made)
    size_new = 2 * MU * np.linalg.norm(dev_new, axis=(1, 2))
    np.testing.assert_allclose(size_new, size - over, rtol=2e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("return_map", [m for m in ReturnMap if m is not ReturnMap.NONE])
def test_rotating_matter_rotates_its_plastic_flow(engine, return_map):
    f = random_deformations(40, 0.2, seed=9)
    q = rotations(len(f))
    _, made = respond(engine, Material(ElasticLaw.HENCKY, return_map), f)
    _, turned = respond(engine, Material(ElasticLaw.HENCKY, return_map), q @ f)
    np.testing.assert_allclose(turned, q @ made, atol=3e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_newtonian_stress_is_viscosity_times_twice_the_strain_rate(engine):
    # A lone particle in shear flow: what the fluid adds to C beyond the momentum it came with.
    rate = np.array([[0.0, 30.0, 0.0], [-10.0, 5.0, 0.0], [0.0, 0.0, -5.0]])
    model = MpmModel(
        np.full((1, 3), 0.03), VOLUME, H, Material(ElasticLaw.FLUID), gravity_m_per_s2=(0, 0, 0)
    )
    got = []
    for eta in (0.0, ETA):
        parameters = MpmParameters.of(bulk_modulus_pa=BULK, viscosity_pa_s=eta)
        solver = MpmSolver(model, parameters, substeps=1, device="cpu", engine=engine)
        state = solver.initial_state()
        state.internal[0, 9:] = torch.tensor(rate.ravel())
        made = solver.rollout(state, torch.zeros(1, 2, 0, 3), DT).internal[0, 1, 0, 9:]
        got.append(-made.double().numpy().reshape(3, 3) * H**2 * DENSITY / (4.0 * DT))
    want = ETA * (rate + rate.T)  # J is 1 to 1e-4
    # The stress's part of C is 4 dt / (h^2 rho) tau = 3e-3 in 30; a rounding of C is 2e-6 and
    # sums of 27 nodes make a few of them.
    np.testing.assert_allclose(got[1] - got[0], want, atol=5e-3 * np.abs(want).max())
