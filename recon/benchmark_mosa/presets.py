"""Global parameters of PAC-NeRF's materials, recovered from motion alone.

As in PAC-NeRF (Li 2023) the truth is a simulation by the material point method on the grid of the
identification, with other particles; and once more on a finer grid, which brings in how far the
coarse one is from converged. Fluids are left out: `MosaConfig` has no fluid prior.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physgym.frames import matrix_from_quat_wxyz
from physgym.sim.contact import GroundPlane
from physgym.sim.mpm.material import PRESETS, Preset
from physgym.sim.mpm.model import MpmParameters
from physgym.sim.mpm.sampling import fill_box
from recon.benchmark_mosa.fits import fit_backbone
from recon.benchmark_mosa.settings import Settings
from recon.identify.mosa_scene import Scene
from recon.identify.motion import Motion
from recon.identify.progress import Progress
from recon.identify.solid import Filling
from recon.identify.start_velocity import StartVelocity

__all__ = ["preset_motion", "recover"]

# A block in cells of the preset's own grid, so that its size follows the scene's (toothpaste is a
# tenth of the others); three unequal sides, turned, so that it lands on an edge and topples.
_SIDES = (16.0, 10.0, 13.0)
_QUAT = (math.cos(0.25), 0.6 * math.sin(0.25), 0.8 * math.sin(0.25), 0.0)
_FREE_FRAMES = 4.6  # of fall: the contact comes in the fifth frame, as in PAC-NeRF
_FRAMES = 16
_DENSITY = 1000.0
_FRICTION, _GAP_CELLS = 0.4, 0.0
_GRIDS = {"same grid": 1, "finer grid": 3}  # times as many particles in the truth
_JITTER = 0.5  # of the truth's particles, so that they are not those of the identification
_TRACKED = 250

_DIFFERENCES = ("poisson_ratio", "friction_angle_rad")  # errors are not relative


def recover(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Identify the global parameters of every preset.

    Args:
        settings: sizes.
        folder: where fits are kept.
        progress: told how it goes.

    Returns:
        By preset and grid of the truth: ``parameters`` by name, each with ``truth``, ``found``,
        ``error`` (found over truth minus 1; found minus truth of Poisson's ratio and of angles) and
        ``sigma`` (or None); ``seconds``; ``verified`` (False where the published truth was
        remembered).
    """
    made: dict[str, Any] = {}
    for name in settings.presets:
        for grid in _GRIDS:
            progress.say(f"preset {name}, {grid}")
            at = folder / name / grid.replace(" ", "_")
            made.setdefault(name, {})[grid] = _recover(name, grid, settings, at, progress)
    return made


def _recover(
    name: str, grid: str, settings: Settings, folder: Path, progress: Progress
) -> dict[str, Any]:
    preset = PRESETS[name]
    config = settings.config(
        prior=preset.material.law.value,
        return_map=preset.material.return_map.value,
        density_kg_per_m3=_DENSITY,
    )
    fit = fit_backbone([preset_motion(name, grid, settings)], config, folder, progress)
    parameters = {}
    for key, truth in preset.values.items():
        found = float(np.mean(fit.twin.parameters[key]))
        sigma = fit.twin.uncertainty.get(key)
        parameters[key] = {
            "truth": truth,
            "found": found,
            "error": found - truth if key in _DIFFERENCES else found / truth - 1.0,
            "sigma": None if sigma is None else float(sigma),
        }
    return {"parameters": parameters, "seconds": fit.seconds, "verified": preset.verified}


def preset_motion(name: str, grid: str, settings: Settings) -> Motion:
    """A block of a preset's material that falls on an edge.

    Args:
        name: of the preset.
        grid: of the truth, ``"same grid"`` as the identification's or ``"finer grid"``.
        settings: sizes.

    Returns:
        Its motion.
    """
    preset = PRESETS[name]
    motion, start = _unmoved(preset, name, settings)
    filling = _jittered(motion.solid.fill(_GRIDS[grid] * settings.particles), settings.seed)
    scene = Scene(motion, start, filling, motion.start_pose(), material=preset.material, whole=True)
    values = {**preset.values, "density_kg_per_m3": _DENSITY, "friction": _FRICTION}
    with torch.no_grad():
        seen = scene.simulate(MpmParameters.of(values), torch.tensor([_GAP_CELLS]), _FRAMES)
    return dataclasses.replace(motion, position=seen.tracks[0].double().numpy())


def _jittered(filling: Filling, seed: int) -> Filling:
    shift = np.random.default_rng([seed, 22]).uniform(-0.5, 0.5, filling.position.shape)
    moved = filling.position + _JITTER * filling.spacing_m * shift
    return filling._replace(position=moved)


@dataclass(frozen=True, eq=False)
class _Block:
    """A box around the origin, a `recon.identify.solid.Solid`.

    Attributes:
        half_m: half sides [m], shape (3,).
    """

    half_m: np.ndarray

    @property
    def volume_m3(self) -> float:
        """Of the block [m^3]."""
        return float(np.prod(2.0 * self.half_m))

    def fill(self, count: int) -> Filling:
        """About so many particles that fill it evenly."""
        x, y, z = (float(side) for side in self.half_m)
        spacing = (self.volume_m3 / count) ** (1.0 / 3.0)
        points, each = fill_box((-x, -y, -z), (x, y, z), spacing)
        return Filling(points, np.full(len(points), each), each ** (1.0 / 3.0))


def _unmoved(preset: Preset, name: str, settings: Settings) -> tuple[Motion, StartVelocity]:
    """The block where it starts, in all frames."""
    half = 0.5 * preset.spacing_m * np.array(_SIDES)
    rng = np.random.default_rng([settings.seed, 21])
    rest = rng.uniform(-half, half, (_TRACKED, 3))
    turn = matrix_from_quat_wxyz(np.array(_QUAT))
    time = _FREE_FRAMES * preset.frame_dt_s
    # The fall takes so many frames; where that is too low for the block, it is thrown down.
    height = max(0.5 * 9.81 * time**2, float(half.max()))
    speed = (height - 0.5 * 9.81 * time**2) / time
    lowest = -float(np.abs(turn[2]) @ half)
    placed = rest @ turn.T + np.array([0.0, 0.0, height - lowest])
    motion = Motion(
        name,
        preset.frame_dt_s,
        np.broadcast_to(placed, (_FRAMES, *placed.shape)).copy(),
        rest,
        _Block(half),
        ground=GroundPlane(),
        density_kg_per_m3=_DENSITY,
    )
    velocity = np.array([0.0, 0.0, -speed])
    return motion, StartVelocity(
        velocity, np.zeros(3), placed.mean(axis=0), math.ceil(_FREE_FRAMES)
    )
