"""What a search needs to know: parameters with priors, and residuals of simulated recordings.

Shapes: Q candidates, P parameters, R recordings, F residuals of one recording.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recon.tracks import PhysGymWarning

__all__ = ["Loss", "Prior", "Problem", "cost", "warn_unusual"]

# Standard deviations of the prior beyond which a found coordinate is no property of an object.
_UNUSUAL = 4.0


@dataclass(frozen=True)
class Prior:
    """Independent normal priors of the search coordinates.

    Attributes:
        names: what each coordinate means, P texts.
        mean: shape (P,).
        sigma: one standard deviation, shape (P,).
        step: width of a forward difference, shape (P,).
    """

    names: tuple[str, ...]
    mean: np.ndarray
    sigma: np.ndarray
    step: np.ndarray

    def penalty(self, theta: np.ndarray) -> np.ndarray:
        """Half the squared distance in standard deviations.

        Args:
            theta: shape (..., P).

        Returns:
            Shape (...).
        """
        return 0.5 * np.sum(((theta - self.mean) / self.sigma) ** 2, axis=-1)


@dataclass(frozen=True)
class Loss:
    """Huber's loss, with a statement of how much the samples tell.

    Neighbouring frames err alike, so a recording counts as ``rate_hz`` independent samples of each
    coordinate a second, not as many as it has frames.

    Attributes:
        scale_m: typical error of a good model [m]; the unit of the loss.
        knee_m: where the loss turns from quadratic to linear [m].
        rate_hz: independent samples per coordinate and second.
    """

    scale_m: float
    knee_m: float
    rate_hz: float = 3.0

    def value(self, residual: np.ndarray) -> np.ndarray:
        """Loss of each residual in units of ``scale_m``: Huber, "Robust Estimation", 1964.

        Args:
            residual: [m].

        Returns:
            The same shape; NaN stays NaN.
        """
        size = np.abs(residual)
        knee = self.knee_m
        return np.where(size < knee, 0.5 * size**2 / knee, size - 0.5 * knee) / self.scale_m


class Problem(Protocol):
    """Recordings that can be simulated under candidate parameters."""

    prior: Prior
    loss: Loss

    def weights(self, recordings: list[int]) -> float:
        """Independent samples in these recordings."""
        ...

    def residuals(
        self, theta: np.ndarray, recordings: list[int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Simulated minus seen.

        Args:
            theta: shape (Q, P).
            recordings: which to simulate.

        Yields:
            For every recording, residuals [m] of shape (Q, F), and which were seen, shape (F,).
        """
        ...


def cost(problem: Problem, theta: np.ndarray, recordings: list[int]) -> np.ndarray:
    """Negative log posterior of candidates, up to a constant.

    A sample of a world that blew up counts as one metre off.

    Args:
        problem: the problem.
        theta: shape (Q, P).
        recordings: which recordings count.

    Returns:
        Shape (Q,).
    """
    total, count = np.zeros(len(theta)), 0
    for residual, seen in problem.residuals(theta, recordings):
        blown = ~np.isfinite(residual)
        values = problem.loss.value(np.where(blown, 1.0, residual))
        total += values[:, seen].sum(axis=1, dtype=np.float64)
        count += int(seen.sum())
    return problem.weights(recordings) * total / max(count, 1) + problem.prior.penalty(theta)


def warn_unusual(
    prior: Prior, theta: np.ndarray, name: str, most: Mapping[str, float] | None = None
) -> None:
    """Say so when a motion is explained by what no object has: something else is wrong.

    Args:
        prior: of the coordinates.
        theta: found, the first of them or all, shape (P,).
        name: of the recording.
        most: bounds by name, beyond which a coordinate does nothing more.
    """
    away = (theta - prior.mean[: len(theta)]) / prior.sigma[: len(theta)]
    odd = [
        f"{what} by {far:+.0f} standard deviations"
        for what, far in zip(prior.names, away)
        if abs(far) > _UNUSUAL
    ]
    found = dict(zip(prior.names, theta))
    odd += [f"{what} at its bound" for what, top in (most or {}).items() if found[what] >= top]
    if odd:
        warnings.warn(
            f"{name}: far from what is usual: {', '.join(odd)}. The twin fits what it was shown "
            "and may go wrong in other motions: look at it at rest and falling (physgym play), "
            "check the masks, give more --nodes",
            PhysGymWarning,
            stacklevel=3,
        )
