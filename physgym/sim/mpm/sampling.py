"""Particles that fill a shape: a lattice of half the grid spacing, eight particles a cell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["fill_box"]


def fill_box(
    low_m: tuple[float, float, float],
    high_m: tuple[float, float, float],
    spacing_m: float,
    *,
    inside: Callable[[np.ndarray], np.ndarray] | None = None,
    jitter: float = 0.0,
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """Particles in a box, or in the part of it where ``inside`` holds.

    Args:
        low_m: lower corner [m].
        high_m: upper corner [m].
        spacing_m: distance between particles [m]; half the grid's spacing is usual.
        inside: takes points (P, 3) [m] and tells which are wanted, shape (P,).
        jitter: moves particles at random by up to this fraction of half the spacing.
        seed: of the jitter.

    Returns:
        Positions [m], shape (P, 3), and the volume of one particle [m^3]; the box's edges are cut
        into whole numbers of particles, so the volumes add up to the box's.
    """
    low, high = np.asarray(low_m, float), np.asarray(high_m, float)
    count = np.maximum(1, np.round((high - low) / spacing_m)).astype(int)
    step = (high - low) / count
    axes = [low[a] + step[a] * (np.arange(count[a]) + 0.5) for a in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    if jitter:
        shift = np.random.default_rng(seed).uniform(-0.5, 0.5, points.shape)
        points = points + jitter * step * shift
    if inside is not None:
        points = points[inside(points)]
    return points, float(step.prod())
