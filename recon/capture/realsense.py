"""RGB-D cameras through librealsense: real ones by serial number, or their recordings.

Both go through `rs.pipeline`. One thread per camera takes frames out of librealsense; the one
who reads the `RealSenseRig` gets them in order of arrival. Every frame is accounted for: frame
numbers and stamps tell what the driver lost, bounded queues count what a slow reader lost.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from physgym.camera import PinholeCamera
from physgym.errors import DeviceError
from recon.capture.librealsense import frames_in_file, load_librealsense
from recon.capture.realsense_reader import CameraReport, Frame, Reader
from recon.capture.realsense_settings import (
    RealSenseConfig,
    SyncRole,
    apply_settings,
    camera_from_profile,
    lock_exposure,
)
from recon.capture.sync import Matched, NearestStampSynchroniser, StreamCounts

__all__ = ["CameraReport", "Frame", "RealSenseConfig", "RealSenseRig"]


class RealSenseRig:
    """Several RealSense cameras that record together.

    Use it in a ``with`` block; inside, read `frames` or `framesets` once.

    Args:
        cameras: name -> serial number. All connected cameras, ``cam0``, ``cam1``, ... in order of
            serial number, when None.
        config: resolution, rate, exposure and the like.
        files: recordings of librealsense (.db3), played back instead of hardware, at the pace at
            which they were recorded or as `RealSenseConfig.playing` says.

    Raises:
        DataError: on entry, if a recording cannot be opened.
        DeviceError: on entry, if a camera is missing or cannot do what is asked.
    """

    def __init__(
        self,
        cameras: Mapping[str, str] | None = None,
        config: RealSenseConfig | None = None,
        *,
        files: Sequence[Path] = (),
    ) -> None:
        self.config = config or RealSenseConfig()
        self.warnings: list[str] = []
        self.cameras: dict[str, PinholeCamera] = {}
        self.sync_counts: dict[str, StreamCounts] = {}
        self._rs: Any = load_librealsense()
        self._wanted = dict(cameras) if cameras is not None else None
        self._files = [Path(file) for file in files]
        self._context: Any = None
        self._handles: list[Any] = []  # a recording leaves the context with its handle
        self._readers: dict[str, Reader] = {}
        self._arrived: queue.SimpleQueue[tuple[str, Frame | None]] = queue.SimpleQueue()

    @staticmethod
    def connected() -> dict[str, str]:
        """Cameras on this machine's USB.

        Returns:
            Serial number -> model name.

        Raises:
            DeviceError: if librealsense is not there.
        """
        return _devices(load_librealsense().context())

    def __enter__(self) -> RealSenseRig:
        """Start every camera."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every camera."""
        self.stop()

    def _start(self) -> None:
        self._context = self._rs.context()
        for file in self._files:
            self._handles.append(self._open(file))
        present = _devices(self._context)
        wanted = self._wanted or {f"cam{i}": serial for i, serial in enumerate(sorted(present))}
        if len(present) < len(self._files):
            raise DeviceError(
                f"{len(self._files)} recordings are of {len(present)} cameras",
                where=", ".join(map(str, self._files)),
                expected="one recording of each camera",
                fix="play recordings of the same camera one after the other",
            )
        missing = [f"{name} ({serial})" for name, serial in wanted.items() if serial not in present]
        if missing or not wanted:
            raise DeviceError(
                f"not connected: {', '.join(missing) or 'any camera'}",
                where="recordings" if self._files else "USB",
                expected=f"one of {sorted(present) or 'no camera at all was found'}",
                fix="check cable and port (USB 3), udev rules and `physgym doctor`",
            )
        for i, (name, serial) in enumerate(wanted.items()):
            self._readers[name] = self._start_camera(name, serial, is_first=i == 0)
        for reader in self._readers.values():
            reader.start()

    def _open(self, file: Path) -> Any:
        if file.suffix == ".bag":
            fix = f"convert it once: rs.context().convert_bag_to_db3({file.name!r}, ...)"
        else:
            fix = "record again; a recording is complete only after its recorder has stopped"
        try:
            return self._context.load_device(str(file))
        except RuntimeError as error:
            raise DeviceError(
                f"librealsense cannot play this recording: {error}",
                where=str(file),
                expected="a .db3 that librealsense recorded",
                fix=fix,
            ) from error

    def _start_camera(self, name: str, serial: str, *, is_first: bool) -> Reader:
        rs, config = self._rs, self.config
        request = rs.config()
        request.enable_device(serial)
        size = (config.width, config.height)
        request.enable_stream(rs.stream.depth, *size, rs.format.z16, config.fps)
        request.enable_stream(rs.stream.color, *size, rs.format.rgb8, config.fps)
        pipeline = rs.pipeline(self._context)
        frames = rs.frame_queue(config.queue_frames, keep_frames=True)
        if self._files and config.playing == "fast":
            frames = None
        try:
            device = request.resolve(rs.pipeline_wrapper(pipeline)).get_device()
            if device.is_playback():
                # Started at once, it plays its first frames to nobody. The reader resumes it.
                device.as_playback().pause()
                device.as_playback().set_real_time(config.playing != "fast")
            else:
                role: SyncRole = "off"
                if config.hardware_sync:
                    role = "master" if is_first else "slave"
                for sensor in device.query_sensors():
                    self.warnings += [
                        f"{name}: {text}" for text in apply_settings(sensor, config, role)
                    ]
            # Named, or it would pass for a Python callback: librealsense's threads would then wait
            # for the interpreter with every frame, and drop what comes meanwhile.
            profile = pipeline.start(request, **({} if frames is None else {"queue": frames}))
        except RuntimeError as error:
            raise DeviceError(
                f"camera {name} does not start: {error}",
                where=f"serial {serial}",
                expected=f"depth and colour at {size[0]}x{size[1]}, {config.fps} fps",
                fix="ask for a mode that it has (rs-enumerate-devices); three cameras at 30 fps "
                "need USB 3 on separate controllers",
            ) from error
        color = profile.get_stream(rs.stream.color)
        self.cameras[name] = camera_from_profile(color, name=name, serial=serial)
        return Reader(name, serial, pipeline, profile, frames, config, self._arrived)

    def frames_in_files(self) -> dict[str, int]:
        """How many frames the recordings hold, whatever playback makes of them.

        Returns:
            Frames with colour and depth by camera; empty for connected cameras.
        """
        serials = {reader.serial: name for name, reader in self._readers.items()}
        info = self._rs.camera_info.serial_number
        return {
            serials[serial]: count
            for file, handle in zip(self._files, self._handles)
            if (serial := handle.get_info(info)) in serials
            and (count := frames_in_file(file)) is not None
        }

    def frames(self) -> Iterator[Frame]:
        """Frames of all cameras in order of arrival, until every camera has ended or `stop`.

        Yields:
            One frame at a time: depth and colour of one instant, checked by their stamps.
        """
        for _, frame in self._arrivals():
            if frame is not None:
                yield frame

    def framesets(self, *, slop_s: float | None = None) -> Iterator[Matched[Frame]]:
        """Frames of all cameras that belong together; a camera that ends leaves the others going.

        Afterwards `sync_counts` says how many frames of each camera found no partner.

        Args:
            slop_s: largest difference of stamps in a set [s]; half a frame period when None.

        Yields:
            Sets in order of time.
        """
        slop_s = slop_s if slop_s is not None else 0.5 / self.config.fps
        synchroniser = NearestStampSynchroniser[Frame](
            list(self._readers), slop_s=slop_s, queue_length=self.config.fps
        )
        for name, frame in self._arrivals():
            if frame is None:
                yield from synchroniser.end(name)
            else:
                yield from synchroniser.push(name, frame.stamp_s, frame)
            self.sync_counts = synchroniser.counts()

    def _arrivals(self) -> Iterator[tuple[str, Frame | None]]:
        going = set(self._readers)
        while going:
            name, frame = self._arrived.get()
            if frame is None:
                going.discard(name)
            else:
                self._readers[name].taken()
            yield name, frame

    def lock_exposure(self) -> list[str]:
        """Freeze what auto exposure has found, so that brightness does not pump in a recording.

        Returns:
            Names of cameras with a sensor that cannot be locked (recordings never can).

        Raises:
            DeviceError: if a sensor refuses.
        """
        return [
            name
            for name, reader in self._readers.items()
            if reader.is_playback or not all([lock_exposure(s) for s in reader.sensors])
        ]

    def report(self) -> dict[str, CameraReport]:
        """What each camera delivered and lost so far.

        Returns:
            Camera name -> report.
        """
        return {name: reader.report() for name, reader in self._readers.items()}

    def ended(self) -> dict[str, str]:
        """Cameras that have stopped, and why.

        Returns:
            Reason by camera name.
        """
        return {name: reader.ended for name, reader in self._readers.items() if reader.ended}

    def request_stop(self) -> None:
        """Let every camera stop soon; `frames` then ends. May be called from a signal handler."""
        for reader in self._readers.values():
            reader.request_stop()

    def stop(self) -> None:
        """Stop all cameras; frames that have arrived can still be read. More calls do nothing."""
        for reader in self._readers.values():
            reader.stop()
        self._handles = []


def _devices(context: Any) -> dict[str, str]:
    info = load_librealsense().camera_info
    return {
        device.get_info(info.serial_number): device.get_info(info.name)
        for device in context.query_devices()
    }
