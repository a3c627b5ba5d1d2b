"""Hand-eye calibration: where the camera is on the gripper, or beside the robot.

Both cases are one equation. With the camera on the gripper, ``T_base_gripper X T_cam_board`` is
the same for every pose (the board stands still); with the camera fixed and the board on the
gripper, ``inv(T_base_gripper) X T_cam_board`` is. X starts from Park and Martin, "Robot sensor
calibration: solving AX = XB on the Euclidean group", IEEE T-RA 1994, and is then refined, robustly,
together with the board's pose. (OpenCV 5.0's Python module has no calibrateHandEye.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from physgym.frames import T_from_parts, inverse_T

__all__ = ["HandEye", "solve_hand_eye"]

_FEWEST_POSES = 4
_SMALLEST_TURN_RAD = np.deg2rad(10.0)  # below, the noise of the board's pose hides the axis
_PARALLEL = 0.15  # second singular value over the first: axes within some 10 degrees of each other
_LEVER_M = 0.3  # an angle counts as the shift of a point this far away: a usual camera distance
_KNEE_M = 1e-3  # residuals beyond this are treated as outliers, softly
_DROP_TIMES = 4.0  # a pose is dropped when it is this many times the median off ...
_DROP_M = 3e-3  # ... and at least this much


@dataclass(frozen=True)
class HandEye:
    """A hand-eye calibration and how far it can be trusted.

    Attributes:
        T_mount_cam: the camera in the frame that carries it, the gripper or the base, (4, 4).
        T_other_board: the board in the other frame, the base or the gripper, (4, 4).
        eye_in_hand: whether the gripper carries the camera.
        residual_mm: how far each pose's board lands from the common one [mm], shape (N,).
        residual_deg: the same as an angle [deg], shape (N,).
        dropped: indices of poses left out because they contradict the others.
        spread_mm: largest change of the camera's position when one pose is left out [mm].
        spread_deg: largest change of its direction when one pose is left out [deg].
    """

    T_mount_cam: np.ndarray
    T_other_board: np.ndarray
    eye_in_hand: bool
    residual_mm: np.ndarray
    residual_deg: np.ndarray
    dropped: tuple[int, ...]
    spread_mm: float
    spread_deg: float


def solve_hand_eye(
    T_base_gripper: Sequence[np.ndarray],
    T_cam_board: Sequence[np.ndarray],
    *,
    eye_in_hand: bool,
) -> HandEye:
    """Find the camera from robot poses and the board as the camera sees it in each.

    Args:
        T_base_gripper: the robot's poses from its kinematics [m], N of (4, 4).
        T_cam_board: the board in camera coordinates at each pose [m], N of (4, 4).
        eye_in_hand: True with the camera on the gripper and the board fixed; False with the
            camera fixed and the board on the gripper.

    Returns:
        The calibration.

    Raises:
        DataError: if there are too few poses, or they do not turn about two axes.
    """
    A = np.asarray(T_base_gripper, dtype=np.float64)
    B = np.asarray(T_cam_board, dtype=np.float64)
    if A.shape != B.shape or A.ndim != 3 or A.shape[1:] != (4, 4) or len(A) < _FEWEST_POSES:
        raise DataError(
            f"robot poses {A.shape} and board poses {B.shape}",
            where="solve_hand_eye",
            expected=f"both (N, 4, 4) with N >= {_FEWEST_POSES}; 12 to 20 are good",
            fix="move the robot to more poses and look at the board in each",
        )
    if not eye_in_hand:
        A = np.stack([inverse_T(T) for T in A])
    kept = np.arange(len(A))
    X, Z = _fit(A, B)
    shift_m, turn_rad = _residuals(A, B, X, Z)
    off_m = np.hypot(shift_m, _LEVER_M * turn_rad)
    good = off_m <= max(_DROP_M, _DROP_TIMES * float(np.median(off_m)))
    if _FEWEST_POSES <= good.sum() < len(A):
        kept = np.flatnonzero(good)
        X, Z = _fit(A[kept], B[kept])
        shift_m, turn_rad = _residuals(A, B, X, Z)
    spread_m, spread_rad = _leave_one_out(A[kept], B[kept], X)
    return HandEye(
        T_mount_cam=X,
        T_other_board=Z,
        eye_in_hand=eye_in_hand,
        residual_mm=shift_m * 1e3,
        residual_deg=np.rad2deg(turn_rad),
        dropped=tuple(sorted(set(range(len(A))) - set(kept.tolist()))),
        spread_mm=spread_m * 1e3,
        spread_deg=float(np.rad2deg(spread_rad)),
    )


def _fit(A: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    X = _park_martin(A, B)
    Z = A[0] @ X @ B[0]

    def unpack(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _moved(X, values[:6]), _moved(Z, values[6:])

    def off(values: np.ndarray) -> np.ndarray:
        X_now, Z_now = unpack(values)
        error = inverse_T(Z_now) @ A @ X_now @ B
        turn = Rotation.from_matrix(error[:, :3, :3]).as_rotvec()
        return np.concatenate([error[:, :3, 3], _LEVER_M * turn], axis=1).ravel()

    found = least_squares(off, np.zeros(12), loss="soft_l1", f_scale=_KNEE_M, x_scale="jac")
    return unpack(found.x)


def _park_martin(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Closed-form start from all pairs of poses that turn enough against each other."""
    turns_a, turns_b, pairs = [], [], []
    for i in range(len(A)):
        for j in range(i + 1, len(A)):
            P, Q = inverse_T(A[j]) @ A[i], B[j] @ inverse_T(B[i])  # P X = X Q
            alpha = Rotation.from_matrix(P[:3, :3]).as_rotvec()
            if np.linalg.norm(alpha) >= _SMALLEST_TURN_RAD:
                turns_a.append(alpha)
                turns_b.append(Rotation.from_matrix(Q[:3, :3]).as_rotvec())
                pairs.append((P, Q))
    sizes = np.linalg.svd(np.array(turns_a), compute_uv=False) if len(pairs) > 1 else np.zeros(2)
    if sizes[0] == 0 or sizes[1] < _PARALLEL * sizes[0]:
        raise DataError(
            "the robot turned about one axis only",
            where="solve_hand_eye",
            expected="turns of 20 degrees and more about two axes that are not parallel",
            fix="tilt the gripper in two directions and also roll it, between the pictures",
        )
    # R_X carries the axes of Q to those of P: an orthogonal Procrustes problem
    rotation = Rotation.align_vectors(np.array(turns_a), np.array(turns_b))[0].as_matrix()
    left = np.concatenate([P[:3, :3] - np.eye(3) for P, _ in pairs])
    right = np.concatenate([rotation @ Q[:3, 3] - P[:3, 3] for P, Q in pairs])
    return T_from_parts(rotation, np.linalg.lstsq(left, right, rcond=None)[0])


def _residuals(
    A: np.ndarray, B: np.ndarray, X: np.ndarray, Z: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    error = inverse_T(Z) @ A @ X @ B
    turn = Rotation.from_matrix(error[:, :3, :3]).magnitude()
    return np.linalg.norm(error[:, :3, 3], axis=1), turn


def _leave_one_out(A: np.ndarray, B: np.ndarray, X: np.ndarray) -> tuple[float, float]:
    """Largest change of X; infinite when the poses left would not determine it."""
    if len(A) <= _FEWEST_POSES:
        return float("inf"), float("inf")
    shift_m = turn_rad = 0.0
    for left_out in range(len(A)):
        keep = np.arange(len(A)) != left_out
        try:
            change = inverse_T(X) @ _fit(A[keep], B[keep])[0]
        except DataError:
            return float("inf"), float("inf")
        shift_m = max(shift_m, float(np.linalg.norm(change[:3, 3])))
        turn_rad = max(turn_rad, float(Rotation.from_matrix(change[:3, :3]).magnitude()))
    return shift_m, turn_rad


def _moved(T: np.ndarray, step: np.ndarray) -> np.ndarray:
    return T @ T_from_parts(Rotation.from_rotvec(step[:3]).as_matrix(), step[3:])
