"""The trivial baseline of what nothing holds: a rigid body that falls and stays where it lands.

Beside it a frozen object is no opponent: whoever knows gravity wins. Its velocity in frame 0 is
fitted to the frames before contact, as those of the methods are: to tracks
(`recon.identify.start_velocity`), without depth to the middles of the masks
(`recon.identify.video_start`). Shapes: T frames, N points.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from physgym.errors import DataError
from recon.compare.cloud_scores import cloud_scores
from recon.compare.worker import parts_and_rows
from recon.identify.even_clock import even_clock
from recon.identify.motion import Motion
from recon.identify.start_velocity import StartVelocity, fit_start_velocity
from recon.perceive_video import is_video
from recon.perception.result import Perception
from recon.reconstruct_video import video_scene
from recon.score_episode import score_prediction
from recon.score_motion import predict_rigid_flight
from recon.score_source import evidence_of
from recon.splats.video import posed_video
from recon.video_fall import VideoFall

if TYPE_CHECKING:
    from physgym.twin import Twin

__all__ = ["FALLING_DEFINITION", "Fall", "HullFall", "falling_scores"]

FALLING_DEFINITION = (
    "where nothing holds or pushes the object and it flies at the start: it flies on rigidly, with "
    "the velocity and spin of its first frames, and stays where it first touches the table; "
    "without depth it does not turn, its velocity is that of the middles of its masks, and it "
    "stays where they leave the parabola in the learned frames (the visual hull reaches further "
    "down than the object); where they do not, where the hull touches the ground"
)
"""What the row ``falling`` is."""


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
    def of(cls, perception: Perception) -> Fall | None:
        """The fall of an episode.

        Args:
            perception: of it.

        Returns:
            The fall; None where something holds or pushes the object, or it stands at the start, or
            is no volume, or too few frames show it in flight.
        """
        if perception.grippers or perception.hands or perception.kind != "volume":
            return None
        tick = even_clock(perception.time_s).tick
        motion = Motion.from_perception(perception)
        try:
            start = fit_start_velocity(motion)
        except DataError:
            return None
        if start.contact_frame == 0 or tick[-1] >= motion.frame_count:
            return None
        return cls(motion, start, tick)

    def carry(self, points: np.ndarray) -> np.ndarray:
        """Points that fall with it.

        Args:
            points: in frame 0 [m], shape (N, 3).

        Returns:
            [m], shape (T, N, 3), float32.
        """
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
    def of(cls, source: Path, perception: Perception, train_stop: int) -> HullFall | None:
        """The fall of a recording.

        Args:
            source: the recording.
            perception: of it.
            train_stop: frames from here on are not looked at.

        Returns:
            The fall; None where something holds or pushes the object, or it stands at the start, or
            is no volume, or too few frames show it in flight.
        """
        if perception.grippers or perception.kind != "volume":
            return None
        video = posed_video(source, perception, stop_frame=train_stop)
        points = np.asarray(perception.tracks.rest_position, np.float64)
        fall = VideoFall.of(video, video_scene(perception, video), points)
        if fall is None:
            return None
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


def falling_scores(
    source: Path,
    perception: Perception,
    twin: Twin | None,
    *,
    train_stop: int,
    points: int,
    seed: int,
) -> dict[str, dict[str, float | None]]:
    """Scores of the fall.

    Args:
        source: the episode.
        perception: of it.
        twin: whose appearance falls; None leaves out the measures of images.
        train_stop: frames that methods learn from.
        points: of a cloud in EMD.
        seed: of the points that are drawn.

    Returns:
        By part and measure; empty where there is no fall (`Fall.of`).
    """
    video = is_video(perception)
    fall = HullFall.of(source, perception, train_stop) if video else Fall.of(perception)
    if fall is None:
        return {}
    rest = np.asarray(perception.tracks.rest_position, np.float32)[perception.surface]
    seen = perception.clouds[0] if perception.clouds else rest[:0]
    surface = fall.carry(np.concatenate([rest, seen]))
    evidence, every = evidence_of(source, perception), np.ones(surface.shape[1], bool)
    score = score_prediction(
        perception,
        surface,
        every,
        train_stop=train_stop,
        ground_truth=evidence.truth,
        ignored=evidence.ignored,
    )
    if twin is not None and perception.masks is not None:
        from recon.render_episode import render_episode
        from recon.splats.frame import recorded_images
        from recon.splats.perceptual import load_lpips

        nodes = fall.carry(twin.rest_position)
        with recorded_images(source, perception) as images:
            score["images"] = render_episode(
                twin, perception, nodes, images,
                train_stop=train_stop, ignored=evidence.ignored, lpips=load_lpips(),
            )  # fmt: skip
    clouds = cloud_scores(
        perception, fall.carry(rest), train_stop=train_stop, points=points, seed=seed
    )
    return {part: rows["twin"] for part, rows in parts_and_rows(score, clouds).items()}
