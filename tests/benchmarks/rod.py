"""Throughput of the rod: rollouts, node-substeps and gradients per second.

    python -m tests.benchmarks.rod --json OUT [--quick] [--device auto|cpu|cuda]

A cable of 13 nodes, 1 m, clamped at both ends, all effects on, for 5 s at 100 Hz. A node-substep is
one node of one world advanced by one substep. CPU time over wall time is printed beside every
figure: it is below the thread count where the machine is shared. The fastest repeat counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physgym.sim.device import resolve_device
from physgym.sim.model import State
from physgym.sim.rod import RodModel, RodParameters, RodSolver
from physgym.sim.rod.gradient import rod_rollout
from physgym.sim.rod.plain import plain_rollout
from tests.benchmarks._machine import machine

NODES, FRAME_S, HELD = 13, 0.01, (0, 1, 11, 12)


def cable() -> RodParameters:
    """A metre of cable with every effect on."""
    return RodParameters(
        rest_length_m=np.full(NODES - 1, 1.0 / (NODES - 1)),
        linear_density_kg_per_m=np.array(0.05),
        bending_stiffness_nm2=np.full(NODES - 2, 1e-3),
        natural_curvature_rad=np.full((NODES - 2, 2), 0.05),
        twist_stiffness_nm2=np.array(1e-3),
        bending_damping_s=np.array(0.02),
        friction_ratio=np.array(0.3),
        friction_yield_rad=np.array(0.02),
        drag_per_s=np.array(0.1),
        drag_quadratic_per_m=np.array(0.2),
        stretch_stiffness_n=np.array(200.0),
        stretch_damping_s=np.array(1e-3),
        end_roll_rad=np.array(0.3),
        clamp_tangent=np.array([[1.0, 0.0, 0.0]] * 2),
        clamp_director=np.array([[0.0, 0.0, 1.0]] * 2),
    )


def scene(
    worlds: int, frames: int, threads: int, device: str
) -> tuple[RodSolver, State, torch.Tensor]:
    """A solver, a start on an arc and two grippers that move."""
    solver = RodSolver(
        RodModel(NODES, HELD), cable(), worlds=worlds, threads=threads, device=device
    )
    q = 1.0
    angle = np.linspace(-q, q, NODES)
    x = np.stack([np.sin(angle) + np.sin(q), 0.0 * angle, np.cos(q) - np.cos(angle)], -1) / (2 * q)
    phase = 2.0 * np.pi * FRAME_S * np.arange(frames + 1)
    driven = np.repeat(x[None, list(HELD)], frames + 1, axis=0)
    driven[:, :2, 2] += 0.05 * np.sin(phase)[:, None]
    driven[:, 2:, 1] += 0.05 * np.sin(1.7 * phase)[:, None]
    state = solver.initial_state(torch.tensor(x))
    return solver, state, torch.tensor(driven).float().expand(worlds, -1, -1, -1)


def timed(job: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Seconds of the fastest run, and its CPU time over wall time."""
    best, ratio = np.inf, 0.0
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        job()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if wall < best:
            best, ratio = wall, cpu / wall
    return best, ratio


def measure(
    kind: str, worlds: int, frames: int, threads: int, device: str, repeats: int
) -> dict[str, Any]:
    """One row of the table.

    Args:
        kind: "rollout" (native on CPU, plain on CUDA), "plain", "gradient".
        worlds: B.
        frames: of the rollout.
        threads: CPU threads.
        device: Warp name.
        repeats: the fastest counts; one run before them warms up.

    Returns:
        What was measured.
    """
    solver, state, driven = scene(worlds, frames, threads, device)
    substeps = solver.substeps(FRAME_S)
    path = np.ascontiguousarray(driven.numpy())

    def run() -> Any:
        if kind == "plain":
            return plain_rollout(solver, solver._unpack(state), path, frames, substeps, FRAME_S)
        if kind == "rollout":
            return solver.rollout(state, driven, FRAME_S)
        names = ("bending_stiffness_nm2", "natural_curvature_rad", "bending_damping_s")
        given = {n: torch.tensor(getattr(cable(), n)).requires_grad_() for n in names}
        return rod_rollout(solver, state, driven, given, FRAME_S).square().mean().backward()

    run()
    seconds, ratio = timed(run, repeats)
    count = worlds * frames * substeps
    row = {
        "what": kind, "device": device, "worlds": worlds, "threads": threads, "frames": frames,
        "substeps_per_frame": substeps, "seconds": seconds,
        "rollouts_5s_per_s": worlds * frames * FRAME_S / 5.0 / seconds,
        "node_substeps_per_s": count * NODES / seconds,
        "cpu_over_wall": ratio,
    }  # fmt: skip
    print(
        f"{kind:9s} {device:7s} {worlds:5d} worlds {threads} threads: "
        f"{row['rollouts_5s_per_s']:9.1f} rollouts of 5 s/s, "
        f"{row['node_substeps_per_s'] / 1e6:8.2f} M node-substeps/s, "
        f"{1e3 * seconds / worlds:8.3f} ms a world, CPU/wall {ratio:.2f}"
    )
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="receives the figures")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer worlds, shorter rollouts")
    flags = parser.parse_args()
    device = resolve_device(flags.device)
    repeats = 2 if flags.quick else 5
    batches = (1, 16, 64) if flags.quick else (1, 16, 64, 1024)
    rows = []
    for kind in ("rollout", "plain", "gradient"):
        for worlds in batches:
            # Plain kernels take long for many worlds on CPU, gradients a state per frame and world.
            long = kind == "rollout" or worlds == 1 or device != "cpu"
            frames = 500 if long and not flags.quick else (100 if worlds <= 64 else 20)
            for threads in (1, 2) if device == "cpu" and worlds > 1 else (1,):
                if kind == "plain" and device != "cpu":
                    continue  # there the rollout is the plain kernel
                rows.append(measure(kind, worlds, frames, threads, device, repeats))
    if flags.json is not None:
        text = json.dumps({"machine": machine(), "rows": rows}, indent=2)
        flags.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
