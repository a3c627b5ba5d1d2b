"""The commands of recon: recordings to a twin, a twin to a prediction, twins against baselines."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from physgym.errors import BlowUpError, DataError

if TYPE_CHECKING:
    from physgym.twin import Twin
    from recon.identify.progress import Progress
    from recon.tracks import Tracks

__all__ = ["Benchmark", "Reconstruct", "Simulate"]


@dataclass(frozen=True)
class Reconstruct:
    """Make a twin from recordings of a soft object.

    SOURCE is an episode of RGB-D cameras (a rosbag2 folder, a PhysTwin case, a folder of images;
    docs/capture.md), or tracks: an .npz (keys: time, points, visible, driven or driven_index), a
    file of clips, or a folder of them; the README shows the layouts.
    Ctrl-C keeps the best found so far; --resume goes on with a run that was cut off.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Recordings: an episode, or a file or folder of tracks."""
    out: Path
    """Where the twin goes (a folder)."""
    method: Literal["phystwin"] = "phystwin"
    """How the twin is identified."""
    train: str = "auto"
    """What is learned from; the rest is held out and scored. 'all'; a share such as '0.7'
    (recordings, or seconds of a single one); 'auto': 0.8 of several recordings, 0.7 of one."""
    budget: Literal["quick", "full"] = "quick"
    """How long to search. Of tracks: one search, or three from different seeds."""
    residual: bool = False
    """Also learn a residual on top of the physics (needs several recordings of one length)."""
    density: float = 0.02
    """Mass per length of a rope [kg/m]; the motion alone does not tell it."""
    kind: Literal["auto", "rope", "network", "sheet", "volume"] = "auto"
    """What the object is; 'auto' looks at the data. Of an episode: rope, sheet or volume. Of
    tracks: a rope becomes a rod, a network springs between near points."""
    mass: float | None = None
    """Mass of the object without its driven points [kg]. The motion does not tell it: when not
    given it is the recording's own note, else 0.1 kg (1 g a point for tracks)."""
    ground: float | None = None
    """Of tracks: height of a level ground that a network touches [m]; none when not given.
    Episodes find their table."""
    nodes: int = 700
    """Of an episode: nodes of the network at most; time grows with it."""
    self_collision: Literal["auto", "on", "off"] = "auto"
    """Of an episode: let the object touch itself; 'auto' does so for sheets and ropes."""
    calibration: Path | None = None
    """Of an episode: file with T_world_cam of its cameras, in place of its own."""
    robot: Path | None = None
    """Of an episode with joint states: MJCF or URDF of the robot, base at the world's origin, so
    that the arm is not taken for the object."""
    seed: int = 0
    """Of all random numbers."""
    resume: bool = False
    """Go on with the run in OUT.run."""
    json: bool = False
    """Print a machine-readable summary instead of a table."""

    def run(self) -> int:
        """Reconstruct, score, save.

        Returns:
            0 when the twin was written.

        Raises:
            PhysGymError: if the recordings, the flags or the place of the twin are wrong.
        """
        from recon.identify.progress import Progress, RichProgress
        from recon.importers import load_recordings
        from recon.reconstruct import check_place, is_episode
        from recon.scorecard import split

        if is_episode(self.source):
            return self._from_episode()
        if self.kind == "sheet" or self.kind == "volume":
            raise DataError(
                f"--kind {self.kind} of tracks", where="reconstruct", expected="rope or network"
            )
        check_place(self.out)
        train, held_out = split(load_recordings(self.source), self.train)
        progress = Progress() if self.json else RichProgress()
        twin = self._identify(train, progress)
        # Saved after each part, so that whatever goes wrong later costs that part only.
        if self.residual:
            twin = _with_residual(twin, train, progress)
            twin.save(self.out)
        twin = twin.replace(metrics=_metrics(twin, train, held_out))
        twin.save(self.out)
        if self.json:
            print(json.dumps({"twin": str(self.out), "metrics": twin.metrics}))
        else:
            print(twin.summary())
            print(f"twin: {self.out}")
        return 0

    def _from_episode(self) -> int:
        from recon.identify.progress import Progress, RichProgress
        from recon.reconstruct import ReconstructConfig, reconstruct_episode

        if self.kind == "network" or self.residual or self.ground is not None:
            raise DataError(
                "--kind network, --residual and --ground are for tracks",
                where="reconstruct",
                expected="--kind auto, rope, sheet or volume for an episode",
                fix="leave them out",
            )
        config = ReconstructConfig(
            method=self.method,
            budget=self.budget,
            kind=self.kind,
            mass_kg=self.mass,
            train_share=_share(self.train),
            self_collision=self.self_collision,
            nodes=self.nodes,
            seed=self.seed,
            calibration=self.calibration,
            robot=self.robot,
            resume=self.resume,
        )
        progress = Progress() if self.json else RichProgress()
        twin = reconstruct_episode(self.source, self.out, config, progress=progress)
        if self.json:
            print(json.dumps({"twin": str(self.out), "metrics": twin.metrics}))
        else:
            print(twin.summary())
            print(f"twin: {self.out}")
        return 0

    def _identify(self, train: list[Tracks], progress: Progress) -> Twin:
        """The physics, saved; the run folder stays when there is something to go on with."""
        from physgym.run_folder import RunFolder
        from recon.identify.phystwin import PhysTwinConfig, identify

        config = PhysTwinConfig(
            budget=self.budget,
            seed=self.seed,
            linear_density_kg_per_m=self.density,
            kind=self.kind,  # type: ignore[arg-type]  # sheet and volume were refused before
            mass_kg=self.mass,
            ground_height_m=self.ground,
        )
        job = _Job(
            self.method,
            self.budget,
            self.seed,
            self.density,
            _fingerprint(train),
            self.kind,
            self.mass,
            self.ground,
        )
        folder = self.out.with_name(self.out.name + ".run")
        begun = (folder / "config.yaml").is_file()
        run = RunFolder(folder, job, resume=self.resume or not begun)
        finished = False
        try:
            with run:
                twin = identify(train, config, name=self.out.name, progress=progress, run=run)
            command = " ".join(sys.argv[1:])
            twin = twin.replace(provenance={**twin.provenance, "command": command})
            twin.save(self.out)
            finished = not twin.provenance["stopped_early"]
        finally:
            if finished or run.latest_checkpoint() is None:
                shutil.rmtree(folder, ignore_errors=True)
        return twin


