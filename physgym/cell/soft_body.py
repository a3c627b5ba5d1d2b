"""Rest shapes of the soft cell's bodies: vertices, elements, masses and surface."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from physgym.cell.soft_config import SoftCellConfig

__all__ = ["SoftBody", "build_body", "lay_out"]

# A unit cube into six tetrahedra around its main diagonal (Kuhn 1960): neighbouring cubes agree on
# the diagonals of their shared faces. Corner k is at bits (x, y, z) = (k & 1, k >> 1 & 1, k >> 2).
_KUHN = np.array(
    [[0, 1, 3, 7], [0, 3, 2, 7], [0, 2, 6, 7], [0, 6, 4, 7], [0, 4, 5, 7], [0, 5, 1, 7]]
)

# The seated figure as ellipsoids (centre, half axes) in a box from -1 to 1; z is up.
_FIGURE = np.array(
    [
        [[0.0, 0.0, -0.35], [0.56, 0.62, 0.62]],  # belly
        [[0.0, 0.0, 0.45], [0.52, 0.56, 0.42]],  # head
        [[-0.05, 0.48, 0.82], [0.24, 0.26, 0.22]],  # ears
        [[-0.05, -0.48, 0.82], [0.24, 0.26, 0.22]],
        [[0.58, 0.46, -0.72], [0.42, 0.32, 0.30]],  # legs, forward
        [[0.58, -0.46, -0.72], [0.42, 0.32, 0.30]],
        [[-0.55, 0.0, -0.72], [0.34, 0.36, 0.28]],  # tail, to sit on
        [[0.30, 0.72, -0.18], [0.30, 0.28, 0.28]],  # arms
        [[0.30, -0.72, -0.18], [0.30, 0.28, 0.28]],
    ]
)
_SEAT = -0.84  # the figure is cut flat here


@dataclass(frozen=True)
class SoftBody:
    """A body at rest, standing on z = 0, centred over the origin.

    Attributes:
        dim: 1 for a rod, 2 for a shell, 3 for a solid.
        vertices: shape (N, 3) [m].
        elements: edges, triangles or tetrahedra, shape (E, dim + 1).
        faces: triangles of the surface, counter-clockwise from outside, shape (F, 3); a shell's
            upper side; none for a rod.
        vertex_mass_kg: lumped from the elements, shape (N,).
        radius_m: half thickness that the physics gives every element.
    """

    dim: int
    vertices: np.ndarray
    elements: np.ndarray
    faces: np.ndarray
    vertex_mass_kg: np.ndarray
    radius_m: float


def build_body(config: SoftCellConfig) -> SoftBody:
    """Build the body at rest.

    Args:
        config: its kind, size, spacing and density.

    Returns:
        The body.
    """
    if config.kind == "rope":
        return _rope(config)
    if config.kind == "cloth":
        return _cloth(config)
    counts = [max(2, round(side / config.spacing)) for side in config.size]
    axes = [np.linspace(-0.5 * side, 0.5 * side, n + 1) for side, n in zip(config.size, counts)]
    cells = np.stack(np.meshgrid(*[np.arange(n) for n in counts], indexing="ij"), -1).reshape(-1, 3)
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    if config.kind == "toy":
        centre = np.stack(
            [0.5 * (axis[1:] + axis[:-1])[cells[:, k]] for k, axis in enumerate(axes)]
        )
        cells = cells[_figure(centre.T / (0.5 * np.array(config.size))) < 0]
    corner = np.array([[k & 1, k >> 1 & 1, k >> 2] for k in range(8)])
    grid = cells[:, None] + corner
    flat = (grid[..., 0] * (counts[1] + 1) + grid[..., 1]) * (counts[2] + 1) + grid[..., 2]
    used, tetrahedra = np.unique(flat[:, _KUHN].reshape(-1, 4), return_inverse=True)
    tetrahedra = _positive(lattice[used], tetrahedra.reshape(-1, 4))
    vertices = lattice[used]
    faces = _outside(vertices, tetrahedra)
    if config.kind == "toy":
        vertices = _snap(vertices, tetrahedra, faces, 0.5 * np.array(config.size))
    vertices = vertices - [0, 0, vertices[:, 2].min()]
    share = config.density * _volumes(vertices, tetrahedra) / 4
    return SoftBody(3, vertices, tetrahedra, faces, _lump(share, tetrahedra, len(vertices)), 0.0)


def lay_out(body: SoftBody) -> np.ndarray:
    """Where a body's vertices start: at rest, but a rope as a flat S of its own length.

    Args:
        body: the body at rest.

    Returns:
        Vertices [m], shape (N, 3), over the origin.
    """
    if body.dim != 1:
        return body.vertices.copy()
    vertices = body.vertices
    length = np.linalg.norm(np.diff(vertices, axis=0), axis=1)
    middle = np.cumsum(length) - 0.5 * length
    heading = 0.6 * np.cos(2 * np.pi * middle / length.sum())
    steps = np.stack([np.cos(heading), np.sin(heading), 0 * heading], axis=1) * length[:, None]
    laid = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    laid -= laid.mean(axis=0)
    laid[:, 2] = vertices[:, 2]
    return laid


def _rope(config: SoftCellConfig) -> SoftBody:
    length, diameter, _ = config.size
    count = max(4, round(length / config.spacing)) + 1
    radius = 0.5 * diameter
    vertices = np.zeros((count, 3))
    vertices[:, 0] = np.linspace(-0.5 * length, 0.5 * length, count)
    vertices[:, 2] = radius
    edges = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    share = np.full(count - 1, config.density * math.pi * radius**2 * length / (count - 1) / 2)
    none = np.zeros((0, 3), dtype=np.int64)
    return SoftBody(1, vertices, edges, none, _lump(share, edges, count), radius)


def _cloth(config: SoftCellConfig) -> SoftBody:
    nx, ny = (max(2, round(side / config.spacing)) for side in config.size[:2])
    x, y = np.meshgrid(
        np.linspace(-0.5, 0.5, nx + 1) * config.size[0],
        np.linspace(-0.5, 0.5, ny + 1) * config.size[1],
        indexing="ij",
    )
    radius = 0.5 * config.size[2]
    vertices = np.stack([x.ravel(), y.ravel(), np.full(x.size, radius)], axis=1)
    i, j = (a.ravel() for a in np.meshgrid(np.arange(nx), np.arange(ny), indexing="ij"))
    a, b = i * (ny + 1) + j, (i + 1) * (ny + 1) + j
    # Diagonals alternate, so the sheet has no softer direction.
    even = ((i + j) % 2 == 0)[:, None, None]
    one = np.stack([np.stack([a, b, b + 1], 1), np.stack([a, b + 1, a + 1], 1)], axis=1)
    two = np.stack([np.stack([a, b, a + 1], 1), np.stack([b, b + 1, a + 1], 1)], axis=1)
    triangles = np.where(even, one, two).reshape(-1, 3)
    edges = vertices[triangles[:, 1:]] - vertices[triangles[:, :1]]
    area = 0.5 * np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    share = config.density * config.size[2] * area / 3
    mass = _lump(share, triangles, len(vertices))
    return SoftBody(2, vertices, triangles, triangles, mass, radius)


def _figure(points: np.ndarray) -> np.ndarray:
    """Smooth union of the figure's ellipsoids: negative inside, shape (M,), about -1 to 1."""
    scaled = (points[:, None] - _FIGURE[:, 0]) / _FIGURE[:, 1]
    distance = np.linalg.norm(scaled, axis=2) - 1
    distance *= _FIGURE[:, 1].min(axis=1)  # near enough to a length for the blend below
    sharpness = 12.0  # the seams between the parts are rounded over a twelfth of the figure
    union = -np.log(np.exp(-sharpness * distance).sum(axis=1)) / sharpness
    return np.asarray(np.maximum(union, _SEAT - points[:, 2]))


