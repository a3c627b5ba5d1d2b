"""A damaged recording -> a whole one that any ROS 2 tool opens, with what could be read."""

from __future__ import annotations

import shutil
from pathlib import Path

from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from physgym.errors import DataError
from recon import episode_messages as messages
from recon.bags import Bag, BagDamagedError, compress_chunks
from recon.episode_files import PARTIAL_SUFFIX, bag_folder

__all__ = ["recover", "recovered_path"]

_KINDS = {
    messages.BOOL,
    messages.CAMERA_INFO,
    messages.COMPRESSED,
    messages.IMAGE,
    messages.JOINTS,
    messages.POSE,
    messages.TRANSFORMS,
}


def recover(path: str | Path, out: str | Path) -> list[str]:
    """Copy every whole message of an episode's types into a new recording.

    Args:
        path: what `recon.episode.Episode.open` would open.
        out: the new recording's folder; must not exist.

    Returns:
        Sentences on what was lost or left out.

    Raises:
        DataError: if nothing can be read, or the new folder exists.
    """
    source, target = bag_folder(Path(path).expanduser()), Path(out).expanduser().absolute()
    fresh = target.with_name(target.name + PARTIAL_SUFFIX)
    for folder in (target, fresh):
        if folder.exists():
            raise DataError("it exists already", where=str(folder), expected="a new folder")
    inner = fresh / target.name
    with Bag(source) as bag:
        fresh.mkdir(parents=True)
        try:
            try:
                _copy(bag, inner)
            except BagDamagedError as error:
                shutil.rmtree(inner)
                bag.salvage(error.what)
                _copy(bag, inner)
            if source.is_dir():
                _copy_beside(source, inner)
            inner.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        left_out = sorted(topic for topic, kind in bag.topics.items() if kind not in _KINDS)
        return [*bag.losses, *(f"{topic}: left out, {bag.topics[topic]}" for topic in left_out)]


def recovered_path(path: str | Path) -> Path:
    """Where a recovered recording goes by habit.

    Args:
        path: the damaged one.

    Returns:
        ``NAME_recovered`` beside it.
    """
    source = Path(path).expanduser()
    name = source.name if source.is_dir() else source.name.partition(".")[0]
    return source.with_name(f"{name.removesuffix(PARTIAL_SUFFIX)}_recovered")


def _copy(bag: Bag, folder: Path) -> None:
    store = messages.MessageFactory().store
    kinds = {topic: kind for topic, kind in bag.topics.items() if kind in _KINDS}
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        compress_chunks(writer)
        links = {
            topic: writer.add_connection(
                topic,
                kind,
                typestore=store,
                offered_qos_profiles=[messages.LATCHED] if kind == messages.TRANSFORMS else [],
            )
            for topic, kind in sorted(kinds.items())
        }
        for message in bag.messages(list(kinds)):
            if message.raw:
                writer.write(links[message.topic], message.log_ns, message.raw)


def _copy_beside(source: Path, target: Path) -> None:
    """The sidecar, the masks and the ground truth, whatever is not the bag itself."""
    for path in source.iterdir():
        if path.is_dir():
            shutil.copytree(path, target / path.name)
        elif path.suffix in (".json", ".npz"):
            shutil.copyfile(path, target / path.name)
