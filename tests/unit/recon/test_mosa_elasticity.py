"""Constant anisotropy: stiffness, what the adapter reaches of it, and finding it in a motion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from motion_cases import mpm_drop

from physgym.cell.fem_material import FemMaterial, stiffness_voigt
from physgym.sim.mpm.heterogeneity import HeterogeneityField
from physgym.sim.mpm.stress_adapter import AdapterConfig, StressAdapter
from recon.identify.mosa import identify_motion
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_elasticity import (
    LinearCoordinates,
    fit_field,
    operator_of,
    reach,
    stiffness,
)

MANDEL = np.sqrt([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])


def fibre_numbers(direction, strength: float) -> np.ndarray:
    """Z of one stiffened direction: `strength` times the square of f f^T in Mandel's basis."""
    f = np.asarray(direction, float) / np.linalg.norm(direction)
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    a = np.array([f[i] * f[j] for i, j in pairs]) * MANDEL
    z = strength * np.outer(a, a)
    z[~np.eye(6, dtype=bool)] *= np.sqrt(2.0)  # numbers count once, entries twice
    return z[np.triu_indices(6)]


def test_without_numbers_it_is_the_isotropic_stiffness() -> None:
    made = stiffness(1e5, 0.3, np.zeros(21))
    # The finite elements' own table, whose shears stand in another order and without roots.
    table = stiffness_voigt(FemMaterial(1e5, 0.3))
    np.testing.assert_allclose(made[:3, :3], table[:3, :3], rtol=1e-9)
    np.testing.assert_allclose(np.diag(made)[3:] / 2.0, np.diag(table)[3:], rtol=1e-9)
    np.testing.assert_allclose(operator_of(np.zeros(21), 0.3), np.eye(6), atol=1e-12)


def test_any_numbers_are_a_material_and_turning_them_keeps_their_length() -> None:
    numbers = np.random.default_rng(0).normal(0.0, 0.5, 21)
    made = stiffness(1e5, 0.3, numbers)
    np.testing.assert_allclose(made, made.T, rtol=1e-9)
    assert np.linalg.eigvalsh(made).min() > 0.0
    lengths = [np.linalg.norm(fibre_numbers(d, 0.6)) for d in ((1, 0, 0), (1, 2, -1), (0, 1, 1))]
    np.testing.assert_allclose(lengths, 0.6, rtol=1e-9)  # no direction is dearer than another


def test_the_adapter_reaches_a_body_twice_as_stiff_along_a_slanted_fibre() -> None:
    numbers = fibre_numbers((1.0, 0.5, 2.0), 0.7)
    adapter = StressAdapter(AdapterConfig(), stress_scale_pa=1e5, seed=0)
    near = reach(adapter, 1e5, 0.3, numbers, seed=0)
    # Bounded factors do not reach all of it: 3 % of the stiffness stays out of reach.
    assert near.error < 0.05
    one = torch.eye(3)
    made = near.adapter.operator(one, torch.zeros(3, 3)).detach().double().numpy()
    made = made * MANDEL[:, None] / MANDEL[None, :]  # to Mandel's basis
    got = made @ stiffness(near.young_pa, near.poisson_ratio)
    wanted = stiffness(1e5, 0.3, numbers)
    assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) == pytest.approx(
        near.error, rel=0.05
    )
    # Without its own axes the same adapter is several times further away.
    plain = np.linalg.norm(stiffness(1e5, 0.3) - wanted) / np.linalg.norm(wanted)
    assert near.error < 0.2 * plain
    # The given adapter is as it was.
    torch.testing.assert_close(adapter.operator(one, torch.eye(3)), torch.eye(6))


def test_the_field_takes_over_a_slope() -> None:
    rest = np.random.default_rng(1).uniform(-0.1, 0.1, (500, 3))
    wanted = 1.0 + 0.5 * torch.tanh(torch.as_tensor(4.0 * rest[:, 0])).float()
    field = HeterogeneityField.around(rest, seed=3)
    # 64 smooth functions of three coordinates span a plane to a hundredth.
    assert fit_field(field, rest, wanted) < 0.02
    made = field.factors(torch.as_tensor(rest).float())[0]
    torch.testing.assert_close(made, wanted, atol=0.02, rtol=0.0)


def test_a_slope_of_the_stiffness_is_found_in_a_motion() -> None:
    """Self-test: the twin's own solver made the motion, with a stiffness that rises along x."""
    motion = mpm_drop(factor=slope())
    config = MosaConfig(
        particles=512, points=60, adapter=False, stages=("velocity", "prior", "linear")
    )
    twin = identify_motion(motion, config, name="sloped")
    found = np.asarray(twin.parameters["heterogeneity"])
    assert np.corrcoef(found, slope())[0, 1] > 0.9
    held_out = twin.provenance["held_out_loss"]
    assert held_out["field"] < 0.5 * held_out["isotropic"]


def slope() -> np.ndarray:
    from motion_cases import cube_filling

    x = cube_filling(512).position[:, 0]
    return np.asarray(1.0 + 0.35 * x / np.abs(x).max())


def test_coordinates_that_are_not_searched_change_nothing() -> None:
    from recon.identify.mosa_coordinates import Coordinates

    base = Coordinates.of(
        MosaConfig(), density_kg_per_m3=1000.0, size_m=0.2, spacing_m=0.02, gravity=9.8, ground=True
    )
    every = LinearCoordinates(base, np.random.default_rng(0).normal(size=(9, 3)),
                              anisotropic=False, bound=None)  # fmt: skip
    assert every.prior.names == base.prior.names
    parameters, _ = every.parameters(torch.as_tensor(base.prior.mean)[None])
    assert parameters.stress_operator is None
    assert parameters.heterogeneity.numel() == 1
