"""MoSA from a video: from images of several cameras to a continuum twin, without depth.

Stages: static Gaussians of the first frame; start velocity from masks and images before contact;
dynamic Gaussians, whose motion takes the place of tracks (MoSA, section 3.2); particles in what the
Gaussians fill; then the stages of `recon.identify.mosa`, the last one with the images themselves.
Shapes: T frames, G Gaussians.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from physgym.errors import DataError
from physgym.run_folder import RunFolder
from physgym.sim.mpm.ride import carry, mount
from physgym.splats.cloud import GaussianCloud
from physgym.twin import Twin
from recon.identify.handling import Handling
from recon.identify.mosa import identify_motion
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_images import IMAGE_TERMS, Film
from recon.identify.motion import Motion
from recon.identify.progress import Progress
from recon.identify.solid import PointSolid
from recon.identify.spring_gaus_config import SpringGausConfig
from recon.identify.spring_gaus_static import static_cloud
from recon.identify.start_velocity import StartVelocity, fit_start_velocity
from recon.identify.torch_threads import one_torch_thread
from recon.identify.video_loss import LossWeights, VideoLoss
from recon.identify.video_scene import VideoScene
from recon.identify.video_start import find_flight, polish_velocity
from recon.perception.result import Perception
from recon.splats.dynamic import DynamicConfig, fit_dynamic
from recon.splats.dynamic_cloud import DynamicCloud
from recon.splats.filling import fill_volume
from recon.splats.splat_motion import motion_from_splats
from recon.splats.video import PosedVideo, smaller

__all__ = ["VideoConfig", "begun", "identify_film", "identify_perceived"]

_GAUSSIANS = {"quick": 2000, "full": 6000}
_DYNAMIC_STEPS = {"quick": 800, "full": 3000}
_VELOCITY_STEPS = 40
_FEWEST_CAMERAS = 2
_UNDER_SIZE = 0.03  # of the body's size: what Gaussians may be off by
_FILL_CELLS = 24  # along the longest side of the body
_FILLED = 0.4  # density of the filling at the surface
_LEAST_KEPT = 0.3
_SEEN_FILE = "dynamic.npz"  # in the run folder: the stages before the particles


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
        motion = _motion(moving, video.smaller(seeing.image_pixels), scene)
        start = _start(small, scene, moving, motion, progress)
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
    points, _ = scene.start_points(views, seeing.static.gaussians)
    return static_cloud(points, views, seeing.static, progress)


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


def _start(
    video: PosedVideo,
    scene: VideoScene,
    moving: DynamicCloud,
    motion: Motion,
    progress: Progress,
) -> StartVelocity:
    """Velocity in frame 0 from masks and images, spin from the dynamic Gaussians."""
    points = moving.cloud.mean.double().numpy()
    nothing = Handling([], [], scene.clock.ticks)
    flight = find_flight(video, scene, points, nothing)
    if not flight.free:
        progress.say("the body stands at the start")
        return StartVelocity(np.zeros(3), np.zeros(3), points.mean(axis=0), 0)
    loss = VideoLoss(video, moving.cloud, LossWeights())
    with progress.stage("start velocity", _VELOCITY_STEPS) as tick:
        linear = polish_velocity(loss, flight, scene, steps=_VELOCITY_STEPS, on_step=tick)
    x, y, z = linear
    progress.say(f"it flies with ({x:.2f}, {y:.2f}, {z:.2f}) m/s up to frame {flight.contact}")
    last = len(scene.tick) - 1
    contact = int(scene.tick[flight.contact]) if flight.contact <= last else scene.clock.ticks
    try:
        spin = fit_start_velocity(motion).angular_rad_per_s
    except DataError:  # too few free frames to see the body turn
        spin = np.zeros(3)
    return StartVelocity(linear, spin, points.mean(axis=0), contact)


def _motion(moving: DynamicCloud, video: PosedVideo, scene: VideoScene) -> Motion:
    """The motion of the dynamic Gaussians, of a body that the ground leaves room for."""
    motion = motion_from_splats(moving, video, scene)
    spacing_m = motion.size_m / _FILL_CELLS
    cells = fill_volume(moving.cloud, video.frames[0], spacing_m=spacing_m, density=_FILLED)
    cells = _never_underground(cells, moving, scene)
    # A cell is as wide as their distance: the body ends at its corners, not at its middle.
    corner = 0.5 * spacing_m * np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    body = (cells[:, None] + corner).reshape(-1, 3)
    return dataclasses.replace(motion, solid=PointSolid.of(np.unique(body.round(9), axis=0)))


def _never_underground(body: np.ndarray, moving: DynamicCloud, scene: VideoScene) -> np.ndarray:
    """Points of a body that the ground leaves room for, carried by the Gaussians, in every frame.

    What no camera sees from below, the hull fills down to the ground and further.
    """
    if scene.ground is None:
        return body
    ride = mount(body, moving.cloud.mean.double().numpy())
    size = float(np.ptp(moving.cloud.mean.numpy(), axis=0).max())
    keep = np.ones(len(body), bool)
    for t in range(len(moving)):
        now = carry(ride, moving.mean[t], moving.F(t)).double().numpy()
        height = now @ np.array(scene.ground.normal) - scene.ground.offset_m
        keep &= height > -_UNDER_SIZE * size
    if keep.sum() < _LEAST_KEPT * len(body):
        raise DataError(
            f"{1.0 - keep.mean():.0%} of the body would be below the ground at some time",
            where=f"{moving.name}: --ground",
            expected="the height of what the body lands on",
            fix="correct the height of the ground, or the cameras' poses",
        )
    return body[keep]
