"""The centre line of a rope, in order, from its cloud.

Points that are near each other form a graph; the two ends are the points furthest apart in it, and
the distance from one end through the graph orders everything in between. Where the rope crosses
itself and touches, the graph takes the short cut: lay it without crossings for the first frame.
Shapes: N cloud points, P nodes, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import splev, splprep
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

from physgym.errors import DataError
from recon.perception.fuse import voxel_downsample
from recon.perception.table import Plane

__all__ = ["line_length_m", "rope_line", "rope_lines"]

_VOXEL_M = 0.004
_REACH_M = 3.0 * _VOXEL_M
# A gripper or a shadow may hide so much of a rope before its parts count as two objects.
_GAP_M = 0.06


def rope_line(
    points: np.ndarray, *, spacing_m: float, table: Plane | None = None, count: int | None = None
) -> tuple[np.ndarray, float]:
    """Nodes along the centre of a rope, evenly spaced along its length.

    Args:
        points: fused cloud of its surface [m], shape (N, 3).
        spacing_m: distance between nodes [m]; rounded so that both ends have one.
        table: what parts of it rest on, normal up; such parts are put one radius above it. Parts in
            the air, of which cameras see the upper side only, come out too high by up to
            two thirds of the radius.
        count: number of nodes P in place of the spacing.

    Returns:
        Nodes [m], shape (P, 3), and the radius [m].

    Raises:
        DataError: if there are too few points, or they are no single line.
    """
    if len(points) < 20:
        raise DataError(f"{len(points)} points", where="rope_line", expected="at least twenty")
    thin = points[voxel_downsample(points, _VOXEL_M)]
    thin, along = _ordered(thin)
    if not along.max() > 0:
        raise DataError("points far apart from each other", where="rope_line", expected="a cloud")
    radius = _radius(thin, along)
    # A step of about the rope's width averages its cross section and keeps its bends.
    step = max(2.0 * _VOXEL_M, 1.5 * radius)
    centre = _binned(thin, along, step)
    if len(centre) < 4:
        raise DataError(
            f"{along.max():.3f} m long and {2 * radius:.3f} m thick",
            where="rope_line",
            expected="a rope several times longer than thick",
            fix="call the object a volume",
        )
    if table is not None:
        height = table.height(centre)
        rests = height < 2.5 * radius
        centre = centre + (np.where(rests, radius - height, 0.0))[:, None] * table.normal
    # Bins of some tens of points are good to a fraction of a voxel; the spline may miss by that.
    knots, _ = splprep(centre.T, k=3, s=len(centre) * (0.25 * _VOXEL_M) ** 2)
    fine = _with_ends(np.stack(splev(np.linspace(0, 1, 40 * len(centre)), knots), axis=1), thin)
    length = line_length_m(fine)
    nodes = count or max(2, 1 + round(length / spacing_m))
    return _even(fine, nodes), radius


def rope_lines(
    clouds: Sequence[np.ndarray], *, count: int, table: Plane | None = None
) -> np.ndarray:
    """Centre lines of a rope over time, nodes matched by their share of the length.

    Args:
        clouds: one cloud per frame [m], each of shape (N, 3); a frame in which no whole rope is
            seen is left out.
        count: nodes P.
        table: what it may rest on, normal up.

    Returns:
        Nodes [m], shape (T, P, 3), NaN for frames without a line, or with one that is shorter than
        four fifths of the longest: a part was hidden, and no share of a part names a place.
    """
    lines = np.full((len(clouds), count, 3), np.nan)
    last = None
    for frame, cloud in enumerate(clouds):
        try:
            line, _ = rope_line(np.asarray(cloud), spacing_m=1.0, table=table, count=count)
        except DataError:
            continue
        if last is not None:
            same = np.linalg.norm(line - last, axis=1).sum()
            turned = np.linalg.norm(line[::-1] - last, axis=1).sum()
            line = line[::-1] if turned < same else line
        lines[frame] = last = line
    length = np.linalg.norm(np.diff(lines, axis=1), axis=2).sum(axis=1)
    if np.isfinite(length).any():
        lines[~(length >= 0.8 * np.nanmax(length))] = np.nan
    return lines


def line_length_m(line: np.ndarray) -> float:
    """Length of a polyline.

    Args:
        line: [m], shape (P, 3).

    Returns:
        [m].
    """
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def _ordered(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of the rope and their distances [m] from one end, through the rope."""
    pair = cKDTree(points).query_pairs(_REACH_M, output_type="ndarray")
    pair = _bridged(points, pair)
    length = np.linalg.norm(points[pair[:, 0]] - points[pair[:, 1]], axis=1)
    graph = coo_matrix((length, pair.T), shape=(len(points),) * 2).tocsr()
    _, label = connected_components(graph, directed=False)
    main = np.flatnonzero(label == np.bincount(label).argmax())
    points, graph = points[main], graph[main][:, main]
    start = 0
    for _ in range(3):  # from anywhere to the furthest, twice over, finds both ends of a tree
        along = dijkstra(graph, directed=False, indices=start)
        start = int(along.argmax())
    return points, dijkstra(graph, directed=False, indices=start)


