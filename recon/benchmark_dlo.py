"""The cable benchmark: one recording, all recordings, with a residual, against the baselines.

Protocol of the deform_dlo data: from frames 0 and 1 of an eval recording and its driven points at
every frame, all other frames are predicted open loop. Scored against the raw recordings, defects
and all. Fitted on the train files only.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physgym.errors import BlowUpError, DataError, PhysGymError
from physgym.files import write_atomically
from physgym.sim.build import build_solver
from physgym.twin import Twin
from recon.baselines import BASELINES
from recon.identify.phystwin import ROPE_SEGMENT_S, PhysTwinConfig, identify
from recon.identify.progress import Progress, RichProgress
from recon.identify.residual import ResidualConfig, fit_residual, train_members
from recon.importers import deform_dlo
from recon.metrics import deform_l1_each, error_over_horizon, free_dist_mean
from recon.predict import predict
from recon.tracks import PhysGymWarning, Tracks

__all__ = ["run_dlo"]

_ONE_RECORDING_FITS = 5
_HORIZON_S = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 4.9)


@dataclass(frozen=True)
class _Cable:
    name: str
    train: list[Tracks]
    eval: list[Tracks]
    truth: np.ndarray  # raw, (C, T, N, 3)

    @property
    def driven_index(self) -> np.ndarray:
        return self.train[0].driven_index


def run_dlo(
    data: Path, out: Path | None, *, quick: bool = False, checks: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Measure every cable in a folder.

    Args:
        data: folder with ``NAME_train.npz`` and ``NAME_eval.npz`` pairs.
        out: where the JSON goes; nowhere when None.
        quick: one recording only, no residual.
        checks: also refit with half the segment length and predict with half the substep.
        seed: of all random numbers.

    Returns:
        The figures, as in the JSON.

    Raises:
        DataError: if the folder holds no pair, or the JSON cannot be written.
    """
    progress = RichProgress()
    results: dict[str, Any] = {}
    names = _find_cables(data)
    if out is not None:
        _prepare(out)
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PhysGymWarning)  # the data's README names its defects
            cable = _load(data, name)
        progress.say(f"{name}: {len(cable.train)} train, {len(cable.eval)} eval")
        results[name] = _measure(cable, quick, checks, seed, progress)
        progress.say(_table(name, results[name]))
        if out is not None:  # after each cable, so that a long run leaves what it has
            body = json.dumps({"cables": results, "command": sys.argv[1:]}, indent=2)
            write_atomically(out, body.encode())
    return {"cables": results}


def _prepare(out: Path) -> None:
    """Refuse a place where nothing can be written, before hours of work rather than after."""
    if out.is_dir():
        raise DataError("a folder", where=f"--json {out}", expected="the name of a file")
    out.parent.mkdir(parents=True, exist_ok=True)


def _find_cables(data: Path) -> list[str]:
    names = [
        p.name.removesuffix("_train.npz")
        for p in sorted(Path(data).glob("*_train.npz"))
        if p.with_name(p.name.replace("_train.npz", "_eval.npz")).is_file()
    ]
    if not names:
        raise DataError(
            "no NAME_train.npz with a NAME_eval.npz beside it",
            where=str(data),
            expected="at least one pair",
            fix="point --data at the folder of the recordings",
        )
    return names


def _load(data: Path, name: str) -> _Cable:
    raw = deform_dlo.read_clips(data / f"{name}_eval.npz")
    recordings = deform_dlo.read(data / f"{name}_eval.npz")
    started = []
    for tracks, truth in zip(recordings, raw.positions):
        position, visible = tracks.position.copy(), tracks.visible.copy()
        # Frames 0 and 1 are given by the protocol, whatever they are.
        gaps = ~visible[:2]
        position[:2][gaps], visible[:2] = truth[:2][gaps], True
        started.append(replace(tracks, position=position, visible=visible))
    return _Cable(name, deform_dlo.read(data / f"{name}_train.npz"), started, raw.positions)


