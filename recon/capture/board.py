"""The ChArUco board: what it looks like, where it is in an image, where it is in space."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts

__all__ = ["Board", "BoardPose", "Detection", "board_poses", "detect_board"]

_FEWEST_CORNERS = 6  # a pose needs four; fewer than six leave nothing to check it with


@dataclass(frozen=True)
class Board:
    """A printed ChArUco board; the default is PhysTwin's.

    Its frame is OpenCV's: origin at the outer corner of the first square, x along the columns, y
    along the rows, z into the board.

    Attributes:
        squares_x: squares along a row.
        squares_y: squares along a column.
        square_m: side of a square, measured on the print [m].
        marker_m: side of a marker [m].
        dictionary: OpenCV's name of the marker dictionary.
        legacy_pattern: printed with OpenCV before 4.6, whose boards with an even number of rows
            begin with a white square.
    """

    squares_x: int = 4
    squares_y: int = 5
    square_m: float = 0.05
    marker_m: float = 0.037
    dictionary: str = "DICT_4X4_50"
    legacy_pattern: bool = False

    def __post_init__(self) -> None:
        """Refuse boards that cannot be printed.

        Raises:
            DataError: naming what does not fit.
        """
        if min(self.squares_x, self.squares_y) < 3 or not 0 < self.marker_m < self.square_m:
            raise DataError(
                f"a board of {self.squares_x} x {self.squares_y} squares of {self.square_m} m "
                f"with markers of {self.marker_m} m",
                where="Board",
                expected="at least 3 x 3 squares and markers smaller than squares",
                fix="measure the print: squares and markers in metres",
            )
        if not self.dictionary.startswith("DICT_") or not hasattr(cv2.aruco, self.dictionary):
            known = [name for name in dir(cv2.aruco) if name.startswith("DICT_")]
            raise DataError(
                f"there is no marker dictionary {self.dictionary!r}",
                where="Board.dictionary",
                expected=", ".join(known),
                fix="take the name that the board was generated with",
            )

    @property
    def corners(self) -> np.ndarray:
        """Inner chessboard corners in the board frame [m], shape (N, 3); a corner's id is its row.

        Returns:
            Float64, read-only.
        """
        return _corners(self)

    def opencv(self) -> Any:
        """OpenCV's object of this board.

        Returns:
            A ``cv2.aruco.CharucoBoard``.
        """
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))
        size = (self.squares_x, self.squares_y)
        board = cv2.aruco.CharucoBoard(size, self.square_m, self.marker_m, dictionary)
        board.setLegacyPattern(self.legacy_pattern)
        return board

    def image(self, pixels_per_square: int) -> np.ndarray:
        """The board as an image, to print it (or to render it).

        Args:
            pixels_per_square: resolution.

        Returns:
            Grey, uint8, squares_y x squares_x squares without margin.
        """
        size = (self.squares_x * pixels_per_square, self.squares_y * pixels_per_square)
        return np.asarray(self.opencv().generateImage(size))


@dataclass(frozen=True)
class Detection:
    """Corners of the board found in one image.

    Attributes:
        ids: which corners, shape (N,).
        pixels: where, shape (N, 2), pixel centres at whole numbers.
    """

    ids: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True)
class BoardPose:
    """A pose of the board that explains a detection.

    Attributes:
        T_cam_board: maps board to camera coordinates [m], shape (4, 4).
        error_px: root mean square distance of the corners to where the pose puts them [px].
    """

    T_cam_board: np.ndarray
    error_px: float


@functools.lru_cache(maxsize=8)
def _corners(board: Board) -> np.ndarray:
    corners = np.array(board.opencv().getChessboardCorners(), dtype=np.float64)
    corners.flags.writeable = False
    return corners


def detect_board(rgb: np.ndarray, board: Board) -> Detection | None:
    """Find the board in an image.

    Args:
        rgb: colour (H, W, 3) or grey (H, W), uint8.
        board: which board.

    Returns:
        Its corners, or None when fewer than six are seen.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) if rgb.ndim == 3 else rgb
    corners, ids, _, _ = cv2.aruco.CharucoDetector(board.opencv()).detectBoard(grey)
    if ids is None or len(ids) < _FEWEST_CORNERS:
        return None
    return Detection(np.ravel(ids), np.asarray(corners, dtype=np.float64).reshape(-1, 2))


def board_poses(detection: Detection, board: Board, camera: PinholeCamera) -> list[BoardPose]:
    """Poses of the board relative to the camera, best first.

    A plane seen from afar has two poses that explain it nearly as well (its mirror tilt); both
    are returned, so that other views can decide. Collins and Bartoli, "Infinitesimal plane-based
    pose estimation", IJCV 2014.

    Args:
        detection: corners in the camera's image.
        board: which board.
        camera: its intrinsics.

    Returns:
        One or two poses.
    """
    points = np.ascontiguousarray(board.corners[detection.ids])
    pixels = np.ascontiguousarray(detection.pixels)
    _, turns, shifts, _ = cv2.solvePnPGeneric(
        points, pixels, camera.K, camera.distortion, flags=cv2.SOLVEPNP_IPPE
    )
    poses = []
    for turn, shift in zip(turns, shifts):
        _, turn, shift = cv2.solvePnP(
            points,
            pixels,
            camera.K,
            camera.distortion,
            rvec=turn.copy(),
            tvec=shift.copy(),
            useExtrinsicGuess=True,
            flags=cv2.SOLVEPNP_ITERATIVE,
        )
        seen, _ = cv2.projectPoints(points, turn, shift, camera.K, camera.distortion)
        error = np.linalg.norm(seen.reshape(-1, 2) - pixels, axis=1)
        T_cam_board = T_from_parts(cv2.Rodrigues(turn)[0], np.ravel(shift))
        poses.append(BoardPose(T_cam_board, float(np.sqrt(np.mean(error**2)))))
    return sorted(poses, key=lambda pose: pose.error_px)
