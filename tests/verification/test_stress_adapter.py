"""The stress adapter's equations: identity, the 6 x 6 form, frames, determinants, directions."""

import numpy as np
import pytest
import torch
from adapter_scenes import CONFIGS, adapter_of, deformations, rotation
from mpm_scenes import VALUES, parameters

from physgym.errors import DataError
from physgym.sim.mpm import ElasticLaw, Material
from physgym.sim.mpm.directional import (
    directional_response,
    effective_modulus,
    fibonacci_directions,
)
from physgym.sim.mpm.elastic_torch import elastic_stress, polar_rotation, right_stretch
from physgym.sim.mpm.voigt import (
    after_microplanes,
    after_product,
    from_voigt,
    identity,
    invertible,
    microplanes,
    rotation_matrix,
    symmetric,
    to_voigt,
)

# float64 throughout: some tens of operations on numbers of size 1.
EXACT = 1e-12
SOLIDS = [law for law in ElasticLaw if law is not ElasticLaw.FLUID]


def stresses(count, seed):
    made = torch.tensor(np.random.default_rng(seed).normal(0.0, 3e3, (count, 3, 3)))
    return symmetric(made)


def factors(count, seed, size=0.3):
    rng = np.random.default_rng(seed)
    return torch.tensor(np.eye(3) + rng.normal(0.0, size, (count, 3, 3, 3)))


def microplane_matrix(planes, normals):
    """One operator, or a batch of them, batch first."""
    return after_microplanes(planes, normals, identity(normals)).movedim((0, 1), (-2, -1))


def product_matrix(factor):
    return after_product(factor, identity(factor)).movedim((0, 1), (-2, -1))


def apply(operator, f, tau):
    """A 6 x 6 operator on the turned stress, written out."""
    r = polar_rotation(f)
    turned = (operator @ to_voigt(r.mT @ tau @ r)[..., None])[..., 0]
    return r @ from_voigt(turned) @ r.mT


@pytest.mark.parametrize("name", CONFIGS)
def test_untrained_it_is_the_identity_to_the_bit(name):
    adapter = adapter_of(CONFIGS[name])
    f, tau = deformations(50, 0).float(), stresses(50, 1).float()
    assert torch.equal(adapter.stress(f, tau), tau)
    assert torch.equal(adapter.operator(f, tau), torch.eye(6).expand(50, 6, 6))
    turned = adapter.turned(rotation(3))
    assert torch.equal(turned.operator(f, tau), torch.eye(6).expand(50, 6, 6))


@pytest.mark.parametrize("name", CONFIGS)
def test_step_by_step_equals_the_matrix(name):
    adapter = adapter_of(CONFIGS[name], size=0.5).double()
    f, tau = deformations(50, 0), stresses(50, 1)
    made = adapter.stress(f, tau)
    expected = apply(adapter.operator(f, tau), f, tau)
    assert (made - expected).abs().max() < EXACT * tau.abs().max()
    assert (made - made.mT).abs().max() < EXACT * tau.abs().max()
    # The adapter does something, so that the equality is no accident.
    assert (made - tau).abs().max() > 0.02 * tau.abs().max()


def test_redistribution_is_the_printed_matrix():
    planes, normals = factors(1, 0)[0], factors(1, 1)[0, 0]
    a, b, c = planes.numpy()
    half = np.array(
        [
            [2 * a[0, 0], 0, 0, 2 * a[0, 1], 2 * a[0, 2], 0],
            [0, 2 * b[0, 0], 0, 2 * b[0, 1], 0, 2 * b[0, 2]],
            [0, 0, 2 * c[0, 0], 0, 2 * c[0, 1], 2 * c[0, 2]],
            [a[1, 0], b[1, 0], 0, a[1, 1] + b[1, 1], a[1, 2], b[1, 2]],
            [a[2, 0], 0, c[1, 0], a[2, 1], a[2, 2] + c[1, 1], c[1, 2]],
            [0, b[2, 0], c[2, 0], b[2, 1], c[2, 1], b[2, 2] + c[2, 2]],
        ]
    )
    expected = 0.5 * half
    expected[:3] = normals.numpy() @ expected[:3]
    assert microplane_matrix(planes, normals).numpy() == pytest.approx(expected, abs=EXACT)
    tau = stresses(1, 2)[0]
    moved = to_voigt(microplanes(tau, planes, normals)).numpy()
    # Stress of some kilopascal.
    assert moved == pytest.approx(expected @ to_voigt(tau).numpy(), abs=EXACT * 1e4)


