"""What goes wrong while recording: nothing is lost without a word, and what came is kept."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from episode_cases import DT, camera, color, depth

from physgym.camera import PinholeCamera
from physgym.cell.soft_config import SoftCellConfig
from physgym.errors import BlowUpError, DataError, DeviceError
from physgym.frames import T_from_parts
from recon.capture import record as record_module
from recon.capture.calibration_file import Calibration, save_calibration
from recon.capture.realsense_settings import RealSenseConfig
from recon.capture.record import BackgroundWriter, record
from recon.capture.simulated import DriverSource, SimSource, SimulatedRecording
from recon.capture.sources import GripperPose, Item, Picture, RigSource, Source
from recon.capture_commands import Check
from recon.episode import Episode, EpisodeWriter
from recon.record_commands import Record, Recover
from recon.tracks import PhysGymWarning

needs_driver = pytest.mark.skipif(
    find_spec("pyrealsense2") is None, reason="pyrealsense2 is not installed"
)
PHYSGYM = Path(sys.executable).with_name("physgym")
CELL = SoftCellConfig(
    kind="block", camera_count=2, camera_width=160, camera_height=120, gripper_count=1
)
SMALL = RealSenseConfig(160, 120, 20)


def recording(**change: object) -> SimulatedRecording:
    return SimulatedRecording(**{"cell": CELL, "duration_s": 1.0, "fps": 20, **change})  # type: ignore[arg-type]


class Frames(Source):
    """Pictures of one camera and poses of one gripper, as fast as they are taken."""

    def __init__(self, count: int, *, can_wait: bool = True, fails_at: int = -1) -> None:
        super().__init__()
        self.count, self.can_wait, self.fails_at = count, can_wait, fails_at

    def start(self) -> Mapping[str, PinholeCamera]:
        return {"c": camera("c")}

    def items(self) -> Iterator[Item]:
        for t in range(self.count):
            if t == self.fails_at:
                raise BlowUpError(
                    "the simulation blew up", world=0, node=1, substep=2, fix="slower"
                )
            yield GripperPose(0, t * DT, np.zeros(3), np.array([1.0, 0, 0, 0]), closed=False)
            yield Picture("c", t * DT, color(t), depth(t))

    def close(self) -> None:
        pass


class SlowWriter(EpisodeWriter):
    """A disk that takes 20 ms for a picture."""

    def write_frame(
        self, camera: str, stamp_s: float, rgb: np.ndarray, depth: np.ndarray | None = None
    ) -> None:
        time.sleep(0.02)
        super().write_frame(camera, stamp_s, rgb, depth)


def whole(path: Path) -> Episode:
    """An episode that opens without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", PhysGymWarning)
        return Episode.open(path)


def test_a_slow_disk_costs_counted_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 pictures at once, room for 10: what does not fit is dropped, counted and said."""
    monkeypatch.setattr(record_module, "EpisodeWriter", SlowWriter)
    size = color(0).nbytes + depth(0).nbytes // 2  # kept as 16 bit
    report = record(Frames(60, can_wait=False), tmp_path / "slow", buffer_bytes=10 * size)
    assert report.came == {"c": 60}
    assert report.dropped["c"] > 30
    assert report.frames["c"] == 60 - report.dropped["c"]
    assert report.losses == [
        f"c: {report.dropped['c']} frames dropped, disk or processor was too slow"
    ]
    assert report.high_water_mb <= 11 * size / 1e6
    with Episode.open(tmp_path / "slow") as episode:
        assert episode.frame_count("c") == report.frames["c"]
        assert len(episode.gripper_pose(0).time_s) == 60  # motion is never dropped
        assert episode.metadata["recording"]["dropped"] == report.dropped


def test_compression_makes_way_when_the_queue_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same frames, more disk, and both kinds of chunks read back to the same pixels."""
    monkeypatch.setattr(record_module, "EpisodeWriter", SlowWriter)
    size = color(0).nbytes + depth(0).nbytes // 2
    report = record(Frames(200, can_wait=False), tmp_path / "busy", buffer_bytes=300 * size)
    assert report.frames == {"c": 200}
    assert any("not compressed" in note for note in report.notes)
    with whole(tmp_path / "busy") as episode:
        for number in (0, 60, 199):
            np.testing.assert_array_equal(episode.frame("c", number).rgb, color(number))
    content = (tmp_path / "busy" / "busy.mcap").read_bytes()
    assert content.count(b"\x28\xb5\x2f\xfd") >= 1  # zstd's magic number: the first, or the last


def test_what_can_wait_loses_nothing_on_a_slow_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "EpisodeWriter", SlowWriter)
    report = record(Frames(30), tmp_path / "slow", buffer_bytes=100_000)
    assert report.frames == report.came == {"c": 30}
    assert report.losses == []
    assert report.high_water_mb <= 0.1


