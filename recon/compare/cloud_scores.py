"""Spring-Gaus's two measures of clouds: Chamfer distance of squares, both ways, and EMD.

Zhong et al. 2024, notes on its evaluation in ``docs/methods/spring_gaus.md``: there against true
clouds, here against what the cameras saw. Shapes: T frames, M points of a surface.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from recon.falling import Fall, HullFall
from recon.metrics import emd
from recon.perception.result import Perception
from recon.score_episode import baselines_of, parts_of

__all__ = ["CLOUD_DEFINITIONS", "CLOUD_MEASURES", "baseline_surfaces", "cloud_scores", "squared_cd"]

CLOUD_MEASURES = ("cd2_m2", "emd_m")
"""Names of the measures."""

CLOUD_DEFINITIONS = {
    "cd2_m2": "Chamfer distance as Spring-Gaus has it: mean squared distance to the nearest point, "
    "observed to predicted plus predicted to observed [m^2]; its tables print it times 1000",
    "emd_m": "earth mover's distance: mean distance of the best one-to-one matching of equally "
    "many random points of the observed cloud and the predicted surface [m]; of evenly spaced "
    "frames of a part. Of two drawings of one surface it is some millimetres, not zero",
}
"""What each figure is."""


def cloud_scores(
    perception: Perception,
    surface: np.ndarray,
    *,
    train_stop: int,
    points: int = 1000,
    frames: int = 6,
    seed: int = 0,
) -> dict[str, dict[str, float | None]]:
    """Compare a predicted surface with the observed clouds.

    Args:
        perception: of the episode, with clouds.
        surface: predicted [m], shape (T, M, 3).
        train_stop: frames before this one were learned from.
        points: of a cloud in EMD, at most 2000: exact matching is cubic.
        frames: of a part in EMD, evenly spaced.
        seed: of the points that are drawn.

    Returns:
        By part and measure (`CLOUD_MEASURES`) the mean over its frames; None where no cloud was
        seen. Frame 0 never counts.
    """
    made: dict[str, dict[str, float | None]] = {}
    for part, (begin, stop) in parts_of(len(surface), train_stop).items():
        seen = [t for t in range(begin, stop) if perception.clouds and len(perception.clouds[t])]
        some = {seen[round(k)] for k in np.linspace(0, len(seen) - 1, frames)} if seen else set()
        squares = [squared_cd(perception.clouds[t], surface[t]) for t in seen]
        moved = [
            _emd(perception.clouds[t], surface[t], points, np.random.default_rng([seed, t]))
            for t in sorted(some)
        ]
        made[part] = {"cd2_m2": _mean(squares), "emd_m": _mean(moved)}
    return made


def squared_cd(observed: np.ndarray, predicted: np.ndarray) -> float:
    """Sum of both directions of the mean squared distance to the nearest point.

    Args:
        observed: [m], shape (P, 3).
        predicted: [m], shape (M, 3).

    Returns:
        [m^2].
    """
    there = cKDTree(predicted).query(observed)[0]
    back = cKDTree(observed).query(predicted)[0]
    return float(np.square(there).mean() + np.square(back).mean())


def baseline_surfaces(
    perception: Perception, fall: Fall | HullFall | None
) -> Mapping[str, np.ndarray]:
    """The surface as perceived in frame 0, frozen, moved rigidly with what holds it, and falling.

    Args:
        perception: of the episode.
        fall: of the object, where it flies alone.

    Returns:
        By baseline the surface [m], shape (T, M, 3).
    """
    rest: Any = perception.tracks.rest_position  # Perception refuses tracks without it
    shell = np.asarray(rest, np.float32)[perception.surface]
    return baselines_of(shell, perception, fall)


def _emd(
    observed: np.ndarray, predicted: np.ndarray, points: int, rng: np.random.Generator
) -> float:
    count = min(points, len(observed), len(predicted))
    first = observed[rng.choice(len(observed), count, replace=False)]
    second = predicted[rng.choice(len(predicted), count, replace=False)]
    return emd(first, second)


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
