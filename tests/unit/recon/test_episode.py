"""Episodes: what is written is read, and so are other people's recordings."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from episode_cases import DT, H, W, camera, color, depth, write_episode, write_foreign
from rosbags.rosbag2 import CompressionMode, Reader, StoragePlugin, Writer

from physgym.errors import DataError
from recon import episode_messages as kinds
from recon.capture.calibration_file import Calibration, save_calibration
from recon.cdr import read_camera_info, read_image, read_joint_state, read_pose
from recon.episode import Episode, EpisodeWriter
from recon.episode_index import CameraTopics, match_stamps
from recon.tracks import PhysGymWarning, Tracks

# 16UC1 holds whole millimetres and the test's depth is whole: what is left is float32's rounding.
DEPTH_ROUNDING_M = 1e-6


def test_round_trip_is_exact(tmp_path: Path) -> None:
    with Episode.open(write_episode(tmp_path / "lift", start_s=50.0)) as episode:
        assert episode.losses == ()
        assert episode.name == "lift"
        assert episode.metadata == {"kind": "test"}
        assert list(episode.cameras) == ["cam0", "cam1"]
        for c, found in enumerate(episode.cameras.values()):
            meant = camera(f"cam{c}", c)
            assert found.serial == meant.serial
            assert np.array_equal(found.K, meant.K)
            # Through a quaternion and back: float64 rounding.
            assert np.allclose(found.T_world_cam, meant.T_world_cam, atol=1e-14)
            assert episode.frame_count(f"cam{c}") == 12
            for t, (stamp, rgb, depth_m) in enumerate(episode.frames(f"cam{c}")):
                # Stamps are whole nanoseconds.
                assert stamp == pytest.approx(t * DT + 1e-3 * c, abs=2e-9)
                assert np.array_equal(rgb, color(t, c))
                assert depth_m is not None
                assert depth_m.dtype == np.float32
                assert np.abs(depth_m - depth(t, c)).max() < DEPTH_ROUNDING_M
        assert episode.start_s == 50.0
        assert episode.duration_s == pytest.approx(11 * DT + 1e-3, abs=2e-9)


def test_it_is_a_rosbag2_folder_with_the_topics_of_realsense_ros(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "lift")
    with Reader(path) as reader:
        topics = {connection.topic: connection.msgtype for connection in reader.connections}
        latched = next(c for c in reader.connections if c.topic == "/tf_static").ext
    assert topics == {
        "/tf_static": kinds.TRANSFORMS,
        **{
            f"/camera/cam{c}/{part}/{end}": kind
            for c in range(2)
            for part in ("color", "aligned_depth_to_color")
            for end, kind in (("image_raw", kinds.IMAGE), ("camera_info", kinds.CAMERA_INFO))
        },
        "/gripper0/pose": kinds.POSE,
        "/gripper0/closed": kinds.BOOL,
        "/joint_states": kinds.JOINTS,
    }
    assert [qos.durability.name for qos in latched.offered_qos_profiles] == ["TRANSIENT_LOCAL"]
    assert (path / "lift.mcap").is_file()
    assert not (tmp_path / "lift.partial").exists()


def test_motion_and_masks(tmp_path: Path) -> None:
    with Episode.open(write_episode(tmp_path / "lift", start_s=3.0)) as episode:
        assert episode.grippers == (0,)
        assert episode.plates == ()
        pose = episode.gripper_pose(0)
        assert np.allclose(pose.time_s, DT * np.arange(12), atol=2e-9)
        assert np.allclose(pose.position[:, 0], 0.01 * np.arange(12), atol=1e-12)
        half = pose.at(2.5 * DT)
        # Halfway between two poses: 1e-6 is the stamps' rounding times the speed.
        assert half.position[0] == pytest.approx([0.025, 0.2, 0.3], abs=1e-6)
        assert half.quat_wxyz[0] == pytest.approx([np.cos(0.125), 0, 0, np.sin(0.125)], abs=1e-6)
        closed = episode.gripper_closed(0)
        assert closed.value.tolist() == [False] * 4 + [True] * 8
        assert closed.at([-1.0, 3.5 * DT, 4.5 * DT, 9.0]).tolist() == [False, False, True, True]
        joints = episode.joint_states()
        assert joints.names == ("a", "b")
        assert joints.position[3] == pytest.approx([0.3, 1.0])
        assert np.isnan(joints.effort).all()
        assert episode.mask_labels("cam1") == ("object",)
        mask = episode.mask("cam1", 5)
        assert mask is not None
        assert mask[5:14, 10:20].all()
        assert mask.sum() == 90
        assert episode.mask("cam1", 5, "hand") is None
        with pytest.raises(DataError, match="not recorded"):
            episode.gripper_pose(1)


def test_random_access_equals_reading_in_order(tmp_path: Path) -> None:
    with Episode.open(write_episode(tmp_path / "lift")) as episode:
        for number in (11, 0, 7, -1, 3):
            assert np.array_equal(episode.frame("cam1", number).rgb, color(number % 12, 1))
        middle = list(episode.frames("cam0", 4, 7))
        assert [np.array_equal(f.rgb, color(4 + i)) for i, f in enumerate(middle)] == [True] * 3
        assert list(episode.frames("cam0", 5, 5)) == []
        # Two readers of one file at a time do not disturb each other.
        for t, (a, b) in enumerate(zip(episode.frames("cam0"), episode.frames("cam1"))):
            assert np.array_equal(a.rgb, color(t))
            assert np.array_equal(b.rgb, color(t, 1))
        for bad in ((-1, 3), (5, 4), (0, 13)):
            with pytest.raises(DataError, match="frames"):
                list(episode.frames("cam0", *bad))
        with pytest.raises(DataError, match="no number 12"):
            episode.frame("cam0", 12)
        with pytest.raises(DataError, match="no camera 'cam7'"):
            episode.frame_count("cam7")


def test_synchronized_counts_what_it_drops(tmp_path: Path) -> None:
    cameras = [camera("a", 0), camera("b", 1)]
    with EpisodeWriter(tmp_path / "gaps", cameras) as writer:
        for t in range(20):
            writer.write_frame("a", t * DT, color(t), depth(t))
            if t not in (3, 4, 11):  # camera b loses three frames, and runs 4 ms late
                writer.write_frame("b", t * DT + 0.004, color(t, 1), depth(t, 1))
    with pytest.warns(PhysGymWarning, match="about 3 frames are missing"):
        episode = Episode.open(tmp_path / "gaps")
    with episode:
        sets = episode.synchronized()
        assert len(sets) == 17
        assert sets.dropped == {"a": 3, "b": 0}
        assert np.allclose(sets.skew_s, 0.004, atol=2e-9)
        kept = [t for t in range(20) if t not in (3, 4, 11)]
        for t, group in zip(kept, sets):
            assert group.stamp_s == pytest.approx(t * DT + 0.002, abs=2e-9)
            assert np.array_equal(group.frames["a"].rgb, color(t))
            assert np.array_equal(group.frames["b"].rgb, color(t, 1))
        assert np.array_equal(sets.at(-1).frames["b"].rgb, color(19, 1))
        tight = episode.synchronized(0.003)
        assert len(tight) == 0
        assert tight.dropped == {"a": 20, "b": 17}


def test_each_stamp_is_matched_once() -> None:
    mine, theirs = match_stamps(np.array([0, 10, 20, 30]), np.array([9, 12, 31]), 5)
    assert mine.tolist() == [1, 3]
    assert theirs.tolist() == [0, 2]
    # 10 and 12 both want 11; the nearer of them gets it, and only it
    mine, theirs = match_stamps(np.array([9, 12]), np.array([11]), 5)
    assert (mine.tolist(), theirs.tolist()) == ([1], [0])
    assert len(match_stamps(np.array([1]), np.zeros(0), 5)[0]) == 0


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


def test_depth_that_is_not_aligned_is_said(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "bag", depth_part="depth/image_rect_raw")
    with pytest.warns(PhysGymWarning, match="align_depth.enable:=true"):
        episode = Episode.open(path)
    with episode:
        assert episode.frame("camera", 0).depth_m is None


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


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no ROS name"):
        EpisodeWriter(tmp_path / "a", [camera("0123")])
    with pytest.raises(DataError, match="different names"):
        EpisodeWriter(tmp_path / "a", [camera("c"), camera("c")])
    assert not list(tmp_path.iterdir())
    with EpisodeWriter(tmp_path / "a", [camera("c")]) as writer:
        for rgb, deep in (
            (color(0)[:-1], depth(0)),
            (color(0).astype(np.float32), depth(0)),
            (color(0), depth(0)[:, :-1]),
        ):
            with pytest.raises(DataError, match="shape"):
                writer.write_frame("c", 0.0, rgb, deep)
        for stamp in (-1.0, np.nan, 1e12):
            with pytest.raises(DataError, match="stamp"):
                writer.write_frame("c", stamp, color(0), depth(0))
        with pytest.raises(DataError, match="no camera 'd'"):
            writer.write_frame("d", 0.0, color(0), depth(0))
        with pytest.raises(DataError, match="unit quaternion"):
            writer.write_gripper(0, 0.0, [0, 0, np.nan], [1, 0, 0, 0])
        writer.write_frame("c", 0.0, color(0), depth(0))
    with pytest.raises(DataError, match="exists already"):
        EpisodeWriter(tmp_path / "a", [camera("c")])
    with pytest.raises(DataError, match="closed"):
        writer.write_frame("c", 1.0, color(0), depth(0))


def test_an_episode_without_frames_is_refused(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "empty", [camera("c")]):
        pass
    with pytest.raises(DataError, match="no camera"):
        Episode.open(tmp_path / "empty")
    with EpisodeWriter(tmp_path / "still", [camera("c")]) as writer:
        writer.write_frame("c", 4.0, color(0), depth(0))
    with Episode.open(tmp_path / "still") as episode:
        assert episode.duration_s == 0.0
        assert len(episode.synchronized()) == 1


def test_ground_truth_moves_to_the_episodes_clock(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = Tracks(
        time_s=20.0 + DT * np.arange(4),
        position=rng.normal(size=(4, 6, 3)),
        visible=np.ones((4, 6), bool),
        driven_index=np.zeros(0, np.int64),
        name="truth",
    )
    with EpisodeWriter(tmp_path / "lift", [camera("c")]) as writer:
        for t in range(4):
            writer.write_frame("c", 20.0 + t * DT, color(t), depth(t))
        writer.set_ground_truth(truth)
    with Episode.open(tmp_path / "lift") as episode:
        found = episode.ground_truth()
        assert found is not None
        assert np.allclose(found.time_s, episode.stamps_s("c"), atol=2e-9)
        assert np.array_equal(found.position, truth.position)
    with Episode.open(write_episode(tmp_path / "other", frames=1)) as episode:
        assert episode.ground_truth() is None


def test_threads_may_write_at_once(tmp_path: Path) -> None:
    cameras = [camera(f"c{n}", n) for n in range(3)]

    def record(writer: EpisodeWriter, n: int) -> None:
        for t in range(25):
            writer.write_frame(f"c{n}", t * DT, color(t, n), depth(t, n))

    with EpisodeWriter(tmp_path / "lift", cameras) as writer:
        threads = [threading.Thread(target=record, args=(writer, n)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Episode.open(tmp_path / "lift") as episode:
        assert episode.losses == ()
        for group, t in zip(episode.synchronized(), range(25)):
            for n in range(3):
                assert np.array_equal(group.frames[f"c{n}"].rgb, color(t, n))


def test_a_depth_of_float_or_of_millimetres_is_the_same(tmp_path: Path) -> None:
    metres = depth(0)
    metres[0, :6] = [np.nan, np.inf, -1.0, 70.0, 0.0, 65.535]
    millimetres = np.round(np.nan_to_num(metres, nan=0, posinf=0) * 1e3).astype(np.int64)
    millimetres[(millimetres < 0) | (millimetres > 65535)] = 0
    for number, value in enumerate((metres, millimetres.astype(np.uint16))):
        with EpisodeWriter(tmp_path / str(number), [camera("c")]) as writer:
            writer.write_frame("c", 0.0, color(0), value)
        with Episode.open(tmp_path / str(number)) as episode:
            found = episode.frame("c", 0).depth_m
            assert found is not None
            assert np.array_equal(found, millimetres.astype(np.float32) * np.float32(1e-3))


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
