"""Other people's cases as they really come: renamed, cut, in other units, hostile."""

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from episode_cases import DT, H, W, camera, color, depth

from physgym.errors import DataError
from recon.episode import Episode, EpisodeWriter
from recon.exporters.phystwin_case import export_case
from recon.importers import convert_episode, load_recordings
from recon.importers.phystwin_final import read_case
from recon.npz import npz_keys, read_npy, read_npz
from recon.pickles import unpickle
from recon.tracks import PhysGymWarning

FRAMES, FPS = 4, 20


def write_case(folder: Path, *, name: str = "{}", **changes: Any) -> Path:
    """A raw case of one camera without masks; a change to None leaves a field out."""
    one = camera("cam0")
    for part in ("color", "depth"):
        (folder / part / "0").mkdir(parents=True)
    for t in range(FRAMES):
        bgr = np.ascontiguousarray(color(t)[..., ::-1])
        cv2.imwrite(str(folder / "color" / "0" / f"{name.format(t)}.png"), bgr)
        deep = np.round(depth(t) * 1e3).astype(np.uint16)
        np.save(folder / "depth" / "0" / f"{name.format(t)}.npy", deep)
    # A list of lists of floats, and no arrays.
    (folder / "calibrate.pkl").write_bytes(pickle.dumps([one.T_world_cam.tolist()]))
    metadata = {"intrinsics": [one.K.tolist()], "WH": [W, H], "fps": FPS, **changes}
    kept = {key: value for key, value in metadata.items() if value is not None}
    (folder / "metadata.json").write_text(json.dumps(kept))
    return folder


def converted(case: Path, out: Path) -> Episode:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PhysGymWarning)
        return Episode.open(convert_episode(case, out))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"WH": None},  # the images tell it
        {"intrinsics": camera("x").K.tolist()},  # of the one camera
        {"name": "{:06d}"},
        {"serial_numbers": [123], "start_step": 3, "end_step": 7},
    ],
)
def test_variants_of_a_case(tmp_path: Path, changes: dict[str, Any]) -> None:
    with converted(write_case(tmp_path / "case", **changes), tmp_path / "e") as episode:
        assert episode.frame_count("cam0") == FRAMES
        assert np.array_equal(episode.cameras["cam0"].K, camera("x").K)
        assert episode.mask_labels("cam0") == ()
        for t, frame in enumerate(episode.frames("cam0")):
            assert frame.stamp_s == pytest.approx(t / FPS, abs=2e-9)  # whole nanoseconds
            assert np.array_equal(frame.rgb, color(t))


def test_masks_of_files_with_leading_zeros(tmp_path: Path) -> None:
    case = write_case(tmp_path / "case", name="{:04d}")
    (case / "mask" / "0" / "7").mkdir(parents=True)
    (case / "mask" / "mask_info_0.json").write_text('{"7": "twine"}')
    mask = np.zeros((H, W), np.uint8)
    mask[3:5, 7:11] = 255
    cv2.imwrite(str(case / "mask" / "0" / "7" / "0002.png"), mask)
    with converted(case, tmp_path / "e") as episode:
        found = episode.mask("cam0", 2)
        assert found is not None
        assert np.array_equal(found, mask > 0)
        assert episode.mask("cam0", 1) is None


def test_depth_in_metres_is_refused_and_depth_out_of_range_is_none(tmp_path: Path) -> None:
    case = write_case(tmp_path / "metres")
    np.save(case / "depth" / "0" / "1.npy", depth(1))
    with pytest.raises(DataError, match="look like metres"):
        convert_episode(case, tmp_path / "e")
    assert [path.name for path in tmp_path.iterdir()] == ["metres"]  # nothing is in the way
    case = write_case(tmp_path / "odd")
    deep = depth(1) * 1e3
    deep[10, :5] = [np.nan, np.inf, -np.inf, -3.0, 1e6]
    np.save(case / "depth" / "0" / "1.npy", deep)
    with converted(case, tmp_path / "e") as episode:
        found = episode.frame("cam0", 1).depth_m
        assert found is not None
        assert found[10, :5].tolist() == [0, 0, 0, 0, 0]
        assert found[10, 6] == pytest.approx(depth(1)[10, 6], abs=1e-3)  # cut to millimetres


def test_the_gripper_moves_on_the_clock_of_the_frames(tmp_path: Path) -> None:
    recording = {"0": {str(t): 70.0 + 0.04 * t for t in range(FRAMES)}}
    case = write_case(tmp_path / "case", recording=recording)
    np.savez(case / "gripper.npz", position=np.zeros((FRAMES, 3)))
    with converted(case, tmp_path / "e") as episode:
        assert episode.start_s == 70.0
        assert np.allclose(episode.gripper_pose(0).time_s, 0.04 * np.arange(FRAMES), atol=2e-9)
    np.savez(case / "gripper.npz", position=np.zeros((FRAMES + 1, 3)))
    with pytest.raises(DataError, match="poses without time"):
        convert_episode(case, tmp_path / "f")


def test_stamps_of_some_frames_only_do_not_mix_two_clocks(tmp_path: Path) -> None:
    case = write_case(tmp_path / "case", recording={"0": {"0": 1.7e9, "1": 1.7e9 + 0.05}})
    with pytest.warns(PhysGymWarning, match="2 frames have no stamp"):
        path = convert_episode(case, tmp_path / "e")
    with Episode.open(path) as episode:
        assert episode.duration_s == pytest.approx((FRAMES - 1) / FPS, abs=2e-9)


