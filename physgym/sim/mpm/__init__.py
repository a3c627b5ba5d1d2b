"""Continuum objects by the material point method: MLS-MPM, SIMD on CPU, gradients."""

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
from physgym.sim.mpm.material import PRESETS, ElasticLaw, Material, Preset, ReturnMap
from physgym.sim.mpm.model import MpmModel, MpmParameters
from physgym.sim.mpm.rollout import MpmTrajectory
from physgym.sim.mpm.sampling import fill_box
from physgym.sim.mpm.solver import MpmSolver
from physgym.sim.mpm.stress_hook import StressHook

__all__ = [
    "PRESETS",
    "Box",
    "Capsule",
    "Collider",
    "Condition",
    "ElasticLaw",
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
    "StressHook",
    "box_walls",
    "fill_box",
]
