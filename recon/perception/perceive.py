"""The pipeline: synchronized RGB-D views of an object in, Tracks out.

Table -> masks -> 3D tracks and clouds of every camera -> fused -> driven points -> whole geometry.
The Tracks hold, in this order: points that were tracked; points of the whole geometry that no track
stands for (never seen, known at rest); driven points.
Shapes: T frames, N points, K driven points, C cameras, H W image.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError
from recon.perception.complete import Geometry, Silhouette, complete, guess_kind
from recon.perception.driven import (
    DrivenPoints,
    GripperTrack,
    driven_from_gripper,
    driven_from_tracks,
    join_driven,
)
from recon.perception.flow import TrackConfig
from recon.perception.fuse import Cloud, FuseConfig, fuse_frame, voxel_downsample
from recon.perception.lift import LiftConfig, View
from recon.perception.mesh import align_mesh, fill_mesh
from recon.perception.plugins import PointTracker, Segmenter
from recon.perception.prompt import Prompt
from recon.perception.scene import find_table, object_masks
from recon.perception.table import Plane
from recon.perception.track import PointTracks, fuse_tracks, track_view
from recon.tracks import PhysGymWarning, Tracks

__all__ = ["PerceiveConfig", "Perception", "perceive"]

Masks = Sequence[Sequence[np.ndarray]]


@dataclass(frozen=True)
class PerceiveConfig:
    """How a recording is perceived.

    Attributes:
        kind: what the object is; ``auto`` guesses from the first frame, and says so.
        spacing_m: one point is kept per cube of this side [m]; PhysTwin uses 5 mm.
        most_points: the spacing grows until no more points than this are left.
        driven_count: driven points K of each gripper; PhysTwin has 30 in all.
        whole: append the points that no camera saw.
        clouds: keep the fused cloud of every frame (for Chamfer distances).
        gravity: [m/s^2]; also tells which way is up.
        track: of points.
        lift: of depth.
        fuse: of clouds.
    """

    kind: Literal["auto", "volume", "sheet", "rope"] = "auto"
    spacing_m: float = 0.008
    most_points: int = 3000
    driven_count: int = 30
    whole: bool = True
    clouds: bool = True
    gravity: tuple[float, float, float] = (0.0, 0.0, -9.81)
    track: TrackConfig = field(default_factory=TrackConfig)
    lift: LiftConfig = field(default_factory=LiftConfig)
    fuse: FuseConfig = field(default_factory=FuseConfig)

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            DataError: naming the values.
        """
        if self.spacing_m <= 0 or self.most_points < 10 or self.driven_count < 1:
            raise DataError(
                f"spacing {self.spacing_m}, {self.most_points} points, {self.driven_count} driven",
                where="PerceiveConfig",
                expected="positive values",
            )
        if self.kind not in ("auto", "volume", "sheet", "rope") or not any(self.gravity):
            raise DataError(
                f"kind {self.kind!r}, gravity {self.gravity}",
                where="PerceiveConfig",
                expected="auto, volume, sheet or rope; and a gravity that points down",
            )


@dataclass(frozen=True, eq=False)
class Perception:
    """What was perceived.

    Attributes:
        tracks: tracked points, then points never seen, then driven points.
        tracked_count: how many of the points were tracked.
        surface_count: how many of the points are surface: the tracked ones and those after them up
            to this number. What follows is inside, or driven.
        geometry: the whole object in the first frame.
        clouds: the fused cloud of each frame, T; empty where not asked for.
        masks: the object in each camera and frame, C of T of shape (H, W), bool.
        table: the plane that it lies on; None where there is none in view.
        driven: the driven points with the frames in which they hold; None without an owner.
        report: figures for people: counts, survival, seconds per stage.
    """

    tracks: Tracks
    tracked_count: int
    surface_count: int
    geometry: Geometry
    clouds: tuple[Cloud, ...]
    masks: Masks
    table: Plane | None
    driven: DrivenPoints | None
    report: Mapping[str, float | str]


