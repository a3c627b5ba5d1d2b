"""How a body falls in a recording without depth, told by the middles of its masks.

Shapes: T frames, N points.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING

import numpy as np

from physgym.errors import DataError
from recon.identify.handling import Handling
from recon.identify.video_scene import VideoScene
from recon.identify.video_start import find_flight
from recon.tracks import PhysGymWarning

if TYPE_CHECKING:
    from recon.splats.video import PosedVideo

__all__ = ["VideoFall", "above_landing"]

_LARGEST_GAP = 0.5  # of a body's height; in the frame before contact it is a few centimetres high
_LEAST_LEFT = 0.4  # of a body, where the ground is where it is said to be


@dataclasses.dataclass(frozen=True, eq=False)
class VideoFall:
    """A body in free flight, up to where it lands.

    Attributes:
        velocity_m_per_s: in frame 0, shape (3,).
        gravity: [m/s^2], shape (3,).
        landing_s: the last frame in which its masks are on the parabola, since frame 0; None where
            no frame shows that it lands.
    """

    velocity_m_per_s: np.ndarray
    gravity: np.ndarray
    landing_s: float | None

    @classmethod
    def of(cls, video: PosedVideo, scene: VideoScene, points: np.ndarray) -> VideoFall | None:
        """The fall that a video shows.

        The ground has no part in it: a visual hull reaches further down than the body.

        Args:
            video: frames to look at.
            scene: world and clock of them.
            points: the body in frame 0 [m], shape (N, 3).

        Returns:
            The fall; None where the body stands or too few frames show it in flight.
        """
        nothing = Handling([], [], scene.clock.ticks)
        try:
            flight = find_flight(video, dataclasses.replace(scene, ground=None), points, nothing)
        except DataError:
            return None
        if not flight.free:
            return None
        landing_s = None
        if flight.contact < len(video):
            landing_s = float(scene.clock.dt_s * scene.tick[flight.contact - 1])
        return cls(flight.velocity_m_per_s, scene.gravity, landing_s)

    def shift(self, time_s: float) -> np.ndarray:
        """How far it has come.

        Args:
            time_s: since frame 0; from the landing on it stays.

        Returns:
            [m], shape (3,).
        """
        s = time_s if self.landing_s is None else min(time_s, self.landing_s)
        return np.asarray(s * self.velocity_m_per_s + 0.5 * s * s * self.gravity)


def above_landing(scene: VideoScene, video: PosedVideo) -> VideoScene:
    """A scene whose body is above the ground while it flies.

    What no camera sees from below, the visual hull fills; a body that reaches further down than the
    real one lands too early, and seems softer than it is.

    Args:
        scene: with a hull (`VideoScene.surface`, `VideoScene.inside`).
        video: frames to learn from.

    Returns:
        The scene; as it is where there is no ground, or no landing is seen.

    Raises:
        DataError: if hardly anything is left: the ground is not where it is said to be.
    """
    ground, points = scene.ground, np.concatenate([scene.surface, scene.inside])
    fall = None if ground is None else VideoFall.of(video, scene, points)
    if ground is None or fall is None or fall.landing_s is None:
        return scene
    normal = np.array(ground.normal)
    # The middle of a soft body slows down a frame or so after its lower side does.
    flown_m = fall.shift(max(fall.landing_s - scene.clock.dt_s, 0.0)) @ normal
    lowest_m = ground.offset_m - float(flown_m)
    _warn_of_gap(scene, video.name, fall, points)
    surface, inside = (part[part @ normal >= lowest_m] for part in (scene.surface, scene.inside))
    if len(surface) + len(inside) < _LEAST_LEFT * len(points):
        raise DataError(
            f"{1.0 - (len(surface) + len(inside)) / len(points):.0%} of the object would be below "
            f"the ground in free flight, {fall.landing_s:.3f} s after the first frame",
            where=f"{video.name}: --ground {ground.offset_m:g}",
            expected="the height of what the object lands on",
            fix="correct the height of the ground, or the cameras' poses",
        )
    # The inside is the bottom now where it was cut.
    bottom = inside @ normal < lowest_m + _edge(inside)
    return dataclasses.replace(
        scene, surface=np.concatenate([surface, inside[bottom]]), inside=inside[~bottom]
    )


def _warn_of_gap(scene: VideoScene, name: str, fall: VideoFall, points: np.ndarray) -> None:
    """Say so where even the hull, which reaches further down than the body, does not land."""
    ground = scene.ground
    assert ground is not None
    assert fall.landing_s is not None
    height_m = points @ np.array(ground.normal)
    shift_m = float(fall.shift(fall.landing_s) @ np.array(ground.normal))
    gap_m = float(height_m.min()) + shift_m - ground.offset_m
    if gap_m > _LARGEST_GAP * float(np.ptp(height_m)):
        warnings.warn(
            f"{name}: the object stops falling freely {1e3 * gap_m:.0f} mm above the ground "
            f"(--ground {ground.offset_m:g}), {fall.landing_s:.3f} s after the first frame: this "
            "height or the cameras' poses are wrong, and stiffness found so means nothing",
            PhysGymWarning,
            stacklevel=3,
        )


def _edge(lattice: np.ndarray) -> float:
    """Distance of neighbours in a lattice [m]."""
    levels = np.unique(lattice[:, 2].round(6))
    return float(np.diff(levels).min()) if len(levels) > 1 else 0.0
