"""`physgym demo`: from a recorded cable to a robot that shapes it, and a report of how it went.

Nothing here is an algorithm: it calls what the other packages offer, in order, and writes down what
came out. It imports without rclpy; then the plan runs in this process and the report says so.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from rich.console import Console

from physgym.cell import CellConfig, SimulatedCell, exciting_motion
from physgym.config import config_to_plain
from physgym.errors import DataError
from physgym.files import write_atomically
from physgym.twin import Twin
from physgym_ros import demo_pictures as pictures
from physgym_ros.demo_report import Held, Outcome, write_report
from physgym_ros.demo_run import (
    Run,
    cell_like,
    run_in_process,
    run_over_ros,
    save_goal,
    show_goal,
)
from recon.tracks import Tracks

__all__ = ["Demo"]

_RECORD_S = 5.0
_RATE_HZ = 100.0
_NOISE_M = 5e-4
_TRAIN, _HELD_OUT = 2, 4
"""Recordings of the simulated cell; of a user's own, at most this many of each are used."""

# Train, held out, the cell where it is known, and where they come from in words.
_Recorded = tuple[list[Tracks], list[Tracks], CellConfig | None, str]


@dataclass(frozen=True)
class Demo:
    """From a recorded cable to a robot that shapes it: record, reconstruct, plan, run, report.

    Attributes:
        out: folder for everything that comes out.
        source: recordings of your own cable, a file or folder that `physgym reconstruct` reads;
            without one, a cable is recorded in the simulated cell.
        seed: of the recorded motions, the goal and the planner; another seed, another demo.
        budget: how long the reconstruction may take.
        ros: run the plan through two ROS 2 nodes; without it, or without rclpy, in this process.
    """

    out: Path = Path("runs/demo")
    source: Path | None = None
    seed: int = 0
    budget: Literal["quick", "full"] = "quick"
    ros: bool = True

    def run(self) -> int:
        """Do all of it.

        Returns:
            0 when the goal was reached, 1 when it was not; the report is written in both cases.
        """
        from recon.scorecard import score

        started_s = time.monotonic()
        console = Console()
        own = self._read_own(console)
        _fresh_folder(self.out / "recordings")
        for stale in ("report.html", "demo.mp4"):
            (self.out / stale).unlink(missing_ok=True)
        write_atomically(self.out / "config.yaml", yaml.safe_dump(config_to_plain(self)).encode())
        train, held, cell, story = own or self._record(console)
        for tracks in train:
            tracks.save(self.out / "recordings" / "train" / f"{_file_name(tracks)}.npz")
        twin, folder, fit_s = self._reconstruct(console, train)
        console.print("[bold]3/5[/] measuring the twin on recordings it has not seen")
        twin = twin.replace(metrics=score(twin, train, held))
        twin.save(folder)
        measured = [_held_out(twin, tracks, train) for tracks in held]
        if cell is None:
            cell = cell_like(twin)
        run, goal = self._plan_and_run(console, twin, folder, cell)
        console.print("[bold]5/5[/] writing report and video")
        outcome = Outcome(
            twin=twin,
            story=story,
            train_names=[tracks.name for tracks in train],
            held=measured,
            fit_s=fit_s,
            cell=cell,
            own_source=self.source is not None,
            run=run,
            goal=goal,
            overlay=_twin_along(twin, run),
        )
        report = write_report(outcome, self.out, started_s=started_s)
        distance_mm = 1e3 * float(run.distance_m(goal)[-1])
        word = "[green]goal reached[/]" if run.reached else "[red]goal not reached[/]"
        console.print(
            f"{word}: {distance_mm:.1f} mm mean distance, {time.monotonic() - started_s:.0f} s"
        )
        console.print(f"report: {report}", soft_wrap=True)
        return 0 if run.reached else 1

    def _read_own(self, console: Console) -> _Recorded | None:
        """The user's recordings; before anything is written, since they may be unreadable."""
        if self.source is None:
            return None
        console.print(f"[bold]1/5[/] reading {self.source}")
        train, held, story = _read_source(self.source)
        return train, held, None, story

    def _record(self, console: Console) -> _Recorded:
        """Recordings of the simulated cell."""
        console.print("[bold]1/5[/] recording a cable in the simulated cell")
        train, held, config = _record_cell(self.seed)
        for tracks in held:
            tracks.save(self.out / "recordings" / "held_out" / f"{_file_name(tracks)}.npz")
        story = (
            f"{len(train)} recordings of {_RECORD_S:g} s to learn from and {len(held)} to "
            "measure on, made in the simulated cell (MuJoCo): two grippers move a cable at "
            "random, markers are seen at 100 Hz with 0.5 mm noise."
        )
        return train, held, config, story

    def _reconstruct(self, console: Console, train: list[Tracks]) -> tuple[Twin, Path, float]:
        from recon.commands import Reconstruct

        console.print(f"[bold]2/5[/] reconstructing a twin from {len(train)} recording(s)")
        folder = self.out / "twin"
        began_s = time.monotonic()
        # What a demo that was cut off left behind belongs to recordings that are no longer there.
        shutil.rmtree(folder.with_name(folder.name + ".run"), ignore_errors=True)
        code = Reconstruct(
            source=self.out / "recordings" / "train",
            out=folder,
            train="all",
            budget=self.budget,
            seed=self.seed,
        ).run()
        if code:
            raise DataError(f"the reconstruction ended with code {code}", where=str(folder))
        return Twin.load(folder), folder, time.monotonic() - began_s

    def _plan_and_run(
        self, console: Console, twin: Twin, folder: Path, cell: CellConfig
    ) -> tuple[Run, np.ndarray]:
        goal = show_goal(cell, twin, seed=self.seed)
        goal_file = save_goal(goal, self.out / "goal.npz")
        why = _why_no_ros() if self.ros else "asked for with --no-ros"
        if why:
            console.print(f"[bold]4/5[/] planning and running in this process: {why}")
            return run_in_process(folder, goal, cell, seed=self.seed, why=why), goal
        console.print("[bold]4/5[/] planning and running through two ROS 2 nodes")
        logs = self.out / "logs"
        return run_over_ros(folder, goal_file, cell, seed=self.seed, logs=logs), goal


