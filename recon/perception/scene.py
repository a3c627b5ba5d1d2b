"""What all cameras see together: the table, and one object's masks in every view.

Shapes: T frames, C cameras, N points, H W image.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from physgym.errors import DataError
from recon.perception.colour import grown_by_colour
from recon.perception.driven import GripperTrack
from recon.perception.lift import LiftConfig, View, lift_mask
from recon.perception.lying import lying_flat
from recon.perception.plugins import Segmenter
from recon.perception.prompt import Prompt, mask_from_prompt
from recon.perception.segment import FlowSegmenter, PackedMasks
from recon.perception.standing import CLEARANCE_M, above_table, standing_out
from recon.perception.table import Plane, fit_table
from recon.tracks import PhysGymWarning

__all__ = ["find_table", "object_masks"]

_SMALLEST_OBJECT = 0.001  # of an image

Masks = Sequence[np.ndarray]


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
    known: Sequence[Masks | None] | None = None,
    blocked: Sequence[Masks] | None = None,
    segmenter: Segmenter | None = None,
    grippers: Sequence[GripperTrack] = (),
) -> list[Masks]:
    """Masks of one object in every camera and frame.

    Args:
        views: C views.
        prompts: by camera name; other cameras get theirs from these, through depth. Without any,
            and without known masks, the object is what stands on the table.
        table: what it lies on.
        known: masks that are known, C of T; None for a camera without.
        blocked: what may hide it, C of T masks.
        segmenter: carries masks through time; flow and colour when None.
        grippers: of known pose, which are not the object.

    Returns:
        C of T masks, shape (H, W), bool; a camera that does not see the object in the first frame
        has empty ones, with a warning.

    Raises:
        DataError: if a prompt names no camera or finds nothing, or nothing tells the object.
    """
    names = [view.camera.name for view in views]
    unknown = sorted(set(prompts) - set(names))
    if unknown:
        raise DataError(f"prompts for {unknown}", where="object_masks", expected=f"of {names}")
    given = list(known) if known is not None else [None] * len(views)
    first = _first_masks(views, prompts, given, table, blocked, grippers)
    result: list[Masks] = []
    for index, view in enumerate(views):
        own, start = given[index], first[index]
        if own is not None:
            result.append(own)
        elif not start.any():
            warnings.warn(
                f"camera {names[index]!r} does not see the object in frame 0: it is left out",
                PhysGymWarning,
                stacklevel=3,
            )
            result.append(PackedMasks(np.zeros_like(start) for _ in range(len(view))))
        else:
            carrier = segmenter or FlowSegmenter(
                view.camera, table, blocked=None if blocked is None else blocked[index]
            )
            result.append(PackedMasks(carrier.propagate(view.rgb, view.depth_m, start)))
    return result


def _first_masks(
    views: Sequence[View],
    prompts: Mapping[str, Prompt],
    known: Sequence[Masks | None],
    table: Plane | None,
    blocked: Sequence[Masks] | None,
    grippers: Sequence[GripperTrack],
) -> list[np.ndarray]:
    """The object in the first frame of every camera; empty where it is not seen."""
    hidden = None if blocked is None else [np.asarray(masks[0]) for masks in blocked]
    if not prompts and all(masks is None for masks in known):
        return _without_prompt(views, table, hidden, grippers)
    above = [
        None if table is None else above_table(view, table, None if hidden is None else hidden[c])
        for c, view in enumerate(views)
    ]
    first: list[np.ndarray | None] = []
    for view, masks, candidate in zip(views, known, above, strict=True):
        prompt = prompts.get(view.camera.name)
        if masks is not None:
            first.append(np.asarray(masks[0]))
        else:
            first.append(None if prompt is None else _first_mask(view, prompt, candidate))
    seen = [
        lift_mask(view.camera, np.asarray(view.depth_m[0]), mask)[0]
        for view, mask in zip(views, first, strict=True)
        if mask is not None
    ]
    points = np.concatenate(seen)
    every = []
    for view, mask, candidate in zip(views, first, above, strict=True):
        if mask is None:
            prompt = _carried_prompt(view, points)
            empty = np.zeros((view.camera.height, view.camera.width), bool)
            mask = empty if prompt is None else _first_mask(view, prompt, candidate)
        every.append(mask)
    return every


def _without_prompt(
    views: Sequence[View],
    table: Plane | None,
    hidden: Sequence[np.ndarray] | None,
    grippers: Sequence[GripperTrack],
) -> list[np.ndarray]:
    if table is None:
        raise DataError(
            "no prompt and no table",
            where="object_masks",
            expected="a level table that the cameras see, or a prompt for at least one camera",
            fix="if there is a table, check T_world_cam: camera to world, in metres, z up in the "
            "world and forward in the camera",
        )
    found = standing_out(views, table, hidden=hidden, grippers=grippers)
    if max(float(mask.mean()) for mask in found) < _SMALLEST_OBJECT:
        found = lying_flat(views, table, hidden=hidden)
    if (
        any(gripper.jaws for gripper in grippers)
        and max(float(mask.mean()) for mask in found) < _SMALLEST_OBJECT
    ):
        found = standing_out(views, table, hidden=hidden, grippers=grippers, in_jaws=True)
    if max(float(mask.mean()) for mask in found) < _SMALLEST_OBJECT:
        raise DataError(
            f"nothing stands more than {1e3 * CLEARANCE_M:.0f} mm above the table, and nothing "
            "that lies on it differs from it in colour",
            where=f"cameras {', '.join(view.camera.name for view in views)}, frame 0",
            expected="an object on the table",
            fix="point the object out with a prompt",
        )
    grown = []
    for index, (view, mask) in enumerate(zip(views, found, strict=True)):
        if mask.mean() < 0.2 * _SMALLEST_OBJECT:
            grown.append(np.zeros_like(mask))
            continue
        not_it = None if hidden is None else hidden[index]
        grown.append(grown_by_colour(np.asarray(view.rgb[0]), mask, hidden=not_it))
    return grown


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


def _carried_prompt(view: View, points: np.ndarray) -> Prompt | None:
    """Clicks where points of the object, known from another camera, are seen by this one."""
    pixel, depth = view.camera.project(points)
    inside = np.isfinite(pixel).all(axis=1) & view.camera.visible(np.nan_to_num(pixel, nan=-9.0))
    column, row = np.rint(pixel[inside]).astype(int).T
    at = (row.clip(0, view.camera.height - 1), column.clip(0, view.camera.width - 1))
    same = np.abs(np.asarray(view.depth_m[0])[at] - depth[inside]) < 0.01
    clicks = pixel[inside][same]
    return Prompt(clicks=clicks[:: max(1, len(clicks) // 40)]) if len(clicks) >= 5 else None
