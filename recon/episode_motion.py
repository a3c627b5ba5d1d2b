"""Motion recorded beside the images: grippers, plates, joints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation, Slerp

from physgym.errors import DataError
from physgym.frames import (
    apply_T,
    matrix_from_quat_xyzw,
    quat_wxyz_from_matrix,
    quat_wxyz_from_xyzw,
    quat_xyzw_from_wxyz,
)
from recon.cdr import JointMsg, PoseMsg
from recon.episode_index import StaticFrames

__all__ = ["MOTION_TOPIC", "BoolTrack", "JointTrack", "PoseTrack", "RecordedMotion"]

MOTION_TOPIC = re.compile(r"(?:/.*)?/(gripper|plate)(\d+)/(pose|closed)")
_NS = 1_000_000_000
# Below this, recording later than the stamp is transport; above it, two clocks are in play.
_OTHER_CLOCK_S = 1.0


class PoseTrack(NamedTuple):
    """Poses in the world: time [s] (T,), position [m] (T, 3), unit quat_wxyz (T, 4)."""

    time_s: np.ndarray
    position: np.ndarray
    quat_wxyz: np.ndarray

    def at(self, time_s: ArrayLike) -> PoseTrack:
        """Poses at other times, straight and by the shortest turn in between.

        Args:
            time_s: [s], shape (M,); before the first pose and after the last, that pose holds.

        Returns:
            M poses.
        """
        wanted = np.atleast_1d(np.asarray(time_s, np.float64))
        held = wanted.clip(self.time_s[0], self.time_s[-1])
        columns = [np.interp(held, self.time_s, self.position[:, axis]) for axis in range(3)]
        quat = np.repeat(self.quat_wxyz[:1], len(wanted), axis=0)
        if len(self.time_s) > 1:
            turns = Rotation.from_quat(quat_xyzw_from_wxyz(self.quat_wxyz))
            quat = quat_wxyz_from_xyzw(Slerp(self.time_s, turns)(held).as_quat())
        return PoseTrack(wanted, np.stack(columns, axis=1), quat)


class BoolTrack(NamedTuple):
    """A truth over time: time [s] (T,), value (T,) bool."""

    time_s: np.ndarray
    value: np.ndarray

    def at(self, time_s: ArrayLike) -> np.ndarray:
        """The value at other times: the latest message counts; before the first, False.

        Args:
            time_s: [s], shape (M,).

        Returns:
            Shape (M,), bool.
        """
        row = np.searchsorted(self.time_s, np.asarray(time_s, np.float64), side="right") - 1
        values = np.append(self.value, False)  # row -1 is before the first message
        return np.asarray(values[row])


class JointTrack(NamedTuple):
    """Joints over time: time [s] (T,), J names, values (T, J) [rad or m, per s, Nm or N]."""

    time_s: np.ndarray
    names: tuple[str, ...]
    position: np.ndarray
    velocity: np.ndarray
    effort: np.ndarray


@dataclass(eq=False)
class RecordedMotion:
    """Messages as they were read.

    Attributes:
        frames: static transforms.
        world: the world's frame.
        poses: log time [ns] and message, by topic.
        bools: log time [ns] and value, by topic.
        joint_messages: log time [ns] and message, all of ``/joint_states``.
        clock_offset_ns: stamp minus log time of the images [ns], where two clocks are in play.
    """

    frames: StaticFrames = field(default_factory=StaticFrames)
    world: str = "world"
    poses: dict[str, list[tuple[int, PoseMsg]]] = field(default_factory=dict)
    bools: dict[str, list[tuple[int, bool]]] = field(default_factory=dict)
    joint_messages: list[tuple[int, JointMsg]] = field(default_factory=list)
    clock_offset_ns: int = 0

    @property
    def pose_frames(self) -> set[str]:
        """Frames that poses are given in."""
        return {message.frame_id for found in self.poses.values() for _, message in found}

    def add(self, log_ns: int, topic: str, message: PoseMsg | JointMsg | bool) -> None:
        """Take a message.

        Args:
            log_ns: when it was recorded [ns].
            topic: its topic.
            message: what it says.
        """
        if isinstance(message, PoseMsg):
            self.poses.setdefault(topic, []).append((log_ns, message))
        elif isinstance(message, JointMsg):
            self.joint_messages.append((log_ns, message))
        else:
            self.bools.setdefault(topic, []).append((log_ns, message))

    def doubled(self) -> list[str]:
        """Sentences on topics that differ from another one by their namespace only."""
        found = []
        for by_topic in (self.poses, self.bools):
            used: dict[str, str] = {}
            for topic in by_topic:
                end = "/".join(topic.rsplit("/", 2)[1:])
                taken = _name(by_topic, f"/{end}")
                if used.setdefault(end, taken) != topic:
                    found.append(f"{topic}: left out, {taken} has the same name")
        return found

    def knows(self, frame: str) -> bool:
        """Whether a frame is connected to the world.

        Args:
            frame: its name; none is the world.
        """
        own = frame.lstrip("/") in ("", self.world)
        return own or self.frames.transform(self.world, frame) is not None

    def set_clock(self, stamp_ns: np.ndarray, log_ns: np.ndarray) -> None:
        """Note how far the images' stamps are from the recorder's clock.

        Args:
            stamp_ns: of images [ns], shape (T,).
            log_ns: of the same images [ns], shape (T,).
        """
        offset = float(np.median(stamp_ns - log_ns)) if len(stamp_ns) else 0.0
        self.clock_offset_ns = round(offset) if abs(offset) > _OTHER_CLOCK_S * _NS else 0

    def numbers(self, kind: str) -> tuple[int, ...]:
        """Numbers of the grippers or plates with poses.

        Args:
            kind: ``gripper`` or ``plate``.

        Returns:
            Sorted.
        """
        found = (MOTION_TOPIC.fullmatch(topic) for topic in self.poses)
        return tuple(sorted({int(match[2]) for match in found if match and match[1] == kind}))

    def pose(self, topic: str, start_ns: int) -> PoseTrack:
        """Poses of one topic in the world.

        Args:
            topic: it, without a namespace.
            start_ns: time 0 [ns].

        Returns:
            The poses, in the order of their stamps, doubled stamps left out.

        Raises:
            DataError: if there are none, or their frame is not connected to the world.
        """
        messages = self.poses.get(_name(self.poses, topic), [])
        if not messages:
            raise DataError("not recorded", where=topic, expected=f"one of {sorted(self.poses)}")
        stamps = self._stamps_ns(messages)
        _, rows = np.unique(stamps, return_index=True)
        position, quat = [], []
        frames = {message.frame_id for _, message in messages}
        transforms = {frame: self._to_world(frame, topic) for frame in frames}
        for row in rows:
            message = messages[row][1]
            T = transforms[message.frame_id]
            position.append(apply_T(T, message.position[None])[0])
            quat.append(quat_wxyz_from_matrix(T[:3, :3] @ matrix_from_quat_xyzw(message.quat_xyzw)))
        return PoseTrack((stamps[rows] - start_ns) / _NS, np.array(position), np.array(quat))

    def closed(self, topic: str, start_ns: int) -> BoolTrack:
        """Truths of one topic; a Bool has no stamp, so the time of recording counts.

        Args:
            topic: it, without a namespace.
            start_ns: time 0 [ns].

        Returns:
            The truths, by time.
        """
        found = sorted(self.bools.get(_name(self.bools, topic), []))
        times = np.array([log_ns + self.clock_offset_ns - start_ns for log_ns, _ in found], float)
        return BoolTrack(times / _NS, np.array([value for _, value in found], bool))

    def joints(self, start_ns: int) -> JointTrack:
        """All joints, matched by name.

        Args:
            start_ns: time 0 [ns].

        Returns:
            The joints; NaN where a message does not tell.
        """
        stamps = self._stamps_ns(self.joint_messages)
        order = np.argsort(stamps, kind="stable")
        messages = [self.joint_messages[row][1] for row in order]
        names = tuple(dict.fromkeys(name for message in messages for name in message.name))
        column = {name: number for number, name in enumerate(names)}
        values = np.full((3, len(messages), len(names)), np.nan)
        for row, message in enumerate(messages):
            places = [column[name] for name in message.name]
            for kind, part in enumerate((message.position, message.velocity, message.effort)):
                if len(part) == len(places):
                    values[kind, row, places] = part
        return JointTrack((stamps[order] - start_ns) / _NS, names, *values)

    def _stamps_ns(self, messages: Sequence[tuple[int, PoseMsg | JointMsg]]) -> np.ndarray:
        """Stamps on the cameras' clock [ns]; by the time of recording where nobody set them."""
        stamps = np.array([message.stamp_ns for _, message in messages], np.int64)
        if stamps.any():
            return stamps
        logs = np.array([log_ns for log_ns, _ in messages], np.int64)
        return logs + self.clock_offset_ns

    def _to_world(self, frame: str, topic: str) -> np.ndarray:
        if frame.lstrip("/") in ("", self.world):
            return np.eye(4)
        T = self.frames.transform(self.world, frame)
        if T is None:
            raise DataError(
                f"poses are given in frame {frame!r}",
                where=topic,
                expected=f"{self.world!r}, or a frame that /tf_static connects to it",
                fix=f"record /tf_static with a transform from {self.world!r} to {frame!r}, or open "
                f"it with world_frame={frame!r} when the cameras' places refer to that",
            )
        return T


def _name(by_topic: Mapping[str, list], topic: str) -> str:
    """The topic as it was recorded, perhaps in a namespace."""
    if topic in by_topic:
        return topic
    return next((name for name in by_topic if name.endswith(topic)), topic)
