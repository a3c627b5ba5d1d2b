"""Depth noise against the statistics that its parameters state."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from physgym.cell.depth_noise import DepthNoiseConfig, add_depth_noise
from physgym.errors import DataError

FOCAL_PX = 457.0
SMOOTH = DepthNoiseConfig(
    disparity_step_px=0.0, depth_step_m=0.0, hole_fraction=0.0, max_range_m=20.0
)


def wall(depth_m: float, shape: tuple[int, int] = (240, 320)) -> np.ndarray:
    return np.full(shape, depth_m, dtype=np.float32)


@pytest.mark.parametrize("depth_m", [0.4, 0.8, 1.6])
@pytest.mark.parametrize("correlation_px", [0.0, 1.5])
def test_noise_grows_with_the_square_of_depth(depth_m: float, correlation_px: float) -> None:
    config = dataclasses.replace(SMOOTH, correlation_px=correlation_px)
    seen = add_depth_noise(wall(depth_m), focal_px=FOCAL_PX, config=config)
    expected = depth_m**2 * config.subpixel_px / (FOCAL_PX * config.baseline_m)
    # 76800 samples, of which smoothing leaves about 76800 / (4 pi 1.5^2) = 2700 independent
    # ones: the deviation is known to 1 / sqrt(2 * 2700) = 1.4 %; four of those.
    assert seen.std() == pytest.approx(expected, rel=0.055)
    # The mean error of 2700 independent samples stays within four standard errors, plus the bias
    # of averaging 1 / disparity, (s / d)^2 z.
    bias = (config.subpixel_px * depth_m / (FOCAL_PX * config.baseline_m)) ** 2 * depth_m
    assert abs(seen.mean() - depth_m) < 4 * expected / np.sqrt(2700) + bias


def test_smoothing_correlates_neighbours_as_stated() -> None:
    config = dataclasses.replace(SMOOTH, correlation_px=2.0)
    error = add_depth_noise(wall(0.8), focal_px=FOCAL_PX, config=config) - 0.8
    # White noise under a Gaussian of width c has the correlation exp(-r^2 / (4 c^2)).
    for lag in (1, 3):
        seen = (error[:, lag:] * error[:, :-lag]).mean() / error.var()
        assert seen == pytest.approx(np.exp(-(lag**2) / 16), abs=0.05)  # 4 / sqrt(1500 samples)/2


def test_disparity_and_depth_are_quantised() -> None:
    ramp = np.linspace(0.5, 3.0, 320, dtype=np.float32) * np.ones((50, 1), dtype=np.float32)
    config = dataclasses.replace(SMOOTH, disparity_step_px=1 / 32, edge_px=0)
    seen = add_depth_noise(ramp, focal_px=FOCAL_PX, config=config)
    steps = FOCAL_PX * config.baseline_m / seen * 32
    # float32 keeps 7 digits of up to 1500 steps.
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    in_mm = add_depth_noise(ramp, focal_px=FOCAL_PX) * 1e3  # holes are 0 mm
    np.testing.assert_allclose(in_mm, np.round(in_mm), atol=1e-3)


def test_quantisation_alone_errs_by_half_a_step() -> None:
    ramp = np.linspace(0.5, 3.0, 320, dtype=np.float32) * np.ones((50, 1), dtype=np.float32)
    config = dataclasses.replace(SMOOTH, subpixel_px=0.0, disparity_step_px=0.25, edge_px=0)
    seen = add_depth_noise(ramp, focal_px=FOCAL_PX, config=config)
    error_px = FOCAL_PX * config.baseline_m * np.abs(1 / seen - 1 / ramp)
    assert 0.11 < error_px.max() < 0.1251  # half a step, up to float32
    # A uniform error of one step has the deviation step / sqrt(12); 320 distinct values.
    assert np.sqrt((error_px**2).mean()) == pytest.approx(0.25 / np.sqrt(12), rel=0.1)


def test_holes_and_edges_are_lost_as_often_as_stated() -> None:
    depth = wall(1.0)
    depth[:, 160:] = 0.6
    config = dataclasses.replace(SMOOTH, hole_fraction=0.01, edge_dropout=0.4, edge_px=3)
    lost = add_depth_noise(depth, focal_px=FOCAL_PX, config=config) == 0
    near = np.zeros(depth.shape, dtype=bool)
    near[:, 157:163] = True
    # Binomial: 1440 edge pixels give 0.4 +- 0.013, the 75360 others 0.01 +- 0.0004; four sigmas.
    assert lost[near].mean() == pytest.approx(0.4, abs=0.052)
    assert lost[~near].mean() == pytest.approx(0.01, abs=0.0015)


def test_out_of_range_and_missing_depth_is_zero() -> None:
    depth = wall(1.0)
    depth[:60], depth[60:120], depth[120:150], depth[150:180] = 0.1, 5.0, 0.0, np.nan
    seen = add_depth_noise(depth, focal_px=FOCAL_PX)
    assert not seen[:180].any()
    assert (seen[190:] > 0).mean() > 0.99
    assert seen.dtype == np.float32


def test_a_steep_but_smooth_table_has_no_edges() -> None:
    # A table seen at 40 degrees changes depth by 0.3 % a pixel at this focal length.
    rows = 0.6 * 1.003 ** np.arange(240, dtype=np.float32)[:, None] * np.ones((1, 320))
    config = dataclasses.replace(SMOOTH, edge_dropout=1.0)
    assert (add_depth_noise(rows, focal_px=FOCAL_PX, config=config) > 0).all()


def test_the_same_seed_gives_the_same_bits() -> None:
    depth = wall(0.7)
    first, second, other = (
        add_depth_noise(depth, focal_px=FOCAL_PX, seed=seed) for seed in ([3, 1], [3, 1], [3, 2])
    )
    assert first.tobytes() == second.tobytes()
    assert (first != other).mean() > 0.3  # most millimetres differ: the deviation is 1.7 mm


@pytest.mark.parametrize(
    ("field", "value"),
    [("baseline_m", 0.0), ("subpixel_px", -0.1), ("edge_dropout", 1.5), ("min_range_m", 9.0)],
)
def test_impossible_parameters_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(DataError, match=field):
        dataclasses.replace(DepthNoiseConfig(), **{field: value})


def test_a_batch_of_images_is_refused() -> None:
    with pytest.raises(DataError, match="shape"):
        add_depth_noise(np.ones((2, 4, 4)), focal_px=FOCAL_PX)
