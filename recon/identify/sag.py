"""The natural shape of an object that stands under its own weight.

What cameras see in the first frame is not free of stress: foam that stands on a table is lower
than it is by itself. PhysTwin takes the first frame for the rest shape, and its objects, which are
stiff, then sag by little; a soft one would sink at once by what it has sunk already.
Shapes: N nodes, S springs.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import cg

__all__ = ["unloaded"]

# Displacements are wanted to a few percent; what converges slower is a floppy mode, which the
# linear solution would exaggerate.
_TOLERANCE = 0.02
_ITERATIONS = 150
# No part sinks by more than this share of the object's size, whatever a candidate's stiffness.
_MOST = 0.08


def unloaded(
    nodes: np.ndarray,
    edges: np.ndarray,
    stiffness_n_per_m: np.ndarray,
    weight_n: np.ndarray,
    held: np.ndarray,
) -> np.ndarray:
    """Where nodes would be without their weight, to first order.

    Solves K u = f around the loaded shape, K the springs' own stiffness there, and takes u back.

    Args:
        nodes: in equilibrium with their weight [m], shape (N, 3).
        edges: springs, shape (S, 2).
        stiffness_n_per_m: of each spring [N/m], shape (S,).
        weight_n: force on a node [N], shape (N, 3).
        held: nodes that do not move, shape (N,), bool.

    Returns:
        [m], shape (N, 3); as given where nothing is held.
    """
    free = ~held
    if not held.any() or not free.any():
        return np.array(nodes)
    stiffness = _stiffness(nodes, edges, stiffness_n_per_m)
    dof = np.flatnonzero(np.repeat(free, 3))
    inner = stiffness[dof][:, dof]
    diagonal = inner.diagonal()
    floor = 1e-9 * float(diagonal.max(initial=1e-30))
    inner = inner + diags(np.full(len(dof), floor))
    preconditioner = diags(1.0 / (diagonal + floor))
    load = np.asarray(weight_n, np.float64).reshape(-1)[dof]
    moved, _ = cg(inner, load, rtol=_TOLERANCE, maxiter=_ITERATIONS, M=preconditioner)
    sunk = np.zeros((len(nodes), 3))
    sunk[free] = moved.reshape(-1, 3)
    limit = _MOST * float(np.linalg.norm(np.ptp(nodes, axis=0)))
    size = np.linalg.norm(sunk, axis=1)
    # Each node by itself, so that one that hangs loose spoils no other.
    sunk *= np.minimum(1.0, limit / np.maximum(size, 1e-12))[:, None]
    return np.asarray(nodes - sunk)


def _stiffness(nodes: np.ndarray, edges: np.ndarray, stiffness: np.ndarray) -> csr_matrix:
    """Sum over springs of k d d^T, shape (3N, 3N)."""
    first, second = np.asarray(edges, np.int64).T
    along = nodes[second] - nodes[first]
    along = along / np.linalg.norm(along, axis=1, keepdims=True)
    block = stiffness[:, None, None] * along[:, :, None] * along[:, None, :]
    axes = np.arange(3)
    rows, columns, values = [], [], []
    for a, b, sign in (
        (first, first, 1.0),
        (second, second, 1.0),
        (first, second, -1.0),
        (second, first, -1.0),
    ):
        shape = (len(a), 3, 3)
        rows.append(np.broadcast_to((3 * a[:, None] + axes)[:, :, None], shape).ravel())
        columns.append(np.broadcast_to((3 * b[:, None] + axes)[:, None, :], shape).ravel())
        values.append((sign * block).ravel())
    size = 3 * len(nodes)
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return csr_matrix(entries, shape=(size, size))
