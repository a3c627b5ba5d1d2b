"""Twins under another gravity, over another ground."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.errors import TwinError
from physgym.grip import simulate_gripped
from physgym.surroundings import surrounded
from physgym.twin import Twin

EDGES = np.array([[i, j] for i in range(8) for j in range(i + 1, 8)], np.int32)


def cube(**more) -> Twin:
    """Eight nodes, 4 cm, all joined, 10 cm above z = 0."""
    nodes = 0.04 * np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)
    nodes = np.add(nodes, (0.0, 0.0, 0.1))
    length = np.linalg.norm(nodes[EDGES[:, 0]] - nodes[EDGES[:, 1]], axis=1)
    parameters = {
        "stiffness_n": np.array(20.0), "dashpot_ns_per_m": np.array(0.2),
        "drag_per_s": np.array(0.0), "springs": EDGES, "spring_rest_length_m": length,
        "log_stiffness_ratio": np.zeros(len(EDGES)), "mass_kg": np.array(0.1),
        "gravity_m_per_s2": np.array([0.0, 0.0, -9.81]), "spacing_m": np.array(0.04),
        "grip_stiffness_ratio": np.array(1.0), "length_exponent": np.array(0.0), **more,
    }  # fmt: skip
    return Twin("cube", "volume", "spring_mass", "given", nodes, np.zeros(0, int), parameters)


def moved(twin: Twin, frames: int = 31, speed=(0.0, 0.0, 0.0)) -> np.ndarray:
    velocity = np.tile(np.array(speed), (8, 1))
    return simulate_gripped(twin, [], 0.02, frames=frames, velocity=velocity)


def test_nothing_changes_nothing() -> None:
    twin = cube()
    assert surrounded(twin) is twin


def test_gravity_is_what_it_is_told() -> None:
    made = moved(surrounded(cube(), gravity_m_per_s2=(0.0, 3.0, 0.0)), frames=11)
    shift = made[-1].mean(axis=0) - made[0].mean(axis=0)
    # g t^2 / 2 of 0.2 s; semi-implicit steps go g t h / 2 farther, h at most 2 ms here.
    np.testing.assert_allclose(shift, [0.0, 0.06, 0.0], atol=6.5e-4)


def test_a_ground_is_put_under_a_twin_without_one() -> None:
    made = moved(surrounded(cube(), ground_m=0.05))
    # Feet rest on it, and sink by nothing but float32.
    np.testing.assert_allclose(made[-1, :, 2].min(), 0.05, atol=2e-4)
    lower = moved(surrounded(surrounded(cube(), ground_m=0.05), ground_m=0.02))
    np.testing.assert_allclose(lower[-1, :, 2].min(), 0.02, atol=2e-4)


def test_friction_brakes_as_coulomb_says() -> None:
    slid = []
    for friction in (0.0, 0.3):
        twin = surrounded(cube(), ground_m=0.1, friction=friction)
        made = moved(twin, frames=11, speed=(0.5, 0.0, 0.0))
        slid.append(float((made[-1] - made[0])[:, 0].mean()))
    assert slid[0] == pytest.approx(0.5 * 0.2, abs=1e-4)
    # v t - mu g t^2 / 2; it hops a little as its feet take the weight.
    assert slid[1] == pytest.approx(0.1 - 0.5 * 0.3 * 9.81 * 0.04, abs=0.008)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"gravity_m_per_s2": (0.0, 1.0)}, "gravity"),
        ({"gravity_m_per_s2": (0.0, 1.0, np.nan)}, "gravity"),
        ({"ground_m": np.inf}, "ground"),
        ({"friction": 0.2}, "without a ground"),
        ({"ground_m": 0.0, "friction": -0.2}, "friction"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict, match: str) -> None:
    with pytest.raises(TwinError, match=match):
        surrounded(cube(), **change)
