"""How springs are laid out for the kernels: compressed rows, and rows padded to vectors.

Every layout keeps one order of summation: a node adds its springs by ascending neighbour. Gathering
all springs of a node and scattering each spring once, rows in ascending order, then give the same
bits. A spring that pulls its two ends unlike has two pulls: number s that of its first end, number
S + s that of its second.
Shapes: N nodes, S springs, R = 2 S row entries, C chunks of 16 nodes, E padded columns.
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
        row_pull: pull of each entry on the node of the row, shape (R,).
        upper_start: where the entries with a higher neighbour begin, shape (N + 1,).
        upper_node: those neighbours, shape (S,).
        upper_spring: their springs, shape (S,).
        upper_pull: pulls of these entries on the lower node, then all those on the higher one,
            shape (2 S,).
        chunk_start: first column of each chunk of nodes, shape (C + 1,).
        chunk_node: node of each lane, N for padding, shape (C, 16).
        column_node: neighbour of each lane, the node itself for padding, shape (E, 16).
        column_spring: spring of each lane, -1 for padding, shape (E, 16).
        column_pull: pull of each lane on its own node, then on the neighbour; -1 for padding,
            shape (2, E, 16).
        spring_slot: a padded entry of each spring, shape (S,).
        pull_slot: the padded entry of each pull, shape (2 S,).
        node_slot: lane of each node in the flattened chunks, shape (N,).
    """

    row_start: np.ndarray
    row_node: np.ndarray
    row_spring: np.ndarray
    row_pull: np.ndarray
    upper_start: np.ndarray
    upper_node: np.ndarray
    upper_spring: np.ndarray
    upper_pull: np.ndarray
    chunk_start: np.ndarray
    chunk_node: np.ndarray
    column_node: np.ndarray
    column_spring: np.ndarray
    column_pull: np.ndarray
    spring_slot: np.ndarray
    pull_slot: np.ndarray
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
    pull = np.arange(2 * count)[order]
    other = (pull + count) % max(2 * count, 1)
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
    column_pull = np.full((2, *column_spring.shape), -1, dtype=np.int64)
    column_pull[:, column, slot % LANES] = pull, other
    spring_slot = np.empty(count, dtype=np.int64)
    spring_slot[both[upper]] = (column * LANES + slot % LANES)[upper]
    pull_slot = np.empty(2 * count, dtype=np.int64)
    pull_slot[pull] = column * LANES + slot % LANES

    return Layout(
        *(
            np.ascontiguousarray(a, dtype=np.int32)
            for a in (
                start,
                head,
                both,
                pull,
                upper_start,
                head[upper],
                both[upper],
                np.concatenate([pull[upper], other[upper]]),
                chunk_start,
                lanes.reshape(chunks, LANES),
                column_node,
                column_spring,
                column_pull,
                spring_slot,
                pull_slot,
                node_slot,
            )
        )
    )
