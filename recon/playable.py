"""Recordings and predictions as the viewer takes them: plain arrays, read when they are shown.

Shapes: T frames, N points, C cameras, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.twin import Twin
from physgym.viewer.recording import CameraView, Recording, Shot
from recon.episode import Episode, Frame
from recon.perception.result import Perception
from recon.tracks import Tracks

__all__ = ["of_episode", "of_perception", "of_tracks"]

_IMAGE_WIDTH = 240
# Of each camera's depth image, when no perception says what the object is: every so many pixels.
_STRIDE = 5
_FARTHEST_M = 3.0
# A point belongs to the pixel it projects to when that pixel is no nearer to the camera by more.
_SAME_SURFACE_M = 0.015
_SEEN, _UNSEEN = (66, 110, 180), (150, 156, 166)
_POINTS_AT_MOST = 20000


def of_episode(
    episode: Episode,
    perception: Perception | None = None,
    prediction: np.ndarray | None = None,
) -> Recording:
    """An episode: the fused cloud of every frame, or without a perception what the depth shows.

    Args:
        episode: opened; it must stay open for as long as the recording is shown.
        perception: of it.
        prediction: of a twin, at the perception's stamps [m], shape (T, N, 3).

    Returns:
        The recording.

    Raises:
        DataError: if the episode has no camera.
    """
    if not episode.cameras:
        raise DataError("no camera", where=episode.name, expected="an episode with images")
    names = tuple(episode.cameras)
    stamps = {name: episode.stamps_s(name) for name in names}
    fewest = min(names, key=lambda name: len(stamps[name]))
    time_s = stamps[fewest] if perception is None else perception.time_s

    def shot(number: int) -> Shot:
        nearest = {n: int(np.abs(stamps[n] - time_s[number]).argmin()) for n in names}
        frames = [episode.frame(name, nearest[name]) for name in names]
        cameras = [episode.cameras[name] for name in names]
        if perception is not None and len(perception.clouds):
            points = np.asarray(perception.clouds[number], np.float64)
            colours = _colours_of(points, cameras, frames)
        else:
            points, colours = _from_depth(cameras, frames)
        return Shot(points, colours, tuple(_small(frame.rgb) for frame in frames))

    return Recording(
        episode.name,
        np.asarray(time_s, np.float64),
        shot,
        cameras=tuple(_view(episode.cameras[name]) for name in names),
        prediction=prediction,
        ground_m=_ground_m(perception),
    )


def of_perception(perception: Perception, prediction: np.ndarray | None = None) -> Recording:
    """A perception whose images are not at hand.

    Args:
        perception: of an episode.
        prediction: of a twin [m], shape (T, N, 3).

    Returns:
        The recording, without images.
    """

    def shot(number: int) -> Shot:
        if len(perception.clouds):
            points = np.asarray(perception.clouds[number], np.float64)
        else:
            points = perception.tracks.position[number]
            points = points[np.isfinite(points).all(axis=1)]
        return Shot(points, np.tile(np.array(_SEEN, np.uint8), (len(points), 1)))

    return Recording(
        perception.name,
        np.asarray(perception.time_s, np.float64),
        shot,
        cameras=tuple(_view(camera) for camera in perception.cameras),
        prediction=prediction,
        ground_m=_ground_m(perception),
    )


def of_tracks(
    recordings: Sequence[Tracks], twin: Twin | None = None, goal: np.ndarray | None = None
) -> list[Recording]:
    """Tracks, with what a twin predicts of those that it fits.

    Args:
        recordings: of one object.
        twin: of that object.
        goal: where the object was to be [m], shape (P, 3).

    Returns:
        As many recordings.
    """
    from recon.predict import predict

    made = []
    for tracks in recordings:
        prediction = None
        if twin is not None:
            try:
                prediction = predict(twin, [tracks])[0]
            except DataError:  # of another object or too short: shown without
                prediction = None
        made.append(_of_tracks(tracks, prediction, goal))
    return made


def _of_tracks(tracks: Tracks, prediction: np.ndarray | None, goal: np.ndarray | None) -> Recording:
    driven = np.zeros(tracks.node_count, bool)
    driven[tracks.driven_index] = True

    def shot(number: int) -> Shot:
        points = np.asarray(tracks.position[number], np.float64)
        known = np.isfinite(points).all(axis=1)
        colours = np.where(driven[:, None], np.array(_UNSEEN), np.array(_SEEN)).astype(np.uint8)
        return Shot(points[known], colours[known])

    first = tracks.position[0][np.isfinite(tracks.position[0]).all(axis=1)]
    size_m = float(np.linalg.norm(np.ptp(first, axis=0))) if len(first) else 1.0
    return Recording(
        tracks.name,
        np.asarray(tracks.time_s, np.float64),
        shot,
        prediction=prediction,
        goal=goal,
        point_radius_m=0.12 * size_m / max(len(first), 2) ** 0.75,
    )


def _ground_m(perception: Perception | None) -> float | None:
    """Height of the table, when it is level."""
    table = None if perception is None else perception.table
    level = table is not None and table.normal[2] > 0.99
    return float(table.offset_m) if table is not None and level else None


def _view(camera: PinholeCamera) -> CameraView:
    vertical = 2.0 * float(np.arctan(0.5 * camera.height / camera.K[1, 1]))
    return CameraView(camera.name, camera.T_world_cam, vertical, camera.width / camera.height)


def _small(rgb: np.ndarray) -> np.ndarray:
    factor = _IMAGE_WIDTH / rgb.shape[1]
    if factor >= 1:
        return rgb
    size = (_IMAGE_WIDTH, max(1, round(factor * rgb.shape[0])))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def _colours_of(
    points: np.ndarray, cameras: Sequence[PinholeCamera], frames: Sequence[Frame]
) -> np.ndarray:
    """Colours of points from the cameras that see them; grey where none does."""
    colours = np.tile(np.array(_UNSEEN, np.uint8), (len(points), 1))
    open_ = np.ones(len(points), bool)
    for camera, frame in zip(cameras, frames):
        pixels, depth = camera.project(points)
        inside = camera.visible(pixels) & (depth > 0) & open_
        column, row = np.round(pixels[inside]).astype(int).T
        seen = np.ones(len(row), bool)
        if frame.depth_m is not None:
            measured = frame.depth_m[row, column]
            seen = (measured > 0) & (np.abs(measured - depth[inside]) < _SAME_SURFACE_M)
        index = np.flatnonzero(inside)[seen]
        colours[index] = frame.rgb[row[seen], column[seen]]
        open_[index] = False
    return colours


def _from_depth(
    cameras: Sequence[PinholeCamera], frames: Sequence[Frame]
) -> tuple[np.ndarray, np.ndarray]:
    """What all cameras measure, thinned out."""
    points, colours = [np.zeros((0, 3))], [np.zeros((0, 3), np.uint8)]
    for camera, frame in zip(cameras, frames):
        if frame.depth_m is None:
            continue
        depth = np.where(frame.depth_m < _FARTHEST_M, frame.depth_m, 0.0)
        world = camera.unproject(depth)[::_STRIDE, ::_STRIDE]
        known = np.isfinite(world).all(axis=-1)
        points.append(world[known])
        colours.append(frame.rgb[::_STRIDE, ::_STRIDE][known])
    every = np.concatenate(points)
    step = max(1, len(every) // _POINTS_AT_MOST)
    return every[::step], np.concatenate(colours)[::step]
