"""Camera and recorder as processes over DDS: nothing is lost, and what is missing is said."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

# Read when a message class is first imported, here and in the child processes.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
pytest.importorskip("rclpy", reason="rclpy is not installed")
harness = pytest.importorskip("physgym_ros.harness", reason="physgym_ros is not installed")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "recon"))
from episode_cases import DT, H, W, camera, color, depth, write_episode
from rclpy.qos import ReliabilityPolicy
from ros_capture_client import Client, ForeignCamera, recorded, start, start_recorder

from recon.episode import Episode

pytestmark = [pytest.mark.ros, pytest.mark.slow]

# Import, discovery and the first picture take 2-3 s; a loaded machine ten times that.
PATIENCE_S = 40.0
START_S = 1000.0
FRAMES = 60


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """2 s of two small cameras at 30 Hz, a gripper and joints."""
    folder = tmp_path_factory.mktemp("source") / "replayed"
    return write_episode(folder, frames=FRAMES, start_s=START_S)


def _assert_same_pictures(found: Episode, name: str, wanted: Episode, wanted_name: str) -> None:
    """Every picture of the one is in the other, at the same time on the recording's clock."""
    stamps = wanted.stamps_s(wanted_name) + wanted.start_s
    for number, frame in enumerate(found.frames(name)):
        # 1 us: seconds pass through doubles; a frame period is 33 000 times as long.
        place = np.flatnonzero(np.abs(stamps - (frame.stamp_s + found.start_s)) < 1e-6)
        assert len(place) == 1, f"picture {number} at {frame.stamp_s + found.start_s} s"
        original = wanted.frame(wanted_name, int(place[0]))
        np.testing.assert_array_equal(frame.rgb, original.rgb)
        np.testing.assert_array_equal(frame.depth_m, original.depth_m)


def test_a_replay_is_recorded_whole_and_bit_for_bit(tmp_path, source):
    domain = harness.fresh_domain()
    (tmp_path / "about.json").write_text('{"object": {"mass_kg": 0.2}}')
    about = str(tmp_path / "about.json")
    with (
        start_recorder(tmp_path, domain, autostart=True, metadata=about) as recorder,
        start("camera", tmp_path, domain, source=str(source), await_subscribers=1) as replay,
    ):
        assert replay.process.wait(timeout=PATIENCE_S) == 0, replay.tail()
        assert recorder.interrupt() == 0, recorder.tail()
    with Episode.open(source) as wanted, Episode.open(recorded(tmp_path)) as found:
        assert not found.losses
        assert found.metadata["recording"]["frames"] == {"cam0": FRAMES, "cam1": FRAMES}
        assert found.metadata["object"] == {"mass_kg": 0.2}
        for name, original in wanted.cameras.items():
            assert found.frame_count(name) == FRAMES
            _assert_same_pictures(found, name, wanted, name)
            np.testing.assert_array_equal(found.cameras[name].K, original.K)
            np.testing.assert_array_equal(found.cameras[name].distortion, original.distortion)
            # 1e-12: the rotation passes through a quaternion in doubles.
            np.testing.assert_allclose(
                found.cameras[name].T_world_cam, original.T_world_cam, atol=1e-12
            )
        pose, was = found.gripper_pose(0), wanted.gripper_pose(0)
        np.testing.assert_allclose(pose.time_s, was.time_s, atol=1e-6)
        np.testing.assert_array_equal(pose.position, was.position)
        np.testing.assert_array_equal(
            found.gripper_closed(0).at(pose.time_s), wanted.gripper_closed(0).at(was.time_s)
        )
        joints = found.joint_states()
        assert joints.names == ("a", "b")
        np.testing.assert_array_equal(joints.position, wanted.joint_states().position)