def test_a_source_that_fails_leaves_what_came(tmp_path: Path) -> None:
    report = record(Frames(40, fails_at=25), tmp_path / "blown")
    assert report.frames == {"c": 25}
    assert report.ended == "the simulation blew up"
    assert report.losses == ["the recording ended early: the simulation blew up"]
    with whole(tmp_path / "blown") as episode:
        assert episode.frame_count("c") == 25
    with pytest.raises(DataError, match="not a single frame"):
        record(Frames(40, fails_at=0), tmp_path / "never")
    assert not list(tmp_path.glob("never*"))


def test_a_failed_write_ends_the_writer_with_its_reason(tmp_path: Path) -> None:
    """Anything that goes wrong on the writing thread reaches the one who records."""
    writer = EpisodeWriter(tmp_path / "odd", [camera("c")])
    background = BackgroundWriter(writer, 10_000_000, can_wait=True)
    assert background.put(Picture("c", 0.0, color(0), depth(0)))
    background.put(Picture("c", DT, color(1)[:5], None))
    background.finish()
    assert background.failure is not None
    assert "colour image of shape" in background.failure.what
    assert not background.put(Picture("c", 2 * DT, color(2), depth(2)))
    writer.close()


def _record_with_limited_files(tmp_path: Path, limit: int) -> tuple[int, dict]:
    command = [str(PHYSGYM), "record", "--source", "sim", "--out", str(tmp_path / "full")]
    command += ["--object", "block", "--duration", "2", "--fps", "20", "--cameras", "2"]
    command += ["--width", "160", "--height", "120", "--compress", "none", "--json"]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(command, capture_output=True, preexec_fn=limited, timeout=120)
    return done.returncode, json.loads(done.stdout)


def test_a_full_disk_leaves_a_whole_episode(tmp_path: Path) -> None:
    """A limit on the size of files ends a write as a full disk does."""
    code, said = _record_with_limited_files(tmp_path, 3_000_000)
    assert code == 1
    assert "File too large" in said["losses"][0]
    frames = said["frames"]["cam0"] + said["frames"]["cam1"]
    assert 0.5 * 3e6 < frames * 160 * 120 * 5 < 3e6  # 3 + 2 bytes a pixel, one chunk lost
    assert not (tmp_path / "full.partial").exists()
    with Episode.open(tmp_path / "full") as episode:
        counts = {name: episode.frame_count(name) for name in episode.cameras}
        # The last colour image may be parted from its depth by the end of a chunk.
        assert all(0 <= said["frames"][name] - counts[name] <= 1 for name in counts)
        assert not any("index" in loss or "metadata" in loss for loss in episode.losses)
        assert episode.frame("cam0", counts["cam0"] - 1).rgb.any()
        assert "File too large" in episode.metadata["recording"]["ended"]


def test_no_space_left_leaves_a_whole_episode(tmp_path: Path) -> None:
    """A real full disk: 5 MB of memory as a file system."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    try:
        report = record(Frames(600), disk / "full", compress=False)
        assert "No space left" in report.ended
        assert 100 < report.frames["c"] < 600
        with Episode.open(disk / "full") as episode:
            assert report.frames["c"] - episode.frame_count("c") <= 1
            assert not any("index" in loss or "metadata" in loss for loss in episode.losses)
            assert episode.metadata["recording"]["frames"] == report.frames
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_killed_recorder_is_recovered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL in the middle: all but the chunk in memory (1 MiB) is in the file and comes back."""
    command = [str(PHYSGYM), "record", "--source", "sim", "--out", str(tmp_path / "live")]
    command += ["--object", "block", "--duration", "60", "--fps", "20", "--cameras", "2"]
    command += ["--width", "160", "--height", "120", "--compress", "none", "--json"]
    file = tmp_path / "live.partial" / "live" / "live.mcap"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (file.is_file() and file.stat().st_size > 2_500_000):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    written = file.stat().st_size
    assert Recover(tmp_path / "live", json=True).run() == 0
    said = json.loads(capsys.readouterr().out)
    assert "the recorder did not finish" in "; ".join(said["losses"])
    # 3 + 2 bytes a pixel; the rest of the file are headers, and a pair that a chunk's end parts.
    assert sum(said["frames"].values()) * 160 * 120 * 5 > 0.9 * written
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhysGymWarning)
        episode = Episode.open(tmp_path / "live_recovered")
    with episode:
        assert episode.metadata["object"]["mass_kg"] > 0  # was written at the start
        assert len(episode.gripper_pose(0).time_s) >= episode.frame_count("cam0") - 1


