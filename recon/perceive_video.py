"""A recording without depth as a `Perception`: masks, and the visual hull of the first frame.

Nothing of it is tracked and no frame but the first has a cloud, which is the hull's surface: what
needs depth is not there, and all that needs masks alone works as with any other recording.
Shapes: T frames, C cameras, N points, H W image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from physgym.errors import DataError
from recon.episode import Episode
from recon.episode_files import bag_folder
from recon.perception.episode_views import episode_views
from recon.perception.lift import View
from recon.perception.perceive_episode import (
    cache_path,
    episode_fingerprint,
    recorded_gravity,
)
from recon.perception.prompt import Prompt, mask_from_prompt
from recon.perception.recorded import check_first_masks, recorded_grippers, recorded_masks
from recon.perception.result import Kind, Perception
from recon.perception.segment import FlowSegmenter
from recon.perception.table import Plane
from recon.tracks import PhysGymWarning, Tracks
from recon.video_hull import hull_points

__all__ = ["cached_video_perception", "is_video", "perceive_video", "records_depth"]

_GRAVITY = (0.0, 0.0, -9.81)
_MOST_OF_IMAGE = 0.5  # a mask that is larger is the background
# Raised with every change that changes results: kept files of before are made again.
_METHOD = 1


def records_depth(source: Path, *, calibration: str | Path | None = None) -> bool:
    """Whether any camera of a recording measured depth.

    Args:
        source: a bag, or a processed PhysTwin case.
        calibration: as in `recon.episode.Episode.open`.

    Returns:
        True also of a processed PhysTwin case.

    Raises:
        DataError: if the recording cannot be opened.
    """
    from recon.importers.phystwin_final import matches

    if matches(source):
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever reads the images says what is wrong
        episode = Episode.open(source, calibration=calibration)
    with episode:
        return any(
            episode.frame(camera, 0).depth_m is not None
            for camera in episode.cameras
            if episode.frame_count(camera)
        )


def is_video(perception: Perception) -> bool:
    """Whether this was perceived without depth.

    Args:
        perception: of any recording.

    Returns:
        True of those of `perceive_video`.
    """
    return not perception.report.get("depth", True)


def perceive_video(
    episode: Episode,
    *,
    ground_m: float | None = None,
    kind: Kind | Literal["auto"] = "auto",
    prompts: Mapping[str, Prompt] | None = None,
    source_sha256: str = "",
) -> Perception:
    """Find out what masks tell about the object of a recording.

    Masks are the recorded ones (label ``object``); a camera that has only the first one, or a
    prompt, has it carried on by flow and colour.

    Args:
        episode: open; depth is not looked at.
        ground_m: height of a level ground, which images do not tell [m].
        kind: what the object is; ``auto`` takes it for a volume.
        prompts: by camera name, where no mask was recorded.
        source_sha256: what to note as the hash of the source.

    Returns:
        Its points are the visual hull of frame 0, above the ground: surface first, then inside.

    Raises:
        DataError: if a camera has no mask, all masks are empty at first or one fills the image, a
            prompt finds nothing, or masks and cameras do not agree about any point.
    """
    sets = episode.synchronized()
    if not len(sets):
        raise DataError(
            "no instant at which all cameras took an image",
            where=f"{episode.name}: perceive",
            expected="synchronized cameras",
            fix="physgym check shows what each camera recorded",
        )
    views = episode_views(episode, sets.cameras, sets.index)
    recorded = recorded_masks(episode, sets.cameras, sets.index)
    known = recorded.objects or [None] * len(views)
    asked = {**recorded.prompts, **(prompts or {})}
    _check_prompts(episode, prompts or {})
    every = [
        np.stack([np.asarray(m, bool) for m in _masks(episode.name, view, own, asked)])
        for view, own in zip(views, known, strict=True)
    ]
    _check_sizes(episode.name, every)
    check_first_masks(episode.name, sets.cameras, [one[0] for one in every])
    masks = np.stack(every)
    hidden = [np.asarray(one[0], bool) for one in recorded.blocked] if recorded.blocked else None
    surface, inside = hull_points(views, masks[:, 0], hidden, ground_m)
    rest = np.concatenate([surface, inside]).astype(np.float32)
    tracks = _never_seen(rest, sets.stamp_s, episode, source_sha256)
    none = np.zeros((0, 3), np.float32)
    return Perception(
        tracks=tracks,
        tracked_count=0,
        surface_count=len(surface),
        kind="volume" if kind == "auto" else kind,
        clouds=(surface.astype(np.float32), *[none] * (len(sets) - 1)),
        grippers=recorded_grippers(episode, sets.stamp_s),
        table=None if ground_m is None else Plane(np.array([0.0, 0.0, 1.0]), ground_m),
        cameras=tuple(view.camera for view in views),
        masks=masks,
        report={
            "depth": False,
            "cameras": len(views),
            "frames": len(sets),
            "points": len(rest),
            "surface": len(surface),
        },
    )


def _never_seen(
    rest: np.ndarray, time_s: np.ndarray, episode: Episode, source_sha256: str
) -> Tracks:
    """Points that are known at rest alone."""
    nothing = np.full((len(time_s), len(rest), 3), np.nan, np.float32)
    return Tracks(
        time_s=time_s,
        position=nothing,
        visible=np.zeros(nothing.shape[:2], bool),
        driven_index=np.zeros(0, np.int64),
        name=episode.name,
        gravity=np.array(recorded_gravity(episode) or _GRAVITY),
        rest_position=rest,
        source_sha256=source_sha256,
    )


def cached_video_perception(
    source: str | Path,
    *,
    ground_m: float | None = None,
    kind: Kind | Literal["auto"] = "auto",
    prompts: Mapping[str, Prompt] | None = None,
    calibration: str | Path | None = None,
) -> Perception:
    """What `perceive_video` finds, kept beside the recording until it or what is asked changes.

    Args:
        source: the recording's folder or storage file.
        ground_m: as in `perceive_video`.
        kind: likewise.
        prompts: likewise; without any, masks that earlier prompts led to are taken as they are.
        calibration: as in `recon.episode.Episode.open`.

    Returns:
        The perception.

    Raises:
        DataError: as `perceive_video`, or if the recording cannot be opened.
    """
    path = Path(source).expanduser()
    sha256, target = episode_fingerprint(bag_folder(path)), cache_path(path)
    file = None if calibration is None else Path(calibration).expanduser()
    asked = {
        "method": _METHOD,
        "ground_m": ground_m,
        "kind": kind,
        "calibration": None if file is None else hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    pointed = _digest(prompts) if prompts else ""
    kept = _kept(target, sha256, asked, pointed)
    if kept is not None:
        return kept
    with Episode.open(path, calibration=calibration) as episode:
        found = perceive_video(
            episode, ground_m=ground_m, kind=kind, prompts=prompts, source_sha256=sha256
        )
    notes = {**found.report, "asked": asked, "prompts": pointed}
    found = dataclasses.replace(found, report=notes)
    try:
        found.save(target)
    except OSError as error:
        warnings.warn(
            f"{target}: what was perceived cannot be kept: {error.strerror or error}",
            PhysGymWarning,
            stacklevel=2,
        )
    return found


def _kept(target: Path, sha256: str, asked: Mapping[str, Any], pointed: str) -> Perception | None:
    if not target.is_file():
        return None
    try:
        found = Perception.load(target)
    except DataError:  # of another version, or damaged: made again
        return None
    same = found.tracks.source_sha256 == sha256 and found.report.get("asked") == dict(asked)
    return found if same and pointed in ("", found.report.get("prompts")) else None


def _digest(prompts: Mapping[str, Prompt]) -> str:
    def plain(value: Any) -> Any:
        return value.tolist() if isinstance(value, np.ndarray) else value

    told = {
        name: {f.name: plain(getattr(prompt, f.name)) for f in dataclasses.fields(prompt)}
        for name, prompt in prompts.items()
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _check_prompts(episode: Episode, prompts: Mapping[str, Prompt]) -> None:
    for name in prompts:
        if name not in episode.cameras:
            raise DataError(
                f"a prompt for {name!r}",
                where=f"{episode.name}: --click or --box",
                expected=f"one of {', '.join(episode.cameras)}",
            )


def _check_sizes(name: str, masks: Sequence[np.ndarray]) -> None:
    sizes = sorted({(one.shape[2], one.shape[1]) for one in masks})
    if len(sizes) > 1:
        raise DataError(
            f"images of {' and '.join(f'{w} x {h}' for w, h in sizes)} pixels",
            where=f"{name}: perceive",
            expected="cameras whose images have one size, where there is no depth",
            fix="scale images and intrinsics to one size before recording",
        )


def _masks(
    name: str, view: View, known: Sequence[np.ndarray] | None, prompts: Mapping[str, Prompt]
) -> Sequence[np.ndarray]:
    """Masks of a camera, as recorded or carried on from the first."""
    camera = view.camera.name
    if known is not None:
        return known
    if camera not in prompts:
        raise DataError(
            f"no mask of the object is recorded for {camera}, and no depth to find it by",
            where=f"{name}: perceive, without depth",
            expected="masks with the label 'object', of the first frame at least, in every camera",
            fix=f"--box {camera}:LEFT,TOP,RIGHT,BOTTOM around the object in its first image, or "
            "record masks, or depth",
        )
    try:
        first = mask_from_prompt(np.asarray(view.rgb[0]), prompts[camera])
    except DataError as error:
        size = f"{view.camera.width} x {view.camera.height} pixels"
        where = f"{name}: --click or --box of {camera}, {size}"
        raise DataError(error.what, where=where, expected=error.expected, fix=error.fix) from error
    if first.mean() > _MOST_OF_IMAGE:
        raise DataError(
            f"the prompt found {first.mean():.0%} of the image",
            where=f"{name}: perceive, {camera}",
            expected="an object that stands out from what is behind it",
            fix="a box around it, clicks in several places, or recorded masks",
        )
    return FlowSegmenter(view.camera).propagate(view.rgb, view.depth_m, first)