@dataclass(frozen=True)
class _Job:
    """What must be the same when a run is resumed."""

    method: str
    budget: str
    seed: int
    density: float
    train_sha256: str
    kind: str
    mass: float | None
    ground: float | None


def _fingerprint(recordings: list[Tracks]) -> str:
    digest = hashlib.sha256()
    for tracks in recordings:
        digest.update(tracks.position.tobytes() + tracks.time_s.tobytes())
    return digest.hexdigest()


def _share(train: str) -> float:
    """Share of an episode's frames that is learned from; 0.7 as in PhysTwin's paper."""
    named = {"auto": 0.7, "all": 1.0}
    try:
        share = named[train] if train in named else float(train)
    except ValueError:
        share = 0.0
    if not 0.05 <= share <= 1.0:
        raise DataError(f"--train {train}", where="reconstruct", expected="auto, all, or 0.05 to 1")
    return share


def _with_residual(twin: Twin, train: list[Tracks], progress: Progress) -> Twin:
    from recon.identify.residual import fit_residual

    try:
        return fit_residual(twin, train, progress=progress)
    except KeyboardInterrupt:
        progress.say("stopped: the twin stays without a residual")
        return twin.replace(provenance={**twin.provenance, "stopped_early": True})


def _metrics(twin: Twin, train: list[Tracks], held_out: list[Tracks]) -> dict[str, Any]:
    from recon.scorecard import score
    from recon.tracks import PhysGymWarning

    try:
        return score(twin, train, held_out)
    except BlowUpError as error:
        warnings.warn(f"the twin is not scored: {error}", PhysGymWarning, stacklevel=2)
        return {}


