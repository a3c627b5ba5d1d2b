"""Settings of RealSense sensors, and lens models, on librealsense's software devices."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from physgym.errors import DeviceError

if find_spec("pyrealsense2") is None:
    pytest.skip("pyrealsense2 is not installed", allow_module_level=True)

from recon.capture.librealsense import load_librealsense
from recon.capture.realsense import RealSenseConfig
from recon.capture.realsense_settings import apply_settings, camera_from_profile


def _software_sensor(name: str, options: dict[str, tuple[float, float, float]]) -> object:
    rs = load_librealsense()
    sensor = rs.software_device().add_sensor(name)
    for option, (low, high, value) in options.items():
        reach = rs.option_range()
        reach.min, reach.max, reach.step, reach.default = low, high, 1.0, value
        sensor.add_option(getattr(rs.option, option), reach, True)
    return sensor


def test_settings_reach_the_sensors() -> None:
    """Exposure in each sensor's own unit, automatics off, role in the sync chain."""
    option = load_librealsense().option
    common = {"exposure": (1.0, 10000.0, 100.0), "enable_auto_exposure": (0.0, 1.0, 1.0)}
    common["global_time_enabled"] = (0.0, 1.0, 0.0)
    depth = _software_sensor("Stereo Module", {**common, "inter_cam_sync_mode": (0.0, 4.0, 0.0)})
    color = _software_sensor("RGB Camera", common)
    config = RealSenseConfig(exposure_us=5000.0, hardware_sync=True)

    assert apply_settings(depth, config, "slave") == []
    assert apply_settings(color, config, "slave") == []
    assert depth.get_option(option.exposure) == 5000.0  # 1 us
    assert color.get_option(option.exposure) == 50.0  # 100 us
    assert depth.get_option(option.inter_cam_sync_mode) == 2.0
    assert color.get_option(option.enable_auto_exposure) == 0.0
    assert color.get_option(option.global_time_enabled) == 1.0


def test_wishes_that_a_sensor_cannot_fulfil_are_told() -> None:
    """Warnings for what recording can live with, an error for a sync cable without a socket."""
    plain = _software_sensor("Stereo Module", {})
    warnings = apply_settings(plain, RealSenseConfig(exposure_us=5000.0, gain=16.0), "off")
    assert [text.split(": ")[1].split(" ")[0] for text in warnings] == ["no", "exposure", "gain"]
    with pytest.raises(DeviceError, match="hardware sync"):
        apply_settings(plain, RealSenseConfig(hardware_sync=True), "master")


def test_inverse_lens_model_becomes_opencvs() -> None:
    """D455 colour: librealsense's pixel -> ray and ours agree to 0.1 px."""
    rs = load_librealsense()
    intrinsics = rs.intrinsics()
    intrinsics.width, intrinsics.height = 640, 480
    intrinsics.fx = intrinsics.fy = 380.0
    intrinsics.ppx, intrinsics.ppy = 322.0, 241.0
    intrinsics.model = rs.distortion.inverse_brown_conrady
    intrinsics.coeffs = [-0.055, 0.062, -0.0006, 0.0004, -0.02]
    stream = rs.video_stream()
    stream.type, stream.index, stream.uid = rs.stream.color, 0, 1
    stream.width, stream.height, stream.fps, stream.bpp = 640, 480, 30, 3
    stream.fmt, stream.intrinsics = rs.format.rgb8, intrinsics
    device = rs.software_device()
    profile = device.add_sensor("RGB Camera").add_video_stream(stream)

    camera = camera_from_profile(profile, name="d455", serial="1")
    assert camera.distortion.any()
    for pixel in ([5.0, 5.0], [320.0, 240.0], [600.0, 40.0], [30.0, 470.0]):
        truth = rs.rs2_deproject_pixel_to_point(intrinsics, pixel, 1.0)
        ours = camera.pixel_rays(np.array([pixel]))[0]
        assert np.abs(ours - truth)[:2].max() * 380.0 < 0.1
