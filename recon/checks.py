"""What every importer does with raw arrays: refuse, repair or mask, and say so.

A wrong shape, a driven point without a position, time that stands still: a `DataError`. A sample
that is missing or cannot be right: masked, with a `PhysGymWarning` that names frame and node.
Shapes: T frames, N points, K driven points.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.errors import DataError
from recon import defects
from recon.npz import number_array
from recon.tracks import PhysGymWarning, Tracks, checked_time

__all__ = ["RawTracks", "checked_tracks", "numbers"]

_LARGEST_M = 20.0  # an object that a robot handles is smaller; 20 mm read as metres is larger
_LARGEST_RADIUS_M = 1.0
_LARGEST_GRAVITY = 100.0  # [m/s^2]; -9810 is mm/s^2
_LONGEST_DT_S = 1.0  # dynamics cannot be seen at one frame per second; 10 is milliseconds
_STILL_M = 1e-4  # below the noise of any tracker
_FEWEST_FRAMES = 3  # two give position and velocity, one more is left to predict
_LARGEST_GAP_FRAMES = 5.0  # driven points are not guessed across more than this
_SOFT_SHARE = 0.5  # of the links; one wrong marker spoils two or three of a rope's dozen
_EVEN_FRAMES = 0.02  # stamps this near to an even clock are taken as even


@dataclass(frozen=True, eq=False)
class RawTracks:
    """Arrays as a file gave them; see `recon.tracks.Tracks` for the meaning of each.

    Attributes:
        name: of the recording.
        where: file and clip, for messages.
        time_s: [s], shape (T,).
        position: [m], shape (T, N, 3), NaN where not seen.
        driven_index: shape (K,); None means that the importer has not said yet.
        visible: shape (T, N), or None for every finite sample.
        gravity: [m/s^2], shape (3,), or None for the usual.
        rest_position: [m], shape (N, 3), or None.
        radius_m: [m], or None.
        source_sha256: of the file.
    """

    name: str
    where: str
    time_s: Any
    position: Any
    driven_index: Any = None
    visible: Any = None
    gravity: Any = None
    rest_position: Any = None
    radius_m: Any = None
    source_sha256: str = ""

    def replace(self, **changes: Any) -> RawTracks:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def numbers(value: Any, shape: tuple[Any, ...], where: str) -> np.ndarray:
    """A float32 or float64 copy of an array of numbers, or an error that says what is wrong.

    Args:
        value: anything.
        shape: expected lengths; a text stands for any length.
        where: file and field, for the message.

    Returns:
        The array; float32 stays float32, all else becomes float64.

    Raises:
        DataError: if it is not numbers, or of another shape.
    """
    single = getattr(value, "dtype", None) == np.float32
    return number_array(value, np.float32 if single else np.float64, shape, where)


def checked_tracks(raw: RawTracks, *, links: defects.Links | None = None) -> Tracks:
    """Tracks from raw arrays.

    Args:
        raw: what the file gave.
        links: usual distances between points, when more than this recording tells them.

    Returns:
        Tracks on an even clock, with masked what is missing or cannot be right.

    Raises:
        DataError: if the recording cannot be used.
    """
    position = numbers(raw.position, ("T", "N", 3), f"{raw.where}: points")
    frames, nodes = position.shape[:2]
    if frames < _FEWEST_FRAMES:
        raise DataError(
            f"{frames} frames",
            where=f"{raw.where}: points",
            expected=f"at least {_FEWEST_FRAMES}: two to start from, one to predict",
        )
    time = checked_time(raw.time_s, raw.where, frames)
    index = _driven_index(raw, nodes)
    _check_units(raw, position, time)
    visible = _visible(raw, position, index)
    time, position, visible = _on_even_clock(raw.where, time, position, visible, index)
    _warn_still(raw.where, position, index)
    position, visible = _without_defects(raw.where, position, visible, index, links)
    return Tracks(
        time_s=time,
        position=np.where(visible[..., None], position, np.nan),
        visible=visible,
        driven_index=index,
        name=raw.name,
        gravity=np.array([0.0, 0.0, -9.81]) if raw.gravity is None else raw.gravity,
        rest_position=raw.rest_position,
        radius_m=None if raw.radius_m is None else float(raw.radius_m),
        source_sha256=raw.source_sha256,
    )


def _warn(where: str, text: str) -> None:
    # Level 5 is about the caller of load_recordings; the text itself says which file.
    warnings.warn(f"{where}: {text}", PhysGymWarning, stacklevel=5)


def _driven_index(raw: RawTracks, nodes: int) -> np.ndarray:
    where = f"{raw.where}: driven_index"
    given = numbers([] if raw.driven_index is None else raw.driven_index, ("K",), where)
    index = given.astype(np.int64)
    if (index != given).any() or (index < 0).any() or (index >= nodes).any():
        raise DataError(f"{given}", where=where, expected=f"whole numbers from 0 to {nodes - 1}")
    return index


def _check_units(raw: RawTracks, position: np.ndarray, time: np.ndarray) -> None:
    fix = "divide lengths by 1000 (millimetres) or 100 (centimetres) before saving"
    clouds = [("points", position)]
    if raw.rest_position is not None:
        nodes = position.shape[1]
        rest = numbers(raw.rest_position, (nodes, 3), f"{raw.where}: rest")
        clouds.append(("rest", rest[None]))
    for key, cloud in clouds:
        size = _median_size(cloud)
        if size > _LARGEST_M:
            raise DataError(
                f"the object is {size:.0f} across; that looks like millimetres",
                where=f"{raw.where}: {key}",
                expected=f"metres, at most {_LARGEST_M:.0f}",
                fix=fix,
            )
    if raw.radius_m is not None:
        radius = numbers(raw.radius_m, (), f"{raw.where}: radius")
        if not 0 < radius < _LARGEST_RADIUS_M:
            raise DataError(
                f"{radius}", where=f"{raw.where}: radius", expected="metres, 0 to 1", fix=fix
            )
    if raw.gravity is not None:
        gravity = np.linalg.norm(numbers(raw.gravity, (3,), f"{raw.where}: gravity"))
        if gravity > _LARGEST_GRAVITY:
            raise DataError(
                f"{gravity:.0f} m/s^2", where=f"{raw.where}: gravity", expected="about 9.81"
            )
    dt = float(np.median(np.diff(time)))
    if dt >= _LONGEST_DT_S:
        raise DataError(
            f"frames are {dt:g} s apart; that looks like milliseconds or nanoseconds",
            where=f"{raw.where}: time",
            expected=f"seconds, less than {_LONGEST_DT_S:g} apart",
        )


def _median_size(cloud: np.ndarray) -> float:
    seen = np.isfinite(cloud).all(-1)
    enough = seen.any(1)
    if not enough.any():
        return 0.0
    low = np.where(seen[..., None], cloud, np.inf)[enough].min(1)
    high = np.where(seen[..., None], cloud, -np.inf)[enough].max(1)
    return float(np.median(np.linalg.norm(high - low, axis=-1)))


def _visible(raw: RawTracks, position: np.ndarray, index: np.ndarray) -> np.ndarray:
    frames, nodes = position.shape[:2]
    finite = np.isfinite(position).all(-1)
    visible = np.ones((frames, nodes), dtype=bool)
    if raw.visible is not None:
        visible = numbers(raw.visible, (frames, nodes), f"{raw.where}: visible") != 0
    driven = np.zeros(nodes, dtype=bool)
    driven[index] = True
    lost = np.argwhere(driven & ~(visible & finite))
    if len(lost):
        frame, node = (int(number) for number in lost[0])
        raise DataError(
            f"a driven point was not seen ({len(lost)} samples in all)",
            where=f"{raw.where}: frame {frame}, node {node}",
            expected="driven points known at all times",
            fix="cut the recording there, or fill the gap from the robot's own joint states",
        )
    # Trackers write (0, 0, 0) for a point that they lost; a real point is never there exactly.
    absent = ~finite | ((position == 0.0).all(-1) & ~driven)
    missing = np.argwhere(visible & absent)
    if len(missing):
        frame, node = (int(number) for number in missing[0])
        _warn(
            raw.where,
            f"{len(missing)} samples have no position (NaN or 0, 0, 0), the first at frame "
            f"{frame}, node {node}; masked",
        )
    visible &= ~absent
    if not visible.any():
        raise DataError("no point was ever seen", where=raw.where, expected="visible samples")
    return visible


def _on_even_clock(
    where: str, time: np.ndarray, position: np.ndarray, visible: np.ndarray, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solvers step evenly: take an even clock as it is, else resample along straight lines."""
    frames = len(time)
    mean = (time[-1] - time[0]) / (frames - 1)
    even = time[0] + mean * np.arange(frames)
    if np.abs(time - even).max() <= _EVEN_FRAMES * mean:
        return even, position, visible
    dt = float(np.median(np.diff(time)))
    gap = float(np.diff(time).max())
    if len(index) and gap > _LARGEST_GAP_FRAMES * dt:
        frame = int(np.diff(time).argmax()) + 1
        raise DataError(
            f"a gap of {gap:.3f} s between frames that are {dt:.4f} s apart",
            where=f"{where}: time, frame {frame}",
            expected=f"at most {_LARGEST_GAP_FRAMES:.0f} frames without driven points",
            fix="split the recording there",
        )
    even = time[0] + dt * np.arange(int((time[-1] - time[0]) / dt + 1e-6) + 1)
    left = np.clip(np.searchsorted(time, even, side="right") - 1, 0, frames - 2)
    span = time[left + 1] - time[left]
    share = ((even - time[left]) / span)[:, None, None]
    sampled = (1.0 - share) * position[left] + share * position[left + 1]
    # A free point is only believed where both neighbours were seen and nothing was dropped.
    seen = visible[left] & visible[left + 1] & (span < 1.5 * dt)[:, None]
    on_left, on_right = share[:, :, 0] < 1e-6, share[:, :, 0] > 1.0 - 1e-6
    sampled = np.where(on_left[..., None], position[left], sampled)
    sampled = np.where(on_right[..., None], position[left + 1], sampled)
    seen = np.where(on_left, visible[left], np.where(on_right, visible[left + 1], seen))
    seen[:, index] = True
    _warn(
        where,
        f"stamps are uneven ({1e3 * np.diff(time).min():.2f} to {1e3 * gap:.2f} ms); resampled to "
        f"{len(even)} frames of {1e3 * dt:.2f} ms, free points masked across dropped frames",
    )
    return even, sampled, seen


