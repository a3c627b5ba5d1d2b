"""PinholeCamera: where a camera is, how it sees, and the way back from depth to the world.

The camera frame is the optical frame: x right, y down, z forward. Pixel coordinates are OpenCV's:
``(u, v) = (0, 0)`` is the centre of the top left pixel, u to the right and v down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from physgym.errors import DataError
from physgym.frames import apply_T, inverse_T

__all__ = ["PinholeCamera"]

_RIGID_TOLERANCE = 1e-5  # extrinsics pass through float32 and through YAML with 6 digits
_UNDISTORT_ROUNDS = 20  # of OpenCV's fixed-point iteration; it gains about a digit a round


@dataclass(frozen=True, eq=False)
class PinholeCamera:
    """One calibrated camera.

    Attributes:
        name: what people call it; names topics and files.
        serial: serial number of the device, ``""`` where there is none.
        width: image width W in pixels.
        height: image height H in pixels.
        K: ``[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]`` in pixels, shape (3, 3).
        T_world_cam: maps optical-frame coordinates to world coordinates [m], shape (4, 4).
        distortion: OpenCV's ``k1, k2, p1, p2, k3`` (Brown, "Close-range camera calibration", 1971),
            shape (5,).
    """

    name: str
    serial: str
    width: int
    height: int
    K: np.ndarray
    T_world_cam: np.ndarray
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(5))

    def __post_init__(self) -> None:
        """Copy the arrays as read-only float64 and refuse what is no camera.

        Raises:
            DataError: naming the field that does not fit.
        """
        for name, shape in (("K", (3, 3)), ("T_world_cam", (4, 4)), ("distortion", (5,))):
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise self._bad(name, value.tolist(), f"finite numbers of shape {shape}")
            value.flags.writeable = False
            object.__setattr__(self, name, value)
        if self.width < 1 or self.height < 1:
            raise self._bad("width, height", (self.width, self.height), "at least one pixel")
        fx, fy = self.K[0, 0], self.K[1, 1]
        plain = np.array([[fx, 0, self.K[0, 2]], [0, fy, self.K[1, 2]], [0, 0, 1]])
        if min(fx, fy) <= 0 or not np.array_equal(plain, self.K):
            expected = "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive fx and fy"
            raise self._bad("K", self.K.tolist(), expected)
        turn = self.T_world_cam[:3, :3]
        rigid = np.allclose(turn @ turn.T, np.eye(3), atol=_RIGID_TOLERANCE)
        if not rigid or np.linalg.det(turn) < 0 or (self.T_world_cam[3] != [0, 0, 0, 1]).any():
            raise self._bad("T_world_cam", self.T_world_cam.tolist(), "a rigid transform")

    @property
    def position(self) -> np.ndarray:
        """Optical centre in the world [m], shape (3,)."""
        return self.T_world_cam[:3, 3].copy()

    def project(self, points: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Where world points fall in the image.

        Args:
            points: world coordinates [m], shape (N, 3).

        Returns:
            Pixels (u, v), shape (N, 2), NaN for points that are not in front of the camera, and
            depth along the optical axis [m], shape (N,). Points outside the image are not cut off.
        """
        in_camera = apply_T(inverse_T(self.T_world_cam), np.asarray(points, dtype=np.float64))
        depth = in_camera[:, 2]
        ahead = depth > 0
        flat = in_camera[:, :2] / np.where(ahead, depth, 1.0)[:, None]
        pixels = self._distort(flat) * [self.K[0, 0], self.K[1, 1]] + self.K[:2, 2]
        pixels[~ahead] = np.nan
        return pixels, depth

    def visible(self, pixels: np.ndarray) -> np.ndarray:
        """Which pixel coordinates fall inside the image.

        Args:
            pixels: (u, v) as `project` returns them, shape (N, 2).

        Returns:
            Shape (N,), bool.
        """
        low, high = -0.5, np.array([self.width, self.height]) - 0.5
        return np.asarray(((pixels >= low) & (pixels < high)).all(axis=1))

    def pixel_rays(self, pixels: ArrayLike | None = None) -> np.ndarray:
        """Directions that pixels look in, in the optical frame, scaled to z = 1.

        Args:
            pixels: (u, v), shape (N, 2); every pixel of the image when None.

        Returns:
            Shape (N, 3), or (H, W, 3) for the whole image. Times depth, they are points.
        """
        if pixels is None:
            u, v = np.meshgrid(np.arange(self.width), np.arange(self.height))
            rays = self.pixel_rays(np.stack([u.ravel(), v.ravel()], axis=1))
            return rays.reshape(self.height, self.width, 3)
        uv = np.asarray(pixels, dtype=np.float64)
        bent = (uv - self.K[:2, 2]) / [self.K[0, 0], self.K[1, 1]]
        flat = self._undistort(bent)
        return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)

    def unproject(self, depth: np.ndarray) -> np.ndarray:
        """World points of a depth image.

        Args:
            depth: distance along the optical axis [m], shape (H, W); zero or not finite where
                there is no measurement.

        Returns:
            World coordinates [m], shape (H, W, 3), NaN where there is no measurement.

        Raises:
            DataError: if the depth image has another size than the camera.
        """
        values = np.asarray(depth, dtype=np.float64)
        if values.shape != (self.height, self.width):
            raise DataError(
                f"a depth image of shape {values.shape}",
                where=f"PinholeCamera({self.name!r}).unproject",
                expected=f"shape {(self.height, self.width)}",
                fix="use the intrinsics of this very stream, or scaled() for a smaller image",
            )
        values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        rotation = self.T_world_cam[:3, :3]
        rays_world = self.pixel_rays() @ rotation.T
        return np.asarray(rays_world * values[..., None] + self.T_world_cam[:3, 3])

    def scaled(self, factor: float) -> PinholeCamera:
        """The same camera with an image of another size.

        Args:
            factor: size of the new image over the old, per side; the size is rounded.

        Returns:
            The camera; pixel borders, not pixel centres, keep their place.

        Raises:
            DataError: if no pixel would be left.
        """
        width, height = round(self.width * factor), round(self.height * factor)
        if width < 1 or height < 1:
            raise self._bad("factor", factor, "at least one pixel left")
        K = self.K.copy()
        for row, ratio in ((0, width / self.width), (1, height / self.height)):
            K[row, row] *= ratio
            K[row, 2] = (K[row, 2] + 0.5) * ratio - 0.5
        return PinholeCamera(
            self.name, self.serial, width, height, K, self.T_world_cam, self.distortion
        )

    def to_plain(self) -> dict[str, Any]:
        """The camera as strings, numbers and lists, ready for YAML or JSON.

        Returns:
            Field name -> value.
        """
        return {
            "name": self.name,
            "serial": self.serial,
            "width": int(self.width),
            "height": int(self.height),
            "K": self.K.tolist(),
            "T_world_cam": self.T_world_cam.tolist(),
            "distortion": self.distortion.tolist(),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> PinholeCamera:
        """Read what `to_plain` wrote.

        Args:
            plain: the mapping; ``distortion`` may be left out.

        Returns:
            The camera.

        Raises:
            DataError: if a field is missing, unknown or does not fit.
        """
        wanted = {"name", "serial", "width", "height", "K", "T_world_cam"}
        given = set(plain)
        if not wanted <= given or not given <= wanted | {"distortion"}:
            raise DataError(
                f"fields {sorted(given)}",
                where="PinholeCamera.from_plain",
                expected=f"{sorted(wanted)} and perhaps distortion",
                fix="add what is missing and remove what is unknown",
            )
        try:
            return cls(
                name=str(plain["name"]),
                serial=str(plain["serial"]),
                width=int(plain["width"]),
                height=int(plain["height"]),
                K=np.array(plain["K"], dtype=np.float64),
                T_world_cam=np.array(plain["T_world_cam"], dtype=np.float64),
                distortion=np.array(plain.get("distortion", [0.0] * 5), dtype=np.float64),
            )
        except (TypeError, ValueError) as error:
            raise DataError(
                f"camera {plain['name']!r}: {error}",
                where="PinholeCamera.from_plain",
                expected="whole numbers for the size, numbers in the matrices",
                fix="compare with a file that PhysGym wrote",
            ) from error

    def _distort(self, flat: np.ndarray) -> np.ndarray:
        if not self.distortion.any():
            return flat
        k1, k2, p1, p2, k3 = self.distortion
        x, y = flat[:, 0], flat[:, 1]
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        return np.stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
            ],
            axis=1,
        )

    def _undistort(self, bent: np.ndarray) -> np.ndarray:
        if not self.distortion.any():
            return bent
        k1, k2, p1, p2, k3 = self.distortion
        x, y = bent[:, 0], bent[:, 1]
        for _ in range(_UNDISTORT_ROUNDS):
            r2 = x * x + y * y
            radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
            dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
            dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
            x, y = (bent[:, 0] - dx) / radial, (bent[:, 1] - dy) / radial
        return np.stack([x, y], axis=1)

    def _bad(self, name: str, value: object, expected: str) -> DataError:
        return DataError(
            f"{name} is {value}",
            where=f"PinholeCamera({self.name!r}).{name}",
            expected=expected,
            fix="pass metres, pixels and the optical frame (x right, y down, z forward)",
        )
