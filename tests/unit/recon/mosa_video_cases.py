"""Soft bodies that fall, made by finite elements, filmed by drawing Gaussians on their surface."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from video_cases import GROUND, filmed, ring_of_cameras

from physgym.camera import PinholeCamera
from physgym.cell.fem_bodies import TetBody, box
from physgym.cell.fem_material import FemMaterial
from physgym.cell.fem_recording import MotionRecording
from physgym.cell.fem_scenes import drop
from physgym.splats.cloud import GaussianCloud
from recon.identify.video_scene import VideoScene
from recon.splats.static import initial_cloud
from recon.splats.video import PosedVideo, make_video

FPS = 60.0


@dataclass
class FilmedDrop:
    """What really happens, and what is filmed of it."""

    recording: MotionRecording
    cloud: GaussianCloud
    points: np.ndarray  # (T, G, 3), on the surface
    images: list[list[np.ndarray]]
    masks: list[list[np.ndarray]]
    cameras: list[PinholeCamera]
    time_s: np.ndarray

    def video(self, frames: int | None = None) -> PosedVideo:
        cut = slice(0, frames)
        return make_video(
            [i[cut] for i in self.images], [m[cut] for m in self.masks],
            self.cameras, self.time_s[cut], name="fem",
        )  # fmt: skip

    def scene(self, video: PosedVideo) -> VideoScene:
        """World and clock alone."""
        return VideoScene.plain(video, ground=GROUND)


def on_surface(faces: np.ndarray, nodes: np.ndarray, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Points inside of triangles: the triangle of each, and its shares of the corners."""
    corner = nodes[faces]
    area = np.linalg.norm(
        np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1
    )
    rng = np.random.default_rng(2)
    which = rng.choice(len(faces), size=each, p=area / area.sum())
    share = rng.dirichlet([1.0, 1.0, 1.0], size=each)
    return which, share


def filmed_drop(
    body: TetBody,
    material: FemMaterial,
    *,
    frames: int,
    height_m: float,
    velocity: tuple[float, float, float] = (0.15, 0.0, -0.8),
    quat_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0),
    friction: float = 0.3,
    cameras: int = 4,
    width: int = 96,
    gaussians: int = 1500,
) -> FilmedDrop:
    """Drop a body, and film it with colours in patches of 2 cm."""
    made = drop(
        body, material, height_m=height_m, velocity_m_per_s=velocity, quat_wxyz=quat_wxyz,
        frames=frames, fps=FPS, friction=friction,
    )  # fmt: skip
    which, share = on_surface(made.faces, made.rest, gaussians)
    rest = np.einsum("gk,gki->gi", share, made.rest[made.faces[which]])
    points = np.einsum("gk,tgki->tgi", share, made.points[:, made.faces[which]])
    patch = np.floor((rest + 1.0) / 0.02).astype(int) % 3
    corner = made.rest[made.faces]
    across = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    radius = np.sqrt(0.5 * np.linalg.norm(across, axis=1).sum() / gaussians)
    cloud = initial_cloud(
        points[0], np.array([0.15, 0.5, 0.9])[patch], radius_m=0.7 * radius, opacity=0.95
    )
    rig = ring_of_cameras(cameras, width, target_m=0.06)
    images, masks = filmed(cloud, torch.as_tensor(points), rig)
    return FilmedDrop(made, cloud, points, images, masks, rig, made.time_s + 5.0)


@cache
def soft_box() -> FilmedDrop:
    """A box that lands on its lower side and slides on as it bounces, by more than its length."""
    return filmed_drop(
        box((0.10, 0.08, 0.06), 0.02), FemMaterial(2e4, 0.3, 500.0), frames=22, height_m=0.06,
        velocity=(0.6, 0.0, -0.8), friction=0.05,
    )  # fmt: skip
