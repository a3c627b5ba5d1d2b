"""Constant anisotropy and a linear gradient of stiffness, by Gauss-Newton before any network.

The adapter of MoSA has many thousand weights, one drop tells some dozen numbers. What a small
strain sees of an operator is one matrix on the stress; that an elastic energy exists makes the
stiffness behind it symmetric. So the stage searches ``C = C0^(1/2) exp(Z) C0^(1/2)`` with C0 the
isotropic stiffness and Z symmetric in Mandel's basis: 21 numbers whose length does not depend on
the axes, all of them possible materials. Where the body's stiffness varies, the field starts as a
plane. Then the adapter's constants and the field's last layer are fitted to what was found.
Shapes: Q candidates, D coordinates of the prior, P particles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import expm

from physgym.sim.mpm.heterogeneity import HeterogeneityField
from physgym.sim.mpm.model import MpmParameters
from physgym.sim.mpm.stress_adapter import StressAdapter
from recon.identify.mosa_coordinates import Coordinates
from recon.identify.problem import Prior

__all__ = ["LinearCoordinates", "Reached", "fit_field", "reach", "stiffness"]

# Standard deviations of the prior. A fibre that doubles the stiffness along it is Z = 0.7.
_SIGMA_Z, _SIGMA_SLOPE = 0.3, 0.15
_STEP_Z, _STEP_SLOPE = 0.02, 0.03
_COUNT = 21
_UPPER = np.triu_indices(6)
_DOUBLE = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])  # a shear acts twice
_MANDEL = np.sqrt(_DOUBLE)
_SMALL = 1e-4  # weight of the adapter's numbers against the relative error of the stiffness
_TURNS = 2  # random material axes that are tried besides those of the strongest stretch
_STEPS = 60
_FULL = 0.999  # of the field's bound


class Reached(NamedTuple):
    """The adapter nearest to a stiffness.

    Attributes:
        adapter: with constant operator.
        young_pa: of the isotropic law below it [Pa].
        poisson_ratio: of that law.
        error: relative distance (Frobenius) of what it gives from what was asked for.
    """

    adapter: StressAdapter
    young_pa: float
    poisson_ratio: float
    error: float


def stiffness(
    young_pa: float, poisson_ratio: float, numbers: np.ndarray | None = None
) -> np.ndarray:
    """Stiffness of small strains in Mandel's basis (shears times the square root of 2).

    Args:
        young_pa: of the isotropic part [Pa].
        poisson_ratio: of it.
        numbers: upper triangle of Z, shape (21,); None is isotropic.

    Returns:
        [Pa], symmetric and positive definite, shape (6, 6).
    """
    lam = young_pa * poisson_ratio / ((1.0 + poisson_ratio) * (1.0 - 2.0 * poisson_ratio))
    made = np.diag(np.full(6, young_pa / (1.0 + poisson_ratio)))
    made[:3, :3] += lam
    if numbers is None:
        return made
    w, u = np.linalg.eigh(made)
    root = (u * np.sqrt(w)) @ u.T
    return np.asarray(root @ expm(_matrix_of(numbers)) @ root)


def _matrix_of(numbers: np.ndarray) -> np.ndarray:
    """Z of its upper triangle; every number counts once in its length."""
    z = np.zeros((6, 6))
    z[_UPPER] = numbers
    z = z + z.T - np.diag(np.diag(z))
    z[~np.eye(6, dtype=bool)] /= np.sqrt(2.0)
    return z


def operator_of(numbers: np.ndarray, poisson_ratio: float) -> np.ndarray:
    """The matrix that turns isotropic stress into that of `stiffness`.

    Args:
        numbers: upper triangle of Z, shape (21,).
        poisson_ratio: of the isotropic part.

    Returns:
        On (xx, yy, zz, xy, xz, yz), shape (6, 6).
    """
    made = stiffness(1.0, poisson_ratio, numbers) @ np.linalg.inv(stiffness(1.0, poisson_ratio))
    return np.asarray(made * _MANDEL[None, :] / _MANDEL[:, None])


class LinearCoordinates:
    """Coordinates of the prior, then Z, then the slope of the stiffness; see `Coordinates`.

    Args:
        coordinates: of the prior.
        rest: particles at rest [m], shape (P, 3).
        anisotropic: search Z.
        bound: largest relative change of the field; None searches no slope.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        rest: np.ndarray,
        *,
        anisotropic: bool,
        bound: float | None,
    ) -> None:
        self.prior_coordinates = coordinates
        self.count = len(coordinates.entries)
        self._turned = _COUNT if anisotropic else 0
        self._bound = bound
        centred = rest - rest.mean(axis=0)
        flat = centred / np.maximum(centred.std(axis=0), 1e-9)
        self._planes = torch.as_tensor(flat, dtype=torch.float64)
        slopes = 0 if bound is None else 3
        base, more = coordinates.prior, self._turned + slopes
        sigma = np.repeat([_SIGMA_Z, _SIGMA_SLOPE], [self._turned, slopes])
        step = np.repeat([_STEP_Z, _STEP_SLOPE], [self._turned, slopes])
        names = [f"log_stiffness_{i}" for i in range(self._turned)]
        names += [f"slope_{axis}" for axis in "xyz"[:slopes]]
        self.prior = Prior(
            base.names + tuple(names),
            np.concatenate([base.mean, np.zeros(more)]),
            np.concatenate([base.sigma, sigma]),
            np.concatenate([base.step, step]),
        )

    def log_stiffness(self, z: np.ndarray) -> np.ndarray | None:
        """Z's numbers, shape (21,); None where they are not searched."""
        return z[self.count : self.count + _COUNT] if self._turned else None

    def factors(self, z: np.ndarray) -> torch.Tensor | None:
        """Factors on the particles' stiffness, shape (P,); None where no slope is searched."""
        if self._bound is None:
            return None
        slope = torch.as_tensor(z[self.count + self._turned :], dtype=torch.float64)
        return (1.0 + self._bound * torch.tanh(self._planes @ slope)).float()

    def parameters(self, theta: torch.Tensor) -> tuple[MpmParameters, torch.Tensor]:
        """See `Coordinates.parameters`."""
        parameters, gap = self.prior_coordinates.parameters(theta[:, : self.count])
        rows = theta.detach().numpy()
        changed: dict[str, torch.Tensor] = {}
        if self._turned:
            ratios = parameters.poisson_ratio.double().flatten().tolist()
            made = [operator_of(z[self.count :][:_COUNT], nu) for z, nu in zip(rows, ratios)]
            changed["stress_operator"] = torch.as_tensor(np.stack(made)).float()[:, None]
        factors = [f for f in map(self.factors, rows) if f is not None]
        if factors:
            changed["heterogeneity"] = torch.stack(factors)
        return parameters.replace(**changed), gap


