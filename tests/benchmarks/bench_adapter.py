"""What the stress adapter costs, and what its cheap modes lose against the full one.

    python -m tests.benchmarks.bench_adapter --json OUT [--quick]

Cost: the cube of `bench_mpm` (19,683 particles, nodes 1/64 m apart, 100 substeps a frame of 20 ms).
Error: a softer, smaller cube thrown at the ground for half a second, adapter weights of the size
that training gives; the difference of particle positions to the full mode (networks in every
substep) beside what the adapter changes in all. Other load on the machine shows in CPU / wall.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from physgym.sim.mpm import (
    Collider,
    ElasticLaw,
    Material,
    MpmModel,
    MpmParameters,
    MpmSolver,
    fill_box,
)
from physgym.sim.mpm.adapted_solver import AdaptedMpmSolver
from physgym.sim.mpm.elastic_torch import elastic_stress
from physgym.sim.mpm.stress_adapter import AdapterConfig, StressAdapter
from tests.benchmarks.bench_mpm import FRAME_S, MATERIALS, SUBSTEPS, measure, scene

YOUNG_PA = 1e5
CASCADE = AdapterConfig(shared_trunk=False, clusters=None, evaluations_per_frame=1)
SHARED = replace(CASCADE, shared_trunk=True)
COSTS: dict[str, AdapterConfig | None] = {
    "no adapter": None,
    "full": replace(CASCADE, evaluations_per_frame=None),
    "full, shared trunk": replace(SHARED, evaluations_per_frame=None),
    "cascade, 1 a frame": CASCADE,
    "shared, 1 a frame": SHARED,
    "shared, 2 a frame": replace(SHARED, evaluations_per_frame=2),
    "shared, 4 a frame": replace(SHARED, evaluations_per_frame=4),
    "shared, 1 a frame, 1000 clusters": replace(SHARED, clusters=1000),
    "shared, 1 a frame, 200 clusters": replace(SHARED, clusters=200),
}
ERRORS: dict[str, tuple[int | None, int | None]] = {
    "1 a frame": (1, None),
    "2 a frame": (2, None),
    "4 a frame": (4, None),
    "8 a frame": (8, None),
    "1 a frame, clusters of 4": (1, 4),
    "1 a frame, clusters of 20": (1, 20),
    "1 a frame, clusters of 100": (1, 100),
    "4 a frame, clusters of 20": (4, 20),
}


def as_trained(config: AdapterConfig, scale_pa: float, *, steepness: float) -> StressAdapter:
    """Random weights that change the stress by about a tenth.

    Args:
        config: what it is made of.
        scale_pa: stress scale [Pa].
        steepness: factor on the first layers, how fast the operator changes with strain.
    """
    made = StressAdapter(config, stress_scale_pa=scale_pa, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in made.heads.values():
            for tensor in head.parameters():
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
        for net in made.nets.values():
            net[0].weight *= steepness
    return made


def cost(name: str, config: AdapterConfig | None, threads: int, repeats: int) -> list[dict]:
    """Particle-substeps per second of a frame, forward and forward plus backward."""
    torch.set_num_threads(threads)
    model = scene(MATERIALS["neo-hookean"])
    # The full mode is so slow that a part of a frame must do.
    substeps = SUBSTEPS // 10 if name.startswith("full") else SUBSTEPS
    frame_s = FRAME_S * substeps / SUBSTEPS
    solver = MpmSolver(
        model, MpmParameters.of(young_pa=YOUNG_PA), substeps=substeps, device="cpu", threads=threads
    )
    if config is not None:
        adapter = as_trained(config, YOUNG_PA, steepness=5.0)
        solver = AdaptedMpmSolver(solver, adapter)
    start = torch.tensor([[0.0, 0.0, -1.5]]).expand(model.particle_count, 3)
    state, driven = solver.initial_state(velocity=start), torch.zeros(1, 2, 0, 3)
    rows = []
    for backward in (False, True):
        young = torch.full((1, 1), YOUNG_PA, requires_grad=backward)

        def work(backward: bool = backward, young: torch.Tensor = young) -> None:
            with torch.set_grad_enabled(backward):
                values = MpmParameters(young_pa=young)
                made = solver.rollout(state, driven, frame_s, parameters=values)
            if backward:
                made.position.sum().backward()

        wall, ratio = measure(work, 1 if name.startswith("full") else repeats)
        rate = model.particle_count * substeps / wall
        kind = "forward + backward" if backward else "forward"
        print(
            f"{name:34s} {threads} threads {kind:18s} {rate / 1e6:7.2f} M/s  "
            f"({rate / ratio / 1e6:6.2f} M per CPU second, CPU/wall {ratio:.2f})",
            flush=True,
        )
        rows.append(
            {
                "name": name, "threads": threads, "backward": backward, "wall_s": wall,
                "cpu_over_wall": ratio, "particle_substeps_per_s": rate,
                "particle_substeps_per_cpu_s": rate / ratio,
            }
        )  # fmt: skip
    return rows


class Thrown:
    """A soft cube that hits the ground, bounces and turns: 15 frames a second as in videos."""

    def __init__(self, frame_s: float, cells: int) -> None:
        self.frame_s, self.frames = frame_s, round(0.4 / frame_s)
        size, h = 0.2, 0.2 / cells
        x, volume = fill_box((0.0, 0.0, 0.02), (size, size, 0.02 + size), h / 2, jitter=0.3)
        self.model = MpmModel(x, volume, h, Material(), (Collider.ground(),))
        values = MpmParameters.of(young_pa=1e4)
        planned = MpmSolver(self.model, values, device="cpu").plan(frame_s, 1, speed_m_per_s=8.0)
        # The same for all modes: what a step of another length changes is no error of theirs.
        substeps = -(-planned.substeps // 8) * 8
        self.prior = MpmSolver(self.model, values, device="cpu", threads=1, substeps=substeps)
        velocity = torch.tensor([0.8, 0.3, -2.0]) + torch.linalg.cross(
            torch.tensor([0.0, 4.0, 3.0]).expand(len(x), 3),
            torch.tensor(x - x.mean(axis=0), dtype=torch.float32),
        )
        self.state = self.prior.initial_state(velocity=velocity)

    def positions(self, config: AdapterConfig | None, steepness: float) -> torch.Tensor:
        """Particles at all frames [m], shape (T, P, 3)."""
        solver = self.prior
        if config is not None:
            adapter = as_trained(config, 1e4, steepness=steepness)
            solver = AdaptedMpmSolver(self.prior, adapter)
        driven = torch.zeros(1, self.frames + 1, 0, 3)
        with torch.no_grad():
            return solver.rollout(self.state, driven, self.frame_s).position[0]


def errors(frame_s: float, steepness: float, *, quick: bool) -> list[dict[str, Any]]:
    """Root mean square differences over particles and frames [m]."""
    thrown, rows = Thrown(frame_s, 6), []
    prior = thrown.positions(None, steepness)
    for trunk, base in (("cascade", CASCADE), ("shared", SHARED)):
        full = thrown.positions(replace(base, evaluations_per_frame=None), steepness)
        changed = rms(full - prior)
        for name, (every, members) in list(ERRORS.items())[: 2 if quick else None]:
            count = None if members is None else thrown.model.particle_count // members
            config = replace(base, evaluations_per_frame=every, clusters=count)
            error = rms(thrown.positions(config, steepness) - full)
            print(
                f"{trunk:8s} {name:26s} frame {1e3 * frame_s:4.1f} ms, steepness {steepness:3.0f} "
                f"{1e3 * error:7.4f} mm of {1e3 * changed:6.3f} mm, {100 * error / changed:5.2f} %",
                flush=True,
            )
            rows.append(
                {
                    "trunk": trunk, "mode": name, "frame_s": frame_s, "steepness": steepness,
                    "error_m": error, "adapter_changes_m": changed,
                }
            )  # fmt: skip
    return rows


def fits(steps: int = 1200) -> list[dict[str, Any]]:
    """What a shared trunk cannot learn: both kinds fitted to the stress of each kind."""
    rows = []
    for target_name, target_config in (("cascade", CASCADE), ("shared", SHARED)):
        target = as_trained(target_config, YOUNG_PA, steepness=5.0)
        for name, config in (("cascade", CASCADE), ("shared", SHARED)):
            adapter = StressAdapter(config, stress_scale_pa=YOUNG_PA, seed=3)
            generator = torch.Generator().manual_seed(1)
            optimiser = torch.optim.Adam(adapter.parameters(), lr=3e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            for _ in range(steps):
                optimiser.zero_grad()
                misfit(adapter, target, 256, generator).backward()
                optimiser.step()
                schedule.step()
            with torch.no_grad():
                unseen = torch.Generator().manual_seed(99)
                left = float(misfit(adapter, target, 4000, unseen).sqrt())
            print(f"{name} fitted to a {target_name}: {100 * left:.2f} % of the change left")
            rows.append({"target": target_name, "fitted": name, "left": left})
    return rows


def misfit(
    adapter: StressAdapter, target: StressAdapter, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Squared difference of two adapters' stresses over what the target changes."""
    f = torch.eye(3) + 0.1 * torch.randn(count, 3, 3, generator=generator)
    f = f[torch.linalg.det(f) > 0.3]
    mu, lam = torch.tensor([YOUNG_PA / 2.6]), torch.tensor([YOUNG_PA * 0.3 / (1.3 * 0.4)])
    tau = elastic_stress(ElasticLaw.NEO_HOOKEAN, f, mu, lam)
    with torch.no_grad():
        wanted = target.stress(f, tau)
    return (adapter.stress(f, tau) - wanted).square().mean() / (wanted - tau).square().mean()


def rms(gap: torch.Tensor) -> float:
    """Root mean square length."""
    return float(gap.double().square().sum(-1).mean().sqrt())


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="one thread, few modes")
    parser.add_argument("--part", choices=("cost", "error", "fit", "all"), default="all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started, found = time.time(), {"benchmark": "adapter", "cpu": platform.processor()}
    quick = options.quick
    if options.part in ("fit", "all"):
        found["fits"] = fits(steps=200 if quick else 1200)
    if options.part in ("error", "all"):
        cases = ((1 / 30, 1.0), (1 / 30, 5.0), (1 / 120, 5.0), (1 / 30, 20.0))
        found["errors"] = [
            row for case in cases[: 1 if quick else None] for row in errors(*case, quick=quick)
        ]
    if options.part in ("cost", "all"):
        costs = [
            row
            for threads in ((1,) if quick else (1, 2))
            for name, config in COSTS.items()
            if not (quick and name.startswith("full"))
            for row in cost(name, config, threads, 2 if quick else 3)
        ]
        found["costs"] = costs
    found["seconds"] = time.time() - started
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
