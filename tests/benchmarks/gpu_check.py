"""The tests marked `gpu` and all benchmarks on a machine with a CUDA GPU, into one JSON.

Starts with the standard library alone: on a bare GPU machine (torch and CUDA, no package index) it
first installs what is missing from the wheels that `make wheels` collected elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from _machine import REPOSITORY, machine

from physgym.files import write_atomically
from physgym.probes import cuda_devices

NO_GPU = 3
# What a CUDA image with torch, SciPy and pytest lacks, with all that these need in turn.
CARRIED = (
    "warp-lang",
    "mujoco",
    "mujoco-core",
    "mujoco-studio",
    "glfw",
    "pyopengl",
    "websockets",
    "gymnasium",
    "farama-notifications",
    "stable-baselines3",
    "cmaes",
    "tyro",
    "docstring-parser",
    "typeguard",
)
NEEDED = ("warp", "torch", "numpy", "safetensors", "pytest")
_PYTHON = "3.12"
# pip compares platform tags exactly, so every glibc in use is named.
_GLIBC = ("2_35", "2_34", "2_31", "2_28", "2_27", "2_24", "2_17", "2_12", "2_5")


def main() -> int:
    """Parse the flags and do one of the two jobs.

    Returns:
        The exit code: 0 all passed, 1 something failed, 2 wrong use, 3 no GPU.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("runs/gpu_check.json"))
    parser.add_argument("--wheels", type=Path, default=Path("wheels"), help="wheels to install")
    parser.add_argument("--collect", type=Path, help="download the wheels into a folder, no more")
    parser.add_argument("--part-mb", type=int, default=0, help="with --collect: cut larger files")
    flags = parser.parse_args()
    if flags.collect is not None:
        return collect(flags.collect, flags.part_mb * 1_000_000)
    if not cuda_devices():
        print(
            "gpu-check: no CUDA device on this machine (asked of the driver, libcuda.so.1).\n"
            "  Nothing was run. Run it where an NVIDIA GPU and its driver are; `make test` skips\n"
            "  the tests marked gpu and covers the rest.",
            file=sys.stderr,
        )
        return NO_GPU
    return check(flags.json, flags.wheels)


