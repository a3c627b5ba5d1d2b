"""The camera node on what stands for hardware: the simulated cell, and librealsense's playback."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

# Read when a message class is first imported, here and in the child processes.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
pytest.importorskip("rclpy", reason="rclpy is not installed")
harness = pytest.importorskip("physgym_ros.harness", reason="physgym_ros is not installed")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "recon"))
from episode_cases import DT, H, W, camera, color, depth
from ros_capture_client import recorded, start, start_recorder

from recon.episode import Episode

pytestmark = [pytest.mark.ros, pytest.mark.slow]

# Import, discovery and the first picture take 2-3 s; a loaded machine ten times that.
PATIENCE_S = 40.0


def test_the_simulated_cell_is_recorded_with_its_grippers(tmp_path):
    domain = harness.fresh_domain()
    options = {"source": "simulated", "kind": "rope", "width": 96, "height": 72, "cameras": 2}
    options |= {"duration_s": 1.0, "await_subscribers": 1}
    began_s = time.time()
    with (
        start_recorder(tmp_path, domain, autostart=True) as recorder,
        start("camera", tmp_path, domain, **options) as simulated,
    ):
        assert simulated.process.wait(timeout=2 * PATIENCE_S) == 0, simulated.tail()
        assert recorder.interrupt() == 0
    from physgym.cell.soft import SoftCell
    from physgym.cell.soft_config import SoftCellConfig

    cell = SoftCell(SoftCellConfig(kind="rope", camera_count=2, camera_width=96, camera_height=72))
    frames = list(cell.record("lift", 1.0))  # the same calls give the same bits
    with Episode.open(recorded(tmp_path)) as found:
        assert began_s < found.start_s < time.time()
        assert found.grippers == (0, 1)
        pose = found.gripper_pose(1)
        np.testing.assert_allclose(pose.time_s, [f.time_s for f in frames], atol=1e-6)
        np.testing.assert_array_equal(pose.position, [f.gripper_position[1] for f in frames])
        for number, own in enumerate(cell.cameras):
            assert found.frame_count(own.name) == len(frames) == 30
            np.testing.assert_array_equal(
                found.frame(own.name, 17).rgb, frames[17].images[number].rgb
            )
    cell.close()


def test_cameras_of_librealsense_are_published_andrecorded(tmp_path):
    """The driver's own playback stands for the hardware; nothing above it is replaced."""
    if find_spec("pyrealsense2") is None:
        pytest.skip("pyrealsense2 is not installed")
    from recon.capture.calibration_file import Calibration, save_calibration
    from recon.capture.software_camera import record_software_cameras

    own = [replace(camera(name, k), serial=f"81{k}") for k, name in enumerate(("left", "right"))]
    # librealsense pairs depth and colour by stamps of this size (SoftwareCamera.feed).
    frames = [
        (one.name, 1.7e9 + number * DT, color(number, k), depth(number, k))
        for number in range(15)
        for k, one in enumerate(own)
    ]
    files = record_software_cameras(tmp_path / "db3", own, frames, paced=True)
    save_calibration(Calibration({one.name: one for one in own}), tmp_path / "calibration.yaml")
    options = {"source": "realsense", "width": W, "height": H, "await_subscribers": 1}
    options["files"] = [str(file) for file in files.values()]
    options["serials"] = [f"{one.name}={one.serial}" for one in own]
    options["calibration"] = str(tmp_path / "calibration.yaml")
    (tmp_path / "camera.yaml").write_text(yaml.dump({"camera": {"ros__parameters": options}}))
    domain = harness.fresh_domain()
    with (
        start_recorder(tmp_path, domain, autostart=True) as recorder,
        harness.NodeProcess(
            "camera",
            {},
            domain_id=domain,
            log=tmp_path / "camera.log",
            parameter_file=tmp_path / "camera.yaml",
        ) as driver,
    ):
        assert driver.process.wait(timeout=PATIENCE_S) == 0, driver.tail()
        assert recorder.interrupt() == 0
    with Episode.open(recorded(tmp_path)) as found:
        for k, one in enumerate(own):
            # librealsense may drop the first and the last while its pipeline starts and ends.
            assert found.frame_count(one.name) >= 12
            place = found.cameras[one.name].T_world_cam
            np.testing.assert_allclose(place, one.T_world_cam, atol=1e-9)  # 10 digits in YAML
            for frame in found.frames(one.name):
                number = round((frame.stamp_s + found.start_s - 1.7e9) / DT)
                np.testing.assert_array_equal(frame.rgb, color(number, k))
