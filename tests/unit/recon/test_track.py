"""3D tracks against the exact motion of ray-cast bodies."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import trimesh
from perception_scene import Body, camera_at, film, lifted_ball, render, truth_error

from physgym.errors import DataError
from recon.perception.flow import FlowTracker, TrackConfig, grid_seeds
from recon.perception.lift import LiftConfig, View, lift_pixels
from recon.perception.plugins import CoTrackerAdapter, PointTracker, Segmenter, load_plugin
from recon.perception.track import (
    PointTracks,
    _agree_m,
    _filtered,
    consistent_motion,
    fuse_tracks,
    track_view,
)
from recon.perception.track_error import carried_by_mesh, track_errors

CAMERA = camera_at([0.45, -0.1, 0.35], [0, 0, 0.07])


@pytest.mark.parametrize("noise", [False, True])
def test_tracks_of_a_ball_that_is_lifted_turned_and_stretched(noise: bool) -> None:
    scene = lifted_ball(16)
    view, owners = film(CAMERA, scene, noise=noise)
    tracks = track_view(view, [owner == 0 for owner in owners])
    error = truth_error(scene, tracks.position, tracks.visible)
    # A pixel is 2 mm here and flow is good to a fraction of one; depth noise adds 0.5 mm.
    assert np.median(error) < 1.2e-3
    assert error.mean() < 2.5e-3
    # The ball turns by 40 degrees, so that a good part of what was seen turns out of view.
    assert tracks.survival > 0.5
    assert tracks.visible[0].sum() > 60


@pytest.mark.parametrize("away_m", [0.8, 2.5])
def test_motions_agree_as_well_as_depth_is_known_at_their_distance(away_m: float) -> None:
    """Noise of a stereo camera's depth: 1.5 mm at 1 m, 9 mm at 2.5 m, of frame and frame."""
    rng = np.random.default_rng(0)
    camera = camera_at([0, -away_m, 0], [0, 0, 0])
    blank = np.zeros((240, 320), np.float32)
    view = View(camera, [np.zeros((240, 320, 3), np.uint8)] * 6, [blank] * 6)
    start = rng.uniform(-0.15, 0.15, (80, 3))
    noise = rng.normal(0.0, 1.5e-3 * away_m**2, (6, 80, 1)) * [0.0, 1.0, 0.0]
    position = start + 0.01 * np.arange(6)[:, None, None] * [1.0, 0.0, 0.0] + noise
    position[3:, 7] += [0.0, 0.0, 0.2]  # one goes astray
    tracks = PointTracks(
        position, np.ones((6, 80), bool), np.zeros(80, np.int64), np.zeros((80, 3), np.uint8)
    )
    config = TrackConfig()
    found = _filtered(tracks, replace(config, agree_m=_agree_m(tracks, view, config)))
    assert not found.visible[3:, 7].any()
    assert found.visible[-1].sum() > 60  # three in four, after five frames
    if away_m > 1.0:  # with the agreement of near things hardly any is left
        assert _filtered(tracks, config).visible[-1].sum() < 40


def test_a_track_ends_where_another_body_covers_it() -> None:
    ball = lifted_ball(1)[0][0]
    frames = []
    for share in np.linspace(0, 1, 10):
        cover = Body(np.eye(3) * 0.02, np.array([0.12, -0.12 + 0.12 * share, 0.11]), shape="box")
        frames.append([ball, cover])
    view, owners = film(CAMERA, frames)
    tracks = track_view(view, [owner == 0 for owner in owners])
    pixel, _ = CAMERA.project(tracks.position[0])
    column, row = np.rint(pixel).astype(int).T
    covered = owners[-1][row, column] == 1
    assert covered.sum() > 5
    assert not tracks.visible[-1][covered].any()
    still = tracks.visible[-1] & ~covered
    moved = np.linalg.norm(tracks.position[-1] - tracks.position[0], axis=1)[still]
    assert still.sum() > 15  # the cover swept over the rest on its way
    assert np.percentile(moved, 90) < 1e-3  # the ball lies still; a pixel is 2 mm


def test_lifting_reads_the_plane_and_refuses_edges_and_holes() -> None:
    _, depth, owner = render(CAMERA, lifted_ball(1)[0])
    on_table = np.array([[40.25, 200.75], [100.0, 220.0]])
    points, cosine = lift_pixels(CAMERA, depth, on_table)
    # Inverse depth is linear on a plane: float32 depth is all that is lost (0.1 um at 0.6 m); the
    # slight pull towards zero slope leaves micrometres.
    np.testing.assert_allclose(points[:, 2], 0.0, atol=5e-5)
    toward = CAMERA.position - points
    truth = toward[:, 2] / np.linalg.norm(toward, axis=1)
    np.testing.assert_allclose(cosine, truth, atol=0.01)
    # Where the ball stands out before the table, a pixel of its rim mixes both.
    rim = cv2.dilate((owner == 0).astype(np.uint8), np.ones((3, 3))) > (owner == 0)
    v, u = np.argwhere(rim & (np.arange(240)[:, None] < np.argwhere(owner == 0)[:, 0].mean())).T
    lifted, _ = lift_pixels(CAMERA, depth, np.stack([u, v], axis=1).astype(float))
    assert np.isnan(lifted).all(axis=1).mean() > 0.8
    depth[150:230, 60:140] = 0.0
    assert np.isnan(lift_pixels(CAMERA, depth, on_table[1:])[0]).all()
    outside = np.array([[-5.0, 10.0], [np.nan, 3.0]])
    assert np.isnan(lift_pixels(CAMERA, depth, outside)[0]).all()


