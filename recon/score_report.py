"""The report on scored episodes: predicted points over recorded images, error over time, tables.

Shapes: T frames, N points, C cameras, H W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from physgym.camera import PinholeCamera
from physgym.report import Figure, Report, Section, Table, Text
from recon.episode import Episode
from recon.occluders import frame_numbers
from recon.perception.result import Perception
from recon.score_episode import DEFINITIONS, MEASURES, PHYSTWIN_PAPER, ROWS, rows_of

__all__ = [
    "COLUMNS",
    "Strip",
    "picture_strip",
    "plot_errors",
    "shown_columns",
    "start_text",
    "table_rows",
    "write_report",
]

COLUMNS: dict[str, str] = {
    "chamfer_m": "CD [mm]",
    "chamfer_l1_m": "CD L1 [mm]",
    "track_m": "track [mm]",
    "iou": "IoU [%]",
    "true_chamfer_m": "true CD [mm]",
    "true_track_m": "true track [mm]",
}
"""Titles of the measures that tables show, in their order."""

PAPER_ROW = "PhysTwin*"
"""What tables call the row of PhysTwin's published figures."""

_COLORS = {"twin": "#2563c9", "frozen": "#8a919c", "rigid": "#d9822b", "falling": "#2f9e6e"}
_SHOWN = 4
# A point is not drawn when one in the same square of the image is so much nearer.
_CELL_PX = 8.0
_HIDDEN_M = 0.025


@dataclass(frozen=True, eq=False)
class Strip:
    """What the pictures of an episode need.

    Attributes:
        camera: that took them.
        frames: which frames.
        rgb: their images, each (H, W, 3), uint8.
        outlines: masks of the object in them, each (H, W), bool, or None.
    """

    camera: PinholeCamera
    frames: tuple[int, ...]
    rgb: tuple[np.ndarray, ...]
    outlines: tuple[np.ndarray | None, ...]

    @classmethod
    def of(cls, episode: Episode, perception: Perception) -> Strip | None:
        """Four frames of the camera that sees most of the object.

        Args:
            episode: open.
            perception: of it.

        Returns:
            The pictures; None for a perception without cameras.
        """
        import cv2

        if not perception.cameras:
            return None
        masks, best = perception.masks, 0
        if masks is not None:
            best = int(masks.reshape(len(masks), -1).sum(axis=1).argmax())
        camera = perception.cameras[best]
        last = perception.tracks.frame_count - 1
        frames = tuple(np.unique(np.linspace(0, last, _SHOWN).round().astype(int)).tolist())
        numbers = frame_numbers(episode, camera.name, perception.time_s)
        size = (camera.width, camera.height)
        images = [episode.frame(camera.name, int(numbers[t])).rgb for t in frames]
        return cls(
            camera,
            frames,
            tuple(
                rgb if rgb.shape[1::-1] == size else np.asarray(cv2.resize(rgb, size))
                for rgb in images
            ),
            tuple(None if masks is None else masks[best, t] for t in frames),
        )


def picture_strip(
    strip: Strip, time_s: np.ndarray, points: np.ndarray, train_stop: int | None
) -> Figure:
    """Recorded images above, the prediction over them below.

    Args:
        strip: the pictures.
        time_s: stamps [s], shape (T,).
        points: predicted surface [m], shape (T, N, 3).
        train_stop: frames before this one were fitted on; None for none.

    Returns:
        A picture; each point keeps the colour of its place in frame 0, the outline is the
        observed mask's.
    """
    left, right, top, bottom = _window(strip, points)
    count = len(strip.frames)
    plot = Plot(figsize=(3.2 * count, 2 * 3.2 * (bottom - top) / (right - left) + 0.75))
    axes = plot.subplots(2, count, squeeze=False)
    color = _material_colors(points[0])
    for column, frame in enumerate(strip.frames):
        for row in (0, 1):
            ax = axes[row, column]
            ax.imshow(strip.rgb[column], alpha=1.0 if row == 0 else 0.55)
            ax.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set_visible(False)
        kind = "given" if frame == 0 else "future"
        if frame and train_stop is None:
            kind = "unseen"
        elif frame and train_stop is not None and frame < train_stop:
            kind = "train"
        axes[0, column].set_title(f"{time_s[frame] - time_s[0]:.2f} s, {kind}", fontsize=11)
        pixel, depth = strip.camera.project(points[frame])
        order = _near_ones(pixel, depth)
        ax = axes[1, column]
        ax.scatter(*pixel[order].T, c=color[order], s=9, linewidths=0, alpha=0.9)
        outline = strip.outlines[column]
        if outline is not None and outline.any():
            ax.contour(outline, levels=[0.5], colors="white", linewidths=1.4)
            ax.contour(outline, levels=[0.5], colors="black", linewidths=0.5)
    axes[0, 0].set_ylabel("recorded", fontsize=11)
    axes[1, 0].set_ylabel("predicted", fontsize=11)
    plot.tight_layout(pad=0.4)
    return Figure.from_plot(
        plot,
        f"{strip.camera.name}: recorded images, and the prediction over them. A point keeps the "
        "colour of its place in frame 0; the line is the outline of the observed object.",
    )


