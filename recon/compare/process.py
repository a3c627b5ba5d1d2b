"""The process of a contestant: started, listened to, ended; and why it died."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from physgym.files import write_atomically
from recon.compare.worker import WorkerJob
from recon.identify.progress import Progress

__all__ = ["run_worker", "unfinished"]

_WORKER = ("-m", "recon.compare")
_PATIENCE_S = 5.0  # for a process that was told to end


def unfinished(job: WorkerJob, status: str) -> dict[str, Any]:
    """The row of a contestant without a result.

    Args:
        job: its job.
        status: ``failed``, ``stopped`` or ``waiting``.

    Returns:
        JSON values.
    """
    return {"name": job.name, "method": job.method, "options": job.options, "status": status}


def run_worker(job: WorkerJob, progress: Progress) -> dict[str, Any]:
    """Do a contestant's job in a process of its own, to its end.

    Args:
        job: what.
        progress: told about every step.

    Returns:
        What the process wrote into ``result.json``, or why it wrote nothing.

    Raises:
        KeyboardInterrupt: at Ctrl-C; the process has been ended then.
    """
    place = Path(job.place)
    place.mkdir(parents=True, exist_ok=True)
    (place / "result.json").unlink(missing_ok=True)
    write_atomically(place / "job.json", json.dumps(asdict(job)).encode())
    command = [sys.executable, *_WORKER, str(place / "job.json")]
    progress.say(f"{job.name}:")
    with (place / "log.txt").open("ab") as log:
        # A session of its own: Ctrl-C comes here alone, and here it is decided what it means.
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # never written to: its end tells that this process is gone
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            _relay(child, job.name, progress)
            code = child.wait()
        except BaseException:
            _end(child)
            raise
    try:
        found: dict[str, Any] = json.loads((place / "result.json").read_text())
    except (OSError, ValueError):
        found = {**unfinished(job, "failed"), "error": _death(code, place)}
    if found["status"] == "failed":
        progress.say(f"{job.name} failed: {found['error']['what']}")
    return found


def _relay(child: subprocess.Popen[str], name: str, progress: Progress) -> None:
    """Show what the process says until it ends."""
    assert child.stdout is not None  # it was asked for
    with ExitStack() as shown:
        tick: Any = lambda step, value: None  # noqa: E731
        for line in child.stdout:
            try:
                message = json.loads(line)
            except ValueError:  # a library that prints
                continue
            if "stage" in message:
                shown.close()
                stage = progress.stage(f"{name}: {message['stage']}", message["total"])
                tick = shown.enter_context(stage)
            elif "step" in message:
                tick(message["step"], message["value"])
            elif "say" in message:
                shown.close()
                progress.say(f"  {message['say']}")
            else:
                shown.close()


def _end(child: subprocess.Popen[str]) -> None:
    """Its checkpoints are safe at any time."""
    child.terminate()
    try:
        child.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _death(code: int, place: Path) -> dict[str, str]:
    """Why a process that left no result ended."""
    fix = f"see {place / 'log.txt'}"
    if code >= 0:
        said = (place / "log.txt").read_text(errors="replace").strip().splitlines()[-1:]
        what = f"its process ended with code {code}" + "".join(f": {line}" for line in said)
        return {"kind": "ProcessError", "what": what, "where": "", "expected": "", "fix": fix}
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        fix += "; the system kills what takes too much memory: try --nodes with a smaller number"
    what = f"its process was ended by {name}"
    return {"kind": "ProcessError", "what": what, "where": "", "expected": "", "fix": fix}
