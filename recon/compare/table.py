"""The table of a comparison: one row a contestant and part, the baselines below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

__all__ = [
    "BASELINES",
    "MEASURES",
    "Measure",
    "TableRow",
    "baseline_rows",
    "failures",
    "header",
    "markdown",
    "print_table",
    "shown_measures",
    "table_rows",
]

_WIDE = 120  # characters that all columns need

BASELINES = ("frozen", "rigid", "falling")
"""All that a method must beat, and is scored beside; the last one of what flies alone."""


@dataclass(frozen=True)
class Measure:
    """One column.

    Attributes:
        title: with its unit.
        factor: from the JSON's unit to the title's.
        digits: after the point.
        sign: 1 where less is better, -1 where more is.
    """

    title: str
    factor: float = 1.0
    digits: int = 1
    sign: int = 1

    def text(self, value: float | None) -> str:
        """A value as the table shows it; a dash where there is none."""
        return "-" if value is None else f"{self.factor * value:.{self.digits}f}"


MEASURES: dict[str, Measure] = {
    "chamfer_m": Measure("CD [mm]", 1e3),
    "cd2_m2": Measure("CD² [mm²]", 1e6, 0),
    "emd_m": Measure("EMD [mm]", 1e3),
    "track_m": Measure("track [mm]", 1e3),
    "true_track_m": Measure("true track [mm]", 1e3),
    "iou": Measure("IoU points [%]", 1e2, sign=-1),
    "image_iou": Measure("IoU [%]", 1e2, sign=-1),
    "image_psnr_db": Measure("PSNR [dB]", sign=-1),
    "image_psnr_crop_db": Measure("PSNR crop [dB]", sign=-1),
    "image_ssim": Measure("SSIM", digits=3, sign=-1),
    "image_ssim_crop": Measure("SSIM crop", digits=3, sign=-1),
    "image_lpips": Measure("LPIPS", digits=3),
}
"""Columns by the names of their values in the JSON, in their order."""


@dataclass(frozen=True)
class TableRow:
    """One line of the table.

    Attributes:
        part: ``train`` or ``future``.
        who: a contestant or a baseline.
        figures: one text a measure.
        best: which of them are the best of their part, baselines included.
        seconds: wall time of learning, or a dash.
        memory: peak memory, or a dash.
        baseline: whether it is one.
    """

    part: str
    who: str
    figures: tuple[str, ...]
    best: tuple[bool, ...]
    seconds: str
    memory: str
    baseline: bool


def baseline_rows(
    rows: Sequence[Mapping[str, Any]], clouds: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """The baselines, of what all contestants measured of them.

    Baselines of points are the same for all; those of images are drawn with the appearance of each
    contestant, and the best counts, measure by measure.

    Args:
        rows: of contestants (`recon.compare.run.compare`).
        clouds: by baseline and part, measures of `recon.compare.cloud_scores`.

    Returns:
        By baseline, part and measure the value; empty where no contestant was done. What no
        contestant was scored beside is left out.
    """
    done = [row for row in rows if row["status"] == "done"]
    made: dict[str, dict[str, dict[str, float | None]]] = {}
    for name in BASELINES:
        beside = [row for row in done if all(name in part for part in row["parts"].values())]
        if not beside:
            continue
        made[name] = {}
        for part in done[0]["parts"]:
            found: dict[str, float | None] = dict(clouds.get(name, {}).get(part, {}))
            for key, measure in MEASURES.items():
                values = [row["parts"][part][name].get(key) for row in beside]
                known = [value for value in values if value is not None]
                if known:
                    found[key] = min(known) if measure.sign > 0 else max(known)
            made[name][part] = found
    return made


def shown_measures(result: Mapping[str, Any]) -> list[str]:
    """Measures that at least one contestant has.

    Args:
        result: of `recon.compare.run.compare`.

    Returns:
        Keys of `MEASURES`.
    """
    entries = [
        part["twin"]
        for row in result["contestants"]
        if row["status"] == "done"
        for part in row["parts"].values()
    ]
    return [key for key in MEASURES if any(entry.get(key) is not None for entry in entries)]


def table_rows(result: Mapping[str, Any], measures: Sequence[str]) -> list[TableRow]:
    """The table.

    Args:
        result: of `recon.compare.run.compare`.
        measures: columns, keys of `MEASURES`.

    Returns:
        The future first, which is what counts; in each part contestants in their order, those that
        were not done with dashes, then the baselines.
    """
    parts = [p for p in ("future", "train") if any(p in _parts(r) for r in result["contestants"])]
    made: list[TableRow] = []
    for part in parts:
        entries = [(row, _twin(row, part)) for row in result["contestants"]]
        below = [(name, entry.get(part, {})) for name, entry in result["baselines"].items()]
        all_values = [entry for _, entry in entries] + [entry for _, entry in below]
        best = {key: _best(key, [entry.get(key) for entry in all_values]) for key in measures}
        for row, entry in entries:
            done = row["status"] == "done"
            who = row["name"] if done else f"{row['name']} ({row['status']})"
            made.append(_row(part, who, entry, measures, best, _cost(row), False))
        for name, entry in below:
            made.append(_row(part, name, entry, measures, best, ("", ""), True))
    return made


def header(measures: Sequence[str]) -> list[str]:
    """Titles of all columns.

    Args:
        measures: keys of `MEASURES`.

    Returns:
        Texts.
    """
    return ["part", "who", *(MEASURES[key].title for key in measures), "learn [s]", "memory [MB]"]


def failures(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Contestants without figures.

    Args:
        result: of `recon.compare.run.compare`.

    Returns:
        Name, why, and what to do of each.
    """
    made = []
    for row in result["contestants"]:
        if row["status"] == "failed":
            error = row["error"]
            where = f" ({error['where']})" if error["where"] else ""
            made.append((row["name"], f"{error['what']}{where}", error["fix"]))
        elif row["status"] != "done":
            why = "stopped by Ctrl-C" if row["status"] == "stopped" else "not begun"
            made.append((row["name"], why, "--resume goes on with it"))
    return made


