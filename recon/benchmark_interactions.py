"""The benchmark of interactions: simulated recordings from camera images to scored predictions.

Five interactions of soft objects in the simulated cell (its physics is MuJoCo's, not the twin's)
are recorded, checked, perceived, reconstructed, and predicted: the twin's own recording after the
part that it was fitted on, and another interaction that it never saw. With three cameras and with
one. Every stage leaves a file; a run that was cut off goes on where it was.

    FOLDER/CASE/3_cameras/ own/ unseen/  the episodes
                           check.json  twin/  score.json  unseen.json  seconds/STAGE.json
    FOLDER/interactions.json  FOLDER/interactions.md
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physgym.errors import DataError, PhysGymError
from physgym.files import write_atomically
from recon.benchmark_folder import claim_folder, machine
from recon.identify.progress import Progress, RichProgress
from recon.perception.perceive_episode import cache_path, cached_perception
from recon.score_episode import DEFINITIONS, PHYSTWIN_PAPER, ROWS, rows_of
from recon.score_file import write_scores
from recon.tracks import PhysGymWarning

__all__ = ["CASES", "BenchmarkRun", "Case", "markdown", "run_interactions"]

STAGES = ("record", "check", "perceive", "reconstruct", "predict", "score")
"""What is timed; recording and checking are of the own episode."""


@dataclass(frozen=True)
class Case:
    """One object, the interaction that its twin is made from, and one that the twin never sees.

    Attributes:
        name: of the case.
        kind: body of the simulated cell.
        own: interaction that is reconstructed.
        unseen: interaction that is only predicted, with another seed.
        young_pa: Young's modulus of the body [Pa]; None takes the kind's.
    """

    name: str
    kind: str
    own: str
    unseen: str
    young_pa: float | None = None


# Lifting the cell's own toy (20 kPa) moves its points by 0.5 mm against a rigid body, which no
# camera here can tell; at 5 kPa it is 2 mm, stretching it 4 mm, folding it 4 mm.
_SOFT_TOY_PA = 5e3

CASES = (
    Case("lift_toy", "toy", "lift", "fold", _SOFT_TOY_PA),
    Case("stretch_toy", "toy", "stretch", "fold", _SOFT_TOY_PA),
    Case("lift_cloth", "cloth", "lift", "fold"),
    Case("push_block", "block", "push", "lift"),
    Case("lift_rope", "rope", "lift", "stretch"),
)
"""The five interactions."""


def run_interactions(
    folder: Path,
    json_path: Path | None = None,
    *,
    quick: bool = False,
    cameras: Sequence[int] = (3, 1),
    seed: int = 0,
    cases: Sequence[Case] = CASES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure every case with every number of cameras.

    Args:
        folder: where everything goes; what is there already is not made again.
        json_path: where the figures go; ``FOLDER/interactions.json`` when None. The tables go to
            ``FOLDER/interactions.md``.
        quick: small images and two seconds at 15 Hz. For a look, not for figures.
        cameras: numbers of cameras.
        seed: of all random numbers; the unseen interaction takes the next one.
        cases: what is measured.
        progress: told how it goes; a bar on stderr when None.

    Returns:
        The figures, as in the JSON: ``cases`` by name and number of cameras, each with
        ``seconds`` by stage, ``check``, ``scores`` (``own`` and ``unseen``, see
        `recon.score_episode.score_prediction`) or ``error``.

    Raises:
        DataError: if the folder holds a run with other settings, or the JSON cannot be written.
    """
    progress = progress or RichProgress()
    out = json_path or folder / "interactions.json"
    if out.is_dir():
        raise DataError("a folder", where=f"--json {out}", expected="the name of a file")
    folder.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    claim_folder(folder, {"quick": quick, "seed": seed})
    result: dict[str, Any] = {
        "format": "physgym-interactions",
        "version": 1,
        "quick": quick,
        "seed": seed,
        "command": sys.argv[1:],
        "machine": machine(),
        "definitions": DEFINITIONS,
        "phystwin_paper": PHYSTWIN_PAPER,
        "cases": {},
    }
    # All objects with the first number of cameras before any with the next: whoever stops early has
    # the more telling half.
    for count in cameras:
        for case in cases:
            run = BenchmarkRun(
                case, count, folder / case.name / _label(count), quick, seed, progress
            )
            result["cases"].setdefault(case.name, {})[str(count)] = run.all_stages()
            # After each, so that a long run leaves what it has.
            write_atomically(out, json.dumps(result, indent=1, allow_nan=False).encode())
            write_atomically(folder / "interactions.md", markdown(result).encode())
    progress.say(markdown(result))
    return result


