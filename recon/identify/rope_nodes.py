"""A rope as a truss: square cross sections along its centre line, in place of the points seen.

Points that cameras see of a rope lie on its upper side, unevenly, so a network of them bends
differently up and sideways, its natural shape is not known where none were seen, and it rolls on
a table like a round bar. Here four nodes stand at the corners of every cross section, two of them
down: bending is alike in all directions, the straight shape is known exactly, and the rope slides
before it rolls, as a soft rope does.
Shapes: N points, T frames, P sections, 4 P nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.interpolate import BSpline
from scipy.spatial import cKDTree

from physgym.errors import DataError
from recon.perception.rope_line import rope_line
from recon.perception.table import Plane

__all__ = ["RopeNodes", "rope_nodes", "seen_nodes"]

# Corners of a section in units of the radius, across (normal, binormal); the first two are down.
_CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
_FEWEST_SECTIONS = 5
_FINE_M = 0.001
_PASSES = 2
# A node follows the seen points within so many sections of its own.
_WINDOW = 1.5


class RopeNodes(NamedTuple):
    """Nodes of a rope.

    Attributes:
        position: as it lies [m], shape (4 P, 3), section by section.
        straight: pulled straight along x [m], the same shape.
        radius_m: half the side of a section, the rope's radius.
    """

    position: np.ndarray
    straight: np.ndarray
    radius_m: float


def rope_nodes(
    points: np.ndarray,
    *,
    table: Plane | None = None,
    most_nodes: int = 700,
    sections: int | None = None,
) -> RopeNodes | None:
    """Nodes along the rope that a cloud shows.

    Args:
        points: seen of the rope at rest [m], shape (N, 3).
        table: what it lies on, or None.
        most_nodes: no more nodes than so many.
        sections: so many, as a twin of the same rope has; None takes them a diameter apart.

    Returns:
        The nodes; None where no single line goes through the points.
    """
    try:
        line, radius_m = rope_line(points, spacing_m=0.01, table=table)
    except DataError:
        return None
    up = np.array([0.0, 0.0, 1.0]) if table is None else np.asarray(table.normal, float)
    for _ in range(_PASSES):
        line = _fitted(line, points, radius_m, up)
    line, tangent, length_m = _evened(line, radius_m, most_nodes // 4, sections)
    if len(line) < _FEWEST_SECTIONS:
        return None
    across = _transported(tangent, up)
    corner = radius_m * _CORNERS
    position = line[:, None] + np.einsum("cj,pjk->pck", corner, across)
    straight = np.zeros_like(position)
    straight[..., 0] = np.linspace(0.0, length_m, len(line))[:, None]
    straight[..., 1:] = corner
    return RopeNodes(position.reshape(-1, 3), straight.reshape(-1, 3), radius_m)


def seen_nodes(
    nodes: np.ndarray, points: np.ndarray, position: np.ndarray, *, radius_m: float
) -> np.ndarray:
    """Where nodes were, told from tracked points around them.

    Args:
        nodes: at rest [m], shape (4 P, 3), section by section.
        points: tracked points at rest [m], shape (N, 3).
        position: of the tracked points [m], shape (T, N, 3); NaN where not seen.
        radius_m: of the rope.

    Returns:
        [m], shape (T, 4 P, 3); NaN where fewer than four points near a section were seen.
    """
    sections = nodes.reshape(-1, 4, 3)
    centre = sections.mean(axis=1)
    reach = _WINDOW * float(np.linalg.norm(np.diff(centre, axis=0), axis=1).mean()) + radius_m
    near = cKDTree(points).query_ball_point(centre, reach)
    made = np.full((len(position), len(sections), 4, 3), np.nan)
    for p, chosen in enumerate(near):
        if len(chosen) >= 4:
            made[:, p] = _carried(sections[p], points[chosen], position[:, chosen])
    return made.reshape(len(position), -1, 3)


def _carried(corners: np.ndarray, rest: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Corners moved as the points around them were, rigidly (Kabsch 1976), shape (T, 4, 3)."""
    seen = np.isfinite(now).all(axis=-1)
    count = seen.sum(axis=1)
    weight = seen / np.maximum(count, 1)[:, None]
    now = np.where(seen[..., None], now, 0.0)
    a = weight @ rest
    b = np.einsum("tn,tni->ti", weight, now)
    h = np.einsum("tn,tni,tnj->tij", weight, now - b[:, None], rest - a[:, None])
    u, _, vt = np.linalg.svd(h)
    u[..., 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    turned = np.einsum("tij,tcj->tci", u @ vt, corners - a[:, None]) + b[:, None]
    return np.where((count >= 4)[:, None, None], turned, np.nan)


def _evened(
    line: np.ndarray, radius_m: float, most: int, count: int | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Centres of sections about one diameter apart, unit tangents, and the length of the line."""
    arc = _along(line)
    count = count or min(1 + round(arc[-1] / (2.0 * radius_m)), most)
    where = np.linspace(0.0, arc[-1], count)
    tangent = np.gradient(line, arc, axis=0)
    tangent = np.stack([np.interp(where, arc, tangent[:, i]) for i in range(3)], axis=1)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    centre = np.stack([np.interp(where, arc, line[:, i]) for i in range(3)], axis=1)
    return centre, tangent, float(arc[-1])


def _fitted(line: np.ndarray, points: np.ndarray, radius_m: float, up: np.ndarray) -> np.ndarray:
    """A cubic spline through the points around a line (P-spline; Eilers and Marx 1996).

    Nodes of the line are means of a few points each, and what they are off sideways would be a
    curvature that the rope does not have. So pieces are three diameters long, each averages over
    its whole surface. Heights are the line's own: cameras see the upper side only.

    Returns:
        Points about every millimetre [m], shape (M, 3).
    """
    arc = _along(line)
    # The last diameter of a line may turn to a corner of the end face; it is put back below.
    cut = min(2.0 * radius_m, 0.2 * arc[-1])
    fine = np.linspace(cut, arc[-1] - cut, max(round(arc[-1] / _FINE_M), 8))
    curve = np.stack([np.interp(fine, arc, line[:, i]) for i in range(3)], axis=1)
    away, best = cKDTree(curve).query(points)
    used = (best > 0) & (best < len(fine) - 1) & (away < 3.0 * radius_m)
    at, target = fine[best[used]], points[used]
    target = target + ((curve[best[used]] - target) @ up)[:, None] * up
    pieces = max(round(arc[-1] / (6.0 * radius_m)), 4)
    inner = np.linspace(fine[0], fine[-1], pieces + 1)
    knots = np.concatenate([[fine[0]] * 3, inner, [fine[-1]] * 3])
    count = len(knots) - 4
    bend = 0.3 * np.sqrt(len(at) / count) * np.diff(np.eye(count), 3, axis=0)
    rows = np.concatenate([BSpline.design_matrix(at, knots, 3).toarray(), bend])
    wanted = np.concatenate([target, np.zeros((len(bend), 3))])
    control = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return _to_ends(np.asarray(BSpline(knots, control, 3)(fine)), points, radius_m)


def _to_ends(line: np.ndarray, points: np.ndarray, radius_m: float) -> np.ndarray:
    """Cut, or go on straight, to where the points end."""
    for _ in range(2):
        back = min(round(2.0 * radius_m / _FINE_M), len(line) - 1)
        tangent = line[-1] - line[-1 - back]
        tangent /= np.linalg.norm(tangent)
        near = points[np.linalg.norm(points - line[-1], axis=1) < 4.0 * radius_m]
        if len(near):
            reach = float(np.percentile((near - line[-1]) @ tangent, 99.0))
            drop = min(round(max(-reach, 0.0) / _FINE_M), len(line) // 4)
            line = line[: len(line) - drop]
            more = np.arange(1, round(max(reach, 0.0) / _FINE_M) + 1)
            line = np.concatenate([line, line[-1] + _FINE_M * more[:, None] * tangent])
        line = line[::-1]
    return line


def _along(line: np.ndarray) -> np.ndarray:
    """Length from the first point [m], shape (M,)."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])


def _transported(tangent: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Normal and binormal at every tangent, without twist, shape (P, 2, 3).

    The binormal starts as near to ``up`` as can be (parallel transport; Bergou et al. 2008,
    section 4.2.2), and stays there where the rope lies on a plane.
    """
    start = up if abs(tangent[0] @ up) < 0.9 else np.eye(3)[np.abs(tangent[0]).argmin()]
    binormal = start.astype(float)
    frames = np.empty((len(tangent), 2, 3))
    for i, t in enumerate(tangent):
        if i:
            axis = np.cross(tangent[i - 1], t)
            # Rodrigues' rotation from one tangent to the next, without its division by zero.
            scale = max(1.0 + float(tangent[i - 1] @ t), 1e-9)
            binormal = (
                binormal * float(tangent[i - 1] @ t)
                + np.cross(axis, binormal)
                + axis * (axis @ binormal) / scale
            )
        binormal = binormal - t * (t @ binormal)
        binormal /= np.linalg.norm(binormal)
        frames[i] = np.cross(binormal, t), binormal
    return frames
