"""What a RealSense camera is asked to do, and the sensor options and intrinsics behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError, DeviceError
from recon.capture.librealsense import load_librealsense

__all__ = [
    "RealSenseConfig",
    "SyncRole",
    "apply_settings",
    "camera_from_profile",
    "is_aligned",
    "lock_exposure",
]

SyncRole = Literal["off", "master", "slave"]
"""A camera's part on the sync cable."""

_SYNC_VALUE = {"off": 0, "master": 1, "slave": 2}
_COLOR_EXPOSURE_UNIT_US = 100.0  # UVC: colour exposure counts in 100 us, depth exposure in 1 us
_SAME_PX, _SAME_PLACE = 1e-3, 1e-6  # float32's last digits
_DISTORTION_FIT_PX = 0.1  # half of what a good calibration reaches; beyond it the model is wrong


@dataclass(frozen=True)
class RealSenseConfig:
    """How cameras are run.

    Attributes:
        width: image width W [px].
        height: image height H [px].
        fps: frames per second.
        align: move depth into the colour image (2 ms per frame of 640x480 on one core); nothing is
            done where the device's depth lies in the colour image already.
        filters: smooth depth as PhysTwin does, disparity -> spatial -> temporal (9 ms more per
            frame). Off: what is smoothed while recording cannot be undone.
        exposure_us: exposure of colour and depth [us]; the camera's own choice when None.
        gain: sensor gain in the camera's counts; its own choice when None.
        white_balance_k: colour temperature [K]; the camera's own choice when None.
        hardware_sync: trigger all cameras by the sync cable; the first camera is the master.
        playing: how recordings are played. ``paced``: at their own pace, waiting for a slow reader.
            ``fast``: as fast as they are read; librealsense then drops nothing, but one camera may
            run ahead of the others. ``live``: at their own pace without waiting, as cameras send.
        queue_frames: frames per camera that wait for a slow consumer before any is lost.
        start_timeout_s: wait for the first frame [s].
        silence_s: a camera that sends nothing for this long has been unplugged [s].
    """

    width: int = 640
    height: int = 480
    fps: int = 30
    align: bool = True
    filters: bool = False
    exposure_us: float | None = None
    gain: float | None = None
    white_balance_k: float | None = None
    hardware_sync: bool = False
    playing: Literal["paced", "fast", "live"] = "paced"
    queue_frames: int = 60
    start_timeout_s: float = 5.0
    silence_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that no camera could follow.

        Raises:
            DataError: naming the value.
        """
        for name in ("width", "height", "fps", "queue_frames", "start_timeout_s", "silence_s"):
            self._positive(name)
        for name in ("exposure_us", "gain", "white_balance_k"):
            if getattr(self, name) is not None:
                self._positive(name)
        if self.playing not in ("paced", "fast", "live"):
            raise DataError(
                f"playing is {self.playing!r}",
                where="RealSenseConfig.playing",
                expected="paced, fast or live",
            )

    def _positive(self, name: str) -> None:
        if not getattr(self, name) > 0:
            raise DataError(
                f"{name} is {getattr(self, name)}",
                where=f"RealSenseConfig.{name}",
                expected="a number above zero",
                fix="leave it out to take the default",
            )


def apply_settings(sensor: Any, config: RealSenseConfig, role: SyncRole) -> list[str]:
    """Set the options of one sensor before it streams.

    Args:
        sensor: a librealsense sensor.
        config: what is asked for.
        role: this camera's part in hardware synchronisation.

    Returns:
        A sentence for every wish that this sensor cannot fulfil but recording can live with.

    Raises:
        DeviceError: if the sensor refuses a value, or hardware sync was asked for and the depth
            sensor has none.
    """
    option = load_librealsense().option
    name = _name(sensor)
    warnings = []
    if sensor.supports(option.global_time_enabled):
        _set(sensor, option.global_time_enabled, 1.0)
    else:
        warnings.append(f"{name}: no global time; stamps of other cameras may run on other clocks")
    if config.exposure_us is not None and _wish(
        sensor, option.exposure, option.enable_auto_exposure, _exposure(sensor, config.exposure_us)
    ):
        warnings.append(f"{name}: exposure cannot be set")
    if config.gain is not None and _wish(sensor, option.gain, None, config.gain):
        warnings.append(f"{name}: gain cannot be set")
    if (
        config.white_balance_k is not None
        and _is_color(sensor)
        and _wish(
            sensor, option.white_balance, option.enable_auto_white_balance, config.white_balance_k
        )
    ):
        warnings.append(f"{name}: white balance cannot be set")
    if not _is_color(sensor):
        _synchronise(sensor, role)
    return warnings


def lock_exposure(sensor: Any) -> bool:
    """Keep the exposure and white balance that the camera's automatics have found.

    Args:
        sensor: a librealsense sensor that has streamed for about a second.

    Returns:
        Whether the sensor let its exposure be locked.

    Raises:
        DeviceError: if the sensor refuses its own value.
    """
    option = load_librealsense().option
    pairs = (
        (option.exposure, option.enable_auto_exposure),
        (option.white_balance, option.enable_auto_white_balance),
    )
    for value, automatic in pairs:
        if sensor.supports(value) and sensor.supports(automatic) and sensor.get_option(automatic):
            _wish(sensor, value, automatic, sensor.get_option(value))
    automatic = option.enable_auto_exposure
    return bool(sensor.supports(automatic) and sensor.get_option(automatic) == 0.0)


def camera_from_profile(profile: Any, *, name: str, serial: str) -> PinholeCamera:
    """The camera that a video stream's own (factory) intrinsics describe.

    RealSense colour streams come with an inverse Brown model (pixel -> ray); it is turned into
    OpenCV's forward model by least squares, in which the coefficients are linear.

    Args:
        profile: a librealsense video stream profile.
        name: what the camera is called.
        serial: its serial number.

    Returns:
        The camera, at the origin of the world until it is calibrated.

    Raises:
        DeviceError: if five coefficients do not describe this lens.
    """
    rs = load_librealsense()
    own = profile.as_video_stream_profile().get_intrinsics()
    K = np.array([[own.fx, 0.0, own.ppx], [0.0, own.fy, own.ppy], [0.0, 0.0, 1.0]])
    distortion = np.array(own.coeffs, dtype=np.float64)
    if distortion.any() and own.model != rs.distortion.brown_conrady:
        distortion = _forward_model(own, K, name)
    return PinholeCamera(name, serial, own.width, own.height, K, np.eye(4), distortion)


def is_aligned(profile: Any) -> bool:
    """Whether depth comes in the colour image's pixels: the same camera at the same place.

    Args:
        profile: what a started pipeline runs with.

    Returns:
        True where alignment would change nothing but close holes by a pixel.
    """
    rs = load_librealsense()
    depth = profile.get_stream(rs.stream.depth).as_video_stream_profile()
    color = profile.get_stream(rs.stream.color).as_video_stream_profile()
    a, b = depth.get_intrinsics(), color.get_intrinsics()
    same = all(
        abs(getattr(a, key) - getattr(b, key)) < _SAME_PX
        for key in ("width", "height", "fx", "fy", "ppx", "ppy")
    )
    if not same or not np.allclose(a.coeffs, b.coeffs, rtol=0.0, atol=_SAME_PLACE):
        return False
    between = depth.get_extrinsics_to(color)
    turn = np.array(between.rotation) - np.eye(3).ravel()
    return bool(max(np.abs(turn).max(), np.abs(between.translation).max()) < _SAME_PLACE)


def _forward_model(own: Any, K: np.ndarray, name: str) -> np.ndarray:
    rs = load_librealsense()
    u, v = np.meshgrid(np.linspace(0, own.width - 1, 15), np.linspace(0, own.height - 1, 11))
    pixels = np.stack([u.ravel(), v.ravel()], axis=1)
    rays = np.array([rs.rs2_deproject_pixel_to_point(own, list(p), 1.0)[:2] for p in pixels])
    bent = (pixels - K[:2, 2]) / [K[0, 0], K[1, 1]]
    x, y = rays.T
    r2 = x * x + y * y
    zero = np.stack([2 * x * y, r2 + 2 * x * x], axis=1)
    one = np.stack([r2 + 2 * y * y, 2 * x * y], axis=1)
    radial = [r2, r2**2, r2**3]
    a_x = np.stack([x * radial[0], x * radial[1], zero[:, 0], zero[:, 1], x * radial[2]], axis=1)
    a_y = np.stack([y * radial[0], y * radial[1], one[:, 0], one[:, 1], y * radial[2]], axis=1)
    a, b = np.concatenate([a_x, a_y]), np.concatenate([bent[:, 0] - x, bent[:, 1] - y])
    found = np.linalg.lstsq(a, b, rcond=None)[0]
    worst_px = float(np.abs(a @ found - b).max() * K[0, 0])
    if worst_px > _DISTORTION_FIT_PX:
        raise DeviceError(
            f"the lens model {own.model} misses OpenCV's by {worst_px:.2f} px",
            where=f"camera {name!r}",
            expected=f"at most {_DISTORTION_FIT_PX} px, so that k1, k2, p1, p2, k3 describe it",
            fix="calibrate this camera's intrinsics and give them in the calibration file",
        )
    return np.asarray(found)


def _synchronise(sensor: Any, role: SyncRole) -> None:
    option = load_librealsense().option.inter_cam_sync_mode
    if sensor.supports(option):
        _set(sensor, option, float(_SYNC_VALUE[role]))
    elif role != "off":
        raise DeviceError(
            f"hardware sync was asked for ({role}), and the sensor has none",
            where=_name(sensor),
            expected="a camera with inter_cam_sync_mode (D435, D455 and later) and a sync cable",
            fix="leave hardware sync off: frames are then matched by their time stamps",
        )


def _wish(sensor: Any, option: Any, automatic: Any, value: float) -> bool:
    """Set an option, its automatic off; True when the sensor does not have the option."""
    if not sensor.supports(option) or sensor.is_option_read_only(option):
        return True
    if automatic is not None and sensor.supports(automatic):
        _set(sensor, automatic, 0.0)
    _set(sensor, option, value)
    return False


def _set(sensor: Any, option: Any, value: float) -> None:
    try:
        sensor.set_option(option, value)
    except RuntimeError as error:
        reach = sensor.get_option_range(option)
        raise DeviceError(
            f"{option} = {value:g} was refused: {error}",
            where=_name(sensor),
            expected=f"{reach.min:g} to {reach.max:g} in steps of {reach.step:g}",
            fix="choose a value in this range; a camera that runs elsewhere is locked",
        ) from error


def _exposure(sensor: Any, exposure_us: float) -> float:
    return exposure_us / _COLOR_EXPOSURE_UNIT_US if _is_color(sensor) else exposure_us


def _is_color(sensor: Any) -> bool:
    return "RGB" in _name(sensor)


def _name(sensor: Any) -> str:
    return str(sensor.get_info(load_librealsense().camera_info.name))
