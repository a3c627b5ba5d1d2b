"""Nodes of an episode: thinned points still stand where the object stood."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from physgym.sim.contact import GroundPlane
from recon.identify.clip import _standing, thinned_nodes, with_footprint


def margin_m(nodes: np.ndarray, middle: np.ndarray, layer_m: float) -> float:
    """How far a centre of mass is inside what the lowest nodes span."""
    low = nodes[nodes[:, 2] < nodes[:, 2].min() + layer_m, :2]
    if len(low) < 3 or np.linalg.matrix_rank(low[1:] - low[0], tol=1e-6) < 2:
        return -np.inf
    return float(-(ConvexHull(low).equations @ [*middle[:2], 1.0]).max())


@pytest.mark.parametrize("most", [80, 150, 300, 700])
def test_thinned_nodes_keep_the_corners_of_what_it_stands_on(most: int) -> None:
    """An L of 150 x 60 x 90 mm, a table at 0.4 m, points every 6 mm and a noise of 1 mm."""
    rng = np.random.default_rng(most)
    lattice = np.stack(np.meshgrid(*(np.arange(n) for n in (26, 11, 16)), indexing="ij"), -1)
    cell = lattice.reshape(-1, 3)
    points = 0.006 * cell[(cell[:, 0] < 9) | (cell[:, 2] < 8)].astype(float)
    points = rng.permutation(points + rng.uniform(0, 1e-3, points.shape))
    points += np.array([1.0, 0.3, 0.4])
    ground = GroundPlane((0.0, 0.0, 1.0), 0.4)
    keep, spacing_m = thinned_nodes(points, 1e-4, most)
    standing = with_footprint(points, keep, spacing_m, ground)
    whole = margin_m(points, points.mean(axis=0), 1e-3)
    thin = points[standing]
    assert margin_m(thin, thin.mean(axis=0), 0.25 * spacing_m) > 0.7 * whole
    assert len(standing) <= len(keep) + 12
    assert len(np.unique(standing)) == len(standing)
    assert (np.diff(standing) > 0).all()  # tracked points come first, and stay first
    few = _standing(points, most, ground)
    assert 0.8 * len(keep) < len(few) <= most
    assert margin_m(points[few], points[few].mean(axis=0), 0.25 * spacing_m) > 0.7 * whole


def test_what_stands_on_a_point_or_was_not_thinned_stays_as_it_is() -> None:
    ground = GroundPlane((0.0, 0.0, 1.0), 0.0)
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(500, 3))
    ball = 0.05 * ball / np.linalg.norm(ball, axis=1, keepdims=True) + [0, 0, 0.05]
    ball[:2] = [[0, 0, 0.1], [0, 0, 0]]
    ball = ball[(ball[:, 2] > 2e-3) | (ball[:, 2] == 0.0)]
    keep, _ = thinned_nodes(ball, 0.02, 100)
    np.testing.assert_array_equal(with_footprint(ball, keep, 1e-3, ground), keep)
    every = np.arange(len(ball))
    np.testing.assert_array_equal(with_footprint(ball, every, 0.02, ground), every)
