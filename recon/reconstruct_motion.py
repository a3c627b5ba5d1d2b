"""From tracks to a continuum twin: what `physgym reconstruct --method mosa` does with them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physgym.errors import DataError

if TYPE_CHECKING:
    from physgym.twin import Twin
    from recon.identify.mosa_config import MosaConfig
    from recon.identify.motion import Motion
    from recon.identify.progress import Progress
    from recon.tracks import Tracks

__all__ = ["MotionJob", "motions_of_tracks", "reconstruct_motion"]


@dataclass(frozen=True)
class MotionJob:
    """What must be the same when a run is resumed."""

    config: str
    motion_sha256: str

    @classmethod
    def of(cls, config: MosaConfig, motions: list[Motion]) -> MotionJob:
        """From a configuration and what it is used on."""
        digest = hashlib.sha256()
        for motion in motions:
            digest.update(motion.position.tobytes() + motion.rest.tobytes())
            digest.update(repr((motion.dt_s, motion.ground, motion.gravity)).encode())
        return cls(json.dumps(dataclasses.asdict(config)), digest.hexdigest())


def motions_of_tracks(recordings: list[Tracks], *, ground_m: float | None) -> list[Motion]:
    """Motions of one body; points of all recordings are the same points.

    Args:
        recordings: of one object.
        ground_m: height of a level ground, or None.

    Returns:
        A motion of each. Where no rest position is given, it is the first frame of the first.

    Raises:
        DataError: if recordings have different points.
    """
    from physgym.sim.contact import GroundPlane
    from recon.identify.motion import Motion

    ground = None if ground_m is None else GroundPlane(offset_m=ground_m)
    first = recordings[0]
    if len(recordings) > 1 and first.rest_position is None:
        if not first.visible[0].all():
            raise DataError(
                "points are missing in the first frame of the first recording",
                where=f"{first.name}: frame 0",
                expected="all points, since it is the body at rest of all recordings",
                fix="give a rest position, or cut the recording (Tracks.slice)",
            )
        rest = first.position[0]
        for tracks in recordings:
            if tracks.node_count != first.node_count:
                raise DataError(
                    f"{tracks.node_count} points, {first.node_count} in the first recording",
                    where=tracks.name,
                    expected="the same points in the same order",
                    fix="reconstruct each recording by itself",
                )
        recordings = [dataclasses.replace(t, rest_position=rest) for t in recordings]
    return [Motion.from_tracks(tracks, ground=ground) for tracks in recordings]


def reconstruct_motion(
    recordings: list[Tracks],
    out: Path,
    config: MosaConfig,
    *,
    train: str = "auto",
    ground_m: float | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Twin:
    """Identify, save, score, save again.

    A single recording is cut in time, as episodes are; of several, some are held out as a whole.

    Args:
        recordings: of one object.
        out: where the twin goes; ``OUT.run`` keeps what a run that is cut off goes on with.
        config: what is identified; its ``train_share`` is replaced by ``train``.
        train: ``"auto"``, ``"all"`` or a share.
        ground_m: height of a level ground, or None.
        resume: go on with the run in ``OUT.run``.
        progress: told about every step.

    Returns:
        The twin, with metrics.

    Raises:
        PhysGymError: if the recordings or the configuration cannot be used.
    """
    from recon.identify.mosa import identify_motion
    from recon.job_folder import drop_job_folder, job_folder

    motions = motions_of_tracks(recordings, ground_m=ground_m)
    share, learned, unseen = _parted(motions, train)
    config = dataclasses.replace(config, train_share=share)
    with job_folder(out, MotionJob.of(config, learned), resume=resume) as run:
        twin = identify_motion(learned, config, name=out.name, progress=progress, run=run)
    command = " ".join(sys.argv[1:])
    twin = twin.replace(provenance={**twin.provenance, "command": command})
    twin.save(out)
    if not twin.provenance["stopped_early"]:
        drop_job_folder(out)
    twin = twin.replace(metrics=_metrics(twin, learned, unseen))
    twin.save(out)
    return twin


def _parted(motions: list[Motion], train: str) -> tuple[float, list[Motion], list[Motion]]:
    """Share of the frames that is learned from, motions to learn from, and unseen ones."""
    named = {"auto": 0.7 if len(motions) == 1 else 0.8, "all": 1.0}
    try:
        share = named[train] if train in named else float(train)
    except ValueError:
        share = 0.0
    if not 0.05 <= share <= 1.0:
        raise DataError(f"--train {train}", where="reconstruct", expected="auto, all, or 0.05 to 1")
    if len(motions) == 1:
        return share, motions, []
    count = (
        len(motions) if share == 1.0 else max(1, min(len(motions) - 1, round(share * len(motions))))
    )
    return 1.0, motions[:count], motions[count:]


def _metrics(twin: Twin, learned: list[Motion], unseen: list[Motion]) -> dict[str, Any]:
    from recon.score_motion import score_motion

    stop = int(twin.provenance["train"]["train_stop_frame"]) if len(learned) == 1 else None
    made = score_motion(twin, learned[0], stop if stop is not None else learned[0].frame_count)
    if unseen:
        made["unseen"] = [score_motion(twin, motion, None) for motion in unseen]
    return made
