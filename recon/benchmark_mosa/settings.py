"""Sizes of the benchmark's jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recon.benchmark_mosa.cylinder import Truth
from recon.identify.mosa_config import MosaConfig

__all__ = ["FULL", "QUICK", "Settings"]


@dataclass(frozen=True)
class Settings:
    """How much work the benchmark is.

    Attributes:
        particles: of every other identification.
        points: tracked points that are compared.
        frames: of a drop, at 60 frames a second.
        cell_m: of the finite elements of the cylinder [m].
        cylinder_particles: of its identification.
        cylinder_budget: of its identification: a curve within 5 % takes more steps than a drop.
        truths: of the cylinder: what makes its motion.
        objects: of the generalisation, by name of `benchmark_objects`.
        ablations: whether parts of the model are left out in turn.
        presets: of PAC-NeRF, by name.
        laws: elastic laws that are tried as prior.
        prior_objects: objects that they are tried on.
        black_box_steps: of the descent of the black box.
        black_box_particles: of its cylinder: it is evaluated in every substep, by slow code.
        seed: of all random numbers.
    """

    particles: int = 6000
    points: int = 150
    frames: int = 30
    cell_m: float = 0.0125
    cylinder_particles: int = 1000
    cylinder_budget: Literal["quick", "full"] = "full"
    truths: tuple[Truth, ...] = ("simulator", "finite elements")
    objects: tuple[str, ...] = ("ball", "cylinder", "ring")
    ablations: bool = True
    presets: tuple[str, ...] = (
        "torus", "bird", "playdoh", "cat", "trophy", "cream", "toothpaste",
    )  # fmt: skip
    laws: tuple[str, ...] = ("linear", "neo-hookean", "fixed-corotated", "stvk")
    prior_objects: tuple[str, ...] = ("ball",)
    black_box_steps: int = 30
    black_box_particles: int = 400
    seed: int = 0

    def config(self, **changes: object) -> MosaConfig:
        """Of an identification: everything recorded is learned from, tests are other recordings.

        Args:
            **changes: fields of `MosaConfig`.

        Returns:
            It.
        """
        given = {
            "budget": "quick", "particles": self.particles, "points": self.points,
            "train_share": 1.0, "seed": self.seed,
        }  # fmt: skip
        return MosaConfig(**{**given, **changes})  # type: ignore[arg-type]


FULL = Settings()
QUICK = Settings(
    particles=500,
    points=100,
    frames=24,
    cell_m=0.02,
    cylinder_particles=400,
    cylinder_budget="quick",
    truths=("simulator",),
    objects=("ball",),
    ablations=False,
    presets=("torus", "playdoh"),
    laws=("neo-hookean", "stvk"),
    black_box_steps=3,
    black_box_particles=300,
)
