"""Rotations and rigid transforms, and the one place where quaternion orders meet.

``T_a_b`` maps coordinates in b to coordinates in a: ``p_a = T_a_b @ p_b``, so
``T_a_c = T_a_b @ T_b_c``. Quaternions are named by their order: ``quat_wxyz`` (MuJoCo, gsplat,
viser) or ``quat_xyzw`` (ROS, Warp, SciPy); both are unit and turn vectors the same, right-handed
way. Everything takes any number of leading dimensions ``...`` and computes in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from physgym.errors import DataError

__all__ = [
    "T_from_parts",
    "apply_T",
    "inverse_T",
    "matrix_from_quat_wxyz",
    "matrix_from_quat_xyzw",
    "quat_wxyz_from_matrix",
    "quat_wxyz_from_xyzw",
    "quat_xyzw_from_matrix",
    "quat_xyzw_from_wxyz",
    "rotation_between",
]

_TINY = 1e-12  # below this a vector has no direction in float64 that is worth the name


def quat_wxyz_from_xyzw(quat_xyzw: ArrayLike) -> np.ndarray:
    """Reorder a quaternion for MuJoCo, gsplat and viser.

    Args:
        quat_xyzw: shape (..., 4).

    Returns:
        The same rotation as ``quat_wxyz``, shape (..., 4).

    Raises:
        DataError: if the last dimension is not 4.
    """
    return np.roll(_last(quat_xyzw, 4, "quat_xyzw"), 1, axis=-1)


def quat_xyzw_from_wxyz(quat_wxyz: ArrayLike) -> np.ndarray:
    """Reorder a quaternion for ROS, Warp and SciPy.

    Args:
        quat_wxyz: shape (..., 4).

    Returns:
        The same rotation as ``quat_xyzw``, shape (..., 4).

    Raises:
        DataError: if the last dimension is not 4.
    """
    return np.roll(_last(quat_wxyz, 4, "quat_wxyz"), -1, axis=-1)


def matrix_from_quat_wxyz(quat_wxyz: ArrayLike) -> np.ndarray:
    """Rotation matrix of a quaternion, which need not be normalised.

    Args:
        quat_wxyz: shape (..., 4).

    Returns:
        Shape (..., 3, 3).

    Raises:
        DataError: if the last dimension is not 4 or a quaternion is zero.
    """
    quat = _last(quat_wxyz, 4, "quat_wxyz")
    norm = np.linalg.norm(quat, axis=-1, keepdims=True)
    if (norm < _TINY).any():
        raise DataError("a zero quaternion is no rotation", where="quat", expected="a unit one")
    w, x, y, z = np.moveaxis(quat / norm, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_from_quat_xyzw(quat_xyzw: ArrayLike) -> np.ndarray:
    """Rotation matrix of a quaternion, which need not be normalised.

    Args:
        quat_xyzw: shape (..., 4).

    Returns:
        Shape (..., 3, 3).

    Raises:
        DataError: if the last dimension is not 4 or a quaternion is zero.
    """
    return matrix_from_quat_wxyz(quat_wxyz_from_xyzw(quat_xyzw))


def quat_wxyz_from_matrix(rotation: ArrayLike) -> np.ndarray:
    """Unit quaternion of a rotation matrix, with w >= 0.

    Of the four ways to divide, the one with the largest denominator is taken
    (Shepperd, "Quaternion from rotation matrix", J. Guidance and Control 1(3), 1978).

    Args:
        rotation: shape (..., 3, 3), orthonormal with determinant 1.

    Returns:
        Shape (..., 4).

    Raises:
        DataError: if the last dimensions are not 3 x 3.
    """
    m = _square(rotation, 3, "rotation")
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    xy, xz, yz = (
        m[..., 0, 1] + m[..., 1, 0],
        m[..., 0, 2] + m[..., 2, 0],
        m[..., 1, 2] + m[..., 2, 1],
    )
    # Row k is 4 q_k times the quaternion.
    rows = [
        [1 + xx + yy + zz, wx, wy, wz],
        [wx, 1 + xx - yy - zz, xy, xz],
        [wy, xy, 1 - xx + yy - zz, yz],
        [wz, xz, yz, 1 - xx - yy + zz],
    ]
    table = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    largest = np.argmax(np.diagonal(table, axis1=-2, axis2=-1), axis=-1)
    quat = np.take_along_axis(table, largest[..., None, None], axis=-2)[..., 0, :]
    quat = quat / np.linalg.norm(quat, axis=-1, keepdims=True)
    return np.asarray(np.where(quat[..., :1] < 0, -quat, quat))


def quat_xyzw_from_matrix(rotation: ArrayLike) -> np.ndarray:
    """Unit quaternion of a rotation matrix, with w >= 0.

    Args:
        rotation: shape (..., 3, 3), orthonormal with determinant 1.

    Returns:
        Shape (..., 4).

    Raises:
        DataError: if the last dimensions are not 3 x 3.
    """
    return quat_xyzw_from_wxyz(quat_wxyz_from_matrix(rotation))


def T_from_parts(rotation: ArrayLike, translation: ArrayLike) -> np.ndarray:
    """Homogeneous transform from its parts.

    Args:
        rotation: axes of b in a, shape (..., 3, 3).
        translation: origin of b in a [m], shape (..., 3).

    Returns:
        ``T_a_b``, shape (..., 4, 4).

    Raises:
        DataError: if a shape does not fit.
    """
    turn, shift = _square(rotation, 3, "rotation"), _last(translation, 3, "translation")
    lead = np.broadcast_shapes(turn.shape[:-2], shift.shape[:-1])
    transform = np.zeros((*lead, 4, 4))
    transform[..., :3, :3] = turn
    transform[..., :3, 3] = shift
    transform[..., 3, 3] = 1.0
    return transform


def inverse_T(T_a_b: ArrayLike) -> np.ndarray:
    """The transform back, by transposing the rotation.

    Args:
        T_a_b: rigid, shape (..., 4, 4).

    Returns:
        ``T_b_a``, shape (..., 4, 4).

    Raises:
        DataError: if the last dimensions are not 4 x 4.
    """
    transform = _square(T_a_b, 4, "T_a_b")
    back = np.swapaxes(transform[..., :3, :3], -1, -2)
    return T_from_parts(back, -(back @ transform[..., :3, 3:])[..., 0])


def apply_T(T_a_b: ArrayLike, points_b: ArrayLike) -> np.ndarray:
    """Points in a from points in b.

    Args:
        T_a_b: shape (..., 4, 4).
        points_b: [m], shape (..., P, 3).

    Returns:
        [m], shape (..., P, 3).

    Raises:
        DataError: if a shape does not fit.
    """
    transform, points = _square(T_a_b, 4, "T_a_b"), _last(points_b, 3, "points_b")
    turned = points @ np.swapaxes(transform[..., :3, :3], -1, -2)
    return np.asarray(turned + transform[..., None, :3, 3])


def rotation_between(start: ArrayLike, end: ArrayLike) -> np.ndarray:
    """The smallest rotation that turns one direction into another.

    For opposite directions every axis at right angles does; one is chosen.

    Args:
        start: directions of any length but zero, shape (..., 3).
        end: the same.

    Returns:
        Shape (..., 3, 3), with ``R @ start`` along ``end``.

    Raises:
        DataError: if a direction is zero or a shape does not fit.
    """
    a, b = np.broadcast_arrays(*(_unit(value) for value in (start, end)))
    # A half turn about a, then one about h = a + b, make the rotation in the plane of a and b by
    # twice the angle from a to h. For opposite directions one half turn about any axis at right
    # angles does. No trigonometry, and nothing is lost where a and b are nearly the same.
    half = a + b
    opposite = np.linalg.norm(half, axis=-1, keepdims=True) < 1e-7
    half = np.where(opposite, _at_right_angles(a), half)
    first = np.where(opposite[..., None], np.eye(3), _half_turn(a))
    return np.asarray(_half_turn(half) @ first)


def _half_turn(axis: np.ndarray) -> np.ndarray:
    square = (axis * axis).sum(-1)[..., None, None]
    return np.asarray(2.0 * axis[..., :, None] * axis[..., None, :] / square - np.eye(3))


def _at_right_angles(direction: np.ndarray) -> np.ndarray:
    axis = np.eye(3)[np.argmin(np.abs(direction), axis=-1)]
    return np.asarray(np.cross(direction, axis))


def _unit(value: ArrayLike) -> np.ndarray:
    vector = _last(value, 3, "direction")
    norm = np.linalg.norm(vector, axis=-1, keepdims=True)
    if (norm < _TINY).any():
        raise DataError("a zero vector has no direction", where="direction", expected="length > 0")
    return np.asarray(vector / norm)


def _last(value: ArrayLike, length: int, name: str) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim < 1 or array.shape[-1] != length:
        raise DataError(f"shape {array.shape}", where=name, expected=f"(..., {length})")
    return array


def _square(value: ArrayLike, length: int, name: str) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape[-2:] != (length, length):
        raise DataError(f"shape {array.shape}", where=name, expected=f"(..., {length}, {length})")
    return array
