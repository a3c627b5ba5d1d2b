"""The command `score`: what a twin predicts of recordings, against what was recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from physgym.errors import DataError
from physgym.files import check_writable

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from physgym.report import Figure, Section
    from physgym.twin import Twin
    from recon.falling import Fall, HullFall
    from recon.perception.perceive import PerceiveConfig
    from recon.perception.prompt import Prompt
    from recon.perception.result import Perception
    from recon.predict_episode import Prediction
    from recon.score_source import Evidence

__all__ = ["Score", "ScoredEpisode", "print_scores", "score_recording"]


@dataclass(frozen=True, eq=False)
class ScoredEpisode:
    """One recording, perceived, predicted and scored.

    Attributes:
        score: see `recon.score_episode.score_prediction`, with ``seconds_of``: wall time of
            perceiving, predicting, scoring and drawing [s].
        strip: pictures of it, where they were asked for.
        images: of the report, how the twin looks beside the recording; None where it was not drawn.
        prediction: what was scored.
        has_truth: whether the recording knows the true motion.
    """

    score: dict[str, Any]
    strip: Figure | None
    images: Section | None = None
    prediction: Prediction | None = None
    has_truth: bool = False


@dataclass(frozen=True)
class Score:
    """Score a twin on recordings: Chamfer distance, tracks and masks, beside trivial baselines.

    The twin is told frame 0 and the recorded motion of grippers or hands, and nothing else. Of the
    recording that it was fitted on, frames fitted on ("train") and frames after them ("future") are
    scored apart; any other recording of the object counts as "unseen" and is scored as a whole.
    """

    twin: Annotated[Path, tyro.conf.Positional]
    """Twin folder."""
    episodes: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Recordings of the object, of any layout that `reconstruct` takes. Without depth, masks and
    images alone are compared."""
    json: Path | None = None
    """Where the figures go, frame by frame, in metres."""
    report: Path | None = None
    """Where a page with pictures and curves goes (.html)."""
    images: bool = True
    """Draw a twin that has an appearance into the recording's cameras and compare images."""
    click: tuple[str, ...] = ()
    """Where the object is in the first image, as CAMERA:U,V in pixels; for what does not stand out
    from the table, and was not perceived before."""
    box: tuple[str, ...] = ()
    """The same as CAMERA:LEFT,TOP,RIGHT,BOTTOM around it; without depth every camera needs one, or
    recorded masks, unless the recording was perceived before."""
    calibration: Path | None = None
    """File with T_world_cam of the cameras, in place of the recordings' own."""

    def run(self) -> int:
        """Perceive, predict, score, print.

        Returns:
            0 when everything was scored.

        Raises:
            PhysGymError: if the twin or a recording is wrong, or they do not fit each other.
        """
        from physgym.twin import Twin
        from recon.identify.progress import RichProgress
        from recon.score_file import write_scores
        from recon.score_report import write_report
        from recon.score_source import as_bag, prompts_of
        from recon.splats.perceptual import load_lpips

        self._check_places()
        prompts = prompts_of(self.click, self.box)
        load_lpips()  # a file that cannot be used is refused now
        twin, progress = Twin.load(self.twin), RichProgress()
        scored = []
        for path in self.episodes:
            progress.say(f"{path}: perceive, predict, score")
            pictures = self.report is not None
            with as_bag(path) as bag:
                scored.append(
                    score_recording(
                        twin,
                        bag,
                        prompts=prompts,
                        pictures=pictures,
                        images=self.images,
                        calibration=self.calibration,
                    )
                )
        scores = [one.score for one in scored]
        if self.json is not None:
            write_scores(self.json, scores, twin=twin.name, about=twin.provenance)
        if self.report is not None:
            strips = [one.strip for one in scored]
            looks = [one.images for one in scored]
            write_report(self.report, twin=twin.name, scores=scores, strips=strips, images=looks)
        print_scores(scores)
        for place in (self.json, self.report):
            if place is not None:
                print(f"written: {place}")
        return 0

    def _check_places(self) -> None:
        """Refuse what cannot be written or read, before minutes of work rather than after."""
        if not self.episodes:
            raise DataError("no recording", where="physgym score", expected="at least one EPISODE")
        for flag, place in (("--json", self.json), ("--report", self.report)):
            if place is not None and place.is_dir():
                raise DataError("a folder", where=f"{flag} {place}", expected="the name of a file")
            if place is not None:
                check_writable(place, f"{flag} {place}")


