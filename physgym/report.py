"""Reports: one HTML file that needs nothing else, and the video beside it.

A report starts with what the reader came for: a verdict, a picture or video of the result and a
few figures; sections of text, tables and figures follow. No script, no external resource.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure as Plot

from physgym.errors import DataError
from physgym.files import write_atomically

__all__ = ["Block", "Figure", "Report", "Section", "Table", "Text", "Video", "write_video"]

Verdict = Literal["good", "bad", "neutral"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5b6470; --line: #d9dde2; --page: #ffffff;
  --card: #f5f6f8; --good: #1a7f4b; --bad: #b3372f; --neutral: #3b5b8c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa3ad; --line: #343a42;
  --page: #16191d; --card: #1f2329; --good: #53c58a; --bad: #f0857c; --neutral: #8fb0e6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.6rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
p { margin: .5rem 0; max-width: 46rem; }
.verdict { font-weight: 600; font-size: 1.1rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .neutral { color: var(--neutral); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .7rem;
  margin: 1.1rem 0; padding: 0; }
.facts div { background: var(--card); border-radius: 8px; padding: .6rem .8rem; }
.facts dt { color: var(--soft); font-size: .82rem; }
.facts dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; }
figure img, figure video { display: block; width: 100%; height: auto; border-radius: 8px;
  background: #ffffff; border: 1px solid var(--line); }
figcaption, caption { color: var(--soft); font-size: .88rem; text-align: left; padding: .35rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: .88rem; }
td.number { text-align: right; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
"""


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        body: plain text; it is escaped, not interpreted.
    """

    body: str

    def render(self) -> str:
        """The paragraph as HTML."""
        return f"<p>{html.escape(self.body)}</p>"


@dataclass(frozen=True)
class Table:
    """A table of short texts and numbers.

    Attributes:
        header: column titles.
        rows: one entry per column in each row; numbers are set right-aligned as they are given.
        caption: what it shows.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    caption: str = ""

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise DataError(
                    f"row {index} has {len(row)} entries",
                    where=f"report table {self.caption!r}",
                    expected=f"{len(self.header)}, one per column: {', '.join(self.header)}",
                )

    def render(self) -> str:
        """The table as HTML."""
        head = "".join(f"<th>{html.escape(title)}</th>" for title in self.header)
        body = "".join(f"<tr>{''.join(_cell(entry) for entry in row)}</tr>" for row in self.rows)
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return (
            f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )


def _cell(entry: str | float) -> str:
    if isinstance(entry, str):
        return f"<td>{html.escape(entry)}</td>"
    return f'<td class="number">{entry:.4g}</td>'


@dataclass(frozen=True)
class Figure:
    """A picture, embedded.

    Attributes:
        png: the picture's bytes.
        caption: what it shows.
    """

    png: bytes
    caption: str

    @classmethod
    def from_plot(cls, plot: Plot, caption: str, *, dots_per_inch: int = 130) -> Figure:
        """Draw a Matplotlib figure.

        Args:
            plot: the figure; it needs no pyplot and no display.
            caption: what it shows.
            dots_per_inch: resolution.

        Returns:
            The picture.
        """
        stream = io.BytesIO()
        plot.savefig(stream, format="png", dpi=dots_per_inch, facecolor="white")
        return cls(stream.getvalue(), caption)

    def render(self) -> str:
        """The picture as HTML."""
        caption = html.escape(self.caption, quote=True)
        source = _data_url(self.png, "image/png")
        return (
            f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption>'
            "</figure>"
        )


@dataclass(frozen=True)
class Video:
    """A short video, embedded.

    Attributes:
        mp4: the video's bytes.
        caption: what it shows.
    """

    mp4: bytes
    caption: str

    def render(self) -> str:
        """The video as HTML: plays by itself, silently, again and again."""
        source = _data_url(self.mp4, "video/mp4")
        caption = html.escape(self.caption)
        return (
            f'<figure><video src="{source}" controls autoplay loop muted playsinline></video>'
            f"<figcaption>{caption}</figcaption></figure>"
        )


Block = Text | Table | Figure | Video


@dataclass(frozen=True)
class Section:
    """A titled part of a report.

    Attributes:
        title: its heading.
        blocks: what it holds, in order.
    """

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """A report, first screen first.

    Attributes:
        title: what was done.
        verdict: the outcome in one sentence.
        mood: whether the outcome is good, bad or neither.
        facts: label and value of the few figures that matter.
        hero: the result's picture or video.
        sections: everything else.
        footer: where it came from.
    """

    title: str
    verdict: str
    mood: Verdict = "neutral"
    facts: Sequence[tuple[str, str]] = ()
    hero: Sequence[Figure | Video] = ()
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = ""

    def render(self) -> str:
        """The whole page as HTML."""
        facts = "".join(
            f"<div><dt>{html.escape(label)}</dt><dd>{html.escape(value)}</dd></div>"
            for label, value in self.facts
        )
        parts = [
            f"<h1>{html.escape(self.title)}</h1>",
            f'<p class="verdict {self.mood}">{html.escape(self.verdict)}</p>',
            *(block.render() for block in self.hero),
            f'<dl class="facts">{facts}</dl>' if facts else "",
        ]
        for section in self.sections:
            parts.append(f"<section><h2>{html.escape(section.title)}</h2>")
            parts += [block.render() for block in section.blocks]
            parts.append("</section>")
        if self.footer:
            parts.append(f"<footer>{html.escape(self.footer)}</footer>")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>"
            f"<body><main>{''.join(parts)}</main></body></html>\n"
        )

    def write(self, path: Path) -> Path:
        """Write the page under a temporary name and rename it.

        Args:
            path: where to; its folder is made.

        Returns:
            The path.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.render().encode())
        return path


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def write_video(frames: Iterable[np.ndarray], path: Path, *, rate_hz: float) -> Path:
    """Write an H.264 video that every browser plays; needs no system ffmpeg.

    Args:
        frames: RGB images, uint8, shape (H, W, 3), all of one size, H and W even.
        path: where to, ending in ``.mp4``; its folder is made.
        rate_hz: frames per second.

    Returns:
        The path.

    Raises:
        DataError: if there is no frame, or one has another shape or type.
    """
    import imageio_ffmpeg

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.stem + ".part.mp4")
    writer = None
    shape: tuple[int, ...] = ()
    try:
        for index, frame in enumerate(frames):
            if writer is None:
                _check_frame(frame, index, frame.shape)
                shape = frame.shape
                writer = imageio_ffmpeg.write_frames(
                    str(draft),
                    (shape[1], shape[0]),
                    fps=rate_hz,
                    macro_block_size=2,
                    # `faststart` lets a browser play before it has all; 23 is x264's default.
                    output_params=["-crf", "23", "-movflags", "+faststart"],
                )
                writer.send(None)
            _check_frame(frame, index, shape)
            writer.send(np.ascontiguousarray(frame))
        if writer is None:
            raise DataError("a video of no frames", where=str(path), expected="at least one frame")
        writer.close()
        draft.replace(path)
    finally:
        if writer is not None:
            writer.close()
        draft.unlink(missing_ok=True)
    return path


def _check_frame(frame: np.ndarray, index: int, shape: tuple[int, ...]) -> None:
    even = frame.ndim == 3 and frame.shape[2] == 3 and not (frame.shape[0] | frame.shape[1]) & 1
    if not even or frame.dtype != np.uint8 or frame.shape != shape:
        raise DataError(
            f"frame {index} is {frame.dtype} of shape {frame.shape}",
            where="write_video",
            expected=f"uint8 of shape {shape if even else '(even H, even W, 3)'}",
        )