def test_start_and_stop_by_service(tmp_path, source):
    domain = harness.fresh_domain()
    with (
        start_recorder(tmp_path, domain) as recorder,
        start("camera", tmp_path, domain, source=str(source), loop=True) as replay,
        Client(domain) as client,
    ):
        alive = [recorder, replay]
        ready = client.wait(
            lambda: client.value("recorder", "cam1") == "ready", timeout_s=PATIENCE_S, alive=alive
        )
        assert ready, recorder.tail()
        assert not client.call("/recorder/stop").success
        first = client.call("/recorder/start")
        assert first.success
        second = client.call("/recorder/start")
        assert not second.success
        assert first.message in second.message
        # More than a round of the loop: stamps must go on over its end.
        enough = client.wait(lambda: client.frames("cam0") >= FRAMES + 15, alive=alive)
        assert enough, recorder.tail()
        answer = client.call("/recorder/stop")
        assert answer.success, answer.message
        told = json.loads(answer.message)
        again = client.call("/recorder/start")  # and once more with the same node
        assert again.success
        more = client.wait(
            lambda: (
                client.value("recorder", "episode") == again.message and client.frames("cam1") >= 3
            ),
            alive=alive,
        )
        assert more, recorder.tail()
        assert client.call("/recorder/stop").success
        assert (replay.interrupt(), recorder.interrupt()) == (0, 0)
    assert told["episode"] == first.message
    with Episode.open(source) as wanted, Episode.open(first.message) as found:
        for name in wanted.cameras:
            assert told["frames"][name] == found.frame_count(name)
            # None is missing in between: the stamps are a frame apart, also over the loop's end.
            # 2 ms: where the loop closes, a camera that is 1 ms late meets the period.
            np.testing.assert_allclose(np.diff(found.stamps_s(name)), DT, atol=2e-3)
            stamps = found.stamps_s(name) + found.start_s - START_S
            for number in (0, found.frame_count(name) - 1):
                original = wanted.frame(name, round(stamps[number] / DT) % FRAMES)
                np.testing.assert_array_equal(found.frame(name, number).rgb, original.rgb)
    assert Path(again.message).is_dir()
    with Episode.open(again.message) as found:
        assert set(found.cameras) == {"cam0", "cam1"}


def test_a_camera_comes_late_dies_and_comes_back(tmp_path, source):
    one = write_episode(tmp_path / "one", frames=30, cameras=1)
    domain = harness.fresh_domain()

    def late(log: str):
        options = {"camera_namespace": "late", "source": str(one), "loop": True, "restamp": True}
        return start("camera", tmp_path, domain, log=log, **options)

    steady = {"source": str(source), "loop": True, "restamp": True}
    with (
        start_recorder(tmp_path, domain, autostart=True) as recorder,
        start("camera", tmp_path, domain, **steady) as first,
        Client(domain) as client,
    ):
        alive = [recorder, first]
        assert client.wait(lambda: client.frames("cam1") > 5, timeout_s=PATIENCE_S, alive=alive)
        with late("second") as second:
            came = client.wait(lambda: client.frames("late_cam0") > 10, timeout_s=PATIENCE_S)
            assert came, recorder.tail() + second.tail()
            second.kill()
            word = "recorder: late_cam0"
            silent = client.wait(
                lambda: "has sent nothing for" in client.words[word].text, alive=alive
            )
            assert silent, recorder.tail()
            assert client.words[word].level == 2
            before = client.frames("cam0")
            assert client.wait(lambda: client.frames("cam0") > before + 10, alive=alive)
        kept = client.frames("late_cam0")
        with late("third"):
            back = client.wait(lambda: client.frames("late_cam0") > kept, timeout_s=PATIENCE_S)
            assert back, recorder.tail()
        answer = client.call("/recorder/stop")
    assert answer.success
    told = json.loads(answer.message)
    outages = told["cameras"]["late_cam0"]["outages"]
    assert outages
    assert max(to_s - from_s for from_s, to_s in outages) > 1.0  # silence_s
    assert any("late_cam0" in text for text in told["problems"])
    assert "late_cam0: it has sent nothing for" in recorder.log.read_text()
    with pytest.warns(UserWarning, match="missing"):
        found = Episode.open(told["episode"])
    with found:
        assert set(found.cameras) == {"cam0", "cam1", "late_cam0"}
        for name, count in told["frames"].items():
            assert found.frame_count(name) == count
            assert found.frame(name, -1).depth_m.max() > 0
        for name, number in (("cam0", 0), ("cam1", 1), ("late_cam0", 0)):
            place = camera("any", number).T_world_cam
            np.testing.assert_allclose(found.cameras[name].T_world_cam, place, atol=1e-12)


