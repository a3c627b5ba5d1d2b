"""What is in a recording: cameras by their topics, frames by their stamps, static transforms."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from physgym.errors import DataError
from physgym.frames import T_from_parts, inverse_T, matrix_from_quat_xyzw
from recon.cdr import TransformMsg
from recon.episode_messages import CAMERA_INFO, COMPRESSED, IMAGE

__all__ = [
    "CameraTopics",
    "ClockRuns",
    "StampIndex",
    "StaticFrames",
    "discover_cameras",
    "is_pose",
    "match_stamps",
    "no_cameras",
    "unaligned_depth",
]

_COLOR, _DEPTH = "/color/", "/aligned_depth_to_color/"
# Plain before compressed: it is exact, and there is no need to decode.
_COLOR_ENDS = ("image_raw", "image_rect_raw", "image_raw/compressed", "image_rect_raw/compressed")
_DEPTH_ENDS = ("image_raw", "image_raw/compressedDepth", "image_raw/compressed")
_UNALIGNED_ENDS = tuple(
    f"/depth/{kind}{end}"
    for kind in ("image_rect_raw", "image_raw")
    for end in ("", "/compressedDepth", "/compressed")
)
_NS = 1_000_000_000
_SAME_TRANSFORM = 1e-6  # m, and of a rotation's entries: what is left of float32 and of text
_SHORTEST_QUAT = 1e-6
_RESET_NS = _NS  # a stamp that is earlier by more is another clock, not another order
_MOST_RESETS = 0.1  # of all images; where more go back, the order of recording is what is mixed
_LONGEST_GAP_NS = 60 * _NS  # frames are counted as missing; over a longer gap, the gap is told


@dataclass(frozen=True)
class CameraTopics:
    """Topics of one camera.

    Attributes:
        color: colour images.
        info: intrinsics of the colour camera.
        depth: depth aligned to colour; empty for a camera without.
    """

    color: str
    info: str
    depth: str = ""


@dataclass(frozen=True, eq=False)
class StampIndex:
    """Usable images of one topic, in the order of their stamps.

    Attributes:
        stamp_ns: from the header [ns], shape (T,), int64, increasing.
        log_ns: when each was recorded [ns], shape (T,), int64.
        header_ns: the stamp as the header holds it [ns], shape (T,), int64; differs from
            ``stamp_ns`` only where the header was never filled in.
        doubled: messages left out because an earlier one has the same stamp.
        unusable: what was wrong with messages that were left out -> how many.
    """

    stamp_ns: np.ndarray
    log_ns: np.ndarray
    header_ns: np.ndarray
    doubled: int
    unusable: dict[str, int]

    @classmethod
    def build(
        cls, headers: Sequence[int], logs: Sequence[int], unusable: dict[str, int]
    ) -> StampIndex:
        """Sort the stamps of a topic and drop doubled ones.

        Args:
            headers: stamps of the headers [ns].
            logs: times of recording [ns].
            unusable: as in the class.

        Returns:
            The index.
        """
        header, log = np.array(headers, np.int64), np.array(logs, np.int64)
        stamp = header if header.any() else log  # nobody filled in the header
        order = np.argsort(stamp, kind="stable")
        stamp, log, header = stamp[order], log[order], header[order]
        fresh = np.ones(len(stamp), bool)
        fresh[1:] = np.diff(stamp) > 0
        return cls(stamp[fresh], log[fresh], header[fresh], int((~fresh).sum()), unusable)

    @property
    def missing(self) -> int:
        """Frames that the clock says are not there: gaps over the usual distance of stamps."""
        step = np.diff(self.stamp_ns)
        if len(step) < 2:
            return 0
        usual = float(np.median(step))
        short = step[step <= _LONGEST_GAP_NS]
        return int((np.round(short / usual) - 1).clip(min=0).sum())

    @property
    def longest_gap_s(self) -> float:
        """The longest gap between stamps that is too long to count frames in [s]; else 0."""
        step = np.diff(self.stamp_ns)
        longest = int(step.max()) if len(step) > 1 else 0
        return longest / _NS if longest > _LONGEST_GAP_NS else 0.0


class ClockRuns:
    """Stretches of a recording between which the clock of the stamps was set back.

    A simulator that starts again, or a computer whose clock is corrected, gives new images old
    stamps; sorted, two runs would be mixed. The run with the most images is the recording.
    """

    def __init__(self, images: Mapping[str, tuple[Sequence[int], Sequence[int]]]) -> None:
        """Find the runs.

        Args:
            images: stamps of the headers and times of recording [ns], by topic.
        """
        own = {topic: self._split(*times) for topic, times in images.items()}
        # A reset hits every topic, but one that began late has not seen the first.
        self._resets_ns = max((resets for resets, _ in own.values()), key=len, default=[])
        self._run: dict[str, np.ndarray] = {}
        counts = np.zeros(len(self._resets_ns) + 1, np.int64)
        for topic, (_, part) in own.items():
            log = np.array(images[topic][1], np.int64)
            run = np.zeros(len(log), np.int64)
            for number in range(int(part.max(initial=-1)) + 1):
                # By the middle, because topics do not see the reset at exactly one time.
                run[part == number] = self.run_of(int(np.median(log[part == number])))
            self._run[topic] = run
            counts += np.bincount(run, minlength=len(counts))
        self.longest = int(np.argmax(counts))

    def run_of(self, log_ns: int) -> int:
        """Number of the run that a time of recording [ns] lies in."""
        return int(np.searchsorted(np.array(self._resets_ns, np.int64), log_ns, side="right"))

    def kept(self, topic: str) -> np.ndarray:
        """Which images of a topic belong to the longest run, shape (T,), bool."""
        return self._run[topic] == self.longest

    @staticmethod
    def _split(headers: Sequence[int], logs: Sequence[int]) -> tuple[list[int], np.ndarray]:
        """Times of recording of the resets [ns], and the number of each image's stretch."""
        header, log = np.array(headers, np.int64), np.array(logs, np.int64)
        order = np.argsort(log, kind="stable")
        back = np.zeros(len(log), bool)
        back[1:] = np.diff(header[order]) < -_RESET_NS
        if len(back) and back.mean() > _MOST_RESETS:
            back[:] = False
        part = np.zeros(len(log), np.int64)
        part[order] = np.cumsum(back)
        return log[order][back].tolist(), part


