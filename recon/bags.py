"""Messages of a rosbag2 recording, whole or damaged: MCAP or sqlite, compressed or not.

A whole MCAP file is read through its index (`recon.mcap_index`), a whole sqlite file through
`rosbags`. What those refuse (a file cut off, a chunk that does not decompress) is read as far as it
is whole, and `Bag.losses` says what is missing. ``metadata.yaml`` tells only the order of the files
and how many messages there should be: everything else stands in the files, in every version of it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from rosbags.rosbag2 import Writer

from physgym.errors import DataError
from recon.mcap_index import McapIndex, NoIndexError
from recon.mcap_salvage import McapSalvage
from recon.sqlite_bag import SqliteSalvage, SqliteWhole, openable_sqlite

__all__ = ["Bag", "BagDamagedError", "BagMessage", "compress_chunks"]

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_STORAGE = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
_END_OF_TIME = 1 << 63  # ns


class BagDamagedError(DataError):
    """A bag that looked whole broke while it was read; `Bag.salvage` reads the rest."""


@dataclass(frozen=True, eq=False)
class BagMessage:
    """One recorded message.

    Attributes:
        topic: its topic.
        kind: its type, such as ``sensor_msgs/msg/Image``.
        log_ns: when it was recorded [ns].
        raw: its bytes, CDR; from `Bag.heads`, perhaps only the first of them.
        size: how many bytes there are in all.
    """

    topic: str
    kind: str
    log_ns: int
    raw: bytes
    size: int


class Bag:
    """A recording on disk; use it as a context manager, or call `close`.

    Attributes:
        path: the folder, or the one storage file.
        files: its storage files, in the order of recording.
        losses: sentences on what could not be read.
        counts: messages per topic that there should be.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a bag.

        Args:
            path: a rosbag2 folder, or a ``.mcap`` or ``.db3`` file.

        Raises:
            DataError: if there is nothing there that could be a bag.
        """
        self.path = Path(path).expanduser().absolute()
        self.losses: list[str] = []
        self._parts: list[_Part] = []
        self._broke: int | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        listed, self.counts, note = _metadata(self.path)
        self.losses += note
        self.files, note = _storage_files(self.path, listed)
        self.losses += note
        try:
            for file in self.files:
                self._open(file)
            if self.damaged and not self.topics:
                raise self._nothing()
        except BaseException:
            self.close()
            raise
        if not self.counts:
            for part in self._parts:
                for number, count in part.counts.items():
                    topic = part.channels[number][0]
                    self.counts[topic] = self.counts.get(topic, 0) + count

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def damaged(self) -> bool:
        """Whether a file is read without the help of its index."""
        return any(isinstance(part, McapSalvage | SqliteSalvage) for part in self._parts)

    @property
    def topics(self) -> dict[str, str]:
        """Type of each topic; of a topic with several types, the one with the most messages."""
        found: dict[str, dict[str, int]] = {}
        for part in self._parts:
            for number, (topic, kind) in part.channels.items():
                kinds = found.setdefault(topic, {})
                kinds[kind] = kinds.get(kind, 0) + part.counts.get(number, 0)
        return {topic: max(kinds, key=lambda kind: kinds[kind]) for topic, kinds in found.items()}

    def messages(
        self,
        topics: Collection[str],
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
        first = 0 if start_ns is None else start_ns
        last = _END_OF_TIME if stop_ns is None else stop_ns
        for number in range(len(self._parts)):
            yield from self._guarded(number, _full(self._parts[number], set(topics), first, last))

    def heads(self, topics: Collection[str], whole: Collection[str]) -> Iterator[BagMessage]:
        """Every message, of long ones perhaps only the beginning: enough for an image's header.

        Args:
            topics: which ones.
            whole: of these, messages in full.

        Yields:
            As `messages`.

        Raises:
            BagDamagedError: as `messages`.
        """
        for number, part in enumerate(list(self._parts)):
            if isinstance(part, McapIndex):
                yield from self._guarded(number, _heads(part, set(topics), set(whole)))
            else:
                yield from self._guarded(number, _full(part, set(topics), 0, _END_OF_TIME))

    def salvage(self, why: str) -> None:
        """Give up the index of the file that broke, or of all, and read what is whole from now on.

        Args:
            why: what went wrong with it, for `losses`.

        Raises:
            DataError: if nothing can be read at all.
        """
        self.losses.append(f"read without its index, because: {why}")
        for number, part in enumerate(self._parts):
            chosen = self._broke in (None, number)
            if chosen and not isinstance(part, McapSalvage | SqliteSalvage):
                part.close()
                self._parts[number] = self._salvaged(part.path)
        self._broke = None
        if not self.topics:
            self.close()
            raise self._nothing()

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            part.close()
        self._parts = []
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _open(self, file: Path) -> None:
        storage = file
        if file.suffix != ".mcap":
            if self._scratch is None:
                self._scratch = tempfile.TemporaryDirectory(prefix="physgym-bag-")
            storage, note = _unpacked_file(file, Path(self._scratch.name))
            self.losses += note
        part: _Part
        try:
            part = McapIndex(storage) if storage.suffix == ".mcap" else SqliteWhole(storage)
        except NoIndexError as error:
            part = self._salvaged(storage)
            if part.losses:
                self.losses.append(f"read without its index, because: {error}")
        except Exception as error:  # rosbags raises its own, sqlite's, zstd's and struct's errors
            self.losses.append(f"read without its index, because: {error}")
            part = self._salvaged(storage)
        self._parts.append(part)

    def _salvaged(self, storage: Path) -> McapSalvage | SqliteSalvage:
        part = McapSalvage(storage) if storage.suffix == ".mcap" else SqliteSalvage(storage)
        self.losses += part.losses
        return part

    def _guarded(self, number: int, source: Iterator[BagMessage]) -> Iterator[BagMessage]:
        while True:
            try:
                message = next(source)
            except StopIteration:
                return
            except Exception as error:  # see _open
                self._broke = number
                raise BagDamagedError(
                    f"it breaks while it is read: {error}",
                    where=str(self.path),
                    expected="a whole bag",
                    fix="Episode.open(path, verify=True) reads what is whole, and says what is not",
                ) from error
            yield message

    def _nothing(self) -> DataError:
        return DataError(
            f"no message can be read: {'; '.join(self.losses)}",
            where=str(self.path),
            expected="a rosbag2 recording (MCAP or sqlite)",
            fix="copy it again from the recorder; if that is all there is, it is lost",
        )


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


_Part = McapIndex | McapSalvage | SqliteWhole | SqliteSalvage


def _full(part: _Part, topics: set[str], start_ns: int, stop_ns: int) -> Iterator[BagMessage]:
    for topic, kind, log_ns, packed in part.messages(topics, start_ns, stop_ns):
        raw = _plain(packed)
        yield BagMessage(topic, kind, log_ns, raw, len(raw))


def _heads(part: McapIndex, topics: set[str], whole: set[str]) -> Iterator[BagMessage]:
    for topic, kind, log_ns, raw, size in part.heads(topics, whole):
        if raw[:4] == _ZSTD_MAGIC:  # compressed message by message: there is no beginning
            yield from _full(part, topics, 0, _END_OF_TIME)
            return
        yield BagMessage(topic, kind, log_ns, raw, size)


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


def _metadata(path: Path) -> tuple[list[str], dict[str, int], list[str]]:
    """Files and messages per topic that metadata.yaml announces, and what is wrong with it."""
    file = path / "metadata.yaml"
    if not path.is_dir():
        return [], {}, []
    if not file.is_file():
        return [], {}, [f"{path.name}: no metadata.yaml; the recorder did not finish"]
    try:
        content: Any = yaml.safe_load(file.read_text("utf-8"))
        content = content["rosbag2_bagfile_information"]
        # Before version 4 the paths begin with the name of the folder.
        files = [PurePosixPath(name).name for name in content["relative_file_paths"]]
        counts: dict[str, int] = {}
        for entry in content["topics_with_message_count"]:
            topic = str(entry["topic_metadata"]["name"])
            counts[topic] = counts.get(topic, 0) + int(entry["message_count"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        return [], {}, [f"{path.name}: metadata.yaml cannot be read, left out: {error!r}"]
    return files, counts, []


def _storage_files(path: Path, listed: list[str]) -> tuple[list[Path], list[str]]:
    if not path.exists():
        raise DataError("no such file or folder", where=str(path), expected="a rosbag2 folder")
    files = [path]
    if path.is_dir():
        files = [file for file in path.iterdir() if file.name.endswith(_STORAGE)]
        # `ros2 bag play` leaves the decompressed file beside the compressed one.
        names = {file.name for file in files}
        files = [
            file for file in files if file.name.removesuffix(".zstd") not in names - {file.name}
        ]
        # foo_10.mcap comes after foo_9.mcap
        files.sort(key=lambda file: [int(n) for n in re.findall(r"\d+", file.name)] or [0])
    if not files or not all(file.name.endswith(_STORAGE) for file in files):
        raise DataError(
            "no rosbag2 recording",
            where=str(path),
            expected="a folder with a .mcap or .db3 file (and metadata.yaml), or such a file",
            fix="ROS 1 .bag: convert with rosbags-convert; librealsense's files: record --source",
        )
    places = {file.name.removesuffix(".zstd"): file for file in files}
    wanted = [name.removesuffix(".zstd") for name in listed]
    known = [places[name] for name in wanted if name in places]
    if wanted and len(known) == len(wanted):
        return known, []  # others in the folder belong to other recordings
    if len(files) < len(wanted):
        return files, [
            f"{path.name}: {len(wanted) - len(files)} of {len(wanted)} files are missing"
        ]
    return files, []  # renamed


def _unpacked_file(file: Path, scratch: Path) -> tuple[Path, list[str]]:
    """A copy of a storage file that can be opened, where it cannot be as it is."""
    if file.suffix == ".db3":
        return openable_sqlite(file, scratch)
    from backports import zstd  # comes with rosbags

    target, losses = scratch / file.stem, []
    with file.open("rb") as packed, target.open("wb") as stream:
        try:
            with zstd.open(packed, "rb") as unpacked:
                shutil.copyfileobj(unpacked, stream, 1 << 16)
        except (EOFError, OSError, zstd.ZstdError) as error:
            losses.append(f"{file.name}: decompresses only as far as byte {stream.tell()}, {error}")
    if target.suffix == ".db3":
        target, more = openable_sqlite(target, scratch)
        losses += more
    return target, losses
