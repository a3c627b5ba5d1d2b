"""How long a plan takes, and a step of the environment, on the bundled cable twin.

python tests/benchmarks/planning.py --json runs/planning.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from _machine import machine

from physgym.envs.tasks.cable import CableShapeEnv, bundled_twin
from physgym.twin import Twin
from physgym.world import World
from policies.mpc import Cem, CemConfig, Mppi, MppiConfig

REPEATS = 5


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    source = bundled_twin()
    twin = source if isinstance(source, Twin) else Twin.load(source)
    env = CableShapeEnv(twin)
    env.reset(seed=0)
    began = time.perf_counter()
    for _ in range(100):
        env.step(np.zeros(6, np.float32))
    rows = [{"job": "CableShape-v0 step", "ms": 10.0 * (time.perf_counter() - began)}]
    for samples in (32, 64, 128, 256):
        world = World(twin, worlds=samples)
        start = World(twin, worlds=1).state
        goal = np.asarray(twin.rest_position) + np.array([0.1, 0.0, 0.0])
        for planner in (
            Mppi(world, env.limits, MppiConfig(horizon=30, dt_s=0.05, iterations=2)),
            Cem(world, env.limits, CemConfig(horizon=30, dt_s=0.05, iterations=3)),
        ):
            planner.plan(start, goal)
            took = [planner.plan(start, goal).duration_s for _ in range(REPEATS)]
            name = f"{type(planner).__name__} {samples} samples, 30 x 0.05 s"
            rows.append({"job": name, "ms": 1e3 * float(np.median(took))})
    for row in rows:
        print(f"{row['job']:<40} {row['ms']:8.2f} ms")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
