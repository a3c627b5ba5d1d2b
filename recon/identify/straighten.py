"""The natural shape of a rope: straight, or as it lay, or in between.

A rope that was laid in a curve and stays there by friction is bent in the first frame, so its rest
shape is not what cameras see. PhysTwin takes it for the rest shape all the same; then a rope that
is lifted curls back into the curve it was laid in.
Shapes: N points, P nodes of a centre line.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import splev, splprep
from scipy.spatial import cKDTree

from physgym.errors import DataError
from recon.perception.rope_line import rope_line

__all__ = ["straightened"]

_STEP_M = 0.002


def straightened(points: np.ndarray) -> np.ndarray | None:
    """The points of a rope with its centre line pulled straight.

    Each point keeps its arc length and its offset from the centre line, in a frame that is carried
    along the line without twist (parallel transport; Bergou et al. 2008, section 4.2.2).

    Args:
        points: of the rope as it lies [m], shape (N, 3).

    Returns:
        [m], shape (N, 3), the line along x; None where no single line goes through the points.
    """
    try:
        line, radius_m = rope_line(points, spacing_m=0.02)
    except DataError:
        return None
    line = _smooth(line, radius_m)
    edge = np.diff(line, axis=0)
    length = np.linalg.norm(edge, axis=1)
    if (length <= 0).any():
        return None
    frames = _transported(edge / length[:, None])
    start = np.concatenate([[0.0], np.cumsum(length)])
    middle = 0.5 * (line[1:] + line[:-1])
    best = cKDTree(middle).query(points)[1]
    local = np.einsum("nij,nj->ni", frames[best], points - middle[best])
    # Inside a bend a chord is shorter than the arc that it stands for, outside longer; the part
    # along the line is cut to the segment's own, but for points beyond the ends.
    inner = (best > 0) & (best < len(middle) - 1)
    limit = np.where(inner, 0.5 * length[best], np.inf)
    along = start[best] + 0.5 * length[best] + np.clip(local[:, 0], -limit, limit)
    return np.column_stack([along, local[:, 1], local[:, 2]])


def _smooth(line: np.ndarray, radius_m: float) -> np.ndarray:
    """A smoothing spline through the nodes, every two millimetres.

    Nodes are off the true line by about a third of the radius, and a wiggle of that size over two
    centimetres would be a curvature that the rope does not have.
    """
    at = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    slack = len(line) * 3 * (radius_m / 3.0) ** 2
    spline, _ = splprep(line.T, u=at, k=min(3, len(line) - 1), s=slack)
    fine = np.linspace(0.0, at[-1], max(round(at[-1] / _STEP_M), 4))
    return np.stack(splev(fine, spline), axis=1)


def _transported(tangent: np.ndarray) -> np.ndarray:
    """Frames (tangent, normal, binormal) along a line, shape (P - 1, 3, 3)."""
    normal = np.cross(tangent[0], np.eye(3)[np.abs(tangent[0]).argmin()])
    normal /= np.linalg.norm(normal)
    frames = np.empty((len(tangent), 3, 3))
    for i, t in enumerate(tangent):
        if i:
            axis = np.cross(tangent[i - 1], t)
            # Rodrigues' rotation from one tangent to the next, without its division by zero.
            cosine = float(tangent[i - 1] @ t)
            turned = normal * cosine + np.cross(axis, normal)
            normal = turned + axis * (axis @ normal) / max(1.0 + cosine, 1e-9)
        normal = normal - t * (t @ normal)
        normal /= np.linalg.norm(normal)
        frames[i] = t, normal, np.cross(t, normal)
    return frames
