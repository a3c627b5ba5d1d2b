"""A plain folder of images with a cameras file -> Episode.

``cameras.json`` or ``cameras.yaml``::

    fps: 30                      # or times_s: [0.0, 0.033, ...], for all cameras
    world_z: up                  # or down; default up
    cameras:
      left:
        K: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]        # or fx, fy, cx, cy
        T_world_cam: 4 x 4                              # camera to world, optical frame
        distortion: [k1, k2, p1, p2, k3]                # optional, as serial

Images lie in ``left/color/`` or ``color/left/``, depth (optional) in ``left/depth/`` or
``depth/left/``: 16-bit PNG or ``.npy`` in mm (integers) or m (floats). Files are taken in the order
of the numbers in their names; the number of a file, counted from the smallest, is its frame.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.episode_write import EpisodeWriter
from recon.images import color_file
from recon.importers.world_axis import turn_to_z_up
from recon.npz import read_npy
from recon.tracks import PhysGymWarning

__all__ = ["convert", "matches"]

_COLOR = (".png", ".jpg", ".jpeg")
_DEPTH = (".png", ".npy")
_FARTHEST_M = 20.0  # apart; a room is smaller
# Mean squared sine between the cameras' axes and their common direction, below which these are too
# parallel to tell where they meet: 13 degrees.
_TURNED = 0.05
_KNOWN = {"K", "fx", "fy", "cx", "cy", "T_world_cam", "distortion", "serial", "width", "height"}


def matches(path: Path) -> bool:
    """Whether a folder has this layout.

    Args:
        path: any path.

    Returns:
        True when it holds a cameras file and images of a camera that the file names.
    """
    try:
        entries = _entries(_cameras_file(path))[1]
        return any(_image_folder(path, name, "color") is not None for name in entries)
    except DataError:
        return False


def convert(source: str | Path, out: str | Path) -> Path:
    """Write the images as an episode, in a world with z up.

    Args:
        source: the folder.
        out: the episode's folder; must not exist.

    Returns:
        The episode's folder.

    Raises:
        DataError: if the cameras file or an image cannot be used.
    """
    folder = Path(source).expanduser()
    file = _cameras_file(folder)
    content, entries = _entries(file)
    turn = turn_to_z_up(content.get("world_z", "up"), np.zeros(0), f"{file}: world_z")
    found = {name: _files(folder, name, "color", _COLOR) for name in entries}
    depth = {name: _files(folder, name, "depth", _DEPTH) for name in entries}
    for name, files in found.items():
        if not files:
            raise DataError("no images", where=f"{folder}: {name}", expected=f"{name}/color/0.png")
    for name, files in depth.items():
        lost = set(files) ^ set(found[name]) if files else ()
        if lost:
            text = f"{folder}: {name}: {len(lost)} colour or depth images have no partner"
            warnings.warn(text, PhysGymWarning, stacklevel=2)
    cameras = [_camera(file, name, entries[name], found[name], turn) for name in entries]
    _check_places(cameras, str(file))
    first = min(min(files) for files in found.values())
    last = max(max(files) for files in found.values())
    times = _times(content, last - first + 1, str(file))
    kept = {"source": "image folder", "folder": folder.name}
    with EpisodeWriter(out, cameras, name=folder.name, metadata=kept) as writer:
        for number in range(first, last + 1):
            for camera in cameras:
                if number not in found[camera.name]:
                    continue
                rgb = color_file(found[camera.name][number])
                path = depth[camera.name].get(number)
                pixels = None if path is None else _depth_pixels(path)
                writer.write_frame(camera.name, float(times[number - first]), rgb, pixels)
    return writer.path


def _check_places(cameras: list[PinholeCamera], where: str) -> None:
    """Refuse poses that cannot be camera to world, in metres, with z along the view."""
    if len(cameras) < 2:
        return
    place = np.array([camera.position for camera in cameras])
    way = np.array([camera.T_world_cam[:3, 2] for camera in cameras])
    apart_m = float(np.ptp(place, axis=0).max())
    if apart_m > _FARTHEST_M:
        raise DataError(
            f"cameras are {apart_m:.0f} m apart",
            where=f"{where}: T_world_cam",
            expected=f"metres, at most {_FARTHEST_M:.0f}",
            fix="divide the translations by 1000 if they are millimetres",
        )
    across = np.eye(3) - way[:, :, None] * way[:, None, :]
    square = across.sum(axis=0)
    if np.linalg.eigvalsh(square)[0] < _TURNED * len(cameras):
        return
    middle = np.linalg.solve(square, np.einsum("cij,cj->i", across, place))
    if (((middle - place) * way).sum(axis=1) < 0).all():
        raise DataError(
            "what all cameras look at lies behind every one of them",
            where=f"{where}: T_world_cam",
            expected="camera to world, x right, y down, z forward",
            fix="invert the matrices if they map the world to the camera; negate their second and "
            "third columns if they are of OpenGL or Blender, where cameras look along -z",
        )


def _cameras_file(folder: Path) -> Path:
    for name in ("cameras.json", "cameras.yaml", "cameras.yml"):
        if (folder / name).is_file():
            return folder / name
    raise DataError("no cameras file", where=str(folder), expected="cameras.json or cameras.yaml")


def _entries(file: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    try:
        text = file.read_text("utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        cameras = content["cameras"]
        entries = {str(name): dict(entry) for name, entry in cameras.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise DataError(
            f"it cannot be read: {error!r}",
            where=str(file),
            expected="cameras: NAME: K, T_world_cam",
        ) from error
    return content, entries


def _image_folder(folder: Path, name: str, part: str) -> Path | None:
    places = (folder / name / part, folder / part / name)
    return next((place for place in places if place.is_dir()), None)


def _files(folder: Path, name: str, part: str, endings: tuple[str, ...]) -> dict[int, Path]:
    place = _image_folder(folder, name, part)
    found: dict[int, Path] = {}
    for path in sorted(place.iterdir()) if place else ():
        numbers = re.findall(r"\d+", path.stem)
        if path.suffix.lower() in endings and numbers:
            other = found.setdefault(int(numbers[-1]), path)
            if other != path:
                raise DataError(
                    f"{other.name} and {path.name} are both frame {numbers[-1]}",
                    where=str(place),
                    expected="one file per frame",
                )
    return found


def _camera(
    file: Path, name: str, entry: dict[str, Any], files: dict[int, Path], turn: np.ndarray
) -> PinholeCamera:
    where = f"{file}: {name}"
    unknown = sorted(set(entry) - _KNOWN)
    if unknown or "T_world_cam" not in entry:
        raise DataError(f"fields {sorted(entry)}", where=where, expected=f"of {sorted(_KNOWN)}")
    height, width = color_file(files[min(files)]).shape[:2]
    told = entry.get("width", width), entry.get("height", height)
    if told != (width, height):  # then K is that of other images
        raise DataError(
            f"images of {width} x {height} pixels",
            where=f"{where}: width, height",
            expected=f"{told[0]} x {told[1]}, which K is for",
            fix="scale K to the size of the images",
        )
    try:
        if "K" in entry:
            K = np.array(entry["K"], np.float64)
        else:
            fx, fy, cx, cy = (float(entry[key]) for key in ("fx", "fy", "cx", "cy"))
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        T = np.array(entry["T_world_cam"], np.float64)
        if T.shape == (3, 4):
            T = np.concatenate([T, [[0.0, 0.0, 0.0, 1.0]]])
        if T.shape != (4, 4):
            raise ValueError(f"T_world_cam of shape {T.shape}")
        distortion = np.array(entry.get("distortion", np.zeros(5)), np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{error!r}", where=where, expected="K (3 x 3), T_world_cam") from error
    serial = str(entry.get("serial", ""))
    return PinholeCamera(name, serial, width, height, K, turn @ T, distortion)


def _times(content: dict[str, Any], frames: int, where: str) -> np.ndarray:
    given = content.get("times_s")
    try:
        if given is None:
            fps = float(content["fps"])
            times = np.arange(frames) / fps
        else:
            times = np.array(given, np.float64)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(f"{error!r}", where=where, expected="fps, or times_s") from error
    rising = bool((np.diff(times) > 0).all()) and np.isfinite(times).all()
    if times.shape != (frames,) or not rising or times[0] < 0:
        raise DataError(
            f"{times.shape} stamps", where=f"{where}: times_s", expected=f"{frames}, increasing"
        )
    return times


def _depth_pixels(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        depth: np.ndarray | None = read_npy(path, "mm or m")
    else:
        depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.ndim != 2 or depth.dtype.kind not in "uif" or depth.dtype == np.uint8:
        what = "no image" if depth is None else f"{depth.dtype}, shape {depth.shape}"
        raise DataError(what, where=str(path), expected="(H, W): 16-bit mm, or floats in m")
    if depth.dtype.kind == "f":
        return np.asarray(depth, np.float32)
    return np.where((depth > 0) & (depth < 65536), depth, 0).astype(np.uint16)
