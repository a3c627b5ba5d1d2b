"""Tracks: what perception made of a recording, one object, one clock.

A tracks file is one ``.npz`` without pickles. Keys: ``time`` (T,) s, ``points`` (T, N, 3) m,
``visible`` (T, N), ``driven_index`` (K,), ``gravity`` (3,) m/s^2, and where known ``rest`` (N, 3) m
and ``radius`` m; ``format``, ``version``, ``name`` and ``source_sha256`` say what it is. A generic
tracks file of somebody else's needs ``time`` and ``points`` only
(`recon.importers.tracks_npz`).
Shapes: T frames, N points, K driven points.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from physgym.errors import DataError
from recon.npz import number_array, read_npz, write_npz

__all__ = ["FORMAT", "FORMAT_VERSION", "PhysGymWarning", "Tracks", "checked_time"]

FORMAT = "physgym-tracks"
FORMAT_VERSION = 1
# Stamps may wander by this share of a frame before a clip stops counting as uniform: at 2 m/s and
# 100 Hz that is 0.4 mm, the size of the marker noise.
_JITTER_FRAMES = 0.02


class PhysGymWarning(UserWarning):
    """Something in a recording was masked, repaired or looks odd; work goes on."""


@dataclass(frozen=True, eq=False)
class Tracks:
    """Positions of the points of one object over time.

    Arrays are copied and made read-only. A point that was not seen has NaN for its position.

    Attributes:
        time_s: stamps [s], shape (T,), float64, strictly increasing.
        position: [m], shape (T, N, 3), float32; NaN where not seen.
        visible: whether a point was seen, shape (T, N), bool.
        driven_index: nodes whose motion is given at all times, shape (K,), int64.
        name: which recording this is.
        gravity: [m/s^2], shape (3,), float64.
        rest_position: the object at rest [m], shape (N, 3), float32, or None.
        radius_m: radius of a rope or half the thickness of a sheet [m], or None.
        source_sha256: SHA-256 of the file that it came from; empty when it came from none.
    """

    time_s: np.ndarray
    position: np.ndarray
    visible: np.ndarray
    driven_index: np.ndarray
    name: str
    gravity: np.ndarray = dataclasses.field(default_factory=lambda: np.array([0.0, 0.0, -9.81]))
    rest_position: np.ndarray | None = None
    radius_m: float | None = None
    source_sha256: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise DataError(f"name is {self.name!r}", where="tracks: name", expected="a text")
        position = number_array(self.position, np.float32, ("T", "N", 3), f"{self.name}: position")
        frames, nodes = position.shape[:2]
        visible = number_array(self.visible, np.bool_, (frames, nodes), f"{self.name}: visible")
        time = checked_time(self.time_s, self.name, frames)
        if nodes == 0:
            raise DataError("no points", where=f"{self.name}: position", expected="N > 0")
        index = _checked_driven(self.driven_index, nodes, self.name)
        _check_seen(position, visible, index, self.name)
        position[~visible] = np.nan
        gravity = number_array(self.gravity, np.float64, (3,), f"{self.name}: gravity")
        rest = None
        if self.rest_position is not None:
            rest = number_array(
                self.rest_position, np.float32, (nodes, 3), f"{self.name}: rest_position"
            )
        for key, value in (("gravity", gravity), ("rest_position", rest)):
            if value is not None and not np.isfinite(value).all():
                raise DataError("not finite", where=f"{self.name}: {key}", expected="SI numbers")
        if self.radius_m is not None and not (np.isfinite(self.radius_m) and self.radius_m > 0):
            raise DataError(
                f"{self.radius_m}", where=f"{self.name}: radius_m", expected="metres, more than 0"
            )
        checked = {
            "time_s": time,
            "position": position,
            "visible": visible,
            "driven_index": index,
            "gravity": gravity,
            "rest_position": rest,
        }
        for key, value in checked.items():
            if value is not None:
                value.setflags(write=False)
            object.__setattr__(self, key, value)

    @property
    def frame_count(self) -> int:
        """T, the number of frames."""
        return int(self.position.shape[0])

    @property
    def node_count(self) -> int:
        """N, the number of points."""
        return int(self.position.shape[1])

    @property
    def driven(self) -> np.ndarray:
        """Positions of the driven points [m], shape (T, K, 3), float32."""
        return self.position[:, self.driven_index]

    @property
    def free_index(self) -> np.ndarray:
        """The nodes that are not driven, shape (N - K,), int64."""
        return np.setdiff1d(np.arange(self.node_count), self.driven_index)

    @property
    def dt_s(self) -> float:
        """Time between frames [s].

        Raises:
            DataError: if the stamps are not evenly spaced, or there is one frame only.
        """
        if self.frame_count < 2:
            raise DataError("one frame has no dt", where=f"{self.name}: time_s", expected="T > 1")
        dt = float(self.time_s[-1] - self.time_s[0]) / (self.frame_count - 1)
        off = np.abs(self.time_s - (self.time_s[0] + dt * np.arange(self.frame_count)))
        if off.max() > _JITTER_FRAMES * dt:
            raise DataError(
                f"a stamp is {1e3 * off.max():.2f} ms off an even clock of {1e3 * dt:.2f} ms",
                where=f"{self.name}: time_s, frame {int(off.argmax())}",
                expected=f"at most {_JITTER_FRAMES:.0%} of a frame",
                fix="load it with recon.importers.load_recordings, which resamples",
            )
        return dt

    def slice(self, start: int, stop: int) -> Tracks:
        """The frames from ``start`` up to, not including, ``stop``.

        Args:
            start: first frame.
            stop: one past the last frame.

        Returns:
            New Tracks with the same stamps, name and source.

        Raises:
            DataError: if that is not a range of at least one frame inside the clip.
        """
        if not 0 <= start < stop <= self.frame_count:
            raise DataError(
                f"frames {start} to {stop}",
                where=f"{self.name}: slice",
                expected=f"0 <= start < stop <= {self.frame_count}",
            )
        return dataclasses.replace(
            self,
            time_s=self.time_s[start:stop],
            position=self.position[start:stop],
            visible=self.visible[start:stop],
        )

    def save(self, path: str | Path) -> Path:
        """Write a tracks file, in one step: the old file or the whole new one, never half.

        Args:
            path: where; must end in ``.npz``.

        Returns:
            The path, absolute.

        Raises:
            DataError: if the name does not end in ``.npz``.
        """
        arrays: dict[str, Any] = {
            "format": np.array(FORMAT),
            "version": np.array(FORMAT_VERSION),
            "name": np.array(self.name),
            "source_sha256": np.array(self.source_sha256),
            "time": self.time_s,
            "points": self.position,
            "visible": self.visible,
            "driven_index": self.driven_index,
            "gravity": self.gravity,
        }
        if self.rest_position is not None:
            arrays["rest"] = self.rest_position
        if self.radius_m is not None:
            arrays["radius"] = np.array(self.radius_m)
        return write_npz(path, arrays, "Tracks.save")

    @classmethod
    def load(cls, path: str | Path) -> Tracks:
        """Read a file that `save` wrote.

        Args:
            path: the ``.npz``.

        Returns:
            The tracks, equal to what was saved.

        Raises:
            DataError: if the file is missing, damaged, foreign or of another version.
        """
        path = Path(path).expanduser()
        arrays = read_npz(path)
        if str(arrays.get("format")) != FORMAT:
            raise DataError(
                "not a PhysGym tracks file",
                where=f"{path}: format",
                expected=FORMAT,
                fix="read other layouts with recon.importers.load_recordings",
            )
        if arrays.get("version") != FORMAT_VERSION:
            raise DataError(
                f"format version {arrays.get('version')}",
                where=f"{path}: version",
                expected=str(FORMAT_VERSION),
                fix="use the PhysGym that wrote it",
            )
        needed = ("name", "source_sha256", "time", "points", "visible", "driven_index", "gravity")
        for key in needed:
            if key not in arrays:
                raise DataError("an array is missing", where=f"{path}: {key}", expected=str(needed))
        return cls(
            time_s=arrays["time"],
            position=arrays["points"],
            visible=arrays["visible"],
            driven_index=arrays["driven_index"],
            name=str(arrays["name"]),
            gravity=arrays["gravity"],
            rest_position=arrays.get("rest"),
            radius_m=float(arrays["radius"]) if "radius" in arrays else None,
            source_sha256=str(arrays["source_sha256"]),
        )


def checked_time(value: Any, name: str, frames: int) -> np.ndarray:
    """Stamps that increase, one per frame.

    Args:
        value: anything.
        name: of the recording, for messages.
        frames: T.

    Returns:
        [s], shape (T,), float64, writable.

    Raises:
        DataError: if the shape is wrong, a stamp is missing or time does not go forward.
    """
    time = number_array(value, np.float64, ("T",), f"{name}: time_s")
    if len(time) != frames or frames == 0:
        raise DataError(
            f"{len(time)} stamps for {frames} frames",
            where=f"{name}: time_s",
            expected="one stamp per frame, and frames",
        )
    if not np.isfinite(time).all():
        frame = int(np.argmin(np.isfinite(time)))
        raise DataError("no stamp", where=f"{name}: time_s, frame {frame}", expected="seconds")
    step = np.diff(time)
    if (step <= 0).any():
        frame = int(np.argmax(step <= 0)) + 1
        what = "two frames have one stamp" if step[frame - 1] == 0 else "time goes back"
        raise DataError(
            f"{what}: {time[frame - 1]:.6f} s, then {time[frame]:.6f} s",
            where=f"{name}: time_s, frame {frame}",
            expected="stamps that increase",
            fix="drop the doubled frame, or sort the frames by the sensor's own clock",
        )
    return time


def _checked_driven(value: Any, nodes: int, name: str) -> np.ndarray:
    where = f"{name}: driven_index"
    given = np.asarray(value)
    if given.size and given.dtype.kind not in "iu":
        raise DataError(f"dtype {given.dtype}", where=where, expected="integers, shape (K,)")
    index = number_array(given, np.int64, ("K",), where)
    if index.size and (index.min() < 0 or index.max() >= nodes):
        raise DataError(
            f"indices from {index.min()} to {index.max()}",
            where=where,
            expected=f"0 to {nodes - 1}",
        )
    if len(np.unique(index)) != len(index):
        raise DataError("an index stands twice", where=where, expected="each node once")
    return index


def _check_seen(position: np.ndarray, visible: np.ndarray, driven: np.ndarray, name: str) -> None:
    lost = np.argwhere(visible & ~np.isfinite(position).all(-1))
    if len(lost):
        frame, node = (int(number) for number in lost[0])
        raise DataError(
            "a point counts as seen but has no position",
            where=f"{name}: position, frame {frame}, node {node}",
            expected="finite metres, or visible = False",
        )
    hidden = np.argwhere(~visible[:, driven])
    if len(hidden):
        frame, node = int(hidden[0, 0]), int(driven[hidden[0, 1]])
        raise DataError(
            f"a driven point was not seen ({len(hidden)} samples in all)",
            where=f"{name}: position, frame {frame}, node {node}",
            expected="driven points known at all times",
            fix="cut the recording there, or fill the gap from the robot's own joint states",
        )
