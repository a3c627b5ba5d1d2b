"""Tracked points, unseen surface and interior put together as the points of one object.

Shapes: T frames, N points, S surface points, I interior points.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from recon.perception.complete import Geometry
from recon.perception.fuse import voxel_downsample
from recon.perception.track import PointTracks
from recon.tracks import Tracks

__all__ = ["assemble", "away_from"]


def assemble(
    tracked: PointTracks,
    geometry: Geometry,
    *,
    time_s: np.ndarray,
    name: str,
    gravity: tuple[float, float, float],
    spacing_m: float,
    most_points: int,
    whole: bool = True,
    source_sha256: str = "",
) -> tuple[Tracks, int, int]:
    """Tracks of the whole object: tracked, then unseen surface, then interior.

    Args:
        tracked: seen in the first frame, all of them.
        geometry: the whole object there.
        time_s: stamps [s], shape (T,).
        name: of the recording.
        gravity: [m/s^2].
        spacing_m: one point is kept per cube of this side [m]; tracked points win, then surface.
        most_points: the spacing grows by tenths until no more are left.
        whole: False leaves out what was not tracked.
        source_sha256: of the source.

    Returns:
        The tracks, how many of their points were tracked, and how many are surface, those included.
    """
    start = tracked.position[0]
    # The nodes of a rope lie inside it, where they would only double the points of its surface.
    surface = geometry.surface if whole and geometry.kind != "rope" else start[:0]
    interior = geometry.interior if whole else start[:0]
    surface = away_from(surface, start, spacing_m)
    interior = away_from(interior, np.concatenate([start, surface]), 0.8 * spacing_m)
    every = np.concatenate([start, surface, interior])
    part = np.repeat([0, 1, 2], [len(start), len(surface), len(interior)])
    keep = voxel_downsample(every, spacing_m)
    while len(keep) > most_points:
        spacing_m *= 1.1
        keep = voxel_downsample(every, spacing_m)
    tracked_count, surface_count = (int((part[keep] <= k).sum()) for k in (0, 1))
    position = np.full((len(time_s), len(keep), 3), np.nan)
    position[:, :tracked_count] = tracked.position[:, keep[:tracked_count]]
    tracks = Tracks(
        time_s=time_s,
        position=position,
        visible=np.isfinite(position).all(axis=2),
        driven_index=np.zeros(0, np.int64),
        name=name,
        gravity=np.array(gravity),
        rest_position=every[keep],
        radius_m=geometry.radius_m,
        source_sha256=source_sha256,
    )
    return tracks, tracked_count, surface_count


def away_from(points: np.ndarray, others: np.ndarray, reach_m: float) -> np.ndarray:
    """Points that are not already there.

    Args:
        points: [m], shape (N, 3).
        others: what is there [m], shape (M, 3).
        reach_m: distance between neighbours [m]; nearer than three quarters of it counts as there.

    Returns:
        Those of the points that are kept, shape (K, 3).
    """
    if len(points) == 0 or len(others) == 0:
        return points
    return points[cKDTree(others).query(points, workers=-1)[0] > 0.75 * reach_m]
