"""Cameras without hardware: rendered RGB-D frames become recordings of librealsense.

Frames go into librealsense's own software device and its own recorder writes the file, so that
everything above the driver (pipelines, serial numbers, alignment, filters, time stamps) is the
code that runs with real cameras when the file is played back (`recon.capture.realsense`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import inverse_T
from recon.capture.librealsense import frames_in_file, load_librealsense

__all__ = ["SoftwareCamera", "record_software_cameras"]

_EARLIEST_WALL_CLOCK_S = 1e6
_STUCK_S = 5.0
_DEPTH_UID, _COLOR_UID = 1, 2


class SoftwareCamera:
    """One RGB-D camera of librealsense's software device, recorded to a file.

    The file is complete after `close` (or at the end of a ``with`` block).

    Args:
        path: the recording; librealsense 2.59 writes ``.db3`` only. An older file is replaced.
        camera: the colour camera; its serial number is what pipelines ask for.
        fps: nominal frames per second.
        depth_camera: the depth sensor where it is not the colour camera itself, so that aligning
            depth to colour has something to do.
        depth_unit_m: metres per count of the 16 bit depth image.

    Raises:
        DataError: if the path has another ending or the camera has no serial number.
    """

    def __init__(
        self,
        path: Path,
        camera: PinholeCamera,
        *,
        fps: int = 30,
        depth_camera: PinholeCamera | None = None,
        depth_unit_m: float = 1e-3,
    ) -> None:
        if path.suffix != ".db3" or not camera.serial:
            raise DataError(
                f"cannot record camera {camera.name!r} (serial {camera.serial!r}) to {path.name!r}",
                where="SoftwareCamera",
                expected="a file name ending in .db3 and a camera with a serial number",
                fix="name the file CAMERA.db3 and give PinholeCamera a serial",
            )
        path.unlink(missing_ok=True)
        self._rs: Any = load_librealsense()
        self._camera, self._depth_camera = camera, depth_camera or camera
        self._fps, self._unit_m = fps, depth_unit_m
        self._number, self._last_s = 0, -np.inf
        self._path, self._fed = path, 0
        self._build(path)

    def _build(self, path: Path) -> None:
        rs = self._rs
        device = rs.software_device()
        device.register_info(rs.camera_info.name, "PhysGym software camera")
        device.register_info(rs.camera_info.serial_number, self._camera.serial)
        self._depth = device.add_sensor("Stereo Module")
        self._color = device.add_sensor("RGB Camera")
        depth = self._stream(rs.stream.depth, _DEPTH_UID, rs.format.z16, 2, self._depth_camera)
        color = self._stream(rs.stream.color, _COLOR_UID, rs.format.rgb8, 3, self._camera)
        self._depth_profile = self._depth.add_video_stream(depth)
        self._color_profile = self._color.add_video_stream(color)
        self._depth.add_read_only_option(rs.option.depth_units, self._unit_m)
        T_color_depth = inverse_T(self._camera.T_world_cam) @ self._depth_camera.T_world_cam
        extrinsics = rs.extrinsics()
        extrinsics.rotation = T_color_depth[:3, :3].ravel(order="F").tolist()  # column by column
        extrinsics.translation = T_color_depth[:3, 3].tolist()
        self._depth_profile.register_extrinsics_to(self._color_profile, extrinsics)
        self._device = device
        self._recorder: Any = rs.recorder(str(path), device)
        self._sensors = self._recorder.query_sensors()
        for sensor in self._sensors:  # the recorder's: it sees only what passes through its own
            sensor.open(sensor.get_stream_profiles())
            sensor.start(queue=rs.frame_queue(1))  # nobody reads it

    def _stream(
        self, kind: Any, uid: int, image_format: Any, bytes_per_pixel: int, camera: PinholeCamera
    ) -> Any:
        rs = self._rs
        intrinsics = rs.intrinsics()
        intrinsics.width, intrinsics.height = camera.width, camera.height
        intrinsics.fx, intrinsics.fy = camera.K[0, 0], camera.K[1, 1]
        intrinsics.ppx, intrinsics.ppy = camera.K[0, 2], camera.K[1, 2]
        intrinsics.model = rs.distortion.brown_conrady
        intrinsics.coeffs = camera.distortion.tolist()
        stream = rs.video_stream()
        stream.type, stream.index, stream.uid = kind, 0, uid
        stream.width, stream.height, stream.fps = camera.width, camera.height, self._fps
        stream.bpp, stream.fmt, stream.intrinsics = bytes_per_pixel, image_format, intrinsics
        return stream

    def feed(
        self,
        stamp_s: float,
        rgb: np.ndarray | None,
        depth_m: np.ndarray | None,
        *,
        number: int | None = None,
    ) -> None:
        """Hand the device one frame, as if it had come over USB.

        Args:
            stamp_s: time of both images [s]: from 0 on, or wall-clock time. librealsense pairs
                depth and colour only then (measured with 2.59).
            rgb: colour (H, W, 3) uint8, or None when that frame was lost.
            depth_m: depth of the depth camera (H, W) [m], 0 or not finite where there is none;
                None when that frame was lost.
            number: the sensor's frame number; one more than the last when None.

        Raises:
            DataError: if an image has another size than its camera, or the stamp is unusable.
        """
        self._check_stamp(stamp_s)
        self._fed += rgb is not None and depth_m is not None
        self._number = self._number + 1 if number is None else number
        if depth_m is not None:
            self._check_image(depth_m, self._depth_camera, (), "depth_m")
            counts = np.nan_to_num(depth_m, nan=0.0, posinf=0.0, neginf=0.0) / self._unit_m
            image = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
            self._send(self._depth, self._depth_profile, image, 2, stamp_s)
        if rgb is not None:
            self._check_image(rgb, self._camera, (3,), "rgb")
            image = np.ascontiguousarray(rgb, dtype=np.uint8)
            self._send(self._color, self._color_profile, image, 3, stamp_s)

    def _send(
        self, sensor: Any, profile: Any, image: np.ndarray, bytes_per_pixel: int, stamp_s: float
    ) -> None:
        frame = self._rs.software_video_frame()
        frame.pixels, frame.bpp = image, bytes_per_pixel
        frame.stride = image.shape[1] * bytes_per_pixel
        frame.timestamp = stamp_s * 1e3
        frame.domain = self._rs.timestamp_domain.global_time
        frame.frame_number, frame.profile = self._number, profile.as_video_stream_profile()
        if bytes_per_pixel == 2:
            frame.depth_units = self._unit_m
        sensor.on_video_frame(frame)

    def _check_stamp(self, stamp_s: float) -> None:
        first = not np.isfinite(self._last_s)
        usable = stamp_s == 0 or stamp_s >= _EARLIEST_WALL_CLOCK_S if first else True
        if not np.isfinite(stamp_s) or stamp_s < self._last_s or not usable:
            raise DataError(
                f"frame {self._number + 1} has the stamp {stamp_s} s after {self._last_s} s",
                where=f"SoftwareCamera({self._camera.name!r}).feed",
                expected=f"rising stamps from 0 s, or from {_EARLIEST_WALL_CLOCK_S:g} s on: "
                "librealsense mixes depth and colour of different instants otherwise",
                fix="add the wall-clock time at which the recording starts to every stamp",
            )
        self._last_s = stamp_s

    def _check_image(
        self, image: np.ndarray, camera: PinholeCamera, channels: tuple[int, ...], name: str
    ) -> None:
        if image.shape != (camera.height, camera.width, *channels):
            raise DataError(
                f"{name} has shape {image.shape}",
                where=f"SoftwareCamera({self._camera.name!r}).feed",
                expected=f"shape {(camera.height, camera.width, *channels)}",
                fix="render at the size of the camera",
            )

    def close(self) -> None:
        """Complete the file; more calls do nothing."""
        if self._recorder is None:
            return
        self._wait_for_disk()
        for sensor in self._sensors:
            sensor.stop()
            sensor.close()
        self._sensors = []
        self._recorder = None  # librealsense writes the end of the file when the handle goes
        self._device = None

    def _wait_for_disk(self) -> None:
        """Wait while librealsense writes what it was fed: it gives up 10 s after it is closed."""
        last, since_s = -1, time.monotonic()
        while (now := frames_in_file(self._path) or 0) < self._fed:
            if now > last:
                last, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > _STUCK_S:
                return  # a full disk
            time.sleep(0.02)

    def __enter__(self) -> SoftwareCamera:
        """The camera, ready to be fed."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Complete the file, whatever happened."""
        self.close()


