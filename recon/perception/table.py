"""The table: a plane in depth, and heights above it.

Shapes: N points, H W image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError

__all__ = ["Plane", "fit_table", "height_above"]


@dataclass(frozen=True, eq=False)
class Plane:
    """The plane ``normal . x = offset_m``.

    Attributes:
        normal: unit, shape (3,).
        offset_m: [m].
    """

    normal: np.ndarray
    offset_m: float

    def height(self, points: np.ndarray) -> np.ndarray:
        """Signed distance along the normal.

        Args:
            points: [m], shape (..., 3).

        Returns:
            [m], shape (...,).
        """
        return np.asarray(points @ self.normal - self.offset_m)


def fit_table(
    points: np.ndarray,
    *,
    up: np.ndarray | None = None,
    tolerance_m: float = 0.006,
    tilt_rad: float = 0.35,
    tries: int = 300,
    seed: int = 0,
) -> tuple[Plane, float]:
    """The plane that most points lie on (RANSAC, Fischler and Bolles 1981, then least squares).

    Args:
        points: [m], shape (N, 3); rows that are not finite are left out.
        up: direction that the normal must be near to, shape (3,), or None for any.
        tolerance_m: distance up to which a point lies on the plane [m].
        tilt_rad: most angle between the normal and ``up`` [rad].
        tries: planes through three points that are tried.
        seed: of the choice of points.

    Returns:
        The plane, its normal near ``up``; without ``up``, to the side of the points that are off
        it. And the share of points that lie on it.

    Raises:
        DataError: if no plane has a tenth of the points.
    """
    every = np.asarray(points, np.float64).reshape(-1, 3)
    every = every[np.isfinite(every).all(axis=1)]
    rng = np.random.default_rng(seed)
    best, best_count = None, 0
    if len(every) >= 3:
        sample = every[rng.integers(len(every), size=min(len(every), 3000))]
        corner = every[rng.integers(len(every), size=(tries, 3))]
        normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        length = np.linalg.norm(normal, axis=1)
        useful = length > 1e-9
        normal = normal[useful] / length[useful, None]
        offset = (normal * corner[useful, 0]).sum(axis=1)
        if up is not None:
            steep = np.abs(normal @ (up / np.linalg.norm(up))) >= np.cos(tilt_rad)
            normal, offset = normal[steep], offset[steep]
        count = (np.abs(sample @ normal.T - offset) < tolerance_m).sum(axis=0)
        if len(count):
            best, best_count = int(count.argmax()), int(count.max())
    if best is None or best_count < 0.1 * len(sample):
        raise DataError(
            f"no plane holds a tenth of {len(every)} points",
            where="fit_table",
            expected="a table in view",
            fix="give the table's height, or a mask prompt, and check the depth images",
        )
    plane = Plane(normal[best], float(offset[best]))
    for _ in range(3):
        near = every[np.abs(plane.height(every)) < tolerance_m]
        middle = near.mean(axis=0)
        direction = np.linalg.eigh(np.cov((near - middle).T))[1][:, 0]
        plane = Plane(direction, float(direction @ middle))
    off = plane.height(every)
    upward = plane.normal @ up if up is not None else off[np.abs(off) > tolerance_m].sum()
    if upward < 0:
        plane = Plane(-plane.normal, -plane.offset_m)
    return plane, float((np.abs(off) < tolerance_m).mean())


def height_above(camera: PinholeCamera, depth_m: np.ndarray, table: Plane) -> np.ndarray:
    """Height of every pixel's point above a plane.

    Args:
        camera: whose image it is.
        depth_m: [m], shape (H, W).
        table: the plane.

    Returns:
        [m], shape (H, W), NaN where nothing was measured.
    """
    return table.height(camera.unproject(depth_m))
