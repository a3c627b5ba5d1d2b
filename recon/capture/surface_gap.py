"""How far apart two calibrated cameras see the same surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.camera import PinholeCamera

__all__ = ["SurfaceGap", "surface_gap"]

_FEWEST_POINTS = 50  # a median over fewer says nothing about a surface
_STEEPEST_COS = 0.3  # a surface seen at more than 73 degrees has no reliable depth
_EDGE_SHARE = 0.03  # depth that changes by 3 % between neighbours is an edge
_REACH_PX = 4  # between neighbours of a normal
_OCCLUDED_M = 0.2  # further behind: another surface, not a calibration error


@dataclass(frozen=True)
class SurfaceGap:
    """Distance between the surfaces of two depth images.

    Attributes:
        median_mm: median of the distances' absolute values [mm]; NaN without overlap.
        signed_mm: median distance of the first camera's surface from the second's along its
            normal, towards the second camera positive [mm].
        points: how many points were compared.
    """

    median_mm: float
    signed_mm: float
    points: int


def surface_gap(
    first: PinholeCamera,
    first_depth_m: np.ndarray,
    second: PinholeCamera,
    second_depth_m: np.ndarray,
    *,
    stride: int = 4,
) -> SurfaceGap:
    """Compare where two cameras see the surfaces that both see (point to plane).

    Sliding one camera along a plane shows no gap: judge by surfaces of several directions.

    Args:
        first: a camera.
        first_depth_m: its depth (H, W) [m], 0 where there is none.
        second: another camera.
        second_depth_m: its depth (H, W) [m], 0 where there is none.
        stride: compare every so many pixels in each direction.

    Returns:
        The gap; `points` is 0 without overlap.
    """
    v, u = (grid.ravel() for grid in np.mgrid[0 : first.height : stride, 0 : first.width : stride])
    seen = _points(first, first_depth_m, u, v)
    seen = seen[np.isfinite(seen).all(axis=1)]
    pixels, _ = second.project(seen)
    reach = np.array([_REACH_PX, _REACH_PX])
    size = np.array([second.width, second.height])
    cells = np.rint(np.nan_to_num(pixels, nan=-1.0)).astype(int)
    inside = ((cells >= reach) & (cells < size - reach)).all(axis=1)
    seen, (u, v) = seen[inside], cells[inside].T
    surface, normals, usable = _surface(second, second_depth_m, u, v)
    seen, surface, normals = seen[usable], surface[usable], normals[usable]
    distance_m = ((seen - surface) * normals).sum(axis=1)
    distance_m = distance_m[np.abs(distance_m) < _OCCLUDED_M]
    if len(distance_m) < _FEWEST_POINTS:
        return SurfaceGap(float("nan"), float("nan"), 0)
    return SurfaceGap(
        median_mm=float(np.median(np.abs(distance_m)) * 1e3),
        signed_mm=float(np.median(distance_m) * 1e3),
        points=len(distance_m),
    )


def _surface(
    camera: PinholeCamera, depth_m: np.ndarray, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points at pixels, unit normals towards the camera, and where both can be trusted.

    Normals from neighbours a few pixels apart: from one to the next, depth noise would be steeper
    than any surface.
    """
    r = _REACH_PX
    points = _points(camera, depth_m, u, v)
    around = [(u + r, v), (u - r, v), (u, v + r), (u, v - r)]
    right, left, below, above = (_points(camera, depth_m, *cell) for cell in around)
    cross = np.cross(below - above, right - left)
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    normals = cross / np.where(length > 0, length, np.nan)
    to_camera = camera.position - points
    to_camera /= np.linalg.norm(to_camera, axis=1, keepdims=True)
    cosine = (normals * to_camera).sum(axis=1)
    steps = np.max([np.abs(depth_m[y, x] - depth_m[v, u]) for x, y in around], axis=0)
    smooth = steps < _EDGE_SHARE * depth_m[v, u]
    return points, normals, smooth & (np.nan_to_num(cosine) > _STEEPEST_COS)


def _points(camera: PinholeCamera, depth_m: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """World points of some pixels (N, 3), NaN where there is no depth."""
    depth = depth_m[v, u].astype(np.float64)
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.nan)
    rays = camera.pixel_rays(np.stack([u, v], axis=1)) @ camera.T_world_cam[:3, :3].T
    return np.asarray(rays * depth[:, None] + camera.position)
