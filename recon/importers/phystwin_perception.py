"""A processed PhysTwin case -> Perception, so that it is reconstructed and scored like an episode.

Its points are kept one for one: tracked ones, then the shape prior's surface, then its interior.
A track counts as seen in a frame when it is visible there and its motion from the frame before is
valid, which is what the method's track loss counts; a frame's cloud is every visible point, which
is what its Chamfer loss counts (Jiang et al., "PhysTwin", arXiv 2503.17973, section 3.2). Control
points become hands, the plane z = 0 the table. Masks and annotated tracks beside the file are used
for scores. Shapes: T frames, N points, K control points, C cameras, H W image.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.importers.phystwin_case import case_cameras, case_masks, case_poses, read_metadata
from recon.importers.phystwin_final import PhysTwinData, data_file, read_case
from recon.importers.world_axis import WorldZ
from recon.npz import number_array
from recon.perception.assemble import away_from
from recon.perception.complete import Geometry, complete, guess_kind
from recon.perception.result import Kind, Perception
from recon.perception.table import Plane
from recon.pickles import read_pickle
from recon.tracks import PhysGymWarning, Tracks

__all__ = ["case_occluders", "case_perception", "case_truth"]

_GRID_M = 0.005  # the layout keeps one point per cube of this side
_FEWEST = 10
# The 30 control points of one or two hands are some 30 mm from the next of their hand.
_ONE_HAND_M = 0.06
_MOST_MASK_BYTES = 2**30


def case_perception(
    path: str | Path,
    *,
    kind: Kind | Literal["auto"] = "auto",
    world_z: WorldZ = "auto",
    fps: float | None = None,
) -> Perception:
    """Everything that a processed case says of its object.

    Where it has no shape prior, what no camera saw is completed from frame 0 as for an episode.

    Args:
        path: the case's folder, or ``final_data.pkl``.
        kind: what the object is; ``auto`` guesses from frame 0, and says so.
        world_z: as in `recon.importers.phystwin_final.read_case`.
        fps: likewise.

    Returns:
        The perception, in a world with z up.

    Raises:
        DataError: if an array is missing or of another shape, frames do not agree, or hardly any
            point was seen in frame 0.
    """
    data = read_case(path, world_z=world_z, fps=fps)
    points, seen = _object_of(data)
    table = Plane(np.array([0.0, 0.0, 1.0]), 0.0)
    start = points[0].astype(np.float64)
    shape = _geometry(data, start, kind, table)
    rest = np.concatenate([start, shape.surface, shape.interior])
    position = np.full((len(points), len(rest), 3), np.nan, np.float32)
    trusted = seen.copy()
    trusted[1:] &= data.motion_valid[:-1, data.started]
    position[:, : len(start)] = np.where(trusted[..., None], points, np.nan)
    tracks = Tracks(
        time_s=data.tracks.time_s,
        position=position,
        visible=np.asarray(np.isfinite(position).all(axis=2)),
        driven_index=np.zeros(0, np.int64),
        name=data.tracks.name,
        rest_position=rest,
        radius_m=shape.radius_m,
        source_sha256=data.tracks.source_sha256,
    )
    folder = data_file(Path(path)).parent
    cameras = _cameras(folder, data)
    hands = _hands(data.tracks.driven)
    object_points = data.tracks.position[:, data.tracks.free_index]
    object_seen = data.tracks.visible[:, data.tracks.free_index]
    return Perception(
        tracks=tracks,
        tracked_count=len(start),
        surface_count=len(start) + len(shape.surface),
        kind=shape.kind,
        clouds=tuple(now[there] for now, there in zip(object_points, object_seen)),
        hands=hands,
        table=table,
        cameras=cameras,
        masks=_masks(folder, cameras, len(points), "object"),
        report={
            "kind": shape.kind,
            "cameras": len(cameras),
            "frames": len(points),
            "points": len(rest),
            "tracked": len(start),
            "surface": len(start) + len(shape.surface),
            "survival": float(trusted[-1].mean()),
            "grippers": 0,
            "hands": len(hands),
        },
    )


def case_truth(
    path: str | Path, perception: Perception, *, world_z: WorldZ = "auto"
) -> Tracks | None:
    """The tracks that people annotated (``gt_track_3d.pkl``), which the method is scored on.

    Args:
        path: the case's folder, or ``final_data.pkl``.
        perception: of it.
        world_z: as in `case_perception`.

    Returns:
        Tracks of T frames; None where the case has no such file.

    Raises:
        DataError: if the file is of another shape or number of frames.
    """
    file = data_file(Path(path)).parent / "gt_track_3d.pkl"
    if not file.is_file():
        return None
    frames = perception.tracks.frame_count
    points = number_array(read_pickle(file), np.float64, (frames, "N", 3), str(file))
    turn = read_case(path, world_z=world_z).T_up_world[:3, :3]
    return Tracks(
        time_s=perception.time_s,
        position=points @ turn.T,
        visible=np.isfinite(points).all(axis=2),
        driven_index=np.zeros(0, np.int64),
        name=perception.name,
    )


def case_occluders(path: str | Path, perception: Perception) -> np.ndarray | None:
    """Pixels of hands, in which no mask can show the object.

    Args:
        path: the case's folder, or ``final_data.pkl``.
        perception: of it.

    Returns:
        Shape (C, T, H, W), bool; None without masks of the object or of a hand.
    """
    if perception.masks is None:
        return None
    folder = data_file(Path(path)).parent
    hands = _masks(folder, perception.cameras, perception.tracks.frame_count, "hand")
    return None if hands is None else hands & ~perception.masks


def _object_of(data: PhysTwinData) -> tuple[np.ndarray, np.ndarray]:
    """Object points that were seen in frame 0, (T, N, 3), and when they were seen, (T, N)."""
    tracks, where = data.tracks, f"{data.tracks.name}: object_visibilities, frame 0"
    kept, count = int(data.started.sum()), len(data.started)
    if kept < _FEWEST:
        raise DataError(
            f"{kept} of {count} points seen", where=where, expected=f"{_FEWEST} or more"
        )
    if kept < count:
        text = f"{where}: {count - kept} of {count} points not seen: they count in clouds alone"
        warnings.warn(text, PhysGymWarning, stacklevel=3)
    index = tracks.free_index[data.started]
    return tracks.position[:, index], tracks.visible[:, index]


def _geometry(
    data: PhysTwinData, start: np.ndarray, asked: Kind | Literal["auto"], table: Plane
) -> Geometry:
    """The object at frame 0 beyond its tracked points: the shape prior, or what completes it."""
    known = np.concatenate([start, data.surface_points])
    if asked == "auto":
        kind = guess_kind(known, table=table)
        warnings.warn(f"the object looks like a {kind}; say so if it is not", PhysGymWarning, 4)
    else:
        kind = asked
    if kind == "rope":
        radius_m = complete(kind, known, spacing_m=_GRID_M, table=table).radius_m
        return Geometry(kind, data.surface_points, data.interior_points, radius_m)
    if len(data.surface_points) + len(data.interior_points) > 0:
        return Geometry(kind, data.surface_points, data.interior_points)
    whole = complete(kind, start, spacing_m=_GRID_M, table=table)
    surface = away_from(whole.surface, start, _GRID_M)
    inside = away_from(whole.interior, np.concatenate([start, surface]), _GRID_M)
    return Geometry(kind, surface, inside)


def _hands(driven: np.ndarray) -> tuple[np.ndarray, ...]:
    """Control points (T, K, 3), those of each hand apart."""
    start = driven[0]
    if not len(start):
        return ()
    pair = cKDTree(start).query_pairs(_ONE_HAND_M, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pair)), pair.T), shape=(len(start),) * 2)
    count, label = connected_components(graph, directed=False)
    return tuple(driven[:, label == k].astype(np.float64) for k in range(count))


def _cameras(folder: Path, data: PhysTwinData) -> tuple[PinholeCamera, ...]:
    """The cameras, where the case still has what says where and how they were."""
    if not all((folder / name).is_file() for name in ("calibrate.pkl", "metadata.json")):
        return ()
    metadata = read_metadata(folder)
    if not {"intrinsics", "WH"} <= metadata.keys():
        return ()
    return tuple(case_cameras(folder, metadata, data.T_up_world @ case_poses(folder)))


def _masks(
    folder: Path, cameras: tuple[PinholeCamera, ...], frames: int, label: str
) -> np.ndarray | None:
    """Masks (C, T, H, W) of ``object`` or ``hand``; None without any in frame 0."""
    sizes = {(camera.height, camera.width) for camera in cameras}
    if len(sizes) != 1 or not (folder / "mask").is_dir():
        return None
    shape = (len(cameras), frames, *sizes.pop())
    if np.prod(shape) > _MOST_MASK_BYTES:
        text = f"{folder.name}: masks are left out: they are too many"
        warnings.warn(text, PhysGymWarning, stacklevel=3)
        return None
    found = np.zeros(shape, bool)
    for number, camera in enumerate(cameras):
        for file in {path.name for path in (folder / "mask" / str(number)).glob("*/*.png")}:
            frame = int(Path(file).stem) if Path(file).stem.isdecimal() else frames
            if frame < frames:
                masks = case_masks(folder, number, file, camera)
                found[number, frame] = masks.get(label, False)
    return found if found[:, 0].any() else None