def test_the_motion_filter_finds_the_outlier_in_any_order() -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 0.05, (200, 3)) * [1, 1, 0]
    end = start + np.array([0.0, 0.0, 0.01])
    end[17] += [0.02, 0.0, 0.0]
    visible = np.ones((2, 200), bool)
    visible[1, 3] = False
    good = consistent_motion(np.stack([start, end]), visible)[0]
    assert not good[17]
    assert not good[3]
    assert good.sum() == 198
    order = rng.permutation(200)
    again = consistent_motion(np.stack([start, end])[:, order], visible[:, order])[0]
    assert (again == good[order]).all()


def test_new_points_are_seeded_where_old_ones_are_lost() -> None:
    view, owners = film(CAMERA, lifted_ball(12))
    masks = [owner == 0 for owner in owners]
    plain = track_view(view, masks)
    more = track_view(view, masks, config=TrackConfig(reseed_frames=4))
    assert more.visible[-1].sum() > plain.visible[-1].sum()
    late = ~more.visible[:4].any(axis=0)
    assert late.any()
    assert not plain.visible[0][~plain.visible.any(axis=0)].any()


def test_fusing_keeps_the_longest_track_of_a_voxel() -> None:
    position = np.zeros((3, 2, 3))
    visible = np.array([[True, True], [False, True], [False, True]])
    one = PointTracks(position, visible, np.zeros(2, int), np.zeros((2, 3), np.uint8))
    fused = fuse_tracks([one], voxel_m=0.01)
    assert fused.visible.shape == (3, 1)
    assert fused.visible.all()
    with pytest.raises(DataError, match="no tracks"):
        fuse_tracks([], voxel_m=0.01)


def test_errors_are_measured_on_the_moving_mesh() -> None:
    ball = trimesh.creation.icosphere(3, 0.05)
    moved = np.stack([ball.vertices, ball.vertices * 1.1 + [0, 0, 0.02]])
    points = np.asarray(ball.triangles_center[::7])
    truth = carried_by_mesh(points, moved, ball.faces)
    # A point of the mesh moves as the affine map does, exactly.
    np.testing.assert_allclose(truth[1], points * 1.1 + [0, 0, 0.02], atol=1e-9)
    shifted = truth + np.array([0.0, 0.003])[:, None, None] * [1, 0, 0]
    error = track_errors(shifted, np.ones((2, len(points)), bool), truth)
    assert error.mean_m == pytest.approx(0.003)
    assert error.survival == 1.0


class Shift(torch.nn.Module):
    """A torch model with CoTracker's call: everything moves right by two pixels a frame."""

    def forward(self, video: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert video.shape[2] == 3
        frame = torch.arange(video.shape[1])[None, :, None, None]
        tracks = queries[:, None, :, 1:] + 2.0 * frame * torch.tensor([1.0, 0.0])
        return tracks, torch.ones(tracks.shape[:3])


def test_a_torch_tracker_plugs_in() -> None:
    rgb = [np.zeros((20, 30, 3), np.uint8)] * 3
    masks = [np.ones((20, 30), bool)] * 3
    masks[2] = np.zeros((20, 30), bool)
    found = CoTrackerAdapter(Shift()).track(rgb, masks, np.array([[4.0, 5.0], [27.0, 5.0]]))
    np.testing.assert_allclose(found.pixel[1], [[6, 5], [29, 5]])
    assert found.visible.tolist() == [[True, True], [True, True], [False, False]]
    assert isinstance(CoTrackerAdapter(Shift()), PointTracker)


def test_plugins_are_loaded_by_address_and_checked() -> None:
    tracker = load_plugin("recon.perception.flow:FlowTracker", PointTracker)
    assert isinstance(tracker, FlowTracker)
    with pytest.raises(DataError, match="cannot be loaded"):
        load_plugin("recon.perception.flow:Missing", PointTracker)
    with pytest.raises(DataError, match="returned a FlowTracker"):
        load_plugin("recon.perception.flow:FlowTracker", Segmenter)


def test_views_and_configs_that_do_not_fit_are_refused() -> None:
    image, depth, _ = render(CAMERA, lifted_ball(1)[0])
    with pytest.raises(DataError, match="1 colour and 2 depth"):
        View(CAMERA, [image], [depth, depth])
    with pytest.raises(DataError, match="images of shape"):
        View(CAMERA, [image], [depth[:-1]])
    with pytest.raises(DataError, match="LiftConfig"):
        LiftConfig(window_px=4)
    with pytest.raises(DataError, match="TrackConfig"):
        TrackConfig(grid_px=0)


def test_seeds_stay_inside_thin_masks() -> None:
    mask = np.zeros((60, 60), bool)
    mask[20:23, 5:55] = True  # three pixels wide: no seed could keep two from the border
    seeds = grid_seeds(mask, grid_px=2, border_px=2)
    assert len(seeds) > 10
    assert mask[seeds[:, 1].astype(int), seeds[:, 0].astype(int)].all()
