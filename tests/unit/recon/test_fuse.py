"""Clouds of several cameras as one."""

from __future__ import annotations

import numpy as np
import pytest
from perception_scene import camera_at, film, lifted_ball

from physgym.errors import DataError
from recon.perception.fuse import (
    Cloud,
    FuseConfig,
    fuse_clouds,
    fuse_frame,
    radius_inliers,
    statistical_inliers,
    surface_gap_m,
    voxel_downsample,
)

CAMERAS = [
    camera_at(place, [0, 0, 0.05], name=f"camera{k}")
    for k, place in enumerate(([0.45, -0.1, 0.4], [-0.3, 0.4, 0.4], [-0.2, -0.45, 0.35]))
]


def test_three_noisy_cameras_see_one_ball() -> None:
    films = [film(camera, lifted_ball(1), noise=True) for camera in CAMERAS]
    views, masks = [view for view, _ in films], [owner[0] == 0 for _, owner in films]
    cloud = fuse_frame(views, masks, 0)
    off = np.abs(np.linalg.norm(cloud.points - [0, 0, 0.05], axis=1) - 0.05)
    # Noise is 1.5 mm z^2 with z up to 0.6 m, plus steps of 1 mm.
    assert off.mean() < 6e-4
    assert off.max() < 3e-3
    assert set(cloud.camera_index) == {0, 1, 2}
    # All round the ball, and from the top to well below its equator.
    assert np.ptp(np.arctan2(cloud.points[:, 1], cloud.points[:, 0])) > 5.5
    assert cloud.points[:, 2].min() < 0.04


def test_the_gap_between_cameras_shows_a_wrong_calibration() -> None:
    dense = FuseConfig(voxel_m=0.001)
    beside = camera_at([0.35, 0.3, 0.4], [0, 0, 0.05], name="beside")
    films = [film(camera, lifted_ball(1)) for camera in (CAMERAS[0], beside)]
    views, masks = [view for view, _ in films], [owner[0] == 0 for _, owner in films]
    good = fuse_frame(views, masks, 0, config=dense)
    moved = Cloud(
        good.points + 0.02 * (good.camera_index == 1)[:, None] * [0, 0, 1.0],
        good.rgb,
        good.camera_index,
    )
    assert surface_gap_m(good) < 2.5e-3  # pixels are 2 mm apart
    assert surface_gap_m(moved) > 2 * surface_gap_m(good)
    assert np.isnan(surface_gap_m(good.select(good.camera_index == 0)))


def test_strays_are_removed() -> None:
    rng = np.random.default_rng(0)
    patch = rng.uniform(0, 0.1, (2000, 3)) * [1, 1, 0]
    strays = rng.uniform(0.2, 1.0, (20, 3))
    points = np.concatenate([patch, strays])
    assert (radius_inliers(points, radius_m=0.01, neighbours=10) == (np.arange(2020) < 2000)).all()
    kept = statistical_inliers(points)
    assert not kept[2000:].any()
    assert kept[:2000].mean() > 0.99
    colours, index = np.zeros((2020, 3), np.uint8), np.zeros(2020, int)
    fused = fuse_clouds([Cloud(points, colours, index)])
    assert fused.points[:, 2].max() == 0.0


def test_one_point_is_kept_per_voxel_and_the_first_wins() -> None:
    points = np.array([[0.0, 0, 0], [0.001, 0, 0], [0.006, 0, 0], [0.0, 0.011, 0]])
    assert voxel_downsample(points, 0.005).tolist() == [0, 2, 3]
    assert voxel_downsample(points[:0], 0.005).tolist() == []


def test_empty_clouds_stay_empty_and_none_is_refused() -> None:
    empty = Cloud(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0, int))
    assert len(fuse_clouds([empty, empty])) == 0
    with pytest.raises(DataError, match="no clouds"):
        fuse_clouds([])
    with pytest.raises(DataError, match="FuseConfig"):
        FuseConfig(voxel_m=0.0)