class BenchmarkRun:
    """One case with one number of cameras, stage by stage.

    Args:
        case: what is measured.
        cameras: how many cameras film it.
        folder: where its files go.
        quick: small and short.
        seed: of all random numbers.
        progress: told how it goes.

    Attributes:
        seconds: wall time by stage [s], also of stages that an earlier run did.
    """

    def __init__(
        self, case: Case, cameras: int, folder: Path, quick: bool, seed: int, progress: Progress
    ) -> None:
        self.case, self.cameras, self.folder = case, cameras, folder
        self.quick, self.seed, self.progress = quick, seed, progress
        self.own, self.unseen = folder / "own", folder / "unseen"
        self.seconds: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def all_stages(self) -> dict[str, Any]:
        """Everything that is not there yet; what fails is noted and ends this run only.

        Returns:
            The case's entry in the JSON, see `run_interactions`.
        """
        result: dict[str, Any] = {"case": vars(self.case), "cameras": self.cameras}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PhysGymWarning)
                self._make_all()
        except PhysGymError as error:
            result["error"] = {"what": error.what, "where": error.where}
            self.progress.say(f"{self.case.name}, {_label(self.cameras)}: {error}")
        if (self.folder / "check.json").is_file():
            result["check"] = json.loads((self.folder / "check.json").read_text())
        scores = {}
        for name, file in (("own", "score.json"), ("unseen", "unseen.json")):
            if (self.folder / file).is_file():
                scores[name] = json.loads((self.folder / file).read_text())["episodes"][0]
        for stage in ("predict", "score"):
            if "own" in scores:
                self.seconds[stage] = scores["own"]["seconds_of"][stage]
        return {**result, "seconds": self.seconds, "scores": scores}

    def _make_all(self) -> None:
        twin = self.folder / "twin"
        self.stage("record", self.own, lambda: self._record(self.own, self.case.own, self.seed))
        self.stage("check", self.folder / "check.json", self._check)
        self.stage("perceive", cache_path(self.own), lambda: cached_perception(self.own))
        self.stage("reconstruct", twin, lambda: self._reconstruct(twin))
        self.stage("score_own", self.folder / "score.json", lambda: self._score(self.own))
        self.stage(
            "record_unseen",
            self.unseen,
            lambda: self._record(self.unseen, self.case.unseen, self.seed + 1),
        )
        self.stage(
            "perceive_unseen", cache_path(self.unseen), lambda: cached_perception(self.unseen)
        )
        self.stage("score_unseen", self.folder / "unseen.json", lambda: self._score(self.unseen))

    def stage(self, name: str, output: Path | None, work: Callable[[], object]) -> None:
        """Do it unless its output and its time are there.

        Args:
            name: of the stage.
            output: file or folder that it makes; None for none.
            work: does it.
        """
        note = self.folder / "seconds" / f"{name}.json"
        if note.is_file() and (output is None or output.exists()):
            self.seconds[name] = json.loads(note.read_text())
            return
        self.progress.say(f"{self.case.name}, {_label(self.cameras)}: {name}")
        began = time.perf_counter()
        work()
        self.seconds[name] = time.perf_counter() - began
        note.parent.mkdir(exist_ok=True)
        write_atomically(note, json.dumps(self.seconds[name]).encode())

    def _record(self, out: Path, interaction: str, seed: int) -> None:
        from physgym.cell.depth_noise import DepthNoiseConfig
        from physgym.cell.soft_config import SoftCellConfig
        from recon.capture.record import record
        from recon.capture.simulated import SimSource, SimulatedRecording

        # What is left of a recording that was cut off.
        shutil.rmtree(out.with_name(out.name + ".partial"), ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        cell = SoftCellConfig(
            kind=self.case.kind,
            young_pa=self.case.young_pa,
            gripper_count=2 if "stretch" in (self.case.own, self.case.unseen) else 1,
            camera_count=self.cameras,
            camera_width=320 if self.quick else 640,
            camera_height=240 if self.quick else 480,
            depth_noise=DepthNoiseConfig(),
        )
        duration_s, fps = (2.0, 15) if self.quick else (3.0, 30)
        report = record(
            SimSource(SimulatedRecording(cell, interaction, duration_s, fps, seed)), out
        )
        if report.losses:
            raise DataError("; ".join(report.losses), where=str(out), expected="a whole recording")

    def _check(self) -> None:
        from recon.capture_commands import Check

        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            Check(self.own, json=True).run()
        write_atomically(self.folder / "check.json", said.getvalue().encode())

    def _reconstruct(self, out: Path) -> None:
        from recon.reconstruct import ReconstructConfig, reconstruct_episode

        config = ReconstructConfig(seed=self.seed, resume=True)  # as a user does it
        reconstruct_episode(self.own, out, config, progress=self.progress)

    def _score(self, episode: Path) -> None:
        from physgym.twin import Twin
        from recon.score_commands import score_recording

        twin = Twin.load(self.folder / "twin")
        file = "score.json" if episode == self.own else "unseen.json"
        scored = score_recording(twin, episode)
        write_scores(self.folder / file, [scored.score], twin=twin.name, about=twin.provenance)


def markdown(result: dict[str, Any]) -> str:
    """The figures as tables for ``docs/benchmarks.md``.

    Args:
        result: as `run_interactions` returns it.

    Returns:
        Markdown, in millimetres and percent.
    """
    parts = (
        ("future", "Future of the recording that the twin was fitted on (30 % of it)"),
        ("unseen", "Another interaction, with another seed, never seen"),
        ("train", "The part that the twin was fitted on"),
    )
    lines = []
    for part, title in parts:
        rows = f"{' / '.join(ROWS)} (the last where it flies alone)"
        lines += [f"{title}; {rows}:", "", *_part_table(result, part), ""]
    return "\n".join([*lines, "Seconds:", "", *_time_table(result), ""])


def _part_table(result: dict[str, Any], part: str) -> list[str]:
    titles = ("CD L1 [mm]", "track [mm]", "tracks seen [%]", "true track [mm]", "IoU [%]")
    keys = ("chamfer_l1_m", "track_m", "", "true_track_m", "iou")
    lines = [
        f"| case | cameras | {' | '.join(titles)} |",
        f"| --- | --- |{' --- |' * len(titles)}",
    ]
    for name, by_count in result["cases"].items():
        for count, run in by_count.items():
            score = run["scores"].get("unseen" if part == "unseen" else "own")
            if score is None or part not in score["parts"]:
                why = run.get("error", {}).get("what", "not measured")
                lines.append(f"| {name} | {count} | {why} |{' |' * (len(titles) - 1)}")
                continue
            rows = score["parts"][part]
            seen = rows["tracks_seen"]
            cells = [
                " / ".join(_figure(key, rows[row][key]) for row in rows_of(score))
                if key
                else ("-" if seen is None else f"{100 * seen:.0f}")
                for key in keys
            ]
            lines.append(f"| {name} | {count} | {' | '.join(cells)} |")
    paper = [_figure(key, PHYSTWIN_PAPER[part].get(key)) for key in keys]
    lines.append(f"| PhysTwin's paper, its own 22 scenes | 3 | {' | '.join(paper)} |")
    return lines


def _time_table(result: dict[str, Any]) -> list[str]:
    lines = [f"| case | cameras | {' | '.join(STAGES)} |", f"| --- | --- |{' --- |' * len(STAGES)}"]
    for name, by_count in result["cases"].items():
        for count, run in by_count.items():
            cells = [
                f"{run['seconds'][stage]:.1f}" if stage in run["seconds"] else "-"
                for stage in STAGES
            ]
            lines.append(f"| {name} | {count} | {' | '.join(cells)} |")
    return lines


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if key == "iou" else f"{1e3 * value:.1f}"


def _label(cameras: int) -> str:
    return f"{cameras}_camera" + "s" * (cameras != 1)
