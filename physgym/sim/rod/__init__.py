"""Discrete elastic rods: cables, where springs are not enough."""

from physgym.sim.rod.model import RodModel, RodParameters
from physgym.sim.rod.solver import RodSolver

__all__ = ["RodModel", "RodParameters", "RodSolver"]
