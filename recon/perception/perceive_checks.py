"""What perception refuses, and what it warns of. Shapes: T frames, C cameras."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from physgym.errors import DataError
from recon.perception.driven import GripperTrack
from recon.perception.lift import View
from recon.perception.track import PointTracks
from recon.tracks import PhysGymWarning

if TYPE_CHECKING:
    from recon.perception.perceive import Masks, SomeMasks

__all__ = ["check_found", "check_views", "warn_lost", "warn_undriven"]

_MOVES_M = 0.01  # three times the usual error of a track


def check_views(
    views: Sequence[View],
    time_s: np.ndarray,
    masks: SomeMasks | None,
    grippers: Sequence[GripperTrack],
    name: str,
) -> None:
    """Refuse views, stamps, masks and grippers that do not fit each other.

    Args:
        views: C of them.
        time_s: stamps [s], shape (T,).
        masks: of the object, C of T, None for a camera without.
        grippers: recorded.
        name: of the recording.

    Raises:
        DataError: naming what does not fit.
    """
    where = f"{name}: perceive"
    lengths = [len(view) for view in views]
    if not views or set(lengths) != {len(time_s)}:
        raise DataError(
            f"views of {lengths} frames and {len(time_s)} stamps",
            where=where,
            expected="at least one view, all as long as the stamps",
            fix="synchronize the cameras first",
        )
    names = [view.camera.name for view in views]
    if len(set(names)) != len(names):
        raise DataError(f"cameras {names}", where=where, expected="different names")
    masked = [] if masks is None else [n if m is None else len(m) for m, n in zip(masks, lengths)]
    if masks is not None and (masked != lengths or len(masks) != len(views)):
        raise DataError(f"masks of {masked} frames", where=where, expected=f"{lengths}")
    recorded = [len(gripper.closed) for gripper in grippers]
    if set(recorded) - {len(time_s)}:
        raise DataError(
            f"grippers of {recorded} frames", where=where, expected=f"{len(time_s)} frames each"
        )


def check_found(masks: Masks, name: str) -> None:
    """Refuse a recording in whose first frame no camera sees the object.

    Args:
        masks: of the object, C of T.
        name: of the recording.

    Raises:
        DataError: if all are empty in frame 0.
    """
    if not any(mask[0].any() for mask in masks):
        raise DataError(
            "the object is in no camera's first frame",
            where=f"{name}: perceive, masks",
            expected="an object that at least one camera sees from the start",
            fix="start later (start_s), or give a prompt",
        )


def warn_lost(clouds: Sequence[np.ndarray], name: str) -> None:
    """Say in which frames no camera sees the object.

    Args:
        clouds: of every frame.
        name: of the recording.
    """
    empty = [frame for frame, cloud in enumerate(clouds) if len(cloud) == 0]
    if empty and len(empty) < len(clouds):
        runs = _runs(empty)
        warnings.warn(
            f"{name}: no camera sees the object in frames {runs}: tracks end there and these "
            "clouds are empty",
            PhysGymWarning,
            stacklevel=3,
        )


def _runs(numbers: Sequence[int]) -> str:
    """``[3, 4, 5, 9]`` as ``3 to 5, 9``."""
    parts = np.split(np.asarray(numbers), np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{p[0]} to {p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)


def warn_undriven(tracked: PointTracks, name: str) -> None:
    """Say so when an object moves and nothing is known that moves it.

    Args:
        tracked: points of the object.
        name: of the recording.
    """
    away = np.linalg.norm(tracked.position - tracked.position[0], axis=2)
    far = float(np.nanpercentile(away, 98))  # a single corner may be pulled
    if far > _MOVES_M:
        warnings.warn(
            f"{name}: the object moves by {1e3 * far:.0f} mm and nothing drives it: no gripper, "
            "plate or hand mask is recorded",
            PhysGymWarning,
            stacklevel=3,
        )
