"""From simulated cameras to a scored prediction, by the commands that people type."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from physgym.twin import Twin
from recon.episode import Episode

# Small images and few frames: the whole way in about a minute. Foam in jaws moves nearly rigidly,
# so what is asked is that nothing on the way is lost, not that the twin beats a rigid body.
RECORD = ["--width", "320", "--height", "240", "--fps", "15", "--duration", "1.6"]


def physgym(*words: str | Path, expect: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "physgym.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two interactions with one block: the first is made into a twin."""
    folder = tmp_path_factory.mktemp("episode")
    block = ["--source", "sim", "--object", "block", "--cameras", "2", *RECORD]
    physgym("record", *block, "--interaction", "lift", "--out", folder / "lift")
    physgym("record", *block, "--interaction", "push", "--seed", "1", "--out", folder / "push")
    told = physgym(
        "reconstruct", folder / "lift", "--method", "phystwin", "--out", folder / "twin",
        "--kind", "volume", "--nodes", "120", "--json",
    )  # fmt: skip
    assert json.loads(told.splitlines()[-1])["metrics"]["parts"].keys() == {"train", "future"}
    return folder


def truth_of(episode: Path) -> np.ndarray:
    with Episode.open(episode) as opened:
        truth = opened.ground_truth()
        assert truth is not None
        return np.asarray(truth.position)


@pytest.mark.slow
def test_the_way_from_cameras_to_a_twin(made: Path) -> None:
    twin = Twin.load(made / "twin")
    assert twin.node_count <= 120
    # The simulated cell notes what its block weighs, and that is taken.
    assert float(twin.parameters["mass_kg"]) == pytest.approx(0.14 * 0.10 * 0.08 * 120, rel=0.2)
    rows = twin.metrics["parts"]["future"]
    assert rows["twin"]["chamfer_m"] < 0.2 * rows["frozen"]["chamfer_m"]
    assert not (made / "twin.run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lift", "push"])
def test_simulate_predicts_every_frame(made: Path, name: str) -> None:
    out = made / f"{name}.npz"
    physgym("simulate", made / "twin", "--episode", made / name, "--out", out)
    with np.load(out) as arrays:
        points, surface, time_s = (arrays[k] for k in ("points", "visible_surface", "time"))
    assert len(points) == len(time_s) == 24
    assert np.isfinite(points).all()
    assert surface.dtype == bool
    assert surface.shape == points.shape[1:2]
    truth = truth_of(made / name)
    moved = np.linalg.norm(truth[-1] - truth[0], axis=-1).mean()
    predicted = (points[-1] - points[0])[surface].mean(axis=0)
    true = (truth[-1] - truth[0]).mean(axis=0)
    assert moved > 0.03
    assert np.linalg.norm(predicted - true) < 0.3 * moved


@pytest.mark.slow
def test_score_puts_both_interactions_beside_the_baselines(made: Path) -> None:
    out = made / "score.json"
    table = physgym("score", made / "twin", made / "lift", made / "push", "--json", out)
    assert "frozen" in table
    lift, push = json.loads(out.read_text())["episodes"]
    assert lift["parts"].keys() == {"train", "future"}
    assert push["parts"].keys() == {"unseen"}
    unseen = push["parts"]["unseen"]
    assert unseen["twin"]["true_track_m"] < 0.5 * unseen["frozen"]["true_track_m"]


def test_what_is_no_episode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = physgym(
        "simulate", tmp_path / "empty", "--episode", tmp_path, "--out", "x.npz", expect=2
    )
    assert "twin.json" in said or "twin" in said
    said = physgym("reconstruct", tmp_path / "gone", "--out", tmp_path / "t", expect=2)
    assert "no such file or folder" in said
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "metadata.yaml").write_text("nothing: here\n")
    said = physgym("reconstruct", tmp_path / "bag", "--out", tmp_path / "t", expect=2)
    assert "bag" in said
    assert not (tmp_path / "t").exists()
    said = physgym(
        "reconstruct", tmp_path / "bag", "--out", tmp_path / "t", "--train", "2", expect=2
    )
    assert "--train 2" in said
