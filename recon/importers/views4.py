"""One instant of an object in several calibrated views -> MultiView.

``cameras.json`` with a list ``cameras`` (``image``, ``mask``, ``width``, ``height``, ``K``,
``cam_to_world_R``, ``cam_to_world_t``), the images and masks that it names, and ``pcd.ply``, the
object's coloured cloud. The world's z points into the table there; here it points up. The layout is
that of the gs-dynamics demo (Zhang, Zhang, Li, arXiv 2410.18912) after its conversion.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import trimesh

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts, apply_T
from recon.clouds import MultiView
from recon.images import color_file
from recon.importers.world_axis import WorldZ, turn_to_z_up
from recon.npz import file_sha256

__all__ = ["matches", "read"]


def matches(path: Path) -> bool:
    """Whether a folder has this layout.

    Args:
        path: any path.

    Returns:
        True when it holds ``pcd.ply`` and a ``cameras.json`` with a list of views.
    """
    if not (path / "pcd.ply").is_file():
        return False
    try:
        return bool(_views(path))
    except DataError:
        return False


def read(path: str | Path, *, world_z: WorldZ = "auto") -> MultiView:
    """Read the views.

    Args:
        path: the folder.
        world_z: which way z points in the files; ``auto`` tells it by the cameras, which stand
            above the table.

    Returns:
        The views, in a world with z up.

    Raises:
        DataError: if a file is missing or damaged.
    """
    folder = Path(path).expanduser()
    views = _views(folder)
    file = folder / "cameras.json"
    try:
        poses = np.stack(
            [T_from_parts(view["cam_to_world_R"], view["cam_to_world_t"]) for view in views]
        )
        turn = turn_to_z_up(world_z, poses[:, 2, 3], str(file))
        cameras = tuple(
            PinholeCamera(
                f"view{number}", "", int(view["width"]), int(view["height"]),
                np.array(view["K"], np.float64), turn @ poses[number],
            )
            for number, view in enumerate(views)
        )  # fmt: skip
        images = tuple(color_file(folder / str(view["image"])) for view in views)
        masks = tuple(_mask(folder / str(view["mask"])) for view in views)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{error!r}", where=str(file), expected="image, mask, K, pose") from error
    points, colors = _cloud(folder / "pcd.ply")
    return MultiView(
        name=folder.name,
        cameras=cameras,
        images=images,
        masks=masks,
        points=apply_T(turn, points).astype(np.float32),
        colors=colors,
        source_sha256=file_sha256(folder / "pcd.ply"),
    )


def _views(folder: Path) -> list[dict[str, Any]]:
    file = folder / "cameras.json"
    try:
        views = json.loads(file.read_text("utf-8"))["cameras"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{error!r}", where=str(file), expected="a list of cameras") from error
    if not isinstance(views, list) or not all(isinstance(v, dict) and "mask" in v for v in views):
        raise DataError("no list of views", where=f"{file}: cameras", expected="image, mask, K ...")
    return views


def _mask(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise DataError("no image", where=str(path), expected="a PNG")
    return pixels > 127


def _cloud(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        cloud: Any = trimesh.load(path, file_type="ply", process=False)
        points = np.array(cloud.vertices, np.float64)
        colors = np.array(cloud.colors, np.uint8)[:, :3]
    except Exception as error:  # trimesh raises whatever its parsers stumble over
        raise DataError(f"{error!r}", where=str(path), expected="a PLY of points") from error
    return points, colors
