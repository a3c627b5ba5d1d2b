"""Messages of a rosbag2 recording, whole or damaged: MCAP or sqlite, compressed or not.

A whole bag is read through `rosbags`. What `rosbags` refuses (no ``metadata.yaml`` because the
recorder was killed, a file cut off, a chunk that does not decompress) is read as far as it is
whole, and `Bag.losses` says what is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader, Writer

from physgym.errors import DataError
from recon.mcap_salvage import McapSalvage

__all__ = ["Bag", "BagDamagedError", "BagMessage", "compress_chunks"]

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LONGEST_SQLITE = 1 << 40  # bytes; a header that says more is damaged
_STORAGE = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")


class BagDamagedError(DataError):
    """A bag that looked whole broke while it was read; `Bag.salvage` reads the rest."""


@dataclass(frozen=True, eq=False)
class BagMessage:
    """One recorded message.

    Attributes:
        topic: its topic.
        kind: its type, such as ``sensor_msgs/msg/Image``.
        log_ns: when it was recorded [ns].
        raw: its bytes, CDR.
    """

    topic: str
    kind: str
    log_ns: int
    raw: bytes


class Bag:
    """A recording on disk; use it as a context manager, or call `close`.

    Attributes:
        path: the folder, or the one storage file.
        losses: sentences on what could not be read.
        counts: messages per topic as the metadata tell; empty where there are none.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a bag.

        Args:
            path: a rosbag2 folder, or a ``.mcap`` or ``.db3`` file.

        Raises:
            DataError: if there is nothing there that could be a bag.
        """
        self.path = Path(path).expanduser()
        self.losses: list[str] = []
        self.counts: dict[str, int] = {}
        self._readers: list[Any] = []
        self._salvaged: list[McapSalvage | _SqliteSalvage] = []
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self.files = _storage_files(self.path)
        whole = self.path.is_dir() and (self.path / "metadata.yaml").is_file()
        if not whole and self.path.is_dir():
            self.losses.append(f"{self.path.name}: no metadata.yaml; the recorder did not finish")
        try:
            self._open_whole([self.path] if whole else self.files)
        except Exception as error:  # rosbags raises its own, sqlite's, zstd's and struct's errors
            self.salvage(str(error))

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def damaged(self) -> bool:
        """Whether it is read without the help of its index."""
        return bool(self._salvaged)

    @property
    def topics(self) -> dict[str, str]:
        """Type of each topic."""
        if self._salvaged:
            return {t: kind for part in self._salvaged for t, kind in part.channels.values()}
        return {
            connection.topic: connection.msgtype
            for reader in self._readers
            for connection in reader.connections
        }

    def messages(
        self,
        topics: Sequence[str],
        start_ns: int | None = None,
        stop_ns: int | None = None,
    ) -> Iterator[BagMessage]:
        """Messages in the order in which they were recorded.

        Args:
            topics: which ones.
            start_ns: none that were recorded before this [ns].
            stop_ns: none that were recorded at this time or later [ns].

        Yields:
            The messages, one at a time.

        Raises:
            BagDamagedError: if the file breaks here; call `salvage`, and read again.
        """
        wanted = set(topics)
        first = 0 if start_ns is None else start_ns
        last = 1 << 64 if stop_ns is None else stop_ns
        for part in self._salvaged:
            for topic, kind, log_ns, raw in part.messages(wanted, first, last):
                yield BagMessage(topic, kind, log_ns, _plain(raw))
        for reader in self._readers:
            chosen = [c for c in reader.connections if c.topic in wanted]
            if not chosen:
                continue
            source = reader.messages(chosen, start=start_ns, stop=stop_ns)
            while True:
                try:
                    connection, log_ns, raw = next(source)
                except StopIteration:
                    break
                except Exception as error:  # see __init__
                    raise BagDamagedError(
                        f"it breaks while it is read: {error}",
                        where=str(self.path),
                        expected="a whole bag",
                        fix="open it again: Episode.open reads what is whole",
                    ) from error
                yield BagMessage(connection.topic, connection.msgtype, log_ns, _plain(raw))

    def salvage(self, why: str) -> None:
        """Give up the index and read what is whole from now on.

        Args:
            why: what went wrong with it, for `losses`.

        Raises:
            DataError: if nothing can be read at all.
        """
        for reader in self._readers:
            reader.close()
        self._readers = []
        self.losses.append(f"read without its index, because: {why}")
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="physgym-salvage-")
        for file in self.files:
            storage, note = _unpacked_file(file, Path(self._scratch.name))
            self.losses += note
            part = McapSalvage(storage) if storage.suffix == ".mcap" else _SqliteSalvage(storage)
            self.losses += part.losses
            self._salvaged.append(part)
        if not self.topics:
            said = "; ".join(self.losses)
            self.close()
            raise DataError(
                f"no message can be read: {said}",
                where=str(self.path),
                expected="a rosbag2 recording (MCAP or sqlite)",
                fix="copy it again from the recorder; if that is all there is, it is lost",
            )

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers:
            reader.close()
        self._readers = []
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _open_whole(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if path.suffix == ".zstd":
                raise ValueError(f"{path.name} is compressed as a file, without metadata")
            reader = Reader(path)
            reader.open()
            self._readers.append(reader)
        self.counts = {}
        for reader in self._readers:
            for connection in reader.connections:
                known = self.counts.get(connection.topic, 0)
                self.counts[connection.topic] = known + connection.msgcount


def compress_chunks(bag: Writer) -> None:
    """Compress chunks fast, and let each carry zstd's checksum, so that damage in it is noticed.

    rosbags writes neither that nor MCAP's own CRC; without one, a flipped bit is a wrong pixel.
    Level 1 instead of its 3 costs two thirds of the processor time for some more disk.

    Args:
        bag: an open MCAP writer with compressed chunks.
    """
    from backports import zstd  # comes with rosbags

    parameter = zstd.CompressionParameter
    options: dict[int, int] = {parameter.checksum_flag: 1, parameter.compression_level: 1}
    storage: Any = bag.storage
    storage.compressor = lambda raw: zstd.compress(raw, options=options)


class _SqliteSalvage:
    """What is whole in a sqlite bag (tables topics and messages of rosbag2)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channels: dict[int, tuple[str, str]] = {}
        self.losses: list[str] = []
        try:
            with closing(self._connected()) as base:
                for number, name, kind in base.execute("SELECT id, name, type FROM topics"):
                    self.channels[int(number)] = (str(name), str(kind))
        except sqlite3.DatabaseError as error:
            self.losses.append(f"{path.name}: {error}")

    def messages(
        self, topics: set[str], start_ns: int, stop_ns: int
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """Every readable row, in the order of recording, until the pages are damaged."""
        # By row number: the index over time may lie in the part that is lost.
        query = "SELECT topic_id, timestamp, data FROM messages NOT INDEXED ORDER BY id"
        if not self.channels:
            return
        with closing(self._connected()) as base:
            try:
                for channel, log_ns, data in base.execute(query):
                    topic, kind = self.channels.get(int(channel), ("", ""))
                    if topic in topics and start_ns <= log_ns < stop_ns:
                        yield topic, kind, int(log_ns), bytes(data)
            except sqlite3.DatabaseError as error:
                note = f"{self.path.name}: rows are lost, {error}"
                if note not in self.losses:
                    self.losses.append(note)

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.path}?mode=ro&immutable=1", uri=True)


