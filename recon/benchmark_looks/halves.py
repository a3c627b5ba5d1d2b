"""How much stiffer one half of a twin is than the other: what it found out about an uneven body."""

from __future__ import annotations

import numpy as np

from physgym.twin import Twin

__all__ = ["half_ratio"]


def half_ratio(twin: Twin, *, axis: int = 0) -> float | None:
    """Young's modulus of the half with the larger coordinates over that of the other.

    Of springs with the energy ``k l strain^2 / 2``, the modulus of a part is ``sum(k l) / (6 V)``
    over its springs (``docs/methods/spring_gaus.md``), and both halves have the same volume.

    Args:
        twin: at rest as its body lay in frame 0.
        axis: of the world, across which the halves lie; the middle of the twin parts them.

    Returns:
        The ratio; None of a twin that has neither springs nor particles.
    """
    rest = np.asarray(twin.rest_position, np.float64)
    along = rest[:, axis]
    middle = 0.5 * (along.min() + along.max())
    if twin.dynamics == "mpm":
        factors = twin.parameters.get("heterogeneity")
        if factors is None:  # even
            return 1.0
        values = np.asarray(factors, np.float64)
        return float(values[along > middle].mean() / values[along <= middle].mean())
    if "springs" not in twin.parameters:
        return None
    edges = np.asarray(twin.parameters["springs"])
    length = np.linalg.norm(rest[edges[:, 0]] - rest[edges[:, 1]], axis=1)
    weight = np.exp(np.asarray(twin.parameters["log_stiffness_ratio"], np.float64)) * length
    upper = along[edges].mean(axis=1) > middle
    return float(weight[upper].sum() / weight[~upper].sum())
