"""Throughput of the spring-mass solver beside a peer in the same run.

    python -m tests.benchmarks.spring_mass --json OUT [--quick]

One 30 Hz frame of 2,048 nodes and about 30,000 springs in 667 substeps, PhysTwin's constants.
Prints spring evaluations per second (each spring counted once a substep and world), wall time, CPU
time over wall time (below the thread count when the machine is shared), and the peak of resident
memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import warp as wp

from physgym.sim.contact import GroundPlane, SelfCollision
from physgym.sim.spring_mass import SpringMassModel, SpringMassSolver, springs_from_points
from tests.benchmarks.spring_mass_peer import Peer

FRAME_S, SUBSTEPS, DASHPOT, DRAG, STIFFNESS_N = 667 * 5e-5, 667, 100.0, 3.0, 3e4


def scene() -> SpringMassModel:
    """A jittered lattice of 16 x 16 x 8 nodes, 5 mm apart, 5 cm above the table."""
    rng = np.random.default_rng(0)
    axes = [0.005 * np.arange(n) for n in (16, 16, 8)]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = lattice + rng.uniform(-0.001, 0.001, lattice.shape) + np.array([0.0, 0.0, 0.002])
    edges = springs_from_points(points, radius_m=0.02, max_neighbours=25)
    return SpringMassModel(points, edges, gravity_m_per_s2=(0.0, 0.0, -9.8), ground=GroundPlane())


def peak_mib() -> float:
    """Peak resident memory since the last `reset_peak` [MiB]."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024.0
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def reset_peak() -> None:
    """Forget the peak where the system allows it; else the peak is that of the whole run."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def measure(
    name: str, work: Callable[[], Any], worlds: int, springs: int, repeats: int, threads: int
) -> dict[str, Any]:
    """Best wall time of some repeats, after one that is not counted."""
    reset_peak()
    start_mib = peak_mib()
    work()
    best, cpu = float("inf"), 0.0
    for _ in range(repeats):
        wall0, cpu0 = time.perf_counter(), time.process_time()
        work()
        wall = time.perf_counter() - wall0
        if wall < best:
            best, cpu = wall, time.process_time() - cpu0
    row = {
        "name": name,
        "worlds": worlds,
        "threads": threads,
        "wall_s": best,
        "cpu_over_wall": cpu / best,
        "world_substeps_per_s": worlds * SUBSTEPS / best,
        "spring_evaluations_per_s": worlds * SUBSTEPS * springs / best,
        "spring_evaluations_per_cpu_s": worlds * SUBSTEPS * springs / cpu,
        "peak_mib": peak_mib(),
        "peak_over_start_mib": peak_mib() - start_mib,
    }
    print(
        f"{name:34s} {worlds:3d} worlds {threads} threads  {best * 1e3:8.1f} ms  "
        f"{row['world_substeps_per_s']:9.0f} substeps/s  "
        f"{row['spring_evaluations_per_s'] / 1e6:7.0f} M springs/s  "
        f"CPU/wall {row['cpu_over_wall']:.2f}  peak {row['peak_mib']:.0f} MiB "
        f"(+{row['peak_over_start_mib']:.0f})",
        flush=True,
    )
    return row


def own_work(
    model: SpringMassModel,
    worlds: int,
    threads: int,
    *,
    backward: bool = False,
    per_world: bool = False,
) -> Callable[[], torch.Tensor]:
    """One frame of our solver, from rest."""
    parameters = model.default_parameters(
        stiffness=STIFFNESS_N, mass_kg=float(model.node_count), dashpot_ns_per_m=DASHPOT,
        drag_per_s=DRAG, restitution=0.5, friction=0.3,
    )  # fmt: skip
    log_stiffness = parameters.log_stiffness.repeat(worlds if per_world else 1, 1)
    parameters = parameters.replace(log_stiffness=log_stiffness.requires_grad_(backward))
    solver = SpringMassSolver(
        model, parameters, worlds=worlds, substeps=SUBSTEPS, threads=threads, device="cpu"
    )
    state = solver.initial_state(torch.tensor(model.rest_position))
    driven = torch.zeros(worlds, 2, 0, 3)

    def work() -> torch.Tensor:
        with torch.set_grad_enabled(backward):
            out = solver.rollout(state, driven, FRAME_S).position[:, -1]
        if backward:
            log_stiffness.grad = None
            out.sum().backward()
        return out.detach()

    return work


def peer_work(model: SpringMassModel, *, backward: bool) -> Callable[[], np.ndarray]:
    """One frame of the peer, from rest."""
    i, j = model.edges[:, 0], model.edges[:, 1]
    rest = np.linalg.norm(model.rest_position[j] - model.rest_position[i], axis=1)
    peer = Peer(
        model.rest_position, model.edges, rest, np.full(len(rest), np.log(STIFFNESS_N)),
        substeps=SUBSTEPS, h=FRAME_S / SUBSTEPS, dashpot=DASHPOT, drag=DRAG, gradients=backward,
    )  # fmt: skip
    peer.capture()
    return peer.run


def main() -> None:
    """Run all rows and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="one repeat, no 64 worlds")
    args = parser.parse_args()
    wp.config.quiet = True
    model = scene()
    springs, repeats = model.spring_count, 1 if args.quick else 3
    print(f"{model.node_count} nodes, {springs} springs, {SUBSTEPS} substeps", flush=True)
    rows = []
    label = "peer, PhysTwin's algorithm (ours)"
    for backward in (False, True):
        work = peer_work(model, backward=backward)
        rows.append(measure(label + (" f+b" if backward else ""), work, 1, springs, repeats, 1))
        if not backward:
            peer_end = work()
        del work
    torch.set_num_threads(1)  # the threads measured are those of the solver
    cores = min(2, os.cpu_count() or 1)
    for backward in (False, True):
        for worlds in (1, 16) if args.quick else (1, 16, 64):
            for threads in sorted({1, cores}) if worlds > 1 else (1,):
                for per_world in (False, True) if worlds > 1 else (False,):
                    own = own_work(model, worlds, threads, backward=backward, per_world=per_world)
                    name = "PhysGym" + (" per-world k" if per_world else "")
                    name += " f+b" if backward else ""
                    rows.append(measure(name, own, worlds, springs, repeats, threads))
    touching = replace(model, self_collision=SelfCollision(0.005))
    rows.append(measure("PhysGym self-collision", own_work(touching, 1, 1), 1, springs, repeats, 1))
    own_end = own_work(model, 1, 1)()[0].numpy()
    difference = float(np.abs(own_end - peer_end).max())
    print(f"largest difference of a position to the peer after the frame: {difference:.2e} m")
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "nodes": model.node_count,
        "springs": springs,
        "substeps": SUBSTEPS,
        "peer": "our plain-Warp implementation of PhysTwin's published algorithm, not their code",
        "position_difference_m": difference,
        "rows": rows,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
