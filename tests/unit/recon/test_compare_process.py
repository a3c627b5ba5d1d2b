"""The process of one that takes part: heard, read, ended."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from compare_cases import FRAMES, acts

from recon.compare.process import run_worker
from recon.compare.worker import WorkerJob
from recon.identify.progress import Progress


class Heard(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator:
        self.told.append(f"{name} of {total}")
        yield lambda step, value: self.told.append(f"{step}: {value}")
        self.told.append("end")

    def say(self, text: str) -> None:
        self.told.append(text)


def job_of(place: Path, name: str = "mosa") -> WorkerJob:
    return WorkerJob("ep", str(place), "seen", name, name, {}, {}, None, 12, FRAMES, 100, 0)


def test_a_process_is_heard_and_its_result_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts(
        monkeypatch,
        """
        print(json.dumps({"stage": "search", "total": 3}))
        print("a library that prints")
        print(json.dumps({"step": 2, "value": 0.5}))
        print(json.dumps({"end": "search"}))
        print(json.dumps({"say": "found"}))
        done(parts={})
        """,
    )
    heard = Heard()
    row = run_worker(job_of(tmp_path / "mosa"), heard)
    assert row["status"] == "done"
    assert heard.told == ["mosa:", "mosa: search of 3", "2: 0.5", "end", "  found"]


def test_a_crash_is_a_row_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts(monkeypatch, "sys.exit('no such kernel')")
    row = run_worker(job_of(tmp_path / "mosa"), Heard())
    assert row["status"] == "failed"
    assert row["error"]["what"] == "its process ended with code 1: no such kernel"
    acts(monkeypatch, "os.kill(os.getpid(), signal.SIGKILL)")
    row = run_worker(job_of(tmp_path / "mosa"), Heard())
    assert "SIGKILL" in row["error"]["what"]
    assert "memory" in row["error"]["fix"]


def test_ctrl_c_ends_the_process_and_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts(
        monkeypatch,
        """
        (place / "pid").write_text(str(os.getpid()))
        print(json.dumps({"say": "begun"}), flush=True)
        time.sleep(60)
        """,
    )

    class Interrupting(Heard):
        def say(self, text: str) -> None:
            if text == "  begun":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_worker(job_of(tmp_path / "mosa"), Interrupting())
    pid = int((tmp_path / "mosa" / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_memory_is_that_of_the_process_alone() -> None:
    # A parent of 300 MB starts a child that has 100 MB of its own: Linux hands the parent's
    # ru_maxrss down, which must not be taken for the child's.
    child = (
        "import numpy as np; from recon.compare.worker import peak_memory_mb; "
        "a = peak_memory_mb(); b = np.ones(100_000_000, np.uint8); print(a, peak_memory_mb())"
    )
    parent = (
        "import subprocess, sys; b = b'x' * 300_000_000; "
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    told = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, check=True
    )
    before, after = (float(number) for number in told.stdout.split())
    assert before < 290
    assert 95 < after - before < 115  # pages of the allocator


def test_a_process_ends_with_the_comparison_however_that_ended(tmp_path: Path) -> None:
    # Its job never comes: it waits for it, and hears that nobody is left to write it.
    fifo = tmp_path / "job.json"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "recon.compare", str(fifo)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(2.0)
        child.stdin.close()
        assert child.wait(30.0) == 1
