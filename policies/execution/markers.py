"""From the markers of a cell to the nodes of a twin.

Shapes: M markers, N nodes.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from scipy.interpolate import CubicSpline

from physgym.errors import DataError

__all__ = ["MarkerMap", "PointHistory", "rest_fraction"]

_SAME = 0.01
"""Markers that stand this share of the length from the twin's nodes count as the nodes: a chord is
shorter than its arc by less than this at the bends that a cable takes."""


def rest_fraction(points: np.ndarray) -> np.ndarray:
    """Where each point of a line stands along it.

    Args:
        points: from one end to the other [m], finite, shape (N, 3).

    Returns:
        Chord length up to each point over the whole, 0 to 1, shape (N,).

    Raises:
        DataError: if two neighbours coincide or a point is not finite.
    """
    edges = np.linalg.norm(np.diff(np.asarray(points, dtype=np.float64), axis=0), axis=1)
    if not (np.isfinite(edges).all() and (edges > 0.0).all()):
        raise DataError(
            "neighbouring points coincide or are not finite",
            where="object points",
            expected="markers in order along the cable",
        )
    return np.concatenate([[0.0], np.cumsum(edges)]) / edges.sum()


class MarkerMap:
    """Takes ordered markers to the nodes of a twin; as they are where both are the same points.

    Args:
        first: markers of a frame that shows all of them [m], shape (M, 3).
        node_fraction: where the twin's nodes stand along it, 0 to 1, shape (N,).

    Attributes:
        direct: whether markers are nodes.
    """

    def __init__(self, first: np.ndarray, node_fraction: np.ndarray) -> None:
        self._nodes = np.asarray(node_fraction, dtype=np.float64)
        self._markers = rest_fraction(first)
        same = self._markers.shape == self._nodes.shape
        self.direct = same and float(np.abs(self._markers - self._nodes).max()) < _SAME

    def nodes(self, markers: np.ndarray) -> np.ndarray:
        """Where the nodes are.

        Args:
            markers: [m], shape (M, 3); rows that were not seen are NaN.

        Returns:
            [m], shape (N, 3). NaN rows stay NaN where markers are nodes; else the cable is a cubic
            spline through the markers that were seen.

        Raises:
            DataError: if the number of markers changed, or fewer than four were seen.
        """
        cloud = np.asarray(markers, dtype=np.float64)
        if cloud.shape != (len(self._markers), 3):
            raise DataError(
                f"{len(cloud)} object points",
                where="object/points",
                expected=f"{len(self._markers)} markers in order, unseen ones as NaN",
            )
        if self.direct:
            return cloud
        seen = np.isfinite(cloud).all(axis=1)
        if seen.sum() < 4:
            raise DataError(
                f"only {int(seen.sum())} markers seen",
                where="object/points",
                expected="at least 4, to draw a curve through them",
            )
        return np.asarray(CubicSpline(self._markers[seen], cloud[seen])(self._nodes))


class PointHistory:
    """The last few frames of nodes, for their velocity.

    Args:
        length: how many frames; more are smoother and later.
    """

    def __init__(self, length: int = 5) -> None:
        self._frames: deque[tuple[float, np.ndarray]] = deque(maxlen=length)

    def add(self, stamp_s: float, nodes: np.ndarray) -> bool:
        """Take a frame.

        Args:
            stamp_s: when it was measured.
            nodes: [m], shape (N, 3); NaN where not seen.

        Returns:
            Whether it is news: a stamp that does not advance means that nothing was measured.
        """
        if self._frames and stamp_s <= self._frames[-1][0]:
            return False
        self._frames.append((stamp_s, nodes))
        return True

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()

    def latest(self) -> tuple[float, np.ndarray, np.ndarray]:
        """The newest frame and how it moves.

        Returns:
            Stamp [s], nodes [m] and velocities [m/s], both (N, 3). Velocities are the slope of a
            straight line through the frames; zero where a node was missing in one of them.

        Raises:
            DataError: if there is no frame yet.
        """
        if not self._frames:
            raise DataError("no object points yet", where="object/points")
        stamp_s, nodes = self._frames[-1]
        if len(self._frames) < 2:
            return stamp_s, nodes, np.zeros_like(nodes)
        time_s = np.array([frame[0] for frame in self._frames])
        centred = time_s - time_s.mean()
        stack = np.stack([frame[1] for frame in self._frames])
        slope = np.tensordot(centred, stack, axes=1) / np.square(centred).sum()
        return stamp_s, nodes, np.nan_to_num(slope, nan=0.0)
