"""Pixels followed through a video by optical flow.

Shapes: T frames, N points, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from physgym.errors import DataError
from recon.perception.plugins import PixelTracks

__all__ = ["FlowTracker", "TrackConfig", "dense_flow", "grid_seeds"]


@dataclass(frozen=True)
class TrackConfig:
    """How points are tracked.

    Attributes:
        grid_px: distance between seeds [px].
        border_px: seeds keep so far from the mask's border, where patches see the background.
        return_px: how far the flow back may miss the start [px].
        return_share: and so much more per pixel of motion.
        margin_px: the flow is computed in the masks' bounding box, grown by this.
        anchor_frames: a patch is compared with how it looked so many frames ago, to take out the
            drift of the chain; 0 for never.
        anchor_px: a correction larger than this is not believed.
        neighbour_m: neighbourhood of the motion filter [m]; grown where seeds are sparser.
        agree_m: motions of one frame that differ by less agree [m]; grown to
            ``agree_share`` of the median motion where that is more.
        agree_share: see there.
        neighbours: points, itself included, below which a point's motion counts as unsupported.
        least_cosine: a track ends where its surface turns so far from the camera that the cosine
            of that angle is below this: near the outline, flow slides along it instead of going
            round, and going back finds nothing wrong.
        reseed_frames: new points are seeded so often where the mask lost its own; 0 for never. They
            are unseen before, so they help clouds and not a twin's correspondences.
    """

    grid_px: int = 4
    border_px: int = 2
    return_px: float = 0.8
    return_share: float = 0.05
    margin_px: int = 40
    anchor_frames: int = 5
    anchor_px: float = 2.0
    neighbour_m: float = 0.010
    agree_m: float = 0.005
    agree_share: float = 0.5
    neighbours: int = 5
    least_cosine: float = 0.35
    reseed_frames: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            DataError: naming the values.
        """
        lengths = (self.grid_px, self.return_px, self.neighbour_m, self.agree_m, self.neighbours)
        counts = (self.border_px, self.margin_px, self.anchor_frames, self.reseed_frames)
        if min(lengths) <= 0 or min(counts) < 0:
            raise DataError(f"{self}", where="TrackConfig", expected="positive values")


def dense_flow(
    first: np.ndarray, second: np.ndarray, *, preset: int = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
) -> np.ndarray:
    """DIS optical flow.

    Args:
        first: grey image, uint8, shape (H, W).
        second: the same size.
        preset: OpenCV's trade of speed for quality.

    Returns:
        Where each pixel of ``first`` went, (du, dv), shape (H, W, 2), float32.
    """
    start = np.zeros((*first.shape, 2), np.float32)
    return np.asarray(cv2.DISOpticalFlow.create(preset).calc(first, second, start))


