"""What may import what, what each module exports, and what starting up must not load."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("physgym", "recon", "policies", "physgym_ros")
HEAVY = ("torch", "warp", "mujoco", "rclpy", "matplotlib", "scipy", "numpy", "tyro")


def modules_of(package: str) -> list[str]:
    found = find_spec(package)
    if found is None or found.submodule_search_locations is None:
        return []
    walked = pkgutil.walk_packages(found.submodule_search_locations, prefix=f"{package}.")
    return [package, *(module.name for module in walked if not module.name.endswith("__main__"))]


def test_layers_hold() -> None:
    """The import-linter contracts of pyproject.toml are kept."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_all_resolves(package: str) -> None:
    """Every public module has __all__, every name in it exists, none stands in it twice."""
    if package == "physgym_ros" and find_spec("rclpy") is None:
        pytest.skip("rclpy is not installed")
    names = modules_of(package)
    assert names, f"{package} is not importable"
    for name in names:
        if any(part.startswith("_") for part in name.split(".")):
            continue
        module = importlib.import_module(name)
        if Path(module.__file__ or "").name == "__init__.py" and not hasattr(module, "__all__"):
            continue  # a package that only holds modules
        exported = getattr(module, "__all__", None)
        assert exported is not None, f"{name} has no __all__"
        assert len(set(exported)) == len(exported), f"{name}.__all__ names one thing twice"
        absent = [entry for entry in exported if not hasattr(module, entry)]
        assert not absent, f"{name}.__all__ names what is not there: {absent}"


@pytest.mark.parametrize(
    "program",
    [
        "import physgym",
        "import physgym.errors, physgym.doctor, physgym.probes, physgym.files",
        "import recon, recon.capture.librealsense, policies",
        "from physgym.cli import main\ntry:\n main(['--help'])\nexcept SystemExit:\n pass",
        "from physgym.cli import main\ntry:\n main(['--version'])\nexcept SystemExit:\n pass",
    ],
)
def test_start_loads_nothing_heavy(program: str) -> None:
    """The first import and the first help answer at once: no solver, no torch, no ROS, no NumPy."""
    report = f"\nimport sys\nprint('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program + report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"
