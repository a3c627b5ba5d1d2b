"""The commands of recon: recordings to a twin, a twin to a prediction, twins against baselines."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from physgym.errors import DataError

__all__ = ["Benchmark", "Reconstruct", "Simulate"]


@dataclass(frozen=True)
class Reconstruct:
    """Make a twin from recordings of a soft object.

    SOURCE is a tracks .npz (keys: time, points, visible, driven or driven_index), a file of clips,
    or a folder of them; `physgym reconstruct --help` and the README show the layouts.
    Ctrl-C keeps the best found so far; --resume goes on with a run that was cut off.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Recordings: a file or a folder."""
    out: Path
    """Where the twin goes (a folder)."""
    method: Literal["phystwin"] = "phystwin"
    """How the twin is identified."""
    train: str = "auto"
    """What is learned from; the rest is held out and scored. 'all'; a share such as '0.7'
    (recordings, or seconds of a single one); 'auto': 0.8 of several recordings, 0.7 of one."""
    budget: Literal["quick", "full"] = "quick"
    """One search, or three from different seeds."""
    residual: bool = False
    """Also learn a residual on top of the physics (needs several recordings of one length)."""
    density: float = 0.02
    """Mass per length of a rope [kg/m]; the motion alone does not tell it."""
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
        """
        from physgym.run_folder import RunFolder
        from recon.identify.phystwin import PhysTwinConfig, identify
        from recon.identify.progress import Progress, RichProgress
        from recon.identify.residual import fit_residual
        from recon.importers import load_recordings
        from recon.scorecard import score, split

        recordings = load_recordings(self.source)
        train, held_out = split(recordings, self.train)
        progress = Progress() if self.json else RichProgress()
        config = PhysTwinConfig(
            budget=self.budget, seed=self.seed, linear_density_kg_per_m=self.density
        )
        folder = self.out.with_name(self.out.name + ".run")
        with RunFolder(folder, config, resume=self.resume or not _begun(folder)) as run:
            twin = identify(train, config, name=self.out.name, progress=progress, run=run)
        if self.residual:
            twin = fit_residual(twin, train, progress=progress)
        twin = twin.replace(
            metrics=score(twin, train, held_out),
            provenance={**twin.provenance, "command": " ".join(sys.argv[1:])},
        )
        twin.save(self.out)
        _discard(folder)
        if self.json:
            print(json.dumps({"twin": str(self.out), "metrics": twin.metrics}))
        else:
            print(twin.summary())
            print(f"twin: {self.out}")
        return 0


def _begun(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def _discard(folder: Path) -> None:
    """The checkpoints have served: the twin is written."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Simulate:
    """Predict a recording from its first frames and its driven points alone."""

    twin: Annotated[Path, tyro.conf.Positional]
    """Twin folder."""
    tracks: Path
    """Recording(s) of the object: what drives the twin, and what it is compared with."""
    out: Path
    """Where the prediction goes (.npz: time, points, driven_index for each recording)."""
    residual: bool = True
    """Add the twin's learned residual where it has one."""
    json: bool = False
    """Print a machine-readable summary."""

    def run(self) -> int:
        """Simulate and compare.

        Returns:
            0 when the prediction was written.
        """
        import numpy as np

        from physgym.files import write_atomically
        from physgym.twin import Twin
        from recon.importers import load_recordings
        from recon.metrics import track_error
        from recon.predict import predict

        if self.out.suffix != ".npz":
            raise DataError(f"{self.out.name}", where="--out", expected="a name ending in .npz")
        twin = Twin.load(self.twin)
        recordings = load_recordings(self.tracks)
        predicted = predict(twin, recordings, residual=self.residual)
        arrays: dict[str, np.ndarray] = {"driven_index": np.array(twin.driven_index)}
        rows = {}
        for i, (tracks, points) in enumerate(zip(recordings, predicted)):
            suffix = "" if len(recordings) == 1 else f"_{i}"
            arrays[f"time{suffix}"], arrays[f"points{suffix}"] = tracks.time_s, points
            free = tracks.free_index
            rows[tracks.name] = track_error(
                points[:, free], tracks.position[:, free], tracks.visible[:, free]
            )
        write_atomically(self.out, _npz_bytes(arrays))
        if self.json:
            print(json.dumps({"out": str(self.out), "free_dist_mean": rows}))
        else:
            for name, error in rows.items():
                print(f"{name}: mean error of the free points {1e3 * error:.1f} mm")
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

    dlo: cables moved at both ends. Finds every NAME_train.npz / NAME_eval.npz pair in the folder,
    fits on the train files only and predicts every eval recording open loop.
    """

    what: Annotated[Literal["dlo"], tyro.conf.Positional]
    """Which benchmark."""
    data: Path
    """Folder of the recordings."""
    json: Path | None = None
    """Where the figures go."""
    quick: bool = False
    """A fifth of the work: one recording, no residual. For a look, not for figures."""
    checks: bool = False
    """Also fit with half the substep and with half the segment length."""
    seed: int = 0
    """Of all random numbers."""

    def run(self) -> int:
        """Run the benchmark.

        Returns:
            0 when it ran through.
        """
        from recon.benchmark_dlo import run_dlo

        run_dlo(self.data, self.json, quick=self.quick, checks=self.checks, seed=self.seed)
        return 0
