"""Masks carried through time by flow, colour and height; masks of meshes of known pose.

No weights are needed. `recon.perception.prompt` finds the object in the first frame.
Shapes: T frames, H W image, V vertices, F faces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import cv2
import numpy as np
from scipy.spatial import cKDTree

from physgym.camera import PinholeCamera
from recon.perception.colour import ColourModel, parts_touched
from recon.perception.flow import dense_flow
from recon.perception.lift import LiftConfig, usable_depth
from recon.perception.table import Plane

__all__ = ["FlowSegmenter", "PackedMasks", "mask_iou", "rendered_mask"]


# Odds of colour from which a region is the object's even if it does not touch what is known of it.
# It must be as large as this, and no further from the object than a hand or a fold of it hides.
_SURE = 0.8
_REGAINED_PX = 40
_HIDDEN_M = 0.12
_MOST_POINTS = 2000
_FLOW_MARGIN_PX = 32  # of a half-size image: more than anything moves from frame to frame


class PackedMasks(Sequence[np.ndarray]):
    """Masks of one camera at a bit per pixel, so that a minute of them fits the memory.

    Args:
        masks: of shape (H, W), bool; all of one shape.
    """

    def __init__(self, masks: Iterable[np.ndarray] = ()) -> None:
        self._bits: list[np.ndarray] = []
        self._shape: tuple[int, ...] = (0, 0)
        for mask in masks:
            self.append(mask)

    def __len__(self) -> int:
        return len(self._bits)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(index, slice):
            part = PackedMasks()
            part._bits, part._shape = self._bits[index], self._shape
            return part
        count = self._shape[0] * self._shape[1]
        flat = np.unpackbits(self._bits[index], count=count)
        return flat.reshape(self._shape).view(bool)

    def append(self, mask: np.ndarray) -> None:
        """Add the mask of the next frame.

        Args:
            mask: shape (H, W), bool.
        """
        self._shape = mask.shape
        self._bits.append(np.packbits(np.asarray(mask, bool)))


class FlowSegmenter:
    """A `recon.perception.plugins.Segmenter` without weights.

    The last mask is moved by flow; around its border the colour's odds decide, and where depth is
    measured the object must be above the table and near the last object's depth. Parts that come
    out from behind something join again where their colour leaves no doubt.

    Args:
        camera: needed with a table.
        table: what the object lies on, or None.
        clearance_m: height from which a point counts as above the table [m]; not asked of an object
            that lies flatter than twice this in the first frame, such as a cloth.
        blocked: masks of what is in front (gripper, hand), T of shape (H, W), bool, or None.
        band_px: how far the border may move beyond the flow from frame to frame [px].
    """

    def __init__(
        self,
        camera: PinholeCamera | None = None,
        table: Plane | None = None,
        *,
        clearance_m: float = 0.004,
        blocked: Sequence[np.ndarray] | None = None,
        band_px: int = 4,
    ) -> None:
        self.camera, self.table, self.clearance_m = camera, table, clearance_m
        self.blocked, self.band_px = blocked, band_px
        self._rays: np.ndarray | None = None
        if camera is not None:
            self._rays = (camera.pixel_rays() @ camera.T_world_cam[:3, :3].T).astype(np.float32)
        self._slope: np.ndarray | None = None
        if self._rays is not None and table is not None:
            self._slope = self._rays @ table.normal.astype(np.float32)

    def propagate(
        self, rgb: Sequence[np.ndarray], depth_m: Sequence[np.ndarray], first_mask: np.ndarray
    ) -> PackedMasks:
        """Masks of every frame.

        Args:
            rgb: T images, uint8, shape (H, W, 3).
            depth_m: T aligned depth images [m], shape (H, W).
            first_mask: the object in the first frame, shape (H, W), bool.

        Returns:
            T masks, shape (H, W), bool; empty from where the object is lost.
        """
        mask = np.asarray(first_mask, bool)
        masks = PackedMasks([mask])
        colour = ColourModel(np.asarray(rgb[0]), mask)
        clearance = self._clearance(np.asarray(depth_m[0]), mask)
        seen = self._points(mask, np.asarray(depth_m[0]))
        before = _half_grey(rgb[0])
        for frame in range(1, len(rgb)):
            image, depth = np.asarray(rgb[frame]), np.asarray(depth_m[frame])
            now = _half_grey(image)
            odds = cv2.GaussianBlur(colour.probability(image), (0, 0), 1.5)
            barred = self._barred(depth, frame, clearance)
            moved = _moved(mask, _flow_around(mask, now, before)) if mask.any() else mask
            mask = self._decided(moved, odds, depth, frame, barred)
            mask |= self._regained(mask, odds, depth, barred, seen)
            if mask.any():
                seen = self._points(mask, depth)
            masks.append(mask)
            before = now
        return masks

    def _clearance(self, depth: np.ndarray, mask: np.ndarray) -> float:
        height = self._height(depth)
        if height is None:
            return -np.inf
        inside = height[mask & usable_depth(depth, LiftConfig())]
        flat = len(inside) == 0 or np.percentile(inside, 20) < 2.0 * self.clearance_m
        return -np.inf if flat else self.clearance_m

    def _height(self, depth: np.ndarray) -> np.ndarray | None:
        """Of every pixel's point above the table [m], shape (H, W)."""
        if self._slope is None or self.camera is None or self.table is None:
            return None
        foot = float(self.table.height(self.camera.position))
        return np.asarray(self._slope * depth + np.float32(foot))

    def _barred(self, depth: np.ndarray, frame: int, clearance_m: float) -> np.ndarray:
        """Where the object cannot be: on the table, or behind what is known to hide it."""
        barred = np.zeros(depth.shape, bool)
        height = self._height(depth) if np.isfinite(clearance_m) else None
        if height is not None:
            barred = usable_depth(depth, LiftConfig()) & (height < clearance_m)
        return barred if self.blocked is None else barred | np.asarray(self.blocked[frame], bool)

    def _decided(
        self,
        moved: np.ndarray,
        odds: np.ndarray,
        depth: np.ndarray,
        frame: int,
        barred: np.ndarray,
    ) -> np.ndarray:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * self.band_px + 1,) * 2)
        widest = cv2.dilate(moved.astype(np.uint8), kernel) > 0
        core = cv2.erode(moved.astype(np.uint8), kernel) > 0
        if self.blocked is not None:  # what comes out from behind something may be the object
            widest |= self.blocked[frame - 1] & ~self.blocked[frame]
        # Deep inside, colour must speak clearly against the object; outside, clearly for it.
        inside = (core & (odds > 0.1)) | (moved & (odds > 0.4)) | (widest & (odds > 0.6))
        inside &= ~barred
        measured = usable_depth(depth, LiftConfig())
        if (core & measured).any():
            low, high = np.percentile(depth[core & measured], [1, 99])
            slack = 0.05 + 0.5 * (high - low)
            inside &= ~measured | ((depth > low - slack) & (depth < high + slack))
        return parts_touched(_tidied(inside), moved, least_share=0.02)

    def _regained(
        self,
        mask: np.ndarray,
        odds: np.ndarray,
        depth: np.ndarray,
        barred: np.ndarray,
        seen: np.ndarray,
    ) -> np.ndarray:
        """Parts of the object that come out from behind something, or back into the view.

        They look like it beyond doubt, and lie close to where it was seen last.
        """
        found = np.zeros_like(mask)
        if len(seen) == 0:
            return found
        likely = (odds > _SURE) & ~barred & usable_depth(depth, LiftConfig())
        likely = _tidied(likely) & ~mask
        count, label, stats, _ = cv2.connectedComponentsWithStats(likely.astype(np.uint8))
        parts = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= _REGAINED_PX]
        tree = cKDTree(seen) if parts else None
        for part in parts:
            own = label == part
            points = self._points(own, depth)
            if tree is not None and len(points):
                near = tree.query(points, distance_upper_bound=_HIDDEN_M)[0]
                if np.isfinite(near).any():
                    found |= own
        return found

    def _points(self, mask: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Some world points of a mask [m], shape (N, 3)."""
        if self._rays is None or self.camera is None:
            return np.zeros((0, 3))
        row, column = np.nonzero(mask & usable_depth(depth, LiftConfig()))
        step = max(1, len(row) // _MOST_POINTS)
        row, column = row[::step], column[::step]
        return self._rays[row, column] * depth[row, column, None] + self.camera.position


def rendered_mask(
    camera: PinholeCamera,
    vertices: np.ndarray,
    faces: np.ndarray,
    *,
    depth_m: np.ndarray | None = None,
    behind_m: float = 0.02,
    margin_px: int = 2,
) -> np.ndarray:
    """Where a mesh of known pose is seen.

    Args:
        camera: whose image it is.
        vertices: world [m], shape (V, 3).
        faces: shape (F, 3), int.
        depth_m: measured [m], shape (H, W): pixels where something lies more than ``behind_m`` in
            front of the mesh are not of it.
        behind_m: see there [m].
        margin_px: the mask is grown by this, for errors of pose and calibration.

    Returns:
        Shape (H, W), bool.
    """
    size = (camera.height, camera.width)
    pixel, depth = camera.project(vertices)
    ahead = np.isfinite(pixel).all(axis=1)
    nearest = np.full(size, np.inf, np.float32)
    drawn = np.zeros(size, np.uint8)
    # Far triangles first, so that near ones are painted over them; one depth per triangle.
    kept = faces[ahead[faces].all(axis=1)]
    kept = kept[np.argsort(-depth[kept].mean(axis=1))]
    corner = np.rint(pixel * 16).clip(-(2**24), 2**24)
    for face in kept:
        shape = corner[face].astype(np.int32)
        cv2.fillConvexPoly(nearest, shape, float(depth[face].mean()), shift=4)
        cv2.fillConvexPoly(drawn, shape, 1, shift=4)
    mask = drawn > 0
    if depth_m is not None:
        measured = usable_depth(depth_m, LiftConfig())
        mask &= ~(measured & (depth_m < nearest - behind_m))
    if margin_px:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin_px + 1,) * 2)
        mask = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    return np.asarray(mask)


def mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union.

    Args:
        first: shape (H, W), bool.
        second: the same shape.

    Returns:
        0 to 1; NaN for two empty masks.
    """
    union = int((first | second).sum())
    return float((first & second).sum() / union) if union else float("nan")


def _tidied(mask: np.ndarray) -> np.ndarray:
    """Without specks and pinholes."""
    small = np.ones((3, 3), np.uint8)
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, small)
    return np.asarray(cv2.morphologyEx(opened, cv2.MORPH_CLOSE, small) > 0)


def _half_grey(rgb: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def _flow_around(mask: np.ndarray, now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Flow back to the last half-size image where the object may be; zero elsewhere."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    low = np.array([top, left]) // 2 - _FLOW_MARGIN_PX
    high = np.array([top + height, left + width]) // 2 + _FLOW_MARGIN_PX
    rows, columns = (slice(max(0, int(a)), int(b)) for a, b in zip(low, high, strict=True))
    flow = np.zeros((*now.shape, 2), np.float32)
    crops = (np.ascontiguousarray(image[rows, columns]) for image in (now, before))
    flow[rows, columns] = dense_flow(*crops)
    return flow


def _moved(mask: np.ndarray, half_flow_back: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    flow = 2.0 * cv2.resize(half_flow_back, (width, height))
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    source = mask.astype(np.float32)
    return np.asarray(cv2.remap(source, u + flow[..., 0], v + flow[..., 1], cv2.INTER_LINEAR) > 0.5)