def collect(folder: Path, part_bytes: int) -> int:
    """Download the wheels that a bare GPU machine (Linux on x86-64, Python 3.12) needs.

    Args:
        folder: receives them.
        part_bytes: cut files larger than this into parts; 0 leaves them whole.

    Returns:
        pip's exit code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform=manylinux_{glibc}_x86_64" for glibc in _GLIBC]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-deps", "--only-binary=:all:", f"--python-version={_PYTHON}", *platforms]
    pip += [f"--dest={folder}", *pins(CARRIED, REPOSITORY / "constraints.txt")]
    done = subprocess.run(pip)
    if done.returncode == 0 and part_bytes:
        for wheel in sorted(folder.glob("*.whl")):
            _cut(wheel, part_bytes)
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size / 1e6:8.1f} MB  {path.name}")
    return done.returncode


def pins(packages: tuple[str, ...], constraints: Path) -> list[str]:
    """The pinned requirements of some packages for the bare machine's Python.

    Args:
        packages: names, as PyPI spells them.
        constraints: the constraints file.

    Returns:
        One ``name==version`` per package.
    """
    from packaging.requirements import Requirement

    target = {
        "python_version": _PYTHON,
        "python_full_version": f"{_PYTHON}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    found = {}
    for line in constraints.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text:
            entry = Requirement(text)
            if entry.marker is None or entry.marker.evaluate(target):
                found[_canonical(entry.name)] = f"{entry.name}{entry.specifier}"
    return [found[_canonical(name)] for name in packages]


def check(file: Path, wheels: Path) -> int:
    """Install what is missing, run tests and benchmarks, write the report.

    Args:
        file: JSON to write.
        wheels: folder with wheels, used when a needed package is missing.

    Returns:
        0 when all passed, 1 when something failed, 2 when a package is missing.
    """
    environment = dict(os.environ)
    paths = [str(REPOSITORY), str(REPOSITORY / "ros2_ws/src/physgym_ros")]
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        site = _install(wheels)
        if site is None:
            print(
                f"gpu-check: not installed: {', '.join(missing)}, and no wheels in {wheels}.\n"
                "  With a package index: make setup, then make gpu-check.\n"
                "  Without one: run make wheels where there is one and carry the folder here.",
                file=sys.stderr,
            )
            return 2
        paths.insert(0, str(site))
    paths.append(environment.get("PYTHONPATH", ""))
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    with tempfile.TemporaryDirectory(prefix="physgym-gpu-") as folder:
        tests = _run_tests(Path(folder), environment)
        figures = Path(folder, "bench.json")
        bench = [sys.executable, str(REPOSITORY / "tests/benchmarks")]
        subprocess.run(
            [*bench, "--device", "cuda", "--json", str(figures)], cwd=REPOSITORY, env=environment
        )
        report = json.loads(figures.read_text()) if figures.is_file() else {"benchmarks": {}}
    good = tests["passed"] > 0 and not tests["failed"] and figures_are_whole(report)
    file.parent.mkdir(parents=True, exist_ok=True)
    report = {"ok": good, "machine": machine(), **report, "tests": tests}
    write_atomically(file, json.dumps(report, indent=2).encode())
    print(f"{tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped: {file}")
    return 0 if good else 1


def figures_are_whole(report: dict[str, Any]) -> bool:
    """Whether every benchmark of a report gave figures.

    Args:
        report: what `python tests/benchmarks` wrote.

    Returns:
        False too when there is no benchmark at all.
    """
    results = report["benchmarks"].values()
    return bool(results) and all("figures" in result for result in results)


def read_junit(file: Path) -> dict[str, Any]:
    """Counts and failures of a pytest run.

    Args:
        file: its JUnit XML.

    Returns:
        "passed", "failed" (with errors), "skipped", and "failures": test -> message.
    """
    cases = list(ElementTree.parse(file).iter("testcase"))
    failures, skipped = {}, 0
    for case in cases:
        for child in case:
            if child.tag in ("failure", "error"):
                name = f"{case.get('classname')}::{case.get('name')}"
                failures[name] = (child.get("message") or "")[:500]
        skipped += case.find("skipped") is not None
    passed = len(cases) - len(failures) - skipped
    return {"passed": passed, "failed": len(failures), "skipped": skipped, "failures": failures}


def _run_tests(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    file = folder / "tests.xml"
    # One broken import among the other tests must not hide those that can run.
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--continue-on-collection-errors"]
    subprocess.run([*command, f"--junitxml={file}"], cwd=REPOSITORY, env=environment)
    if not file.is_file():
        return {"passed": 0, "failed": 1, "skipped": 0, "failures": {"pytest": "did not start"}}
    return read_junit(file)


def _install(wheels: Path) -> Path | None:
    if not wheels.is_dir():
        return None
    _join(wheels)
    files = sorted(wheels.glob("*.whl"))
    if not files:
        return None
    site = REPOSITORY / "build" / "gpu-site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-index", "--no-deps", "--no-compile", "--upgrade", f"--target={site}"]
    done = subprocess.run([*pip, *map(str, files)])
    return site if done.returncode == 0 else None


def _cut(wheel: Path, part_bytes: int) -> None:
    if wheel.stat().st_size <= part_bytes:
        return
    with wheel.open("rb") as stream:
        for index, part in enumerate(iter(lambda: stream.read(part_bytes), b"")):
            wheel.with_name(f"{wheel.name}.part{index:02d}").write_bytes(part)
    wheel.unlink()


def _join(folder: Path) -> None:
    """Put wheels together again that `_cut` cut for machines with a limit on one transfer."""
    for first in sorted(folder.glob("*.whl.part00")):
        wheel = first.with_suffix("")
        with wheel.open("wb") as stream:
            for part in sorted(folder.glob(f"{wheel.name}.part*")):
                stream.write(part.read_bytes())


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