def _measure(
    cable: _Cable, quick: bool, checks: bool, seed: int, progress: Progress
) -> dict[str, Any]:
    config = PhysTwinConfig(budget="quick" if quick else "full", seed=seed, kind="rope")
    result: dict[str, Any] = {"one_recording": _one_recording(cable, config, quick, progress)}
    if not quick:
        result["all_recordings"], twin = _all_recordings(cable, config, progress)
        if checks:
            result["checks"] = _checks(cable, config, twin, progress)
    result["baselines"] = _baselines(cable, quick, seed, progress)
    return result


def _one_recording(
    cable: _Cable, config: PhysTwinConfig, quick: bool, progress: Progress
) -> dict[str, Any]:
    count = 1 if quick else _ONE_RECORDING_FITS
    picks = np.linspace(0, len(cable.train) - 1, count + 2).round().astype(int)[1:-1]
    fits = []
    for pick in np.unique(picks):
        began = time.perf_counter()
        twin = identify([cable.train[pick]], config, progress=progress)
        seconds = time.perf_counter() - began
        fits.append(
            {
                "recording": cable.train[pick].name,
                "seconds": seconds,
                **_evaluate(twin, cable),
            }
        )
    worst = max(fits, key=lambda fit: fit["deform_l1"])
    return {
        "deform_l1": float(np.median([fit["deform_l1"] for fit in fits])),
        "worst": worst["deform_l1"],
        "worst_recording": worst["recording"],
        "free_dist_mean": float(np.median([fit["free_dist_mean"] for fit in fits])),
        "seconds": float(np.median([fit["seconds"] for fit in fits])),
        "fits": fits,
    }


def _all_recordings(
    cable: _Cable, config: PhysTwinConfig, progress: Progress
) -> tuple[dict[str, Any], Twin]:
    began = time.perf_counter()
    twin = identify(cable.train, config, name=cable.name, progress=progress)
    physics_s = time.perf_counter() - began
    physics = {**_evaluate(twin, cable), "seconds": physics_s}
    corrected = fit_residual(twin, cable.train, ResidualConfig(seed=config.seed), progress=progress)
    total_s = time.perf_counter() - began
    residual = {**_evaluate(corrected, cable), "seconds": total_s}
    return {"physics": physics, "residual": residual}, twin


def _checks(
    cable: _Cable, config: PhysTwinConfig, twin: Twin, progress: Progress
) -> dict[str, float]:
    """What a score changes by when a numerical choice is halved."""
    usual = build_solver(twin).substeps(cable.eval[0].dt_s)  # type: ignore[attr-defined]
    base = _evaluate(twin, cable)["deform_l1"]
    fine = np.stack(predict(twin, cable.eval, residual=False, substeps_per_frame=2 * usual))
    halved = identify(cable.train, replace(config, segment_s=ROPE_SEGMENT_S / 2), progress=progress)
    return {
        "deform_l1": base,
        "deform_l1_half_substep": _scores(cable, fine)["deform_l1"],
        "deform_l1_half_segment": _evaluate(halved, cable)["deform_l1"],
    }


def _evaluate(twin: Twin, cable: _Cable) -> dict[str, Any]:
    """Scores of a twin; recordings that it cannot simulate are held still, and counted."""
    try:
        return {**_scores(cable, np.stack(predict(twin, cable.eval))), "blown_up": 0}
    except BlowUpError:
        pass
    usual = build_solver(twin).substeps(cable.eval[0].dt_s)  # type: ignore[attr-defined]
    guesses, blown_up = [], 0
    for tracks in cable.eval:
        try:
            guesses += predict(twin, [tracks], substeps_per_frame=4 * usual)
        except BlowUpError:
            blown_up += 1
            start = tracks.position[:2]
            hold = BASELINES["hold"](tracks.driven, start, driven_index=tracks.driven_index)
            guesses.append(hold.astype(np.float32))
    return {**_scores(cable, np.stack(guesses)), "blown_up": blown_up}


