"""What all cameras see together: the table, and one object's masks in every view.

Shapes: T frames, C cameras, N points, H W image.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from physgym.errors import DataError
from recon.perception.colour import grown_by_colour, largest_part
from recon.perception.lift import LiftConfig, View, depth_edges, lift_mask
from recon.perception.plugins import Segmenter
from recon.perception.prompt import Prompt, mask_from_prompt
from recon.perception.segment import FlowSegmenter
from recon.perception.table import Plane, fit_table, height_above
from recon.tracks import PhysGymWarning

__all__ = ["find_table", "object_masks"]

_CLEARANCE_M = 0.006
_SMALLEST_OBJECT = 0.001  # of an image
_HIGHEST_M = 0.6  # what stands higher above the table is no soft object on it


def find_table(views: Sequence[View], up: np.ndarray) -> Plane | None:
    """The table plane, from the first frame of all cameras.

    Args:
        views: C views.
        up: against gravity, shape (3,).

    Returns:
        The plane, normal up; None, with a warning, where no plane is found.
    """
    points = []
    for view in views:
        depth = np.where(np.asarray(view.depth_m[0]) < LiftConfig().far_m, view.depth_m[0], 0.0)
        points.append(view.camera.unproject(depth)[::4, ::4].reshape(-1, 3))
    try:
        return fit_table(np.concatenate(points), up=up)[0]
    except DataError as error:
        warnings.warn(f"no table: {error.what}", PhysGymWarning, stacklevel=3)
        return None


def object_masks(
    views: Sequence[View],
    prompts: Mapping[str, Prompt],
    *,
    table: Plane | None,
    blocked: Sequence[Sequence[np.ndarray]] | None = None,
    segmenter: Segmenter | None = None,
) -> list[Sequence[np.ndarray]]:
    """Masks of one object in every camera and frame.

    Args:
        views: C views.
        prompts: by camera name. Without any, the largest thing above the table is the object.
        table: what it lies on.
        blocked: what may hide it, C of T masks.
        segmenter: carries masks through time; flow and colour when None.

    Returns:
        C of T masks, shape (H, W), bool.

    Raises:
        DataError: if a prompt names no camera or finds nothing, or nothing tells the object.
    """
    names = [view.camera.name for view in views]
    unknown = sorted(set(prompts) - set(names))
    if unknown:
        raise DataError(f"prompts for {unknown}", where="object_masks", expected=f"of {names}")
    above = [_above(view, table, _in(blocked, index)) for index, view in enumerate(views)]
    first: dict[str, np.ndarray] = {}
    for index, (view, candidate) in enumerate(zip(views, above, strict=True)):
        prompt = prompts.get(view.camera.name)
        if prompt is not None:
            first[view.camera.name] = _first_mask(view, prompt, candidate)
        elif not prompts:
            if candidate is None:
                raise DataError(
                    "no prompt and no table",
                    where="object_masks",
                    expected="a prompt for at least one camera",
                )
            first[view.camera.name] = _standing_out(view, candidate, _in(blocked, index))
    seen = [
        lift_mask(v.camera, np.asarray(v.depth_m[0]), first[n])[0]
        for v, n in zip(views, names, strict=True)
        if n in first
    ]
    known = np.concatenate(seen)
    result: list[Sequence[np.ndarray]] = []
    for index, (view, candidate) in enumerate(zip(views, above, strict=True)):
        start = first.get(view.camera.name)
        if start is None:
            start = _first_mask(view, _carried_prompt(view, known), candidate)
        carrier = segmenter or FlowSegmenter(
            view.camera, table, blocked=None if blocked is None else blocked[index]
        )
        result.append(carrier.propagate(view.rgb, view.depth_m, start))
    return result


def _in(blocked: Sequence[Sequence[np.ndarray]] | None, index: int) -> np.ndarray | None:
    return None if blocked is None else np.asarray(blocked[index][0])


def _above(view: View, table: Plane | None, hidden: np.ndarray | None) -> np.ndarray | None:
    if table is None:
        return None
    height = height_above(view.camera, np.asarray(view.depth_m[0]), table)
    candidate = (height > _CLEARANCE_M) & (height < _HIGHEST_M)
    # Two things, one in front of the other, are one region of the image but for the jump of depth.
    candidate &= ~depth_edges(np.asarray(view.depth_m[0]))
    return candidate if hidden is None else candidate & ~hidden


def _standing_out(view: View, above: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
    found = largest_part(above)
    if found.mean() < _SMALLEST_OBJECT:
        raise DataError(
            f"nothing stands more than {1e3 * _CLEARANCE_M:.0f} mm above the table",
            where=f"camera {view.camera.name!r}, frame 0",
            expected="an object above the table",
            fix="point the object out with a prompt (a cloth that lies flat needs one)",
        )
    return grown_by_colour(np.asarray(view.rgb[0]), found, hidden=hidden)


def _first_mask(view: View, prompt: Prompt, candidate: np.ndarray | None) -> np.ndarray:
    rgb = np.asarray(view.rgb[0])
    if candidate is not None:
        try:
            found = mask_from_prompt(rgb, prompt, candidate=candidate)
            if found.mean() >= _SMALLEST_OBJECT:
                return found
        except DataError:
            pass  # it may lie flat on the table: ask its colours alone
    return mask_from_prompt(rgb, prompt)


def _carried_prompt(view: View, points: np.ndarray) -> Prompt:
    """Clicks where points of the object, known from another camera, are seen by this one."""
    pixel, depth = view.camera.project(points)
    inside = np.isfinite(pixel).all(axis=1) & view.camera.visible(np.nan_to_num(pixel, nan=-9.0))
    column, row = np.rint(pixel[inside]).astype(int).T
    at = (row.clip(0, view.camera.height - 1), column.clip(0, view.camera.width - 1))
    same = np.abs(np.asarray(view.depth_m[0])[at] - depth[inside]) < 0.01
    clicks = pixel[inside][same]
    if len(clicks) < 5:
        raise DataError(
            f"camera {view.camera.name!r} sees nothing of what the prompted cameras see",
            where="object_masks",
            expected="an overlap of the views",
            fix="give this camera a prompt of its own, and check the calibration",
        )
    return Prompt(clicks=clicks[:: max(1, len(clicks) // 40)])
