"""What a live recording says of itself: per camera, what was kept and what became of the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["CameraRecord", "Outage", "RecordingReport"]


class Outage(NamedTuple):
    """A time in which a camera sent nothing: stamps of the images before and after [s]."""

    from_s: float
    to_s: float


@dataclass(frozen=True)
class CameraRecord:
    """One camera of a live recording.

    Attributes:
        frames: pictures in the episode.
        received: colour images that came.
        missing: frames that the clock says never came: gaps between the stamps.
        overflowed: images dropped because the queue was full: disk or processor were too slow.
        unpaired: images whose partner (colour or depth) never came.
        unplaced: pictures dropped, or still held, because the camera's place is not known.
        refused: images that cannot be used.
        reason: what was wrong with the last of them.
        silent_s: how long it has sent nothing [s]; 0 while it runs.
        last_stamp_s: stamp of its last colour image [s].
        outages: times in which it sent nothing.
    """

    frames: int
    received: int
    missing: int
    overflowed: int
    unpaired: int
    unplaced: int
    refused: int
    reason: str
    silent_s: float
    last_stamp_s: float
    outages: tuple[Outage, ...]

    @property
    def problem(self) -> str:
        """What is wrong now, in words; empty for nothing."""
        said = []
        if self.silent_s:
            since = f"since its image of {self.last_stamp_s:.3f} s" if self.received else "ever"
            said.append(f"it has sent nothing for {self.silent_s:.1f} s ({since})")
        if self.received and not self.frames and self.unpaired + self.overflowed:
            said.append("no colour image found its depth: is aligned depth published?")
        for count, what in (
            (self.refused, f"images cannot be used ({self.reason})"),
            (self.unplaced, "pictures wait for its place (/tf_static)"),
            (
                self.overflowed,
                "images were lost: writing is too slow (disk or processor; try compress: false)",
            ),
            (self.missing, "frames never came"),
            (self.unpaired, "images found no partner"),
        ):
            if count:
                said.append(f"{count} {what}")
        return "; ".join(said)


@dataclass(frozen=True)
class RecordingReport:
    """A live recording so far.

    Attributes:
        path: the episode's folder.
        duration_s: since the start [s].
        cameras: by name.
        motion: messages kept of grippers, plates and joints.
        motion_refused: what was wrong with those that were not, by topic.
        waiting: images in the queue.
        bytes_written: of messages, before compression.
        problem: why nothing more is recorded; empty while all is well.
    """

    path: Path
    duration_s: float
    cameras: Mapping[str, CameraRecord]
    motion: Mapping[str, int]
    motion_refused: Mapping[str, str]
    waiting: int
    bytes_written: int
    problem: str

    @property
    def frames(self) -> dict[str, int]:
        """Pictures in the episode by camera."""
        return {name: record.frames for name, record in self.cameras.items()}

    def problems(self) -> list[str]:
        """One sentence for each thing that is wrong."""
        said = [self.problem] if self.problem else []
        said += [f"{name}: {r.problem}" for name, r in self.cameras.items() if r.problem]
        return said + [f"{topic}: {why}" for topic, why in self.motion_refused.items()]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "episode": str(self.path),
            "duration_s": round(self.duration_s, 3),
            "frames": self.frames,
            "motion": dict(self.motion),
            "problems": self.problems(),
            "cameras": {name: dataclasses.asdict(one) for name, one in self.cameras.items()},
        }
