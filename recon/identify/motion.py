"""Motion: what the identification of a continuum sees of one recording, whatever made it.

Shapes: T frames, N tracked points, M points of a cloud or surface, P particles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from physgym.errors import DataError
from physgym.sim.contact import GroundPlane
from physgym.twin import Kind
from recon.identify.solid import PointSolid, Solid, TetSolid

if TYPE_CHECKING:
    from physgym.cell.fem_recording import MotionRecording
    from physgym.grip import Grip, Pusher
    from recon.perception.result import Perception
    from recon.tracks import Tracks

__all__ = ["Motion", "Pose", "rigid_fit"]

_CLOUD_POINTS = 300
_GRAVITY = (0.0, 0.0, -9.81)


@dataclass(frozen=True, eq=False)
class Pose:
    """A rigid placement ``turn @ X + shift``.

    Attributes:
        turn: rotation, shape (3, 3).
        shift: [m], shape (3,).
    """

    turn: np.ndarray
    shift: np.ndarray

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Placed points [m], shape (..., 3)."""
        return np.asarray(points @ self.turn.T + self.shift)


@dataclass(frozen=True, eq=False)
class Motion:
    """Tracked points and clouds of one body over time, and the body at rest.

    Attributes:
        name: of the recording.
        dt_s: time between frames [s].
        position: tracked points [m], shape (T, N, 3), float64; NaN where not seen.
        rest: the same points in the body's own frame [m], shape (N, 3). In frame 0 the body has its
            rest shape, turned and shifted.
        solid: the body in its own frame, to be filled with particles.
        clouds: what was seen without knowing which point it is [m], T arrays (M, 3), or none.
        surface: points of the surface in the body's own frame that clouds are compared with [m],
            shape (M, 3).
        frames: local frames: deformation gradients of the tracked points relative to the body's own
            frame, shape (T, N, 3, 3), NaN where unknown; or None.
        ground: the plane below, or None.
        gravity: [m/s^2], shape (3,).
        grips: what holds the body.
        pushers: what pushes it.
        all_around: clouds show all sides of the body, so that every simulated point must be seen.
        kind: of the object.
        source_sha256: of what it was made from; empty when unknown.
        density_kg_per_m3: if known; the motion tells ratios to it alone.
        recorded_frames: of the recording, where the motion ends before it; else None.
    """

    name: str
    dt_s: float
    position: np.ndarray
    rest: np.ndarray
    solid: Solid
    clouds: tuple[np.ndarray, ...] = ()
    surface: np.ndarray | None = None
    frames: np.ndarray | None = None
    ground: GroundPlane | None = None
    gravity: tuple[float, float, float] = _GRAVITY
    grips: tuple[Grip, ...] = ()
    pushers: tuple[Pusher, ...] = ()
    all_around: bool = False
    kind: Kind = "volume"
    source_sha256: str = ""
    density_kg_per_m3: float | None = None
    recorded_frames: int | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.position)
        if len(shape) != 3 or shape[2] != 3 or shape[1] < 4 or shape[0] < 3:
            raise DataError(
                f"tracked points of shape {shape}",
                where=f"{self.name}: motion",
                expected="(T, N, 3) with at least 3 frames of 4 points",
                fix="record longer, or track more points",
            )
        if np.shape(self.rest) != shape[1:] or not np.isfinite(self.rest).all():
            raise DataError(
                f"rest positions of shape {np.shape(self.rest)}, or not finite",
                where=f"{self.name}: motion, rest",
                expected=f"{shape[1:]}, metres",
                fix="leave out points whose place at rest is not known",
            )
        if not (np.isfinite(self.dt_s) and self.dt_s > 0):
            raise DataError(f"{self.dt_s} s", where=f"{self.name}: dt_s", expected="more than 0")
        if self.clouds and (len(self.clouds) != shape[0] or self.surface is None):
            raise DataError(
                f"{len(self.clouds)} clouds for {shape[0]} frames, or no surface",
                where=f"{self.name}: motion, clouds",
                expected="one cloud per frame, and points of the surface to compare with",
            )
        self._check_frames()
        if (np.isfinite(self.position[0]).all(axis=-1)).sum() < 4:
            raise DataError(
                "fewer than 4 tracked points are seen in frame 0",
                where=f"{self.name}: motion, frame 0",
                expected="a first frame that tells where the body is",
                fix="cut the recording so that it begins where points are seen",
            )

    def _check_frames(self) -> None:
        if self.frames is None:
            return
        if np.shape(self.frames) != (*np.shape(self.position), 3):
            raise DataError(
                f"deformation gradients of shape {np.shape(self.frames)}",
                where=f"{self.name}: motion, frames",
                expected=f"{(*np.shape(self.position), 3)}",
            )
        seen = np.isfinite(self.position).all(axis=-1)
        known = np.isfinite(self.frames).all(axis=(-2, -1))
        lost = np.argwhere(seen & ~known)
        if len(lost):
            frame, point = (int(i) for i in lost[0])
            raise DataError(
                f"the deformation gradient of point {point} is not a number in frame {frame}",
                where=f"{self.name}: motion, frames[{frame}, {point}]",
                expected="finite numbers wherever the point was seen",
                fix="mark the point as not seen there, or leave frames out altogether",
            )
        volume = np.where(known, np.linalg.det(np.where(known[..., None, None], self.frames, 0)), 1)
        inverted = np.argwhere(volume <= 0.0)
        if len(inverted):
            frame, point = (int(i) for i in inverted[0])
            raise DataError(
                f"the deformation gradient of point {point} is turned inside out in frame {frame}: "
                f"det F = {volume[frame, point]:.3g}",
                where=f"{self.name}: motion, frames[{frame}, {point}]",
                expected="det F > 0",
                fix="check the handedness of the source's axes, or leave frames out altogether",
            )

    @property
    def frame_count(self) -> int:
        """T."""
        return len(self.position)

    @property
    def size_m(self) -> float:
        """Longest side of the body at rest [m]."""
        return float(np.ptp(self.rest, axis=0).max())

    def start_pose(self) -> Pose:
        """Where the body is in frame 0, from the points that are seen there."""
        seen = np.isfinite(self.position[0]).all(axis=-1)
        return rigid_fit(self.rest[seen], self.position[0, seen])

    @classmethod
    def from_tracks(cls, tracks: Tracks, *, ground: GroundPlane | None = None) -> Motion:
        """The motion of tracked points inside a body or on its surface.

        Driven points become a grip that holds in all frames.

        Args:
            tracks: of one object on an even clock; its rest position where known, else frame 0, is
                the body at rest.
            ground: the plane below, or None.

        Returns:
            The motion.

        Raises:
            DataError: if there are too few points or frames, or the points span no volume.
        """
        from physgym.grip import Grip

        free = tracks.free_index
        position = np.asarray(tracks.position[:, free], np.float64)
        rest = position[0] if tracks.rest_position is None else tracks.rest_position[free]
        known = np.isfinite(rest).all(axis=-1)
        if not known.any():
            raise DataError(
                "no point is seen in frame 0 and no rest position is given",
                where=f"{tracks.name}: tracks",
                expected="a first frame or a rest position that shows the whole body",
                fix="cut the recording so that it begins where points are seen",
            )
        driven = np.asarray(tracks.driven, np.float64)
        grips = (Grip(driven, 0, tracks.frame_count),) if driven.shape[1] else ()
        x, y, z = (float(c) for c in tracks.gravity)
        return cls(
            tracks.name,
            tracks.dt_s,
            position[:, known],
            np.asarray(rest, np.float64)[known],
            PointSolid.of(np.asarray(rest)[known]),
            ground=ground,
            gravity=(x, y, z),
            grips=grips,
            source_sha256=tracks.source_sha256,
        )

    @classmethod
    def from_perception(cls, perception: Perception, *, seed: int = 0) -> Motion:
        """The motion of an object that cameras saw.

        Args:
            perception: of a volume; its surface and inside in frame 0 are the body at rest.
            seed: of the choice among cloud points.

        Returns:
            The motion, with gaps where a frame was dropped.

        Raises:
            DataError: if the object is no volume or too few points were tracked.
        """
        from recon.identify.clip import above_ground, ground_of
        from recon.identify.even_clock import even_clock
        from recon.identify.handling import handling_of

        if perception.kind != "volume":
            raise DataError(
                f"a {perception.kind}",
                where=f"{perception.name}: --method mosa",
                expected="a volume: particles need several layers across the thinnest part",
                fix="use --method phystwin, or --kind volume if the object is one",
            )
        tracks, count = perception.tracks, perception.tracked_count
        clock = even_clock(tracks.time_s)
        ground = ground_of(perception)
        rest = np.asarray(tracks.rest_position, np.float64)
        position = np.full((clock.ticks, count, 3), np.nan)
        position[clock.tick] = tracks.position[:, :count]
        clouds = [np.zeros((0, 3))] * clock.ticks
        rng = np.random.default_rng([seed, 12])
        for frame, cloud in enumerate(perception.clouds):
            few = rng.permutation(len(cloud))[:_CLOUD_POINTS]
            clouds[clock.tick[frame]] = np.asarray(cloud[few], np.float64)
        body = above_ground(rest, ground)
        handling = handling_of(perception, clock, body)
        x, y, z = (float(c) for c in tracks.gravity)
        return cls(
            perception.name,
            clock.dt_s,
            position[: handling.until],
            rest[:count],
            PointSolid.of(body),
            clouds=tuple(clouds[: handling.until]) if perception.clouds else (),
            surface=body[: perception.surface_count],
            ground=ground,
            gravity=(x, y, z),
            grips=tuple(handling.grips),
            pushers=tuple(handling.pushers),
            source_sha256=tracks.source_sha256,
            recorded_frames=clock.ticks,
        )

    @classmethod
    def from_recording(cls, recording: MotionRecording, *, frames: bool = False) -> Motion:
        """The motion of every node of a simulated body whose material is known.

        Args:
            recording: of a drop.
            frames: also hand over the deformation gradients.

        Returns:
            The motion.

        Raises:
            DataError: if the recording cannot be used.
        """
        time = np.asarray(recording.time_s, np.float64)
        x, y, z = (float(c) for c in recording.gravity_m_per_s2)
        return cls(
            recording.name,
            float(time[-1] - time[0]) / (len(time) - 1),
            np.asarray(recording.points, np.float64),
            np.asarray(recording.rest, np.float64),
            TetSolid(np.asarray(recording.rest, np.float64), np.asarray(recording.tets)),
            surface=np.asarray(recording.rest, np.float64)[recording.surface],
            frames=np.asarray(recording.deformation_gradient) if frames else None,
            ground=GroundPlane(offset_m=float(recording.ground_height_m)),
            gravity=(x, y, z),
            density_kg_per_m3=float(recording.material["density_kg_per_m3"]),
        )


def rigid_fit(before: np.ndarray, after: np.ndarray) -> Pose:
    """The rigid motion nearest to a pair of point sets, twice, the second time without outliers.

    Kabsch, "A solution for the best rotation to relate two sets of vectors", Acta Cryst. A32, 1976.

    Args:
        before: [m], shape (N, 3).
        after: [m], shape (N, 3).

    Returns:
        Where ``before`` is taken.
    """
    pose = _kabsch(before, after)
    error = np.linalg.norm(pose.apply(before) - after, axis=-1)
    good = error <= 3.0 * np.median(error) + 1e-12
    return _kabsch(before[good], after[good]) if 3 <= good.sum() < len(good) else pose


def _kabsch(before: np.ndarray, after: np.ndarray) -> Pose:
    a, b = before.mean(axis=0), after.mean(axis=0)
    u, _, vt = np.linalg.svd((after - b).T @ (before - a))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    turn = u @ flip @ vt
    return Pose(turn, b - turn @ a)
