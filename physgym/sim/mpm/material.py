"""Material: an elastic law composed with a return mapping, and the presets of PAC-NeRF.

Equations: `elasticity` and `plasticity` of this package; sources are PAC-NeRF (Li 2023), NCLaw
(Ma 2023) and MoSA, appendix. Every law gives the Kirchhoff stress tau = J sigma [Pa].
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from physgym.errors import DataError

__all__ = ["PRESETS", "ElasticLaw", "Material", "Preset", "ReturnMap"]


class ElasticLaw(Enum):
    """How stress follows from the deformation gradient F; mu and lambda are Lame's constants.

    All but the fluid are the spring of a Kelvin-Voigt solid, see `Material.damped`.

    Attributes:
        LINEAR: ``2 mu e + lambda tr(e) I`` with ``e = sym(F) - I``; for small rotations only.
        NEO_HOOKEAN: ``mu (F F^T - I) + lambda ln(J) I``.
        FIXED_COROTATED: ``2 mu (F - R) F^T + lambda J (J - 1) I``, R the polar rotation of F.
        HENCKY: St. Venant-Kirchhoff with the strain ``H = ln(F F^T) / 2``: ``2 mu H + lambda tr(H)
            I``.
        FLUID: weakly compressible and Newtonian, ``kappa (J - J^-6) I + 2 eta J sym(grad v)``.
    """

    LINEAR = "linear"
    NEO_HOOKEAN = "neo-hookean"
    FIXED_COROTATED = "fixed-corotated"
    HENCKY = "stvk"
    FLUID = "fluid"

    @property
    def kernel_kind(self) -> int:
        """Number by which kernels know the law."""
        return list(ElasticLaw).index(self)


class ReturnMap(Enum):
    """How the elastic part of F is brought back to what the material bears.

    With the Hencky strain H, its deviator D and its norm n = |D|:

    Attributes:
        NONE: elastic.
        VON_MISES: n is cut to ``yield / (2 mu)``, so that ``|dev tau| <= yield`` (no sqrt(2/3)).
        DRUCKER_PRAGER: sand; no tension beyond the cohesion, shear up to the friction angle.
        HERSCHEL_BULKLEY: exponent 1; the excess over ``sqrt(2/3) yield`` relaxes with the
            viscosity. Viscosity 0 is von Mises with that yield stress.
    """

    NONE = "none"
    VON_MISES = "von-mises"
    DRUCKER_PRAGER = "drucker-prager"
    HERSCHEL_BULKLEY = "herschel-bulkley"

    @property
    def kernel_kind(self) -> int:
        """Number by which kernels know the map."""
        return list(ReturnMap).index(self)


_USED_BY_MAP = {
    ReturnMap.NONE: (),
    ReturnMap.VON_MISES: ("yield_stress_pa",),
    ReturnMap.DRUCKER_PRAGER: ("friction_angle_rad", "cohesion_strain"),
    ReturnMap.HERSCHEL_BULKLEY: ("yield_stress_pa", "viscosity_pa_s"),
}


@dataclass(frozen=True)
class Material:
    """An elastic law and a return mapping.

    Attributes:
        law: stress from deformation.
        return_map: plastic projection of the deformation; none for a fluid.
    """

    law: ElasticLaw = ElasticLaw.NEO_HOOKEAN
    return_map: ReturnMap = ReturnMap.NONE

    def __post_init__(self) -> None:
        if self.law is ElasticLaw.FLUID and self.return_map is not ReturnMap.NONE:
            raise DataError(
                f"a fluid with the return map {self.return_map.value!r}",
                where="Material.return_map",
                expected="ReturnMap.NONE: a fluid bears no shear that could yield",
                fix="use ElasticLaw.HENCKY with ReturnMap.HERSCHEL_BULKLEY for a paste",
            )

    @property
    def damped(self) -> bool:
        """Whether ``viscosity_pa_s`` is that of a solid.

        It then adds ``2 eta J sym(grad v)`` to the Kirchhoff stress (Kelvin-Voigt), J of the
        elastic F. Herschel-Bulkley has its plastic viscosity under that name and no elastic one;
        a fluid has the term in its own law.
        """
        return (
            self.law is not ElasticLaw.FLUID and self.return_map is not ReturnMap.HERSCHEL_BULKLEY
        )

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the fields of `MpmParameters` that have an effect, density first."""
        if self.law is ElasticLaw.FLUID:
            return ("density_kg_per_m3", "bulk_modulus_pa", "viscosity_pa_s")
        elastic = ("density_kg_per_m3", "young_pa", "poisson_ratio")
        damping = ("viscosity_pa_s",) if self.damped else ()
        return elastic + _USED_BY_MAP[self.return_map] + damping


