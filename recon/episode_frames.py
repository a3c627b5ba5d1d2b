"""Frames of an episode: colour paired with depth, cameras paired with each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from physgym.errors import DataError
from recon import episode_scan, images
from recon.bags import Bag
from recon.cdr import read_compressed, read_image
from recon.episode_index import StampIndex, match_stamps
from recon.episode_messages import COMPRESSED

__all__ = ["Frame", "FrameSet", "FrameStore", "Synchronized", "span_of_one"]

# realsense-ros gives the images of one frameset one stamp; others are a few milliseconds apart.
_PAIR_SLOP_S = 0.010
_NS = 1_000_000_000


class Frame(NamedTuple):
    """One picture: time [s], RGB (H, W, 3) uint8, depth [m] (H, W) float32 or None.

    Depth is 0 where nothing was measured.
    """

    stamp_s: float
    rgb: np.ndarray
    depth_m: np.ndarray | None


@dataclass(frozen=True, eq=False)
class FrameSet:
    """One picture of every camera, taken at nearly one time.

    Attributes:
        stamp_s: mean of the cameras' stamps [s].
        skew_s: the latest minus the earliest stamp [s].
        frames: picture by camera name.
    """

    stamp_s: float
    skew_s: float
    frames: dict[str, Frame]


@dataclass(frozen=True, eq=False)
class Synchronized:
    """Framesets of all cameras; iterate, or take `at`.

    Attributes:
        stamp_s: mean stamp of each set [s], shape (T,).
        skew_s: spread of the stamps of each set [s], shape (T,).
        index: the cameras' frame numbers, shape (T, C).
        cameras: names, in the order of the columns of ``index``.
        dropped: frames that are in no set, by camera.
    """

    stamp_s: np.ndarray
    skew_s: np.ndarray
    index: np.ndarray
    cameras: tuple[str, ...]
    dropped: dict[str, int]
    _store: FrameStore

    def __len__(self) -> int:
        return len(self.stamp_s)

    def __iter__(self) -> Iterator[FrameSet]:
        return self.read(0, len(self))

    def at(self, number: int) -> FrameSet:
        """One set.

        Args:
            number: from 0; negative numbers count from the end.

        Returns:
            It.

        Raises:
            DataError: if there is no such set.
        """
        found = list(self.read(*span_of_one(number, len(self), f"{self._store.name}: framesets")))
        return found[0]

    def read(self, start: int, stop: int) -> Iterator[FrameSet]:
        """Sets from ``start`` up to, not including, ``stop``, one at a time.

        Args:
            start: first set.
            stop: one past the last.

        Yields:
            The sets.
        """
        wanted = [[(c, int(f)) for c, f in zip(self.cameras, row)] for row in self.index]
        for offset, frames in enumerate(self._store.read(wanted[start:stop])):
            number = start + offset
            yield FrameSet(float(self.stamp_s[number]), float(self.skew_s[number]), frames)


class FrameStore:
    """Colour with its depth, by camera and number; decodes what is asked for.

    Attributes:
        name: of the episode.
        start_ns: time 0 on the recording's own clock [ns].
        losses: sentences on images without a partner.
    """

    def __init__(self, bag: Bag, scan: episode_scan.Scan, name: str) -> None:
        """Pair colour and depth.

        Args:
            bag: the recording.
            scan: what it holds.
            name: of the episode.
        """
        self.name = name
        self._bag, self._scan = bag, scan
        self._pairs = {camera: self._paired(camera) for camera in scan.cameras}
        first = [int(pair[0].stamp_ns[pair[1][0]]) for pair in self._pairs.values() if len(pair[1])]
        # Without one pair, the first colour image: motion needs a time 0 all the same.
        first = first or [int(pair[0].stamp_ns[0]) for pair in self._pairs.values()]
        self.start_ns = min(first)
        self._stamps = {
            camera: (pair[0].stamp_ns[pair[1]] - self.start_ns) / _NS
            for camera, pair in self._pairs.items()
        }
        self.losses = self._lost()

    def stamps_s(self, camera: str) -> np.ndarray:
        """Times of a camera's frames.

        Args:
            camera: its name.

        Returns:
            [s], shape (T,).

        Raises:
            DataError: if there is no such camera.
        """
        self._pair(camera)
        return self._stamps[camera].copy()

    def stamps_ns(self, camera: str) -> np.ndarray:
        """The same on the recording's own clock.

        Args:
            camera: its name.

        Returns:
            [ns], shape (T,), int64.

        Raises:
            DataError: if there is no such camera.
        """
        index, rows, _, _ = self._pair(camera)
        return index.stamp_ns[rows]

    def synchronized(self, slop_s: float) -> Synchronized:
        """Framesets of all cameras; see `recon.episode.Episode.synchronized`.

        Args:
            slop_s: largest distance from the leading camera's stamp [s].

        Returns:
            The sets.
        """
        names = tuple(self._scan.cameras)
        stamps = {name: self.stamps_ns(name) for name in names}
        lead = min(names, key=lambda name: len(stamps[name]))
        rows = {lead: np.arange(len(stamps[lead]))}
        kept = np.ones(len(stamps[lead]), bool)
        for name in names:
            if name != lead:
                mine, theirs = match_stamps(stamps[lead], stamps[name], slop_s * _NS)
                rows[name] = np.zeros(len(stamps[lead]), np.int64)
                rows[name][mine] = theirs
                kept &= np.isin(np.arange(len(kept)), mine)
        index = np.stack([rows[name][kept] for name in names], axis=1)
        times = np.stack([stamps[n][index[:, c]] for c, n in enumerate(names)], axis=1)
        times_s = (times - self.start_ns) / _NS
        dropped = {name: len(stamps[name]) - len(index) for name in names}
        skew = times_s.max(axis=1) - times_s.min(axis=1)
        return Synchronized(times_s.mean(axis=1), skew, index, names, dropped, self)

    def read(self, wanted: list[list[tuple[str, int]]]) -> Iterator[dict[str, Frame]]:
        """Groups of frames in order, one pass over the recording.

        Args:
            wanted: per group, camera and frame number.

        Yields:
            Per group, the frame by camera.

        Raises:
            DataError: if there is no such camera, or a compressed image does not decode.
        """
        plan = []
        for group in wanted:
            keys: dict[tuple[str, bool], episode_scan.Key] = {}
            for camera, number in group:
                color, rows, depth, partners = self._pair(camera)
                topics = self._scan.topics[camera]
                keys[camera, False] = episode_scan.key(topics.color, color, rows[number])
                if depth is not None and partners is not None:
                    keys[camera, True] = episode_scan.key(topics.depth, depth, partners[number])
            plan.append(keys)
        for offset, raw in enumerate(episode_scan.read_groups(self._bag, plan)):
            frames = {}
            for camera, number in wanted[offset]:
                stamp = float(self._stamps[camera][number])
                where = f"{self.name}: {camera}, frame {number}"
                depth_raw = raw.get((camera, True))
                rgb = self._decoded(camera, raw[camera, False], where)
                depth_m = None
                if depth_raw is not None:
                    depth_m = self._decoded(camera, depth_raw, where, depth=True)
                frames[camera] = Frame(stamp, rgb, depth_m)
            yield frames

    def _decoded(self, camera: str, raw: bytes, where: str, *, depth: bool = False) -> np.ndarray:
        topics, own = self._scan.topics[camera], self._scan.cameras[camera]
        if self._bag.topics[topics.depth if depth else topics.color] != COMPRESSED:
            message = read_image(raw)
            return images.depth_image(message) if depth else images.color_image(message)
        unpack = images.compressed_depth if depth else images.compressed_color
        pixels = unpack(read_compressed(raw), where)
        if pixels.shape[:2] != (own.height, own.width):  # raw images were looked at when opening
            raise DataError(
                f"a compressed image of shape {pixels.shape}",
                where=where,
                expected=f"{(own.height, own.width)}, as CameraInfo says",
                fix="record CameraInfo at the size of the images",
            )
        return pixels

    def _pair(self, camera: str) -> _Pair:
        if camera not in self._pairs:
            raise DataError(
                f"no camera {camera!r}", where=self.name, expected=f"one of {sorted(self._pairs)}"
            )
        return self._pairs[camera]

    def _paired(self, camera: str) -> _Pair:
        topics = self._scan.topics[camera]
        color = self._scan.images[topics.color]
        if not topics.depth:
            return color, np.arange(len(color.stamp_ns)), None, None
        depth = self._scan.images[topics.depth]
        mine, theirs = match_stamps(color.stamp_ns, depth.stamp_ns, _PAIR_SLOP_S * _NS)
        return color, mine, depth, theirs

    def _lost(self) -> list[str]:
        found = []
        for name, (color, rows, depth, _) in self._pairs.items():
            for what, index in (("colour", color), ("depth", depth)):
                if index is not None and len(index.stamp_ns) > len(rows):
                    count = len(index.stamp_ns) - len(rows)
                    found.append(f"{name}: {count} {what} images have no partner")
        return found


_Pair = tuple[StampIndex, np.ndarray, "StampIndex | None", "np.ndarray | None"]


def span_of_one(number: int, count: int, where: str) -> tuple[int, int]:
    """A number as a range of one.

    Args:
        number: from 0; negative numbers count from the end.
        count: how many there are.
        where: for the message.

    Returns:
        Start and stop.

    Raises:
        DataError: if there is no such number.
    """
    place = number + count if number < 0 else number
    if not 0 <= place < count:
        raise DataError(f"no number {number}", where=where, expected=f"0 to {count - 1}")
    return place, place + 1
