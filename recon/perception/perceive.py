"""The pipeline: synchronized RGB-D views of an object in, `recon.perception.result.Perception` out.

Table -> masks -> clouds -> whole geometry -> 3D tracks of every camera, fused -> hands. What a
gripper holds is not decided here: its motion is handed on as it was recorded.
Shapes: T frames, N points, K hand points, C cameras, H W image.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from physgym.errors import DataError
from recon.perception.assemble import assemble
from recon.perception.complete import Geometry, Silhouette, complete, guess_kind
from recon.perception.driven import GripperTrack
from recon.perception.flight_floor import flight_floors
from recon.perception.fuse import fuse_frame
from recon.perception.hands import followed_hands
from recon.perception.lift import View, usable_depth
from recon.perception.mesh import align_mesh, fill_mesh
from recon.perception.perceive_checks import (
    check_found,
    check_views,
    warn_lost,
    warn_undriven,
)
from recon.perception.perceive_config import PerceiveConfig
from recon.perception.plugins import PointTracker, Segmenter
from recon.perception.prompt import Prompt
from recon.perception.result import Perception
from recon.perception.rope_points import kept_from_sliding
from recon.perception.scene import find_table, object_masks
from recon.perception.table import Plane
from recon.perception.track import PointTracks, fuse_tracks, track_view
from recon.tracks import PhysGymWarning

__all__ = ["Masks", "PerceiveConfig", "Progress", "SomeMasks", "perceive"]

Masks = Sequence[Sequence[np.ndarray]]
SomeMasks = Sequence[Sequence[np.ndarray] | None]
Progress = Callable[[str, float], None]

_LEAST_DEPTH = 0.001  # share of an image's pixels that hold a distance, below which it has none
# Points along an object at least, of its filling and of its clouds: fewer outline it only.
_ACROSS, _SEEN_ACROSS = 12, 20
_MOST_MASK_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class _Given:
    """What there is to see, cameras without depth left out."""

    views: Sequence[View]
    prompts: Mapping[str, Prompt]
    masks: SomeMasks | None
    blocked: Masks | None
    hands: Mapping[str, Masks]

    def of(self, kept: Sequence[int]) -> _Given:
        views = [self.views[c] for c in kept]
        gone = {view.camera.name for view in self.views} - {view.camera.name for view in views}
        prompts = {camera: p for camera, p in self.prompts.items() if camera not in gone}
        if self.prompts and not prompts and self.masks is None:
            raise DataError(
                f"prompts for {sorted(gone)} alone",
                where="perceive",
                expected="a prompt for a camera with depth",
            )
        return _Given(
            views,
            prompts,
            None if self.masks is None else [self.masks[c] for c in kept],
            None if self.blocked is None else [self.blocked[c] for c in kept],
            {label: [hand[c] for c in kept] for label, hand in self.hands.items()},
        )


def perceive(
    views: Sequence[View],
    time_s: np.ndarray,
    *,
    name: str,
    prompts: Mapping[str, Prompt] | None = None,
    masks: SomeMasks | None = None,
    blocked: Masks | None = None,
    grippers: Sequence[GripperTrack] = (),
    hand_masks: Mapping[str, Masks] | None = None,
    mesh: tuple[np.ndarray, np.ndarray] | None = None,
    config: PerceiveConfig | None = None,
    segmenter: Segmenter | None = None,
    tracker: PointTracker | None = None,
    source_sha256: str = "",
    on_progress: Progress | None = None,
) -> Perception:
    """Find out everything about an object that synchronized views show.

    Args:
        views: C views of T frames each, frame t of all at one time. A camera whose first frame has
            no depth is left out, with a warning.
        time_s: stamps [s], shape (T,), increasing, even or not.
        name: of the recording.
        prompts: by camera name; cameras without one get theirs from those with one, through depth.
            Without any, what stands out of the table is the object, grippers left out.
        masks: known masks of the object, C of T; no prompt is needed then. None for a camera
            whose masks are to be found from the others'.
        blocked: masks of what may hide it (gripper, hand), C of T.
        grippers: recorded grippers and tools.
        hand_masks: masks of hands that move it by label, each C of T.
        mesh: the object's own vertices and faces, in metres; takes the place of completion.
        config: everything else.
        segmenter: carries masks through time in place of flow and colour.
        tracker: follows pixels in place of flow.
        source_sha256: of the file that it came from.
        on_progress: called with the stage's name and the share that is done, 0 to 1.

    Returns:
        What was found out.

    Raises:
        DataError: if the streams do not fit each other, no camera has depth, or no object or no
            track is found.
    """
    config = config or PerceiveConfig()
    check_views(views, time_s, masks, grippers, name)
    clock = _Clock(on_progress)
    given = _with_depth(
        _Given(views, prompts or {}, masks, blocked, hand_masks or {}), config, name
    )
    views, up = given.views, -np.array(config.gravity) / np.linalg.norm(config.gravity)
    table = find_table(views, up)
    found = object_masks(
        views,
        given.prompts,
        table=table,
        known=given.masks,
        blocked=given.blocked,
        segmenter=segmenter,
        grippers=grippers,
    )
    clock.note("segment", 0.5)
    check_found(found, name)
    config = _fine_enough(config, _cloud(views, found, 0, config))
    clouds = [_cloud(views, found, frame, config) for frame in range(len(time_s))]
    warn_lost(clouds, name)
    clock.note("fuse", 0.7)
    geometry = _geometry(given, found, clouds[0], table, mesh, config)
    clock.note("complete", 0.72)
    tracked = _tracked(views, found, config, tracker, name)
    if geometry.kind == "rope":
        tracked = kept_from_sliding(tracked, clouds, table=table)
    if geometry.kind == "volume" and mesh is None and table is not None:
        floors = flight_floors(tracked.position, time_s, np.array(config.gravity), table)
        if floors:
            geometry = _geometry(given, found, clouds[0], table, mesh, config, floors)
    clock.note("track", 0.95)
    hands = followed_hands(
        views,
        given.hands,
        count=config.hand_points,
        track=config.track,
        lift=config.lift,
        tracker=tracker,
    )
    if not grippers and not hands:
        warn_undriven(tracked, name)
    clock.note("hands", 0.98)
    tracks, tracked_count, surface_count = assemble(
        tracked,
        geometry,
        time_s=time_s,
        name=name,
        gravity=config.gravity,
        spacing_m=config.spacing_m,
        most_points=config.most_points,
        whole=config.whole,
        source_sha256=source_sha256,
    )
    report = {
        "kind": geometry.kind,
        "cameras": len(views),
        "frames": len(time_s),
        "points": tracks.node_count,
        "tracked": tracked_count,
        "surface": surface_count,
        "survival": float(tracks.visible[-1, :tracked_count].mean()),
        "grippers": len(grippers),
        "hands": len(hands),
        "seconds": clock.seconds,
    }
    kept = _stacked(found) if config.masks else None
    clock.note("assemble", 1.0)
    return Perception(
        tracks=tracks,
        tracked_count=tracked_count,
        surface_count=surface_count,
        kind=geometry.kind,
        clouds=tuple(clouds) if config.clouds else (),
        grippers=tuple(grippers),
        hands=hands,
        table=table,
        cameras=tuple(view.camera for view in views),
        masks=kept,
        report=report,
    )


class _Clock:
    """Seconds per stage, and how far the work is."""

    def __init__(self, on_progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._last, self._tell = time.perf_counter(), on_progress

    def note(self, stage: str, share: float) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = round(now - self._last, 3), now
        if self._tell is not None:
            self._tell(stage, share)


def _with_depth(given: _Given, config: PerceiveConfig, name: str) -> _Given:
    """Without the cameras that measured nothing in the first frame."""
    share = [float(usable_depth(np.asarray(v.depth_m[0]), config.lift).mean()) for v in given.views]
    kept = [c for c, measured in enumerate(share) if measured >= _LEAST_DEPTH]
    lost = [given.views[c].camera.name for c in range(len(share)) if c not in kept]
    if not kept:
        raise DataError(
            f"no camera measured depth between {config.lift.near_m} and {config.lift.far_m} m",
            where=f"{name}: perceive, frame 0, cameras {', '.join(lost)}",
            expected="depth images, aligned to colour, from at least one camera",
            fix="record depth too (physgym check shows what a recording holds), start later, or "
            "use a method that fits images: --method spring-gaus or mosa",
        )
    if lost:
        warnings.warn(
            f"{name}: no depth in frame 0 of {', '.join(lost)}: left out",
            PhysGymWarning,
            stacklevel=3,
        )
    return given.of(kept) if lost else given


def _fine_enough(config: PerceiveConfig, cloud: np.ndarray) -> PerceiveConfig:
    """With a spacing that a small object is filled at, not outlined."""
    if len(cloud) < 2:
        return config
    size_m = max(float(np.ptp(np.percentile(cloud, [1, 99], axis=0), axis=0).max()), 1e-3)
    fuse = replace(config.fuse, voxel_m=min(config.fuse.voxel_m, size_m / _SEEN_ACROSS))
    return replace(config, spacing_m=min(config.spacing_m, size_m / _ACROSS), fuse=fuse)


def _cloud(views: Sequence[View], masks: Masks, frame: int, config: PerceiveConfig) -> np.ndarray:
    now = [mask[frame] for mask in masks]
    fused = fuse_frame(views, now, frame, config=config.fuse, lift=config.lift)
    return fused.points.astype(np.float32)


def _tracked(
    views: Sequence[View],
    masks: Masks,
    config: PerceiveConfig,
    tracker: PointTracker | None,
    name: str,
) -> PointTracks:
    """The points of the first frame, from all cameras."""
    parts = [
        track_view(
            view, mask, config=config.track, lift=config.lift, tracker=tracker, camera_index=index
        )
        for index, (view, mask) in enumerate(zip(views, masks, strict=True))
    ]
    tracked = fuse_tracks(parts, voxel_m=config.spacing_m)
    tracked = tracked.select(tracked.visible[0])
    count = tracked.visible.shape[1]
    if count < 10:
        raise DataError(
            f"{count} points were tracked",
            where=f"{name}: perceive",
            expected="at least ten",
            fix="check mask and depth of the first frame (physgym check); lower grid_px for a "
            "small object",
        )
    if tracked.survival < 0.2:
        warnings.warn(
            f"{name}: {tracked.survival:.0%} of the tracks last to the end; the object moves fast, "
            "has little texture, turns away from every camera, or leaves the view",
            PhysGymWarning,
            stacklevel=3,
        )
    return tracked


def _geometry(
    given: _Given,
    masks: Masks,
    cloud: np.ndarray,
    table: Plane | None,
    mesh: tuple[np.ndarray, np.ndarray] | None,
    config: PerceiveConfig,
    floors: Sequence[Plane] = (),
) -> Geometry:
    cloud = cloud.astype(np.float64)
    if mesh is not None:
        aligned = align_mesh(*mesh, cloud, table=table)
        return fill_mesh(aligned.vertices, aligned.faces, spacing_m=config.spacing_m)
    kind = config.kind
    if kind == "auto":
        kind = guess_kind(cloud, table=table)
        warnings.warn(f"the object looks like a {kind}; say so if it is not", PhysGymWarning, 3)
    silhouettes = [
        Silhouette(
            view.camera,
            np.asarray(view.depth_m[0]),
            masks[index][0],
            None if given.blocked is None else given.blocked[index][0],
        )
        for index, view in enumerate(given.views)
    ]
    return complete(
        kind,
        cloud,
        spacing_m=config.spacing_m,
        table=table,
        silhouettes=silhouettes,
        floors=floors,
    )


def _stacked(masks: Masks) -> np.ndarray | None:
    """All masks as one array (C, T, H, W); None with a warning where they would take too much."""
    size = sum(mask[0].size * len(mask) for mask in masks)
    if size > _MOST_MASK_BYTES or len({mask[0].shape for mask in masks}) > 1:
        warnings.warn(
            "masks are not kept: they are too many, or of cameras of different image sizes",
            PhysGymWarning,
            stacklevel=3,
        )
        return None
    return np.stack([np.stack([mask[frame] for frame in range(len(mask))]) for mask in masks])
