"""Recordings of realsense-ros and other drivers are read as they are."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from episode_cases import DT, H, W, camera, color, depth, write_foreign
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer

from physgym.errors import DataError
from recon import episode_messages as kinds
from recon.capture.calibration_file import Calibration, save_calibration
from recon.cdr import read_camera_info, read_image, read_joint_state, read_pose
from recon.episode import Episode
from recon.episode_index import CameraTopics
from recon.tracks import PhysGymWarning

# 16UC1 holds whole millimetres and the test's depth is whole: what is left is float32's rounding.
DEPTH_ROUNDING_M = 1e-6


@pytest.mark.parametrize(
    ("storage", "mode"),
    [
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.NONE),
        (StoragePlugin.MCAP, CompressionMode.FILE),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
    ],
)
def test_recordings_of_realsense_ros_are_read_as_they_are(
    tmp_path: Path, storage: StoragePlugin, mode: CompressionMode
) -> None:
    path = write_foreign(tmp_path / "bag", storage=storage, mode=mode)
    with Episode.open(path) as episode:
        assert episode.losses == ()
        assert list(episode.cameras) == ["camera"]
        T = camera("x").T_world_cam  # through a link in between
        assert np.allclose(episode.cameras["camera"].T_world_cam, T, atol=1e-14)
        assert episode.start_s == 1_700_000_000.0
        for t, frame in enumerate(episode.frames("camera")):
            assert np.array_equal(frame.rgb, color(t))
            assert frame.depth_m is not None
            assert np.abs(frame.depth_m - depth(t)).max() < DEPTH_ROUNDING_M


@pytest.mark.parametrize(
    ("roots", "names"),
    [
        (("/camera", "/robot/wrist_cam"), ["camera", "wrist_cam"]),
        (("/left/camera", "/right/camera"), ["left_camera", "right_camera"]),
        (("",), ["camera"]),
    ],
)
def test_cameras_are_found_in_any_namespace(
    tmp_path: Path, roots: tuple[str, ...], names: list[str]
) -> None:
    with Episode.open(write_foreign(tmp_path / "bag", roots=roots, frames=3)) as episode:
        assert list(episode.cameras) == names
        assert np.array_equal(episode.frame(names[-1], 2).rgb, color(2, len(roots) - 1))


def test_other_encodings(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "a", encodings=("bgr8", "32FC1"), frames=2)
    with Episode.open(path) as episode:
        frame = episode.frame("camera", 1)
        assert np.array_equal(frame.rgb, color(1))
        assert frame.depth_m is not None
        assert np.array_equal(frame.depth_m, depth(1))  # NaN became 0
    path = write_foreign(tmp_path / "b", encodings=("mono8", "16UC1"), frames=2)
    with Episode.open(path) as episode:
        assert np.array_equal(episode.frame("camera", 1).rgb[..., 2], color(1)[..., 0])


def test_compressed_topics(tmp_path: Path) -> None:
    make = kinds.MessageFactory()
    message = make.store.types[kinds.COMPRESSED]
    header = make._header(1_000_000_000, "optical")
    millimetres = np.round(depth(0) * 1e3).astype(np.uint16)
    _, png = cv2.imencode(".png", color(0)[..., ::-1])
    _, deep = cv2.imencode(".png", millimetres)
    packed = {
        "color/image_raw/compressed": message(header, "rgb8; png compressed bgr8", png),
        "aligned_depth_to_color/image_raw/compressedDepth": message(
            header,
            "16UC1; compressedDepth png",
            np.concatenate([np.zeros(12, np.uint8), deep.reshape(-1)]),
        ),
    }
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        link = writer.add_connection(
            "/c/color/camera_info", kinds.CAMERA_INFO, typestore=make.store
        )
        writer.write(link, 1, make.camera_info(1_000_000_000, "optical", camera("c")))
        for end, value in packed.items():
            link = writer.add_connection(f"/c/{end}", kinds.COMPRESSED, typestore=make.store)
            writer.write(link, 2, make.store.serialize_cdr(value, kinds.COMPRESSED))
    with pytest.warns(PhysGymWarning, match="the identity stands in"):
        episode = Episode.open(tmp_path / "bag", allow_uncalibrated=True)
    with episode:
        frame = episode.frame("c", 0)
        assert np.array_equal(frame.rgb, color(0))
        assert frame.depth_m is not None
        assert np.abs(frame.depth_m - depth(0)).max() < DEPTH_ROUNDING_M


def test_extrinsics_from_a_calibration_file(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "bag", tree=False, roots=("/a/cam", "/b/other"), frames=2)
    with pytest.raises(DataError, match="nothing says where cam, other stood"):
        Episode.open(path)
    with pytest.warns(PhysGymWarning, match="the identity stands in"):
        episode = Episode.open(path, allow_uncalibrated=True)
    assert episode.uncalibrated == ("cam", "other")
    episode.close()
    file = tmp_path / "cells.yaml"
    poses = {name: camera(name, 5).to_plain() for name in ("cam", "other")}
    file.write_text(yaml.safe_dump({"cameras": poses}))
    with Episode.open(path, calibration=file) as episode:
        assert np.array_equal(episode.cameras["other"].T_world_cam, camera("x", 5).T_world_cam)
    own = {name: camera(name, 6) for name in ("cam", "other")}
    save_calibration(Calibration(own), tmp_path / "own.yaml")  # what `physgym calibrate` writes
    with Episode.open(path, calibration=tmp_path / "own.yaml") as episode:
        assert episode.losses == ()
        T = camera("x", 6).T_world_cam
        # The file is for people too: it holds fewer digits.
        assert np.allclose(episode.cameras["cam"].T_world_cam, T, atol=1e-6)
    file.write_text(yaml.safe_dump({"cameras": {"cam": poses["cam"]}}))
    with pytest.raises(DataError, match="no T_world_cam of other"):
        Episode.open(path, calibration=file)
    file.write_text("cameras: {cam: {T_world_cam: [1, 2]}}")
    with pytest.raises(DataError, match="T_world_cam"):
        Episode.open(path, calibration=file)


def test_another_root_than_world_is_taken_and_said(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "bag", frames=2)
    with pytest.warns(PhysGymWarning, match="'world' is the world"):
        Episode.open(path, world_frame="map").close()
    with Episode.open(path, world_frame="link0") as episode:
        assert episode.cameras["camera"].position == pytest.approx([0.0, 0.015, 0.0])


def test_headers_without_stamps_fall_back_to_the_time_of_recording(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "bag", stamped=False, log_late_ns=0)
    with pytest.warns(PhysGymWarning, match="stamps are 0, the time of recording counts"):
        episode = Episode.open(path)
    with episode:
        assert np.allclose(episode.stamps_s("camera"), DT * np.arange(8), atol=2e-9)
        for t, frame in enumerate(episode.frames("camera")):
            assert np.array_equal(frame.rgb, color(t))


def test_a_message_without_stamp_follows_the_cameras_clock(tmp_path: Path) -> None:
    make = kinds.MessageFactory()
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:

        def put(topic: str, kind: str, log_ns: int, raw: bytes) -> None:
            known = {c.topic: c for c in writer.connections}
            link = known.get(topic) or writer.add_connection(topic, kind, typestore=make.store)
            writer.write(link, log_ns, raw)

        for t in range(6):  # the cameras run on simulated time, the recorder on the wall's
            stamp, log = (10 + t) * 10**8, 10**18 + t * 10**8
            put("/c/color/image_raw", kinds.IMAGE, log, make.image(stamp, "o", "rgb8", color(t)))
            put(
                "/c/color/camera_info",
                kinds.CAMERA_INFO,
                log,
                make.camera_info(stamp, "o", camera("c")),
            )
            put("/robot/gripper2/closed", kinds.BOOL, log, make.boolean(t > 3))
    with pytest.warns(PhysGymWarning, match="identity"):
        episode = Episode.open(tmp_path / "bag", allow_uncalibrated=True)
    with episode:
        closed = episode.gripper_closed(2)
        assert np.allclose(closed.time_s, episode.stamps_s("c"), atol=2e-9)
        assert closed.value.tolist() == [False] * 4 + [True] * 2


def test_several_files_without_metadata_are_one_recording(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    for number, root in enumerate(("/a", "/b")):
        path = write_foreign(tmp_path / root[1:], storage=StoragePlugin.MCAP, roots=(root,))
        next(path.glob("*.mcap")).rename(tmp_path / "bag" / f"bag_{number}.mcap")
    with pytest.warns(PhysGymWarning, match="no metadata.yaml"):
        episode = Episode.open(tmp_path / "bag")
    with episode:
        assert list(episode.cameras) == ["a", "b"]
        for t, group in enumerate(episode.synchronized()):
            assert np.array_equal(group.frames["b"].rgb, color(t))
        assert t == 7


def test_topics_of_other_drivers_can_be_named(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "bag", roots=("/k",), frames=2)
    topics = CameraTopics("/k/color/image_raw", "/k/color/camera_info")
    with Episode.open(path, topics={"kinect": topics}) as episode:
        assert episode.frame("kinect", 0).depth_m is None
    with pytest.raises(DataError, match="no topic /k/rgb"):
        Episode.open(path, topics={"kinect": CameraTopics("/k/rgb", "/k/color/camera_info")})


def test_doubled_stamps_wrong_sizes_and_lost_partners_are_counted(tmp_path: Path) -> None:
    make = kinds.MessageFactory()
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:

        def link(end: str, kind: str) -> object:
            return writer.add_connection(f"/c/{end}", kind, typestore=make.store)

        rgb = link("color/image_raw", kinds.IMAGE)
        deep = link("aligned_depth_to_color/image_raw", kinds.IMAGE)
        info = link("color/camera_info", kinds.CAMERA_INFO)
        writer.write(info, 1, make.camera_info(1, "o", camera("c")))  # type: ignore[arg-type]
        for t in range(10):
            # frame 4 has the stamp of frame 3; frame 6 has no depth; 8 is a smaller image
            stamp = 10**9 + 33_000_000 * (3 if t == 4 else t)
            pixels = color(t)[: H // 2] if t == 8 else color(t)
            image = make.image(stamp, "o", "rgb8", pixels)
            writer.write(rgb, stamp + t, image[:-100] if t == 9 else image)  # type: ignore[arg-type]
            if t != 6:
                millimetres = np.zeros((H, W), np.uint16)  # all zero is the doctor's business
                writer.write(deep, stamp + t, make.image(stamp, "o", "16UC1", millimetres))  # type: ignore[arg-type]
    with pytest.warns(PhysGymWarning) as caught:
        episode = Episode.open(tmp_path / "bag", allow_uncalibrated=True)
    assert len(caught) == 1
    said = "; ".join(episode.losses)
    assert "color/image_raw: 1 images left out, their stamps are doubled" in said
    assert "64 x 24 pixels, but CameraInfo says 64 x 48" in said
    assert "/c/color/image_raw: 1 messages cannot be read" in said
    assert "c: 1 colour images have no partner" in said
    with episode:
        numbers = [0, 1, 2, 3, 5, 7]
        assert episode.frame_count("c") == len(numbers)
        for t, frame in zip(numbers, episode.frames("c")):
            assert np.array_equal(frame.rgb, color(t))
            assert frame.depth_m is not None
            assert not frame.depth_m.any()


def test_joint_states_with_stale_bytes_at_the_end_are_read() -> None:
    make = kinds.MessageFactory()
    none = np.zeros(0)
    raw = bytes(make.joints(5, ["j"], np.array([0.5]), none, none))
    # rclpy leaves up to a few dozen bytes behind such messages (measured)
    for extra in (0, 4, 12, 40):
        joints = read_joint_state(raw + b"\x5a" * extra)
        assert joints.name == ("j",)
        assert joints.position.tolist() == [0.5]
        assert len(joints.velocity) == 0


def test_rclpy_and_the_recorder_read_each_others_messages() -> None:
    serialization = pytest.importorskip("rclpy.serialization", reason="no rclpy here")
    sensor = pytest.importorskip("sensor_msgs.msg", reason="no sensor_msgs here")
    geometry = pytest.importorskip("geometry_msgs.msg", reason="no geometry_msgs here")
    make = kinds.MessageFactory()
    image = serialization.deserialize_message(
        bytes(make.image(3_000_000_007, "o", "16UC1", np.full((H, W), 513, np.uint16))),
        sensor.Image,
    )
    assert (image.header.stamp.sec, image.header.stamp.nanosec) == (3, 7)
    assert (image.height, image.width, image.step, image.encoding) == (H, W, 2 * W, "16UC1")
    assert (np.frombuffer(image.data, np.uint16) == 513).all()
    info = serialization.deserialize_message(
        bytes(make.camera_info(1, "o", camera("c"))), sensor.CameraInfo
    )
    assert np.array_equal(info.k.reshape(3, 3), camera("c").K)
    joints = sensor.JointState(name=["a", "b"], position=[0.5, -1.0])  # padded by rclpy
    found = read_joint_state(serialization.serialize_message(joints))
    assert found.name == ("a", "b")
    assert found.position.tolist() == [0.5, -1.0]
    pose = geometry.PoseStamped()
    pose.header.frame_id = "some_frame"
    pose.pose.position.z = 0.25
    pose.pose.orientation.w = 1.0
    read = read_pose(serialization.serialize_message(pose))
    assert read.position.tolist() == [0.0, 0.0, 0.25]
    assert read.quat_xyzw.tolist() == [0.0, 0.0, 0.0, 1.0]
    raw = serialization.serialize_message(image)
    assert read_image(raw).data.nbytes == 2 * H * W
    message = read_camera_info(serialization.serialize_message(info))
    assert np.array_equal(message.K, camera("c").K)
