"""Scores of episodes made in code: what a perfect, a frozen and a missing prediction must get."""

import json
from pathlib import Path

import numpy as np
import pytest

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts
from recon import score_episode
from recon.perception.driven import GripperTrack
from recon.perception.result import Perception
from recon.score_episode import score_prediction, train_stop_of
from recon.score_file import write_scores
from recon.silhouettes import (
    Drawing,
    fitted_drawing,
    point_spacing,
    silhouette_iou,
    splat_mask,
)
from recon.tracks import PhysGymWarning, Tracks
from recon.true_tracks import true_surface, truth_at

FRAMES, CLOSES = 12, 3
BALL_M = 0.05
# Tracks and predictions are float32 of numbers below 1.
CLOSE = 1e-6


def ball(count: int) -> np.ndarray:
    """Points on a sphere about its centre, evenly (Fibonacci), (N, 3)."""
    z = 1 - 2 * (np.arange(count) + 0.5) / count
    turn = np.pi * (1 + 5**0.5) * np.arange(count)
    ring = np.sqrt(1 - z**2)
    return BALL_M * np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)


def looking_down(width: int = 160) -> PinholeCamera:
    """A camera 0.6 m above the origin, optical axis down."""
    height, focal = width * 3 // 4, 1.25 * width
    K = [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]
    turn = np.diag([1.0, -1.0, -1.0])
    return PinholeCamera("down", "", width, height, np.array(K), T_from_parts(turn, [0, 0, 0.6]))


def disc(camera: PinholeCamera, centre: np.ndarray) -> np.ndarray:
    """The exact silhouette of the ball: rays that pass its centre nearer than its radius."""
    rays = camera.pixel_rays() @ camera.T_world_cam[:3, :3].T
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    to = centre - camera.position
    return np.linalg.norm(to - (rays @ to)[..., None] * rays, axis=2) < BALL_M


def lift() -> np.ndarray:
    """Gripper poses (T, 4, 4): still until it closes, then up and turning."""
    poses = []
    for t in range(FRAMES):
        share = max(t - CLOSES, 0) / (FRAMES - 1 - CLOSES)
        c, s = np.cos(0.8 * share), np.sin(0.8 * share)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        poses.append(T_from_parts(turn, [0.03 * share, 0.01 * share, 0.08 * share]))
    return np.stack(poses)


