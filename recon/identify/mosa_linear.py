"""The stage of MoSA between prior and networks: constant anisotropy and a slope; `mosa_elasticity`.

Shapes: D coordinates of the prior, E coordinates of this stage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from recon.identify.least_squares import refine
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_coordinates import Coordinates
from recon.identify.mosa_elasticity import LinearCoordinates, fit_field, reach
from recon.identify.mosa_networks import Learned, networks
from recon.identify.mosa_problem import PriorProblem, Window
from recon.identify.mosa_scene import Scene

__all__ = ["LINEAR_STEPS", "LinearStage", "Start"]

LINEAR_STEPS = 5
_TOLERANCE = 5e-3
# Typical error of a good model over the body's size: half of the isotropic one's.
_SCALE = 4e-3


class Start(NamedTuple):
    """What the networks begin with.

    Attributes:
        learned: coordinates of the prior, adapter and field.
        report: ``reach_error`` of the adapter's constants, ``field_error`` of the field's plane.
    """

    learned: Learned
    report: dict[str, float]


class LinearStage:
    """Search and take over.

    Args:
        scenes: of every motion.
        windows: of every motion.
        coordinates: of the prior.
        config: of the job; adapter and heterogeneity say what is searched.
        knee_m: of Huber's loss [m].
    """

    def __init__(
        self,
        scenes: list[Scene],
        windows: list[Window],
        coordinates: Coordinates,
        config: MosaConfig,
        *,
        knee_m: float,
    ) -> None:
        self.scenes, self.windows, self.config = scenes, windows, config
        self.coordinates, self._knee_m = coordinates, knee_m

    def search(
        self, theta: np.ndarray, on_step: Callable[[int, float, np.ndarray], None]
    ) -> np.ndarray:
        """Gauss-Newton from the isotropic backbone.

        Args:
            theta: the backbone, shape (D,).
            on_step: told step, cost and coordinates.

        Returns:
            Coordinates, shape (E,).
        """
        every = self._coordinates(theta)
        problem = PriorProblem(self.scenes, every, self.windows, knee_m=self._knee_m, scale=_SCALE)
        begin = np.concatenate([theta, np.zeros(len(every.prior.mean) - len(theta))])
        return refine(
            problem,
            begin,
            list(range(len(self.scenes))),
            max_steps=LINEAR_STEPS,
            tolerance=_TOLERANCE,
            on_step=on_step,
        ).theta

    def start(self, theta: np.ndarray, found: np.ndarray) -> Start:
        """Networks that give what was found.

        Args:
            theta: the backbone, shape (D,).
            found: of `search`, shape (E,).

        Returns:
            They, and how well they do.
        """
        every, own = self._coordinates(theta), found[: len(theta)].copy()
        adapter, field = networks(self.scenes[0], self.coordinates, own, self.config)
        report: dict[str, float] = {}
        numbers, factors = every.log_stiffness(found), every.factors(found)
        if adapter is not None and numbers is not None:
            parameters, _ = self.coordinates.parameters(torch.as_tensor(own)[None])
            young, nu = float(parameters.young_pa), float(parameters.poisson_ratio)
            near = reach(adapter, young, nu, numbers, self.config.seed)
            adapter, report["reach_error"] = near.adapter, near.error
            entries = {e.name: i for i, e in enumerate(self.coordinates.entries)}
            for name, value in (
                ("log10_young_pa", float(np.log10(near.young_pa))),
                ("poisson_ratio", near.poisson_ratio),
            ):
                at = entries[name]
                own[at] = self.coordinates.entries[at].inverse(value)
        if field is not None and factors is not None:
            report["field_error"] = fit_field(field, self.scenes[0].rest, factors)
        return Start(Learned(torch.as_tensor(own), adapter, field), report)

    def _coordinates(self, theta: np.ndarray) -> LinearCoordinates:
        _, field = networks(self.scenes[0], self.coordinates, theta, self.config)
        return LinearCoordinates(
            self.coordinates,
            self.scenes[0].rest,
            anisotropic=self.config.adapter,
            bound=None if field is None else field.config.bound,
        )
