"""Figures and video of the demo.

Shapes: T frames, N nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from PIL import Image, ImageDraw, ImageFont
from scipy.interpolate import CubicSpline

from physgym.cell import CellConfig, SimulatedCell
from physgym.errors import DeviceError

__all__ = ["Clip", "horizon_plot", "render_joints", "result_plot", "run_plot", "video_frames"]

CABLE, TWIN, GOAL, START = "#c8442e", "#2f6fb0", "#2f9e5b", "#a7adb5"
_WIDTH, _HEIGHT, _FINE = 640, 480, 2
VIDEO_HZ = 20.0


@dataclass(frozen=True, eq=False)
class Clip:
    """A piece of the video: lines over time, seen from the front and from above.

    Attributes:
        title: what it shows.
        time_s: shape (T,).
        lines: colour, legend and nodes [m], (T, N, 3) or (N, 3) where they stand still.
        note: one short text per frame.
        pictures: rendered images of the cell, uint8 (T, 480, 640, 3), or None.
    """

    title: str
    time_s: np.ndarray
    lines: Sequence[tuple[str, str, np.ndarray]]
    note: Sequence[str]
    pictures: np.ndarray | None = None


def _smooth(nodes: np.ndarray) -> np.ndarray:
    """A curve through the nodes that were seen, shape (100, 3); the nodes alone when too few."""
    seen = nodes[np.isfinite(nodes).all(axis=1)]
    if len(seen) < 4:
        return seen
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(seen, axis=0), axis=1))])
    if not (np.diff(along) > 0.0).all():
        return seen
    return np.asarray(CubicSpline(along, seen)(np.linspace(0.0, along[-1], 100)))


def _views(axes: Sequence[Axes], lines: Sequence[tuple[str, str, np.ndarray]]) -> None:
    for view, (axis, up) in enumerate(zip(axes, (2, 0))):
        for colour, label, nodes in lines:
            curve = _smooth(nodes)
            axis.plot(curve[:, 1], curve[:, up], color=colour, label=label, lw=2.2)
            axis.plot(nodes[:, 1], nodes[:, up], "o", color=colour, markersize=3)
        axis.set_aspect("equal")
        axis.set_title(("seen from the front", "seen from above")[view], fontsize=10)
        axis.set_xlabel("y [m]")
        axis.set_ylabel(("z [m]", "x [m]")[view])
        axis.grid(alpha=0.25)
    # As the camera sees it that looks along -x: what is nearer to it stands lower.
    axes[1].invert_yaxis()


def result_plot(start: np.ndarray, goal: np.ndarray, final: np.ndarray) -> Plot:
    """Where the cable was, where it should go, where it ended.

    Args:
        start: nodes [m], shape (N, 3).
        goal: nodes [m], shape (N, 3).
        final: nodes [m], shape (N, 3).

    Returns:
        The figure.
    """
    plot = Plot(figsize=(9, 4.2), layout="constrained")
    axes = plot.subplots(1, 2)
    _views(axes, [(START, "start", start), (GOAL, "goal", goal), (CABLE, "reached", final)])
    axes[0].legend(frameon=False, fontsize=9)
    return plot


def horizon_plot(time_s: np.ndarray, errors_m: Mapping[str, np.ndarray]) -> Plot:
    """Error over the horizon.

    Args:
        time_s: time since the last given frame [s], shape (T,).
        errors_m: mean error at each time by method, the twin first, each of shape (T,).

    Returns:
        The figure.
    """
    plot = Plot(figsize=(9, 3.6), layout="constrained")
    axis = plot.subplots()
    shades = ["#7b828b", "#b08a3e", "#8b6bb1", "#5d9c9c", "#c78aa5"]
    for index, (name, error) in enumerate(errors_m.items()):
        colour = TWIN if index == 0 else shades[(index - 1) % len(shades)]
        width = 2.6 if index == 0 else 1.3
        axis.plot(time_s, 1e3 * error, color=colour, lw=width, label=name)
    axis.set_xlabel("time since the last given frame [s]")
    axis.set_ylabel("mean error of the free nodes [mm]")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=9, ncols=3)
    return plot


def run_plot(
    time_s: np.ndarray,
    distance_m: np.ndarray,
    joint_time_s: np.ndarray,
    speed_m_s: np.ndarray,
    *,
    bar_m: float,
) -> Plot:
    """How the run went.

    Args:
        time_s: since the first command [s], shape (T,).
        distance_m: mean distance to the goal, shape (T,).
        joint_time_s: times of the joint states [s].
        speed_m_s: largest joint speed at those times.
        bar_m: the distance that counts as reached.

    Returns:
        The figure.
    """
    plot = Plot(figsize=(9, 3.6), layout="constrained")
    left, right = plot.subplots(1, 2)
    left.plot(time_s, 1e3 * distance_m, color=CABLE, lw=2)
    left.axhline(1e3 * bar_m, color=GOAL, lw=1, ls="--", label="counts as reached")
    left.set_ylabel("mean distance to the goal [mm]")
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=9)
    right.plot(joint_time_s, speed_m_s, color="#3d4650", lw=1.2)
    right.set_ylabel("fastest gantry axis [m/s]")
    for axis in (left, right):
        axis.set_xlabel("time since the first command [s]")
        axis.set_xlim(left=max(-0.5, float(time_s[0])), right=float(time_s[-1]))
        axis.grid(alpha=0.25)
    return plot


def render_joints(
    config: CellConfig, joint_position: np.ndarray, *, rate_hz: float
) -> np.ndarray | None:
    """Pictures of a cell whose gantries move as recorded.

    The cable is simulated again along the way, so it moves as it did, up to the gantries' lag.

    Args:
        config: the cell.
        joint_position: [m] at an even rate, shape (T, 6); the first row is the cell at rest.
        rate_hz: rows per second.

    Returns:
        uint8 images, shape (T, 480, 640, 3); None where there is no off-screen OpenGL.
    """
    cell = SimulatedCell(config)
    frames = []
    try:
        for index, joints in enumerate(joint_position):
            if index:
                cell.step(joints, 1.0 / rate_hz)
            frames.append(cell.render("front", width=_WIDTH, height=_HEIGHT))
    except DeviceError:
        return None
    finally:
        cell.close()
    return np.stack(frames)


def video_frames(clips: Sequence[Clip]) -> Iterator[np.ndarray]:
    """The clips one after the other, each frame with its lines, legend and note.

    Args:
        clips: what to show; where one has pictures, they stand left of its lines.

    Yields:
        RGB images, uint8, all of one size.
    """
    wide = any(clip.pictures is not None for clip in clips)
    for clip in clips:
        bounds = _bounds(clip)
        for index in range(len(clip.time_s)):
            beside = clip.pictures[index] if clip.pictures is not None else None
            alone = wide and beside is None
            drawn = _draw(clip, index, bounds, width=2 * _WIDTH if alone else _WIDTH)
            yield drawn if beside is None else np.concatenate([beside, drawn], axis=1)


def _scale(size: tuple[int, int], span: np.ndarray) -> float:
    """Pixels per metre at which both views fit below the texts."""
    width, height = 0.8 * size[0], 0.72 * size[1]
    if size[0] > 2 * size[1]:  # side by side
        return float(min(0.5 * width / span[1], height / max(span[0], span[2])))
    return float(min(width / span[1], height / (span[0] + span[2])))


def _boxes(size: tuple[int, int], span: np.ndarray) -> tuple[tuple[float, float, float], ...]:
    """Middle and width in pixels of the view from the front and of the one from above."""
    top = 0.14 * size[1]
    if size[0] > 2 * size[1]:
        middle = 0.5 * (top + size[1])
        return ((0.25 * size[0], middle, size[0] / 2), (0.75 * size[0], middle, size[0] / 2))
    heights = _scale(size, span) * span[[2, 0]]
    gap = (size[1] - top - heights.sum()) / 3
    first = top + gap + heights[0] / 2
    second = top + 2 * gap + heights[0] + heights[1] / 2
    return ((size[0] / 2, first, size[0]), (size[0] / 2, second, size[0]))


def _bounds(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    every = np.concatenate([nodes.reshape(-1, 3) for _, _, nodes in clip.lines])
    return np.nanmin(every, axis=0), np.nanmax(every, axis=0)


def _draw(
    clip: Clip, index: int, bounds: tuple[np.ndarray, np.ndarray], *, width: int
) -> np.ndarray:
    size = (_FINE * width, _FINE * _HEIGHT)
    lowest, highest = bounds
    image = Image.new("RGB", size, (250, 250, 251))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=_FINE * 15)
    draw.text((24, 14), clip.title, fill=(30, 34, 40), font=font)
    draw.text((24, 54), clip.note[index], fill=(91, 100, 112), font=font)
    centre, span = 0.5 * (lowest + highest), np.maximum(highest - lowest, 1e-3)
    for (up, name), box in zip(((2, "front"), (0, "from above")), _boxes(size, span)):
        draw.text((box[0] - box[2] / 2 + 24, box[1] - 16), name, fill=(160, 166, 174), font=font)
        # Left to right is +y, as the camera sees it that looks along -x; nearer is lower.
        scale = _scale(size, span)
        down = -scale if up == 2 else scale
        for colour, _, nodes in clip.lines:
            curve = _smooth(nodes if nodes.ndim == 2 else nodes[index])
            pixels = [
                (box[0] + scale * (p[1] - centre[1]), box[1] + down * (p[up] - centre[up]))
                for p in curve
            ]
            draw.line(pixels, fill=colour, width=3 * _FINE, joint="curve")
            for x, y in (pixels[0], pixels[-1]):
                draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=colour)
    x = float(size[0]) - 24
    for colour, label, _ in reversed(clip.lines):
        x -= draw.textlength(label, font=font)
        draw.text((x, 14), label, fill=colour, font=font)
        x -= 30
    return np.asarray(image.resize((width, _HEIGHT), Image.Resampling.BOX), dtype=np.uint8)
