"""Throughput of the MPM solver, forward and forward plus backward.

    python -m tests.benchmarks.bench_mpm --json OUT [--quick]

A jittered cube of 19,683 particles, eight a cell, on nodes 1/64 m apart, thrown at the ground: 100
substeps a frame of 20 ms. Prints particle-substeps per second (best of some repeats after one that
is not counted) and CPU time over wall time, which shows how many cores were really had.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
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
    ReturnMap,
    fill_box,
)

SPACING_M, FRAME_S, SUBSTEPS = 1.0 / 64.0, 0.02, 100
MATERIALS = {
    "neo-hookean": Material(ElasticLaw.NEO_HOOKEAN),
    "fixed-corotated": Material(ElasticLaw.FIXED_COROTATED),
    "stvk": Material(ElasticLaw.HENCKY),
    "stvk + von mises": Material(ElasticLaw.HENCKY, ReturnMap.VON_MISES),
    "stvk + drucker-prager": Material(ElasticLaw.HENCKY, ReturnMap.DRUCKER_PRAGER),
    "fluid": Material(ElasticLaw.FLUID),
}


def scene(material: Material) -> MpmModel:
    """A cube of 27^3 particles, 5 mm above the ground."""
    size = 27 * SPACING_M / 2.0
    x, volume = fill_box(
        (0.3, 0.3, 0.005), (0.3 + size, 0.3 + size, 0.005 + size), SPACING_M / 2.0, jitter=0.3
    )
    return MpmModel(x, volume, SPACING_M, material, (Collider.ground(),))


def measure(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Best wall time [s], and CPU time over wall time of that repeat."""
    work()
    best, ratio = float("inf"), 0.0
    for _ in range(repeats):
        wall0, cpu0 = time.perf_counter(), time.process_time()
        work()
        wall = time.perf_counter() - wall0
        if wall < best:
            best, ratio = wall, (time.process_time() - cpu0) / wall
    return best, ratio


def case(
    name: str,
    *,
    engine: str = "native",
    worlds: int = 1,
    threads: int = 1,
    backward: bool = False,
    operator: bool = False,
    viscosity_pa_s: float = 0.0,
    repeats: int,
) -> dict[str, Any]:
    """One row: a frame of all worlds."""
    model = scene(MATERIALS[name])
    parameters = MpmParameters.of(young_pa=1e5, yield_stress_pa=2e3, viscosity_pa_s=viscosity_pa_s)
    if operator:
        each = torch.eye(6).expand(1, model.particle_count, 6, 6).clone()
        parameters = parameters.replace(stress_operator=each.requires_grad_(backward))
    for tensor in (parameters.young_pa, parameters.bulk_modulus_pa):
        tensor.requires_grad_(backward)
    solver = MpmSolver(
        model, parameters, worlds=worlds, substeps=SUBSTEPS, device="cpu", threads=threads,
        engine=engine,
    )  # fmt: skip
    start = torch.tensor([[0.0, 0.0, -1.5]]).expand(model.particle_count, 3)
    state = solver.initial_state(velocity=start)
    driven = torch.zeros(worlds, 2, 0, 3)

    def work() -> None:
        made = solver.rollout(state, driven, FRAME_S)
        if backward:
            made.position.sum().backward()

    wall, ratio = measure(work, repeats)
    rate = worlds * model.particle_count * SUBSTEPS / wall
    row = {
        "name": name,
        "engine": engine,
        "worlds": worlds,
        "threads": threads,
        "backward": backward,
        "stress_operator": operator,
        "viscosity_pa_s": viscosity_pa_s,
        "wall_s": wall,
        "cpu_over_wall": ratio,
        "particle_substeps_per_s": rate,
        "particle_substeps_per_cpu_s": rate / ratio,
    }
    label = name + (" + operator" if operator else "") + (" + viscosity" if viscosity_pa_s else "")
    print(
        f"{label:23s} {engine:6s} {worlds} worlds {threads} threads "
        f"{'forward + backward' if backward else 'forward':18s} {rate / 1e6:7.2f} M/s  "
        f"({rate / ratio / 1e6:.2f} M per CPU second, CPU/wall {ratio:.2f})",
        flush=True,
    )
    return row


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="one thread, two laws, few repeats")
    options = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 2 if options.quick else 5
    names = list(MATERIALS)[: 2 if options.quick else None]
    both, cores = (False, True), len(os.sched_getaffinity(0))
    rows = [case(name, backward=back, repeats=repeats) for name in names for back in both]
    rows += [case(names[0], backward=back, viscosity_pa_s=5.0, repeats=repeats) for back in both]
    if not options.quick:
        rows += [case(names[0], backward=back, operator=True, repeats=2) for back in both]
        rows += [
            case(names[0], worlds=2 * cores, threads=threads, backward=back, repeats=2)
            for back in both
            for threads in (1, cores)
        ]
        rows += [
            case(name, engine="plain", backward=back, repeats=1)
            for name in names[:2]
            for back in both
        ]
    found = {"benchmark": "mpm", "cpu": platform.processor(), "cores": cores, "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