def test_sigterm_in_a_recording_leaves_a_whole_episode(tmp_path, source):
    domain = harness.fresh_domain()
    with (
        start_recorder(tmp_path, domain, autostart=True) as recorder,
        start("camera", tmp_path, domain, source=str(source), loop=True) as replay,
        Client(domain) as client,
    ):
        alive = [recorder, replay]
        assert client.wait(lambda: client.frames("cam1") > 10, timeout_s=PATIENCE_S, alive=alive)
        recorder.process.send_signal(signal.SIGTERM)
        assert recorder.process.wait(timeout=10.0) == 0, recorder.tail()
    with Episode.open(recorded(tmp_path)) as found:
        assert found.metadata["recording"]["frames"]["cam1"] == found.frame_count("cam1")
        assert found.frame_count("cam1") > 10


def test_a_recorder_that_is_killed_leaves_what_it_wrote(tmp_path, source):
    domain = harness.fresh_domain()
    with (
        start_recorder(tmp_path, domain, autostart=True) as recorder,
        start("camera", tmp_path, domain, source=str(source), loop=True) as replay,
        Client(domain) as client,
    ):
        alive = [recorder, replay]
        # A chunk of the file holds 1 MB: some 50 of these pictures.
        assert client.wait(lambda: client.frames("cam1") > 90, timeout_s=PATIENCE_S, alive=alive)
        recorder.kill()
    (partial,) = (tmp_path / "out").iterdir()
    assert partial.name.endswith(".partial")
    with pytest.warns(UserWarning, match="did not finish"):
        found = Episode.open(partial)
    with found, Episode.open(source) as wanted:
        assert found.frame_count("cam1") > 40
        last = found.frame("cam1", -1)
        number = round((last.stamp_s + found.start_s - START_S) / DT) % FRAMES
        np.testing.assert_array_equal(last.rgb, wanted.frame("cam1", number).rgb)


def test_foreign_images_are_taken_and_unusable_ones_named(tmp_path):
    """Best effort, BGR, depth in metres as 32FC1; a place that was said before anybody listened."""
    domain = harness.fresh_domain()
    with Client(domain) as client:
        own = camera("theirs", 1)
        driver = ForeignCamera(client, own, root="/lab/theirs")
        driver.say_place()  # latched: the recorder joins later
        with start_recorder(tmp_path, domain) as recorder:
            assert client.wait(driver.heard, timeout_s=PATIENCE_S, alive=[recorder])
            assert client.call("/recorder/start").success
            metres = np.where(depth(0) > 0, depth(0), np.float32(np.nan))
            for number in range(5):
                bgr = np.ascontiguousarray(color(number)[..., ::-1])
                driver.send(50.0 + number * DT, (bgr, "bgr8"), (metres, "32FC1"))
            assert client.wait(lambda: client.frames("theirs") == 5, alive=[recorder])
            wrong = np.zeros((H, W, 3), np.uint8)
            driver.send(51.0, (wrong, "rgb8"), (wrong[..., 0], "8UC1"))
            refused = client.wait(
                lambda: "encoding '8UC1'" in client.words["recorder: theirs"].text,
                alive=[recorder],
            )
            assert refused, recorder.tail()
            told = json.loads(client.call("/recorder/stop").message)
    assert told["frames"] == {"theirs": 5}
    with Episode.open(told["episode"]) as found:
        np.testing.assert_allclose(found.cameras["theirs"].T_world_cam, own.T_world_cam, atol=1e-12)
        for number, frame in enumerate(found.frames("theirs")):
            np.testing.assert_array_equal(frame.rgb, color(number))
            # depth() holds whole millimetres, and so does an episode.
            np.testing.assert_array_equal(frame.depth_m, depth(0))


