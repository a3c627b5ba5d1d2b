"""From what the stages of MoSA found to a twin."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from physgym import __version__
from physgym.frames import T_from_parts
from physgym.sim.mpm.collider import Collider, Condition
from physgym.sim.mpm.model import MpmModel, MpmParameters
from physgym.sim.mpm.twins import twin_of_mpm
from physgym.twin import Twin
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_coordinates import Coordinates
from recon.identify.mosa_networks import Learned
from recon.identify.mosa_problem import Window
from recon.identify.mosa_scene import Scene
from recon.identify.motion import Pose
from recon.identify.motion_losses import LocalFrames
from recon.identify.start_velocity import StartVelocity

__all__ = ["TwinParts", "make_twin"]


@dataclass(frozen=True, eq=False)
class TwinParts:
    """What a twin is made of.

    Attributes:
        config: of the job.
        scenes: of every motion; the first is the one that the twin begins with.
        windows: of every motion.
        starts: of every motion.
        reference: from the body's own frame to the twin's rest pose.
        coordinates: of the global parameters.
        learned: their values, adapter and field.
        covariance: of the coordinates at the isotropic prior, shape (D, D), or None.
        history: cost after each stage.
        report: held-out loss with and without the parts, relative to the isotropic prior.
        stopped: Ctrl-C ended the search.
    """

    config: MosaConfig
    scenes: list[Scene]
    windows: list[Window]
    starts: list[StartVelocity]
    reference: Pose
    coordinates: Coordinates
    learned: Learned
    covariance: np.ndarray | None
    history: dict[str, float]
    report: dict[str, float]
    stopped: bool


def make_twin(parts: TwinParts, name: str) -> Twin:
    """The twin, without metrics.

    Args:
        parts: what was found.
        name: of the twin.

    Returns:
        A twin of dynamics ``mpm`` whose rest pose is the body's in the first frame.
    """
    scene, learned = parts.scenes[0], parts.learned
    motion = scene.motion
    with torch.no_grad():
        parameters, gap = parts.coordinates.parameters(learned.theta.detach()[None])
        if learned.field is not None:
            rest = torch.as_tensor(scene.rest, dtype=torch.float32)
            parameters = parameters.replace(heterogeneity=learned.field.factors(rest))
    colliders: tuple[Collider, ...] = ()
    if motion.ground is not None:
        x, y, z = motion.ground.normal
        ground = Collider.ground(
            motion.ground.offset_m, normal=(x, y, z), condition=Condition.PENALTY
        )
        colliders = (ground,)
    model: MpmModel = dataclasses.replace(scene.model(), colliders=colliders, domain_m=None)
    surface = None if motion.surface is None else parts.reference.apply(motion.surface)
    # Start velocities are those of the centre of mass: twins turn about it.
    centre = np.average(scene.rest, axis=0, weights=model.volume_m3)
    return twin_of_mpm(
        name=name,
        kind=motion.kind,
        method="mosa",
        model=model,
        parameters=parameters,
        adapter=learned.adapter,
        field=learned.field,
        start_velocity_m_per_s=parts.starts[0].at(centre),
        start_spin_rad_per_s=parts.starts[0].angular_rad_per_s,
        surface_position_m=None if surface is None else surface.astype(np.float32),
        handling={"grip_radius_m": scene.spacing_m},
        ground_gap_m=float(gap[0]) * scene.spacing_m,
        uncertainty=_uncertainty(parts, parameters),
        provenance=_provenance(parts, float(gap[0])),
        validity=_validity(parts),
    )


def _uncertainty(parts: TwinParts, parameters: MpmParameters) -> dict[str, np.ndarray]:
    """One standard deviation of the global parameters (Laplace), linear in the coordinates."""
    if parts.covariance is None:
        return {}
    theta = parts.learned.theta.detach()
    used = {*parts.coordinates.material.used, "density_kg_per_m3"} - {"density_kg_per_m3"}
    if parts.scenes[0].motion.ground is not None:
        used.add("friction")

    def values(at: torch.Tensor) -> dict[str, float]:
        made = parts.coordinates.parameters(at[None])[0]
        return {key: float(getattr(made, key)[0, 0]) for key in used}

    step = parts.coordinates.prior.step
    moved = [values(theta + torch.as_tensor(row)) for row in np.diag(step)]
    base, found = values(theta), {}
    for key in used:
        slope = np.array([m[key] - base[key] for m in moved]) / step
        variance = float(slope @ parts.covariance @ slope)
        if variance > 0.0 and math.isfinite(variance):
            found[key] = np.array(np.float32(math.sqrt(variance)))
    return found


def _provenance(parts: TwinParts, gap_cells: float) -> dict[str, Any]:
    config, first = parts.config, parts.scenes[0].motion
    assumed = {}
    if config.density_kg_per_m3 is None and config.mass_kg is None:
        assumed["density_kg_per_m3"] = parts.coordinates.density_kg_per_m3
    values = parts.coordinates.values(parts.learned.theta.detach()[None])
    return {
        "physgym": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "train": {
            "episode": first.name,
            "source_sha256": first.source_sha256,
            "train_stop_frame": parts.windows[0].train,
            "fit_stop_frame": parts.windows[0].fit,
            "frames": first.recorded_frames or first.frame_count,
            "contact_frame": parts.starts[0].contact_frame,
        },
        "recordings": [
            {"name": s.motion.name, "source_sha256": s.motion.source_sha256} for s in parts.scenes
        ],
        "prior": config.prior,
        "return_map": config.return_map,
        "stages": list(config.stages),
        "budget": config.budget,
        "seed": config.seed,
        "stopped_early": parts.stopped,
        "assumed": assumed,
        "cost": parts.history,
        "held_out_loss": parts.report,
        "adapter": parts.learned.adapter is not None,
        "heterogeneity": parts.learned.field is not None,
        "ground_gap_cells": gap_cells,
        "at_bound": parts.coordinates.near_bound(parts.learned.theta.detach().numpy()),
        "coordinates": {key: float(value[0]) for key, value in values.items()},
        "T_rest_object": T_from_parts(parts.reference.turn, parts.reference.shift),
        "uncertainty_holds": "density, start velocity and the shape of the body as found",
    }


def _validity(parts: TwinParts) -> dict[str, list[float]]:
    """Ranges of stretch and speed seen, without one sample in a hundred at each end."""
    stretch, speed = [], []
    for scene, window in zip(parts.scenes, parts.windows):
        seen = scene.motion.position[: window.train, scene.points]
        rest = np.asarray(scene.motion.rest)[scene.points]
        f = LocalFrames.of(rest)(torch.as_tensor(seen)).numpy()
        good = np.isfinite(f).all(axis=(-2, -1))
        stretch.append(np.linalg.svd(f[good], compute_uv=False).ravel() - 1.0)
        speed.append(np.linalg.norm(np.diff(seen, axis=0), axis=-1).ravel() / scene.motion.dt_s)
    spans = {}
    for name, values in (("strain", stretch), ("speed_m_s", speed)):
        flat = np.concatenate(values)
        flat = flat[np.isfinite(flat)]
        if len(flat):
            spans[name] = [float(v) for v in np.percentile(flat, [1.0, 99.0])]
    return spans