def _snap(
    vertices: np.ndarray, tetrahedra: np.ndarray, faces: np.ndarray, half_size: np.ndarray
) -> np.ndarray:
    """Pull the staircase surface of the lattice onto the figure and relax, without inversions."""
    boundary = np.unique(faces)
    inner = np.setdiff1d(np.arange(len(vertices)), boundary)
    neighbours = np.zeros((len(vertices), len(vertices)), dtype=bool)
    for a in range(4):
        for b in range(4):
            neighbours[tetrahedra[:, a], tetrahedra[:, b]] = a != b
    least = 0.2 * _volumes(vertices, tetrahedra)
    current = vertices.copy()
    for _ in range(30):
        wanted = current.copy()
        wanted[boundary] = _towards_surface(current[boundary], half_size)
        for index in inner:
            wanted[index] = current[neighbours[index]].mean(axis=0)
        step = 0.5 * (wanted - current)
        for _ in range(8):  # halve the step where a tetrahedron would become thin
            thin = _volumes(current + step, tetrahedra) < least
            if not thin.any():
                break
            step[np.unique(tetrahedra[thin])] *= 0.5
        else:
            step[np.unique(tetrahedra[thin])] = 0.0
            if (_volumes(current + step, tetrahedra) < least).any():
                break
        current = current + step
    return current


def _towards_surface(points: np.ndarray, half_size: np.ndarray) -> np.ndarray:
    """One Newton step along the gradient onto the figure's surface, at most 1 cm."""
    unit, delta = points / half_size, 1e-4
    value = _figure(unit)
    gradient = (
        np.stack(
            [
                (_figure(unit + delta * e) - _figure(unit - delta * e)) / (2 * delta)
                for e in np.eye(3)
            ],
            axis=1,
        )
        / half_size
    )
    step = -value[:, None] * gradient / (gradient**2).sum(axis=1, keepdims=True)
    length = np.linalg.norm(step, axis=1, keepdims=True)
    return np.asarray(points + step * np.minimum(1.0, 0.01 / np.maximum(length, 1e-9)))


def _volumes(vertices: np.ndarray, tetrahedra: np.ndarray) -> np.ndarray:
    a, b, c, d = (vertices[tetrahedra[:, k]] for k in range(4))
    return np.asarray(np.einsum("ij,ij->i", np.cross(b - a, c - a), d - a) / 6)


def _positive(vertices: np.ndarray, tetrahedra: np.ndarray) -> np.ndarray:
    flipped = _volumes(vertices, tetrahedra) < 0
    tetrahedra = tetrahedra.copy()
    tetrahedra[flipped, 2], tetrahedra[flipped, 3] = (
        tetrahedra[flipped, 3],
        tetrahedra[flipped, 2],
    )
    return tetrahedra


def _outside(vertices: np.ndarray, tetrahedra: np.ndarray) -> np.ndarray:
    """Faces that belong to one tetrahedron only, counter-clockwise from outside, shape (F, 3)."""
    sides = tetrahedra[:, [[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]]].reshape(-1, 3)
    _, first, count = np.unique(
        np.sort(sides, axis=1), axis=0, return_index=True, return_counts=True
    )
    return np.asarray(sides[np.sort(first[count == 1])])


def _lump(share: np.ndarray, elements: np.ndarray, count: int) -> np.ndarray:
    mass = np.zeros(count)
    np.add.at(mass, elements, share[:, None])
    return mass
