"""MpmModel: what all worlds share. MpmParameters: what each world, or particle, may have its own.

Shapes: B worlds, P particles, K boundaries, D driven particles. A first axis of length 1 is shared
by all worlds; a particle axis of length 1 is shared by all particles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from physgym.errors import DataError
from physgym.sim.mpm.collider import Collider, Condition
from physgym.sim.mpm.material import ElasticLaw, Material, ReturnMap

__all__ = ["Coefficients", "MpmModel", "MpmParameters", "is_damped"]


def _one(value: float) -> torch.Tensor:
    return torch.full((1, 1), float(value))


@dataclass(frozen=True)
class MpmModel:
    """Particles, grid spacing, material and boundaries.

    Attributes:
        rest_position: particles at rest [m], shape (P, 3).
        volume_m3: rest volume of every particle [m^3], shape (P,) or one number.
        spacing_m: distance between grid nodes h [m]; nodes lie at whole multiples of it from
            ``lattice_m``. About 8 particles should share a cell.
        material: elastic law and return map.
        colliders: boundaries, applied to a node in this order.
        driven_index: particles whose motion is given (a gripper's pads), shape (D,).
        driven_mass_factor: how much heavier driven particles are on the grid, so that what they
            hold follows them instead of slowing them down.
        gravity_m_per_s2: gravity vector [m/s^2].
        domain_m: lower and upper corner of the box that particles must stay in [m], or None.
        lattice_m: place of one grid node [m]. Boundaries act on nodes, so a plane acts in steps of
            a whole cell unless a layer of nodes is put on it.
    """

    rest_position: np.ndarray
    volume_m3: np.ndarray
    spacing_m: float
    material: Material = field(default_factory=Material)
    colliders: tuple[Collider, ...] = ()
    driven_index: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    driven_mass_factor: float = 1000.0
    gravity_m_per_s2: tuple[float, float, float] = (0.0, 0.0, -9.81)
    domain_m: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    lattice_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        rest = np.array(self.rest_position, dtype=np.float64)
        if rest.ndim != 2 or rest.shape[1] != 3 or len(rest) == 0 or not np.isfinite(rest).all():
            raise DataError(
                f"rest_position has shape {rest.shape} or missing values",
                where="MpmModel.rest_position",
                expected="(P, 3), finite, metres",
                fix="drop or fill missing points first",
            )
        volume = np.broadcast_to(np.asarray(self.volume_m3, np.float64), (len(rest),)).copy()
        driven = np.array(self.driven_index, dtype=np.int32).reshape(-1)
        self._check(rest, volume, driven)
        for name, value in (("rest_position", rest), ("volume_m3", volume)):
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        driven.setflags(write=False)
        object.__setattr__(self, "driven_index", driven)

    def _check(self, rest: np.ndarray, volume: np.ndarray, driven: np.ndarray) -> None:
        _require(
            bool(np.isfinite(volume).all() and (volume > 0.0).all()),
            f"volume_m3 from {volume.min():.3g} to {volume.max():.3g}",
            "volume_m3",
            "positive cubic metres",
        )
        _require(
            math.isfinite(self.spacing_m) and self.spacing_m > 0.0,
            f"spacing_m = {self.spacing_m}",
            "spacing_m",
            "a positive length in metres",
        )
        _require(
            len(self.lattice_m) == 3 and all(map(math.isfinite, self.lattice_m)),
            f"lattice_m = {self.lattice_m}",
            "lattice_m",
            "three finite coordinates in metres",
        )
        in_range = driven.size == 0 or (driven.min() >= 0 and driven.max() < len(rest))
        _require(
            bool(in_range) and len(np.unique(driven)) == len(driven),
            "driven_index names a particle twice or one that is not there",
            "driven_index",
            f"different particles from 0 to {len(rest) - 1}",
        )
        _require(
            math.isfinite(self.driven_mass_factor) and self.driven_mass_factor >= 1.0,
            f"driven_mass_factor = {self.driven_mass_factor}",
            "driven_mass_factor",
            "1 or more",
        )
        pushing = sum(c.condition is Condition.PENALTY for c in self.colliders)
        _require(
            pushing <= 6,
            f"{pushing} planes that push particles",
            "colliders",
            "six or fewer, as a box has, with Condition.PENALTY",
        )
        if self.domain_m is not None:
            low, high = np.asarray(self.domain_m, float)
            _require(
                bool((low < high).all() and (rest >= low).all() and (rest <= high).all()),
                f"domain_m = {self.domain_m} does not hold all particles",
                "domain_m",
                "a box around the rest position",
            )

    @property
    def particle_count(self) -> int:
        """P."""
        return len(self.rest_position)


def _require(ok: bool, what: str, name: str, expected: str) -> None:
    if not ok:
        raise DataError(what, where=f"MpmModel.{name}", expected=expected, fix=f"change {name}")


class Coefficients(NamedTuple):
    """What the kernels multiply with, made from the parameters by torch; float32, contiguous."""

    mu: torch.Tensor  # (B or 1, P or 1) shear modulus [Pa]
    lam: torch.Tensor  # (B or 1, P or 1) Lame's first constant, or a fluid's bulk modulus [Pa]
    yield_stress: torch.Tensor  # (B or 1, P or 1) [Pa]
    alpha: torch.Tensor  # (B or 1, P or 1) of the friction angle
    cohesion: torch.Tensor  # (B or 1, P or 1) Hencky strain
    viscosity: torch.Tensor  # (B or 1, P or 1) [Pa s]
    mass: torch.Tensor  # (B or 1, P) [kg], driven particles with their factor
    friction: torch.Tensor  # (B or 1, max(K, 1)) Coulomb coefficients of the boundaries
    operator: torch.Tensor  # (B or 1, P or 1, 36) on the stress, or (1, 1, 1) where there is none
    plastic: torch.Tensor  # (B or 1, P or 1, 9) on principal strains, or (1, 1, 1)


def is_damped(
    model: MpmModel, coefficients: Sequence[torch.Tensor], *, gradient: bool = False
) -> bool:
    """Whether a rollout has to compute the viscous stress of a solid.

    Args:
        model: what is simulated.
        coefficients: as the kernels get them.
        gradient: it is the backward pass, which also asks how a viscosity of 0 would act.

    Returns:
        False where the stress is nothing and nobody asks for its derivative.
    """
    viscosity = coefficients[Coefficients._fields.index("viscosity")]
    asked = gradient and viscosity.requires_grad
    return model.material.damped and (asked or bool((viscosity.detach() != 0.0).any()))


@dataclass(frozen=True)
class MpmParameters:
    """What identification fits; any tensor may require a gradient.

    Which of them have an effect depends on the material (`Material.used`).

    Attributes:
        young_pa: Young's modulus [Pa], shape (B or 1, P or 1).
        poisson_ratio: in (-1, 0.5), shape (B or 1, P or 1).
        density_kg_per_m3: rest density [kg/m^3], shape (B or 1, P or 1).
        yield_stress_pa: [Pa], shape (B or 1, P or 1).
        friction_angle_rad: internal friction angle of sand [rad], shape (B or 1, P or 1).
        cohesion_strain: tensile Hencky strain that sand bears, shape (B or 1, P or 1).
        viscosity_pa_s: dynamic viscosity of a fluid, plastic viscosity of Herschel-Bulkley, or that
            of a Kelvin-Voigt solid (`Material.damped`) [Pa s], same shapes.
        bulk_modulus_pa: of a fluid [Pa], shape (B or 1, P or 1).
        friction: Coulomb coefficient of every boundary, shape (B or 1, K or 1).
        heterogeneity: factor on Young's modulus, the bulk modulus of a fluid and the yield
            stress of every particle, shape (B or 1, P or 1): where a learned field plugs in.
        stress_operator: linear map of the stress in the matter's own frame, or None: with the polar
            rotation R of F, ``R^T tau R`` as (xx, yy, zz, xy, xz, yz) is multiplied by it before
            the stress reaches the grid, shape (B or 1, P or 1, 6, 6). Where an adapter that is
            evaluated less often than every substep plugs in.
        plastic_operator: M, or None: von Mises and Drucker-Prager measure the yield, and flow,
            by ``dev(M d)`` instead of the deviator d of the principal Hencky strains, largest
            first (MoSA, Eq. 9), shape (B or 1, P or 1, 3, 3). The volume is kept as without it.
    """

    young_pa: torch.Tensor = field(default_factory=lambda: _one(1e5))
    poisson_ratio: torch.Tensor = field(default_factory=lambda: _one(0.3))
    density_kg_per_m3: torch.Tensor = field(default_factory=lambda: _one(1000.0))
    yield_stress_pa: torch.Tensor = field(default_factory=lambda: _one(1e4))
    friction_angle_rad: torch.Tensor = field(default_factory=lambda: _one(0.5))
    cohesion_strain: torch.Tensor = field(default_factory=lambda: _one(0.0))
    viscosity_pa_s: torch.Tensor = field(default_factory=lambda: _one(0.0))
    bulk_modulus_pa: torch.Tensor = field(default_factory=lambda: _one(1e5))
    friction: torch.Tensor = field(default_factory=lambda: _one(0.5))
    heterogeneity: torch.Tensor = field(default_factory=lambda: _one(1.0))
    stress_operator: torch.Tensor | None = None
    plastic_operator: torch.Tensor | None = None

    @staticmethod
    def of(values: Mapping[str, float] | None = None, **more: float) -> MpmParameters:
        """Uniform parameters, shared by all worlds; what is not given keeps its default.

        Args:
            values: numbers by field name.
            **more: the same, as keywords.

        Returns:
            The parameters.

        Raises:
            DataError: if a name is unknown.
        """
        given = {**(values or {}), **more}
        unknown = set(given) - set(_RANGES)
        if unknown:
            raise DataError(
                f"unknown parameter {min(unknown)!r}",
                where="MpmParameters.of",
                expected=", ".join(_RANGES),
                fix="correct the name",
            )
        return MpmParameters(**{name: _one(value) for name, value in given.items()})

    def replace(self, **changes: torch.Tensor) -> MpmParameters:
        """A copy with some tensors changed.

        Args:
            **changes: new tensors by field name.

        Returns:
            The copy; unchanged tensors are shared.
        """
        return replace(self, **changes)

    def check(self, model: MpmModel, worlds: int) -> None:
        """Raise where a tensor does not fit the model or holds impossible values.

        Args:
            model: the model they are meant for.
            worlds: B.

        Raises:
            DataError: naming the field, and the particle where there is one.
        """
        used = {*model.material.used, "friction", "heterogeneity"}
        self._check_operators(model, worlds)
        for name in _RANGES:
            value = getattr(self, name).detach()
            columns = len(model.colliders) if name == "friction" else model.particle_count
            fits = value.dim() == 2 and value.shape[0] in (1, worlds)
            if not fits or value.shape[1] not in (1, columns):
                raise DataError(
                    f"{name} has shape {tuple(value.shape)}",
                    where=f"MpmParameters.{name}",
                    expected=f"(1 or {worlds}, 1 or {columns})",
                    fix=f"this solver has {worlds} worlds, {model.particle_count} particles, "
                    f"{len(model.colliders)} boundaries",
                )
            low, high, text = _RANGES[name]
            bad = (
                ~((value > low) & (value < high))
                if name in _OPEN
                else ~((value >= low) & (value < high))
            )
            if name in used and bool(bad.any()):
                world, particle = (int(i) for i in bad.nonzero()[0])
                raise DataError(
                    f"{name} = {float(value[world, particle]):.6g}",
                    where=f"MpmParameters.{name}[{world}, {particle}]",
                    expected=text,
                    fix="keep the search inside the physical range, or fit its logarithm",
                )

    def _check_operators(self, model: MpmModel, worlds: int) -> None:
        for name, size in (("stress_operator", 6), ("plastic_operator", 3)):
            value = getattr(self, name)
            if value is None:
                continue
            shape = tuple(value.shape)
            fits = len(shape) == 4 and shape[0] in (1, worlds) and shape[2:] == (size, size)
            finite = bool(torch.isfinite(value.detach()).all())
            if not fits or shape[1] not in (1, model.particle_count) or not finite:
                raise DataError(
                    f"{name} has shape {shape} or values that are not finite",
                    where=f"MpmParameters.{name}",
                    expected=f"(1 or {worlds}, 1 or {model.particle_count}, {size}, {size}), "
                    "finite",
                    fix="give one matrix for all particles or one for each",
                )
        known = (ReturnMap.VON_MISES, ReturnMap.DRUCKER_PRAGER)
        if self.plastic_operator is not None and model.material.return_map not in known:
            raise DataError(
                f"a plastic_operator with the return map {model.material.return_map.value!r}",
                where="MpmParameters.plastic_operator",
                expected="von-mises or drucker-prager",
                fix="leave the operator out, or choose another return map",
            )

    def coefficients(self, model: MpmModel) -> Coefficients:
        """What the kernels multiply with; gradients flow through.

        Args:
            model: the model they are meant for.

        Returns:
            Float32 coefficients.
        """
        factor = self.heterogeneity
        if model.material.law is ElasticLaw.FLUID:
            lam = self.bulk_modulus_pa * factor
            mu = torch.zeros_like(lam)
        else:
            young, nu = self.young_pa * factor, self.poisson_ratio
            mu = young / (2.0 * (1.0 + nu))
            lam = young * nu / ((1.0 + nu) * (1.0 - 2.0 * nu))
        sine = torch.sin(self.friction_angle_rad)
        weight = torch.as_tensor(model.volume_m3.copy(), dtype=torch.float64)
        weight[torch.as_tensor(model.driven_index.copy(), dtype=torch.long)] *= (
            model.driven_mass_factor
        )
        friction = self.friction.expand(-1, max(1, len(model.colliders)))
        made = Coefficients(
            mu=mu,
            lam=lam,
            yield_stress=self.yield_stress_pa * factor,
            alpha=math.sqrt(2.0 / 3.0) * 2.0 * sine / (3.0 - sine),
            cohesion=self.cohesion_strain,
            viscosity=self.viscosity_pa_s,
            mass=self.density_kg_per_m3 * weight.to(self.density_kg_per_m3)[None],
            friction=friction,
            operator=_flat(self.stress_operator),
            plastic=_flat(self.plastic_operator),
        )
        return Coefficients(*(c.to(torch.float32).contiguous() for c in made))


def _flat(operator: torch.Tensor | None) -> torch.Tensor:
    return torch.zeros(1, 1, 1) if operator is None else operator.flatten(2)


_INF = math.inf
_RANGES: dict[str, tuple[float, float, str]] = {
    "young_pa": (0.0, _INF, "more than 0 Pa"),
    "poisson_ratio": (-1.0, 0.5, "between -1 and 0.5, both excluded"),
    "density_kg_per_m3": (0.0, _INF, "more than 0 kg/m^3"),
    "yield_stress_pa": (0.0, _INF, "more than 0 Pa; a material that yields at 0 is a fluid"),
    "friction_angle_rad": (0.0, 0.5 * math.pi, "between 0 and pi/2 rad"),
    "cohesion_strain": (0.0, _INF, "0 or more"),
    "viscosity_pa_s": (0.0, _INF, "0 Pa s or more"),
    "bulk_modulus_pa": (0.0, _INF, "more than 0 Pa"),
    "friction": (0.0, _INF, "0 or more"),
    "heterogeneity": (0.0, _INF, "a positive factor"),
}
_OPEN = {
    "young_pa", "poisson_ratio", "density_kg_per_m3", "yield_stress_pa", "bulk_modulus_pa",
    "heterogeneity",
}  # fmt: skip
