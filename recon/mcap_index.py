"""Messages of a whole MCAP file through its index: what is not asked for is not read.

MCAP specification 1.0 (mcap.dev/spec): the summary at the end lists the chunks, and behind each
chunk stands, per channel, the log time and the place of every message in it. Each walk opens the
file for itself, so that several can go on at a time.
"""

from __future__ import annotations

import binascii
import os
import struct
import threading
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from recon.mcap_salvage import MAGIC, decompressor, unpacked

__all__ = ["HEAD_BYTES", "McapIndex", "NoIndexError"]

HEAD_BYTES = 1024
"""How much of a message `McapIndex.heads` gives: more than an image's header and two names."""

_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x03, 0x04, 0x05, 0x06
_MESSAGE_INDEX, _CHUNK_INDEX, _STATISTICS = 0x07, 0x08, 0x0B
_FOOTER_BYTES = 9 + 20 + 8  # the footer's record and the magic at the end of the file
_PIECE_BYTES = 1 << 15  # small enough that its output, too, comes from memory that is reused
_MOST_THREADS = 4  # more only wait for the disk
_MESSAGE_BYTES = 9 + 22  # a message's record before its data


class NoIndexError(ValueError):
    """The file may be whole, but was written without an index."""


@dataclass(frozen=True)
class _Chunk:
    """Place of the compressed records in the file [bytes], and how to unpack them."""

    at: int
    size: int
    compression: str
    raw_size: int
    crc: int


class _Buffers(threading.local):
    """Memory that a thread uses again for every chunk.

    Fresh memory for each of them costs more than to decompress it: the system clears every page.
    """

    def __init__(self) -> None:
        self._packed, self._raw = bytearray(), bytearray()

    def unpacked(self, stream: BinaryIO, chunk: _Chunk) -> memoryview:
        """The records of a compressed chunk, until this thread's next one."""
        if len(self._packed) < chunk.size:
            self._packed = bytearray(chunk.size)
        if len(self._raw) < chunk.raw_size:
            self._raw = bytearray(chunk.raw_size)
        packed = memoryview(self._packed)[: chunk.size]
        raw = memoryview(self._raw)[: chunk.raw_size]
        if os.preadv(stream.fileno(), [packed], chunk.at) < chunk.size:
            raise ValueError("a chunk is cut off")
        unpack, filled = decompressor(chunk.compression), 0
        for begin in range(0, chunk.size, _PIECE_BYTES):
            if unpack.eof:
                break
            piece = unpack.decompress(packed[begin : begin + _PIECE_BYTES])
            if filled + len(piece) > chunk.raw_size:
                raise ValueError("a chunk is longer than it says")
            raw[filled : filled + len(piece)] = piece
            filled += len(piece)
        if filled < chunk.raw_size or not unpack.eof:
            raise ValueError("a chunk is shorter than it says")
        if chunk.crc and binascii.crc32(raw) != chunk.crc:
            raise ValueError("a chunk's content is damaged")
        return raw