def score_recording(
    twin: Twin,
    path: Path,
    *,
    config: PerceiveConfig | None = None,
    prompts: Mapping[str, Prompt] | None = None,
    pictures: bool = False,
    images: bool = False,
    train_stop: int | None = None,
    perception: Perception | None = None,
    calibration: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> ScoredEpisode:
    """Perceive a recording (or take what was perceived before), predict it and score that.

    Args:
        twin: of the object.
        path: the recording, a bag or a processed PhysTwin case.
        config: of perception.
        prompts: by camera name. With neither, what was perceived of this recording before is taken
            as it is, so that a twin is scored on what it was fitted on.
        pictures: also draw the strip.
        images: also draw the twin into the cameras, where it has an appearance and the recording
            masks; the score has ``images`` then (`recon.render_episode`).
        train_stop: where the frames that were fitted on end; None takes the twin's word for it.
        perception: of the recording, where the caller has it.
        calibration: as in `recon.episode.Episode.open`, for perceiving.
        say: told each stage.

    Returns:
        The score; its ``not_measured`` says why measures are missing.

    Raises:
        PhysGymError: if the recording is wrong or does not fit the twin.
    """
    import time

    from recon.falling import fall_of
    from recon.predict_episode import predict_episode
    from recon.score_episode import score_prediction, train_stop_of
    from recon.score_report import picture_strip
    from recon.score_source import evidence_of

    marks = [time.perf_counter()]
    say("perceive")
    if perception is None:
        perception = _perceived(twin, path, config, prompts, calibration)
    marks.append(time.perf_counter())
    say("predict")
    prediction = predict_episode(twin, perception)
    marks.append(time.perf_counter())
    say("score")
    stop = train_stop_of(twin.provenance, perception) if train_stop is None else train_stop
    evidence = evidence_of(path, perception, pictures=pictures)
    fall = fall_of(path, perception, stop)
    score = score_prediction(
        perception,
        prediction.points,
        prediction.visible_surface,
        train_stop=stop,
        ground_truth=evidence.truth,
        ignored=evidence.ignored,
        fall=fall,
    )
    marks.append(time.perf_counter())
    looks = None
    if images and twin.splats is not None and perception.masks is not None:
        say("draw")
        looks = _drawn(twin, path, perception, prediction.points, evidence, fall, score, pictures)
    score["not_measured"] = _missing(score, perception, evidence, images)
    marks.append(time.perf_counter())
    stages = ("perceive", "predict", "score", "draw")
    score["seconds_of"] = {name: b - a for name, a, b in zip(stages, marks[:-1], marks[1:])}
    picture = None
    if evidence.strip is not None:
        shell = prediction.points[:, prediction.visible_surface]
        picture = picture_strip(evidence.strip, perception.time_s, shell, stop)
    return ScoredEpisode(score, picture, looks, prediction, evidence.truth is not None)


def _perceived(
    twin: Twin,
    path: Path,
    config: PerceiveConfig | None,
    prompts: Mapping[str, Prompt] | None,
    calibration: Path | None,
) -> Perception:
    from recon.importers.phystwin_final import matches
    from recon.perception.perceive_config import PerceiveConfig as Config
    from recon.score_source import known_perception

    if config is None and matches(path):
        config = Config(kind=twin.kind)  # a case is read anew, so that nothing else tells
    # Where nothing else tells, the ground is as high as where the twin was made.
    ground = twin.parameters.get("ground_offset_m")
    ground_m = None if ground is None else float(ground)
    return known_perception(path, config, prompts, ground_m=ground_m, calibration=calibration)


def _missing(
    score: Mapping[str, Any], perception: Perception, evidence: Evidence, images: bool
) -> list[str]:
    """Why the tables lack measures."""
    from recon.image_report import IMAGE_COLUMNS
    from recon.score_report import COLUMNS, shown_columns
    from recon.unmeasured import blank_parts, reasons, sentences

    titles = {**COLUMNS, **{f"image_{key}": title for key, title in IMAGE_COLUMNS.items()}}
    lost = [key for key in COLUMNS if key not in shown_columns([score])]
    if images and "images" not in score:
        lost += [key for key in titles if key.startswith("image_")]
    why = reasons(perception, lost, truth=evidence.truth is not None, appearance=False)
    return [*sentences(why, titles), *blank_parts(score["parts"])]


def _drawn(
    twin: Twin,
    path: Path,
    perception: Perception,
    points: np.ndarray,
    evidence: Evidence,
    fall: Fall | HullFall | None,
    score: dict[str, Any],
    pictures: bool,
) -> Section | None:
    """Scores of images, into the score; and their section of the report where it is wanted."""
    from recon.image_report import image_section
    from recon.render_episode import render_episode
    from recon.render_pictures import Beside, beside_strip, beside_video
    from recon.splats.frame import recorded_images
    from recon.splats.perceptual import load_lpips
    from recon.tracks import PhysGymWarning

    stop, lpips = score["train_stop"], load_lpips()
    with recorded_images(path, perception) as images:
        try:
            found = render_episode(
                twin,
                perception,
                points,
                images,
                train_stop=stop,
                ignored=evidence.ignored,
                lpips=lpips,
                fall=fall,
            )
        except DataError as error:  # a processed case may have come without its images
            what = f"{perception.name}: images are not compared: {error.what} ({error.where})"
            warnings.warn(what, PhysGymWarning, stacklevel=3)
            return None
        score["images"] = found
        if not pictures:
            return None
        beside = Beside.of(twin, perception, points, images)
        video, strip = beside_video(beside), beside_strip(beside, stop)
    return image_section(found, f"{score['episode']}: images", [video, strip])


def print_scores(scores: list[dict[str, Any]]) -> None:
    """Print a table of every episode.

    Args:
        scores: of each episode, as `recon.score_episode.score_prediction` returns them.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from recon.score_report import COLUMNS, PAPER_ROW, shown_columns, start_text, table_rows

    console, columns = Console(), shown_columns(scores)
    for score in scores:
        cameras = f"{len(score['cameras'])} camera" + "s" * (len(score["cameras"]) != 1)
        title = f"{score['episode']}: {score['seconds']:.1f} s, {cameras}"
        table = Table(title=Text(title), title_justify="left")
        table.add_column("part", no_wrap=True)
        table.add_column("who", no_wrap=True)
        for key in columns:
            # A plain text: in markup, [mm] would be a style.
            table.add_column(Text(COLUMNS[key]), justify="right")
        table.add_column("frames", justify="right", no_wrap=True)
        shown = ""
        for row in table_rows(score, columns):
            style = {"twin": "bold", PAPER_ROW: "dim italic"}.get(row[1], "")
            part = "" if row[0] == shown else row[0]
            shown = row[0]
            table.add_row(part, *row[1:], style=style, end_section=row[1] == PAPER_ROW)
        console.print(table)
        console.print(start_text(score), style="italic", markup=False, highlight=False)
        if "images" in score:
            _print_images(console, score)
        for said in score.get("not_measured", ()):
            console.print(said, markup=False, highlight=False)
    console.print(
        f"{PAPER_ROW}: figures of its paper, means of its own 22 scenes and three D455; other "
        "objects and cameras, for orientation only",
        style="dim",
        markup=False,
        highlight=False,
    )


def _print_images(console: Console, score: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from recon.image_report import IMAGE_COLUMNS, image_columns, image_rows

    columns = image_columns(score["images"])
    table = Table(title=Text(f"{score['episode']}: images"), title_justify="left")
    for title in ("part", "who"):
        table.add_column(title, no_wrap=True)
    for key in columns:
        table.add_column(Text(IMAGE_COLUMNS[key]), justify="right")
    table.add_column("frames", justify="right", no_wrap=True)
    for row in image_rows(score["images"], columns):
        table.add_row(*row, style={"twin": "bold"}.get(row[1], ""))
    console.print(table)
    said = f"LPIPS: {score['images']['lpips']}"
    console.print(said, style="italic", markup=False, highlight=False)