def _bridged(points: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Join parts across short gaps, nearest parts first."""
    while True:
        graph = coo_matrix((np.ones(len(pair)), pair.T), shape=(len(points),) * 2)
        count, label = connected_components(graph, directed=False)
        sizes = np.bincount(label)
        parts = [np.flatnonzero(label == k) for k in range(count) if sizes[k] >= 5]
        best: tuple[float, int, int] | None = None
        for number, part in enumerate(parts):
            others = np.concatenate([p for k, p in enumerate(parts) if k != number] or [part[:0]])
            if len(others) == 0:
                continue
            gap, nearest = cKDTree(points[others]).query(points[part])
            at = int(gap.argmin())
            if best is None or gap[at] < best[0]:
                best = float(gap[at]), int(part[at]), int(others[nearest[at]])
        if best is None or best[0] > _GAP_M:
            return pair
        pair = np.concatenate([pair, [best[1:]]])


def _radius(points: np.ndarray, along: np.ndarray) -> float:
    """Half the width of short pieces, across the rope and across the line of sight [m]."""
    edges = np.arange(0.0, along.max() + 4 * _VOXEL_M, 4 * _VOXEL_M)
    number = np.digitize(along, edges)
    widths = []
    for k in range(2, number.max()):
        piece = points[np.abs(number - k) <= 1]
        if len(piece) < 8:
            continue
        ends = points[number == k + 1], points[number == k - 1]
        if min(len(end) for end in ends) == 0:
            continue
        tangent = ends[0].mean(axis=0) - ends[1].mean(axis=0)
        tangent /= max(float(np.linalg.norm(tangent)), 1e-9)
        off = points[number == k]
        off = off - off.mean(axis=0)
        off = off - (off @ tangent)[:, None] * tangent
        if len(off) >= 4:
            widest = np.linalg.svd(off, full_matrices=False)[2][0]
            widths.append(np.ptp(off @ widest))
    return float(max(0.5 * np.median(widths), 0.5 * _VOXEL_M)) if widths else _VOXEL_M


def _binned(points: np.ndarray, along: np.ndarray, step: float) -> np.ndarray:
    bins = max(4, round(along.max() / step))
    number = np.minimum((along / along.max() * bins).astype(int), bins - 1)
    count = np.bincount(number, minlength=bins)
    sums = np.stack([np.bincount(number, points[:, i], minlength=bins) for i in range(3)], axis=1)
    kept = count > 0
    return np.asarray(sums[kept] / count[kept, None])


def _with_ends(line: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Go on straight to where the cloud ends: the mean of the last bin lies inside it."""
    for _ in range(2):
        tangent = line[-1] - line[-20]
        tangent /= np.linalg.norm(tangent)
        near = points[np.linalg.norm(points - line[-1], axis=1) < 0.03] - line[-1]
        reach = float((near @ tangent).max(initial=0.0))
        line = np.concatenate([line, line[-1:] + reach * tangent])[::-1]
    return line


def _even(line: np.ndarray, nodes: int) -> np.ndarray:
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])
    wanted = np.linspace(0.0, along[-1], nodes)
    return np.stack([np.interp(wanted, along, line[:, i]) for i in range(3)], axis=1)
