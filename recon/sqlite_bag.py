"""sqlite files of a rosbag2 recording, whole or damaged, with or without a write-ahead log."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

from rosbags.rosbag2 import Reader

__all__ = ["SqliteSalvage", "SqliteWhole", "openable_sqlite"]

_LONGEST = 1 << 40  # bytes; a header that says more is damaged
_LAST_NS = (1 << 63) - 1  # what sqlite can hold


def openable_sqlite(file: Path, scratch: Path) -> tuple[Path, list[str]]:
    """A copy of a sqlite file, where it cannot be read as it is.

    Args:
        file: the ``.db3`` file; it is not changed.
        scratch: folder for a copy.

    Returns:
        The file or its copy, and sentences on what is lost.
    """
    log = file.with_name(file.name + "-wal")
    if log.is_file() and log.stat().st_size:
        return _with_log(file, log, scratch)
    return _lengthened(file, scratch)


class SqliteWhole:
    """A whole sqlite file, through rosbags.

    Attributes:
        path: the file.
        channels: topic and message type by channel number.
        counts: messages by channel number.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Args:
            path: it.

        Raises:
            Exception: whatever rosbags and sqlite raise for a damaged one.
        """
        self.path = path
        self._reader = Reader(path)
        self._reader.open()
        links = self._reader.connections
        self.channels = {link.id: (link.topic, link.msgtype) for link in links}
        self.counts = {link.id: link.msgcount for link in links}

    def messages(
        self, topics: Collection[str], start_ns: int, stop_ns: int
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """As `recon.mcap_index.McapIndex.messages`."""
        links = [link for link in self._reader.connections if link.topic in topics]
        if links:  # rosbags takes none for all
            last = min(stop_ns, _LAST_NS)
            for link, log_ns, raw in self._reader.messages(links, start_ns, last):
                yield link.topic, link.msgtype, log_ns, raw

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class SqliteSalvage:
    """What is whole in a sqlite file (tables topics and messages of rosbag2).

    Attributes:
        path: the file.
        channels: topic and message type by channel number.
        counts: unknown, empty.
        losses: sentences on what could not be read.
    """

    def __init__(self, path: Path) -> None:
        """Read which topics there are.

        Args:
            path: the file.
        """
        self.path = path
        self.channels: dict[int, tuple[str, str]] = {}
        self.counts: dict[int, int] = {}  # unknown
        self.losses: list[str] = []
        try:
            with closing(self._connected()) as base:
                for number, name, kind in base.execute("SELECT id, name, type FROM topics"):
                    self.channels[int(number)] = (str(name), str(kind))
        except sqlite3.DatabaseError as error:
            self.losses.append(f"{path.name}: {error}")

    def messages(
        self, topics: Collection[str], start_ns: int, stop_ns: int
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """As `recon.mcap_index.McapIndex.messages`, until the pages are damaged."""
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

    def close(self) -> None:
        """Nothing is open between walks."""

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _with_log(file: Path, log: Path, scratch: Path) -> tuple[Path, list[str]]:
    """A copy that holds what a killed recorder left in the write-ahead log."""
    target = scratch / file.name
    shutil.copyfile(file, target)
    shutil.copyfile(log, target.with_name(log.name))
    try:
        with closing(sqlite3.connect(target)) as base:
            base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            base.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.DatabaseError as error:
        return file, [f"{log.name}: cannot be read, left out: {error}"]
    return target, []


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
    if len(head) < 32 or not size < whole < _LONGEST:
        return file, []
    target = scratch / f"long_{file.name}"
    shutil.copyfile(file, target)
    os.truncate(target, whole)
    return target, [f"{file.name}: cut off, {whole - size} of {whole} bytes are missing"]
