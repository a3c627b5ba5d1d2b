"""Reports: self-contained, escaped, written whole; videos that can be read back."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import imageio_ffmpeg
import numpy as np
import pytest
from matplotlib.figure import Figure as Plot
from PIL import Image

from physgym.errors import DataError
from physgym.report import Figure, Report, Section, Table, Text, Video, write_video


class _Page(HTMLParser):
    """Collects tags, their sources and text, and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _plot() -> Plot:
    plot = Plot(figsize=(2, 1))
    plot.subplots().plot([0, 1], [0, 1])
    return plot


def _frames(count: int = 12):
    for index in range(count):
        frame = np.full((48, 64, 3), 255, np.uint8)
        frame[10:30, 4 * index : 4 * index + 10] = (200, 30, 30)
        yield frame


def _report() -> Report:
    return Report(
        title="Cable <b>A</b> & B",
        verdict="Goal reached.",
        mood="good",
        facts=[("error", "3 mm")],
        hero=[Figure.from_plot(_plot(), 'a "plot"')],
        sections=[
            Section("Numbers", [Text("1 < 2"), Table(["name", "value"], [["x", 0.123456]], "t")])
        ],
        footer="made by a test",
    )


def test_the_page_is_well_formed_escaped_and_in_reading_order():
    page = _Page(_report().render())
    assert "Cable <b>A</b> & B" in page.text
    assert "b" not in page.seen
    order = ["Goal reached.", 'a "plot"', "3 mm", "Numbers", "1 < 2", "0.1235", "made by a test"]
    places = [page.text.index(part) for part in order]
    assert places == sorted(places)


def test_the_page_needs_nothing_from_outside():
    text = _report().render()
    page = _Page(text)
    assert page.sources
    assert all(source.startswith("data:") for source in page.sources)
    assert "script" not in page.seen
    assert "link" not in page.seen
    assert not re.search(r"https?://|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text


def test_the_embedded_picture_is_the_picture():
    page = _Page(_report().render())
    picture = Image.open(io.BytesIO(base64.b64decode(page.sources[0].partition(",")[2])))
    assert picture.size == (260, 130)  # 2 x 1 inches at 130 dots per inch


def test_writing_leaves_one_file_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "run" / "report.html"
    path.parent.mkdir()
    path.write_text("old")
    assert _report().write(path) == path
    assert "Goal reached." in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_table_with_a_short_row_is_refused():
    with pytest.raises(DataError, match="row 1 has 1 entries"):
        Table(["a", "b"], [["x", 1], ["y"]])


def test_a_video_plays_back_with_its_size_rate_and_motion(tmp_path):
    path = write_video(_frames(), tmp_path / "v.mp4", rate_hz=12.0)
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    back = [np.frombuffer(raw, np.uint8).reshape(48, 64, 3) for raw in reader]
    assert (meta["size"], meta["fps"], len(back)) == ((64, 48), 12.0, 12)
    for index in (0, 11):
        green = back[index][20, :, 1].astype(int)
        centre = np.flatnonzero(green < 128).mean()
        # 2 pixels: the codec halves the resolution of colour.
        assert centre == pytest.approx(4 * index + 4.5, abs=2.0)
    assert Video(path.read_bytes(), "a square moves").render().count("data:video/mp4") == 1


def test_wrong_frames_leave_no_video_behind(tmp_path):
    path = tmp_path / "v.mp4"
    with pytest.raises(DataError, match="no frames"):
        write_video([], path, rate_hz=10.0)
    with pytest.raises(DataError, match="frame 0 is float64"):
        write_video([np.zeros((48, 64, 3))], path, rate_hz=10.0)
    with pytest.raises(DataError, match=r"frame 1 is uint8 of shape \(50, 64, 3\)"):
        write_video(
            [np.zeros((48, 64, 3), np.uint8), np.zeros((50, 64, 3), np.uint8)], path, rate_hz=10.0
        )
    assert not list(tmp_path.iterdir())