def moved(points: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Points that move with the gripper from frame 0's pose on, (T, N, 3)."""
    return np.stack([points @ pose[:3, :3].T + pose[:3, 3] for pose in poses])


def perceived(motion: np.ndarray | None = None, **changes: object) -> Perception:
    """A lifted ball: 300 tracked points, then 100 of its unseen surface, then its middle."""
    points = np.concatenate([ball(300), ball(100) * 0.999, np.zeros((1, 3))])
    poses = lift()
    motion = moved(points, poses) if motion is None else motion
    position = np.full((FRAMES, len(points), 3), np.nan)
    position[:, :300] = motion[:, :300]
    camera = looking_down()
    tracks = Tracks(
        time_s=np.arange(FRAMES) / 30,
        position=position,
        visible=np.isfinite(position).all(-1),
        driven_index=np.zeros(0, np.int64),
        name="lifted_ball",
        rest_position=points,
        source_sha256="abc",
    )
    closed = np.arange(FRAMES) >= CLOSES
    parts = {
        "tracks": tracks,
        "tracked_count": 300,
        "surface_count": 400,
        "kind": "volume",
        "clouds": tuple(motion[t, :300].astype(np.float32) for t in range(FRAMES)),
        "grippers": (GripperTrack(poses, closed, (0.06, 0.06, 0.06)),),
        "cameras": (camera,),
        "masks": np.stack([[disc(camera, motion[t, 400]) for t in range(FRAMES)]]),
    }
    return Perception(**{**parts, **changes})


def perfect(perception: Perception) -> np.ndarray:
    return moved(perception.tracks.rest_position, lift()).astype(np.float32)


def test_a_perfect_prediction_has_no_error_and_reaches_the_bound() -> None:
    seen = perceived()
    score = score_prediction(seen, perfect(seen), seen.surface, train_stop=8)
    assert set(score["parts"]) == {"train", "future"}
    bound = score["frame0"]["frozen"]["iou"]
    for part in score["parts"].values():
        for key in ("chamfer_m", "chamfer_l1_m", "track_m"):
            assert part["twin"][key] == pytest.approx(0.0, abs=CLOSE)
            # The gripper carries the ball as it is, so this baseline is perfect here too.
            assert part["rigid"][key] == pytest.approx(0.0, abs=CLOSE)
        assert part["frozen"]["track_m"] > 0.01
        # The disc grows in the image as the ball nears; pixels flip at a rim of some 130 of 1400.
        assert part["twin"]["iou"] == pytest.approx(bound, abs=0.03)
        assert part["twin"]["true_track_m"] is None
    assert bound > 0.95
    assert (score["parts"]["train"]["start"], score["parts"]["train"]["stop"]) == (1, 8)
    assert score["parts"]["future"]["twin"]["frames_of"]["track_m"] == FRAMES - 8


def test_a_frozen_prediction_scores_as_the_frozen_baseline() -> None:
    seen = perceived()
    still = np.repeat(seen.tracks.rest_position[None], FRAMES, axis=0)
    score = score_prediction(seen, still, seen.surface, train_stop=None)
    assert set(score["parts"]) == {"unseen"}
    part = score["parts"]["unseen"]
    assert part["twin"] == part["frozen"]
    assert score["per_frame"]["twin"] == score["per_frame"]["frozen"]
    # Followers stay, so the error of a frame is the mean way of the tracks.
    way = np.linalg.norm(perfect(seen)[:, :300] - still[:, :300], axis=2).mean(axis=1)
    assert np.allclose(score["per_frame"]["twin"]["track_m"], way, atol=CLOSE)
    assert part["twin"]["track_m"] == pytest.approx(way[1:].mean(), abs=CLOSE)


def test_baselines_are_as_fine_as_what_was_seen() -> None:
    coarse = perceived()
    fine = moved(ball(3000), lift()).astype(np.float32)
    seen = perceived(clouds=tuple(fine))
    sparse = np.repeat(seen.tracks.rest_position[None], FRAMES, axis=0)
    score = score_prediction(seen, sparse, seen.surface, train_stop=None)
    # The baseline knows the cloud of frame 0 to 1 mm; 400 points are 9 mm apart.
    assert score["frame0"]["frozen"]["chamfer_m"] < 0.001
    assert score["frame0"]["twin"]["chamfer_m"] > 0.002
    plain = score_prediction(coarse, sparse, seen.surface, train_stop=None)
    rigid = score["per_frame"]["rigid"]["chamfer_m"]
    assert max(rigid) < 0.001
    assert plain["frame0"]["frozen"] == plain["frame0"]["twin"]


def test_a_shift_is_measured_as_itself_and_clouds_see_the_surface_only() -> None:
    seen = perceived()
    off = np.array([0.001, 0.002, 0.0])  # far less than the spacing, so the nearest stays the same
    shifted = perfect(seen) + np.linspace(0, 1, FRAMES)[:, None, None] * off
    none = np.zeros(401, bool)
    none[:300] = True
    score = score_prediction(seen, shifted.astype(np.float32), none, train_stop=None)
    rows = score["per_frame"]["twin"]
    share = np.linspace(0, 1, FRAMES)
    assert np.allclose(rows["chamfer_m"], share * np.hypot(0.001, 0.002), atol=CLOSE)
    assert np.allclose(rows["chamfer_l1_m"], share * 0.003, atol=CLOSE)
    assert np.allclose(rows["track_m"], share * np.hypot(0.001, 0.002), atol=CLOSE)
    # With the middle alone as surface every observed point is a radius away.
    middle = np.arange(401) == 400
    unmasked = perceived(masks=None)
    score = score_prediction(unmasked, perfect(seen), middle, train_stop=None)
    # The tracked points lie on the sphere to float32.
    assert score["parts"]["unseen"]["twin"]["chamfer_m"] == pytest.approx(BALL_M, abs=CLOSE)


def test_frames_without_observation_are_left_out_and_counted() -> None:
    whole = perceived()
    clouds = list(whole.clouds)
    clouds[5] = np.zeros((0, 3), np.float32)
    position, visible = whole.tracks.position.copy(), whole.tracks.visible.copy()
    visible[6] = False
    position[6] = np.nan
    masks = whole.masks.copy()
    masks[0, 7] = False
    tracks = Tracks(
        time_s=whole.time_s,
        position=position,
        visible=visible,
        driven_index=[],
        name="holed",
        rest_position=whole.tracks.rest_position,
    )
    seen = perceived(tracks=tracks, clouds=tuple(clouds), masks=masks)
    score = score_prediction(seen, perfect(seen), seen.surface, train_stop=None)
    part = score["parts"]["unseen"]["twin"]
    for key in ("chamfer_m", "chamfer_l1_m", "track_m", "iou"):
        assert part["frames_of"][key] == FRAMES - 2, key
    # Every track is seen in all but one of the eleven frames.
    assert score["parts"]["unseen"]["tracks_seen"] == pytest.approx(10 / 11, abs=1e-12)
    rows = score["per_frame"]["frozen"]
    assert rows["chamfer_m"][5] is None
    assert rows["track_m"][6] is None
    assert rows["iou"][7] is None
    # The mean is over the frames that are there: not a frame of zeros among them.
    left = [value for value in rows["track_m"][1:] if value is not None]
    frozen = score["parts"]["unseen"]["frozen"]["track_m"]
    assert frozen == pytest.approx(np.mean(left), abs=CLOSE)


def test_without_clouds_masks_and_cameras_there_are_nulls_not_zeros() -> None:
    seen = perceived(clouds=(), masks=None, cameras=())
    score = score_prediction(seen, perfect(seen), seen.surface, train_stop=FRAMES)
    assert set(score["parts"]) == {"train"}
    part = score["parts"]["train"]["twin"]
    assert part["chamfer_m"] is part["iou"] is score["frame0"]["twin"]["iou"] is None
    assert part["track_m"] == pytest.approx(0.0, abs=CLOSE)
    json.dumps(score, allow_nan=False)


def test_the_truth_is_scored_beside_what_was_perceived() -> None:
    seen = perceived()
    outside = ball(150)
    body = np.concatenate([outside, 0.5 * outside])  # points inside are none of the surface
    fine = np.stack([moved(body, lift()[t : t + 1])[0] for t in range(FRAMES)])
    truth = Tracks(
        time_s=seen.time_s,
        position=fine,
        visible=np.ones(fine.shape[:2], bool),
        driven_index=[],
        name="truth",
    )
    guess = moved(outside, lift())
    guess[1:] += [0.0, 0.0, 0.001]
    surface = np.ones(150, bool)
    score = score_prediction(seen, guess, surface, train_stop=None, ground_truth=truth)
    part = score["parts"]["unseen"]["twin"]
    for key in ("true_chamfer_m", "true_chamfer_l1_m", "true_track_m"):
        assert part[key] == pytest.approx(0.001, abs=CLOSE), key
    assert true_surface(truth, seen).node_count == 150
    # The perceived points are others: each is followed from a little aside.
    assert part["chamfer_m"] > 0.001
    assert score["frame0"]["twin"]["track_m"] > 0.0005


def test_true_tracks_are_taken_at_the_frames_of_the_cameras() -> None:
    time_s = np.linspace(0, 1, 11)
    way = np.array([1.0, -2.0, 0.5])
    position = np.stack([np.outer(time_s, way), np.ones((11, 3))], axis=1)
    visible = np.ones((11, 2), bool)
    visible[4, 1] = False
    truth = Tracks(time_s, np.where(visible[..., None], position, np.nan), visible, [], "truth")
    wanted = np.array([0.0, 0.25, 0.3, 0.35, 0.5, 1.04, 1.2])
    found = truth_at(truth, wanted)
    # A straight way is interpolated exactly; beyond the end the last place holds for half a frame.
    expected = np.outer(np.minimum(wanted, 1.0), way)
    assert np.allclose(found.position[:6, 0], expected[:6], atol=CLOSE)
    assert found.visible[:, 0].tolist() == [True] * 6 + [False]
    assert found.visible[:, 1].tolist() == [True, True, True, False, True, True, False]
    assert truth_at(truth, time_s) is truth


def test_drawn_points_of_a_ball_fill_its_disc() -> None:
    camera, centre = looking_down(320), np.array([0.02, -0.03, 0.1])
    points = ball(2000) + centre
    spacing = point_spacing(points)
    # 2000 points on the sphere: the area of a square cell is 4 pi r^2 / N.
    cell = np.sqrt(4 * np.pi * BALL_M**2 / 2000)
    assert spacing == pytest.approx(cell, rel=0.15)  # neighbours of a spiral are not quite a grid
    exact = disc(camera, centre)
    plain = Drawing(0.71 * spacing, 0.71 * spacing)
    closed = Drawing(0.71 * spacing, 0.0)
    # Discs reach 0.71 spacings (3 mm) over a rim of 50 mm, 12 % of the area; taken back, the
    # outline passes through the outermost points, less than a tenth of a spacing inside the rim.
    assert 0.86 < overlap(splat_mask(camera, points, plain), exact) < 0.93
    assert overlap(splat_mask(camera, points, closed), exact) > 0.97
    masks = exact[None, None]
    fitted = fitted_drawing([camera], points, masks[:, 0])
    assert fitted.margin_m < 0.3 * fitted.radius_m
    best = silhouette_iou([camera], points[None], masks, drawing=fitted)[0, 0]
    assert best > 0.97
    # Points of the middle of the ball alone need a margin, and frame 0 tells which.
    inner = 0.9 * ball(2000) + centre
    fitted = fitted_drawing([camera], inner, masks[:, 0])
    assert fitted.margin_m == pytest.approx(0.1 * BALL_M, abs=0.0015)  # steps of some 2 mm
    best = silhouette_iou([camera], inner[None], masks, drawing=fitted)[0, 0]
    assert best > 0.95


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_one_point_draws_the_pixels_within_its_radius() -> None:
    camera = looking_down(160)
    point, radius_m = np.array([[0.0131, -0.0072, 0.1]]), 0.011
    (u, v), reach = camera.project(point)[0][0], 200.0 * radius_m / 0.5
    grid_u, grid_v = np.meshgrid(np.arange(160), np.arange(120))
    slow = (grid_u - u) ** 2 + (grid_v - v) ** 2 <= reach**2
    assert slow.sum() > 40
    disc_only = Drawing(radius_m, radius_m)
    assert np.array_equal(splat_mask(camera, point, disc_only), slow)
    behind = np.array([[0.0, 0.0, 1.0], [9.0, 0.0, 0.1]])  # behind the camera; beside the image
    assert not splat_mask(camera, behind, disc_only).any()
    rim = splat_mask(camera, np.array([[-0.2, 0.15, 0.1]]), disc_only)
    assert rim[0, 0]
    assert not rim[:, 20:].any()
    with pytest.raises(DataError, match="margin"):
        Drawing(0.01, 0.02)


def test_a_closed_grid_has_no_holes_and_ends_at_its_points() -> None:
    camera = looking_down(320)
    side = np.linspace(-0.06, 0.06, 13)
    grid = np.stack([*np.meshgrid(side, side), np.zeros((13, 13))], axis=-1).reshape(-1, 3)
    assert point_spacing(grid) == pytest.approx(0.01, rel=1e-9)
    drawn = splat_mask(camera, grid, Drawing(0.0085, 0.0))
    v, u = np.nonzero(drawn)
    corner, _ = camera.project(np.array([[-0.06, 0.06, 0.0], [0.06, -0.06, 0.0]]))
    # Between two points the rim of 8.5 mm discs dips by 1.6 mm, which is 1 px here.
    assert np.abs([u.min(), v.min()] - corner[0]).max() < 2.0
    assert np.abs([u.max(), v.max()] - corner[1]).max() < 2.0
    low, high = np.ceil(corner[0] + 3).astype(int), np.floor(corner[1] - 3).astype(int)
    assert drawn[low[1] : high[1], low[0] : high[0]].all()


def test_ignored_pixels_do_not_count() -> None:
    seen = perceived()
    hidden = np.zeros_like(seen.masks)
    hidden[:, :, :, :80] = True
    masks = seen.masks & ~hidden
    holed = perceived(masks=masks)
    blind = score_prediction(holed, perfect(seen), seen.surface, train_stop=None)
    told = score_prediction(holed, perfect(seen), seen.surface, train_stop=None, ignored=hidden)
    # Half of the ball is hidden: without knowing it the drawn half counts as wrong.
    assert blind["parts"]["unseen"]["twin"]["iou"] < 0.75
    assert told["parts"]["unseen"]["twin"]["iou"] > 0.9


def test_the_train_part_ends_where_the_twin_says() -> None:
    seen = perceived()
    train = {"episode": "other name", "source_sha256": "abc", "train_stop_frame": 8, "frames": 12}
    assert train_stop_of({"train": train}, seen) == 8
    assert train_stop_of({"train": {**train, "source_sha256": "abd"}}, seen) is None
    unhashed = {**train, "source_sha256": "", "episode": "lifted_ball"}
    assert train_stop_of({"train": unhashed}, seen) == 8
    assert train_stop_of({}, seen) is None
    with pytest.warns(PhysGymWarning, match="train part ends at frame 9"):
        assert train_stop_of({"train": {**train, "frames": 11}}, seen) == 9


def test_scores_survive_json_and_folders_are_refused(tmp_path: Path) -> None:
    seen = perceived()
    score = score_prediction(seen, perfect(seen), seen.surface, train_stop=8)
    path = write_scores(tmp_path / "new" / "score.json", [score], twin="ball", about={"seed": 0})
    read = json.loads(path.read_text())
    assert read["episodes"] == [score]
    assert (read["twin"], read["about"]) == ("ball", {"seed": 0})
    assert set(score_episode.PHYSTWIN_PAPER) == {"train", "future", "unseen"}
    with pytest.raises(DataError, match="a folder"):
        write_scores(tmp_path, [score], twin="ball")


def test_what_does_not_fit_is_refused() -> None:
    seen = perceived()
    guess = perfect(seen)
    with pytest.raises(DataError, match="points"):
        score_prediction(seen, guess[:-1], seen.surface, train_stop=None)
    with pytest.raises(DataError, match="not finite"):
        score_prediction(seen, np.where(guess > 9, guess, np.nan), seen.surface, train_stop=None)
    with pytest.raises(DataError, match="train_stop"):
        score_prediction(seen, guess, seen.surface, train_stop=FRAMES + 1)
