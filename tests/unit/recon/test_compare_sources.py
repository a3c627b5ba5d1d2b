"""`physgym compare` and `physgym score` on recordings without depth, images and PhysTwin cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from compare_cases import DONE, acts
from film_cases import boxes, write_film, write_photos
from mosa_video_cases import soft_box
from test_phystwin_perception import content_of, lifted, write_case, write_filmed_case

from physgym.cli import main
from physgym.errors import DataError
from physgym.twin import Twin
from recon.compare import CompareConfig, compare, contestants_of, process
from recon.perception.result import Perception
from recon.splats.perceptual import LPIPS_VARIABLE
from recon.tracks import PhysGymWarning
from recon.unmeasured import blank_parts

__all__ = ["lifted"]  # a fixture

FRAMES, TRAIN = 16, 11
# As small as methods go: that every figure comes out is asked, not that a twin is any good.
TINY = {
    "spring-gaus": {
        "anchors": 30, "gaussians": 200, "static_steps": 40, "dynamic_steps": 2, "neighbours": 12,
        "certain": 4, "image_pixels": 3000, "motion_pixels": 800,
    },
    "mosa": {"particles": 200, "stages": ["velocity"], "young_pa": 1e4},
    "phystwin": {"substeps_per_frame": 20, "appearance": False},
}  # fmt: skip
# What no setting makes smaller.
WORKER = """
import sys
from recon.identify import episode_fit, mosa_video
mosa_video._DYNAMIC_STEPS["quick"], mosa_video._GAUSSIANS["quick"] = 30, 300
episode_fit._GENERATIONS["quick"], episode_fit._DESCENT_STEPS["quick"] = 2, 3
from recon.compare.worker import main
sys.exit(main(sys.argv[1:]))
"""


class _MeanDistance(torch.nn.Module):
    """Stands for LPIPS: mean distance, of images in -1 to 1."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().mean().reshape(1, 1, 1, 1)


def physgym(*words: object) -> int:
    """The command as it is typed."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_WORKER", ("-c", WORKER))
    monkeypatch.delenv(LPIPS_VARIABLE, raising=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_depth_images_are_enough(
    small: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    film, out = write_film(tmp_path / "box", soft_box(), frames=FRAMES, truth=True), tmp_path / "o"
    file, tiny = tmp_path / "lpips.pt", tmp_path / "tiny.json"
    tiny.write_text(json.dumps(TINY))
    torch.jit.script(_MeanDistance()).save(str(file))
    monkeypatch.setenv(LPIPS_VARIABLE, str(file))
    code = physgym(
        "compare", film, "--out", out, "--train", TRAIN, "--ground", 0, "--settings", tiny,
    )  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert code == 0, said
    result = json.loads((out / "compare.json").read_text())
    rows = {row["name"]: row for row in result["contestants"]}
    assert [row["status"] for row in rows.values()] == ["failed", "done", "done"], rows
    assert "phystwin: phystwin fits points that depth images tell" in said
    for name in ("spring-gaus", "mosa"):
        for part in ("train", "future"):
            figures = rows[name]["parts"][part]["twin"]
            for key in ("true_track_m", "iou", "image_iou", "image_psnr_db", "image_lpips"):
                assert np.isfinite(figures[key]), (name, key)
            for key in ("chamfer_m", "track_m", "emd_m", "cd2_m2"):
                assert figures[key] is None, (name, key)
        assert rows[name]["lpips"] == "measured"
        twin = Twin.load(out / name / "twin")
        assert twin.provenance["train"]["train_stop_frame"] == TRAIN
        assert twin.provenance["assumed"] == {}  # the recording notes the mass
        own = twin.metrics["parts"]["future"]
        assert (own["start"], own["stop"]) == (TRAIN, FRAMES)
        assert own["rigid"]["iou"] > own["frozen"]["iou"]
    falling, frozen = (result["baselines"][k]["future"] for k in ("falling", "frozen"))
    assert falling["true_track_m"] < frozen["true_track_m"]
    assert falling["image_iou"] > frozen["image_iou"]
    assert "LPIPS" in said
    missing = "not measured: CD, CD², EMD, track: the recording has no depth"
    assert result["notes"] == [missing]
    assert missing in said
    page = (out / "report.html").read_text()
    assert "video/mp4" in page
    assert missing in page
    monkeypatch.delenv(LPIPS_VARIABLE)
    check_score_of_itself(out / "spring-gaus" / "twin", film, rows["spring-gaus"], capsys)
    check_score_of_photos(out / "spring-gaus" / "twin", tmp_path, capsys)


def check_score_of_itself(
    twin: Path, film: Path, row: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    """By itself, without weights, a twin is scored as in the comparison."""
    score = film.with_name("score.json")
    assert physgym("score", twin, film, "--json", score, "--report", score.with_name("s.html")) == 0
    said = " ".join(capsys.readouterr().out.split())
    one = json.loads(score.read_text())["episodes"][0]
    assert one["train_stop"] == TRAIN
    future = row["parts"]["future"]["twin"]
    for key in ("true_track_m", "iou"):
        assert one["parts"]["future"]["twin"][key] == future[key]
    drawn = one["images"]["parts"]["future"]["twin"]
    assert drawn["psnr_db"] == future["image_psnr_db"]
    assert drawn["lpips"] is None
    assert "LPIPS: not measured: no weights (name a TorchScript file in PHYSGYM_LPIPS)" in said
    assert "not measured: CD, CD L1, track: the recording has no depth" in said


def check_score_of_photos(twin: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another recording of the object, of another layout: it is found in the hull, at rest."""
    photos, score = write_photos(folder / "photos", soft_box(), frames=6), folder / "unseen.json"
    flags = ("--box", *boxes(soft_box()), "--json", score)
    assert physgym("score", twin, photos, *flags) == 0
    unseen = json.loads(score.read_text())["episodes"][0]
    assert list(unseen["parts"]) == ["unseen"]
    assert unseen["frame0"]["twin"]["iou"] > 0.5
    assert "the recording does not know the true motion" in capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir() if "photos" in p.name) == ["photos"]


