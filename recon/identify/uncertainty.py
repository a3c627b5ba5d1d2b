"""Error bars of an identified twin, from the curvature of the posterior at the fit."""

from __future__ import annotations

import numpy as np

from recon.identify.least_squares import Fit
from recon.identify.rope import RopeProblem

__all__ = ["parameter_sigma"]


def parameter_sigma(problem: RopeProblem, fit: Fit) -> dict[str, np.ndarray]:
    """One standard deviation of every fitted parameter.

    Laplace: the posterior near the fit is normal in the search coordinates, and the parameters are
    linear in those over one standard deviation. Correlations are in ``fit.covariance``; model error
    is counted by `Loss.rate_hz` and `Loss.scale_m`, not measured.

    Args:
        problem: the problem.
        fit: where the descent ended.

    Returns:
        Standard deviations by parameter name, in the parameters' units.
    """
    step = problem.prior.step
    base = problem.parameters(fit.theta).to_mapping()
    moved = problem.parameters(fit.theta + np.diag(step)).to_mapping()
    sigma = {}
    for name, value in base.items():
        slope = (moved[name] - value).reshape(len(step), -1) / step[:, None]
        variance = np.einsum("pi,pq,qi->i", slope, fit.covariance, slope)
        if np.any(slope):
            sigma[name] = np.sqrt(np.maximum(variance, 0.0)).reshape(value.shape)
    return sigma
