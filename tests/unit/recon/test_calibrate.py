"""Boards rendered at known poses are found there; wrong cameras are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from board_cases import (
    BOARD,
    CAMERAS,
    CENTRE,
    moved_boards,
    pose_error,
    render_board,
    unplaced,
)

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts, inverse_T
from recon.capture.board import board_poses, detect_board
from recon.capture.calibrate import (
    T_WORLD_BOARD_FLAT,
    calibrate_cameras,
    verify_cameras,
)
from recon.capture.calibration_file import Calibration, load_calibration, save_calibration
from recon.capture.intrinsics import check_intrinsics
from recon.capture.overlay import draw_overlay
from recon.capture.surface_gap import surface_gap
from recon.capture_commands import Calibrate
from recon.episode import EpisodeWriter


@pytest.fixture(scope="module")
def still_views() -> list[dict[str, np.ndarray]]:
    return [
        {name: render_board(camera, T_WORLD_BOARD_FLAT, 10 * i + j) for j, (name, camera) in pairs}
        for i in range(4)
        for pairs in [list(enumerate(CAMERAS.items()))]
    ]


@pytest.fixture(scope="module")
def moving_views() -> list[dict[str, np.ndarray]]:
    return [
        {name: render_board(camera, T, 100 + 10 * i + j) for j, (name, camera) in pairs}
        for i, T in enumerate(moved_boards(8))
        for pairs in [list(enumerate(CAMERAS.items()))]
    ]


def test_all_corners_are_found_where_they_were_rendered() -> None:
    """0.15 px: the noise put in moves a corner of a 1 px wide edge by a few hundredths."""
    camera = CAMERAS["left"]
    found = detect_board(render_board(camera, T_WORLD_BOARD_FLAT, 0), BOARD)

    assert found is not None
    assert sorted(found.ids) == list(range(12))
    world = BOARD.corners @ T_WORLD_BOARD_FLAT[:3, :3].T
    error = np.linalg.norm(found.pixels - camera.project(world)[0][found.ids], axis=1)
    assert error.max() < 0.15
    assert board_poses(found, BOARD, camera)[0].error_px < 0.15


def test_still_board_recovers_three_cameras(still_views: list[dict[str, np.ndarray]]) -> None:
    """4 mm and 0.4 deg: 0.05 px over a 20 cm board at 0.75 m is some 2 mm along the view."""
    result = calibrate_cameras(still_views, unplaced(CAMERAS), BOARD)

    for name, camera in CAMERAS.items():
        shift_mm, turn_deg = pose_error(result.cameras[name].T_world_cam, camera.T_world_cam)
        assert shift_mm < 4.0
        assert turn_deg < 0.4
        assert result.errors[name]["error_px"] < 0.2
        assert 0 < result.errors[name]["spread_mm"] < 4.0
    assert result.status != "FAIL"


def test_moving_board_recovers_three_cameras(moving_views: list[dict[str, np.ndarray]]) -> None:
    """Cameras relative to each other, as fusing clouds needs them: 2 mm, 0.2 deg."""
    result = calibrate_cameras(moving_views, unplaced(CAMERAS), BOARD, board_moves=True)

    first = "left"
    for name in CAMERAS:
        found = inverse_T(result.cameras[first].T_world_cam) @ result.cameras[name].T_world_cam
        truth = inverse_T(CAMERAS[first].T_world_cam) @ CAMERAS[name].T_world_cam
        shift_mm, turn_deg = pose_error(found, truth)
        assert shift_mm < 2.0
        assert turn_deg < 0.2
    assert result.status == "PASS"


def test_camera_that_never_sees_the_board_fails_its_line(
    still_views: list[dict[str, np.ndarray]],
) -> None:
    """The others are calibrated, the blind one is named."""
    blind = [{**view, "right": np.full_like(view["right"], 110)} for view in still_views[:2]]
    result = calibrate_cameras(blind, unplaced(CAMERAS), BOARD)

    assert set(result.cameras) == {"left", "front"}
    assert [line.where for line in result.lines if line.name == "board seen"] == ["right"]
    assert result.status == "FAIL"


def test_hidden_corners_do_not_bend_the_result(still_views: list[dict[str, np.ndarray]]) -> None:
    """A hand over a third of the board in one camera: still within the tolerance above."""
    covered = [dict(view) for view in still_views]
    for view in covered:
        view["left"] = view["left"].copy()
        view["left"][:190] = 110
    result = calibrate_cameras(covered, unplaced(CAMERAS), BOARD)

    shift_mm, _ = pose_error(result.cameras["left"].T_world_cam, CAMERAS["left"].T_world_cam)
    assert result.errors["left"]["corners"] < result.errors["front"]["corners"]
    assert shift_mm < 8.0  # twice that of the whole board: half the corners, half the lever


def test_board_that_is_not_there_is_an_error_with_advice() -> None:
    """Grey images."""
    views = [{"left": np.full((480, 640, 3), 90, np.uint8)}]
    with pytest.raises(DataError, match="no camera sees the board"):
        calibrate_cameras(views, CAMERAS, BOARD)


def test_right_cameras_pass_and_a_shifted_one_fails(
    moving_views: list[dict[str, np.ndarray]],
) -> None:
    """One camera 10 mm beside its place is some 8 px off at 0.75 m, split over three cameras."""
    assert verify_cameras(moving_views[:3], CAMERAS, BOARD).status == "PASS"

    wrong = CAMERAS["right"].T_world_cam.copy()
    wrong[:3, 3] += [0.010, 0.0, 0.0]
    shifted = {**CAMERAS, "right": replace(CAMERAS["right"], T_world_cam=wrong)}
    result = verify_cameras(moving_views[:3], shifted, BOARD)
    assert result.status == "FAIL"
    assert any(line.name == "reprojection error" for line in result.lines if line.advice)


def _table_and_ball_depth(camera: PinholeCamera) -> np.ndarray:
    """Depth [m] of the table z = 0 with a ball of 8 cm radius on it, by ray casting."""
    rays = camera.pixel_rays() @ camera.T_world_cam[:3, :3].T
    origin = camera.position
    table = np.where(rays[..., 2] < 0, -origin[2] / np.minimum(rays[..., 2], -1e-9), 0.0)
    to_ball = origin - (CENTRE + np.array([0, 0, 0.08]))
    a, b = (rays**2).sum(-1), (rays @ to_ball)
    root = b**2 - a * (to_ball @ to_ball - 0.08**2)
    ball = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    return np.minimum(table, ball).astype(np.float32)


def test_surface_gap_measures_a_lifted_camera() -> None:
    """A camera 10 mm too high sees the table 10 mm too high; 1 mm: the depth grid's slope."""
    a, b = CAMERAS["left"], CAMERAS["front"]
    depths = [_table_and_ball_depth(a), _table_and_ball_depth(b)]
    assert surface_gap(a, depths[0], b, depths[1]).median_mm < 0.5

    lifted = replace(a, T_world_cam=T_from_parts(np.eye(3), [0, 0, 0.01]) @ a.T_world_cam)
    gap = surface_gap(lifted, depths[0], b, depths[1])
    assert gap.signed_mm == pytest.approx(10.0, abs=1.0)
    assert gap.points > 1000


