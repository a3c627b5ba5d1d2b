"""Episodes: what is written is read."""

import threading
from pathlib import Path

import numpy as np
import pytest
from episode_cases import DT, camera, color, depth, write_episode, write_foreign
from rosbags.rosbag2 import Reader

from physgym.errors import DataError
from recon import episode_messages as kinds
from recon.episode import Episode, EpisodeWriter
from recon.episode_index import match_stamps
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


def test_depth_that_is_not_aligned_is_said(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "bag", depth_part="depth/image_rect_raw")
    with pytest.warns(PhysGymWarning, match="align_depth.enable:=true"):
        episode = Episode.open(path)
    with episode:
        assert episode.frame("camera", 0).depth_m is None


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