class McapIndex:
    """A whole MCAP file.

    Attributes:
        path: the file.
        channels: topic and message type by channel number.
        counts: messages by channel number.
    """

    def __init__(self, path: Path) -> None:
        """Read the index.

        Args:
            path: the file.

        Raises:
            NoIndexError: if there is none.
            ValueError: if the index is damaged or does not fit the file.
        """
        self.path = path
        self.channels: dict[int, tuple[str, str]] = {}
        self._chunks: list[_Chunk] = []
        self._buffers = _Buffers()
        self._schemas: dict[int, str] = {}
        announced, chunk_records = -1, []
        with path.open("rb") as stream:
            for opcode, body in _records(_summary(stream, path.stat().st_size)):
                if opcode == _SCHEMA:
                    self._schemas[struct.unpack_from("<H", body)[0]] = _text(body, 2)
                elif opcode == _CHANNEL:
                    number, schema = struct.unpack_from("<HH", body)
                    self.channels[number] = (_text(body, 4), self._schemas.get(schema, ""))
                elif opcode == _CHUNK_INDEX:
                    chunk_records.append(body)
                elif opcode == _STATISTICS:
                    announced = struct.unpack_from("<Q", body)[0]
            if announced < 0:
                raise NoIndexError("it holds no statistics")
            rows = [self._add_chunk(stream, body) for body in chunk_records]
        entries = np.concatenate([np.zeros((0, 4), np.int64), *rows])
        if len(entries) != announced:
            # Messages outside of chunks, or a writer that was told to leave the index out.
            raise NoIndexError(f"{len(entries)} of {announced} messages are in its index")
        self._channel, self._log_ns, self._chunk, self._offset = entries.T
        strange = set(np.unique(self._channel).tolist()) - set(self.channels)
        if strange:
            raise ValueError(f"messages of channels {sorted(strange)}, which nothing describes")
        found, count = np.unique(self._channel, return_counts=True)
        self.counts = dict(zip(found.tolist(), count.tolist()))

    def messages(
        self, topics: Collection[str], start_ns: int, stop_ns: int
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """Messages in the order of their log times, over all chunks.

        Args:
            topics: only these.
            start_ns: no message before this log time [ns].
            stop_ns: no message at this log time or later [ns].

        Yields:
            Topic, message type, log time [ns] and the serialized message.

        Raises:
            ValueError: if a chunk is damaged, or another thing than its index says.
        """
        rows = self._rows(topics, start_ns, stop_ns)
        left = np.bincount(self._chunk[rows], minlength=len(self._chunks))
        opened: dict[int, bytes] = {}  # chunks with messages to come, where chunks overlap in time
        with self.path.open("rb") as stream:
            for row in rows.tolist():
                number = int(self._chunk[row])
                if number not in opened:
                    opened[number] = self._unpacked(stream, self._chunks[number])
                head = opened[number][self._offset[row] : self._offset[row] + _MESSAGE_BYTES]
                size = self._checked(row, head)
                begin = int(self._offset[row]) + _MESSAGE_BYTES
                raw = opened[number][begin : begin + size]
                if len(raw) < size:
                    raise ValueError(f"a message at byte {begin} of a chunk is cut off")
                left[number] -= 1
                if not left[number]:
                    del opened[number]
                topic, kind = self.channels[int(self._channel[row])]
                yield topic, kind, int(self._log_ns[row]), raw

    def heads(
        self, topics: Collection[str], whole: Collection[str]
    ) -> Iterator[tuple[str, str, int, bytes, int]]:
        """Every message, of most topics only the first `HEAD_BYTES`, in the order of `messages`.

        From chunks that are not compressed nothing else is read. A compressed chunk is unpacked
        to its end all the same: its checksum is what tells damage.

        Args:
            topics: only these.
            whole: of these, messages in full.

        Yields:
            Topic, message type, log time [ns], the (beginning of the) serialized message, and the
            size of all of it [bytes].

        Raises:
            ValueError: as `messages`.
        """
        rows = self._rows(topics, 0, 1 << 63).tolist()
        by_chunk: dict[int, list[int]] = {}
        for row in rows:
            by_chunk.setdefault(int(self._chunk[row]), []).append(row)
        full = {n for n, (topic, _) in self.channels.items() if topic in whole}
        found: dict[int, tuple[bytes, int]] = {}
        waiting: deque[Future[dict[int, tuple[bytes, int]]]] = deque()
        jobs = iter(by_chunk.items())
        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        # Decompressors let other threads run; only heads are kept, so looking ahead costs little.
        with self.path.open("rb") as stream, ThreadPoolExecutor(threads) as pool:
            for row in rows:
                while row not in found:
                    for number, part in islice(jobs, 2 * threads - len(waiting)):
                        waiting.append(pool.submit(self._heads_of, stream, number, part, full))
                    found |= waiting.popleft().result()
                raw, size = found.pop(row)
                topic, kind = self.channels[int(self._channel[row])]
                yield topic, kind, int(self._log_ns[row]), raw, size

    def close(self) -> None:
        """Nothing is open between walks."""

    def _heads_of(
        self, stream: BinaryIO, number: int, rows: list[int], full: set[int]
    ) -> dict[int, tuple[bytes, int]]:
        """Per message of one chunk, its beginning and its size."""
        chunk = self._chunks[number]
        content = self._buffers.unpacked(stream, chunk) if chunk.compression else memoryview(b"")
        found = {}
        for row in rows:
            at = int(self._offset[row])
            wanted = _MESSAGE_BYTES + HEAD_BYTES
            part = _part(stream, chunk, content, at, wanted)
            size = self._checked(row, part[:_MESSAGE_BYTES])
            if size > HEAD_BYTES and int(self._channel[row]) in full:
                part = _part(stream, chunk, content, at, _MESSAGE_BYTES + size)
            raw = part[_MESSAGE_BYTES : _MESSAGE_BYTES + size]
            if at + _MESSAGE_BYTES + size > chunk.raw_size:
                raise ValueError(f"a message at byte {at} of a chunk is cut off")
            found[row] = (raw, size)
        return found

    def _rows(self, topics: Collection[str], start_ns: int, stop_ns: int) -> np.ndarray:
        numbers = [number for number, (topic, _) in self.channels.items() if topic in topics]
        keep = np.isin(self._channel, numbers) & (self._log_ns >= start_ns)
        keep &= self._log_ns <= min(stop_ns, 1 << 63) - 1
        rows = np.flatnonzero(keep)
        order = np.lexsort((self._offset[rows], self._chunk[rows], self._log_ns[rows]))
        return rows[order]

    def _checked(self, row: int, head: bytes) -> int:
        """Size of a message's data, if its record is the one that the index means."""
        if len(head) < _MESSAGE_BYTES:
            raise ValueError("a chunk ends before a message of its index")
        opcode, length, channel, _, log_ns = struct.unpack_from("<BQHIQ", head)
        meant = (_MESSAGE, int(self._channel[row]), int(self._log_ns[row]))
        if (opcode, channel, log_ns) != meant or length < 22:
            raise ValueError("the index points to another place than a message")
        return int(length) - 22

    def _add_chunk(self, stream: BinaryIO, body: bytes) -> np.ndarray:
        """Note a chunk; its rows are channel, log time, number of the chunk and offset."""
        start, length, maps = struct.unpack_from("<QQI", body, 16)
        index_size = struct.unpack_from("<Q", body, 36 + maps)[0]
        compression = _text(body, 44 + maps)
        size, raw_size = struct.unpack_from("<QQ", body, 48 + maps + len(compression))
        head = os.pread(stream.fileno(), 9 + 40 + len(compression), start)
        opcode, told, _, _, own_size, crc = struct.unpack_from("<BQQQQI", head)
        if (opcode, told, own_size) != (_CHUNK, length - 9, raw_size) or size + 40 > length:
            raise ValueError(f"no chunk at byte {start}, where the index says so")
        self._chunks.append(_Chunk(start + len(head), size, compression, raw_size, crc))
        rows = []
        index = os.pread(stream.fileno(), index_size, start + length)
        if len(index) < index_size:
            raise ValueError(f"the index of the chunk at byte {start} is cut off")
        for opcode, part in _records(index):
            if opcode != _MESSAGE_INDEX:
                raise ValueError(f"no index behind the chunk at byte {start}")
            pairs = np.frombuffer(part, "<i8", offset=6).reshape(-1, 2)
            row = np.full((len(pairs), 4), struct.unpack_from("<H", part)[0], np.int64)
            row[:, 1], row[:, 2], row[:, 3] = pairs[:, 0], len(self._chunks) - 1, pairs[:, 1]
            rows.append(row)
        return np.concatenate([np.zeros((0, 4), np.int64), *rows])

    def _unpacked(self, stream: BinaryIO, chunk: _Chunk) -> bytes:
        packed = os.pread(stream.fileno(), chunk.size, chunk.at)
        if len(packed) < chunk.size:
            raise ValueError("a chunk is cut off")
        return unpacked(packed, chunk.compression, chunk.raw_size, chunk.crc)


def _part(stream: BinaryIO, chunk: _Chunk, content: memoryview, at: int, size: int) -> bytes:
    """Bytes of a chunk's records: from its unpacked content, or from the file."""
    if chunk.compression:
        return bytes(content[at : at + size])
    return os.pread(stream.fileno(), max(min(size, chunk.size - at), 0), chunk.at + at)


def _summary(stream: BinaryIO, size: int) -> bytes:
    """The records between the data and the footer."""
    end = os.pread(stream.fileno(), _FOOTER_BYTES, max(size - _FOOTER_BYTES, 0))
    whole = len(end) == _FOOTER_BYTES and stream.read(len(MAGIC)) == MAGIC
    if not whole or not end.endswith(MAGIC) or end[:9] != b"\x02" + struct.pack("<Q", 20):
        raise ValueError("its first or last bytes are not those of a finished MCAP file")
    start, _, crc = struct.unpack_from("<QQI", end, 9)
    if not start:
        raise NoIndexError("it holds no summary")
    stop = size - _FOOTER_BYTES
    if not len(MAGIC) <= start <= stop:
        raise ValueError("its summary lies outside of the file")
    summary = os.pread(stream.fileno(), stop - start, start)
    if crc and binascii.crc32(summary + end[: 9 + 16]) != crc:
        raise ValueError("its summary is damaged")
    return summary


def _records(raw: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(raw):
        opcode, length = struct.unpack_from("<BQ", raw, at)
        body = raw[at + 9 : at + 9 + length]
        if len(body) < length:
            raise ValueError("a record of its index is cut off")
        yield opcode, body
        at += 9 + length


def _text(body: bytes, at: int) -> str:
    (size,) = struct.unpack_from("<I", body, at)
    return body[at + 4 : at + 4 + size].decode("utf-8")
