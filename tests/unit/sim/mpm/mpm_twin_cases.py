"""A block of particles as a twin, with and without a stress adapter."""

import numpy as np
import torch

from physgym.sim.mpm import Collider, Condition, Material, MpmModel, MpmParameters, fill_box
from physgym.sim.mpm.twins import twin_of_mpm

H_M = 0.02
VALUES = {
    "young_pa": 5e4, "poisson_ratio": 0.3, "density_kg_per_m3": 1000.0, "yield_stress_pa": 400.0,
    "friction_angle_rad": 0.5, "cohesion_strain": 0.01, "viscosity_pa_s": 1.0,
    "bulk_modulus_pa": 2e4, "friction": 0.3,
}  # fmt: skip


def block_model(material=None, *, low=(0.0, 0.0, 0.0), ground=True, **more):
    """4 x 3 x 2 cells, an edge at ``low``; the ground is level at 0."""
    high = tuple(c + n * H_M for c, n in zip(low, (4, 3, 2)))
    x, volume = fill_box(low, high, H_M / 2)
    colliders = (Collider.ground(0.0, condition=Condition.SEPARATE),) if ground else ()
    return MpmModel(x, volume, H_M, material or Material(), colliders, **more)


def block_twin(material=None, *, low=(0.0, 0.0, 0.0), ground=True, values=None, **more):
    model = block_model(material, low=low, ground=ground)
    parameters = MpmParameters.of({**VALUES, **(values or {})})
    return twin_of_mpm(
        name="block", kind="volume", method="given", model=model, parameters=parameters, **more
    )


def learned_adapter(seed=3):
    """An adapter that corrects something, as a fit would leave it."""
    from physgym.sim.mpm.stress_adapter import AdapterConfig, StressAdapter

    adapter = StressAdapter(AdapterConfig(strength=0.3), stress_scale_pa=5e4, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in adapter.parameters():
            if not value.any():  # output layers start at zero
                value += 0.3 * torch.randn(value.shape, generator=rng)
    return adapter


def quarter_turn(axis, shift_cells=(0, 0, 0)):
    """A pose that maps the grid to itself: a quarter turn and a shift by whole cells."""
    turn = np.round(np.array({
        "x": [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
        "z": [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
    }[axis], float))  # fmt: skip
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, H_M * np.asarray(shift_cells, float)
    return pose


def with_values(twin, **changes):
    """The twin with some parameters changed, or left out where None."""
    values = {**twin.parameters, **{k: v for k, v in changes.items() if v is not None}}
    for key in [k for k, v in changes.items() if v is None]:
        del values[key]
    return twin.replace(parameters=values)
