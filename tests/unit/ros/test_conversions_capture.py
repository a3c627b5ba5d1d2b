"""Messages of the capture side: what goes in comes out, also through the reader of recordings."""

from __future__ import annotations

import os

import numpy as np
import pytest

# Read when a message class is first imported: with it, a wrong field type raises.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
pytest.importorskip("rclpy", reason="rclpy is not installed")
make = pytest.importorskip("physgym_ros.conversions_capture", reason="physgym_ros is not installed")
from rclpy.serialization import deserialize_message, serialize_message
from std_srvs.srv import Trigger

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts, matrix_from_quat_wxyz
from physgym_ros.conversions import Report
from recon import cdr
from recon.images import color_image, depth_image

RNG = np.random.default_rng(0)
QUAT = np.array([0.5, -0.5, 0.5, 0.5])
T = T_from_parts(matrix_from_quat_wxyz(QUAT), [0.1, -0.2, 0.9])
STAMPED = {"stamp_s": 12.25, "frame_id": "cam_color_optical_frame"}


def test_images_come_out_bit_for_bit():
    rgb = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    found = cdr.read_image(serialize_message(make.image_message(rgb, "rgb8", **STAMPED)))
    assert (found.stamp_ns, found.frame_id) == (12_250_000_000, "cam_color_optical_frame")
    assert (found.height, found.width, found.step, found.encoding) == (5, 7, 21, "rgb8")
    np.testing.assert_array_equal(color_image(found), rgb)
    part = make.image_message(rgb[:, ::2], "rgb8", **STAMPED)  # not contiguous
    np.testing.assert_array_equal(color_image(cdr.read_image(serialize_message(part))), rgb[:, ::2])


@pytest.mark.parametrize("kind", ["millimetres", "metres"])
def test_depth_goes_out_in_millimetres(kind):
    own = RNG.integers(0, 65536, (4, 6)).astype(np.uint16)
    given = own if kind == "millimetres" else own * np.float32(1e-3)
    if kind == "metres":
        given[own == 0] = np.nan
    found = cdr.read_image(serialize_message(make.depth_message(given, **STAMPED)))
    assert (found.encoding, found.step) == ("16UC1", 12)
    np.testing.assert_array_equal(depth_image(found), own * np.float32(1e-3))


def test_what_is_no_image_is_refused():
    with pytest.raises(DataError, match=r"pixels of shape \(3,\)"):
        make.image_message(np.zeros(3, np.uint8), "mono8", **STAMPED)


def test_camera_info():
    K = np.array([[60.0, 0.0, 31.5], [0.0, 61.0, 23.5], [0.0, 0.0, 1.0]])
    camera = PinholeCamera("cam", "", 64, 48, K, T, np.array([-0.4, 0.05, 0.001, 0.002, 0.0]))
    found = cdr.read_camera_info(serialize_message(make.camera_info_message(camera, **STAMPED)))
    assert (found.height, found.width, found.distortion_model) == (48, 64, "plumb_bob")
    np.testing.assert_array_equal(found.K, K)
    np.testing.assert_array_equal(found.distortion, camera.distortion)


def test_poses_and_transforms_keep_their_quaternion():
    raw = serialize_message(make.pose_message(T[:3, 3], QUAT, stamp_s=3.5))
    pose = cdr.read_pose(raw)
    assert (pose.stamp_ns, pose.frame_id) == (3_500_000_000, "world")
    np.testing.assert_array_equal(pose.position, T[:3, 3])
    np.testing.assert_array_equal(pose.quat_xyzw, [-0.5, 0.5, 0.5, 0.5])
    message = make.transform_message(T, parent="world", child="cam", stamp_s=3.5)
    found = make.transform(deserialize_message(serialize_message(message), type(message)))
    assert (found.frame_id, found.child_frame_id, found.stamp_ns) == ("world", "cam", 3_500_000_000)
    np.testing.assert_array_equal(found.position, T[:3, 3])
    # q and -q are one rotation
    np.testing.assert_allclose(abs(found.quat_xyzw @ pose.quat_xyzw), 1.0, atol=1e-15)


def test_truths():
    for value in (True, False):
        assert cdr.read_bool(serialize_message(make.bool_message(np.bool_(value)))) is value


def test_without_tf2_msgs_there_is_no_tf_static_message():
    if make.static_message_type() is not None:
        pytest.skip("tf2_msgs is installed")
    with pytest.raises(DataError, match="no tf2_msgs"):
        make.transforms_message([])


def test_diagnostics_of_several_components():
    words = [
        Report(1.5, "recorder", 0, "recording", {"frames.cam0": "3"}),
        Report(1.5, "recorder: cam0", 2, "it has sent nothing", {}),
    ]
    message = make.diagnostics_message(words)
    found = make.reports(deserialize_message(serialize_message(message), type(message)))
    assert found == {word.name: word for word in words}


def test_answers():
    found = make.answer(Trigger.Response(), False, "no")
    assert (found.success, found.message) == (False, "no")
