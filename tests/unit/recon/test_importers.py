"""Other people's files become Tracks, or a message that says what is wrong with them."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from physgym.errors import DataError
from recon.importers import load_recordings
from recon.importers.deform_dlo import read_clips
from recon.tracks import PhysGymWarning, Tracks

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "deform_dlo"
needs_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the recorded cables are not at {SHARED}"
)

DT = 0.01


def swinging_rope(frames: int = 120, nodes: int = 9) -> np.ndarray:
    """A rope of links that keep their length, carried along and swinging; both ends move."""
    time = DT * np.arange(frames)[:, None]
    along = np.arange(nodes - 1) * 0.4
    pitch = 0.8 * np.cos(along) + 0.3 * np.sin(6.0 * time + along)
    yaw = 0.4 * np.sin(3.0 * time + 0.5 * along)
    link = 0.1 * np.stack(
        [np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], axis=-1
    )
    rope = np.concatenate([np.zeros((frames, 1, 3)), np.cumsum(link, axis=1)], axis=1)
    rope[..., 1] += 0.2 * time
    return rope + np.array([0.1, 0.2, 0.6])


def write(path: Path, **changes) -> Path:
    points = swinging_rope()
    arrays = {
        "time": DT * np.arange(len(points)),
        "points": points,
        "visible": np.ones(points.shape[:2], bool),
        "driven_index": np.array([0, 8]),
    }
    arrays.update(changes)
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def quiet(source: Path, split: str | None = None) -> list[Tracks]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_recordings(source, split)


def test_clean_generic_file_loads_without_a_warning(tmp_path: Path) -> None:
    (tracks,) = quiet(write(tmp_path / "rope.npz", radius=np.array(0.004)))
    assert tracks.name == "rope"
    assert tracks.visible.all()
    assert np.array_equal(tracks.position, swinging_rope().astype(np.float32))
    assert tracks.radius_m == pytest.approx(0.004)
    assert len(tracks.source_sha256) == 64


def test_driven_points_apart_are_appended_as_nodes(tmp_path: Path) -> None:
    driven = swinging_rope()[:, [0, 8]] + 0.05
    path = write(tmp_path / "rope.npz", driven_index=None, driven=driven, visible=None)
    (tracks,) = quiet(path)
    assert tracks.node_count == 11
    assert tracks.driven_index.tolist() == [9, 10]
    assert np.array_equal(tracks.driven, driven.astype(np.float32))


def test_saved_tracks_are_recognised(tmp_path: Path) -> None:
    (tracks,) = quiet(write(tmp_path / "rope.npz"))
    (back,) = quiet(tracks.save(tmp_path / "own.npz"))
    assert back.name == "rope"
    assert np.array_equal(back.position, tracks.position)


def write_clips(path: Path, clips: np.ndarray, **changes) -> Path:
    arrays = {
        "positions": clips.astype(np.float32),
        "dt": np.float32(DT),
        "driven": np.array([0, clips.shape[2] - 1], np.int32),
        "clip_ids": np.arange(len(clips)) + 40,
    }
    np.savez(path, **{**arrays, **changes})
    return path


def test_clips_load_one_by_one_and_splits_are_told_by_name(tmp_path: Path) -> None:
    clips = np.stack([swinging_rope(), swinging_rope() + 0.3])
    write_clips(tmp_path / "A_train.npz", clips)
    write_clips(tmp_path / "A_eval.npz", clips[:1])
    write(tmp_path / "extra.npz")
    names = [tracks.name for tracks in quiet(tmp_path, "train")]
    assert names == ["A_train/clip_40", "A_train/clip_41", "extra"]
    assert [tracks.name for tracks in quiet(tmp_path, "eval")] == ["A_eval/clip_40", "extra"]
    assert len(quiet(tmp_path)) == 4
    assert quiet(tmp_path / "A_eval.npz", "eval")[0].dt_s == pytest.approx(DT, rel=1e-12)
    with pytest.raises(DataError, match="another split"):
        load_recordings(tmp_path / "A_eval.npz", "train")
    with pytest.raises(DataError, match="unknown split"):
        load_recordings(tmp_path, "validation")


def test_unknown_files_in_a_folder_are_left_out_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "rope.npz")
    np.savez(tmp_path / "weights.npz", w=np.zeros(3))
    with pytest.warns(PhysGymWarning, match=r"weights\.npz"):
        assert len(load_recordings(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "what"), [("nothing", "no such file"), ("empty", "no recordings among 0")]
)
def test_missing_sources_are_named(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=what):
        load_recordings(tmp_path / name)


def test_unknown_layout_lists_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", w=np.zeros(3))
    with pytest.raises(DataError, match=r"\['w'\]"):
        load_recordings(tmp_path / "weights.npz")


def with_sample(frame: int, node: int, value: float) -> np.ndarray:
    points = swinging_rope()
    points[frame, node] = value
    return points


def objects() -> np.ndarray:
    return np.full((120, 9, 3), None)


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"points": with_sample(7, 0, np.nan)}, "frame 7, node 0", "driven point was not seen"),
        ({"visible": np.zeros((120, 9), bool)}, "frame 0, node 0", "driven point was not seen"),
        ({"points": swinging_rope()[:, :, :2]}, "points", "shape"),
        ({"points": swinging_rope()[0]}, "points", "shape"),
        ({"points": objects()}, "points", "pickle"),
        ({"points": swinging_rope() * 1000.0}, "points", "millimetres"),
        ({"rest": swinging_rope()[0] * 1000.0}, "rest", "millimetres"),
        ({"rest": swinging_rope()[0, :4]}, "rest", "shape"),
        ({"radius": np.array(4.0)}, "radius", "4"),
        ({"gravity": np.array([0, 0, -9810.0])}, "gravity", "9810"),
        ({"visible": np.ones((120, 8), bool)}, "visible", "shape"),
        ({"time": np.repeat(np.arange(60) * DT, 2)}, "frame 1", "two frames have one stamp"),
        ({"time": DT * np.arange(120)[::-1]}, "frame 1", "time goes back"),
        ({"time": 10.0 * np.arange(120)}, "time", "milliseconds"),
        ({"time": DT * np.arange(119)}, "time", "119 stamps for 120 frames"),
        ({"time": DT * np.r_[0:60, 90:150]}, "frame 60", "gap of 0.310 s"),
        ({"driven_index": np.array([0, 9])}, "driven_index", "9"),
        ({"driven_index": np.array([0.5])}, "driven_index", "0.5"),
        ({"driven_index": None}, "rope.npz", "which points are driven"),
        ({"driven": swinging_rope()[:, :2]}, "rope.npz", "both driven and driven_index"),
        ({"pionts": np.zeros(3)}, "rope.npz", "unknown array 'pionts'"),
    ],
)
def test_bad_generic_input_is_refused(tmp_path: Path, changes, where, what) -> None:
    with pytest.raises(DataError, match=what) as caught:
        load_recordings(write(tmp_path / "rope.npz", **changes))
    assert where in caught.value.where


def test_too_few_frames_are_refused(tmp_path: Path) -> None:
    points = swinging_rope()[:2]
    path = write(
        tmp_path / "rope.npz", points=points, time=np.array([0, DT]), visible=np.ones((2, 9), bool)
    )
    with pytest.raises(DataError, match="2 frames"):
        load_recordings(path)


def test_rest_pose_must_cover_appended_points(tmp_path: Path) -> None:
    points = swinging_rope()
    path = write(
        tmp_path / "rope.npz", driven_index=None, driven=points[:, :2] + 0.1, rest=points[0]
    )
    with pytest.raises(DataError, match="2 driven points are appended"):
        load_recordings(path)


def test_truncated_clips_are_refused(tmp_path: Path) -> None:
    path = write_clips(tmp_path / "A_train.npz", swinging_rope()[None])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"\.npz archive, or the end of it is missing"):
        load_recordings(path)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"dt": np.float32(0.0)}, "dt"),
        ({"dt": np.zeros(3)}, "dt"),
        ({"driven": np.array([[0]])}, "driven"),
        ({"driven": np.array([99])}, "driven_index"),
        ({"clip_ids": np.arange(5)}, "clip_ids"),
        ({"rest_shape": np.zeros((4, 3))}, "rest_shape"),
        ({"positions": swinging_rope().astype(np.float32)}, "positions"),
    ],
)
def test_bad_clips_are_refused(tmp_path: Path, changes, where) -> None:
    path = write_clips(tmp_path / "A_train.npz", swinging_rope()[None], **changes)
    with pytest.raises(DataError) as caught:
        load_recordings(path)
    assert where in caught.value.where


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_missing_free_samples_are_masked_with_a_warning(tmp_path: Path, value: float) -> None:
    path = write(tmp_path / "rope.npz", points=with_sample(7, 3, value))
    with pytest.warns(PhysGymWarning, match="1 samples .* frame 7, node 3; masked"):
        (tracks,) = load_recordings(path)
    assert np.argwhere(~tracks.visible).tolist() == [[7, 3]]


def test_a_driven_point_that_never_moves_is_warned_of(tmp_path: Path) -> None:
    points = swinging_rope()
    points[:, 0] = points[0, 0]
    with pytest.warns(PhysGymWarning, match=r"driven nodes \[0\] never move"):
        load_recordings(write(tmp_path / "rope.npz", points=points))


def test_dropped_frames_are_resampled_and_free_points_masked_there(tmp_path: Path) -> None:
    points = swinging_rope()
    kept = np.delete(np.arange(120), [50, 51])
    path = write(
        tmp_path / "rope.npz",
        points=points[kept],
        time=DT * kept,
        visible=np.ones((118, 9), bool),
    )
    with pytest.warns(PhysGymWarning, match="stamps are uneven"):
        (tracks,) = load_recordings(path)
    assert tracks.frame_count == 120
    assert tracks.dt_s == pytest.approx(DT)
    hidden = np.argwhere(~tracks.visible)
    assert set(hidden[:, 0].tolist()) == {50, 51}
    assert set(hidden[:, 1].tolist()) == set(range(1, 8))
    # A straight line over 30 ms errs by at most a t^2 / 8; the ends move at under 40 m/s^2.
    assert np.abs(tracks.driven - points[:, [0, 8]]).max() < 40.0 * 0.03**2 / 8.0
    assert np.allclose(tracks.position[60], points[60], atol=1e-6)  # float32 of about 1 m


def test_small_jitter_is_taken_as_even(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    time = DT * (np.arange(120) + rng.uniform(-0.005, 0.005, 120))
    (tracks,) = quiet(write(tmp_path / "rope.npz", time=time))
    assert np.array_equal(tracks.position, swinging_rope().astype(np.float32))


def test_exchanged_free_markers_are_masked(tmp_path: Path) -> None:
    points = swinging_rope()
    points[40:70, [3, 4]] = points[40:70, [4, 3]]
    with pytest.warns(PhysGymWarning, match="nodes 3 and 4 are exchanged in frames 40-69; masked"):
        (tracks,) = load_recordings(write(tmp_path / "rope.npz", points=points))
    expected = np.ones((120, 9), bool)
    expected[40:70, [3, 4]] = False
    assert np.array_equal(tracks.visible, expected)


def test_exchanged_driven_marker_is_put_back(tmp_path: Path) -> None:
    points = swinging_rope()
    points[40:70, [7, 8]] = points[40:70, [8, 7]]
    with pytest.warns(
        PhysGymWarning, match="nodes 7 and 8 are exchanged in frames 40-69; put back"
    ):
        (tracks,) = load_recordings(write(tmp_path / "rope.npz", points=points))
    assert np.array_equal(tracks.driven, swinging_rope()[:, [0, 8]].astype(np.float32))
    assert not tracks.visible[40:70, 7].any()


def test_spikes_are_masked_or_bridged(tmp_path: Path) -> None:
    points = swinging_rope()
    points[60, 4, 2] += 0.03
    points[80:82, 0, 0] -= 0.03
    with pytest.warns(PhysGymWarning) as caught:
        (tracks,) = load_recordings(write(tmp_path / "rope.npz", points=points))
    texts = " ".join(str(entry.message) for entry in caught)
    assert "node 4 jumps away and back in frame 60; masked" in texts
    assert "node 0 jumps away and back in frames 80-81; interpolated" in texts
    assert np.argwhere(~tracks.visible).tolist() == [[60, 4]]
    # Bridged over 30 ms of a motion under 40 m/s^2: a t^2 / 8.
    assert np.abs(tracks.driven - swinging_rope()[:, [0, 8]]).max() < 40.0 * 0.03**2 / 8.0


def test_lost_frames_under_an_even_clock_are_warned_of(tmp_path: Path) -> None:
    points = np.delete(swinging_rope(126), np.arange(60, 66), axis=0)
    with pytest.warns(PhysGymWarning, match="jumps ahead at frame 60: about [567] frames"):
        (tracks,) = load_recordings(write(tmp_path / "rope.npz", points=points))
    assert tracks.visible.all()


@needs_data
@pytest.mark.parametrize(("cable", "nodes"), [("DLO1", 13), ("DLO2", 12)])
def test_recorded_cables_load(cable: str, nodes: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhysGymWarning)
        train = load_recordings(SHARED / f"{cable}_train.npz", "train")
        held_out = load_recordings(SHARED / f"{cable}_eval.npz", "eval")
    assert (len(train), len(held_out)) == (56, 14)
    for tracks in train + held_out:
        assert (tracks.frame_count, tracks.node_count) == (500, nodes)
        assert tracks.driven_index.tolist() == [0, 1, nodes - 2, nodes - 1]
        assert tracks.dt_s == pytest.approx(0.01, rel=1e-12)
    # The data's README counts a handful of defects: masking must stay as rare as they are.
    hidden = sum(int((~tracks.visible).sum()) for tracks in train + held_out)
    assert hidden < 100


@needs_data
def test_recorded_exchange_of_end_markers_is_put_back() -> None:
    raw = read_clips(SHARED / "DLO1_train.npz")
    usual = np.median(np.linalg.norm(np.diff(raw.positions, axis=2), axis=-1), axis=(0, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train = load_recordings(SHARED / "DLO1_train.npz")
    texts = " ".join(str(entry.message) for entry in caught)
    assert "nodes 11 and 12 are exchanged in frames 0-499; put back" in texts
    for clip in (28, 29):
        before = np.linalg.norm(np.diff(raw.positions[clip], axis=1), axis=-1)[:, 10] - usual[10]
        after = np.linalg.norm(np.diff(train[clip].position, axis=1), axis=-1)[:, 10] - usual[10]
        # The README names an edge that is off by more than 20 mm for a while.
        assert before.max() > 0.02
        # A bent cable's chord may be shorter; longer only by noise and stretch, a few mm.
        assert np.nanmax(after) < 0.01
