"""Linear blend skinning: points that follow the nodes of a twin (PhysTwin, section 3.4).

Every node turns with its neighbours (least squares, Kabsch 1976) and carries the points around it,
weighted by inverse distance. Rotations are taken from the rest shape, not from frame to frame, so
errors do not add up.
Shapes: T frames, N nodes, M points, k neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError

__all__ = ["Binding", "bind", "skin"]

# Weight of the rotation one frame before, over that of a neighbour at the usual distance: it
# decides only what the neighbours leave open, such as the twist of a rope that is a line of nodes.
_INERTIA = 1e-3


@dataclass(frozen=True, eq=False)
class Binding:
    """Which nodes carry which point.

    Attributes:
        rest_position: nodes at rest [m], shape (N, 3).
        frame_node: neighbours that tell a node's rotation, shape (N, k).
        point_node: nodes that carry a point, shape (M, k).
        weight: of each of them, shape (M, k); rows sum to 1.
        offset: from each of them to the point at rest [m], shape (M, k, 3).
    """

    rest_position: np.ndarray
    frame_node: np.ndarray
    point_node: np.ndarray
    weight: np.ndarray
    offset: np.ndarray


def bind(points: np.ndarray, nodes: np.ndarray, *, neighbours: int = 8) -> Binding:
    """Bind points to nodes at rest.

    Args:
        points: [m], shape (M, 3).
        nodes: [m], shape (N, 3).
        neighbours: k, nodes that carry a point, and that tell a node's rotation.

    Returns:
        The binding.

    Raises:
        DataError: if there is no node.
    """
    points, nodes = np.asarray(points, np.float64), np.asarray(nodes, np.float64)
    if len(nodes) == 0:
        raise DataError("no node", where="skinning: nodes", expected="at least one")
    tree = cKDTree(nodes)
    count = min(neighbours, len(nodes))
    distance, near = tree.query(points, k=np.arange(1, count + 1))
    # As PhysTwin's, with a softer core: a point on a node still listens to its neighbours a little.
    weight = 1.0 / (distance + 0.1 * float(np.median(distance[:, -1]) if len(points) else 1.0))
    weight /= weight.sum(axis=1, keepdims=True)
    _, frame = tree.query(nodes, k=np.arange(1, min(neighbours + 1, len(nodes)) + 1))
    return Binding(nodes, frame, near, weight, points[:, None] - nodes[near])


def skin(binding: Binding, position: np.ndarray) -> np.ndarray:
    """Where the points are when the nodes are here.

    Args:
        binding: from `bind`.
        position: nodes over time [m], shape (T, N, 3).

    Returns:
        [m], shape (T, M, 3), float32.
    """
    position = np.asarray(position, np.float64)
    made = np.empty((len(position), len(binding.weight), 3), np.float32)
    turn = np.broadcast_to(np.eye(3), (len(binding.rest_position), 3, 3))
    for frame, now in enumerate(position):
        turn = _rotations(binding, now, turn)
        carried = np.einsum("mkij,mkj->mki", turn[binding.point_node], binding.offset)
        carried += now[binding.point_node]
        made[frame] = np.einsum("mk,mki->mi", binding.weight, carried)
    return made


def _rotations(binding: Binding, now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Rotation of every node from rest, shape (N, 3, 3)."""
    p = binding.rest_position[binding.frame_node] - binding.rest_position[:, None]
    q = now[binding.frame_node] - now[:, None]
    scale = np.square(p).sum(axis=(1, 2)) / max(p.shape[1], 1)
    h = np.einsum("nki,nkj->nij", q, p) + _INERTIA * scale[:, None, None] * before
    u, _, vt = np.linalg.svd(h)
    flip = np.ones((len(h), 3))
    flip[:, 2] = np.sign(np.linalg.det(u @ vt))
    return np.asarray((u * flip[:, None]) @ vt)
