"""Gauss-Newton against least squares in closed form."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from recon.identify.least_squares import refine
from recon.identify.problem import Loss, Prior, cost

SAMPLES = 60
SCALE_M = 0.02


class Line:
    """Residual A theta - y: with a parabola for a loss, the answer is a linear system."""

    def __init__(self, *, knee_m: float = 1e3, outliers: int = 0, curved: float = 0.0) -> None:
        rng = np.random.default_rng(5)
        self.matrix = rng.normal(size=(SAMPLES, 3))
        self.truth = np.array([0.4, -0.2, 0.1])
        self.seen_m = self.matrix @ self.truth + 1e-3 * rng.normal(size=SAMPLES)
        self.seen_m[:outliers] += 5.0
        self.curved = curved
        self.prior = Prior(("a", "b", "c"), np.full(3, 0.05), np.full(3, 2.0), np.full(3, 1e-4))
        self.loss = Loss(scale_m=SCALE_M, knee_m=knee_m)
        self.candidates = 0

    def weights(self, recordings):
        return 30.0

    def residuals(self, theta, recordings):
        self.candidates += len(theta)
        bent = theta + self.curved * theta**3
        yield bent @ self.matrix.T - self.seen_m, np.ones(SAMPLES, bool)


def closed_form(problem: Line) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and inverse Hessian of 30 mean(r^2 / 2k / scale) + prior."""
    share = 30.0 / SAMPLES / problem.loss.knee_m / problem.loss.scale_m
    precision = np.diag(1.0 / problem.prior.sigma**2)
    hessian = share * problem.matrix.T @ problem.matrix + precision
    right = share * problem.matrix.T @ problem.seen_m + precision @ problem.prior.mean
    return np.linalg.solve(hessian, right), np.linalg.inv(hessian)


def test_a_linear_problem_is_solved_as_in_closed_form():
    problem = Line()
    expected, covariance = closed_form(problem)
    # The gain falls below any share of the cost long before 30 steps; 0 lets it run to the end.
    fit = refine(problem, np.zeros(3), [0], tolerance=0.0)
    # Forward differences of a linear function are exact but for rounding over the step: 1e-12.
    np.testing.assert_allclose(fit.theta, expected, atol=1e-6)
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-6)
    np.testing.assert_allclose(cost(problem, fit.theta[None], [0])[0], fit.cost, rtol=1e-12)


def test_every_step_goes_downhill_and_is_told():
    problem, told = Line(curved=0.5), []
    start = np.array([2.0, 2.0, -2.0])
    begin = cost(problem, start[None], [0])[0]
    fit = refine(problem, start, [0], on_step=lambda *step: told.append(step))
    values = [begin, *(value for _, value, _ in told)]
    assert all(after < before for before, after in pairwise(values))
    assert [step for step, _, _ in told] == list(range(1, fit.steps + 1))
    assert told[-1][1] == fit.cost
    np.testing.assert_array_equal(told[-1][2], fit.theta)
    np.testing.assert_array_equal(start, [2.0, 2.0, -2.0])  # the caller's array is left alone


def test_outliers_pull_huber_less_than_squares():
    # Five of sixty samples are 5 m off. Their pull on the line is bounded by the knee.
    robust = refine(Line(knee_m=5e-3, outliers=5), np.zeros(3), [0], tolerance=0.0)
    squares = refine(Line(outliers=5), np.zeros(3), [0], tolerance=0.0)
    off = [np.abs(fit.theta - Line().truth).max() for fit in (robust, squares)]
    # Huber's minimum moves by about knee x share of outliers; squares by 5 m x that share.
    assert off[0] < 5e-3
    assert off[1] > 20 * off[0]


def test_one_step_moves_no_further_than_a_priors_width():
    problem = Line(curved=0.0)
    problem.prior = Prior(("a", "b", "c"), np.zeros(3), np.full(3, 0.1), np.full(3, 1e-4))
    problem.loss = Loss(scale_m=1e-6, knee_m=1.0)  # data so sharp that the prior does not hold back
    told = []
    refine(problem, np.zeros(3), [0], on_step=lambda *step: told.append(step[2]))
    path = np.array([np.zeros(3), *told])
    assert len(path) > 3  # 0.4 lies four widths away
    # The clip is exact but for the rounding of the sum.
    assert np.abs(np.diff(path, axis=0)).max() <= 0.1 + 1e-12


def test_max_steps_and_the_number_of_rollouts():
    problem = Line(curved=0.5)
    fit = refine(problem, np.full(3, 2.0), [0], max_steps=2, tolerance=0.0)
    assert fit.steps == 2
    # A step costs P + 1 candidates and one trial per damping; at most 7 of those.
    assert problem.candidates <= 1 + 3 * 4 + 2 * 7


def test_at_the_minimum_it_stays():
    problem = Line()
    expected, _ = closed_form(problem)
    fit = refine(problem, expected, [0])
    # What the differences' rounding moves it by is far below a posterior's width (about 0.1).
    np.testing.assert_allclose(fit.theta, expected, atol=1e-6)


def test_where_every_world_blows_up_the_prior_alone_speaks():
    class Lost(Line):
        def residuals(self, theta, recordings):
            for residual, seen in super().residuals(theta, recordings):
                yield np.full_like(residual, np.nan), seen

    problem = Lost()
    fit = refine(problem, np.zeros(3), [0], tolerance=0.0)
    np.testing.assert_allclose(fit.covariance, np.diag(problem.prior.sigma**2), rtol=1e-9)
    # Damping leaves a share of the way at every step; 30 steps leave nothing.
    np.testing.assert_allclose(fit.theta, problem.prior.mean, atol=1e-4)


@pytest.mark.parametrize("bad", [0, 2])
def test_a_sample_whose_difference_explodes_is_left_out(bad):
    class Chaotic(Line):
        def residuals(self, theta, recordings):
            for residual, seen in super().residuals(theta, recordings):
                # As two rollouts that part: a jump of a metre for a step of 1e-4.
                residual[:, bad] += np.where(np.arange(len(theta)) % 2, 1.0, 0.0)
                yield residual, seen

    problem = Chaotic()
    fit = refine(problem, np.zeros(3), [0], tolerance=0.0)
    # Without that sample the answer is that of 59; data has noise of 1 mm on slopes of one.
    assert np.abs(fit.theta - closed_form(problem)[0]).max() < 0.05
