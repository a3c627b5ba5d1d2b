"""ROS domains: each is taken once, and given back without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("physgym_ros", reason="physgym_ros is not installed")

# Says which domains it took, then holds them until its input ends.
HOLDER = (
    "import sys\n"
    "from physgym_ros.harness import fresh_domain\n"
    "print(fresh_domain(), fresh_domain(), flush=True)\n"
    "sys.stdin.read()\n"
)


def _holder(folder: Path) -> tuple[subprocess.Popen, set[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env=os.environ | {"TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, {int(word) for word in process.stdout.readline().split()}


def _files(folder: Path) -> set[int]:
    return {int(path.stem.rpartition("-")[2]) for path in folder.glob("physgym-domain-*.lock")}


def test_two_processes_get_four_domains_and_leave_no_file(tmp_path):
    (one, first), (other, second) = _holder(tmp_path), _holder(tmp_path)
    assert len(first | second) == 4
    assert _files(tmp_path) == first | second
    one.communicate(timeout=30)
    assert _files(tmp_path) == second  # the files of a living process stay
    other.communicate(timeout=30)
    assert (one.returncode, other.returncode) == (0, 0)
    assert not _files(tmp_path)


def test_what_a_killed_process_held_is_free_again(tmp_path):
    from physgym_ros import harness

    process, held = _holder(tmp_path)
    domain = min(held)
    path = tmp_path / f"physgym-domain-{domain}.lock"
    assert harness._lock(path) is None
    process.kill()
    process.communicate(timeout=30)
    assert path.exists()
    lock = harness._lock(path)
    assert lock is not None
    harness._release(path, lock, os.getpid() + 1)  # a forked child's way out takes nothing away
    assert path.exists()
    assert harness._lock(path) is None
    harness._release(path, lock, os.getpid())
    assert not path.exists()


def test_a_lock_whose_file_was_removed_meanwhile_does_not_count(tmp_path, monkeypatch):
    from physgym_ros import harness

    path = tmp_path / "physgym-domain-1.lock"
    flock = harness.fcntl.flock

    def removed_meanwhile(stream, operation):
        path.unlink()
        flock(stream, operation)

    monkeypatch.setattr(harness.fcntl, "flock", removed_meanwhile)
    assert harness._lock(path) is None
