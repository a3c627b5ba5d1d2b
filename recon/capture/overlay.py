"""A picture that shows at a glance whether cameras are where their calibration says."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from recon.capture.board import Board, detect_board
from recon.capture.calibrate import CalibrationResult

__all__ = ["draw_overlay"]


def draw_overlay(
    view: Mapping[str, np.ndarray], result: CalibrationResult, board: Board, *, board_index: int
) -> np.ndarray:
    """Draw where the calibration puts the board into what the cameras saw, side by side.

    Args:
        view: rgb (H, W, 3) by camera, of one instant.
        result: the calibration.
        board: which board.
        board_index: which of its poses; 0 where the board did not move.

    Returns:
        RGB image, (H, W of all cameras, 3): seen corners as green rings, computed ones as red
        crosses, the board's axes, each camera's error.
    """
    T_world_board = result.T_world_boards[board_index]
    corners = board.corners @ T_world_board[:3, :3].T + T_world_board[:3, 3]
    axes = np.concatenate([np.zeros((1, 3)), np.eye(3) * 2 * board.square_m])
    axes = axes @ T_world_board[:3, :3].T + T_world_board[:3, 3]
    tiles = []
    for name, camera in result.cameras.items():
        tile = np.ascontiguousarray(view.get(name, np.zeros((camera.height, camera.width, 3))))
        tile = tile.astype(np.uint8).copy()
        found = detect_board(tile, board)
        for pixel in [] if found is None else found.pixels:
            cv2.circle(tile, _whole(pixel), 6, (40, 220, 60), 2, cv2.LINE_AA)
        for pixel in camera.project(corners)[0]:
            if np.isfinite(pixel).all():
                cv2.drawMarker(tile, _whole(pixel), (230, 40, 40), cv2.MARKER_CROSS, 10, 1)
        ends = camera.project(axes)[0]
        for end, color in zip(ends[1:], ((255, 60, 60), (60, 255, 60), (80, 120, 255))):
            if np.isfinite(ends).all():
                cv2.line(tile, _whole(ends[0]), _whole(end), color, 2, cv2.LINE_AA)
        record = result.errors.get(name, {})
        error = record.get("error_px", record.get("robot_and_board_px", float("nan")))
        text = f"{name}: {error:.2f} px  {result.status}"
        cv2.putText(tile, text, (10, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 220, 0), 2)
        tiles.append(tile)
    height = max(tile.shape[0] for tile in tiles)
    return np.concatenate(
        [np.pad(t, ((0, height - t.shape[0]), (0, 0), (0, 0))) for t in tiles], axis=1
    )


def _whole(pixel: np.ndarray) -> tuple[int, int]:
    return round(float(pixel[0])), round(float(pixel[1]))
