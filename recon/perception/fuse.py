"""One cloud from several cameras: put together, cleaned of strays, thinned.

Shapes: N points, C cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError
from recon.perception.lift import LiftConfig, View, lift_mask

__all__ = [
    "Cloud",
    "FuseConfig",
    "fuse_clouds",
    "fuse_frame",
    "radius_inliers",
    "statistical_inliers",
    "surface_gap_m",
    "voxel_downsample",
]


@dataclass(frozen=True)
class FuseConfig:
    """How a fused cloud is cleaned.

    Attributes:
        voxel_m: one point is kept per cube of this side [m].
        radius_m: neighbourhood of the stray test [m].
        neighbours: other points that a point needs within ``radius_m``, before thinning. PhysTwin
            uses 40 within 10 mm, on clouds of about a point per square millimetre; here the number
            is lowered for clouds that are thinner than that.
        deviations: a point whose mean distance to its eight nearest exceeds the cloud's mean by so
            many standard deviations is a stray (Rusu et al., "Towards 3D point cloud based object
            maps", 2008).
        most_points: of the raw clouds of all cameras together that are looked at, evenly taken; the
            time for the stray test grows with the square of the density.
    """

    voxel_m: float = 0.005
    radius_m: float = 0.010
    neighbours: int = 40
    deviations: float = 3.0
    most_points: int = 12_000

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            DataError: naming the values.
        """
        if min(self.voxel_m, self.radius_m, self.deviations, self.most_points) <= 0:
            raise DataError(f"{self}", where="FuseConfig", expected="positive values")


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points of an object at one instant.

    Attributes:
        points: world [m], shape (N, 3), float64.
        rgb: colours, shape (N, 3), uint8.
        camera_index: which camera saw each, shape (N,), int64.
    """

    points: np.ndarray
    rgb: np.ndarray
    camera_index: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def select(self, keep: np.ndarray | slice) -> Cloud:
        """Some of the points.

        Args:
            keep: indices, a slice, or bool of shape (N,).

        Returns:
            The smaller cloud.
        """
        return Cloud(self.points[keep], self.rgb[keep], self.camera_index[keep])


def radius_inliers(points: np.ndarray, *, radius_m: float, neighbours: int) -> np.ndarray:
    """Which points have enough others around them.

    Args:
        points: [m], shape (N, 3).
        radius_m: reach [m].
        neighbours: others that are needed.

    Returns:
        Shape (N,), bool.
    """
    if len(points) == 0:
        return np.zeros(0, bool)
    tree = cKDTree(points)
    count = tree.query_ball_point(points, radius_m, workers=-1, return_length=True)
    return np.asarray(count > neighbours)  # a point finds itself


def statistical_inliers(
    points: np.ndarray, *, neighbours: int = 8, deviations: float = 3.0
) -> np.ndarray:
    """Which points are about as near to their neighbours as most points are.

    Args:
        points: [m], shape (N, 3).
        neighbours: how many of the nearest others the mean distance is over.
        deviations: standard deviations above the mean at which a point counts as a stray.

    Returns:
        Shape (N,), bool.
    """
    if len(points) <= neighbours + 1:
        return np.ones(len(points), bool)
    distance, _ = cKDTree(points).query(points, k=neighbours + 1, workers=-1)
    mean = distance[:, 1:].mean(axis=1)
    return np.asarray(mean <= mean.mean() + deviations * mean.std())


def voxel_downsample(points: np.ndarray, voxel_m: float) -> np.ndarray:
    """First point of every occupied cube of a grid that starts at the cloud's lowest corner.

    Args:
        points: [m], shape (N, 3).
        voxel_m: side of a cube [m].

    Returns:
        Indices of the kept points, increasing, int64: points that come first win.
    """
    if len(points) == 0:
        return np.zeros(0, np.int64)
    cell = np.floor((points - points.min(axis=0)) / voxel_m).astype(np.int64)
    size = cell.max(axis=0) + 1
    code = (cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2]
    return np.sort(np.unique(code, return_index=True)[1])


def fuse_clouds(clouds: Sequence[Cloud], config: FuseConfig | None = None) -> Cloud:
    """Put clouds together, remove strays, keep one point per voxel.

    Args:
        clouds: one per camera.
        config: cleaning and thinning.

    Returns:
        The fused cloud; empty where nothing was seen.

    Raises:
        DataError: if there is no cloud at all.
    """
    if not clouds:
        raise DataError("no clouds", where="fuse_clouds", expected="one per camera, maybe empty")
    config = config or FuseConfig()
    merged = Cloud(
        np.concatenate([c.points for c in clouds]),
        np.concatenate([c.rgb for c in clouds]),
        np.concatenate([c.camera_index for c in clouds]),
    )
    if len(merged) == 0:
        return merged
    merged = merged.select(slice(None, None, -(-len(merged) // config.most_points)))
    needed = _fair_count(merged.points, config)
    keep = radius_inliers(merged.points, radius_m=config.radius_m, neighbours=needed)
    merged = merged.select(keep)
    merged = merged.select(statistical_inliers(merged.points, deviations=config.deviations))
    return merged.select(voxel_downsample(merged.points, config.voxel_m))


def fuse_frame(
    views: Sequence[View],
    masks: Sequence[np.ndarray],
    frame: int,
    *,
    config: FuseConfig | None = None,
    lift: LiftConfig | None = None,
) -> Cloud:
    """The object's cloud at one frame from all cameras.

    Args:
        views: C views.
        masks: the object in each at that frame, C of shape (H, W), bool.
        frame: which.
        config: cleaning and thinning.
        lift: how depth is read.

    Returns:
        The fused cloud.
    """
    clouds = []
    for index, (view, mask) in enumerate(zip(views, masks, strict=True)):
        points, pixel = lift_mask(view.camera, view.depth_m[frame], mask, config=lift)
        rgb = np.asarray(view.rgb[frame])[pixel[:, 0], pixel[:, 1]]
        clouds.append(Cloud(points, rgb, np.full(len(points), index)))
    return fuse_clouds(clouds, config)


def surface_gap_m(cloud: Cloud) -> float:
    """How far the cameras' surfaces of one object lie apart where they overlap.

    Args:
        cloud: fused, best before thinning.

    Returns:
        Median distance [m] from a point to the nearest of another camera, over the nearer third of
        such points (the rest may be what only one camera sees); NaN for one camera. Cameras that
        look from opposite sides share little more than an outline: there it says nothing.
    """
    gaps = []
    for camera in np.unique(cloud.camera_index):
        own = cloud.camera_index == camera
        if own.all():
            return float("nan")
        distance, _ = cKDTree(cloud.points[~own]).query(cloud.points[own], workers=-1)
        gaps.append(np.sort(distance)[: max(1, len(distance) // 3)])
    return float(np.median(np.concatenate(gaps))) if gaps else float("nan")


def _fair_count(points: np.ndarray, config: FuseConfig) -> int:
    """The neighbours to ask for: no more than a quarter of what a typical point has."""
    tree = cKDTree(points)
    sample = points[:: max(1, len(points) // 500)]
    count = tree.query_ball_point(sample, config.radius_m, workers=-1, return_length=True) - 1
    return int(min(config.neighbours, np.median(count) // 4))
