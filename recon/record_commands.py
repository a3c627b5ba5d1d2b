"""The commands that make episodes: record, recover, convert."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from physgym.errors import DataError

if TYPE_CHECKING:
    from recon.capture.record import RecordReport
    from recon.capture.sources import Source

__all__ = ["Convert", "Record", "Recover"]

_STOPPED = 130  # as the command line says it: stopped by Ctrl-C


@dataclass(frozen=True)
class Record:
    """Record an episode from cameras, from librealsense's files or from the simulated cell.

    Ctrl-C, a full disk or a camera that drops out end the episode with what was recorded.
    Exit code: 0 whole, 1 data were lost (it says which), 130 stopped before --duration.
    """

    source: tuple[str, ...]
    """'sim' (the simulated cell), 'realsense' (connected cameras), or librealsense recordings:
    one .db3 per camera."""
    out: Path
    """Where the episode goes: a new folder."""
    duration: float | None = None
    """Stop after so many seconds; 'sim' takes 3, the others go on until Ctrl-C or their end."""
    fps: int = 30
    """Frames per second."""
    width: int = 640
    """Image width [px]."""
    height: int = 480
    """Image height [px]."""
    compress: Literal["zstd", "none"] = "zstd"
    """'none' spares the processor and takes about twice the disk."""
    buffer_mb: float = 512.0
    """Memory in which frames wait for the disk [MB]."""
    calibration: Path | None = None
    """Cameras' places from `physgym calibrate` (realsense and files)."""
    serials: tuple[str, ...] = ()
    """realsense: only these cameras, cam0, cam1, ... in this order."""
    live: bool = False
    """Files: play them as cameras send, in real time and without waiting for this machine."""
    exposure_us: float | None = None
    """realsense: exposure [us]; without it, what the camera finds in its first second, locked."""
    object: Literal["toy", "block", "rope", "cloth"] = "toy"
    """sim: what lies on the table."""
    interaction: Literal["lift", "stretch", "push", "squeeze", "fold", "drop"] = "lift"
    """sim: what the grippers do with it."""
    cameras: int = 3
    """sim: how many cameras."""
    grippers: int = 2
    """sim: how many grippers."""
    depth_noise: bool = True
    """sim: depth as a D435 measures it, or exact."""
    seed: int = 0
    """sim: of all random numbers."""
    driver: bool = False
    """sim: the frames take the way of real ones, through librealsense's recorder and playback."""
    bags: Path | None = None
    """sim --driver: keep librealsense's files in this folder."""
    json: bool = False
    """Print a machine-readable summary."""

    def run(self) -> int:
        """Record and report.

        Returns:
            0 when all was recorded, 1 when data were lost, 130 when stopped before the end.

        Raises:
            PhysGymError: if a flag is wrong, a camera is missing, or not one frame came.
        """
        from recon.capture.record import record

        if not self.buffer_mb > 0:
            raise DataError(f"{self.buffer_mb}", where="--buffer-mb", expected="megabytes above 0")
        source = self._source()
        with _stoppable(source), _bars(source, quiet=self.json):
            report = record(
                source,
                self.out,
                compress=self.compress == "zstd",
                buffer_bytes=int(self.buffer_mb * 1e6),
            )
        if self.json:
            print(json.dumps(report.to_plain()))
        else:
            _print_report(report, calibrated=source.calibrated)
        if report.losses:
            return 1
        endless = self.source != ("sim",) and self.duration is None
        return _STOPPED if report.ended and not endless else 0

    def _source(self) -> Source:
        if self.source == ("sim",):
            return self._simulated()
        from recon.capture.realsense import RealSenseConfig
        from recon.capture.sources import RigSource

        self._refuse_sim_flags()
        files = [] if self.source == ("realsense",) else [Path(file) for file in self.source]
        for file in files:
            if not file.is_file():
                raise DataError(
                    "no such file",
                    where=f"--source {file}",
                    expected="'sim', 'realsense', or files that librealsense recorded",
                )
        calibration = None
        if self.calibration is not None:
            from recon.capture.calibration_file import load_calibration

            calibration = load_calibration(self.calibration)
        config = RealSenseConfig(self.width, self.height, self.fps, exposure_us=self.exposure_us)
        return RigSource(
            files,
            serials=self.serials,
            calibration=calibration,
            config=config,
            duration_s=self.duration,
            live=self.live,
        )

    def _refuse_sim_flags(self) -> None:
        if self.driver or self.bags is not None:
            raise DataError(
                "--driver and --bags are of the simulated cell",
                where=f"--source {' '.join(self.source)}",
                expected="--source sim",
            )

    def _simulated(self) -> Source:
        from physgym.cell.depth_noise import DepthNoiseConfig
        from physgym.cell.soft_config import SoftCellConfig
        from recon.capture.simulated import DriverSource, SimSource, SimulatedRecording

        if self.bags is not None and not self.driver:
            raise DataError("--bags without --driver", where="--bags", expected="--driver as well")
        if self.calibration is not None or self.serials or self.live:
            raise DataError(
                "--calibration, --serials and --live are of real cameras",
                where="--source sim",
                expected="neither: the simulated cameras are where they are",
            )
        cell = SoftCellConfig(
            kind=self.object,
            gripper_count=self.grippers,
            camera_count=self.cameras,
            camera_width=self.width,
            camera_height=self.height,
            depth_noise=DepthNoiseConfig() if self.depth_noise else None,
        )
        recording = SimulatedRecording(
            cell, self.interaction, self.duration or 3.0, self.fps, self.seed
        )
        if not self.driver:
            return SimSource(recording)
        scratch = self.out.expanduser().absolute().parent
        scratch.mkdir(parents=True, exist_ok=True)
        return DriverSource(recording, folder=self.bags, scratch=scratch)