def discover_cameras(topics: Mapping[str, str]) -> dict[str, CameraTopics]:
    """Cameras of a recording, whatever their namespace.

    Args:
        topics: type by topic.

    Returns:
        Topics by camera name; a name is the shortest end of the namespace that is its own.
    """
    found: dict[str, CameraTopics] = {}
    for topic, kind in sorted(topics.items()):
        root, part, end = topic.rpartition(_COLOR)
        if not part or end not in _COLOR_ENDS or kind not in (IMAGE, COMPRESSED) or root in found:
            continue
        color = next(root + _COLOR + e for e in _COLOR_ENDS if root + _COLOR + e in topics)
        depth = next((root + _DEPTH + e for e in _DEPTH_ENDS if root + _DEPTH + e in topics), "")
        infos = [root + _COLOR + "camera_info", root + _DEPTH + "camera_info"]
        info = next((name for name in infos if topics.get(name) == CAMERA_INFO), "")
        found[root] = CameraTopics(color, info, depth)
    names = _short_names(list(found))
    return {names[root]: part for root, part in found.items()}


def unaligned_depth(color: str, topics: Mapping[str, str]) -> str:
    """A depth topic beside a colour topic whose pixels are not those of the colour image.

    Args:
        color: the colour topic.
        topics: type by topic.

    Returns:
        The topic; empty when there is none.
    """
    root, part, _ = color.rpartition(_COLOR)
    candidates = [root + end for end in _UNALIGNED_ENDS] if part else []
    return next((topic for topic in candidates if topic in topics), "")