def perceive(
    views: Sequence[View],
    time_s: np.ndarray,
    *,
    name: str,
    prompts: Mapping[str, Prompt] | None = None,
    masks: Masks | None = None,
    blocked: Masks | None = None,
    grippers: Sequence[GripperTrack] = (),
    hand_masks: Masks | None = None,
    mesh: tuple[np.ndarray, np.ndarray] | None = None,
    config: PerceiveConfig | None = None,
    segmenter: Segmenter | None = None,
    tracker: PointTracker | None = None,
    source_sha256: str = "",
) -> Perception:
    """Turn synchronized views of one object into Tracks.

    Args:
        views: C views of T frames each, frame t of all at one time.
        time_s: stamps [s], shape (T,).
        name: of the recording.
        prompts: by camera name; cameras without one get theirs from those with one, through depth.
            Without any, the largest thing above the table is the object.
        masks: known masks of the object, C of T; no prompt is needed then.
        blocked: masks of what may hide it (gripper, hand), C of T.
        grippers: recorded grippers and tools, best source of driven points.
        hand_masks: masks of a hand that moves it, C of T, where no gripper was recorded.
        mesh: the object's own vertices and faces, in metres; takes the place of completion.
        config: everything else.
        segmenter: carries masks through time in place of flow and colour.
        tracker: follows pixels in place of flow.
        source_sha256: of the file that it came from.

    Returns:
        Tracks and what else was found.

    Raises:
        DataError: if the streams do not fit each other, or no object or no track is found.
    """
    config = config or PerceiveConfig()
    _check(views, time_s, masks, name)
    clock = _Clock()
    up = -np.array(config.gravity) / np.linalg.norm(config.gravity)
    table = find_table(views, up)
    if masks is None:
        masks = object_masks(
            views, prompts or {}, table=table, blocked=blocked, segmenter=segmenter
        )
    clock.note("segment_s")
    tracked = _tracked(views, masks, config, tracker, name)
    clock.note("track_s")
    frames = range(len(time_s)) if config.clouds else range(1)
    clouds = tuple(_cloud(views, masks, frame, config) for frame in frames)
    clock.note("fuse_s")
    driven = _driven(views, masks, clouds, grippers, hand_masks, config, tracker)
    clock.note("driven_s")
    geometry = _geometry(views, masks, blocked, clouds[0].points, table, mesh, config)
    clock.note("complete_s")
    tracks, counts = _assembled(tracked, geometry, driven, config, time_s, name, source_sha256)
    report = {**clock.seconds, **_figures(tracks, tracked, geometry, driven, counts[0], len(views))}
    return Perception(
        tracks, *counts, geometry, clouds if config.clouds else (), masks, table, driven, report
    )


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now


def _check(views: Sequence[View], time_s: np.ndarray, masks: Masks | None, name: str) -> None:
    lengths = [len(view) for view in views]
    if not views or set(lengths) != {len(time_s)}:
        raise DataError(
            f"views of {lengths} frames and {len(time_s)} stamps",
            where=f"{name}: perceive",
            expected="at least one view, all as long as the stamps",
            fix="synchronize the cameras first",
        )
    names = [view.camera.name for view in views]
    if len(set(names)) != len(names):
        raise DataError(f"cameras {names}", where=f"{name}: perceive", expected="different names")
    if masks is not None and [len(mask) for mask in masks] != lengths:
        raise DataError(
            f"masks of {[len(mask) for mask in masks]} frames",
            where=f"{name}: perceive",
            expected=f"{lengths}",
        )


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
    _check_tracked(tracked, name)
    return tracked


def _figures(
    tracks: Tracks,
    tracked: PointTracks,
    geometry: Geometry,
    driven: DrivenPoints | None,
    count: int,
    cameras: int,
) -> dict[str, float | str]:
    return {
        "kind": geometry.kind,
        "cameras": cameras,
        "frames": tracks.frame_count,
        "tracked": count,
        "survival": tracked.survival,
        "points": tracks.node_count,
        "driven": len(tracks.driven_index),
        "driven_source": driven.source if driven else "none",
        "held_from_frame": driven.start if driven else 0,
        "held_until_frame": driven.stop if driven else tracks.frame_count,
    }


def _check_tracked(tracked: PointTracks, name: str) -> None:
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
            "has little texture, or turns away from every camera",
            PhysGymWarning,
            stacklevel=3,
        )


def _cloud(views: Sequence[View], masks: Masks, frame: int, config: PerceiveConfig) -> Cloud:
    return fuse_frame(
        views, [mask[frame] for mask in masks], frame, config=config.fuse, lift=config.lift
    )


