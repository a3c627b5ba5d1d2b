"""The objects of the benchmark of looks: how they are recorded, and who learns from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from physgym.cell.depth_noise import DepthNoiseConfig
from physgym.cell.soft_config import SoftCellConfig
from recon.benchmark_looks.film import Fall, FallSource, HalvesMaterial
from recon.capture.simulated import SimSource, SimulatedRecording
from recon.capture.sources import Source
from recon.compare import Contestant

__all__ = ["HALF_FACTORS", "OBJECTS", "Setting", "contestants_of_object", "source_of"]

OBJECTS = ("drop", "halves", "lift")
"""Their names."""

HALF_FACTORS = (2.0, 0.35)
"""Stiffness of the two halves over the block's, lower x first: a factor of six between them."""

# Soft enough that an impact at 1 m/s presses the body by a tenth of its height, as Spring-Gaus's
# objects are; sponge and gel have some kPa, and weigh more than foam.
_DROP_PA, _HALVES_PA, _LIFT_PA = 4e3, 5e3, 5e3
_DENSITY = 200.0
# A hundredth or less of the slowest mode's period: both bodies still move when the recording ends,
# so that what rests where it landed is no good guess.
_DAMPING_S = {"drop": 1e-3, "halves": 5e-4}
_HALVES_SIZE_M, _HALVES_SPACING_M = (0.12, 0.08, 0.14), 0.0155
# MoSA's 5000 particles take half an hour on a busy core. 2000 misjudge the stiffness by more than
# a fifth (docs/methods/mosa.md), the motion by less.
_USUAL: dict[str, dict[str, Any]] = {
    "phystwin": {},
    "spring-gaus": {},
    "mosa": {"particles": 2000},
}
# Small, few and short: nothing that comes out of it is a figure. With fewer nodes or frames, jaws
# hold nothing, or hold it before three frames show it at rest.
_QUICK: dict[str, dict[str, Any]] = {
    "phystwin": {"nodes": 100, "substeps_per_frame": 20},
    "spring-gaus": {
        "anchors": 100, "gaussians": 300, "static_steps": 30, "dynamic_steps": 5,
        "neighbours": 16, "certain": 6, "image_pixels": 4000, "motion_pixels": 1000,
    },
    "mosa": {"particles": 300, "stages": ["velocity", "prior"], "substeps_per_s": 6000.0},
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """How large and long everything is.

    Attributes:
        quick: for a look, not for figures.
        seed: of all random numbers.
    """

    quick: bool = False
    seed: int = 0

    @property
    def frames(self) -> int:
        """T."""
        return 24 if self.quick else 30

    @property
    def train(self) -> int:
        """Frames that are learned from."""
        return 16 if self.quick else 20

    @property
    def emd_points(self) -> int:
        """Points of a cloud in EMD."""
        return 200 if self.quick else 1000


def source_of(name: str, setting: Setting) -> Source:
    """What records an object.

    Args:
        name: one of `OBJECTS`.
        setting: how large and long.

    Returns:
        The source, not started.
    """
    if name == "lift":
        fps = 15
        cell = _cell("toy", setting, young_pa=_LIFT_PA, fov_deg=65.0)
        return SimSource(SimulatedRecording(cell, "lift", setting.frames / fps, fps, setting.seed))
    uneven = name == "halves"
    material = HalvesMaterial(
        _HALVES_PA if uneven else _DROP_PA,
        poisson_ratio=0.3,
        density_kg_per_m3=_DENSITY,
        damping_s=_DAMPING_S[name],
        half_factors=HALF_FACTORS if uneven else (1.0, 1.0),
    )
    cell = _cell("block" if uneven else "toy", setting, fov_deg=45.0)
    if uneven:
        cell = dataclasses.replace(cell, size_m=_HALVES_SIZE_M, spacing_m=_HALVES_SPACING_M)
    # From rest, seven frames before contact; quick: four, so that sixteen see a bounce.
    height_m = 0.02 if setting.quick else 0.06
    return FallSource(
        Fall(cell, material, height_m=height_m, frames=setting.frames, seed=setting.seed)
    )


def _cell(
    kind: str, setting: Setting, *, fov_deg: float, young_pa: float | None = None
) -> SoftCellConfig:
    width, height, cameras = (160, 120, 2) if setting.quick else (320, 240, 4)
    return SoftCellConfig(
        kind=kind,
        young_pa=young_pa,
        gripper_count=1,
        camera_count=cameras,
        camera_width=width,
        camera_height=height,
        camera_fov_deg=fov_deg,
        look_at_m=(0.0, 0.0, 0.08),
        depth_noise=DepthNoiseConfig(),
    )


def contestants_of_object(name: str, setting: Setting) -> list[Contestant]:
    """Every method, and Spring-Gaus with one stiffness where the body has two.

    Args:
        name: one of `OBJECTS`.
        setting: how large and long.

    Returns:
        Rows of the table.
    """
    made = [
        Contestant(method, method, _QUICK[method] if setting.quick else _USUAL[method])
        for method in ("phystwin", "spring-gaus", "mosa")
    ]
    if name == "halves":
        single = {**made[1].options, "per_anchor": False}
        made.insert(2, Contestant("spring-gaus single", "spring-gaus", single))
    return made
