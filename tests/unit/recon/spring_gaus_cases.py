"""The block that falls under Spring-Gaus's loss: its true values."""

from __future__ import annotations

import numpy as np
import torch
from video_cases import DT_S, MASS_KG, Drop

from physgym.splats.skinning import bind
from recon.identify.anchor_rollouts import AnchorRollouts
from recon.identify.spring_gaus_config import SpringGausConfig
from recon.identify.spring_gaus_dynamic import Dynamics
from recon.identify.video_loss import LossWeights, VideoLoss

TRAIN = 11  # up to the top of the first bounce
CONFIG = SpringGausConfig(
    gaussians=600, anchors=100, neighbours=24, certain=8, mass_kg=MASS_KG, static_steps=80,
    dynamic_steps=50,
)  # fmt: skip
VELOCITY = np.array([0.15, 0.0, -0.8])


def dynamics_of(fallen: Drop, frames: int = TRAIN, **more) -> Dynamics:
    """The true network under the loss of the video."""
    video = fallen.video(frames)
    body = fallen.rollouts.body
    binding = bind(
        fallen.cloud.mean.double(), torch.as_tensor(body.anchors), neighbours=16, power=0.5
    )
    loss = VideoLoss(video, fallen.cloud, LossWeights())
    rollouts = AnchorRollouts(body, [], [], DT_S, frames)
    return Dynamics(rollouts, binding, loss, fallen.scene(video).tick, **more)


def true_values(fallen: Drop) -> dict[str, np.ndarray]:
    physics = fallen.physics
    log_k = physics.log_stiffness[0].numpy()
    return {
        "log_stiffness": np.array(log_k.mean()),
        "offset": log_k - log_k.mean(),
        "kappa": np.zeros(()),
        "log_dashpot": np.log(physics.dashpot_ns_per_m[0].numpy()),
        "log_friction": np.log(physics.friction[0].numpy()),
        "logit_restitution": np.log(0.02 / 0.98) * np.ones(()),
        "phi": np.array(-1.0),
        "log_grip": np.zeros(()),
        "velocity": VELOCITY,
    }
