"""Search coordinates of the global parameters: what is searched, between which bounds.

Every coordinate is unbounded; a value is ``middle + half * tanh((x - middle) / half)``, which is x
itself in the middle and never leaves its bounds (PAC-NeRF does so for Poisson's ratio).
Shapes: Q candidates, D coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from physgym.sim.mpm.material import Material, ReturnMap
from physgym.sim.mpm.model import MpmParameters
from recon.identify.mosa_config import MosaConfig
from recon.identify.problem import Prior

__all__ = ["Coordinate", "Coordinates", "Damping", "most_young_pa"]

# Wave speed squared over E / rho at nu = 0.45, the stiffest that is searched.
_STIFFEST = (1.0 - 0.45) / ((1.0 + 0.45) * (1.0 - 0.9))
_SAFETY = 0.4  # of the solver
_DAMPING = "log10_damping_ratio"
_DAMPED_SUBSTEPS = 2.0  # more than an elastic candidate may need: at the softest a damped one does


class Coordinate(NamedTuple):
    """One searched number."""

    name: str
    low: float
    high: float
    mean: float
    sigma: float
    step: float

    def value(self, x: torch.Tensor) -> torch.Tensor:
        """Inside the bounds."""
        middle, half = 0.5 * (self.low + self.high), 0.5 * (self.high - self.low)
        return middle + half * torch.tanh((x - middle) / half)

    def inverse(self, value: float) -> float:
        """The x of a value; values outside are taken just inside."""
        middle, half = 0.5 * (self.low + self.high), 0.5 * (self.high - self.low)
        share = np.clip((value - middle) / half, -0.99, 0.99)
        return float(middle + half * np.arctanh(share))


def most_young_pa(spacing_m: float, density: float, substeps_per_s: float) -> float:
    """Young's modulus at which a body of nu 0.45 needs so many substeps [Pa]."""
    wave = _SAFETY * spacing_m * substeps_per_s
    return density * wave**2 / _STIFFEST


class Damping(NamedTuple):
    """What turns a damping ratio into a viscosity.

    Attributes:
        density_kg_per_m3: of the body.
        size_m: longest side of the body [m].
        spacing_m: of the grid [m].
        substeps_per_s: most that a damped candidate may need.
    """

    density_kg_per_m3: float
    size_m: float
    spacing_m: float
    substeps_per_s: float

    def viscosity_pa_s(
        self, ratio: torch.Tensor, young_pa: torch.Tensor, poisson_ratio: torch.Tensor
    ) -> torch.Tensor:
        """``mu tau`` of the relaxation time ``tau = 2 ratio / omega``.

        omega is that of the slowest stretching of a bar as long as the body, ``pi sqrt(E / rho) /
        size``; so a ratio of 1 stops it without swinging, whatever its stiffness. Viscosities that
        would need too many substeps are bent below the most that can be followed.

        Args:
            ratio: of damping, shape (Q,).
            young_pa: shape (Q,).
            poisson_ratio: shape (Q,).

        Returns:
            Shape (Q,); differentiable.
        """
        shear = 0.5 * young_pa / (1.0 + poisson_ratio)
        omega = math.pi * (young_pa / self.density_kg_per_m3).sqrt() / self.size_m
        wanted = 2.0 * shear * ratio / omega
        wave = 2.0 * shear * (1.0 - poisson_ratio) / (1.0 - 2.0 * poisson_ratio)
        step = 1.0 / (_SAFETY * self.substeps_per_s)
        # See `MpmStepLimit`: what the waves leave of the step.
        left = 1.0 - (step / self.spacing_m) ** 2 * wave / self.density_kg_per_m3
        most = self.density_kg_per_m3 * self.spacing_m**2 * left.clamp(min=0.05) / (3.0 * step)
        return wanted / (1.0 + (wanted / most) ** 4) ** 0.25


