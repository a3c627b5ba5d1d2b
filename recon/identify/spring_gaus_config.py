"""SpringGausConfig: how Gaussians, anchors and springs are found in a video."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from physgym.errors import DataError
from physgym.sim.contact import GroundLaw, GroundPlane

__all__ = ["SpringGausConfig"]

Stage = Literal["static", "velocity", "appearance", "dynamic"]
_AUTHORS_SUBSTEPS = 100
_STEPS: dict[str, dict[Stage, int]] = {
    "quick": {"static": 300, "velocity": 20, "appearance": 100, "dynamic": 60},
    "full": {"static": 2000, "velocity": 60, "appearance": 600, "dynamic": 300},
}


@dataclass(frozen=True)
class SpringGausConfig:
    """How a video becomes a twin (Spring-Gaus, ECCV 2024; docs/methods/spring_gaus.md).

    Attributes:
        budget: ``"quick"`` or ``"full"``: steps of every stage.
        seed: of all random numbers.
        gaussians: that the static cloud starts from, at most.
        anchors: N_A.
        neighbours: n_k, nearest anchors that an anchor is joined to.
        certain: n_c, those that the soft vector never weakens.
        law_power: p_k of the springs.
        bind_neighbours: n_b, anchors that carry a Gaussian.
        bind_power: p_b of the distance.
        scan: file of a static scan of the object (3DGS PLY, in units and axes of its own), which is
            registered to the first frame; None makes the Gaussians from the first frame.
        per_anchor: a stiffness for each anchor; else one for all.
        evenness: weight of the mean squared difference of the log stiffness of joined anchors:
            images of one motion tell little of how stiff a single anchor is.
        mass_kg: of the object; 0.1 kg when None, which scales all stiffness and no motion.
        held_out_share: share of the frames that the dynamic stage does not fit, but chooses by.
        start_velocity_m_per_s: in frame 0; found when None.
        fit_velocity: go on fitting it in the dynamic stage, where the object flies at the start.
        image_pixels: of a view, at most, in the static stage.
        motion_pixels: likewise in all others.
        dssim: weight of D-SSIM in the dynamic stage.
        mask_weight: of the mean difference of alpha and mask.
        centre_weight: of the distance of the centres of object and mask, in widths of a view.
        parity: as the authors' code: anchors in occupied voxels only, Gaussians at the weighted
            mean of their anchors, springs that pull each anchor by its own stiffness, a ground that
            takes all normal velocity and leaves a factor of the rest, gradients that end with their
            frame.
        static_steps: of the static stage; those of the budget when None.
        dynamic_steps: of the dynamic stage; those of the budget when None.
    """

    budget: Literal["quick", "full"] = "quick"
    seed: int = 0
    gaussians: int = 4000
    anchors: int = 400
    neighbours: int = 48
    certain: int = 16
    law_power: float = 0.5
    bind_neighbours: int = 16
    bind_power: float = 0.5
    scan: str | None = None
    per_anchor: bool = True
    evenness: float = 5e-3
    mass_kg: float | None = None
    held_out_share: float = 0.12
    start_velocity_m_per_s: tuple[float, float, float] | None = None
    fit_velocity: bool = True
    image_pixels: int = 320 * 240
    motion_pixels: int = 128 * 96
    dssim: float = 0.05
    mask_weight: float = 0.5
    centre_weight: float = 0.5
    parity: bool = False
    static_steps: int | None = None
    dynamic_steps: int | None = None

    def __post_init__(self) -> None:
        least = {
            "gaussians": 50, "anchors": 20, "neighbours": 4, "certain": 1, "bind_neighbours": 1,
            "image_pixels": 400, "motion_pixels": 400,
        }  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise _wrong(name, getattr(self, name), f"{low} or more")
        if self.certain > self.neighbours:
            raise _wrong("certain", self.certain, f"at most neighbours, {self.neighbours}")
        if not 0.0 < self.held_out_share < 0.5:
            raise _wrong("held_out_share", self.held_out_share, "more than 0, less than 0.5")
        if not 0.0 <= self.dssim <= 1.0:
            raise _wrong("dssim", self.dssim, "0 to 1")
        for name in ("law_power", "bind_power", "evenness", "mask_weight", "centre_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise _wrong(name, value, "0 or more")
        if self.mass_kg is not None and not (math.isfinite(self.mass_kg) and self.mass_kg > 0.0):
            raise _wrong("mass_kg", self.mass_kg, "more than 0 kg")
        if self.steps("static") < 1 or self.steps("dynamic") < 0:
            raise _wrong("static_steps, dynamic_steps", self.dynamic_steps, "1 and 0, or more")

    def steps(self, stage: Stage) -> int:
        """Of a stage.

        Args:
            stage: which.

        Returns:
            How many.
        """
        given = {"static": self.static_steps, "dynamic": self.dynamic_steps}.get(stage)
        return _STEPS[self.budget][stage] if given is None else given

    def ground(self, plane: GroundPlane | None, dt_s: float) -> GroundPlane | None:
        """The ground that anchors meet.

        Args:
            plane: where it is, or None.
            dt_s: time between frames [s]; with `parity` the factor counts for a hundredth of it,
                the authors' substep.

        Returns:
            The plane with the law of this job.
        """
        if plane is None or not self.parity:
            return plane
        step_s = dt_s / _AUTHORS_SUBSTEPS
        return dataclasses.replace(plane, law=GroundLaw.FACTOR, factor_step_s=step_s)


def _wrong(name: str, value: object, expected: str) -> DataError:
    return DataError(
        f"{name} = {value}",
        where=f"SpringGausConfig.{name}",
        expected=expected,
        fix=f"change {name}",
    )
