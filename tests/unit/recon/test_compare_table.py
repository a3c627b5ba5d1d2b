"""The table and the page of a comparison, from numbers made by hand."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from physgym.camera import PinholeCamera
from physgym.frames import T_from_parts
from physgym.splats.cloud import GaussianCloud
from physgym.splats.follower import Follower
from physgym.twin import Twin
from recon.compare.report import Stage, side_by_side, strip, verdict
from recon.compare.table import (
    baseline_rows,
    failures,
    header,
    markdown,
    print_table,
    shown_measures,
    table_rows,
)
from recon.compare_commands import Compare
from recon.render_pictures import Beside


def entry(track_m: float, psnr_db: float | None = None, **more: float) -> dict:
    return {"track_m": track_m, "image_psnr_db": psnr_db, **more}


def done(name: str, train: dict, future: dict, frozen_psnr_db: float) -> dict:
    still = entry(0.0301, frozen_psnr_db)
    held = entry(0.0125, frozen_psnr_db + 1)
    parts = {
        "train": {"start": 1, "stop": 20, "twin": train, "frozen": still, "rigid": held},
        "future": {"start": 20, "stop": 30, "twin": future, "frozen": still, "rigid": held},
    }
    return {
        "name": name,
        "method": name,
        "options": {},
        "status": "done",
        "parts": parts,
        "seconds": {"learn": 61.4},
        "resumed": name == "mosa",
        "peak_memory_mb": 702.5,
    }


@pytest.fixture
def result() -> dict:
    rows = [
        done("phystwin", entry(0.004, 25.0), entry(0.0102, 24.04, iou=0.871), 18.0),
        done("mosa", entry(0.005, 26.0), entry(0.0098, 23.0, iou=0.9), 19.0),
        {
            "name": "spring-gaus",
            "method": "spring-gaus",
            "options": {},
            "status": "failed",
            "error": {"what": "too short", "where": "frame 3", "expected": "", "fix": "longer"},
        },
    ]
    clouds = {"frozen": {"train": {"emd_m": 0.02}, "future": {"emd_m": 0.03}}}
    return {
        "episode": "drop",
        "frames": 30,
        "train_stop": 20,
        "cameras": ["cam0", "cam1"],
        "contestants": rows,
        "baselines": baseline_rows(rows, clouds),
        "stopped": False,
    }


def test_units_order_and_the_best_of_each_part(result: dict) -> None:
    measures = shown_measures(result)
    assert measures == ["track_m", "iou", "image_psnr_db"]
    assert header(measures)[2:5] == ["track [mm]", "IoU points [%]", "PSNR [dB]"]
    rows = {(row.part, row.who): row for row in table_rows(result, measures)}
    assert list(rows)[:5] == [
        ("future", "phystwin"),
        ("future", "mosa"),
        ("future", "spring-gaus (failed)"),
        ("future", "frozen"),
        ("future", "rigid"),
    ]
    assert rows["future", "phystwin"].figures == ("10.2", "87.1", "24.0")
    assert rows["future", "phystwin"].best == (False, False, True)
    assert rows["future", "mosa"].best == (True, True, False)
    assert rows["train", "phystwin"].best == (True, False, False)
    assert rows["future", "spring-gaus (failed)"].figures == ("-", "-", "-")
    assert (rows["future", "phystwin"].seconds, rows["future", "phystwin"].memory) == ("61", "702")
    assert rows["future", "mosa"].seconds == ">61"  # of its last start alone


def test_baselines_of_images_are_the_best_of_all_appearances(result: dict) -> None:
    frozen = result["baselines"]["frozen"]["future"]
    assert frozen == {"track_m": 0.0301, "image_psnr_db": 19.0, "emd_m": 0.03}
    assert result["baselines"]["rigid"]["future"]["image_psnr_db"] == 20.0
    assert baseline_rows([result["contestants"][2]], {}) == {}


def test_the_fall_is_the_best_of_those_who_were_scored_beside_it(result: dict) -> None:
    """One that was done before there was such a row has a part in the others alone."""
    falling = {"future": entry(0.011, 21.0), "train": entry(0.007, 24.0)}
    for part, figures in falling.items():
        result["contestants"][1]["parts"][part]["falling"] = figures
    clouds = {"falling": {part: {"emd_m": 0.01} for part in falling}}
    result["baselines"] = baseline_rows(result["contestants"], clouds)
    assert list(result["baselines"]) == ["frozen", "rigid", "falling"]
    expected = {"track_m": 0.011, "image_psnr_db": 21.0, "emd_m": 0.01}
    assert result["baselines"]["falling"]["future"] == expected
    assert result["baselines"]["frozen"]["future"]["image_psnr_db"] == 19.0
    assert [row.who for row in table_rows(result, ["track_m"])][-1] == "falling"
    assert verdict(result)[0].endswith("the best trivial baseline has 11.0 mm.")
    result["contestants"][0]["parts"]["future"]["falling"] = entry(0.011, 22.5)
    result["contestants"][0]["parts"]["train"]["falling"] = entry(0.007)
    best = baseline_rows(result["contestants"], clouds)["falling"]
    assert (best["future"]["image_psnr_db"], best["train"]["image_psnr_db"]) == (22.5, 24.0)


def test_a_baseline_can_be_the_best(result: dict) -> None:
    result["baselines"]["rigid"]["future"]["track_m"] = 0.001
    rows = {(r.part, r.who): r for r in table_rows(result, ["track_m"])}
    assert rows["future", "rigid"].best == (True,)
    assert not rows["future", "mosa"].best[0]
    assert verdict(result) == (
        "mosa predicts best: track error 9.8 mm, the best trivial baseline has 1.0 mm.",
        "bad",
    )


def test_the_verdict_names_the_best_prediction(result: dict) -> None:
    text, mood = verdict(result)
    assert text.startswith("mosa predicts best: track error 9.8 mm")
    assert text.endswith("12.5 mm.")
    assert mood == "good"


def test_without_tracks_the_verdict_is_by_masks(result: dict) -> None:
    for row, iou in zip(result["contestants"][:2], (0.883, 0.894)):
        for name in ("twin", "frozen", "rigid"):
            figures = row["parts"]["future"][name]
            figures["track_m"], figures["image_iou"] = None, iou if name == "twin" else 0.4
    result["baselines"] = baseline_rows(result["contestants"], {})
    # More is better of it: the second wins, and beats the baselines.
    text = "mosa predicts best: IoU 89.4 %, the best trivial baseline has 40.0 %."
    assert verdict(result) == (text, "good")
    for row in result["contestants"][:2]:
        row["parts"]["future"]["twin"] = entry(None)  # type: ignore[arg-type]
    assert verdict(result)[0] == "Nothing was seen in the predicted frames."


def test_what_is_missing_is_said_below_the_table(result: dict) -> None:
    result["notes"] = ["not measured: CD [mm] of [this]: no depth"]  # no markup
    assert result["notes"][0] in markdown(result).splitlines()
    stream = io.StringIO()
    print_table(result, Console(file=stream, width=160))
    assert result["notes"][0] in stream.getvalue()


def test_markdown_has_every_row_and_the_reasons(result: dict) -> None:
    lines = markdown(result).splitlines()
    assert lines[0] == "| part | who | track [mm] | IoU points [%] | PSNR [dB] | learn [s] | " + (
        "memory [MB] |"
    )
    assert lines[2] == "| future | phystwin | 10.2 | 87.1 | **24.0** | 61 | 702 |"
    assert len({line.count("|") for line in lines[:12]}) == 1
    assert lines[12] == "spring-gaus: too short (frame 3)"
    assert failures(result) == [("spring-gaus", "too short (frame 3)", "longer")]


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_shows_every_figure_at_any_width(result: dict, width: int) -> None:
    stream = io.StringIO()
    print_table(result, Console(file=stream, width=width))
    said = stream.getvalue()
    for text in ("10.2", "87.1", "24.0", ">61", "702", "spring-gaus: too short", "20 learned"):
        assert text in said
    assert "…" not in said
    # Measures of images come in a table of their own where the terminal is narrow.
    assert said.count("phystwin") == (4 if width == 80 else 2)


def test_nothing_but_failures_is_no_table(result: dict) -> None:
    result["contestants"], result["baselines"] = result["contestants"][2:], {}
    assert markdown(result) == "spring-gaus: too short (frame 3)\n"
    stream = io.StringIO()
    print_table(result, Console(file=stream, width=80))
    assert stream.getvalue() == "spring-gaus: too short (frame 3); longer\n"


# -- pictures ------------------------------------------------------------------------------------


def beside(colour: float) -> Beside:
    """Four nodes that carry one grey ball each, 0.6 m below a camera, moving along x."""
    rest = np.array([[x, y, 0.0] for x in (-0.02, 0.02) for y in (-0.02, 0.02)], np.float32)
    cloud = GaussianCloud(
        mean=torch.from_numpy(rest),
        log_scale=torch.full((4, 1), float(np.log(0.01))),
        quat_wxyz=torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1),
        opacity_logit=torch.full((4,), 4.0),
        sh=torch.full((4, 1, 3), colour),
    )
    twin = Twin(
        name="t", kind="volume", dynamics="spring_mass", method="phystwin", rest_position=rest,
        driven_index=np.zeros(0, np.int64), parameters={}, splats=cloud,
    )  # fmt: skip
    shift = 0.004 * np.arange(9)[:, None, None] * np.array([1.0, 0, 0])
    K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
    camera = PinholeCamera("cam0", "", 64, 48, K, T_from_parts(np.diag([1.0, -1, -1]), [0, 0, 0.6]))
    images = [np.full((48, 64, 3), 90, np.uint8)] * 9
    masks = np.zeros((9, 48, 64), bool)
    masks[:, 20:28, 26:38] = True
    nodes = (rest + shift).astype(np.float32)
    return Beside(Follower(twin), nodes, images, masks, camera, np.arange(9) / 10)


def test_panels_show_the_recording_then_everybody(tmp_path: Path) -> None:
    stage = Stage({"dark": beside(-1.0), "bright": beside(1.0)}, train_stop=6)
    panels = stage.panels(8, stage.box())
    assert [panel.shape for panel in panels] == [panels[0].shape] * 3
    assert (panels[0] == 90).all()
    # Both are where the nodes are, on black, one brighter than the other.
    row, column = np.unravel_index(panels[2][..., 0].argmax(), panels[2].shape[:2])
    assert panels[2][row, column, 0] > panels[1][row, column, 0] + 50
    # 32 mm at 0.6 m with a focal length of 60 px: 3.2 px to the right of where it began.
    centre = [np.average(np.arange(p.shape[1]), weights=p[..., 0].sum(axis=0)) for p in (
        stage.panels(0, stage.box())[2], panels[2])]  # fmt: skip
    assert centre[1] - centre[0] == pytest.approx(3.2, abs=0.3)  # cut off at the window's edge
    assert [stage.phase(t)[0] for t in (0, 5, 6)] == ["given", "learned", "predicted"]
    assert strip(stage).png.startswith(b"\x89PNG")
    film = side_by_side(stage)
    assert len(film.mp4) > 1000
    assert "orange: predicted" in film.caption


def test_the_command_wants_a_place(tmp_path: Path) -> None:
    from physgym.errors import DataError

    with pytest.raises(DataError, match="--out FOLDER"):
        Compare(tmp_path).run()
    assert Compare(tmp_path, json=tmp_path / "c.json")._folder() == tmp_path / "c"
    assert Compare(tmp_path, out=tmp_path / "o", json=tmp_path / "c.json")._folder().name == "o"
    with pytest.raises(DataError, match=re.escape(".json")):
        Compare(tmp_path, json=tmp_path / "c").run()
