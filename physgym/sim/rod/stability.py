"""The rod's stability limit: its stiffest modes, found on the straight rod.

On the straight rod stretching and bending do not couple, and both are linear: with D the
difference operator (stretch) or the turning operator (bend), K = D^T diag(k) D, and the row sums
of |M^-1/2 K M^-1/2| bound the largest eigenvalue from above. On a uniform rod the bounds are exact:
4 EA/(m l) and 16 EI/(m l^3).
"""

from __future__ import annotations

import numpy as np

from physgym.sim.rod.model import RodModel, RodParameters, voronoi_length
from physgym.sim.timestep import StepLimit

__all__ = ["rod_step_limit"]


def rod_step_limit(model: RodModel, parameters: RodParameters) -> StepLimit:
    """The longest stable substep of the stiffest world.

    Args:
        model: the rod.
        parameters: broadcast parameters, fields of shape (B, ...).

    Returns:
        The limit and the node that sets it. While the internal friction sticks it stiffens
        bending, so the limit counts EI (1 + friction_ratio).
    """
    length = parameters.rest_length_m
    mass = parameters.linear_density_kg_per_m[:, None] * voronoi_length(length)
    inv_sqrt_mass = 1.0 / np.sqrt(mass)
    inv_sqrt_mass[:, list(model.driven_index)] = 0.0

    count = model.node_count
    edges = np.arange(count - 1)
    stretch = np.zeros((len(length), count - 1, count))
    stretch[:, edges, edges], stretch[:, edges, edges + 1] = -1.0, 1.0
    bend = np.zeros((len(length), count - 2, count))
    nodes = np.arange(count - 2)
    left, right = 1.0 / length[:, :-1], 1.0 / length[:, 1:]
    bend[:, nodes, nodes], bend[:, nodes, nodes + 2] = left, right
    bend[:, nodes, nodes + 1] = -(left + right)

    stretch_k = parameters.stretch_stiffness_n[:, None] / length
    bend_k = parameters.bending_stiffness_nm2 / voronoi_length(length)[:, 1:-1]
    stick_k = bend_k * (1.0 + parameters.friction_ratio[:, None])
    stretch_rows = _row_bound(stretch, stretch_k, inv_sqrt_mass)
    damping = np.maximum(
        parameters.stretch_damping_s * stretch_rows.max(1),
        parameters.bending_damping_s * _row_bound(bend, bend_k, inv_sqrt_mass).max(1),
    )
    rows = np.maximum(stretch_rows, _row_bound(bend, stick_k, inv_sqrt_mass))
    omega2 = rows.max(1)
    total = np.sqrt(damping**2 + 4.0 * omega2) + damping
    world = int(total.argmax())
    if total[world] == 0.0:
        return StepLimit(np.inf, 0.0, 0.0, 0)
    return StepLimit(
        dt_s=float(4.0 / total[world]),
        omega_rad_per_s=float(np.sqrt(omega2[world])),
        damping_per_s=float(damping[world]),
        node=int(rows[world].argmax()),
    )


def _row_bound(operator: np.ndarray, k: np.ndarray, inv_sqrt_mass: np.ndarray) -> np.ndarray:
    # sum_j |D^T k D|_ij <= |D|^T k |D| 1 row by row; equality for alternating signs, which both
    # operators have.
    scaled = np.abs(operator) * inv_sqrt_mass[:, None, :]
    return np.einsum("bek,be->bk", scaled, k * scaled.sum(2))
