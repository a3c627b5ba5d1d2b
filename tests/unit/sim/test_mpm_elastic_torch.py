"""Elastic laws in torch: against the kernels, and their derivatives where stretches are equal."""

import numpy as np
import pytest
import torch
import warp as wp

from physgym.sim.mpm import ElasticLaw, kernels
from physgym.sim.mpm.elastic_torch import (
    elastic_stress,
    polar_rotation,
    prior_stress,
    right_stretch,
    strain_energy,
    symmetric_log,
)

MU, LAM, ETA = 8e3, 1.2e4, 3.0


def turn(angle=0.7):
    c, s = np.cos(angle), np.sin(angle)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def cases():
    """F at rest, with two and three equal stretches, general, and far from rest; float64."""
    rng = np.random.default_rng(0)
    general = torch.tensor(np.eye(3) + rng.normal(0.0, 0.2, (4, 3, 3)))
    twice = turn() @ torch.diag(torch.tensor([1.3, 1.3, 0.8], dtype=torch.float64))
    made = [torch.eye(3, dtype=torch.float64), 1.2 * turn(), twice, *general]
    made.append(turn(2.0) @ torch.diag(torch.tensor([3.0, 0.4, 0.9], dtype=torch.float64)))
    return torch.stack(made)


def numbers(*values):
    return tuple(torch.tensor([v], dtype=torch.float64) for v in values)


@pytest.mark.parametrize("law", list(ElasticLaw))
def test_stress_equals_the_kernel_s(law):
    f = cases()
    rate = torch.tensor(np.random.default_rng(1).normal(0.0, 5.0, f.shape))
    internal = torch.cat([f.flatten(1), rate.flatten(1)], dim=1)
    made = prior_stress(law, internal, *numbers(MU, LAM, ETA))
    arrays = [wp.array(a.numpy()[None].astype(np.float32), dtype=wp.mat33) for a in (f, rate)]
    given = [wp.array(np.full((1, 1), v, np.float32), dtype=float) for v in (MU, LAM, ETA)]
    out = wp.empty((1, len(f)), dtype=wp.mat33)
    wp.launch(kernels.stress, (1, len(f)), [*arrays, *given, law.kernel_kind], [out], device="cpu")
    # The kernel is float32; the fluid takes the sixth power of a volume.
    assert made.numpy() == pytest.approx(
        out.numpy()[0], rel=2e-5, abs=2e-6 * float(made.abs().max())
    )


@pytest.mark.parametrize("law", list(ElasticLaw))
def test_stress_derivatives_against_finite_differences(law):
    # F = I and equal stretches among them, where a singular value decomposition has no derivative.
    mu, lam = numbers(1.0, 1.5)
    f = cases().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: elastic_stress(law, f, mu, lam), (f,))


@pytest.mark.parametrize("part", [polar_rotation, right_stretch])
def test_polar_derivatives_against_finite_differences(part):
    assert torch.autograd.gradcheck(part, (cases().requires_grad_(),))


def test_logarithm():
    f = cases()
    b = f @ f.mT
    log = symmetric_log(b)
    assert (torch.linalg.matrix_exp(log) - b).abs().max() < 1e-12 * 9.0
    half = b.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: symmetric_log(0.5 * (a + a.mT)), (half,))


def test_derivatives_are_finite_at_rest_in_float32():
    f = torch.eye(3).repeat(5, 1, 1).requires_grad_()
    mu, lam = torch.ones(1), torch.ones(1)
    for law in ElasticLaw:
        (grad,) = torch.autograd.grad(elastic_stress(law, f, mu, lam)[:, 0, 1].sum(), f)
        assert torch.isfinite(grad).all()
        if law is not ElasticLaw.FLUID:  # which bears no shear
            assert grad[:, 0, 1] == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("law", [law for law in ElasticLaw if law is not ElasticLaw.LINEAR])
def test_stress_follows_from_the_energy(law):
    # Kirchhoff stress is dW/dF F^T; the linear law's is of this form at small strain alone.
    mu, lam = numbers(0.0 if law is ElasticLaw.FLUID else 1.0, 1.5)
    f = cases().requires_grad_()
    (slope,) = torch.autograd.grad(strain_energy(law, f, mu, lam).sum(), f)
    made = elastic_stress(law, f, mu, lam)
    assert (slope @ f.mT - made).abs().max() < 1e-10 * made.abs().max()
    assert float(strain_energy(law, torch.eye(3).double(), mu, lam)) == pytest.approx(
        0.0, abs=1e-14
    )
