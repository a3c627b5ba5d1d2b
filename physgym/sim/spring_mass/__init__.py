"""Spring-mass objects: topology, one force law, SIMD on CPU, graphs on CUDA, gradients."""

from physgym.sim.spring_mass.force_law import ForceLaw
from physgym.sim.spring_mass.model import SpringMassModel, SpringMassParameters
from physgym.sim.spring_mass.solver import SpringMassSolver
from physgym.sim.spring_mass.topology import (
    chain_springs,
    driven_springs,
    hop_pairs,
    merge_springs,
    rest_lengths,
    springs_from_points,
)

__all__ = [
    "ForceLaw",
    "SpringMassModel",
    "SpringMassParameters",
    "SpringMassSolver",
    "chain_springs",
    "driven_springs",
    "hop_pairs",
    "merge_springs",
    "rest_lengths",
    "springs_from_points",
]
