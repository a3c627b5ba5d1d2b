"""Springs from points: clouds, ropes and driven points. All O(N log N), nothing dense.

Shapes: N nodes, K driven points, S springs. A list of springs is an int32 array (S, 2) with the
lower node first, without repeats, sorted; the solver sums forces in this order.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from physgym.errors import DataError

__all__ = [
    "chain_springs",
    "driven_springs",
    "exclusion_rows",
    "hop_pairs",
    "merge_springs",
    "rest_lengths",
    "springs_from_points",
]


def merge_springs(*groups: np.ndarray) -> np.ndarray:
    """Join lists of springs; lower node first, repeats removed, sorted.

    Args:
        groups: arrays of node pairs, each of shape (S, 2).

    Returns:
        Springs, shape (S, 2), int32.
    """
    pairs = np.concatenate([np.asarray(g, dtype=np.int64).reshape(-1, 2) for g in groups])
    pairs = np.sort(pairs, axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0).astype(np.int32)


def rest_lengths(position: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Lengths of springs in a given shape.

    Args:
        position: [m], shape (N, 3).
        edges: springs, shape (S, 2).

    Returns:
        Lengths [m], shape (S,), float64.
    """
    position = np.asarray(position, dtype=np.float64)
    return np.linalg.norm(position[edges[:, 1]] - position[edges[:, 0]], axis=1)


def springs_from_points(
    position: np.ndarray,
    *,
    radius_m: float,
    max_neighbours: int,
    min_length_m: float = 1e-4,
) -> np.ndarray:
    """Springs to the nearest points within a radius (PhysTwin, paper section 4.1).

    The relation is made symmetric by union, so a point can have more than ``max_neighbours``.

    Args:
        position: [m], shape (N, 3).
        radius_m: no spring is longer than this [m].
        max_neighbours: most neighbours that one point chooses, itself not counted.
        min_length_m: shorter springs are left out [m]; their strain has no meaning.

    Returns:
        Springs, shape (S, 2), int32.

    Raises:
        DataError: if the points are not finite, or no spring comes out.
    """
    position = _checked_points(position, "position")
    if len(position) < 2:
        raise DataError(
            f"{len(position)} point(s) make no spring",
            where="position",
            expected="at least two points",
            fix="give more points",
        )
    count = min(max_neighbours + 1, len(position))
    distance, neighbour = cKDTree(position).query(position, k=count, distance_upper_bound=radius_m)
    node = np.repeat(np.arange(len(position)), count).reshape(-1, count)
    keep = np.isfinite(distance) & (distance >= min_length_m) & (neighbour != node)
    edges = merge_springs(np.stack([node[keep], neighbour[keep]], axis=1))
    if len(edges) == 0:
        raise DataError(
            f"no two points are within {radius_m} m",
            where="springs_from_points",
            expected="at least one spring",
            fix="raise radius_m, or check that the points are in metres",
        )
    return edges


def driven_springs(
    position: np.ndarray,
    driven_index: np.ndarray,
    *,
    radius_m: float,
    max_neighbours: int,
    min_length_m: float = 1e-4,
) -> np.ndarray:
    """Springs from driven points to the free nodes around them (PhysTwin's controller springs).

    Args:
        position: [m], shape (N, 3), driven points included.
        driven_index: which nodes are driven, shape (K,).
        radius_m: reach of a driven point [m].
        max_neighbours: most springs of one driven point.
        min_length_m: shorter springs are left out [m].

    Returns:
        Springs, shape (S, 2), int32.

    Raises:
        DataError: if a driven point reaches no node and so would move nothing.
    """
    position = _checked_points(position, "position")
    driven_index = np.asarray(driven_index, dtype=np.int64)
    free = np.setdiff1d(np.arange(len(position)), driven_index)
    count = min(max_neighbours, len(free))
    distance, hit = cKDTree(position[free]).query(
        position[driven_index], k=np.arange(1, count + 1), distance_upper_bound=radius_m
    )
    keep = np.isfinite(distance) & (distance >= min_length_m)
    lonely = np.flatnonzero(~keep.any(axis=1))
    if len(lonely):
        raise DataError(
            f"driven point {int(lonely[0])} has no node within {radius_m} m",
            where=f"driven_index[{int(lonely[0])}] = node {int(driven_index[lonely[0]])}",
            expected="every driven point near the object at frame 0",
            fix="raise radius_m, or drop this driven point",
        )
    node = np.repeat(driven_index, count).reshape(-1, count)
    return merge_springs(np.stack([node[keep], free[hit[keep]]], axis=1))


