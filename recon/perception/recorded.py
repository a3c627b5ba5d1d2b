"""What an episode recorded beside its images: motion of grippers and plates, and masks.

Metadata that is read, where the recorder kept it: ``grippers[k].jaw_half_m``, ``.tool_half_m`` and
``.tool_centre_m``,
``plates[k].half_m``; the lists may also be mappings from the number as a text.
Shapes: T frames, C cameras, H W image.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.errors import DataError
from physgym.frames import T_from_parts, matrix_from_quat_wxyz
from recon.episode import Episode
from recon.episode_motion import PoseTrack
from recon.perception.driven import GripperTrack
from recon.perception.perceive import Masks, SomeMasks
from recon.perception.prompt import Prompt
from recon.perception.segment import PackedMasks
from recon.tracks import PhysGymWarning

__all__ = [
    "JAW_HALF_M",
    "PLATE_HALF_M",
    "RecordedMasks",
    "check_first_masks",
    "recorded_grippers",
    "recorded_masks",
    "refuse_backgrounds",
]

JAW_HALF_M = (0.025, 0.025, 0.025)
"""Half sizes of the box between the jaws, where the episode does not tell: a usual gripper opens
to 5 cm and more, and its pads are some 2 cm long."""
PLATE_HALF_M = (0.02, 0.02, 0.005)
"""Half sizes of a plate where the episode does not tell: 4 x 4 x 1 cm."""

_OBJECT = "object"
_HAND_WORDS = ("hand", "human")
_LEAST_MASK_PX = 16  # as `recon.splats.posed_images`
_MOST_RECORDED = 0.8  # of an image: a disc that fills a square image is a little less
_LATE_S = 0.1  # poses are recorded ten times a second or more


def recorded_grippers(episode: Episode, time_s: np.ndarray) -> tuple[GripperTrack, ...]:
    """Grippers, then plates, on other stamps.

    Args:
        episode: open.
        time_s: stamps [s], shape (T,).

    Returns:
        One track each; a plate is a tool that is always closed.

    Raises:
        DataError: if their frame is not connected to the world, or metadata hold no sizes.
    """
    tracks = []
    for number in episode.grippers:
        told = _about(episode, "grippers", number)
        jaw = _sizes(told, "jaw_half_m", JAW_HALF_M, episode, f"grippers[{number}]")
        tool = None
        if "tool_half_m" in told:
            tool = _sizes(told, "tool_half_m", jaw, episode, f"grippers[{number}]")
        pose = episode.gripper_pose(number)
        closed = episode.gripper_closed(number)
        if len(closed.time_s) == 0:
            warnings.warn(
                f"{episode.name}: when gripper {number} was closed is not recorded: it counts as "
                "open",
                PhysGymWarning,
                stacklevel=3,
            )
        T = _matrices(episode, pose, time_s, f"gripper {number}")
        middle = _centre(told, episode, f"grippers[{number}]")
        tracks.append(GripperTrack(T, closed.at(time_s), jaw, tool, middle))
    for number in episode.plates:
        told = _about(episode, "plates", number)
        half = _sizes(told, "half_m", PLATE_HALF_M, episode, f"plates[{number}]")
        T = _matrices(episode, episode.plate_pose(number), time_s, f"plate {number}")
        solid = np.ones(len(time_s), bool)
        tracks.append(GripperTrack(T, solid, half, half, jaws=False))
    return tuple(tracks)


def _matrices(episode: Episode, pose: PoseTrack, time_s: np.ndarray, who: str) -> np.ndarray:
    """Poses at other stamps as transforms, shape (T, 4, 4)."""
    early, late = pose.time_s[0] - time_s[0], time_s[-1] - pose.time_s[-1]
    if max(early, late) > _LATE_S:
        warnings.warn(
            f"{episode.name}: poses of {who} are recorded from {pose.time_s[0]:.2f} s to "
            f"{pose.time_s[-1]:.2f} s only: outside, it counts as standing still",
            PhysGymWarning,
            stacklevel=4,
        )
    there = pose.at(time_s)
    return np.stack(
        [
            T_from_parts(matrix_from_quat_wxyz(quat), place)
            for quat, place in zip(there.quat_wxyz, there.position, strict=True)
        ]
    )


def _about(episode: Episode, key: str, number: int) -> Mapping[str, Any]:
    """What the metadata tell of one gripper or plate; a list, or a mapping with texts for keys."""
    every = episode.metadata.get(key, ())
    if isinstance(every, Mapping):
        told = every.get(str(number), {})
    else:
        told = every[number] if isinstance(every, list) and number < len(every) else {}
    return told if isinstance(told, Mapping) else {}


def _centre(told: Mapping[str, Any], episode: Episode, who: str) -> tuple[float, float, float]:
    value = told.get("tool_centre_m", (0.0, 0.0, 0.0))
    try:
        x, y, z = (float(side) for side in value)
        good = bool(np.isfinite([x, y, z]).all())
    except (TypeError, ValueError):
        good = False
    if not good:
        raise DataError(
            f"{value!r}",
            where=f"{episode.name}: metadata {who}.tool_centre_m",
            expected="three lengths in metres",
        )
    return (x, y, z)


def _sizes(
    told: Mapping[str, Any],
    key: str,
    default: tuple[float, float, float],
    episode: Episode,
    who: str,
) -> tuple[float, float, float]:
    value = told.get(key, default)
    try:
        x, y, z = (float(side) for side in value)
        good = min(x, y, z) > 0 and np.isfinite([x, y, z]).all()
    except (TypeError, ValueError):
        good = False
    if not good:
        raise DataError(
            f"{value!r}",
            where=f"{episode.name}: metadata {who}.{key}",
            expected="three lengths above zero, in metres",
        )
    return (x, y, z)


@dataclass(frozen=True, eq=False)
class RecordedMasks:
    """Masks that came with the episode, by camera in the order of its framesets.

    Attributes:
        objects: of the object, None for a camera without a whole series; None where all are.
        prompts: first masks of cameras without a whole series.
        hands: of hands by label.
        blocked: of all that may hide the object; None where there are none.
    """

    objects: SomeMasks | None
    prompts: dict[str, Prompt]
    hands: dict[str, Masks]
    blocked: Masks | None


def recorded_masks(episode: Episode, cameras: Sequence[str], numbers: np.ndarray) -> RecordedMasks:
    """Masks that came with an episode.

    Args:
        episode: open.
        cameras: C names.
        numbers: the cameras' frame numbers, shape (T, C).

    Returns:
        The object's, hands' (labels with ``hand`` or ``human`` in them), and the union of all that
        are not the object's. A series of the object that breaks off leaves its first mask, as a
        prompt, with a warning.
    """
    labels = sorted({label for camera in cameras for label in episode.mask_labels(camera)})
    front = [label for label in labels if label != _OBJECT]

    def drawn(wanted: Sequence[str]) -> list[PackedMasks]:
        return [
            PackedMasks(_union(episode, camera, numbers[:, column], wanted))
            for column, camera in enumerate(cameras)
        ]

    objects = [_object(episode, camera, numbers[:, c]) for c, camera in enumerate(cameras)]
    whole = [o if o is not None and len(o) == len(numbers) else None for o in objects]
    prompts = {
        camera: Prompt(mask=found[0])
        for camera, found, full in zip(cameras, objects, whole, strict=True)
        if found is not None and full is None and found[0].any()
    }
    return RecordedMasks(
        whole if any(masks is not None for masks in whole) else None,
        prompts,
        {k: drawn([k]) for k in front if any(word in k.lower() for word in _HAND_WORDS)},
        drawn(front) if front else None,
    )


def _object(episode: Episode, camera: str, numbers: np.ndarray) -> PackedMasks | None:
    """Recorded masks of the object from the first frame on, up to the first that is missing."""
    if _OBJECT not in episode.mask_labels(camera):
        return None
    found = PackedMasks()
    for number in numbers:
        mask = episode.mask(camera, int(number), _OBJECT)
        if mask is None:
            warnings.warn(
                f"{episode.name}: masks of {camera} are missing from frame {number}: the object is "
                f"{'followed from the first one' if len(found) else 'searched for'}",
                PhysGymWarning,
                stacklevel=4,
            )
            break
        found.append(mask)
    return found if len(found) else None


def _union(
    episode: Episode, camera: str, numbers: np.ndarray, labels: Sequence[str]
) -> Iterator[np.ndarray]:
    """Masks of some labels together, frame by frame; empty where none was recorded."""
    own = episode.cameras[camera]
    for number in numbers:
        union = np.zeros((own.height, own.width), bool)
        for label in labels:
            mask = episode.mask(camera, int(number), label)
            if mask is not None:
                union |= mask
        yield union


def check_first_masks(name: str, cameras: Sequence[str], masks: Sequence[np.ndarray]) -> None:
    """Refuse first masks of which none shows an object.

    Args:
        name: of the episode.
        cameras: C names.
        masks: of the first frame, C of shape (H, W), bool; images may differ in size.

    Raises:
        DataError: naming the cameras; likewise as `refuse_backgrounds`.
    """
    if not any(np.count_nonzero(mask) >= _LEAST_MASK_PX for mask in masks):
        raise DataError(
            f"no mask of {', '.join(cameras)} shows the object in the first frame",
            where=f"{name}: masks, frame 0",
            expected=f"{_LEAST_MASK_PX} pixels or more of the object in some camera from the start",
            fix="begin the recording when the object is in view, or correct the masks",
        )
    refuse_backgrounds(name, cameras, masks)


def refuse_backgrounds(name: str, cameras: Sequence[str], masks: Sequence[np.ndarray]) -> None:
    """Refuse first masks that are of what is behind the object.

    Args:
        name: of the episode.
        cameras: C names.
        masks: of the first frame, C of shape (H, W), bool; images may differ in size.

    Raises:
        DataError: naming the cameras.
    """
    full = {c: float(m.mean()) for c, m in zip(cameras, masks, strict=True)}
    wrong = [f"{share:.0%} of {c}" for c, share in full.items() if share > _MOST_RECORDED]
    if wrong:
        raise DataError(
            f"masks of the object fill the first image: {', '.join(wrong)}",
            where=f"{name}: masks, frame 0",
            expected=f"the object alone, with what is behind it around: {_MOST_RECORDED:.0%} or "
            "less",
            fix="masks of the background have to be inverted: white is the object",
        )
