"""How fast `physgym play` simulates, and how often it tells the page.

    python tests/benchmarks/bench_viewer.py --json OUT [--quick] [--alone] [--twin FOLDER ...]

Two hands wave the ends of a body up and down by 4 cm, once a second, in the real viewer with a real
page in headless Chromium, whose WebGL runs on the processor: on a desk with a graphics card the
page takes next to nothing of it. Of each way to draw it: simulated seconds per second, updates per
second that were sent, and pictures per second that the page drew. Without Chromium, and with
--alone, nobody watches, and the last is missing. "processor" is the CPU time of simulation and
server per simulated second: below 1, one core does it in real time, whatever else this machine is
busy with. "headroom" is how many times real time the simulation alone runs, by CPU time too.
Bodies are the bundled cable, a block of springs and a block of jelly (MPM) with 4000 needles as
Gaussians; or the twins that are named.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "e2e"))

from chromium_page import ChromiumPage, find_chromium

from physgym.sim.mpm.collider import Collider
from physgym.sim.mpm.material import ElasticLaw, Material, ReturnMap
from physgym.sim.mpm.model import MpmModel, MpmParameters
from physgym.sim.mpm.twins import twin_of_mpm
from physgym.sim.spring_mass import rest_lengths, springs_from_points
from physgym.splats import GaussianCloud
from physgym.twin import Twin
from physgym.viewer.app import STEP_S, Viewer
from physgym.viewer.session import Session

GAUSSIANS = 4000
WAVE_M, WAVE_HZ = 0.04, 1.0


def needles(nodes: np.ndarray) -> GaussianCloud:
    """Gaussians of 6 mm by 2 mm by 2 mm on random nodes, on their way to the next."""
    draw = np.random.default_rng(0)
    at = nodes[draw.integers(len(nodes), size=GAUSSIANS)] + 0.004 * draw.normal(size=(GAUSSIANS, 3))
    colour = 0.5 + 0.5 * np.sin(60 * at)
    return GaussianCloud(
        torch.tensor(at).float(),
        torch.tensor([0.006, 0.002, 0.002]).log().expand(GAUSSIANS, 3).contiguous(),
        torch.tensor(draw.normal(size=(GAUSSIANS, 4))).float(),
        torch.full((GAUSSIANS,), 2.0),
        torch.tensor((colour - 0.5) * 2 * np.sqrt(np.pi)).float()[:, None],
    )


def springs_block() -> Twin:
    """500 nodes, 2 cm apart."""
    axes = [np.arange(n) * 0.02 for n in (5, 20, 5)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    edges = springs_from_points(nodes, radius_m=0.036, max_neighbours=30)
    values = {
        "springs": edges, "spring_rest_length_m": rest_lengths(nodes, edges),
        "log_stiffness_ratio": np.zeros(len(edges)), "mass_kg": 0.2,
        "gravity_m_per_s2": (0.0, 0.0, -9.81), "stiffness_n": 30.0, "dashpot_ns_per_m": 0.1,
        "drag_per_s": 1.0, "restitution": 0.0, "friction": 0.5, "ground_normal": (0.0, 0.0, 1.0),
        "ground_offset_m": 0.0, "spacing_m": 0.02, "length_exponent": 0.0, "grip_radius_m": 0.03,
        "grip_neighbours": np.array(20, np.int32), "grip_stiffness_ratio": 1.0,
    }  # fmt: skip
    parameters = {key: np.asarray(value) for key, value in values.items()}
    return Twin(
        "springs", "volume", "spring_mass", "phystwin", nodes, [], parameters, splats=needles(nodes)
    )


def jelly_block() -> Twin:
    """1024 particles, 1 cm apart, in cells of 2 cm."""
    axes = [np.arange(n) * 0.01 for n in (8, 16, 8)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3) + np.array([0, 0, 0.012])
    model = MpmModel(
        nodes, np.full(len(nodes), 1e-6), 0.02, Material(ElasticLaw.NEO_HOOKEAN, ReturnMap.NONE),
        (Collider.ground(0.0),),
    )  # fmt: skip
    parameters = MpmParameters.of(young_pa=2e4, poisson_ratio=0.3, density_kg_per_m3=300.0)
    twin = twin_of_mpm(
        name="jelly", kind="volume", method="mosa", model=model, parameters=parameters
    )
    return twin.replace(splats=needles(nodes))


def wave(session: Session, start: list[np.ndarray], time_s: float) -> None:
    """Send the hands where they are to be at a time."""
    up = np.array([0.0, 0.0, 0.5 * WAVE_M * (1.0 - np.cos(2 * np.pi * WAVE_HZ * time_s))])
    for number, at in enumerate(start[:2]):
        session.place_hand(number, at + up)


def headroom(twin: Twin, seconds: float) -> float:
    """How many times real time the simulation alone runs, by CPU time."""
    session = Session(twin)
    start = [hand.target.copy() for hand in session.hands]
    session.advance(STEP_S)  # compiles
    begun, count = time.process_time(), round(seconds / STEP_S)
    for step in range(count):
        wave(session, start, step * STEP_S)
        session.advance(STEP_S)
    return count * STEP_S / (time.process_time() - begun)


@contextlib.contextmanager
def watched(viewer: Viewer, alone: bool) -> Iterator[ChromiumPage | None]:
    """A page of the viewer, or None where there is no Chromium or none is wanted."""
    if alone or find_chromium() is None:
        yield None
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        page = ChromiumPage(viewer.url, Path(profile))
        try:
            page.wait_for("document.querySelector('canvas')!==null && !!window.physgymKeys")
            page.value(
                "window.drawn=0;(function count(){window.drawn++;requestAnimationFrame(count)})()"
            )
            yield page
        finally:
            page.close()


def live(viewer: Viewer, page: ChromiumPage | None, style: str, seconds: float) -> dict[str, float]:
    """Figures of one way to draw it."""
    session, body = viewer.session, viewer._body
    assert session is not None
    assert body is not None
    viewer.ask(lambda: body.show(style))
    viewer.ask(session.reset)
    time.sleep(1.0)
    start = [hand.target.copy() for hand in session.hands]
    drawn = 0 if page is None else page.value("window.drawn")
    begun, begun_s, updates = time.perf_counter(), session.time_s, body.updates
    processor = time.process_time()
    while (passed := time.perf_counter() - begun) < seconds:
        viewer.ask(lambda: wave(session, start, session.time_s))
        time.sleep(1 / 60)
    made = {
        "times real time": round((session.time_s - begun_s) / passed, 3),
        "processor": round((time.process_time() - processor) / (session.time_s - begun_s), 3),
        "updates per second": round((body.updates - updates) / passed, 1),
    }
    if page is not None:
        made["pictures per second"] = round((page.value("window.drawn") - drawn) / passed, 1)
    return made


def measure(twin: Twin, seconds: float, alone: bool) -> dict[str, Any]:
    """All figures of one body."""
    torch.set_num_threads(1)  # as the viewer does
    about: dict[str, Any] = {
        "dynamics": twin.dynamics,
        "nodes": twin.node_count,
        "spring count": len(twin.parameters.get("springs", ())),
        "gaussians": 0 if twin.splats is None else len(twin.splats),
        "headroom": round(headroom(twin, seconds), 2),
    }
    viewer = Viewer(twin)
    viewer.start()
    try:
        with watched(viewer, alone) as page:
            assert viewer._body is not None
            for style in viewer._body.styles:
                about[style] = live(viewer, page, style, seconds)
        viewer.wait(0.0)  # an error of its loop comes out here
    finally:
        viewer.stop()
    return about


def main() -> None:
    """Parse the flags, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument("--alone", action="store_true", help="without a page")
    parser.add_argument("--twin", type=Path, nargs="+", default=[], help="folders of twins")
    flags = parser.parse_args()
    seconds = 3.0 if flags.quick else 8.0
    bundled = REPOSITORY / "physgym" / "assets" / "twins" / "cable"
    bodies = {"cable": Twin.load(bundled), "springs": springs_block(), "jelly": jelly_block()}
    bodies = {str(path): Twin.load(path) for path in flags.twin} or bodies
    figures: dict[str, Any] = {"load average": os.getloadavg()}
    for name, twin in bodies.items():
        figures[name] = measure(twin, seconds, flags.alone)
        print(name, json.dumps(figures[name]), file=sys.stderr)
    flags.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
