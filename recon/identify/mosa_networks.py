"""What MoSA learns beside the global parameters: adapter and field.

Shapes: D coordinates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from physgym.sim.mpm.heterogeneity import HeterogeneityField
from physgym.sim.mpm.stress_adapter import AdapterConfig, StressAdapter
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_coordinates import Coordinates
from recon.identify.mosa_scene import Scene

__all__ = ["Learned", "networks"]

_CLUSTERS = 400  # groups of particles that share an operator: a body bends less finely than that


class Learned(NamedTuple):
    """Coordinates, adapter and field that belong together.

    Attributes:
        theta: shape (D,).
        adapter: or None.
        field: or None.
    """

    theta: torch.Tensor
    adapter: StressAdapter | None
    field: HeterogeneityField | None


def networks(
    scene: Scene, coordinates: Coordinates, theta: np.ndarray, config: MosaConfig
) -> tuple[StressAdapter | None, HeterogeneityField | None]:
    """Untrained adapter and field; None where one is not asked for.

    Args:
        scene: of the body.
        coordinates: of the global parameters.
        theta: they, shape (D,).
        config: of the job.

    Returns:
        Both.
    """
    young = float(coordinates.parameters(torch.as_tensor(theta)[None])[0].young_pa[0, 0])
    adapter = field_ = None
    if config.adapter:
        adapter = StressAdapter(
            AdapterConfig(
                pre="pre" in config.adapter_maps,
                redistribution="redistribution" in config.adapter_maps,
                post="post" in config.adapter_maps,
                clusters=min(_CLUSTERS, len(scene.rest)),
            ),
            stress_scale_pa=young,
            seed=config.seed,
        )
    if config.heterogeneity:
        field_ = HeterogeneityField.around(scene.rest, seed=config.seed)
    return adapter, field_
