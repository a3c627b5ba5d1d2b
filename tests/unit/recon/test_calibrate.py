"""Boards rendered at known poses are found there; wrong cameras are refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts, inverse_T
from recon.capture.board import Board, board_poses, detect_board
from recon.capture.calibrate import (
    T_WORLD_BOARD_FLAT,
    calibrate_cameras,
    calibrate_on_gripper,
    verify_cameras,
)
from recon.capture.calibration_file import Calibration, load_calibration, save_calibration
from recon.capture.hand_eye import solve_hand_eye
from recon.capture.intrinsics import check_intrinsics
from recon.capture.overlay import draw_overlay
from recon.capture.surface_gap import surface_gap
from recon.capture_commands import Calibrate
from recon.episode import EpisodeWriter

BOARD = Board()
PIXELS_PER_SQUARE = 80
CENTRE = np.array([0.10, -0.125, 0.0])  # of the board, face up on the table
NOISE = 4.0  # grey levels: a RealSense colour image indoors


def _camera(name: str, eye: tuple[float, float, float], focal_px: float = 600.0) -> PinholeCamera:
    """A 640x480 camera that looks at the board's centre."""
    forward = CENTRE - np.array(eye)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(forward, right), forward], axis=1)
    K = np.array([[focal_px, 0, 322.0], [0, focal_px, 237.0], [0, 0, 1]])
    return PinholeCamera(name, f"sn-{name}", 640, 480, K, T_from_parts(turn, np.array(eye)))


CAMERAS = {
    camera.name: camera
    for camera in (
        _camera("left", (0.5, 0.25, 0.55)),
        _camera("right", (-0.35, 0.2, 0.6)),
        _camera("front", (0.1, -0.6, 0.5)),
    )
}


