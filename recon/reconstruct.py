"""From an episode to a twin: perceive, identify, score, save. The command and the node call it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from physgym.errors import BlowUpError, DataError, TwinError

if TYPE_CHECKING:
    from physgym.run_folder import RunFolder
    from physgym.twin import Twin
    from recon.identify.episode_fit import EpisodeConfig
    from recon.identify.mosa_config import MosaConfig
    from recon.identify.progress import Progress
    from recon.identify.spring_gaus_config import SpringGausConfig
    from recon.perception.perceive_config import PerceiveConfig
    from recon.perception.result import Perception
    from recon.splats.posed_images import PosedImages
    from recon.splats.video import PosedVideo

    Fit = EpisodeConfig | MosaConfig | SpringGausConfig

__all__ = ["ReconstructConfig", "check_place", "is_episode", "reconstruct_episode", "score_twin"]

_BAG_SUFFIXES = (".mcap", ".db3")


@dataclass(frozen=True)
class ReconstructConfig:
    """How an episode becomes a twin.

    Attributes:
        method: how the twin is identified; ``mosa`` makes a continuum of a volume, ``spring-gaus``
            springs that fit the images.
        prior: of mosa: the isotropic elastic law.
        adapter: of mosa: learn a correction of its stress.
        heterogeneity: of mosa: learn how stiffness varies over the body.
        losses: of mosa: terms of the last stage's loss (`MotionWeights`); all that the recording
            has when empty, but for image, mask and flow where there is depth.
        ground_m: without depth: height of a level ground [m].
        click: where the object is in the first images, where no masks are recorded; each
            CAMERA:U,V.
        box: likewise; each CAMERA:LEFT,TOP,RIGHT,BOTTOM.
        budget: how long to search.
        kind: what the object is; ``auto`` looks at the first frame.
        mass_kg: of the object; that of the recording's metadata when None, else 0.1 kg.
        train_share: share of the frames that is learned from.
        self_collision: let the object touch itself; ``auto`` does so for sheets and ropes.
        nodes: nodes of the simulated network at most; of spring-gaus 400 at most.
        seed: of all random numbers.
        calibration: file with ``T_world_cam`` in place of the recording's own.
        robot: MJCF or URDF of the robot, so that it is not taken for the object; needs recorded
            joint states, and its base at the world's origin.
        appearance: also learn what the object looks like.
        resume: go on with the run in ``OUT.run``.
    """

    method: Literal["phystwin", "mosa", "spring-gaus"] = "phystwin"
    prior: Literal["linear", "neo-hookean", "fixed-corotated", "stvk"] = "neo-hookean"
    adapter: bool = True
    heterogeneity: bool = True
    losses: tuple[str, ...] = ()
    ground_m: float | None = None
    click: tuple[str, ...] = ()
    box: tuple[str, ...] = ()
    budget: Literal["quick", "full"] = "quick"
    kind: Literal["auto", "volume", "sheet", "rope"] = "auto"
    mass_kg: float | None = None
    train_share: float = 0.7
    self_collision: Literal["auto", "on", "off"] = "auto"
    nodes: int = 700
    seed: int = 0
    calibration: Path | None = None
    robot: Path | None = None
    appearance: bool = True
    resume: bool = False


def is_episode(source: Path) -> bool:
    """Whether this is a recording of cameras, rather than of tracks.

    Args:
        source: a file or folder.

    Returns:
        True for a rosbag2 folder or file, a PhysTwin case (raw or processed) and a folder of
        images.
    """
    from recon.importers.phystwin_final import matches
    from recon.score_source import needs_conversion

    source = source.expanduser()
    if matches(source) or needs_conversion(source):
        return True
    if source.is_file():
        return source.suffix in _BAG_SUFFIXES
    if not source.is_dir():
        return source.with_name(source.name + ".partial").is_dir()
    bag = (source / "metadata.yaml").is_file() or any(
        path.suffix in _BAG_SUFFIXES for path in source.iterdir()
    )
    return bag or source.name.endswith(".partial") or (source / "color").is_dir()


def reconstruct_episode(
    episode: Path,
    out: Path,
    config: ReconstructConfig | None = None,
    *,
    progress: Progress | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Twin:
    """Make a twin of an episode and save it.

    Ctrl-C keeps the best found so far. The twin is saved before it is scored, so whatever goes
    wrong with the scores costs the scores only.

    Args:
        episode: a rosbag2 folder, a processed PhysTwin case, or what
            `recon.importers.convert_episode` reads.
        out: where the twin goes.
        config: how.
        progress: told about every step.
        settings: fields of the method's own configuration that ``config`` has no word for.

    Returns:
        The twin, with metrics of its own episode.

    Raises:
        PhysGymError: if the recording cannot be used or no twin can go there.
    """
    from recon.episode_files import noted_mass_kg
    from recon.identify.progress import Progress as Silent
    from recon.job_folder import drop_job_folder, job_folder
    from recon.method_config import method_config
    from recon.perception.perceive_config import PerceiveConfig
    from recon.reconstruct_video import VIDEO_METHODS, has_depth, reconstruct_film

    config, progress = config or ReconstructConfig(), progress or Silent()
    check_place(out)
    begun = time.monotonic()
    with ExitStack() as stack:
        source = _as_bag(Path(episode).expanduser(), out, stack)
        if config.method in VIDEO_METHODS and not has_depth(source, config):
            return reconstruct_film(source, out, config, progress=progress, settings=settings)
        perception = _perceived(
            source,
            PerceiveConfig(kind=config.kind, robot_model=str(config.robot or "")),
            config,
            progress,
        )
        noted_kg = noted_mass_kg(source)
        video = _video(source, perception, config) if _draws(config) else None
        wanted = config.appearance and video is None  # what fits images sees for itself
        views = _first_views(source, perception, config) if wanted else None
    perceived_s = time.monotonic() - begun
    fit = method_config(config, config.mass_kg or noted_kg)
    fit = dataclasses.replace(fit, **(settings or {}))
    with job_folder(out, _Job.of(fit, perception), resume=config.resume) as run:
        twin = _identified(perception, video, fit, out.name, progress, run)
    seconds = {"perceive_s": perceived_s, "identify_s": time.monotonic() - begun - perceived_s}
    notes = {"command": " ".join(sys.argv[1:]), "seconds": seconds, "source": str(episode)}
    twin = twin.replace(provenance={**twin.provenance, **notes})
    twin.save(out)
    if not twin.provenance["stopped_early"]:
        drop_job_folder(out)
    twin = _with_appearance(twin, views, perception, config, progress)
    twin = twin.replace(metrics=score_twin(twin, source, perception))
    twin.save(out)
    return twin


def _draws(config: ReconstructConfig) -> bool:
    """Whether the fit compares images."""
    images = {"image", "mask", "flow"} & set(config.losses)
    return config.method == "spring-gaus" or (config.method == "mosa" and bool(images))


def _first_views(
    source: Path, perception: Perception, config: ReconstructConfig
) -> PosedImages | None:
    """What the cameras saw in frame 0; None, with a warning, where that cannot be read."""
    from recon.splats.frame import posed_frame
    from recon.tracks import PhysGymWarning

    try:
        return posed_frame(source, perception, 0, calibration=config.calibration)
    except DataError as error:
        what = f"the twin has no appearance: {error.what} ({error.where})"
        warnings.warn(what, PhysGymWarning, stacklevel=3)
        return None


def _with_appearance(
    twin: Twin,
    views: PosedImages | None,
    perception: Perception,
    config: ReconstructConfig,
    progress: Progress,
) -> Twin:
    """The twin with what it looks like; as it is where nothing shows it, or at Ctrl-C."""
    if views is None:
        return twin
    from recon.appearance import AppearanceConfig, fit_appearance

    fit = AppearanceConfig(seed=config.seed)
    begun = time.monotonic()
    try:
        with progress.stage("appearance", fit.iterations) as tick:
            splats = fit_appearance(views, perception, fit, on_step=tick)
    except KeyboardInterrupt:
        progress.say("stopped: the twin stays without an appearance")
        return twin
    seconds = {**twin.provenance["seconds"], "appearance_s": time.monotonic() - begun}
    return twin.replace(splats=splats, provenance={**twin.provenance, "seconds": seconds})


def _video(source: Path, perception: Perception, config: ReconstructConfig) -> PosedVideo:
    """The frames that are learned from."""
    from recon.splats.video import posed_video

    stop = max(3, round(config.train_share * perception.tracks.frame_count))
    return posed_video(source, perception, stop_frame=stop, calibration=config.calibration)


def _identified(
    perception: Perception,
    video: PosedVideo | None,
    fit: Fit,
    name: str,
    progress: Progress,
    run: RunFolder,
) -> Twin:
    from recon.identify.episode_fit import EpisodeConfig, identify_episode

    if isinstance(fit, EpisodeConfig):
        return identify_episode(perception, fit, name=name, progress=progress, run=run)
    from recon.identify.mosa_config import MosaConfig

    if isinstance(fit, MosaConfig):
        from recon.identify.mosa_video import identify_perceived

        return identify_perceived(perception, video, fit, name=name, progress=progress, run=run)
    from recon.identify.spring_gaus import identify_video

    assert video is not None
    return identify_video(video, perception, fit, name=name, progress=progress, run=run)


def score_twin(twin: Twin, source: Path, perception: Perception) -> dict[str, Any]:
    """Scores of a twin on a recording, train and future, beside the baselines.

    Args:
        twin: the twin.
        source: the recording.
        perception: of it.

    Returns:
        Means by part, row and measure [m]; empty, with a warning, where the twin blows up.
    """
    from recon.falling import fall_of
    from recon.predict_episode import predict_episode
    from recon.score_episode import score_prediction, train_stop_of
    from recon.tracks import PhysGymWarning

    stop = train_stop_of(twin.provenance, perception)
    try:
        predicted = predict_episode(twin, perception)
    except BlowUpError as error:
        warnings.warn(f"the twin is not scored: {error}", PhysGymWarning, stacklevel=2)
        return {}
    scored = score_prediction(
        perception,
        predicted.points,
        predicted.visible_surface,
        train_stop=stop,
        fall=fall_of(source, perception, stop),
    )
    return {"episode": perception.name, "parts": scored["parts"]}


def check_place(out: Path) -> None:
    """Refuse a place where no twin can go, before the work rather than after.

    Args:
        out: where the twin is to go.

    Raises:
        DataError: if it has no name, or nothing can be written there.
        TwinError: if something else stands there.
    """
    from physgym.files import check_writable
    from physgym.twin import is_twin_folder

    if not out.name:
        raise DataError(f"{out}", where="--out", expected="a folder with a name", fix="twins/rope")
    free = not out.exists() or (out.is_dir() and (is_twin_folder(out) or not any(out.iterdir())))
    if not free:
        raise TwinError(
            "something that is not a twin stands there",
            where=f"--out {out}",
            expected="a twin, an empty folder or nothing",
            fix="choose another folder, or move this one away",
        )
    check_writable(out.with_name(f"{out.name}.run"), f"--out {out}")


def _as_bag(source: Path, out: Path, stack: ExitStack) -> Path:
    """The recording as a bag; other layouts are converted into a folder that goes away."""
    from recon.importers import convert_episode
    from recon.score_source import needs_conversion

    if needs_conversion(source):
        out.parent.mkdir(parents=True, exist_ok=True)
        room = stack.enter_context(TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.bag-"))
        return convert_episode(source, Path(room) / source.name)
    return source


def _perceived(
    source: Path, asked: PerceiveConfig, config: ReconstructConfig, progress: Progress
) -> Perception:
    from recon.perception.perceive_episode import cached_perception
    from recon.score_source import prompts_of

    with progress.stage("perceive", 100) as tick:
        done = [0]

        def note(stage: str, share: float) -> None:
            done[0] = max(done[0], round(100 * share))
            tick(done[0], 0.0)

        return cached_perception(
            source,
            asked,
            prompts=prompts_of(config.click, config.box) or None,
            calibration=config.calibration,
            on_progress=note,
        )


@dataclass(frozen=True)
class _Job:
    """What must be the same when a run is resumed."""

    config: str
    perception_sha256: str

    @classmethod
    def of(cls, config: Any, perception: Perception) -> _Job:
        digest = hashlib.sha256(perception.tracks.source_sha256.encode())
        digest.update(perception.tracks.position.tobytes())
        return cls(json.dumps(dataclasses.asdict(config)), digest.hexdigest())
