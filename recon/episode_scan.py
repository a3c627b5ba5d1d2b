"""One look at every message of a recording: what is there, and is it usable?"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon import cdr, episode_place
from recon.bags import Bag
from recon.episode_index import (
    CameraTopics,
    ClockRuns,
    StampIndex,
    StaticFrames,
    discover_cameras,
    is_pose,
    no_cameras,
    unaligned_depth,
)
from recon.episode_look import Found, look
from recon.episode_messages import TRANSFORMS
from recon.episode_motion import RecordedMotion

__all__ = ["Key", "Options", "Scan", "key", "read_groups", "scan"]

Key = tuple[str, int, int]
"""Topic, stamp in the header [ns], log time [ns]."""

_Slot = TypeVar("_Slot", bound=Hashable)


@dataclass(frozen=True)
class Options:
    """How to read a recording; see `recon.episode.Episode.open`."""

    calibration: Path | None = None
    topics: Mapping[str, CameraTopics] | None = None
    world_frame: str = "world"
    allow_uncalibrated: bool = False
    verify: bool = False
    serials: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scan:
    """What a recording holds.

    Attributes:
        cameras: usable ones by name.
        topics: of each camera.
        images: index by topic.
        motion: of grippers, plates and joints.
        losses: sentences on what is missing.
        uncalibrated: cameras with the identity for extrinsics.
    """

    cameras: dict[str, PinholeCamera]
    topics: dict[str, CameraTopics]
    images: dict[str, StampIndex]
    motion: RecordedMotion
    losses: list[str]
    uncalibrated: tuple[str, ...]


def scan(bag: Bag, options: Options) -> Scan:
    """Look at every message once.

    Args:
        bag: the recording.
        options: how to read it.

    Returns:
        What it holds.

    Raises:
        BagDamagedError: if the file breaks on the way.
        DataError: if there is no usable camera or no extrinsics.
    """
    where = str(bag.path)
    losses: list[str] = []
    cameras = _topics_of(bag, options, losses)
    found, missing = look(bag, cameras, verify=options.verify)
    losses += missing
    runs = ClockRuns({topic: (seen.headers, seen.logs) for topic, seen in found.seen.items()})
    for topic, seen in found.seen.items():
        seen.keep(runs.kept(topic), "the clock was set back between them and the longest run")
        seen.drop_unstamped()
    usable, indices = _usable(bag, cameras, found, losses)
    infos = {name: found.infos[part.info] for name, part in usable.items()}
    motion = RecordedMotion()
    for log_ns, topic, message in found.motion:
        if runs.run_of(log_ns) == runs.longest:
            motion.add(log_ns, topic, message)
    first = indices[next(iter(usable.values())).color]
    motion.set_clock(first.stamp_ns, first.log_ns)
    losses += motion.doubled()
    moving = _place_frames(bag, options, found.transforms, motion, infos, losses)
    places = _places(options, motion, infos)
    unknown = tuple(name for name, T in places.items() if T is None)
    if unknown and not options.allow_uncalibrated:
        raise episode_place.no_extrinsics(
            where, unknown, motion.frames,
            calibration=options.calibration, world=options.world_frame, moving=moving,
        )  # fmt: skip
    losses += [f"{name}: its place is unknown, the identity stands in" for name in unknown]
    found_cameras = {}
    for name, T in places.items():
        rectified = "/image_rect" in usable[name].color
        found_cameras[name] = episode_place.camera_of(
            name, options.serials.get(name, ""), infos[name], np.eye(4) if T is None else T,
            rectified=rectified,
        )  # fmt: skip
    return Scan(found_cameras, usable, indices, motion, losses, unknown)


def key(topic: str, index: StampIndex, row: int) -> Key:
    """What tells one image of a topic from the others.

    Args:
        topic: its topic.
        index: of that topic.
        row: which image.

    Returns:
        Its key.
    """
    return topic, int(index.header_ns[row]), int(index.log_ns[row])


def read_groups(bag: Bag, plan: list[dict[_Slot, Key]]) -> Iterator[dict[_Slot, bytes]]:
    """Messages in groups, in the order of the plan; one pass, and only open groups in memory.

    Args:
        bag: the recording.
        plan: per group, which message goes where.

    Yields:
        Per group, the message at each place.

    Raises:
        DataError: if a message is not there any more.
    """
    if not plan:
        return
    places: dict[Key, list[tuple[int, _Slot]]] = {}
    for number, group in enumerate(plan):
        for slot, name in group.items():
            places.setdefault(name, []).append((number, slot))
    topics = sorted({topic for topic, _, _ in places})
    logs = [log_ns for _, _, log_ns in places]
    found: dict[int, dict[_Slot, bytes]] = {}
    due = 0
    for message in bag.messages(topics, min(logs), max(logs) + 1):
        try:
            name = (message.topic, cdr.read_stamp_ns(message.raw), message.log_ns)
        except cdr.CdrError:
            continue
        for number, slot in places.get(name, ()):
            found.setdefault(number, {}).setdefault(slot, message.raw)
        while due < len(plan) and len(found.get(due, ())) == len(plan[due]):
            yield found.pop(due)
            due += 1
        if due == len(plan):
            return
    raise DataError(
        f"{len(plan) - due} frames are not there any more",
        where=str(bag.path),
        expected="a recording that nobody changes while it is read",
        fix="open it again",
    )


def _topics_of(bag: Bag, options: Options, losses: list[str]) -> dict[str, CameraTopics]:
    kinds, where = bag.topics, str(bag.path)
    if options.topics is None:
        # A driver announces topics that it never publishes; another one may hold the images.
        empty = {topic for topic in kinds if bag.counts and not bag.counts.get(topic)}
        cameras = discover_cameras({t: kind for t, kind in kinds.items() if t not in empty})
        if not cameras:
            raise no_cameras(kinds, where, empty)
        for name, part in cameras.items():
            full = discover_cameras(kinds).get(name, part)
            losses += [f"{t}: no messages" for t in (full.depth, full.info) if t in empty]
        return cameras
    cameras = dict(options.topics)
    if not cameras:
        raise no_cameras(kinds, where)
    named = {t for part in cameras.values() for t in (part.color, part.info, part.depth) if t}
    absent = sorted(named - set(kinds))
    if absent:
        raise DataError(f"no topic {absent[0]}", where=where, expected=f"{sorted(kinds)}")
    return cameras


def _usable(
    bag: Bag, topics: dict[str, CameraTopics], found: Found, losses: list[str]
) -> tuple[dict[str, CameraTopics], dict[str, StampIndex]]:
    """Cameras whose images and intrinsics can be used, and their images."""
    indices: dict[str, StampIndex] = {}
    usable: dict[str, CameraTopics] = {}
    for name, part in topics.items():
        info = found.infos.get(part.info)
        if info is None or not info.K[0, 0] > 0 or not info.K[1, 1] > 0:
            what = "no CameraInfo" if info is None else "a CameraInfo without K: it is uncalibrated"
            losses.append(f"{name}: left out, it has {what}")
            continue
        for topic in (part.color, part.depth):
            if topic:
                indices[topic] = found.seen[topic].index((info.width, info.height))
                losses += _index_losses(topic, indices[topic])
        if not part.depth and unaligned_depth(part.color, bag.topics):
            losses.append(f"{name}: its depth is not aligned; record with align_depth.enable:=true")
        if not len(indices[part.color].stamp_ns):
            losses.append(f"{name}: left out, none of its colour images can be used")
        elif part.depth and not len(indices[part.depth].stamp_ns):
            losses.append(f"{name}: left out, none of its depth images can be used")
        else:
            usable[name] = part
    if not usable:
        raise DataError(
            f"no usable camera: {'; '.join(losses)}",
            where=str(bag.path),
            expected="colour images with their CameraInfo",
            fix="record color/image_raw (rgb8), color/camera_info and "
            "aligned_depth_to_color/image_raw (16UC1) of each camera",
        )
    return usable, indices


def _index_losses(topic: str, index: StampIndex) -> list[str]:
    found = [f"{topic}: {n} images left out, {what}" for what, n in index.unusable.items()]
    if index.doubled:
        found.append(f"{topic}: {index.doubled} images left out, their stamps are doubled")
    if len(index.header_ns) and not index.header_ns.any() and index.log_ns.any():
        found.append(f"{topic}: stamps are 0, the time of recording counts")
    if index.missing:
        found.append(f"{topic}: about {index.missing} frames are missing between the stamps")
    if index.longest_gap_s:
        found.append(f"{topic}: a gap of {index.longest_gap_s:.0f} s between the stamps")
    return found


def _place_frames(
    bag: Bag,
    options: Options,
    transforms: list[cdr.TransformMsg],
    motion: RecordedMotion,
    infos: Mapping[str, cdr.CameraInfoMsg],
    losses: list[str],
) -> list[str]:
    """Set the motion's frames and world; frames that move on ``/tf``, where that was asked."""
    optical = [info.frame_id for info in infos.values()]
    asked = options.world_frame.lstrip("/")

    def place(frames: StaticFrames) -> tuple[bool, bool]:
        """Take these frames; whether they connect everything, and to the world that was asked."""
        motion.frames, motion.world = frames, asked
        if options.calibration is None:  # else the world is the calibration's, by its own name
            motion.world = episode_place.world_frame(frames, asked, optical)
        needed = {*motion.pose_frames, *(optical if options.calibration is None else ())}
        return all(motion.knows(frame) for frame in needed), motion.world == asked

    moving: list[str] = []
    dynamic = [t for t, k in bag.topics.items() if k == TRANSFORMS and t.endswith("/tf")]
    static = StaticFrames(transforms)
    good = place(static)
    if good != (True, True) and dynamic:
        still, moving = episode_place.still_transforms(_all_transforms(bag, dynamic))
        if place(StaticFrames([*still, *transforms])) > good:
            losses.append(f"{dynamic[0]}: {len(still)} of its transforms stood still and are used")
        else:
            place(static)
            if motion.world in moving:  # a root that moves about is no world
                motion.world = asked
    losses += motion.frames.losses
    if motion.world != asked and motion.frames.names:
        losses.append(
            f"/tf_static has no {asked!r}; {motion.world!r} is the world, and its z must point up"
        )
    return moving


def _all_transforms(bag: Bag, topics: list[str]) -> list[cdr.TransformMsg]:
    found: list[cdr.TransformMsg] = []
    for message in bag.messages(topics):
        try:
            part = cdr.read_transforms(message.raw)
        except cdr.CdrError:
            continue
        found += [one for one in part if is_pose(one.position, one.quat_xyzw)]
    return found


def _places(
    options: Options, motion: RecordedMotion, infos: Mapping[str, cdr.CameraInfoMsg]
) -> dict[str, np.ndarray | None]:
    """``T_world_cam`` by camera, where something tells it."""
    calibration = episode_place.read_calibration(options.calibration)
    found: dict[str, np.ndarray | None] = {}
    for name, info in infos.items():
        serial = options.serials.get(name, "")
        T = calibration.get(name, calibration.get(serial) if serial else None)
        if options.calibration is None:
            T = motion.frames.transform(motion.world, info.frame_id)
        found[name] = T
    return found
