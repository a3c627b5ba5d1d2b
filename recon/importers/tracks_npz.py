"""A tracks ``.npz``: PhysGym's own, or one that somebody wrote by hand.

====================  ==============  ==============================================================
key                   shape           what
====================  ==============  ==============================================================
``time``              (T,)            stamps [s], increasing
``points``            (T, N, 3)       positions [m], z up; NaN where not seen
``visible``           (T, N)          whether a point was seen; all finite points when absent
``driven_index``      (K,)            which points are driven (gripped); or instead
``driven``            (T, K, 3)       positions of driven points [m] that are not among ``points``:
                                      they are appended, so nodes N to N + K - 1 are driven
``rest``              (N [+ K], 3)    the object at rest [m], appended points included; optional
                                      (``rest_position`` is read too)
``radius``            ()              radius of a rope [m]; optional
``gravity``           (3,)            [m/s^2]; (0, 0, -9.81) when absent
``name``              ()              text; the name of the file when absent
====================  ==============  ==============================================================
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from physgym.errors import DataError
from recon import checks
from recon.npz import file_sha256, npz_keys, read_npz
from recon.tracks import FORMAT, Tracks

__all__ = ["matches", "read"]

_KNOWN = {
    "time", "points", "visible", "driven_index", "driven", "rest", "rest_position", "radius",
    "gravity", "name", "format", "version", "source_sha256",
}  # fmt: skip


def matches(path: Path) -> bool:
    """Whether a file is a tracks ``.npz``.

    Args:
        path: any path.

    Returns:
        True when it is an ``.npz`` that holds ``time`` and ``points``.
    """
    return {"time", "points"} <= npz_keys(path)


def read(path: Path) -> list[Tracks]:
    """Read and check one file.

    Args:
        path: the file.

    Returns:
        One recording.

    Raises:
        DataError: if the file is damaged or the recording cannot be used.
    """
    arrays = read_npz(path)
    if str(arrays.get("format")) == FORMAT:
        return [Tracks.load(path)]
    unknown = sorted(set(arrays) - _KNOWN)
    if unknown:
        raise DataError(
            f"unknown array {unknown[0]!r}",
            where=str(path),
            expected="only " + ", ".join(sorted(_KNOWN)),
            fix="rename it or leave it out",
        )
    name = str(arrays["name"]) if "name" in arrays else path.stem
    raw = checks.RawTracks(
        name=name,
        where=str(path),
        time_s=arrays["time"],
        position=arrays["points"],
        visible=arrays.get("visible"),
        driven_index=arrays.get("driven_index"),
        gravity=arrays.get("gravity"),
        rest_position=arrays.get("rest", arrays.get("rest_position")),
        radius_m=arrays.get("radius"),
        source_sha256=file_sha256(path),
    )
    if "driven" in arrays:
        raw = _with_driven(raw, arrays["driven"])
    elif "driven_index" not in arrays:
        raise DataError(
            "nothing says which points are driven",
            where=str(path),
            expected="driven_index (K,) or driven (T, K, 3)",
            fix="give driven_index = [] for an object that nothing touches",
        )
    return [checks.checked_tracks(raw)]


def _with_driven(raw: checks.RawTracks, driven: np.ndarray) -> checks.RawTracks:
    """Append driven points that are not among the points."""
    points = checks.numbers(raw.position, ("T", "N", 3), f"{raw.where}: points")
    frames, count = points.shape[:2]
    extra = checks.numbers(driven, (frames, "K", 3), f"{raw.where}: driven")
    if raw.driven_index is not None:
        raise DataError(
            "both driven and driven_index are given",
            where=raw.where,
            expected="one of the two",
            fix="leave out driven when the driven points are among the points",
        )
    added = extra.shape[1]
    visible = np.isfinite(points).all(-1)
    if raw.visible is not None:
        visible = checks.numbers(raw.visible, (frames, count), f"{raw.where}: visible") != 0
    if raw.rest_position is not None and len(raw.rest_position) == count and added:
        raise DataError(
            f"rest has {count} points, but {added} driven points are appended",
            where=f"{raw.where}: rest",
            expected=f"{count + added} points, the driven ones last",
            fix="append the driven points at rest, or leave rest out",
        )
    return raw.replace(
        position=np.concatenate([points, extra], axis=1),
        visible=np.concatenate([visible, np.ones((frames, added), bool)], axis=1),
        driven_index=np.arange(count, count + added),
    )
