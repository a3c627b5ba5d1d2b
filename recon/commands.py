"""The commands of recon: recordings to a twin, twins against baselines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from physgym.errors import DataError
from recon.spring_gaus_flags import SpringGausFlags

if TYPE_CHECKING:
    from physgym.twin import Twin

__all__ = ["Benchmark", "Reconstruct", "train_share"]


@dataclass(frozen=True)
class Reconstruct(SpringGausFlags):
    """Make a twin from recordings of a soft object.

    PATH is an episode of cameras (a rosbag2 folder, a PhysTwin case, a folder of images;
    docs/capture.md), or tracks: an .npz (keys: time, points, visible, driven or driven_index), a
    file of clips, or a folder of them; the README shows the layouts. Cameras without depth are
    enough for mosa and spring-gaus: with --ground, and --box where no masks were recorded.
    Ctrl-C keeps the best found so far; --resume goes on with a run that was cut off.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Recordings: an episode, or a file or folder of tracks."""
    out: Path
    """Where the twin goes (a folder)."""
    method: Literal["phystwin", "mosa", "spring-gaus"] = "phystwin"
    """How the twin is identified: phystwin makes springs or a rod, mosa a continuum (a volume),
    spring-gaus springs that fit the images of an episode (docs/methods/spring_gaus.md)."""
    prior: Literal["linear", "neo-hookean", "fixed-corotated", "stvk"] = "neo-hookean"
    """Of mosa: the isotropic elastic law."""
    adapter: bool = True
    """Of mosa: learn a correction of the law's stress."""
    heterogeneity: bool = True
    """Of mosa: learn how stiffness varies over the body."""
    losses: str = ""
    """Of mosa: terms of the last stage's loss, such as 'tracks,velocity,chamfer,scale,rotation,
    image,mask,flow'; when empty all that there are, but for image, mask and flow with depth."""
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
    """Of tracks, and of episodes without depth: height of a level ground that the object may land
    on [m]; none when not given. Episodes with depth find their table."""
    click: tuple[str, ...] = ()
    """Of an episode without recorded masks: where the object is in a camera's first image, as
    CAMERA:U,V; all clicks follow one flag."""
    box: tuple[str, ...] = ()
    """The same, and usually better: CAMERA:LEFT,TOP,RIGHT,BOTTOM around it. Without depth every
    camera needs one or the other: --box cam0:90,5,210,160 cam1:100,0,220,158"""
    nodes: int = 700
    """Of an episode: nodes of the network at most (spring-gaus: 400); time grows with it."""
    self_collision: Literal["auto", "on", "off"] = "auto"
    """Of an episode: let the object touch itself; 'auto' does so for sheets and ropes."""
    calibration: Path | None = None
    """Of an episode: file with T_world_cam of its cameras, in place of its own."""
    robot: Path | None = None
    """Of an episode with joint states: MJCF or URDF of the robot, base at the world's origin, so
    that the arm is not taken for the object."""
    appearance: bool = True
    """Of an episode: also learn what the object looks like, as Gaussians that follow the nodes."""
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
        from recon.reconstruct import check_place, is_episode

        settings = self.settings(self.method)
        if is_episode(self.source):
            return self._from_episode(settings)
        if self.method == "phystwin" and self.kind in ("sheet", "volume"):
            raise DataError(
                f"--kind {self.kind} of tracks", where="reconstruct", expected="rope or network"
            )
        if self.method == "spring-gaus":
            what = "holds tracks" if self.source.expanduser().exists() else "is not there"
            raise DataError(
                f"{self.source} {what}",
                where="reconstruct: --method spring-gaus",
                expected="an episode: the method fits images",
                fix="name an episode, or use --method phystwin or mosa for tracks",
            )
        check_place(self.out)
        return self._continuum() if self.method == "mosa" else self._springs()

    def _from_episode(self, settings: dict[str, Any]) -> int:
        from recon.identify.progress import Progress, RichProgress
        from recon.reconstruct import ReconstructConfig, reconstruct_episode

        grounded = self.ground is not None and self.method == "phystwin"
        if self.kind == "network" or self.residual or grounded:
            raise DataError(
                "--ground with --method phystwin"
                if grounded
                else "--kind network or --residual for an episode",
                where="reconstruct",
                expected="--kind auto, rope, sheet or volume; --ground of an episode only with a "
                "method that needs no depth (mosa, spring-gaus)",
                fix="leave it out",
            )
        config = ReconstructConfig(
            method=self.method,
            prior=self.prior,
            adapter=self.adapter,
            heterogeneity=self.heterogeneity,
            losses=_named(self.losses),
            ground_m=self.ground,
            click=self.click,
            box=self.box,
            budget=self.budget,
            kind=self.kind,
            mass_kg=self.mass,
            train_share=train_share(self.train),
            self_collision=self.self_collision,
            nodes=self.nodes,
            seed=self.seed,
            calibration=self.calibration,
            robot=self.robot,
            appearance=self.appearance,
            resume=self.resume,
        )
        progress = Progress() if self.json else RichProgress()
        twin = reconstruct_episode(
            self.source, self.out, config, progress=progress, settings=settings
        )
        return self._told(twin)

    def _continuum(self) -> int:
        """Of tracks, by the material point method."""
        from recon.identify.mosa_config import MosaConfig
        from recon.identify.motion_losses import MotionWeights
        from recon.identify.progress import Progress, RichProgress
        from recon.importers import load_recordings
        from recon.reconstruct_motion import reconstruct_motion

        if self.residual or self.kind not in ("auto", "volume"):
            raise DataError(
                f"--residual or --kind {self.kind} with --method mosa",
                where="reconstruct",
                expected="--kind auto or volume; the adapter is what mosa learns besides physics",
                fix="leave them out, or use --method phystwin",
            )
        weights = MotionWeights()
        config = MosaConfig(
            prior=self.prior,
            adapter=self.adapter,
            heterogeneity=self.heterogeneity,
            budget=self.budget,
            seed=self.seed,
            mass_kg=self.mass,
            weights=weights.only(_named(self.losses)) if self.losses else weights,
        )
        twin = reconstruct_motion(
            load_recordings(self.source),
            self.out,
            config,
            train=self.train,
            ground_m=self.ground,
            resume=self.resume,
            progress=Progress() if self.json else RichProgress(),
        )
        return self._told(twin)

    def _springs(self) -> int:
        """Of tracks, as springs or a rod."""
        from recon.identify.phystwin import PhysTwinConfig
        from recon.identify.progress import Progress, RichProgress
        from recon.importers import load_recordings
        from recon.reconstruct_tracks import reconstruct_tracks
        from recon.scorecard import split

        train, held_out = split(load_recordings(self.source), self.train)
        config = PhysTwinConfig(
            budget=self.budget,
            seed=self.seed,
            linear_density_kg_per_m=self.density,
            kind=self.kind,  # type: ignore[arg-type]  # sheet and volume were refused before
            mass_kg=self.mass,
            ground_height_m=self.ground,
        )
        twin = reconstruct_tracks(
            train,
            held_out,
            self.out,
            config,
            residual=self.residual,
            resume=self.resume,
            progress=Progress() if self.json else RichProgress(),
        )
        return self._told(twin)

    def _told(self, twin: Twin) -> int:
        if self.json:
            print(json.dumps({"twin": str(self.out), "metrics": twin.metrics}))
        else:
            from recon.metrics_text import metrics_lines

            print(twin.summary())
            for line in metrics_lines(twin.metrics):
                print(f"  {line}")
            print(f"twin: {self.out}")
        return 0


