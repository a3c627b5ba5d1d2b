"""How well a prediction of an episode fits what was recorded, beside objects without physics.

Measures are PhysTwin's (Jiang et al. 2025; notes on its evaluation in ``docs/benchmarks.md``), with
every departure from its code named in `DEFINITIONS`. Frame 0 is given and never counts.
Shapes: T frames, N points, C cameras, M tracked points, H W image.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError
from recon.baselines_episode import predict_carried, predict_frozen
from recon.falling import FALLING_DEFINITION, Fall, HullFall
from recon.metrics import chamfer_frames, follower_error_frames
from recon.perceive_video import is_video
from recon.perception.result import Perception
from recon.silhouettes import Drawing, fitted_drawing, silhouette_iou
from recon.tracks import PhysGymWarning, Tracks
from recon.true_tracks import true_surface
from recon.video_truth import outer_truth

__all__ = [
    "DEFINITIONS",
    "MEASURES",
    "PHYSTWIN_PAPER",
    "ROWS",
    "baselines_of",
    "parts_of",
    "rows_of",
    "score_prediction",
    "train_stop_of",
]

_SAME_POINT_M = 0.001

ROWS = ("twin", "frozen", "rigid", "falling")
"""What is scored: the prediction, and what it must beat; the last one where it flies alone."""

MEASURES = (
    "chamfer_m",
    "chamfer_l1_m",
    "track_m",
    "iou",
    "true_chamfer_m",
    "true_chamfer_l1_m",
    "true_track_m",
)
"""Names of the measures; those of the truth exist where the recording came with it."""

DEFINITIONS = {
    "chamfer_m": "mean distance from each point of the observed cloud to the nearest predicted "
    "surface point [m]; frames with an empty cloud are left out",
    "chamfer_l1_m": "the same with Manhattan distance, as PhysTwin's evaluation has it [m]",
    "track_m": "tracks seen in frame 0 are followed by the predicted point nearest to them there; "
    "mean Euclidean distance over those that are seen [m]; frames without any are left out "
    "(PhysTwin's code counts them as 0)",
    "iou": "intersection over union of the observed mask and the predicted surface drawn as discs; "
    "their size is fitted in frame 0; mean over the cameras; empty masks are left out",
    "true_*": "the same against true points of a simulated cell's body: those that are less than a "
    "point spacing, or a rope's radius, off the perceived surface in frame 0; without depth those "
    "that are nearest to a point of the visual hull",
    "frozen": "the object as it was perceived in frame 0, its cloud included, stays there",
    "rigid": "the same moves rigidly with what holds or pushes it",
    "falling": FALLING_DEFINITION,
    "frame0": "the same in frame 0. Chamfer distance of the twin there is mostly the spacing of "
    "its points, IoU of 'frozen' how well drawn points can fill the masks at all, track error "
    "the distance to the followers",
    "means": "over the frames of a part in which the measure exists; frame 0 never counts",
}
"""What each figure is, for reports and files."""

PHYSTWIN_PAPER = {
    "train": {"chamfer_l1_m": 0.005, "track_m": 0.009, "iou": 0.844},
    "future": {"chamfer_l1_m": 0.012, "track_m": 0.022, "iou": 0.725},
    "unseen": {"chamfer_l1_m": 0.013, "track_m": 0.018, "iou": 0.7218},
}
"""Jiang et al. 2025, table 1 and the generalisation table: means of 22 scenes of three D455 each.