def chain_springs(node_count: int, *, reach: int = 3, closed: bool = False) -> np.ndarray:
    """Springs of a rope: to the next node, the second next (bending) and so on.

    Args:
        node_count: N, in order along the rope.
        reach: 1 links next neighbours only; 2 and 3 resist bending.
        closed: also link the last node to the first.

    Returns:
        Springs, shape (S, 2), int32.
    """
    node = np.arange(node_count)
    groups = []
    for step in range(1, reach + 1):
        if closed:
            groups.append(np.stack([node, (node + step) % node_count], axis=1))
        else:
            groups.append(np.stack([node[:-step], node[step:]], axis=1))
    return merge_springs(*groups)


def hop_pairs(node_count: int, edges: np.ndarray, hops: int) -> csr_matrix:
    """Which nodes are within some number of springs of each other.

    Args:
        node_count: N.
        edges: springs, shape (S, 2).
        hops: number of springs; 0 gives only the diagonal.

    Returns:
        Boolean matrix (N, N), sparse, with sorted indices.
    """
    one = np.ones(2 * len(edges), dtype=bool)
    rows, cols = (
        np.concatenate([edges[:, 0], edges[:, 1]]),
        np.concatenate([edges[:, 1], edges[:, 0]]),
    )
    near = csr_matrix((one, (rows, cols)), shape=(node_count, node_count), dtype=bool)
    reach = csr_matrix(
        (np.ones(node_count, dtype=bool), (np.arange(node_count), np.arange(node_count))),
        shape=(node_count, node_count),
    )
    for _ in range(hops):
        reach = (reach @ near + reach).astype(bool)
    reach = reach.tocsr()
    reach.sort_indices()
    return reach


def exclusion_rows(
    node_count: int,
    edges: np.ndarray,
    rest_position: np.ndarray,
    *,
    hops: int,
    distance_m: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs never collide: neighbours by springs, and pairs that touch in the rest shape.

    Args:
        node_count: N.
        edges: springs, shape (S, 2).
        rest_position: [m], shape (N, 3).
        hops: nodes joined by so many springs or fewer are left out.
        distance_m: nodes nearer than this at rest are left out [m].

    Returns:
        Compressed rows: where each node's row starts, shape (N + 1,), and the nodes in it,
        ascending; int32.
    """
    pairs = cKDTree(rest_position).query_pairs(distance_m, output_type="ndarray")
    touching = hop_pairs(node_count, pairs.reshape(-1, 2), 1)
    reach = (hop_pairs(node_count, edges, hops) + touching).tocsr()
    reach.sort_indices()
    return reach.indptr.astype(np.int32), reach.indices.astype(np.int32)


def _checked_points(position: np.ndarray, name: str) -> np.ndarray:
    position = np.asarray(position, dtype=np.float64)
    if position.ndim != 2 or position.shape[1] != 3:
        raise DataError(
            f"{name} has shape {position.shape}",
            where=name,
            expected="(N, 3)",
            fix="give one row of x, y, z per point",
        )
    bad = np.flatnonzero(~np.isfinite(position).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} point(s) are not finite",
            where=f"{name}[{int(bad[0])}]",
            expected="finite coordinates",
            fix="drop or fill missing points before making springs",
        )
    return position