def test_images_in_a_folder_are_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = write_photos(tmp_path / "photos", soft_box(), frames=FRAMES), tmp_path / "out"
    one = contestants_of("mosa")
    acts(monkeypatch, DONE)
    with pytest.raises(DataError, match="--box camera0"):
        compare(photos, one, out, CompareConfig(ground_m=0.0))
    given = {"ground_m": 0.0, "box": tuple(boxes(soft_box())), "report": False}
    result = compare(photos, one, out, CompareConfig(**given))
    assert result["frames"] == FRAMES
    assert (tmp_path / "out.episode" / "photos" / "metadata.yaml").is_file()
    told = Perception.load(out / "perception.npz")
    assert told.table is not None
    assert [camera.name for camera in told.cameras] == [c.name for c in soft_box().cameras]
    # Going on needs no box again; with other ones it would be another comparison.
    again = compare(photos, one, out, CompareConfig(ground_m=0.0, report=False, resume=True))
    assert [row["status"] for row in again["contestants"]] == ["done"]
    inner = [box.rpartition(",")[0] + ",40" for box in boxes(soft_box())]  # cuts its lower part off
    with pytest.raises(DataError, match="masks_sha256"):
        compare(photos, one, out, CompareConfig(**given | {"box": tuple(inner)}, resume=True))
    (photos / "color" / "camera0" / "0.png").touch()  # converted again: the same content
    compare(photos, one, out, CompareConfig(**given | {"resume": True}))
    for camera in soft_box().cameras:
        (photos / "color" / camera.name / f"{FRAMES - 1}.png").unlink()
    (photos / "cameras.json").touch()
    with pytest.raises(DataError, match="a comparison on another recording"):
        compare(photos, one, out, CompareConfig(**given | {"resume": True}))
    with pytest.warns(PhysGymWarning, match="nothing stops what falls"):
        free = compare(photos, one, tmp_path / "free", CompareConfig(**given | {"ground_m": None}))
    assert free["notes"][-1].startswith("no height of the ground is given (--ground)")


