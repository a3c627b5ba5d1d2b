"""Motion losses against slow references and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from motion_cases import block
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from recon.identify.motion_losses import (
    LocalFrames,
    MotionWeights,
    chamfer_loss,
    relative_scale_loss,
    rotation_loss,
    track_loss,
    velocity_loss,
    weighted_sum,
)

RNG = np.random.default_rng(5)
KNEE = 0.3


def slow_huber(distance: float) -> float:
    return 0.5 * distance**2 / KNEE if distance < KNEE else distance - 0.5 * KNEE


def points(*shape: int) -> np.ndarray:
    return RNG.normal(0.0, 0.4, (*shape, 3))


def test_tracks_and_velocities_against_loops() -> None:
    own, seen = points(5, 7), points(5, 7)
    seen[2, 3] = np.nan
    each = [
        slow_huber(float(np.linalg.norm(own[t, n] - seen[t, n])))
        for t in range(5)
        for n in range(7)
        if np.isfinite(seen[t, n]).all()
    ]
    found = track_loss(torch.as_tensor(own), torch.as_tensor(seen), KNEE)
    assert float(found) == pytest.approx(np.mean(each), rel=1e-9)
    speeds = []
    for t in range(1, 4):
        for n in range(7):
            wanted = (seen[t + 1, n] - seen[t - 1, n]) / 0.2
            if np.isfinite(wanted).all():
                got = (own[t + 1, n] - own[t - 1, n]) / 0.2
                speeds.append(slow_huber(float(np.linalg.norm(got - wanted))))
    found = velocity_loss(torch.as_tensor(own), torch.as_tensor(seen), 0.1, KNEE)
    assert float(found) == pytest.approx(np.mean(speeds), rel=1e-9)


@pytest.mark.parametrize("both_ways", [False, True])
def test_chamfer_against_all_pairs(both_ways: bool) -> None:
    own, clouds = points(3, 9), [points(6), np.zeros((0, 3)), points(4)]
    frames = []
    for now, cloud in zip(own, clouds):
        if len(cloud):
            pairs = np.linalg.norm(now[:, None] - cloud[None], axis=-1)
            value = np.mean([slow_huber(d) for d in pairs.min(axis=0)])
            if both_ways:
                value += np.mean([slow_huber(d) for d in pairs.min(axis=1)])
            frames.append(value)
    found = chamfer_loss(torch.as_tensor(own), clouds, KNEE, both_ways=both_ways)
    assert float(found) == pytest.approx(np.mean(frames), rel=1e-9)


def test_local_frames_are_exact_for_affine_motion() -> None:
    rest, gradient = block(), np.eye(3) + 0.3 * RNG.normal(size=(3, 3))
    moved = rest @ gradient.T + [1.0, 2.0, 3.0]
    local = LocalFrames.of(rest)
    found = local(torch.as_tensor(moved))
    inside = found[local.good].numpy()
    assert len(inside) > 0.5 * len(rest)
    assert np.abs(inside - gradient).max() < 1e-9
    lost = moved.copy()
    lost[62] = np.nan  # the middle: it and all that have it for a neighbour are unknown
    unknown = ~np.isfinite(local(torch.as_tensor(lost)).numpy()).all(axis=(1, 2))
    near = (local.neighbour == 62).any(dim=1).numpy()
    assert (unknown == (near | (np.arange(125) == 62) | ~local.good.numpy())).all()


def test_local_frames_of_a_sheet_are_unknown() -> None:
    flat = block()[block()[:, 2] == 0.0]
    assert not bool(LocalFrames.of(flat).good.any())


def test_relative_scale_ignores_size_rotation_and_order() -> None:
    stretch = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))[None]
    turn = torch.as_tensor(Rotation.from_rotvec([0.3, 1.0, -0.4]).as_matrix())
    same = turn @ torch.diag(torch.tensor([3.0, 6.0, 3.0], dtype=torch.float64))[None]
    assert float(relative_scale_loss(stretch, same)) < 1e-20
    # (2, 1, 1) / sqrt 6 against (1, 1, 1) / sqrt 3 (notes, G14.9).
    other = torch.eye(3, dtype=torch.float64)[None]
    expected = np.sum((np.array([2, 1, 1]) / 6**0.5 - np.ones(3) / 3**0.5) ** 2)
    assert float(relative_scale_loss(stretch, other)) == pytest.approx(expected)


def test_rotation_loss_sees_the_angle_alone() -> None:
    turn = torch.as_tensor(Rotation.from_rotvec([0.0, 0.0, 0.4]).as_matrix())
    stretch = torch.diag(torch.tensor([1.5, 0.8, 1.1], dtype=torch.float64))
    found = rotation_loss((turn @ stretch)[None], stretch[None])
    # |R - I|^2 = 4 (1 - cos angle) in three dimensions.
    assert float(found) == pytest.approx(4.0 * (1.0 - np.cos(0.4)), rel=1e-6)
    unknown = torch.full((1, 3, 3), torch.nan, dtype=torch.float64)
    assert float(rotation_loss((turn @ stretch)[None], unknown)) == 0.0


def _all_terms(x: torch.Tensor) -> torch.Tensor:
    rest = block(3)
    local = LocalFrames.of(rest)
    seen = torch.as_tensor(np.random.default_rng(1).normal(0, 0.01, (4, 27, 3)) + rest)
    cloud = [np.random.default_rng(2).normal(0, 0.05, (5, 3))] * 4
    turned = torch.as_tensor(rest @ Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix().T)
    terms = {
        "tracks": track_loss(x, seen, 0.01),
        "velocity": velocity_loss(x, seen, 0.1, 0.1),
        "chamfer": chamfer_loss(x, cloud, 0.01),
        "scale": relative_scale_loss(local(x), local(seen)),
        "rotation": rotation_loss(local(x), local(turned.expand(4, 27, 3))),
    }
    units = {"tracks": 0.01, "velocity": 0.1, "chamfer": 0.02, "scale": 0.01, "rotation": 0.1}
    return weighted_sum(terms, units, MotionWeights())


def test_gradient_against_central_differences() -> None:
    start = block(3) + np.random.default_rng(0).normal(0, 0.008, (4, 27, 3))
    x = torch.as_tensor(start).requires_grad_()
    _all_terms(x).backward()
    assert x.grad is not None
    for at in [(0, 3, 1), (1, 13, 0), (2, 13, 2), (3, 20, 1)]:
        step = torch.zeros_like(x)
        step[at] = 1e-7
        with torch.no_grad():
            slope = (_all_terms(x + step) - _all_terms(x - step)) / 2e-7
        # Central differences of a smooth function: 1e-7^2 truncation, 1e-16 / 1e-7 round-off.
        assert float(x.grad[at]) == pytest.approx(float(slope), rel=1e-4, abs=1e-6)


def test_weights_are_checked_and_units_leave_terms_out() -> None:
    with pytest.raises(DataError, match="velocity"):
        MotionWeights(velocity=-1.0)
    terms = {"tracks": torch.tensor(2.0), "scale": torch.tensor(9.0)}
    assert float(weighted_sum(terms, {"tracks": 4.0}, MotionWeights())) == 0.5
