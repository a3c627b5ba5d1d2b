"""What the viewer needs to know of a recording: plain arrays, read when they are shown.

Shapes: T frames, N points, M predicted points, C cameras, H W image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from physgym.errors import DataError

__all__ = ["CameraView", "Recording", "Shot"]


@dataclass(frozen=True, eq=False)
class CameraView:
    """A camera that recorded.

    Attributes:
        name: of the camera.
        T_world_cam: camera to world, shape (4, 4).
        field_of_view_rad: vertical.
        aspect: width over height.
    """

    name: str
    T_world_cam: np.ndarray
    field_of_view_rad: float
    aspect: float


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame of a recording.

    Attributes:
        points: what was seen [m], shape (N, 3); N differs from frame to frame.
        colours: uint8, shape (N, 3).
        images: of each camera, uint8, shape (H, W, 3), or None where it has none of this frame.
    """

    points: np.ndarray
    colours: np.ndarray
    images: tuple[np.ndarray | None, ...] = ()


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording to be played, with a twin's prediction of it where there is one.

    Attributes:
        name: for people.
        time_s: stamps [s], shape (T,), increasing.
        shot: gives a frame by its number.
        cameras: that recorded.
        prediction: what a twin says [m], shape (T, M, 3).
        goal: where the object was to be [m], shape (P, 3).
        point_radius_m: to draw points with; None lets the viewer choose.
        ground_m: height of the table or floor; None where it is not known.
    """

    name: str
    time_s: np.ndarray
    shot: Callable[[int], Shot]
    cameras: tuple[CameraView, ...] = ()
    prediction: np.ndarray | None = None
    goal: np.ndarray | None = None
    point_radius_m: float | None = None
    ground_m: float | None = None

    def __post_init__(self) -> None:
        frames = len(self.time_s)
        shape = None if self.prediction is None else np.shape(self.prediction)
        good = shape is None or (len(shape) == 3 and shape[0] == frames and shape[2] == 3)
        if frames == 0 or np.any(np.diff(self.time_s) <= 0) or not good:
            raise DataError(
                f"{frames} stamps, prediction of shape {shape}",
                where=f"recording {self.name}",
                expected="stamps that increase, and a prediction (T, M, 3)",
            )

    @property
    def gap_m(self) -> float:
        """How far beside the recording a prediction has room [m]; 0 without one."""
        if self.prediction is None or not self.prediction.size:
            return 0.0
        return 1.4 * float(np.ptp(self.prediction[0], axis=0)[1]) + 0.02

    def frame_at(self, time_s: float) -> int:
        """The last frame not after a time.

        Args:
            time_s: [s].

        Returns:
            Its number; the first one before the beginning.
        """
        return max(0, int(np.searchsorted(self.time_s, time_s, side="right")) - 1)
