"""Time of the Gaussian rasteriser, forward and forward plus backward.

    python -m tests.benchmarks.bench_splats --json OUT [--device cpu|cuda] [--quick]

Gaussians fill the view of one camera 2 to 3 m away, each about 1.5 pixels of standard deviation
(log-normal, 0.4, along each axis), opacities the logistic of 1.5 times a normal number: a Gaussian
reaches 2.5 tiles. Backward is that of random weights on colour, depth and alpha, along every
parameter and the pose. Prints the best wall time of some repeats, and the least CPU time, which
other load on the machine disturbs less.
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

import numpy as np
import torch

from physgym.camera import PinholeCamera
from physgym.sim.device import resolve_device
from physgym.splats import GaussianCloud, rasterize

SIZES = {"20k at 320x240": (20_000, 320, 240), "50k at 640x480": (50_000, 640, 480)}


def scene(count: int, width: int, height: int, degree: int) -> tuple[GaussianCloud, PinholeCamera]:
    """The cloud and the camera, which stands in the origin."""
    draw = torch.Generator().manual_seed(0)
    focal = float(width)
    u, v, z = (torch.rand(count, generator=draw) for _ in range(3))
    z = 2.0 + z
    mean = torch.stack([(u - 0.5) * z * width / focal, (v - 0.5) * z * height / focal, z], dim=1)
    deviation = torch.tensor(2.5 * 1.5 / focal).log()
    cloud = GaussianCloud(
        mean,
        deviation + 0.4 * torch.randn(count, 3, generator=draw),
        torch.randn(count, 4, generator=draw),
        1.5 * torch.randn(count, generator=draw),
        0.5 * torch.randn(count, (degree + 1) ** 2, 3, generator=draw),
    )
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return cloud, PinholeCamera("bench", "", width, height, K, np.eye(4))


def measure(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Best wall time [ms], CPU over wall of that repeat, least CPU time [ms]."""
    work()
    best, ratio, least = float("inf"), 0.0, float("inf")
    for _ in range(repeats):
        wall0, cpu0 = time.perf_counter(), time.process_time()
        work()
        wall, cpu = time.perf_counter() - wall0, time.process_time() - cpu0
        least = min(least, cpu)
        if wall < best:
            best, ratio = wall, cpu / wall
    return {"wall_ms": 1e3 * best, "cpu_over_wall": ratio, "cpu_ms": 1e3 * least}


def case(
    name: str,
    *,
    degree: int = 0,
    threads: int = 1,
    engine: str = "native",
    device: str = "cpu",
    repeats: int,
) -> list[dict[str, Any]]:
    """Rows of one setting: forward, and forward with backward."""
    cloud, camera = scene(*SIZES[name], degree)
    cloud = cloud.to(device)
    leaves = [tensor.requires_grad_() for tensor in vars(cloud).values()]
    pose = torch.eye(4)[None].to(device).requires_grad_()
    draw = torch.Generator().manual_seed(1)
    shape = (1, camera.height, camera.width)
    weights = [torch.randn(*shape, *more, generator=draw).to(device) for more in ((3,), (), ())]

    def finish() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    def forward() -> None:
        with torch.no_grad():
            rasterize(cloud, camera, threads=threads, engine=engine)
        finish()

    def both() -> None:
        made = rasterize(cloud, camera, T_world_cam=pose, threads=threads, engine=engine)
        torch.autograd.grad((made.rgb, made.depth, made.alpha), [*leaves, pose], weights)
        finish()

    rows = []
    for job, work in (("forward", forward), ("forward + backward", both)):
        row = {"scene": name, "sh_degree": degree, "engine": engine, "threads": threads, "job": job}
        row |= {"device": device} | measure(work, repeats)
        print(
            f"{name}  degree {degree}  {engine:6s}  {threads} threads  {job:18s} "
            f"{row['wall_ms']:8.2f} ms  (CPU/wall {row['cpu_over_wall']:.2f}, "
            f"least CPU {row['cpu_ms']:.2f} ms)",
            flush=True,
        )
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--quick", action="store_true", help="one thread, few repeats, native only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 10 if options.quick else 100
    device = resolve_device(options.device)
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    rows = []
    for name in SIZES:
        if device != "cpu":
            for engine in ("warp", "auto"):  # auto: gsplat where it can run
                rows += case(name, engine=engine, device=device, repeats=repeats)
            continue
        rows += case(name, repeats=repeats)
        if not options.quick:
            rows += case(name, degree=3, repeats=repeats)
            rows += case(name, threads=cores, repeats=repeats)
            rows += case(name, engine="warp", repeats=10)
    if device == "cpu" and not options.quick:
        rows += case("20k at 320x240", engine="plain", repeats=2)
    found = {
        "benchmark": "splats",
        "cpu": platform.processor(),
        "cores": cores,
        "load_before": load,
        "rows": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