def test_surface_gap_says_when_nothing_overlaps() -> None:
    """Depth all zero: no number is made up."""
    a, b = CAMERAS["left"], CAMERAS["front"]
    gap = surface_gap(a, np.zeros((480, 640), np.float32), b, _table_and_ball_depth(b))
    assert gap.points == 0
    assert np.isnan(gap.median_mm)


def test_depth_gap_fails_a_calibration(still_views: list[dict[str, np.ndarray]]) -> None:
    """A depth scale 5 % off shows in the gap although the board's corners fit."""
    depths = {name: _table_and_ball_depth(camera) for name, camera in CAMERAS.items()}
    good = calibrate_cameras(still_views[:2], CAMERAS, BOARD, depths=[depths])
    assert {line.status for line in good.lines if line.name == "surface gap"} <= {"PASS", "WARN"}

    depths["left"] = depths["left"] * np.float32(1.05)
    bad = calibrate_cameras(still_views[:2], CAMERAS, BOARD, depths=[depths])
    failed = {line.where for line in bad.lines if line.status == "FAIL"}
    assert failed == {"left - right", "left - front"}


def test_intrinsics_check_tells_a_wrong_focal_length(
    moving_views: list[dict[str, np.ndarray]],
) -> None:
    """K of another resolution or a zoomed crop, 6 % off, must fail; the right one must not."""
    images = [view["front"] for view in moving_views]
    right = CAMERAS["front"]
    wrong_K = right.K.copy()
    wrong_K[[0, 1], [0, 1]] *= 1.06

    assert check_intrinsics(images, right, BOARD).status != "FAIL"
    assert check_intrinsics(images, replace(right, K=wrong_K), BOARD).status == "FAIL"
    assert check_intrinsics(images[:3], right, BOARD).value is None


def test_overlay_shows_every_camera(still_views: list[dict[str, np.ndarray]]) -> None:
    """Side by side, drawn over: red crosses where there was grey."""
    result = calibrate_cameras(still_views[:1], unplaced(CAMERAS), BOARD)
    picture = draw_overlay(still_views[0], result, BOARD, board_index=0)

    assert picture.shape == (480, 3 * 640, 3)
    red = (picture[..., 0] > 180) & (picture[..., 1] < 90)
    assert all(red[:, 640 * i : 640 * i + 640].sum() > 50 for i in range(3))


@pytest.mark.parametrize(
    "change", [{"marker_m": 0.06}, {"dictionary": "DICT_3X3"}, {"squares_x": 1}]
)
def test_impossible_boards_are_refused(change: dict[str, object]) -> None:
    """Markers larger than squares, unknown dictionary, a single column."""
    with pytest.raises(DataError):
        replace(BOARD, **change)  # type: ignore[arg-type]


def test_calibrate_command_on_an_episode(
    moving_views: list[dict[str, np.ndarray]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Recorded views in, YAML and picture out; then the same file is verified, and a wrong one."""
    with EpisodeWriter(tmp_path / "episode", list(unplaced(CAMERAS).values())) as writer:
        for i, view in enumerate(moving_views[:5]):
            for name, rgb in view.items():
                writer.write_frame(name, 1.7e9 + i, rgb, _table_and_ball_depth(CAMERAS[name]))

    out = tmp_path / "rig.yaml"
    source = (tmp_path / "episode",)
    assert Calibrate(source, out=out, board_moves=True, json=True).run() == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "PASS"
    found = load_calibration(out)
    assert found.status == "PASS"
    assert pose_error(found.cameras["front"].T_world_cam, CAMERAS["front"].T_world_cam)[0] < 4.0
    assert cv2.imread(str(tmp_path / "rig.png")).shape == (480, 3 * 640, 3)

    wrong = CAMERAS["right"].T_world_cam.copy()
    wrong[:3, 3] += [0.0, 0.02, 0.0]
    cameras = {**CAMERAS, "right": replace(CAMERAS["right"], T_world_cam=wrong)}
    save_calibration(Calibration(cameras), tmp_path / "wrong.yaml")
    checked = Calibrate(source, out=tmp_path / "wrong.yaml", verify=tmp_path / "wrong.yaml")
    assert checked.run() == 1
    assert "FAIL" in capsys.readouterr().out
