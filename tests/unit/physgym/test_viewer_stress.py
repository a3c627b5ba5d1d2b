"""Von Mises stress in the viewer: closed forms of the laws, and the stress that the solver has."""

import numpy as np
import pytest
import torch

from physgym.errors import DataError
from physgym.frames import matrix_from_quat_wxyz
from physgym.sim.mpm.adapted_solver import AdaptedMpmSolver
from physgym.sim.mpm.elastic_torch import polar_rotation, prior_stress
from physgym.sim.mpm.material import ElasticLaw, Material, ReturnMap
from physgym.sim.mpm.model import MpmModel, MpmParameters
from physgym.sim.mpm.rollout import Particles
from physgym.sim.mpm.stress_adapter import AdapterConfig, StressAdapter
from physgym.sim.mpm.twins import mpm_of, twin_of_mpm
from physgym.sim.mpm.voigt import from_voigt, to_voigt
from physgym.twin import Twin
from physgym.viewer.colour import Colouring
from physgym.viewer.session import Session
from physgym.viewer.stress import Stress

YOUNG_PA, POISSON = 2.0e4, 0.3
TURN = matrix_from_quat_wxyz(np.array([0.8, 0.36, -0.48, 0.0]))
LAWS = [ElasticLaw.NEO_HOOKEAN, ElasticLaw.FIXED_COROTATED, ElasticLaw.HENCKY]


def body(law: ElasticLaw = ElasticLaw.NEO_HOOKEAN, adapter: StressAdapter | None = None) -> Twin:
    axis = np.arange(4) * 0.01
    nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    model = MpmModel(nodes, np.full(len(nodes), 1e-6), 0.02, Material(law, ReturnMap.NONE))
    parameters = MpmParameters.of(young_pa=YOUNG_PA, poisson_ratio=POISSON, density_kg_per_m3=300.0)
    return twin_of_mpm(
        name="b", kind="volume", method="mosa", model=model, parameters=parameters, adapter=adapter
    )


def internal(F: np.ndarray, count: int = 64) -> torch.Tensor:
    """State of particles that all have one F, or each its own, and no velocity gradient."""
    numbers = np.zeros((count, 18))
    numbers[:, :9] = np.broadcast_to(F, (count, 3, 3)).reshape(count, 9)
    return torch.as_tensor(numbers, dtype=torch.float32).flatten()


@pytest.mark.parametrize("law", LAWS)
def test_a_bar_that_is_pulled_has_youngs_modulus_times_strain(law: ElasticLaw) -> None:
    strain = 1e-3
    F = np.diag([1 - POISSON * strain, 1 - POISSON * strain, 1 + strain])
    shown = Stress(body(law)).von_mises_pa(internal(F))
    # Second order in a strain of 1e-3, and float32 of F - 1: 1e-7 / 1e-3.
    assert shown == pytest.approx(YOUNG_PA * strain, rel=5e-3)


@pytest.mark.parametrize("law", LAWS)
def test_a_shear_has_root_three_times_its_shear_stress(law: ElasticLaw) -> None:
    angle = 1e-3
    F = np.eye(3)
    F[0, 1] = angle
    shear_pa = YOUNG_PA / (2 * (1 + POISSON)) * angle
    shown = Stress(body(law)).von_mises_pa(internal(F))
    assert shown == pytest.approx(np.sqrt(3) * shear_pa, rel=5e-3)


@pytest.mark.parametrize("law", LAWS)
def test_pressure_and_turning_are_no_such_stress(law: ElasticLaw) -> None:
    stress = Stress(body(law))
    # A float32 F of a turn is off by 1e-7, times the modulus; twenty operations of it.
    assert stress.von_mises_pa(internal(1.1 * TURN)).max() < 2e-6 * YOUNG_PA
    F = np.array([[1.2, 0.3, 0.0], [0.0, 0.9, 0.1], [0.1, 0.0, 1.05]])
    assert stress.von_mises_pa(internal(TURN @ F)) == pytest.approx(
        stress.von_mises_pa(internal(F)), rel=1e-4
    )


def test_a_large_stretch_of_neo_hookean_matter_has_its_cauchy_stress() -> None:
    """sigma = (mu (F F^T - I) + lam ln J I) / J: the deviator is mu (l1^2 - l2^2) / J."""
    mu = YOUNG_PA / (2 * (1 + POISSON))
    shown = Stress(body()).von_mises_pa(internal(np.diag([1.6, 0.9, 0.9])))
    assert shown == pytest.approx(mu * (1.6**2 - 0.9**2) / (1.6 * 0.9 * 0.9), rel=1e-5)


@pytest.mark.parametrize("clusters", [None, 5])
def test_with_an_adapter_it_is_the_stress_that_the_solver_steps_by(clusters: int | None) -> None:
    config = AdapterConfig(clusters=clusters, evaluations_per_frame=1)
    adapter = StressAdapter(config, stress_scale_pa=YOUNG_PA, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=draw)
    twin = body(adapter=adapter)
    rng = np.random.default_rng(2)
    state = internal(np.eye(3) + 0.1 * rng.normal(size=(64, 3, 3)))
    shown = Stress(twin).von_mises_pa(state)

    parts = mpm_of(twin)
    solver = parts.solver()
    assert isinstance(solver, AdaptedMpmSolver)
    given = parts.parameters.coefficients(parts.model)
    carried = state.reshape(1, -1, 18)
    still = torch.zeros(1, 64, 3)
    with torch.no_grad():
        operator = solver._operators(Particles(still, still, carried), given)[0]
        f = carried[..., :9].unflatten(-1, (3, 3))
        r = polar_rotation(f)
        tau = prior_stress(parts.model.material.law, carried, given.mu, given.lam, given.viscosity)
        turned = operator.unflatten(-1, (6, 6)) @ to_voigt(r.mT @ tau @ r)[..., None]
        sigma = from_voigt(turned[..., 0]) / torch.linalg.det(f)[..., None, None]
    s = sigma[0].double().numpy()
    pairs = ((0, 1), (1, 2), (2, 0))
    squares = sum((s[:, i, i] - s[:, j, j]) ** 2 / 2 + 3 * s[:, i, j] ** 2 for i, j in pairs)
    # float32 stresses that partly cancel
    assert shown == pytest.approx(np.sqrt(squares), rel=1e-3)
    plain = Stress(body()).von_mises_pa(state)
    assert np.abs(shown / plain - 1).max() > 0.05  # the adapter does something


def test_a_continuum_can_be_coloured_by_stress_and_a_pulled_one_shows_it() -> None:
    session = Session(body())
    colouring = Colouring(session.twin)
    assert colouring.names == ("plain", "stiffness", "strain", "stress")
    assert colouring.unit("stress") == "Pa"
    at_rest, _ = colouring.values("stress", session.position, session.internal)
    assert at_rest.max() < 1e-3 * YOUNG_PA
    for hand, way in ((0, 0.01), (1, -0.01)):
        session.move_hand(hand, np.array([0.0, way, 0.0]))
    for _ in range(5):
        session.advance(1 / 60)
    pulled, of_pairs = colouring.values("stress", session.position, session.internal)
    assert np.median(pulled) > 0.02 * YOUNG_PA  # 4 cm pulled by 2 cm, in part between the hands
    assert len(of_pairs) == len(colouring.springs.edge)
    nodes, _ = colouring.colours("stress", session.position, session.internal)
    assert len(np.unique(nodes, axis=0)) > 10
    with pytest.raises(DataError):
        colouring.values("stress", session.position)
