"""The command `score`: what a twin predicts of recordings, against what was recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from physgym.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from physgym.report import Figure, Section
    from physgym.twin import Twin
    from recon.perception.perceive import PerceiveConfig
    from recon.perception.prompt import Prompt
    from recon.perception.result import Perception
    from recon.predict_episode import Prediction
    from recon.score_report import Strip
    from recon.tracks import Tracks

__all__ = [
    "Score",
    "ScoredEpisode",
    "known_perception",
    "print_scores",
    "prompts_from_clicks",
    "score_recording",
]


@dataclass(frozen=True, eq=False)
class ScoredEpisode:
    """One recording, perceived, predicted and scored.

    Attributes:
        score: see `recon.score_episode.score_prediction`, with ``seconds_of``: wall time of
            perceiving, predicting, scoring and drawing [s].
        strip: pictures of it, where they were asked for.
        images: of the report, how the twin looks beside the recording; None where it was not drawn.
        prediction: what was scored.
    """

    score: dict[str, Any]
    strip: Figure | None
    images: Section | None = None
    prediction: Prediction | None = None


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
    """Recordings of the object."""
    json: Path | None = None
    """Where the figures go, frame by frame, in metres."""
    report: Path | None = None
    """Where a page with pictures and curves goes (.html)."""
    images: bool = True
    """Draw a twin that has an appearance into the recording's cameras and compare images."""
    click: tuple[str, ...] = ()
    """Where the object is in the first image, as CAMERA:U,V in pixels; for what does not stand out
    from the table, and was not perceived before."""

    def run(self) -> int:
        """Perceive, predict, score, print.

        Returns:
            0 when everything was scored.

        Raises:
            PhysGymError: if the twin or a recording is wrong, or they do not fit each other.
        """
        from physgym.twin import Twin
        from recon.identify.progress import RichProgress
        from recon.score_episode import write_scores
        from recon.score_report import write_report

        self._check_places()
        prompts = prompts_from_clicks(self.click)
        twin, progress = Twin.load(self.twin), RichProgress()
        scored = []
        for path in self.episodes:
            progress.say(f"{path}: perceive, predict, score")
            pictures = self.report is not None
            scored.append(
                score_recording(twin, path, prompts=prompts, pictures=pictures, images=self.images)
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


def score_recording(
    twin: Twin,
    path: Path,
    *,
    config: PerceiveConfig | None = None,
    prompts: Mapping[str, Prompt] | None = None,
    pictures: bool = False,
    images: bool = False,
    train_stop: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> ScoredEpisode:
    """Perceive a recording (or take what was perceived before), predict it and score that.

    Args:
        twin: of the object.
        path: the recording.
        config: of perception.
        prompts: by camera name. With neither, what was perceived of this recording before is taken
            as it is, so that a twin is scored on what it was fitted on.
        pictures: also draw the strip.
        images: also draw the twin into the cameras, where it has an appearance and the recording
            masks; the score has ``images`` then (`recon.render_episode`).
        train_stop: where the frames that were fitted on end; None takes the twin's word for it.
        say: told each stage.

    Returns:
        The score.

    Raises:
        PhysGymError: if the recording is wrong or does not fit the twin.
    """
    import time

    from recon.importers.phystwin_final import matches
    from recon.perception.perceive_config import PerceiveConfig
    from recon.predict_episode import predict_episode
    from recon.score_episode import score_prediction, train_stop_of
    from recon.score_report import picture_strip

    marks = [time.perf_counter()]
    say("perceive")
    if config is None and matches(path):
        config = PerceiveConfig(kind=twin.kind)  # a case is read anew, so that nothing else tells
    perception = known_perception(path, config, prompts)
    marks.append(time.perf_counter())
    say("predict")
    prediction = predict_episode(twin, perception)
    marks.append(time.perf_counter())
    say("score")
    stop = train_stop_of(twin.provenance, perception) if train_stop is None else train_stop
    evidence = _evidence(path, perception, pictures=pictures)
    score = score_prediction(
        perception,
        prediction.points,
        prediction.visible_surface,
        train_stop=stop,
        ground_truth=evidence.truth,
        ignored=evidence.ignored,
    )
    marks.append(time.perf_counter())
    looks = None
    if images and twin.splats is not None and perception.masks is not None:
        say("draw")
        looks = _drawn(twin, path, perception, prediction.points, evidence, score, pictures)
    marks.append(time.perf_counter())
    stages = ("perceive", "predict", "score", "draw")
    score["seconds_of"] = {name: b - a for name, a, b in zip(stages, marks[:-1], marks[1:])}
    picture = None
    if evidence.strip is not None:
        shell = prediction.points[:, prediction.visible_surface]
        picture = picture_strip(evidence.strip, perception.time_s, shell, stop)
    return ScoredEpisode(score, picture, looks, prediction)


def _drawn(
    twin: Twin,
    path: Path,
    perception: Perception,
    points: np.ndarray,
    evidence: _Evidence,
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


@dataclass(frozen=True, eq=False)
class _Evidence:
    """What a recording holds for scores beside its perception."""

    truth: Tracks | None
    ignored: np.ndarray | None
    strip: Strip | None


def _evidence(path: Path, perception: Perception, *, pictures: bool) -> _Evidence:
    from recon.episode import Episode
    from recon.importers.phystwin_final import matches
    from recon.importers.phystwin_perception import case_occluders, case_truth
    from recon.occluders import occluders
    from recon.score_report import Strip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with the recording was said when perceived
        if matches(path):
            return _Evidence(case_truth(path, perception), case_occluders(path, perception), None)
        episode = Episode.open(path)
    with episode:
        strip = Strip.of(episode, perception) if pictures else None
        return _Evidence(episode.ground_truth(), occluders(episode, perception), strip)


def prompts_from_clicks(clicks: Sequence[str]) -> dict[str, Prompt]:
    """Prompts as they are typed.

    Args:
        clicks: each CAMERA:U,V; several of one camera are one prompt.

    Returns:
        By camera name.

    Raises:
        DataError: if one is written otherwise.
    """
    import numpy as np

    from recon.perception.prompt import Prompt

    places: dict[str, list[tuple[float, float]]] = {}
    for click in clicks:
        camera, _, place = click.rpartition(":")
        try:
            u, v = (float(number) for number in place.split(","))
        except ValueError as error:
            raise DataError(
                f"{click!r}", where="--click", expected="CAMERA:U,V", fix="cam0:320,240"
            ) from error
        places.setdefault(camera, []).append((u, v))
    return {camera: Prompt(clicks=np.array(at)) for camera, at in places.items()}


def known_perception(
    path: Path, config: PerceiveConfig | None, prompts: Mapping[str, Prompt] | None
) -> Perception:
    """What was perceived of a recording before, however it was asked for, or perceive it now.

    Args:
        path: the recording.
        config: of perception; given, only a perception made with the same counts.
        prompts: likewise.

    Returns:
        The perception, of the recording as it is now.

    Raises:
        DataError: if the recording cannot be opened or perceived.
    """
    from recon.episode_files import bag_folder
    from recon.perception.perceive_episode import (
        cache_path,
        cached_perception,
        episode_fingerprint,
    )
    from recon.perception.result import Perception

    kept = cache_path(path)
    if config is None and not prompts and kept.is_file():
        try:
            known = Perception.load(kept)
        except DataError:  # of another version, or damaged: perceive again
            known = None
        source = bag_folder(path.expanduser())
        if known is not None and known.tracks.source_sha256 == episode_fingerprint(source):
            return known
    return cached_perception(path, config, prompts=prompts or None)


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
        table = Table(title=Text(title), title_justify="left", caption_justify="left")
        table.add_column("part", no_wrap=True)
        table.add_column("who", no_wrap=True)
        for key in columns:
            # A plain text: in markup, [mm] would be a style.
            table.add_column(Text(COLUMNS[key]), justify="right")
        table.add_column("frames", justify="right", min_width=6)
        shown = ""
        for row in table_rows(score, columns):
            style = {"twin": "bold", PAPER_ROW: "dim italic"}.get(row[1], "")
            part = "" if row[0] == shown else row[0]
            shown = row[0]
            table.add_row(part, *row[1:], style=style, end_section=row[1] == PAPER_ROW)
        table.caption = start_text(score)
        console.print(table)
        if "images" in score:
            _print_images(console, score)
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
    table.add_column("frames", justify="right", min_width=6)
    for row in image_rows(score["images"], columns):
        table.add_row(*row, style={"twin": "bold"}.get(row[1], ""))
    table.caption = f"LPIPS: {score['images']['lpips']}"
    console.print(table)
