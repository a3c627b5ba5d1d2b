"""A flat object without a prompt: what differs in colour from the table around it.

A cloth that lies flat is no higher than the noise of depth. What is left is colour: the rim of the
table in view gives the table's own, and all cameras vote on a map of the table seen from above.
Shapes: C cameras, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from recon.perception.colour import colour_share, parts_touched
from recon.perception.lift import LiftConfig, View, usable_depth
from recon.perception.table import Plane, height_above

__all__ = ["lying_flat"]

_FLAT_M = 0.015
_RIM = 0.12  # of the image's height: so far in from the border of the table the object does not lie
_CELL_M = 0.008
_SMALLEST_M2 = 0.003  # 5 x 6 cm
_LARGEST = 0.6  # share of the table in view, above which the colours split the table itself
# A shadow is darker and leaves the shares of red, green and blue as they are.
_OTHER_HUE = 0.03
_LIGHTER = 1.15


def lying_flat(
    views: Sequence[View], table: Plane, *, hidden: Sequence[np.ndarray] | None = None
) -> list[np.ndarray]:
    """A flat object in the first frame of every camera.

    Args:
        views: C views.
        table: what it lies on.
        hidden: what is not of the object for sure, C of shape (H, W), bool.

    Returns:
        C masks, shape (H, W), bool; all empty where nothing differs from the table.
    """
    shares, cells, flats = [], [], []
    across = _axes(table)
    for index, view in enumerate(views):
        flat = _on_table(view, table, None if hidden is None else hidden[index])
        points = view.camera.unproject(np.asarray(view.depth_m[0]))
        cell = np.floor(np.nan_to_num(points @ across.T) / _CELL_M).astype(np.int64)
        shares.append(_unlike_rim(np.asarray(view.rgb[0]), flat))
        cells.append(cell)
        flats.append(flat)
    nothing = [np.zeros_like(flat) for flat in flats]
    seen = [cell[flat] for cell, flat in zip(cells, flats, strict=True)]
    if sum(len(part) for part in seen) == 0:
        return nothing
    low = np.concatenate(seen).min(axis=0)
    size = np.concatenate(seen).max(axis=0) - low + 1
    if np.prod(size) > 4_000_000:  # 16 m x 16 m: that is no table
        return nothing
    votes, voters = np.zeros(size), np.zeros(size)
    for part, share, flat in zip(seen, shares, flats, strict=True):
        count, for_it = np.zeros(size), np.zeros(size)
        np.add.at(count, tuple((part - low).T), 1)
        np.add.at(for_it, tuple((part - low).T), share[flat])
        votes += np.divide(for_it, count, out=np.zeros(size), where=count > 0)
        voters += count > 0
    above = np.divide(votes, voters, out=np.zeros(size), where=voters > 0) > 0.6
    chosen = _largest_inside(above, voters > 0)
    if chosen is None:
        return nothing
    wide = cv2.dilate(chosen.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    found = []
    for cell, flat, share, view in zip(cells, flats, shares, views, strict=True):
        place = tuple((cell - low).clip(0, size - 1).transpose(2, 0, 1))
        mask = flat & wide[place] & (cv2.GaussianBlur(share, (0, 0), 1.5) > 0.5)
        core = flat & chosen[place]
        small = np.ones((5, 5), np.uint8)
        closed = cv2.morphologyEx((mask | core).astype(np.uint8), cv2.MORPH_CLOSE, small) > 0
        kept = parts_touched(closed, core, least_share=0.1)
        found.append(kept if _is_object(np.asarray(view.rgb[0]), kept, flat) else kept & False)
    return found


def _axes(table: Plane) -> np.ndarray:
    """Two directions along the table, shape (2, 3)."""
    first = np.cross(table.normal, [1.0, 0.0, 0.0])
    if np.linalg.norm(first) < 0.5:
        first = np.cross(table.normal, [0.0, 1.0, 0.0])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(table.normal, first)])


def _on_table(view: View, table: Plane, hidden: np.ndarray | None) -> np.ndarray:
    depth = np.asarray(view.depth_m[0])
    flat = usable_depth(depth, LiftConfig())
    flat &= np.abs(np.nan_to_num(height_above(view.camera, depth, table), nan=1.0)) < _FLAT_M
    return flat if hidden is None else flat & ~hidden


def _unlike_rim(rgb: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """How much each pixel's colour speaks against the table's, shape (H, W), float32."""
    # Holes in the depth are no border of the table; the border of the image is one.
    whole = cv2.morphologyEx(flat.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((25, 25), np.uint8))
    padded = cv2.copyMakeBorder(whole, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inward = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    reach = min(_RIM * rgb.shape[0], 0.5 * float(inward.max()))
    rim, inner = flat & (inward <= reach), flat & (inward > reach)
    if rim.sum() < 500 or inner.sum() < 500:
        return np.zeros(flat.shape, np.float32)
    return colour_share(rgb, inner, rim)


def _largest_inside(above: np.ndarray, seen: np.ndarray) -> np.ndarray | None:
    """The largest part of the map, if it is of an object's size."""
    small = np.ones((3, 3), np.uint8)
    closed = cv2.morphologyEx(above.astype(np.uint8), cv2.MORPH_CLOSE, small)
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, small)
    count, label, stats, _ = cv2.connectedComponentsWithStats(opened)
    if count < 2:
        return None
    best = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    cells = int(stats[best, cv2.CC_STAT_AREA])
    if cells * _CELL_M**2 < _SMALLEST_M2 or cells > _LARGEST * seen.sum():
        return None
    return np.asarray(label == best)


def _is_object(rgb: np.ndarray, mask: np.ndarray, flat: np.ndarray) -> bool:
    """Whether a region differs from the table by more than a shadow does."""
    table = flat & ~mask
    if not mask.any() or not table.any():
        return bool(mask.any())
    light = rgb.astype(np.float32).sum(axis=2)
    own, other = (np.median(light[region]) for region in (mask, table))
    hue = rgb / light.clip(min=1.0)[..., None]
    away = np.abs(np.median(hue[mask], axis=0) - np.median(hue[table], axis=0)).max()
    return bool(away > _OTHER_HUE or own > _LIGHTER * other)