def _named(losses: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in losses.split(",") if name.strip())


def train_share(train: str) -> float:
    """Share of an episode's frames that is learned from.

    Args:
        train: ``"auto"``, 0.7 as in PhysTwin's paper; ``"all"``; or a share.

    Returns:
        From 0.05 to 1.

    Raises:
        DataError: if it is none.
    """
    named = {"auto": 0.7, "all": 1.0}
    try:
        share = named[train] if train in named else float(train)
    except ValueError:
        share = 0.0
    if not 0.05 <= share <= 1.0:
        raise DataError(f"--train {train}", where="reconstruct", expected="auto, all, or 0.05 to 1")
    return share


@dataclass(frozen=True)
class Benchmark:
    """Measure methods against real recordings and trivial baselines.

    dlo: cables moved at both ends. Finds every NAME_train.npz / NAME_eval.npz pair in --data, fits
    on the train files only and predicts every eval recording open loop.
    interactions: five soft objects handled in the simulated cell, from camera images to predictions
    of the future and of another interaction, with three cameras and with one; files go to --out,
    and a run that was cut off goes on there.
    cloth: real clouds of sheets lifted and folded (--data); fits one trial, predicts another.
    mosa: continuum twins of bodies whose material is known: a pressed cylinder, drops of other
    heights and orientations, PAC-NeRF's materials, wrong priors; goes on in --out.
    looks: every method on an elastic drop, on a block with two stiffnesses and on a lifted toy,
    before four cameras (`physgym compare`); goes on in --out.
    """

    what: Annotated[Literal["dlo", "interactions", "cloth", "mosa", "looks"], tyro.conf.Positional]
    """Which benchmark."""
    data: Path | None = None
    """Folder of the recordings (dlo, cloth)."""
    out: Path | None = None
    """Folder for everything that is made (interactions, mosa, looks)."""
    part: tuple[
        Literal["generalisation", "isotropic", "compression", "presets", "priors"], ...
    ] = ()
    """mosa: which parts; all when not given."""
    object: tuple[Literal["drop", "halves", "lift"], ...] = ()
    """looks: which objects; all when not given."""
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
        if self.what == "mosa":
            from recon.benchmark_mosa import PARTS, run_mosa

            folder = self._needed(self.out, "--out")
            parts = self.part or PARTS
            run_mosa(folder, self.json, quick=self.quick, parts=parts, seed=self.seed)
            return 0
        if self.what == "looks":
            from recon.benchmark_looks import OBJECTS, run_looks

            folder = self._needed(self.out, "--out")
            objects = self.object or OBJECTS
            run_looks(folder, self.json, quick=self.quick, objects=objects, seed=self.seed)
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
