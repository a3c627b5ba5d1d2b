"""The line that a rope's cloud runs along, as a start for its shape.

Points that are near each other form a graph. The two points furthest apart in it are the ends, and
the way from one end through the graph orders the rest. Where a rope touches itself the graph takes
the short cut; the strain of the fitted shape then says so.
Shapes: N nodes, M cloud points, L points of a line.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

__all__ = ["rope_starts", "tube_radius_m"]

_REACH = 2.5  # cells between two points that are neighbours


def rope_starts(points: np.ndarray, cloud: np.ndarray, cell_m: float) -> list[np.ndarray]:
    """The nodes laid along a cloud, in both directions.

    A line that is shorter than the rope (an end is hidden) is made longer on both sides alike.

    Args:
        points: nodes in the rest shape, in order [m], shape (N, 3).
        cloud: thinned to cells [m], shape (M, 3).
        cell_m: size of the cells.

    Returns:
        Two arrays of shape (N, 3).
    """
    line = _line(cloud, cell_m)
    along = _arc(line)
    wanted = _arc(points)
    starts = []
    for turned in (False, True):
        at = wanted[-1] - wanted if turned else wanted
        at = at - 0.5 * wanted[-1] + 0.5 * along[-1]
        laid = np.stack([np.interp(at, along, line[:, k]) for k in range(3)], axis=1)
        for end, inner, beyond in (
            (line[0], line[1], np.maximum(-at, 0.0)),
            (line[-1], line[-2], np.maximum(at - along[-1], 0.0)),
        ):
            tangent = (end - inner) / max(float(np.linalg.norm(end - inner)), 1e-12)
            laid += beyond[:, None] * tangent
        starts.append(laid)
    return starts


def tube_radius_m(nodes: np.ndarray, cloud: np.ndarray) -> float:
    """Radius of a rope from how wide its cloud is around a line through it.

    An image sees the width evenly, so its variance across the widest direction is r^2 / 3.

    Args:
        nodes: a line through the cloud [m], shape (N, 3).
        cloud: as seen, not thinned [m], shape (M, 3).

    Returns:
        [m], the median over the nodes.
    """
    tangent = np.gradient(nodes, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    nearest = cKDTree(nodes).query(cloud)[1]
    offset = cloud - nodes[nearest]
    offset -= (offset * tangent[nearest]).sum(axis=1, keepdims=True) * tangent[nearest]
    widths = []
    for node in range(len(nodes)):
        across = offset[nearest == node]
        if len(across) >= 8:
            widths.append(np.linalg.eigvalsh(np.cov(across.T))[-1])
    return float(np.sqrt(3.0 * np.median(widths))) if widths else 0.0


def _line(cloud: np.ndarray, cell_m: float) -> np.ndarray:
    """Centre line from end to end, shape (L, 3)."""
    along = _along(cloud, cell_m)
    bins = max(2, round(float(along.max()) / (2.0 * cell_m)))
    number = np.minimum((along / max(along.max(), 1e-12) * bins).astype(int), bins - 1)
    count = np.bincount(number, minlength=bins)
    sums = np.stack([np.bincount(number, cloud[:, k], bins) for k in range(3)], axis=1)
    middle = sums[count > 0] / count[count > 0, None]
    # The mean of the last bin lies half a bin inside the end.
    return np.concatenate([cloud[[along.argmin()]], middle, cloud[[along.argmax()]]])


def _along(cloud: np.ndarray, cell_m: float) -> np.ndarray:
    """Distance of every point from one end, through the cloud [m], shape (M,)."""
    pair = cKDTree(cloud).query_pairs(_REACH * cell_m, output_type="ndarray")
    pair = _joined(cloud, pair)
    length = np.linalg.norm(cloud[pair[:, 0]] - cloud[pair[:, 1]], axis=1)
    graph = coo_matrix((length, pair.T), shape=(len(cloud),) * 2).tocsr()
    end = 0
    for _ in range(3):  # from anywhere to the furthest, twice over, finds both ends of a tree
        distance = dijkstra(graph, directed=False, indices=end)
        end = int(distance.argmax())
    return np.asarray(dijkstra(graph, directed=False, indices=end))


def _joined(cloud: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Join the parts that something hides the links of, nearest first."""
    while True:
        graph = coo_matrix((np.ones(len(pair)), pair.T), shape=(len(cloud),) * 2)
        count, label = connected_components(graph, directed=False)
        if count == 1:
            return pair
        part = np.flatnonzero(label == np.bincount(label).argmax())
        rest = np.flatnonzero(label != label[part[0]])
        gap, nearest = cKDTree(cloud[part]).query(cloud[rest])
        at = int(gap.argmin())
        pair = np.concatenate([pair, [[part[nearest[at]], rest[at]]]])


def _arc(line: np.ndarray) -> np.ndarray:
    step = np.linalg.norm(np.diff(line, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(step)])
