"""What the stress adapter's tests share: adapters as if trained, rotations, a slow rollout."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from mpm_reference import EYE, coefficients, stress, substep

from physgym.sim.mpm.stress_adapter import AdapterConfig, StressAdapter

SCALE_PA = 2e4
CASCADE = AdapterConfig(shared_trunk=False, evaluations_per_frame=1)
SHARED = replace(CASCADE, shared_trunk=True)
CONFIGS = {
    "cascade": CASCADE,
    "shared": SHARED,
    "pre": replace(CASCADE, redistribution=False, post=False),
    "redistribution": replace(CASCADE, pre=False, post=False),
    "post": replace(CASCADE, pre=False, redistribution=False),
    "pre+post shared": replace(SHARED, redistribution=False),
}


def adapter_of(config: AdapterConfig, *, size: float = 0.0, seed: int = 0) -> StressAdapter:
    """An adapter whose output layers have weights of this size; 0 leaves it untrained.

    The hidden layers give values of some tenths, so a size of 0.5 changes the stress by about a
    tenth. First layers are five times as steep as at the start, or strains of some per cent would
    hardly show.
    """
    made = StressAdapter(config, stress_scale_pa=SCALE_PA, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in made.heads.values():
            for tensor in head.parameters():
                tensor.copy_(size * torch.randn(tensor.shape, generator=generator))
        if size:
            for net in made.nets.values():
                net[0].weight *= 5.0
            made.rest_6d += 0.3 * torch.randn(6, generator=generator)
    return made


def rotation(seed: int) -> torch.Tensor:
    """A random rotation, float64."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return torch.tensor(q * np.sign(np.linalg.det(q)))


def deformations(count: int, seed: int, size: float = 0.2) -> torch.Tensor:
    """Random F with positive determinants, turned at random, float64."""
    rng = np.random.default_rng(seed)
    f = EYE + rng.normal(0.0, size, (count, 3, 3))
    f = f[np.linalg.det(f) > 0.2]
    return torch.stack([rotation(k) @ torch.tensor(a) for k, a in enumerate(f)])


def adapted_reference(
    model, adapter, values, x, v, substeps, frame_s, driven, f, parts, affine=0.0
):
    """Rollout in float64 with the operator held for each part of a frame; as reference_rollout.

    With ``parts=None`` the operator of every substep is that of its own deformation, after it moved
    on: what a stress hook sees where nothing yields.
    """
    c = coefficients(model, {**values, "stress_operator": None})
    x, v, f = np.array(x, float), np.array(v, float), np.array(f, float)
    affine = affine + np.zeros_like(f)
    dt = frame_s / substeps
    fall = dt * np.asarray(model.gravity_m_per_s2)  # as in reference_rollout
    index = np.asarray(model.driven_index)
    x[index] = driven[0]
    made = [(x.copy(), v.copy(), f.copy())]
    for c0, c1 in pairwise(driven):
        for s in range(substeps):
            if s == 0:
                x[index], v[index] = c0, (c1 - c0) / frame_s - fall
            if parts is None or s % (substeps // parts) == 0:
                at = f if parts else (EYE + dt * affine) @ f
                tau = stress(model.material.law, at, affine, c["mu"], c["lam"], c["viscosity"])
                with torch.no_grad():
                    c["operator"] = adapter.operator(torch.tensor(at), torch.tensor(tau)).numpy()
            x, v, f, affine = substep(model, c, x, v, f, affine, dt)
            x[index] = c0 + (s + 1) / substeps * (c1 - c0)
            v[index] = (c1 - c0) / frame_s - (fall if s + 1 < substeps else 0.0)
        made.append((x.copy(), v.copy(), f.copy()))
    return tuple(np.stack(a) for a in zip(*made))
