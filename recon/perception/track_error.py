"""How far tracks are from the truth, where a simulated cell knows it.

Shapes: T frames, N points, V vertices, F faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from scipy.spatial import cKDTree

__all__ = ["TrackErrors", "carried_by_mesh", "track_errors"]

_CANDIDATES = 16  # triangles whose centres are nearest, among which the nearest triangle is sought


@dataclass(frozen=True)
class TrackErrors:
    """End-point errors: distance of a track from where its material point is in that frame.

    Attributes:
        mean_m: over all points and frames after the first in which they are seen [m].
        median_m: likewise [m].
        p90_m: likewise [m].
        last_m: mean in the last frame [m].
        survival: share of the points of the first frame that are seen in the last.
        points: number of points seen in the first frame.
    """

    mean_m: float
    median_m: float
    p90_m: float
    last_m: float
    survival: float
    points: int


def track_errors(position: np.ndarray, visible: np.ndarray, truth: np.ndarray) -> TrackErrors:
    """Compare tracks with true positions.

    Args:
        position: [m], shape (T, N, 3).
        visible: shape (T, N), bool; points that are not seen in the first frame do not count.
        truth: true positions of the same points [m], shape (T, N, 3).

    Returns:
        The errors; NaN where nothing is seen.
    """
    start = visible[0]
    seen = visible[1:, start]
    away = np.linalg.norm(position[1:, start] - truth[1:, start], axis=2)
    every, last = away[seen], away[-1][seen[-1]] if len(seen) else away[:0, 0]
    if len(every) == 0:
        nan = float("nan")
        return TrackErrors(nan, nan, nan, nan, 0.0, int(start.sum()))
    return TrackErrors(
        float(every.mean()),
        float(np.median(every)),
        float(np.percentile(every, 90)),
        float(last.mean()) if len(last) else float("nan"),
        float(seen[-1].mean()),
        int(start.sum()),
    )


def carried_by_mesh(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Where points go that are fixed to the surface of a moving mesh.

    A point that lies beside the surface in the first frame (depth noise) keeps its offset in the
    world, so that the error it starts with does not count as an error of tracking.

    Args:
        points: in the first frame [m], shape (N, 3), finite.
        vertices: [m], shape (T, V, 3).
        faces: shape (F, 3).

    Returns:
        [m], shape (T, N, 3).
    """
    first = vertices[0][faces]
    _, near = cKDTree(first.mean(axis=1)).query(points, k=min(_CANDIDATES, len(faces)))
    near = near.reshape(len(points), -1)
    corners = first[near.ravel()]
    repeated = np.repeat(points, near.shape[1], axis=0)
    foot = trimesh.triangles.closest_point(corners, repeated).reshape(*near.shape, 3)
    best = np.linalg.norm(foot - points[:, None], axis=2).argmin(axis=1)
    row = np.arange(len(points))
    face, foot = near[row, best], foot[row, best]
    weight = trimesh.triangles.points_to_barycentric(first[face], foot)
    on_mesh = np.einsum("nk,tnkd->tnd", weight, vertices[:, faces[face]])
    return np.asarray(on_mesh + (points - foot))