def plot_errors(score: Mapping[str, Any]) -> Figure:
    """Chamfer distance, track error and IoU over time, with the baselines.

    Args:
        score: of one episode, as `recon.score_episode.score_prediction` returns it.

    Returns:
        A picture.
    """
    plot = Plot(figsize=(12.8, 3.4))
    time_s = np.asarray(score["time_s"]) - score["time_s"][0]
    panels = (
        ("chamfer_m", "chamfer distance [mm]", 1e3),
        ("track_m", "track error [mm]", 1e3),
        ("iou", "mask IoU [%]", 1e2),
    )
    for ax, (key, title, factor) in zip(plot.subplots(1, 3), panels):
        for row in reversed(rows_of(score)):
            values = np.array(score["per_frame"][row][key], dtype=float) * factor
            width = 2.2 if row == "twin" else 1.6
            ax.plot(time_s, values, color=_COLORS[row], linewidth=width, label=row)
        if not np.isfinite(values).any():
            ax.text(0.5, 0.5, "not measured", ha="center", transform=ax.transAxes, color="#5b6470")
        bound = score["frame0"]["frozen"][key]
        if bound is not None and key == "iou":
            line = {"color": "#1d2126", "linewidth": 1, "linestyle": ":"}
            ax.axhline(factor * bound, label="perceived points, frame 0", **line)
        ax.set_ylim(*((0, 102) if key == "iou" else (0, None)))
        _shade_train(ax, score, time_s)
        ax.set_title(title, fontsize=11, loc="left")
        ax.set_xlabel("time [s]")
        ax.set_xlim(time_s[0], time_s[-1])
        ax.grid(color="#e6e8eb", linewidth=0.8)
        ax.set_axisbelow(True)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    handles, labels = plot.axes[-1].get_legend_handles_labels()
    plot.axes[0].legend(handles, labels, frameon=False, fontsize=9, loc="upper left")
    plot.tight_layout()
    return Figure.from_plot(
        plot, "Error over time. Shaded: frames that the twin was fitted on; the rest is predicted."
    )


def table_rows(score: Mapping[str, Any], columns: Sequence[str]) -> list[list[str]]:
    """A scored episode as rows of text.

    Args:
        score: of one episode.
        columns: measures, keys of `COLUMNS`.

    Returns:
        For every part a row of the twin, the baselines and PhysTwin's paper: part, who, figures in
        millimetres and percent, frames.
    """
    rows = []
    for part, entry in score["parts"].items():
        for who in rows_of(score):
            figures = [_text(key, entry[who][key]) for key in columns]
            rows.append([part, who, *figures, str(entry["stop"] - entry["start"])])
        paper = [_text(key, PHYSTWIN_PAPER[part].get(key)) for key in columns]
        rows.append([part, PAPER_ROW, *paper, ""])
    return rows


def start_text(score: Mapping[str, Any]) -> str:
    """How well twin and perceived points fit frame 0, and how many tracks there are to compare.

    Args:
        score: of one episode.

    Returns:
        A sentence.
    """
    said = []
    for row, keys in (("twin", ("chamfer_m", "chamfer_l1_m", "iou")), ("frozen", ("iou",))):
        entry = score["frame0"][row]
        for key in keys:
            if entry[key] is not None:
                name, unit = COLUMNS[key].rstrip("]").split(" [")
                said.append(f"{row} {name} {_text(key, entry[key])} {unit}")
    seen = [
        f"{100 * entry['tracks_seen']:.0f} % in {part}"
        for part, entry in score["parts"].items()
        if entry["tracks_seen"] is not None
    ]
    tracks = f" Tracks of frame 0 still seen: {', '.join(seen)}." if seen else ""
    return f"At the start, frame 0: {', '.join(said) or 'not measured'}.{tracks}"


