"""`physgym reconstruct`, `simulate` and `benchmark`, run as people run them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from physgym.cell import CellConfig, SimulatedCell, exciting_motion
from physgym.twin import Twin
from recon.importers import load_recordings
from recon.tracks import Tracks

NODES, LEAD_S, LENGTH_S = 9, 1.5, 1.5


def record(seed: int) -> dict[str, np.ndarray]:
    """1.5 s of the simulated cell's cable in motion, under the keys of a generic tracks file."""
    cell = SimulatedCell(CellConfig(marker_count=NODES))
    cell.reset(seed)
    motion = exciting_motion(cell.config, seed=seed, duration_s=LEAD_S + LENGTH_S, speed_m_s=0.5)
    raw = cell.record(motion, LEAD_S + LENGTH_S, noise_m=3e-4)
    keys = ("time", "points", "visible", "driven_index")
    lead = round(LEAD_S * 100)
    return {key: raw[key] if key == "driven_index" else raw[key][lead:] for key in keys}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for seed in (1, 2, 3):
        np.savez(folder / f"take-{seed}.npz", **record(seed))
    return folder


def start(*words: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "physgym.cli", *map(str, words)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def physgym(*words: object, cwd: Path) -> tuple[int, str, str]:
    process = start(*words, cwd=cwd)
    out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


def in_process(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """The same command without a new interpreter: for what is refused before any work."""
    from physgym.cli import main

    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def twins(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Reconstructed once for the module; what it printed is handed on."""
    folder = tmp_path_factory.mktemp("twins")
    code, out, errors = physgym(
        "reconstruct", recordings, "--out", "deep/rope", "--json", cwd=folder
    )
    assert code == 0, errors
    return folder, json.loads(out)  # one document and nothing else on stdout


def test_reconstruct_writes_a_twin_scored_beside_the_baselines(twins):
    folder, printed = twins
    twin = Twin.load(folder / "deep" / "rope")
    assert printed == {"twin": "deep/rope", "metrics": twin.metrics}
    assert twin.metrics["train"]["recordings"] == 2
    held = twin.metrics["held_out"]
    assert held["recordings"] == 1
    # An independent engine's cable; three seconds to learn from. Measured: a seventh.
    assert held["free_dist_mean_m"] < min(held["baselines_free_dist_mean_m"].values()) / 3
    assert twin.name == "rope"
    assert twin.provenance["command"].startswith("reconstruct ")
    assert twin.provenance["stopped_early"] is False
    assert all(len(r["source_sha256"]) == 64 for r in twin.provenance["recordings"])


def test_reconstruct_leaves_nothing_but_the_twin(twins):
    folder, _ = twins
    assert [p.name for p in (folder / "deep").iterdir()] == ["rope"]


def test_simulate_writes_a_prediction_that_can_be_read_as_a_recording(twins, recordings, tmp_path):
    folder, _ = twins
    take, out = recordings / "take-2.npz", tmp_path / "deep" / "prediction.npz"
    code, printed, errors = physgym(
        "simulate", folder / "deep" / "rope", "--tracks", take, "--out", out, "--json", cwd=tmp_path
    )
    assert code == 0, errors
    document = json.loads(printed)
    assert document["out"] == str(out)
    (row,) = document["recordings"]
    assert row["name"] == "take-2"
    assert 0 < row["free_dist_mean_m"] < 0.05
    (predicted,), (seen,) = load_recordings(out), load_recordings(take)
    assert predicted.name == "take-2"
    np.testing.assert_array_equal(predicted.driven_index, seen.driven_index)
    np.testing.assert_allclose(predicted.time_s, seen.time_s, atol=1e-9)
    np.testing.assert_array_equal(predicted.position[:2], seen.position[:2])
    free = predicted.free_index
    error = np.linalg.norm(predicted.position - seen.position, axis=-1)[2:, free].mean()
    assert error == pytest.approx(row["free_dist_mean_m"], rel=1e-4)  # float32 positions


def test_simulate_names_each_of_several_recordings(twins, recordings, tmp_path, capsys):
    folder, _ = twins
    code, printed, errors = in_process(
        capsys, "simulate", folder / "deep" / "rope", "--tracks", recordings,
        "--out", tmp_path / "all.npz",
    )  # fmt: skip
    assert code == 0, errors
    assert all(f"take-{k}: mean error" in printed for k in (1, 2, 3))
    with np.load(tmp_path / "all.npz") as arrays:
        assert [str(arrays[f"name_{i}"]) for i in range(3)] == ["take-1", "take-2", "take-3"]
        assert all(arrays[f"points_{i}"].shape == (151, NODES, 3) for i in range(3))


def test_what_is_not_a_twin_is_not_replaced(recordings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("not a twin")
    code, out, errors = in_process(capsys, "reconstruct", recordings, "--out", "notes")
    assert (code, out) == (2, "")
    assert "not a twin" in errors
    assert (tmp_path / "notes" / "diary.txt").read_text() == "not a twin"
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


def spoiled(recordings: Path, **changes) -> dict[str, np.ndarray]:
    with np.load(recordings / "take-1.npz") as whole:
        arrays = {key: whole[key] for key in whole.files}
    arrays.update({key: change(arrays[key]) for key, change in changes.items()})
    return arrays


def with_nan(points: np.ndarray) -> np.ndarray:
    points = points.copy()
    points[40:60, 0] = np.nan  # a driven point, for longer than may be guessed
    return points


BAD = {
    "millimetres": ({"points": lambda p: 1e3 * p}, "millimetre"),
    "a driven point is lost": ({"points": with_nan}, "driven"),
    "one stamp twice": ({"time": lambda t: np.where(np.arange(len(t)) == 7, t[6], t)}, "one stamp"),
    "stamps missing": ({"time": lambda t: t[:-5]}, "stamps"),
    "no such node": ({"driven_index": lambda i: i + 5}, "driven_index"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_recording_that_is_no_good_is_refused_with_a_reason(recordings, tmp_path, case, capsys):
    changes, message = BAD[case]
    np.savez(tmp_path / "bad.npz", **spoiled(recordings, **changes))
    code, out, errors = in_process(
        capsys, "reconstruct", tmp_path / "bad.npz", "--out", tmp_path / "rope"
    )
    assert code == 2
    assert out == ""
    assert message in errors
    assert "bad" in errors
    assert [p.name for p in tmp_path.iterdir()] == ["bad.npz"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("reconstruct", "nowhere.npz", "--out", "rope"), "no such file"),
        (("reconstruct", "TAKES", "--out", "rope", "--train", "most"), "--train"),
        (("reconstruct", "TAKES", "--out", "rope", "--density", "0"), "kg/m"),
        (("reconstruct", "TAKES", "--out", "."), "--out"),
        (("simulate", "nowhere", "--tracks", "TAKES", "--out", "p.npz"), "nowhere"),
        (("simulate", "TWIN", "--tracks", "TAKES", "--out", "p.csv"), ".npz"),
        (("simulate", "TWIN", "--tracks", "nowhere.npz", "--out", "p.npz"), "no such file"),
        (("benchmark", "dlo", "--data", "TAKES", "--json", "b.json"), "_eval.npz"),
    ],
)
def test_wrong_use_is_refused_and_leaves_nothing(
    recordings, twins, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    known = {"TAKES": recordings, "TWIN": twins[0] / "deep" / "rope"}
    code, out, errors = in_process(capsys, *(known.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert message in errors
    assert list(tmp_path.iterdir()) == []


def test_a_twin_of_another_version_is_refused(recordings, twins, tmp_path, capsys):
    twin = tmp_path / "rope"
    Twin.load(twins[0] / "deep" / "rope").save(twin)
    manifest = json.loads((twin / "twin.json").read_text())
    key = next(key for key, value in manifest.items() if value == 1 and "version" in key)
    manifest[key] = 99
    (twin / "twin.json").write_text(json.dumps(manifest))
    code, out, errors = in_process(
        capsys, "simulate", twin, "--tracks", recordings / "take-1.npz",
        "--out", tmp_path / "p.npz",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert "version" in errors
    assert "99" in errors
    assert not (tmp_path / "p.npz").exists()


def test_a_recording_of_another_rope_is_refused(recordings, twins, tmp_path, capsys):
    arrays = spoiled(recordings, points=lambda p: p[:, 1:], visible=lambda v: v[:, 1:])
    arrays["driven_index"] = np.array([0, NODES - 3, NODES - 2])
    np.savez(tmp_path / "other.npz", **arrays)
    code, out, errors = in_process(
        capsys, "simulate", twins[0] / "deep" / "rope", "--tracks", tmp_path / "other.npz",
        "--out", tmp_path / "p.npz",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert "8 points" in errors
    assert not (tmp_path / "p.npz").exists()


def test_recordings_that_no_fit_can_start_from_leave_no_run_folder(recordings, tmp_path, capsys):
    (tracks,) = load_recordings(recordings / "take-1.npz")
    position, visible = tracks.position.copy(), tracks.visible.copy()
    visible[::2, 4] = False
    position[~visible] = np.nan
    Tracks(tracks.time_s, position, visible, tracks.driven_index, name="blind").save(
        tmp_path / "blind.npz"
    )
    code, _, errors = in_process(
        capsys, "reconstruct", tmp_path / "blind.npz", "--out", tmp_path / "rope"
    )
    assert code == 2
    assert "two neighbouring frames" in errors
    assert [p.name for p in tmp_path.iterdir()] == ["blind.npz"]


def test_ctrl_c_leaves_a_twin_and_resume_finishes_it(recordings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("reconstruct", recordings, "--out", "rope", "--budget", "full", "--json")
    process = start(*words, cwd=tmp_path)
    checkpoint = tmp_path / "rope.run" / "checkpoints"
    deadline = time.monotonic() + 60
    while not list(checkpoint.glob("step_*.safetensors")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    twin = Twin.load(tmp_path / "rope")
    assert twin.provenance["stopped_early"] is True
    assert json.loads(out)["metrics"]["held_out"]
    code, _, errors = in_process(capsys, *words)
    assert code == 2
    assert "--resume" in errors
    code, _, errors = in_process(capsys, *words, "--resume", "--seed", 9)
    assert code == 2
    assert "seed: 0 in the run, 9 now" in errors
    code, _, errors = in_process(capsys, *words, "--resume", "--train", "all")
    assert code == 2
    assert "train_sha256" in errors
    code, _, errors = in_process(capsys, *words, "--resume")
    assert code == 0, errors
    assert Twin.load(tmp_path / "rope").provenance["stopped_early"] is False
    assert [p.name for p in tmp_path.iterdir()] == ["rope"]
