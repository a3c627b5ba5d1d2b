"""Ropes as an identification problem: coordinates, priors and residuals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rope_cases import BENDING_NM2, DENSITY_KG_PER_M, NODES, REST_M, own_recording, true_parameters

from recon.identify.problem import cost
from recon.identify.rope import GLOBALS, RopeProblem
from recon.identify.segments import cut_segments


def problem_of(tracks=None, *, segment_s=None, **changes) -> RopeProblem:
    recordings = [tracks or own_recording()]
    options = {"linear_density_kg_per_m": DENSITY_KG_PER_M, **changes}
    return RopeProblem(recordings, cut_segments(recordings, segment_s), **options)


def coordinates(problem: RopeProblem) -> np.ndarray:
    """Search coordinates of the rope that `own_recording` was made with."""
    truth = true_parameters()
    theta = np.zeros(len(problem.prior.mean))
    values = {
        "log_bending": np.log(BENDING_NM2),
        "log_twist_ratio": np.log(truth.twist_stiffness_nm2 / BENDING_NM2),
        "log_bending_damping": np.log(truth.bending_damping_s),
        "log_friction_ratio": np.log(truth.friction_ratio),
        "log_friction_yield": np.log(truth.friction_yield_rad),
        "log_drag": np.log(truth.drag_per_s),
        "log_drag_quadratic": np.log(truth.drag_quadratic_per_m),
        "end_roll": 0.0,
    }
    for i, name in enumerate(GLOBALS):
        theta[i] = values[name]
    return theta


def test_coordinates_become_the_parameters_they_name():
    problem = problem_of()
    made, truth = problem.parameters(coordinates(problem)).to_mapping(), true_parameters()
    # Rest lengths and clamps are read off a float32 recording of a rope that stretches below 1 %.
    loose = {"rest_length_m": 1e-2, "clamp_tangent": 1e-5, "clamp_director": 1e-5}
    for name, value in truth.to_mapping().items():
        if name == "clamp_director":
            continue  # any director across the tangent will do; see below
        np.testing.assert_allclose(
            made[name], value, rtol=loose.get(name, 1e-12), atol=loose.get(name, 0.0), err_msg=name
        )
    across = np.sum(made["clamp_director"] * made["clamp_tangent"], axis=-1)
    np.testing.assert_allclose(across, 0.0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(made["clamp_director"], axis=-1), 1.0, rtol=1e-12)


def test_every_coordinate_moves_a_parameter_and_names_are_in_order():
    problem = problem_of()
    count = len(problem.prior.mean)
    assert len(problem.prior.names) == len(set(problem.prior.names)) == count
    assert count == len(GLOBALS) + 3 * (NODES - 2)
    base = problem.parameters(problem.prior.mean).to_mapping()
    moved = problem.parameters(problem.prior.mean + np.diag(problem.prior.step)).to_mapping()
    for i, name in enumerate(problem.prior.names):
        changed = [key for key, value in base.items() if not np.array_equal(moved[key][i], value)]
        if name.startswith("natural_curvature"):
            node, axis = (int(part.rstrip("]")) for part in name.split("[")[1:])
            difference = moved["natural_curvature_rad"][i] - base["natural_curvature_rad"]
            assert np.argwhere(difference).tolist() == [[node - 1, axis]]
        elif name.startswith("log_bending["):
            difference = moved["bending_stiffness_nm2"][i] - base["bending_stiffness_nm2"]
            assert np.argwhere(difference).tolist() == [[int(name[12:-1]) - 1]]
        assert changed, name


def test_candidates_have_a_leading_axis_and_one_has_none():
    problem = problem_of()
    rng = np.random.default_rng(0)
    theta = problem.prior.mean + 0.1 * rng.normal(size=(3, len(problem.prior.mean)))
    many = problem.parameters(theta).to_mapping()
    for q in range(3):
        for name, value in problem.parameters(theta[q]).to_mapping().items():
            np.testing.assert_array_equal(many[name][q], value, err_msg=name)


def test_the_prior_scales_with_density_and_length():
    tracks = own_recording()
    base = problem_of(tracks).prior.mean[0]
    heavy = problem_of(tracks, linear_density_kg_per_m=2 * DENSITY_KG_PER_M).prior.mean[0]
    long = problem_of(replace(tracks, position=2 * tracks.position)).prior.mean[0]
    # EI over mass per length and length cubed is what a motion looks like.
    assert heavy - base == pytest.approx(np.log(2.0), rel=1e-9)
    assert long - base == pytest.approx(3 * np.log(2.0), rel=1e-6)  # lengths are float32


def test_search_directions_are_one_sigma_each_and_independent():
    problem = problem_of()
    directions = problem.search_directions()
    assert directions.shape == (len(GLOBALS) + 2, len(problem.prior.mean))
    np.testing.assert_array_equal(np.linalg.matrix_rank(directions), len(directions))
    for i, direction in enumerate(directions[: len(GLOBALS)]):
        assert problem.prior.penalty(problem.prior.mean + direction) == pytest.approx(0.5), i
    coil = problem.parameters(problem.prior.mean + directions[-1]).natural_curvature_rad
    assert not coil[:, 0].any()
    assert (coil[:, 1] > 0).all()


def test_the_true_parameters_leave_no_residual():
    problem = problem_of()
    theta = coordinates(problem)
    ((residual, seen),) = problem.residuals(theta[None], [0])
    assert seen.all()
    # What is left: rest lengths as the median of stretched edges, and the start's velocity and
    # internal state from two frames; half a percent of the rope's length after the sway.
    assert np.abs(residual).max() < 5e-3 * REST_M.sum()
    wrong = theta.copy()
    wrong[0] += 1.0
    ((worse, _),) = problem.residuals(wrong[None], [0])
    assert np.abs(worse).mean() > 5 * np.abs(residual).mean()
    assert cost(problem, theta[None], [0])[0] < cost(problem, wrong[None], [0])[0]


def test_candidates_and_segments_do_not_touch_each_other():
    problem = problem_of(segment_s=0.5)
    rng = np.random.default_rng(1)
    theta = problem.prior.mean + 0.2 * rng.normal(size=(5, len(problem.prior.mean)))
    both = problem.simulate(theta, problem.segments[:2])
    for r, segment in enumerate(problem.segments[:2]):
        for q in range(5):
            alone = problem.simulate(theta[q : q + 1], [segment])
            # Substeps follow from the stiffest candidate of a batch, so bits may differ; both
            # integrate one motion, to the truncation of half a second.
            np.testing.assert_allclose(both[r, q], alone[0, 0], atol=1e-3)
    again = problem.simulate(theta, problem.segments[:2])
    np.testing.assert_array_equal(both, again)


def test_residuals_come_for_every_recording_asked_for_in_any_batching():
    problem = problem_of(segment_s=0.4)
    count = len(problem.segments)
    assert count >= 3
    theta = problem.prior.mean[None]
    together = list(problem.residuals(theta, list(range(count))))
    assert len(together) == count
    total = sum(float(np.abs(residual).sum()) for residual, _ in together)
    alone = [next(iter(problem.residuals(theta, [r]))) for r in range(count)]
    assert sum(float(np.abs(residual).sum()) for residual, _ in alone) == pytest.approx(total)


def test_missing_samples_are_not_seen_and_do_not_spoil_the_rest():
    whole = own_recording()
    position, visible = whole.position.copy(), whole.visible.copy()
    visible[20:60, 4] = False
    position[~visible] = np.nan
    problem = problem_of(replace(whole, position=position, visible=visible))
    ((residual, seen),) = problem.residuals(problem.prior.mean[None], [0])
    assert np.isfinite(residual).all()
    # 40 frames, every other compared, three coordinates.
    assert (~seen).sum() == 40 // 2 * 3


def test_weights_count_seconds_and_coordinates():
    problem = problem_of()
    seconds = len(problem.segments[0].target) * problem.segments[0].dt_s
    assert problem.weights([0]) == pytest.approx(3.0 * seconds * 3 * (NODES - 4))


def test_a_candidate_far_too_stiff_spoils_itself_alone():
    problem = problem_of()
    theta = np.stack([problem.prior.mean, problem.prior.mean])
    theta[1, 0] += 12.0  # e^12 times the stiffness: the substeps are capped, it must fly apart
    rolled = problem.simulate(theta, problem.segments)
    alone = problem.simulate(theta[:1], problem.segments)
    # Twice the substeps or once, the sound candidate moves alike.
    np.testing.assert_allclose(rolled[0, 0], alone[0, 0], atol=5e-3)
    assert not np.abs(rolled[0, 1]).max() < 10.0  # a rope of 65 cm is metres away, or not a number
    values = cost(problem, theta, [0])
    assert np.isfinite(values).all()
    assert values[1] > 100 * values[0]