Other objects, other cameras, and IoU of rendered Gaussians in one view: for orientation only.
"""


def score_prediction(
    perception: Perception,
    points: np.ndarray,
    visible_surface: np.ndarray,
    *,
    train_stop: int | None,
    ground_truth: Tracks | None = None,
    ignored: np.ndarray | None = None,
    fall: Fall | HullFall | None = None,
) -> dict[str, Any]:
    """Compare a prediction and the baselines with what was perceived, and with the truth.

    Args:
        perception: of the episode, all frames.
        points: predicted [m], shape (T, N, 3); need not be the perception's points.
        visible_surface: which predicted points are surface, shape (N,), bool; clouds and masks are
            compared with those, tracks may be followed by any point.
        train_stop: frames before this one were fitted on; None for an interaction never seen.
        ground_truth: true motion of points of the body, on the perception's clock; those on its
            surface count (`recon.true_tracks.true_surface`).
        ignored: pixels of masks that do not count, such as a gripper's, shape (C, T, H, W), bool.
        fall: of the object (`recon.falling.fall_of`); None leaves out the row ``falling``.

    Returns:
        JSON values, in metres:

        - ``episode``, ``frames``, ``seconds``, ``cameras``, ``train_stop``;
        - ``parts``: by part (``train`` and ``future``, or ``unseen``): ``start`` and ``stop``
          frame, and by row (`rows_of`) the mean of each measure (`MEASURES`), null where it does
          not exist, ``frames_of``: number of frames in each mean, and ``iou_by_camera``; and
          ``tracks_seen``: share of the tracks of frame 0 that ``track_m`` could still count;
        - ``per_frame``: by row and measure T values, null where there is none;
        - ``frame0``: by row, each measure in frame 0 (see `DEFINITIONS`) and ``iou_by_camera``;
        - ``drawing``: by row, ``radius_m`` and ``margin_m`` of the discs; ``time_s``: T stamps.

    Raises:
        DataError: if shapes do not fit each other or a predicted number is not finite.
    """
    frames = perception.tracks.frame_count
    surface = np.asarray(visible_surface, bool)
    _check(points, surface, frames, train_stop, perception.name)
    whole, shell = _perceived_start(perception)
    rows = {"twin": _Guess(points, surface)}
    rows |= {row: _Guess(at, shell) for row, at in baselines_of(whole, perception, fall).items()}
    truth = None
    if ground_truth is not None:
        chosen = outer_truth if is_video(perception) else true_surface
        truth = chosen(ground_truth, perception)
    per_frame = {name: _measure(guess, perception, truth) for name, guess in rows.items()}
    by_camera, drawings = _silhouettes(rows, perception, ignored)
    for name, table in per_frame.items():
        table["iou"] = _mean(by_camera[name], axis=1)
    names = [camera.name for camera in perception.cameras]
    return {
        "episode": perception.name,
        "frames": frames,
        "seconds": float(perception.time_s[-1] - perception.time_s[0]),
        "cameras": names,
        "train_stop": train_stop,
        "parts": {
            part: {
                **_part(per_frame, by_camera, names, span),
                "tracks_seen": _tracks_seen(perception, span),
            }
            for part, span in parts_of(frames, train_stop).items()
        },
        "frame0": {
            row: {
                **{key: _plain(values[0]) for key, values in table.items()},
                "iou_by_camera": dict(zip(names, _plain(by_camera[row][0]))),
            }
            for row, table in per_frame.items()
        },
        "drawing": {
            row: None if one is None else dataclasses.asdict(one) for row, one in drawings.items()
        },
        "time_s": _plain(perception.time_s),
        "per_frame": {
            row: {key: _plain(values) for key, values in table.items()}
            for row, table in per_frame.items()
        },
    }


def baselines_of(
    points: np.ndarray, perception: Perception, fall: Fall | HullFall | None
) -> dict[str, np.ndarray]:
    """How points of the object move without physics.

    Args:
        points: in frame 0 [m], shape (N, 3).
        perception: of the episode.
        fall: of the object, where it flies alone.

    Returns:
        By row (`ROWS`, the twin left out) [m], shape (T, N, 3), float32.
    """
    frames = perception.tracks.frame_count
    carried = predict_carried(points, frames, grippers=perception.grippers, hands=perception.hands)
    made = {"frozen": predict_frozen(points, frames), "rigid": carried}
    return made if fall is None else {**made, "falling": fall.carry(points)}


def rows_of(score: Mapping[str, Any]) -> list[str]:
    """What is in a score.

    Args:
        score: of `score_prediction`, or of images (`recon.render_episode`).

    Returns:
        Those of `ROWS`, in their order.
    """
    return [row for row in ROWS if row in score["per_frame"]]


def parts_of(frames: int, train_stop: int | None) -> dict[str, tuple[int, int]]:
    """The parts of an episode that are scored, without frame 0.

    Args:
        frames: T.
        train_stop: frames before this one were fitted on; None for an unseen interaction.

    Returns:
        First frame and one past the last by part; PhysTwin's own ranges. A part without a frame is
        left out.
    """
    if train_stop is None:
        spans = {"unseen": (1, frames)}
    else:
        spans = {"train": (1, train_stop), "future": (max(train_stop, 1), frames)}
    return {name: span for name, span in spans.items() if span[0] < span[1]}


def train_stop_of(provenance: Mapping[str, Any], perception: Perception) -> int | None:
    """Where the frames that a twin was fitted on end in an episode.

    Args:
        provenance: of the twin; its ``train`` entry tells episode, hash and frames.
        perception: of the episode.

    Returns:
        The first frame that was not fitted on; None when the twin was fitted on something else.
    """
    train = provenance.get("train")
    if not isinstance(train, Mapping) or "train_stop_frame" not in train:
        return None
    hashes = (train.get("source_sha256"), perception.tracks.source_sha256)
    same = hashes[0] == hashes[1] if all(hashes) else train.get("episode") == perception.name
    if not same:
        return None
    stop, fitted = int(train["train_stop_frame"]), int(train.get("frames", 0))
    frames = perception.tracks.frame_count
    if fitted and fitted != frames:
        # Rounded up: a frame too many in the train part costs nothing, one too few would cheat.
        stop = int(np.ceil(stop * frames / fitted))
        warnings.warn(
            f"{perception.name}: {frames} frames are scored and the twin saw {fitted}; the train "
            f"part ends at frame {stop}",
            PhysGymWarning,
            stacklevel=2,
        )
    return min(stop, frames)


@dataclass(frozen=True, eq=False)
class _Guess:
    points: np.ndarray
    surface: np.ndarray

    @property
    def shell(self) -> np.ndarray:
        """The surface alone, shape (T, M, 3)."""
        return self.points[:, self.surface]


def _check(
    points: np.ndarray, surface: np.ndarray, frames: int, train_stop: int | None, name: str
) -> None:
    shape = np.shape(points)
    if len(shape) != 3 or shape[0] != frames or shape[2] != 3 or surface.shape != shape[1:2]:
        raise DataError(
            f"points {shape}, surface {surface.shape}",
            where=f"{name}: score_prediction",
            expected=f"({frames}, N, 3) and (N,)",
        )
    if not surface.any() or not np.isfinite(points).all():
        raise DataError(
            "no surface point, or a number that is not finite",
            where=f"{name}: score_prediction",
            expected="finite metres",
            fix="a prediction that blew up has no score",
        )
    if train_stop is not None and not 0 < train_stop <= frames:
        raise DataError(
            f"train_stop {train_stop}",
            where=f"{name}: score_prediction",
            expected=f"1 to {frames}, or None",
        )


def _measure(guess: _Guess, perception: Perception, truth: Tracks | None) -> dict[str, np.ndarray]:
    """Everything but silhouettes, T values each; NaN where there is none."""
    frames, tracks, count = len(guess.points), perception.tracks, perception.tracked_count
    shell = guess.shell
    nothing = np.full(frames, np.nan)
    table = {key: nothing for key in MEASURES}
    if any(len(cloud) for cloud in perception.clouds[1:]):  # without depth, frame 0 has a hull
        table["chamfer_m"] = chamfer_frames(perception.clouds, shell)
        table["chamfer_l1_m"] = chamfer_frames(perception.clouds, shell, norm=1)
    table["track_m"] = follower_error_frames(
        guess.points, tracks.position[:, :count], tracks.visible[:, :count]
    )
    if truth is not None:
        clouds = [p[seen] for p, seen in zip(truth.position, truth.visible)]
        table["true_chamfer_m"] = chamfer_frames(clouds, shell)
        table["true_chamfer_l1_m"] = chamfer_frames(clouds, shell, norm=1)
        table["true_track_m"] = follower_error_frames(guess.points, truth.position, truth.visible)
    return table


def _perceived_start(perception: Perception) -> tuple[np.ndarray, np.ndarray]:
    """The object in frame 0 as fine as it was seen, (N, 3), and which points are its surface.

    Perception thins its points for the physics. A baseline that had no more than those would lose
    to a twin with a finer surface by their spacing alone.
    """
    rest = perception.tracks.rest_position
    assert rest is not None  # Perception refuses tracks without it
    known = np.asarray(rest, np.float32)
    seen = perception.clouds[0] if perception.clouds else known[:0]
    if len(seen):
        away, _ = cKDTree(known[perception.surface]).query(seen)
        seen = seen[away > _SAME_POINT_M]
    shell = np.concatenate([perception.surface, np.ones(len(seen), bool)])
    return np.concatenate([known, seen]), shell


def _silhouettes(
    rows: Mapping[str, _Guess], perception: Perception, ignored: np.ndarray | None
) -> tuple[dict[str, np.ndarray], dict[str, Drawing | None]]:
    """IoU (T, C) and drawing by row."""
    cameras, masks = perception.cameras, perception.masks
    if masks is None or not cameras:
        shape = (perception.tracks.frame_count, len(cameras))
        return {row: np.full(shape, np.nan) for row in rows}, dict.fromkeys(rows)
    hidden = None if ignored is None else ignored[:, 0]
    # The baselines are the same points in frame 0, and so are drawn alike.
    perceived = fitted_drawing(cameras, rows["frozen"].shell[0], masks[:, 0], hidden)
    predicted = fitted_drawing(cameras, rows["twin"].shell[0], masks[:, 0], hidden)
    drawings = {row: predicted if row == "twin" else perceived for row in rows}
    score = {
        row: silhouette_iou(cameras, guess.shell, masks, drawing=drawings[row], ignored=ignored)
        for row, guess in rows.items()
    }
    return score, dict(drawings)


def _part(
    per_frame: Mapping[str, Mapping[str, np.ndarray]],
    by_camera: Mapping[str, np.ndarray],
    names: list[str],
    span: tuple[int, int],
) -> dict[str, Any]:
    inside = slice(*span)
    part: dict[str, Any] = {"start": span[0], "stop": span[1]}
    for row, table in per_frame.items():
        means = {key: _plain(_mean(values[inside], axis=0)) for key, values in table.items()}
        counts = {key: int(np.isfinite(values[inside]).sum()) for key, values in table.items()}
        each = _plain(_mean(by_camera[row][inside], axis=0))
        part[row] = {**means, "frames_of": counts, "iou_by_camera": dict(zip(names, each))}
    return part


def _tracks_seen(perception: Perception, span: tuple[int, int]) -> float | None:
    """Mean share of frame 0's tracks that are seen; lost ones are mostly those that moved most."""
    seen = perception.tracks.visible[:, : perception.tracked_count]
    started = seen[:, seen[0]]
    return float(started[slice(*span)].mean()) if started.shape[1] else None


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is finite; NaN where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    count = known.sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _plain(values: np.ndarray) -> Any:
    """JSON values; None for NaN."""
    array = np.asarray(values, np.float64)
    if array.ndim == 0:
        return float(array) if np.isfinite(array) else None
    return [_plain(one) for one in array]
