"""Rotations against SciPy's, and the algebra of transforms."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from physgym import frames
from physgym.errors import DataError

# Everything is a handful of float64 products of numbers near 1: 1e-12 leaves four digits of room.
CLOSE = 1e-12


def random_rotations(count: int) -> Rotation:
    return Rotation.random(count, random_state=np.random.default_rng(7))


def test_quaternion_orders_are_inverse_and_match_scipy() -> None:
    xyzw = random_rotations(20).as_quat()
    wxyz = frames.quat_wxyz_from_xyzw(xyzw)
    assert np.array_equal(wxyz[:, 0], xyzw[:, 3])
    assert np.array_equal(wxyz[:, 1:], xyzw[:, :3])
    assert np.array_equal(frames.quat_xyzw_from_wxyz(wxyz), xyzw)


def test_matrix_from_quaternion_matches_scipy_also_unnormalised() -> None:
    rotation = random_rotations(50)
    quat_xyzw = 3.0 * rotation.as_quat()
    assert np.allclose(frames.matrix_from_quat_xyzw(quat_xyzw), rotation.as_matrix(), atol=CLOSE)


def test_quaternion_from_matrix_survives_half_turns() -> None:
    axes = np.concatenate([np.eye(3), np.random.default_rng(0).normal(size=(20, 3))])
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    # w = 0: the naive formula divides by zero here.
    matrix = Rotation.from_rotvec(np.pi * axes).as_matrix()
    back = frames.matrix_from_quat_wxyz(frames.quat_wxyz_from_matrix(matrix))
    assert np.allclose(back, matrix, atol=CLOSE)


def test_quaternion_from_matrix_matches_scipy_in_any_batch_shape() -> None:
    rotation = random_rotations(24)
    expected = rotation.as_quat(canonical=True).reshape(2, 3, 4, 4)
    got = frames.quat_xyzw_from_matrix(rotation.as_matrix().reshape(2, 3, 4, 3, 3))
    assert np.allclose(got, expected, atol=CLOSE)


def test_transforms_compose_invert_and_apply() -> None:
    rng = np.random.default_rng(1)
    rotation = random_rotations(2).as_matrix()
    T_a_b = frames.T_from_parts(rotation[0], rng.normal(size=3))
    T_b_c = frames.T_from_parts(rotation[1], rng.normal(size=3))
    points_c = rng.normal(size=(5, 3))
    chained = frames.apply_T(T_a_b, frames.apply_T(T_b_c, points_c))
    assert np.allclose(frames.apply_T(T_a_b @ T_b_c, points_c), chained, atol=CLOSE)
    assert np.allclose(frames.inverse_T(T_a_b) @ T_a_b, np.eye(4), atol=CLOSE)
    batch = frames.apply_T(np.stack([T_a_b, T_b_c]), points_c)
    assert np.allclose(batch[1], frames.apply_T(T_b_c, points_c), atol=CLOSE)


def test_rotation_between_is_the_smallest_and_hits_the_target() -> None:
    rng = np.random.default_rng(2)
    start, end = rng.normal(size=(2, 100, 3))
    turn = frames.rotation_between(start, end)
    unit = start / np.linalg.norm(start, axis=1, keepdims=True)
    target = end / np.linalg.norm(end, axis=1, keepdims=True)
    assert np.allclose(np.einsum("nij,nj->ni", turn, unit), target, atol=CLOSE)
    angle = Rotation.from_matrix(turn).magnitude()
    # arccos loses half its digits near 0 and pi.
    assert np.allclose(angle, np.arccos((unit * target).sum(1)), atol=1e-7)


@pytest.mark.parametrize("tilt", [0.0, 1e-10, 1e-6])
def test_rotation_between_opposite_directions_is_a_rotation(tilt: float) -> None:
    for axis in np.eye(3):
        end = -axis + tilt * np.roll(axis, 1)
        turn = frames.rotation_between(axis, end)
        # Opposite within 1e-7 counts as opposite, so that much of the target may be missed.
        assert np.allclose(turn @ axis, end / np.linalg.norm(end), atol=1e-7)
        assert np.linalg.det(turn) == pytest.approx(1.0, abs=CLOSE)


@pytest.mark.parametrize(
    "call",
    [
        lambda: frames.quat_wxyz_from_xyzw(np.zeros(3)),
        lambda: frames.matrix_from_quat_wxyz(np.zeros(4)),
        lambda: frames.rotation_between(np.zeros(3), np.ones(3)),
        lambda: frames.inverse_T(np.eye(3)),
    ],
)
def test_what_is_no_rotation_is_refused(call) -> None:
    with pytest.raises(DataError):
        call()
