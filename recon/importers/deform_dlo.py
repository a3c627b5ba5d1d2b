"""Clips of a cable moved at both ends, as one ``.npz`` per cable and split.

Keys: ``positions`` (C, T, N, 3) m, ``dt`` s, ``driven`` (K,); and where there ``clip_ids`` (C,),
``gravity`` (3,), ``rest_shape`` (N, 3). Here C counts clips. The layout is that of the DEFORM data
(Chen et al., "Differentiable Discrete Elastic Rods for Real-Time Modeling of Deformable Linear
Objects", CoRL 2024, arXiv 2406.05931) after its conversion to arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from physgym.errors import DataError
from recon import checks, defects
from recon.npz import file_sha256, npz_keys, read_npz
from recon.tracks import Tracks

__all__ = ["DloClips", "matches", "read", "read_clips"]


@dataclass(frozen=True, eq=False)
class DloClips:
    """The raw clips of one file, defects and all: what a score is measured against.

    Attributes:
        name: stem of the file.
        positions: [m], shape (C, T, N, 3), float32.
        dt_s: time between frames [s].
        driven_index: shape (K,), int64.
        clip_ids: numbers of the clips at the source, shape (C,).
        gravity: [m/s^2], shape (3,).
        rest_position: [m], shape (N, 3), or None.
        source_sha256: SHA-256 of the file.
    """

    name: str
    positions: np.ndarray
    dt_s: float
    driven_index: np.ndarray
    clip_ids: np.ndarray
    gravity: np.ndarray
    rest_position: np.ndarray | None
    source_sha256: str

    @property
    def driven(self) -> np.ndarray:
        """Driven points [m], shape (C, T, K, 3)."""
        return self.positions[:, :, self.driven_index]


def matches(path: Path) -> bool:
    """Whether a file has this layout.

    Args:
        path: any path.

    Returns:
        True when it is an ``.npz`` that holds ``positions``, ``dt`` and ``driven``.
    """
    return {"positions", "dt", "driven"} <= npz_keys(path)


def read_clips(path: str | Path) -> DloClips:
    """Read the clips as they are, without masking or repair.

    Args:
        path: the file.

    Returns:
        The clips.

    Raises:
        DataError: if the file is damaged or an array has the wrong shape.
    """
    path = Path(path).expanduser()
    arrays = read_npz(path)
    for key in ("positions", "dt", "driven"):
        if key not in arrays:
            raise DataError("an array is missing", where=f"{path}: {key}", expected="deform_dlo")
    positions = checks.numbers(arrays["positions"], ("C", "T", "N", 3), f"{path}: positions")
    clips, _, nodes = positions.shape[:3]
    dt = checks.numbers(arrays["dt"], (), f"{path}: dt")
    if not (np.isfinite(dt) and dt > 0):
        raise DataError(f"{dt}", where=f"{path}: dt", expected="seconds, more than 0")
    ids = checks.numbers(arrays.get("clip_ids", np.arange(clips)), (clips,), f"{path}: clip_ids")
    gravity = arrays.get("gravity", np.array([0.0, 0.0, -9.81]))
    rest = arrays.get("rest_shape")
    if rest is not None:
        rest = checks.numbers(rest, (nodes, 3), f"{path}: rest_shape")
    return DloClips(
        name=path.stem,
        positions=positions.astype(np.float32),
        # 0.01 stored as float32 is 0.0099999998: its shortest text is what was meant.
        dt_s=float(str(dt[()])),
        driven_index=checks.numbers(arrays["driven"], ("K",), f"{path}: driven").astype(np.int64),
        clip_ids=ids.astype(np.int64),
        gravity=checks.numbers(gravity, (3,), f"{path}: gravity").astype(np.float64),
        rest_position=rest,
        source_sha256=file_sha256(path),
    )


def read(path: Path) -> list[Tracks]:
    """Read and check every clip; what cannot be right is masked with a warning.

    Args:
        path: the file.

    Returns:
        One recording per clip, named ``STEM/clip_ID``.

    Raises:
        DataError: if the file is damaged or a clip cannot be used.
    """
    clips = read_clips(path)
    frames = clips.positions.shape[1]
    # A marker may sit wrong for a whole clip: only the other clips know the true edge lengths.
    links = defects.find_links(clips.positions.reshape(-1, *clips.positions.shape[2:]))
    recordings = []
    for position, clip in zip(clips.positions, clips.clip_ids):
        raw = checks.RawTracks(
            name=f"{clips.name}/clip_{clip}",
            where=f"{path}, clip {clip}",
            time_s=clips.dt_s * np.arange(frames),
            position=position,
            driven_index=clips.driven_index,
            gravity=clips.gravity,
            rest_position=clips.rest_position,
            source_sha256=clips.source_sha256,
        )
        recordings.append(checks.checked_tracks(raw, links=links))
    return recordings
