"""What stands between cameras and the object in a recording, so that no mask can show it there.

Shapes: T frames, C cameras, H W image.
"""

from __future__ import annotations

import cv2
import numpy as np

from physgym.camera import PinholeCamera
from recon.episode import Episode
from recon.perception.result import Perception
from recon.perception.table import height_above

__all__ = ["frame_numbers", "occluders"]

_OBJECT = "object"
_CLEARANCE_M = 0.015  # more than depth noise and the sag of a table
_BEHIND_M = 0.02  # what is so far behind the object's farthest seen point hides nothing of it
_GROWN_PX = 2  # depth cameras see nothing right beside an edge


def frame_numbers(episode: Episode, camera: str, time_s: np.ndarray) -> np.ndarray:
    """The camera's frames that are nearest to given times.

    Args:
        episode: open.
        camera: its name.
        time_s: [s], shape (T,).

    Returns:
        Shape (T,), int64.
    """
    stamps = episode.stamps_s(camera)
    after = np.searchsorted(stamps, time_s).clip(1, max(len(stamps) - 1, 1))
    after = np.minimum(after, len(stamps) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.abs(stamps[before] - time_s) <= np.abs(stamps[after] - time_s)
    return np.asarray(np.where(nearer, before, after))


def occluders(episode: Episode, perception: Perception) -> np.ndarray | None:
    """Pixels in which something else hides the object: a gripper, a hand, an arm.

    Recorded masks of anything but the object are taken as they are. A camera without any is asked
    for its depth: what stands above the table, is not the object and is not farther away than the
    object hides it. No prediction has a part in this.

    Args:
        episode: open.
        perception: of it.

    Returns:
        Shape (C, T, H, W), bool; None without masks of the object, or where neither recorded masks
        nor a table tell.
    """
    names = [camera.name for camera in perception.cameras]
    labels = {name: [k for k in episode.mask_labels(name) if k != _OBJECT] for name in names}
    masks = perception.masks
    if masks is None or (perception.table is None and not any(labels.values())):
        return None
    hidden = np.zeros(masks.shape, bool)
    for c, camera in enumerate(perception.cameras):
        numbers = frame_numbers(episode, camera.name, perception.time_s)
        if labels[camera.name]:
            hidden[c] = _recorded(episode, camera, numbers, labels[camera.name])
        elif perception.table is not None:
            hidden[c] = _in_front(episode, camera, numbers, perception)
    return hidden & ~masks


def _recorded(
    episode: Episode, camera: PinholeCamera, numbers: np.ndarray, labels: list[str]
) -> np.ndarray:
    union = np.zeros((len(numbers), camera.height, camera.width), bool)
    for t, number in enumerate(numbers):
        for label in labels:
            mask = episode.mask(camera.name, int(number), label)
            if mask is not None:
                union[t] |= mask
    return union


def _in_front(
    episode: Episode, camera: PinholeCamera, numbers: np.ndarray, perception: Perception
) -> np.ndarray:
    table, masks = perception.table, perception.masks
    assert table is not None
    assert masks is not None
    own = masks[[one.name for one in perception.cameras].index(camera.name)]
    found = np.zeros(own.shape, bool)
    kernel = np.ones((2 * _GROWN_PX + 1,) * 2, np.uint8)
    rest = perception.tracks.rest_position
    assert rest is not None  # Perception refuses tracks without it
    wanted = {int(number): t for t, number in enumerate(numbers)}
    # One pass over the recording; a frame that stands for two instants is the later one's.
    frames = episode.frames(camera.name, int(numbers.min()), int(numbers.max()) + 1)
    for number, frame in enumerate(frames, int(numbers.min())):
        t = wanted.get(number)
        if t is None or frame.depth_m is None:
            continue
        cloud = perception.clouds[t] if perception.clouds else np.zeros((0, 3))
        _, depth_of_object = camera.project(cloud if len(cloud) else rest)
        front = (frame.depth_m > 0) & (frame.depth_m < depth_of_object.max() + _BEHIND_M)
        front &= height_above(camera, frame.depth_m, table) > _CLEARANCE_M
        front &= ~own[t]
        found[t] = cv2.dilate(front.astype(np.uint8), kernel) > 0
    return found
