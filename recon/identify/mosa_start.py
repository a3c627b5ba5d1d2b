"""Velocity and spin in frame 0 of a video, for MoSA from images.

Masks tell where the body goes, dynamic Gaussians how it turns, and the images before contact tell
both better. Shapes: G Gaussians.
"""

from __future__ import annotations

import numpy as np
import torch

from physgym.errors import DataError
from recon.identify.handling import Handling
from recon.identify.motion import Motion
from recon.identify.progress import Progress
from recon.identify.start_velocity import StartVelocity, fit_start_velocity
from recon.identify.video_loss import LossWeights, VideoLoss
from recon.identify.video_scene import VideoScene
from recon.identify.video_start import find_flight
from recon.splats.dynamic_cloud import DynamicCloud
from recon.splats.video import PosedVideo

__all__ = ["film_start"]

_STEPS = 40
_FEW = 500  # particles that tell where the centre of a body is
_RATE = 0.02  # of Adam: of the body's size, and radians, at the last free frame
# The middle of a silhouette moves as the body turns; the images themselves do not mind.
_WEIGHTS = LossWeights(centre=0.0)


def film_start(
    video: PosedVideo,
    scene: VideoScene,
    moving: DynamicCloud,
    motion: Motion,
    progress: Progress,
) -> StartVelocity:
    """How the body moves in frame 0.

    Args:
        video: frames that are learned from.
        scene: world and clock.
        moving: dynamic Gaussians of the video.
        motion: made of them, with the filled body.
        progress: told about every step.

    Returns:
        Velocity of the body's centre and spin around it; none where it stands at the start.

    Raises:
        DataError: if it is in flight but only the first frame is free.
    """
    # Gaussians where no camera sees may lie too deep; the body does not.
    body = motion.solid.fill(_FEW).position
    flight = find_flight(video, scene, body, Handling([], [], scene.clock.ticks))
    centre = body.mean(axis=0)
    if not flight.free:
        progress.say("the body stands at the start")
        return StartVelocity(np.zeros(3), np.zeros(3), centre, 0)
    try:
        spin = fit_start_velocity(motion).angular_rad_per_s
    except DataError:  # too few free frames to see the body turn
        spin = np.zeros(3)
    guess = StartVelocity(flight.velocity_m_per_s, spin, centre, flight.contact)
    found = _polished(VideoLoss(video, moving.cloud, _WEIGHTS), guess, scene, progress)
    x, y, z = found.linear_m_per_s
    turns = np.linalg.norm(found.angular_rad_per_s)
    progress.say(
        f"it flies with ({x:.2f}, {y:.2f}, {z:.2f}) m/s and {turns:.2f} rad/s up to frame "
        f"{flight.contact}"
    )
    last = len(scene.tick) - 1
    contact = int(scene.tick[flight.contact]) if flight.contact <= last else scene.clock.ticks
    return StartVelocity(found.linear_m_per_s, found.angular_rad_per_s, centre, contact)


def _polished(
    loss: VideoLoss, guess: StartVelocity, scene: VideoScene, progress: Progress
) -> StartVelocity:
    """Adam on the images before contact; the best of its way."""
    time = scene.clock.dt_s * scene.tick
    frames = range(1, guess.contact_frame)
    span = float(time[guess.contact_frame - 1])
    rest, centre = loss.cloud.mean, torch.as_tensor(guess.centre_m, dtype=torch.float32)
    arm = rest - centre
    size = float((rest.amax(dim=0) - rest.amin(dim=0)).max())
    gravity = torch.as_tensor(scene.gravity, dtype=torch.float32)
    linear, spin = (
        torch.tensor(value, dtype=torch.float32, requires_grad=True)
        for value in (guess.linear_m_per_s, guess.angular_rad_per_s)
    )
    groups = [(linear, _RATE * size / span), (spin, _RATE / span)]
    adam = torch.optim.Adam([{"params": [p], "lr": rate} for p, rate in groups])
    best, lowest = (guess.linear_m_per_s, guess.angular_rad_per_s), float("inf")
    with progress.stage("start velocity", _STEPS) as tick:
        for step in range(_STEPS + 1):
            total = 0.0
            for t in frames:
                s = float(time[t])
                placed = centre + arm @ _turn(spin * s).T + s * linear + 0.5 * s * s * gravity
                part = loss.frame(t, placed) / len(frames)
                part.backward()
                total += float(part.detach())
            if total < lowest:
                lowest = total
                best = tuple(p.detach().double().numpy().copy() for p in (linear, spin))
            for group, (_, rate) in zip(adam.param_groups, groups):
                group["lr"] = rate * 0.5 * (1.0 + np.cos(np.pi * step / (_STEPS + 1)))
            adam.step()
            adam.zero_grad()
            tick(step, lowest)
    return StartVelocity(*best, guess.centre_m, guess.contact_frame)


def _turn(angle: torch.Tensor) -> torch.Tensor:
    """The rotation by a vector [rad], shape (3, 3); differentiable."""
    x, y, z = angle
    none = torch.zeros_like(x)
    cross = torch.stack([none, -z, y, z, none, -x, -y, x, none]).reshape(3, 3)
    return torch.linalg.matrix_exp(cross)
