"""Damaged recordings: what is whole is read, what is lost is said."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from episode_cases import DT, camera, color, depth, write_foreign
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from physgym.errors import DataError
from recon.bags import Bag
from recon.cdr import CdrError, read_image
from recon.episode import Episode, EpisodeWriter
from recon.recover import recover
from recon.tracks import PhysGymWarning

FRAMES = 150  # 2.8 MB of noise: three chunks, and a rest


def opened(path: Path) -> Episode:
    """An episode that must have lost something."""
    with pytest.warns(PhysGymWarning):
        episode = Episode.open(path)
    assert episode.losses
    return episode


def whole_frames(episode: Episode, name: str) -> int:
    """Number of frames, all of which must be right."""
    numbers = np.round(episode.stamps_s(name) / DT).astype(int) + round(episode.start_s / DT)
    for t, frame in zip(numbers, episode.frames(name)):
        assert np.array_equal(frame.rgb, color(t))
        assert frame.depth_m is not None
        assert np.abs(frame.depth_m - depth(t)).max() < 1e-6  # whole millimetres in float32
    return len(numbers)


def recorded(path: Path) -> Path:
    with EpisodeWriter(path, [camera("c")]) as writer:
        for t in range(FRAMES):
            writer.write_frame("c", t * DT, color(t), depth(t))
            writer.write_gripper(0, t * DT, [0.01 * t, 0, 0], [1, 0, 0, 0], closed=True)
    return path


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_cut_off_bag_gives_what_is_before_the_cut(tmp_path: Path, share: float) -> None:
    file = recorded(tmp_path / "cut") / "cut.mcap"
    os.truncate(file, int(share * file.stat().st_size))
    with opened(tmp_path / "cut") as episode:
        # Of the chunk that is cut, too, what decompresses counts; 5 frames are what zstd holds back
        # (blocks of 128 kB, frames of 15 kB) and the index's share of the file.
        assert share * FRAMES - 14 <= whole_frames(episode, "c") <= share * FRAMES
        assert "cut off" in "; ".join(episode.losses)
        assert len(episode.gripper_pose(0).time_s) == pytest.approx(episode.frame_count("c"), abs=1)
        last = episode.frame_count("c") - 1
        assert np.array_equal(episode.frame("c", last).rgb, color(last))


def test_a_cut_index_loses_no_frame(tmp_path: Path) -> None:
    file = recorded(tmp_path / "cut") / "cut.mcap"
    os.truncate(file, file.stat().st_size - 20)
    with opened(tmp_path / "cut") as episode:
        assert whole_frames(episode, "c") == FRAMES
        assert "no data behind it" in "; ".join(episode.losses)


def test_a_damaged_middle_loses_its_chunk_only(tmp_path: Path) -> None:
    file = recorded(tmp_path / "hit") / "hit.mcap"
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(b"\xff" * 5000)
    with opened(tmp_path / "hit") as episode:
        assert 0.5 * FRAMES < whole_frames(episode, "c") < FRAMES
        said = "; ".join(episode.losses)
        assert "chunks that do not decompress" in said
        assert "frames are missing between the stamps" in said


def test_a_damaged_first_chunk_does_not_take_the_topics_along(tmp_path: Path) -> None:
    file = recorded(tmp_path / "hit") / "hit.mcap"
    with file.open("r+b") as stream:
        stream.seek(2000)
        stream.write(b"\xff" * 5000)
    with Bag(tmp_path / "hit") as bag, warnings.catch_warnings():
        warnings.simplefilter("error")
        bag.salvage("the test says so")
        assert "/c/color/image_raw" not in bag.topics
        assert bag.topics["/camera/c/color/image_raw"] == "sensor_msgs/msg/Image"
        assert len(list(bag.messages(["/gripper0/pose"]))) > 0.5 * FRAMES
    # Where the cameras stood was in the lost chunk.
    with pytest.raises(DataError, match="nothing says where c stood"):
        Episode.open(tmp_path / "hit")


def test_without_metadata_the_files_are_read(tmp_path: Path) -> None:
    for storage in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        for mode in (CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.FILE):
            path = tmp_path / f"{storage.name}_{mode.name}"
            write_foreign(path, storage=storage, mode=mode, frames=5)
            (path / "metadata.yaml").unlink()
            with opened(path) as episode:
                assert "no metadata.yaml" in episode.losses[0]
                for t, frame in enumerate(episode.frames("camera")):
                    assert np.array_equal(frame.rgb, color(t))
                assert episode.frame_count("camera") == 5
    file = tmp_path / "MCAP_NONE" / "MCAP_NONE.mcap"
    with Episode.open(file) as episode:  # one storage file alone is a recording, too
        assert episode.frame_count("camera") == 5


def test_a_cut_off_sqlite_bag(tmp_path: Path) -> None:
    file = write_foreign(tmp_path / "cut", frames=60) / "cut.db3"
    os.truncate(file, int(0.6 * file.stat().st_size))
    with opened(tmp_path / "cut") as episode:
        # Rows lie in the file in the order of recording.
        assert 0.4 * 60 < episode.frame_count("camera") <= 0.6 * 60 + 1
        for t, frame in enumerate(episode.frames("camera")):
            assert np.array_equal(frame.rgb, color(t))


def test_a_cut_off_compressed_file(tmp_path: Path) -> None:
    write_foreign(
        tmp_path / "cut", storage=StoragePlugin.MCAP, mode=CompressionMode.FILE, frames=200
    )
    (file,) = (tmp_path / "cut").glob("*.zstd")
    os.truncate(file, int(0.7 * file.stat().st_size))
    with opened(tmp_path / "cut") as episode:
        assert 0.2 * 200 < episode.frame_count("camera") <= 0.7 * 200
        assert "decompresses only as far" in "; ".join(episode.losses)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    path = recorded(tmp_path / "gone")
    (path / "gone.mcap").write_bytes(b"")
    with pytest.raises(DataError, match="no message can be read"):
        Episode.open(path)
    (path / "gone.mcap").unlink()
    with pytest.raises(DataError, match="no rosbag2 recording"):
        Episode.open(path)
    with pytest.raises(DataError, match="no such file"):
        Episode.open(tmp_path / "never")
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(DataError, match="no rosbag2 recording"):
        Episode.open(tmp_path / "text.txt")


def test_random_damage_never_raises_anything_but_data_errors(tmp_path: Path) -> None:
    source = recorded(tmp_path / "good")
    rng = np.random.default_rng(0)
    usable = 0
    for trial in range(25):
        path = tmp_path / f"bad{trial}"
        shutil.copytree(source, path)
        file = next(path.glob("*.mcap"))
        content = bytearray(file.read_bytes())
        for place in rng.integers(0, len(content), 1 + trial % 4):
            content[place] ^= int(rng.integers(1, 256))
        cut = trial % 2 == 1
        if cut:
            del content[int(rng.integers(len(content) // 3, len(content))) :]
        file.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PhysGymWarning)
            try:
                with Episode.open(path) as episode:
                    # Whole chunks carry a checksum; that of a chunk that is cut off is gone.
                    if cut:
                        usable += sum(1 for _ in episode.frames("c")) > 0
                    else:
                        usable += whole_frames(episode, "c") > 0
            except DataError:
                pass
        shutil.rmtree(path)
    assert usable  # or the loop has tried nothing but the error


def test_a_killed_writer_leaves_a_readable_folder(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from episode_cases import DT, camera, color, depth
from recon.episode import EpisodeWriter
writer = EpisodeWriter({str(tmp_path / "live")!r}, [camera("c")], name="push")
for t in range({FRAMES}):
    writer.write_frame("c", t * DT, color(t), depth(t))
print("written", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "live").exists()
    with pytest.raises(DataError, match="not finished"):
        Episode.open(tmp_path / "live")
    with opened(tmp_path / "live.partial") as episode:
        assert episode.name == "push"
        # One chunk of 1 MiB was in memory: 2.8 MB hold 150 frames.
        assert FRAMES * 0.6 < whole_frames(episode, "c") < FRAMES


def test_an_exception_keeps_everything_in_the_partial_folder(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "lift", [camera("c")])

    def unplugged() -> None:
        with writer:
            for t in range(7):
                writer.write_frame("c", t * DT, color(t), depth(t))
            raise RuntimeError("unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        unplugged()
    assert not (tmp_path / "lift").exists()
    with Episode.open(tmp_path / "lift.partial") as episode:
        assert whole_frames(episode, "c") == 7


def test_a_full_disk_says_so_and_keeps_what_was_written(tmp_path: Path) -> None:
    # A limit on the size of files ends a write as a full disk does: with an OSError in its middle.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = EpisodeWriter(tmp_path / "big", [camera("c")])

    def fill() -> None:
        for t in range(FRAMES):
            writer.write_frame("c", t * DT, color(t), depth(t))

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, limits[1]))
        with pytest.raises(DataError, match="the recording stopped"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    with opened(writer.partial) as episode:
        assert whole_frames(episode, "c") > 40  # the first chunk of 1 MiB


def test_short_messages_are_told_from_whole_ones() -> None:
    for raw in (b"", b"\0\1", b"\0\1\0\0" + bytes(8), b"\0\1\0\0" + b"\xff" * 40, b"junk" * 9):
        with pytest.raises(CdrError):
            read_image(raw)


def test_recovered_recordings_are_whole(tmp_path: Path) -> None:
    file = recorded(tmp_path / "cut") / "cut.mcap"
    os.truncate(file, int(0.8 * file.stat().st_size))
    with opened(tmp_path / "cut") as episode:
        count = whole_frames(episode, "c")
    losses = recover(tmp_path / "cut", tmp_path / "whole")
    assert "cut off" in "; ".join(losses)
    assert not (tmp_path / "whole.partial").exists()
    with Bag(tmp_path / "whole") as bag:
        assert bag.losses == []
        assert not bag.damaged
    # The cut may part a colour image from its depth.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhysGymWarning)
        episode = Episode.open(tmp_path / "whole")
    with episode:
        assert episode.name == "cut"
        assert whole_frames(episode, "c") == count
    with pytest.raises(DataError, match="exists already"):
        recover(tmp_path / "cut", tmp_path / "whole")


def test_recovering_a_bag_that_breaks_in_its_middle(tmp_path: Path) -> None:
    file = recorded(tmp_path / "hit") / "hit.mcap"
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(b"\xff" * 5000)
    losses = recover(tmp_path / "hit", tmp_path / "whole")
    assert "chunks that do not decompress" in "; ".join(losses)
    with opened(tmp_path / "whole") as episode:  # the gap is still a gap
        assert 0.5 * FRAMES < whole_frames(episode, "c") < FRAMES
