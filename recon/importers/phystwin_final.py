"""A processed PhysTwin case (``final_data.pkl``), read and turned to z up; also -> Tracks.

``object_points`` (T, N, 3) m, ``object_visibilities`` (T, N), ``object_motions_valid`` (T, N; row t
is the motion from t to t + 1), ``object_colors``, ``controller_points`` (T, K, 3), static
``surface_points`` and ``interior_points`` of frame 0. Entries that are not visible are zeros there.
The rest shape is frame 0, as the method has it. `phystwin_perception` makes it fit for the methods
that learn from episodes. Layout: Jiang et al., "PhysTwin" (2503.17973).
"""

from __future__ import annotations

import json
import mmap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from physgym.errors import DataError
from recon.importers.phystwin_case import case_poses, read_metadata, told_world_z
from recon.importers.world_axis import WorldZ, turn_to_z_up
from recon.npz import file_sha256, number_array
from recon.pickles import read_pickle
from recon.tracks import PhysGymWarning, Tracks

__all__ = ["PhysTwinData", "data_file", "matches", "read", "read_case"]

_USUAL_FPS = 30.0


@dataclass(frozen=True, eq=False)
class PhysTwinData:
    """What a processed case holds, with z up.

    Attributes:
        tracks: N object points, then K controller points, which are driven.
        motion_valid: whether an object point's motion from this frame to the next can be trusted,
            shape (T, N), bool.
        colors: RGB of the object points, 0 to 1, shape (T, N, 3), or None.
        surface_points: of the shape prior at frame 0 [m], shape (P, 3); may be empty.
        interior_points: of the shape prior at frame 0 [m], shape (P, 3); may be empty.
        train_frames: how many frames from the start are for training.
        T_up_world: the turn from the case's world to this one, shape (4, 4).
    """

    tracks: Tracks
    motion_valid: np.ndarray
    colors: np.ndarray | None
    surface_points: np.ndarray
    interior_points: np.ndarray
    train_frames: int
    T_up_world: np.ndarray

    @property
    def started(self) -> np.ndarray:
        """Which object points were seen in frame 0, shape (N,), bool."""
        return self.tracks.visible[0, : self.motion_valid.shape[1]]


def matches(path: Path) -> bool:
    """Whether a folder or file is a processed case.

    Args:
        path: any path.

    Returns:
        True when it is, or holds, a pickle that names ``object_points``.
    """
    file = data_file(path)
    if file.suffix != ".pkl" or not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return view.find(b"object_points") >= 0


def read(path: Path) -> list[Tracks]:
    """The tracks of a case.

    Args:
        path: the case's folder, or ``final_data.pkl``.

    Returns:
        One recording.

    Raises:
        DataError: as `read_case`.
    """
    return [read_case(path).tracks]


