"""Cameras on a robot, and boards on its gripper, are found where they are."""

from __future__ import annotations

import numpy as np
import pytest
from board_cases import BOARD, CAMERAS, moved_boards, pose_error, render_board, unplaced
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from physgym.frames import T_from_parts, inverse_T
from recon.capture.calibrate import calibrate_on_gripper
from recon.capture.hand_eye import solve_hand_eye


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
    shift_mm, turn_deg = pose_error(found.T_mount_cam, X)
    assert shift_mm < 1.5
    assert turn_deg < 0.15
    assert pose_error(found.T_other_board, Z)[0] < 1.5
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
    assert pose_error(found.T_mount_cam, X)[0] < 0.01  # the other 14 are exact


def test_hand_eye_refuses_turns_about_one_axis() -> None:
    """The camera's height over such an axis cannot be known."""
    turns = Rotation.from_rotvec([[0, 0, angle] for angle in np.linspace(0, 1.5, 8)]).as_matrix()
    A = T_from_parts(turns, np.random.default_rng(0).uniform(-0.1, 0.1, (8, 3)))
    with pytest.raises(DataError, match="one axis"):
        solve_hand_eye(list(A), list(inverse_T(A)), eye_in_hand=True)


def test_board_on_the_gripper_puts_cameras_into_the_robot_base() -> None:
    """Rendered views of a board that a robot carries; 5 mm: 0.05 px of a board 0.75 m away."""
    poses = moved_boards(14)[1:]
    T_gripper_board = T_from_parts(
        Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix(), [0, 0.02, 0.1]
    )
    T_base_gripper = [T @ inverse_T(T_gripper_board) for T in poses]
    cameras = {name: CAMERAS[name] for name in ("left", "front")}
    views = [
        {name: render_board(camera, T, 7 * i) for name, camera in cameras.items()}
        for i, T in enumerate(poses)
    ]

    result = calibrate_on_gripper(views, T_base_gripper, unplaced(cameras), BOARD)
    for name, camera in cameras.items():
        shift_mm, turn_deg = pose_error(result.cameras[name].T_world_cam, camera.T_world_cam)
        assert shift_mm < 5.0
        assert turn_deg < 0.5
        assert result.errors[name]["hand_eye_mm"] < 3.0
