"""Where the dynamic stage of Spring-Gaus starts: scans of stiffness, damping and where it is stiff.

Shapes: A anchors, M points of a scan.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from physgym.errors import BlowUpError
from recon.identify.anchor_rollouts import AnchorBody, AnchorRollouts
from recon.identify.spring_gaus_dynamic import Dynamics
from recon.tracks import PhysGymWarning

__all__ = ["ramped_values", "refined", "scanned_start", "start_values"]

_SCAN = 9
_SOFTEST, _STIFFEST = 3.0, 5000.0  # Young's modulus over the pressure of the body's own weight
_DAMPING_RATIOS = (0.05, 0.3, 1.0)  # of the lowest mode: rubber, foam, foam that does not rebound
_AS_GOOD = 1.05  # of the lowest loss: images that were fitted tell no more
_FRICTION, _RESTITUTION = 0.5, 0.02
_PHI = -1.0  # as the authors start
_FINER = (1.0, 0.4)  # parts of the steps below, round by round
_STEPS = {
    "log_stiffness": 0.35, "log_dashpot": 0.6, "log_friction": 0.9, "log_grip": 1.2, "ramp": 0.5,
}  # fmt: skip
_GAIN = 0.99  # of the loss: what is less is no reason to move
_WORTH = 0.5  # of what nothing can fit: an even body that leaves less needs no ramp
_RAMPS = (-1.5, -0.7, 0.7, 1.5)  # log stiffness at the far end; less at the near one
_AROUND = ((0.0, 0.0), (0.0, -1.2), (0.7, 0.0))  # added to log stiffness and log dashpot
_BETTER = 0.7  # of what an even body leaves in held-out frames: a ramp must show there
_NOT_FAR = 1.3  # of the lowest loss: even bodies that ramps start from too
_MOST_AT_ONCE = 3  # values that are moved together
_THIN = 3.0  # spacings of anchors: a body that is thinner has no ends


def start_values(rollouts: AnchorRollouts) -> dict[str, np.ndarray]:
    """What the scan starts from, as stiff as a body of this weight and size may be.

    An isotropic network with energy ``k l (strain)^2 / 2`` per spring has Young's modulus
    ``E = sum(k l) / (6 V)`` (nu = 1/4), from the mean of n^4 over directions.

    Args:
        rollouts: of the body.

    Returns:
        Values by name; ``log_stiffness`` and ``log_dashpot`` of every point of the scan.
    """
    body = rollouts.body
    kappa = torch.zeros(())
    one = body.springs.stiffness(torch.zeros(1), kappa).numpy()
    area = float(one @ body.springs.rest_length_m) / 6.0  # E V of k = 1 N [J]
    pull = max(float(np.linalg.norm(body.gravity)), 9.81)
    modulus = np.geomspace(_SOFTEST, _STIFFEST, _SCAN)
    # E V = modulus * (m g / size^2) * size^3: density times g times size is the pressure.
    stiffness = modulus * body.mass_kg * pull * body.size_m / area
    wave = np.sqrt(stiffness * area / body.mass_kg)  # sqrt(E / rho) [m/s]
    omega = math.pi * wave / body.size_m
    length = float(np.median(body.springs.rest_length_m))
    each = 2.0 / omega * stiffness / length * float(one.mean())  # of a damping ratio of 1
    dashpot = np.concatenate([ratio * each for ratio in _DAMPING_RATIOS])
    stiffness = np.tile(stiffness, len(_DAMPING_RATIOS))
    return {
        "log_stiffness": np.log(stiffness),
        "log_dashpot": np.log(dashpot),
        "offset": np.zeros(len(body.anchors)),
        "kappa": np.zeros(()),
        "log_friction": np.array(math.log(_FRICTION)),
        "logit_restitution": np.array(math.log(_RESTITUTION / (1.0 - _RESTITUTION))),
        "phi": np.array(_PHI),
        "log_grip": np.zeros(()),
    }


def ramped_values(even: dict[str, np.ndarray], body: AnchorBody) -> dict[str, np.ndarray]:
    """Bodies that grow stiffer along one of their principal axes.

    Descent from an even body ends in the nearest minimum, which may be stiff on the wrong side: a
    soft foot and a soft head rebound alike for a frame or two.

    Args:
        even: values of an even body.
        body: its anchors.

    Returns:
        Values of all points of the scan: ``log_stiffness`` and ``log_dashpot``, shape (M,), and
        ``offset``, shape (M, A); M is zero for a body without ends.
    """
    at = body.anchors - body.anchors.mean(axis=0)
    along = at @ np.linalg.svd(at, full_matrices=False)[2].T  # (A, 3)
    half = 0.5 * np.ptp(along, axis=0)
    points: list[np.ndarray] = []
    around: list[tuple[float, float]] = []
    for axis in np.flatnonzero(2.0 * half > _THIN * body.spacing_m):
        for ramp in _RAMPS:
            points += [ramp * along[:, axis] / half[axis]] * len(_AROUND)
            around += _AROUND
    more = np.array(around).reshape(-1, 2)
    return {
        **even,
        "log_stiffness": even["log_stiffness"] + more[:, 0],
        "log_dashpot": even["log_dashpot"] + more[:, 1],
        "offset": np.array(points).reshape(-1, len(at)),
    }


def refined(
    dynamics: Dynamics, best: dict[str, np.ndarray], loss: float, frames: Sequence[int]
) -> tuple[dict[str, np.ndarray], float]:
    """A pattern search around values: stiffness, damping, friction, grip, how steep a ramp is.

    Without it a ramp would win against an even body that nobody had fitted.

    Args:
        dynamics: of the body.
        best: values to start from.
        loss: of them.
        frames: that count.

    Returns:
        Values and their loss, never worse.
    """
    names = [k for k in _STEPS if k not in ("ramp", *dynamics.idle)]
    names += ["ramp"] if best["offset"].any() else []
    every = np.array(list(product((-1.0, 0.0, 1.0), repeat=len(names))))
    moved = np.count_nonzero(every, axis=1)
    alone = every[moved == 1]
    together = every[(moved > 1) & ((moved <= 2) | (len(names) <= _MOST_AT_ONCE))]
    for part in _FINER:
        points = _moved(best, names, part * alone)
        losses = dynamics.scan(points, frames, (2.0 - _GAIN) * loss)
        # What makes no difference by itself is not tried with others: half of all points, where
        # a body that is only carried along shows no friction.
        told = np.abs(losses - loss) > (1.0 - _GAIN) * loss
        mute = ~(told[:, None] & (alone != 0.0)).any(axis=0)
        there, less = _better(dynamics, best, loss, points, losses)
        some = together[~(together[:, mute] != 0.0).any(axis=1)]
        points = _moved(best, names, part * some)
        losses = dynamics.scan(points, frames, min(_GAIN * loss, less), lowest_only=True)
        if losses.min(initial=np.inf) < less:
            there, less = _better(dynamics, best, loss, points, losses)
        if there is not best and mute.any():
            # A body that is softer now may show what it did not.
            again = alone[(alone[:, mute] != 0.0).any(axis=1)]
            points = _moved(there, names, part * again)
            losses = dynamics.scan(points, frames, _GAIN * less, lowest_only=True)
            there, less = _better(dynamics, there, less, points, losses)
        best, loss = there, less
    return best, loss


def _better(
    dynamics: Dynamics,
    best: dict[str, np.ndarray],
    loss: float,
    points: dict[str, np.ndarray],
    losses: np.ndarray,
) -> tuple[dict[str, np.ndarray], float]:
    """The lowest of a scan and its loss, or those given where it is no reason to move."""
    lowest = int(np.argmin(losses)) if len(losses) else 0
    if losses.min(initial=np.inf) < _GAIN * loss:
        return dynamics.at(points, lowest), float(losses[lowest])
    return best, loss


def _moved(
    best: dict[str, np.ndarray], names: Sequence[str], steps: np.ndarray
) -> dict[str, np.ndarray]:
    """Values of a scan around some: each row of steps by name, in units of `_STEPS`."""
    move = {k: _STEPS[k] * steps[:, i] for i, k in enumerate(names)}  # of logarithms
    ramp = np.exp(move.pop("ramp", np.zeros(len(steps))))
    points = {**best, **{k: best[k] + by for k, by in move.items()}}
    points["offset"] = ramp[:, None] * best["offset"]
    return points


def scanned_start(
    dynamics: Dynamics,
    velocity_m_per_s: np.ndarray,
    frames: Sequence[int],
    *,
    held_out: Sequence[int],
    still: Sequence[int],
    per_anchor: bool,
    name: str,
) -> tuple[dict[str, np.ndarray], dict[str, float], float]:
    """The best of nine stiffnesses with three dampings each, refined, then of ramps around it.

    Args:
        dynamics: of the body.
        velocity_m_per_s: at the start, shape (3,).
        frames: that count.
        held_out: later ones, which tell whether a ramp is true.
        still: frames before the contact, in which nothing has changed its shape: what of them is
            not fitted no stiffness can fit.
        per_anchor: a body may be stiffer at one end.
        name: of the video, for a warning.

    Returns:
        Values by name, losses of the first scan by what was tried, and the loss of the values.

    Raises:
        BlowUpError: if no stiffness can be simulated.
    """
    start = start_values(dynamics.rollouts)
    start["velocity"] = velocity_m_per_s
    losses = _scanned(dynamics, start, frames)
    stiffness, dashpot = np.exp(start["log_stiffness"]), np.exp(start["log_dashpot"])
    scanned = {f"{k:.4g} N, {d:.2g} N s/m": float(v) for k, d, v in zip(stiffness, dashpot, losses)}
    if not np.isfinite(losses).any():
        raise BlowUpError(
            "no stiffness of the scan can be simulated",
            world=0, node=0, substep=0,
            fix="check the table, the grippers' motion and the scale of the cameras' poses",
        )  # fmt: skip
    best = _most_damped(losses)
    _warn_at_the_ends(stiffness, best, name)
    even, loss = refined(dynamics, dynamics.at(start, best), float(losses[best]), frames)
    others = [dynamics.at(start, i) for i in _other_dampings(losses, best)]
    floor = dynamics.loss_of(even, still)
    if not per_anchor or loss < (1.0 + _WORTH) * floor:
        return even, scanned, loss
    found = [(even, loss)]
    for values in (even, *others):
        ramped = ramped_values(values, dynamics.rollouts.body)
        if len(ramped["offset"]):
            losses = dynamics.scan(ramped, frames, lowest_only=True)
            lowest = int(np.argmin(losses))
            values = dynamics.at(ramped, lowest)
            found.append(refined(dynamics, values, float(losses[lowest]), frames))
    ramp, steep = min(found[1:], key=lambda item: item[1], default=found[0])
    left = [dynamics.loss_of(values, held_out) - floor for values in (even, ramp)]
    return (ramp, scanned, steep) if left[1] < _BETTER * left[0] else (even, scanned, loss)


def _scanned(dynamics: Dynamics, start: dict[str, np.ndarray], frames: Sequence[int]) -> np.ndarray:
    """Losses from soft to stiff, until they have been high twice: stiff bodies take longest."""
    count = len(start["log_stiffness"]) // len(_DAMPING_RATIOS)
    made = np.full((len(_DAMPING_RATIOS), count), np.inf)
    column = count * np.arange(len(made))
    for k in range(count):
        some = {n: start[n][column + k] for n in ("log_stiffness", "log_dashpot")}
        made[:, k] = dynamics.scan({**start, **some}, frames)
        if k > 1 and (made[:, k - 1 : k + 1].min(axis=0) > _NOT_FAR * made.min()).all():
            break
    return made.ravel()


def _other_dampings(losses: np.ndarray, best: int) -> list[int]:
    """The best stiffness at every other damping that is not far behind.

    Even bodies fit a body of two stiffnesses badly, the stiff and damped ones as badly as soft and
    springy ones, and the ramp that is true starts from either.
    """
    by_ratio = losses.reshape(len(_DAMPING_RATIOS), -1)
    count = by_ratio.shape[1]
    near = by_ratio.min(axis=1) < _NOT_FAR * losses[best]
    stiffness = by_ratio.argmin(axis=1)
    near &= stiffness != best % count  # the same body but for its damping is a step of the search
    return [int(r) * count + int(stiffness[r]) for r in np.flatnonzero(near)]


def _most_damped(losses: np.ndarray) -> int:
    """The best point among the most damped ones that are as good as the best of all.

    A body that only hangs and moves along shows no damping; what it does later, when it is dropped,
    is then safer to predict as foam than as rubber.
    """
    by_ratio = losses.reshape(len(_DAMPING_RATIOS), -1)
    good = by_ratio.min(axis=1) <= _AS_GOOD * by_ratio.min()
    ratio = int(np.flatnonzero(good)[-1])
    return ratio * by_ratio.shape[1] + int(by_ratio[ratio].argmin())


def _warn_at_the_ends(stiffness: np.ndarray, best: int, name: str) -> None:
    ends = {stiffness.min(): "softest", stiffness.max(): "stiffest"}
    if stiffness[best] in ends:
        warnings.warn(
            f"{name}: the {ends[stiffness[best]]} of the scan fits best: the motion says little of "
            "the stiffness",
            PhysGymWarning,
            stacklevel=5,
        )