def _driven(
    views: Sequence[View],
    masks: Masks,
    clouds: Sequence[Cloud],
    grippers: Sequence[GripperTrack],
    hand_masks: Masks | None,
    config: PerceiveConfig,
    tracker: PointTracker | None,
) -> DrivenPoints | None:
    def seen(frame: int) -> np.ndarray:
        known = clouds[frame] if frame < len(clouds) else _cloud(views, masks, frame, config)
        return known.points

    found = [driven_from_gripper(g, seen, count=config.driven_count) for g in grippers]
    parts = [part for part in found if part is not None]
    if not parts and hand_masks is not None:
        hands = [
            track_view(view, mask, config=config.track, lift=config.lift, tracker=tracker)
            for view, mask in zip(views, hand_masks, strict=True)
        ]
        merged = fuse_tracks(hands, voxel_m=0.003)
        parts = [driven_from_tracks(merged, count=config.driven_count)]
    if not parts:
        warnings.warn(
            "nothing drives the object: no gripper was closed on it, and there is no hand mask",
            PhysGymWarning,
            stacklevel=3,
        )
        return None
    return join_driven(parts)


def _geometry(
    views: Sequence[View],
    masks: Masks,
    blocked: Masks | None,
    cloud: np.ndarray,
    table: Plane | None,
    mesh: tuple[np.ndarray, np.ndarray] | None,
    config: PerceiveConfig,
) -> Geometry:
    if mesh is not None:
        aligned = align_mesh(*mesh, cloud, table=table)
        return fill_mesh(aligned.vertices, aligned.faces, spacing_m=config.spacing_m)
    kind = config.kind
    if kind == "auto":
        kind = guess_kind(cloud)
        warnings.warn(f"the object looks like a {kind}; say so if it is not", PhysGymWarning, 3)
    silhouettes = [
        Silhouette(
            view.camera,
            np.asarray(view.depth_m[0]),
            masks[index][0],
            None if blocked is None else blocked[index][0],
        )
        for index, view in enumerate(views)
    ]
    return complete(kind, cloud, spacing_m=config.spacing_m, table=table, silhouettes=silhouettes)


def _assembled(
    tracked: PointTracks,
    geometry: Geometry,
    driven: DrivenPoints | None,
    config: PerceiveConfig,
    time_s: np.ndarray,
    name: str,
    source_sha256: str,
) -> tuple[Tracks, tuple[int, int]]:
    start = tracked.position[0]
    # The nodes of a rope lie inside it, where they would only double the points of its surface.
    surface = geometry.surface if config.whole and geometry.kind != "rope" else start[:0]
    interior = geometry.interior if config.whole else start[:0]
    surface = _away_from(surface, start, config.spacing_m)
    interior = _away_from(interior, np.concatenate([start, surface]), 0.8 * config.spacing_m)
    every = np.concatenate([start, surface, interior])
    kind = np.repeat([0, 1, 2], [len(start), len(surface), len(interior)])
    spacing = config.spacing_m
    keep = voxel_downsample(every, spacing)
    while len(keep) > config.most_points:
        spacing *= 1.1
        keep = voxel_downsample(every, spacing)
    count = [int((kind[keep] == k).sum()) for k in range(3)]
    hold = driven.position if driven is not None else np.zeros((len(time_s), 0, 3))
    total = len(keep) + hold.shape[1]
    position = np.full((len(time_s), total, 3), np.nan)
    position[:, : count[0]] = tracked.position[:, keep[: count[0]]]
    position[:, len(keep) :] = hold
    visible = np.asarray(np.isfinite(position).all(axis=2))
    rest = np.concatenate([every[keep], hold[0]])
    tracks = Tracks(
        time_s=time_s,
        position=position,
        visible=visible,
        driven_index=np.arange(len(keep), total),
        name=name,
        gravity=np.array(config.gravity),
        rest_position=rest,
        radius_m=geometry.radius_m,
        source_sha256=source_sha256,
    )
    return tracks, (count[0], count[0] + count[1])


def _away_from(points: np.ndarray, others: np.ndarray, reach_m: float) -> np.ndarray:
    if len(points) == 0 or len(others) == 0:
        return points
    return points[cKDTree(others).query(points, workers=-1)[0] > 0.75 * reach_m]
