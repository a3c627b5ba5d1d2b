"""Damped Gauss-Newton with forward differences that fill the simulator's lanes.

A rope twin has some 50 parameters; P + 1 rollouts in lanes of 16 cost less than one adjoint, and
they give the curvature that first-order descent lacks, so ten steps do where Adam takes hundreds.
Shapes: P parameters, F residuals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recon.identify.problem import Problem, cost

__all__ = ["Fit", "refine"]


@dataclass(frozen=True)
class Fit:
    """Where a search ended.

    Attributes:
        theta: shape (P,).
        cost: negative log posterior there.
        covariance: Laplace approximation of the posterior, shape (P, P).
        steps: accepted steps.
    """

    theta: np.ndarray
    cost: float
    covariance: np.ndarray
    steps: int


def refine(
    problem: Problem,
    theta: np.ndarray,
    recordings: list[int],
    *,
    max_steps: int = 30,
    tolerance: float = 2e-4,
    on_step: Callable[[int, float, np.ndarray], None] | None = None,
) -> Fit:
    """Descend from a start to the nearest minimum of the negative log posterior.

    Levenberg's damping on Marquardt's scale; Huber's loss by iterated reweighting. Only downhill
    steps are taken, so stopping at any time keeps the best so far.

    Args:
        problem: the problem.
        theta: the start, shape (P,).
        recordings: which recordings count.
        max_steps: at most so many accepted steps.
        tolerance: stop when a step gains less than this share of the cost.
        on_step: called after every accepted step with step, cost and theta.

    Returns:
        The end of the descent.
    """
    theta = np.array(theta, np.float64)
    best = float(cost(problem, theta[None], recordings)[0])
    damping, steps = 1e-2, 0
    hessian, gradient = _normal_equations(problem, theta, recordings)
    while steps < max_steps:
        moved = False
        for _ in range(7):
            trial = theta + _step(problem, hessian, gradient, damping)
            value = float(cost(problem, trial[None], recordings)[0])
            if value < best:
                moved = True
                break
            damping *= 4.0
        if not moved:
            break
        gain, best, theta = best - value, value, trial
        damping, steps = max(damping / 5.0, 1e-5), steps + 1
        if on_step is not None:
            on_step(steps, best, theta)
        hessian, gradient = _normal_equations(problem, theta, recordings)
        if gain < tolerance * best:
            break
    return Fit(theta, best, np.linalg.inv(hessian), steps)


def _step(
    problem: Problem, hessian: np.ndarray, gradient: np.ndarray, damping: float
) -> np.ndarray:
    damped = hessian + damping * np.diag(np.diag(hessian))
    step = -np.linalg.solve(damped, gradient)
    # A rollout of seconds is linear in no parameter over more than a prior's width.
    return np.clip(step, -problem.prior.sigma, problem.prior.sigma)


def _normal_equations(
    problem: Problem, theta: np.ndarray, recordings: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    prior, loss = problem.prior, problem.loss
    count = len(theta)
    candidates = np.concatenate([theta[None], theta + np.diag(prior.step)])
    hessian, gradient, seen_count = np.zeros((count, count)), np.zeros(count), 0
    for residual, seen in problem.residuals(candidates, recordings):
        base = residual[0]
        jacobian = (residual[1:] - base) / prior.step[:, None]
        # Where a world blew up or a difference exploded (chaos), the sample says nothing.
        good = seen & np.isfinite(residual).all(axis=0) & (np.abs(jacobian).max(axis=0) < 50.0)
        weight = np.where(good, 1.0 / np.maximum(np.abs(base), loss.knee_m), 0.0) / loss.scale_m
        jacobian = np.where(good, jacobian, 0.0)
        weighted = jacobian * weight
        hessian += weighted @ jacobian.T
        gradient += weighted @ np.where(good, base, 0.0)
        seen_count += int(seen.sum())
    share = problem.weights(recordings) / max(seen_count, 1)
    precision = 1.0 / prior.sigma**2
    return (
        share * hessian + np.diag(precision),
        share * gradient + precision * (theta - prior.mean),
    )