def read_case(
    path: str | Path, *, world_z: WorldZ = "auto", fps: float | None = None
) -> PhysTwinData:
    """Read a processed case.

    Args:
        path: the case's folder, or ``final_data.pkl``.
        world_z: which way the case's z points; ``auto`` takes ``world_z`` of ``metadata.json``, and
            else tells it by the cameras when ``calibrate.pkl`` is there, else by the side of z = 0
            that the object is on.
        fps: frames per second; None takes ``metadata.json``, else 30.

    Returns:
        The case, with z up.

    Raises:
        DataError: if a key is missing, a shape is wrong, or nothing tells which way z points.
    """
    file = data_file(Path(path))
    content = read_pickle(file)
    if not isinstance(content, dict):
        raise DataError(f"a {type(content).__name__}", where=str(file), expected="a dict")
    points = _numbers(content, "object_points", ("T", "N", 3), file)
    frames, count = points.shape[:2]
    if not frames or not count:
        raise DataError(
            f"shape {points.shape}", where=f"{file}: object_points", expected="frames and points"
        )
    seen = _numbers(content, "object_visibilities", (frames, count), file) != 0
    seen &= np.isfinite(points).all(-1) & (points != 0).any(-1)
    valid = _numbers(content, "object_motions_valid", (frames, count), file) != 0
    driven = _numbers(content, "controller_points", (frames, "K", 3), file)
    if not np.isfinite(driven).all():
        raise DataError("not finite", where=f"{file}: controller_points", expected="known always")
    T_up_world = _turn(world_z, file, points[seen][:, 2])
    turn = T_up_world[:3, :3]
    points[~seen] = np.nan
    everything = np.concatenate([points, driven], axis=1) @ turn.T
    colors = content.get("object_colors")
    tracks = Tracks(
        time_s=np.arange(frames) / _rate(file, fps),
        position=everything,
        visible=np.concatenate([seen, np.ones(driven.shape[:2], bool)], axis=1),
        driven_index=np.arange(count, everything.shape[1]),
        name=file.parent.name if file.name == "final_data.pkl" else file.stem,
        rest_position=everything[0] if seen[0].all() else None,
        source_sha256=file_sha256(file),
    )
    return PhysTwinData(
        tracks=tracks,
        motion_valid=valid,
        colors=None if colors is None else _numbers(content, "object_colors", points.shape, file),
        surface_points=_points(content, "surface_points", file) @ turn.T,
        interior_points=_points(content, "interior_points", file) @ turn.T,
        train_frames=_train_frames(file.parent, frames),
        T_up_world=T_up_world,
    )


def data_file(path: Path) -> Path:
    """The file of a processed case.

    Args:
        path: the file, or its folder.
    """
    path = path.expanduser().absolute()
    return path / "final_data.pkl" if path.is_dir() else path


def _numbers(content: dict[Any, Any], key: str, shape: tuple[Any, ...], file: Path) -> np.ndarray:
    if key not in content:
        raise DataError(
            f"keys {sorted(map(str, content))}", where=f"{file}: {key}", expected=f"shape {shape}"
        )
    return number_array(content[key], np.float64, shape, f"{file}: {key}")


def _points(content: dict[Any, Any], key: str, file: Path) -> np.ndarray:
    """Points of the shape prior; none where there was no prior."""
    if content.get(key) is None or np.size(content[key]) == 0:
        return np.zeros((0, 3))
    points = _numbers(content, key, ("P", 3), file)
    if not np.isfinite(points).all():
        raise DataError("not finite", where=f"{file}: {key}", expected="metres at frame 0")
    return points


def _turn(world_z: WorldZ, file: Path, heights: np.ndarray) -> np.ndarray:
    """The turn to z up, told by the cameras where they are known, else by the object's points."""
    if (file.parent / "calibrate.pkl").is_file():
        heights = case_poses(file.parent)[:, 2, 3]
    if (file.parent / "metadata.json").is_file():
        world_z = told_world_z(world_z, read_metadata(file.parent))
    return turn_to_z_up(world_z, heights, str(file))


def _rate(file: Path, fps: float | None) -> float:
    if fps is None and (file.parent / "metadata.json").is_file():
        fps = float(read_metadata(file.parent)["fps"])
    if fps is None:
        text = f"{file}: no metadata.json beside it; {_USUAL_FPS:g} frames per second taken"
        warnings.warn(text, PhysGymWarning, stacklevel=4)
        fps = _USUAL_FPS
    if not 0 < fps < 1e4:
        raise DataError(f"{fps}", where="fps", expected="frames per second")
    return fps


def _train_frames(folder: Path, frames: int) -> int:
    path = folder / "split.json"
    if not path.is_file():
        return int(0.7 * frames)  # the method's own split
    try:
        count = int(json.loads(path.read_text("utf-8"))["train"][1])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{error!r}", where=str(path), expected="train: [0, frames]") from error
    if not 0 < count <= frames:
        raise DataError(f"{count} train frames", where=str(path), expected=f"1 to {frames}")
    return count
