"""How many 640x480 RGB-D cameras at 30 Hz the recorder node takes without a loss.

    python tests/benchmarks/ros_recorder.py [--json FILE] [--quick] [--cameras 1 2 3 4]

A publisher in a process of its own sends noisy images (camera noise does not compress) over DDS
with the project's Fast DDS profile; both processes share this machine's cores. Frames that the
publisher could not send in time are counted apart: they say nothing about the recorder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from _machine import machine

from physgym.files import write_atomically

_FPS = 30
_WIDTH, _HEIGHT = 640, 480


def publish(cameras: int, seconds: float) -> None:
    """Send images of so many cameras; prints what was sent as JSON.

    Args:
        cameras: how many.
        seconds: how long.
    """
    import numpy as np
    import rclpy
    from sensor_msgs.msg import CameraInfo, Image

    from physgym.camera import PinholeCamera
    from physgym_ros import conversions_capture as make
    from physgym_ros import qos
    from physgym_ros.conversions import time_message

    rclpy.init()
    node = rclpy.create_node("publisher")
    rng = np.random.default_rng(0)
    K = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
    outputs = []
    for number in range(cameras):
        name, root = f"cam{number}", f"/camera/cam{number}"
        camera = PinholeCamera(name, "", _WIDTH, _HEIGHT, K, np.eye(4))
        ramp = np.linspace(40, 200, _WIDTH)[None, :, None]
        rgb = (ramp + rng.normal(0, 3, (_HEIGHT, _WIDTH, 3))).clip(0, 255).astype(np.uint8)
        depth = (700 + rng.normal(0, 3, (_HEIGHT, _WIDTH))).astype(np.uint16)
        stamped: dict[str, Any] = {"stamp_s": 1.0, "frame_id": f"{name}_color_optical_frame"}
        messages = {
            f"{root}/color/camera_info": make.camera_info_message(camera, **stamped),
            f"{root}/color/image_raw": make.image_message(rgb, "rgb8", **stamped),
            f"{root}/aligned_depth_to_color/image_raw": make.depth_message(depth, **stamped),
        }
        for topic, message in messages.items():
            kind = CameraInfo if isinstance(message, CameraInfo) else Image
            outputs.append((node.create_publisher(kind, topic, qos.IMAGES), message))
        place = make.transform_message(np.eye(4), parent="world", child=stamped["frame_id"],
                                       stamp_s=1.0)  # fmt: skip
        latched = node.create_publisher(type(place), f"{root}/color/transform", qos.LATCHED)
        latched.publish(place)
        outputs.append((latched, None))
    while any(one.get_subscription_count() < 1 for one, _ in outputs):
        time.sleep(0.05)
    time.sleep(0.5)
    start_s, used_s = time.monotonic(), time.process_time()
    late, frames = 0, round(seconds * _FPS)
    for frame in range(frames):
        left_s = start_s + frame / _FPS - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        late += left_s < -1 / _FPS
        stamp = time_message(1000.0 + frame / _FPS)
        for output, message in outputs:
            if message is not None:
                message.header.stamp = stamp
                output.publish(message)
    took_s, used_s = time.monotonic() - start_s, time.process_time() - used_s
    time.sleep(1.0)
    print(json.dumps({"sent": frames, "late": late, "took_s": took_s, "cores": used_s / took_s}))


class _Node:
    """The recorder node in a process, with what it used of the processor."""

    def __init__(self, out: Path, domain: int, log: Path, *, compress: bool) -> None:
        from physgym_ros.harness import NodeProcess

        options = {"out": str(out), "autostart": True, "compress": compress}
        self.node = NodeProcess("recorder", options, domain_id=domain, log=log)

    def cpu_s(self) -> float:
        words = Path(f"/proc/{self.node.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def measure(cameras: int, seconds: float, *, compress: bool) -> dict[str, Any]:
    """Record so many cameras for so long.

    Args:
        cameras: how many.
        seconds: how long.
        compress: zstd chunks.

    Returns:
        What was sent, kept and lost, and what it cost.
    """
    from physgym_ros.dds import child_environment
    from physgym_ros.harness import fresh_domain
    from recon.episode import Episode

    domain = fresh_domain()
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "out", Path(folder) / "log"
        recorder = _Node(out, domain, log, compress=compress)
        with recorder.node as process:
            words = [sys.executable, __file__, "--publish", str(cameras), "--seconds", str(seconds)]
            publisher = subprocess.Popen(
                words, env=child_environment(domain), stdout=subprocess.PIPE, text=True
            )
            used: list[tuple[float, float]] = []
            halt = threading.Event()

            def sample() -> None:
                while not halt.wait(0.2):
                    used.append((time.monotonic(), recorder.cpu_s()))

            sampler = threading.Thread(target=sample)
            sampler.start()
            try:
                output, _ = publisher.communicate(timeout=seconds * 4 + 60)
            finally:
                halt.set()
                sampler.join()
                if publisher.poll() is None:
                    publisher.kill()
            code = process.interrupt(timeout_s=120)
        if publisher.returncode or code:
            raise RuntimeError(log.read_text())
        sent = json.loads(output)
        (path,) = out.iterdir()
        with Episode.open(path) as episode:
            kept = {name: episode.frame_count(name) for name in episode.cameras}
            report = episode.metadata["recording"]["cameras"]
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    end_s = used[-1][0] - 1.0  # the publisher waits for a second at its end
    window = [row for row in used if end_s - sent["took_s"] <= row[0] <= end_s]
    cores = (window[-1][1] - window[0][1]) / (window[-1][0] - window[0][0])
    lost = sum(sent["sent"] - count for count in kept.values())
    return {
        "cameras": cameras,
        "compress": compress,
        "frames_sent": sent["sent"] * cameras,
        "frames_lost": lost,
        "lost_in_the_queue": sum(one["overflowed"] for one in report.values()),
        "publisher_late_frames": sent["late"],
        "publisher_rate_hz": sent["sent"] / sent["took_s"],
        "recorder_cores": cores,
        "publisher_cores": sent["cores"],
        "mb_per_s_on_disk": 1e-6 * size / sent["took_s"],
    }


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--publish", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        publish(options.publish, options.seconds)
        return 0
    seconds = 3.0 if options.quick else options.seconds
    rows = []
    for compress in (True, False):
        for cameras in options.cameras[:2] if options.quick else options.cameras:
            rows.append(measure(cameras, seconds, compress=compress))
            print(json.dumps(rows[-1]))
    result = {"machine": machine(), "size": [_WIDTH, _HEIGHT], "fps": _FPS, "rows": rows}
    if options.json:
        write_atomically(options.json, (json.dumps(result, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
