"""The baseline of what nothing holds: a rigid body that falls and stays where it lands.

Beside it a frozen object is no opponent: whoever knows gravity wins. Its velocity in frame 0 is
fitted to the frames before contact, as those of the methods are: to tracks
(`recon.identify.start_velocity`), without depth to the middles of the masks
(`recon.identify.video_start`). Shapes: T frames, N points.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from physgym.errors import DataError
from recon.tracks import PhysGymWarning

if TYPE_CHECKING:
    from recon.identify.motion import Motion
    from recon.identify.start_velocity import StartVelocity
    from recon.perception.result import Perception

__all__ = ["FALLING_DEFINITION", "Fall", "HullFall", "fall_of"]

FALLING_DEFINITION = (
    "where nothing holds or pushes the object and it flies at the start: it flies on rigidly, with "
    "the velocity and spin of its first frames, and stays where it first touches the table; "
    "without depth it does not turn, its velocity is that of the middles of its masks, and it "
    "stays where they leave the parabola in the learned frames (the visual hull reaches further "
    "down than the object); where they do not, where the hull touches the ground. Frames that are "
    "predicted have no part in it; in a recording that was not learned from, of which a twin is "
    "told frame 0 alone, it is told the frames of the flight too, but not where it lands"
)
"""What the row ``falling`` is."""


def fall_of(source: Path, perception: Perception, train_stop: int | None) -> Fall | HullFall | None:
    """The fall of a recording.

    Args:
        source: the recording.
        perception: of it.
        train_stop: frames from here on are not looked at; None for a recording that was not learned
            from, whose velocity is that of all frames before contact.

    Returns:
        The fall; None where something holds or pushes the object, or it stands at the start, or is
        no volume, or too few frames show it in flight.
    """
    from recon.perceive_video import is_video

    if perception.grippers or perception.hands or perception.kind != "volume":
        return None
    try:
        if is_video(perception):
            return HullFall.of(source, perception, train_stop)
        return Fall.of(perception, train_stop)
    except DataError:  # too little is seen to tell how it flies
        return None


class Fall:
    """A rigid fall of what was perceived.

    Args:
        motion: of the object.
        start: velocity in frame 0.
        tick: of the motion's clock, at which the episode has frames, shape (T,).
    """

    def __init__(self, motion: Motion, start: StartVelocity, tick: np.ndarray) -> None:
        self._motion, self._start, self._tick = motion, start, tick

    @classmethod
    def of(cls, perception: Perception, train_stop: int | None) -> Fall | None:
        """The fall of a volume that nothing holds.

        Args:
            perception: of it, with tracks.
            train_stop: as in `fall_of`.

        Returns:
            The fall; None where it stands at the start.

        Raises:
            DataError: if too few frames or points show it in flight.
        """
        from recon.identify.even_clock import even_clock
        from recon.identify.motion import Motion
        from recon.identify.start_velocity import fit_start_velocity

        tick = even_clock(perception.time_s).tick
        motion = Motion.from_perception(perception)
        stop = None if train_stop is None else int(tick[train_stop - 1]) + 1
        start = fit_start_velocity(
            dataclasses.replace(
                motion, position=motion.position[:stop], clouds=motion.clouds[:stop]
            )
        )
        return None if start.contact_frame == 0 else cls(motion, start, tick)

    def carry(self, points: np.ndarray) -> np.ndarray:
        """Points that fall with it.

        Args:
            points: in frame 0 [m], shape (N, 3).

        Returns:
            [m], shape (T, N, 3), float32.
        """
        from recon.score_motion import predict_rigid_flight

        pose = self._motion.start_pose()
        own = (np.asarray(points, np.float64) - pose.shift) @ pose.turn
        moved = predict_rigid_flight(self._motion, own, self._start)[self._tick]
        return np.asarray(moved, np.float32)


class HullFall:
    """A rigid fall of the visual hull of a recording without depth.

    Args:
        shift_m: of the object since frame 0 [m], shape (T, 3).
    """

    def __init__(self, shift_m: np.ndarray) -> None:
        self._shift_m = shift_m

    @classmethod
    def of(cls, source: Path, perception: Perception, train_stop: int | None) -> HullFall | None:
        """The fall of a volume that nothing holds.

        Args:
            source: the recording.
            perception: of it, with masks.
            train_stop: as in `fall_of`.

        Returns:
            The fall; None where it stands at the start, or too few frames show it in flight.

        Raises:
            DataError: if the perception kept no masks, or they do not show it in frame 0.
        """
        from recon.reconstruct_video import video_scene
        from recon.splats.video import posed_video
        from recon.video_fall import VideoFall

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PhysGymWarning)  # of colours, which play no part here
            video = posed_video(source, perception, stop_frame=train_stop)
        points = np.asarray(perception.tracks.rest_position, np.float64)
        fall = VideoFall.of(video, video_scene(perception, video), points)
        if fall is None:
            return None
        if train_stop is None:  # where it lands is what is to be predicted
            fall = dataclasses.replace(fall, landing_s=None)
        time_s = perception.time_s - perception.time_s[0]
        way = np.stack([fall.shift(float(s)) for s in time_s])
        if fall.landing_s is None and perception.table is not None:
            normal = perception.table.normal
            height = float((points @ normal).min()) - perception.table.offset_m
            for frame in np.flatnonzero(way @ normal < -height)[:1]:
                way[frame:] = way[frame] - (height + way[frame] @ normal) * normal
        return cls(way)

    def carry(self, points: np.ndarray) -> np.ndarray:
        """Points that fall with it.

        Args:
            points: in frame 0 [m], shape (N, 3).

        Returns:
            [m], shape (T, N, 3), float32.
        """
        moved = np.asarray(points, np.float64)[None] + self._shift_m[:, None]
        return np.asarray(moved, np.float32)
