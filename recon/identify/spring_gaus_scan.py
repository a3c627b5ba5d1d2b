"""Where the dynamic stage of Spring-Gaus starts: scans of stiffness, damping and where it is stiff.

Shapes: A anchors, M points of a scan.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch

from physgym.errors import BlowUpError
from recon.identify.anchor_rollouts import AnchorBody, AnchorRollouts
from recon.identify.spring_gaus_dynamic import Dynamics
from recon.tracks import PhysGymWarning

__all__ = ["ramped_values", "scanned_start", "start_values"]

_SCAN = 9
_SOFTEST, _STIFFEST = 3.0, 5000.0  # Young's modulus over the pressure of the body's own weight
_DAMPING_RATIOS = (0.05, 0.3, 1.0)  # of the lowest mode: rubber, foam, foam that does not rebound
_AS_GOOD = 1.05  # of the lowest loss: images that were fitted tell no more
_FRICTION, _RESTITUTION = 0.5, 0.02
_RAMPS = (-1.5, -0.7, 0.7, 1.5)  # log stiffness at the far end; less at the near one
_AROUND = ((0.0, 0.0), (0.0, -1.2), (0.7, 0.0))  # added to log stiffness and log dashpot
_BETTER = 0.9  # of the even body's loss: a ramp must show in the images
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


def scanned_start(
    dynamics: Dynamics,
    velocity_m_per_s: np.ndarray,
    frames: Sequence[int],
    *,
    per_anchor: bool,
    name: str,
) -> tuple[dict[str, np.ndarray], dict[str, float], float]:
    """The best of nine stiffnesses with three dampings each, then of ramps around it.

    Args:
        dynamics: of the body.
        velocity_m_per_s: at the start, shape (3,).
        frames: that count.
        per_anchor: a body may be stiffer at one end.
        name: of the video, for a warning.

    Returns:
        Values by name, losses of the first scan by what was tried, and the loss of the values.

    Raises:
        BlowUpError: if no stiffness can be simulated.
    """
    start = start_values(dynamics.rollouts)
    start["velocity"] = velocity_m_per_s
    losses = dynamics.scan(start, frames)
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
    even, loss = dynamics.at(start, best), float(losses[best])
    ramped = ramped_values(even, dynamics.rollouts.body)
    if not per_anchor or not len(ramped["offset"]):
        return even, scanned, loss
    losses = dynamics.scan(ramped, frames)
    best = int(np.argmin(losses))
    if losses[best] < _BETTER * loss:
        return dynamics.at(ramped, best), scanned, float(losses[best])
    return even, scanned, loss


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
