"""Episodes on disk: what is perceived of them, what is missing, and what is kept."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from perception_scene import camera_at, film, lifted_ball, truth_error

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.episode import Episode, EpisodeWriter
from recon.perception.episode_views import FrameBlocks, episode_views
from recon.perception.perceive import PerceiveConfig
from recon.perception.perceive_episode import (
    cache_path,
    cached_perception,
    episode_fingerprint,
    perceive_episode,
)
from recon.perception.recorded import JAW_HALF_M, recorded_grippers
from recon.perception.result import Perception
from recon.tracks import PhysGymWarning

FRAMES = 8
DT = 1 / 30
CAMERAS = [
    camera_at([0.45, -0.1, 0.35], [0, 0, 0.07], name="front"),
    camera_at([0.2, 0.42, 0.35], [0, 0, 0.07], name="side"),
]
BALL = lifted_ball(FRAMES)
FILMS = {camera.name: film(camera, BALL, noise=True) for camera in CAMERAS}
CONFIG = PerceiveConfig(kind="volume")
METADATA = {
    "grippers": [{"jaw_half_m": [0.02, 0.03, 0.015]}],
    "plates": {"3": {"half_m": [0.1] * 3}},
}


def record(
    path: Path,
    *,
    cameras: tuple[PinholeCamera, ...] = tuple(CAMERAS),
    no_depth: tuple[str, ...] = (),
    zero_depth: tuple[str, ...] = (),
    skip: Mapping[str, tuple[int, ...]] | None = None,
    masks: Mapping[tuple[str, str], tuple[int, ...]] | None = None,
    motion: bool = True,
    metadata: Mapping[str, Any] = METADATA,
) -> Path:
    """The lifted ball. ``masks`` tells which frames of which camera have which label's mask."""
    with EpisodeWriter(path, cameras, metadata=metadata) as writer:
        for t in range(FRAMES):
            stamp = 100.0 + t * DT
            for late, camera in enumerate(cameras):
                view, owners = FILMS[camera.name]
                if t in (skip or {}).get(camera.name, ()):
                    continue
                depth = None if camera.name in no_depth else view.depth_m[t]
                if camera.name in zero_depth:
                    depth = np.zeros_like(view.depth_m[t])
                writer.write_frame(camera.name, stamp + 1e-3 * late, view.rgb[t], depth)
                for (name, label), frames in (masks or {}).items():
                    if name == camera.name and t in frames:
                        mask = owners[t] == 0
                        writer.write_mask(name, stamp + 1e-3 * late, label, mask)
            if motion:
                place = BALL[t][0].world(np.array([0.0, 0.0, 1.0]))
                writer.write_gripper(0, stamp, place, [1.0, 0, 0, 0], closed=t >= 2)
                writer.write_plate(3, stamp, [0.5, 0.01 * t, 0.2], [1.0, 0, 0, 0])
    return path


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("episodes") / "ball")


@pytest.fixture(scope="module")
def found(episode: Path) -> Perception:
    with Episode.open(episode) as opened:
        return perceive_episode(opened, CONFIG)


def test_an_episode_becomes_a_perception(found: Perception) -> None:
    assert found.name == "ball"
    count = found.tracked_count
    error = truth_error(
        BALL, found.tracks.position[:, :count].astype(float), found.tracks.visible[:, :count]
    )
    # A pixel is 2 mm, and the ball moves by up to 7 of them a frame; depth noise is 0.5 mm.
    assert np.median(error) < 2e-3
    # The cameras' stamps are a millisecond apart; a frameset has their mean.
    np.testing.assert_allclose(found.time_s, np.arange(FRAMES) * DT + 5e-4, atol=1e-6)
    assert [camera.name for camera in found.cameras] == ["front", "side"]
    assert found.report["dropped_frames"] == {"front": 0, "side": 0}


