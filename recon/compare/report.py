"""The page of a comparison: recording and twins side by side, the table, what the figures are.

Shapes: T frames, N nodes, H W image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure as Plot

from physgym.report import Figure, Report, Section, Table, Video, write_video
from physgym.twin import Twin
from recon.compare.table import (
    MEASURES,
    failures,
    header,
    shown_measures,
    table_rows,
)
from recon.perception.result import Perception
from recon.render_pictures import Beside

__all__ = ["Stage", "side_by_side", "strip", "verdict", "write_report"]

_PANEL_PX = 300  # height or width of a panel, at most
_LABEL_PX = 30
_GAP_PX = 6
_GIVEN, _LEARNED, _PREDICTED = (110, 118, 128), (37, 99, 201), (217, 130, 43)  # RGB
_COLUMNS = 5


@dataclass(frozen=True, eq=False)
class Stage:
    """What the pictures show.

    Attributes:
        views: of every contestant that has an appearance, by name.
        train_stop: first frame that is predicted.
    """

    views: Mapping[str, Beside]
    train_stop: int

    @property
    def first(self) -> Beside:
        """Any of them: the recording is the same."""
        return next(iter(self.views.values()))

    def box(self) -> tuple[int, int, int, int]:
        """First row, one past the last, first column, one past the last that hold them all."""
        boxes = np.array([view.box() for view in self.views.values()])
        low, high = boxes.min(axis=0), boxes.max(axis=0)
        return int(low[0]), int(high[1]), int(low[2]), int(high[3])

    def panels(self, frame: int, box: tuple[int, int, int, int]) -> list[np.ndarray]:
        """The recorded part of an image, then as each contestant predicts it, uint8."""
        pairs = [view.pair(frame, box) for view in self.views.values()]
        return [pairs[0][0], *(drawn for _, drawn in pairs)]

    def phase(self, frame: int) -> tuple[str, tuple[int, int, int]]:
        """What a frame is to the contestants, and its colour."""
        if frame == 0:
            return "given", _GIVEN
        return ("learned", _LEARNED) if frame < self.train_stop else ("predicted", _PREDICTED)


def write_report(
    path: Path, result: Mapping[str, Any], source: Path, folder: Path, perception: Perception
) -> Path:
    """Draw and write the page.

    Args:
        path: where to.
        result: of `recon.compare.run.compare`; at least one contestant is done.
        source: the episode.
        folder: of the comparison, with a twin and ``nodes.npz`` of every contestant.
        perception: of the episode.

    Returns:
        The path.
    """
    from recon.splats.frame import recorded_images

    hero: list[Figure | Video] = []
    with recorded_images(source, perception) as images:
        views = {}
        for row in result["contestants"]:
            twin = Twin.load(folder / row["name"] / "twin") if row["status"] == "done" else None
            if twin is None or twin.splats is None or perception.masks is None:
                continue
            with np.load(folder / row["name"] / "nodes.npz") as kept:
                views[row["name"]] = Beside.of(twin, perception, kept["nodes"], images)
        if views:
            stage = Stage(views, result["train_stop"])
            hero = [side_by_side(stage), strip(stage)]
    text, mood = verdict(result)
    measures = shown_measures(result)
    rows = [
        [row.part, row.who, *row.figures, row.seconds, row.memory]
        for row in table_rows(result, measures)
    ]
    stop, frames = result["train_stop"], result["frames"]
    caption = f"{stop} frames learned from, frame 0 given; {frames - stop} predicted."
    sections = [Section("All figures", [Table(header(measures), rows, caption)])]
    wrong = failures(result)
    if wrong:
        sections.append(Section("What did not work", [Table(["who", "why", "to do"], wrong)]))
    sections += [_notes(result), _definitions(result, measures)]
    return Report(
        title=f"{result['episode']}: {len(result['contestants'])} methods",
        verdict=text,
        mood=mood,  # type: ignore[arg-type]  # one of the three
        facts=_facts(result),
        hero=hero,
        sections=sections,
        footer=f"PhysGym {result['physgym']}, {result['processors']} processors",
    ).write(path)


def side_by_side(stage: Stage) -> Video:
    """The recording and every contestant; a bar of another colour marks what is predicted.

    Args:
        stage: what is shown.

    Returns:
        The video, at half the recording's pace where that is short.
    """
    time_s = stage.first.time_s
    seconds, count = float(time_s[-1] - time_s[0]), len(time_s)
    rate_hz = (count - 1) / seconds if seconds > 0 else 1.0
    if seconds < 1.5:  # a bounce is over before it is seen
        rate_hz = (count - 1) / 3.0
    with TemporaryDirectory() as folder:
        path = write_video(_film(stage), Path(folder) / "compare.mp4", rate_hz=rate_hz)
        content = path.read_bytes()
    pace = f", {(count - 1) / seconds / rate_hz:.0f} times slowed" if seconds < 1.5 else ""
    return Video(
        content,
        f"{stage.first.camera.name}{pace}: the recording, then the twins. Blue bar: frames that "
        "were learned from; orange: predicted.",
    )


def _film(stage: Stage) -> Iterator[np.ndarray]:
    box = stage.box()
    height, width = box[1] - box[0], box[3] - box[2]
    scale = min(4.0, _PANEL_PX / max(height, width))
    size = (2 * max(1, round(scale * width / 2)), 2 * max(1, round(scale * height / 2)))
    names = ["recording", *stage.views]
    for frame in range(len(stage.first.nodes)):
        word, colour = stage.phase(frame)
        tiles = []
        for name, image in zip(names, stage.panels(frame, box)):
            panel = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
            tiles += [np.concatenate([_label(name, size[0], (30, 34, 40)), panel])]
            tiles += [np.full((size[1] + _LABEL_PX, _GAP_PX, 3), 255, np.uint8)]
        whole = np.concatenate(tiles[:-1], axis=1)
        bar = _label(f"frame {frame}: {word}", whole.shape[1], colour)
        yield np.concatenate([whole, bar])


def _label(text: str, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    band = np.full((_LABEL_PX, width, 3), colour, np.uint8)
    size = 0.5
    while size > 0.25 and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0] > width:
        size -= 0.05
    place = (6, _LABEL_PX - 10)
    white = (255, 255, 255)
    cv2.putText(band, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, white, 1, cv2.LINE_AA)
    return band


def strip(stage: Stage) -> Figure:
    """Frames of the recording above, the same of every contestant below.

    Args:
        stage: what is shown.

    Returns:
        The picture.
    """
    box, frames = stage.box(), _strip_frames(len(stage.first.nodes), stage.train_stop)
    names = ["recording", *stage.views]
    shape = (box[1] - box[0]) / (box[3] - box[2])
    plot = Plot(figsize=(2.5 * len(frames), 2.5 * shape * len(names) + 0.7))
    axes = plot.subplots(len(names), len(frames), squeeze=False)
    time_s = stage.first.time_s
    for column, frame in enumerate(frames):
        word, colour = stage.phase(frame)
        tone = tuple(value / 255 for value in colour)
        for row, image in enumerate(stage.panels(frame, box)):
            ax = axes[row, column]
            ax.imshow(image)
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set(color=tone, linewidth=2)
        seconds = time_s[frame] - time_s[0]
        axes[0, column].set_title(f"{seconds:.2f} s, {word}", fontsize=10, color=tone)
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name, fontsize=10)
    plot.tight_layout(pad=0.4)
    return Figure.from_plot(
        plot,
        f"{stage.first.camera.name}: the recording, and the object as each twin has it, before "
        "black. Orange frames were never learned from.",
    )


def _strip_frames(frames: int, train_stop: int) -> list[int]:
    """The start, the middle and end of what was learned from, the middle and end of the future."""
    last = frames - 1
    wanted = [0, train_stop // 2, train_stop - 1, (train_stop + last) // 2, last]
    return sorted({min(max(frame, 0), last) for frame in wanted})[:_COLUMNS]


def verdict(result: Mapping[str, Any]) -> tuple[str, str]:
    """Who predicts best, and whether that beats doing nothing.

    Args:
        result: of `recon.compare.run.compare`.

    Returns:
        A sentence, and whether it is ``good``, ``bad`` or ``neutral`` news.
    """
    done = [row for row in result["contestants"] if row["status"] == "done"]
    if not done or "future" not in done[0]["parts"]:
        return "Nothing was held out: the figures say how well the twins fit.", "neutral"
    # Where the motion itself is not seen, masks tell most.
    keys = ("true_track_m", "track_m", "image_iou", "iou")
    key = next((k for k in keys if any(_future(row, k) is not None for row in done)), None)
    if key is None:
        return "Nothing was seen in the predicted frames.", "neutral"
    measure = MEASURES[key]
    ranked = sorted(
        (row for row in done if _future(row, key) is not None),
        key=lambda row: measure.sign * _future(row, key),
    )
    best = _future(ranked[0], key)
    trivial = min(
        (
            value
            for entry in result["baselines"].values()
            if (value := entry["future"].get(key)) is not None
        ),
        key=lambda value: measure.sign * value,
    )
    title, unit = measure.title.rstrip("]").split(" [")
    error = " error" if measure.sign > 0 else ""
    text = (
        f"{ranked[0]['name']} predicts best: {title}{error} {measure.text(best)} {unit}, "
        f"the best trivial baseline has {measure.text(trivial)} {unit}."
    )
    return text, "good" if measure.sign * best < measure.sign * trivial else "bad"


def _future(row: Mapping[str, Any], key: str) -> Any:
    return row["parts"].get("future", {}).get("twin", {}).get(key)


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("perceived once", f"{result['perceive_s']:.0f} s")]
    for row in result["contestants"]:
        if row["status"] == "done":
            cost = f"{row['seconds']['learn']:.0f} s, {row['peak_memory_mb'] / 1e3:.1f} GB"
            facts.append((row["name"], cost))
    return facts


def _notes(result: Mapping[str, Any]) -> Section:
    rows: list[Sequence[str]] = [("all", text) for text in result.get("notes", ())]
    for row in result["contestants"]:
        rows += [(row["name"], text) for text in row.get("warnings", [])]
        if row["status"] == "done":
            twin = row["twin"]
            size = f"{twin['nodes']} nodes, {twin['gaussians']} Gaussians, {twin['dynamics']}"
            given = ", ".join(f"{k} = {v}" for k, v in row["options"].items())
            rows.append((row["name"], size + (f"; {given}" if given else "")))
    return Section("Notes", [Table(["who", "what"], rows)])


def _definitions(result: Mapping[str, Any], measures: Sequence[str]) -> Section:
    told = result["definitions"]
    keys = [*measures, "frozen", "rigid", "falling", "image_baselines", "true_*", "means", "learn"]
    rows = [
        (MEASURES[key].title if key in MEASURES else key, told[key])
        for key in [*keys, "peak_memory_mb"]
        if key in told
    ]
    return Section("What the figures are", [Table(["figure", "meaning"], rows)])
