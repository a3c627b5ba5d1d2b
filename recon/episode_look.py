"""The pass over a recording's messages: what each of them tells, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from recon import cdr
from recon.bags import Bag, BagMessage
from recon.episode_index import CameraTopics, StampIndex, is_pose
from recon.episode_messages import (
    BOOL,
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    JOINTS,
    POSE,
    TRANSFORMS,
)
from recon.episode_motion import MOTION_TOPIC
from recon.images import image_defect

__all__ = ["Found", "SeenImages", "look"]

_NS = 1_000_000_000
_Motion = cdr.PoseMsg | cdr.JointMsg | bool


@dataclass(eq=False)
class SeenImages:
    """Images of one topic, in the order of recording.

    Attributes:
        depth: whether they should be depth images.
        headers: stamps of the headers [ns].
        logs: times of recording [ns].
        sizes: width and height; (0, 0) where they are compressed.
        unusable: what was wrong with images that were left out -> how many.
    """

    depth: bool
    headers: list[int] = field(default_factory=list)
    logs: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    unusable: dict[str, int] = field(default_factory=dict)

    def leave_out(self, what: str, count: int = 1) -> None:
        """Count images that cannot be used.

        Args:
            what: is wrong with them.
            count: how many.
        """
        if count:
            self.unusable[what] = self.unusable.get(what, 0) + count

    def keep(self, rows: np.ndarray, what: str) -> None:
        """Leave out the images of the other rows.

        Args:
            rows: which ones stay, shape (T,), bool.
            what: is wrong with the others.
        """
        self.leave_out(what, int((~rows).sum()))
        self.headers = [stamp for stamp, keep in zip(self.headers, rows) if keep]
        self.logs = [log_ns for log_ns, keep in zip(self.logs, rows) if keep]
        self.sizes = [size for size, keep in zip(self.sizes, rows) if keep]

    def drop_unstamped(self) -> None:
        """Leave out images whose stamp nobody filled in, where others have one."""
        stamps = np.array(self.headers, np.int64)
        others = stamps[stamps != 0]
        # A simulation's clock, and an episode's, may really begin at 0.
        if len(others) and int(others.min()) >= _NS:
            self.keep(stamps != 0, "their stamp is 0")

    def index(self, size: tuple[int, int]) -> StampIndex:
        """The images that can be used.

        Args:
            size: width and height that CameraInfo tells.

        Returns:
            Their index.
        """
        keep = [found in ((0, 0), size) for found in self.sizes]
        for found, fits in zip(self.sizes, keep):
            if not fits:
                what = f"{found[0]} x {found[1]} pixels, but CameraInfo says {size[0]} x {size[1]}"
                self.leave_out(what)
        headers = [stamp for stamp, fits in zip(self.headers, keep) if fits]
        logs = [log_ns for log_ns, fits in zip(self.logs, keep) if fits]
        return StampIndex.build(headers, logs, self.unusable)


@dataclass(eq=False)
class Found:
    """What the pass collects.

    Attributes:
        seen: images by topic.
        infos: the first usable CameraInfo by topic.
        transforms: all of ``/tf_static``.
        motion: log time [ns], topic and message.
        left_out: messages by topic and what is wrong with them.
    """

    seen: dict[str, SeenImages]
    infos: dict[str, cdr.CameraInfoMsg] = field(default_factory=dict)
    transforms: list[cdr.TransformMsg] = field(default_factory=list)
    motion: list[tuple[int, str, _Motion]] = field(default_factory=list)
    left_out: dict[tuple[str, str], int] = field(default_factory=dict)


def look(bag: Bag, cameras: Mapping[str, CameraTopics], *, verify: bool) -> tuple[Found, list[str]]:
    """Look at every message of an episode's topics once.

    Args:
        bag: the recording.
        cameras: topics by camera.
        verify: whether to read all of each message.

    Returns:
        What they tell, and sentences on what is missing.

    Raises:
        BagDamagedError: if the file breaks on the way.
    """
    kinds = bag.topics
    found = Found({part.color: SeenImages(depth=False) for part in cameras.values()})
    found.seen |= {part.depth: SeenImages(depth=True) for part in cameras.values() if part.depth}
    whole = [part.info for part in cameras.values() if part.info]
    whole += [topic for topic, kind in kinds.items() if _is_motion(topic, kind)]
    wanted = [*found.seen, *whole]
    counts = dict.fromkeys(wanted, 0)
    for message in bag.messages(wanted) if verify else bag.heads(wanted, whole):
        topic = message.topic
        counts[topic] += 1
        defect = ""
        if message.kind != kinds[topic]:
            defect = f"of another type, {message.kind}"
        else:
            try:
                defect = _note(found, message)
            except cdr.CdrError:
                defect = "cannot be read"
        if defect:
            count = found.left_out.get((topic, defect), 0)
            found.left_out[topic, defect] = count + 1
    losses = [f"{topic}: {n} messages {defect}" for (topic, defect), n in found.left_out.items()]
    for topic in wanted:
        lost = bag.counts.get(topic, 0) - counts[topic]
        if lost > 0:
            losses.append(f"{topic}: {lost} of {bag.counts[topic]} messages are lost")
    return found, losses


def _is_motion(topic: str, kind: str) -> bool:
    if kind == TRANSFORMS:
        return topic.endswith("/tf_static")
    if kind == JOINTS:
        return topic.endswith("/joint_states")
    return kind in (POSE, BOOL) and MOTION_TOPIC.fullmatch(topic) is not None


def _note(found: Found, message: BagMessage) -> str:
    """Keep what a message tells; what keeps it from being used, or nothing."""
    topic, kind, raw = message.topic, message.kind, message.raw
    if kind in (IMAGE, COMPRESSED):
        if topic not in found.seen:
            return "of images, where other things should be"
        _note_image(found.seen[topic], message)
    elif kind == CAMERA_INFO:
        # A camera that starts may send a few that are not filled in.
        if topic not in found.infos or not found.infos[topic].K[0, 0] > 0:
            found.infos[topic] = cdr.read_camera_info(raw)
    elif kind == TRANSFORMS:
        found.transforms += cdr.read_transforms(raw)
    elif kind == POSE:
        pose = cdr.read_pose(raw)
        if not is_pose(pose.position, pose.quat_xyzw):
            return "hold no pose"
        found.motion.append((message.log_ns, topic, pose))
    elif kind == BOOL:
        found.motion.append((message.log_ns, topic, cdr.read_bool(raw)))
    elif kind == JOINTS:
        found.motion.append((message.log_ns, topic, cdr.read_joint_state(raw)))
    else:
        return f"of type {kind}, which is none for this"
    return ""


def _note_image(seen: SeenImages, message: BagMessage) -> None:
    size = (0, 0)
    if message.kind == IMAGE:
        image = cdr.read_image(message.raw, message.size)
        defect = image_defect(image, depth=seen.depth)
        size, stamp = (image.width, image.height), image.stamp_ns
    else:
        packed = cdr.read_compressed(message.raw, message.size)
        defect, stamp = "" if packed.size else "no pixels", packed.stamp_ns
    if defect:
        seen.leave_out(defect)
        return
    seen.headers.append(stamp)
    seen.logs.append(message.log_ns)
    seen.sizes.append(size)
