"""Start velocity against flights in closed form."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from motion_cases import DT_S, GRAVITY, block, flight

from physgym.errors import DataError
from physgym.sim.contact import GroundPlane
from recon.identify.start_velocity import fit_start_velocity, noise_of


def test_a_flight_gives_its_velocity_and_spin() -> None:
    found = fit_start_velocity(flight())
    assert np.allclose(found.linear_m_per_s, [0.4, -0.2, 0.3], atol=1e-9)
    assert np.allclose(found.angular_rad_per_s, [1.0, 2.0, -1.5], atol=1e-9)
    assert found.contact_frame == 12
    corner = block()[:1] + np.array([0.0, 0.0, 1.0])
    expected = np.array([0.4, -0.2, 0.3]) + np.cross([1.0, 2.0, -1.5], block()[:1])
    assert np.allclose(found.at(corner), expected, atol=1e-9)


def test_noise_is_measured_and_averaged_out() -> None:
    motion = flight(noise_m=1e-3)
    assert noise_of(motion) == pytest.approx(1e-3, rel=0.15)  # 3400 samples, and some curvature
    found = fit_start_velocity(motion)
    # A slope over 12 frames at 60 Hz of centres that are good to 1 mm / sqrt(125).
    time = DT_S * np.arange(12)
    sigma = 1e-3 / np.sqrt(125) / np.sqrt(np.sum((time - time.mean()) ** 2))
    assert np.abs(found.linear_m_per_s - [0.4, -0.2, 0.3]).max() < 4 * sigma


def test_contact_is_seen_in_the_frame_where_it_begins() -> None:
    motion = flight(frames=14, spin=(0.0, 0.0, 0.0))
    position = motion.position.copy()
    free = 8
    # From frame 8 on the centre goes back up, as after a bounce.
    position[free:] += np.linspace(0.01, 0.2, len(position) - free)[:, None, None] * [0, 0, 1]
    assert fit_start_velocity(dataclasses.replace(motion, position=position)).contact_frame == free


def test_the_ground_ends_the_flight() -> None:
    motion = flight(velocity=(0, 0, 0), spin=(0, 0, 0), height_m=0.1, ground=GroundPlane())
    time = DT_S * np.arange(12)
    lowest = 0.05 + 0.5 * GRAVITY[2] * time**2
    expected = int(np.argmax(lowest < -0.01 * 0.1))  # the tolerance of start_velocity
    found = fit_start_velocity(motion)
    assert found.contact_frame == expected
    assert np.allclose(found.linear_m_per_s, 0.0, atol=1e-9)


def test_tracks_that_drift_do_not_end_a_flight_high_in_the_air() -> None:
    """Third differences do not see a drift, so it looks like a body that is no longer rigid."""
    still = {"velocity": (0, 0, 0), "spin": (0, 0, 0), "ground": GroundPlane()}
    high = flight(height_m=0.5, **still)
    drift = np.zeros_like(high.position)
    # A quarter of the points slide by 0.4 mm a frame, as often to one side as to the other.
    drift[:, ::4, 0] = 0.0004 * np.arange(len(drift))[:, None]
    drift[:, ::8, 0] *= -1.0
    drifting = dataclasses.replace(high, position=high.position + drift)
    assert fit_start_velocity(drifting).contact_frame == high.frame_count
    low = flight(height_m=0.065, **still)  # 15 mm above the ground
    bent = dataclasses.replace(low, position=low.position + drift)
    assert fit_start_velocity(bent).contact_frame < fit_start_velocity(low).contact_frame


def test_a_body_that_stands_has_no_velocity() -> None:
    rest = block()
    position = np.repeat((rest + np.array([0.0, 0.0, 0.05]))[None], 10, axis=0)
    motion = dataclasses.replace(flight(frames=10), position=position, ground=GroundPlane())
    found = fit_start_velocity(motion)
    assert found.contact_frame == 0
    assert not found.linear_m_per_s.any()


def test_it_stands_on_its_surface_where_cameras_track_only_its_upper_half() -> None:
    rest = block()
    position = np.repeat((rest + np.array([0.0, 0.0, 0.05]))[None], 10, axis=0)
    position[4:] += np.arange(6)[:, None, None] * np.array([0.0, 0.0, 0.02])  # then it is lifted
    upper = rest[:, 2] > 0.0
    motion = dataclasses.replace(
        flight(frames=10),
        position=position[:, upper],
        rest=rest[upper],
        surface=rest,
        ground=GroundPlane(),
    )
    found = fit_start_velocity(motion)
    assert found.contact_frame == 0
    assert not found.linear_m_per_s.any()


def test_too_few_free_frames_are_refused() -> None:
    motion = flight(frames=14, spin=(0.0, 0.0, 0.0))
    position = motion.position.copy()
    position[2:] += [0.0, 0.0, 0.05]
    with pytest.raises(DataError, match="too short") as caught:
        fit_start_velocity(dataclasses.replace(motion, position=position))
    assert "stage velocity" in str(caught.value)
    assert "frame 2" in str(caught.value)
