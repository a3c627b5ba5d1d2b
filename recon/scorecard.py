"""How good a twin is: open-loop error with the trivial baselines beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from physgym.errors import DataError, PhysGymError
from physgym.twin import Twin
from recon.baselines import BASELINES
from recon.metrics import free_dist_mean
from recon.predict import predict
from recon.tracks import Tracks

__all__ = ["score", "split"]


def split(recordings: list[Tracks], train: str) -> tuple[list[Tracks], list[Tracks]]:
    """Part recordings into what is learned from and what is held out.

    Args:
        recordings: all recordings.
        train: ``"all"``, a share such as ``"0.7"``, or ``"auto"``.

    Returns:
        Train and held-out recordings. A single recording is cut in time, several are dealt out
        evenly. Nothing is held out with ``"all"``, a share of 1, or a recording too short to cut.

    Raises:
        DataError: if the share is no number between 0 and 1, or there are no recordings.
    """
    if not recordings:
        raise DataError("no recordings", where="split", expected="at least one")
    if train == "all":
        return recordings, []
    single = len(recordings) == 1
    try:
        share = (0.7 if single else 0.8) if train == "auto" else float(train)
    except ValueError:
        share = -1.0
    if not 0.0 < share <= 1.0:
        raise DataError(
            f"{train!r}", where="--train", expected="'auto', 'all' or a share such as 0.7"
        )
    if single:
        whole = recordings[0]
        cut = round(share * whole.frame_count)
        if whole.frame_count - cut < 10 or cut < 10:
            return recordings, []
        return [whole.slice(0, cut)], [whole.slice(cut, whole.frame_count)]
    held = len(recordings) - max(1, round(share * len(recordings)))
    if share < 1.0:
        held = max(1, held)
    if held == len(recordings) - 1:  # one train recording, the middle one
        chosen = set(range(len(recordings))) - {len(recordings) // 2}
    else:
        spread = np.linspace(0, len(recordings) - 1, held + 2)[1:-1]
        chosen = set(spread.round().astype(int).tolist())
    train_part = [t for i, t in enumerate(recordings) if i not in chosen]
    return train_part, [t for i, t in enumerate(recordings) if i in chosen]


def score(twin: Twin, train: list[Tracks], held_out: list[Tracks]) -> dict[str, Any]:
    """Mean distance of the free points, open loop, twin and baselines.

    Args:
        twin: the twin.
        train: what it was made from.
        held_out: what it has not seen.

    Returns:
        JSON values for ``Twin.metrics``.
    """
    metrics: dict[str, Any] = {
        "definition": "free_dist_mean_m: mean Euclidean distance of the free points over all "
        "frames but the first two, predicted open loop from the first two frames and the driven "
        "points"
    }
    for name, part in (("train", train), ("held_out", held_out)):
        usable = [t for t in part if t.frame_count > 2 and t.visible[:2].all()]
        if not usable:
            continue
        entry: dict[str, Any] = {
            "recordings": len(usable),
            "seconds": float(sum(t.time_s[-1] - t.time_s[0] for t in usable)),
            "free_dist_mean_m": _mean(predict(twin, usable), usable),
            "baselines_free_dist_mean_m": {},
        }
        if twin.residual:
            entry["physics_free_dist_mean_m"] = _mean(predict(twin, usable, residual=False), usable)
        for baseline, run in BASELINES.items():
            try:
                guesses = [
                    run(t.driven, t.position[:2], driven_index=t.driven_index, train=train)
                    for t in usable
                ]
            except PhysGymError:
                continue  # a baseline for another kind of object
            entry["baselines_free_dist_mean_m"][baseline] = _mean(guesses, usable)
        metrics[name] = entry
    return metrics


def _mean(predicted: list[np.ndarray], recordings: list[Tracks]) -> float:
    weights = [t.frame_count - 2 for t in recordings]
    errors = [free_dist_mean(p, t.position, t.driven_index) for p, t in zip(predicted, recordings)]
    return float(np.average(errors, weights=weights))
