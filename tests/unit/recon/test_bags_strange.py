"""Storage as recorders, players and people leave it: each way of reading gives the same."""

import shutil
import sqlite3
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
import yaml
from episode_cases import DT, Recorder, color, write_episode, write_foreign
from rosbags.rosbag2 import CompressionMode, Reader, StoragePlugin

from physgym.errors import DataError
from recon import episode_messages as kinds
from recon import episode_scan
from recon.bags import Bag, BagDamagedError, BagMessage
from recon.episode import Episode
from recon.mcap_index import HEAD_BYTES, McapIndex
from recon.tracks import PhysGymWarning

FRAMES = 90  # over several chunks


def mixed(path: Path, compression: str) -> Path:
    """Frames recorded in no order over several chunks, with all that can be wrong with images."""
    with Recorder(path) as bag:
        if compression == "lz4":  # which rosbags reads and does not write
            storage: Any = bag.writer.storage
            storage.compression, storage.compressor = "lz4", lz4.frame.compress
        order = np.random.default_rng(0).permutation(FRAMES)
        for row, t in enumerate(order.tolist()):
            bag.frame(t, log_ns=10**12 + 10**7 * (row + (40 if row % 7 == 0 else 0)))
            raw = bag.make.pose(
                round((100 + t * DT) * 1e9), "", np.full(3, t), np.array([0.0, 0, 0, 1])
            )
            bag.put("/gripper0/pose", kinds.POSE, 10**12 + 10**7 * row, raw)
        whole = bytes(bag.make.image(300 * 10**9, "optical", "rgb8", color(0)))
        for number, raw in enumerate((whole[:-100], whole[:60], whole[:9], b"")):
            bag.put("/c/color/image_raw", kinds.IMAGE, 10**13 + number, raw)
        raw = bag.make.image(301 * 10**9, "optical", "mono16", color(0)[..., 0].astype(np.uint16))
        bag.put("/c/color/image_raw", kinds.IMAGE, 10**13 + 9, bytes(raw))
        bag.tree("world", "optical", np.eye(4))
    return path


def lz4_chunks(path: Path) -> Path:
    return mixed(path, "lz4")


def plain_chunks(path: Path) -> Path:
    return mixed(path, "")


def own(path: Path) -> Path:
    return write_episode(path, frames=60)


def messages_compressed(path: Path) -> Path:
    return write_foreign(path, storage=StoragePlugin.MCAP, mode=CompressionMode.MESSAGE)


def sqlite(path: Path) -> Path:
    return write_foreign(path)


