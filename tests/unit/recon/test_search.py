"""The cost and CMA-ES on problems whose minimum is known."""

from __future__ import annotations

import numpy as np
import pytest

from recon.identify.problem import Loss, Prior, cost
from recon.identify.search import search


class Valley:
    """Residual A (theta - truth), one recording; NaN beyond a wall, as a world that blew up."""

    def __init__(self, *, wall: float = np.inf, sigma: float = 10.0) -> None:
        rng = np.random.default_rng(3)
        self.truth = np.array([1.0, -0.5, 0.3])
        self.matrix = rng.normal(size=(40, 3)) * np.array([1.0, 0.3, 0.1])
        self.wall = wall
        self.prior = Prior(("a", "b", "c"), np.zeros(3), np.full(3, sigma), np.full(3, 1e-4))
        # A knee above every residual: Huber is then a parabola.
        self.loss = Loss(scale_m=0.1, knee_m=1e3)

    def weights(self, recordings):
        return 1e4 * len(recordings)

    def residuals(self, theta, recordings):
        for _ in recordings:
            residual = (theta - self.truth) @ self.matrix.T
            residual[theta[:, 0] > self.wall] = np.nan
            yield residual, np.ones(len(self.matrix), bool)


def test_huber_is_a_parabola_below_the_knee_and_a_line_above():
    loss = Loss(scale_m=0.01, knee_m=0.05)
    size = np.array([0.0, 0.02, 0.05, 0.15])
    # By hand: r^2 / 2k below, r - k/2 above, over the scale.
    expected = np.array([0.0, 0.02**2 / 0.1, 0.025, 0.125]) / 0.01
    np.testing.assert_allclose(loss.value(size), expected, rtol=1e-12)
    np.testing.assert_allclose(loss.value(-size), expected, rtol=1e-12)
    # Value and slope have no jump at the knee: both sides of it differ by the slope alone.
    step = 1e-7
    low, high = loss.value(np.array([0.05 - step, 0.05 + step]))
    assert high - low == pytest.approx(2 * step / 0.01, rel=1e-5)  # curvature: step over knee


def test_the_prior_counts_standard_deviations():
    prior = Prior(("a", "b"), np.array([1.0, 2.0]), np.array([0.5, 4.0]), np.full(2, 1e-3))
    theta = np.array([[1.0, 2.0], [1.5, 2.0], [1.5, -2.0]])
    np.testing.assert_allclose(prior.penalty(theta), [0.0, 0.5, 1.0])
    assert prior.penalty(theta[1]) == pytest.approx(0.5)


def test_cost_is_the_mean_loss_times_the_samples_plus_the_prior():
    problem = Valley()
    theta = np.array([[0.2, 0.1, -0.4], [1.0, -0.5, 0.3]])
    residual = (theta - problem.truth) @ problem.matrix.T
    mean = (0.5 * residual**2 / 1e3 / 0.1).mean(axis=1)
    expected = 2e4 * mean + 0.5 * (theta**2).sum(axis=1) / 100.0
    # Two recordings that are alike have the mean of one and twice its samples.
    np.testing.assert_allclose(cost(problem, theta, [0, 1]), expected, rtol=1e-12)


def test_samples_that_were_not_seen_do_not_count():
    class HalfSeen(Valley):
        def residuals(self, theta, recordings):
            for residual, seen in super().residuals(theta, recordings):
                residual[:, 20:], seen[20:] = 77.0, False
                yield residual, seen

    problem, theta = HalfSeen(), np.array([[0.2, 0.1, -0.4]])
    residual = (theta - problem.truth) @ problem.matrix[:20].T
    expected = 1e4 * (0.5 * residual**2 / 1e3 / 0.1).mean() + problem.prior.penalty(theta)
    np.testing.assert_allclose(cost(problem, theta, [0]), expected, rtol=1e-12)


def test_a_world_that_blew_up_costs_as_if_a_metre_off():
    problem = Valley(wall=0.5)
    blown = np.array([[0.6, 0.0, 0.0]])
    expected = 1e4 * problem.loss.value(np.array(1.0)) + problem.prior.penalty(blown)
    np.testing.assert_allclose(cost(problem, blown, [0]), expected, rtol=1e-12)


def run(problem, **changes):
    options = {"start": np.zeros(3), "generations": 60, "population": 16, "seed": 1}
    return search(problem, np.eye(3), [0], **{**options, **changes})


def test_cma_finds_the_minimum():
    problem, told = Valley(), []
    found = run(problem, on_generation=lambda *step: told.append(step))
    # The weakest direction costs (0.1 dx)^2 of the sum; 60 generations of 16 bring CMA-ES in three
    # dimensions far below 1e-2 (Hansen's tutorial: about one decade in ten generations).
    np.testing.assert_allclose(found[0].theta, problem.truth, atol=1e-2)
    assert [candidate.cost for candidate in found] == sorted(c.cost for c in found)
    assert [step for step, _ in told] == list(range(1, len(found) + 1))
    best = [value for _, value in told]
    assert best == sorted(best, reverse=True)
    assert best[-1] == found[0].cost
    np.testing.assert_allclose(cost(problem, found[0].theta[None], [0])[0], found[0].cost)


def test_a_search_that_is_cut_off_has_told_its_best():
    told = []

    def stop(generation, value):
        if generation == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Valley(), on_generation=stop, on_best=told.append)
    whole = run(Valley(), generations=12)
    assert told[-1].cost == whole[0].cost
    np.testing.assert_array_equal(told[-1].theta, whole[0].theta)
    assert [c.cost for c in told] == sorted((c.cost for c in told), reverse=True)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    first, again, other = (run(Valley(), generations=5, seed=s) for s in (7, 7, 8))
    assert all(np.array_equal(a.theta, b.theta) for a, b in zip(first, again))
    assert not np.array_equal(first[0].theta, other[0].theta)


def test_only_the_given_directions_are_searched():
    found = search(
        Valley(), np.eye(3)[:2], [0], start=np.array([0.0, 0.0, 0.9]), generations=5, population=8
    )
    assert all(candidate.theta[2] == 0.9 for candidate in found)


def test_blown_up_candidates_do_not_stop_the_search():
    # The wall stands just behind the minimum: half the early candidates are lost.
    found = run(Valley(wall=1.05))
    np.testing.assert_allclose(found[0].theta[0], 1.0, atol=5e-2)  # up to the wall
    assert np.isfinite([candidate.cost for candidate in found]).all()
