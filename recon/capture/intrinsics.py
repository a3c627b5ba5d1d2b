"""Do a camera's own intrinsics fit what it sees of a board?"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from physgym.camera import PinholeCamera
from recon.capture.board import Board, detect_board
from recon.capture.checklist import CheckLine, graded

__all__ = ["check_intrinsics"]

_FEWEST_VIEWS = 6  # fewer poses trade focal length for distance


def check_intrinsics(
    images: Sequence[np.ndarray],
    camera: PinholeCamera,
    board: Board,
    *,
    bars_percent: tuple[float, float] = (1.0, 3.0),
) -> CheckLine:
    """Compare a camera's own focal length with what views of the board say.

    Args:
        images: rgb (H, W, 3) of one camera, the board near, tilted differently in each.
        camera: its own intrinsics.
        board: which board.
        bars_percent: difference of the focal length at which (WARN, FAIL) begins [%].

    Returns:
        The line; WARN when the views cannot tell.
    """
    warn, fail = bars_percent
    name, where = "intrinsics: focal length", camera.name
    found = [d for d in (detect_board(image, board) for image in images) if d is not None]
    if len(found) < _FEWEST_VIEWS:
        text = f"the board is in {len(found)} views; show it in {_FEWEST_VIEWS} tilts and places"
        return CheckLine(name, "WARN", None, "%", warn, where, text)
    points = [np.ascontiguousarray(board.corners[d.ids], dtype=np.float32) for d in found]
    pixels = [np.ascontiguousarray(d.pixels, dtype=np.float32) for d in found]
    frozen = (
        cv2.CALIB_USE_INTRINSIC_GUESS | cv2.CALIB_FIX_ASPECT_RATIO | cv2.CALIB_ZERO_TANGENT_DIST
    )
    frozen |= cv2.CALIB_FIX_K1 | cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3
    size = (camera.width, camera.height)
    distortion = np.array([*camera.distortion[:2], 0.0, 0.0, camera.distortion[4]])
    _, K, _, _, _, deviation, *_ = cv2.calibrateCameraExtended(
        points, pixels, size, camera.K.copy(), distortion, flags=frozen
    )
    own = camera.K[1, 1]
    percent = 100.0 * abs(float(K[1, 1]) - own) / own
    unsure = 100.0 * float(np.ravel(deviation)[1]) / own
    if unsure > warn:
        text = f"the views leave it open within {unsure:.1f} %; tilt the board more, come closer"
        return CheckLine(name, "WARN", percent, "%", warn, where, text)
    advice = "the camera's own K does not fit: recalibrate it, or check the resolution of K"
    return graded(name, percent, "%", warn=warn, fail=fail, where=where, advice=advice)
