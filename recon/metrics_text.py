"""How good a twin is, in a few lines for people: what a job says at its end.

The figures are those of `Twin.metrics`, which tests of the recordings left there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["metrics_lines"]


class _Shown(NamedTuple):
    title: str
    unit: str
    factor: float
    sign: int  # 1 where less is better


_MEASURES = {
    "track_m": _Shown("track", "mm", 1e3, 1),
    "free_dist_mean_m": _Shown("free points", "mm", 1e3, 1),
    "chamfer_m": _Shown("CD", "mm", 1e3, 1),
    "iou": _Shown("IoU", "%", 1e2, -1),
    "psnr_db": _Shown("PSNR", "dB", 1.0, -1),
}
# Rows that are the twin, or a part of it; all others are what it must beat.
_OWN = ("twin", "prior")


def metrics_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Figures of a twin beside those of the trivial baselines.

    Args:
        metrics: of a twin that was made from a recording.

    Returns:
        One line a part, and one that says so where the twin predicts what it did not learn no
        better than a baseline does; none where nothing was scored.
    """
    lines = []
    for part, entry in _parts(metrics).items():
        rows = {row: one for row, one in entry.items() if _figures(one)}
        if "twin" not in rows:
            continue
        shown = [text for key in _MEASURES if (text := _text(key, rows))]
        if shown:
            lines.append(f"{part}, {' / '.join(rows)}: {', '.join(shown)}")
            if part != "train":
                lines += _lost(rows)
    return lines


def _parts(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By part the rows; of tracks, where baselines have a table of their own, that is built."""
    if isinstance(metrics.get("parts"), Mapping):
        return dict(metrics["parts"])
    made: dict[str, Mapping[str, Any]] = {}
    for part, entry in metrics.items():
        if isinstance(entry, Mapping) and "baselines_free_dist_mean_m" in entry:
            rows = {"twin": entry["free_dist_mean_m"], **entry["baselines_free_dist_mean_m"]}
            made[part] = {row: {"free_dist_mean_m": value} for row, value in rows.items()}
    return made


def _figures(row: Any) -> dict[str, float]:
    if not isinstance(row, Mapping):
        return {}
    return {key: row[key] for key in _MEASURES if isinstance(row.get(key), float)}


def _text(key: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    measure = _MEASURES[key]
    values = [rows[row].get(key) for row in rows]
    if values[0] is None:
        return ""
    told = ["-" if value is None else f"{measure.factor * value:.1f}" for value in values]
    return f"{measure.title} {' / '.join(told)} {measure.unit}"


def _lost(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Said by the first measure that all rows have: tracks tell more than silhouettes."""
    for key, measure in _MEASURES.items():
        others = {row: one[key] for row, one in rows.items() if row not in _OWN and one.get(key)}
        own = rows["twin"].get(key)
        if own is None or not others:
            continue
        best = min(others, key=lambda row: measure.sign * others[row])
        if measure.sign * own < measure.sign * others[best]:
            return []
        return [
            f"note: what it did not learn, {best!r} predicts as well or better "
            f"({measure.title} {measure.factor * others[best]:.1f} against "
            f"{measure.factor * own:.1f} {measure.unit}): plan with that instead"
        ]
    return []
