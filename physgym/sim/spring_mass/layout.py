"""How springs are laid out for the kernels: compressed rows, and rows padded to vectors.

Every layout keeps one order of summation: a node adds its springs by ascending neighbour. Gathering
all springs of a node and scattering each spring once, rows in ascending order, then give the same
bits. Shapes: N nodes, S springs, R = 2 S row entries, C chunks of 16 nodes, E padded columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LANES", "Layout", "make_layout"]

LANES = 16
"""Nodes in a chunk: floats in a 512-bit vector."""


@dataclass(frozen=True)
class Layout:
    """Springs in the orders that the kernels read.

    Attributes:
        row_start: where a node's entries begin, shape (N + 1,).
        row_node: neighbour of each entry, ascending within a row, shape (R,).
        row_spring: spring of each entry, shape (R,).
        upper_start: where the entries with a higher neighbour begin, shape (N + 1,).
        upper_node: those neighbours, shape (S,).
        upper_spring: their springs, shape (S,).
        chunk_start: first column of each chunk of nodes, shape (C + 1,).
        chunk_node: node of each lane, N for padding, shape (C, 16).
        column_node: neighbour of each lane, the node itself for padding, shape (E, 16).
        column_spring: spring of each lane, -1 for padding, shape (E, 16).
        spring_slot: a padded entry of each spring, shape (S,).
        node_slot: lane of each node in the flattened chunks, shape (N,).
    """

    row_start: np.ndarray
    row_node: np.ndarray
    row_spring: np.ndarray
    upper_start: np.ndarray
    upper_node: np.ndarray
    upper_spring: np.ndarray
    chunk_start: np.ndarray
    chunk_node: np.ndarray
    column_node: np.ndarray
    column_spring: np.ndarray
    spring_slot: np.ndarray
    node_slot: np.ndarray


def make_layout(node_count: int, edges: np.ndarray) -> Layout:
    """Lay out springs.

    Args:
        node_count: N.
        edges: springs, shape (S, 2).

    Returns:
        All layouts, int32.
    """
    count = len(edges)
    spring = np.arange(count)
    tail = np.concatenate([edges[:, 0], edges[:, 1]]).astype(np.int64)
    head = np.concatenate([edges[:, 1], edges[:, 0]]).astype(np.int64)
    both = np.concatenate([spring, spring])
    order = np.lexsort((both, head, tail))
    tail, head, both = tail[order], head[order], both[order]
    start = np.searchsorted(tail, np.arange(node_count + 1))
    upper = head > tail
    upper_start = np.searchsorted(tail[upper], np.arange(node_count + 1))

    degree = np.diff(start)
    chunks = max(1, -(-node_count // LANES))
    # Equal degrees side by side leave little padding; sorting by place as well gained nothing.
    by_degree = np.argsort(-degree, kind="stable")
    lanes = np.full(chunks * LANES, node_count, dtype=np.int64)
    lanes[:node_count] = by_degree
    width = np.append(degree, 0)[lanes].reshape(chunks, LANES).max(axis=1)
    chunk_start = np.concatenate([[0], np.cumsum(width)])

    node_slot = np.empty(node_count, dtype=np.int64)
    node_slot[by_degree] = np.arange(node_count)
    chunk_of = np.repeat(np.arange(chunks), width)
    column_node = lanes.reshape(chunks, LANES)[chunk_of].copy()
    column_spring = np.full((int(chunk_start[-1]), LANES), -1, dtype=np.int64)
    slot = node_slot[tail]
    column = chunk_start[slot // LANES] + np.arange(len(tail)) - start[tail]
    column_node[column, slot % LANES] = head
    column_spring[column, slot % LANES] = both
    spring_slot = np.empty(count, dtype=np.int64)
    spring_slot[both[upper]] = (column * LANES + slot % LANES)[upper]

    return Layout(
        *(
            np.ascontiguousarray(a, dtype=np.int32)
            for a in (
                start,
                head,
                both,
                upper_start,
                head[upper],
                both[upper],
                chunk_start,
                lanes.reshape(chunks, LANES),
                column_node,
                column_spring,
                spring_slot,
                node_slot,
            )
        )
    )
