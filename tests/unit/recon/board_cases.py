"""A calibration board, and images of it that cameras at known places take."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from physgym.camera import PinholeCamera
from physgym.frames import T_from_parts, inverse_T
from recon.capture.board import Board
from recon.capture.calibrate import T_WORLD_BOARD_FLAT

BOARD = Board()
PIXELS_PER_SQUARE = 80
CENTRE = np.array([0.10, -0.125, 0.0])  # of the board, face up on the table
NOISE = 4.0  # grey levels: a RealSense colour image indoors


def camera_at(name: str, eye: tuple[float, float, float], focal_px: float = 600.0) -> PinholeCamera:
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
        camera_at("left", (0.5, 0.25, 0.55)),
        camera_at("right", (-0.35, 0.2, 0.6)),
        camera_at("front", (0.1, -0.6, 0.5)),
    )
}


def render_board(camera: PinholeCamera, T_world_board: np.ndarray, seed: int) -> np.ndarray:
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


def moved_boards(count: int) -> list[np.ndarray]:
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


def pose_error(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Distance [mm] and angle [deg] between two poses."""
    step = inverse_T(truth) @ found
    angle = Rotation.from_matrix(step[:3, :3]).magnitude()
    return float(np.linalg.norm(step[:3, 3]) * 1e3), float(np.rad2deg(angle))


def unplaced(cameras: dict[str, PinholeCamera]) -> dict[str, PinholeCamera]:
    return {name: replace(camera, T_world_cam=np.eye(4)) for name, camera in cameras.items()}
