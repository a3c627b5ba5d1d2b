"""A ball with a pattern, drawn into some cameras around it: what fits of images are tested on."""

from __future__ import annotations

import numpy as np
import torch

from physgym.camera import PinholeCamera
from physgym.frames import T_from_parts
from physgym.splats import GaussianCloud, rasterize
from recon.splats.posed_images import PosedImages

RADIUS_M = 0.05
SIZE = 48  # pixels of an image's side


def directions(count: int) -> np.ndarray:
    """Even directions (a Fibonacci sphere), (N, 3)."""
    z = 1 - 2 * (np.arange(count) + 0.5) / count
    turn = np.pi * (1 + 5**0.5) * np.arange(count)
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)


def looking_at_origin(
    angle: float, *, height: float = 0.15, size: int = SIZE, name: str = "cam"
) -> PinholeCamera:
    """A camera 0.3 m from the origin, looking at it."""
    place = np.array([0.3 * np.cos(angle), 0.3 * np.sin(angle), height])
    ahead = -place / np.linalg.norm(place)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(ahead, right), ahead], axis=1)
    middle = (size - 1) / 2
    K = np.array([[1.8 * size, 0, middle], [0, 1.8 * size, middle], [0, 0, 1]])
    return PinholeCamera(name, "", size, size, K, T_from_parts(turn, place))


def around(count: int, *, size: int = SIZE) -> tuple[PinholeCamera, ...]:
    """Cameras on a circle."""
    return tuple(
        looking_at_origin(2 * np.pi * c / count, size=size, name=f"cam{c}") for c in range(count)
    )


def pattern(points: np.ndarray) -> np.ndarray:
    """A smooth colour of a direction, 0 to 1."""
    return 0.5 + 0.4 * np.sin(
        3 * points / np.linalg.norm(points, axis=1, keepdims=True) + [0, 1, 2]
    )


def ball(count: int = 500, *, isotropic: bool = True) -> GaussianCloud:
    """Opaque Gaussians on the ball in the pattern's colours."""
    mean = directions(count) * RADIUS_M
    sh = (pattern(mean) - 0.5) / 0.28209479177387814
    wide = np.log(RADIUS_M * np.sqrt(4 * np.pi / count) * 0.5)
    quat = torch.zeros(count, 4)
    quat[:, 0] = 1.0
    return GaussianCloud(
        torch.tensor(mean, dtype=torch.float32),
        torch.full((count, 1 if isotropic else 3), float(wide)),
        quat,
        torch.full((count,), 3.0),
        torch.tensor(sh, dtype=torch.float32)[:, None],
    )


def photographed(cloud: GaussianCloud, cameras: tuple[PinholeCamera, ...]) -> PosedImages:
    """Perfect views of a cloud."""
    with torch.no_grad():
        drawn = rasterize(cloud, cameras)
    return PosedImages(drawn.rgb, drawn.alpha, torch.ones_like(drawn.alpha), cameras)
