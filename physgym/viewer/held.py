"""What hands hold of a twin, as a twin with more driven nodes: `build_solver` makes its solver.

A spring network that says how it is gripped (`physgym.grip`) gets driven points with springs to the
nodes around them. Of any other body the nodes in reach are driven themselves. A rod is held where
its own clamps are and nowhere else.
Shapes: N nodes, P nodes in reach of a hand, K driven points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from physgym.grip import GripSprings, grip_springs
from physgym.twin import Twin

__all__ = [
    "Hold",
    "can_be_grabbed",
    "driven_groups",
    "far_ends",
    "grab_radius_m",
    "node_spacing_m",
    "take_hold",
    "with_holds",
]

# Driven points of one hand at most: PhysTwin's playground has 30 of both hands together.
_MOST = 30


@dataclass(frozen=True, eq=False)
class Hold:
    """What one hand took hold of.

    Attributes:
        node: nodes in reach, shape (P,).
        springs: from the places of these nodes to others; None where the nodes themselves are held.
    """

    node: np.ndarray
    springs: GripSprings | None


def can_be_grabbed(twin: Twin) -> bool:
    """Whether hands may take it anywhere; a rod is held at its clamps only.

    Args:
        twin: the twin.

    Returns:
        True if so.
    """
    return twin.dynamics != "rod"


def node_spacing_m(twin: Twin) -> float:
    """Usual distance of a node to the nearest other one.

    Args:
        twin: the twin.

    Returns:
        [m]; 1 cm for a single node.
    """
    if "spacing_m" in twin.parameters:
        return float(twin.parameters["spacing_m"])
    if twin.node_count < 2:
        return 0.01
    near, _ = cKDTree(twin.rest_position).query(twin.rest_position, k=2)
    return float(np.median(near[:, 1]))


def grab_radius_m(twin: Twin) -> float:
    """How far a hand reaches when it takes hold: two spacings, a fingertip on most twins.

    Args:
        twin: the twin.

    Returns:
        [m].
    """
    return 2.0 * node_spacing_m(twin)


def driven_groups(twin: Twin) -> list[np.ndarray]:
    """The twin's own driven nodes, parted where there is a gap; the leftmost (+y) group first.

    Args:
        twin: the twin.

    Returns:
        Node numbers of each group.
    """
    driven = np.asarray(twin.driven_index)
    if not len(driven):
        return []
    rest = np.asarray(twin.rest_position, np.float64)
    gap_m = 3.0 * node_spacing_m(twin)
    pairs = cKDTree(rest[driven]).query_pairs(gap_m, output_type="ndarray")
    shape = (len(driven), len(driven))
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=shape)
    count, label = connected_components(graph, directed=False)
    return _left_first([driven[label == g] for g in range(count)], rest)


def far_ends(position: np.ndarray) -> list[int]:
    """The two nodes that lie farthest apart along the longest level axis, the left one (+y) first.

    Args:
        position: nodes [m], shape (N, 3).

    Returns:
        Two nodes; one of a body of one node.
    """
    centred = (position - position.mean(axis=0)) * np.array([1.0, 1.0, 0.0])
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    along = centred @ axis
    ends = sorted({int(along.argmin()), int(along.argmax())})
    return [int(g[0]) for g in _left_first([np.array([e]) for e in ends], position)]


def _left_first(groups: list[np.ndarray], position: np.ndarray) -> list[np.ndarray]:
    # Within a millimetre of each other in y, the one that is farther back (-x) counts as left.
    centre = [position[g].mean(axis=0) for g in groups]
    order = sorted(range(len(groups)), key=lambda g: (-round(centre[g][1], 3), centre[g][0]))
    return [groups[g] for g in order]


def take_hold(
    twin: Twin, position: np.ndarray, point: np.ndarray, taken: Sequence[Hold] = ()
) -> Hold:
    """What a hand at a point gets hold of.

    Args:
        twin: the twin.
        position: its nodes now [m], shape (N, 3).
        point: where the hand closes [m], shape (3,).
        taken: what other hands hold; a node is in one hand only.

    Returns:
        The nearest node at least.
    """
    free = np.setdiff1d(
        np.arange(len(position)),
        np.concatenate(
            [np.zeros(0, np.int64), np.asarray(twin.driven_index), *(h.node for h in taken)]
        ),
    )
    away = np.linalg.norm(position[free] - point, axis=1)
    order = np.argsort(away, kind="stable")[:_MOST]
    reach_m = max(grab_radius_m(twin), 1.001 * float(away.min()))
    node = np.sort(free[order[away[order] <= reach_m]])
    if twin.dynamics != "spring_mass" or "grip_radius_m" not in twin.parameters:
        return Hold(node, None)
    springs = grip_springs(
        position,
        position[node],
        radius_m=float(twin.parameters["grip_radius_m"]),
        neighbours=int(twin.parameters["grip_neighbours"]),
        shortest_m=0.1 * node_spacing_m(twin),
    )
    return Hold(node, springs)


def with_holds(twin: Twin, holds: Sequence[Hold]) -> tuple[Twin, list[np.ndarray]]:
    """The twin with what hands hold driven.

    Args:
        twin: the twin.
        holds: of the same kind all.

    Returns:
        A twin for `build_solver`, and of each hold the nodes of that twin that drive it; nodes of
        the first twin keep their numbers.
    """
    if not holds:
        return twin, []
    if all(hold.springs is None for hold in holds):
        return _driving_nodes(twin, holds), [hold.node for hold in holds]
    return _with_grip_points(twin, holds)


def _driving_nodes(twin: Twin, holds: Sequence[Hold]) -> Twin:
    driven = np.concatenate([np.asarray(twin.driven_index), *(hold.node for hold in holds)])
    values = dict(twin.parameters)
    if twin.dynamics == "spring_mass":
        # The mass is that of the nodes that are free; what is left of them keeps the mass it had.
        before, after = (max(1, twin.node_count - n) for n in (len(twin.driven_index), len(driven)))
        values["mass_kg"] = np.array(float(values["mass_kg"]) * after / before)
    return twin.replace(driven_index=driven, parameters=values)


def _with_grip_points(twin: Twin, holds: Sequence[Hold]) -> tuple[Twin, list[np.ndarray]]:
    values = dict(twin.parameters)
    edges, lengths = [np.asarray(values["springs"])], [np.asarray(values["spring_rest_length_m"])]
    base, groups = twin.node_count, []
    for hold in holds:
        assert hold.springs is not None
        edges.append(np.stack([hold.springs.node, hold.springs.point + base], axis=1))
        lengths.append(hold.springs.rest_length_m)
        groups.append(np.arange(base, base + len(hold.node)))
        base += len(hold.node)
    added = np.concatenate(lengths[1:])
    # As physgym.grip: the twin's own stiffness times the grip's ratio, by length as all springs.
    ratio = np.log(float(values["grip_stiffness_ratio"])) + float(
        values["length_exponent"]
    ) * np.log(added / float(values["spacing_m"]))
    own = np.asarray(values["log_stiffness_ratio"])
    values["springs"] = np.concatenate(edges).astype(edges[0].dtype)
    values["spring_rest_length_m"] = np.concatenate(lengths)
    values["log_stiffness_ratio"] = np.concatenate([own, ratio])
    for name in ("spring_preload", "spring_asymmetry"):
        if name in values:
            whole = np.broadcast_to(values[name], own.shape)
            values[name] = np.concatenate([whole, np.zeros(len(added))])
    # At rest a driven point is where its node is: what is too near to collide at rest is the same.
    rest = np.concatenate([twin.rest_position, *(twin.rest_position[h.node] for h in holds)])
    driven = np.concatenate([np.asarray(twin.driven_index), *groups])
    held = twin.replace(rest_position=rest, driven_index=driven, parameters=values, uncertainty={})
    return held, groups
