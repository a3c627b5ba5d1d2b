"""Objects, poses and what cameras see of them: ground truth for the tests of registration."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

NOISE_M = 0.0015  # standard deviation of the depth, that of a D435 at 0.6 m
BUMPS = np.array(
    [[1, 0.2, 0.1], [-0.5, 0.8, 0.2], [0.1, -0.9, 0.5], [-0.3, -0.2, -1], [0.4, 0.5, 0.8]]
)
HEIGHTS_M = np.array([0.035, 0.02, 0.025, 0.015, 0.02])


def directions(count: int) -> np.ndarray:
    """Evenly spread unit vectors, shape (count, 3)."""
    k = np.arange(count) + 0.5
    z, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    wide = np.sqrt(1 - z**2)
    return np.stack([wide * np.cos(turn), wide * np.sin(turn), z], axis=1)


def bumpy_radius_m(unit: np.ndarray) -> np.ndarray:
    """Radius of a star-shaped thing, about 17 cm across, that looks different from everywhere."""
    towards = BUMPS / np.linalg.norm(BUMPS, axis=1, keepdims=True)
    return 0.055 + np.exp((unit @ towards.T - 1) / 0.12) @ HEIGHTS_M


def bumpy_surface(count: int) -> np.ndarray:
    unit = directions(count)
    return unit * bumpy_radius_m(unit)[:, None]


def bumpy_nodes(spacing_m: float) -> np.ndarray:
    """Nodes on the surface, then nodes inside, as perception makes them."""
    line = np.arange(-0.12, 0.12, spacing_m)
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    grid = grid + 0.3 * spacing_m
    radius = np.linalg.norm(grid, axis=1)
    inner = grid[radius < bumpy_radius_m(grid / radius[:, None]) - 0.6 * spacing_m]
    return np.concatenate([bumpy_surface(int(0.061 / spacing_m**2)), inner])


def seen_from(
    surface: np.ndarray, eye: np.ndarray, rng: np.random.Generator, *, pixel_m: float = 0.0016
) -> np.ndarray:
    """What a camera sees of densely sampled surface: the nearest of every pixel, with noise."""
    ahead = surface.mean(axis=0) - eye
    distance = np.linalg.norm(ahead)
    ahead = ahead / distance
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    local = (surface - eye) @ np.stack([right, np.cross(ahead, right), ahead], axis=1)
    pixel = np.floor(local[:, :2] / local[:, 2:] * distance / pixel_m).astype(int)
    _, which = np.unique(pixel, axis=0, return_inverse=True)
    order = np.lexsort((local[:, 2], which.ravel()))
    first = order[np.unique(which.ravel()[order], return_index=True)[1]]
    ray = surface[first] - eye
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    return surface[first] + ray * rng.normal(0, NOISE_M, (len(first), 1))


def seen_around(
    surface: np.ndarray, cameras: int, rng: np.random.Generator, *, elevation_deg: float = 40.0
) -> np.ndarray:
    """Clouds of cameras around the object, 0.6 m away, joined."""
    up, start = np.deg2rad(elevation_deg), rng.uniform(0, 2 * np.pi)
    clouds = []
    for k in range(cameras):
        turn = start + 2.0 * k
        side = np.array([np.cos(turn) * np.cos(up), np.sin(turn) * np.cos(up), np.sin(up)])
        clouds.append(seen_from(surface, surface.mean(axis=0) + 0.6 * side, rng))
    return np.concatenate(clouds)


def samples(vertices: np.ndarray, faces: np.ndarray, steps: int) -> np.ndarray:
    """Points all over triangles."""
    a = vertices[faces[:, 0]]
    u, v = vertices[faces[:, 1]] - a, vertices[faces[:, 2]] - a
    parts = [(i / steps, j / steps) for i in range(steps + 1) for j in range(steps + 1 - i)]
    return np.concatenate([a + s * u + t * v for s, t in parts])


def pose(turn: Rotation, shift: tuple[float, float, float]) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = turn.as_matrix(), shift
    return T


def bent(points: np.ndarray, angle_deg: float) -> np.ndarray:
    """Bend what is above 5 cm over the next 8 cm to an arc; lengths in the middle stay."""
    low, length = 0.05, 0.08
    curvature = np.deg2rad(angle_deg) / length
    along = np.clip(points[:, 2] - low, 0, length)
    over = np.maximum(points[:, 2] - low - length, 0)
    angle = curvature * along
    x = (1 - np.cos(angle)) / curvature + np.cos(angle) * points[:, 0] + np.sin(angle) * over
    z = low + np.sin(angle) / curvature - np.sin(angle) * points[:, 0] + np.cos(angle) * over
    return np.stack([x, points[:, 1], np.where(points[:, 2] > low, z, points[:, 2])], axis=1)
