"""The growing bag of an episode: an MCAP file that survives a full disk and a killed recorder.

`rosbags` writes through a buffer that can be neither flushed nor undone once the disk is full. Here
every chunk goes to the kernel as a whole; one that does not fit is taken back, and room that was
set aside from the start holds the index, so that the file is a whole bag with one chunk less.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from recon.bags import compress_chunks
from recon.episode_messages import LATCHED, TRANSFORMS, MessageFactory

__all__ = ["BagWriter"]

_RESERVE = "reserve.bin"
_RESERVE_STEP = 1 << 20  # bytes; also holds metadata.yaml and the sidecar
_CHUNKS_PER_STEP = 2048  # an entry in the index takes some 200 bytes


class BagWriter:
    """Writes messages into the MCAP file of a rosbag2 folder; not safe for several threads.

    Args:
        folder: the bag's folder; must not exist.
        make: whose types the messages are of.
        compress: zstd chunks, or none.

    Attributes:
        failed: a write has failed; from then on only `close` makes sense.
        counts: messages by topic that are in the file or in the chunk that grows.

    Raises:
        OSError: if the folder cannot be made.
    """

    def __init__(self, folder: Path, make: MessageFactory, *, compress: bool) -> None:
        self.failed = False
        self._folder, self._make = folder, make
        self._bag = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        if compress:
            self._bag.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._bag.open()
        if compress:
            compress_chunks(self._bag)
        self._storage = cast(Any, self._bag.storage)
        self._storage.bio.close()  # its header goes to the file
        self._file = _WholeWrites(self._storage.path)
        self._storage.bio = self._file
        self._packing = (self._storage.compression, self._storage.compressor)
        self._connections: dict[str, Any] = {}
        self._reserved = 0
        self._reserve(_RESERVE_STEP)
        self._keep_place()

    @property
    def counts(self) -> dict[str, int]:
        """Messages by topic."""
        return {topic: self._bag.counts[c.id] for topic, c in self._connections.items()}

    def hurry(self, active: bool) -> None:
        """Leave compression out for a while; MCAP says for each chunk whether it is compressed.

        Args:
            active: from now on, or no longer.
        """
        packing = ("", lambda raw: raw) if active else self._packing
        self._storage.compression, self._storage.compressor = packing

    def write(self, topic: str, kind: str, stamp_ns: int, raw: bytes) -> None:
        """Add a message.

        Args:
            topic: its topic.
            kind: its type, one of `recon.episode_messages`.
            stamp_ns: its time [ns].
            raw: serialized.

        Raises:
            OSError: if the disk takes no more; everything before the chunk that grew is kept.
        """
        if topic not in self._connections:
            latched = [LATCHED] if kind == TRANSFORMS else []
            self._connections[topic] = self._bag.add_connection(
                topic, kind, typestore=self._make.store, offered_qos_profiles=latched
            )
        chunks, connection = len(self._storage.chunks), self._connections[topic]
        try:
            self._bag.write(connection, stamp_ns, raw)
            if len(self._storage.chunks) > chunks:
                self._keep_place()
                if len(self._storage.chunks) % _CHUNKS_PER_STEP == 0:
                    self._reserve(self._reserved + _RESERVE_STEP)
        except OSError:
            self._bag.counts[connection.id] += 1  # it is in the chunk, and not counted yet
            self._take_back()
            raise

    def flush(self) -> None:
        """Write the chunk that grows.

        Raises:
            OSError: if the disk takes no more; everything before that chunk is kept.
        """
        if self._bag.storage is None or self.failed or not self._storage.chunk.bio.tell():
            return
        try:
            self._storage.close_chunk()
            self._keep_place()
        except OSError:
            self._take_back()
            raise

    def close(self) -> None:
        """Write the index and the metadata; more calls do nothing.

        Raises:
            OSError: if even that does not fit; the file is then read without its index.
        """
        if self._bag.storage is None:
            return
        try:
            with contextlib.suppress(OSError):
                self.flush()
            (self._folder / _RESERVE).unlink(missing_ok=True)
            self._bag.close()
        except OSError:
            self._bag.abort()
            raise

    def _keep_place(self) -> None:
        """Remember the end of the last whole chunk, and what the file holds up to there."""
        storage, bag = self._storage, self._bag
        self._place = (
            self._file.tell(), bag.max_timestamp, bag.min_timestamp,
            storage.message_end_time, storage.message_start_time,
        )  # fmt: skip

    def _take_back(self) -> None:
        """Forget the chunk that did not fit."""
        storage, bag = self._storage, self._bag
        self.failed = True
        for number, messages in storage.chunk.msgs.items():
            bag.counts[number] -= len(messages)
            storage.channel_stats[number] -= len(messages)
        end, bag.max_timestamp, bag.min_timestamp = self._place[:3]
        storage.message_end_time, storage.message_start_time = self._place[3:]
        storage.chunk = type(storage.chunk)(2**63 - 1, 0, io.BytesIO(), defaultdict(list))
        self._file.cut(end)

    def _reserve(self, size: int) -> None:
        handle = os.open(self._folder / _RESERVE, os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            os.posix_fallocate(handle, 0, size)
        finally:
            os.close(handle)
        self._reserved = size


class _WholeWrites:
    """A file without a buffer whose writes are whole or raise."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b", buffering=0)
        self._file.seek(0, os.SEEK_END)

    def write(self, data: bytes | memoryview) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest):
            rest = rest[self._file.write(rest) :]  # a disk that fills up takes a part
        return size

    def tell(self) -> int:
        return self._file.tell()

    def cut(self, size: int) -> None:
        self._file.truncate(size)
        self._file.seek(size)

    def close(self) -> None:
        self._file.close()
