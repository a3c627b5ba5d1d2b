"""An ellipsoid with a pattern that flies, spins, is squashed and bends in a known way, filmed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from perception_scene import camera_at
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from physgym.camera import PinholeCamera
from physgym.splats.cloud import GaussianCloud
from physgym.splats.rasterize import rasterize
from physgym.splats.skinning import deformed
from recon.splats.posed_images import PosedImages
from recon.splats.static import StaticConfig, fit_static, initial_cloud, seen_colours
from recon.splats.video import PosedVideo, make_video

HALF_M = np.array([0.05, 0.04, 0.035])
CENTRE_M = np.array([0.0, 0.0, 0.16])
DT_S = 1 / 30


def directions(count: int) -> np.ndarray:
    """Even directions (a Fibonacci sphere), (N, 3)."""
    z = 1 - 2 * (np.arange(count) + 0.5) / count
    turn = np.pi * (1 + 5**0.5) * np.arange(count)
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)


@dataclass(frozen=True)
class Bend:
    """``x = c + p + R (A (X - c) + k (X - c)_x^2 e_z)`` at a share s of the recording.

    The body falls by its own length, turns by half a radian, is squashed by a quarter and bends.
    """

    fall_m: float = 0.10
    aside_m: float = 0.03
    turn_rad: float = 0.5
    squash: float = 0.25
    bend_per_m: float = 3.0

    def at(self, points: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Places [m] and deformation gradients of points of the first frame."""
        own = points - CENTRE_M
        turn = Rotation.from_rotvec(self.turn_rad * share * np.array([0.3, 1.0, 0.5])).as_matrix()
        squash = 1.0 - self.squash * share
        affine = np.diag([squash**-0.5, squash**-0.5, squash])
        bend = self.bend_per_m * share
        inner = own @ affine.T
        inner[:, 2] += bend * own[:, 0] ** 2
        gradient = np.tile(affine, (len(points), 1, 1))
        gradient[:, 2, 0] += 2 * bend * own[:, 0]
        shift = np.array([self.aside_m * share, 0.0, -self.fall_m * share**2])
        return CENTRE_M + shift + inner @ turn.T, turn @ gradient


def ellipsoid(count: int = 900) -> GaussianCloud:
    """Opaque Gaussians on the ellipsoid, in patches of colour."""
    way = directions(count)
    patch = np.floor((way + 1.0) * 2.4).astype(int)
    colours = 0.15 + 0.7 * ((patch * [1, 2, 3]) % 4) / 3
    return initial_cloud(CENTRE_M + way * HALF_M, colours, radius_m=0.0045, opacity=0.95)


def ring(count: int, *, turn: float = 0.3, width: int = 96) -> list[PinholeCamera]:
    """Cameras around the body, high and low."""
    angles = turn + 2 * np.pi * np.arange(count) / count
    return [
        camera_at(
            [0.42 * np.cos(a), 0.42 * np.sin(a), 0.12 + 0.20 * (i % 2)], [0, 0, 0.12],
            width=width, name=f"camera{turn:.1f}-{i}",
        )
        for i, a in enumerate(angles)
    ]  # fmt: skip


