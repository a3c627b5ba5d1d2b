"""What a figure was measured on: without it no figure means anything."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # a bare GPU machine has no installed physgym
    sys.path.insert(0, str(REPOSITORY))

from physgym import __version__
from physgym.probes import cuda_devices

__all__ = ["REPOSITORY", "machine"]

_PACKAGES = ("warp-lang", "torch", "numpy", "mujoco", "gymnasium")


def machine() -> dict[str, Any]:
    """Processor, threads, GPUs and versions of this machine.

    Returns:
        A dictionary that JSON can hold.
    """
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": model,
        "threads": len(affinity(0)) if affinity else os.cpu_count(),
        "gpus": cuda_devices(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "physgym": __version__,
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
