"""The report on scores, what hides the object in a recording, and the benchmark's tables."""

import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts
from recon.benchmark_interactions import CASES, BenchmarkRun, markdown, run_interactions
from recon.episode import Episode, EpisodeWriter
from recon.falling import HullFall
from recon.identify.progress import Progress
from recon.occluders import frame_numbers, occluders
from recon.perception.perceive_episode import cache_path, episode_fingerprint
from recon.perception.result import Perception
from recon.perception.table import Plane
from recon.score_commands import print_scores
from recon.score_episode import score_prediction
from recon.score_report import (
    Strip,
    picture_strip,
    plot_errors,
    start_text,
    table_rows,
    write_report,
)
from recon.score_source import known_perception, prompts_of
from recon.tracks import Tracks

FRAMES, WIDTH, HEIGHT = 6, 64, 48
PNG = b"\x89PNG\r\n"


def camera(name: str = "cam0") -> PinholeCamera:
    """0.6 m above the origin, optical axis down; a pixel is 1 cm on the table."""
    K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
    T = T_from_parts(np.diag([1.0, -1.0, -1.0]), [0, 0, 0.6])
    return PinholeCamera(name, "", WIDTH, HEIGHT, K, T)


def plate() -> np.ndarray:
    """A grid of 12 cm on the table, 3 cm high, (N, 3)."""
    side = np.linspace(-0.06, 0.06, 9)
    flat = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    return np.concatenate([flat, np.full((81, 1), 0.03)], axis=1)


def perceived(*names: str) -> Perception:
    points = plate()
    masks = np.zeros((len(names), FRAMES, HEIGHT, WIDTH), bool)
    masks[:, :, 18:30, 26:38] = True
    tracks = Tracks(
        time_s=np.arange(FRAMES) / 10,
        position=np.repeat(points[None], FRAMES, axis=0),
        visible=np.ones((FRAMES, 81), bool),
        driven_index=[],
        name="plate",
        rest_position=points,
    )
    return Perception(
        tracks=tracks,
        tracked_count=81,
        surface_count=81,
        kind="sheet",
        clouds=tuple(points.astype(np.float32) for _ in range(FRAMES)),
        table=Plane(np.array([0.0, 0.0, 1.0]), 0.0),
        cameras=tuple(camera(name) for name in names),
        masks=masks,
    )


def drifting(mm_per_frame: float) -> np.ndarray:
    """Shifts along x [m], (T, 3)."""
    return np.outer(1e-3 * mm_per_frame * np.arange(FRAMES), [1.0, 0.0, 0.0])


def scored(train_stop: int | None = 4, fall: HullFall | None = None) -> dict:
    """The plate stands still, and the twin drifts by 2 mm a frame."""
    seen = perceived("cam0")
    guess = plate()[None] + drifting(2.0)[:, None]
    return score_prediction(seen, guess, seen.surface, train_stop=train_stop, fall=fall)


def recorded(path: Path, names: tuple[str, ...], *, masks_of: str = "") -> Path:
    """The plate, and from frame 3 on an arm 20 cm high over its right side and beyond."""
    with EpisodeWriter(path, [camera(name) for name in names]) as writer:
        for t in range(FRAMES):
            depth = np.full((HEIGHT, WIDTH), 0.6, np.float32)
            depth[18:30, 26:38] = 0.57
            if t >= 3:
                depth[10:20, 34:60] = 0.4
            rgb = np.full((HEIGHT, WIDTH, 3), 40 * t, np.uint8)
            for name in names:
                writer.write_frame(name, 100.0 + t / 10, rgb, depth)
            if masks_of:
                arm = np.zeros((HEIGHT, WIDTH), bool)
                arm[40:, :] = t == 5
                writer.write_mask(masks_of, 100.0 + t / 10, "hand", arm)
                writer.write_mask(masks_of, 100.0 + t / 10, "object", ~arm)
    return path


