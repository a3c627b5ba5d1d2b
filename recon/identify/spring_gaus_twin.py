"""From what the stages of Spring-Gaus found to a twin.

Shapes: T frames, G Gaussians, A anchors, S springs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from physgym import __version__
from physgym.sim.build import law_code
from physgym.sim.contact import GroundLaw
from physgym.sim.spring_mass import ForceLaw
from physgym.splats.cloud import GaussianCloud
from physgym.twin import Twin
from recon.identify.anchor_rollouts import AnchorPhysics
from recon.identify.anchors import asymmetry_of
from recon.identify.spring_gaus_config import SpringGausConfig
from recon.identify.spring_gaus_dynamic import Dynamics
from recon.identify.video_scene import VideoScene
from recon.identify.video_start import Flight
from recon.splats.video import PosedVideo

__all__ = ["TwinParts", "make_twin", "rigid_means"]

_LEAST_RATIO = 1e-6  # of a spring that the soft vector switches off: logarithms are kept
_PUSHER_FRICTION = 0.5  # of boxes in the fit


@dataclass(frozen=True, eq=False)
class TwinParts:
    """What a twin is made of.

    Attributes:
        config: of the job.
        scene: world and clock.
        video: that was learned from.
        cloud: Gaussians in frame 0.
        dynamics: anchors, springs and what is done to them.
        flight: how the body starts.
        values: of the descent, by name.
        fit: first frame that was not fitted.
        train: first frame that was not looked at.
        losses: held-out image loss of the twin and of the baselines.
        scanned: loss by stiffness of the scan.
        stopped: Ctrl-C ended the search.
    """

    config: SpringGausConfig
    scene: VideoScene
    video: PosedVideo
    cloud: GaussianCloud
    dynamics: Dynamics
    flight: Flight
    values: dict[str, np.ndarray]
    fit: int
    train: int
    losses: dict[str, float]
    scanned: dict[str, float]
    stopped: bool


def rigid_means(
    cloud: GaussianCloud, scene: VideoScene, flight: Flight
) -> Callable[[int], torch.Tensor]:
    """The baseline that flies as it started, and stays where it first touches the ground.

    Args:
        cloud: in frame 0.
        scene: world and clock.
        flight: how the body starts.

    Returns:
        From a frame of the video to Gaussians [m], shape (G, 3).
    """
    points, gravity = cloud.mean.double().numpy(), scene.gravity

    def shift(s: float) -> np.ndarray:
        return s * flight.velocity_m_per_s + 0.5 * s * s * gravity

    def at(t: int) -> torch.Tensor:
        if not flight.free:
            return cloud.mean
        last = float(scene.clock.dt_s * scene.tick[t])
        ground = scene.ground
        if ground is not None:
            low = float(np.percentile(points @ np.array(ground.normal), 1.0)) - ground.offset_m
            times = np.linspace(0.0, last, 200)
            below = np.array([low + shift(s) @ np.array(ground.normal) for s in times]) < 0.0
            last = float(times[below.argmax()]) if below.any() else last
        return torch.as_tensor(points + shift(last), dtype=torch.float32)

    return at


def make_twin(parts: TwinParts, name: str) -> Twin:
    """The twin, without metrics.

    Args:
        parts: what was found.
        name: of the twin.

    Returns:
        A twin of dynamics ``spring_mass`` whose rest shape is that of the first frame.
    """
    return Twin(
        name=name,
        kind=parts.scene.kind,
        dynamics="spring_mass",
        method="spring-gaus",
        rest_position=parts.dynamics.rollouts.body.anchors.astype(np.float32),
        driven_index=np.zeros(0, np.int64),
        parameters=_parameters(parts),
        provenance=_provenance(parts),
        validity=_validity(parts),
        splats=parts.cloud,
    )


def _parameters(parts: TwinParts) -> dict[str, Any]:
    body, scene = parts.dynamics.rollouts.body, parts.scene
    values = {k: torch.as_tensor(v) for k, v in parts.values.items()}
    physics = parts.dynamics.physics(values)
    stiffness_n = float(physics.log_stiffness.mean().exp())
    springs = body.springs
    pulls = springs.pulls(physics.log_stiffness, physics.kappa)
    stiffness = pulls.mean(dim=-1)
    natural = parts.dynamics.rollouts.natural_lengths(stiffness)[0].double().numpy()
    ratio = stiffness[0].numpy() / stiffness_n
    made: dict[str, Any] = {
        "force_law": np.array(law_code(ForceLaw.SOFT), np.int32),
        "law_power": np.array(body.law_power),
        "springs": springs.edges,
        "spring_rest_length_m": natural,
        "stiffness_n": np.array(stiffness_n),
        "log_stiffness_ratio": np.log(np.maximum(ratio, _LEAST_RATIO)),
        "dashpot_ns_per_m": physics.dashpot_ns_per_m[0].numpy(),
        "drag_per_s": np.array(0.0),
        "mass_kg": np.array(body.mass_kg),
        "gravity_m_per_s2": scene.gravity,
        "spacing_m": np.array(body.spacing_m),
        "length_exponent": np.array(0.0),
        "grip_radius_m": np.array(body.grip_radius_m),
        "grip_neighbours": np.array(body.grip_neighbours, np.int32),
        "grip_stiffness_ratio": physics.grip_ratio[0].numpy(),
        "pusher_friction": np.array(_PUSHER_FRICTION),
        "surface_position_m": parts.cloud.mean.numpy(),
        "start_velocity_m_per_s": np.asarray(parts.values["velocity"], np.float64),
        "start_spin_rad_per_s": np.zeros(3),
    }
    if body.directed:
        made["spring_asymmetry"] = asymmetry_of(pulls)[0].numpy()
    return made | _ground(parts, physics)


def _ground(parts: TwinParts, physics: AnchorPhysics) -> dict[str, Any]:
    ground = parts.dynamics.rollouts.body.ground
    if ground is None:
        return {}
    made = {
        "ground_normal": np.array(ground.normal),
        "ground_offset_m": np.array(ground.offset_m),
    }
    if ground.law is GroundLaw.COULOMB:
        return made | {
            "friction": physics.friction[0].numpy(),
            "restitution": physics.restitution[0].numpy(),
        }
    return made | {
        "ground_law": np.array(ground.law.value, np.int32),
        "tangential_factor": physics.tangential_factor[0].numpy(),
        "factor_step_s": np.array(ground.factor_step_s),
    }


def _provenance(parts: TwinParts) -> dict[str, Any]:
    config, scene, index = parts.config, parts.scene, parts.video.index
    body = parts.dynamics.rollouts.body
    values = {k: torch.as_tensor(v) for k, v in parts.values.items()}
    physics = parts.dynamics.physics(values)
    stiffness = body.springs.stiffness(physics.log_stiffness, physics.kappa)[0].numpy()
    spread = float(np.std(parts.values["offset"]))
    return {
        "physgym": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "train": {
            "episode": parts.video.name,
            "source_sha256": scene.source_sha256,
            "train_stop_frame": int(index[parts.train - 1]) + 1,
            "fit_stop_frame": int(index[parts.fit]),
            "frames": scene.recorded_frames,
            "contact_frame": int(parts.flight.contact),
        },
        "nodes": "anchors",
        "standing": bool(body.carried.any()),
        "cameras": parts.video.camera_count,
        "budget": config.budget,
        "seed": config.seed,
        "parity": config.parity,
        "stopped_early": parts.stopped,
        "assumed": {} if config.mass_kg is not None else {"mass_kg": body.mass_kg},
        "held_out_loss": _finite(parts.losses),
        "scan_loss": _finite(parts.scanned),
        "kappa": float(parts.values["kappa"]),
        "log_stiffness_spread": spread,
        # Of an even isotropic network; times the volume, which images tell badly.
        "young_times_volume_nm": float(stiffness @ body.springs.rest_length_m) / 6.0,
    }


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {k: float(v) if np.isfinite(v) else None for k, v in values.items()}


def _validity(parts: TwinParts) -> dict[str, list[float]]:
    """Ranges of strain and speed in the motion that fits, without the outermost thousandths."""
    values = {k: torch.as_tensor(v) for k, v in parts.values.items()}
    with torch.no_grad():
        moved = parts.dynamics.anchors(values, parts.train).double().numpy()
    body = parts.dynamics.rollouts.body
    edges, length = body.springs.edges, body.springs.rest_length_m
    strain = np.linalg.norm(moved[:, edges[:, 0]] - moved[:, edges[:, 1]], axis=-1) / length - 1.0
    speed = np.linalg.norm(np.diff(moved, axis=0), axis=-1) / parts.dynamics.rollouts.dt_s
    return {
        key: [float(v) for v in np.percentile(value, [0.1, 99.9])]
        for key, value in (("strain", strain), ("speed_m_s", speed))
    }
