"""librealsense loads, with PyPI's libusb where the system has none."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("pyrealsense2") is None, reason="pyrealsense2 is not installed"
)


def test_loads_in_a_fresh_process() -> None:
    """The library answers how many cameras there are (a machine for tests may have none)."""
    program = (
        "from recon.capture.librealsense import load_librealsense\n"
        "rs = load_librealsense()\n"
        "print(len(rs.context().query_devices()) >= 0, load_librealsense() is rs)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_absence_says_what_to_do() -> None:
    """Without the wheel the error names it and the fix; -S -I: a Python without its packages."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from recon.capture.librealsense import load_librealsense\n"
        "from physgym.errors import DeviceError\n"
        "try:\n load_librealsense()\n"
        "except DeviceError as error:\n print(error)"
    )

    repository = str(Path(__file__).resolve().parents[3])
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", program, repository], capture_output=True, text=True
    )
    assert "pyrealsense2 is not installed" in done.stdout, done.stderr
    assert "make setup" in done.stdout