def test_a_folder_that_is_no_recording_says_what_is_missing(tmp_path: Path) -> None:
    one = contestants_of("mosa")
    (tmp_path / "nerf" / "images").mkdir(parents=True)
    (tmp_path / "nerf" / "transforms.json").write_text("{}")
    with pytest.raises(DataError, match=r"cameras.json beside color/CAMERA"):
        compare(tmp_path / "nerf", one, tmp_path / "out")
    (tmp_path / "bare" / "color" / "cam0").mkdir(parents=True)
    with pytest.raises(DataError, match=r"K and T_world_cam of each camera"):
        compare(tmp_path / "bare", one, tmp_path / "out")
    (tmp_path / "bare" / "cameras.json").write_text("{")
    with pytest.raises(DataError, match=r"cameras.json(.|\n)*cannot be read|cannot be read"):
        compare(tmp_path / "bare", one, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_for_recordings_without_depth_is_refused_for_others(
    tmp_path: Path, lifted: tuple
) -> None:
    case, one = write_case(tmp_path / "foam", content_of(lifted)), contestants_of("phystwin")
    for flag, given in (("--ground", {"ground_m": 0.0}), ("--box", {"box": ("cam0:1,2,3,4",)})):
        with pytest.raises(DataError, match=f"{flag} for a recording with depth"):
            compare(case, one, tmp_path / "out", CompareConfig(**given))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_phystwin_case_is_compared(
    small: None, tmp_path: Path, lifted: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    case, out = write_filmed_case(tmp_path / "foam", lifted), tmp_path / "out"
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"phystwin": TINY["phystwin"]}))
    code = physgym(
        "compare", case, "--out", out, "--kind", "volume", "--settings", settings, "--mass", 0.1,
        "--emd-points", 50, "--methods", "phystwin,spring-gaus",
    )  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert code == 0, said
    result = json.loads((out / "compare.json").read_text())
    rows = {row["name"]: row for row in result["contestants"]}
    assert rows["phystwin"]["status"] == "done", rows
    figures = rows["phystwin"]["parts"]["future"]["twin"]
    for key in ("chamfer_m", "cd2_m2", "emd_m", "track_m", "true_track_m", "iou"):
        assert np.isfinite(figures[key])
    assert figures["track_m"] < result["baselines"]["frozen"]["future"]["track_m"]
    # The made case has no images: who needs them says so.
    assert rows["spring-gaus"]["status"] == "failed"
    assert "spring-gaus: no image" in said
    assert "no twin has an appearance" in said
    assert (out / "report.html").is_file()


def test_weights_that_cannot_be_used_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_film(tmp_path / "box", soft_box(), frames=6)
    monkeypatch.setenv(LPIPS_VARIABLE, str(tmp_path / "none.pt"))
    with pytest.raises(DataError, match="LPIPS weights"):
        compare(film, contestants_of("mosa"), tmp_path / "out", CompareConfig(ground_m=0.0))
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused_before_anything_is_perceived(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").touch()
    one = contestants_of("mosa")
    with pytest.raises(DataError, match=r"already holds a comparison(.|\n)*--resume"):
        compare(tmp_path / "nothing", one, tmp_path / "out")
    with pytest.raises(DataError, match="not empty and holds no comparison"):
        compare(tmp_path / "nothing", one, tmp_path)
    (tmp_path / "file").touch()
    for out, json_path in (("file/x", None), ("new", tmp_path / "file" / "x.json")):
        with pytest.raises(DataError, match="nothing can be written into"):
            compare(tmp_path / "nothing", one, tmp_path / out, json_path=json_path)
    assert not (tmp_path / "new").exists()


def test_a_part_that_no_camera_sees_is_named() -> None:
    parts = {
        "train": {"start": 1, "twin": {"iou": 0.5, "track_m": None}},
        "future": {"start": 9, "twin": {"iou": None, "frames_of": {"iou": 0}}},
    }
    assert blank_parts(parts) == [
        "future: nothing was measured: the object is not seen in these frames"
    ]