def _why_no_ros() -> str:
    """Why ROS 2 cannot be used here, or an empty text."""
    missing = [
        name
        for name in ("rclpy", "sensor_msgs", "trajectory_msgs", "diagnostic_msgs", "std_msgs")
        if find_spec(name) is None
    ]
    return f"{', '.join(missing)} not installed" if missing else ""


def _file_name(tracks: Tracks) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in tracks.name)


def _fresh_folder(folder: Path) -> None:
    """An empty folder; only what a demo wrote is removed."""
    note = folder / "README.txt"
    if folder.exists() and not note.is_file():
        raise DataError(
            "this folder was not made by a demo, and would be overwritten",
            where=str(folder),
            expected="no folder `recordings` in --out, or one of an earlier demo",
            fix="choose another --out",
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    note.write_text("Written by `physgym demo`; the next demo replaces this folder.\n")


def _record_cell(seed: int) -> tuple[list[Tracks], list[Tracks], CellConfig]:
    """Record random motions, train and held out apart."""
    config = CellConfig()
    cell = SimulatedCell(config)
    recordings: list[Tracks] = []
    for index in range(_TRAIN + _HELD_OUT):
        cell.reset(seed=1000 * seed + index)
        # Begun a second early: a recording begins in motion, as one cut from a longer one does.
        motion = exciting_motion(config, seed=1000 * seed + index, duration_s=_RECORD_S + 1.0)
        record = cell.record(motion, _RECORD_S + 1.0, rate_hz=_RATE_HZ, noise_m=_NOISE_M)
        skip = round(_RATE_HZ)
        tracks = Tracks(
            time_s=record["time"][skip:] - record["time"][skip],
            position=record["points"][skip:],
            visible=record["visible"][skip:],
            driven_index=record["driven_index"],
            name=f"cell-{index}",
            radius_m=config.radius_m,
        )
        recordings.append(tracks)
    return recordings[:_TRAIN], recordings[_TRAIN:], config


def _read_source(source: Path) -> tuple[list[Tracks], list[Tracks], str]:
    """Split a user's recordings into what is learned from and what is measured on."""
    from recon.importers import load_recordings
    from recon.scorecard import split

    partner = source.with_name(source.name.replace("_train.", "_eval."))
    if source.is_file() and partner != source and partner.is_file():
        train, held = load_recordings(source), load_recordings(partner)
        parts = f"{source.name} and, held out, {partner.name}"
    else:
        train, held = split(load_recordings(source), "auto")
        parts = f"{source.name}, a part of it held out"
    if not held:
        raise DataError(
            f"{sum(tracks.frame_count for tracks in train)} frames in all",
            where=str(source),
            expected="enough to learn from one part and measure on another",
            fix="record for longer: a few seconds of motion are enough",
        )
    train, held = _spread(train, _TRAIN), _spread(held, _HELD_OUT)
    story = (
        f"Your own recordings: {parts}. Of them {len(train)} to learn from and {len(held)} to "
        "measure on, spread evenly."
    )
    return train, held, story


def _spread(recordings: list[Tracks], count: int) -> list[Tracks]:
    """Some of the recordings, evenly spread over all."""
    chosen = np.linspace(0, len(recordings) - 1, min(count, len(recordings))).round().astype(int)
    return [recordings[index] for index in chosen]


def _held_out(twin: Twin, tracks: Tracks, train: list[Tracks]) -> Held:
    """The twin and the baselines on one recording."""
    from recon import baselines
    from recon.metrics import error_over_horizon
    from recon.predict import predict

    whole: np.ndarray = np.asarray(tracks.visible.all(axis=1))
    starts = np.flatnonzero(whole[:-1] & whole[1:])
    if not len(starts):
        raise DataError(
            "no two frames in a row show every node",
            where=tracks.name,
            expected="a start that a prediction can begin from",
        )
    tracks = tracks.slice(int(starts[0]), tracks.frame_count)
    truth = np.asarray(tracks.position, dtype=np.float64)
    driven, start = truth[:, tracks.driven_index], truth[:2]
    index = tracks.driven_index
    predicted = {"twin": predict(twin, [tracks])[0]}
    for name, baseline in (
        ("nothing moves", baselines.predict_hold),
        ("rigid with the grippers", baselines.predict_rigid),
        ("straight line", baselines.predict_line),
        ("hanging chain", baselines.predict_catenary),
        ("nearest seen frames", baselines.predict_knn),
    ):
        predicted[name] = baseline(driven, start, driven_index=index, train=train)
    return Held(
        name=tracks.name,
        time_s=np.asarray(tracks.time_s) - float(tracks.time_s[1]),
        truth=truth,
        predicted=predicted["twin"],
        errors_m={
            name: error_over_horizon(value, truth, index) for name, value in predicted.items()
        },
    )


def _twin_along(twin: Twin, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The twin's open-loop prediction of the run from its first command and the grippers' motion.

    Returns:
        Times since the first command [s], shape (T,), and nodes [m], shape (2, T, N, 3): what the
        cell published at these times, and the twin.
    """
    from recon.predict import predict

    time_s = np.arange(0.0, float(run.time_s[-1]), 1.0 / pictures.VIDEO_HZ)
    flat = run.nodes.reshape(len(run.nodes), -1)
    even = np.stack([np.interp(time_s, run.time_s, column) for column in flat.T], axis=1)
    seen = even.reshape(len(time_s), *run.nodes.shape[1:])
    tracks = Tracks(
        time_s=time_s,
        position=seen.astype(np.float32),
        visible=np.ones(seen.shape[:2], dtype=bool),
        driven_index=twin.driven_index,
        name="run",
    )
    return time_s, np.stack([seen, predict(twin, [tracks])[0]])
