"""Live recordings: late, silent and strange cameras, full queues and full disks, without ROS."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from episode_cases import DT, H, W, camera, color, depth

from physgym.errors import DataError
from recon.capture import recording as module
from recon.capture.recording import LiveRecording, RecordingConfig
from recon.cdr import ImageMsg, read_image
from recon.episode import Episode
from recon.episode_messages import MessageFactory

MAKE = MessageFactory()
QUAT = np.array([1.0, 0.0, 0.0, 0.0])


def _image(stamp_s: float, pixels: np.ndarray, encoding: str = "rgb8") -> ImageMsg:
    return read_image(MAKE.image(round(stamp_s * 1e9), "optical", encoding, pixels))


def _millimetres(number: int) -> np.ndarray:
    return np.round(depth(number) * 1e3).astype(np.uint16)


def _send(recording: LiveRecording, name: str, number: int, *, late_s: float = 0.0) -> None:
    stamp_s = 10.0 + number * DT
    recording.image(name, _image(stamp_s, color(number)))
    deep = _image(stamp_s + late_s, _millimetres(number), "16UC1")
    recording.image(name, deep, depth=True)


def _until(recording: LiveRecording, name: str, frames: int) -> None:
    end_s = time.monotonic() + 20.0
    while recording.report().frames.get(name, 0) < frames:
        assert time.monotonic() < end_s, recording.report()
        time.sleep(0.002)


def test_a_camera_that_comes_late_has_its_place_and_all_pictures(tmp_path):
    recording = LiveRecording(tmp_path / "e", metadata={"who": "test"})
    recording.place(camera("first", 0))
    for number in range(6):
        _send(recording, "first", number)
    _until(recording, "first", 6)
    # Pictures before the place: they wait for it.
    for number in range(6, 9):
        _send(recording, "second", number, late_s=0.004)
    recording.place(camera("second", 1))
    _until(recording, "second", 3)
    report = recording.stop()
    assert report.problems() == []
    with Episode.open(report.path) as found:
        assert {name: found.frame_count(name) for name in found.cameras} == report.frames
        assert found.metadata["who"] == "test"
        assert found.metadata["recording"]["frames"] == {"first": 6, "second": 3}
        for number, name in enumerate(("first", "second")):
            place = camera("any", number).T_world_cam
            # 1e-12: the rotation passes through a quaternion in doubles.
            np.testing.assert_allclose(found.cameras[name].T_world_cam, place, atol=1e-12)
        np.testing.assert_array_equal(found.frame("second", 0).rgb, color(6))
        np.testing.assert_array_equal(found.frame("second", 2).depth_m, depth(8))


def test_a_place_that_never_comes_is_said_and_nothing_is_kept(tmp_path):
    recording = LiveRecording(tmp_path / "e")
    for number in range(70):
        _send(recording, "lost", number)
    report = recording.stop()
    # 60 pictures are held for a place; all 70 are reported.
    assert report.cameras["lost"].unplaced == 70
    assert report.problem.startswith("no picture with a known place came")
    assert not list(tmp_path.iterdir())
    assert recording.stop() is report


def test_cameras_without_a_place_are_told_from_those_with_one(tmp_path):
    recording = LiveRecording(tmp_path / "e")
    recording.place(camera("lost"), is_placed=False)
    recording.place(camera("known", 1))
    for name in ("lost", "known"):
        _send(recording, name, 0)
        _send(recording, name, 1)
    path = recording.stop().path
    with pytest.raises(DataError, match="nothing says where lost stood"):
        Episode.open(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Episode.open(path, allow_uncalibrated=True)
    with found:
        assert found.uncalibrated == ("lost",)
        place = camera("any", 1).T_world_cam
        np.testing.assert_allclose(found.cameras["known"].T_world_cam, place, atol=1e-12)


def test_a_full_queue_loses_images_but_none_uncounted(tmp_path):
    """Images come in microseconds and are written in milliseconds: a queue of 4 must overflow."""
    recording = LiveRecording(tmp_path / "e", RecordingConfig(queue_images=4))
    recording.place(camera("cam"))
    images = [
        (_image(i * DT, color(i)), _image(i * DT, _millimetres(i), "16UC1")) for i in range(9)
    ]
    _send(recording, "cam", 0)
    _until(recording, "cam", 1)
    sent = 200
    for number in range(sent):
        rgb, deep = images[number % 9]
        stamp = round((20.0 + number * DT) * 1e9)
        recording.image("cam", _restamped(rgb, stamp))
        recording.image("cam", _restamped(deep, stamp), depth=True)
    report = recording.stop()
    one = report.cameras["cam"]
    assert one.received == sent + 1
    assert one.overflowed > 0
    assert "images were lost" in report.problems()[0]
    # Every image is in a picture, was dropped, or waits for a partner that was dropped.
    partnerless = 2 * (sent + 1) - 2 * one.frames - one.overflowed
    assert 0 <= partnerless <= one.overflowed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gaps between the stamps, which is what this is about
        found = Episode.open(report.path)
    with found:
        assert found.frame_count("cam") == one.frames


def _restamped(image: ImageMsg, stamp_ns: int) -> ImageMsg:
    import dataclasses

    return dataclasses.replace(image, stamp_ns=stamp_ns)


def test_gaps_and_missing_partners_are_counted(tmp_path):
    recording = LiveRecording(tmp_path / "e")
    recording.place(camera("cam"))
    for number in (0, 1, 2, 3, 6, 7, 8):  # two frames never came
        _send(recording, "cam", number)
    stamp_s = 10.0 + 9 * DT
    recording.image("cam", _image(stamp_s, color(9)))  # its depth never comes
    _send(recording, "cam", 10)
    _send(recording, "cam", 10)  # the same again
    report = recording.stop()
    one = report.cameras["cam"]
    assert (one.frames, one.received, one.missing, one.unpaired) == (8, 10, 2, 1)
    assert (one.refused, one.reason) == (1, "stamps that do not increase")


def test_images_that_cannot_be_used_are_named(tmp_path):
    recording = LiveRecording(tmp_path / "e")
    recording.place(camera("cam"))
    _send(recording, "cam", 0)
    recording.image("cam", _image(11.0, color(0)))
    recording.image("cam", _image(11.0, color(0)[..., 0], "8UC1"), depth=True)
    small = np.zeros((H // 2, W, 3), np.uint8)
    recording.image("cam", _image(12.0, small))
    recording.image("cam", _image(12.0, _millimetres(0), "16UC1"), depth=True)
    report = recording.stop()
    assert report.cameras["cam"].refused == 2
    assert report.cameras["cam"].reason.startswith("a colour image of shape (24, 64, 3)")
    with Episode.open(report.path) as found:
        assert found.frame_count("cam") == 1


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1 big-endian", "mono16 padded"])
def test_depth_of_other_layouts_is_the_same_depth(tmp_path, encoding):
    recording = LiveRecording(tmp_path / "e")
    recording.place(camera("cam"))
    for number in range(2):
        stamp_ns, own = round((10.0 + number * DT) * 1e9), _millimetres(number)
        recording.image("cam", _image(10.0 + number * DT, color(number)))
        if encoding == "32FC1":
            metres = np.where(own > 0, own * np.float32(1e-3), np.float32(np.nan))
            deep = _image(10.0 + number * DT, metres, "32FC1")
        else:
            rows, name, step = own.astype(">u2").view(np.uint8), "16UC1", 2 * W
            if encoding.startswith("mono16"):
                rows = np.pad(own.view(np.uint8), ((0, 0), (0, 6)))
                name, step = "mono16", 2 * W + 6
            data = memoryview(rows.tobytes())
            big = "big" in encoding
            deep = ImageMsg(stamp_ns, "o", H, W, name, big, step, len(data), data)
        recording.image("cam", deep, depth=True)
    with Episode.open(recording.stop().path) as found:
        for number, frame in enumerate(found.frames("cam")):
            np.testing.assert_array_equal(frame.depth_m, depth(number))


def test_colour_alone_where_there_is_no_depth(tmp_path):
    recording = LiveRecording(tmp_path / "e", RecordingConfig(depth=False))
    recording.place(camera("cam"))
    for number in range(3):
        recording.image("cam", _image(10.0 + number * DT, color(number)))
    with Episode.open(recording.stop().path) as found:
        assert found.frame("cam", 2).depth_m is None
        np.testing.assert_array_equal(found.frame("cam", 2).rgb, color(2))


def test_motion_before_the_first_picture_is_kept(tmp_path):
    recording = LiveRecording(tmp_path / "e")
    recording.gripper_pose(0, 9.0, np.array([0.1, 0.2, 0.3]), QUAT)
    recording.gripper_closed(0, True)
    recording.gripper_pose(0, 9.5, np.array([0.1, 0.2, 0.4]), QUAT)
    recording.plate_pose(2, 9.5, np.array([1.0, 0.0, 0.0]), QUAT)
    nothing = np.zeros(0)
    recording.joints(9.5, ["a", "b"], np.array([1.0, 2.0]), nothing, np.array([3.0, 4.0]))
    recording.plate_pose(2, 9.6, np.array([np.nan, 0.0, 0.0]), QUAT)  # of no use
    recording.place(camera("cam"))
    _send(recording, "cam", 0)
    report = recording.stop()
    assert report.motion == {"gripper0": 2, "plate2": 1, "joint_states": 1}
    assert "position [nan" in report.motion_refused["plate2"]
    with Episode.open(report.path) as found:
        pose = found.gripper_pose(0)
        np.testing.assert_allclose(pose.time_s, [-1.0, -0.5], atol=1e-9)
        np.testing.assert_array_equal(found.gripper_closed(0).at([-1.0, -0.5]), [False, True])
        np.testing.assert_array_equal(found.plate_pose(2).position, [[1.0, 0.0, 0.0]])
        joints = found.joint_states()
        np.testing.assert_array_equal(joints.effort, [[3.0, 4.0]])
        assert np.isnan(joints.velocity).all()


def test_silence_and_what_never_came(tmp_path):
    recording = LiveRecording(tmp_path / "e", RecordingConfig(silence_s=0.05), expected=["never"])
    recording.place(camera("cam"))
    _send(recording, "cam", 0)
    time.sleep(0.1)
    records = recording.report().cameras
    assert "(ever)" in records["never"].problem
    assert "(since its image of 10.000 s)" in records["cam"].problem
    _send(recording, "cam", 30)
    report = recording.stop()
    np.testing.assert_allclose(report.cameras["cam"].outages, [(10.0, 10.0 + 30 * DT)])


def test_a_disk_that_takes_no_more_ends_the_recording_whole(tmp_path, monkeypatch):
    class Full(module.GrowingWriter):
        left = 12

        def _write(self, topic: str, kind: str, stamp_ns: int, raw: bytes) -> None:
            Full.left -= 1
            if Full.left < 0:
                error = OSError(28, "No space left on device")
                raise self._failed(error) from error
            super()._write(topic, kind, stamp_ns, raw)

    monkeypatch.setattr(module, "GrowingWriter", Full)
    recording = LiveRecording(tmp_path / "e")
    recording.place(camera("cam"))
    for number in range(9):
        _send(recording, "cam", number)
    report = recording.stop()
    assert "No space left on device" in report.problem
    assert report.cameras["cam"].frames == 3  # four messages each
    assert report.cameras["cam"].overflowed == 10  # five more pictures; the fourth hit the end
    with Episode.open(report.path) as found:
        np.testing.assert_array_equal(found.frame("cam", 2).rgb, color(2))


def test_a_folder_that_exists_is_refused(tmp_path):
    (tmp_path / "e.partial").mkdir()
    with pytest.raises(DataError, match="it exists already"):
        LiveRecording(tmp_path / "e")
    with pytest.raises(DataError, match="queue_images is 0"):
        RecordingConfig(queue_images=0)
    assert [p.name for p in Path(tmp_path).iterdir()] == ["e.partial"]