@dataclass(frozen=True)
class Preset:
    """One of PAC-NeRF's nine settings.

    Attributes:
        material: law and return map.
        values: parameters in SI units by field name of `MpmParameters`.
        spacing_m: node distance of the grid [m].
        frame_dt_s: time between frames [s].
        verified: False where the published value was remembered, not read (notes, C1).
    """

    material: Material
    values: dict[str, float]
    spacing_m: float
    frame_dt_s: float = 1.0 / 24.0
    verified: bool = True


def _fluid(bulk_pa: float, pac_mu_pa_s: float) -> dict[str, Any]:
    """PAC-NeRF's stress is mu J sym(grad v): its mu is twice the dynamic viscosity."""
    return {
        "material": Material(ElasticLaw.FLUID),
        "values": {"bulk_modulus_pa": bulk_pa, "viscosity_pa_s": 0.5 * pac_mu_pa_s},
    }


def _paste(mu_pa: float, bulk_pa: float, yield_pa: float, viscosity_pa_s: float) -> dict[str, Any]:
    """Herschel-Bulkley from shear and bulk modulus."""
    both = 3.0 * bulk_pa + mu_pa
    return {
        "material": Material(ElasticLaw.HENCKY, ReturnMap.HERSCHEL_BULKLEY),
        "values": {
            "young_pa": 9.0 * bulk_pa * mu_pa / both,
            "poisson_ratio": (3.0 * bulk_pa - 2.0 * mu_pa) / (2.0 * both),
            "yield_stress_pa": yield_pa,
            "viscosity_pa_s": viscosity_pa_s,
        },
    }


def _elastic(young_pa: float, poisson: float) -> dict[str, Any]:
    return {
        "material": Material(ElasticLaw.NEO_HOOKEAN),
        "values": {"young_pa": young_pa, "poisson_ratio": poisson},
    }


def _dough(young_pa: float, poisson: float, yield_pa: float) -> dict[str, Any]:
    return {
        "material": Material(ElasticLaw.HENCKY, ReturnMap.VON_MISES),
        "values": {"young_pa": young_pa, "poisson_ratio": poisson, "yield_stress_pa": yield_pa},
    }


# Density 1000 kg/m^3 everywhere. Values: PAC-NeRF's published table as far as it could be
# cross-checked (notes, C1); both eta and the bird are from memory.
PRESETS: dict[str, Preset] = {
    "droplet": Preset(**_fluid(1e5, 200.0), spacing_m=0.02),
    "letter": Preset(**_fluid(1e5, 100.0), spacing_m=0.0125),
    "cream": Preset(**_paste(1e4, 1e6, 3e3, 10.0), spacing_m=0.015, verified=False),
    "toothpaste": Preset(
        **_paste(5e3, 1e5, 200.0, 10.0), spacing_m=0.002, frame_dt_s=0.02, verified=False
    ),
    "torus": Preset(**_elastic(1e6, 0.3), spacing_m=0.02),
    "bird": Preset(**_elastic(3e5, 0.3), spacing_m=0.02, verified=False),
    "playdoh": Preset(**_dough(2e6, 0.3, 1.54e4), spacing_m=0.02),
    "cat": Preset(**_dough(1e6, 0.3, 3.85e3), spacing_m=0.02),
    "trophy": Preset(
        Material(ElasticLaw.HENCKY, ReturnMap.DRUCKER_PRAGER),
        {"young_pa": 1e6, "poisson_ratio": 0.3, "friction_angle_rad": 0.6981317007977318},
        spacing_m=0.015,
    ),
}