def test_matrices_of_products_and_rotations():
    m, tau, s = factors(1, 0)[0, 0], stresses(1, 1)[0], rotation(2)
    made = from_voigt(product_matrix(m) @ to_voigt(tau))
    assert (made - symmetric(m @ tau)).abs().max() < EXACT * 1e4
    made = from_voigt(rotation_matrix(s) @ to_voigt(tau))
    assert (made - s @ tau @ s.T).abs().max() < EXACT * 1e4
    back = rotation_matrix(s.T) @ rotation_matrix(s)
    assert (back - torch.eye(6)).abs().max() < EXACT


def test_factors_keep_their_inverse_whatever_the_numbers_are():
    numbers = 1e3 * torch.randn(1000, 12, generator=torch.Generator().manual_seed(0)).double()
    for strength in (0.1, 0.5, 0.9):
        made = invertible(numbers, strength)
        # Triangular factors: at least (1 - e)^6, where all six diagonals are at their bound.
        assert torch.linalg.det(made).min() >= (1.0 - strength) ** 6 * (1.0 - 1e-9)
        assert (made - torch.eye(3)).abs().max() <= 2 * strength + 3 * strength**2 + EXACT
    assert torch.equal(invertible(torch.zeros(12), 0.1), torch.eye(3))


@pytest.mark.parametrize("name", CONFIGS)
def test_frame_indifference(name):
    adapter = adapter_of(CONFIGS[name], size=0.5).double()
    f, tau, s = deformations(50, 0), stresses(50, 1), rotation(7)
    size = tau.abs().max()
    made = adapter.stress(f, tau)
    turned = adapter.stress(s @ f, s @ tau @ s.T)
    assert (turned - s @ made @ s.T).abs().max() < EXACT * size
    assert (adapter.operator(s @ f, s @ tau @ s.T) - adapter.operator(f, tau)).abs().max() < EXACT


@pytest.mark.parametrize("name", CONFIGS)
def test_the_material_frame_turns_with_the_rest_shape(name):
    adapter = adapter_of(CONFIGS[name], size=0.5).double()
    f, tau, s = deformations(50, 0), stresses(50, 1), rotation(7)
    size = tau.abs().max()
    made, other = adapter.stress(f, tau), adapter.turned(s)
    assert (other.stress(f @ s.T, tau) - made).abs().max() < EXACT * size
    carried = other.stress(s @ f @ s.T, s @ tau @ s.T)
    assert (carried - s @ made @ s.T).abs().max() < EXACT * size
    # Without it the axes would be wrong.
    assert (adapter.stress(f @ s.T, tau) - made).abs().max() > 1e-3 * size


def test_the_rest_orientation_is_a_rotation_for_any_six_numbers():
    adapter = adapter_of(CONFIGS["shared"]).double()
    assert torch.equal(adapter.rest_orientation, torch.eye(3, dtype=torch.float64))
    for seed in range(5):
        with torch.no_grad():
            adapter.rest_6d.copy_(torch.randn(6, generator=torch.Generator().manual_seed(seed)))
        r0 = adapter.rest_orientation.detach()
        assert (r0 @ r0.T - torch.eye(3)).abs().max() < EXACT
        assert torch.linalg.det(r0) == pytest.approx(1.0, abs=EXACT)


