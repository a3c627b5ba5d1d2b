"""Recordings that are less than an episode and other than tracks: clouds over time, still views."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.npz import number_array
from recon.tracks import checked_time

__all__ = ["MultiView", "PointClouds"]


@dataclass(frozen=True, eq=False)
class PointClouds:
    """What cameras saw of one object over time, without knowing which point is which.

    Arrays are copied and made read-only.

    Attributes:
        name: which recording this is.
        time_s: stamps [s], shape (T,), float64, increasing.
        clouds: T clouds [m], each (M_t, 3), float32; a cloud may be empty.
        driven_path: the driven point [m], shape (T, 3), float64.
        mesh_vertices: the object at the start [m], shape (N, 3), or None.
        mesh_faces: triangles, shape (F, 3), int64, or None.
        driven_vertex: vertices that follow ``driven_path``, shape (K,), int64.
        fixed_vertex: vertices that are held in place, shape (L,), int64.
        table_z_m: height of the table [m], or None.
        gravity: [m/s^2], shape (3,).
        cameras: that saw it; may be empty.
        source_sha256: of the file.
    """

    name: str
    time_s: np.ndarray
    clouds: tuple[np.ndarray, ...]
    driven_path: np.ndarray
    mesh_vertices: np.ndarray | None = None
    mesh_faces: np.ndarray | None = None
    driven_vertex: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    fixed_vertex: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    table_z_m: float | None = None
    gravity: np.ndarray = field(default_factory=lambda: np.array([0.0, 0.0, -9.81]))
    cameras: tuple[PinholeCamera, ...] = ()
    source_sha256: str = ""

    def __post_init__(self) -> None:
        frames, name = len(self.clouds), self.name
        values: dict[str, Any] = {"time_s": checked_time(self.time_s, name, frames)}
        path = number_array(self.driven_path, np.float64, (frames, 3), f"{name}: driven_path")
        values["driven_path"] = _finite(path, f"{name}: driven_path")
        clouds = []
        for frame, cloud in enumerate(self.clouds):
            where = f"{name}: cloud of frame {frame}"
            clouds.append(_finite(number_array(cloud, np.float32, ("M", 3), where), where))
        if (self.mesh_vertices is None) != (self.mesh_faces is None):
            raise DataError("half a mesh", where=name, expected="vertices and faces, or neither")
        count = 0
        if self.mesh_vertices is not None:
            where = f"{name}: mesh_vertices"
            vertices = number_array(self.mesh_vertices, np.float64, ("N", 3), where)
            values["mesh_vertices"], count = _finite(vertices, where), len(vertices)
            values["mesh_faces"] = _indices(self.mesh_faces, ("F", 3), count, f"{name}: mesh_faces")
        for key in ("driven_vertex", "fixed_vertex"):
            values[key] = _indices(getattr(self, key), ("K",), count, f"{name}: {key}")
        values["gravity"] = number_array(self.gravity, np.float64, (3,), f"{name}: gravity")
        for array in (*values.values(), *clouds):
            array.setflags(write=False)
        for key, value in values.items():
            object.__setattr__(self, key, value)
        object.__setattr__(self, "clouds", tuple(clouds))

    @property
    def frame_count(self) -> int:
        """T, the number of clouds."""
        return len(self.clouds)


@dataclass(frozen=True, eq=False)
class MultiView:
    """One instant seen by several calibrated cameras.

    Attributes:
        name: which recording this is.
        cameras: C of them.
        images: per camera RGB, shape (H, W, 3), uint8.
        masks: per camera the object, shape (H, W), bool.
        points: the object's cloud in the world [m], shape (M, 3), float32.
        colors: of the cloud, RGB, shape (M, 3), uint8.
        source_sha256: of the file with the cloud.
    """

    name: str
    cameras: tuple[PinholeCamera, ...]
    images: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...]
    points: np.ndarray
    colors: np.ndarray
    source_sha256: str = ""

    def __post_init__(self) -> None:
        if not len(self.cameras) == len(self.images) == len(self.masks) > 0:
            counts = f"{len(self.cameras)}, {len(self.images)}, {len(self.masks)}"
            raise DataError(
                f"cameras, images, masks: {counts}", where=self.name, expected="as many of each"
            )
        for camera, image, mask in zip(self.cameras, self.images, self.masks):
            size = (camera.height, camera.width)
            if image.shape != (*size, 3) or mask.shape != size:
                raise DataError(
                    f"image {image.shape}, mask {mask.shape}",
                    where=f"{self.name}: {camera.name}",
                    expected=f"(H, W) = {size}",
                )
        if self.points.shape != self.colors.shape or self.points.shape[1:] != (3,):
            raise DataError(
                f"points {self.points.shape}, colors {self.colors.shape}",
                where=self.name,
                expected="(M, 3) each",
            )


def _finite(array: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(array).all():
        raise DataError("not finite", where=where, expected="metres")
    return array


def _indices(value: Any, shape: tuple[Any, ...], count: int, where: str) -> np.ndarray:
    index = number_array(value, np.int64, shape, where)
    if index.size and not 0 <= index.min() <= index.max() < count:
        raise DataError(
            f"indices {index.min()} to {index.max()}", where=where, expected=f"0 to {count - 1}"
        )
    return index
