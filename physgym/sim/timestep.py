"""From the stiffest mode to the number of substeps.

Semi-implicit Euler on a mode with angular frequency w and damping rate c is stable while
``4 - 2 c dt - (w dt)^2 > 0`` and ``c dt < 2`` (Jury's criterion on the step's characteristic
polynomial), so ``dt < (sqrt(c^2 + 4 w^2) - c) / w^2``; without damping that is 2/w.

The modes of a spring network change as it moves. A spring of slope k acts as at most k times the
identity in any direction while it is stretched less than twofold, so the largest eigenvalue of the
scalar graph Laplacian of the slopes, in the metric of the masses, bounds them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from physgym.errors import DataError

__all__ = ["StepLimit", "gershgorin_bound", "largest_eigenvalue", "stable_step", "substep_count"]


@dataclass(frozen=True)
class StepLimit:
    """The largest stable step and what sets it.

    Attributes:
        dt_s: largest stable step [s]; infinite where nothing is stiff.
        omega_rad_per_s: bound on the highest angular frequency [rad/s].
        damping_per_s: bound on the highest damping rate [1/s].
        node: the node that sets the bound.
    """

    dt_s: float
    omega_rad_per_s: float
    damping_per_s: float
    node: int


def gershgorin_bound(
    edges: np.ndarray, slope: np.ndarray, inv_mass_per_kg: np.ndarray
) -> np.ndarray:
    """Row bounds on the eigenvalues of M^-1/2 K M^-1/2.

    Args:
        edges: springs, shape (S, 2).
        slope: stiffness [N/m] or damping [N s/m] of every spring, shape (S,).
        inv_mass_per_kg: 1/m, zero for driven nodes, shape (N,).

    Returns:
        Shape (N,); the largest entry bounds the largest eigenvalue from above.
    """
    i, j = edges[:, 0], edges[:, 1]
    count = len(inv_mass_per_kg)
    cross = np.sqrt(inv_mass_per_kg[i] * inv_mass_per_kg[j])
    return np.bincount(i, slope * (inv_mass_per_kg[i] + cross), count) + np.bincount(
        j, slope * (inv_mass_per_kg[j] + cross), count
    )


def largest_eigenvalue(
    edges: np.ndarray,
    slope: np.ndarray,
    inv_mass_per_kg: np.ndarray,
    *,
    iterations: int = 60,
    margin: float = 1.05,
) -> float:
    """Largest eigenvalue of the mass-scaled graph Laplacian, by power iteration.

    Power iteration comes from below, so the result carries a margin; it never exceeds
    Gershgorin's bound, which comes from above.

    Args:
        edges: springs, shape (S, 2).
        slope: stiffness or damping of every spring, shape (S,).
        inv_mass_per_kg: 1/m, zero for driven nodes, shape (N,).
        iterations: power iterations.
        margin: factor on the estimate.

    Returns:
        The eigenvalue, in the unit of slope over mass.
    """
    count = len(inv_mass_per_kg)
    upper = float(gershgorin_bound(edges, slope, inv_mass_per_kg).max(initial=0.0))
    if upper == 0.0:
        return 0.0
    i, j = edges[:, 0], edges[:, 1]
    cross = -slope * np.sqrt(inv_mass_per_kg[i] * inv_mass_per_kg[j])
    diagonal = np.bincount(i, slope, count) + np.bincount(j, slope, count)
    matrix = csr_matrix(
        (
            np.concatenate([diagonal * inv_mass_per_kg, cross, cross]),
            (
                np.concatenate([np.arange(count), i, j]),
                np.concatenate([np.arange(count), j, i]),
            ),
        ),
        shape=(count, count),
    )
    vector = np.random.default_rng(0).standard_normal(count)
    value = 0.0
    for _ in range(iterations):
        vector /= np.linalg.norm(vector)
        product = matrix @ vector
        value = float(np.linalg.norm(product))
        if value == 0.0:
            return upper
        vector = product
    return min(upper, margin * value)


def stable_step(
    edges: np.ndarray,
    stiffness_n_per_m: np.ndarray,
    dashpot_ns_per_m: np.ndarray,
    inv_mass_per_kg: np.ndarray,
) -> StepLimit:
    """Largest stable step of semi-implicit Euler for a spring network.

    Args:
        edges: springs, shape (S, 2).
        stiffness_n_per_m: slope of every spring [N/m], shape (S,); or of its two ends where these
            are pulled unlike, shape (S, 2).
        dashpot_ns_per_m: dashpot of every spring [N s/m], shape (S,).
        inv_mass_per_kg: 1/m, zero for driven nodes, shape (N,).

    Returns:
        The limit and what sets it.
    """
    if len(edges) == 0:
        return StepLimit(math.inf, 0.0, 0.0, 0)
    if stiffness_n_per_m.ndim == 2:
        rows = _unlike_row_bound(edges, stiffness_n_per_m, inv_mass_per_kg)
        omega2 = float(rows.max())
    else:
        rows = gershgorin_bound(edges, stiffness_n_per_m, inv_mass_per_kg)
        omega2 = largest_eigenvalue(edges, stiffness_n_per_m, inv_mass_per_kg)
    damping = largest_eigenvalue(edges, dashpot_ns_per_m, inv_mass_per_kg)
    # (sqrt(c^2 + 4 w^2) - c) / w^2 cancels for strong damping; this is the same number without it.
    total = math.sqrt(damping**2 + 4.0 * omega2) + damping
    dt_s = 4.0 / total if total > 0.0 else math.inf
    return StepLimit(dt_s, math.sqrt(omega2), damping, int(rows.argmax()))


def _unlike_row_bound(
    edges: np.ndarray, slope: np.ndarray, inv_mass_per_kg: np.ndarray
) -> np.ndarray:
    """Row bounds on the eigenvalues of M^-1 K, which is not symmetric, shape (N,).

    The eigenvalues of such a network may lie off the real axis; power iteration tells nothing then.
    """
    count = len(inv_mass_per_kg)
    pull = np.bincount(edges[:, 0], slope[:, 0], count) + np.bincount(
        edges[:, 1], slope[:, 1], count
    )
    return np.asarray(2.0 * pull * inv_mass_per_kg)


def substep_count(frame_dt_s: float, limit: StepLimit, *, safety: float = 0.5) -> int:
    """Number of equal substeps in a frame.

    Args:
        frame_dt_s: length of the frame [s].
        limit: the largest stable step.
        safety: fraction of the limit that is used, in (0, 1].

    Returns:
        At least 1.

    Raises:
        DataError: if the frame length or the safety factor makes no sense.
    """
    if not (frame_dt_s > 0.0 and math.isfinite(frame_dt_s)) or not 0.0 < safety <= 1.0:
        raise DataError(
            f"frame of {frame_dt_s} s with safety {safety}",
            where="substep_count",
            expected="a positive frame length and 0 < safety <= 1",
            fix="pass the time between frames in seconds",
        )
    if math.isinf(limit.dt_s):
        return 1
    return max(1, math.ceil(frame_dt_s / (safety * limit.dt_s) - 1e-9))
