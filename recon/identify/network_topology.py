"""What surrounds the points of an object: springs between them (PhysTwin, section 3.2), a ground.

Shapes: N nodes, K driven points, S springs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.sim.contact import GroundPlane
from physgym.sim.spring_mass import (
    driven_springs,
    merge_springs,
    rest_lengths,
    springs_from_points,
)
from recon.tracks import Tracks

__all__ = ["Topology", "level_ground", "network_springs", "spacing_and_size", "triple"]


@dataclass(frozen=True, eq=False)
class Topology:
    """Springs of one object.

    Attributes:
        edges: node pairs, shape (S, 2), int32, lower node first, sorted.
        rest_length_m: shape (S,).
        strut: of a sheet, which springs make it resist bending, shape (S,), bool; None elsewhere.
    """

    edges: np.ndarray
    rest_length_m: np.ndarray
    strut: np.ndarray | None = None


def spacing_and_size(
    rest: np.ndarray, tracks: Tracks, *, neighbour: int = 1
) -> tuple[float, float]:
    """The lengths that everything else is measured in.

    Args:
        rest: points at rest [m], shape (N, 3).
        tracks: says which of them are driven.
        neighbour: take the distance to this nearest one. Grids want the first; points of a scan
            have some that lie close by chance, and of a rope all around it.

    Returns:
        Usual distance of a free point to a near one, and the diagonal of the bounding box [m].

    Raises:
        DataError: if there are no two free points.
    """
    free = rest[tracks.free_index]
    if len(free) < 2:
        raise DataError(
            f"{len(free)} free point(s) of {len(rest)}",
            where=f"{tracks.name}: driven_index",
            expected="at least two points that are not driven",
            fix="name only the points that a gripper holds",
        )
    neighbour = min(neighbour, len(free) - 1)
    distance, _ = cKDTree(free).query(free, k=[neighbour + 1])
    return float(np.median(distance)), float(np.linalg.norm(np.ptp(rest, axis=0)))


def network_springs(
    rest: np.ndarray,
    driven_index: np.ndarray,
    *,
    radius_m: float,
    neighbours: int,
    driven_radius_m: float,
    driven_neighbours: int,
    shortest_m: float,
) -> np.ndarray:
    """Springs between near points, and from driven points to what is around them.

    A spanning tree of near points is always part of it, so nothing falls off a small radius.

    Args:
        rest: points at rest [m], driven ones included, shape (N, 3).
        driven_index: which are driven, shape (K,); they may be of the object or beside it.
        radius_m: no spring of the object is longer [m].
        neighbours: most neighbours that one point chooses.
        driven_radius_m: reach of a driven point [m].
        driven_neighbours: most points that one driven point holds.
        shortest_m: shorter springs are left out [m].

    Returns:
        Springs, shape (S, 2), int32.
    """
    nodes = len(rest)
    tree = cKDTree(rest)
    distance, near = tree.query(rest, k=min(13, nodes))
    node = np.repeat(np.arange(nodes), near.shape[1]).reshape(near.shape)
    length = np.maximum(distance, shortest_m)  # a sparse graph forgets edges of weight 0
    keep = node != near
    graph = csr_matrix((length[keep], (node[keep], near[keep])), shape=(nodes, nodes))
    spanning = np.stack(minimum_spanning_tree(graph).nonzero(), axis=1)
    groups = [spanning]
    if distance[:, 1].min() <= radius_m:
        groups.append(
            springs_from_points(
                rest, radius_m=radius_m, max_neighbours=neighbours, min_length_m=shortest_m
            )
        )
    free = np.setdiff1d(np.arange(nodes), driven_index)
    if len(driven_index):
        reach, _ = cKDTree(rest[free]).query(rest[driven_index])
        # A driven point amid driven points holds nothing; one that is far off all holds the next.
        driven_radius_m = max(driven_radius_m, 1.001 * float(reach.min()))
        holding = driven_index[(reach <= driven_radius_m) & (reach >= shortest_m)]
        if len(holding):
            others = np.setdiff1d(driven_index, holding)
            rows = np.setdiff1d(np.arange(nodes), others)
            local = np.searchsorted(rows, holding)
            found = driven_springs(
                rest[rows],
                local,
                radius_m=driven_radius_m,
                max_neighbours=driven_neighbours,
                min_length_m=shortest_m,
            )
            groups.append(rows[found])
    edges = merge_springs(*groups)
    # Between two driven points a spring moves nothing; without length it has no strain.
    useful = ~np.isin(edges, driven_index).all(axis=1)
    return edges[useful & (rest_lengths(rest, edges) > 0.0)]


def level_ground(gravity: np.ndarray, height_m: float | None) -> GroundPlane | None:
    """A plane square to gravity; level in z where there is none.

    Args:
        gravity: [m/s^2], shape (3,).
        height_m: from the origin against gravity [m]; no ground when None.

    Returns:
        The plane, or None.
    """
    if height_m is None:
        return None
    strength = float(np.linalg.norm(gravity))
    up = -gravity / strength if strength > 0.0 else np.array([0.0, 0.0, 1.0])
    return GroundPlane(triple(up), float(height_m))


def triple(vector: np.ndarray) -> tuple[float, float, float]:
    """Three floats of an array.

    Args:
        vector: shape (3,).

    Returns:
        Its numbers.
    """
    return float(vector[0]), float(vector[1]), float(vector[2])