def test_a_simulated_camera_that_drops_out_is_named(tmp_path: Path) -> None:
    source = SimSource(recording(silent_from_s={"cam1": 0.5}))
    report = record(source, tmp_path / "lame")
    assert report.frames == {"cam0": 20, "cam1": 10}
    assert report.losses == ["cam1 dropped out after 0.5 s"]
    assert Check(tmp_path / "lame", json=True).run() == 1  # half the frames have no partner


@needs_driver
def test_a_camera_that_drops_out_behind_the_driver_is_named(tmp_path: Path) -> None:
    """The other goes on in a file; live, the recording ends, because half a rig is no rig."""
    source = DriverSource(
        recording(silent_from_s={"cam1": 0.3}, duration_s=1.5), folder=tmp_path / "bags"
    )
    report = record(source, tmp_path / "driver")
    assert report.frames == {"cam0": 30, "cam1": 6}
    assert any("cam1 dropped out" in loss for loss in report.losses)
    with Episode.open(tmp_path / "driver") as episode:
        assert episode.frame_count("cam1") == 6
        cameras = episode.cameras
    files = sorted((tmp_path / "bags").glob("*.db3"))
    live = RigSource(files, calibration=Calibration(cameras), config=SMALL, live=True)
    report = record(live, tmp_path / "live")
    assert report.frames["cam0"] < 30
    assert any("cam1 dropped out" in loss for loss in report.losses)


@needs_driver
def test_a_cut_off_driver_file_is_refused_with_a_way_out(tmp_path: Path) -> None:
    """librealsense itself does not open one; no half episode stays behind."""
    source = DriverSource(recording(), folder=tmp_path / "bags")
    source.start()
    source.close()
    file = tmp_path / "bags" / "cam0.db3"
    content = file.read_bytes()
    for share in (0.02, 0.6, 0.99):
        file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DeviceError, match=r"(?s)cannot play.*cam0\.db3.*record again"):
            record(RigSource([file], config=SMALL), tmp_path / "cut")
        assert not list(tmp_path.glob("cut*"))


def test_check_fails_moved_cameras_and_empty_depth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recording of the cell passes; with a camera 3 cm aside, or without depth, it fails."""
    command = Record(
        ("sim",), tmp_path / "toy", duration=1.0, fps=8, width=320, height=240, json=True
    )
    assert command.run() == 0
    assert Check(tmp_path / "toy", json=True).run() == 0
    capsys.readouterr()
    with whole(tmp_path / "toy") as episode:
        aside = T_from_parts(np.eye(3), [0.03, 0.0, 0.0])
        moved = replace(
            episode.cameras["cam1"], T_world_cam=aside @ episode.cameras["cam1"].T_world_cam
        )
        save_calibration(Calibration({**episode.cameras, "cam1": moved}), tmp_path / "moved.yaml")
        with EpisodeWriter(tmp_path / "blind", list(episode.cameras.values())) as writer:
            for name in episode.cameras:
                for frame in episode.frames(name):
                    assert frame.depth_m is not None
                    seen = frame.depth_m * np.float32(name != "cam2")
                    writer.write_frame(name, frame.stamp_s, frame.rgb, seen)
    assert Check(tmp_path / "toy", calibration=tmp_path / "moved.yaml", json=True).run() == 1
    failed = [line for line in _lines(capsys) if line["status"] == "FAIL"]
    assert {line["where"] for line in failed} <= {"cam0 - cam1", "cam1 - cam2"}
    assert any("calibration" in line["name"] for line in failed)
    assert Check(tmp_path / "blind", json=True).run() == 1
    failed = [line for line in _lines(capsys) if line["status"] == "FAIL"]
    assert ("depth holes", "cam2") in {(line["name"], line["where"]) for line in failed}


def _fill(writer: EpisodeWriter) -> None:
    for t in range(200):
        writer.write_frame("c", t * DT, color(t), depth(t))


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return json.loads(capsys.readouterr().out)["lines"]


def test_a_writer_after_a_full_disk_closes_what_fitted(tmp_path: Path) -> None:
    """The index counts what is in the file: one whole bag for every ROS tool."""
    from recon.bags import Bag

    writer = EpisodeWriter(tmp_path / "big", [camera("c")], compress=False)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, limits[1]))
    try:
        with pytest.raises(DataError, match="the recording stopped"):
            _fill(writer)
        with pytest.raises(DataError, match="the recording stopped"):
            writer.write_frame("c", 9.0, color(0), depth(0))
        path = writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Bag(path) as bag:
        assert bag.losses == []
        assert not bag.damaged
        found: dict[str, int] = {}
        for message in bag.messages(list(bag.topics)):
            found[message.topic] = found.get(message.topic, 0) + 1
        assert found == {topic: count for topic, count in bag.counts.items() if count}
        assert found == {topic: count for topic, count in writer.counts.items() if count}
    assert sorted(os.listdir(path)) == ["big.mcap", "metadata.yaml", "physgym.json"]
