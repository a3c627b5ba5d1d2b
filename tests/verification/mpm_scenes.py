"""Small scenes that the MPM tests share: a body thrown at a boundary, one for every material."""

from __future__ import annotations

import numpy as np
import torch

from physgym.sim.mpm import Box as SolidBox
from physgym.sim.mpm import (
    Capsule,
    Collider,
    Condition,
    ElasticLaw,
    Material,
    MpmModel,
    MpmParameters,
    ReturnMap,
    Sphere,
    fill_box,
)

SPACING_M = 0.02
VALUES = {
    "young_pa": 2e4, "poisson_ratio": 0.3, "density_kg_per_m3": 1000.0, "yield_stress_pa": 400.0,
    "friction_angle_rad": 0.5, "cohesion_strain": 0.0, "viscosity_pa_s": 1.0,
    "bulk_modulus_pa": 2e4, "friction": 0.3, "heterogeneity": 1.0,
}  # fmt: skip

MATERIALS = [
    *(Material(law) for law in ElasticLaw),
    *(Material(ElasticLaw.HENCKY, m) for m in ReturnMap if m is not ReturnMap.NONE),
    Material(ElasticLaw.NEO_HOOKEAN, ReturnMap.VON_MISES),
]


def name_of(material: Material) -> str:
    return f"{material.law.value}+{material.return_map.value}"


def boundaries() -> tuple[Collider, ...]:
    """A ground and one of each solid, two of them turned, close to a body around (0, 0, 0.05)."""
    tilt = (float(np.cos(0.3)), float(np.sin(0.3)), 0.0, 0.0)
    return (
        Collider.ground(0.0, name="ground"),
        Collider(Sphere(0.04), position_m=(0.08, 0.0, 0.04), name="ball"),
        Collider(
            SolidBox((0.03, 0.05, 0.06)), Condition.SLIP, (-0.085, 0.01, 0.04), tilt, name="block"
        ),
        Collider(Capsule(0.02, 0.05), Condition.STICKY, (0.0, 0.075, 0.03), tilt, name="rod"),
    )


def springs() -> tuple[Collider, ...]:
    """A ground and a slope that push particles out, beside a ball that stops nodes."""
    slope = (0.0, float(np.sin(0.4)), float(np.cos(0.4)))
    return (
        Collider.ground(0.0, condition=Condition.PENALTY, name="ground"),
        Collider(Sphere(0.04), position_m=(0.08, 0.0, 0.04), name="ball"),
        Collider.ground(0.01, normal=slope, condition=Condition.PENALTY, name="slope"),
    )


def thrown_body(
    material: Material,
    *,
    size_m: float = 0.06,
    particle_m: float = 0.01,
    driven: int = 0,
    colliders: tuple[Collider, ...] | None = None,
):
    """Model, start position and velocity (float64) of a jittered cube that hits the boundaries."""
    half = 0.5 * size_m
    x, volume = fill_box(
        (-half, -half, 0.022), (half, half, 0.022 + size_m), particle_m, jitter=0.4
    )
    top = np.argsort(x[:, 2])[len(x) - driven :] if driven else []
    model = MpmModel(
        x, volume, SPACING_M, material, boundaries() if colliders is None else colliders,
        driven_index=np.array(top, np.int32),
    )  # fmt: skip
    centre = x - x.mean(axis=0)
    velocity = np.array([0.8, 0.5, -1.5]) + np.cross([4.0, -6.0, 5.0], centre)
    return model, x, velocity


def path(model, x, frames: int, frame_s: float) -> np.ndarray:
    """Driven particles (T, D, 3): sideways and up along a parabola."""
    t = frame_s * np.arange(frames + 1)[:, None, None]
    return x[model.driven_index][None] + t * np.array([0.3, -0.2, 0.4]) + t**2 * 5.0


def parameters(values) -> MpmParameters:
    """Parameters from numbers or (P,) arrays by name."""
    tensors = {k: torch.tensor(np.asarray(a, np.float32)).reshape(1, -1) for k, a in values.items()}
    return MpmParameters(**tensors)
