"""The simulated cell against statics of cables, its own limits, and bad input."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from scipy.integrate import solve_bvp
from scipy.optimize import brentq

from physgym.cell import CellConfig, SimulatedCell, exciting_motion
from physgym.errors import DataError, DeviceError

GRAVITY_M_S2 = 9.81


@pytest.fixture(scope="module")
def cell() -> SimulatedCell:
    return SimulatedCell()


def heavy_elastica(config: CellConfig, arc_length_m: np.ndarray) -> np.ndarray:
    """Shape (span, z) of a clamped heavy elastica: EI theta'' = nx sin(theta) - nz cos(theta)."""
    free = config.length_m - 2 * config.clamp_length_m
    span = config.home_spacing * config.length_m - 2 * config.clamp_length_m
    stiffness = config.bending_modulus_pa * np.pi * config.radius_m**4 / 4
    weight = config.mass_kg / config.length_m * GRAVITY_M_S2

    def derivative(s: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        theta = y[0]
        bend = (p[0] * np.sin(theta) - (p[1] + weight * s) * np.cos(theta)) / stiffness
        return np.stack([y[1], bend, np.cos(theta), np.sin(theta)])

    def ends(a: np.ndarray, b: np.ndarray, p: np.ndarray) -> np.ndarray:
        return np.array([a[0], b[0], a[2], a[3], b[2] - span, b[3]])

    s = np.linspace(0, free, 200)
    guess = np.stack(
        [
            -1.2 * np.sin(2 * np.pi * s / free),
            -1.2 * 2 * np.pi / free * np.cos(2 * np.pi * s / free),
            span * s / free,
            -0.3 * np.sin(np.pi * s / free),
        ]
    )
    solution = solve_bvp(
        derivative, ends, s, guess, p=[0.1, -weight * free / 2], tol=1e-6, max_nodes=20000
    )
    assert solution.success, solution.message
    return solution.sol(arc_length_m - config.clamp_length_m)[2:4].T


def test_hanging_shape_converges_to_the_heavy_elastica(cell: SimulatedCell) -> None:
    inner = slice(1, cell.config.marker_count - 1)
    expected = heavy_elastica(cell.config, cell.config.marker_arc_length_m[inner])
    cell.reset()
    errors = []
    for candidate in (cell, SimulatedCell(dataclasses.replace(cell.config, segments_per_edge=4))):
        points = candidate.object_points()[inner]
        got = np.stack([points[0, 1] - points[:, 1], points[:, 2] - points[0, 2]], axis=1)
        errors.append(np.abs(got - expected).max())
        assert np.abs(points[:, 0]).max() < 1e-6  # the plane of the grippers, by symmetry
    # Rigid segments of 0.047 m against a continuum: l^2 kappa / 8 with kappa up to 15 / m is 4 mm.
    assert errors[0] < 4.5e-3
    # Second order in the segment length: half the length, a quarter of the error.
    assert 3.0 < errors[0] / errors[1] < 5.0


def test_soft_cable_hangs_in_a_catenary() -> None:
    config = CellConfig(bending_modulus_pa=2e4, damping_pa_s=6e4, twist_modulus_pa=1e4)
    cell = SimulatedCell(config)
    free = config.length_m - 2 * config.clamp_length_m
    span = config.home_spacing * config.length_m - 2 * config.clamp_length_m
    a = brentq(lambda a: 2 * a * np.sinh(span / (2 * a)) - free, 0.05, 5.0)
    inner = slice(1, config.marker_count - 1)
    s = config.marker_arc_length_m[inner] - config.length_m / 2
    expected = np.stack([a * np.arcsinh(s / a), np.sqrt(a**2 + s**2)], axis=1)
    points = cell.object_points()[inner]
    got = np.stack([-points[:, 1], points[:, 2]], axis=1)
    got, expected = got - got[0], expected - expected[0]
    # Near the clamps bending still rules over (EI / w)^(1/3) = 0.024 m, where the cable leaves
    # horizontally instead of at 60 degrees: about a third of that length is missing in the sag.
    assert np.abs(got - expected).max() < 0.012
    assert SimulatedCell().object_points()[6, 2] - points[5, 2] > 0.005  # stiffer sags less


def test_natural_curvature_bends_sideways_and_mirrors() -> None:
    sag = [
        SimulatedCell(CellConfig(natural_curvature_per_m=k)).object_points()[6, 0] for k in (2, -2)
    ]
    assert abs(sag[0]) > 0.01
    # The two cells are mirror images up to how far they have settled (2 mm/s residual speed).
    assert sag[0] == pytest.approx(-sag[1], abs=2e-3)


def test_energy_falls_when_the_grippers_rest(cell: SimulatedCell) -> None:
    cell.reset()
    cell.record(exciting_motion(cell.config, seed=1, duration_s=1.5), 1.5)
    hold = cell.joint_position
    for _ in range(30):  # the gantries come to rest first, they put energy in
        cell.step(hold, 0.01)
    totals = []
    for _ in range(20):
        cell.step(hold, 0.05)
        totals.append(sum(cell.cable_energy_j))
    # The held gantries may exchange microjoules with the cable; the swing has millijoules.
    assert np.diff(totals).max() < 2e-5
    assert totals[0] - totals[-1] > 1e-3


def test_gantry_reaches_a_far_target_within_its_limits(cell: SimulatedCell) -> None:
    cell.reset()
    target = cell.config.home + np.array([0.2, -0.05, 0.1, 0.2, 0.05, -0.1])
    speeds, before = [], cell.joint_velocity
    for _ in range(100):
        cell.step(target, 0.01)
        speeds.append(np.abs(cell.joint_velocity).max())
        # 2 % over: the servo's own overshoot when the setpoint turns.
        change = np.abs(cell.joint_velocity - before).max() / 0.01
        assert change < 1.02 * cell.config.acceleration_limit_m_s2
        before = cell.joint_velocity
    assert max(speeds) < 1.02 * cell.config.velocity_limit_m_s
    # The cable's weight against a servo of 90 kN/m: micrometres; a tenth of a millimetre is ample.
    assert np.abs(cell.joint_position - target).max() < 1e-4


def test_cable_rests_on_the_table(cell: SimulatedCell) -> None:
    cell.reset()
    low = cell.config.home.copy()
    low[[2, 5]] = 0.2
    for _ in range(250):
        cell.step(low, 0.01)
    height = cell.object_points()[:, 2]
    # MuJoCo's contacts are soft: the axis lies within half a millimetre of one radius.
    assert height.min() == pytest.approx(cell.config.radius_m, abs=5e-4)
    assert (height < 0.006).sum() >= 4


def test_taut_cable_stalls_the_gantries_and_does_not_stretch(cell: SimulatedCell) -> None:
    cell.reset()
    apart = cell.config.home + np.array([0, 0.35, 0, 0, -0.35, 0])  # 1.3 m for a cable of 1 m
    for _ in range(300):
        cell.step(apart, 0.01)
    joints = cell.joint_position
    # The force limit pulls on a compliant weld, which gives a few millimetres at 50 N.
    assert joints[1] - joints[4] == pytest.approx(cell.config.length_m, abs=5e-3)
    points = cell.object_points()
    # Rigid segments: the polyline cannot be longer than the cable.
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).sum() <= 1.0 + 1e-9


def test_markers_in_the_clamps_move_with_the_grippers(cell: SimulatedCell) -> None:
    cell.reset()
    record = cell.record(exciting_motion(cell.config, seed=2, duration_s=2.0), 2.0)
    points = record["points"]
    np.testing.assert_array_equal(record["driven_index"], [0, 1, 11, 12])
    for end, near, joints in ((0, 1, slice(0, 3)), (12, 11, slice(3, 6))):
        # The weld gives a little under load; a millimetre is what a marker's own noise is.
        assert np.abs(points[:, end] - record["joint_position"][:, joints]).max() < 1e-3
        grip = points[:, near] - points[:, end]
        assert np.abs(grip - grip[0]).max() < 1e-3
    assert record["points"].shape == (201, 13, 3)
    assert np.allclose(np.diff(record["time"]), 0.01)
    speed = np.linalg.norm(np.diff(record["joint_position"][:, :3], axis=0), axis=1) / 0.01
    assert 0.1 < speed.mean() < 0.8


def test_same_seed_same_bits(cell: SimulatedCell) -> None:
    motion = exciting_motion(cell.config, seed=3, duration_s=0.5)
    records = []
    for seed in (5, 5, 6):
        cell.reset(seed)
        records.append(cell.record(motion, 0.5, noise_m=5e-4)["points"])
    np.testing.assert_array_equal(records[0], records[1])
    # 5e-4 m of noise on two recordings: their difference has a deviation of 7e-4 m.
    assert (records[0] - records[2]).std() == pytest.approx(5e-4 * np.sqrt(2), rel=0.1)
    other = SimulatedCell(cell.config)
    other.reset(5)
    np.testing.assert_array_equal(other.record(motion, 0.5, noise_m=5e-4)["points"], records[0])


@pytest.mark.parametrize("length_m", [0.6, 1.0, 1.3])
def test_exciting_motion_stays_inside(length_m: float) -> None:
    config = CellConfig(length_m=length_m)
    for seed in range(5):
        motion = exciting_motion(config, seed=seed, duration_s=8.0, speed_m_s=0.5)
        path = motion.joint_position_m
        distance = np.linalg.norm(path[:, :3] - path[:, 3:], axis=1)
        assert distance.max() < 0.95 * length_m
        assert (path > config.joint_limits[:, 0]).all()
        assert (path < config.joint_limits[:, 1]).all()
        assert np.abs(np.diff(path, axis=0)).max() * 200 < config.velocity_limit_m_s
        np.testing.assert_allclose(path[0], config.home)


def test_camera_sees_the_cable(cell: SimulatedCell) -> None:
    cell.reset()
    try:
        image = cell.render("front", width=160, height=120)
    except DeviceError as error:
        pytest.skip(str(error))
    assert image.shape == (120, 160, 3)
    assert image.dtype == np.uint8
    red = (image[..., 0] > 1.6 * image[..., 1]) & (image[..., 0] > 1.6 * image[..., 2])
    assert 30 < red.sum() < 2000  # the cable is the only red thing, and thin
    failures: list[Exception] = []

    def look() -> None:
        try:
            cell.render("top")
        except DeviceError as error:
            failures.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert "another thread" in str(failures[0])
    with pytest.raises(DataError, match="no camera 'rear'"):
        cell.render("rear")
    cell.close()


@pytest.mark.parametrize(
    "change",
    [
        {"length_m": -1.0},
        {"mass_kg": float("nan")},
        {"radius_m": 0.5},
        {"marker_count": 4},
        {"clamp_length_m": 0.4},
        {"home_spacing": 1.2},
        {"damping_pa_s": -1.0},
        {"timestep_s": 0.01},
    ],
)
def test_bad_configuration_names_the_field(change: dict[str, float]) -> None:
    with pytest.raises(DataError, match=f"CellConfig.{next(iter(change))}"):
        CellConfig(**change)


@pytest.mark.parametrize("target", [np.zeros(5), np.full(6, np.nan), np.zeros((2, 3))])
def test_bad_target_is_refused_and_nothing_moves(cell: SimulatedCell, target: np.ndarray) -> None:
    cell.reset()
    with pytest.raises(DataError, match="joint target"):
        cell.step(target, 0.01)
    assert cell.time_s == 0.0
