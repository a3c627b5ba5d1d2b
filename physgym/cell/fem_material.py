"""Transversely isotropic neo-Hookean material: the truth that twins of continua are tested on.

Strain energy per rest volume, ``s(X) [mu/2 (I1 - 3) - mu ln J + lambda/2 (ln J)^2
+ k/2 (sqrt(I4) - 1)^2]``: compressible neo-Hookean (Simo and Pister 1984) and one family of fibres
with the invariant ``I4 = |F a0|^2`` (Spencer 1984). The fibre energy is quadratic in the stretch,
that of linear springs, and not in I4 as in the standard reinforcing model (Qiu and Pence 1997),
whose fibres lose their stiffness below a stretch of 0.58. The modulus along the fibre is E + k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from physgym.errors import DataError

__all__ = ["FemMaterial", "effective_modulus", "elastic_stress", "stiffness_voigt"]

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True)
class FemMaterial:
    """A material in the frame of the body at rest.

    Attributes:
        young_pa: Young's modulus E of the isotropic part.
        poisson_ratio: nu of the isotropic part. Linear tetrahedra lock above about 0.45.
        density_kg_per_m3: mass over rest volume.
        fibre_modulus_pa: k; 0 is isotropic.
        fibre_direction: a0, normalised here, shape (3,).
        gradient_direction: along which all stiffness (E and k, not nu) varies linearly; None for
            a homogeneous body.
        gradient_ends: the factor s at the body's lower and upper end along that direction.
        damping_s: Kelvin-Voigt damping of the isotropic part: the viscous stress is that of the
            strain which the present rate would add in this time. Small: it shortens the substeps.
    """

    young_pa: float
    poisson_ratio: float = 0.3
    density_kg_per_m3: float = 500.0
    fibre_modulus_pa: float = 0.0
    fibre_direction: tuple[float, float, float] = (1.0, 0.0, 0.0)
    gradient_direction: tuple[float, float, float] | None = None
    gradient_ends: tuple[float, float] = (0.5, 1.5)
    damping_s: float = 2e-5

    def __post_init__(self) -> None:
        """Check every field and normalise the directions.

        Raises:
            DataError: naming the field that is out of range.
        """
        for name in ("young_pa", "density_kg_per_m3"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise _bad(name, getattr(self, name), "a finite number above zero")
        for name in ("fibre_modulus_pa", "damping_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise _bad(name, getattr(self, name), "a finite number, at least zero")
        if not 0 <= self.poisson_ratio <= 0.45:
            raise _bad("poisson_ratio", self.poisson_ratio, "from 0 to 0.45")
        ends = self.gradient_ends
        if len(ends) != 2 or not all(math.isfinite(end) and end > 0 for end in ends):
            raise _bad("gradient_ends", ends, "two finite numbers above zero")
        for name in ("fibre_direction", "gradient_direction"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _unit(name, getattr(self, name)))

    @property
    def mu_pa(self) -> float:
        """Shear modulus where the factor is 1."""
        return self.young_pa / (2 * (1 + self.poisson_ratio))

    @property
    def lambda_pa(self) -> float:
        """Lame's first constant where the factor is 1."""
        nu = self.poisson_ratio
        return self.young_pa * nu / ((1 + nu) * (1 - 2 * nu))

    @property
    def isotropic(self) -> bool:
        """Whether there are no fibres."""
        return self.fibre_modulus_pa == 0

    def stiffness_factor(self, points: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """The factor s on all stiffness.

        Args:
            points: rest positions where it is wanted [m], shape (P, 3).
            nodes: all nodes of the body at rest, which say where its ends are, shape (N, 3).

        Returns:
            Shape (P,).
        """
        if self.gradient_direction is None:
            return np.ones(len(points))
        axis = np.array(self.gradient_direction)
        low, high = np.min(nodes @ axis), np.max(nodes @ axis)
        share = (points @ axis - low) / (high - low)
        return np.asarray(self.gradient_ends[0] * (1 - share) + self.gradient_ends[1] * share)


def elastic_stress(
    material: FemMaterial, F: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First Piola-Kirchhoff stress and energy of M elements where the factor is 1.

    Components come first, so that every operation runs over all elements at once.

    Args:
        material: the material.
        F: deformation gradients with a positive determinant, shape (3, 3, M).

    Returns:
        Stress [Pa], shape (3, 3, M); energy [J/m^3], shape (M,); ``F^-T``, shape (3, 3, M);
        determinants, shape (M,).
    """
    inverse_transposed = np.stack([_cross(F[1], F[2]), _cross(F[2], F[0]), _cross(F[0], F[1])])
    J = np.einsum("jm,jm->m", F[0], inverse_transposed[0])
    inverse_transposed /= J
    mu, lame, k = material.mu_pa, material.lambda_pa, material.fibre_modulus_pa
    with np.errstate(invalid="ignore", divide="ignore"):  # the caller looks at J
        log_J = np.log(J)
    stress = mu * F + (lame * log_J - mu) * inverse_transposed
    energy = (
        0.5 * mu * (np.einsum("ijm,ijm->m", F, F) - 3) - mu * log_J + 0.5 * lame * log_J * log_J
    )
    if k > 0:
        a0 = np.array(material.fibre_direction)
        fibre = F[:, 0] * a0[0] + F[:, 1] * a0[1] + F[:, 2] * a0[2]
        stretch = np.sqrt(np.einsum("im,im->m", fibre, fibre))
        pull = (k * (1 - 1 / stretch)) * fibre
        stress += pull[:, None] * a0[:, None]
        energy += 0.5 * k * (stretch - 1) ** 2
    return stress, energy, inverse_transposed, J


def stiffness_voigt(material: FemMaterial) -> np.ndarray:
    """Stiffness tensor at rest where the factor is 1.

    Args:
        material: the material.

    Returns:
        Shape (6, 6) [Pa], order xx, yy, zz, yz, xz, xy, with engineering shear strains.
    """
    eye = np.eye(3)
    a0 = np.array(material.fibre_direction)
    same = np.einsum("ik,jl->ijkl", eye, eye) + np.einsum("il,jk->ijkl", eye, eye)
    tensor = material.lambda_pa * np.einsum("ij,kl->ijkl", eye, eye) + material.mu_pa * same
    tensor += material.fibre_modulus_pa * np.einsum("i,j,k,l->ijkl", a0, a0, a0, a0)
    return np.array([[tensor[row + column] for column in _VOIGT] for row in _VOIGT])


def effective_modulus(material: FemMaterial, directions: ArrayLike) -> np.ndarray:
    """Young's modulus at rest in given directions, ``E(n) = 1 / (q^T C^-1 q)`` (App. A of MoSA).

    Args:
        material: the material; its stiffness gradient is left out.
        directions: need not be normalised, shape (P, 3).

    Returns:
        Moduli [Pa], shape (P,).

    Raises:
        DataError: if a direction is none.
    """
    n = np.asarray(directions, dtype=np.float64)
    if n.ndim != 2 or n.shape[1] != 3 or not (np.isfinite(n).all() and n.any(axis=1).all()):
        raise _bad("directions", f"of shape {n.shape}", "finite non-zero vectors, shape (P, 3)")
    n = n / np.linalg.norm(n, axis=1, keepdims=True)
    q = np.stack([n[:, i] * n[:, j] for i, j in _VOIGT], axis=1)
    compliance = np.linalg.inv(stiffness_voigt(material))
    return np.asarray(1 / np.einsum("pi,ij,pj->p", q, compliance, q))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.stack(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    )


def _unit(name: str, vector: ArrayLike) -> tuple[float, ...]:
    value = np.asarray(vector, dtype=np.float64)
    if value.shape != (3,) or not (np.isfinite(value).all() and value.any()):
        raise _bad(name, vector, "three finite numbers, not all zero")
    return tuple((value / np.linalg.norm(value)).tolist())


def _bad(field: str, value: object, expected: str) -> DataError:
    return DataError(
        f"{field} is {value}",
        where=f"FemMaterial.{field}",
        expected=expected,
        fix=f"pass another {field}; all units are SI",
    )
