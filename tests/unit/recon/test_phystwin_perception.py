"""Processed PhysTwin cases: what is perceived of them, and twins made and scored from them."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from episode_fit_cases import FPS, block, lifting_gripper, perceived, true_twin

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts
from physgym.twin import Twin
from recon.commands import Reconstruct
from recon.identify import episode_fit
from recon.identify.even_clock import even_clock
from recon.identify.handling import handling_of
from recon.importers.phystwin_perception import case_occluders, case_perception, case_truth
from recon.importers.world_axis import TURN_Z_DOWN
from recon.perception.perceive_episode import cached_perception
from recon.reconstruct import is_episode
from recon.score_commands import score_recording
from recon.simulate_commands import Simulate
from recon.tracks import PhysGymWarning

FRAMES = 30
DOWN = TURN_Z_DOWN[:3, :3]
WIDTH, HEIGHT = 64, 48


@pytest.fixture(scope="module")
def lifted() -> tuple[Any, np.ndarray, np.ndarray]:
    """A lifted block: perception, control points that hold it (T, K, 3), true nodes (T, N, 3)."""
    nodes, surface = block(5, 3, 2)
    twin = true_twin(nodes, stiffness_n=1.0)
    found, moved = perceived(twin, lifting_gripper(nodes, FRAMES, closes=0), surface=surface)
    (grip,), _, _ = handling_of(found, even_clock(found.time_s), moved[0].astype(float))
    return found, np.asarray(grip.position), moved


def content_of(lifted: Any, **changes: Any) -> dict[str, Any]:
    """The arrays of ``final_data.pkl``, z down: what was not tracked is the shape prior."""
    found, driven, _ = lifted
    count, surface = found.tracked_count, found.surface_count
    points = np.nan_to_num(found.tracks.position[:, :count]).astype(float)
    seen = np.array(found.tracks.visible[:, :count])
    valid = np.zeros_like(seen)
    valid[:-1] = seen[:-1] & seen[1:]
    valid[6, 3] = False
    rest = np.asarray(found.tracks.rest_position, float)
    return {
        "object_points": points @ DOWN,
        "object_colors": np.full(points.shape, 0.5),
        "object_visibilities": seen,
        "object_motions_valid": valid,
        "controller_points": driven @ DOWN,
        "surface_points": rest[count:surface] @ DOWN,
        "interior_points": rest[surface:] @ DOWN,
    } | changes


def looking_down() -> PinholeCamera:
    K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
    T = T_from_parts(np.diag([1.0, -1.0, -1.0]), [0.04, 0.02, 0.4])
    return PinholeCamera("cam0", "7", WIDTH, HEIGHT, K, T)


def write_case(folder: Path, content: dict[str, Any], **metadata: Any) -> Path:
    """The case alone: no cameras unless ``metadata`` tells them."""
    folder.mkdir(parents=True)
    (folder / "final_data.pkl").write_bytes(pickle.dumps(content))
    (folder / "metadata.json").write_text(json.dumps({"fps": FPS, **metadata}))
    return folder


def write_filmed_case(folder: Path, lifted: Any) -> Path:
    """With a camera, masks of object and hand, and tracks that people annotated."""
    camera = looking_down()
    case = write_case(
        folder, content_of(lifted), intrinsics=[camera.K.tolist()], WH=[WIDTH, HEIGHT]
    )
    (case / "calibrate.pkl").write_bytes(pickle.dumps([TURN_Z_DOWN @ camera.T_world_cam]))
    truth = np.array(lifted[2][:, :9], float) @ DOWN
    truth[4, 2] = np.nan
    (case / "gt_track_3d.pkl").write_bytes(pickle.dumps(truth))
    (case / "mask").mkdir()
    (case / "mask" / "mask_info_0.json").write_text('{"0": "foam", "1": "hand"}')
    for t, nodes in enumerate(lifted[2]):
        pixels = np.round(camera.project(nodes)[0]).astype(int).clip(0, [WIDTH - 1, HEIGHT - 1])
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[pixels[:, 1], pixels[:, 0]] = 255
        mask = cv2.dilate(mask, np.ones((5, 5), np.uint8))
        for identity, own in (("0", mask), ("1", np.roll(mask, 2, axis=1))):
            place = case / "mask" / "0" / identity / f"{t}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place), own)
    return case


@pytest.mark.parametrize("z_down", [True, False])
def test_a_case_becomes_a_perception_with_z_up(tmp_path: Path, lifted: Any, z_down: bool) -> None:
    content = content_of(lifted)
    meant = content_of(lifted)
    if not z_down:
        for key in ("object_points", "controller_points", "surface_points", "interior_points"):
            content[key] = content[key] @ DOWN
    path = write_case(tmp_path / "foam", content)
    found = case_perception(path, kind="volume")
    source = lifted[0]
    assert found.name == "foam"
    assert (found.tracked_count, found.surface_count) == (
        source.tracked_count,
        source.surface_count,
    )
    # float32 metres of about 0.1
    assert np.allclose(found.tracks.rest_position, source.tracks.rest_position, atol=1e-8)
    assert found.table is not None
    assert found.table.height(np.array([0.3, 0.2, 0.1])) == pytest.approx(0.1)
    seen, valid = meant["object_visibilities"], meant["object_motions_valid"]
    counts = seen.copy()
    counts[1:] &= valid[:-1]
    assert np.array_equal(found.tracks.visible[:, : found.tracked_count], counts)
    assert not counts[7, 3]
    assert counts[0].all()
    assert not found.tracks.visible[:, found.tracked_count :].any()
    for t, cloud in enumerate(found.clouds):
        assert np.allclose(cloud, meant["object_points"][t, seen[t]] @ DOWN, atol=1e-8)
    (hand,) = found.hands
    assert np.allclose(hand, lifted[1], atol=1e-8)
    assert (found.cameras, found.masks) == ((), None)
    assert len(found.tracks.source_sha256) == 64


def test_two_hands_are_told_apart(tmp_path: Path, lifted: Any) -> None:
    driven = lifted[1]
    both = np.concatenate([driven, driven + np.array([0.25, 0, 0])], axis=1)
    path = write_case(tmp_path / "a", content_of(lifted, controller_points=both @ DOWN))
    hands = case_perception(path, kind="volume").hands
    assert [hand.shape for hand in hands] == [driven.shape] * 2
    assert np.allclose(hands[1] - hands[0], [0.25, 0, 0], atol=1e-7)


def test_without_a_shape_prior_the_object_is_completed(tmp_path: Path) -> None:
    grid = np.stack(np.meshgrid(np.arange(24), np.arange(20)), -1).reshape(-1, 2) * 0.005
    start = np.concatenate([grid, np.full((len(grid), 1), 0.002)], axis=1)
    hole = np.linalg.norm(start[:, :2] - 0.05, axis=1) < 0.012
    start = start[~hole]
    points = np.tile(start, (5, 1, 1))
    content = {
        "object_points": points @ DOWN,
        "object_visibilities": np.ones(points.shape[:2]),
        "object_motions_valid": np.ones(points.shape[:2]),
        "controller_points": (points[:, :4] + [0, 0, 0.01]) @ DOWN,
        "surface_points": np.zeros((0, 3)),
        "interior_points": None,
    }
    with pytest.warns(PhysGymWarning, match="looks like a sheet"):
        found = case_perception(write_case(tmp_path / "cloth", content))
    assert found.kind == "sheet"
    assert found.tracked_count == len(start)
    rest = np.asarray(found.tracks.rest_position)
    filled = rest[found.tracked_count :]
    assert len(filled) > 5  # the hole is 24 mm wide, points 5 mm apart
    # Only in the hole, less one spacing about it.
    assert np.linalg.norm(filled[:, :2] - 0.05, axis=1).max() < 0.017
    assert np.abs(filled[:, 2] - 0.002).max() < 1e-3


def test_points_that_frame_0_does_not_show_count_in_clouds(tmp_path: Path, lifted: Any) -> None:
    content = content_of(lifted)
    content["object_visibilities"][0, :2] = False
    path = write_case(tmp_path / "a", content)
    with pytest.warns(PhysGymWarning, match="2 of 15 points not seen"):
        found = case_perception(path, kind="volume")
    assert found.tracked_count == lifted[0].tracked_count - 2
    assert [len(c) for c in found.clouds] == content["object_visibilities"].sum(axis=1).tolist()
    content["object_visibilities"][0, :10] = False
    path = write_case(tmp_path / "b", content)
    with pytest.raises(DataError, match="5 of 15 points seen"):
        case_perception(path, kind="volume")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("object_points", None, "object_points"),
        ("object_visibilities", None, "object_visibilities"),
        ("object_motions_valid", None, "object_motions_valid"),
        ("controller_points", None, "controller_points"),
        ("object_points", np.zeros((30, 15)), r"shape \(30, 15\)"),
        ("object_visibilities", np.ones((29, 15)), r"shape \(29, 15\)"),
        ("object_motions_valid", np.ones((30, 14)), r"shape \(30, 14\)"),
        ("controller_points", np.zeros((31, 30, 3)), r"shape \(31, 30, 3\)"),
        ("controller_points", np.full((30, 3, 3), np.nan), "known always"),
        ("surface_points", np.ones((4, 2)), r"shape \(4, 2\)"),
        ("interior_points", np.full((4, 3), np.inf), "not finite"),
    ],
)
def test_arrays_that_are_wrong_are_named(
    tmp_path: Path, lifted: Any, key: str, value: Any, message: str
) -> None:
    content = content_of(lifted, **{key: value})
    if value is None:
        del content[key]
    path = write_case(tmp_path / "bad", content)
    with pytest.raises(DataError, match=message):
        case_perception(path, kind="volume")


def test_which_way_is_up_can_be_written_into_the_case(tmp_path: Path, lifted: Any) -> None:
    content = content_of(lifted)
    content["object_points"][:, ::2, 2] *= -1
    path = write_case(tmp_path / "a", content)
    with pytest.raises(DataError, match="nothing tells whether z is up"):
        case_perception(path, kind="volume")
    up = case_perception(write_case(tmp_path / "b", content, world_z="up"), kind="volume")
    said = case_perception(path, kind="volume", world_z="up")
    assert np.array_equal(up.clouds[3], said.clouds[3])
    assert np.allclose(up.hands[0], content["controller_points"])
    path = write_case(tmp_path / "c", content, world_z="sideways")
    with pytest.raises(DataError, match="sideways"):
        case_perception(path, kind="volume")


def test_masks_and_annotated_tracks_beside_a_case(tmp_path: Path, lifted: Any) -> None:
    case = write_filmed_case(tmp_path / "foam", lifted)
    found = case_perception(case, kind="volume")
    assert np.allclose(found.cameras[0].T_world_cam, looking_down().T_world_cam, atol=1e-14)
    assert found.masks is not None
    assert found.masks.shape == (1, FRAMES, HEIGHT, WIDTH)
    hidden = case_occluders(case, found)
    assert hidden is not None
    assert hidden[0, 5].sum() == (np.roll(found.masks[0, 5], 2, axis=1) & ~found.masks[0, 5]).sum()
    assert hidden[0, 5].any()
    truth = case_truth(case, found)
    assert truth is not None
    assert np.allclose(truth.position[3], lifted[2][3, :9], atol=1e-8)
    assert np.argwhere(~truth.visible).tolist() == [[4, 2]]
    (case / "gt_track_3d.pkl").write_bytes(pickle.dumps(np.zeros((FRAMES - 1, 9, 3))))
    with pytest.raises(DataError, match=rf"\({FRAMES - 1}, 9, 3\)"):
        case_truth(case, found)


def test_what_a_case_leaves_no_room_for_is_refused(tmp_path: Path, lifted: Any) -> None:
    path = write_case(tmp_path / "a", content_of(lifted))
    with pytest.raises(DataError, match="calibration for a processed case"):
        cached_perception(path, calibration=tmp_path / "calibration.yaml")


def test_reconstruct_simulate_and_score_a_case(
    tmp_path: Path, lifted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(episode_fit._GENERATIONS, "quick", 4)
    monkeypatch.setitem(episode_fit._DESCENT_STEPS, "quick", 22)
    case = write_filmed_case(tmp_path / "foam", lifted)
    (case / "color").mkdir()  # the images of a real case lie beside it; its tracks come first
    assert is_episode(case)
    assert is_episode(case / "final_data.pkl")
    out = tmp_path / "twin"
    assert Reconstruct(case, out, mass=0.1, kind="volume", json=True).run() == 0
    twin = Twin.load(out)
    train, future = (twin.metrics["parts"][part] for part in ("train", "future"))
    # The block is lifted by 0.12 m and sways; four generations find it to millimetres.
    assert train["twin"]["track_m"] < 0.2 * train["frozen"]["track_m"]
    assert future["twin"]["chamfer_m"] < 0.2 * future["frozen"]["chamfer_m"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", PhysGymWarning)  # the twin says what the object is
        score = score_recording(twin, case).score
    assert score["train_stop"] == round(0.7 * FRAMES)
    row = score["parts"]["future"]["twin"]
    assert row["true_track_m"] < 0.2 * score["parts"]["future"]["frozen"]["true_track_m"]
    assert row["iou"] > 0.5
    assert Simulate(twin=out, out=tmp_path / "p.npz", episode=case, json=True).run() == 0
    with np.load(tmp_path / "p.npz") as predicted:
        assert predicted["points"].shape[0] == FRAMES
