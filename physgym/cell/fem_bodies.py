"""Tetrahedral meshes of simple bodies for the finite-element solver.

A lattice of hexahedral cells with a node in every centre: two centres on either side of a face and
an edge of that face make a tetrahedron (the body-centred cubic lattice). A face of the surface
and its one centre are cut in two along the shorter diagonal, along alternating ones where they are
equal. So inside there are no diagonals, which would make one direction stiffer than another, and
the two faces at an edge of the lattice belong to two tetrahedra, which stay good when the lattice
is bent to a ball.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from physgym.errors import DataError

__all__ = ["TetBody", "ball", "box", "cylinder", "tet_volumes", "torus"]

_MAX_TETS = 60_000


@dataclass(frozen=True)
class TetBody:
    """A body at rest, its centre of volume near the origin.

    Attributes:
        name: what it is.
        nodes: shape (N, 3) [m].
        tets: node numbers, positively oriented, shape (M, 4).
        faces: triangles of the surface, counter-clockwise from outside, shape (F, 3).
        surface: whether a node is on the surface, shape (N,) bool.
        node_volume_m3: a quarter of all tetrahedra around a node, shape (N,).
    """

    name: str
    nodes: np.ndarray
    tets: np.ndarray
    faces: np.ndarray
    surface: np.ndarray
    node_volume_m3: np.ndarray


def box(size_m: tuple[float, float, float], cell_m: float) -> TetBody:
    """A block.

    Args:
        size_m: extent along x, y, z.
        cell_m: side of a cell; rounded so that cells fill the block.

    Returns:
        The body.

    Raises:
        DataError: if a length does not fit.
    """
    half = 0.5 * np.array(_lengths("size_m", size_m, 3))
    counts = [_count(2 * side, cell_m) for side in half]
    return _mesh("box", counts, lambda p: p * half)


def ball(radius_m: float, cell_m: float) -> TetBody:
    """A ball: a cube of cells whose outer layers are bent to spheres.

    Args:
        radius_m: of the surface's nodes.
        cell_m: side of a cell on the diameter.

    Returns:
        The body.

    Raises:
        DataError: if a length does not fit.
    """
    (radius,) = _lengths("radius_m", (radius_m,), 1)
    count = _count(2 * radius, cell_m)
    return _mesh("ball", [count] * 3, lambda p: radius * _round(p))


def cylinder(radius_m: float, height_m: float, cell_m: float) -> TetBody:
    """An upright cylinder, its axis along z.

    Args:
        radius_m: of the surface's nodes.
        height_m: along z.
        cell_m: side of a cell.

    Returns:
        The body.

    Raises:
        DataError: if a length does not fit.
    """
    radius, height = _lengths("radius_m, height_m", (radius_m, height_m), 2)

    def shape(p: np.ndarray) -> np.ndarray:
        return np.concatenate([radius * _round(p[:, :2]), 0.5 * height * p[:, 2:]], axis=1)

    across = _count(2 * radius, cell_m)
    return _mesh("cylinder", [across, across, _count(height, cell_m)], shape)


def torus(radius_m: float, tube_radius_m: float, cell_m: float) -> TetBody:
    """A ring lying flat, its axis along z: not convex.

    Args:
        radius_m: from the axis to the middle of the tube.
        tube_radius_m: of the tube.
        cell_m: side of a cell in the middle of the tube.

    Returns:
        The body.

    Raises:
        DataError: if a length does not fit.
    """
    radius, tube = _lengths("radius_m, tube_radius_m", (radius_m, tube_radius_m), 2)
    if tube >= 0.9 * radius:
        raise _bad("tube_radius_m", tube, f"below nine tenths of radius_m, {radius}")

    def shape(p: np.ndarray) -> np.ndarray:
        section, angle = tube * _round(p[:, :2]), math.pi * p[:, 2]
        out = radius + section[:, 0]
        return np.stack([out * np.cos(angle), out * np.sin(angle), section[:, 1]], axis=1)

    across, around = _count(2 * tube, cell_m), max(6, _count(2 * math.pi * radius, cell_m))
    # An even number, so that diagonals alternate across the seam too.
    return _mesh("torus", [across, across, around + around % 2], shape, closed=True)


def tet_volumes(nodes: np.ndarray, tets: np.ndarray) -> np.ndarray:
    """Signed volumes.

    Args:
        nodes: shape (N, 3) [m].
        tets: shape (M, 4).

    Returns:
        Volumes [m^3], positive where nodes 1, 2, 3 turn counter-clockwise seen from node 0's
        opposite side, shape (M,).
    """
    sides = nodes[tets[:, 1:]] - nodes[tets[:, :1]]
    return np.asarray(np.linalg.det(sides) / 6)


def _mesh(
    name: str,
    counts: list[int],
    shape: Callable[[np.ndarray], np.ndarray],
    *,
    closed: bool = False,
) -> TetBody:
    """Cells of the cube from -1 to 1, mapped; `closed` joins the two ends of the third axis."""
    if 12 * math.prod(counts) > _MAX_TETS:
        raise _bad("cell_m", f"for {12 * math.prod(counts)} tetrahedra", f"at most {_MAX_TETS}")
    lattice, inner, pyramids = _lattice(np.array(counts), closed)
    nodes = shape(lattice)
    tets = np.concatenate([inner, _cut(nodes, pyramids)])
    flipped = tet_volumes(nodes, tets) < 0
    tets[flipped, 2:] = tets[flipped, :1:-1]
    volumes = tet_volumes(nodes, tets)
    if volumes.min() < 0.02 * volumes.mean():
        raise _bad("cell_m", "too coarse for this shape", "smaller cells")
    node_volume = np.bincount(tets.ravel(), np.repeat(volumes / 4, 4), len(nodes))
    nodes = nodes - node_volume @ nodes / node_volume.sum()
    faces = _boundary(tets)
    surface = np.zeros(len(nodes), dtype=bool)
    surface[faces] = True
    return TetBody(name, nodes, tets, faces, surface, node_volume)


def _lattice(counts: np.ndarray, closed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes in the cube from -1 to 1, unoriented tetrahedra, and what is left at the surface.

    Returns:
        Nodes, shape (N, 3); tetrahedra, shape (M, 4); pyramids (tip and the corners of the
        square in order, which starts so that first diagonals alternate), shape (Q, 5).
    """
    corners = counts + np.array([1, 1, 0 if closed else 1])
    cells = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), -1).reshape(-1, 3)
    grid = np.stack(np.meshgrid(*map(np.arange, corners), indexing="ij"), -1).reshape(-1, 3)
    nodes = np.concatenate([2 * grid / counts - 1, (2 * cells + 1) / counts - 1])

    def corner(index: np.ndarray) -> np.ndarray:
        return np.ravel_multi_index(tuple((index % corners).T), tuple(corners))

    def centre(index: np.ndarray) -> np.ndarray:
        return len(grid) + np.ravel_multi_index(tuple((index % counts).T), tuple(counts))

    tets, pyramids = [], []
    for axis in range(3):
        along, u, v = np.eye(3, dtype=int)[[axis, (axis + 1) % 3, (axis + 2) % 3]]
        joined = closed and axis == 2
        inner = cells[(cells[:, axis] > 0) | joined]  # cells whose lower face has one on each side
        ring = [corner(inner + step) for step in (0 * u, u, u + v, v)]
        pair = centre(inner), centre(inner - along)
        tets += [np.stack([*pair, ring[k], ring[(k + 1) % 4]], axis=1) for k in range(4)]
        for end in () if joined else (0, 1):
            outer = cells[cells[:, axis] == end * (counts[axis] - 1)]
            square = [corner(outer + end * along + step) for step in (0 * u, u, u + v, v)]
            even = np.stack([centre(outer), *square], axis=1)
            odd = even[:, [0, 2, 3, 4, 1]]
            pyramids.append(np.where(outer.sum(axis=1, keepdims=True) % 2, even, odd))
    return nodes, np.concatenate(tets), np.concatenate(pyramids)