def test_recorded_motion_is_brought_to_the_framesets_stamps(found: Perception) -> None:
    gripper, plate = found.grippers
    truth = np.array([bodies[0].world(np.array([0.0, 0.0, 1.0])) for bodies in BALL])
    late = 5e-4 / DT  # of a frame: the framesets' mean stamp lies so far after the poses'
    between = truth + late * np.diff(truth, axis=0, append=truth[-1:])
    np.testing.assert_allclose(gripper.T_world_gripper[:, :3, 3], between, atol=1e-6)
    assert gripper.closed.tolist() == [t >= 2 for t in range(FRAMES)]
    assert gripper.jaw_half_m == (0.02, 0.03, 0.015)
    assert plate.closed.all()
    assert plate.jaw_half_m == (0.1, 0.1, 0.1)
    moved = np.arange(FRAMES - 1) * 0.01 + 0.01 * late
    np.testing.assert_allclose(plate.T_world_gripper[:-1, 1, 3], moved, atol=1e-6)


def test_sizes_gravity_and_states_that_nobody_recorded(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "a", CAMERAS[:1], metadata={"gravity": [0, 0.0, -1.6]}) as writer:
        for t in range(4):
            view = FILMS["front"][0]
            writer.write_frame("front", t * DT, view.rgb[0], view.depth_m[0])
        writer.write_gripper(0, 0.0, [0, 0, 0.5], [1.0, 0, 0, 0])
        writer.write_gripper(0, 0.02, [0, 0, 0.5], [1.0, 0, 0, 0])
    with Episode.open(tmp_path / "a") as opened:
        with pytest.warns(PhysGymWarning, match="is not recorded: it counts as open"):
            (gripper,) = recorded_grippers(opened, np.arange(4) * DT)
        assert not gripper.closed.any()
        assert gripper.jaw_half_m == JAW_HALF_M
        with pytest.warns(PhysGymWarning, match="only: outside"):
            recorded_grippers(opened, np.arange(10) * DT)
        found = perceive_episode(opened, CONFIG)
        assert found.tracks.gravity.tolist() == [0, 0, -1.6]
        opened.metadata["grippers"] = [{"jaw_half_m": "wide"}]
        with pytest.raises(DataError, match=r"grippers\[0\].jaw_half_m"):
            recorded_grippers(opened, np.arange(4) * DT)


def test_recorded_masks_are_taken_as_they_are(tmp_path: Path) -> None:
    every = tuple(range(FRAMES))
    path = record(tmp_path / "a", masks={("front", "object"): every, ("side", "object"): every})
    with Episode.open(path) as opened:
        found = perceive_episode(opened, CONFIG)
    assert found.masks is not None
    for c, camera in enumerate(CAMERAS):
        truth = [owner == 0 for owner in FILMS[camera.name][1]]
        np.testing.assert_array_equal(found.masks[c], truth)


def test_recorded_masks_of_the_background_are_refused(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "a", CAMERAS) as writer:
        for t in range(3):
            for camera in CAMERAS:
                view, owners = FILMS[camera.name]
                writer.write_frame(camera.name, t * DT, view.rgb[t], view.depth_m[t])
                writer.write_mask(camera.name, t * DT, "object", owners[t] != 0)
    with (
        Episode.open(tmp_path / "a") as opened,
        pytest.raises(DataError, match=r"fill the first image: 9\d% of front, 9\d% of side"),
    ):
        perceive_episode(opened, CONFIG)


def test_a_camera_without_recorded_masks_gets_them_from_the_other(tmp_path: Path) -> None:
    path = record(tmp_path / "a", masks={("front", "object"): tuple(range(FRAMES))})
    with Episode.open(path) as opened:
        found = perceive_episode(opened, CONFIG)
    assert found.masks is not None
    np.testing.assert_array_equal(found.masks[0], [o == 0 for o in FILMS["front"][1]])
    truth = FILMS["side"][1][-1] == 0
    assert (found.masks[1, -1] & truth).sum() > 0.85 * truth.sum()
    # Masks that break off are followed from the first one.
    path = record(tmp_path / "b", masks={("front", "object"): (0, 1, 2)})
    with Episode.open(path) as opened, pytest.warns(PhysGymWarning, match="missing from frame 3"):
        found = perceive_episode(opened, CONFIG)
    assert found.masks is not None
    truth = FILMS["front"][1][-1] == 0
    assert (found.masks[0, -1] & truth).sum() > 0.85 * truth.sum()