def grid_seeds(mask: np.ndarray, *, grid_px: int, border_px: int = 0) -> np.ndarray:
    """Pixels of a regular grid inside a mask.

    Args:
        mask: shape (H, W), bool.
        grid_px: distance between them [px].
        border_px: distance from the mask's border that they keep, where it is wide enough for that.

    Returns:
        (u, v), shape (N, 2), float32.
    """
    # The border of the image is no border of the object.
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    depth_px = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    keep = depth_px > min(border_px, 0.5 * float(depth_px.max(initial=0.0)))
    row, column = np.nonzero(keep)
    on_grid = (row % grid_px == grid_px // 2) & (column % grid_px == grid_px // 2)
    return np.stack([column[on_grid], row[on_grid]], axis=1).astype(np.float32)


class FlowTracker:
    """Point tracker without weights: chained DIS flow with a forward-backward check.

    Args:
        config: grid, checks, anchors.
    """

    def __init__(self, config: TrackConfig | None = None) -> None:
        self.config = config or TrackConfig()

    def track(
        self, rgb: Sequence[np.ndarray], masks: Sequence[np.ndarray], seeds: np.ndarray
    ) -> PixelTracks:
        """Follow pixels of the first image through the video.

        Args:
            rgb: T images, uint8, shape (H, W, 3).
            masks: where the object is in each, T of shape (H, W), bool.
            seeds: (u, v) in the first image, shape (N, 2).

        Returns:
            Where they went and until when they were seen.
        """
        frames = len(rgb)
        pixel = np.full((frames, len(seeds), 2), np.nan, np.float32)
        pixel[0] = seeds
        visible = np.zeros((frames, len(seeds)), bool)
        visible[0] = True
        grey = [cv2.cvtColor(np.asarray(rgb[0]), cv2.COLOR_RGB2GRAY)]
        for frame in range(1, frames):
            grey.append(cv2.cvtColor(np.asarray(rgb[frame]), cv2.COLOR_RGB2GRAY))
            alive = np.flatnonzero(visible[frame - 1])
            if len(alive) == 0:
                break
            moved, good = self._step(grey[-2], grey[-1], masks, frame, pixel[frame - 1, alive])
            back = frame - self.config.anchor_frames
            if self.config.anchor_frames and back >= 0:
                moved = self._anchored(grey[0], grey[-1], pixel[back, alive], moved)
                del grey[0]
            good &= _inside(masks[frame], moved)
            pixel[frame, alive[good]] = moved[good]
            visible[frame, alive[good]] = True
        return PixelTracks(pixel, visible)

    def _step(
        self,
        first: np.ndarray,
        second: np.ndarray,
        masks: Sequence[np.ndarray],
        frame: int,
        start: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        box = _bounding_box([masks[frame - 1], masks[frame]], self.config.margin_px)
        if box is None:
            return start, np.zeros(len(start), bool)
        left, top, right, bottom = box
        corner = np.array([left, top], np.float32)
        crops = [np.ascontiguousarray(g[top:bottom, left:right]) for g in (first, second)]
        local = start - corner
        motion = _sample(dense_flow(crops[0], crops[1]), local)
        end = local + motion
        miss = np.linalg.norm(motion + _sample(dense_flow(crops[1], crops[0]), end), axis=1)
        limit = self.config.return_px + self.config.return_share * np.linalg.norm(motion, axis=1)
        return end + corner, miss <= limit

    def _anchored(
        self, old: np.ndarray, new: np.ndarray, anchor: np.ndarray, guess: np.ndarray
    ) -> np.ndarray:
        """Shift points so that their patches look as they did; only by little, and both ways."""
        options: dict[str, Any] = {
            "winSize": (11, 11),
            "maxLevel": 0,
            "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
            "criteria": (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.01),
        }
        start, end = anchor[:, None].astype(np.float32), guess[:, None].astype(np.float32)
        ahead, found, _ = cv2.calcOpticalFlowPyrLK(old, new, start, end.copy(), **options)
        back, returned, _ = cv2.calcOpticalFlowPyrLK(new, old, ahead, start.copy(), **options)
        shift = np.linalg.norm(ahead[:, 0] - guess, axis=1)
        miss = np.linalg.norm(back[:, 0] - anchor, axis=1)
        good = (found[:, 0] == 1) & (returned[:, 0] == 1)
        good &= (shift < self.config.anchor_px) & (miss < 0.2)
        return np.where(good[:, None], ahead[:, 0], guess)


def _sample(field: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    found = cv2.remap(
        field,
        np.ascontiguousarray(pixel[:, :1], np.float32),
        np.ascontiguousarray(pixel[:, 1:], np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(found[:, 0])


def _inside(mask: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    column, row = np.rint(pixel).astype(np.int64).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return np.asarray(inside & mask[row.clip(0, height - 1), column.clip(0, width - 1)])


def _bounding_box(masks: Sequence[np.ndarray], margin_px: int) -> tuple[int, int, int, int] | None:
    union = np.logical_or.reduce([np.asarray(m, bool) for m in masks])
    left, top, width, height = cv2.boundingRect(union.astype(np.uint8))
    if width == 0:
        return None
    rows, columns = union.shape
    right, bottom = min(columns, left + width + margin_px), min(rows, top + height + margin_px)
    return max(0, left - margin_px), max(0, top - margin_px), right, bottom
