"""What a box collider costs the spring-mass solver.

    python -m tests.benchmarks.box_collider --json OUT [--quick]

The scene of `tests.benchmarks.spring_mass` for one frame: without a box, with a plate far away,
with a plate that pushes the block, with three plates. Rounds go through all variants in turn, and
CPU time is compared (the least of all rounds), so that other load on the machine does not decide.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import warp as wp

from physgym.sim.contact import BoxCollider
from physgym.sim.spring_mass import SpringMassModel, SpringMassSolver
from tests.benchmarks.spring_mass import DASHPOT, DRAG, FRAME_S, STIFFNESS_N, SUBSTEPS, scene

PLATE = BoxCollider((0.005, 0.06, 0.03), margin_m=0.0025)
# Where a plate starts and ends along x; the block reaches from 0 to 0.075 m.
PUSHING, FAR = (-0.0085, -0.0035), (-1.0, -0.995)
VARIANTS = {
    "no box": (),
    "one box, far": (FAR,),
    "one box, pushing": (PUSHING,),
    "three boxes, one pushing": (FAR, FAR, PUSHING),
}


def own_work(
    base: SpringMassModel, places: tuple[tuple[float, float], ...], worlds: int, *, backward: bool
) -> Callable[[], None]:
    """One frame with plates, forward or forward and backward."""
    model = replace(base, colliders=(PLATE,) * len(places))
    parameters = model.default_parameters(
        stiffness=STIFFNESS_N, mass_kg=float(model.node_count), dashpot_ns_per_m=DASHPOT,
        drag_per_s=DRAG, restitution=0.5, friction=0.3,
    )  # fmt: skip
    leaf = parameters.log_stiffness.clone().requires_grad_(backward)
    solver = SpringMassSolver(
        model, parameters.replace(log_stiffness=leaf), worlds=worlds, substeps=SUBSTEPS, threads=1,
        device="cpu",
    )  # fmt: skip
    state = solver.initial_state(torch.tensor(model.rest_position))
    pose = None
    if places:
        ends = [[[x, 0.04, 0.03, 1.0, 0.0, 0.0, 0.0] for x in at] for at in zip(*places)]
        pose = torch.tensor([ends])

    def work() -> None:
        with torch.set_grad_enabled(backward):
            out = solver.rollout(
                state, torch.zeros(worlds, 2, 0, 3), FRAME_S, collider_pose=pose
            ).position
        if backward:
            out.sum().backward()

    return work


def main() -> None:
    """Run all rows and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="two rounds, one world")
    args = parser.parse_args()
    wp.config.quiet = True
    torch.set_num_threads(1)
    base = scene()
    rows: list[dict[str, Any]] = []
    for worlds in (1,) if args.quick else (1, 16):
        for backward in (False, True):
            works = {
                name: own_work(base, places, worlds, backward=backward)
                for name, places in VARIANTS.items()
            }
            least = dict.fromkeys(works, float("inf"))
            for work in works.values():
                work()  # compiles
            for _ in range(2 if args.quick else 5):
                for name, work in works.items():
                    start = time.process_time()
                    work()
                    least[name] = min(least[name], time.process_time() - start)
            for name, cpu_s in least.items():
                ratio = cpu_s / least["no box"]
                label = f"{name}{', forward and backward' if backward else ''}"
                print(f"{label:46s} {worlds:3d} worlds {cpu_s * 1e3:8.1f} ms CPU  x {ratio:.3f}")
                rows.append({"name": label, "worlds": worlds, "cpu_s": cpu_s, "ratio": ratio})
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "nodes": base.node_count,
        "springs": base.spring_count,
        "substeps": SUBSTEPS,
        "rows": rows,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