@dataclass(frozen=True)
class Simulate:
    """Predict a recording from its start and from what moves the object alone.

    Of an episode (--episode): from its first frame and the recorded motion of grippers or hands.
    OUT holds points (T, N, 3) [m], visible_surface (N,) and time (T,) [s].
    Of tracks (--tracks): from their first frames and their driven points. OUT holds driven_index,
    and name, time and points of the recording; of several name_0, time_0, points_0 and so on.
    """

    twin: Annotated[Path, tyro.conf.Positional]
    """Twin folder."""
    out: Path
    """Where the prediction goes: an .npz."""
    episode: Path | None = None
    """An episode of the object that the twin was made from, or of another interaction with it."""
    tracks: Path | None = None
    """Recording(s) in tracks: what drives the twin, and what it is compared with."""
    calibration: Path | None = None
    """Of an episode: file with T_world_cam of its cameras, in place of its own."""
    residual: bool = True
    """Add the twin's learned residual where it has one."""
    json: bool = False
    """Print a machine-readable summary."""

    def run(self) -> int:
        """Simulate and compare.

        Returns:
            0 when the prediction was written.

        Raises:
            PhysGymError: if the twin or a recording is wrong, or they do not fit each other.
        """
        import numpy as np

        from physgym.files import write_atomically
        from physgym.twin import Twin
        from recon.importers import load_recordings
        from recon.metrics import free_dist_mean
        from recon.predict import predict

        if self.out.suffix != ".npz" or self.out.is_dir():
            raise DataError(f"{self.out}", where="--out", expected="a file whose name ends in .npz")
        if (self.episode is None) == (self.tracks is None):
            raise DataError(
                "both or none of --episode and --tracks", where="simulate", expected="one of them"
            )
        twin = Twin.load(self.twin)
        if self.episode is not None:
            return self._of_episode(twin, self.episode)
        assert self.tracks is not None
        recordings = load_recordings(self.tracks)
        predicted = predict(twin, recordings, residual=self.residual)
        arrays: dict[str, np.ndarray] = {"driven_index": np.array(twin.driven_index)}
        rows: list[dict[str, Any]] = []
        for i, (tracks, points) in enumerate(zip(recordings, predicted)):
            suffix = "" if len(recordings) == 1 else f"_{i}"
            arrays[f"name{suffix}"] = np.array(tracks.name)
            arrays[f"time{suffix}"], arrays[f"points{suffix}"] = tracks.time_s, points
            error = free_dist_mean(points, tracks.position, tracks.driven_index)
            rows.append({"name": tracks.name, "free_dist_mean_m": error})
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.out, _npz_bytes(arrays))
        if self.json:
            print(json.dumps({"out": str(self.out), "recordings": rows}))
        else:
            for row in rows:
                error_mm = 1e3 * row["free_dist_mean_m"]
                print(f"{row['name']}: mean error of the free points {error_mm:.1f} mm")
            print(f"prediction: {self.out}")
        return 0

    def _of_episode(self, twin: Twin, episode: Path) -> int:
        import numpy as np

        from physgym.files import write_atomically
        from recon.perception.perceive_config import PerceiveConfig
        from recon.perception.perceive_episode import cached_perception
        from recon.predict_episode import predict_episode

        config = PerceiveConfig(kind=twin.kind)
        perception = cached_perception(episode, config, calibration=self.calibration)
        found = predict_episode(twin, perception)
        arrays = {
            "points": found.points,
            "visible_surface": found.visible_surface,
            "time": found.time_s,
            "name": np.array(perception.name),
        }
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.out, _npz_bytes(arrays))
        about = {
            "out": str(self.out),
            "episode": perception.name,
            "frames": len(found.time_s),
            "points": int(found.points.shape[1]),
            "registered": found.registered,
        }
        if self.json:
            print(json.dumps(about))
        else:
            moved = float(np.linalg.norm(found.points[-1] - found.points[0], axis=1).mean())
            print(
                f"{perception.name}: {about['frames']} frames of {about['points']} points, "
                f"moved {1e3 * moved:.0f} mm on average by the last"
            )
            print(f"prediction: {self.out}")
        return 0


def _npz_bytes(arrays: dict) -> bytes:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@dataclass(frozen=True)
class Benchmark:
    """Measure methods against real recordings and trivial baselines.

    dlo: cables moved at both ends. Finds every NAME_train.npz / NAME_eval.npz pair in --data, fits
    on the train files only and predicts every eval recording open loop.
    interactions: five soft objects handled in the simulated cell, from camera images to predictions
    of the future and of another interaction, with three cameras and with one; files go to --out,
    and a run that was cut off goes on there.
    cloth: real clouds of sheets lifted and folded (--data); fits one trial, predicts another.
    """

    what: Annotated[Literal["dlo", "interactions", "cloth"], tyro.conf.Positional]
    """Which benchmark."""
    data: Path | None = None
    """Folder of the recordings (dlo, cloth)."""
    out: Path | None = None
    """Folder for everything that is made (interactions)."""
    json: Path | None = None
    """Where the figures go."""
    quick: bool = False
    """A fifth of the work. For a look, not for figures."""
    checks: bool = False
    """dlo: also fit with half the substep and with half the segment length."""
    seed: int = 0
    """Of all random numbers."""

    def run(self) -> int:
        """Run the benchmark.

        Returns:
            0 when it ran through.

        Raises:
            DataError: if a folder is missing.
        """
        if self.what == "interactions":
            from recon.benchmark_interactions import run_interactions

            folder = self._needed(self.out, "--out")
            run_interactions(folder, self.json, quick=self.quick, seed=self.seed)
            return 0
        data = self._needed(self.data, "--data")
        if self.what == "cloth":
            from recon.benchmark_cloth import run_cloth

            run_cloth(data, self.json, quick=self.quick, seed=self.seed)
            return 0
        from recon.benchmark_dlo import run_dlo

        run_dlo(data, self.json, quick=self.quick, checks=self.checks, seed=self.seed)
        return 0

    def _needed(self, folder: Path | None, flag: str) -> Path:
        if folder is None:
            raise DataError(
                f"benchmark {self.what} needs a folder", where=flag, expected=f"{flag} FOLDER"
            )
        return folder
