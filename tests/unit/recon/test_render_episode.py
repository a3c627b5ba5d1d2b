"""A twin drawn into the cameras of its recording: figures of a right, a late and a still one."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from filmed_block import CAMERAS, FRAMES, TRAIN, H, W, filmed, recorded
from scipy.spatial.transform import Rotation

from physgym.errors import DataError, TwinError
from recon.falling import HullFall
from recon.image_metrics import psnr
from recon.image_report import image_columns, image_rows, image_section
from recon.predict_episode import predict_episode
from recon.render_episode import draw_window, render_episode
from recon.render_pictures import Beside, beside_strip, beside_video
from recon.score_commands import Score, score_recording
from recon.score_episode import rows_of
from recon.splats.perceptual import LPIPS_VARIABLE
from recon.tracks import PhysGymWarning


@pytest.fixture(scope="module")
def scene():
    return filmed()


@pytest.fixture(autouse=True)
def no_weights(monkeypatch) -> None:
    monkeypatch.delenv(LPIPS_VARIABLE, raising=False)


def test_a_right_prediction_looks_like_the_recording(scene) -> None:
    twin, seen, images, moved = scene
    score = render_episode(twin, seen, moved, images, train_stop=TRAIN)
    assert list(score["parts"]) == ["train", "future"]
    assert score["gaussians"] == len(twin.splats)
    assert "no weights" in score["lpips"]
    for part in score["parts"].values():
        own, frozen = part["twin"], part["frozen"]
        # The recording's rim is cut at alpha one half and had the table's colour behind it.
        assert own["psnr_db"] > 28
        assert own["psnr_crop_db"] > 20
        assert own["ssim"] > 0.93
        assert own["iou"] == 1.0
        assert own["lpips"] is None
        assert set(own["by_camera"]) == {one.name for one in CAMERAS}
        assert own["psnr_db"] > frozen["psnr_db"]
    # It is lifted by more than its height at the end.
    future = score["parts"]["future"]
    assert future["frozen"]["iou"] < 0.6
    assert future["twin"]["psnr_db"] > future["frozen"]["psnr_db"] + 8
    assert future["twin"]["psnr_db"] > future["rigid"]["psnr_db"] + 2
    assert future["twin"]["ssim"] > future["rigid"]["ssim"]
    # In frame 0 all three are the same picture.
    start = [score["frame0"][row]["psnr_db"] for row in ("twin", "frozen", "rigid")]
    assert start == pytest.approx([start[0]] * 3, abs=0.05)
    means = np.array(score["per_frame"]["twin"]["psnr_db"][1:TRAIN])
    assert score["parts"]["train"]["twin"]["psnr_db"] == pytest.approx(means.mean())
    json.dumps(score, allow_nan=False)


def test_a_wrong_prediction_scores_as_its_images(scene) -> None:
    """One frame late: the figure of a frame is that of whole images drawn plainly."""
    twin, seen, images, moved = scene
    late = np.concatenate([moved[:1], moved[:-1]])
    score = render_episode(twin, seen, late, images, train_stop=None)
    assert list(score["parts"]) == ["unseen"]
    t = FRAMES - 1
    from physgym.splats.follower import Follower

    cloud = Follower(twin).at(late[t])
    plain = []
    for c, camera in enumerate(CAMERAS):
        rgb, _ = draw_window(cloud, camera, (0, H, 0, W))
        truth = images[c, t] / 255 * seen.masks[c, t][..., None]
        plain.append(psnr(rgb, truth))
    # of the window alone, beyond which alpha is below 1 / 255
    assert score["per_frame"]["twin"]["psnr_db"][t] == pytest.approx(np.mean(plain), abs=0.01)
    assert score["per_frame"]["twin"]["iou"][t] < 1.0


def test_what_falls_is_drawn_where_its_points_are(scene) -> None:
    """Shifted and turned as a whole, as springs would carry flat Gaussians."""
    twin, seen, images, moved = scene
    flat = twin.splats.log_scale.expand(-1, 3) - torch.tensor([1.2, 0.0, 0.0])
    twin = twin.replace(splats=twin.splats.replace(log_scale=flat.contiguous()))

    class Turning(HullFall):
        def carry(self, points: np.ndarray) -> np.ndarray:
            turns = Rotation.from_rotvec(np.outer(np.linspace(0, 0.6, FRAMES), [0, 0.3, 1]))
            fallen = np.stack([turn.apply(points - moved[0, 0]) for turn in turns]) + moved[0, 0]
            return (super().carry(points) - points + fallen).astype(np.float32)

    fall = Turning(np.outer(np.linspace(0, 0.04, FRAMES), [0.5, 0.0, 1.0]))
    nodes = fall.carry(moved[0])
    score = render_episode(twin, seen, nodes, images, train_stop=None, fall=fall)
    assert rows_of(score) == ["twin", "frozen", "rigid", "falling"]
    part = score["parts"]["unseen"]
    for key in ("psnr_db", "ssim", "iou"):
        # float32; Gaussians that only move would be 4e-3 off
        assert part["falling"][key] == pytest.approx(part["twin"][key], rel=1e-4)
        assert part["falling"][key] > part["frozen"][key]
    rows = image_rows(score, ["psnr_db"])
    assert [row[1] for row in rows] == ["twin", "frozen", "rigid", "falling", "PhysTwin*"]


def test_hidden_pixels_and_empty_masks_do_not_count(scene) -> None:
    twin, seen, images, moved = scene
    masks = seen.masks.copy()
    masks[0, 3] = False
    masks[:, 5] = False
    ignored = np.zeros(masks.shape, bool)
    spoilt = images.copy()
    ignored[1, 4, :, W // 2 :] = True
    spoilt[1, 4, :, W // 2 :] = 255
    blind = dataclasses.replace(seen, masks=masks & ~ignored)
    score = render_episode(twin, blind, moved, spoilt, train_stop=None, ignored=ignored)
    frames = score["per_frame"]["twin"]["psnr_db"]
    assert frames[5] is None
    assert frames[3] is not None
    assert min(value for value in frames if value is not None) > 28


def test_a_distorted_camera_is_straightened_first(scene) -> None:
    twin, seen, images, moved = scene
    import cv2

    bend = np.array([-0.3, 0.1, 0.001, 0.002, 0.0])
    cameras = tuple(dataclasses.replace(one, distortion=bend) for one in CAMERAS)
    bent, masks = images.copy(), seen.masks.copy()
    for c, one in enumerate(cameras):  # where a pixel of the bent image lies in the straight one
        rays = one.pixel_rays()
        u, v = (rays[..., k] * one.K[k, k] + one.K[k, 2] for k in (0, 1))
        maps = (u.astype(np.float32), v.astype(np.float32))
        for t in (0, 1, FRAMES - 1):
            bent[c, t] = cv2.remap(images[c, t], *maps, cv2.INTER_LINEAR)
            straight = seen.masks[c, t].astype(np.float32)
            masks[c, t] = cv2.remap(straight, *maps, cv2.INTER_LINEAR) > 0.5
    score = render_episode(
        twin, dataclasses.replace(seen, cameras=cameras, masks=masks), moved, bent, train_stop=None
    )
    # interpolated twice, at 60 by 80 pixels
    for t in (0, 1, FRAMES - 1):
        assert score["per_frame"]["twin"]["iou"][t] > 0.93
        assert score["per_frame"]["twin"]["psnr_db"][t] > 24


def test_what_cannot_be_drawn_is_refused(scene) -> None:
    twin, seen, images, moved = scene
    with pytest.raises(TwinError, match="no appearance"):
        render_episode(twin.replace(splats=None), seen, moved, images, train_stop=None)
    bare = dataclasses.replace(seen, masks=None)
    with pytest.raises(DataError, match="no masks"):
        render_episode(twin, bare, moved, images, train_stop=None)
    for points, pictures in ((moved[1:], images), (moved[:, 1:], images), (moved, images[:1])):
        with pytest.raises(DataError, match="images of"):
            render_episode(twin, seen, points, pictures, train_stop=None)


def test_pictures_show_the_recording_and_the_twin(scene) -> None:
    twin, seen, images, moved = scene
    beside = Beside.of(twin, seen, moved, images)
    box = beside.box()
    photo, drawn = beside.pair(FRAMES - 1, box)
    best = [one.name for one in CAMERAS].index(beside.camera.name)
    mask = seen.masks[best, -1][box[0] : box[1], box[2] : box[3]]
    assert np.array_equal(photo, images[best, -1, box[0] : box[1], box[2] : box[3]])
    assert np.abs(photo.astype(float) - drawn)[mask].mean() < 12
    assert mask.sum() == seen.masks[best, -1].sum()
    assert beside_strip(beside, TRAIN).png.startswith(b"\x89PNG")
    assert b"ftyp" in beside_video(beside).mp4[:16]


def test_tables_name_rows_figures_and_what_is_missing(scene) -> None:
    twin, seen, images, moved = scene
    score = render_episode(twin, seen, moved, images, train_stop=TRAIN)
    columns = image_columns(score)
    assert "psnr_db" in columns
    assert "lpips" not in columns
    rows = image_rows(score, columns)
    assert [row[:2] for row in rows[:4]] == [
        ["train", "twin"], ["train", "frozen"], ["train", "rigid"], ["train", "PhysTwin*"],
    ]  # fmt: skip
    assert rows[3][2:5] == ["28.2", "0.945", "84.4"]
    page = "".join(block.render() for block in image_section(score, "images", []).blocks)
    assert "no weights" in page


def test_score_draws_a_twin_with_an_appearance(tmp_path: Path, capsys) -> None:
    twin, path = recorded(tmp_path)
    twin.save(tmp_path / "twin")
    out, page = tmp_path / "s.json", tmp_path / "s.html"
    assert Score(tmp_path / "twin", (path,), json=out, report=page).run() == 0
    told = capsys.readouterr().out
    assert "PSNR" in told
    found = json.loads(out.read_text())["episodes"][0]["images"]
    # Simulated from the same start by the same springs: the recording itself.
    assert found["parts"]["future"]["twin"]["psnr_db"] > 28
    html = page.read_text()
    assert "video/mp4" in html
    assert "PSNR crop" in html
    assert "images" not in score_recording(twin, path).score
    bare = score_recording(twin.replace(splats=None), path, images=True)
    assert "images" not in bare.score
    assert bare.images is None


def test_another_recording_is_drawn_where_the_twin_is_found_in_it(scene) -> None:
    """The same lift a hand's breadth aside: appearance goes with the nodes, not with the rest."""
    twin, seen, images, moved = scene
    shift = np.array([0.05, 0.0, 0.0])
    aside = tuple(
        dataclasses.replace(one, T_world_cam=one.T_world_cam + _column(shift)) for one in CAMERAS
    )
    other = dataclasses.replace(seen, cameras=aside)
    nodes = (moved + shift).astype(np.float32)
    score = render_episode(twin, other, nodes, images, train_stop=None)["parts"]["unseen"]
    own = render_episode(twin, seen, moved, images, train_stop=None)["parts"]["unseen"]
    for key in ("psnr_db", "ssim", "iou"):
        # float32 nodes: pixels move by 1e-4
        assert score["twin"][key] == pytest.approx(own["twin"][key], rel=1e-3)
        assert score["frozen"][key] == pytest.approx(own["frozen"][key], rel=1e-3)


def _column(shift: np.ndarray) -> np.ndarray:
    made = np.zeros((4, 4))
    made[:3, 3] = shift
    return made


def test_score_goes_on_where_images_are_missing(tmp_path: Path, monkeypatch) -> None:
    twin, path = recorded(tmp_path)

    def missing(*args, **options):
        raise DataError("no image", where="0.png")

    monkeypatch.setattr("recon.render_episode.render_episode", missing)
    with pytest.warns(PhysGymWarning, match=r"images are not compared: no image \(0\.png\)"):
        found = score_recording(twin, path, images=True, pictures=True)
    assert "images" not in found.score
    assert found.images is None
    assert found.strip is not None


def test_a_prediction_of_the_twin_is_what_was_filmed(scene) -> None:
    """The last nodes of a prediction are those that carry the appearance."""
    twin, seen, _, moved = scene
    predicted = predict_episode(twin, seen).points[:, -twin.node_count :]
    assert np.abs(predicted - moved).max() < 2e-3
