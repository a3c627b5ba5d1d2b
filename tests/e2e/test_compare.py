"""`physgym compare` with every real method, on a small film of a falling block."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from physgym.cli import main
from recon.benchmark_looks.film import FallSource
from recon.benchmark_looks.objects import Setting, source_of
from recon.capture.record import record

# As small as methods go: what is asked is that every figure and picture comes out of the command,
# not that a twin is any good.
TINY = {
    "phystwin": {"nodes": 20, "substeps_per_frame": 16, "appearance": False},
    "spring-gaus": {
        "anchors": 30, "gaussians": 200, "static_steps": 20, "dynamic_steps": 3, "neighbours": 12,
        "certain": 4, "image_pixels": 3000, "motion_pixels": 800,
    },
    "mosa": {"particles": 200, "points": 60, "stages": ["velocity"], "young_pa": 1e4},
}  # fmt: skip


def physgym_compare(*words: str | Path) -> int:
    """The command as it is typed, in this process: its methods run in others anyway."""
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, words)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def drop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = source_of("halves", Setting(quick=True))
    assert isinstance(source, FallSource)
    place = tmp_path_factory.mktemp("compare") / "drop"
    record(FallSource(dataclasses.replace(source.fall, frames=16)), place)
    return place


@pytest.mark.slow
def test_every_method_is_a_row_with_all_figures(
    drop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, out = drop.with_name("tiny.json"), drop.with_name("out")
    settings.write_text(json.dumps(TINY))
    code = physgym_compare(
        drop, "--train", "12", "--out", out, "--settings", settings, "--emd-points", "100",
        "--json", drop.with_name("told.json"), "--kind", "volume",
    )  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    result = json.loads(drop.with_name("told.json").read_text())
    assert (result["frames"], result["train_stop"]) == (16, 12)
    rows = {row["name"]: row for row in result["contestants"]}
    assert list(rows) == ["phystwin", "spring-gaus", "mosa"]
    assert [row["status"] for row in rows.values()] == ["done"] * 3, rows
    points = ("chamfer_m", "cd2_m2", "emd_m", "track_m", "true_track_m", "iou")
    images = ("image_iou", "image_psnr_db", "image_ssim")
    for row in rows.values():
        assert row["seconds"]["learn"] > 0
        assert 150 < row["peak_memory_mb"] < 2000  # torch and Warp alone take some hundred
        for part in ("train", "future"):
            figures = row["parts"][part]["twin"]
            assert all(np.isfinite(figures[key]) for key in points)
            # phystwin was asked to learn no appearance.
            drawn = all(figures.get(key) is not None for key in images)
            assert drawn == (row["name"] != "phystwin")
    assert set(result["baselines"]) == {"frozen", "rigid", "falling"}
    assert result["baselines"]["falling"]["future"]["image_psnr_db"] > 0
    for text in ("PSNR", "EMD", "spring-gaus", "falling", "report.html"):
        assert text in said.out
    page = (out / "report.html").read_text()
    assert "video/mp4" in page
    assert "image/png" in page


@pytest.mark.slow
def test_a_method_that_refuses_the_object_is_a_row_with_its_reason(
    drop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = drop.with_name("sheet")
    words = ("--train", "12", "--methods", "mosa", "--kind", "sheet", "--out", out)
    code = physgym_compare(drop, *words)
    said = capsys.readouterr()
    assert code == 1, said.out + said.err
    assert "particles need several layers" in (out / "mosa" / "result.json").read_text()
    assert "mosa: a sheet" in said.out
    assert "--method phystwin" in " ".join(said.out.split())  # however wide the terminal is