def jacobian_of(matrices, count):
    """Rank of the map from factors near the identity to 6 x 6 operators."""
    start = torch.zeros(count, 3, 3, dtype=torch.float64)

    def flat(change):
        return matrices(change.unflatten(0, (count, 3, 3))).flatten()

    return torch.autograd.functional.jacobian(flat, start.flatten())


def operator_from(at):
    def matrices(change):
        m = at + change
        inner = microplane_matrix(m[:3], m[3])
        if len(m) == 4:
            return inner
        return product_matrix(m[5]) @ inner @ product_matrix(m[4])

    return matrices


@pytest.mark.parametrize(
    ("count", "size", "rank"),
    [(4, 0.0, 30), (4, 0.3, 30), (6, 0.3, 36), (6, 0.0, 30)],
    ids=["planes at I", "planes", "all", "all at I"],
)
def test_which_operators_are_reached(count, size, rank):
    # 36 numbers make an operator. The planes alone reach 30 dimensions; missing are couplings of a
    # normal stress with the shear that shares no plane with it (xx with yz).
    at = torch.tensor(np.eye(3) + np.random.default_rng(5).normal(0.0, size, (count, 3, 3)))
    found = torch.linalg.svdvals(jacobian_of(operator_from(at), count))
    # Singular values end in a cliff: 1e-4 and more, then round-off.
    assert int((found > 1e-7).sum()) == rank
    assert not ((found > 1e-12) & (found < 1e-5)).any()
    if size == 0.0:
        reached = jacobian_of(operator_from(at), count).unflatten(0, (6, 6)).abs().sum(-1)
        for normal, shear in ((0, 5), (1, 4), (2, 3)):
            assert reached[normal, shear] == 0.0
            assert reached[shear, normal] == 0.0


def test_isotropic_factors_give_the_same_jacobian_in_every_direction():
    a, b = 1.2, 0.05
    planes = torch.diag(torch.tensor([1.0, a, a], dtype=torch.float64)).expand(3, 3, 3)
    normals = a * torch.eye(3, dtype=torch.float64) + b
    change = microplane_matrix(planes, normals) - torch.eye(6)
    for n in torch.tensor(fibonacci_directions(50)):
        q = to_voigt(torch.outer(n, n))
        weighted = q * torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
        assert float(weighted @ change @ q) == pytest.approx(a + b - 1.0, abs=EXACT)


@pytest.mark.parametrize("law", SOLIDS)
def test_an_untrained_adapter_has_the_law_s_modulus(law):
    values = parameters({"young_pa": VALUES["young_pa"], "poisson_ratio": 0.3})
    found = directional_response(
        adapter_of(CONFIGS["cascade"]), Material(law), values, fibonacci_directions(20)
    )
    # Parameters are float32.
    assert found.young_pa == pytest.approx(VALUES["young_pa"], rel=1e-6)
    assert np.abs(found.jacobian).max() < EXACT
    assert np.abs(found.total_jacobian).max() < EXACT
    assert found.anisotropy < EXACT


def test_modulus_and_jacobian_of_a_trained_adapter_follow_from_its_operator():
    adapter = adapter_of(CONFIGS["cascade"], size=0.5)
    values = parameters({"young_pa": 2e4, "poisson_ratio": 0.3})
    n = fibonacci_directions(20)
    found = directional_response(adapter, Material(ElasticLaw.HENCKY), values, n)
    rest = torch.eye(3, dtype=torch.float64)
    k = adapter.double().operator(rest, 0.0 * rest).detach().numpy()
    mu, lam = 2e4 / 2.6, 2e4 * 0.3 / (1.3 * 0.4)
    c = np.diag([2 * mu] * 3 + [mu] * 3)
    c[:3, :3] += lam
    i, j = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
    q = n[:, i] * n[:, j]
    modulus = 1.0 / np.einsum("ni,ij,nj->n", q, np.linalg.inv(k @ c), q)
    assert found.young_pa == pytest.approx(modulus, rel=1e-6)
    jacobian = np.einsum("ni,ij,nj->n", q * [1, 1, 1, 2, 2, 2], k - np.eye(6), q)
    assert found.jacobian == pytest.approx(jacobian, abs=1e-9)
    # At rest the networks' own derivative is multiplied by a stress of 0.
    assert found.total_jacobian == pytest.approx(jacobian, abs=1e-9)
    assert found.anisotropy > 0.01