def _warn_still(where: str, position: np.ndarray, index: np.ndarray) -> None:
    driven = position[:, index]
    still = index[(np.ptp(driven, axis=0) < _STILL_M).all(-1)] if len(index) else index
    if len(still):
        _warn(where, f"driven nodes {still.tolist()} never move; held, or the wrong points?")


def _without_defects(
    where: str,
    position: np.ndarray,
    visible: np.ndarray,
    index: np.ndarray,
    links: defects.Links | None,
) -> tuple[np.ndarray, np.ndarray]:
    track = np.where(visible[..., None], position, np.nan)
    visible = visible.copy()
    links = defects.find_links(track) if links is None else links
    driven = np.zeros(track.shape[1], dtype=bool)
    driven[index] = True
    for i, j, frames in defects.find_swaps(track, links):
        track[frames, i], track[frames, j] = track[frames, j], track[frames, i]
        for end in (i, j):
            visible[frames, end] &= driven[end]
        kept = "put back" if driven[i] or driven[j] else "masked"
        _warn(where, f"nodes {i} and {j} are exchanged in {_frames(frames)}; {kept}")
    spikes = defects.find_spikes(track, links.spacing_m)
    for node in np.flatnonzero(spikes.any(0)):
        frames = spikes[:, node]
        if driven[node]:
            track[:, node] = _bridged(track[:, node], frames)
        visible[frames, node] = driven[node]
        kept = "interpolated (it is driven)" if driven[node] else "masked"
        _warn(where, f"node {node} jumps away and back in {_frames(frames)}; {kept}")
    track[~visible] = np.nan
    stretched = defects.find_stretched(track, links)
    if stretched.any(0).sum() > _SOFT_SHARE * len(links.pair):
        stretched[:] = False  # many links that stretch are a soft object, not wrong markers
    for row in np.flatnonzero(stretched.any(0)):
        frames = stretched[:, row]
        ends = links.pair[row].tolist()
        free = [end for end in ends if not driven[end]]
        visible[np.ix_(frames, free)] = False
        pair = " and ".join(str(end) for end in ends)
        _warn(
            where,
            f"nodes {pair} are further apart than their link is long in {_frames(frames)}; "
            + (f"masked {free}" if free else "both driven, kept"),
        )
    for frame, lost in defects.find_breaks(track, links.spacing_m):
        _warn(
            where,
            f"everything jumps ahead at frame {frame}: about {lost:.0f} frames were lost; "
            "speeds are wrong there",
        )
    return track, visible


def _bridged(track: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The track (T, 3) with some frames filled along straight lines."""
    good = np.flatnonzero(~frames)
    every = np.arange(len(track))
    return np.stack([np.interp(every, good, track[good, axis]) for axis in range(3)], axis=-1)


def _frames(flags: np.ndarray) -> str:
    """'frame 3' or 'frames 3-9, 12 (8 in all)'."""
    index = np.flatnonzero(flags)
    runs = np.split(index, np.flatnonzero(np.diff(index) > 1) + 1)
    texts = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    more = ", ..." if len(texts) > 4 else ""
    noun = "frame" if len(index) == 1 else "frames"
    return f"{noun} {', '.join(texts[:4])}{more}" + (
        f" ({len(index)} in all)" if len(runs) > 1 else ""
    )