def match_stamps(
    reference_ns: np.ndarray, other_ns: np.ndarray, slop_ns: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pair two lists of stamps, each with the nearest, each at most once.

    Args:
        reference_ns: increasing, shape (A,).
        other_ns: increasing, shape (B,).
        slop_ns: the largest distance of a pair.

    Returns:
        Indices into both, shape (P,) each, increasing.
    """
    if not len(reference_ns) or not len(other_ns):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    after = np.searchsorted(other_ns, reference_ns).clip(1, max(len(other_ns) - 1, 1))
    before = after - 1
    after = after.clip(max=len(other_ns) - 1)
    nearer = np.abs(other_ns[after] - reference_ns) < np.abs(other_ns[before] - reference_ns)
    nearest = np.where(nearer, after, before)
    distance = np.abs(other_ns[nearest] - reference_ns)
    # Of several that want the same partner, the nearest gets it.
    order = np.lexsort((distance, nearest))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(nearest[order]) > 0
    chosen = np.sort(order[first & (distance[order] <= slop_ns)])
    return chosen, nearest[chosen]


class StaticFrames:
    """The tree of ``/tf_static``; of a transform that was published twice, the last counts.

    Attributes:
        losses: sentences on transforms that are none, or that changed.
    """

    def __init__(self, transforms: Sequence[TransformMsg] = ()) -> None:
        self._edges: dict[str, dict[str, np.ndarray]] = {}
        self._children: set[str] = set()
        self.losses: list[str] = []
        for message in transforms:
            parent, child = message.frame_id.lstrip("/"), message.child_frame_id.lstrip("/")
            if not is_pose(message.position, message.quat_xyzw) or parent == child:
                self._say(f"/tf_static: {parent!r} to {child!r} is no transform, left out")
                continue
            rotation = matrix_from_quat_xyzw(message.quat_xyzw)
            T = T_from_parts(rotation, message.position)
            before = self._edges.get(parent, {}).get(child)
            if before is not None and not np.allclose(T, before, atol=_SAME_TRANSFORM):
                self._say(f"/tf_static: {parent!r} to {child!r} changes, the last one counts")
            self._edges.setdefault(parent, {})[child] = T
            self._edges.setdefault(child, {})[parent] = inverse_T(T)
            self._children.add(child)

    @property
    def names(self) -> tuple[str, ...]:
        """Every frame, sorted."""
        return tuple(sorted(self._edges))

    def root_of(self, frame: str) -> str:
        """The frame at the top of a frame's tree; itself when nothing is known of it."""
        reached = self._reach(frame)
        tops = [name for name in reached if name not in self._children]
        return tops[0] if tops else frame

    def transform(self, target: str, source: str) -> np.ndarray | None:
        """``T_target_source``, or None when the two are not connected.

        Args:
            target: name of a frame.
            source: name of a frame.

        Returns:
            Shape (4, 4).
        """
        return self._reach(target.lstrip("/")).get(source.lstrip("/"))

    def _say(self, text: str) -> None:
        if text not in self.losses:
            self.losses.append(text)

    def _reach(self, start: str) -> dict[str, np.ndarray]:
        reached, queue = {start: np.eye(4)}, deque([start])
        while queue:
            here = queue.popleft()
            for there, T_here_there in self._edges.get(here, {}).items():
                if there not in reached:
                    reached[there] = reached[here] @ T_here_there
                    queue.append(there)
        return reached


def is_pose(position: np.ndarray, quat_xyzw: np.ndarray) -> bool:
    """Whether numbers are a place and a direction.

    Args:
        position: shape (3,).
        quat_xyzw: shape (4,).

    Returns:
        False for NaN, infinity, and the zeros of a quaternion that nobody filled in.
    """
    finite = np.isfinite(position).all() and np.isfinite(quat_xyzw).all()
    return bool(finite and np.linalg.norm(quat_xyzw) > _SHORTEST_QUAT)


def no_cameras(topics: Mapping[str, str], where: str, empty: Collection[str] = ()) -> DataError:
    """The error for a recording without colour images.

    Args:
        topics: type by topic.
        where: the recording.
        empty: topics without messages.

    Returns:
        The error, to raise.
    """
    images = sorted(
        f"{topic} (no messages)" if topic in empty else topic
        for topic, kind in topics.items()
        if kind in (IMAGE, COMPRESSED)
    )
    return DataError(
        f"no camera; image topics: {', '.join(images) or 'none'}",
        where=where,
        expected=".../color/image_raw, .../color/camera_info, .../aligned_depth_to_color/image_raw",
        fix="record those, or name yours: Episode.open(path, topics={'cam': CameraTopics()})",
    )


def _short_names(roots: list[str]) -> dict[str, str]:
    tokens = {root: [token for token in root.split("/") if token] or ["camera"] for root in roots}
    for length in range(1, 1 + max((len(t) for t in tokens.values()), default=1)):
        names = {root: "_".join(parts[-length:]) for root, parts in tokens.items()}
        if len(set(names.values())) == len(roots):
            return names
    return {root: root.strip("/").replace("/", "_") for root in roots}
