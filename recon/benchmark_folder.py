"""What benchmarks share: a folder that belongs to one run, and a note on the machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgym import __version__
from physgym.errors import DataError
from physgym.files import write_atomically

__all__ = ["claim_folder", "machine"]


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note the settings of a run, or refuse a folder that holds a run with others.

    Args:
        folder: of the run; made where it is missing.
        settings: what JSON can hold.

    Raises:
        DataError: naming the settings that differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, plain = folder / "settings.json", json.loads(json.dumps(dict(settings)))
    if file.is_file():
        found = json.loads(file.read_text())
        wrong = sorted(key for key in {*plain, *found} if plain.get(key) != found.get(key))
        if wrong:
            raise DataError(
                f"a run with other settings: {', '.join(wrong)}",
                where=f"--out {folder}",
                expected="the settings of that run: "
                + ", ".join(f"{key} {found.get(key)}" for key in wrong),
                fix="choose another folder, or the flags of that run",
            )
    write_atomically(file, json.dumps(plain).encode())


def machine() -> dict[str, Any]:
    """The machine that figures were measured on.

    Returns:
        JSON values.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": platform.processor() or platform.machine(),
        "threads": len(affinity(0)) if affinity else os.cpu_count(),
        "python": platform.python_version(),
        "physgym": __version__,
    }