def test_a_hand_mask_is_followed_and_blocks(tmp_path: Path) -> None:
    every = tuple(range(FRAMES))
    path = record(
        tmp_path / "a",
        motion=False,
        masks={("front", "object"): every, ("front", "left_hand"): every},
    )
    with Episode.open(path) as opened:
        found = perceive_episode(opened, CONFIG)
    assert len(found.hands) == 1
    assert found.hands[0].shape[0] == FRAMES
    assert found.grippers == ()


def test_a_part_of_an_episode(episode: Path) -> None:
    with Episode.open(episode) as opened:
        part = perceive_episode(opened, CONFIG, start_s=0.05, stop_s=0.2)
        # Frames 2 to 5: 0.067 s to 0.167 s.
        np.testing.assert_allclose(part.time_s, np.arange(2, 6) * DT + 5e-4, atol=1e-6)
        assert part.grippers[0].closed.all()
        with pytest.raises(DataError, match="none from 5"):
            perceive_episode(opened, CONFIG, start_s=5.0)


def test_one_camera_works(tmp_path: Path) -> None:
    path = record(tmp_path / "a", cameras=(CAMERAS[0],))
    with Episode.open(path) as opened:
        found = perceive_episode(opened, CONFIG)
    assert len(found.cameras) == 1
    assert found.tracked_count > 30


@pytest.mark.parametrize("how", ["no_depth", "zero_depth"])
def test_a_camera_without_depth_is_left_out(how: str, tmp_path: Path) -> None:
    path = record(tmp_path / "a", **{how: ("side",)})
    with Episode.open(path) as opened, pytest.warns(PhysGymWarning, match="no depth in frame 0"):
        found = perceive_episode(opened, CONFIG)
    assert [camera.name for camera in found.cameras] == ["front"]
    path = record(tmp_path / "b", **{how: ("side", "front")})
    with Episode.open(path) as opened, pytest.raises(DataError, match="no camera measured depth"):
        perceive_episode(opened, CONFIG)


def test_cameras_with_different_frame_counts(tmp_path: Path) -> None:
    path = record(tmp_path / "a", skip={"side": (3, 4)})
    with Episode.open(path) as opened, pytest.warns(PhysGymWarning, match="2 of 8 of front"):
        found = perceive_episode(opened, CONFIG)
    kept = np.array([0, 1, 2, 5, 6, 7])
    np.testing.assert_allclose(found.time_s, kept * DT + 5e-4, atol=1e-6)
    assert found.report["dropped_frames"] == {"front": 2, "side": 0}
    top = np.array([BALL[t][0].world(np.array([0.0, 0.0, 1.0]))[2] for t in kept])
    # The stamps are uneven and so are the poses: at most half a millisecond of motion apart.
    np.testing.assert_allclose(found.grippers[0].T_world_gripper[:, 2, 3], top, atol=5e-4)


def test_no_object_is_an_error_and_one_that_leaves_a_warning(tmp_path: Path) -> None:
    for name, shift in (("none", 5.0), ("leaves", 0.11)):
        balls = [
            [type(b)(b.linear, b.centre + np.array([0, shift * t + (name == "none"), 0]))]
            for t, (b,) in enumerate([BALL[0]] * 6)
        ]
        view, _ = film(CAMERAS[0], balls)
        with EpisodeWriter(tmp_path / name, CAMERAS[:1]) as writer:
            for t in range(6):
                writer.write_frame("front", t * DT, view.rgb[t], view.depth_m[t])
    with (
        Episode.open(tmp_path / "none") as opened,
        pytest.raises(DataError, match="nothing stands"),
    ):
        perceive_episode(opened, CONFIG)
    with (
        Episode.open(tmp_path / "leaves") as opened,
        pytest.warns(PhysGymWarning, match="no camera sees the object in frames . to 5"),
    ):
        found = perceive_episode(opened, CONFIG)
    assert len(found.clouds[5]) == 0
    assert not found.tracks.visible[5].any()