def _plain(raw: bytes) -> bytes:
    """A message without the compression that ``--compression-mode message`` puts around it.

    `rosbags` takes it off where the metadata tell; this is for bags that lost them. CDR begins with
    a zero byte, a zstd frame never does.
    """
    if bytes(raw[:4]) != _ZSTD_MAGIC:
        return raw
    from backports import zstd  # comes with rosbags

    try:
        return zstd.decompress(raw)
    except zstd.ZstdError:
        return b""


def _storage_files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError("no such file or folder", where=str(path), expected="a rosbag2 folder")
    files = [path]
    if path.is_dir():
        files = [file for file in path.iterdir() if file.name.endswith(_STORAGE)]
        # foo_10.mcap comes after foo_9.mcap
        files.sort(key=lambda file: [int(n) for n in re.findall(r"\d+", file.name)] or [0])
    if not files or not all(file.name.endswith(_STORAGE) for file in files):
        raise DataError(
            "no rosbag2 recording",
            where=str(path),
            expected="a folder with a .mcap or .db3 file (and metadata.yaml), or such a file",
            fix="ROS 1 .bag: convert with rosbags-convert; librealsense's files: record --source",
        )
    return files


def _unpacked_file(file: Path, scratch: Path) -> tuple[Path, list[str]]:
    """The storage file itself, or what decompresses of it, or a sqlite file made long enough."""
    if file.suffix == ".db3":
        return _lengthened(file, scratch)
    if file.suffix != ".zstd":
        return file, []
    from backports import zstd  # comes with rosbags

    target, losses = scratch / file.stem, []
    with file.open("rb") as packed, target.open("wb") as stream:
        try:
            with zstd.open(packed, "rb") as unpacked:
                shutil.copyfileobj(unpacked, stream, 1 << 16)
        except (EOFError, OSError, zstd.ZstdError) as error:
            losses.append(f"{file.name}: decompresses only as far as byte {stream.tell()}, {error}")
    if target.suffix == ".db3":
        target, more = _lengthened(target, scratch)
        losses += more
    return target, losses


def _lengthened(file: Path, scratch: Path) -> tuple[Path, list[str]]:
    """A cut-off sqlite file with empty pages for the lost ones.

    sqlite refuses a file that is shorter than its header says (file format, bytes 16 and 28), but
    reads rows until it meets a page that is damaged.
    """
    with file.open("rb") as stream:
        head = stream.read(32)
    page = int.from_bytes(head[16:18], "big")
    whole = int.from_bytes(head[28:32], "big") * (65536 if page == 1 else page)
    size = file.stat().st_size
    if len(head) < 32 or not size < whole < _LONGEST_SQLITE:
        return file, []
    target = scratch / f"long_{file.name}"
    shutil.copyfile(file, target)
    os.truncate(target, whole)
    return target, [f"{file.name}: cut off, {whole - size} of {whole} bytes are missing"]