@pytest.mark.parametrize(
    "poses", [[], [[1, 2], [3]], {"cam0": np.eye(4)}, "text", None, [np.full((4, 4), np.nan)]]
)
def test_poses_that_are_none(tmp_path: Path, poses: Any) -> None:
    case = write_case(tmp_path / "case")
    (case / "calibrate.pkl").write_bytes(pickle.dumps(poses))
    with pytest.raises(DataError, match="list of 4 x 4 camera-to-world"):
        convert_episode(case, tmp_path / "e")


def test_a_pickle_that_unfolds_without_end_is_refused() -> None:
    bomb: list[Any] = [0.0]
    for _ in range(60):
        bomb = [bomb] * 10  # 10**60 numbers in a kilobyte
    raw = pickle.dumps(bomb)
    assert len(raw) < 3000
    with pytest.raises(DataError, match="over and over"):
        unpickle(raw, "test")
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(DataError):
        unpickle(pickle.dumps(circle), "test")
    row = [0.0, 0.0, 1.0]
    assert unpickle(pickle.dumps([row] * 1000), "test") == [row] * 1000


def test_final_data_without_a_shape_prior_and_without_frames(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0.01, 0.1, (5, 6, 3))
    content: dict[str, Any] = {
        "object_points": points,
        "object_visibilities": np.ones((5, 6)),
        "object_motions_valid": np.ones((5, 6)),
        "controller_points": points[:, :2],
        "surface_points": None,
        "interior_points": [],
    }
    file = tmp_path / "final_data.pkl"
    file.write_bytes(pickle.dumps(content))
    case = read_case(file, fps=30)
    assert case.surface_points.shape == case.interior_points.shape == (0, 3)
    assert case.colors is None
    for shape in ((0, 6), (5, 0)):
        content |= {
            "object_points": np.zeros((*shape, 3)),
            "object_visibilities": np.ones(shape),
            "object_motions_valid": np.ones(shape),
            "controller_points": np.zeros((shape[0], 2, 3)),
        }
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match="object_points"):
            read_case(file, fps=30, world_z="up")


def lying_npy() -> bytes:
    """A header that announces more than any memory holds."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
    )
    return stream.getvalue()


@pytest.mark.parametrize("content", [lying_npy(), b"", b"\x93NUMPY\x01\x00\x10\x00{'descr': (((\n"])
def test_arrays_that_lie_about_themselves(tmp_path: Path, content: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("time.npy", content)
        archive.writestr("points.npy", content)
    with pytest.raises(DataError, match="it cannot be read"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(DataError):
        load_recordings(tmp_path / "a.npz")
    assert npz_keys(tmp_path / "a.npz") == {"time", "points"}
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match="numbers of my choice"):
        read_npy(tmp_path / "a.npy", "numbers of my choice")


def write_photos(folder: Path, entry: dict[str, Any]) -> Path:
    for part in ("color", "depth"):
        (folder / "c" / part).mkdir(parents=True)
    for t in range(3):
        bgr = np.ascontiguousarray(color(t)[..., ::-1])
        cv2.imwrite(str(folder / "c" / "color" / f"{t}.png"), bgr)
        if t != 1:
            deep = np.round(depth(t) * 1e3).astype(np.int32)
            deep[20, :3] = [-5, 65536, 900]
            np.save(folder / "c" / "depth" / f"{t}.npy", deep)
    one = camera("c")
    plain = {"K": one.K.tolist(), "T_world_cam": one.T_world_cam.tolist(), **entry}
    (folder / "cameras.yaml").write_text(yaml.safe_dump({"fps": 30, "cameras": {"c": plain}}))
    return folder


def test_photos_of_another_size_than_their_intrinsics(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", {"width": 2 * W, "height": 2 * H})
    with pytest.raises(DataError, match=f"{2 * W} x {2 * H}, which K is for"):
        convert_episode(folder, tmp_path / "e")


def test_photos_without_their_depth_are_said(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", {"width": W, "height": H})
    with pytest.warns(PhysGymWarning, match="c: 1 colour or depth images have no partner"):
        path = convert_episode(folder, tmp_path / "e")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhysGymWarning)
        episode = Episode.open(path)
    with episode:
        found = episode.frame("c", 0).depth_m
        assert found is not None
        assert found[20, :3].tolist() == pytest.approx([0.0, 0.0, 0.9], abs=1e-6)  # float32


def test_exported_masks_begin_with_the_object(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "lift", [camera("c")]) as writer:
        for t in range(2):
            writer.write_frame("c", t * DT, color(t), depth(t))
            for label, row in (("hand", 3), ("object", 9)):
                mask = np.zeros((H, W), bool)
                mask[row] = True
                writer.write_mask("c", t * DT, label, mask)
    with Episode.open(tmp_path / "lift") as episode:
        case = export_case(episode, tmp_path / "case")
    listing = json.loads((case / "mask" / "mask_info_0.json").read_text())
    assert listing == {"0": "object", "1": "hand"}
    pixels = cv2.imread(str(case / "mask" / "0" / "0" / "1.png"), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    assert pixels[9].all()
    assert not pixels[3].any()
