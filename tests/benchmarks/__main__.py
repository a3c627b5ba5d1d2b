"""Runs every benchmark of this folder, one after the other, and collects one JSON.

    python tests/benchmarks [--json FILE] [--device auto|cpu|cuda] [--quick] [--only NAME ...]

A benchmark is a script `tests/benchmarks/<name>.py` with a main that takes `--json FILE` and writes
one JSON object into FILE. It may take `--device NAME` (one that does not measures the CPU, and is
left out where a GPU is asked for) and `--quick`. Each runs in a process of its own, so that none
inherits the other's caches, threads or crashes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _machine import REPOSITORY, machine

from physgym.files import write_atomically

_FOLDER = Path(__file__).resolve().parent
_OTHERS = {"__main__", "gpu_check"}
_TAIL_LINES = 15


def flags_of(name: str) -> set[str]:
    """The flags that a script declares, read from its source: running it to ask would take longer.

    Args:
        name: a script of this folder.

    Returns:
        Flags such as "--device"; empty for a file that is no script but a part of one.
    """
    source = (_FOLDER / f"{name}.py").read_text(encoding="utf-8")
    if "__main__" not in source:
        return set()
    return set(re.findall(r"""add_argument\(\s*["'](--[a-z-]+)""", source))


def names(device: str = "auto") -> list[str]:
    """The benchmarks of this folder.

    Args:
        device: "cuda" leaves out those that measure the CPU alone.

    Returns:
        Names of scripts, sorted.
    """
    wanted = {"--json", "--device"} if device.startswith("cuda") else {"--json"}
    scripts = sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem not in _OTHERS)
    return [name for name in scripts if wanted <= flags_of(name)]


def run_one(name: str, device: str, *, quick: bool = False) -> dict[str, Any]:
    """Run one benchmark.

    Args:
        name: one of `names()`.
        device: what to hand over as ``--device`` to a script that takes it.
        quick: hand over ``--quick`` to a script that takes it.

    Returns:
        "seconds" [s] with "figures" (what the script wrote), or with "error" (the end of what it
        said, and its exit code).
    """
    flags = flags_of(name)
    with tempfile.TemporaryDirectory(prefix="physgym-bench-") as folder:
        file = Path(folder, "figures.json")
        command = [sys.executable, str(_FOLDER / f"{name}.py"), "--json", str(file)]
        command += ["--device", device] if "--device" in flags else []
        command += ["--quick"] if quick and "--quick" in flags else []
        started = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": _python_path()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        seconds = round(time.perf_counter() - started, 2)
        said = "\n".join(done.stdout.splitlines()[-_TAIL_LINES:])
        if done.returncode != 0:
            return {"seconds": seconds, "error": f"exit code {done.returncode}\n{said}"}
        try:
            return {"seconds": seconds, "figures": json.loads(file.read_text(encoding="utf-8"))}
        except (OSError, json.JSONDecodeError) as error:
            return {"seconds": seconds, "error": f"no figures: {error}\n{said}"}


def run_all(device: str, only: list[str], *, quick: bool = False) -> dict[str, Any]:
    """Run the benchmarks and say how each went.

    Args:
        device: what to hand over as ``--device``.
        only: names to run; all when empty.
        quick: shorter runs where a script knows such.

    Returns:
        The machine, and per benchmark what `run_one` returns.
    """
    results = {}
    for name in only or names(device):
        print(f"{name} ... ", end="", flush=True, file=sys.stderr)
        results[name] = run_one(name, device, quick=quick)
        how = "FAILED\n" + results[name]["error"] if "error" in results[name] else "done"
        print(f"{how} ({results[name]['seconds']:g} s)", file=sys.stderr)
    return {"machine": machine(), "device": device, "quick": quick, "benchmarks": results}


def main() -> int:
    """Parse the flags, run, write.

    Returns:
        0 when every benchmark ran, 1 when one failed, 2 for wrong use.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("runs/bench.json"), help="file to write")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="shorter runs, rougher figures")
    parser.add_argument("--only", nargs="+", default=[], choices=names(), metavar="NAME")
    flags = parser.parse_args()
    report = run_all(flags.device, flags.only, quick=flags.quick)
    flags.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(flags.json, json.dumps(report, indent=2).encode())
    print(flags.json)
    return 1 if any("error" in result for result in report["benchmarks"].values()) else 0


def _python_path() -> str:
    inherited = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(path for path in (str(REPOSITORY), inherited) if path)


if __name__ == "__main__":
    sys.exit(main())
