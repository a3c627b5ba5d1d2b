"""Sheets lifted and folded by a robot arm, as point clouds -> PointClouds.

``TRIAL.npz``: ``points`` (M, 3) m of all frames, ``frame_start`` (T + 1,), and where there
``compensation`` (3,), the shift that the source applied. ``ACTION_setup.npz`` beside it, where
ACTION is the trial's name up to the first underscore: ``mesh_vertices`` (N, 3), ``mesh_faces``,
``driven_vertex``, ``fixed_vertices``, ``gripper_commanded`` (T, 3), ``nominal_dt``
s, ``table_z`` m. The data come from DiffCloud (Sundaresan, Antonova, Bohg, arXiv 2204.03139).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.clouds import PointClouds
from recon.npz import file_sha256, npz_keys, number_array, read_npz

__all__ = ["matches", "read"]

_SETUP = ("mesh_vertices", "mesh_faces", "driven_vertex", "gripper_commanded", "nominal_dt")
_TRIAL = ("points", "frame_start")


def matches(path: Path) -> bool:
    """Whether a file has this layout.

    Args:
        path: any path.

    Returns:
        True when it is an ``.npz`` that holds ``points`` and ``frame_start``.
    """
    return {"points", "frame_start"} <= npz_keys(path)


def read(path: str | Path) -> PointClouds:
    """Read one trial.

    Args:
        path: the trial's file.

    Returns:
        Its clouds; the commanded gripper path is the driven path.

    Raises:
        DataError: if the file or its setup is damaged or missing.
    """
    path = Path(path).expanduser()
    arrays = read_npz(path)
    setup_path = path.with_name(f"{path.stem.partition('_')[0]}_setup.npz")
    setup = read_npz(setup_path)
    for file, held, keys in ((setup_path, setup, _SETUP), (path, arrays, _TRIAL)):
        lost = [key for key in keys if key not in held]
        if lost:
            raise DataError("an array is missing", where=f"{file}: {lost[0]}", expected="cloth_pcd")
    points = number_array(arrays["points"], np.float32, ("M", 3), f"{path}: points")
    bounds = number_array(arrays["frame_start"], np.int64, ("T + 1",), f"{path}: frame_start")
    if (
        len(bounds) < 2
        or bounds[0] != 0
        or bounds[-1] != len(points)
        or (np.diff(bounds) < 0).any()
    ):
        raise DataError(
            f"from {bounds[:1]} to {bounds[-1:]}",
            where=f"{path}: frame_start",
            expected=f"rising from 0 to {len(points)}",
        )
    frames = len(bounds) - 1
    dt = float(number_array(setup["nominal_dt"], np.float64, (), f"{setup_path}: nominal_dt"))
    table = setup.get("table_z")
    return PointClouds(
        name=path.stem,
        # A float32 time step is rounded to microseconds: 0.1 was meant, not 0.1000000015.
        time_s=np.arange(frames) * round(dt, 6),
        clouds=tuple(points[bounds[t] : bounds[t + 1]] for t in range(frames)),
        driven_path=setup["gripper_commanded"],
        mesh_vertices=setup["mesh_vertices"],
        mesh_faces=setup["mesh_faces"],
        driven_vertex=np.atleast_1d(setup["driven_vertex"]),
        fixed_vertex=np.atleast_1d(setup.get("fixed_vertices", np.zeros(0, np.int64))),
        table_z_m=None if table is None else float(table),
        cameras=_cameras(path.with_name("cameras.json")),
        source_sha256=file_sha256(path),
    )


def _cameras(path: Path) -> tuple[PinholeCamera, ...]:
    if not path.is_file():
        return ()
    try:
        found = []
        for name, entry in json.loads(path.read_text("utf-8")).items():
            fx, fy, cx, cy = (float(entry[key]) for key in ("fx", "fy", "cx", "cy"))
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
            T = np.eye(4)
            T[:3] = np.array(entry["cam_to_robot_3x4"], np.float64)
            size = int(entry["width"]), int(entry["height"])
            found.append(PinholeCamera(str(name), "", *size, K, T))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{error!r}", where=str(path), expected="cloth_pcd's cameras") from error
    return tuple(found)
