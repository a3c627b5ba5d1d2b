"""Masks carried through time by flow, colour and height; masks of meshes of known pose.

No weights are needed. `recon.perception.prompt` finds the object in the first frame.
Shapes: T frames, H W image, V vertices, F faces.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from physgym.camera import PinholeCamera
from recon.perception.colour import ColourModel, parts_touched
from recon.perception.flow import dense_flow
from recon.perception.lift import LiftConfig, usable_depth
from recon.perception.table import Plane, height_above

__all__ = ["FlowSegmenter", "mask_iou", "rendered_mask"]


class FlowSegmenter:
    """A `recon.perception.plugins.Segmenter` without weights.

    The last mask is moved by flow; around its border the colour's odds decide, and where depth is
    measured the object must be above the table and near the last object's depth.

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

    def propagate(
        self, rgb: Sequence[np.ndarray], depth_m: Sequence[np.ndarray], first_mask: np.ndarray
    ) -> list[np.ndarray]:
        """Masks of every frame.

        Args:
            rgb: T images, uint8, shape (H, W, 3).
            depth_m: T aligned depth images [m], shape (H, W).
            first_mask: the object in the first frame, shape (H, W), bool.

        Returns:
            T masks, shape (H, W), bool; empty from where the object is lost.
        """
        masks = [np.asarray(first_mask, bool)]
        colour = ColourModel(np.asarray(rgb[0]), masks[0])
        clearance = self._clearance(np.asarray(depth_m[0]), masks[0])
        before = _half_grey(rgb[0])
        for frame in range(1, len(rgb)):
            now = _half_grey(rgb[frame])
            image, depth = np.asarray(rgb[frame]), np.asarray(depth_m[frame])
            moved = _moved(masks[-1], dense_flow(now, before))
            odds = cv2.GaussianBlur(colour.probability(image), (0, 0), 1.5)
            masks.append(self._decided(moved, odds, depth, frame, clearance))
            before = now
        return masks

    def _clearance(self, depth: np.ndarray, mask: np.ndarray) -> float:
        if self.table is None or self.camera is None:
            return -np.inf
        height = height_above(self.camera, depth, self.table)[mask]
        height = height[np.isfinite(height)]
        flat = len(height) == 0 or np.percentile(height, 20) < 2.0 * self.clearance_m
        return -np.inf if flat else self.clearance_m

    def _decided(
        self,
        moved: np.ndarray,
        odds: np.ndarray,
        depth: np.ndarray,
        frame: int,
        clearance_m: float,
    ) -> np.ndarray:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * self.band_px + 1,) * 2)
        widest = cv2.dilate(moved.astype(np.uint8), kernel) > 0
        core = cv2.erode(moved.astype(np.uint8), kernel) > 0
        if self.blocked is not None:  # what comes out from behind something may be the object
            widest |= self.blocked[frame - 1] & ~self.blocked[frame]
        # Deep inside, colour must speak clearly against the object; outside, clearly for it.
        inside = (core & (odds > 0.1)) | (moved & (odds > 0.4)) | (widest & (odds > 0.6))
        measured = usable_depth(depth, LiftConfig())
        if self.table is not None and self.camera is not None and np.isfinite(clearance_m):
            height = height_above(self.camera, depth, self.table)
            inside &= ~(measured & (height < clearance_m))
        if (core & measured).any():
            low, high = np.percentile(depth[core & measured], [1, 99])
            slack = 0.05 + 0.5 * (high - low)
            inside &= ~measured | ((depth > low - slack) & (depth < high + slack))
        if self.blocked is not None:
            inside &= ~self.blocked[frame]
        small = np.ones((3, 3), np.uint8)
        opened = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_OPEN, small)
        closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, small) > 0
        return parts_touched(closed, moved, least_share=0.02)


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


def _half_grey(rgb: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def _moved(mask: np.ndarray, half_flow_back: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    flow = 2.0 * cv2.resize(half_flow_back, (width, height))
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    source = mask.astype(np.float32)
    return np.asarray(cv2.remap(source, u + flow[..., 0], v + flow[..., 1], cv2.INTER_LINEAR) > 0.5)
