"""How far MPM is from finite elements when both know the true material: what the ground costs.

    python -m tests.benchmarks.bench_ground --json OUT [--particles 2000 6000] [--object ball ...]

The test drops of `physgym benchmark mosa`. The fibres are a constant operator on the stress (exact
for small strain), the gradient is given, friction too; gaps between body and plane are tried and
the best mean over the drops counts. Nothing is identified.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physgym.cell.fem_recording import MotionRecording
from physgym.cell.fem_scenes import BenchmarkObject
from physgym.sim.mpm import Collider, Condition, Material, MpmModel, MpmParameters, MpmSolver
from physgym.sim.mpm.ride import carry, mount
from recon.benchmark_mosa.fits import score
from recon.benchmark_mosa.objects import object_named
from recon.identify.motion import Motion

GAPS = {Condition.PENALTY: (-0.3, -0.15, 0.0), Condition.SEPARATE: (0.3, 0.5, 0.7)}  # cells
FRAMES, FPS = 30, 60.0
PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
DOUBLE = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])


def true_operator(item: BenchmarkObject) -> np.ndarray:
    """What turns isotropic stress into that with fibres, in the body's frame, shape (6, 6)."""
    material = item.material
    fibre = np.array(material.fibre_direction)
    along = np.array([fibre[i] * fibre[j] for i, j in PAIRS])
    isotropic = 2.0 * material.mu_pa * np.diag(1.0 / DOUBLE)
    isotropic[:3, :3] += material.lambda_pa
    both = isotropic + material.fibre_modulus_pa * np.outer(along, along)
    return (both * DOUBLE) @ np.linalg.inv(isotropic * DOUBLE)


def simulated(
    item: BenchmarkObject, truth: MotionRecording, condition: Condition, gap: float, count: int
) -> np.ndarray:
    """All nodes of a drop by MPM [m], shape (T, N, 3)."""
    motion, material = Motion.from_recording(truth), item.material
    filling, pose = motion.solid.fill(count), motion.start_pose()
    own, h = np.asarray(filling.position), 2.0 * filling.spacing_m
    ground = Collider.ground(1e-4 * h - gap * h, condition=condition)
    lattice = (0.0, 0.0, -gap * h)
    model = MpmModel(own, filling.volume_m3, h, Material(), (ground,), lattice_m=lattice)
    factor = material.stiffness_factor(own, np.asarray(item.body.nodes))
    given = MpmParameters.of(
        young_pa=material.young_pa, poisson_ratio=material.poisson_ratio,
        density_kg_per_m3=material.density_kg_per_m3, friction=truth.friction,
    ).replace(
        stress_operator=torch.tensor(true_operator(item)).float()[None, None],
        heterogeneity=torch.tensor(factor).float()[None],
    )  # fmt: skip
    solver = MpmSolver(model, given, device="cpu")
    turn = torch.tensor(pose.turn).float().expand(len(own), 3, 3)
    velocity = torch.tensor(truth.velocity_m_per_s).float().expand(len(own), 3)
    with torch.no_grad():
        start = solver.initial_state(torch.tensor(pose.apply(own)).float(), velocity, turn)
        made = solver.rollout(start, torch.zeros(1, FRAMES, 0, 3), 1.0 / FPS)
        ride = mount(np.asarray(motion.rest), own)
        return np.asarray(carry(ride, made.position, made.deformation)[0].double())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--particles", type=int, nargs="+", default=[2000, 6000])
    parser.add_argument("--object", nargs="+", default=["ball", "cylinder", "ring"])
    words = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in words.object:
        item = object_named(name)
        truths = [item.record(setup, frames=FRAMES, fps=FPS) for setup in item.tests]
        for count in words.particles:
            for condition, gaps in GAPS.items():
                means = {}
                for gap in gaps:
                    errors = [score(simulated(item, t, condition, gap, count), t) for t in truths]
                    means[gap] = float(np.mean([e["node_m_after_contact"] for e in errors]))
                row = {
                    "object": name, "particles": count, "ground": condition.name.lower(),
                    "node_m": min(means.values()), "gap_cells": min(means, key=means.__getitem__),
                }  # fmt: skip
                rows.append(row)
                print(row, flush=True)
    words.json.parent.mkdir(parents=True, exist_ok=True)
    words.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
