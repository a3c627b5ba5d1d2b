"""MoSA from a video: from images of several cameras to a continuum twin, without depth.

Stages: static Gaussians of the first frame; start velocity from masks and images before contact;
dynamic Gaussians, whose motion takes the place of tracks (MoSA, section 3.2); particles in what the
Gaussians fill, its underside moved to where it lands as seen; then the stages of
`recon.identify.mosa`, the last one with the images themselves.
Shapes: T frames, G Gaussians.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.run_folder import RunFolder
from physgym.splats.cloud import GaussianCloud
from physgym.twin import Twin
from recon.identify.clip import above_ground
from recon.identify.mosa import identify_motion
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_images import IMAGE_TERMS, Film
from recon.identify.mosa_start import film_start
from recon.identify.mosa_underside import Underside, find_underside, with_underside
from recon.identify.motion import Motion
from recon.identify.progress import Progress
from recon.identify.spring_gaus_config import SpringGausConfig
from recon.identify.spring_gaus_static import static_cloud
from recon.identify.start_velocity import StartVelocity
from recon.identify.torch_threads import one_torch_thread
from recon.identify.video_scene import VideoScene, hull_of
from recon.perception.result import Perception
from recon.splats.dynamic import DynamicConfig, fit_dynamic
from recon.splats.dynamic_cloud import DynamicCloud
from recon.splats.posed_images import PosedImages
from recon.splats.splat_motion import motion_from_splats
from recon.splats.video import PosedVideo, smaller

__all__ = ["VideoConfig", "begun", "identify_film", "identify_perceived"]

_GAUSSIANS = {"quick": 4000, "full": 8000}
_DYNAMIC_STEPS = {"quick": 800, "full": 3000}
_FEWEST_CAMERAS = 2
_SURROUNDED = 7  # a point of a lattice and its neighbours, where all are there
_SEEN_FILE = "dynamic.npz"  # in the run folder: the stages before the particles
_RISE_FILE = "underside.npz"


@dataclass(frozen=True)
class VideoConfig:
    """How a video is seen before a twin is made of it.

    Attributes:
        budget: ``"quick"`` or ``"full"``.
        gaussians: that the static cloud starts from, at most; by the budget when None.
        static_steps: of the static cloud; by the budget when None.
        image_pixels: of a view, at most, in the static stage.
        motion_pixels: likewise in all others.
        views: of a frame that the image terms draw at most, in turn.
        flow: what the flow term is compared with: the dynamic Gaussians, or optical flow.
        dynamic: of the dynamic Gaussians; by the budget when None.
        seed: of all random numbers.
    """

    budget: Literal["quick", "full"] = "quick"
    gaussians: int | None = None
    static_steps: int | None = None
    image_pixels: int = 320 * 240
    motion_pixels: int = 128 * 96
    views: int = 4
    flow: Literal["splats", "images"] = "splats"
    dynamic: DynamicConfig | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"image_pixels": 400, "motion_pixels": 400, "views": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise DataError(
                    f"{name} = {getattr(self, name)}",
                    where=f"VideoConfig.{name}",
                    expected=f"{low} or more",
                )

    @property
    def static(self) -> SpringGausConfig:
        """Of the static Gaussians, which are those of Spring-Gaus."""
        return SpringGausConfig(
            budget=self.budget,
            gaussians=self.gaussians or _GAUSSIANS[self.budget],
            static_steps=self.static_steps,
            seed=self.seed,
        )

    @property
    def moving(self) -> DynamicConfig:
        """Of the dynamic Gaussians."""
        steps = _DYNAMIC_STEPS[self.budget]
        return self.dynamic or DynamicConfig(iterations=steps, seed=self.seed)


def identify_film(
    video: PosedVideo,
    scene: VideoScene,
    config: MosaConfig | None = None,
    seeing: VideoConfig | None = None,
    *,
    name: str = "",
    progress: Progress | None = None,
    run: RunFolder | None = None,
) -> Twin:
    """Make a continuum twin from a video of one body that nothing holds.

    Ctrl-C in the stages of `recon.identify.mosa` keeps the best so far.

    Args:
        video: frames to learn from, from `recon.splats.video`; the share of them that is learned
            from is the config's, of ``scene.recorded_frames``.
        scene: world and clock (`VideoScene.plain`).
        config: what is identified.
        seeing: how the video is seen.
        name: of the twin; that of the video when empty.
        progress: told about every step.
        run: where checkpoints go; a run that has some is gone on with.

    Returns:
        The twin with its Gaussians, without metrics.

    Raises:
        DataError: if the video has one camera, or is too short, or shows too little.
        BlowUpError: if not even the isotropic prior can be simulated.
    """
    config, progress = config or MosaConfig(), progress or Progress()
    seeing = seeing or VideoConfig(budget=config.budget, seed=config.seed)
    _check(video, scene)
    with one_torch_thread():
        small = video.smaller(seeing.motion_pixels)
        moving = _moving(video, small, scene, seeing, progress, run)
        motion = motion_from_splats(moving, video.smaller(seeing.image_pixels), scene)
        start = film_start(small, scene, moving, motion, progress)
        if "prior" in config.stages:
            motion, start = _landing(motion, start, video.frames[0], config, progress, run)
        looks = Film(
            small,
            scene.tick,
            moving.cloud,
            moving=moving.at if seeing.flow == "splats" else None,
            views=seeing.views,
        )
        twin = identify_motion(
            motion, config, films=[looks], starts=[start], name=name, progress=progress, run=run
        )
    return _with_looks(twin, looks, config, clouds=bool(motion.clouds))


def identify_perceived(
    perception: Perception,
    video: PosedVideo | None,
    config: MosaConfig | None = None,
    seeing: VideoConfig | None = None,
    *,
    name: str = "",
    progress: Progress | None = None,
    run: RunFolder | None = None,
) -> Twin:
    """Make a continuum twin of an episode with depth, which may also be compared with its images.

    Args:
        perception: of the episode.
        video: frames to learn from, for the image terms, whose flow is optical flow; None for none.
        config: what is identified.
        seeing: how the video is seen.
        name: of the twin; that of the episode when empty.
        progress: told about every step.
        run: where checkpoints go; a run that has some is gone on with.

    Returns:
        The twin, with Gaussians where there is a video, without metrics.

    Raises:
        DataError: as `identify_motion`.
        BlowUpError: if not even the isotropic prior can be simulated.
    """
    config, progress = config or MosaConfig(), progress or Progress()
    motion = Motion.from_perception(perception, seed=config.seed)
    if video is None:
        return identify_motion(motion, config, name=name, progress=progress, run=run)
    seeing = seeing or VideoConfig(budget=config.budget, seed=config.seed)
    scene = VideoScene.of(perception, video)
    count = int(np.searchsorted(scene.tick, motion.frame_count))
    with one_torch_thread():
        cloud = _static(video, scene, seeing, progress)
    small = video.first(count).smaller(seeing.motion_pixels)
    looks = Film(small, scene.tick[:count], cloud, views=seeing.views)
    twin = identify_motion(motion, config, films=[looks], name=name, progress=progress, run=run)
    return _with_looks(twin, looks, config, clouds=bool(motion.clouds))


def begun(run: RunFolder) -> bool:
    """Whether a run of `identify_film` left something to go on with.

    Args:
        run: its folder.

    Returns:
        True from the dynamic Gaussians on.
    """
    return (run.path / _SEEN_FILE).is_file() or run.latest_checkpoint() is not None


def _with_looks(twin: Twin, looks: Film, config: MosaConfig, *, clouds: bool) -> Twin:
    """The twin with the Gaussians that it was fitted with, and what of the images was used.

    Its rest pose is that of the first frame, in which the Gaussians are.
    """
    cameras = sorted({c.name for frame in looks.video.frames for c in frame.cameras})
    weights = dataclasses.asdict(config.weights)
    del weights["heterogeneity"]
    if not clouds:
        del weights["chamfer"]
    notes: dict[str, Any] = {
        "losses": [n for n, w in weights.items() if w > 0.0 and config.learns_residual],
        "cameras": cameras,
    }
    if set(notes["losses"]) & set(IMAGE_TERMS):
        notes["views_per_frame"] = min(looks.views, len(cameras))
        notes["flow"] = "optical flow" if looks.moving is None else "dynamic Gaussians"
    return twin.replace(splats=looks.cloud, provenance={**twin.provenance, "images": notes})


def _check(video: PosedVideo, scene: VideoScene) -> None:
    names = {camera.name for frame in video.frames for camera in frame.cameras}
    if len(names) < _FEWEST_CAMERAS or len(video.frames[0]) < _FEWEST_CAMERAS:
        raise DataError(
            f"{len(video.frames[0])} camera sees the object in the first frame",
            where=f"{video.name}: --method mosa from images",
            expected=f"{_FEWEST_CAMERAS} or more, from different sides: one image has no depth",
            fix="add a camera, or record depth",
        )
    if scene.kind != "volume":
        raise DataError(
            f"a {scene.kind}",
            where=f"{video.name}: --method mosa",
            expected="a volume: particles need several layers across the thinnest part",
            fix="use another method for sheets and ropes",
        )


def _static(
    video: PosedVideo, scene: VideoScene, seeing: VideoConfig, progress: Progress
) -> GaussianCloud:
    views = smaller(video.frames[0], seeing.image_pixels)
    most = seeing.static.gaussians
    points = scene.start_points(views, most)[0] if scene.has_surface else _skin(views, most, scene)
    return static_cloud(points, views, seeing.static, progress)


def _skin(views: PosedImages, most: int, scene: VideoScene) -> np.ndarray:
    """Points on the visual hull, off the lattice, whose rows would show as stripes [m], (G, 3).

    Gaussians that fill the hull are as wide as the lattice of so many is coarse, and those inside
    stay there: of a box of 10 cm the centres came to lie 10 mm below the surface, here 5.
    """
    hull, spacing_m = hull_of(views, round((most / 6.0) ** 1.5))  # of a cube so many are outside
    near = cKDTree(hull).query_ball_point(hull, 1.01 * spacing_m, return_length=True)
    shell = hull[near < _SURROUNDED]
    rng = np.random.default_rng(0)
    shell = shell[np.sort(rng.permutation(len(shell))[:most])]
    return above_ground(shell + rng.uniform(-0.25, 0.25, shell.shape) * spacing_m, scene.ground)


def _landing(
    motion: Motion,
    start: StartVelocity,
    views: PosedImages,
    config: MosaConfig,
    progress: Progress,
    run: RunFolder | None,
) -> tuple[Motion, StartVelocity]:
    """The body with the underside on which it lands; that of a run that is gone on with is read."""
    kept = None if run is None else run.path / _RISE_FILE
    if kept is not None and kept.is_file():
        return with_underside(motion, start, Underside.load(kept))
    found = find_underside(motion, start, views.cameras, config, progress)
    if found is None:
        return motion, start
    if kept is not None:
        found.save(kept)
    return with_underside(motion, start, found)


def _moving(
    video: PosedVideo,
    small: PosedVideo,
    scene: VideoScene,
    seeing: VideoConfig,
    progress: Progress,
    run: RunFolder | None,
) -> DynamicCloud:
    """The dynamic Gaussians; those of a run that is gone on with are read."""
    kept = None if run is None else run.path / _SEEN_FILE
    if kept is not None and kept.is_file():
        found = DynamicCloud.load(kept)
        if len(found) == len(video):
            return found
    cloud, config = _static(video, scene, seeing, progress), seeing.moving
    with progress.stage("dynamic Gaussians", config.iterations) as tick:
        made = fit_dynamic(small, cloud, config, on_step=tick)
    if kept is not None:
        made.save(kept)
    return made
