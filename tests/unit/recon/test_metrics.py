"""Scores against sums done by hand."""

import numpy as np
import pytest

from physgym.errors import DataError
from recon import metrics

# Means of float64 numbers near 1.
CLOSE = 1e-12


def test_deform_l1_is_the_evaluation_written_out() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(-0.01, 1.0, size=(3, 20, 4, 3))
    predicted = rng.uniform(0.0, 1.0, size=truth.shape)
    total = 0.0
    for frame in range(2, 20):
        errors = []
        for clip in range(3):
            for node in range(4):
                x, y, z = truth[clip, frame, node]
                errors += list(np.abs(predicted[clip, frame, node] - [x, y, max(z, 0.002001)]))
        total += sum(errors) / len(errors)
    assert metrics.deform_l1(predicted, truth) == pytest.approx(total / 20, abs=CLOSE)
    each = metrics.deform_l1_each(predicted, truth)
    assert each.mean() == pytest.approx(total / 20, abs=CLOSE)
    assert metrics.deform_l1(predicted[1], truth[1]) == pytest.approx(each[1], abs=CLOSE)


def test_deform_l1_of_a_constant_error_counts_498_of_500_frames() -> None:
    truth = np.full((2, 500, 5, 3), 0.5)
    assert metrics.deform_l1(truth + 0.01, truth) == pytest.approx(0.01 * 498 / 500, abs=CLOSE)
    under = truth.copy()
    under[..., 2] = -1.0
    flat = under.copy()
    flat[..., 2] = 0.002001
    assert metrics.deform_l1(flat, under) == 0.0


def test_deform_l1_refuses_holes_and_other_shapes() -> None:
    truth = np.zeros((1, 5, 2, 3))
    holed = truth.copy()
    holed[0, 3, 1] = np.nan
    with pytest.raises(DataError, match="not finite") as caught:
        metrics.deform_l1(truth, holed)
    assert "truth, recording 0, frame 3, node 1" in caught.value.where
    with pytest.raises(DataError, match="shapes"):
        metrics.deform_l1(truth, truth[:, :4])
    with pytest.raises(DataError, match="2 frames"):
        metrics.deform_l1(truth[:, :2], truth[:, :2])


def test_free_distance_and_horizon_leave_out_driven_and_unseen() -> None:
    truth = np.zeros((1, 6, 3, 3))
    predicted = truth.copy()
    predicted[:, :, 0] = 100.0  # driven
    predicted[:, :, 1] = [3.0, 4.0, 0.0]
    predicted[:, 4, 2] = [0.0, 0.0, 7.0]
    holed = truth.copy()
    holed[:, 5, 1] = np.nan
    # Frames 2 to 5: node 1 is 5 off in three seen frames, node 2 is 7 off in one of four.
    assert metrics.free_dist_mean(predicted, holed, [0]) == pytest.approx(22.0 / 7.0, abs=CLOSE)
    horizon = metrics.error_over_horizon(predicted, holed, [0])
    assert np.allclose(horizon, [2.5, 2.5, 2.5, 2.5, 6.0, 0.0], atol=CLOSE)
    holed[:, 5] = np.nan
    assert np.isnan(metrics.error_over_horizon(predicted, holed, [0])[5])


def test_track_error_counts_visible_samples() -> None:
    truth = np.zeros((2, 2, 3))
    predicted = np.zeros((2, 2, 3))
    predicted[0, 0] = [0.0, 3.0, 4.0]
    predicted[1, 1] = 9.0
    visible = np.array([[True, True], [True, False]])
    assert metrics.track_error(predicted, truth, visible) == pytest.approx(5.0 / 3.0, abs=CLOSE)
    with pytest.raises(DataError, match="no sample"):
        metrics.track_error(predicted, truth, np.zeros((2, 2), bool))


