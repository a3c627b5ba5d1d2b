"""Perception: everything that was found out about one recording before any physics.

Saved as one ``.npz`` without pickles, so that fitting, predicting and scoring perceive once.
Shapes: T frames, N points, K driven points, C cameras, H W image.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.npz import read_npz, write_npz
from recon.perception.driven import GripperTrack
from recon.perception.table import Plane
from recon.tracks import Tracks

__all__ = ["FORMAT", "FORMAT_VERSION", "Kind", "Perception"]

FORMAT = "physgym-perception"
FORMAT_VERSION = 2
Kind = Literal["volume", "sheet", "rope"]


@dataclass(frozen=True, eq=False)
class Perception:
    """What was perceived of one object in one recording.

    Attributes:
        tracks: of the object only, in this order: points that were tracked; points of its surface
            that no camera saw (known at rest); points inside. ``tracks.rest_position`` is the whole
            object in frame 0. No driven points: see ``grippers`` and ``hands``.
        tracked_count: how many of the points were tracked.
        surface_count: how many are surface, the tracked ones included; what follows is inside.
        kind: what the object is.
        clouds: fused cloud of each frame [m], T arrays (M_t, 3), float32; empty where none wanted.
        grippers: recorded grippers and plates, T frames each.
        hands: points of hands that cameras followed [m], each (T, K, 3), finite.
        table: the plane that the object lies on, or None.
        cameras: that saw it.
        masks: of the object, shape (C, T, H, W), bool; None where none were kept.
        report: figures for people: counts, survival, seconds per stage. JSON values.
    """

    tracks: Tracks
    tracked_count: int
    surface_count: int
    kind: Kind
    clouds: tuple[np.ndarray, ...] = ()
    grippers: tuple[GripperTrack, ...] = ()
    hands: tuple[np.ndarray, ...] = ()
    table: Plane | None = None
    cameras: tuple[PinholeCamera, ...] = ()
    masks: np.ndarray | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, nodes = self.tracks.frame_count, self.tracks.node_count
        where = f"{self.tracks.name}: perception"
        if self.tracks.rest_position is None or len(self.tracks.driven_index):
            raise DataError("tracks without the object at rest, or with driven points", where=where)
        if not 0 <= self.tracked_count <= self.surface_count <= nodes:
            raise DataError(
                f"{self.tracked_count} tracked, {self.surface_count} surface of {nodes}",
                where=where,
                expected="0 <= tracked <= surface <= points",
            )
        lengths = {len(g.closed) for g in self.grippers} | {len(h) for h in self.hands}
        lengths |= {len(self.clouds)} if self.clouds else set()
        if lengths - {frames}:
            raise DataError(
                f"parts of {sorted(lengths)} frames", where=where, expected=f"{frames} frames"
            )

    @property
    def name(self) -> str:
        """Which recording."""
        return self.tracks.name

    @property
    def time_s(self) -> np.ndarray:
        """Stamps [s], shape (T,)."""
        return self.tracks.time_s

    @property
    def surface(self) -> np.ndarray:
        """Which points are surface, shape (N,), bool."""
        return np.arange(self.tracks.node_count) < self.surface_count

    def start_only(self) -> Perception:
        """The same with everything that only later frames tell taken away.

        What stays is what a prediction may know: the object in frame 0, and the recorded motion of
        grippers and hands over all frames.

        Returns:
            A perception of T frames whose points and clouds are known in frame 0 alone.
        """
        position = np.full_like(self.tracks.position, np.nan)
        position[0] = self.tracks.position[0]
        visible = np.zeros_like(self.tracks.visible)
        visible[0] = self.tracks.visible[0]
        nothing = np.zeros((0, 3), np.float32)
        clouds = tuple(c if t == 0 else nothing for t, c in enumerate(self.clouds))
        tracks = dataclasses.replace(self.tracks, position=position, visible=visible)
        return dataclasses.replace(self, tracks=tracks, clouds=clouds, masks=None)

    def save(self, path: str | Path) -> Path:
        """Write it, in one step.

        Args:
            path: where; must end in ``.npz``.

        Returns:
            The path, absolute.

        Raises:
            DataError: if the name does not end in ``.npz``.
        """
        return write_npz(path, self._arrays(), "Perception.save")

    @classmethod
    def load(cls, path: str | Path) -> Perception:
        """Read what `save` wrote.

        Args:
            path: the ``.npz``.

        Returns:
            The same.

        Raises:
            DataError: if the file is missing, damaged, foreign or of another version.
        """
        arrays = read_npz(path)
        if str(arrays.get("format")) != FORMAT or arrays.get("version") != FORMAT_VERSION:
            raise DataError(
                f"{arrays.get('format')} version {arrays.get('version')}",
                where=f"{path}: format",
                expected=f"{FORMAT} version {FORMAT_VERSION}",
                fix="perceive the episode again",
            )
        try:
            return _from_arrays(arrays)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise DataError(
                f"damaged: {error!r}", where=str(path), expected="a whole perception file"
            ) from error

    def _arrays(self) -> dict[str, Any]:
        tracks = self.tracks
        notes = {
            "name": tracks.name,
            "source_sha256": tracks.source_sha256,
            "radius_m": tracks.radius_m,
            "kind": self.kind,
            "tracked_count": self.tracked_count,
            "surface_count": self.surface_count,
            "cameras": [camera.to_plain() for camera in self.cameras],
            "grippers": [
                {
                    "jaw_half_m": g.jaw_half_m,
                    "tool_half_m": g.tool_half_m,
                    "tool_centre_m": g.tool_centre_m,
                    "jaws": g.jaws,
                }
                for g in self.grippers
            ],
            "table": None
            if self.table is None
            else [*map(float, self.table.normal), float(self.table.offset_m)],
            "report": dict(self.report),
        }
        arrays: dict[str, Any] = {
            "format": np.array(FORMAT),
            "version": np.array(FORMAT_VERSION),
            "notes": np.array(json.dumps(notes)),
            "time": tracks.time_s,
            "points": tracks.position,
            "visible": tracks.visible,
            "gravity": tracks.gravity,
            "rest": tracks.rest_position,
            "cloud_start": np.cumsum([0, *(len(c) for c in self.clouds)]),
            "cloud": np.concatenate([np.zeros((0, 3), np.float32), *self.clouds]),
        }
        for i, gripper in enumerate(self.grippers):
            arrays[f"gripper{i}_T"] = gripper.T_world_gripper
            arrays[f"gripper{i}_closed"] = gripper.closed
        for i, hand in enumerate(self.hands):
            arrays[f"hand{i}"] = hand
        if self.masks is not None:
            arrays["mask_shape"] = np.array(self.masks.shape)
            arrays["mask_bits"] = np.packbits(self.masks)
        return arrays


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> Perception:
    notes = json.loads(str(arrays["notes"]))
    tracks = Tracks(
        time_s=arrays["time"],
        position=arrays["points"],
        visible=arrays["visible"],
        driven_index=np.zeros(0, np.int64),
        name=notes["name"],
        gravity=arrays["gravity"],
        rest_position=arrays["rest"],
        radius_m=notes["radius_m"],
        source_sha256=notes["source_sha256"],
    )
    grippers = tuple(
        GripperTrack(
            arrays[f"gripper{i}_T"],
            arrays[f"gripper{i}_closed"],
            tuple(box["jaw_half_m"]),
            None if box["tool_half_m"] is None else tuple(box["tool_half_m"]),
            tuple(box["tool_centre_m"]),
            bool(box["jaws"]),
        )
        for i, box in enumerate(notes["grippers"])
    )
    hands = tuple(arrays[f"hand{i}"] for i in range(sum(k.startswith("hand") for k in arrays)))
    masks = None
    if "mask_bits" in arrays:
        shape = tuple(int(n) for n in arrays["mask_shape"])
        flat = np.unpackbits(arrays["mask_bits"], count=int(np.prod(shape)))
        masks = flat.reshape(shape).astype(bool)
    table = notes["table"]
    bounds = arrays["cloud_start"]
    return Perception(
        tracks=tracks,
        tracked_count=notes["tracked_count"],
        surface_count=notes["surface_count"],
        kind=notes["kind"],
        clouds=tuple(arrays["cloud"][a:b] for a, b in itertools.pairwise(bounds)),
        grippers=grippers,
        hands=hands,
        table=None if table is None else Plane(np.array(table[:3]), float(table[3])),
        cameras=tuple(PinholeCamera.from_plain(camera) for camera in notes["cameras"]),
        masks=masks,
        report=notes["report"],
    )
