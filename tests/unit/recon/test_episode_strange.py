"""Other people's recordings with what goes wrong in them: clocks, frames, types, intrinsics."""

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from episode_cases import DT, H, Recorder, W, camera, color, write_episode

from physgym.errors import DataError
from recon import episode_messages as kinds
from recon.episode import Episode
from recon.tracks import PhysGymWarning

S = 10**9
DEPTH_ROUNDING_M = 1e-6  # whole millimetres in float32


def opened(path: Path, **options: Any) -> Episode:
    """An episode, whatever it has lost."""
    options.setdefault("allow_uncalibrated", "calibration" not in options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhysGymWarning)
        return Episode.open(path, **options)


def said(episode: Episode) -> str:
    return "; ".join(episode.losses)


def place(z: float) -> np.ndarray:
    T = np.eye(4)
    T[2, 3] = z
    return T


# Topics and types


def test_a_topic_without_messages_does_not_hide_one_with(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        bag.announce("/c/color/image_raw", kinds.IMAGE)
        bag.announce("/c/aligned_depth_to_color/image_raw", kinds.IMAGE)
        bag.info(S)
        _, png = cv2.imencode(".png", color(0)[..., ::-1])
        bag.typed(
            "/c/color/image_raw/compressed", kinds.COMPRESSED, S,
            bag.make._header(S, "optical"), "rgb8; png compressed bgr8", png,
        )  # fmt: skip
    with opened(tmp_path / "bag") as episode:
        assert "/c/aligned_depth_to_color/image_raw: no messages" in said(episode)
        frame = episode.frame("c", 0)
        assert np.array_equal(frame.rgb, color(0))
        assert frame.depth_m is None


def test_only_announced_images_are_an_error_that_says_so(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        bag.announce("/c/color/image_raw", kinds.IMAGE)
        bag.info(S)
    with pytest.raises(DataError, match=r"/c/color/image_raw \(no messages\)"):
        Episode.open(tmp_path / "bag")


def test_two_types_on_a_topic(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        for t in range(4):
            bag.frame(t)
        for t in range(2):
            raw = bag.make.boolean(True)
            bag.put("/c/color/image_raw", kinds.BOOL, 101 * S + t, raw)
    with opened(tmp_path / "bag") as episode:
        assert episode.frame_count("c") == 4
        assert "/c/color/image_raw: 2 messages of another type, std_msgs/msg/Bool" in said(episode)
        assert np.array_equal(episode.frame("c", 3).rgb, color(3))


def test_depth_alone_is_no_episode(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        raw = bag.make.image(S, "o", "16UC1", np.ones((H, W), np.uint16))
        bag.put("/c/depth/image_rect_raw", kinds.IMAGE, S, raw)
    with pytest.raises(DataError, match="no camera; image topics: /c/depth/image_rect_raw"):
        Episode.open(tmp_path / "bag")


def test_depth_at_another_rate_and_at_another_size(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        for t in range(8):
            stamp = round((100 + t * DT) * 1e9)
            raw = bag.make.image(stamp, "optical", "rgb8", color(t))
            bag.put("/c/color/image_raw", kinds.IMAGE, stamp, raw)
            if t % 2 == 0:
                deep = np.full((H, W), 100 + t, np.uint16)
                raw = bag.make.image(stamp + 5 * 10**6, "optical", "16UC1", deep)
                bag.put("/c/aligned_depth_to_color/image_raw", kinds.IMAGE, stamp, raw)
            raw = bag.make.image(stamp, "o", "16UC1", np.ones((H // 2, W), np.uint16))
            bag.put("/d/aligned_depth_to_color/image_raw", kinds.IMAGE, stamp, raw)
            raw = bag.make.image(stamp, "o", "rgb8", color(t))
            bag.put("/d/color/image_raw", kinds.IMAGE, stamp, raw)
        bag.info(S)
        bag.info(S, root="/d")
    with opened(tmp_path / "bag") as episode:
        assert list(episode.cameras) == ["c"]
        assert "d: left out, none of its depth images can be used" in said(episode)
        assert "c: 4 colour images have no partner" in said(episode)
        for n, frame in enumerate(episode.frames("c")):
            assert np.array_equal(frame.rgb, color(2 * n))
            assert frame.depth_m is not None
            assert frame.depth_m[0, 0] == pytest.approx(0.1 + 2e-3 * n, abs=DEPTH_ROUNDING_M)


# Clocks


def test_images_before_the_clock_was_known_are_left_out(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        for t in range(6):
            bag.frame(t, stamp_ns=0 if t < 2 else None)
    with opened(tmp_path / "bag") as episode:
        assert episode.frame_count("c") == 4
        assert episode.duration_s == pytest.approx(3 * DT, abs=2e-9)  # whole nanoseconds
        assert "2 images left out, their stamp is 0" in said(episode)
        assert np.array_equal(episode.frame("c", 0).rgb, color(2))


def test_a_clock_that_is_set_back_does_not_mix_two_runs(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        for t in range(15):  # a simulator that starts again after 5 frames, at another phase
            stamp = 50 * S + t * 10**8 if t < 5 else 45 * S + t * 10**8 + 5 * 10**7
            bag.frame(t, stamp_ns=stamp, log_ns=10**18 + t * 10**8)
            raw = bag.make.pose(stamp, "", np.array([t, 0.0, 0.0]), np.array([0.0, 0, 0, 1]))
            bag.put("/gripper0/pose", kinds.POSE, 10**18 + t * 10**8, raw)
            closed = bag.make.boolean(t >= 8)
            bag.put("/gripper0/closed", kinds.BOOL, 10**18 + t * 10**8, closed)
        for t in range(7, 15):  # a camera that began after the reset
            bag.frame(
                t, stamp_ns=45 * S + t * 10**8 + 5 * 10**7, log_ns=10**18 + t * 10**8, root="/d"
            )
    with opened(tmp_path / "bag") as episode:
        assert "5 images left out, the clock was set back" in said(episode)
        assert np.allclose(episode.stamps_s("c"), 0.1 * np.arange(10), atol=1e-9)
        for t, frame in enumerate(episode.frames("c")):
            assert np.array_equal(frame.rgb, color(5 + t))
        assert episode.frame_count("d") == 8
        assert len(episode.synchronized()) == 8
        assert episode.gripper_pose(0).position[:, 0].tolist() == list(range(5, 15))
        closed = episode.gripper_closed(0)
        assert closed.value.tolist() == [t >= 8 for t in range(5, 15)]
        # The log's clock is carried over to the stamps' by their median distance.
        assert np.allclose(closed.time_s, 0.1 * np.arange(10), atol=1e-6)


def test_a_clock_that_jumps_ahead_is_said_in_seconds(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        for t in range(10):
            bag.frame(t, stamp_ns=1000 * S + t * 10**8 + (t >= 4) * 3600 * S)
    with opened(tmp_path / "bag") as episode:
        assert "a gap of 3600 s between the stamps" in said(episode)
        assert "frames are missing" not in said(episode)
        assert episode.frame_count("c") == 10


def test_images_recorded_out_of_order_come_in_the_order_of_their_stamps(tmp_path: Path) -> None:
    order = [1, 0, 2, 5, 3, 4, 7, 6]
    with Recorder(tmp_path / "bag") as bag:
        for row, t in enumerate(order):
            bag.frame(t, log_ns=200 * S + row)
    with opened(tmp_path / "bag") as episode:
        for t, frame in enumerate(episode.frames("c")):
            assert np.array_equal(frame.rgb, color(t))
        assert t == 7


# Frames


def test_a_chain_of_frames_published_in_pieces_and_again(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        for _ in range(2):  # latched publishers repeat themselves
            bag.tree("camera_link", "optical", place(0.25))
            bag.tree("map", "base", place(1.0))
        bag.tree("base", "camera_link", place(0.5))
        bag.frame(0)
        raw = bag.make.pose(100 * S, "/base", np.array([0.0, 0.0, 2.0]), np.array([0.0, 0, 0, 1]))
        bag.put("/robot/plate3/pose", kinds.POSE, 100 * S, raw)
    with opened(tmp_path / "bag") as episode:
        assert episode.losses == (
            "/tf_static has no 'world'; 'map' is the world, and its z must point up",
        )
        assert episode.cameras["c"].position.tolist() == [0.0, 0.0, 1.75]
        assert episode.plates == (3,)
        assert episode.plate_pose(3).position.tolist() == [[0.0, 0.0, 3.0]]
    with opened(tmp_path / "bag", world_frame="/base") as episode:
        assert episode.losses == ()
        assert episode.cameras["c"].position.tolist() == [0.0, 0.0, 0.75]


def test_transforms_that_change_or_are_none(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        bag.tree("world", "optical", place(0.5))
        bag.tree("world", "optical", place(0.8))
        vector = bag.make._typed("geometry_msgs/msg/Vector3", np.zeros(3))
        nothing = bag.make._typed("geometry_msgs/msg/Quaternion", np.zeros(4))
        types = bag.make.store.types
        transform = types["geometry_msgs/msg/Transform"](vector, nothing)
        stamped = types["geometry_msgs/msg/TransformStamped"]
        tool = stamped(bag.make._header(1, "flange"), "tool", transform)
        bag.typed("/tf_static", kinds.TRANSFORMS, 2, [tool])
        bag.frame(0)
    with opened(tmp_path / "bag") as episode:
        assert episode.cameras["c"].position[2] == 0.8
        assert "'world' to 'optical' changes, the last one counts" in said(episode)
        assert "'flange' to 'tool' is no transform" in said(episode)


def test_a_camera_that_stood_still_on_tf_is_placed_and_a_moving_one_is_not(tmp_path: Path) -> None:
    for name, speed in (("still", 0.0), ("moving", 0.01)):
        with Recorder(tmp_path / name) as bag:
            bag.tree("camera_link", "optical", place(0.25))
            for t in range(5):
                bag.tree("world", "camera_link", place(1.0 + speed * t), "/tf")
                bag.tree("world", "robot_hand", place(0.1 * t), "/tf")
                bag.frame(t)
    with opened(tmp_path / "still", allow_uncalibrated=False) as episode:
        assert episode.cameras["c"].position.tolist() == [0.0, 0.0, 1.25]
        assert "/tf: 1 of its transforms stood still and are used" in said(episode)
    with pytest.raises(DataError, match="moving on /tf: camera_link, robot_hand"):
        opened(tmp_path / "moving", allow_uncalibrated=False)


def test_the_drivers_own_tree_does_not_tell_where_the_camera_stood(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        bag.tree("camera_link", "camera_color_optical_frame", place(0.01))
        raw = bag.make.image(S, "camera_color_optical_frame", "rgb8", color(0))
        bag.put("/camera/color/image_raw", kinds.IMAGE, S, raw)
        header = bag.make._header(S, "camera_color_optical_frame")
        bag.info(S, root="/camera", header=header)
    with pytest.raises(DataError, match="nothing says where camera stood"):
        opened(tmp_path / "bag", allow_uncalibrated=False)
    # Whoever means it says so.
    with opened(tmp_path / "bag", allow_uncalibrated=False, world_frame="camera_link") as episode:
        assert episode.cameras["camera"].position[2] == 0.01


def test_poses_in_a_frame_of_unknown_place_are_refused(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        bag.tree("base", "optical", place(0.5))
        bag.frame(0)
        for number, frame in enumerate(("world", "base", "")):
            raw = bag.make.pose(100 * S, frame, np.ones(3), np.array([0.0, 0, 0, 1]))
            bag.put(f"/gripper{number}/pose", kinds.POSE, 100 * S, raw)
    with opened(tmp_path / "bag") as episode:  # the world is "base" here, which is not "world"
        with pytest.raises(DataError, match="poses are given in frame 'world'"):
            episode.gripper_pose(0)
        for number in (1, 2):
            assert episode.gripper_pose(number).position.tolist() == [[1.0, 1.0, 1.0]]
    file = tmp_path / "cell.yaml"
    file.write_text(yaml.safe_dump({"cameras": {"c": camera("c").to_plain()}}))
    with opened(tmp_path / "bag", calibration=file) as episode:  # and the file's world is "world"
        assert episode.gripper_pose(0).position.tolist() == [[1.0, 1.0, 1.0]]
        with pytest.raises(DataError, match="poses are given in frame 'base'"):
            episode.gripper_pose(1)
    with opened(tmp_path / "bag", calibration=file, world_frame="base") as episode:
        assert episode.gripper_pose(1).position.tolist() == [[1.0, 1.0, 1.0]]


def test_a_calibration_is_found_by_serial_number(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "lift", frames=2)
    file = tmp_path / "cell.yaml"
    entries = [{"name": f"other{n}", "serial": f"S{n}", "T_world_cam": place(n + 1.0).tolist()}
               for n in range(2)]  # fmt: skip
    file.write_text(yaml.safe_dump({"cameras": entries}))
    with opened(path, calibration=file) as episode:
        assert [c.position[2] for c in episode.cameras.values()] == [1.0, 2.0]


# Motion


def test_motion_without_stamps_and_without_directions(tmp_path: Path) -> None:
    upright = np.array([0.0, 0, 0, 1])
    with Recorder(tmp_path / "bag") as bag:
        for t in range(6):
            log = round((100 + t * DT) * 1e9)
            bag.frame(t)
            bad = t == 2
            quat = np.zeros(4) if bad else upright
            raw = bag.make.pose(0, "", np.array([0.1 * t, 0.0, 0.0]), quat)
            bag.put("/left/gripper0/pose", kinds.POSE, log, raw)
            raw = bag.make.pose(log, "", np.array([np.nan if bad else 7.0, 0.0, 0.0]), upright)
            bag.put("/right/gripper0/pose", kinds.POSE, log, raw)
            none = np.zeros(0)
            raw = bag.make.joints(0, ["a"], np.array([float(t)]), none, none)
            bag.put("/joint_states", kinds.JOINTS, log, raw)
        bag.put("/gripper0/closed", kinds.BOOL, 90 * S, bag.make.boolean(True))  # once, latched
    with opened(tmp_path / "bag") as episode:
        pose = episode.gripper_pose(0)
        kept = np.array([0, 1, 3, 4, 5])
        assert np.allclose(pose.time_s, DT * kept, atol=2e-9)
        assert np.allclose(pose.position[:, 0], 0.1 * kept)
        assert np.allclose(episode.joint_states().time_s, DT * np.arange(6), atol=2e-9)
        assert episode.gripper_closed(0).at(pose.time_s).all()
        for text in (
            "/left/gripper0/pose: 1 messages hold no pose",
            "/right/gripper0/pose: 1 messages hold no pose",
            "/right/gripper0/pose: left out, /left/gripper0/pose has the same name",
        ):
            assert text in said(episode)


# Intrinsics


def test_a_camera_info_that_is_not_filled_in(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        for root in ("/c", "/d"):
            bag.info(1, root=root, k=np.zeros(9))
            bag.frame(0, root=root)  # with good intrinsics
        bag.info(1, root="/e", k=np.zeros(9))
        raw = bag.make.image(100 * S, "optical", "rgb8", color(0))
        bag.put("/e/color/image_raw", kinds.IMAGE, 100 * S, raw)
    with opened(tmp_path / "bag") as episode:
        assert list(episode.cameras) == ["c", "d"]
        assert np.array_equal(episode.cameras["c"].K, camera("c").K)
        assert "e: left out, it has a CameraInfo without K" in said(episode)


@pytest.mark.parametrize(
    ("model", "distortion", "usable"),
    [
        ("plumb_bob", [0.1, -0.2, 0.001, 0.002, 0.05], True),
        ("plumb_bob", [0.1, -0.2, 0.001, 0.002], True),
        ("plumb_bob", [], True),
        ("rational_polynomial", [0.1, -0.2, 0.001, 0.002, 0.05, 0.0, 0.0, 0.0], True),
        ("rational_polynomial", [0.1, -0.2, 0.001, 0.002, 0.05, 0.3, 0.0, 0.0], False),
        ("inverse_brown_conrady", [0.0] * 5, True),
        ("inverse_brown_conrady", [0.1, 0.0, 0.0, 0.0, 0.0], False),
        ("equidistant", [0.0] * 4, False),  # a fisheye bends without coefficients, too
        ("", [], True),
    ],
)
def test_distortion_models(
    tmp_path: Path, model: str, distortion: list[float], usable: bool
) -> None:
    with Recorder(tmp_path / "bag") as bag:
        bag.info(1, distortion_model=model, d=np.array(distortion))
        bag.frame(0)
    if not usable:
        with pytest.raises(DataError, match=f"distortion model '{model}'"):
            opened(tmp_path / "bag")
        return
    with opened(tmp_path / "bag") as episode:
        meant = [*distortion, 0.0, 0.0, 0.0, 0.0, 0.0][:5]
        assert episode.cameras["c"].distortion.tolist() == meant


def test_rectified_images_have_the_intrinsics_of_rectified_images(tmp_path: Path) -> None:
    P = np.array([[70.0, 0, 30, 0], [0, 71, 20, 0], [0, 0, 1, 0]])
    with Recorder(tmp_path / "bag") as bag:
        bag.info(1, d=np.array([0.1, 0.2, 0.0, 0.0, 0.0]), p=P.reshape(-1))
        raw = bag.make.image(S, "optical", "rgb8", color(0))
        bag.put("/c/color/image_rect_raw", kinds.IMAGE, S, raw)
    with opened(tmp_path / "bag") as episode:
        assert np.array_equal(episode.cameras["c"].K, P[:, :3])
        assert not episode.cameras["c"].distortion.any()


# Beside the bag


def test_the_folder_one_stands_in_and_what_lies_beside_the_bag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_episode(tmp_path / "lift", frames=3)
    monkeypatch.chdir(path)
    with Episode.open(".") as episode:
        assert episode.name == "lift"
        assert episode.mask("cam0", -1) is not None
        with pytest.raises(DataError, match="no number 3"):
            episode.mask("cam0", 3)
    sidecar = path / "physgym.json"
    for broken in ('"serials": [1]', '"serials": null', '"metadata": 3', '"name": ["x"]'):
        sidecar.write_text('{"format": "physgym-episode", "version": 1, ' + broken + "}")
        with Episode.open(path) as episode:
            assert episode.name == "lift"
            assert episode.metadata == {}
