"""An episode on disk becomes a `Perception`, and is perceived once only.

The result is kept beside the episode, as ``EPISODE.perception.npz``, until episode or settings
change. A processed PhysTwin case holds its own perception, which is read each time. Of an episode's
metadata, ``gravity`` is read here, sizes of grippers in `recon.perception.recorded`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from physgym.errors import DataError
from recon.episode import Episode
from recon.episode_files import bag_folder
from recon.importers import phystwin_final
from recon.perception.episode_views import episode_views
from recon.perception.perceive import Masks, PerceiveConfig, Progress, perceive
from recon.perception.prompt import Prompt
from recon.perception.recorded import recorded_grippers, recorded_masks, refuse_backgrounds
from recon.perception.result import FORMAT_VERSION, Perception
from recon.perception.robot_mask import robot_masks
from recon.perception.segment import PackedMasks
from recon.tracks import PhysGymWarning

__all__ = [
    "cache_path",
    "cached_perception",
    "episode_fingerprint",
    "perceive_episode",
    "recorded_gravity",
]

_LEAST_KEPT = 0.9  # share of a camera's frames in framesets, below which a warning says so
# Raised with every change of the pipeline that changes its results: older files are made again.
_METHOD = 4
_BLOCK_BYTES = 1 << 22


def perceive_episode(
    episode: Episode,
    config: PerceiveConfig | None = None,
    *,
    prompts: Mapping[str, Prompt] | None = None,
    mesh: tuple[np.ndarray, np.ndarray] | None = None,
    start_s: float = 0.0,
    stop_s: float | None = None,
    on_progress: Progress | None = None,
    source_sha256: str = "",
) -> Perception:
    """Find out everything about the object of an episode.

    Masks that were recorded are taken as they are: ``object``, hands (labels with ``hand`` or
    ``human`` in them), and all other labels as what may hide the object. Grippers and plates come
    with their recorded motion, interpolated to the framesets' stamps.

    Args:
        episode: open.
        config: how; its gravity gives way to that of the episode's metadata.
        prompts: by camera name; not needed where masks were recorded or the object stands out.
        mesh: the object's own vertices and faces [m].
        start_s: framesets before this time are left out [s].
        stop_s: so are those at this time or later [s]; None for none.
        on_progress: called with the stage's name and the share that is done, 0 to 1.
        source_sha256: what to note as the hash of the source.

    Returns:
        What was found out; stamps are the framesets', on the episode's clock.

    Raises:
        DataError: if no framesets lie in that time, no camera has depth, or no object is found.
    """
    config = _with_gravity(config or PerceiveConfig(), episode)
    sets = episode.synchronized()
    inside = sets.stamp_s >= start_s
    if stop_s is not None:
        inside &= sets.stamp_s < stop_s
    numbers, time_s = sets.index[inside], sets.stamp_s[inside]
    if len(time_s) == 0:
        raise DataError(
            f"{len(sets)} framesets, none from {start_s} s to {stop_s or episode.duration_s} s",
            where=f"{episode.name}: perceive",
            expected="images that all cameras took at one time",
            fix="check start_s and stop_s; physgym check shows what each camera recorded",
        )
    _warn_dropped(episode, sets.dropped)
    recorded = recorded_masks(episode, sets.cameras, numbers)
    whole = zip(sets.cameras, recorded.objects or ())
    told = {camera: masks[0] for camera, masks in whole if masks is not None}
    refuse_backgrounds(episode.name, tuple(told), tuple(told.values()))
    found = perceive(
        episode_views(episode, sets.cameras, numbers),
        time_s,
        name=episode.name,
        prompts={**recorded.prompts, **(prompts or {})},
        masks=recorded.objects,
        blocked=_blocked(episode, config, sets.cameras, time_s, recorded.blocked),
        grippers=recorded_grippers(episode, time_s),
        hand_masks=recorded.hands,
        mesh=mesh,
        config=config,
        source_sha256=source_sha256,
        on_progress=on_progress,
    )
    return dataclasses.replace(found, report={**found.report, "dropped_frames": sets.dropped})


def _blocked(
    episode: Episode,
    config: PerceiveConfig,
    cameras: Sequence[str],
    time_s: np.ndarray,
    recorded: Masks | None,
) -> Masks | None:
    """What may hide the object: recorded masks, and the robot where its model is known."""
    if not config.robot_model:
        return recorded
    joints = episode.joint_states()
    if len(joints.time_s) == 0:
        raise DataError(
            "no joint states were recorded",
            where=f"{episode.name}: robot_model",
            expected="/joint_states, to know where the robot was",
            fix="leave the robot's model out",
        )
    views = [episode.cameras[name] for name in cameras]
    drawn = robot_masks(Path(config.robot_model), joints, time_s, views)
    both = []
    for index, masks in enumerate(drawn):
        packed = PackedMasks()
        for frame, mask in enumerate(masks):
            packed.append(mask if recorded is None else mask | recorded[index][frame])
        both.append(packed)
    return both


def cached_perception(
    episode_path: str | Path,
    config: PerceiveConfig | None = None,
    *,
    prompts: Mapping[str, Prompt] | None = None,
    mesh: tuple[np.ndarray, np.ndarray] | None = None,
    start_s: float = 0.0,
    stop_s: float | None = None,
    calibration: str | Path | None = None,
    refresh: bool = False,
    on_progress: Progress | None = None,
) -> Perception:
    """What was perceived of an episode, from the file beside it where that still fits.

    A processed PhysTwin case (``final_data.pkl``) is imported instead; only ``config.kind`` counts.

    The file is ``EPISODE.perception.npz``. It fits when the episode's files have the sizes and
    times of last change that they had, and everything that is given here is the same. Where it
    cannot be written, a warning says so, and the next call perceives again.

    Args:
        episode_path: the episode's folder or storage file, or a processed PhysTwin case.
        config: how to perceive.
        prompts: by camera name.
        mesh: the object's own vertices and faces [m].
        start_s: as in `perceive_episode`.
        stop_s: likewise.
        calibration: as in `recon.episode.Episode.open`.
        refresh: perceive again in any case.
        on_progress: called with the stage's name and the share that is done; not called when the
            file fits.

    Returns:
        The perception; ``report["cache_key"]`` is what the file is known by.

    Raises:
        DataError: if the episode cannot be opened or perceived, or something is given that a case
            leaves no room for.
    """
    config = config or PerceiveConfig()
    path = Path(episode_path).expanduser()
    if phystwin_final.matches(path):
        given = {
            "prompts": prompts,
            "mesh": mesh is not None,
            "start_s": start_s,
            "stop_s": stop_s is not None,
            "calibration": calibration,
            "robot_model": config.robot_model,
        }
        case = _imported(path, config, [name for name, value in given.items() if value])
        if on_progress is not None:
            on_progress("import", 1.0)
        return case
    source = bag_folder(path)
    if not source.exists():
        raise DataError("no such recording", where=str(path), expected="an episode's folder")
    asked = {
        "method": [_METHOD, FORMAT_VERSION],
        "config": dataclasses.asdict(config),
        "prompts": {name: _plain(prompt) for name, prompt in (prompts or {}).items()},
        "mesh": None if mesh is None else [_digest(part) for part in mesh],
        "span": [start_s, stop_s],
        "files": _stamps(source),
        "calibration": None if calibration is None else _stamps(Path(calibration).expanduser()),
    }
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    target = cache_path(path)
    if not refresh:
        kept = _kept(target, key)
        if kept is not None:
            return kept
    with Episode.open(path, calibration=calibration) as episode:
        found = perceive_episode(
            episode,
            config,
            prompts=prompts,
            mesh=mesh,
            start_s=start_s,
            stop_s=stop_s,
            on_progress=on_progress,
            source_sha256=episode_fingerprint(source),
        )
    found = dataclasses.replace(found, report={**found.report, "cache_key": key})
    try:
        found.save(target)
    except OSError as error:
        warnings.warn(
            f"{target}: what was perceived cannot be kept, so the next run perceives again: "
            f"{error.strerror or error}",
            PhysGymWarning,
            stacklevel=2,
        )
    return found


def _imported(path: Path, config: PerceiveConfig, unused: list[str]) -> Perception:
    from recon.importers.phystwin_perception import case_perception  # builds on perception itself

    if unused:
        raise DataError(
            f"{', '.join(unused)} for a processed case",
            where=str(path),
            expected="the case alone: its tracks, cameras and world are in it",
            fix="leave it out, or move final_data.pkl away to perceive the case's images",
        )
    return case_perception(path, kind=config.kind)


def cache_path(episode_path: str | Path) -> Path:
    """Where the perception of an episode is kept.

    Args:
        episode_path: the episode's folder or storage file.

    Returns:
        The file beside it.
    """
    path = Path(episode_path).expanduser().absolute()
    return path.with_name(f"{path.name}.perception.npz")


def episode_fingerprint(source: Path) -> str:
    """SHA-256 over the names and bytes of a recording's files.

    Args:
        source: the folder, or a single storage file.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, file in _files(source):
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _with_gravity(config: PerceiveConfig, episode: Episode) -> PerceiveConfig:
    told = recorded_gravity(episode)
    return config if told is None else dataclasses.replace(config, gravity=told)


