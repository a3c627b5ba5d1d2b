"""One look at every message of a recording: what is there, and is it usable?"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon import cdr
from recon.bags import Bag
from recon.episode_index import (
    CameraTopics,
    StampIndex,
    StaticFrames,
    discover_cameras,
    no_cameras,
)
from recon.episode_messages import BOOL, IMAGE, JOINTS, POSE, TRANSFORMS
from recon.episode_motion import MOTION_TOPIC, RecordedMotion
from recon.images import image_defect

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


@dataclass(eq=False)
class _Seen:
    """What the one pass collects of an image topic."""

    headers: list[int] = field(default_factory=list)
    logs: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    unusable: dict[str, int] = field(default_factory=dict)


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
    kinds = bag.topics
    cameras = discover_cameras(kinds) if options.topics is None else dict(options.topics)
    if not cameras:
        raise no_cameras(kinds, str(bag.path))
    depth = {part.depth for part in cameras.values()}
    seen = {topic: _Seen() for part in cameras.values() for topic in (part.color, part.depth)}
    seen.pop("", None)
    absent = sorted((set(seen) | {part.info for part in cameras.values()}) - set(kinds) - {""})
    if absent:
        raise DataError(f"no topic {absent[0]}", where=str(bag.path), expected=f"{sorted(kinds)}")
    infos: dict[str, cdr.CameraInfoMsg] = {}
    transforms: list[cdr.TransformMsg] = []
    motion, counts, broken = RecordedMotion(), dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
    info_topics = {part.info for part in cameras.values() if part.info}
    wanted = [*seen, *info_topics, *(t for t, k in kinds.items() if _is_motion(t, k))]
    for message in bag.messages(wanted):
        topic = message.topic
        counts[topic] += 1
        try:
            if topic in seen:
                _note_image(seen[topic], message.raw, message.log_ns, kinds[topic], topic in depth)
            elif topic in info_topics:
                if topic not in infos:
                    infos[topic] = cdr.read_camera_info(message.raw)
            elif message.kind == TRANSFORMS:
                transforms += cdr.read_transforms(message.raw)
            else:
                _note_motion(motion, message.topic, message.kind, message.raw, message.log_ns)
        except cdr.CdrError:
            broken[topic] += 1
    losses = [f"{t}: {n} messages cannot be read" for t, n in broken.items() if n]
    for topic in wanted:
        lost = bag.counts.get(topic, 0) - counts[topic]
        if lost > 0:
            losses.append(f"{topic}: {lost} of {bag.counts[topic]} messages are lost")
    return _assembled(bag, options, cameras, seen, infos, StaticFrames(transforms), motion, losses)


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


def _is_motion(topic: str, kind: str) -> bool:
    if kind == TRANSFORMS:
        return topic.endswith("/tf_static")
    if kind == JOINTS:
        return topic.endswith("/joint_states")
    return kind in (POSE, BOOL) and MOTION_TOPIC.fullmatch(topic) is not None


def _note_image(seen: _Seen, raw: bytes, log_ns: int, kind: str, depth: bool) -> None:
    size = (0, 0)
    if kind == IMAGE:
        image = cdr.read_image(raw)
        defect = image_defect(image, depth=depth)
        size, stamp = (image.width, image.height), image.stamp_ns
    else:
        packed = cdr.read_compressed(raw)
        defect, stamp = "" if len(packed.data) else "no pixels", packed.stamp_ns
    if defect:
        seen.unusable[defect] = seen.unusable.get(defect, 0) + 1
        return
    seen.headers.append(stamp)
    seen.logs.append(log_ns)
    seen.sizes.append(size)


def _note_motion(motion: RecordedMotion, topic: str, kind: str, raw: bytes, log_ns: int) -> None:
    if kind == POSE:
        motion.poses.setdefault(topic, []).append(cdr.read_pose(raw))
    elif kind == BOOL:
        motion.bools.setdefault(topic, []).append((log_ns, cdr.read_bool(raw)))
    else:
        motion.joint_messages.append(cdr.read_joint_state(raw))


def _assembled(
    bag: Bag,
    options: Options,
    topics: dict[str, CameraTopics],
    seen: dict[str, _Seen],
    infos: dict[str, cdr.CameraInfoMsg],
    frames: StaticFrames,
    motion: RecordedMotion,
    losses: list[str],
) -> Scan:
    where = str(bag.path)
    indices: dict[str, StampIndex] = {}
    usable: dict[str, CameraTopics] = {}
    for name, part in topics.items():
        if part.info not in infos:
            losses.append(f"{name}: left out, it has no CameraInfo")
            continue
        size = (infos[part.info].width, infos[part.info].height)
        for topic in (part.color, part.depth):
            if topic:
                indices[topic] = _index(seen[topic], size)
                losses += _index_losses(topic, indices[topic])
        unaligned = part.color.partition("/color/")[0] + "/depth/image_rect_raw"
        if not part.depth and unaligned in bag.topics:
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
            where=where,
            expected="colour images with their CameraInfo",
            fix="record color/image_raw (rgb8), color/camera_info and "
            "aligned_depth_to_color/image_raw (16UC1) of each camera",
        )
    motion.frames = frames
    motion.world = _world_frame(frames, options, [infos[p.info].frame_id for p in usable.values()])
    if motion.world != options.world_frame and options.calibration is None and frames.names:
        losses.append(f"/tf_static has no {options.world_frame!r}; {motion.world!r} is the world")
    first = indices[next(iter(usable.values())).color]
    motion.set_clock(first.stamp_ns, first.log_ns)
    calibration = _read_calibration(options.calibration)
    cameras, unknown = {}, []
    for name, part in usable.items():
        info, serial = infos[part.info], options.serials.get(name, "")
        T = calibration.get(name, calibration.get(serial) if serial else None)
        if T is None and options.calibration is None:
            T = frames.transform(motion.world, info.frame_id)
        if T is None:
            unknown.append(name)
            T = np.eye(4)
        cameras[name] = _camera(name, serial, info, T)
    if unknown and not options.allow_uncalibrated:
        raise _no_extrinsics(where, unknown, options, frames)
    losses += [f"{name}: its place is unknown, the identity stands in" for name in unknown]
    return Scan(cameras, usable, indices, motion, losses, tuple(unknown))


def _index(seen: _Seen, size: tuple[int, int]) -> StampIndex:
    keep = [found in ((0, 0), size) for found in seen.sizes]
    unusable = dict(seen.unusable)
    for found, fits in zip(seen.sizes, keep):
        if not fits:
            what = f"{found[0]} x {found[1]} pixels, but CameraInfo says {size[0]} x {size[1]}"
            unusable[what] = unusable.get(what, 0) + 1
    headers = [stamp for stamp, fits in zip(seen.headers, keep) if fits]
    return StampIndex.build(headers, [t for t, fits in zip(seen.logs, keep) if fits], unusable)


def _index_losses(topic: str, index: StampIndex) -> list[str]:
    found = [f"{topic}: {n} images left out, {what}" for what, n in index.unusable.items()]
    if index.doubled:
        found.append(f"{topic}: {index.doubled} images left out, their stamps are doubled")
    if len(index.header_ns) > 1 and not index.header_ns.any():
        found.append(f"{topic}: stamps are 0, the time of recording counts")
    if index.missing:
        found.append(f"{topic}: about {index.missing} frames are missing between the stamps")
    return found


def _camera(name: str, serial: str, info: cdr.CameraInfoMsg, T: np.ndarray) -> PinholeCamera:
    distortion = np.zeros(5)
    given = info.distortion
    distortion[: min(len(given), 5)] = given[:5]
    pinhole = info.distortion_model in ("", "plumb_bob", "rational_polynomial")
    if given.any() and (not pinhole or given[5:].any()):
        raise DataError(
            f"distortion model {info.distortion_model!r} with {given.tolist()}",
            where=f"{name}: CameraInfo",
            expected="plumb_bob (k1, k2, p1, p2, k3)",
            fix="rectify the images first (image_proc), or calibrate with plumb_bob",
        )
    return PinholeCamera(name, serial, info.width, info.height, info.K, T, distortion)


def _world_frame(frames: StaticFrames, options: Options, optical: list[str]) -> str:
    if options.world_frame in frames.names:
        return options.world_frame
    roots = {frames.root_of(frame.lstrip("/")) for frame in optical}
    alone = len(roots) == 1 and next(iter(roots)) not in {frame.lstrip("/") for frame in optical}
    return roots.pop() if alone else options.world_frame


def _no_extrinsics(
    where: str, unknown: list[str], options: Options, frames: StaticFrames
) -> DataError:
    if options.calibration is not None:
        return DataError(
            f"no T_world_cam of {', '.join(unknown)}",
            where=str(options.calibration),
            expected="cameras: NAME or serial number: T_world_cam: 4 x 4",
            fix="calibrate all cameras of this recording together: physgym calibrate",
        )
    return DataError(
        f"nothing says where {', '.join(unknown)} stood; frames: {', '.join(frames.names) or '-'}",
        where=f"{where}: /tf_static",
        expected=f"transforms from {options.world_frame!r} to each camera's optical frame",
        fix="record /tf_static, or give calibration=FILE.yaml from `physgym calibrate`",
    )


def _read_calibration(path: Path | None) -> dict[str, np.ndarray]:
    """``T_world_cam`` by camera name and by serial number."""
    if path is None:
        return {}
    try:
        content: Any = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"it cannot be read: {error}", where=str(path), expected="YAML") from error
    entries = content.get("cameras") if isinstance(content, dict) else None
    if isinstance(entries, list):
        entries = {str(e.get("name")): e for e in entries if isinstance(e, dict)}
    if not isinstance(entries, dict):
        raise DataError("no cameras", where=str(path), expected="cameras: NAME: T_world_cam: 4 x 4")
    found = {}
    for name, entry in entries.items():
        T = entry.get("T_world_cam") if isinstance(entry, dict) else None
        try:
            matrix = np.array(T, dtype=np.float64)
        except (TypeError, ValueError):
            matrix = np.zeros(0)
        if matrix.shape != (4, 4):
            raise DataError(f"{T!r}", where=f"{path}: {name}: T_world_cam", expected="4 x 4")
        found[str(name)] = matrix
        if entry.get("serial"):
            found[str(entry["serial"])] = matrix
    return found
