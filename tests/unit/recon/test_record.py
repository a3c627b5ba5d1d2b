"""Recording: the simulated cell, librealsense's files, and the commands around them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from episode_cases import color, depth, write_episode

from physgym.cell.soft_config import SoftCellConfig
from physgym.errors import DataError
from recon.capture.board import Board
from recon.capture.calibration_file import Calibration, save_calibration
from recon.capture.realsense_settings import RealSenseConfig
from recon.capture.record import record
from recon.capture.simulated import DriverSource, SimSource, SimulatedRecording
from recon.capture.sources import RigSource
from recon.episode import Episode
from recon.record_commands import Convert, Record, Recover

needs_driver = pytest.mark.skipif(
    find_spec("pyrealsense2") is None, reason="pyrealsense2 is not installed"
)
CELL = SoftCellConfig(
    kind="block", camera_count=2, camera_width=160, camera_height=120, gripper_count=1
)
BOARD = Board()
PHYSGYM = Path(sys.executable).with_name("physgym")
FLAGS = {"width": 160, "height": 120, "cameras": 2, "grippers": 1, "object": "block"}


def recording(**change: object) -> SimulatedRecording:
    return SimulatedRecording(**{"cell": CELL, "duration_s": 1.0, "fps": 20, **change})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def lifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = record(SimSource(recording()), tmp_path_factory.mktemp("sim") / "lift")
    assert report.losses == []
    assert report.ended == ""
    assert report.frames == report.came == {"cam0": 20, "cam1": 20}
    return report.episode


def test_the_cell_becomes_an_episode_with_everything(lifted: Path) -> None:
    with Episode.open(lifted) as episode:
        assert episode.losses == ()
        assert episode.metadata["object"]["simulated"] is True
        # 120 kg/m^3 in 14 x 10 x 8 cm
        assert episode.metadata["object"]["mass_kg"] == pytest.approx(0.1344, rel=1e-6)
        assert episode.metadata["grippers"][0]["jaw_half_m"] == list(CELL.jaw_half)
        assert len(episode.metadata["grippers"][0]["tool_half_m"]) == 3
        assert (episode.metadata["interaction"], episode.metadata["seed"]) == ("lift", 0)
        assert episode.grippers == (0,)
        pose, closed = episode.gripper_pose(0), episode.gripper_closed(0)
        assert len(pose.time_s) == len(closed.time_s) == 20
        assert not closed.value[0]
        assert closed.value[-1]
        truth = episode.ground_truth()
        assert truth is not None
        np.testing.assert_allclose(truth.time_s, episode.stamps_s("cam0"), atol=1e-9)
        # What is held goes with the jaws: up by as much.
        held = truth.driven[:, :, 2].mean(axis=1)
        start = int(np.argmax(closed.value))
        rise = pose.position[-1, 2] - pose.position[start, 2]
        assert held[-1] - held[start] == pytest.approx(rise, abs=1e-3)  # ties are soft constraints


def test_recorded_pixels_are_those_of_the_cell(lifted: Path) -> None:
    from physgym.cell.soft import SoftCell

    cell = SoftCell(CELL)
    frames = list(cell.record("lift", 1.0, fps=20))
    with Episode.open(lifted) as episode:
        for number in (0, 19):
            for camera, image in zip(cell.cameras, frames[number].images):
                frame = episode.frame(camera.name, number)
                assert frame.depth_m is not None
                np.testing.assert_array_equal(frame.rgb, image.rgb)
                # Half a millimetre: what 16UC1 keeps.
                assert np.abs(frame.depth_m - image.depth_m).max() <= 5.01e-4
                np.testing.assert_allclose(
                    episode.cameras[camera.name].T_world_cam, camera.T_world_cam, atol=1e-9
                )
    cell.close()


@needs_driver
def test_through_the_driver_comes_the_same(lifted: Path, tmp_path: Path) -> None:
    """Same seed: the same pixels, poses and truth; stamps to a microsecond (the driver's ms)."""
    report = record(DriverSource(recording(), scratch=tmp_path), tmp_path / "driver")
    assert report.losses == []
    assert not list(tmp_path.glob(".physgym-driver-*"))
    with Episode.open(lifted) as one, Episode.open(report.episode) as other:
        for name in one.cameras:
            np.testing.assert_allclose(one.stamps_s(name), other.stamps_s(name), atol=1e-6)
            a, b = one.frame(name, 15), other.frame(name, 15)
            np.testing.assert_array_equal(a.rgb, b.rgb)
            assert a.depth_m is not None
            assert b.depth_m is not None
            # Both round to millimetres; a half goes either way.
            assert np.abs(a.depth_m - b.depth_m).max() < 1.01e-3
            assert (a.depth_m != b.depth_m).mean() < 0.01
        np.testing.assert_array_equal(one.gripper_pose(0).position, other.gripper_pose(0).position)
        first, second = one.ground_truth(), other.ground_truth()
        assert first is not None
        assert second is not None
        np.testing.assert_array_equal(first.position, second.position)


@needs_driver
def test_files_are_recorded_whole_and_need_a_calibration(tmp_path: Path) -> None:
    """librealsense's files: every frame; without a calibration the episode says so."""
    source = DriverSource(recording(), folder=tmp_path / "bags")
    cameras = source.start()
    source.close()
    files = sorted((tmp_path / "bags").glob("*.db3"))
    size = {"width": 160, "height": 120, "fps": 20, "json": True}
    words = tuple(map(str, files))
    assert Record(words, tmp_path / "unplaced", **size).run() == 0  # type: ignore[arg-type]
    with pytest.raises(DataError, match="cam0, cam1"):
        Episode.open(tmp_path / "unplaced")
    save_calibration(Calibration(cameras), tmp_path / "cameras.yaml")
    with Episode.open(tmp_path / "unplaced", calibration=tmp_path / "cameras.yaml") as episode:
        assert [episode.frame_count(name) for name in cameras] == [20, 20]
    placed = Record(words, tmp_path / "placed", calibration=tmp_path / "cameras.yaml", **size)  # type: ignore[arg-type]
    assert placed.run() == 0
    with Episode.open(tmp_path / "placed") as episode:
        T = episode.cameras["cam1"].T_world_cam
        np.testing.assert_allclose(T, cameras["cam1"].T_world_cam, atol=1e-9)
        assert episode.metadata["calibration"]["status"] == "UNCHECKED"


@pytest.mark.parametrize("interaction", ["push", "drop"])
def test_other_interactions_and_bodies(tmp_path: Path, interaction: str) -> None:
    command = Record(
        ("sim",),
        tmp_path / "cloth",
        duration=1.0,
        fps=5,
        interaction=interaction,  # type: ignore[arg-type]
        depth_noise=False,
        compress="none",
        json=True,
        **{**FLAGS, "object": "cloth"},  # type: ignore[arg-type]
    )
    assert command.run() == 0
    with Episode.open(tmp_path / "cloth") as episode:
        truth = episode.ground_truth()
        assert truth is not None
        assert truth.radius_m == pytest.approx(0.001)  # half of 2 mm
        assert episode.metadata["depth_noise"] is False


def test_ctrl_c_keeps_a_clean_episode(tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    command = [str(PHYSGYM), "record", "--source", "sim", "--out", str(out)]
    command += ["--duration", "60", "--fps", "20", "--width", "160", "--height", "120", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        file = tmp_path / "stopped.partial" / "stopped" / "stopped.mcap"
        deadline = time.monotonic() + 60
        while not (file.is_file() and file.stat().st_size > 100_000):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = json.loads(process.communicate(timeout=60)[0])
    assert process.returncode == 130  # not the 60 s that were asked for
    assert said["losses"] == []
    assert said["ended"] == "stopped by the user"
    with Episode.open(out) as episode:
        assert episode.losses == ()
        counts = [episode.frame_count(name) for name in episode.cameras]
        assert counts == list(said["frames"].values())
        truth = episode.ground_truth()
        assert truth is not None
        assert max(counts) <= truth.frame_count <= max(counts) + 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"source": ("nowhere.db3",)}, "no such file"),
        ({"source": ("realsense",), "driver": True}, "simulated cell"),
        ({"bags": Path("x")}, "--driver as well"),
        ({"calibration": Path("x.yaml")}, "real cameras"),
        ({"duration": 0.2}, "from 1 to 120"),
        ({"fps": 1000}, "from 1 to 240"),
        ({"buffer_mb": 0.0}, "megabytes"),
    ],
)
def test_wrong_flags_say_what_is_right(tmp_path: Path, flags: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Record(**{"source": ("sim",), "out": tmp_path / "never", **flags}).run()  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_existing_episode_is_not_touched(lifted: Path) -> None:
    before = sorted(os.listdir(lifted))
    with pytest.raises(DataError, match="exists already"):
        Record(("sim",), lifted, **FLAGS).run()  # type: ignore[arg-type]
    assert sorted(os.listdir(lifted)) == before


def test_recover_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episode = write_episode(tmp_path / "cut", frames=80, cameras=1)
    file = episode / "cut.mcap"
    os.truncate(file, int(0.7 * file.stat().st_size))
    assert Recover(episode, json=True).run() == 0
    said = json.loads(capsys.readouterr().out)
    assert said["episode"] == str(tmp_path / "cut_recovered")
    assert said["losses"]
    with Episode.open(tmp_path / "cut_recovered") as whole:
        assert whole.frame_count("cam0") == said["frames"]["cam0"] > 40
        np.testing.assert_array_equal(whole.frame("cam0", 5).rgb, color(5))
    with pytest.raises(DataError, match="exists already"):
        Recover(episode).run()


def test_convert_command_goes_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_episode(tmp_path / "mine", frames=4)
    assert Convert(tmp_path / "mine", tmp_path / "case", to="phystwin").run() == 0
    assert Convert(tmp_path / "case", tmp_path / "back").run() == 0
    assert "physgym check" in capsys.readouterr().out
    with Episode.open(tmp_path / "back") as episode:
        assert len(episode.cameras) == 2
        frame = episode.frame(sorted(episode.cameras)[0], 2)
        np.testing.assert_array_equal(frame.rgb, color(2))
        assert frame.depth_m is not None
        assert np.abs(frame.depth_m - depth(2)).max() < 1e-6
    with pytest.raises(DataError, match="no importer"):
        Convert(tmp_path, tmp_path / "never").run()


def test_the_board_is_printed_in_true_size(tmp_path: Path) -> None:
    """4 x 5 squares of 50 mm, and found again in the picture."""
    from PIL import Image

    from recon.capture.board import detect_board
    from recon.capture_commands import Calibrate

    assert Calibrate(print_board=tmp_path / "board.png").run() == 0
    picture = Image.open(tmp_path / "board.png")
    size_m = np.array(picture.size) / np.array(picture.info["dpi"], float) * 0.0254
    np.testing.assert_allclose(size_m, [0.20, 0.25], rtol=1e-3)  # dpi is kept to 0.01
    small = np.asarray(picture.convert("RGB").resize((800, 1000)))
    found = detect_board(np.pad(small, ((50, 50), (50, 50), (0, 0)), constant_values=255), BOARD)
    assert found is not None
    assert len(found.ids) == 3 * 4
    with pytest.raises(DataError, match="pdf"):
        Calibrate(print_board=tmp_path / "board.txt").run()


@needs_driver
def test_live_playing_is_counted_to_the_last_frame(tmp_path: Path) -> None:
    """As cameras send: what is not in the episode is named in the losses."""
    source = DriverSource(recording(), folder=tmp_path / "bags")
    cameras = source.start()
    source.close()
    config = RealSenseConfig(160, 120, 20)
    files = sorted((tmp_path / "bags").glob("*.db3"))
    rig = RigSource(files, calibration=Calibration(cameras), config=config, live=True)
    report = record(rig, tmp_path / "live")
    for name in cameras:
        told = [loss for loss in report.losses if loss.startswith(f"{name}:")]
        assert bool(told) == (report.frames[name] < 20)
        assert not told or f"{20 - report.frames[name]} frames" in told[0]