def test_what_stands_in_front_is_found_in_depth_and_the_object_is_left(tmp_path: Path) -> None:
    seen = perceived("cam0", "cam1")
    with Episode.open(recorded(tmp_path / "ep", ("cam0", "cam1"), masks_of="cam1")) as episode:
        hidden = occluders(episode, seen)
        assert frame_numbers(episode, "cam0", np.array([0.04, 0.06, 0.31, 9.0])).tolist() == [
            0, 1, 3, 5,
        ]  # fmt: skip
    # The first camera has no recorded masks: the arm is what is above the table, grown by 2 px.
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[8:22, 32:62] = True
    expected[18:30, 26:38] = False
    assert not hidden[0, :3].any()
    for t in range(3, FRAMES):
        assert np.array_equal(hidden[0, t], expected)
    # The second has: they are taken as they are.
    assert hidden[1, 5, 40:].all()
    assert hidden[1].sum() == 8 * WIDTH


def test_nothing_is_hidden_where_nothing_tells(tmp_path: Path) -> None:
    seen = perceived("cam0")
    with Episode.open(recorded(tmp_path / "ep", ("cam0",))) as episode:
        bare = Perception(**{**vars(seen), "table": None})
        assert occluders(episode, bare) is None
        unmasked = Perception(**{**vars(seen), "masks": None})
        assert occluders(episode, unmasked) is None


def test_the_report_holds_verdict_pictures_and_every_figure(tmp_path: Path) -> None:
    seen = perceived("cam0")
    guess = np.repeat(plate()[None], FRAMES, axis=0)
    with Episode.open(recorded(tmp_path / "ep", ("cam0",))) as episode:
        strip = Strip.of(episode, seen)
    assert strip.frames == (0, 2, 3, 5)
    # The images are those of these frames.
    assert [int(rgb[0, 0, 0]) for rgb in strip.rgb] == [0, 80, 120, 200]
    picture = picture_strip(strip, seen.time_s, guess, 4)
    score = scored()
    path = write_report(tmp_path / "r.html", twin="plate<1>", scores=[score], strips=[picture])
    page = path.read_text()
    assert page.count("data:image/png;base64,") == 2
    assert picture.png.startswith(PNG)
    assert "plate&lt;1&gt;" in page
    for row in table_rows(score, ["chamfer_m", "track_m", "iou"]):
        assert all(f"<td>{cell}</td>" in page for cell in row)
    # The plate stands still: a twin that drifts is beaten by what does not move.
    assert 'class="verdict bad"' in page
    assert "Better than a frozen and a rigid object in 0 of 3 held-out measures." in page
    assert start_text(score) in page


def verdict_on(folder: Path, *scores: dict) -> str:
    """What the page says first."""
    strips = [None] * len(scores)
    page = write_report(folder / "r.html", twin="t", scores=scores, strips=strips).read_text()
    found = re.search(r'class="verdict (\w+)">([^<]+)<', page)
    assert found is not None
    return f"{found[1]}: {found[2]}"


def test_the_verdict_counts_and_names_the_fall_where_there_is_one(tmp_path: Path) -> None:
    """A body that drifts by 1.2 mm a frame: a twin that drifts by 0.6 beats what stays."""
    seen = perceived("cam0")
    way = plate()[None] + drifting(1.2)[:, None]  # less than half of the grid's 15 mm
    tracks = dataclasses.replace(seen.tracks, position=way.astype(np.float32))
    gone = dataclasses.replace(seen, tracks=tracks, clouds=tuple(way.astype(np.float32)))
    guess, plain = plate()[None] + drifting(0.6)[:, None], {"train_stop": 4}
    masked = dataclasses.replace(gone, masks=None)
    alone = score_prediction(masked, guess, seen.surface, **plain)
    worse, better = (
        score_prediction(masked, guess, seen.surface, fall=HullFall(drifting(mm)), **plain)
        for mm in (1.4, 0.3)
    )
    three = "Better than a frozen, a rigid and a falling object in {} of 2 held-out measures."
    some = "Better than a frozen, a rigid and, where it flies alone, a falling object in 2 of 4 "
    assert verdict_on(tmp_path, worse) == f"bad: {three.format(0)}"
    assert verdict_on(tmp_path, better) == f"good: {three.format(2)}"
    assert verdict_on(tmp_path, alone, worse) == f"neutral: {some}held-out measures."


