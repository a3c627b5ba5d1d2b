"""Dense 3D point tracks: optical flow from frame to frame, checked, lifted by depth, filtered.

Points are seeded on a grid inside the object's mask and carried by DIS optical flow (Kroeger et
al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016). A track ends where the flow back
does not return to where it came from, or where it leaves the mask; it does not come back. The 3D
filter is PhysTwin's (a point must move as its neighbours do), taken for all points at once, so
that its result does not depend on their order.
Shapes: T frames, N points, C cameras, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError
from recon.perception.flow import FlowTracker, TrackConfig, grid_seeds
from recon.perception.lift import LiftConfig, View, depth_edges, lift_pixels
from recon.perception.plugins import PixelTracks, PointTracker

__all__ = [
    "PointTracks",
    "consistent_motion",
    "fuse_tracks",
    "track_view",
]

# Up to here motions agree to TrackConfig.agree_m: PhysTwin's cameras stand so far away. Noise of a
# D435's depth there is some 3 mm.
_NEAR_M = 1.0


@dataclass(frozen=True, eq=False)
class PointTracks:
    """3D tracks of points.

    Attributes:
        position: world [m], shape (T, N, 3), float64; NaN where not seen.
        visible: shape (T, N), bool.
        camera_index: which camera tracked each, shape (N,), int64.
        rgb: colour where it was seeded, shape (N, 3), uint8.
    """

    position: np.ndarray
    visible: np.ndarray
    camera_index: np.ndarray
    rgb: np.ndarray

    def select(self, keep: np.ndarray) -> PointTracks:
        """Some of the points.

        Args:
            keep: indices, or bool of shape (N,).

        Returns:
            The fewer tracks.
        """
        return PointTracks(
            self.position[:, keep], self.visible[:, keep], self.camera_index[keep], self.rgb[keep]
        )

    @property
    def survival(self) -> float:
        """Share of the points seen in the first frame that are seen in the last."""
        first = self.visible[0]
        return float(self.visible[-1][first].mean()) if first.any() else float("nan")


def track_view(
    view: View,
    masks: Sequence[np.ndarray],
    *,
    config: TrackConfig | None = None,
    lift: LiftConfig | None = None,
    tracker: PointTracker | None = None,
    camera_index: int = 0,
) -> PointTracks:
    """3D tracks of an object from one camera.

    Args:
        view: its images.
        masks: where the object is in each frame, T of shape (H, W), bool.
        config: grid, checks and filter.
        lift: how depth is read.
        tracker: follows pixels; `FlowTracker` when None.
        camera_index: what to note as the points' camera.

    Returns:
        Filtered tracks; those seen in no frame are left out.
    """
    config, lift = config or TrackConfig(), lift or LiftConfig()
    tracker = tracker or FlowTracker(config)
    frames = len(view)
    starts = range(0, max(frames - 1, 1), config.reseed_frames) if config.reseed_frames else (0,)
    taken = PixelTracks(np.zeros((frames, 0, 2), np.float32), np.zeros((frames, 0), bool))
    colours = np.zeros((0, 3), np.uint8)
    for start in starts:
        free = masks[start] & ~depth_edges(view.depth_m[start], lift)
        for u, v in taken.pixel[start, taken.visible[start]]:
            reach = config.grid_px
            top, left = max(0, round(v) - reach), max(0, round(u) - reach)
            free[top : round(v) + reach + 1, left : round(u) + reach + 1] = False
        seeds = grid_seeds(free, grid_px=config.grid_px, border_px=config.border_px)
        rgb = [view.rgb[t] for t in range(start, frames)] if start else view.rgb
        found = tracker.track(rgb, masks[start:], seeds)
        taken = PixelTracks(
            np.concatenate([taken.pixel, _late(found.pixel, start, np.nan)], axis=1),
            np.concatenate([taken.visible, _late(found.visible, start, False)], axis=1),
        )
        column, row = seeds.astype(int).T
        colours = np.concatenate([colours, np.asarray(view.rgb[start])[row, column]])
    tracks = _lifted(view, masks, taken, colours, (config, lift), camera_index)
    return _filtered(tracks, replace(config, agree_m=_agree_m(tracks, view, config)))


def _agree_m(tracks: PointTracks, view: View, config: TrackConfig) -> float:
    """How far motions may differ: noise of stereo depth grows with the square of the distance."""
    seen = tracks.position[tracks.visible]
    if len(seen) == 0:
        return config.agree_m
    away_m = float(np.median(np.linalg.norm(seen - view.camera.position, axis=1)))
    return config.agree_m * max(1.0, away_m / _NEAR_M) ** 2


def consistent_motion(
    position: np.ndarray, visible: np.ndarray, config: TrackConfig | None = None
) -> np.ndarray:
    """Which motions t -> t+1 agree with those of at least half of the neighbours at t.

    PhysTwin's filter (its `data_process_track.py`: 10 mm, 5 mm, 5 neighbours, half), but judged
    for all points from the same data instead of one after the other in place.

    Args:
        position: [m], shape (T, N, 3).
        visible: shape (T, N), bool.
        config: reach and agreement.

    Returns:
        Shape (T - 1, N), bool; False where a point is unseen at either end.
    """
    config = config or TrackConfig()
    frames, count = visible.shape
    good = np.zeros((max(frames - 1, 0), count), bool)
    for frame in range(frames - 1):
        both = np.flatnonzero(visible[frame] & visible[frame + 1])
        if len(both) < config.neighbours:
            continue
        here = position[frame, both]
        motion = position[frame + 1, both] - here
        tree = cKDTree(here)
        # On a thin rope few points are near; the reach grows until the test has its neighbours.
        wanted = min(2 * config.neighbours, len(both))
        reach = max(config.neighbour_m, float(np.median(tree.query(here, k=wanted)[0][:, -1])))
        pair = tree.query_pairs(reach, output_type="ndarray")
        typical = float(np.median(np.linalg.norm(motion, axis=1)))
        limit = max(config.agree_m, config.agree_share * typical)
        agree = np.linalg.norm(motion[pair[:, 0]] - motion[pair[:, 1]], axis=1) < limit
        near = 1 + np.bincount(pair.ravel(), minlength=len(both))  # itself included
        same = 1 + np.bincount(pair[agree].ravel(), minlength=len(both))
        good[frame, both] = (near >= config.neighbours) & (2 * same >= near)
    return good


def fuse_tracks(parts: Sequence[PointTracks], *, voxel_m: float) -> PointTracks:
    """Tracks of all cameras, one per voxel of the first frame; the longest seen wins.

    Args:
        parts: one per camera.
        voxel_m: side of a voxel [m]; points that were not seen in the first frame are all kept.

    Returns:
        The fused tracks.

    Raises:
        DataError: if there is no camera.
    """
    if not parts:
        raise DataError("no tracks", where="fuse_tracks", expected="one per camera")
    merged = PointTracks(
        np.concatenate([p.position for p in parts], axis=1),
        np.concatenate([p.visible for p in parts], axis=1),
        np.concatenate([p.camera_index for p in parts]),
        np.concatenate([p.rgb for p in parts]),
    )
    order = np.argsort(-merged.visible.sum(axis=0), kind="stable")
    merged = merged.select(order)
    first = np.flatnonzero(merged.visible[0])
    cell = np.floor(merged.position[0, first] / voxel_m).astype(np.int64)
    _, kept = np.unique(cell, axis=0, return_index=True)
    late = np.flatnonzero(~merged.visible[0])
    return merged.select(np.concatenate([np.sort(first[kept]), late]))


def _lifted(
    view: View,
    masks: Sequence[np.ndarray],
    pixels: PixelTracks,
    colours: np.ndarray,
    configs: tuple[TrackConfig, LiftConfig],
    camera_index: int,
) -> PointTracks:
    config, lift = configs
    frames, count = pixels.visible.shape
    ended = np.zeros(count, bool)
    position = np.full((frames, count, 3), np.nan)
    for frame in range(frames):
        seen = np.flatnonzero(pixels.visible[frame] & ~ended)
        depth = np.asarray(view.depth_m[frame])
        points, cosine = lift_pixels(
            view.camera, depth, pixels.pixel[frame, seen], mask=masks[frame], config=lift
        )
        turned_away = cosine < config.least_cosine  # NaN, a hole in the depth, ends no track
        position[frame, seen[~turned_away]] = points[~turned_away]
        ended[seen[turned_away]] = True
    visible = np.isfinite(position).all(axis=2)
    return PointTracks(position, visible, np.full(count, camera_index), colours)


def _filtered(tracks: PointTracks, config: TrackConfig) -> PointTracks:
    """End tracks at their first motion that their neighbours contradict; drop the unseen."""
    frames = len(tracks.visible)
    both = tracks.visible[:-1] & tracks.visible[1:]
    bad = both & ~consistent_motion(tracks.position, tracks.visible, config)
    ended = np.zeros_like(tracks.visible)
    if frames > 1:
        ended[1:] = np.cumsum(bad, axis=0) > 0
    visible = tracks.visible & ~ended
    position = np.where(visible[..., None], tracks.position, np.nan)
    kept = PointTracks(position, visible, tracks.camera_index, tracks.rgb)
    return kept.select(visible.any(axis=0))


def _late(values: np.ndarray, start: int, fill: float) -> np.ndarray:
    head = np.full((start, *values.shape[1:]), fill, values.dtype)
    return np.concatenate([head, values])
