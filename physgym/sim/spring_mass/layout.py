"""How springs are laid out for the kernels: compressed rows, and rows padded to vectors.

Every layout keeps one order of summation: a node adds its springs by ascending neighbour. Gathering
all springs of a node and scattering each spring once, rows in ascending order, then give the same
bits. A spring that pulls its two ends unlike has two pulls: number s that of its first end, number
S + s that of its second.
Shapes: N nodes, S springs, R = 2 S row entries, C chunks of 16 nodes, E padded columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
    rows = _rows(node_count, edges)
    upper = rows.head > rows.tail
    made = {
        "row_start": rows.start,
        "row_node": rows.head,
        "row_spring": rows.spring,
        "row_pull": rows.pull,
        "upper_start": np.searchsorted(rows.tail[upper], np.arange(node_count + 1)),
        "upper_node": rows.head[upper],
        "upper_spring": rows.spring[upper],
        "upper_pull": np.concatenate([rows.pull[upper], rows.other[upper]]),
        **_padded(rows, node_count),
    }
    return Layout(**{name: np.ascontiguousarray(a, dtype=np.int32) for name, a in made.items()})


class _Rows(NamedTuple):
    """Entries in ascending order of their node and neighbour, shape (R,) but for the start."""

    tail: np.ndarray
    head: np.ndarray
    spring: np.ndarray
    pull: np.ndarray  # on the tail
    other: np.ndarray  # pull on the head
    start: np.ndarray  # (N + 1,)


def _rows(node_count: int, edges: np.ndarray) -> _Rows:
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
    return _Rows(tail, head, both, pull, other, start)


def _padded(rows: _Rows, node_count: int) -> dict[str, np.ndarray]:
    """Chunks of nodes, columns of their entries, and where springs, pulls and nodes are there."""
    degree = np.diff(rows.start)
    chunks = max(1, -(-node_count // LANES))
    # Equal degrees side by side leave little padding; sorting by place as well gained nothing.
    by_degree = np.argsort(-degree, kind="stable")
    lanes = np.full(chunks * LANES, node_count, dtype=np.int64)
    lanes[:node_count] = by_degree
    width = np.append(degree, 0)[lanes].reshape(chunks, LANES).max(axis=1)
    chunk_start = np.concatenate([[0], np.cumsum(width)])
    chunk_of = np.repeat(np.arange(chunks), width)
    chunk_node = lanes.reshape(chunks, LANES)

    node_slot = np.empty(node_count, dtype=np.int64)
    node_slot[by_degree] = np.arange(node_count)
    slot = node_slot[rows.tail]
    column = chunk_start[slot // LANES] + np.arange(len(slot)) - rows.start[rows.tail]
    lane = slot % LANES

    column_node = chunk_node[chunk_of].copy()
    column_node[column, lane] = rows.head
    column_spring = np.full((int(chunk_start[-1]), LANES), -1, dtype=np.int64)
    column_spring[column, lane] = rows.spring
    column_pull = np.full((2, *column_spring.shape), -1, dtype=np.int64)
    column_pull[:, column, lane] = rows.pull, rows.other

    upper = rows.head > rows.tail
    spring_slot = np.empty(len(rows.spring) // 2, dtype=np.int64)
    spring_slot[rows.spring[upper]] = (column * LANES + lane)[upper]
    pull_slot = np.empty(len(rows.pull), dtype=np.int64)
    pull_slot[rows.pull] = column * LANES + lane
    return {
        "chunk_start": chunk_start,
        "chunk_node": chunk_node,
        "column_node": column_node,
        "column_spring": column_spring,
        "column_pull": column_pull,
        "spring_slot": spring_slot,
        "pull_slot": pull_slot,
        "node_slot": node_slot,
    }