def recorded_gravity(episode: Episode) -> tuple[float, float, float] | None:
    """Gravity that a recording tells.

    Args:
        episode: the recording.

    Returns:
        [m/s^2] in the world; None where its metadata says nothing.

    Raises:
        DataError: if what it says is not three numbers.
    """
    told = episode.metadata.get("gravity")
    if told is None:
        return None
    try:
        x, y, z = (float(part) for part in np.asarray(told, dtype=object).ravel())
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{told!r}",
            where=f"{episode.name}: metadata gravity",
            expected="three numbers in m/s^2",
        ) from error
    return (x, y, z)


def _warn_dropped(episode: Episode, dropped: Mapping[str, int]) -> None:
    lost = []
    for camera, count in dropped.items():
        total = episode.frame_count(camera)
        if count > (1.0 - _LEAST_KEPT) * total:
            lost.append(f"{count} of {total} of {camera}")
    if lost:
        warnings.warn(
            f"{episode.name}: frames that have no partner of every other camera are left out: "
            f"{', '.join(lost)}",
            PhysGymWarning,
            stacklevel=3,
        )


def _kept(target: Path, key: str) -> Perception | None:
    if not target.is_file():
        return None
    try:
        found = Perception.load(target)
    except DataError as error:
        warnings.warn(
            f"{target}: cannot be used, perceived again: {error.what}", PhysGymWarning, stacklevel=3
        )
        return None
    return found if found.report.get("cache_key") == key else None


def _files(source: Path) -> list[tuple[str, Path]]:
    if source.is_file():
        return [(source.name, source)]
    return sorted((str(f.relative_to(source)), f) for f in source.rglob("*") if f.is_file())


def _stamps(source: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of last change of every file."""
    every = [(name, file.stat()) for name, file in _files(source)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in every]


def _plain(prompt: Prompt) -> dict[str, Any]:
    def value(content: Any) -> Any:
        return _digest(content) if isinstance(content, np.ndarray) else content

    return {f.name: value(getattr(prompt, f.name)) for f in dataclasses.fields(prompt)}


def _digest(array: np.ndarray) -> str:
    values = np.ascontiguousarray(array)
    head = f"{values.dtype.str}{values.shape}".encode()
    return hashlib.sha256(head + values.tobytes()).hexdigest()