def record_software_cameras(
    folder: Path,
    cameras: Iterable[PinholeCamera],
    frames: Iterable[tuple[str, float, np.ndarray | None, np.ndarray | None]],
    *,
    fps: int = 30,
    depth_cameras: Mapping[str, PinholeCamera] | None = None,
    paced: bool = False,
) -> dict[str, Path]:
    """Write one recording per camera from frames of all of them.

    Args:
        folder: where the files ``CAMERA.db3`` go; made when absent.
        cameras: the colour cameras, each with a name and a serial number of its own.
        frames: (camera name, stamp [s], rgb or None, depth [m] or None) in order of time.
        fps: nominal frames per second.
        depth_cameras: depth sensors by camera name, where they are not the colour cameras.
        paced: feed at the pace of the stamps. A file plays at the pace at which it was written,
            so this is what a test of real-time playback needs.

    Returns:
        Camera name -> file.

    Raises:
        DataError: if a frame names an unknown camera or does not fit its camera.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = {camera.name: camera for camera in cameras}
    files = {name: folder / f"{name}.db3" for name in known}
    opened: dict[str, SoftwareCamera] = {}
    try:
        for name, camera in known.items():
            opened[name] = SoftwareCamera(
                files[name], camera, fps=fps, depth_camera=(depth_cameras or {}).get(name)
            )
        start_wall_s, start_s = time.monotonic(), None
        for name, stamp_s, rgb, depth_m in frames:
            if name not in opened:
                raise DataError(
                    f"a frame of camera {name!r}",
                    where="record_software_cameras",
                    expected=f"one of {sorted(known)}",
                    fix="pass this camera as well",
                )
            start_s = stamp_s if start_s is None else start_s
            if paced:
                time.sleep(max(0.0, start_wall_s + stamp_s - start_s - time.monotonic()))
            opened[name].feed(stamp_s, rgb, depth_m)
    finally:
        for software_camera in opened.values():
            software_camera.close()
    return files