def _scores(cable: _Cable, predicted: np.ndarray) -> dict[str, Any]:
    each = deform_l1_each(predicted, cable.truth)
    horizon = error_over_horizon(predicted, cable.truth, cable.driven_index)
    dt_s = cable.eval[0].dt_s
    return {
        "deform_l1": float(each.mean()),
        "deform_l1_median": float(np.median(each)),
        "deform_l1_std": float(each.std()),
        "deform_l1_worst": float(each.max()),
        "worst_eval_recording": cable.eval[int(each.argmax())].name,
        "free_dist_mean": free_dist_mean(predicted, cable.truth, cable.driven_index),
        "free_dist_at_s": {
            str(t): float(horizon[round(t / dt_s)])
            for t in _HORIZON_S
            if round(t / dt_s) < len(horizon)
        },
    }


def _baselines(cable: _Cable, quick: bool, seed: int, progress: Progress) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, run in BASELINES.items():
        try:
            guess = np.stack(
                [
                    run(t.driven, t.position[:2], driven_index=t.driven_index, train=cable.train)
                    for t in cable.eval
                ]
            )
        except PhysGymError as error:
            progress.say(f"baseline {name} left out: {error.what}")
            continue
        rows[name] = _scores(cable, guess)["deform_l1"]
    if not quick:
        guess = _history_network(cable, seed, progress)
        rows["history_network"] = _scores(cable, guess)["deform_l1"]
    return rows


def _history_network(cable: _Cable, seed: int, progress: Progress) -> np.ndarray:
    """What a network makes of the driven points' last second alone, without any physics.

    The residual's own network, told of a straight line between the ends instead of a simulation.
    """
    from physgym.residual import apply_residual

    def lines(recordings: list[Tracks]) -> np.ndarray:
        return np.stack(
            [
                BASELINES["line"](t.driven, t.position[:2], driven_index=t.driven_index)[1:]
                for t in recordings
            ]
        ).astype(np.float32)

    first = cable.train[0]
    free = first.free_index
    length = float(np.nanmedian(_lengths(cable.train)))
    nets = train_members(
        torch.from_numpy(lines(cable.train)),
        torch.from_numpy(np.stack([t.position for t in cable.train])[:, 1:]),
        torch.as_tensor(free),
        torch.as_tensor(np.array(cable.driven_index)),
        first.dt_s,
        length,
        ResidualConfig(seed=seed),
        progress,
    )
    weights: dict[str, np.ndarray] = {
        "scale_m": np.array(length),
        "members": np.array(len(nets)),
    }
    for k, net in enumerate(nets):
        weights.update({f"{k}/{key}": v.numpy() for key, v in net.state_dict().items()})
    holder = Twin(
        name="history",
        kind="rope",
        dynamics="rod",
        method="history",
        rest_position=cable.eval[0].position[0],
        driven_index=cable.driven_index,
        parameters={},
        residual=weights,
    )
    guess = cable.truth.astype(np.float32).copy()
    learned = apply_residual(holder, lines(cable.eval), first.dt_s, start_observed=False)
    guess[:, 2:] = learned[:, 1:]
    return guess


def _lengths(recordings: list[Tracks]) -> np.ndarray:
    stacked = np.concatenate([t.position for t in recordings])
    return np.linalg.norm(np.diff(stacked, axis=1), axis=-1).sum(axis=1)


def _table(name: str, result: dict[str, Any]) -> str:
    one = result["one_recording"]
    lines = [
        f"{name} deform_l1 [m]",
        f"  one recording   {one['deform_l1']:.4f}  worst {one['worst']:.4f} "
        f"({one['worst_recording']})  {one['seconds']:.1f} s",
    ]
    for kind, row in result.get("all_recordings", {}).items():
        lines.append(
            f"  all, {kind:<10} {row['deform_l1']:.4f}  median {row['deform_l1_median']:.4f}"
            f"  {row['seconds']:.0f} s"
        )
    lines += [f"  {key:<15} {value:.4f}" for key, value in result["baselines"].items()]
    return "\n".join(lines)