def test_a_driver_that_comes_back_with_less_reliability_is_heard_again(tmp_path):
    domain = harness.fresh_domain()
    millimetres = (depth(0) * 1000).round().astype(np.uint16)
    with Client(domain) as client, start_recorder(tmp_path, domain) as recorder:
        for round_, kind in enumerate((ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT)):
            driver = ForeignCamera(client, camera("it"), root="/lab/it", reliability=kind)
            driver.say_place()
            assert client.wait(driver.heard, timeout_s=PATIENCE_S, alive=[recorder])
            if round_ == 0:
                assert client.call("/recorder/start").success
            for number in range(4):
                stamp_s = 10.0 * (1 + round_) + number * DT
                driver.send(stamp_s, (color(number), "rgb8"), (millimetres, "16UC1"))
            wanted = 4 * (1 + round_)
            heard = client.wait(lambda n=wanted: client.frames("it") == n, alive=[recorder])
            assert heard, recorder.tail()
            driver.close()
        assert client.call("/recorder/stop").success


@pytest.mark.parametrize(
    ("node", "parameters", "said"),
    [
        ("camera", {}, "no source"),
        ("camera", {"source": "/nowhere/at/all"}, "no such file"),
        ("camera", {"source": "simulated", "kind": "cloud"}, "SoftCellConfig.kind"),
        ("recorder", {"metadata": "/nowhere/at/all"}, "parameter metadata of node recorder"),
        ("recorder", {"calibration": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
)
def test_wrong_parameters_end_a_node_with_a_reason(tmp_path, node, parameters, said):
    with start(node, tmp_path, harness.fresh_domain(), **parameters) as process:
        assert process.process.wait(timeout=PATIENCE_S) != 0
        assert said in process.tail()


def test_a_camera_without_a_place_is_not_recorded_unless_that_is_wanted(tmp_path):
    domain = harness.fresh_domain()
    with Client(domain) as client:
        driver = ForeignCamera(client, camera("lost"), root="/lab/lost")
        pixels = (color(0), "rgb8"), ((depth(0) * 1000).round().astype(np.uint16), "16UC1")
        with start_recorder(tmp_path, domain) as recorder:
            assert client.wait(driver.heard, timeout_s=PATIENCE_S, alive=[recorder])
            assert client.call("/recorder/start").success
            driver.send(5.0, *pixels)
            unplaced = client.wait(lambda: client.value("recorder: lost", "unplaced") == "1")
            assert unplaced, recorder.tail()
            answer = client.call("/recorder/stop")
        assert not answer.success
        assert "its place is unknown: no transform from 'world' to 'lost_optical'" in answer.message
        assert not (tmp_path / "out").exists()
        with start_recorder(tmp_path, domain, allow_uncalibrated=True) as recorder:
            assert client.wait(driver.heard, timeout_s=PATIENCE_S, alive=[recorder])
            assert client.call("/recorder/start").success
            driver.send(6.0, *pixels)
            assert client.wait(lambda: client.frames("lost") == 1), recorder.tail()
            told = json.loads(client.call("/recorder/stop").message)
    with pytest.raises(Exception, match="nothing says where lost stood"):
        Episode.open(told["episode"])
    with (
        pytest.warns(UserWarning, match="lost"),
        Episode.open(told["episode"], allow_uncalibrated=True) as found,
    ):
        np.testing.assert_array_equal(found.frame("lost", 0).rgb, color(0))
