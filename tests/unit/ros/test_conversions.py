"""Conversions: what goes into a message comes out again, and wrong messages are named."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

# Read when a message class is first imported: with it, a wrong field type raises.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
pytest.importorskip("rclpy", reason="rclpy is not installed")
conversions = pytest.importorskip("physgym_ros.conversions", reason="physgym_ros is not installed")
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState, PointCloud2, PointField
from trajectory_msgs.msg import JointTrajectory

from physgym.errors import DataError
from policies.execution.setpoints import JointPath

NAMES = ("left_x", "left_y", "right_x")


def _over_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


def _state(**changes) -> JointState:
    message = conversions.joint_state_message(
        NAMES, np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3]), stamp_s=12.25
    )
    for key, value in changes.items():
        setattr(message, key, value)
    return message


def test_field_checks_are_on_in_this_process():
    with pytest.raises(AssertionError):
        JointState().position = "x"


def test_joint_state_round_trip_by_name_not_order():
    reading = conversions.joint_reading(_over_the_wire(_state()), ("right_x", "left_x"))
    np.testing.assert_array_equal(reading.position, [3.0, 1.0])
    np.testing.assert_array_equal(reading.velocity, [0.3, 0.1])
    assert reading.stamp_s == 12.25


def test_joint_state_without_velocity_reads_as_rest():
    reading = conversions.joint_reading(_over_the_wire(_state(velocity=[], effort=[])), NAMES)
    np.testing.assert_array_equal(reading.velocity, np.zeros(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ["left_x", "left_y", "other"]}, "joints missing: right_x"),
        ({"name": ["left_x", "left_x", "right_x"]}, "joint named twice: left_x"),
        ({"position": [1.0, 2.0]}, "2 positions for 3 joints"),
        ({"velocity": [1.0]}, "1 velocities for 3 joints"),
        ({"position": [1.0, float("nan"), 2.0]}, "'left_y' is not a finite number"),
    ],
)
def test_wrong_joint_states_are_named(changes, message):
    with pytest.raises(DataError, match=message):
        conversions.joint_reading(_state(**changes), NAMES)


def test_point_cloud_round_trip_keeps_bits_order_and_nan():
    xyz = np.random.default_rng(0).normal(size=(13, 3)).astype(np.float32)
    xyz[4] = np.nan
    message = _over_the_wire(conversions.point_cloud_message(xyz, stamp_s=3.5, frame_id="world"))
    np.testing.assert_array_equal(conversions.points(message), xyz)
    assert not message.is_dense
    assert (message.header.frame_id, conversions.stamp_s(message.header)) == ("world", 3.5)


def test_point_cloud_of_nothing():
    message = _over_the_wire(conversions.point_cloud_message(np.zeros((0, 3)), stamp_s=0.0))
    assert conversions.points(message).shape == (0, 3)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_point_cloud_of_another_layout(big_endian, kind):
    """A depth camera's cloud: colour before the coordinates, rows padded, two rows."""
    order = ">" if big_endian else "<"
    dtype = np.dtype([("rgb", order + "u4"), *((axis, order + kind) for axis in "xyz")])
    cells = np.zeros((2, 3), dtype)
    for index, axis in enumerate("xyz"):
        cells[axis] = np.arange(6).reshape(2, 3) + 10 * index
    padding = b"\xff" * 5
    datatype = PointField.FLOAT32 if kind == "f4" else PointField.FLOAT64
    message = PointCloud2(height=2, width=3, is_bigendian=big_endian)
    message.point_step = dtype.itemsize
    message.row_step = 3 * dtype.itemsize + len(padding)
    message.fields = [
        PointField(name="rgb", offset=0, datatype=PointField.UINT32, count=1),
        *(
            PointField(name=axis, offset=dtype.fields[axis][1], datatype=datatype, count=1)
            for axis in "xyz"
        ),
    ]
    message.data = b"".join(row.tobytes() + padding for row in cells)
    expected = np.arange(6, dtype=np.float32)[:, None] + np.array([0, 10, 20], np.float32)
    np.testing.assert_array_equal(conversions.points(message), expected)


def test_wrong_point_clouds_are_named():
    message = conversions.point_cloud_message(np.zeros((4, 3)), stamp_s=0.0)
    message.width = 5
    with pytest.raises(DataError, match="48 bytes for 1 x 5 points"):
        conversions.points(message)
    message = conversions.point_cloud_message(np.zeros((4, 3)), stamp_s=0.0)
    message.fields = message.fields[:2]
    with pytest.raises(DataError, match="no floating-point field 'z'"):
        conversions.points(message)
    with pytest.raises(DataError, match=r"shape \(3,\)"):
        conversions.point_cloud_message(np.zeros(3), stamp_s=0.0)


def _trajectory(**changes) -> JointTrajectory:
    path = JointPath(
        NAMES,
        np.array([0.1, 1.5]),
        np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        np.array([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]),
    )
    message = conversions.joint_trajectory_message(path, stamp_s=7.5)
    for key, value in changes.items():
        setattr(message, key, value)
    return message


def test_trajectory_round_trip_by_name_not_order():
    message = _over_the_wire(_trajectory())
    path = conversions.joint_path(message, ("right_x", "left_x", "left_y"))
    np.testing.assert_array_equal(path.position, [[3.0, 1.0, 2.0], [6.0, 4.0, 5.0]])
    np.testing.assert_array_equal(path.velocity, [[0.3, 0.1, 0.2], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(path.time_s, [0.1, 1.5])
    assert path.names == ("right_x", "left_x", "left_y")
    assert conversions.stamp_s(message.header) == 7.5


def test_trajectory_without_velocities():
    message = _trajectory()
    for row in message.points:
        row.velocities = []
    assert conversions.joint_path(message, NAMES).velocity is None


def _with(message: JointTrajectory, index: int, field: str, value) -> JointTrajectory:
    setattr(message.points[index], field, value)
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (lambda: _trajectory(joint_names=["left_x", "left_y", "wrong"]), "unknown joints: wrong"),
        (lambda: _trajectory(joint_names=["left_x", "left_y"]), "joints missing: right_x"),
        (lambda: _trajectory(joint_names=[*NAMES, "extra"]), "unknown joints: extra"),
        (lambda: _trajectory(points=[]), "no points"),
        (lambda: _with(_trajectory(), 1, "positions", [1.0]), "1 positions for 3 joints"),
        (lambda: _with(_trajectory(), 0, "velocities", [1.0]), "1 velocities for 3 joints"),
        (
            lambda: _with(_trajectory(), 0, "positions", [1.0, float("inf"), 1.0]),
            "positions hold inf for joint 'left_y'",
        ),
        (
            lambda: _with(
                _trajectory(), 1, "time_from_start", _trajectory().points[0].time_from_start
            ),
            "does not increase",
        ),
    ],
)
def test_wrong_trajectories_are_named(message, text):
    with pytest.raises(DataError, match=text):
        conversions.joint_path(message(), NAMES)


def test_status_round_trip():
    word = conversions.Report(1.5, "sim_cell", 1, "watchdog: quiet", {"mode": "hold", "n": "3"})
    assert conversions.report(_over_the_wire(conversions.status_message(word))) == word


def test_the_package_and_its_demo_import_without_rclpy():
    code = (
        "import sys; sys.modules['rclpy'] = None\n"
        "import physgym_ros, physgym_ros.demo, physgym_ros.parameters\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
