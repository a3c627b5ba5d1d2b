"""Choice of MuJoCo's off-screen OpenGL back end, made before MuJoCo is imported."""

from __future__ import annotations

import ctypes.util
import os
import sys

__all__ = ["choose_gl_backend"]


def choose_gl_backend() -> str:
    """Set ``MUJOCO_GL`` to a back end whose library is present, unless the user has set it.

    MuJoCo reads the variable once, when it is first imported, so this runs before that import.

    Returns:
        The value of ``MUJOCO_GL``: ``"egl"``, ``"osmesa"``, ``"disable"`` where neither library
        is there, the user's own choice, or ``""`` on systems where MuJoCo needs no choice.
    """
    chosen = os.environ.get("MUJOCO_GL", "")
    if chosen or not sys.platform.startswith("linux"):
        return chosen
    if ctypes.util.find_library("EGL"):
        backend = "egl"
    elif ctypes.util.find_library("OSMesa"):
        backend = "osmesa"
    else:
        backend = "disable"
    os.environ["MUJOCO_GL"] = backend
    return backend
