"""Twins with directed springs on Spring-Gaus's ground: placed, held, elsewhere, in the viewer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from physgym.errors import TwinError
from physgym.grip import simulate_gripped
from physgym.sim.build import build_solver, network_of
from physgym.sim.contact import GroundLaw, GroundPlane
from physgym.sim.spring_mass import rest_lengths
from physgym.surroundings import surrounded
from physgym.twin import Twin
from physgym.viewer.held import take_hold, with_holds
from physgym.viewer.settings import Settings, with_settings

FACTOR_GROUND = {
    "ground_normal": np.array([0.0, 0.0, 1.0]),
    "ground_offset_m": np.array(0.0),
    "ground_law": np.array(1, np.int32),
    "tangential_factor": np.array(0.8),
    "factor_step_s": np.array(2e-4),
}


def tetrahedron(**more) -> Twin:
    """Four nodes, 5 cm; three springs pull the first node by twice what they pull the others."""
    nodes = 0.05 * np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) + (0, 0, 0.001)
    edges = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]], np.int32)
    values = {
        "springs": edges, "spring_rest_length_m": rest_lengths(nodes, edges),
        "log_stiffness_ratio": np.zeros(6), "mass_kg": 0.1, "stiffness_n": 20.0,
        "spring_asymmetry": np.array([1 / 3] * 3 + [0.0] * 3), "dashpot_ns_per_m": 0.1,
        "drag_per_s": 0.0, "gravity_m_per_s2": np.array([0.0, 0.0, -9.81]), "spacing_m": 0.05,
        "grip_radius_m": 0.06, "grip_neighbours": np.array(4, np.int32),
        "grip_stiffness_ratio": 1.0, "length_exponent": 0.0, **FACTOR_GROUND, **more,
    }  # fmt: skip
    parameters = {k: np.asarray(v) for k, v in values.items()}
    return Twin("t", "volume", "spring_mass", "given", nodes, np.zeros(0, np.int64), parameters)


def test_the_network_has_ends_and_ground() -> None:
    model, given = network_of(tetrahedron())
    assert model.directed
    assert model.ground == GroundPlane(law=GroundLaw.FACTOR, factor_step_s=2e-4)
    ends = given.coefficients(model, 1e-4).stiffness.numpy().reshape(2, 6)
    np.testing.assert_allclose(ends[0] / ends[1], [2.0] * 3 + [1.0] * 3, rtol=1e-6)
    plain = {k: v for k, v in tetrahedron().parameters.items() if k != "spring_asymmetry"}
    assert not network_of(tetrahedron().replace(parameters=plain))[0].directed


def test_a_turned_twin_keeps_its_ends() -> None:
    twin = tetrahedron()
    three = twin.replace(
        parameters={
            **twin.parameters,
            **{k: twin.parameters[k][:3] for k in ("springs", "spring_rest_length_m",
                                                   "log_stiffness_ratio", "spring_asymmetry")},
        }
    )  # fmt: skip
    pose = np.eye(4)
    pose[:3, :3] = [[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]
    moved = three.place(pose)  # three numbers are no direction here
    np.testing.assert_array_equal(moved.parameters["spring_asymmetry"], [1 / 3] * 3)


def test_a_hand_of_the_viewer_holds_by_springs_that_pull_alike() -> None:
    twin = tetrahedron()
    hold = take_hold(twin, twin.rest_position, twin.rest_position[0], [])
    held, _ = with_holds(twin, [hold])
    model, given = network_of(held)
    assert model.directed
    added = model.spring_count - 6
    assert added > 0
    np.testing.assert_allclose(given.asymmetry[0], [1 / 3] * 3 + [0.0] * (3 + added), rtol=1e-6)
    build_solver(held)


def test_the_viewer_keeps_the_law_of_the_ground_until_friction_is_asked_for() -> None:
    twin = tetrahedron()
    settings = Settings.of(twin)
    floating = with_settings(twin, settings.replace(gravity_m_per_s2=1.0, ground_m=-0.1))
    ground = network_of(floating)[0].ground
    assert ground == dataclasses.replace(network_of(twin)[0].ground, offset_m=-0.1)
    rough = with_settings(twin, settings.replace(friction=0.9))
    model, given = network_of(rough)
    assert model.ground == GroundPlane()
    assert float(given.friction) == pytest.approx(0.9)
    gone = with_settings(twin, settings.replace(ground_m=None))
    assert network_of(gone)[0].ground is None


def test_a_factor_of_the_ground_brakes_as_it_says() -> None:
    weak = {"stiffness_n": np.array(1e-9), "dashpot_ns_per_m": np.array(0.0)}
    twin = tetrahedron(gravity_m_per_s2=np.zeros(3), tangential_factor=np.array(0.9), **weak)
    twin = twin.replace(rest_position=twin.rest_position * (1, 1, 0))
    made = simulate_gripped(twin, [], 1e-3, frames=2, velocity=np.tile([1.0, 0, 0], (4, 1)))
    moved = made[1, :, 0] - made[0, :, 0]
    # One substep of 1 ms: position goes with the speed before contact, and stays on the plane.
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-4)
    made = simulate_gripped(twin, [], 1e-3, frames=3, velocity=np.tile([1.0, 0, 0], (4, 1)))
    np.testing.assert_allclose(made[2, :, 0] - made[1, :, 0], 1e-3 * 0.9**5, rtol=1e-4)


def test_friction_in_place_of_the_factor_and_what_is_missing() -> None:
    twin = tetrahedron()
    model, given = network_of(surrounded(twin, friction=0.4))
    assert model.ground == GroundPlane()
    assert model.directed
    assert float(given.friction) == pytest.approx(0.4)
    kept = {k: v for k, v in twin.parameters.items() if k != "tangential_factor"}
    with pytest.raises(TwinError, match="tangential_factor"):
        network_of(twin.replace(parameters=kept))