@pytest.mark.parametrize("make", [lz4_chunks, plain_chunks, own, messages_compressed, sqlite])
def test_the_index_tells_what_reading_everything_tells(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    with Bag(make(tmp_path / "bag")) as bag:
        assert not bag.damaged
        quick, full = (
            episode_scan.scan(bag, episode_scan.Options(verify=verify)) for verify in (False, True)
        )
    assert quick.losses == full.losses
    assert quick.topics == full.topics
    for topic, index in full.images.items():
        for key in ("stamp_ns", "log_ns", "header_ns"):
            assert np.array_equal(getattr(quick.images[topic], key), getattr(index, key))
        assert quick.images[topic].doubled == index.doubled
        assert quick.images[topic].unusable == index.unusable
    assert quick.motion.bools == full.motion.bools
    for topic, messages in full.motion.poses.items():
        assert [log for log, _ in quick.motion.poses[topic]] == [log for log, _ in messages]
        for (_, one), (_, other) in zip(quick.motion.poses[topic], messages):
            assert np.array_equal(one.position, other.position)
    for name, one in full.cameras.items():
        assert np.array_equal(quick.cameras[name].T_world_cam, one.T_world_cam)
    if make in (lz4_chunks, plain_chunks):
        assert full.images["/c/color/image_raw"].unusable  # the defects were looked at
        assert "4 messages cannot be read" in "; ".join(full.losses)


@pytest.mark.parametrize("make", [lz4_chunks, plain_chunks, own])
def test_the_index_gives_the_messages_that_rosbags_gives(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path / "bag")
    with Reader(path) as reader:
        expected = sorted((c.topic, log, bytes(raw)) for c, log, raw in reader.messages())
    index = McapIndex(next(path.glob("*.mcap")))
    topics = {topic for topic, _ in index.channels.values()}
    found = list(index.messages(topics, 0, 1 << 63))
    logs = [log for _, _, log, _ in found]
    assert logs == sorted(logs)
    assert sorted((topic, log, raw) for topic, _, log, raw in found) == expected
    middle = logs[len(logs) // 2]
    part = list(index.messages(topics, middle, middle + 10**8))
    assert [m[2] for m in part] == [log for log in logs if middle <= log < middle + 10**8]
    heads = list(index.heads(topics, {"/gripper0/pose"}))
    assert [(m[0], m[2], m[3][:HEAD_BYTES], len(m[3])) for m in found] == [
        (m[0], m[2], m[3][:HEAD_BYTES], m[4]) for m in heads
    ]


def flattened(path: Path) -> Path:
    """The same without chunks and without an index, as rosbag2's preset fastwrite may leave it."""
    (file,) = path.glob("*.mcap")
    content, at, records = file.read_bytes(), 8, []
    while at < len(content) - 8:
        opcode, size = struct.unpack_from("<BQ", content, at)
        body = content[at + 9 : at + 9 + size]
        if opcode == 0x06:
            records.append(body[32 + struct.unpack_from("<I", body, 28)[0] + 8 :])
        elif opcode == 0x01:
            records.append(content[at : at + 9 + size])
        at += 9 + size
    end = struct.pack("<BQI", 0x0F, 4, 0) + struct.pack("<BQQQI", 0x02, 20, 0, 0, 0)
    file.write_bytes(content[:8] + b"".join(records) + end + content[:8])
    return path


def test_a_file_without_chunks_and_index_is_whole(tmp_path: Path) -> None:
    path = flattened(write_foreign(tmp_path / "bag", storage=StoragePlugin.MCAP))
    with Episode.open(path) as episode:
        assert episode.losses == ()
        pairs = zip(episode.frames("camera"), episode.frames("camera"))
        for t, (one, other) in enumerate(pairs):  # two readers at once
            assert np.array_equal(one.rgb, color(t))
            assert np.array_equal(other.rgb, color(t))
        assert t == 7


def rewritten(path: Path, change: Callable[[dict], None]) -> Path:
    file = path / "metadata.yaml"
    content = yaml.safe_load(file.read_text())
    change(content["rosbag2_bagfile_information"])
    file.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("version", [1, 3, 4, 5, 6, 7, 8, 9, 42])
def test_every_version_of_the_metadata(
    tmp_path: Path, version: int, storage: StoragePlugin
) -> None:
    def change(info: dict) -> None:
        info["version"] = version
        if version < 4:  # paths began with the folder's name
            info["relative_file_paths"] = [f"bag/{name}" for name in info["relative_file_paths"]]
        for key in ("compression_format", "compression_mode", "custom_data", "ros_distro", "files"):
            if version < 6:
                info.pop(key, None)
        for entry in info["topics_with_message_count"]:
            entry["topic_metadata"]["offered_qos_profiles"] = ""
            if version < 7:
                entry["topic_metadata"].pop("type_description_hash", None)

    path = rewritten(write_foreign(tmp_path / "bag", storage=storage, frames=3), change)
    with Episode.open(path) as episode:
        assert episode.losses == ()
        assert episode.frame_count("camera") == 3


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_qos_that_differs_between_metadata_and_file(tmp_path: Path, storage: StoragePlugin) -> None:
    def change(info: dict) -> None:  # what another distribution's recorder writes for the same
        for entry in info["topics_with_message_count"]:
            entry["topic_metadata"]["offered_qos_profiles"] = []
            entry["topic_metadata"]["type_description_hash"] = "RIHS01_" + "0" * 64

    path = rewritten(write_episode(tmp_path / "lift", frames=3), change)
    if storage == StoragePlugin.SQLITE3:
        path = rewritten(write_foreign(tmp_path / "bag", frames=3), change)
    with Episode.open(path) as episode:
        assert episode.losses == ()


def test_renamed_and_missing_files_and_broken_metadata(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "bag", storage=StoragePlugin.MCAP, frames=3)
    (path / "bag.mcap").rename(path / "the good one.mcap")
    with Bag(path) as bag:
        assert bag.losses == []
        assert not bag.damaged
    rewritten(path, lambda info: info["relative_file_paths"].append("bag_1.mcap"))
    with pytest.warns(PhysGymWarning, match="1 of 2 files are missing"):
        Episode.open(path).close()
    for text in ("{", "", "[]", "rosbag2_bagfile_information: 3", "\x00"):
        (path / "metadata.yaml").write_text(text)
        with pytest.warns(PhysGymWarning, match=r"metadata\.yaml cannot be read"):
            episode = Episode.open(path)
        with episode:
            assert episode.frame_count("camera") == 3


def test_a_split_recording_of_which_one_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    path.mkdir()
    for number in range(3):
        with Recorder(tmp_path / str(number)) as bag:
            for t in range(10 * number, 10 * number + 10):
                bag.frame(t)
        shutil.copyfile(tmp_path / f"{number}/{number}.mcap", path / f"bag_{number}.mcap")
    middle = path / "bag_1.mcap"
    middle.write_bytes(middle.read_bytes()[: middle.stat().st_size // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhysGymWarning)
        episode = Episode.open(path, allow_uncalibrated=True)
    with episode:
        numbers = np.round(episode.stamps_s("c") / DT).astype(int).tolist()
        assert [t for t in numbers if not 10 <= t < 20] == [*range(10), *range(20, 30)]
        assert 12 in numbers
        for t, frame in zip(numbers, episode.frames("c")):
            assert np.array_equal(frame.rgb, color(t))


def test_what_ros2_bag_play_leaves_beside_a_compressed_file(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "bag", mode=CompressionMode.FILE, frames=3)
    plain = write_foreign(tmp_path / "plain", frames=3)
    shutil.copyfile(plain / "plain.db3", path / "bag.db3")
    (path / "metadata.yaml").unlink()
    with Bag(path) as bag:
        assert [file.name for file in bag.files] == ["bag.db3"]
        assert len(list(bag.messages(["/camera/camera/color/image_raw"]))) == 3


def test_rows_in_the_write_ahead_log_of_a_killed_recorder(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "bag", frames=6)
    killed = tmp_path / "killed"
    base = sqlite3.connect(path / "bag.db3")
    base.execute("PRAGMA journal_mode = WAL")
    rows = base.execute("SELECT * FROM messages ORDER BY id").fetchall()
    base.execute("DELETE FROM messages WHERE id > ?", (len(rows) // 2,))
    base.commit()
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    late = rows[len(rows) // 2 :]
    base.executemany(f"INSERT INTO messages VALUES ({','.join('?' * len(rows[0]))})", late)
    base.commit()
    shutil.copytree(path, killed)  # as it lies on disk before sqlite ends
    base.close()
    (killed / "metadata.yaml").unlink()
    before = {file.name: file.read_bytes() for file in killed.iterdir()}
    with pytest.warns(PhysGymWarning):
        episode = Episode.open(killed)
    with episode:
        assert episode.frame_count("camera") == 6
        assert np.array_equal(episode.frame("camera", 5).rgb, color(5))
    assert {file.name: file.read_bytes() for file in killed.iterdir()} == before


def test_damage_that_only_reading_finds_says_how_to_go_on(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "bag", storage=StoragePlugin.MCAP, frames=200)
    index = McapIndex(path / "bag.mcap")
    chunk = index._chunks[3]
    with (path / "bag.mcap").open("r+b") as stream:  # a checksum, as rosbag2 writes it, of nothing
        stream.seek(chunk.at - 8 - 4 - 4)
        stream.write(b"\xba\xad\xf0\x0d")
    with Episode.open(path) as episode, pytest.raises(BagDamagedError, match=r"verify=True"):
        list(episode.frames("camera"))
    with pytest.warns(PhysGymWarning, match="chunks that do not decompress"):
        episode = Episode.open(path, verify=True)
    with episode:
        assert 100 < len(list(episode.frames("camera"))) < 200


def test_a_topic_of_several_types_and_a_message_of_the_rarer_one(tmp_path: Path) -> None:
    with Recorder(tmp_path / "bag") as bag:
        bag.put("/t", kinds.BOOL, 1, bytes(bag.make.boolean(True)))
        for log in (2, 3):
            bag.put("/t", kinds.POSE, log, bag.make.pose(log, "", np.zeros(3), np.ones(4)))
    with Bag(tmp_path / "bag") as opened:
        assert opened.topics == {"/t": kinds.POSE}
        found: list[BagMessage] = list(opened.messages(["/t"]))
    assert [message.kind for message in found] == [kinds.BOOL, kinds.POSE, kinds.POSE]


def test_a_damaged_index_is_not_trusted(tmp_path: Path) -> None:
    path = plain_chunks(tmp_path / "bag")
    (file,) = path.glob("*.mcap")
    good = file.read_bytes()
    (summary,) = struct.unpack_from("<Q", good, len(good) - 28)
    rng = np.random.default_rng(1)
    usable = 0
    for _ in range(40):
        content = bytearray(good)
        content[int(rng.integers(summary, len(good) - 28))] ^= int(rng.integers(1, 256))
        file.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PhysGymWarning)
            try:
                episode = Episode.open(path)
            except DataError:  # the name of a topic is another one now
                continue
        with episode:
            usable += 1
            assert episode.frame_count("c") == FRAMES
            assert np.array_equal(episode.frame("c", 50).rgb, color(50))
    assert usable > 20  # most of these bytes are definitions, which nobody needs
