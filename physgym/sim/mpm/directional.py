"""What a stress adapter does along each direction: for plots, and for tests of what it learned.

MoSA (2026), Figs. 6 and 8. Directions are those of the body: they turn with the matter.
Shapes: N directions, P particles.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from physgym.errors import DataError
from physgym.sim.mpm.elastic_torch import elastic_stress, polar_rotation
from physgym.sim.mpm.material import ElasticLaw, Material
from physgym.sim.mpm.model import MpmParameters
from physgym.sim.mpm.stress_adapter import AdapterConfig, StressAdapter
from physgym.sim.mpm.twins import mpm_of
from physgym.sim.mpm.voigt import from_voigt, to_voigt
from physgym.twin import Twin

__all__ = [
    "DirectionalResponse",
    "directional_response",
    "directional_response_of",
    "effective_modulus",
    "fibonacci_directions",
]


@dataclass(frozen=True)
class DirectionalResponse:
    """Response along each direction, means over the particles.

    Attributes:
        directions: unit vectors, shape (N, 3).
        jacobian: ``(n n) : (K - I) : (n n)`` of the operator K held fixed, shape (N,).
        total_jacobian: the same of the derivative of the adapted by the prior stress, in which the
            networks see the stress change; equal where the prior stress is 0.
        young_pa: effective modulus [Pa], shape (N,); see `effective_modulus`.
    """

    directions: np.ndarray
    jacobian: np.ndarray
    total_jacobian: np.ndarray
    young_pa: np.ndarray

    @property
    def anisotropy(self) -> float:
        """Standard deviation of the Jacobian over the directions: 0 for an isotropic adapter."""
        return float(self.jacobian.std())


def directional_response(
    adapter: StressAdapter,
    material: Material,
    parameters: MpmParameters,
    directions: np.ndarray,
    deformation: torch.Tensor | None = None,
) -> DirectionalResponse:
    """Directional Jacobian and effective modulus of an adapter on its elastic law.

    Args:
        adapter: the adapter.
        material: its elastic law; not a fluid.
        parameters: stiffness of world 0; its mean over particles where no deformation is given.
        directions: in the body's frame, any length but 0, shape (N, 3).
        deformation: F of particles, shape (P, 3, 3); at rest where absent.

    Returns:
        The response.

    Raises:
        DataError: if directions are not directions, or the material is a fluid.
    """
    if material.law is ElasticLaw.FLUID:
        raise DataError(
            "a fluid",
            where="directional_response",
            expected="a solid: a fluid has no modulus along a direction",
            fix="choose another elastic law",
        )
    units = torch.from_numpy(_units(directions))
    double = copy.deepcopy(adapter).double()
    young = (parameters.young_pa * parameters.heterogeneity)[:1].detach().double().cpu()
    nu = parameters.poisson_ratio[:1].detach().double().cpu()
    if deformation is None:
        young, nu = young.mean(dim=1, keepdim=True), nu.mean(dim=1, keepdim=True)
        deformation = torch.eye(3)[None]
    f = deformation.detach().double().cpu()
    mu = (young / (2.0 * (1.0 + nu)))[0]
    lam = (young * nu / ((1.0 + nu) * (1.0 - 2.0 * nu)))[0]
    tau = elastic_stress(material.law, f, mu, lam)
    one = torch.eye(6, dtype=torch.float64)
    with torch.no_grad():
        frozen = double.operator(f, tau) - one
    total = _stress_derivative(double, f, tau) - one

    def stress_of(f: torch.Tensor) -> torch.Tensor:
        return double.stress(f, elastic_stress(material.law, f, mu, lam))

    return DirectionalResponse(
        units.numpy(),
        _along(frozen, units).mean(dim=0).numpy(),
        _along(total, units).mean(dim=0).numpy(),
        effective_modulus(stress_of, directions, f),
    )


def directional_response_of(
    twin: Twin, directions: np.ndarray, deformation: torch.Tensor | None = None
) -> DirectionalResponse:
    """How stiff a twin is along each direction, and what its adapter does there.

    Args:
        twin: of dynamics ``mpm``, of a solid; without an adapter its response is isotropic.
        directions: in its rest pose, of any length but 0, shape (N, 3).
        deformation: F of its particles, shape (P, 3, 3); at rest where absent.

    Returns:
        The response.

    Raises:
        TwinError: if the twin is damaged.
        DataError: if directions are not directions, or the material is a fluid.
    """
    parts = mpm_of(twin)
    adapter = parts.adapter
    if adapter is None:  # a new one corrects nothing
        scale_pa = float(parts.parameters.young_pa.mean())
        adapter = StressAdapter(AdapterConfig(), stress_scale_pa=scale_pa, seed=0)
    material, parameters = parts.model.material, parts.parameters
    return directional_response(adapter, material, parameters, directions, deformation)


def effective_modulus(
    stress_of: Callable[[torch.Tensor], torch.Tensor],
    directions: np.ndarray,
    deformation: torch.Tensor | None = None,
) -> np.ndarray:
    """Young's modulus along each direction of any stress law, by its tangent.

    ``1 / E(n) = n n : C^-1 : n n`` with the derivative C of the turned stress ``R^T stress R`` by a
    small strain on top of the deformation; at rest it is the modulus of a bar cut along n.

    Args:
        stress_of: Kirchhoff stress [Pa] of deformation gradients, (P, 3, 3) float64 in and out.
        directions: in the body's frame, any length but 0, shape (N, 3).
        deformation: F of particles, shape (P, 3, 3); at rest where absent.

    Returns:
        Means over the particles [Pa], shape (N,).

    Raises:
        DataError: if directions are not directions.
    """
    units = torch.from_numpy(_units(directions))
    f = torch.eye(3)[None] if deformation is None else deformation
    f = f.detach().double().cpu()
    r = polar_rotation(f)
    shear = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.5, 0.5], dtype=torch.float64)
    strain = torch.zeros(len(f), 6, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        stretched = f + r @ from_voigt(shear * strain) @ r.mT @ f
        turned = to_voigt(r.mT @ stress_of(stretched) @ r)
        rows = [_gradient(turned[:, i].sum(), strain) for i in range(6)]
    compliance = torch.linalg.inv(torch.stack(rows, dim=1))
    q = to_voigt(units[:, :, None] * units[:, None, :])
    modulus: np.ndarray = (1.0 / torch.einsum("ni,pij,nj->pn", q, compliance, q)).mean(0).numpy()
    return modulus


def fibonacci_directions(count: int) -> np.ndarray:
    """Directions spread evenly over the sphere.

    Args:
        count: N.

    Returns:
        Unit vectors, shape (N, 3).
    """
    at = np.arange(count) + 0.5
    z, turn = 1.0 - 2.0 * at / count, at * math.pi * (3.0 - math.sqrt(5.0))
    r = np.sqrt(1.0 - z * z)
    return np.stack([r * np.cos(turn), r * np.sin(turn), z], axis=1)


def _units(directions: np.ndarray) -> np.ndarray:
    given = np.asarray(directions, np.float64)
    length = np.linalg.norm(given, axis=-1, keepdims=True)
    if given.ndim != 2 or given.shape[1] != 3 or not np.isfinite(given).all() or not length.all():
        raise DataError(
            f"directions of shape {given.shape}, or one without a direction",
            where="directional_response: directions",
            expected="(N, 3), finite, none of them zero",
            fix="use fibonacci_directions for a sphere",
        )
    return given / length


def _stress_derivative(adapter: StressAdapter, f: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """Derivative of the adapted by the prior stress in the body's frame, U fixed, (P, 6, 6)."""
    r = polar_rotation(f)
    prior = to_voigt(r.mT @ tau @ r).requires_grad_()
    with torch.enable_grad():
        made = adapter.stress(f, r @ from_voigt(prior) @ r.mT)
        turned = to_voigt(r.mT @ made @ r)
        rows = [_gradient(turned[:, i].sum(), prior) for i in range(6)]
    return torch.stack(rows, dim=1)


def _gradient(value: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, of, retain_graph=True)[0]


def _along(matrix: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """``(n n) : M : (n n)`` for all particles and directions, (P, N)."""
    q = to_voigt(units[:, :, None] * units[:, None, :])
    weight = q.new_tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    return torch.einsum("ni,pij,nj->pn", q * weight, matrix, q)
