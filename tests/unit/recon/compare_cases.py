"""A falling cube as it was perceived, and processes that do something in place of their work."""

import textwrap

import numpy as np
import pytest

from recon.compare import process
from recon.perception.result import Perception
from recon.perception.table import Plane
from recon.tracks import Tracks

FRAMES, DT_S = 20, 1 / 60


def cube(height_m: float = 0.06) -> np.ndarray:
    """A lattice of 10 cm, its lower side that high."""
    axis = np.linspace(-0.05, 0.05, 6)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return points + np.array([0, 0, 0.05 + height_m])


def fallen(height_m: float = 0.06, speed_m_s: float = 0.0) -> np.ndarray:
    """The cube falls from there and stays where it lands, (T, N, 3)."""
    time = DT_S * np.arange(FRAMES)
    drop = np.minimum(height_m, speed_m_s * time + 0.5 * 9.81 * time**2)
    return cube(height_m)[None] - drop[:, None, None] * np.array([0, 0, 1.0])


def perceived(
    position: np.ndarray | None = None, *, kind: str = "volume", cloud_share: float = 1.0
) -> Perception:
    position = fallen() if position is None else position
    count = position.shape[1]
    tracks = Tracks(
        time_s=DT_S * np.arange(len(position)),
        position=position.astype(np.float32),
        visible=np.ones(position.shape[:2], bool),
        driven_index=[],
        name="cube",
        rest_position=position[0].astype(np.float32),
        source_sha256="ab" * 32,
    )
    clouds = tuple(p[: round(cloud_share * count)].astype(np.float32) for p in position)
    table = Plane(np.array([0.0, 0.0, 1.0]), 0.0)
    return Perception(tracks, count, count, kind, clouds, table=table)  # type: ignore[arg-type]


def acts(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the process do this in place of its work; `job` and `place` are there."""
    head = """
        import json, os, signal, sys, time, pathlib
        job = json.loads(pathlib.Path(sys.argv[1]).read_text())
        place = pathlib.Path(job["place"])
        def done(**more):
            row = {k: job[k] for k in ("name", "method", "options")} | {"status": "done"} | more
            (place / "result.json").write_text(json.dumps(row))
    """
    monkeypatch.setattr(process, "_WORKER", ("-c", textwrap.dedent(head) + textwrap.dedent(code)))


PARTS = {
    part: {
        "start": start,
        "stop": stop,
        "twin": {"track_m": 0.004},
        "frozen": {"track_m": 0.03},
        "rigid": {"track_m": 0.02},
    }
    for part, start, stop in (("train", 1, 14), ("future", 14, 20))
}


def _done(parts: dict) -> str:
    return (
        f"done(parts={parts!r}, seconds={{'learn': 1.0}}, peak_memory_mb=5.0, resumed=False, "
        "twin={'gaussians': 0}, lpips='', warnings=[])"
    )


DONE = _done(PARTS)
FELL = _done({part: {**rows, "falling": {"track_m": 0.01}} for part, rows in PARTS.items()})
