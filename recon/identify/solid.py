"""Bodies that can be filled with particles: closed shapes given as points, as tetrahedra or filled.

Shapes: N points, M tetrahedra, P particles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError, cKDTree

from physgym.errors import DataError
from physgym.sim.mpm.sampling import fill_box

__all__ = ["Filling", "GivenSolid", "PointSolid", "Solid", "TetSolid"]

_CELLS = 48  # along the longest side of the lattice on which closed shapes are found
_REACH_CELLS = 12  # a ball of so many cells' radius is round enough
_WIDEN = 1.4
_CLOSED = 0.8  # a wider reach that adds less than a quarter finds the same shape: it is closed
_NEAR_TETS = 24  # a point lies in one of so many whose centres are near, or in none


class Filling(NamedTuple):
    """Particles of a body.

    Attributes:
        position: [m], shape (P, 3).
        volume_m3: shape (P,).
        spacing_m: distance between particles [m].
    """

    position: np.ndarray
    volume_m3: np.ndarray
    spacing_m: float


class Solid(Protocol):
    """A body at rest."""

    @property
    def volume_m3(self) -> float:
        """Of the whole body [m^3]."""
        ...

    def fill(self, count: int) -> Filling:
        """About so many particles that fill it evenly."""
        ...


@dataclass(frozen=True, eq=False)
class GivenSolid:
    """Particles that somebody else made; they are used as they are.

    Attributes:
        position: [m], shape (P, 3).
        particle_volume_m3: shape (P,).
    """

    position: np.ndarray
    particle_volume_m3: np.ndarray

    @property
    def volume_m3(self) -> float:
        """Of the whole body [m^3]."""
        return float(self.particle_volume_m3.sum())

    def fill(self, count: int) -> Filling:
        """The particles; fewer, evenly chosen, where fewer are asked for."""
        spacing = (self.volume_m3 / len(self.position)) ** (1.0 / 3.0)
        if count >= 0.7 * len(self.position):
            return Filling(self.position, self.particle_volume_m3, spacing)
        return PointSolid.of(self.position).fill(count)


@dataclass(frozen=True, eq=False)
class TetSolid:
    """A tetrahedral mesh.

    Attributes:
        nodes: [m], shape (N, 3).
        tets: positively oriented, shape (M, 4).
    """

    nodes: np.ndarray
    tets: np.ndarray

    @property
    def volume_m3(self) -> float:
        """Of the whole body [m^3]."""
        edges = self.nodes[self.tets[:, 1:]] - self.nodes[self.tets[:, :1]]
        return float(np.linalg.det(edges).sum() / 6.0)

    def fill(self, count: int) -> Filling:
        """See `Solid.fill`."""
        return _lattice(self.nodes, self.volume_m3, count, self._inside)

    def _inside(self, points: np.ndarray) -> np.ndarray:
        corner = self.nodes[self.tets]
        inverse = np.linalg.inv(np.swapaxes(corner[:, 1:] - corner[:, :1], 1, 2))
        tree = cKDTree(corner.mean(axis=1))
        _, near = tree.query(points, k=np.arange(1, min(_NEAR_TETS, len(self.tets)) + 1))
        inside = np.zeros(len(points), bool)
        for k in range(near.shape[1]):
            tet = near[:, k]
            share = np.einsum("pij,pj->pi", inverse[tet], points - corner[tet, 0])
            inside |= (share >= -1e-9).all(axis=1) & (share.sum(axis=1) <= 1.0 + 1e-9)
        return inside


@dataclass(frozen=True, eq=False)
class PointSolid:
    """What points fill, or what points on a closed surface enclose.

    The morphological closing of the points by a ball, with what it encloses: concave parts stay
    open where the ball gets in. The ball is the one after the smallest that finds the surface
    closed: a smaller one dips between the points. Volumes come out within 4 percent.

    Attributes:
        points: [m], shape (N, 3).
        low_m: centre of the lattice's first cell [m], shape (3,).
        cell_m: side of a cell [m].
        depth_m: how far the cells are inside the body, negative outside, shape (X, Y, Z).
    """

    points: np.ndarray
    low_m: np.ndarray
    cell_m: float
    depth_m: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray) -> PointSolid:
        """Find the body.

        Args:
            points: inside or on the surface [m], shape (N, 3).

        Returns:
            The body.

        Raises:
            DataError: if the points span no volume.
        """
        points = np.asarray(points, np.float64)
        points = points[np.isfinite(points).all(axis=1)]
        try:
            ConvexHull(points)
        except (QhullError, ValueError) as error:
            raise DataError(
                f"{len(points)} points span no volume",
                where="body at rest",
                expected="points inside a body or all over its surface, not in one plane",
                fix="track points on more sides of the object, or use --method phystwin for sheets",
            ) from error
        points = np.unique(points, axis=0)
        gap, _ = cKDTree(points).query(points, k=2)
        reach = 1.7 * float(np.percentile(gap[:, 1], 95))
        size = float(np.ptp(points, axis=0).max())
        now = _closing(points, reach, size)
        while reach < size:
            wider = _closing(points, reach * _WIDEN, size)
            if now.volume_m3 > _CLOSED * wider.volume_m3:
                return wider
            now, reach = wider, reach * _WIDEN
        return now

    @property
    def volume_m3(self) -> float:
        """Of the whole body [m^3]."""
        finer = ndimage.zoom(self.depth_m, 2, order=1, grid_mode=True, mode="nearest")
        return float((finer >= 0.0).mean()) * self.depth_m.size * self.cell_m**3

    def fill(self, count: int) -> Filling:
        """See `Solid.fill`."""
        high = self.low_m + self.cell_m * np.array(self.depth_m.shape)
        corners = np.stack([self.low_m, high])
        return _lattice(corners, self.volume_m3, count, self._inside)

    def _inside(self, points: np.ndarray) -> np.ndarray:
        where = ((points - self.low_m) / self.cell_m).T
        return np.asarray(
            ndimage.map_coordinates(self.depth_m, where, order=1, mode="nearest") >= 0.0
        )


def _closing(points: np.ndarray, reach_m: float, size_m: float) -> PointSolid:
    """The points closed by a ball, and what they enclose."""
    cell = max(size_m / _CELLS, reach_m / _REACH_CELLS)
    margin = int(np.ceil(reach_m / cell)) + 2
    low = points.min(axis=0) - margin * cell
    shape = np.ceil(np.ptp(points, axis=0) / cell).astype(int) + 2 * margin + 1
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    centres = (low + cell * grid).reshape(-1, 3)
    near, _ = cKDTree(points).query(centres, distance_upper_bound=reach_m)  # farther is infinite
    empty = np.isinf(near).reshape(tuple(shape))
    label, _ = ndimage.label(empty)
    outside = label == label[0, 0, 0]  # a corner of the margin is always outside
    away = ndimage.distance_transform_edt(~outside) * cell
    return PointSolid(points, low, cell, (away - reach_m).astype(np.float32))


def _lattice(bounds: np.ndarray, volume_m3: float, count: int, inside: object) -> Filling:
    spacing = (volume_m3 / count) ** (1.0 / 3.0)
    low, high = bounds.min(axis=0), bounds.max(axis=0)
    a, b = ((float(c[0]), float(c[1]), float(c[2])) for c in (low, high))
    points, _ = fill_box(a, b, spacing, inside=inside)  # type: ignore[arg-type]
    if len(points) < 8:
        raise DataError(
            f"{len(points)} particles fill the body",
            where="MosaConfig.particles",
            expected="enough to fill it in all directions",
            fix="raise the number of particles",
        )
    each = np.full(len(points), volume_m3 / len(points))
    return Filling(points, each, spacing)