@dataclass(frozen=True, eq=False)
class Coordinates:
    """All of them, and what else the parameters of a material need.

    Attributes:
        entries: D coordinates.
        material: of the body.
        density_kg_per_m3: held.
        damping: of an elastic solid; None holds the viscosity at 0.
    """

    entries: tuple[Coordinate, ...]
    material: Material
    density_kg_per_m3: float
    damping: Damping | None = None

    @classmethod
    def of(
        cls,
        config: MosaConfig,
        *,
        density_kg_per_m3: float,
        size_m: float,
        spacing_m: float,
        gravity: float,
        ground: bool,
    ) -> Coordinates:
        """The coordinates of a job.

        Args:
            config: of the job; its start values are the prior's means.
            density_kg_per_m3: of the body.
            size_m: longest side of the body [m].
            spacing_m: of the grid [m].
            gravity: length of gravity [m/s^2].
            ground: whether there is one to touch.

        Returns:
            They.
        """
        # Softer than half of its weight over its section, a body is flat before anything is seen.
        soft = math.log10(0.5 * density_kg_per_m3 * max(gravity, 1.0) * size_m)
        stiff = math.log10(most_young_pa(spacing_m, density_kg_per_m3, config.substeps_per_s))
        stiff = max(stiff, soft + 0.5)
        found = [Coordinate("log10_young_pa", soft, stiff, 0.5 * (soft + stiff), 0.8, 5e-3)]
        if config.young_pa is not None:
            start = found[0].inverse(math.log10(config.young_pa))
            found[0] = found[0]._replace(mean=start, sigma=0.5)
        ratio = Coordinate("poisson_ratio", -0.45, 0.45, 0.0, 0.25, 5e-3)
        wanted = 0.3 if config.poisson_ratio is None else config.poisson_ratio
        found.append(ratio._replace(mean=ratio.inverse(wanted)))
        found += _plastic(config)
        damping = None
        if config.damping and config.material.return_map is ReturnMap.NONE:
            # Begins near none: a hundredth takes a thirtieth of a rebound's height.
            found.append(Coordinate(_DAMPING, -4.0, 0.3, -2.0, 0.8, 5e-2))
            most = _DAMPED_SUBSTEPS * config.substeps_per_s
            damping = Damping(density_kg_per_m3, size_m, spacing_m, most)
        if ground:
            found.append(Coordinate("friction", 0.0, 1.5, 0.4, 0.4, 1e-2))
            found.append(Coordinate("gap_cells", -0.5, 0.5, -0.1, 0.15, 1e-2))
        return cls(tuple(found), config.material, density_kg_per_m3, damping)

    def undamped(self) -> Coordinates:
        """Without viscosity: what a search had before solids could be damped."""
        entries = tuple(e for e in self.entries if e.name != _DAMPING)
        return replace(self, entries=entries, damping=None)

    def but_damping(self, directions: np.ndarray) -> np.ndarray:
        """Rows of a matrix with one for each coordinate, but for that of the damping ratio."""
        return np.delete(directions, self.names.index(_DAMPING), axis=0)

    def with_damping(self, theta: np.ndarray, ratio: float) -> np.ndarray:
        """Candidates (Q, D) with another damping ratio; none where it is not searched."""
        if self.damping is None:
            return theta[:0]
        at = self.names.index(_DAMPING)
        made = theta.copy()
        made[:, at] = self.entries[at].inverse(math.log10(ratio))
        return made

    @property
    def names(self) -> tuple[str, ...]:
        """Of all coordinates."""
        return tuple(entry.name for entry in self.entries)

    @property
    def prior(self) -> Prior:
        """Normal priors of the unbounded coordinates."""
        columns = np.array([[e.mean, e.sigma, e.step] for e in self.entries]).T
        return Prior(self.names, columns[0], columns[1], columns[2])

    def values(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        """Inside their bounds, by name, each of shape (Q,); theta has shape (Q, D)."""
        return {e.name: e.value(theta[:, i]) for i, e in enumerate(self.entries)}

    def parameters(self, theta: torch.Tensor) -> tuple[MpmParameters, torch.Tensor]:
        """What the solver takes, and the gap.

        Args:
            theta: shape (Q, D); differentiable.

        Returns:
            Parameters of Q worlds and the gap in cells, shape (Q,).
        """
        found = self.values(theta)
        young = 10.0 ** found["log10_young_pa"]
        named: dict[str, torch.Tensor] = {
            "young_pa": young,
            "poisson_ratio": found["poisson_ratio"],
            "density_kg_per_m3": torch.full_like(young, self.density_kg_per_m3),
        }
        if "log10_yield_strain" in found:
            named["yield_stress_pa"] = young * 10.0 ** found["log10_yield_strain"]
        if "log10_viscosity_pa_s" in found:
            named["viscosity_pa_s"] = 10.0 ** found["log10_viscosity_pa_s"]
        if self.damping is not None:
            named["viscosity_pa_s"] = self.damping.viscosity_pa_s(
                10.0 ** found[_DAMPING], young, found["poisson_ratio"]
            )
        if "friction_angle_deg" in found:
            named["friction_angle_rad"] = torch.deg2rad(found["friction_angle_deg"])
        if "friction" in found:
            named["friction"] = found["friction"]
        gap = found.get("gap_cells", torch.zeros_like(young))
        return MpmParameters(**{name: value[:, None] for name, value in named.items()}), gap

    def near_bound(self, theta: np.ndarray) -> list[str]:
        """Names of coordinates within two percent of a bound; theta has shape (D,)."""
        found = self.values(torch.as_tensor(theta)[None])
        return [
            e.name
            for e in self.entries
            if not 0.02 < (float(found[e.name][0]) - e.low) / (e.high - e.low) < 0.98
        ]


def _plastic(config: MosaConfig) -> list[Coordinate]:
    """Of the return map. Yield begins below the usual truth: what never yields has no gradient."""
    bears = ReturnMap(config.return_map)
    made = []
    if bears in (ReturnMap.VON_MISES, ReturnMap.HERSCHEL_BULKLEY):
        strain = Coordinate("log10_yield_strain", -4.0, 0.0, -2.3, 0.7, 1e-2)
        if config.yield_stress_pa is not None and config.young_pa is not None:
            start = math.log10(config.yield_stress_pa / config.young_pa)
            strain = strain._replace(mean=strain.inverse(start))
        made.append(strain)
    if bears is ReturnMap.HERSCHEL_BULKLEY:
        made.append(Coordinate("log10_viscosity_pa_s", -1.0, 4.0, 1.0, 1.0, 2e-2))
    if bears is ReturnMap.DRUCKER_PRAGER:
        made.append(Coordinate("friction_angle_deg", 2.0, 60.0, 28.0, 12.0, 0.3))
    return made
