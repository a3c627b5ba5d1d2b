"""What is whole in an MCAP file that has lost its end or a part of its middle.

A reader that needs the index at the end of the file cannot open a recording whose writer was
killed. Here the records are walked from the start (MCAP specification 1.0, mcap.dev/spec): a chunk
that does not decompress is left out and counted, and so is everything behind the place where the
records stop making sense.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["MAGIC", "McapSalvage", "decompressor", "unpacked"]

MAGIC = b"\x89MCAP0\r\n"
"""First and last bytes of an MCAP file."""
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
_LAST_OPCODE = 0x0F
# No record of a recording is larger; a larger length is damage, not data.
_LARGEST_RECORD = 1 << 30


@dataclass(frozen=True)
class _Chunk:
    """Where the records of one chunk (or one message outside of any chunk) begin."""

    start: int
    size: int
    compression: str
    raw_size: int
    crc: int
    first_ns: int = 0
    last_ns: int = 1 << 64
    cut: bool = False


@dataclass(eq=False)
class McapSalvage:
    """A damaged MCAP file.

    Attributes:
        path: the file.
        channels: topic and message type by channel number.
        counts: unknown, empty.
        losses: sentences on what could not be read; complete after the first walk.
        found_end: whether the data section was closed properly.
    """

    path: Path
    channels: dict[int, tuple[str, str]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    found_end: bool = False
    _parts: list[_Chunk] = field(default_factory=list)
    _schemas: dict[int, str] = field(default_factory=dict)
    _broken: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        with self.path.open("rb") as stream:
            self._walk(stream)
            bad = 0
            for part in list(self._parts):
                # Channels stand inside chunks, so every chunk is opened once here.
                try:
                    for _ in self._records(stream, part):
                        pass
                except (ValueError, struct.error):
                    self._parts.remove(part)
                    bad += part.size
        if self._broken:
            self.losses.append(f"{self.path.name}: {len(self._broken)} chunks break off inside")
        if bad:
            self.losses.append(f"{self.path.name}: {bad} bytes in chunks that do not decompress")

    def messages(
        self, topics: set[str], start_ns: int, stop_ns: int
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """Every whole message, chunk by chunk, sorted by log time within a chunk.

        Args:
            topics: only these.
            start_ns: no message before this log time [ns].
            stop_ns: no message at this log time or later [ns].

        Yields:
            Topic, message type, log time [ns] and the serialized message.
        """
        with self.path.open("rb") as stream:
            for part in self._parts:
                if part.last_ns < start_ns or part.first_ns >= stop_ns:
                    continue
                found = []
                for opcode, body in self._records(stream, part):
                    if opcode != _MESSAGE or len(body) < 22:
                        continue
                    channel, _, log_ns, _ = struct.unpack_from("<HIQQ", body)
                    topic, kind = self.channels.get(channel, ("", ""))
                    if topic in topics and start_ns <= log_ns < stop_ns:
                        found.append((topic, kind, log_ns, bytes(body[22:])))
                found.sort(key=lambda message: message[2])
                yield from found

    def close(self) -> None:
        """Nothing is open between walks."""

    def _walk(self, stream: BinaryIO) -> None:
        size = self.path.stat().st_size
        if stream.read(len(MAGIC)) != MAGIC:
            self.losses.append(f"{self.path.name}: no MCAP file, its first bytes are damaged")
            return
        at = len(MAGIC)
        while at + 9 <= size:
            stream.seek(at)
            opcode, length = struct.unpack("<BQ", stream.read(9))
            if not 0 < opcode <= _LAST_OPCODE or length > _LARGEST_RECORD:
                self.losses.append(f"{self.path.name}: nonsense from byte {at} of {size} on")
                return
            if at + 9 + length > size:
                if opcode == _CHUNK:
                    self._add_chunk(stream, at + 9, size - at - 9, cut=True)
                self.losses.append(self._cut(size - at))
                return
            if opcode == _FOOTER:
                return
            if opcode == _DATA_END:
                self.found_end = True  # behind it, schemas and channels are repeated: helpful
            elif opcode == _CHUNK:
                self._add_chunk(stream, at + 9, length)
            elif opcode in (_SCHEMA, _CHANNEL, _MESSAGE):
                self._parts.append(_Chunk(at, 9 + length, "", 9 + length, 0))
            at += 9 + length
        self.losses.append(self._cut(size - at))

    def _cut(self, lost: int) -> str:
        if self.found_end:
            return f"{self.path.name}: the index at the end is cut off; no data behind it"
        return f"{self.path.name}: cut off or never finished; the last {lost} bytes are a part"

    def _add_chunk(self, stream: BinaryIO, start: int, length: int, *, cut: bool = False) -> None:
        head = stream.read(min(length, 64))
        try:
            first, last, raw_size, crc, name_size = struct.unpack_from("<QQQII", head)
            name = head[32 : 32 + name_size].decode("ascii")
            (packed,) = struct.unpack_from("<Q", head, 32 + name_size)
        except (struct.error, UnicodeDecodeError):
            self.losses.append(f"{self.path.name}: the header of a chunk at byte {start} is bad")
            return
        body = start + 32 + name_size + 8
        size = min(packed, start + length - body)
        self._parts.append(_Chunk(body, size, name, raw_size, crc, first, last, cut))

    def _records(self, stream: BinaryIO, part: _Chunk) -> Iterator[tuple[int, memoryview]]:
        """Records of a chunk; schemas and channels are noted on the way.

        Raises ValueError when the chunk does not decompress.
        """
        stream.seek(part.start)
        raw = memoryview(_content(stream.read(part.size), part))
        at = 0
        while at + 9 <= len(raw):
            opcode, length = struct.unpack_from("<BQ", raw, at)
            body = raw[at + 9 : at + 9 + length]
            if len(body) < length:
                if not part.cut:  # which is said already
                    self._broken.add(part.start)
                return
            if opcode == _SCHEMA:
                number, size = struct.unpack_from("<HI", body)
                self._schemas[number] = bytes(body[6 : 6 + size]).decode("utf-8", "replace")
            elif opcode == _CHANNEL:
                number, schema, size = struct.unpack_from("<HHI", body)
                topic = bytes(body[8 : 8 + size]).decode("utf-8", "replace")
                self.channels[number] = (topic, self._schemas.get(schema, ""))
            yield opcode, body
            at += 9 + length


def unpacked(packed: bytes, compression: str, raw_size: int, crc: int) -> bytes:
    """The records of a whole chunk.

    Args:
        packed: as they stand in the file.
        compression: ``zstd``, ``lz4`` or none.
        raw_size: what the chunk says about their size [bytes].
        crc: their checksum; 0 when the writer left it out.

    Returns:
        The records.

    Raises:
        ValueError: if they do not decompress, or to something else.
    """
    raw = _unpacked(packed, compression, cut=False)
    if len(raw) != raw_size or (crc and binascii.crc32(raw) != crc):
        raise ValueError("the chunk's content is damaged")
    return raw


def _content(packed: bytes, part: _Chunk) -> bytes:
    if len(packed) != part.size or part.raw_size > _LARGEST_RECORD:
        raise ValueError("the chunk is cut off")
    if part.cut:
        return _unpacked(packed, part.compression, cut=True)
    return unpacked(packed, part.compression, part.raw_size, part.crc)


def decompressor(compression: str) -> Any:
    """What takes off a chunk's compression piece by piece.

    Args:
        compression: ``zstd`` or ``lz4``.

    Returns:
        An object with ``decompress(bytes)``, and ``eof``, True behind the end and its checksum.

    Raises:
        ValueError: if the compression is another one.
    """
    # Both packages come with rosbags.
    import lz4.frame
    from backports import zstd

    kinds = {"zstd": zstd.ZstdDecompressor, "lz4": lz4.frame.LZ4FrameDecompressor}
    if compression not in kinds:
        raise ValueError(f"compression {compression!r}")
    return kinds[compression]()


def _unpacked(packed: bytes, compression: str, *, cut: bool) -> bytes:
    if not compression:
        return packed
    unpack = decompressor(compression)
    try:
        raw = bytes(unpack.decompress(packed))
    except Exception as error:  # each compressor has its own exceptions
        raise ValueError(f"the chunk does not decompress: {error}") from error
    if not cut and not unpack.eof:
        raise ValueError("the chunk does not decompress: its end is missing")
    return raw
