"""PASS, WARN or FAIL with a number, its bar and what to do: the lines that checks print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["CheckLine", "checklist_plain", "graded", "print_checklist", "verdict"]

Status = Literal["PASS", "WARN", "FAIL"]

_COLOR = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}


@dataclass(frozen=True)
class CheckLine:
    """One line of a check.

    Attributes:
        name: what was looked at.
        status: PASS, WARN (usable, but look) or FAIL (do not go on).
        value: the number; None where there was nothing to measure.
        unit: of value and bar.
        bar: the number that separates PASS from the rest.
        where: the camera, pair of cameras or frame that decided.
        advice: what to do, ``""`` for PASS.
    """

    name: str
    status: Status
    value: float | None
    unit: str
    bar: float
    where: str = ""
    advice: str = ""


def graded(
    name: str,
    value: float,
    unit: str,
    *,
    warn: float,
    fail: float,
    where: str = "",
    advice: str = "",
) -> CheckLine:
    """A line for a number that should be small (warn < fail) or large (warn > fail).

    Args:
        name: what was looked at.
        value: the number; not finite counts as FAIL.
        unit: of the numbers.
        warn: the bar of PASS.
        fail: beyond this it is FAIL.
        where: the camera, pair or frame that decided.
        advice: what to do when it is not PASS.

    Returns:
        The line.
    """
    sign = 1.0 if warn <= fail else -1.0
    status: Status = "PASS"
    if not math.isfinite(value) or sign * value > sign * fail:
        status = "FAIL"
    elif sign * value > sign * warn:
        status = "WARN"
    shown = float(value) if math.isfinite(value) else None
    return CheckLine(name, status, shown, unit, warn, where, "" if status == "PASS" else advice)


def verdict(lines: Sequence[CheckLine]) -> Status:
    """The worst status of all lines.

    Args:
        lines: at least none.

    Returns:
        FAIL, WARN or PASS.
    """
    statuses = {line.status for line in lines}
    return "FAIL" if "FAIL" in statuses else "WARN" if "WARN" in statuses else "PASS"


def checklist_plain(lines: Sequence[CheckLine]) -> dict[str, Any]:
    """The lines and their verdict for JSON.

    Args:
        lines: of one check.

    Returns:
        ``{"verdict": ..., "lines": [...]}``.
    """
    return {"verdict": verdict(lines), "lines": [vars(line) for line in lines]}


def print_checklist(lines: Sequence[CheckLine], *, title: str) -> None:
    """Print the lines as a table, then the verdict.

    Args:
        lines: of one check.
        title: above the table.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("", "check", "measured", "bar", "where", "what to do", title=title, box=None)
    for line in lines:
        measured = "-" if line.value is None else f"{line.value:.3g} {line.unit}".strip()
        table.add_row(
            f"[{_COLOR[line.status]}]{line.status}[/]",
            line.name,
            measured,
            f"{line.bar:g} {line.unit}".strip(),
            line.where,
            line.advice,
        )
    console.print(table)
    worst = verdict(lines)
    console.print(f"[{_COLOR[worst]}]{worst}[/]")