def test_the_fall_has_a_row_and_a_curve_of_its_own_colour() -> None:
    with_fall, without = scored(fall=HullFall(drifting(1.0))), scored()
    rows = table_rows(with_fall, ["track_m"])
    assert [row[1] for row in rows[:5]] == ["twin", "frozen", "rigid", "falling", "PhysTwin*"]
    assert rows[3][2] == "2.0"  # 1, 2 and 3 mm in the train part
    assert len(table_rows(without, ["track_m"])) == len(rows) - 2

    def green(score: dict) -> int:
        """Pixels of the picture that are clearly green."""
        picture = cv2.imdecode(np.frombuffer(plot_errors(score).png, np.uint8), cv2.IMREAD_COLOR)
        blue, g, red = (picture[..., k].astype(int) for k in range(3))
        return int(((g > red + 60) & (g > blue + 30)).sum())

    assert green(without) == 0
    assert green(with_fall) > 500  # three curves of some hundred pixels each


def test_rows_say_millimetres_and_percent_beside_the_paper() -> None:
    rows = table_rows(scored(None), ["chamfer_l1_m", "track_m", "iou"])
    assert [row[:2] for row in rows] == [
        ["unseen", who] for who in ("twin", "frozen", "rigid", "PhysTwin*")
    ]
    # Drift of 2 mm a frame: 2, 4, 6, 8, 10 mm in the five frames that count.
    assert rows[0][3] == "6.0"
    assert rows[0][-1] == "5"
    assert rows[1][3] == "0.0"
    assert rows[3][2:5] == ["13.0", "18.0", "72.2"]


def test_the_table_names_units_and_says_what_the_paper_row_is(capsys) -> None:
    print_scores([scored()])
    said = capsys.readouterr().out
    assert "[mm]" in said
    assert "[%]" in said
    assert "plate: 0.5 s, 1 camera" in said
    assert "own 22 scenes" in " ".join(said.split())
    # Frames 1 to 3 are 2, 4 and 6 mm off, frames 4 and 5 are 8 and 10 mm.
    cells = [[cell.strip() for cell in line.split("│")] for line in said.splitlines()]
    shown = {(row[1], row[2]): row for row in cells if len(row) > 6}
    assert shown["train", "twin"][5] == "4.0"
    assert shown["future", "twin"][5] == "9.0"


