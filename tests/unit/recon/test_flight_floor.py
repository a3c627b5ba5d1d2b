"""Where a falling object cannot be: against flights in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.perception.flight_floor import flight_floors
from recon.perception.table import Plane

GRAVITY = np.array([0.0, 0.0, -9.81])
TABLE = Plane(np.array([0.0, 0.0, 1.0]), 0.4)
DT_S = 1 / 60
CONTACT = 9


def flight(
    *, spin: tuple[float, float, float] = (0.0, 0.0, 0.0), noise_m: float = 0.0, frames: int = 14
) -> tuple[np.ndarray, np.ndarray]:
    """Points of a cube of 0.1 m that falls for nine frames and then stays, and the stamps."""
    rng = np.random.default_rng(1)
    body = rng.uniform(-0.05, 0.05, (80, 3))
    time_s = DT_S * np.arange(frames)
    flown = time_s.clip(max=time_s[CONTACT])[:, None]
    middle = np.array([1.0, 0.0, 0.7]) + flown * [0.5, 0.0, -0.3] + 0.5 * flown**2 * GRAVITY
    turn = Rotation.from_rotvec(flown * np.array(spin)).as_matrix()
    position = np.einsum("tij,nj->tni", turn, body) + middle[:, None]
    return position + rng.normal(0.0, noise_m, position.shape), time_s + 5.0


@pytest.mark.parametrize("noise_m", [0.0, 2e-3])
def test_each_frame_of_a_flight_is_a_floor(noise_m: float) -> None:
    position, time_s = flight(noise_m=noise_m)
    floors = flight_floors(position, time_s, GRAVITY, TABLE)
    assert len(floors) == CONTACT - 1  # frames 2 to 9
    for frame, floor in enumerate(floors, start=2):
        fallen = -0.3 * DT_S * frame - 0.5 * 9.81 * (DT_S * frame) ** 2
        np.testing.assert_allclose(floor.normal, [0, 0, 1], atol=20 * noise_m + 1e-9)
        # A frame's middle is good to the noise of 80 points, in either frame.
        here = floor.height(np.array([1.0, 0.0, 0.7]))
        assert here == pytest.approx(0.3 + fallen, abs=noise_m + 1e-9)


def test_a_floor_turns_with_the_object() -> None:
    position, time_s = flight(spin=(0.0, 4.0, 0.0))
    last = flight_floors(position, time_s, GRAVITY, TABLE)[-1]
    # Every point is as high over the turned floor as it will be over the table.
    height = TABLE.height(position[CONTACT])
    np.testing.assert_allclose(last.height(position[0]), height, atol=1e-9)
    turn = Rotation.from_rotvec([0.0, 4.0 * DT_S * CONTACT, 0.0])
    np.testing.assert_allclose(last.normal, turn.inv().apply([0, 0, 1]), atol=1e-9)


def test_what_does_not_fly_has_floors_that_say_nothing_new() -> None:
    position, time_s = flight()
    still = np.repeat(position[:1], len(position), axis=0)
    for floor in flight_floors(still, time_s, GRAVITY, TABLE):
        np.testing.assert_allclose([*floor.normal, floor.offset_m], [0, 0, 1, 0.4], atol=1e-9)
    assert not flight_floors(position[:, :5], time_s, GRAVITY, TABLE)
    lost = position.copy()
    lost[1:] = np.nan
    assert not flight_floors(lost, time_s, GRAVITY, TABLE)
