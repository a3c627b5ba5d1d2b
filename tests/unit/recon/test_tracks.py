"""Tracks check what they hold, and come back as they were saved, or not at all."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from physgym.errors import DataError
from recon.npz import read_npz
from recon.tracks import Tracks


def make_tracks(**changes) -> Tracks:
    rng = np.random.default_rng(0)
    visible = np.ones((6, 4), bool)
    visible[2, 1] = False
    fields = {
        "time_s": 0.01 * np.arange(6),
        "position": rng.normal(size=(6, 4, 3)),
        "visible": visible,
        "driven_index": [0, 3],
        "name": "clip",
        "rest_position": rng.normal(size=(4, 3)),
        "radius_m": 0.004,
        "source_sha256": "ab" * 32,
    }
    return Tracks(**{**fields, **changes})


def test_unseen_samples_become_nan_and_arrays_are_read_only() -> None:
    position = np.zeros((6, 4, 3))
    tracks = make_tracks(position=position)
    assert np.isnan(tracks.position[2, 1]).all()
    assert not np.isnan(position).any()
    assert np.array_equal(np.isfinite(tracks.position).all(-1), tracks.visible)
    with pytest.raises(ValueError, match="read-only"):
        tracks.position[0, 0] = 1.0


def test_properties() -> None:
    tracks = make_tracks()
    assert (tracks.frame_count, tracks.node_count) == (6, 4)
    assert tracks.dt_s == pytest.approx(0.01)
    assert np.array_equal(tracks.driven, tracks.position[:, [0, 3]])
    assert tracks.free_index.tolist() == [1, 2]
    assert tracks.gravity.tolist() == [0.0, 0.0, -9.81]


def test_slice_keeps_stamps_and_refuses_empty_ranges() -> None:
    part = make_tracks().slice(2, 5)
    assert part.frame_count == 3
    assert part.time_s[0] == pytest.approx(0.02)
    assert part.rest_position is not None
    for start, stop in ((3, 3), (-1, 2), (0, 7)):
        with pytest.raises(DataError, match="frames"):
            make_tracks().slice(start, stop)


def test_round_trip(tmp_path: Path) -> None:
    for tracks in (make_tracks(), make_tracks(rest_position=None, radius_m=None)):
        back = Tracks.load(tracks.save(tmp_path / "clip.npz"))
        for key in ("time_s", "position", "visible", "driven_index", "gravity"):
            assert np.array_equal(getattr(back, key), getattr(tracks, key), equal_nan=True)
        assert (back.rest_position is None) == (tracks.rest_position is None)
        assert (back.name, back.radius_m) == (tracks.name, tracks.radius_m)
        assert back.source_sha256 == tracks.source_sha256
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.npz"]


def test_a_failed_save_leaves_the_old_file_whole(tmp_path: Path, monkeypatch) -> None:
    path = make_tracks().save(tmp_path / "clip.npz")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        make_tracks(name="second").save(path)
    assert Tracks.load(path).name == "clip"
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.npz"]


def test_save_refuses_another_suffix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"clip\.pkl"):
        make_tracks().save(tmp_path / "clip.pkl")


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"time_s": [0, 1, 2, 2, 3, 4]}, "frame 3", "two frames have one stamp"),
        ({"time_s": [0, 1, 2, 1, 3, 4]}, "frame 3", "time goes back"),
        ({"time_s": [0, 1, np.nan, 3, 4, 5]}, "frame 2", "no stamp"),
        ({"time_s": [0, 1, 2]}, "time_s", "3 stamps for 6 frames"),
        ({"position": np.zeros((6, 4, 2))}, "position", "shape"),
        ({"position": np.full((6, 4, 3), None)}, "position", "dtype object"),
        ({"position": np.full((6, 4, 3), np.nan)}, "frame 0, node 0", "no position"),
        ({"visible": np.ones((6, 3), bool)}, "visible", "shape"),
        ({"visible": np.zeros((6, 4), bool)}, "frame 0, node 0", "driven point was not seen"),
        ({"driven_index": [4]}, "driven_index", "indices from 4"),
        ({"driven_index": [1, 1]}, "driven_index", "twice"),
        ({"driven_index": [0.5]}, "driven_index", "dtype float64"),
        ({"rest_position": np.zeros((3, 3))}, "rest_position", "shape"),
        ({"rest_position": np.full((4, 3), np.nan)}, "rest_position", "not finite"),
        ({"gravity": [0.0, -9.81]}, "gravity", "shape"),
        ({"radius_m": -1.0}, "radius_m", "-1"),
        ({"name": ""}, "name", "name"),
    ],
)
def test_wrong_field_is_refused_by_name(changes, where, what) -> None:
    with pytest.raises(DataError, match=what) as caught:
        make_tracks(**changes)
    assert where in caught.value.where


def test_uneven_stamps_have_no_dt() -> None:
    with pytest.raises(DataError, match="off an even clock"):
        _ = make_tracks(time_s=[0, 1, 2, 3.5, 4, 5]).dt_s
    # A jitter of one hundredth of a frame is within the stated two.
    assert make_tracks(time_s=[0, 1.01, 2, 3, 4, 5]).dt_s == pytest.approx(1.0)


def test_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    path = make_tracks().save(tmp_path / "clip.npz")
    content = path.read_bytes()
    for keep in np.linspace(0, len(content) - 1, 12).astype(int):
        path.write_bytes(content[:keep])
        with pytest.raises(DataError) as caught:
            Tracks.load(path)
        assert "clip.npz" in caught.value.where


def test_flipped_byte_in_an_array_is_found(tmp_path: Path) -> None:
    path = make_tracks().save(tmp_path / "clip.npz")
    content = bytearray(path.read_bytes())
    at = content.index(b"points.npy") + 60  # inside the compressed array, which zip checksums
    content[at] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="cannot be read"):
        Tracks.load(path)


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    objects = np.empty(1, dtype=object)
    objects[0] = _Trap()
    np.savez(tmp_path / "objects.npz", time=np.zeros(1), points=objects)
    with pytest.raises(DataError, match="pickle") as caught:
        read_npz(tmp_path / "objects.npz")
    assert "points" in caught.value.where
    stream = io.BytesIO()
    pickle.dump(_Trap(), stream)
    (tmp_path / "plain.npz").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match=r"not an \.npz"):
        read_npz(tmp_path / "plain.npz")


def test_foreign_and_newer_files_are_refused(tmp_path: Path) -> None:
    path = make_tracks().save(tmp_path / "clip.npz")
    arrays = read_npz(path)
    for changes, where in (
        ({"format": np.array("other")}, "format"),
        ({"version": np.array(2)}, "version"),
    ):
        np.savez(path, **{**arrays, **changes})
        with pytest.raises(DataError) as caught:
            Tracks.load(path)
        assert where in caught.value.where
    arrays.pop("visible")
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="missing"):
        Tracks.load(path)
    with pytest.raises(DataError, match="no such file"):
        Tracks.load(tmp_path / "nothing.npz")
