"""The stage: ground, light and the first view of the camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from physgym.frames import quat_wxyz_from_matrix, rotation_between

if TYPE_CHECKING:
    import viser

__all__ = ["Stage", "round_length"]

# How far the camera stands, in sizes of what is shown, and from which direction: behind (-x), to
# the side and above, so that W moves away from the viewer and A to the left.
_AWAY, _FROM = 2.4, (-1.0, -0.35, 0.55)
_FIELD_OF_VIEW_RAD = 0.75


def round_length(length_m: float) -> float:
    """The round length (1, 2 or 5 times a power of ten) next below.

    Args:
        length_m: above zero [m].

    Returns:
        [m].
    """
    power = float(10.0 ** np.floor(np.log10(length_m)))
    steps = [step for step in (1.0, 2.0, 5.0) if step * power <= 1.0001 * length_m]
    return max(steps) * power


class Stage:
    """What stands around the body.

    Args:
        server: the viewer's.
        points: what is to be in view [m], shape (N, 3).
        ground_m: height of the ground along ``normal``; None puts a grid below what is shown.
        normal: of the ground, shape (3,).

    Attributes:
        size_m: of what is shown.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        points: np.ndarray,
        *,
        ground_m: float | None,
        normal: tuple[float, float, float] = (0.0, 0.0, 1.0),
    ) -> None:
        low, high = points.min(axis=0), points.max(axis=0)
        self.size_m = max(float(np.linalg.norm(high - low)), 0.05)
        self._centre, self._normal = (low + high) / 2, np.asarray(normal, np.float64)
        self._below_m = float((points @ self._normal).min()) - 0.4 * self.size_m
        cell_m = round_length(0.2 * self.size_m)
        scene = server.scene
        scene.set_up_direction("+z")
        scene.configure_default_lights(cast_shadow=True)
        width_m = 60 * cell_m
        self._grid = scene.add_grid(
            "/ground",
            width=width_m,
            height=width_m,
            cell_size=cell_m,
            section_size=5 * cell_m,
            cell_color=(214, 218, 224),
            section_color=(176, 184, 196),
            plane_color=(244, 246, 249),
            plane_opacity=1.0,
            shadow_opacity=0.25,
            fade_distance=12 * self.size_m,
            wxyz=quat_wxyz_from_matrix(rotation_between((0.0, 0.0, 1.0), normal)),
        )
        self.place_ground(ground_m)
        self.cell_m = cell_m
        away = np.asarray(_FROM) / np.linalg.norm(_FROM)
        camera = server.initial_camera
        camera.fov = _FIELD_OF_VIEW_RAD
        camera.near, camera.far = 0.01 * self.size_m, 100.0 * self.size_m
        camera.look_at = tuple(self._centre)
        camera.position = tuple(self._centre + _AWAY * self.size_m * away)

    def place_ground(self, ground_m: float | None) -> None:
        """Move the grid.

        Args:
            ground_m: height along the ground's normal; None puts it below what is shown.
        """
        height_m = self._below_m if ground_m is None else ground_m
        flat = self._centre - (self._centre @ self._normal) * self._normal
        # A hair below, so that what lies on the ground does not flicker through it.
        self._grid.position = flat + (height_m - 1e-3 * self.size_m) * self._normal
