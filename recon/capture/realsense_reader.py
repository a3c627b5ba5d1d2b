"""One thread per RealSense camera: out of librealsense's queue, aligned, paired, counted.

librealsense's syncer now and then hands out framesets whose depth and colour are of different
instants (late frames, a busy machine). Sets are therefore taken apart, repeated frames recognised
by their number, and depth paired with colour by their stamps.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from recon.capture.librealsense import load_librealsense
from recon.capture.realsense_settings import RealSenseConfig, is_aligned
from recon.capture.sync import Matched, NearestStampSynchroniser

__all__ = ["CameraReport", "Frame", "Reader", "StreamReport"]

_POLL_MS = 20
_PLAYED_OUT_S = 0.3  # after a recording has stopped, what is still on its way has come by then


@dataclass(frozen=True)
class Frame:
    """Colour and depth of one camera at one instant.

    Attributes:
        camera: name of the camera.
        stamp_s: time of the colour image [s], on the clock named in the camera's report.
        rgb: colour (H, W, 3) uint8.
        depth_counts: depth along the optical axis as the sensor counts it, uint16, 0 where there is
            none; (H, W), in the colour image's pixels when the rig aligns.
        depth_unit_m: metres per count.
        depth_stamp_s: time of the depth image [s].
        number: the sensor's frame number of the colour image.
    """

    camera: str
    stamp_s: float
    rgb: np.ndarray = field(repr=False)
    depth_counts: np.ndarray = field(repr=False)
    depth_unit_m: float
    depth_stamp_s: float
    number: int

    @cached_property
    def depth_m(self) -> np.ndarray:
        """Depth [m], float32, 0 where there is none, shape (H, W)."""
        return self.depth_counts.astype(np.float32) * np.float32(self.depth_unit_m)

    @property
    def depth_mm(self) -> np.ndarray | None:
        """The counts, where one count is a millimetre; None where it is not."""
        return self.depth_counts if abs(self.depth_unit_m - 1e-3) < 1e-9 else None


@dataclass(frozen=True)
class StreamReport:
    """What one stream of a camera delivered.

    Attributes:
        received: frames that came.
        lost: frames that the numbers say are missing, from the first one that came.
        gaps: frames that the stamps say are missing; more than `lost` when the camera slowed down
            (long exposure), fewer never.
        unpaired: frames whose partner (depth or colour) was lost.
    """

    received: int
    lost: int
    gaps: int
    unpaired: int


@dataclass(frozen=True)
class CameraReport:
    """What one camera delivered, and what became of the rest.

    Attributes:
        serial: serial number.
        delivered: frames given to the reader of the rig, or waiting for it.
        overflowed: frames thrown away because that reader was too slow.
        mixed_sets: librealsense's framesets with depth and colour of different instants; taken
            apart and paired anew, so no frame carries the mixture.
        depth: the depth stream.
        color: the colour stream.
        clock: librealsense's name of the clock of the stamps; `hardware_clock` is this camera's
            own and cannot be compared with other cameras'.
        ended: why the camera stopped, ``""`` while it runs.
    """

    serial: str
    delivered: int
    overflowed: int
    mixed_sets: int
    depth: StreamReport
    color: StreamReport
    clock: str
    ended: str

    @property
    def lost(self) -> int:
        """Frames that a perfect recording would have had."""
        missing = max(self.depth.lost + self.depth.unpaired, self.color.lost + self.color.unpaired)
        return missing + self.overflowed


class _Stream:
    """Numbers and stamps of one stream, and what they say is missing."""

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self.received = self.lost = self.gaps = 0
        self._number: int | None = None
        self._stamp_s = 0.0

    def is_new(self, number: int, stamp_s: float) -> bool:
        """Count a frame; False when it came before."""
        if self._number is not None:
            if number <= self._number:
                return False
            self.lost += number - self._number - 1
            self.gaps += max(0, round((stamp_s - self._stamp_s) * self._fps) - 1)
        self.received += 1
        self._number, self._stamp_s = number, stamp_s
        return True


class Reader(threading.Thread):
    """Reads one started pipeline.

    Args:
        camera: its name.
        serial: its serial number.
        pipeline: the started pipeline; a recording is paused, so that its first frames wait.
        profile: what it runs with.
        frames: librealsense's queue that the pipeline fills; None where it fills its own.
        config: resolution, rate, filters, bounds.
        arrived: takes (camera, frame), and (camera, None) once at the end.
    """

    def __init__(
        self,
        camera: str,
        serial: str,
        pipeline: Any,
        profile: Any,
        frames: Any,
        config: RealSenseConfig,
        arrived: queue.SimpleQueue[tuple[str, Frame | None]],
    ) -> None:
        super().__init__(name=f"realsense-{camera}", daemon=True)
        self._rs: Any = load_librealsense()
        self._camera, self.serial, self._config = camera, serial, config
        self._pipeline, self._frames, self._arrived = pipeline, frames, arrived
        device = profile.get_device()
        self._playback = device.as_playback() if device.is_playback() else None
        # Played in real time, librealsense drops what finds no room in its own short queues; else
        # it hands over every frame and waits.
        self._waits = self._playback is not None and config.playing == "fast"
        self._never_waits = self._playback is None or config.playing == "live"
        self.sensors = device.query_sensors()
        self._room = threading.Semaphore(config.queue_frames)
        self._stop_asked = threading.Event()
        self._counts = {"depth": _Stream(config.fps), "color": _Stream(config.fps)}
        self._pairs = NearestStampSynchroniser[tuple[int, np.ndarray]](
            ("depth", "color"), slop_s=0.5 / config.fps, queue_length=8
        )
        self._delivered = self._overflowed = self._mixed = 0
        self._paused, self._pause_above = self._playback is not None, config.queue_frames // 4
        self._clock = self._ended = ""
        self._unit_m = 1e-3
        needed = config.align and not is_aligned(profile)
        self._align = self._rs.align(self._rs.stream.color) if needed else None
        self._filters = _depth_filters(self._rs) if config.filters else []

    @property
    def is_playback(self) -> bool:
        """Whether this is a recording."""
        return self._playback is not None

    def taken(self) -> None:
        """The consumer has taken one frame: there is room for another."""
        self._room.release()

    @property
    def ended(self) -> str:
        """Why the camera stopped, ``""`` while it runs."""
        return self._ended

    def request_stop(self) -> None:
        """Let the thread end soon, without waiting for it."""
        self._stop_asked.set()

    def stop(self) -> None:
        """End the thread and the stream; more calls do nothing."""
        self._stop_asked.set()
        if self.is_alive():
            self.join()
        elif not self._ended:  # never started
            self._ended = "stopped"
            self._close()

    def run(self) -> None:
        """Read until the camera ends, then say why and that it has ended."""
        try:
            if self._playback is not None:
                self._resume()  # it waits at its first frame
            self._ended = self._read()
        except RuntimeError as error:  # librealsense's own: a broken link among them
            self._ended = f"librealsense: {error}"
        except Exception as error:  # a bug of ours must end the recording, not hang it
            self._ended = f"{type(error).__name__}: {error}"
        finally:
            self._arrived.put((self._camera, None))
            self._close()

    def _close(self) -> None:
        try:
            if self._paused:
                self._resume()  # stopping a paused pipeline waits for ever
            if self._waits and self._playback is not None:
                self._playback.set_real_time(True)  # else it waits 10 s for who reads no more
            self._pipeline.stop()
        except RuntimeError:
            pass  # an unplugged camera cannot be stopped any more

    def _read(self) -> str:
        config, started = self._config, time.monotonic()
        last, has_any = started, False
        while not self._stop_asked.is_set():
            came, frame = self._next()
            now = time.monotonic()
            if came:
                has_any = True
                self._slow_down_playback()
                self._take(frame)
                last = time.monotonic() if self.is_playback else now
                continue
            if self._paused:
                self._resume()
            silent_s = now - last
            if has_any and self._has_played_out() and silent_s > _PLAYED_OUT_S:
                return "end of the recording"
            if has_any and silent_s > config.silence_s and not self.is_playback:
                return f"no frame for {silent_s:.1f} s: unplugged, or its USB link broke"
            if silent_s > max(config.start_timeout_s, config.silence_s):
                return f"no {'more frames' if has_any else 'frame at all'} within {silent_s:.1f} s"
        return "stopped"

    def _next(self) -> tuple[bool, Any]:
        if self._waits:  # a queue of ours would stand still then (librealsense 2.59)
            came, frame = self._pipeline.try_wait_for_frames(_POLL_MS)
        else:
            came, frame = self._frames.try_wait_for_frame(_POLL_MS)
        return bool(came), frame

    def _slow_down_playback(self) -> None:
        """Let a recording wait while its frames cannot be processed as fast as they come."""
        if self._waits or self._never_waits:
            return
        waiting = self._frames.size()
        if self._playback is not None and not self._paused and waiting > self._pause_above:
            self._playback.pause()
            self._paused = True
        elif self._paused and waiting == 0:
            self._resume()

    def _resume(self) -> None:
        if self._playback is not None:
            self._playback.resume()
        self._paused = False

    def _has_played_out(self) -> bool:
        stopped = self._rs.playback_status.stopped
        return self._playback is not None and self._playback.current_status() == stopped

    def _take(self, frame: Any) -> None:
        frameset = frame.as_frameset()
        if not frameset:
            return
        depth, color = frameset.get_depth_frame(), frameset.get_color_frame()
        if depth and color:
            apart_s = abs(depth.get_timestamp() - color.get_timestamp()) * 1e-3
            self._mixed += apart_s > 0.5 / self._config.fps
        if color and self._is_new("color", color):
            # the copy: librealsense takes its buffer back
            self._pair("color", color, np.array(color.get_data()))
        if depth and self._is_new("depth", depth) and (self._align is None or color):
            self._pair("depth", depth, self._depth_counts(frameset))

    def _is_new(self, stream: str, frame: Any) -> bool:
        self._clock = self._clock or str(frame.get_frame_timestamp_domain()).rpartition(".")[2]
        return self._counts[stream].is_new(frame.get_frame_number(), frame.get_timestamp() * 1e-3)

    def _depth_counts(self, frameset: Any) -> np.ndarray:
        processed = frameset
        for depth_filter in self._filters:
            processed = depth_filter.process(processed).as_frameset()
        if self._align is not None:
            # alignment needs the colour camera, not the colour image: an older one will do
            processed = self._align.process(processed).as_frameset()
        depth = processed.get_depth_frame()
        self._unit_m = float(depth.get_units())
        return np.array(depth.get_data())  # the copy: as for colour

    def _pair(self, stream: str, frame: Any, image: np.ndarray) -> None:
        stamp_s = frame.get_timestamp() * 1e-3
        for match in self._pairs.push(stream, stamp_s, (frame.get_frame_number(), image)):
            self._deliver(match)

    def _deliver(self, match: Matched[tuple[int, np.ndarray]]) -> None:
        number, rgb = match.frames["color"]
        if not self._room.acquire(blocking=False) and not self._wait_for_room():
            self._overflowed += 1
            return
        self._delivered += 1
        frame = Frame(
            camera=self._camera,
            stamp_s=match.stamps_s["color"],
            rgb=rgb,
            depth_counts=match.frames["depth"][1],
            depth_unit_m=self._unit_m,
            depth_stamp_s=match.stamps_s["depth"],
            number=number,
        )
        self._arrived.put((self._camera, frame))

    def _wait_for_room(self) -> bool:
        """A recording can wait for its reader, a camera cannot."""
        if self._playback is None or self._never_waits:
            return False
        if not self._waits:
            self._playback.pause()
            self._paused = True  # goes on when the frames already on their way are processed
        while not self._room.acquire(timeout=0.05):
            if self._stop_asked.is_set():
                return False
        return True

    def report(self) -> CameraReport:
        """What came and what was lost so far.

        Returns:
            The report.
        """
        unpaired = {name: counts.dropped for name, counts in self._pairs.counts().items()}
        depth, color = (
            StreamReport(count.received, count.lost, count.gaps, unpaired[name])
            for name, count in self._counts.items()
        )
        return CameraReport(
            serial=self.serial,
            delivered=self._delivered,
            overflowed=self._overflowed,
            mixed_sets=self._mixed,
            depth=depth,
            color=color,
            clock=self._clock,
            ended=self._ended,
        )


def _depth_filters(rs: Any) -> list[Any]:
    """PhysTwin's filters (notes of its recorder: spatial 5, 0.75, 1, 1; temporal 0.75, 1)."""
    spatial, temporal, option = rs.spatial_filter(), rs.temporal_filter(), rs.option
    spatial.set_option(option.filter_magnitude, 5)
    spatial.set_option(option.filter_smooth_alpha, 0.75)
    spatial.set_option(option.filter_smooth_delta, 1)
    spatial.set_option(option.holes_fill, 1)
    temporal.set_option(option.filter_smooth_alpha, 0.75)
    temporal.set_option(option.filter_smooth_delta, 1)
    return [rs.disparity_transform(True), spatial, temporal, rs.disparity_transform(False)]
