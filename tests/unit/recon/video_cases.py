"""A block of springs that falls, filmed by drawing Gaussians on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from perception_scene import camera_at

from physgym.camera import PinholeCamera
from physgym.sim.contact import GroundPlane
from physgym.splats.cloud import GaussianCloud
from physgym.splats.rasterize import rasterize
from physgym.splats.skinning import bind, inverse_distance
from recon.identify.anchor_rollouts import AnchorBody, AnchorPhysics, AnchorRollouts
from recon.identify.anchors import anchor_springs, volume_sample
from recon.identify.video_scene import VideoScene
from recon.splats.static import initial_cloud
from recon.splats.video import PosedVideo, make_video

DT_S = 1 / 60
HALF_M = np.array([0.05, 0.04, 0.03])
GROUND = GroundPlane()
MASS_KG = 0.2


def block_cloud(spacing_m: float = 0.01, height_m: float = 0.12) -> GaussianCloud:
    """Gaussians on the faces of a block, in coloured patches."""
    axes = [np.arange(-h, h + 1e-9, spacing_m) for h in HALF_M]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    shell = grid[(np.abs(grid) > HALF_M - 0.5 * spacing_m).any(axis=1)]
    patch = np.floor(shell / 0.025).astype(int) % 3
    colours = np.array([0.15, 0.5, 0.9])[patch]
    cloud = initial_cloud(
        np.add(shell, (0.0, 0.0, HALF_M[2] + height_m)),
        colours,
        radius_m=0.6 * spacing_m,
        opacity=0.95,
    )
    return cloud


def ring_of_cameras(count: int = 3, width: int = 96, target_m: float = 0.08) -> list[PinholeCamera]:
    turn = 2 * np.pi * np.arange(count) / count + 0.3
    return [
        camera_at(
            [0.38 * np.cos(a), 0.38 * np.sin(a), 0.12 + 0.12 * i], [0, 0, target_m],
            width=width, name=f"camera{i}",
        )
        for i, a in enumerate(turn)
    ]  # fmt: skip


@dataclass
class Drop:
    """What really happens, and what is filmed of it."""

    cloud: GaussianCloud
    rollouts: AnchorRollouts
    physics: AnchorPhysics
    anchors: torch.Tensor  # (T, A, 3)
    means: torch.Tensor  # (T, G, 3)
    images: list[list[np.ndarray]]
    masks: list[list[np.ndarray]]
    cameras: list[PinholeCamera]
    time_s: np.ndarray

    def video(self, frames: int | None = None, **more) -> PosedVideo:
        cut = slice(0, frames)
        return make_video(
            [i[cut] for i in self.images], [m[cut] for m in self.masks],
            self.cameras, self.time_s[cut], name="drop", **more,
        )  # fmt: skip

    def scene(self, video: PosedVideo, noise_m: float = 5e-4) -> VideoScene:
        """World and clock, and the surface of frame 0 as depth cameras see it."""
        rng = np.random.default_rng(4)
        at = self.cloud.mean.double().numpy()
        plain = VideoScene.plain(video, ground=GROUND)
        return dataclasses.replace(plain, surface=at + rng.normal(0, noise_m, at.shape))


def filmed(
    cloud: GaussianCloud, means: torch.Tensor, cameras: list[PinholeCamera]
) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """Images and masks of a moving cloud, C of T."""
    images: list[list[np.ndarray]] = [[] for _ in cameras]
    masks: list[list[np.ndarray]] = [[] for _ in cameras]
    with torch.no_grad():
        for mean in means:
            drawn = rasterize(cloud.replace(mean=mean.float()), cameras)
            for c in range(len(cameras)):
                rgb = (255 * drawn.rgb[c].clamp(0, 1)).round().to(torch.uint8).numpy()
                images[c].append(rgb)
                masks[c].append(drawn.alpha[c].numpy() > 0.5)
    return images, masks


def drop(
    *,
    stiffness_n: float = 1.0,
    anchors: int = 120,
    frames: int = 26,
    velocity: tuple[float, float, float] = (0.15, 0.0, -0.8),
    cameras: int = 3,
    width: int = 96,
    height_m: float = 0.05,
    log_offset: np.ndarray | None = None,
    dashpot_ns_per_m: float = 0.01,
) -> Drop:
    cloud = block_cloud(height_m=height_m)
    at = volume_sample(cloud.mean.double().numpy(), anchors)
    springs = anchor_springs(at, neighbours=24, certain=8)
    gravity = np.array([0.0, 0.0, -9.81])
    body = AnchorBody(at, springs, MASS_KG, 0.5, gravity, GROUND, np.zeros(len(at), bool))
    rollouts = AnchorRollouts(body, [], [], DT_S, frames)
    log_k = np.full(len(at), np.log(stiffness_n)) + (0.0 if log_offset is None else log_offset)
    physics = AnchorPhysics(
        torch.as_tensor(log_k)[None],
        torch.zeros((), dtype=torch.float64),
        torch.tensor([dashpot_ns_per_m]),
        torch.tensor([0.4]),
        torch.tensor([0.02]),
    )
    with torch.no_grad():
        moved = rollouts(physics, torch.tensor(velocity), frames)[0]
        binding = bind(cloud.mean.double(), torch.as_tensor(at), neighbours=16, power=0.5)
        means = torch.stack([inverse_distance(binding, x) for x in moved])
    rig = ring_of_cameras(cameras, width)
    images, masks = filmed(cloud, means, rig)
    time_s = 5.0 + DT_S * np.arange(frames)
    return Drop(cloud, rollouts, physics, moved, means, images, masks, rig, time_s)
