"""Springs of an object from its tracked points (PhysTwin, section 3.2), and what they imply.

Shapes: N nodes, K driven points, S springs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import cKDTree

from physgym.sim.spring_mass import (
    driven_springs,
    merge_springs,
    rest_lengths,
    springs_from_points,
)
from physgym.sim.timestep import largest_eigenvalue

__all__ = ["Topology", "make_topology", "network_springs"]


@dataclass(frozen=True, eq=False)
class Topology:
    """Springs of one object and what follows from them alone.

    Attributes:
        edges: node pairs, shape (S, 2), int32, lower node first, sorted.
        rest_length_m: shape (S,).
        stiff_eigenvalue: largest eigenvalue of the network per newton of stiffness [1/(s^2 N)].
        damp_eigenvalue: the same of the dashpots [1/(s N s/m)].
    """

    edges: np.ndarray
    rest_length_m: np.ndarray
    stiff_eigenvalue: float
    damp_eigenvalue: float


def make_topology(rest: np.ndarray, edges: np.ndarray, inv_mass_per_kg: np.ndarray) -> Topology:
    """Lengths and eigenvalues of a network.

    Args:
        rest: points at rest [m], shape (N, 3).
        edges: springs, shape (S, 2).
        inv_mass_per_kg: 0 for driven points, shape (N,).

    Returns:
        The topology.
    """
    length = rest_lengths(rest, edges)
    return Topology(
        edges,
        length,
        largest_eigenvalue(edges, 1.0 / length, inv_mass_per_kg),
        largest_eigenvalue(edges, np.ones(len(edges)), inv_mass_per_kg),
    )


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