def reach(
    adapter: StressAdapter, young_pa: float, poisson_ratio: float, numbers: np.ndarray, seed: int
) -> Reached:
    """Fit the adapter's constants and axes, and the law below it, to a stiffness.

    Its strength bounds what one map does, so a stiff direction is reached from a stiffer law.

    Args:
        adapter: untrained; a copy is changed.
        young_pa: of the isotropic part of the stiffness [Pa].
        poisson_ratio: of it.
        numbers: upper triangle of Z, shape (21,).
        seed: of the axes that are tried.

    Returns:
        The nearest that was found.
    """
    wanted = stiffness(1.0, poisson_ratio, numbers)
    target = torch.as_tensor(wanted / _MANDEL[:, None] / _MANDEL[None, :])
    rng = np.random.default_rng([seed, 21])
    starts = [_axes_of(numbers), *(np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(_TURNS))]
    best: Reached | None = None
    for axes in starts:
        found = _reach_from(adapter, axes, target, poisson_ratio)
        found = found._replace(young_pa=found.young_pa * young_pa)
        if best is None or found.error < best.error:
            best = found
    assert best is not None
    return best


def _axes_of(numbers: np.ndarray) -> np.ndarray:
    """Principal axes of the strain that Z stiffens most, as columns."""
    w, u = np.linalg.eigh(_matrix_of(numbers))
    a = u[:, int(np.abs(w).argmax())] / _MANDEL
    matrix = np.array([[a[0], a[3], a[4]], [a[3], a[1], a[5]], [a[4], a[5], a[2]]])
    return np.asarray(np.linalg.eigh(matrix)[1][:, ::-1])


def _reach_from(
    adapter: StressAdapter, axes: np.ndarray, target: torch.Tensor, poisson_ratio: float
) -> Reached:
    """Least squares from given axes; Young's modulus is relative to that of the target."""
    made = adapter.turned(torch.eye(3)).double()
    axes = axes * np.sign(np.linalg.det(axes))
    with torch.no_grad():
        made.rest_6d.copy_(torch.as_tensor(axes.T[:2].ravel()))
    law = torch.tensor([0.0, np.arctanh(np.clip(poisson_ratio / 0.45, -0.98, 0.98))])
    law = law.double().requires_grad_()
    free = [
        p for name, p in made.heads.named_parameters()
        if name.endswith("bias") and "plastic" not in name
    ]  # fmt: skip
    every = [*free, made.rest_6d, law]
    one, none = torch.eye(3).double(), torch.zeros(3, 3).double()
    double = torch.as_tensor(_DOUBLE)

    def gap() -> torch.Tensor:
        nu, young = 0.45 * torch.tanh(law[1]), torch.exp(law[0])
        base = torch.diag(young / (1.0 + nu) / double)
        block = torch.zeros(6, 6).double()
        block[:3, :3] = 1.0
        base = base + block * (young * nu / ((1.0 + nu) * (1.0 - 2.0 * nu)))
        weigh = torch.sqrt(double[:, None] * double[None, :])  # back to Mandel's basis
        miss = (made.operator(one, none) @ base - target) * weigh
        return (miss**2).sum() / ((target * weigh) ** 2).sum()

    optimizer = torch.optim.LBFGS(every, max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = gap() + _SMALL * torch.stack([(b**2).mean() for b in free]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        error = float(gap().sqrt())
        young, nu = float(torch.exp(law[0])), float(0.45 * torch.tanh(law[1]))
    return Reached(made.float(), young, nu, error)


def fit_field(field: HeterogeneityField, rest: np.ndarray, factors: torch.Tensor) -> float:
    """Set the field's last layer so that it gives some factors, in place.

    Args:
        field: untrained.
        rest: particles at rest [m], shape (P, 3).
        factors: wanted, shape (P,).

    Returns:
        Largest difference of a factor.
    """
    place = torch.as_tensor(rest, dtype=torch.float32)
    with torch.no_grad():
        features = field.features(place).double()
        columns = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        share = (factors.double() - 1.0) / field.config.bound
        wanted = torch.atanh(share.clamp(-_FULL, _FULL))  # a steep slope is 1 in float32
        ridge = 1e-8 * len(features) * torch.eye(columns.shape[1]).double()
        solved = torch.linalg.solve(columns.mT @ columns + ridge, columns.mT @ wanted)
        field.head.weight.copy_(solved[None, :-1].float())
        field.head.bias.copy_(solved[-1:].float())
        return float((field.factors(place)[0] - factors).abs().max())
