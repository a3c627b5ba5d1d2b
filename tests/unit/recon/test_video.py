"""Videos of posed images: cut, thinned, refused."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from perception_scene import camera_at, film, lifted_ball
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from video_cases import GROUND, Drop, drop

from physgym.errors import DataError
from physgym.splats.ply import save_ply
from physgym.twin import Twin
from recon.commands import Reconstruct
from recon.episode import EpisodeWriter
from recon.identify import spring_gaus_config
from recon.identify.register_scan import ScanPose
from recon.identify.video_scene import VideoScene
from recon.perception.perceive import PerceiveConfig
from recon.perception.perceive_episode import cached_perception
from recon.reconstruct import ReconstructConfig, reconstruct_episode
from recon.splats.video import make_video, posed_video
from recon.tracks import PhysGymWarning


@pytest.fixture(scope="module")
def fallen() -> Drop:
    return drop(frames=5, anchors=60)


def test_windows_follow_the_object(fallen: Drop) -> None:
    video = fallen.video()
    assert len(video) == 5
    assert video.camera_count == 3
    for t, frame in enumerate(video.frames):
        middle = fallen.means[t].numpy().mean(axis=0)[None]
        for camera, mask in zip(frame.cameras, frame.mask, strict=True):
            pixel, _ = camera.project(middle)
            # The window is the mask's with the same margin on all sides, to a pixel.
            np.testing.assert_allclose(
                pixel[0], [(camera.width - 1) / 2, (camera.height - 1) / 2], atol=4.0
            )
            assert 0.1 < float(mask.mean()) < 0.6


def test_a_smaller_video_shows_the_same(fallen: Drop) -> None:
    video = fallen.video()
    small = video.smaller(900)
    for whole, part in zip(video.frames, small.frames, strict=True):
        assert part.mask[0].numel() <= 950  # sides are rounded
        # Means of colours do not change; rays of the corners of an image neither.
        np.testing.assert_allclose(part.rgb.mean(), whole.rgb.mean(), rtol=1e-4)
        for a, b in zip(whole.cameras, part.cameras, strict=True):
            np.testing.assert_allclose(
                a.pixel_rays([[-0.5, -0.5], [a.width - 0.5, a.height - 0.5]]),
                b.pixel_rays([[-0.5, -0.5], [b.width - 0.5, b.height - 0.5]]),
                atol=1e-9,
            )
    assert video.smaller(10**6).frames[0] is video.frames[0]


def test_frames_that_show_nothing_are_left_out_with_a_warning(fallen: Drop) -> None:
    masks = [list(one) for one in fallen.masks]
    for one in masks:
        one[2] = np.zeros_like(one[2])
    masks[1][3] = np.zeros_like(masks[1][3])
    with pytest.warns(PhysGymWarning, match="4 of 15"):
        video = make_video(fallen.images, masks, fallen.cameras, fallen.time_s)
    assert video.index.tolist() == [0, 1, 3, 4]
    assert [len(frame) for frame in video.frames] == [3, 3, 2, 3]
    scene = VideoScene.plain(video)
    assert scene.tick.tolist() == [0, 1, 3, 4]


def test_a_camera_of_another_exposure_is_told(fallen: Drop) -> None:
    def made(gain: float) -> None:
        images = [list(one) for one in fallen.images]
        images[1] = [(gain * image).astype(np.uint8) for image in images[1]]
        make_video(images, fallen.masks, fallen.cameras, fallen.time_s)

    name = fallen.cameras[1].name
    with pytest.warns(PhysGymWarning, match=rf"0\.[56]\d times as bright in {name}"):
        made(0.6)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PhysGymWarning)
        made(1.0)


def test_bad_input_is_refused(fallen: Drop) -> None:
    empty = [[np.zeros_like(m) for m in one] for one in fallen.masks]
    given = (fallen.cameras, fallen.time_s)
    with pytest.raises(DataError, match="no mask"):
        make_video(fallen.images, empty, *given)
    late = [[e[0], *m[1:]] for e, m in zip(empty, fallen.masks, strict=True)]
    with pytest.raises(DataError, match="frame 0"), pytest.warns(PhysGymWarning):
        make_video(fallen.images, late, *given)
    with pytest.raises(DataError, match="2 cameras"):
        make_video(fallen.images, fallen.masks, fallen.cameras[:2], fallen.time_s)
    with pytest.raises(DataError, match="4 stamps"):
        make_video(fallen.images, fallen.masks, fallen.cameras, fallen.time_s[:4])
    small = [[image[:50] for image in one] for one in fallen.images]
    with pytest.raises(DataError, match="shape"):
        make_video(small, fallen.masks, *given)


def test_an_episode_becomes_a_video(tmp_path: Path) -> None:
    frames, ball = 5, lifted_ball(5)
    cameras = [
        camera_at([0.45, -0.1, 0.35], [0, 0, 0.07], width=160, name="front"),
        camera_at([0.2, 0.42, 0.35], [0, 0, 0.07], width=160, name="side"),
    ]
    films = {c.name: film(c, ball, noise=True) for c in cameras}
    with EpisodeWriter(tmp_path / "ball", cameras) as writer:
        for t in range(frames):
            for camera in cameras:
                view, owners = films[camera.name]
                writer.write_frame(camera.name, 100 + t / 30, view.rgb[t], view.depth_m[t])
                writer.write_mask(camera.name, 100 + t / 30, "object", owners[t] == 0)
                over = np.zeros_like(owners[t], bool)
                over[:, :64] = True
                writer.write_mask(camera.name, 100 + t / 30, "arm", over)
    found = cached_perception(tmp_path / "ball", PerceiveConfig(kind="volume"))
    video = posed_video(tmp_path / "ball", found, stop_frame=4)
    assert len(video) == 4
    assert video.camera_count == 2
    scene = VideoScene.of(found, video)
    assert scene.recorded_frames == 5
    assert scene.tick.tolist() == [0, 1, 2, 3]
    assert scene.ground is not None
    assert len(scene.surface) > 100
    owners = films["front"][1][0]
    view = video.frames[0]
    assert float(view.mask[0].sum()) == pytest.approx((owners == 0).sum(), rel=0.15)
    left = round(79.5 - view.cameras[0].K[0, 2])  # column of the image at which the window begins
    np.testing.assert_array_equal(view.known[0, 2, : 64 - left], 0.0)  # behind the arm
    np.testing.assert_array_equal(view.known[0, 2, 64 - left :], 1.0)
    assert 64 - left > 5
    other = dataclasses.replace(cameras[1], width=80, height=60)
    with pytest.raises(DataError, match=r"images of 80 x 60 and 160 x \d+ pixels"):
        posed_video(
            tmp_path / "ball", dataclasses.replace(found, masks=None, cameras=(cameras[0], other))
        )
    later = type(video)(video.frames, video.time_s + 1.0, video.index, video.name)
    with pytest.raises(DataError, match="other stamps"):
        VideoScene.of(found, later)


def test_masks_alone_give_a_hull_around_the_object(fallen: Drop) -> None:
    video = fallen.video()
    scene = VideoScene.plain(video, ground=GROUND)
    surface, inside = scene.start_points(video.frames[0], 800)
    assert len(inside) == 0
    assert 300 < len(surface) <= 800
    truth = fallen.means[0].numpy()
    # Three silhouettes leave spikes open around a box, as long as half its length.
    assert (surface > truth.min(axis=0) - 0.05).all()
    assert (surface < truth.max(axis=0) + 0.05).all()
    low, high = truth.min(axis=0) - 0.008, truth.max(axis=0) + 0.008  # two pixels
    assert np.mean(((surface > low) & (surface < high)).all(axis=1)) > 0.5
    np.testing.assert_allclose(surface.mean(axis=0), truth.mean(axis=0), atol=0.005)
    away, _ = cKDTree(surface).query(truth)
    assert away.max() < 0.02


@pytest.mark.slow
def test_an_episode_becomes_a_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, ball = 14, lifted_ball(14)
    cameras = [
        camera_at([0.45, -0.1, 0.35], [0, 0, 0.1], width=160, name="front"),
        camera_at([0.2, 0.42, 0.35], [0, 0, 0.1], width=160, name="side"),
    ]
    with EpisodeWriter(tmp_path / "ball", cameras) as writer:
        for camera in cameras:
            view, owners = film(camera, ball, noise=True)
            for t in range(frames):
                writer.write_frame(camera.name, 100 + t / 30, view.rgb[t], view.depth_m[t])
                writer.write_mask(camera.name, 100 + t / 30, "object", owners[t] == 0)
        for t in range(frames):
            place = ball[t][0].world(np.array([0.0, 0.0, 0.5]))
            writer.write_gripper(0, 100 + t / 30, place, [1.0, 0, 0, 0], closed=True)
    few: dict = {"static": 60, "velocity": 5, "appearance": 20, "dynamic": 10}
    monkeypatch.setitem(spring_gaus_config._STEPS, "quick", few)
    config = ReconstructConfig(method="spring-gaus", nodes=80, kind="volume", train_share=0.8)
    twin = reconstruct_episode(tmp_path / "ball", tmp_path / "twin", config)
    assert twin.method == "spring-gaus"
    assert twin.splats is not None
    assert twin.node_count == 80
    assert twin.provenance["train"]["train_stop_frame"] == 11
    losses = twin.provenance["held_out_loss"]
    assert losses["springs"] < losses["frozen"]
    assert not (tmp_path / "twin.run").exists()
    assert Twin.load(tmp_path / "twin").content_hash() == twin.content_hash()
    # Another device scanned the same ball, in centimetres and axes of its own.
    turn = Rotation.from_rotvec([0.3, -0.8, 1.9]).as_matrix()
    scan = ScanPose(100.0, turn, np.array([3.0, 1.0, -2.0]), np.zeros(3), 0.0, 1.0)
    save_ply(tmp_path / "scan.ply", scan.apply(twin.splats))
    command = Reconstruct(
        tmp_path / "ball", tmp_path / "scanned", method="spring-gaus", nodes=80, kind="volume",
        train="0.8", json=True, scan=tmp_path / "scan.ply", per_anchor=False,
    )  # fmt: skip
    assert command.run() == 0
    scanned = Twin.load(tmp_path / "scanned")
    assert scanned.splats is not None
    # The shell that two cameras show may be turned about the ball's middle (places are tested in
    # test_register_scan); its size says that it is back in metres, and is read from silhouettes.
    sizes = [
        float((c.mean - c.mean.mean(dim=0)).norm(dim=1).mean())
        for c in (scanned.splats, twin.splats)
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.25)
    assert scanned.provenance["log_stiffness_spread"] == 0.0


@pytest.mark.parametrize("flags", [{"per_anchor": False}, {"scan": Path("scan.ply")}])
def test_flags_of_spring_gaus_are_refused_elsewhere(tmp_path: Path, flags: dict) -> None:
    command = Reconstruct(tmp_path / "clips.npz", tmp_path / "twin", method="mosa", **flags)
    with pytest.raises(DataError, match="--scan or --no-per-anchor"):
        command.run()


def test_tracks_have_no_images_to_fit(tmp_path: Path) -> None:
    (tmp_path / "clips.npz").write_bytes(b"")
    command = Reconstruct(tmp_path / "clips.npz", tmp_path / "twin", method="spring-gaus")
    with pytest.raises(DataError, match="holds tracks"):
        command.run()
    command = Reconstruct(tmp_path / "nothing", tmp_path / "twin", method="spring-gaus")
    with pytest.raises(DataError, match="nothing is not there"):
        command.run()