def _render(camera: PinholeCamera, T_world_board: np.ndarray, seed: int) -> np.ndarray:
    """The board as this camera sees it: exact homography of a plane, blur, noise."""
    texture = cv2.GaussianBlur(BOARD.image(PIXELS_PER_SQUARE), (0, 0), 1.0)
    texture = np.pad(texture, PIXELS_PER_SQUARE, constant_values=255)  # a white margin
    # texture pixel (i, j), at its centre, is at ((i + 0.5) / p - 1) squares
    to_metres = np.array([[1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, PIXELS_PER_SQUARE]])
    to_metres *= BOARD.square_m / PIXELS_PER_SQUARE
    to_metres[2] /= BOARD.square_m
    shift = np.array([[1, 0, -BOARD.square_m], [0, 1, -BOARD.square_m], [0, 0, 1]])
    T_cam_board = inverse_T(camera.T_world_cam) @ T_world_board
    plane = camera.K @ T_cam_board[:3, [0, 1, 3]] @ shift @ to_metres
    image = cv2.warpPerspective(
        texture, plane, (camera.width, camera.height), flags=cv2.INTER_AREA, borderValue=110
    )
    noise = np.random.default_rng(seed).normal(0, NOISE, image.shape)
    grey = np.clip(image + noise, 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _moved_boards(count: int) -> list[np.ndarray]:
    """The board flat, then held at other places and tilts in sight of the cameras."""
    rng = np.random.default_rng(5)
    middle = T_from_parts(np.eye(3), [0.1, 0.125, 0.0])  # of the board, in the board's frame
    poses = [T_WORLD_BOARD_FLAT]
    for _ in range(count - 1):
        turn = Rotation.from_rotvec(rng.uniform(-0.35, 0.35, 3)).as_matrix()
        step = T_from_parts(turn, rng.uniform([-0.06, -0.06, 0.0], [0.06, 0.06, 0.12]))
        poses.append(
            T_from_parts(np.eye(3), CENTRE)
            @ step
            @ T_from_parts(T_WORLD_BOARD_FLAT[:3, :3], np.zeros(3))
            @ inverse_T(middle)
        )
    return poses


def _off(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Distance [mm] and angle [deg] between two poses."""
    step = inverse_T(truth) @ found
    angle = Rotation.from_matrix(step[:3, :3]).magnitude()
    return float(np.linalg.norm(step[:3, 3]) * 1e3), float(np.rad2deg(angle))


@pytest.fixture(scope="module")
def still_views() -> list[dict[str, np.ndarray]]:
    return [
        {name: _render(camera, T_WORLD_BOARD_FLAT, 10 * i + j) for j, (name, camera) in pairs}
        for i in range(4)
        for pairs in [list(enumerate(CAMERAS.items()))]
    ]


@pytest.fixture(scope="module")
def moving_views() -> list[dict[str, np.ndarray]]:
    return [
        {name: _render(camera, T, 100 + 10 * i + j) for j, (name, camera) in pairs}
        for i, T in enumerate(_moved_boards(8))
        for pairs in [list(enumerate(CAMERAS.items()))]
    ]


def _forget(cameras: dict[str, PinholeCamera]) -> dict[str, PinholeCamera]:
    return {name: replace(camera, T_world_cam=np.eye(4)) for name, camera in cameras.items()}


def test_all_corners_are_found_where_they_were_rendered() -> None:
    """0.15 px: the noise put in moves a corner of a 1 px wide edge by a few hundredths."""
    camera = CAMERAS["left"]
    found = detect_board(_render(camera, T_WORLD_BOARD_FLAT, 0), BOARD)

    assert found is not None
    assert sorted(found.ids) == list(range(12))
    world = BOARD.corners @ T_WORLD_BOARD_FLAT[:3, :3].T
    error = np.linalg.norm(found.pixels - camera.project(world)[0][found.ids], axis=1)
    assert error.max() < 0.15
    assert board_poses(found, BOARD, camera)[0].error_px < 0.15


def test_still_board_recovers_three_cameras(still_views: list[dict[str, np.ndarray]]) -> None:
    """4 mm and 0.4 deg: 0.05 px over a 20 cm board at 0.75 m is some 2 mm along the view."""
    result = calibrate_cameras(still_views, _forget(CAMERAS), BOARD)

    for name, camera in CAMERAS.items():
        shift_mm, turn_deg = _off(result.cameras[name].T_world_cam, camera.T_world_cam)
        assert shift_mm < 4.0
        assert turn_deg < 0.4
        assert result.errors[name]["error_px"] < 0.2
        assert 0 < result.errors[name]["spread_mm"] < 4.0
    assert result.status != "FAIL"


def test_moving_board_recovers_three_cameras(moving_views: list[dict[str, np.ndarray]]) -> None:
    """Cameras relative to each other, as fusing clouds needs them: 2 mm, 0.2 deg."""
    result = calibrate_cameras(moving_views, _forget(CAMERAS), BOARD, board_moves=True)

    first = "left"
    for name in CAMERAS:
        found = inverse_T(result.cameras[first].T_world_cam) @ result.cameras[name].T_world_cam
        truth = inverse_T(CAMERAS[first].T_world_cam) @ CAMERAS[name].T_world_cam
        shift_mm, turn_deg = _off(found, truth)
        assert shift_mm < 2.0
        assert turn_deg < 0.2
    assert result.status == "PASS"


def test_camera_that_never_sees_the_board_fails_its_line(
    still_views: list[dict[str, np.ndarray]],
) -> None:
    """The others are calibrated, the blind one is named."""
    blind = [{**view, "right": np.full_like(view["right"], 110)} for view in still_views[:2]]
    result = calibrate_cameras(blind, _forget(CAMERAS), BOARD)

    assert set(result.cameras) == {"left", "front"}
    assert [line.where for line in result.lines if line.name == "board seen"] == ["right"]
    assert result.status == "FAIL"


def test_hidden_corners_do_not_bend_the_result(still_views: list[dict[str, np.ndarray]]) -> None:
    """A hand over a third of the board in one camera: still within the tolerance above."""
    covered = [dict(view) for view in still_views]
    for view in covered:
        view["left"] = view["left"].copy()
        view["left"][:190] = 110
    result = calibrate_cameras(covered, _forget(CAMERAS), BOARD)

    shift_mm, _ = _off(result.cameras["left"].T_world_cam, CAMERAS["left"].T_world_cam)
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
    result = calibrate_cameras(still_views[:1], _forget(CAMERAS), BOARD)
    picture = draw_overlay(still_views[0], result, BOARD, board_index=0)

    assert picture.shape == (480, 3 * 640, 3)
    red = (picture[..., 0] > 180) & (picture[..., 1] < 90)
    assert all(red[:, 640 * i : 640 * i + 640].sum() > 50 for i in range(3))


def _robot_poses(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turns = Rotation.from_rotvec(rng.uniform(-0.6, 0.6, (count, 3))).as_matrix()
    return T_from_parts(turns, rng.uniform(-0.15, 0.15, (count, 3)) + np.array([0.4, 0.0, 0.4]))


def _noisy(T: np.ndarray, rng: np.random.Generator, shift_m: float, turn_rad: float) -> np.ndarray:
    turns = Rotation.from_rotvec(rng.normal(0, turn_rad, (len(T), 3))).as_matrix()
    return T @ T_from_parts(turns, rng.normal(0, shift_m, (len(T), 3)))


@pytest.mark.parametrize("eye_in_hand", [True, False])
def test_hand_eye_recovers_the_camera(eye_in_hand: bool) -> None:
    """20 poses, 0.5 mm and 0.1 deg of noise: the mean of 20 is within 1.5 mm and 0.15 deg."""
    rng = np.random.default_rng(2)
    A = _robot_poses(20, seed=1)
    X = T_from_parts(Rotation.from_rotvec([0.4, -2.0, 0.9]).as_matrix(), [0.05, -0.03, 0.08])
    Z = T_from_parts(Rotation.from_rotvec([3.0, 0.1, -0.2]).as_matrix(), [0.5, 0.1, 0.02])
    moving = A if eye_in_hand else inverse_T(A)
    B = _noisy(inverse_T(X) @ inverse_T(moving) @ Z, rng, 5e-4, np.deg2rad(0.1))

    found = solve_hand_eye(list(A), list(B), eye_in_hand=eye_in_hand)
    shift_mm, turn_deg = _off(found.T_mount_cam, X)
    assert shift_mm < 1.5
    assert turn_deg < 0.15
    assert _off(found.T_other_board, Z)[0] < 1.5
    assert found.spread_mm < 1.0
    assert found.dropped == ()


def test_hand_eye_drops_a_pose_that_contradicts() -> None:
    """One robot pose written down wrong by 5 cm is named, and does not bend the result."""
    A = _robot_poses(15, seed=3)
    X = T_from_parts(Rotation.from_rotvec([0.1, 0.2, -1.5]).as_matrix(), [0.02, 0.04, 0.1])
    B = inverse_T(X) @ inverse_T(A) @ T_from_parts(np.eye(3), [0.4, 0.0, 0.0])
    A[6, :3, 3] += [0.05, 0.0, 0.0]

    found = solve_hand_eye(list(A), list(B), eye_in_hand=True)
    assert found.dropped == (6,)
    assert found.residual_mm[6] > 30.0
    assert _off(found.T_mount_cam, X)[0] < 0.01  # the other 14 are exact


def test_hand_eye_refuses_turns_about_one_axis() -> None:
    """The camera's height over such an axis cannot be known."""
    turns = Rotation.from_rotvec([[0, 0, angle] for angle in np.linspace(0, 1.5, 8)]).as_matrix()
    A = T_from_parts(turns, np.random.default_rng(0).uniform(-0.1, 0.1, (8, 3)))
    with pytest.raises(DataError, match="one axis"):
        solve_hand_eye(list(A), list(inverse_T(A)), eye_in_hand=True)


@pytest.mark.parametrize(
    "change", [{"marker_m": 0.06}, {"dictionary": "DICT_3X3"}, {"squares_x": 1}]
)
def test_impossible_boards_are_refused(change: dict[str, object]) -> None:
    """Markers larger than squares, unknown dictionary, a single column."""
    with pytest.raises(DataError):
        replace(BOARD, **change)  # type: ignore[arg-type]


def test_file_round_trip_is_readable_and_exact(tmp_path: Path) -> None:
    """1e-9: the file keeps ten digits after the point."""
    errors = {"left": {"error_px": 0.0512345, "spread_mm": float("inf")}}
    saved = Calibration(CAMERAS, errors, world="robot base", status="WARN")
    save_calibration(saved, tmp_path / "calibration.yaml")

    loaded = load_calibration(tmp_path / "calibration.yaml")
    for name, camera in CAMERAS.items():
        assert np.allclose(loaded.cameras[name].T_world_cam, camera.T_world_cam, atol=1e-9)
        assert np.allclose(loaded.cameras[name].K, camera.K, atol=1e-9)
        assert loaded.cameras[name].serial == camera.serial
    assert loaded.errors["left"] == {"error_px": 0.05123, "spread_mm": float("inf")}
    assert (loaded.world, loaded.status) == ("robot base", "WARN")
    text = (tmp_path / "calibration.yaml").read_text()
    assert "- [0.0, 0.0, 0.0, 1.0]" in text  # a matrix row on one line


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version: 1", "version: 7", "version 7"),
        ("kind: physgym-calibration", "kind: rig", "no calibration"),
        ("status: UNCHECKED", "status: FINE", "FINE"),
        ("world:", "wrld:", "wrld"),
        ("- [0.0, 0.0, 0.0, 1.0]", "- [0.0, 0.0, 0.5, 1.0]", "T_world_cam"),
        ("width: 640", "width: wide", "left"),
        ("cameras:", "cameras: [", "cannot be read"),
    ],
)
def test_damaged_files_are_refused_by_field(tmp_path: Path, old: str, new: str, says: str) -> None:
    """The error says which field."""
    path = tmp_path / "calibration.yaml"
    save_calibration(Calibration({"left": CAMERAS["left"]}), path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=re.escape(says)):
        load_calibration(path)


