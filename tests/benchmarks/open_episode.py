"""Opening a recording of three cameras, 300 frames of 640x480, from the page cache.

python tests/benchmarks/open_episode.py --json runs/open_episode.json [--frames 300]

Twice: with zstd chunks, as `EpisodeWriter` writes by itself, and without. Of each, the time until
`Episode.open` returns, with and without ``verify``, and the processor time of all threads.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine

from physgym.camera import PinholeCamera
from recon.episode import Episode, EpisodeWriter

_W, _H, _CAMERAS = 640, 480, 3


def write(path: Path, frames: int, *, compress: bool) -> None:
    """Smooth pictures with a camera's noise, which decides how far they compress."""
    rng = np.random.default_rng(0)
    K = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
    cameras = [PinholeCamera(f"c{n}", str(n), _W, _H, K, np.eye(4)) for n in range(_CAMERAS)]
    y, x = np.mgrid[:_H, :_W]
    smooth = (128 + 60 * np.sin(x / 40) + 40 * np.cos(y / 30))[..., None] + np.arange(3) * 10
    rgb = [(smooth + rng.normal(0, 2, (_H, _W, 3))).clip(0, 255).astype(np.uint8) for _ in "1234"]
    deep = 900 + 100 * np.sin(x / 80)
    depth = [(deep + rng.normal(0, 1.5, (_H, _W))).astype(np.uint16) for _ in "1234"]
    with EpisodeWriter(path, cameras, compress=compress) as writer:
        for t in range(frames):
            for n, camera in enumerate(cameras):
                writer.write_frame(camera.name, t / 30, rgb[(t + n) % 4], depth[t % 4])
            writer.write_gripper(0, t / 30, [0, 0, 0.1], [1, 0, 0, 0], closed=True)


def main() -> None:
    """Write, open three times each, print and keep the best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for compress in (True, False):
            path = Path(scratch) / f"episode_{compress}"
            write(path, options.frames, compress=compress)
            size = sum(file.stat().st_size for file in path.glob("*.mcap"))
            for verify in (False, True):
                best = (float("inf"), 0.0)
                for _ in range(3):
                    wall, own = time.perf_counter(), time.process_time()
                    Episode.open(path, verify=verify).close()
                    best = min(best, (time.perf_counter() - wall, time.process_time() - own))
                row = {"compress": compress, "verify": verify, "megabytes": round(size / 1e6)}
                row |= {"open_s": round(best[0], 2), "processor_s": round(best[1], 2)}
                print(row)
                rows.append(row)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