@dataclass(frozen=True)
class Recover:
    """Make a whole episode of a damaged one: cut off, not finished, partly unreadable."""

    episode: Annotated[Path, tyro.conf.Positional]
    """The damaged recording: EPISODE, EPISODE.partial, or a .mcap or .db3 file."""
    out: Path | None = None
    """Where the whole one goes; EPISODE_recovered when not given."""
    json: bool = False
    """Print a machine-readable summary."""

    def run(self) -> int:
        """Recover and say what was lost.

        Returns:
            0 when a whole episode was written.

        Raises:
            DataError: if nothing can be read, or the new folder exists.
        """
        import warnings

        from recon.episode import Episode
        from recon.recover import recover, recovered_path
        from recon.tracks import PhysGymWarning

        source, out = self.episode, self.out
        partial = source.with_name(source.name + ".partial")
        if not source.exists() and partial.exists():
            source = partial
        out = recovered_path(source) if out is None else out
        losses = recover(source, out)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PhysGymWarning)
            with Episode.open(out, allow_uncalibrated=True) as episode:
                frames = {name: episode.frame_count(name) for name in episode.cameras}
                losses += [loss for loss in episode.losses if loss not in losses]
        if self.json:
            print(json.dumps({"episode": str(out), "frames": frames, "losses": losses}))
            return 0
        for loss in losses:
            print(f"lost: {loss}")
        for name, count in frames.items():
            print(f"{name}: {count} frames")
        print(f"episode: {out}\nnext: physgym check {out}")
        return 0


@dataclass(frozen=True)
class Convert:
    """Convert a recording from somebody else's layout to an episode, or an episode to theirs.

    To an episode: a raw PhysTwin case, or a folder of images with a cameras file. A rosbag2 folder
    needs no conversion, it is read as it is.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """What is converted."""
    out: Path
    """Where it goes: a new folder."""
    to: Literal["episode", "phystwin"] = "episode"
    """'phystwin': SOURCE is an episode, and OUT becomes a raw PhysTwin case."""
    json: bool = False
    """Print a machine-readable summary."""

    def run(self) -> int:
        """Convert.

        Returns:
            0 when it was written.

        Raises:
            DataError: if the layout is unknown, or the recording cannot be used.
        """
        from recon.episode import Episode

        if self.to == "phystwin":
            from recon.exporters.phystwin_case import export_case

            with Episode.open(self.source) as episode:
                path = export_case(episode, self.out)
        else:
            from recon.importers import convert_episode

            path = convert_episode(self.source, self.out)
        if self.json:
            print(json.dumps({"out": str(path)}))
        else:
            print(f"{'case' if self.to == 'phystwin' else 'episode'}: {path}")
            if self.to == "episode":
                print(f"next: physgym check {path}")
        return 0


@contextmanager
def _stoppable(source: Source) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the source; a second one stops everything."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: object) -> None:
        for signum in before:
            signal.signal(signum, signal.default_int_handler)
        source.stop()
        print("physgym: stopping; once more to stop at once", file=sys.stderr)

    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for signum in before:
        signal.signal(signum, ask)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _bars(source: Source, *, quiet: bool) -> Iterator[None]:
    """A bar per stage on stderr, with the time left where the end is known."""
    if quiet:
        yield
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr)) as bars:
        source.watch = _watcher(bars.add_task, bars.update)
        yield


def _watcher(
    add: Callable[..., object], update: Callable[..., object]
) -> Callable[[str, int, int | None], None]:
    tasks: dict[str, object] = {}

    def watch(stage: str, step: int, steps: int | None) -> None:
        if stage not in tasks:
            tasks[stage] = add(stage, total=steps)
        update(tasks[stage], completed=step, total=steps)

    return watch


def _print_report(report: RecordReport, *, calibrated: bool) -> None:
    for note in report.notes:
        print(f"note: {note}")
    for name, count in report.frames.items():
        came, dropped = report.came.get(name, 0), report.dropped.get(name, 0)
        print(f"{name}: {count} frames of {came} that came, {dropped} dropped")
    seconds = max(report.seconds, 1e-9)
    print(
        f"{report.raw_mb:.0f} MB in {seconds:.1f} s ({report.raw_mb / seconds:.0f} MB/s), "
        f"{report.disk_mb:.0f} MB on disk; at most {report.high_water} frames "
        f"({report.high_water_mb:.0f} MB) waited for the disk"
    )
    for loss in report.losses:
        print(f"LOST: {loss}")
    if report.ended:
        print(f"ended: {report.ended}")
    print(f"episode: {report.episode}")
    if calibrated:
        print(f"next: physgym check {report.episode}")
    else:
        print(
            "the cameras' places are not known; next: physgym check "
            f"{report.episode} --calibration calibration.yaml"
        )
