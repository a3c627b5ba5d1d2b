"""Three RGB-D streams of 640x480 at 30 fps through librealsense's playback into an episode.

python tests/benchmarks/bench_record.py --json runs/record.json [--seconds 12] [--quick]

The frames are rendered once, get a colour camera's noise (noise decides how far zstd compresses)
and are fed to librealsense's recorder at their pace. Two ways of playing: `files` as fast as they
are recorded, which is how `physgym record --source FILE.db3` plays them; `live` in real time,
without waiting, as cameras send. `read` is `live` with nobody writing: what librealsense's playback
loses by itself on a machine that is busy.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine

from physgym.camera import PinholeCamera
from physgym.cell.depth_noise import DepthNoiseConfig
from physgym.cell.soft import SoftCell
from physgym.cell.soft_config import SoftCellConfig
from recon.capture.calibration_file import Calibration
from recon.capture.realsense import RealSenseConfig, RealSenseRig
from recon.capture.record import record
from recon.capture.software_camera import record_software_cameras
from recon.capture.sources import RigSource

FPS, CAMERAS, RENDERED = 30, 3, 20
COLOR_NOISE = 1.5  # of 255: a colour camera's, indoors

Images = dict[str, list[tuple[np.ndarray, np.ndarray]]]


def rendered() -> tuple[dict[str, PinholeCamera], Images]:
    """Frames of every camera, RENDERED each, to be shown forth and back."""
    noise = DepthNoiseConfig()
    cell = SoftCell(SoftCellConfig(kind="toy", camera_count=CAMERAS, depth_noise=noise))
    cameras = {camera.name: camera for camera in cell.cameras}
    images: Images = {name: [] for name in cameras}
    rng = np.random.default_rng(0)
    for frame in cell.record("lift", 2.0, fps=RENDERED / 2.0):
        for name, image in zip(cameras, frame.images):
            grain = rng.normal(0.0, COLOR_NOISE, image.rgb.shape)
            rgb = np.clip(image.rgb + grain, 0, 255).astype(np.uint8)
            images[name].append((rgb, image.depth_m))
    cell.close()
    return cameras, images


def films(folder: Path, seconds: float) -> tuple[dict[str, PinholeCamera], list[Path], float]:
    """The three recordings, and how late the last frame was written [s]."""
    cameras, images = rendered()
    count = round(seconds * FPS)
    order = [*range(RENDERED), *range(RENDERED - 2, 0, -1)]

    def frames() -> Iterator[tuple[str, float, np.ndarray, np.ndarray]]:
        for number in range(count):
            for name in cameras:
                rgb, depth_m = images[name][order[number % len(order)]]
                yield name, number / FPS, rgb, depth_m

    began = time.monotonic()
    files = record_software_cameras(folder, cameras.values(), frames(), fps=FPS, paced=True)
    return cameras, list(files.values()), time.monotonic() - began - seconds


def measure(
    cameras: dict[str, PinholeCamera], files: list[Path], out: Path, *, compress: bool, live: bool
) -> dict[str, Any]:
    """Record once; frames lost anywhere, seconds, processor time."""
    source = RigSource(
        files,
        calibration=Calibration(cameras),
        config=RealSenseConfig(fps=FPS),
        names={name: camera.serial for name, camera in cameras.items()},
        live=live,
    )
    before = resource.getrusage(resource.RUSAGE_SELF)
    report = record(source, out, compress=compress)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    shutil.rmtree(report.episode)
    return {
        "playing": "live" if live else "files",
        "compress": "zstd" if compress else "none",
        "frames": report.frames,
        "dropped": report.dropped,
        "losses": report.losses,
        "seconds": report.seconds,
        "cpu_s": cpu_s,
        "raw_mb_s": report.raw_mb / report.seconds,
        "disk_mb": report.disk_mb,
        "high_water_frames": report.high_water,
        "high_water_mb": report.high_water_mb,
    }


def read_only(cameras: dict[str, PinholeCamera], files: list[Path]) -> int:
    """Frames that come when they are played live and thrown away."""
    serials = {name: camera.serial for name, camera in cameras.items()}
    config = RealSenseConfig(fps=FPS, playing="live")
    with RealSenseRig(serials, config, files=files) as rig:
        return sum(1 for _ in rig.frames())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    seconds = 3.0 if args.quick else args.seconds
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as scratch:
        cameras, files, late_s = films(Path(scratch) / "films", seconds)
        asked = round(seconds * FPS)
        print(f"{CAMERAS} x {asked} frames; writing the films ended {late_s:.2f} s late")
        unread = CAMERAS * asked - read_only(cameras, files)
        print(f"read   lost {unread} of {CAMERAS * asked}")
        rows: list[dict[str, Any]] = []
        for live in (False, True):
            for compress in (True, False):
                row = measure(
                    cameras, files, Path(scratch) / "episode", compress=compress, live=live
                )
                row["lost"] = CAMERAS * asked - sum(row["frames"].values())
                rows.append(row)
                print(
                    f"{row['playing']:<6} {row['compress']:<5} lost {row['lost']:>4} of "
                    f"{CAMERAS * asked}, {row['seconds']:.1f} s, cpu {row['cpu_s']:.1f} s, "
                    f"{row['raw_mb_s']:.0f} MB/s, {row['disk_mb']:.0f} MB, at most "
                    f"{row['high_water_frames']} waited {row['losses']}"
                )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": machine(),
            "load": load,
            "asked": asked,
            "read_lost": unread,
            "rows": rows,
        }
        args.json.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