def test_total_jacobian_against_finite_differences_in_a_strained_state():
    adapter = adapter_of(CONFIGS["cascade"], size=0.5)
    values = parameters({"young_pa": 2e4, "poisson_ratio": 0.3})
    f = deformations(1, 3)
    n = np.array([[0.3, -0.5, 0.8]])
    found = directional_response(adapter, Material(ElasticLaw.NEO_HOOKEAN), values, n, f)
    unit = torch.tensor(n[0] / np.linalg.norm(n[0]))
    r = polar_rotation(f[0])
    push = r @ torch.outer(unit, unit) @ r.T
    mu, lam = (torch.tensor([v]).double() for v in (2e4 / 2.6, 2e4 * 0.3 / (1.3 * 0.4)))
    tau = elastic_stress(ElasticLaw.NEO_HOOKEAN, f, mu, lam)
    double = adapter.double()
    up, down = (double.stress(f, tau + h * push).detach() for h in (1.0, -1.0))
    quotient = float((push * (up - down)[0]).sum()) / 2.0
    # Parameters went through float32.
    assert found.total_jacobian[0] == pytest.approx(quotient - 1.0, abs=1e-6)
    assert abs(found.total_jacobian[0] - found.jacobian[0]) > 1e-4


def test_modulus_of_an_orthotropic_law_is_the_handbook_s():
    # Fibres along x: E1 = 3 E2, in the plane of x and y (Jones, Mechanics of Composite Materials).
    e1, e2, nu12, nu23, g12 = 3e4, 1e4, 0.3, 0.4, 6e3
    compliance = np.zeros((6, 6))
    compliance[:3, :3] = [
        [1 / e1, -nu12 / e1, -nu12 / e1],
        [-nu12 / e1, 1 / e2, -nu23 / e2],
        [-nu12 / e1, -nu23 / e2, 1 / e2],
    ]
    compliance[3:, 3:] = np.diag([1 / g12, 1 / g12, 2 * (1 + nu23) / e2])
    stiffness = torch.tensor(np.linalg.inv(compliance))

    def stress_of(f):
        strain = to_voigt(symmetric(f) - torch.eye(3))
        doubled = strain * torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
        return from_voigt((stiffness @ doubled[..., None])[..., 0])

    angle = np.linspace(0.0, np.pi, 13)
    c, s = np.cos(angle), np.sin(angle)
    found = effective_modulus(stress_of, np.stack([c, s, 0 * c], axis=1))
    expected = c**4 / e1 + s**4 / e2 + (1 / g12 - 2 * nu12 / e1) * c**2 * s**2
    assert found == pytest.approx(1.0 / expected, rel=1e-9)


def test_directions_are_checked():
    values = parameters({"young_pa": 2e4, "poisson_ratio": 0.3})
    adapter = adapter_of(CONFIGS["shared"])
    with pytest.raises(DataError, match="direction"):
        directional_response(adapter, Material(), values, np.zeros((1, 3)))
    with pytest.raises(DataError, match="fluid"):
        directional_response(adapter, Material(ElasticLaw.FLUID), values, np.eye(3))


def test_stretch_and_rotation_make_the_deformation():
    f = deformations(50, 0, size=0.4)
    r, u = polar_rotation(f), right_stretch(f)
    assert (r @ u - f).abs().max() < EXACT
    assert (r @ r.mT - torch.eye(3)).abs().max() < EXACT
    assert torch.linalg.eigvalsh(u).min() > 0.0
