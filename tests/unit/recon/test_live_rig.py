"""What is known of live cameras, and the sources that stand in for them."""

from __future__ import annotations

import numpy as np
import pytest
from episode_cases import DT, camera, color, write_episode

from physgym.errors import DataError
from physgym.frames import inverse_T, quat_xyzw_from_matrix
from recon.capture.calibration_file import Calibration
from recon.capture.live_rig import LiveRig, camera_roots
from recon.capture.live_sources import EpisodeSource, JointValues
from recon.capture.sources import GripperPose, Picture
from recon.cdr import PoseMsg, TransformMsg, read_camera_info
from recon.episode_messages import MessageFactory

MAKE = MessageFactory()


def _info(name: str, number: int = 0):
    return read_camera_info(MAKE.camera_info(0, f"{name}_optical", camera(name, number)))


def _transform(parent: str, child: str, T: np.ndarray) -> TransformMsg:
    return TransformMsg(0, parent, child, T[:3, 3].copy(), quat_xyzw_from_matrix(T[:3, :3]))


def test_names_are_the_ends_of_namespaces_and_stay():
    rig = LiveRig()
    topics = ["/a/cam/color/image_raw", "/b/cam/color/image_raw", "/x/depth/image_raw", "/rosout"]
    roots = camera_roots(topics)
    assert roots == ["/a/cam", "/b/cam"]
    assert [rig.name_of(root) for root in roots] == ["cam", "b_cam"]
    assert rig.name_of("/a/cam") == "cam"
    assert rig.name_of("/_hidden") == "hidden"


def test_a_camera_is_known_when_intrinsics_and_a_chain_to_the_world_have_come():
    rig, own = LiveRig(), camera("cam", 2)
    assert "no color/camera_info" in rig.missing("cam")
    rig.note_info("cam", _info("cam", 2))
    assert "no transform from 'world' to 'cam_optical'" in rig.missing("cam")
    assert rig.camera("cam") is None
    up = np.eye(4)
    up[:3, 3] = [0.0, 0.015, 0.0]
    rig.note_transforms([_transform("link", "cam_optical", inverse_T(up))])
    assert rig.camera("cam") is None
    rig.note_transforms([_transform("world", "/link", own.T_world_cam @ up)])
    found = rig.camera("cam")
    assert rig.is_placed("cam")
    # 1e-12: rotations pass through quaternions in doubles.
    np.testing.assert_allclose(found.T_world_cam, own.T_world_cam, atol=1e-12)
    np.testing.assert_array_equal(found.K, own.K)


def test_a_calibration_wins_and_brings_the_serial_number():
    rig = LiveRig(Calibration({"cam": camera("cam", 3)}))
    rig.note_info("cam", _info("cam"))
    rig.note_transforms([_transform("world", "cam_optical", np.eye(4))])
    found = rig.camera("cam")
    np.testing.assert_array_equal(found.T_world_cam, camera("cam", 3).T_world_cam)
    assert found.serial == "S3"


def test_an_unknown_place_is_the_identity_only_where_that_is_allowed():
    rig = LiveRig(allow_uncalibrated=True)
    rig.note_info("cam", _info("cam"))
    assert rig.missing("cam") == ""
    assert not rig.is_placed("cam")
    np.testing.assert_array_equal(rig.camera("cam").T_world_cam, np.eye(4))


def test_poses_of_other_frames_come_into_the_world_or_are_refused():
    rig, T = LiveRig(), camera("x", 1).T_world_cam
    point, turn = np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.0, 0.0, 1.0])
    same, quat = rig.pose_in_world(PoseMsg(0, "world", point, turn))
    np.testing.assert_array_equal(same, point)
    np.testing.assert_array_equal(quat, [1.0, 0.0, 0.0, 0.0])
    with pytest.raises(DataError, match="a pose in frame 'base'"):
        rig.pose_in_world(PoseMsg(0, "base", point, turn))
    rig.note_transforms([_transform("world", "base", T)])
    moved, quat = rig.pose_in_world(PoseMsg(0, "base", point, turn))
    np.testing.assert_allclose(moved, T[:3, :3] @ point + T[:3, 3], atol=1e-12)
    expected = np.roll(quat_xyzw_from_matrix(T[:3, :3]), 1)
    np.testing.assert_allclose(abs(quat @ expected), 1.0, atol=1e-12)


def test_an_episode_plays_in_the_order_of_its_stamps_and_goes_on_when_it_loops(tmp_path):
    path = write_episode(tmp_path / "e", frames=5, start_s=100.0)
    source = EpisodeSource(path, loop=True)
    cameras = source.start()
    assert set(cameras) == {"cam0", "cam1"}
    assert source.motion == ("gripper0", "joint_states")
    items = []
    for item in source.items():
        items.append(item)
        if len(items) == 40:  # two rounds of 5 x (2 pictures, a pose, joints)
            source.stop()
    source.close()
    stamps = np.array([item.stamp_s for item in items])
    assert (np.diff(stamps) >= 0).all()
    pictures = [item for item in items if isinstance(item, Picture) and item.camera == "cam0"]
    # 1 ms: a camera that is 1 ms late makes the round that much longer.
    np.testing.assert_allclose(np.diff([p.stamp_s for p in pictures]), DT, atol=1.1e-3)
    assert abs(pictures[0].stamp_s - 100.0) < 1e-6
    for number, picture in enumerate(pictures):
        np.testing.assert_array_equal(picture.rgb, color(number % 5))
    poses = [item for item in items if isinstance(item, GripperPose)]
    assert [pose.closed for pose in poses[:5]] == [False, False, False, False, True]
    joints = [item for item in items if isinstance(item, JointValues)]
    assert joints[1].names == ("a", "b")
    assert len(poses) == len(joints) == 10