def _cut(nodes: np.ndarray, pyramids: np.ndarray) -> np.ndarray:
    """Two tetrahedra of every pyramid, along the shorter diagonal of its square."""
    tip, a, b, c, d = pyramids.T
    first = np.linalg.norm(nodes[a] - nodes[c], axis=1)
    second = np.linalg.norm(nodes[b] - nodes[d], axis=1)
    turn = (first > second * (1 + 1e-9))[:, None]  # equal ones alternate, whatever the round-off
    one, two = np.stack([tip, a, b, c], axis=1), np.stack([tip, a, c, d], axis=1)
    three, four = np.stack([tip, b, c, d], axis=1), np.stack([tip, b, d, a], axis=1)
    return np.concatenate([np.where(turn, three, one), np.where(turn, four, two)])


def _round(p: np.ndarray) -> np.ndarray:
    """Square to disc, cube to ball: nested cubes become rounder outwards, the outermost round."""
    size = np.abs(p).max(axis=1, keepdims=True)
    length = np.linalg.norm(p, axis=1, keepdims=True)
    ratio = np.divide(size, length, out=np.ones_like(size), where=length > 0)
    return p * (1 + size * (ratio - 1))


def _boundary(tets: np.ndarray) -> np.ndarray:
    """Faces of one tetrahedron only, counter-clockwise from outside, shape (F, 3)."""
    sides = tets[:, [[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]]].reshape(-1, 3)
    _, first, count = np.unique(
        np.sort(sides, axis=1), axis=0, return_index=True, return_counts=True
    )
    return np.asarray(sides[np.sort(first[count == 1])])


def _count(length_m: float, cell_m: float) -> int:
    (cell,) = _lengths("cell_m", (cell_m,), 1)
    if cell > 0.6 * length_m:
        raise _bad("cell_m", cell, f"at most 0.6 of the shortest side, {length_m}")
    return max(2, round(length_m / cell))


def _lengths(name: str, values: tuple[float, ...], count: int) -> list[float]:
    if len(values) != count or not all(math.isfinite(v) and v > 0 for v in values):
        raise _bad(name, values, f"{count} finite lengths above zero in metres")
    return [float(value) for value in values]


def _bad(field: str, value: object, expected: str) -> DataError:
    return DataError(
        f"{field} is {value}",
        where=f"fem_bodies, {field}",
        expected=expected,
        fix=f"pass another {field}; lengths are in metres",
    )
