"""A block that is thrown, filmed in flight: its twin flies, lands and goes on as it did."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from physgym.twin import Twin
from recon.benchmark_looks.film import FallSource
from recon.benchmark_looks.objects import Setting, source_of
from recon.capture.record import record
from recon.identify import episode_fit
from recon.perception.perceive_config import PerceiveConfig
from recon.perception.perceive_episode import cached_perception
from recon.reconstruct import ReconstructConfig, reconstruct_episode, score_twin

VELOCITY = (0.5, 0.2, 1.0)
MEASURES = ("track_m", "chamfer_m")


@pytest.fixture(scope="module")
def thrown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tilted a little, so that it rolls on where a rigid fall would stay."""
    source = source_of("drop", Setting(quick=True))
    assert isinstance(source, FallSource)
    fall = source.fall
    cell = dataclasses.replace(
        fall.cell, kind="block", camera_count=3, camera_width=240, camera_height=180,
        camera_fov_deg=70.0,
    )  # fmt: skip
    tilt = np.array([0.99, 0.1, 0.1, 0.0])
    w, x, y, z = (float(c) for c in tilt / np.linalg.norm(tilt))
    place = tmp_path_factory.mktemp("thrown") / "thrown"
    fall = dataclasses.replace(
        fall,
        cell=cell,
        material=dataclasses.replace(fall.material, young_pa=2e4),  # softer ones turn inside out
        height_m=0.12,
        velocity_m_per_s=VELOCITY,
        quat_wxyz=(w, x, y, z),
        frames=40,
    )
    record(FallSource(fall), place)
    return place


@pytest.mark.slow
def test_the_future_of_a_throw_is_predicted_better_than_by_any_baseline(
    thrown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A quarter of the usual search: what is asked is what the start does.
    monkeypatch.setitem(episode_fit._GENERATIONS, "quick", 10)
    monkeypatch.setitem(episode_fit._DESCENT_STEPS, "quick", 10)
    config = ReconstructConfig(kind="volume", nodes=60, appearance=False)
    twin = reconstruct_episode(thrown, tmp_path / "twin", config)
    # The cameras' noise moves the centre by a millimetre, and 12 frames at 60 Hz are 0.2 s.
    assert np.abs(twin.parameters["start_velocity_m_per_s"] - VELOCITY).max() < 0.02
    assert np.abs(twin.parameters["start_spin_rad_per_s"]).max() < 0.5

    perception = cached_perception(thrown, PerceiveConfig(kind="volume"))
    future = Twin.load(tmp_path / "twin").metrics["parts"]["future"]
    # What the same twin does that starts at rest, as all of this method's did.
    still = {"start_velocity_m_per_s": np.zeros(3), "start_spin_rad_per_s": np.zeros(3)}
    twin = twin.replace(parameters={**twin.parameters, **still})
    at_rest = score_twin(twin, thrown, perception)["parts"]["future"]["twin"]
    for measure in MEASURES:
        found = future["twin"][measure]
        for row in ("frozen", "rigid", "falling"):
            assert found < 0.5 * future[row][measure]
        assert at_rest[measure] > future["falling"][measure]
