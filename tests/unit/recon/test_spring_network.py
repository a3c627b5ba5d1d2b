"""Spring networks: topology, candidates side by side, both stages.

Where the data are this package's own simulation, recovery is an inverse crime: it shows that the
search finds what is there, not that springs are a good model. A cloth of MuJoCo's finite elements
is the test of that (`test_network_twin`).
"""

import numpy as np
import pytest
import torch
from network_cases import (
    DASHPOT_NS_PER_M,
    DRAG_PER_S,
    SPACING_M,
    STIFFNESS_N,
    grid,
    neighbours,
    own_recording,
)

from physgym.errors import DataError
from physgym.sim.contact import GroundPlane
from physgym.sim.spring_mass import springs_from_points
from recon.identify.dense_stiffness import Descent, descend
from recon.identify.least_squares import refine
from recon.identify.network_topology import Topology, network_springs
from recon.identify.problem import cost
from recon.identify.spring_network import SpringNetworkProblem
from recon.identify.windows import cut_windows, window_covariance
from recon.tracks import Tracks


def problem_of(tracks, edges, *, window_s=0.25, **more):
    windows = cut_windows(tracks, 0, tracks.frame_count, round(window_s / tracks.dt_s))
    free = len(tracks.free_index)
    problem = SpringNetworkProblem([tracks], windows, mass_kg=1e-3 * free, **more)
    length = np.linalg.norm(np.diff(problem.rest_position[edges], axis=1)[:, 0], axis=-1)
    return problem, problem.frozen(Topology(edges, length))


def values_of(problem, theta):
    found = problem.scalars(torch.as_tensor(theta)[None], [problem.topology])
    return {name: float(value) for name, value in found.items()}


# --- topology -----------------------------------------------------------------------------------


def springs(rest, driven, radius=1.1, driven_radius=1.5):
    return network_springs(
        rest,
        np.array(driven, dtype=int),
        radius_m=radius * SPACING_M,
        neighbours=8,
        driven_radius_m=driven_radius * SPACING_M,
        driven_neighbours=4,
        shortest_m=0.1 * SPACING_M,
    )


def test_no_point_falls_off_however_small_the_radius():
    rest = grid(4, 4)
    rest[5:] += np.array([0.02, 0.0, 0.0])  # a crack wider than the radius
    edges = springs(rest, [0], radius=0.9)
    reached = {0}
    for _ in range(len(rest)):
        reached |= {int(n) for pair in edges if set(map(int, pair)) & reached for n in pair}
    assert reached == set(range(len(rest)))


def test_driven_points_beside_the_object_hold_it_and_not_each_other():
    sheet = grid(4, 4)
    hand = sheet[:2] + np.array([0.0, 0.0, 0.012])
    edges = springs(np.concatenate([sheet, hand]), [16, 17])
    held = edges[np.isin(edges, [16, 17]).any(axis=1)]
    assert {16, 17} <= set(held.ravel().tolist())
    assert not np.isin(edges, [16, 17]).all(axis=1).any()


def test_a_driven_point_far_off_holds_the_nearest_one():
    rest = np.concatenate([grid(4, 4), [[0.0, 0.0, 1.5]]])
    assert (springs(rest, [16]) == 16).any()


def test_object_without_free_points_is_refused():
    tracks = own_recording(grid(2, 2), neighbours(grid(2, 2)), [0, 1, 2, 3], seconds=0.3)
    with pytest.raises(DataError, match="free point"):
        problem_of(tracks, neighbours(grid(2, 2)))


# --- candidates side by side --------------------------------------------------------------------


def test_candidates_of_different_topology_run_as_if_alone():
    rest = grid(5, 5)
    tracks = own_recording(rest, neighbours(rest), [0, 20], seconds=0.4)
    problem, _ = problem_of(tracks, neighbours(rest), window_s=0.1, substeps_per_frame=40)
    rng = np.random.default_rng(2)
    theta = problem.prior.mean + 0.6 * problem.prior.sigma * rng.standard_normal((5, 8))
    assert len({len(problem.topology_of(one).edges) for one in theta}) > 1
    together = problem.simulate(theta, problem.segments)
    for q, one in enumerate(theta):
        alone = problem.simulate(one[None], problem.segments)[:, 0]
        # Springs of weight 0 only change the order of float32 sums: 240 substeps of 1e-7 m.
        np.testing.assert_allclose(together[:, q], alone, atol=2e-5)


def test_too_stiff_a_candidate_loses_instead_of_stalling_the_rest():
    rest = grid(4, 4)
    tracks = own_recording(rest, neighbours(rest), [0, 12], seconds=0.4)
    problem, _ = problem_of(tracks, neighbours(rest), window_s=0.1)
    theta = np.stack([problem.prior.mean, problem.prior.mean])
    theta[1, 0] += 12.0
    values = cost(problem, theta, [0])
    assert np.isfinite(values).all()
    assert values[1] > values[0]


