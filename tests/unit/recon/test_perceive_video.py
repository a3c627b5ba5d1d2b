"""What masks alone tell of a recording: the hull, prompts, the fall, and what is refused."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from film_cases import boxes, write_film
from mosa_video_cases import FPS, FilmedDrop, soft_box
from video_cases import GROUND

from physgym.errors import DataError
from physgym.sim.contact import GroundPlane
from recon.episode import Episode, EpisodeWriter
from recon.falling import HullFall, fall_of
from recon.perceive_video import cached_video_perception, is_video, perceive_video, records_depth
from recon.perception.result import Perception
from recon.reconstruct_video import video_scene
from recon.score_episode import score_prediction
from recon.score_source import evidence_of, prompts_of
from recon.splats.video import posed_video
from recon.tracks import PhysGymWarning
from recon.video_fall import VideoFall, above_landing

TRAIN = 14  # of 22 frames; the box touches in frame 4


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "box", soft_box(), truth=True)


@pytest.fixture(scope="module")
def seen(film: Path) -> Perception:
    return cached_video_perception(film, ground_m=0.0)


def test_the_hull_holds_the_body_and_little_else(film: Path, seen: Perception) -> None:
    assert is_video(seen)
    assert not records_depth(film)
    hull = np.asarray(seen.tracks.rest_position)
    low, high = soft_box().points[0].min(axis=0), soft_box().points[0].max(axis=0)
    # Gaussians reach 5 mm beyond their centres, masks are widened by a pixel of 2 mm, and what no
    # camera sees from above is filled: upwards by a corner's slope, downwards by far more.
    assert (hull[:, :2].min(axis=0) > low[:2] - 0.03).all()
    assert (hull[:, :2].max(axis=0) < high[:2] + 0.03).all()
    assert (hull.min(axis=0) < low + 0.005).all()
    assert (hull.max(axis=0) > high - 0.005).all()
    assert hull[:, 2].min() >= 0.0
    assert seen.tracked_count == 0
    assert not seen.tracks.visible.any()
    # Surface is what a lattice point without six neighbours is: more than a shell of a box has.
    assert 0.2 < seen.surface_count / len(hull) < 0.7
    assert [len(cloud) > 0 for cloud in seen.clouds] == [True] + [False] * 21
    assert seen.masks is not None
    assert np.array_equal(seen.masks[2, 5], soft_box().masks[2][5])


def test_first_masks_and_boxes_are_carried_on(tmp_path: Path) -> None:
    drop = soft_box()
    with (
        pytest.warns(match="missing from frame 1"),
        Episode.open(write_film(tmp_path / "a", drop, frames=6, masks=1)) as episode,
    ):
        first = perceive_video(episode)
    with Episode.open(write_film(tmp_path / "b", drop, frames=6, masks=0)) as episode:
        boxed = perceive_video(episode, prompts=prompts_of([], boxes(drop)))
        with pytest.raises(DataError, match="no mask of the object is recorded for camera0"):
            perceive_video(episode)
        with pytest.raises(DataError, match=r"'cam7'(.|\n)*camera0, camera1"):
            perceive_video(episode, prompts=prompts_of(["cam7:1,2"], []))
    for found in (first, boxed):
        assert found.masks is not None
        for c, t in ((0, 0), (1, 3), (3, 5)):
            true = drop.masks[c][t]
            # Of a body of 25 pixels the rim of one pixel is a seventh.
            assert (found.masks[c, t] & true).sum() > 0.8 * (found.masks[c, t] | true).sum()
    assert first.table is None


def test_it_is_kept_until_something_else_is_asked(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a", soft_box(), frames=6, masks=0)
    pointed = cached_video_perception(path, prompts=prompts_of([], boxes(soft_box())))
    # Without a prompt nothing could be found anew.
    again = cached_video_perception(path)
    assert np.array_equal(np.asarray(again.masks), np.asarray(pointed.masks))
    with pytest.raises(DataError, match="--box camera0"):
        cached_video_perception(path, ground_m=0.0)
    other = [box.replace(":", ":1") for box in boxes(soft_box())]
    with pytest.raises(DataError):  # another box is looked into: it is beside the object
        cached_video_perception(path, prompts=prompts_of([], other))


def refused(path: Path, why: str, **more: float) -> None:
    with Episode.open(path) as episode, pytest.raises(DataError, match=why):
        perceive_video(episode, **more)  # type: ignore[arg-type]


def first(drop: FilmedDrop) -> list[np.ndarray]:
    """The first mask of every camera."""
    return [masks[0] for masks in drop.masks]


def test_what_cannot_be_a_body_is_refused(tmp_path: Path) -> None:
    drop = soft_box()
    refused(write_film(tmp_path / "a", drop, frames=4), "below the ground", ground_m=0.5)
    one = dataclasses.replace(drop, cameras=drop.cameras[:1])
    refused(write_film(tmp_path / "b", one, frames=4), "two cameras from different sides")
    # The box is from 6 to 12 cm above the real ground.
    refused(write_film(tmp_path / "g", drop, frames=4), "good part of it", ground_m=0.085)
    nothing = [[np.zeros_like(m), *masks[1:]] for m, masks in zip(first(drop), drop.masks)]
    empty = dataclasses.replace(drop, masks=nothing)
    refused(write_film(tmp_path / "e", empty, frames=4), "no mask of camera0, camera1")
    turned = dataclasses.replace(drop, masks=[[~m for m in masks] for masks in drop.masks])
    refused(write_film(tmp_path / "i", turned, frames=4), "fill the first image(.|\n)*inverted")
    with (
        Episode.open(write_film(tmp_path / "p", drop, frames=4, masks=0)) as episode,
        pytest.raises(DataError, match=r"found no pixels(.|\n)*camera0, 96 x 72 pixels"),
    ):
        perceive_video(episode, prompts=prompts_of(["camera0:500,500"], boxes(drop)[1:]))
    # Masks of different places.
    shifted = [list(np.roll(masks, 40 * c, axis=2)) for c, masks in enumerate(drop.masks)]
    mixed = dataclasses.replace(drop, masks=shifted)
    refused(write_film(tmp_path / "c", mixed, frames=4), "of the mask of camera")
    sizes = [dataclasses.replace(drop.cameras[0], width=48, height=36), drop.cameras[1]]
    with EpisodeWriter(tmp_path / "d", sizes) as writer:
        for t in range(3):
            for camera in sizes:
                shape = (camera.height, camera.width)
                writer.write_frame(camera.name, t / 30, np.zeros((*shape, 3), np.uint8), None)
                writer.write_mask(camera.name, t / 30, "object", np.ones(shape, bool))
    refused(tmp_path / "d", "48 x 36 and 96 x 72")


def test_the_fall_is_told_by_the_masks(film: Path, seen: Perception) -> None:
    video = posed_video(film, seen, stop_frame=TRAIN)
    scene = video_scene(seen, video)
    points = np.asarray(seen.tracks.rest_position, np.float64)
    fall = VideoFall.of(video, scene, points)
    assert fall is not None
    assert fall.landing_s is not None
    # Thrown with (0.6, 0, -0.8) m/s: middles of masks of 25 pixels are good to a tenth of one, 0.2
    # mm, which is 5 mm/s over four frames; that they are no middles of the body is more.
    np.testing.assert_allclose(fall.velocity_m_per_s, [0.6, 0.0, -0.8], atol=0.08)
    assert 3 <= fall.landing_s * FPS <= 5.01
    np.testing.assert_array_equal(fall.shift(1.0), fall.shift(fall.landing_s))
    # The box is 60 mm above the ground in frame 0, and touches it in frame 4. What would be below
    # the ground in frame 2 already is not the box: 0.8 t + 4.9 t^2 = 32 mm.
    cut = above_landing(scene, video)
    assert points[:, 2].min() < 0.034 < cut.surface[:, 2].min() < 0.06
    assert len(cut.surface) + len(cut.inside) < len(points)
    assert cut.surface[:, 2].max() == points[:, 2].max()
    free = dataclasses.replace(scene, ground=None)
    assert above_landing(free, video) is free
    wrong = dataclasses.replace(scene, ground=GroundPlane(offset_m=0.09))
    with pytest.raises(DataError, match=r"below the ground in free flight(.|\n)*--ground 0.09"):
        above_landing(wrong, video)
    assert scene.ground == GROUND


def test_the_trivial_fall_beats_what_stays(film: Path, seen: Perception) -> None:
    fall = HullFall.of(film, seen, TRAIN)
    assert fall is not None
    shell = np.asarray(seen.tracks.rest_position)[seen.surface]
    with Episode.open(film) as episode:
        truth = episode.ground_truth()
    made = fall.carry(shell)
    every = np.ones(made.shape[1], bool)
    score = score_prediction(seen, made, every, train_stop=TRAIN, ground_truth=truth)
    for part in ("train", "future"):
        rows = score["parts"][part]
        assert rows["twin"]["iou"] > rows["frozen"]["iou"]
        assert rows["twin"]["true_track_m"] < rows["frozen"]["true_track_m"]
        # Nothing holds it, and nothing was measured that needs depth.
        assert rows["rigid"]["iou"] == rows["frozen"]["iou"]
        assert rows["twin"]["chamfer_m"] is None
        assert rows["twin"]["track_m"] is None
    assert score["frame0"]["frozen"]["iou"] > 0.85  # of 25 pixels a rim of half a one is 0.08
    # Frames that are predicted have no part in it.
    blind = dataclasses.replace(seen, masks=np.array(seen.masks))
    assert blind.masks is not None
    blind.masks[:, TRAIN:] = False
    same = HullFall.of(film, blind, TRAIN)
    assert same is not None
    np.testing.assert_array_equal(same.carry(shell), made)
    # Where it is cut off before it lands, the ground stops it.
    short = HullFall.of(film, seen, 4)
    assert short is not None
    assert short.carry(shell)[-1, :, 2].min() == pytest.approx(0.0, abs=1e-6)
    # Where nothing was learned from, the landing is to be predicted: the ground stops it, too.
    unseen = fall_of(film, seen, None)
    assert unseen is not None
    assert unseen.carry(shell)[-1, :, 2].min() == pytest.approx(0.0, abs=1e-6)
    assert fall_of(film, dataclasses.replace(seen, kind="sheet"), TRAIN) is None


def test_a_ground_far_below_the_landing_is_told(film: Path, seen: Perception) -> None:
    video = posed_video(film, seen, stop_frame=TRAIN)
    scene = dataclasses.replace(video_scene(seen, video), ground=GroundPlane(offset_m=-0.3))
    with pytest.warns(PhysGymWarning, match=r"stops falling freely 2\d\d mm above the ground"):
        above_landing(scene, video)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PhysGymWarning)
        above_landing(video_scene(seen, video), video)


def test_poses_in_a_calibration_file_are_enough_for_all_that_follows(tmp_path: Path) -> None:
    drop, file = soft_box(), tmp_path / "calibration.yaml"
    path = tmp_path / "film"
    with EpisodeWriter(path, drop.cameras, calibrated=False) as writer:
        for t in range(4):
            for c, camera in enumerate(drop.cameras):
                writer.write_frame(camera.name, drop.time_s[t], drop.images[c][t], None)
                writer.write_mask(camera.name, drop.time_s[t], "object", drop.masks[c][t])
    poses = {c.name: {"T_world_cam": c.T_world_cam.tolist()} for c in drop.cameras}
    file.write_text(yaml.safe_dump({"cameras": poses}))
    with pytest.raises(DataError, match=r"nothing says where(.|\n)*--calibration"):
        cached_video_perception(path)
    found = cached_video_perception(path, calibration=file)
    np.testing.assert_allclose(found.cameras[1].T_world_cam, drop.cameras[1].T_world_cam, atol=1e-6)
    # Whoever scores and draws has the perception, and asks for no pose again.
    assert evidence_of(path, found, pictures=True).strip is not None
    assert len(posed_video(path, found)) == 4
