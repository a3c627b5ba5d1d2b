"""Points inside every silhouette: where an object may be when depth says nothing."""

from __future__ import annotations

import numpy as np
import torch

from physgym.errors import DataError
from recon.splats.posed_images import PosedImages

__all__ = ["visual_hull"]

_MOST_CELLS = 6_000_000


def visual_hull(
    views: PosedImages, low_m: np.ndarray, high_m: np.ndarray, *, spacing_m: float
) -> np.ndarray:
    """Centres of the cells of a box that no view sees past (Laurentini 1994).

    A view says nothing about what lies outside its image or behind what hides the object.

    Args:
        views: with masks.
        low_m: lower corner of the box [m], shape (3,).
        high_m: upper corner [m], shape (3,).
        spacing_m: edge of a cell [m].

    Returns:
        Points [m], shape (N, 3), float64.

    Raises:
        DataError: if there are too many cells, or none is left.
    """
    low, high = np.asarray(low_m, float), np.asarray(high_m, float)
    count = np.maximum(np.ceil((high - low) / spacing_m), 1).astype(int)
    if np.prod(count.astype(float)) > _MOST_CELLS:
        raise DataError(
            f"{np.prod(count.astype(float)):.0f} cells",
            where="visual_hull",
            expected=f"at most {_MOST_CELLS}",
            fix="raise the spacing or make the box smaller",
        )
    axes = [low[a] + spacing_m * (np.arange(count[a]) + 0.5) for a in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    inside = np.ones(len(points), bool)
    seen = np.zeros(len(points), int)
    for view, camera in enumerate(views.cameras):
        pixels, _depth = camera.project(points)
        there = np.isfinite(pixels).all(axis=1) & camera.visible(np.nan_to_num(pixels, nan=-9.0))
        column, row = np.rint(np.nan_to_num(pixels)).astype(int).T
        column, row = column.clip(0, camera.width - 1), row.clip(0, camera.height - 1)
        mask, known = (np.asarray(t[view]) for t in (views.mask, views.known))
        told = there & (known[row, column] > 0.5)
        on = _widened(mask > 0.5)[row, column]
        inside &= ~told | on
        seen += told & on
    found = points[inside & (seen > 0)]
    if len(found) == 0:
        raise DataError(
            "no point lies inside all silhouettes",
            where="visual_hull",
            expected="cameras and masks that agree, and a box around the object",
            fix="check the calibration with physgym check, and that all images show one instant",
        )
    return found


def _widened(mask: np.ndarray) -> np.ndarray:
    """By a pixel: silhouettes are good to one."""
    grown = torch.nn.functional.max_pool2d(
        torch.from_numpy(mask[None].astype(np.float32)), 3, stride=1, padding=1
    )
    return np.asarray(grown[0] > 0.5)