def test_long_recordings_are_decoded_in_blocks(episode: Path) -> None:
    with Episode.open(episode) as opened:
        sets = opened.synchronized()
        (lazy,) = episode_views(opened, ["side"], sets.index[:, 1:], memory_bytes=0)
        (kept,) = episode_views(opened, ["side"], sets.index[:, 1:])
        for t in (0, FRAMES - 1, 3):
            truth = opened.frame("side", t)
            np.testing.assert_array_equal(lazy.rgb[t], truth.rgb)
            np.testing.assert_array_equal(kept.depth_m[t], truth.depth_m)
        numbers = np.array([0, 2, 3, 7])
        blocks = FrameBlocks(opened, "side", numbers)
        stamps = [blocks.frame(t).stamp_s for t in range(-4, 4)]
        np.testing.assert_allclose(stamps[4:], numbers * DT + 1e-3, atol=1e-6)
        assert stamps[:4] == stamps[4:]
        assert blocks.decoded == 8  # all in one block, decoded once
        with pytest.raises(IndexError):
            blocks.frame(4)


def test_perceiving_happens_once(tmp_path: Path) -> None:
    path = record(tmp_path / "a")
    calls: list[str] = []

    def told(stage: str, share: float) -> None:
        assert 0 <= share <= 1
        calls.append(stage)

    first = cached_perception(path, CONFIG, on_progress=told)
    stages = len(calls)
    assert stages > 3
    assert cache_path(path) == tmp_path / "a.perception.npz"
    assert first.tracks.source_sha256 == episode_fingerprint(path)
    again = cached_perception(path, CONFIG, on_progress=told)
    assert len(calls) == stages
    np.testing.assert_array_equal(again.tracks.position, first.tracks.position)
    # Other settings, another span, a changed recording, an order to: each perceives again.
    cached_perception(path, PerceiveConfig(kind="volume", spacing_m=0.01), on_progress=told)
    assert len(calls) == 2 * stages
    cached_perception(path, CONFIG, stop_s=0.1, on_progress=told)
    assert len(calls) == 3 * stages
    cached_perception(path, CONFIG, stop_s=0.1, refresh=True, on_progress=told)
    assert len(calls) == 4 * stages
    sidecar = path / "physgym.json"
    content = json.loads(sidecar.read_text())
    content["metadata"]["gravity"] = [0, 0, -1.0]
    sidecar.write_text(json.dumps(content))
    os.utime(sidecar, ns=(1, 1))
    changed = cached_perception(path, CONFIG, stop_s=0.1, on_progress=told)
    assert len(calls) == 5 * stages
    assert changed.tracks.gravity[2] == -1.0


def test_a_damaged_or_unwritable_cache_is_only_warned_of(tmp_path: Path) -> None:
    path = record(tmp_path / "a", cameras=(CAMERAS[0],))
    cache_path(path).write_bytes(b"half a file")
    with pytest.warns(PhysGymWarning, match="cannot be used"):
        cached_perception(path, CONFIG, stop_s=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached_perception(path, CONFIG, stop_s=0.1)
    cache_path(path).unlink()
    cache_path(path).mkdir()  # nobody can write a file of that name, not even root
    with pytest.warns(PhysGymWarning, match="cannot be kept"):
        found = cached_perception(path, CONFIG, stop_s=0.1)
    assert found.tracked_count > 10
    with pytest.raises(DataError, match="no such recording"):
        cached_perception(tmp_path / "nothing")
