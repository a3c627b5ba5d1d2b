"""From a source to an episode: a bounded queue in memory and one thread that writes.

A camera cannot wait. What finds no room in the queue is dropped and counted, and so is what a full
disk or a dying source costs: a report that names no loss had none.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from physgym.errors import DataError, PhysGymError
from recon.capture.sources import GripperPose, Item, Picture, Source
from recon.episode_write import EpisodeWriter
from recon.images import depth_mm

__all__ = ["BackgroundWriter", "RecordReport", "record"]

_POSE_BYTES = 512
_HURRY, _CALM = 0.4, 0.1  # share of the queue that is filled
_NAMESPACE = "camera"
_HURRIED = "parts were not compressed, to keep up: this machine is short of processor time"


@dataclass(frozen=True)
class RecordReport:
    """What became of every frame.

    Attributes:
        episode: where the recording is.
        frames: frames in it, by camera.
        came: frames that the source gave, by camera.
        dropped: frames that found no room in the queue, by camera; disk or processor was too slow.
        high_water: most frames that waited for the disk at once.
        high_water_mb: most megabytes that did [MB].
        seconds: from the first frame to the closed episode [s].
        raw_mb: messages written [MB].
        disk_mb: size of the episode [MB].
        ended: why it stopped, ``""`` when it ran to its end.
        losses: sentences on everything that is not in the episode.
        notes: sentences that the user should know, but no loss.
    """

    episode: Path
    frames: dict[str, int]
    came: dict[str, int]
    dropped: dict[str, int]
    high_water: int
    high_water_mb: float
    seconds: float
    raw_mb: float
    disk_mb: float
    ended: str = ""
    losses: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_plain(self) -> dict[str, Any]:
        """Everything, for JSON.

        Returns:
            Numbers, texts, lists.
        """
        return {**vars(self), "episode": str(self.episode)}


class BackgroundWriter:
    """A thread that writes an episode from a queue of bounded size.

    Args:
        writer: where to.
        buffer_bytes: most bytes that wait.
        can_wait: `put` waits when the queue is full; else the item is dropped and counted.

    Attributes:
        came: pictures given, by camera.
        dropped: pictures that found no room, by camera.
        high_water: most pictures that waited at once.
        high_water_bytes: most bytes that did.
        hurried: compression was left out for a while to keep up.
        failure: why nothing is written any more; None while all is well.
    """

    def __init__(self, writer: EpisodeWriter, buffer_bytes: int, *, can_wait: bool) -> None:
        self.came: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.high_water = self.high_water_bytes = 0
        self.failure: PhysGymError | None = None
        self._writer, self._limit, self._can_wait = writer, buffer_bytes, can_wait
        self._waiting: deque[tuple[int, Item]] = deque()
        self._bytes, self._no_more = 0, False
        self.hurried = self._hurries = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="episode-writer", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> bool:
        """Hand over one item.

        Args:
            item: a picture or a pose; not changed afterwards by the caller.

        Returns:
            Whether it will be written.
        """
        size = _POSE_BYTES
        if isinstance(item, Picture):
            self.came[item.camera] += 1
            size = item.rgb.nbytes + (0 if item.depth is None else item.depth.nbytes)
        with self._changed:
            while self._is_full(size, item) and self.failure is None:
                if not self._can_wait and isinstance(item, Picture):
                    self.dropped[item.camera] += 1
                    return False
                self._changed.wait()
            if self.failure is not None:
                return False
            self._waiting.append((size, item))
            self._bytes += size
            self.high_water = max(self.high_water, len(self._waiting))
            self.high_water_bytes = max(self.high_water_bytes, self._bytes)
            self._changed.notify_all()
        return True

    def finish(self) -> None:
        """Write what waits, and end the thread."""
        with self._changed:
            self._no_more = True
            self._changed.notify_all()
        self._thread.join()

    def _is_full(self, size: int, item: Item) -> bool:
        is_small = isinstance(item, GripperPose)  # the motion of grippers is never dropped
        return bool(self._waiting) and not is_small and self._bytes + size > self._limit

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._no_more:
                    self._changed.wait()
                if not self._waiting:
                    return
                size, item = self._waiting[0]
            try:
                self._write(item)
            except Exception as error:  # the recording must end and say why, whatever it was
                if not isinstance(error, PhysGymError):
                    error = DataError(f"{type(error).__name__}: {error}")
                self._fail(error)
                return
            with self._changed:
                self._waiting.popleft()
                self._bytes -= size
                self._changed.notify_all()
            self._keep_up()

    def _keep_up(self) -> None:
        """Trade disk for time when a camera, which cannot wait, fills the queue."""
        hurry = self._bytes > (_CALM if self._hurries else _HURRY) * self._limit
        if not self._can_wait and hurry != self._hurries:
            self._hurries = hurry
            self.hurried = self.hurried or hurry
            self._writer.hurry(hurry)

    def _fail(self, error: PhysGymError) -> None:
        with self._changed:
            self.failure = error
            self._waiting.clear()
            self._bytes = 0
            self._changed.notify_all()

    def _write(self, item: Item) -> None:
        if isinstance(item, Picture):
            self._writer.write_frame(item.camera, item.stamp_s, item.rgb, item.depth)
        else:
            self._writer.write_gripper(
                item.number, item.stamp_s, item.position, item.quat_wxyz, closed=item.closed
            )


def record(
    source: Source,
    out: str | Path,
    *,
    compress: bool = True,
    buffer_bytes: int = 512 << 20,
    metadata: Mapping[str, Any] | None = None,
) -> RecordReport:
    """Record a source as an episode, until it ends, fails or is stopped.

    Whatever ends it (Ctrl-C, a full disk, a camera that drops out, a simulation that blows up), the
    episode is closed with what was recorded, and the report says what is missing.

    Args:
        source: not started.
        out: the episode's folder; must not exist.
        compress: zstd, or none.
        buffer_bytes: most bytes that wait in memory for the disk.
        metadata: kept beside the recording, with what the source and the report say.

    Returns:
        What was recorded and what was lost.

    Raises:
        DataError: if the folder exists, or not a single frame was recorded.
        DeviceError: if the source does not start.
    """
    try:
        cameras = source.start()
        writer = EpisodeWriter(
            out,
            list(cameras.values()),
            namespace=_NAMESPACE,
            compress=compress,
            calibrated=source.calibrated,
            metadata={**source.metadata, **(metadata or {})},
        )
        background = BackgroundWriter(writer, buffer_bytes, can_wait=source.can_wait)
        began_s = time.monotonic()
        ended = _pump(source, background)
        background.finish()
        return _closed(source, writer, background, ended, began_s)
    finally:
        source.close()


def _pump(source: Source, background: BackgroundWriter) -> str:
    """Move items until something ends; why, or an empty string."""
    try:
        for item in source.items():
            if isinstance(item, Picture) and item.depth is not None:
                item = Picture(item.camera, item.stamp_s, item.rgb, depth_mm(item.depth))
            background.put(item)
            if background.failure is not None:
                source.stop()
                return background.failure.what
        return "stopped by the user" if source.stopped else ""
    except KeyboardInterrupt:
        return "stopped by the user"
    except PhysGymError as error:
        return error.what


def _closed(
    source: Source,
    writer: EpisodeWriter,
    background: BackgroundWriter,
    ended: str,
    began_s: float,
) -> RecordReport:
    writer.flush()
    failure = background.failure or writer.failure
    ended = failure.what if failure is not None else ended
    losses = source.losses()
    came, dropped = dict(background.came), dict(background.dropped)
    frames = {name: _whole_frames(writer.counts, name) for name in writer.cameras}
    if not sum(frames.values()):
        shutil.rmtree(writer.abort(), ignore_errors=True)
        raise DataError(
            f"not a single frame was recorded: {ended or '; '.join(losses) or 'none came'}",
            where=str(writer.path),
            expected="frames from every camera",
            fix="`physgym doctor` shows cameras and disk",
        )
    for name in writer.cameras:
        if dropped.get(name):
            losses.append(f"{name}: {dropped[name]} frames dropped, disk or processor was too slow")
        rest = came.get(name, 0) - frames[name] - dropped.get(name, 0)
        if rest:
            losses.append(f"{name}: {rest} frames that were still in memory lost at the end")
    if ended and ended != "stopped by the user":
        losses.insert(0, f"the recording ended early: {ended}")
    truth = source.ground_truth()
    if truth is not None:
        try:
            writer.set_ground_truth(truth)
        except OSError as error:
            losses.append(f"no ground truth: {error.strerror or error}")
    summary = {"frames": frames, "came": came, "dropped": dropped, "losses": losses}
    writer.add_metadata(recording={**summary, "ended": ended})
    path = writer.close()
    disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return RecordReport(
        episode=path,
        frames=frames,
        came=came,
        dropped=dropped,
        high_water=background.high_water,
        high_water_mb=background.high_water_bytes / 1e6,
        seconds=time.monotonic() - began_s,
        raw_mb=writer.bytes_written / 1e6,
        disk_mb=disk / 1e6,
        ended=ended,
        losses=losses,
        notes=[*source.notes(), *([_HURRIED] if background.hurried and writer.compress else [])],
    )


def _whole_frames(counts: Mapping[str, int], camera: str) -> int:
    """Frames of a camera: the last colour image may have lost its depth to a full disk."""
    parts = ("color", "aligned_depth_to_color")
    topics = [f"/{_NAMESPACE}/{camera}/{part}/image_raw" for part in parts]
    return min((counts[topic] for topic in topics if topic in counts), default=0)
