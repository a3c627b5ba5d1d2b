"""The run folder: what is in it, how a run goes on, and that a crash costs one step at most."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from physgym.errors import DataError
from physgym.files import check_writable, write_atomically
from physgym.run_folder import RunFolder, load_config


@dataclass(frozen=True)
class Job:
    source: Path
    rate: float = 0.5
    steps: int = 3


JOB = Job(Path("rope.npz"))


def test_new_run_holds_its_configuration(tmp_path: Path) -> None:
    """The resolved copy, defaults included, reads back as the configuration itself."""
    with RunFolder(tmp_path / "run", JOB) as run:
        assert run.latest_checkpoint() is None
    plain = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert plain == {"source": "rope.npz", "rate": 0.5, "steps": 3}
    assert load_config(tmp_path / "run/config.yaml", Job) == JOB
    starts = json.loads((tmp_path / "run/run.json").read_text())["starts"]
    assert [start["command"] for start in starts] == [sys.argv]


def test_run_is_not_overwritten(tmp_path: Path) -> None:
    """A second run into the same folder needs --resume; a foreign folder is left alone."""
    RunFolder(tmp_path / "run", JOB).close()
    with pytest.raises(DataError, match="--resume"):
        RunFolder(tmp_path / "run", JOB)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.tex").write_text("...")
    for resume in (False, True):
        with pytest.raises(DataError, match="holds no run"):
            RunFolder(tmp_path / "foreign", JOB, resume=resume)
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]


def test_resume_goes_on_from_the_newest(tmp_path: Path) -> None:
    """Arrays, types and the dictionary come back exactly; older checkpoints are removed."""
    arrays = {
        "position": np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32),
        "order": np.arange(5)[::-1],
        "weights": torch.ones(3, dtype=torch.float64),
    }
    with RunFolder(tmp_path / "run", JOB, keep=2) as run:
        for step in range(4):
            run.save_checkpoint(step, arrays, {"best": 0.1 * step, "names": ["a"]})
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 2
    with RunFolder(tmp_path / "run", JOB, resume=True) as run:
        found = run.latest_checkpoint()
    assert found is not None
    assert found.step == 3
    assert found.meta == {"best": 0.1 * 3, "names": ["a"]}
    for name, array in arrays.items():
        expected = np.asarray(array)
        assert found.arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(found.arrays[name], expected)
    assert len(json.loads((tmp_path / "run/run.json").read_text())["starts"]) == 2


def test_resume_of_nothing_begins(tmp_path: Path) -> None:
    """`--resume` can stand in a script from its first call on."""
    with RunFolder(tmp_path / "run", JOB, resume=True) as run:
        assert run.latest_checkpoint() is None


def test_resume_with_other_configuration_is_refused(tmp_path: Path) -> None:
    """The error names each value that differs, old and new."""
    RunFolder(tmp_path / "run", JOB).close()
    with pytest.raises(DataError, match=r"rate: 0\.5 in the run, 0\.7 now"):
        RunFolder(tmp_path / "run", Job(Path("rope.npz"), rate=0.7), resume=True)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("source: a\nrate: 0.5\nsteps: 3\nspeed: 2\n", "speed"),
        ("source: a\nrate: fast\n", "rate"),
        ("source: [a\n", "no YAML"),
        ("!!python/object/apply:os.getcwd []\n", "no YAML"),
        ("- a list\n", "a mapping"),
    ],
)
def test_spoiled_configuration_is_refused(tmp_path: Path, text: str, names: str) -> None:
    """Unknown keys, other types, broken YAML and YAML that would run code."""
    RunFolder(tmp_path / "run", JOB).close()
    (tmp_path / "run/config.yaml").write_text(text)
    with pytest.raises(DataError) as caught:
        RunFolder(tmp_path / "run", JOB, resume=True)
    assert names in str(caught.value)
    assert "config.yaml" in str(caught.value)


@pytest.mark.parametrize("keep_bytes", [0, 7, 60, -1])
def test_damaged_checkpoint_is_named(tmp_path: Path, keep_bytes: int) -> None:
    """A truncated file is an error that names it, never half a state."""
    with RunFolder(tmp_path / "run", JOB) as run:
        file = run.save_checkpoint(1, {"x": np.zeros(100)})
        content = file.read_bytes()
        file.write_bytes(content[:keep_bytes])
        with pytest.raises(DataError, match=file.name):
            run.latest_checkpoint()


def test_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    """A safetensors file of another program has none of our header."""
    from safetensors.numpy import save

    with RunFolder(tmp_path / "run", JOB) as run:
        file = run.save_checkpoint(1, {"x": np.zeros(2)})
        file.write_bytes(save({"x": np.zeros(2)}))
        with pytest.raises(DataError, match=file.name):
            run.latest_checkpoint()


def test_scalars_reach_tensorboard(tmp_path: Path) -> None:
    """What was recorded can be read from the event file."""
    loading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    with RunFolder(tmp_path / "run", JOB) as run:
        assert run.records_scalars
        for step in range(3):
            run.scalar("train/loss_m", 0.5 * step, step)
    events = loading.EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss_m")] == [
        (0, 0.0),
        (1, 0.5),
        (2, 1.0),
    ]


def test_killed_while_saving_leaves_whole_checkpoints(tmp_path: Path) -> None:
    """SIGKILL at an arbitrary moment of endless saving: the newest checkpoint still reads."""
    program = (
        "import sys, numpy as np\n"
        "from dataclasses import dataclass\n"
        "from physgym.run_folder import RunFolder\n"
        "@dataclass(frozen=True)\n"
        "class Empty: pass\n"
        "run = RunFolder(sys.argv[1], Empty())\n"
        "step = 0\n"
        "while True:\n"
        "    run.save_checkpoint(step, {'x': np.full(300_000, step)})\n"
        "    if step == 5: print('going', flush=True)\n"
        "    step += 1\n"
    )
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)

    @dataclass(frozen=True)
    class Empty:
        pass

    with RunFolder(folder, Empty(), resume=True) as run:
        found = run.latest_checkpoint()
    assert found is not None
    assert found.step >= 5
    assert (found.arrays["x"] == found.step).all()


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Nothing half-written and no temporary file stays where a write fails."""
    file = tmp_path / "a.json"
    write_atomically(file, b"old")
    with pytest.raises(TypeError):
        write_atomically(file, "text is not bytes")  # type: ignore[arg-type]
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"nothing can be written into .*file: Not a directory"):
        RunFolder(tmp_path / "file" / "below" / "run", JOB)
    check_writable(tmp_path / "new" / "one", "--out")
    check_writable(tmp_path / "file", "--json")  # is replaced
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