@pytest.mark.parametrize("norm", [1, 2])
def test_chamfer_matches_the_full_distance_matrix(norm: int) -> None:
    rng = np.random.default_rng(3)
    seen, guess = rng.normal(size=(40, 3)), rng.normal(size=(70, 3))
    table = np.linalg.norm(seen[:, None] - guess[None], ord=norm, axis=-1)
    one_way = metrics.chamfer(seen, guess, norm=norm)
    assert one_way == pytest.approx(table.min(1).mean(), abs=CLOSE)
    both = metrics.chamfer_symmetric(seen, guess, norm=norm)
    assert both == pytest.approx(0.5 * (table.min(1).mean() + table.min(0).mean()), abs=CLOSE)
    assert metrics.chamfer(seen, np.concatenate([seen, guess])) == 0.0


def test_emd_is_the_best_of_all_matchings() -> None:
    from itertools import permutations

    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(2, 6, 3))
    best = min(
        np.linalg.norm(first - second[list(order)], axis=1).mean()
        for order in permutations(range(6))
    )
    assert metrics.emd(first, second) == pytest.approx(best, abs=CLOSE)
    assert metrics.emd(first, first[::-1]) == 0.0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.zeros((3, 3)), np.zeros((4, 3))),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (np.zeros((2001, 3)), np.zeros((2001, 3))),
        (np.full((2, 3), np.nan), np.zeros((2, 3))),
    ],
)
def test_emd_refuses_what_it_cannot_match(first, second) -> None:
    with pytest.raises(DataError):
        metrics.emd(first, second)


def test_chamfer_of_frames_is_known_for_a_shifted_grid() -> None:
    grid = 0.1 * np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)
    shift = np.array([0.01, 0.02, 0.02])  # below half a cell: every point keeps its partner
    predicted = np.stack([grid, grid + shift, grid + np.array([0.03, 0, 0]), grid])
    observed = [grid, grid[5:40], grid, np.zeros((0, 3))]
    euclid = metrics.chamfer_frames(observed, predicted)
    assert np.allclose(euclid[:3], [0.0, 0.03, 0.03], atol=CLOSE)
    manhattan = metrics.chamfer_frames(observed, predicted, norm=1)
    # Along an axis both distances are the same.
    assert np.allclose(manhattan[:3], [0.0, 0.05, 0.03], atol=CLOSE)
    assert np.isnan(euclid[3])
    with pytest.raises(DataError, match="3 observed clouds"):
        metrics.chamfer_frames(observed[:3], predicted)


def test_follower_error_is_the_published_evaluation_written_out() -> None:
    rng = np.random.default_rng(6)
    predicted, truth = rng.normal(size=(5, 30, 3)), rng.normal(size=(5, 8, 3))
    visible = rng.random((5, 8)) < 0.7
    visible[0, :5] = True
    visible[3] = False
    holed = np.where(visible[..., None], truth, np.nan)
    slow = []
    for frame in range(5):
        errors = []
        for point in range(8):
            if visible[0, point] and visible[frame, point]:
                follower = np.linalg.norm(predicted[0] - truth[0, point], axis=1).argmin()
                errors.append(np.linalg.norm(predicted[frame, follower] - truth[frame, point]))
        slow.append(np.mean(errors) if errors else np.nan)
    found = metrics.follower_error_frames(predicted, holed, visible)
    assert np.allclose(found, slow, atol=CLOSE, equal_nan=True)
    assert np.isnan(found[3])
    assert np.isnan(metrics.follower_error_frames(predicted, truth, np.zeros((5, 8), bool))).all()
    with pytest.raises(DataError, match="predicted"):
        metrics.follower_error_frames(predicted[:4], truth, visible)


def test_mask_iou_counts_pixels() -> None:
    first, second = np.zeros((2, 6, 10), bool)
    first[1:5, 2:6] = True  # 16
    second[1:5, 4:10] = True  # 24, 8 of them shared
    assert metrics.mask_iou(first, second) == 8 / 32
    ignored = np.zeros((6, 10), bool)
    ignored[:, 6:] = True
    assert metrics.mask_iou(first, second, ignored) == 8 / 16
    assert metrics.mask_iou(np.zeros_like(first), second) == 0.0
    assert np.isnan(metrics.mask_iou(first, np.zeros_like(first)))
    with pytest.raises(DataError, match="masks"):
        metrics.mask_iou(first, second[:5])
