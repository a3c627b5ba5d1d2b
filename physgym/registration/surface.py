"""What registration compares: the outer nodes of an object as small discs, and a cloud made even.

Shapes: N nodes, P outer nodes, M cloud points, V cloud points after thinning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError

__all__ = [
    "Cloud",
    "Surface",
    "beyond",
    "checked_points",
    "even_cloud",
    "fibonacci_directions",
    "find_surface",
]

_BALL = 1.5  # radius of the empty ball over the spacing; a lattice's largest hole has 0.87
_DIRECTIONS = 64
_NEIGHBOURS = 10
_FEWEST = 10
_THINNED = 2500  # cloud points that registration works on: more change a pose by microns


@dataclass(frozen=True, eq=False)
class Surface:
    """Outer nodes as discs: a node stands for the flat patch of one spacing around it.

    Attributes:
        index: which nodes, shape (P,).
        points: where they are [m], shape (P, 3).
        normals: unit, outward where there is an outside, shape (P, 3); zero where a node has no
            patch (the nodes of a rope).
        spacing_m: distance between neighbouring nodes.
    """

    index: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    spacing_m: float


@dataclass(frozen=True, eq=False)
class Cloud:
    """A cloud of about even density.

    Attributes:
        points: means over the cells of a grid [m], shape (V, 3).
        normals: unit, of either sign, shape (V, 3).
        cell_m: size of a cell.
    """

    points: np.ndarray
    normals: np.ndarray
    cell_m: float


def beyond(offset: np.ndarray, radius: float) -> np.ndarray:
    """What of each offset lies outside a ball.

    Args:
        offset: [m], shape (M, 3).
        radius: [m].

    Returns:
        Shape (M, 3); zero inside.
    """
    length = np.linalg.norm(offset, axis=1, keepdims=True)
    return np.asarray(offset * np.maximum(0.0, 1.0 - radius / np.maximum(length, 1e-12)))


def checked_points(points: np.ndarray, name: str, *, least: int) -> np.ndarray:
    """Refuse what is no set of points.

    Args:
        points: shape (N, 3).
        name: named in the error.
        least: fewest points that are of use.

    Returns:
        A float64 array, shape (N, 3).

    Raises:
        DataError: if the shape is wrong, a coordinate is not finite or there are too few.
    """
    try:
        array = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(str(error), where=name, expected="(N, 3) metres") from error
    if array.ndim != 2 or array.shape[1] != 3:
        raise DataError(f"shape {array.shape}", where=name, expected="(N, 3) metres")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(array)} points are not finite",
            where=f"{name}[{int(bad[0])}]",
            expected="finite coordinates in metres",
            fix="drop points without a measurement first",
        )
    if len(array) < least:
        raise DataError(
            f"{len(array)} points",
            where=name,
            expected=f"at least {least}",
            fix="check the mask and the depth of the first frame",
        )
    return array


def fibonacci_directions(count: int) -> np.ndarray:
    """Directions spread evenly over the sphere (Gonzalez, Math. Geosciences 42, 2010).

    Args:
        count: how many.

    Returns:
        Unit vectors, shape (count, 3).
    """
    k = np.arange(count) + 0.5
    height = 1.0 - 2.0 * k / count
    turn = np.pi * (1.0 + np.sqrt(5.0)) * k
    wide = np.sqrt(1.0 - height**2)
    return np.stack([wide * np.cos(turn), wide * np.sin(turn), height], axis=1)


def find_surface(points: np.ndarray, *, kind: str, mask: np.ndarray | None = None) -> Surface:
    """Which nodes lie on the outside, and which way they face.

    A node is outside if an empty ball of 1.5 spacings touches it (the alpha shape of Edelsbrunner
    and Muecke, ACM Trans. Graphics 13, 1994, on 64 directions). Its normal is that of the plane
    through the outer nodes around it, turned to where the empty balls are.

    Args:
        points: all nodes [m], shape (N, 3).
        kind: ``"rope"``, ``"sheet"`` or ``"volume"``; of the first two every node is outside, and
            a rope's have no normal.
        mask: which nodes are known to be outside, shape (N,); None finds out.

    Returns:
        The outer nodes.
    """
    tree = cKDTree(points)
    # A lattice of one, two, three dimensions has so many nodes at one spacing from each.
    count = min({"rope": 2, "sheet": 4, "volume": 6}[kind] + 1, len(points))
    spacing = float(np.median(tree.query(points, k=count)[0][:, -1]))
    everything = np.arange(len(points)) if mask is None else np.flatnonzero(mask)
    if kind == "rope":
        return Surface(everything, points[everything], np.zeros((len(everything), 3)), spacing)
    if kind == "sheet":
        at = points[everything]
        return Surface(everything, at, _plane_normals(at), spacing)
    directions = fibonacci_directions(_DIRECTIONS)
    centres = points[:, None] + _BALL * spacing * directions
    # Nothing nearer to the centre than the touching node, but for those beside it.
    nearest = tree.query(centres.reshape(-1, 3), distance_upper_bound=0.93 * _BALL * spacing)[0]
    empty = np.isinf(nearest).reshape(len(points), _DIRECTIONS)
    if mask is None:
        mask = empty.any(axis=1)
    index = np.flatnonzero(mask)
    normals = _plane_normals(points[index])
    outward = (empty @ directions)[index]
    normals *= np.where((normals * outward).sum(axis=1) < 0, -1.0, 1.0)[:, None]
    return Surface(index, points[index], normals, spacing)


def even_cloud(cloud: np.ndarray, cell_m: float) -> Cloud:
    """Thin a cloud to even density, which averages noise, and give it normals.

    Args:
        cloud: [m], shape (M, 3).
        cell_m: size of the cells to average over; grows until 2500 or fewer points are left.

    Returns:
        The cloud, with normals of either sign.

    Raises:
        DataError: if it is so small that nothing can be told from it.
    """
    origin = cloud.min(axis=0)
    while True:
        cell = np.floor((cloud - origin) / cell_m).astype(np.int64)
        _, which, count = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
        if len(count) <= _THINNED:
            break
        cell_m *= 1.2
    if len(count) < _FEWEST:
        raise DataError(
            f"its {len(cloud)} points fill {len(count)} cells of {1e3 * cell_m:.1f} mm",
            where="cloud",
            expected=f"at least {_FEWEST} cells, half a node spacing wide",
            fix="check that cloud and twin are both in metres, and the mask",
        )
    which = which.ravel()
    points = np.stack([np.bincount(which, cloud[:, k]) for k in range(3)], axis=1) / count[:, None]
    return Cloud(points, _plane_normals(points), cell_m)


def _plane_normals(points: np.ndarray) -> np.ndarray:
    """Normal of the plane through the nearest points of each, shape (N, 3)."""
    count = min(_NEIGHBOURS, len(points))
    if count < 3:
        return np.zeros_like(points)
    near = points[cKDTree(points).query(points, k=count)[1]]
    offset = near - near.mean(axis=1, keepdims=True)
    return np.linalg.eigh(np.einsum("nki,nkj->nij", offset, offset))[1][:, :, 0]