def test_what_is_said_below_the_table_is_whole_in_a_narrow_terminal(
    capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    score = scored(fall=HullFall(drifting(1.0)))
    for entry in score["parts"].values():  # as many columns as there can be
        for row in ("twin", "frozen", "rigid", "falling"):
            entry[row] |= {"true_chamfer_m": 0.0123, "true_track_m": 0.0123}
    print_scores([score])
    said = capsys.readouterr().out
    assert start_text(score) in " ".join(said.split())
    assert max(len(line) for line in said.splitlines()) <= 80
    lines = [line.rstrip() for line in said.splitlines()]
    assert sum(line.endswith("│") for line in lines) == 10  # no line of the table is cut
    assert "…" not in said


def test_curves_are_drawn_where_measures_are_missing() -> None:
    score = scored()
    for table in score["per_frame"].values():
        table["iou"] = [None] * FRAMES
    for entry in score["frame0"].values():
        entry["iou"] = None
    assert plot_errors(score).png.startswith(PNG)
    assert "IoU" not in start_text(score)


def test_the_benchmark_prints_every_case_also_failed_ones() -> None:
    fell = scored(None, HullFall(drifting(1.0)))
    run = {"scores": {"own": scored(), "unseen": fell}, "seconds": {"record": 1.26}}
    failed = {"scores": {}, "seconds": {}, "error": {"what": "7 points were tracked", "where": ""}}
    text = markdown({"cases": {"lift_toy": {"3": run, "1": failed}}})
    own = run["scores"]["own"]["parts"]["future"]
    cell = " / ".join(f"{1e3 * own[row]['track_m']:.1f}" for row in ("twin", "frozen", "rigid"))
    lines = text.splitlines()
    assert any(line.startswith("| lift_toy | 3 |") and cell in line for line in lines)
    assert any("| 6.0 / 0.0 / 0.0 / 3.0 |" in line for line in lines)  # of the fall, too
    assert sum("7 points were tracked" in line for line in lines) == 3
    assert "| lift_toy | 3 | 1.3 | - | - | - | - | - |" in lines
    tables = [line for line in lines if line.startswith("|")]
    widths = {line.count("|") for line in tables}
    assert widths == {8, 9}  # tables of scores and of times: no row is short of a cell
    assert len(CASES) == 5


def test_clicks_are_read_as_they_are_typed() -> None:
    prompts = prompts_of(["cam0:10,20.5", "cam1:3,4", "cam0:11,22"], ["a:b:1,2,30,40.6"])
    assert prompts["cam0"].clicks.tolist() == [[10, 20.5], [11, 22]]
    assert prompts["cam1"].clicks.tolist() == [[3, 4]]
    assert prompts["a:b"].box == (1, 2, 30, 41)
    for wrong in ("cam0", "cam0:1", "cam0:1,2,3", "cam0:a,b", "cam0:1,nan"):
        with pytest.raises(DataError, match="cam0"):
            prompts_of([wrong], [])
    for wrong in (["cam0:1,2"], ["cam0:3,2,1,4"], ["cam0:1,2,3,4", "cam0:1,2,3,4"]):
        with pytest.raises(DataError, match="--box"):
            prompts_of([], wrong)
    with pytest.raises(DataError, match="one prompt for a camera"):
        prompts_of(["cam0:1,2"], ["cam0:1,2,3,4"])


def test_what_was_perceived_before_is_taken_while_it_is_of_this_recording(tmp_path: Path) -> None:
    path = recorded(tmp_path / "ep", ("cam0",))
    seen = perceived("cam0")
    own = dataclasses.replace(seen.tracks, source_sha256=episode_fingerprint(path))
    dataclasses.replace(seen, tracks=own, report={"by": "clicks"}).save(cache_path(path))
    assert known_perception(path, None, None).report == {"by": "clicks"}
    other = dataclasses.replace(seen.tracks, source_sha256="0" * 64)
    dataclasses.replace(seen, tracks=other).save(cache_path(path))
    # Perceived again, which finds nothing in pictures of one colour.
    with pytest.raises(DataError, match="cam0"):
        known_perception(path, None, None)


def test_a_stage_is_done_once_and_again_when_its_output_or_time_is_gone(tmp_path: Path) -> None:
    output, done = tmp_path / "run" / "twin", []

    def work() -> None:
        done.append(len(done))
        output.write_text("twin")

    for lost in (None, None, output, tmp_path / "run" / "seconds" / "fit.json"):
        if lost is not None:
            lost.unlink()
        run = BenchmarkRun(CASES[0], 1, tmp_path / "run", True, 0, Progress())
        run.stage("fit", output, work)
        assert run.seconds["fit"] >= 0.0
    assert done == [0, 1, 2]
    # A stage that fails leaves no note, so the next run tries again.
    with pytest.raises(ZeroDivisionError):
        run.stage("bad", None, lambda: 1 // 0)
    assert not (tmp_path / "run" / "seconds" / "bad.json").exists()


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run_interactions(tmp_path, quick=True, cases=(), progress=Progress())
    assert (tmp_path / "interactions.json").exists() is False
    with pytest.raises(DataError, match="settings of that run: quick True"):
        run_interactions(tmp_path, quick=False, cases=(), progress=Progress())
    with pytest.raises(DataError, match="a folder"):
        run_interactions(tmp_path, tmp_path, quick=True, cases=(), progress=Progress())
