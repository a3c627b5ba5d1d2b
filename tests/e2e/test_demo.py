"""`physgym demo` as a user starts it: over ROS from a simulated recording, and from a real one."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
pytest.importorskip("physgym_ros", reason="physgym_ros is not installed")

from physgym.errors import DataError
from physgym.twin import Twin

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "deform_dlo"
# Two minutes are what a loaded 2-core machine needs at most; the promise is five.
PATIENCE_S = 290


def _demo(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "physgym.cli", "demo", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


class _Text(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.rows: dict[str, list[str]] = {}
        self._row: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self._row = []

    def handle_endtag(self, tag):
        if tag == "tr" and self._row:
            self.rows[self._row[0]] = self._row
            self._row = None

    def handle_data(self, data):
        self.parts.append(data)
        if self._row is not None:
            self._row.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.parts)


def _check_report(folder: Path) -> _Text:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Goal reached" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    seen = _Text(page)
    # The twin is worth something: below every baseline on recordings that it has not seen.
    scores = {
        name: float(row[1]) for name, row in seen.rows.items() if len(row) > 2 and _is(row[1])
    }
    baselines = {name: value for name, value in scores.items() if name != "twin"}
    assert len(baselines) == 5
    assert scores["twin"] < min(baselines.values())
    embedded = re.search(r"data:video/mp4;base64,([^\"]+)", page)
    assert embedded is not None
    assert base64.b64decode(embedded.group(1)) == (folder / "demo.mp4").read_bytes()
    assert next(imageio_ffmpeg.read_frames(str(folder / "demo.mp4")))["duration"] > 3.0
    return seen


def _is(text: str) -> bool:
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


@pytest.mark.ros
@pytest.mark.slow
def test_the_whole_loop_over_ros(tmp_path):
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    done = _demo("--out", "run", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "run"
    assert f"report: {folder / 'report.html'}" in done.stdout
    seen = _check_report(folder)
    assert "two ROS 2 nodes in two processes" in seen.text
    assert "Everything here was made in simulation" in seen.text
    twin = Twin.load(folder / "twin")
    assert twin.content_hash()[:16] in seen.text
    held_out = twin.metrics["held_out"]
    assert held_out["free_dist_mean_m"] < min(held_out["baselines_free_dist_mean_m"].values())
    assert np.load(folder / "goal.npz")["points"].shape == (twin.node_count, 3)
    assert "goal reached" in (folder / "logs" / "policy.log").read_text()


@pytest.mark.slow
def test_from_recordings_of_a_real_cable_without_ros(tmp_path):
    source = REAL / "DLO1_train.npz"
    if not source.is_file():
        pytest.skip(f"no data: {REAL} holds no {source.name}")
    done = _demo("--out", "run", "--source", str(source), "--no-ros", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = _check_report(tmp_path / "run")
    assert "The recordings are your own" in seen.text
    assert "held out, DLO1_eval.npz" in seen.text
    assert "without ROS (asked for with --no-ros)" in seen.text


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off"])
def test_a_source_that_cannot_be_read_leaves_nothing_behind(tmp_path, content):
    from physgym_ros.demo import Demo

    source = tmp_path / "cable.npz"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(DataError, match=r"cable\.npz"):
        Demo(out=tmp_path / "run", source=source).run()
    assert not (tmp_path / "run").exists()


def test_a_folder_of_somebody_elses_recordings_is_not_overwritten(tmp_path):
    from physgym_ros.demo import Demo

    precious = tmp_path / "recordings" / "precious.npz"
    precious.parent.mkdir()
    precious.write_bytes(b"years of work")
    with pytest.raises(DataError, match="not made by a demo"):
        Demo(out=tmp_path).run()
    assert precious.read_bytes() == b"years of work"


def test_the_command_line_says_what_is_wrong_with_a_source(tmp_path):
    done = _demo("--out", "run", "--source", "nowhere", folder=tmp_path)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_rclpy_it_says_why():
    code = (
        "import json, sys; sys.modules['rclpy'] = None\n"
        "from physgym_ros.demo import _why_no_ros; print(json.dumps(_why_no_ros()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout.splitlines()[-1]).startswith("rclpy")