def test_calibration_finds_running_cameras_by_serial() -> None:
    """Names may change between calibrating and recording; serial numbers do not."""
    calibration = Calibration(CAMERAS)
    running = replace(CAMERAS["front"], name="cam0", T_world_cam=np.eye(4))

    placed = calibration.applied_to({"cam0": running})
    assert np.array_equal(placed["cam0"].T_world_cam, CAMERAS["front"].T_world_cam)
    with pytest.raises(DataError, match="not calibrated"):
        calibration.applied_to({"front": replace(running, name="front", serial="other")})


def test_board_on_the_gripper_puts_cameras_into_the_robot_base() -> None:
    """Rendered views of a board that a robot carries; 5 mm: 0.05 px of a board 0.75 m away."""
    poses = _moved_boards(14)[1:]
    T_gripper_board = T_from_parts(
        Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix(), [0, 0.02, 0.1]
    )
    T_base_gripper = [T @ inverse_T(T_gripper_board) for T in poses]
    cameras = {name: CAMERAS[name] for name in ("left", "front")}
    views = [
        {name: _render(camera, T, 7 * i) for name, camera in cameras.items()}
        for i, T in enumerate(poses)
    ]

    result = calibrate_on_gripper(views, T_base_gripper, _forget(cameras), BOARD)
    for name, camera in cameras.items():
        shift_mm, turn_deg = _off(result.cameras[name].T_world_cam, camera.T_world_cam)
        assert shift_mm < 5.0
        assert turn_deg < 0.5
        assert result.errors[name]["hand_eye_mm"] < 3.0


