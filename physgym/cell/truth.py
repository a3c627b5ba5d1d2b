"""The twin that a perfect identification of the simulated cell would give."""

from __future__ import annotations

import math

import numpy as np

from physgym.cell.config import CellConfig
from physgym.sim.rod import RodParameters
from physgym.twin import Twin

__all__ = ["true_twin"]

_GRAVITY_M_S2 = 9.81
# The cell's cable does not stretch. The twin's does, by this much under the cable's own weight:
# a tenth of the error that the markers' spacing makes, and stiffer would only cost substeps.
_STRAIN_UNDER_WEIGHT = 0.005


def true_twin(config: CellConfig) -> Twin:
    """A rod twin whose parameters are computed from the cable's section, not identified.

    It still differs from the cell: a discrete elastic rod on the markers, with a little stretch,
    against rigid segments twice as fine. That difference is the floor of any identification.

    Args:
        config: the cell.

    Returns:
        The twin, its nodes the cell's markers.
    """
    arc = config.marker_arc_length_m
    rest_length = np.diff(arc)
    area_moment = math.pi * config.radius_m**4 / 4
    spread = 0.5 * (rest_length[:-1] + rest_length[1:])
    bending = np.full(len(spread), config.bending_modulus_pa * area_moment)
    # The clamped edge does not bend, so a clamp's node stands for half a free edge only.
    share = spread.copy()
    share[[0, -1]] = 0.5 * rest_length[[1, -2]]
    curvature = np.zeros((len(spread), 2))
    curvature[:, 1] = 2 * np.tan(0.5 * config.natural_curvature_per_m * share)
    parameters = RodParameters(
        rest_length_m=rest_length,
        linear_density_kg_per_m=np.array(config.mass_kg / config.length_m),
        bending_stiffness_nm2=bending * spread / share,
        natural_curvature_rad=curvature,
        twist_stiffness_nm2=np.array(2 * config.twist_modulus_pa * area_moment),
        bending_damping_s=np.array(config.damping_pa_s / config.bending_modulus_pa),
        friction_ratio=np.array(0.0),
        friction_yield_rad=np.array(1.0),
        drag_per_s=np.array(0.0),
        drag_quadratic_per_m=np.array(0.0),
        stretch_stiffness_n=np.array(config.mass_kg * _GRAVITY_M_S2 / _STRAIN_UNDER_WEIGHT),
        stretch_damping_s=np.array(0.002),
        end_roll_rad=np.array(0.0),
        clamp_tangent=np.array([[0.0, -1.0, 0.0]] * 2),
        clamp_director=np.array([[0.0, 0.0, 1.0]] * 2),
    )
    rest = np.stack([0 * arc, -arc, 0 * arc], axis=1)
    return Twin(
        name="cell-cable",
        kind="rope",
        dynamics="rod",
        method="datasheet",
        rest_position=rest,
        driven_index=config.driven_index,
        parameters=parameters.to_mapping(),
        provenance={"source": "CellConfig", "length_m": config.length_m},
    )
