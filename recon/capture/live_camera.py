"""One live camera: its images paired, held until its place is known, and counted."""

from __future__ import annotations

import sys
import time
from array import array
from collections import deque

import numpy as np

from physgym.camera import PinholeCamera
from recon.capture.recording_report import CameraRecord, Outage
from recon.capture.sync import NearestStampSynchroniser
from recon.cdr import ImageMsg
from recon.images import color_image, depth_image

__all__ = ["LiveCamera", "Picture", "depth_pixels", "rgb_pixels"]

_PAIR_SLOP_S = 0.008  # half a frame at 60 Hz; realsense-ros gives colour and depth one stamp
_HELD_FRAMES = 60  # pictures of a camera whose place has not come yet

Picture = tuple[float, ImageMsg, ImageMsg | None]
"""Stamp [s], colour, and depth or None."""


class LiveCamera:
    """One camera's images on their way to the file."""

    def __init__(self, name: str) -> None:
        """Nothing has come yet.

        Args:
            name: of the camera.
        """
        self.name = name
        self.is_placed = False
        self.placed: PinholeCamera | None = None
        self.pairs: NearestStampSynchroniser[ImageMsg] = NearestStampSynchroniser(
            ["color", "depth"], slop_s=_PAIR_SLOP_S, queue_length=30
        )
        self.held: deque[Picture] = deque()
        self.frames = self.unplaced = self.refused = self.received = self.overflowed = 0
        self.reason = ""
        self.stamps = array("d")
        self.arrived_s = time.monotonic()
        self.outages: list[Outage] = []

    def arrive(self, stamp_s: float, silence_s: float) -> None:
        """Note that a colour image came.

        Args:
            stamp_s: its time of exposure [s].
            silence_s: a longer pause before it is an outage [s].
        """
        now_s = time.monotonic()
        if self.stamps and now_s - self.arrived_s > silence_s:
            self.outages.append(Outage(self.stamps[-1], stamp_s))
        self.arrived_s = now_s
        self.received += 1
        self.stamps.append(stamp_s)

    def refuse(self, reason: str) -> None:
        """Count an image that cannot be used.

        Args:
            reason: what is wrong with it.
        """
        self.refused += 1
        self.reason = reason

    def hold(self, picture: Picture) -> None:
        """Keep a picture until the camera's place is known; the oldest go when there are many.

        Args:
            picture: stamp [s], colour, and depth or None.
        """
        self.held.append(picture)
        if len(self.held) > _HELD_FRAMES:
            self.held.popleft()
            self.unplaced += 1

    def record(self, silence_s: float) -> CameraRecord:
        """What became of its images so far.

        Args:
            silence_s: a camera that sends nothing for this long has stopped [s].

        Returns:
            The counts.
        """
        counts = self.pairs.counts()
        unpaired = [one.unmatched + one.overflowed for one in counts.values()]
        repeated = max(one.out_of_order for one in counts.values())
        silent_s = time.monotonic() - self.arrived_s
        return CameraRecord(
            frames=self.frames,
            received=self.received,
            missing=_missing(self.stamps),
            overflowed=self.overflowed,
            unpaired=max(unpaired),
            unplaced=self.unplaced + (0 if self.placed else len(self.held)),
            refused=self.refused + repeated,
            reason=self.reason or ("stamps that do not increase" if repeated else ""),
            silent_s=silent_s if silent_s > silence_s else 0.0,
            last_stamp_s=self.stamps[-1] if self.stamps else 0.0,
            outages=tuple(self.outages),
        )


def rgb_pixels(image: ImageMsg) -> np.ndarray:
    """Colour of an image without defects.

    Args:
        image: `recon.images.image_defect` found nothing wrong with it.

    Returns:
        Shape (H, W, 3), uint8; a view of the message where its layout allows.
    """
    if image.encoding == "rgb8" and image.step == 3 * image.width:
        count = image.step * image.height
        flat = np.frombuffer(image.data, np.uint8, count=count)
        return flat.reshape(image.height, image.width, 3)
    return color_image(image)


def depth_pixels(image: ImageMsg) -> np.ndarray:
    """Depth of an image without defects.

    Args:
        image: `recon.images.image_defect` found nothing wrong with it.

    Returns:
        Shape (H, W): uint16 [mm], a view, where it came so, else float32 [m].
    """
    is_native = image.big_endian == (sys.byteorder == "big")
    if image.encoding in ("16UC1", "mono16") and image.step == 2 * image.width and is_native:
        count = image.width * image.height
        flat = np.frombuffer(image.data, np.uint16, count=count)
        return flat.reshape(image.height, image.width)
    return depth_image(image)


def _missing(stamps: array[float]) -> int:
    """Frames that the clock says never came, as `recon.episode_index.StampIndex.missing`."""
    step = np.diff(np.frombuffer(stamps))
    step = step[step > 0]
    if len(step) < 2:
        return 0
    return int((np.round(step / np.median(step)) - 1).clip(min=0).sum())