def test_calibrate_command_on_an_episode(
    moving_views: list[dict[str, np.ndarray]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Recorded views in, YAML and picture out; then the same file is verified, and a wrong one."""
    with EpisodeWriter(tmp_path / "episode", list(_forget(CAMERAS).values())) as writer:
        for i, view in enumerate(moving_views[:5]):
            for name, rgb in view.items():
                writer.write_frame(name, 1.7e9 + i, rgb, _table_and_ball_depth(CAMERAS[name]))

    out = tmp_path / "rig.yaml"
    source = (tmp_path / "episode",)
    assert Calibrate(source, out=out, board_moves=True, json=True).run() == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "PASS"
    found = load_calibration(out)
    assert found.status == "PASS"
    assert _off(found.cameras["front"].T_world_cam, CAMERAS["front"].T_world_cam)[0] < 4.0
    assert cv2.imread(str(tmp_path / "rig.png")).shape == (480, 3 * 640, 3)

    wrong = CAMERAS["right"].T_world_cam.copy()
    wrong[:3, 3] += [0.0, 0.02, 0.0]
    cameras = {**CAMERAS, "right": replace(CAMERAS["right"], T_world_cam=wrong)}
    save_calibration(Calibration(cameras), tmp_path / "wrong.yaml")
    checked = Calibrate(source, out=tmp_path / "wrong.yaml", verify=tmp_path / "wrong.yaml")
    assert checked.run() == 1
    assert "FAIL" in capsys.readouterr().out
