"""Blocks that are soft on one side, moved by finite elements and filmed by drawing Gaussians."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from video_cases import GROUND, filmed, ring_of_cameras

from physgym.cell.fem_bodies import box
from physgym.cell.fem_material import FemMaterial
from physgym.cell.fem_scenes import drop
from physgym.splats.cloud import GaussianCloud
from recon.identify.video_scene import VideoScene
from recon.splats.static import initial_cloud
from recon.splats.video import PosedVideo, make_video

SIZE_M = (0.10, 0.08, 0.06)
FPS = 60.0
RATIO = 8.0  # of the halves' moduli
DENSITY = 400.0  # [kg/m^3]
MASS_KG = DENSITY * 0.10 * 0.08 * 0.06


@dataclass(frozen=True)
class Halves(FemMaterial):
    """Two materials: the factor steps from one end's to the other's in the middle."""

    def stiffness_factor(self, points: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        assert self.gradient_direction is not None
        axis = np.array(self.gradient_direction)
        middle = 0.5 * (np.min(nodes @ axis) + np.max(nodes @ axis))
        return np.where(points @ axis < middle, *self.gradient_ends)


@dataclass
class UnevenDrop:
    """What really happens, and what is filmed of it."""

    cloud: GaussianCloud
    points: np.ndarray  # (T, G, 3), the surface's nodes
    soft: np.ndarray  # direction from the stiff to the soft half
    centre: np.ndarray
    images: list[list[np.ndarray]]
    masks: list[list[np.ndarray]]
    cameras: list
    time_s: np.ndarray

    def video(self, frames: int | None = None) -> PosedVideo:
        cut = slice(0, frames)
        return make_video(
            [i[cut] for i in self.images], [m[cut] for m in self.masks],
            self.cameras, self.time_s[cut], name="uneven",
        )  # fmt: skip

    def scene(self, video: PosedVideo, noise_m: float = 5e-4) -> VideoScene:
        """World and clock, and the surface of frame 0 as depth cameras see it."""
        rng = np.random.default_rng(4)
        at = self.points[0] + rng.normal(0, noise_m, self.points[0].shape)
        return dataclasses.replace(VideoScene.plain(video, ground=GROUND), surface=at)

    def in_soft(self, points: np.ndarray) -> np.ndarray:
        """Which points of frame 0 are in the soft half."""
        return (points - self.centre) @ self.soft > 0.0


def uneven_drop(
    axis: tuple[float, float, float],
    *,
    soft_pa: float = 6e3,
    ratio: float = RATIO,
    height_m: float = 0.045,
    velocity: tuple[float, float, float] = (0.1, 0.0, -1.0),
    quat_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0),
    frames: int = 30,
    cell_m: float = 0.01,
    width: int = 96,
    damping_s: float = 5e-4,
) -> UnevenDrop:
    """A drop of a block that is soft at the lower end of an axis and stiff at the other."""
    # Neo-Hookean, nu = 0.25 as that of an isotropic network of springs.
    material = Halves(
        young_pa=soft_pa, poisson_ratio=0.25, density_kg_per_m3=DENSITY,
        gradient_direction=axis, gradient_ends=(1.0, ratio), damping_s=damping_s,
    )  # fmt: skip
    made = drop(
        box(SIZE_M, cell_m), material, height_m=height_m, velocity_m_per_s=velocity,
        quat_wxyz=quat_wxyz, frames=frames, fps=FPS,
    )  # fmt: skip
    points = made.points[:, made.surface]
    patch = np.floor((made.rest[made.surface] + 1.0) / 0.025).astype(int) % 3
    cloud = initial_cloud(
        points[0], np.array([0.15, 0.5, 0.9])[patch], radius_m=0.6 * cell_m, opacity=0.95
    )
    rig = ring_of_cameras(4, width, target_m=0.06)
    images, masks = filmed(cloud, torch.as_tensor(points), rig)
    soft = -made.rotation @ np.array(axis)
    time_s = made.time_s + 5.0
    return UnevenDrop(
        cloud, points, soft, points[0].mean(axis=0), images, masks, rig, time_s
    )  # fmt: skip
