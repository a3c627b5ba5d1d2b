"""The one door to librealsense: its wheel needs a libusb that many machines do not have."""

from __future__ import annotations

import ctypes
import functools
import importlib
import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType

from physgym.doctor import Probe
from physgym.errors import DeviceError

__all__ = ["PROBE", "frames_in_file", "load_librealsense"]

_LIBUSB = "libusb-1.0.so.0"
_FIX = "make setup (or: pip install 'physgym[cameras]')"


@functools.cache
def load_librealsense() -> ModuleType:
    """Import pyrealsense2, with the libusb of PyPI's `libusb-package` where the system has none.

    Returns:
        The module `pyrealsense2`.

    Raises:
        DeviceError: if pyrealsense2, or a libusb that it can use, is not there.
    """
    _preload_libusb()
    try:
        return importlib.import_module("pyrealsense2")
    except ModuleNotFoundError as error:
        raise DeviceError(
            "pyrealsense2 is not installed",
            where="recon.capture.librealsense",
            expected="the wheel of librealsense (Linux on x86-64, or Windows)",
            fix=f"{_FIX}; on other machines build librealsense with its Python wrapper",
        ) from error
    except ImportError as error:
        raise DeviceError(
            f"pyrealsense2 does not load: {error}",
            where="recon.capture.librealsense",
            expected=f"{_LIBUSB} from the system or from the package libusb-package",
            fix=_FIX,
        ) from error


def frames_in_file(file: Path) -> int | None:
    """Frames in a recording of librealsense, also in one that grows.

    Args:
        file: a ``.db3`` (sqlite, with the tables of rosbag2).

    Returns:
        Frames of the stream that has the fewest; None when it is no such file.
    """
    query = (
        "SELECT COUNT(*) FROM messages JOIN topics ON topics.id = messages.topic_id "
        "WHERE topics.name LIKE '%/image/metadata' GROUP BY topics.id"
    )
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as base:
            return min((int(count) for (count,) in base.execute(query)), default=None)
    except sqlite3.DatabaseError:
        return None


def _preload_libusb() -> None:
    try:
        ctypes.CDLL(_LIBUSB, mode=ctypes.RTLD_GLOBAL)
        return  # the system's own knows the system's udev
    except OSError:
        pass
    try:
        libusb_package = importlib.import_module("libusb_package")
    except ModuleNotFoundError:
        return  # the import that follows says what is missing
    path = libusb_package.get_library_path()
    if path is not None:
        # RTLD_GLOBAL: the loader then resolves pyrealsense2's need of this soname from here.
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _probe() -> str:
    librealsense = load_librealsense()
    cameras = len(librealsense.context().query_devices())
    return f"{librealsense.__version__}, {cameras} camera(s) connected"


PROBE = Probe(
    name="librealsense",
    run=_probe,
    switches_off="recording from RealSense cameras",
    fix=_FIX,
)