def markdown(result: Mapping[str, Any]) -> str:
    """The table for documents; the best of each part is bold.

    Args:
        result: of `recon.compare.run.compare`.

    Returns:
        Markdown.
    """
    measures = shown_measures(result)
    titles = header(measures)
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for row in table_rows(result, measures):
        figures = [f"**{t}**" if b else t for t, b in zip(row.figures, row.best)]
        lines.append(f"| {' | '.join([row.part, row.who, *figures, row.seconds, row.memory])} |")
    if not measures:
        lines = []
    lines += [*result.get("notes", ()), *(f"{name}: {why}" for name, why, _ in failures(result))]
    return "\n".join([*lines, ""])


def print_table(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the table, and what did not work.

    Where the terminal is narrow, measures of points and of images come one below the other.

    Args:
        result: of `recon.compare.run.compare`.
        console: where to; standard output when None.
    """
    from rich.console import Console as New
    from rich.text import Text

    console = console or New()
    measures = shown_measures(result)
    groups = [measures]
    if console.width < _WIDE:
        images = [key for key in measures if key.startswith("image_")]
        groups = [[key for key in measures if key not in images], images]
    if measures:
        stop, frames, cameras = result["train_stop"], result["frames"], len(result["cameras"])
        console.print(
            Text(
                f"{result['episode']}: {frames} frames of {cameras} camera{'s' * (cameras != 1)}, "
                f"{stop} learned from, {frames - stop} predicted",
                style="bold",
            )
        )
    for group in groups:
        if group:
            console.print(_rich_table(result, group))
    for note in result.get("notes", ()):
        console.print(note, markup=False, highlight=False)
    for name, why, what_to_do in failures(result):
        said = f"{name}: {why}" + (f"; {what_to_do}" if what_to_do else "")
        console.print(said, markup=False, highlight=False)


def _rich_table(result: Mapping[str, Any], measures: Sequence[str]) -> RichTable:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    _, *titles = header(measures)
    for index, name in enumerate(titles):
        # A plain text: in markup, [mm] would be a style.
        title = Text(name.replace(" [", "\n["))
        table.add_column(title, justify="left" if index == 0 else "right", no_wrap=index == 0)
    last = ""
    for row in table_rows(result, measures):
        if row.part != last:
            table.add_row(Text(row.part, style="bold underline"))
            last = row.part
        styles = ["bold green" if best else "" for best in row.best]
        figures = [Text(text, style=style) for text, style in zip(row.figures, styles)]
        style = "dim" if row.baseline else ""
        table.add_row(Text(row.who), *figures, row.seconds, row.memory, style=style)
    return table


def _parts(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row.get("parts", {}) if row["status"] == "done" else {}


def _cost(row: Mapping[str, Any]) -> tuple[str, str]:
    """Seconds of learning, those of the last start alone where it was resumed; and megabytes."""
    if row["status"] != "done":
        return "-", "-"
    least = ">" if row["resumed"] else ""
    return f"{least}{row['seconds']['learn']:.0f}", f"{row['peak_memory_mb']:.0f}"


def _twin(row: Mapping[str, Any], part: str) -> Mapping[str, float | None]:
    return _parts(row).get(part, {}).get("twin", {})  # type: ignore[no-any-return]


def _best(key: str, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    return min(known) if MEASURES[key].sign > 0 else max(known)


def _row(
    part: str,
    who: str,
    entry: Mapping[str, float | None],
    measures: Sequence[str],
    best: Mapping[str, float | None],
    cost: tuple[str, str],
    baseline: bool,
) -> TableRow:
    values = [entry.get(key) for key in measures]
    return TableRow(
        part,
        who,
        tuple(MEASURES[key].text(value) for key, value in zip(measures, values)),
        tuple(v is not None and v == best[key] for key, v in zip(measures, values)),
        *cost,
        baseline,
    )
