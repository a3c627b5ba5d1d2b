"""The run folder beside the twin of a job: there while there is something to go on with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from physgym.run_folder import RunFolder

__all__ = ["drop_job_folder", "job_folder"]


@contextmanager
def job_folder(out: Path, job: Any, *, resume: bool) -> Iterator[RunFolder]:
    """The run folder ``OUT.run``; it does not outlive the block without a checkpoint.

    Args:
        out: where the twin goes.
        job: what must be the same when a run is resumed, a dataclass.
        resume: go on with the run that is there; a folder in which none has begun is new.

    Yields:
        The folder.

    Raises:
        PhysGymError: if another run has begun there.
    """
    folder = _folder(out)
    begun = (folder / "config.yaml").is_file()
    run = RunFolder(folder, job, resume=resume or not begun)
    try:
        with run:
            yield run
    finally:
        if run.latest_checkpoint() is None:
            drop_job_folder(out)


def drop_job_folder(out: Path) -> None:
    """Take the run folder away: the job is done.

    Args:
        out: where the twin is.
    """
    shutil.rmtree(_folder(out), ignore_errors=True)


def _folder(out: Path) -> Path:
    return out.with_name(out.name + ".run")