def test_drag_has_a_bound_beyond_which_the_prior_alone_pulls():
    """What is only pushed slowly is explained by any drag, however large."""
    rest = grid(4, 4)
    tracks = own_recording(rest, neighbours(rest), [0, 12], seconds=0.4)
    problem, _ = problem_of(tracks, neighbours(rest), window_s=0.1)
    theta = np.stack([problem.prior.mean] * 3)
    theta[:, problem.prior.names.index("log_drag")] = np.log([2.0, 20.0, 990.0])
    one, most, over = problem.simulate(theta, problem.segments)[0]
    assert np.abs(one - most).max() > 1e-5
    np.testing.assert_array_equal(most, over)


# --- both stages on data of known parameters (an inverse crime) -----------------------------------


def test_global_parameters_are_recovered_within_their_error_bars():
    rest = grid(6, 6)
    edges = neighbours(rest)
    tracks = own_recording(rest, edges, [0, 30])
    _, problem = problem_of(tracks, edges)
    everything = list(range(len(problem.segments)))
    fit = refine(problem, problem.prior.mean, everything)
    sigma = np.sqrt(np.diag(window_covariance(problem, fit, everything)))
    found = values_of(problem, fit.theta)
    # Starts come from central differences of 60 Hz samples: that, not noise, is the error here.
    assert abs(np.log(found["stiffness_n"] / STIFFNESS_N)) < 0.1
    assert abs(np.log(found["stiffness_n"] / STIFFNESS_N)) < 3.0 * sigma[0]
    assert abs(np.log(found["drag_per_s"] / DRAG_PER_S)) < 3.0 * sigma[2]
    assert abs(np.log(found["dashpot_ns_per_m"] / DASHPOT_NS_PER_M)) < 3.0 * np.hypot(
        sigma[1], 0.5 * sigma[0]
    )
    assert abs(found["length_exponent"]) < 3.0 * sigma[3]


def test_descent_finds_which_half_is_stiffer():
    rest = grid(6, 6)
    edges = neighbours(rest)
    ratio = np.where(rest[edges].mean(axis=1)[:, 1] < 2.5 * SPACING_M, 0.7, -0.7)
    tracks = own_recording(rest, edges, [0, 30], log_ratio=ratio)
    _, problem = problem_of(tracks, edges)
    fit = refine(problem, problem.prior.mean, list(range(len(problem.segments))))
    costs = []
    found = descend(
        problem,
        Descent(fit.theta, np.zeros(len(edges))),
        iterations=48,
        on_step=lambda step, best: costs.append(best.train_cost),
    )
    # 0.6 is far from chance (0.0 +- 0.1 for 110 springs); it is not 1, because springs at the free
    # edge carry little and keep to the prior.
    assert np.corrcoef(found.log_offset, ratio)[0, 1] > 0.6
    assert costs[11] < costs[0]  # the first 12 steps share one length of window


def test_hidden_points_and_nearest_point_distances():
    rest = grid(5, 5)
    edges = neighbours(rest)
    whole = own_recording(rest, edges, [0, 20], seconds=0.6)
    seen = np.ones(whole.visible.shape, bool)
    seen[10:14, 3:9] = False  # hidden for a while, whole at the starts of windows
    position = np.where(seen[..., None], whole.position, np.nan)
    tracks = Tracks(whole.time_s, position, seen, whole.driven_index, "hidden")
    _, problem = problem_of(tracks, edges, window_s=0.1, chamfer=True)
    everything = list(range(len(problem.segments)))
    fit = refine(problem, problem.prior.mean, everything, max_steps=4)
    assert fit.steps > 0
    best = descend(problem, Descent(fit.theta, np.zeros(len(edges))), iterations=8)
    assert np.isfinite(best.train_cost)
    assert np.isfinite(best.log_offset).all()


def test_friction_is_recovered_and_restitution_that_shows_nowhere_is_not_claimed():
    rest = grid(3, 3, 3, height=0.001)
    edges = springs_from_points(rest, radius_m=1.5 * SPACING_M, max_neighbours=18)
    tracks = own_recording(
        rest,
        edges,
        [],
        seconds=0.3,
        ground=GroundPlane(),
        restitution=0.2,
        friction=0.25,
        velocity_m_per_s=(0.8, 0.0, 0.0),
    )
    _, problem = problem_of(tracks, edges, window_s=0.15, ground=GroundPlane())
    everything = list(range(len(problem.segments)))
    fit = refine(problem, problem.prior.mean, everything)
    sigma = dict(
        zip(problem.prior.names, np.sqrt(np.diag(window_covariance(problem, fit, everything))))
    )
    error = abs(np.log(values_of(problem, fit.theta)["friction"] / 0.25))
    assert error < 0.1  # the block trembles as it slides, so its weight on the ground does
    assert error < 3.0 * sigma["log_friction"]
    assert sigma["log_friction"] < 0.5 * problem.prior.sigma[-1]
    # Nothing falls, so what a bounce returns stays as unknown as it was.
    assert sigma["logit_restitution"] > 0.8 * problem.prior.sigma[-2]