@dataclass(frozen=True)
class Filmed:
    """A video, views from elsewhere, and the cloud that was fitted to its first frame."""

    motion: Bend
    video: PosedVideo
    beside: PosedVideo
    cloud: GaussianCloud

    def truth(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the fitted Gaussians should be, and their deformation gradients."""
        rest = self.cloud.mean.double().numpy()
        return self.motion.at(rest, frame / (len(self.video) - 1))

    def seen(self) -> np.ndarray:
        """Gaussians on the surface, (G,), bool."""
        own = (self.cloud.mean.double().numpy() - CENTRE_M) / HALF_M
        return np.linalg.norm(own, axis=1) > 0.9


def filmed(
    frames: int = 7, cameras: int = 4, *, motion: Bend | None = None, width: int = 96,
    points: int = 500, steps: int = 200,
) -> Filmed:  # fmt: skip
    """Film the ellipsoid, then fit a cloud of other Gaussians to the first frame."""
    motion = motion or Bend()
    body = ellipsoid()
    video = _film(body, motion, ring(cameras, width=width), frames)
    beside = _film(body, motion, ring(2, turn=1.1, width=width), frames)
    rng = np.random.default_rng(3)
    start = CENTRE_M + directions(points) * HALF_M + rng.normal(0, 5e-4, (points, 3))
    views: PosedImages = video.frames[0]
    cloud = fit_static(
        initial_cloud(start, seen_colours(views, start)), views,
        StaticConfig(iterations=steps, densify=None),
    )  # fmt: skip
    return Filmed(motion, video, beside, cloud)


def _film(
    body: GaussianCloud, motion: Bend, cameras: list[PinholeCamera], frames: int
) -> PosedVideo:
    images: list[list[np.ndarray]] = [[] for _ in cameras]
    masks: list[list[np.ndarray]] = [[] for _ in cameras]
    for t in range(frames):
        mean, F = motion.at(body.mean.double().numpy(), t / (frames - 1))
        now = deformed(body, torch.tensor(mean).float(), torch.tensor(F).float())
        with torch.no_grad():
            made = rasterize(now, cameras)
        for c in range(len(cameras)):
            images[c].append((255 * made.rgb[c].clamp(0, 1)).round().to(torch.uint8).numpy())
            masks[c].append(made.alpha[c].numpy() > 0.5)
    return make_video(images, masks, cameras, DT_S * np.arange(frames), name="ellipsoid")


@dataclass(frozen=True)
class CellDrop:
    """A block of soft foam that falls in the simulated cell, and the cloud of its first frame.

    Attributes:
        video: of all cameras but the last.
        beside: of the last.
        cloud: from the depth of the first frame.
        surface: true material points of the surface [m], (T, V, 3).
    """

    video: PosedVideo
    beside: PosedVideo
    cloud: GaussianCloud
    surface: np.ndarray

    def truth(self, frame: int) -> np.ndarray:
        """Where the Gaussians should be: beside the surface points that they began beside."""
        rest = self.cloud.mean.double().numpy()
        distance, near = cKDTree(self.surface[0]).query(rest, k=4)
        weight = 1.0 / (distance + 1e-4)
        weight /= weight.sum(axis=1, keepdims=True)
        shift = (self.surface[frame] - self.surface[0])[near]
        return rest + (weight[..., None] * shift).sum(axis=1)


def cell_drop(frames: int = 14, cameras: int = 4) -> CellDrop:
    """From 8 cm: it lands in frame 8 of 60 a second and is squashed until the last."""
    from physgym.cell.soft import SoftCell
    from physgym.cell.soft_config import SoftCellConfig

    cell = SoftCell(
        SoftCellConfig(
            kind="block", start_height_m=0.08, young_pa=1500.0, camera_count=cameras,
            camera_width=240, camera_height=180, camera_distance_m=0.5, camera_fov_deg=50.0,
            camera_elevation_deg=25.0, gripper_count=1,
        )
    )  # fmt: skip
    images: list[list[np.ndarray]] = [[] for _ in cell.cameras]
    masks: list[list[np.ndarray]] = [[] for _ in cell.cameras]
    surface, points = [], []
    for t in range(frames):
        while cell.time_s < t / 60 - 1e-6:
            cell.step(1 / 240)
        for c, camera in enumerate(cell.cameras):
            seen = cell.render(c)
            images[c].append(seen.rgb)
            masks[c].append(seen.mask_object)
            if t == 0 and c < cameras - 1:
                points.append(camera.unproject(np.where(seen.mask_object, seen.depth_m, 0.0)))
        surface.append(cell.surface)
    cell.close()
    time_s, rig = np.arange(frames) / 60, list(cell.cameras)
    parts = (slice(0, cameras - 1), slice(cameras - 1, cameras))
    video, beside = (
        make_video(images[p], masks[p], rig[p], time_s, most_pixels=120 * 90, name="drop")
        for p in parts
    )
    start = np.concatenate([p.reshape(-1, 3) for p in points])
    start = start[np.isfinite(start).all(axis=1)]
    start = start[np.random.default_rng(0).permutation(len(start))[:1200]]
    views = video.frames[0]
    cloud = fit_static(
        initial_cloud(start, seen_colours(views, start)), views,
        StaticConfig(iterations=200, densify=None),
    )  # fmt: skip
    return CellDrop(video, beside, cloud, np.array(surface))
