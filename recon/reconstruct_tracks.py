"""From tracks to a twin of springs or a rod: what `physgym reconstruct` does with them."""

from __future__ import annotations

import hashlib
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physgym.errors import BlowUpError

if TYPE_CHECKING:
    from physgym.twin import Twin
    from recon.identify.phystwin import PhysTwinConfig
    from recon.identify.progress import Progress
    from recon.tracks import Tracks

__all__ = ["reconstruct_tracks"]


def reconstruct_tracks(
    train: list[Tracks],
    held_out: list[Tracks],
    out: Path,
    config: PhysTwinConfig,
    *,
    residual: bool = False,
    resume: bool = False,
    progress: Progress,
) -> Twin:
    """Identify, learn a residual, score; saved after each.

    Whatever goes wrong later costs that part only.

    Args:
        train: recordings of one object to learn from.
        held_out: others of it, to score with.
        out: where the twin goes; ``OUT.run`` keeps what a run that is cut off goes on with.
        config: what is identified.
        residual: also learn a residual on top of the physics.
        resume: go on with the run in ``OUT.run``.
        progress: told about every step.

    Returns:
        The twin, with metrics.

    Raises:
        PhysGymError: if the recordings or the configuration cannot be used.
    """
    twin = _identified(train, out, config, resume, progress)
    if residual:
        twin = _with_residual(twin, train, progress)
        twin.save(out)
    twin = twin.replace(metrics=_metrics(twin, train, held_out))
    twin.save(out)
    return twin


def _identified(
    train: list[Tracks], out: Path, config: PhysTwinConfig, resume: bool, progress: Progress
) -> Twin:
    """The physics, saved; the run folder stays when there is something to go on with."""
    from recon.identify.phystwin import identify
    from recon.job_folder import drop_job_folder, job_folder

    job = _Job(
        "phystwin", config.budget, config.seed, config.linear_density_kg_per_m,
        _fingerprint(train), config.kind, config.mass_kg, config.ground_height_m,
    )  # fmt: skip
    with job_folder(out, job, resume=resume) as run:
        twin = identify(train, config, name=out.name, progress=progress, run=run)
    command = " ".join(sys.argv[1:])
    twin = twin.replace(provenance={**twin.provenance, "command": command})
    twin.save(out)
    if not twin.provenance["stopped_early"]:
        drop_job_folder(out)
    return twin


@dataclass(frozen=True)
class _Job:
    """What must be the same when a run is resumed."""

    method: str
    budget: str
    seed: int
    density: float
    train_sha256: str
    kind: str
    mass: float | None
    ground: float | None


def _fingerprint(recordings: list[Tracks]) -> str:
    digest = hashlib.sha256()
    for tracks in recordings:
        digest.update(tracks.position.tobytes() + tracks.time_s.tobytes())
    return digest.hexdigest()


def _with_residual(twin: Twin, train: list[Tracks], progress: Progress) -> Twin:
    from recon.identify.residual import fit_residual

    try:
        return fit_residual(twin, train, progress=progress)
    except KeyboardInterrupt:
        progress.say("stopped: the twin stays without a residual")
        return twin.replace(provenance={**twin.provenance, "stopped_early": True})


def _metrics(twin: Twin, train: list[Tracks], held_out: list[Tracks]) -> dict[str, Any]:
    from recon.scorecard import score
    from recon.tracks import PhysGymWarning

    try:
        return score(twin, train, held_out)
    except BlowUpError as error:
        warnings.warn(f"the twin is not scored: {error}", PhysGymWarning, stacklevel=2)
        return {}