def shown_columns(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """The measures that at least one of some episodes has.

    Args:
        scores: of the episodes.

    Returns:
        Keys of `COLUMNS`.
    """
    entries = [part["twin"] for score in scores for part in score["parts"].values()]
    return [key for key in COLUMNS if any(entry[key] is not None for entry in entries)]


def write_report(
    path: Path,
    *,
    twin: str,
    scores: Sequence[Mapping[str, Any]],
    strips: Sequence[Figure | None],
    images: Sequence[Section | None] = (),
) -> Path:
    """Write the page.

    Args:
        path: where to.
        twin: its name.
        scores: of each episode.
        strips: the pictures of each episode.
        images: of each episode, what the twin looks like in it (`recon.image_report`).

    Returns:
        The path.
    """
    columns = shown_columns(scores)
    header = ["part", "who", *(COLUMNS[key] for key in columns), "frames"]
    sections = []
    for score, strip in zip(scores, strips, strict=True):
        blocks: list[Any] = [] if strip is None or strip is strips[0] else [strip]
        blocks += [plot_errors(score), Table(header, table_rows(score, columns))]
        blocks += [Text(said) for said in (start_text(score), *score.get("not_measured", ()))]
        sections.append(Section(f"{score['episode']}: {score['seconds']:.1f} s", blocks))
    sections += [section for section in images if section is not None]
    meaning = [[key, DEFINITIONS[key]] for key in DEFINITIONS]
    note = Text(
        f"{PAPER_ROW}: figures of its paper, means of its own 22 scenes, filmed by three D455, "
        "with IoU of rendered Gaussians in one view: other objects and cameras, for orientation."
    )
    sections.append(Section("What the figures are", [Table(["name", "meaning"], meaning), note]))
    verdict, mood = _verdict(scores)
    first = strips[0] if strips else None
    return Report(
        title=f"Twin {twin} against recordings",
        verdict=verdict,
        mood=mood,
        facts=_facts(scores),
        hero=() if first is None else (first,),
        sections=sections,
    ).write(path)


def _verdict(scores: Sequence[Mapping[str, Any]]) -> tuple[str, Any]:
    """Whether the twin beats every baseline on what it was not fitted on."""
    won, total = 0, 0
    for score in scores:
        for part, entry in score["parts"].items():
            for key in ("chamfer_m", "track_m", "iou"):
                values = [entry[row][key] for row in rows_of(score)]
                if part == "train" or any(value is None for value in values):
                    continue
                sign = -1 if key == "iou" else 1
                total += 1
                won += sign * values[0] < min(sign * value for value in values[1:])
    if not total:
        return "Nothing was held out: these figures say how well it fits, not predicts.", "neutral"
    rivals = [f"a {row}" for row in ROWS[1:] if any(row in rows_of(score) for score in scores)]
    some = ", where it flies alone," if len({len(rows_of(one)) for one in scores}) > 1 else ""
    named = f"{', '.join(rivals[:-1])} and{some} {rivals[-1]} object"
    text = f"Better than {named} in {won} of {total} held-out measures."
    return text, "good" if won == total else "bad" if 2 * won < total else "neutral"


def _facts(scores: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    facts = []
    for score in scores[:2]:
        for part, entry in score["parts"].items():
            if part != "train":
                for key in ("chamfer_m", "track_m", "iou"):
                    if entry["twin"][key] is not None:
                        text = f"{_text(key, entry['twin'][key])} {COLUMNS[key].split('[')[1][:-1]}"
                        facts.append((f"{part} {COLUMNS[key].split(' [')[0]}", text))
    return facts


def _text(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    assert key in MEASURES
    return f"{100 * value:.1f}" if key == "iou" else f"{1e3 * value:.1f}"


def _window(strip: Strip, points: np.ndarray) -> tuple[float, float, float, float]:
    """Left, right, top, bottom of the part of the image that is shown, 4 to 3 [px]."""
    camera = strip.camera
    places = [camera.project(points[frame])[0] for frame in strip.frames]
    for outline in strip.outlines:
        if outline is not None and outline.any():
            places.append(np.argwhere(outline)[:, ::-1].astype(float))
    every = np.concatenate(places)
    every = every[np.isfinite(every).all(axis=1) & camera.visible(every)]
    if len(every) == 0:
        return 0.0, float(camera.width), 0.0, float(camera.height)
    low, high = every.min(axis=0), every.max(axis=0)
    middle, size = 0.5 * (low + high), 1.25 * (high - low) + 12
    width = min(max(size[0], size[1] * 4 / 3), camera.width, camera.height * 4 / 3)
    height = 0.75 * width
    left = float(np.clip(middle[0] - width / 2, 0, camera.width - width))
    top = float(np.clip(middle[1] - height / 2, 0, camera.height - height))
    return left, left + width, top, top + height


def _near_ones(pixel: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Points that no other hides by much, far ones first."""
    cell = np.floor(np.nan_to_num(pixel) / _CELL_PX).astype(np.int64)
    _, where = np.unique(cell, axis=0, return_inverse=True)
    nearest = np.full(where.max() + 1, np.inf)
    np.minimum.at(nearest, where, depth)
    order = np.argsort(-depth)
    return np.asarray(order[(depth <= nearest[where] + _HIDDEN_M)[order]])


def _material_colors(start: np.ndarray) -> np.ndarray:
    """A colour for each point by its place along the object's longest axis, (N, 4)."""
    from matplotlib import colormaps

    centred = start - start.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    along = centred @ axis
    share = (along - along.min()) / max(float(np.ptp(along)), 1e-9)
    return np.asarray(colormaps["turbo"](0.08 + 0.84 * share))


def _shade_train(ax: Axes, score: Mapping[str, Any], time_s: np.ndarray) -> None:
    stop = score["train_stop"]
    if stop is not None:
        edge = time_s[min(stop, len(time_s) - 1)]
        ax.axvspan(time_s[0], edge, color="#3b5b8c", alpha=0.08, linewidth=0)
