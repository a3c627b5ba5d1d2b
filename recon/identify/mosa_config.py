"""MosaConfig: what of a continuum is identified, and how long to search."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from physgym.errors import DataError
from physgym.sim.mpm.material import ElasticLaw, Material, ReturnMap
from recon.identify.motion_losses import MotionWeights

__all__ = ["STAGES", "AdapterMap", "ElasticPrior", "MosaConfig", "PlasticMap", "Stage"]

ElasticPrior = Literal["linear", "neo-hookean", "fixed-corotated", "stvk"]
PlasticMap = Literal["none", "von-mises", "drucker-prager", "herschel-bulkley"]
AdapterMap = Literal["pre", "redistribution", "post"]
Stage = Literal["velocity", "prior", "linear", "joint"]
STAGES: tuple[Stage, ...] = ("velocity", "prior", "linear", "joint")

_GENERATIONS = {"quick": 10, "full": 30}
_PARTICLES = {"quick": 5000, "full": 12_000}
_JOINT_STEPS = {"quick": 10, "full": 150}


@dataclass(frozen=True)
class MosaConfig:
    """How a motion becomes a twin (MoSA 2026, sections 3.1 and 3.2; notes, part G).

    Attributes:
        prior: the isotropic elastic law.
        adapter: learn a correction of its stress.
        adapter_maps: which of its linear maps it has; fewer are for ablations.
        heterogeneity: learn factors of its stiffness over the body.
        return_map: what the material bears before it yields; ``"none"`` is elastic.
        damping: search the viscosity of an elastic body (Kelvin-Voigt); False holds it at 0.
        stages: which are run, in this order: start velocity, global parameters of the prior,
            constant anisotropy and a slope of the stiffness, networks. A stage that is left out
            takes its result from the start values.
        budget: ``"quick"`` or ``"full"``.
        particles: that fill the body; 5000 of a quick budget, 12 000 of a full one when None. The
            stiffness comes out too high, by a fifth at 3000 and by less than a tenth at 6000
            (docs/methods/mosa.md), because contact is a cell thick.
        points: tracked points that are compared; more are thinned out.
        seed: of all random numbers.
        train_share: share of the frames that is learned from; the rest is future.
        held_out_share: share of the frames that are learned from that the last stage does not fit,
            but stops by.
        density_kg_per_m3: of the body; 1000 when None and neither mass nor recording tell.
        mass_kg: of the body, in place of its density.
        young_pa: start value [Pa]; searched over all that can be simulated when None.
        poisson_ratio: start value.
        yield_stress_pa: start value [Pa], of materials that have one.
        start_velocity_m_per_s: of the centre in frame 0; fitted when None.
        weights: of the terms of the loss.
        substeps_per_s: most substeps in a second that a candidate may need; caps Young's modulus.
    """

    prior: ElasticPrior = "neo-hookean"
    adapter: bool = True
    adapter_maps: tuple[AdapterMap, ...] = ("pre", "redistribution", "post")
    heterogeneity: bool = True
    return_map: PlasticMap = "none"
    damping: bool = True
    stages: tuple[Stage, ...] = STAGES
    budget: Literal["quick", "full"] = "quick"
    particles: int | None = None
    points: int = 300
    seed: int = 0
    train_share: float = 0.7
    held_out_share: float = 0.25
    density_kg_per_m3: float | None = None
    mass_kg: float | None = None
    young_pa: float | None = None
    poisson_ratio: float | None = None
    yield_stress_pa: float | None = None
    start_velocity_m_per_s: tuple[float, float, float] | None = None
    weights: MotionWeights = field(default_factory=MotionWeights)
    substeps_per_s: float = 15_000.0

    def __post_init__(self) -> None:
        if not self.stages or set(self.stages) - set(STAGES):
            raise _wrong("stages", self.stages, f"some of {', '.join(STAGES)}")
        if not 0.05 <= self.train_share <= 1.0:
            raise _wrong("train_share", self.train_share, "0.05 to 1")
        if not 0.0 < self.held_out_share < 0.8:
            raise _wrong("held_out_share", self.held_out_share, "more than 0 and less than 0.8")
        if self.particle_count < 100 or self.points < 4:
            wrong = (self.particle_count, self.points)
            raise _wrong("particles, points", wrong, "100 and 4 or more")
        for name, unit in (
            ("density_kg_per_m3", "kg/m^3"), ("mass_kg", "kg"), ("young_pa", "Pa"),
            ("substeps_per_s", "1/s"),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0.0):
                raise _wrong(name, value, f"more than 0 {unit}")
        nu = self.poisson_ratio
        if nu is not None and not -1.0 < nu < 0.5:
            raise _wrong("poisson_ratio", nu, "between -1 and 0.5, both excluded")
        bears = self.yield_stress_pa
        if bears is not None and not (math.isfinite(bears) and bears > 0.0):
            raise _wrong(
                "yield_stress_pa", bears, "more than 0 Pa: what yields at nothing is a fluid"
            )

    @property
    def material(self) -> Material:
        """The isotropic backbone."""
        return Material(ElasticLaw(self.prior), ReturnMap(self.return_map))

    @property
    def particle_count(self) -> int:
        """Particles that fill the body."""
        return _PARTICLES[self.budget] if self.particles is None else self.particles

    @property
    def generations(self) -> int:
        """Of the global search."""
        return _GENERATIONS[self.budget]

    @property
    def joint_steps(self) -> int:
        """Of the descent on adapter and field, at most."""
        return _JOINT_STEPS[self.budget] if "joint" in self.stages else 0

    @property
    def learns_residual(self) -> bool:
        """Whether anything is learned beyond the prior."""
        wanted = {"linear", "joint"} & set(self.stages)
        return bool(wanted) and (self.adapter or self.heterogeneity)


def _wrong(name: str, value: object, expected: str) -> DataError:
    return DataError(
        f"{name} = {value}",
        where=f"MosaConfig.{name}",
        expected=expected,
        fix=f"change {name}",
    )
