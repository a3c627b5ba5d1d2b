"""Continuum objects by the material point method: MLS-MPM, SIMD on CPU, gradients."""

from physgym.sim.mpm.adapted_solver import AdaptedMpmSolver
from physgym.sim.mpm.collider import (
    Box,
    Capsule,
    Collider,
    Condition,
    MeshDistance,
    Plane,
    Sphere,
    box_walls,
)
from physgym.sim.mpm.heterogeneity import HeterogeneityField
from physgym.sim.mpm.material import PRESETS, ElasticLaw, Material, Preset, ReturnMap
from physgym.sim.mpm.model import MpmModel, MpmParameters
from physgym.sim.mpm.rollout import MpmTrajectory
from physgym.sim.mpm.sampling import fill_box
from physgym.sim.mpm.solver import MpmSolver
from physgym.sim.mpm.stress_adapter import AdapterConfig, StressAdapter
from physgym.sim.mpm.stress_hook import StressHook

__all__ = [
    "PRESETS",
    "AdaptedMpmSolver",
    "AdapterConfig",
    "Box",
    "Capsule",
    "Collider",
    "Condition",
    "ElasticLaw",
    "HeterogeneityField",
    "Material",
    "MeshDistance",
    "MpmModel",
    "MpmParameters",
    "MpmSolver",
    "MpmTrajectory",
    "Plane",
    "Preset",
    "ReturnMap",
    "Sphere",
    "StressAdapter",
    "StressHook",
    "box_walls",
    "fill_box",
]
