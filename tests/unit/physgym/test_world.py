"""World: exact state, rigid grippers, rollouts, limits of trust, and the twin against the cell."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from physgym.cell import CellConfig, SimulatedCell, exciting_motion
from physgym.cell.truth import true_twin
from physgym.errors import DataError
from physgym.twin import Twin
from physgym.validity import ValidityWarning
from physgym.world import World

DT_S = 0.05


@pytest.fixture(scope="module")
def twin() -> Twin:
    return true_twin(CellConfig())


@pytest.fixture(scope="module")
def hanging() -> np.ndarray:
    return SimulatedCell().object_points()


def some_commands(worlds: int, frames: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.4 * (torch.rand(worlds, frames, 2, 3, generator=generator) - 0.5)


def test_default_grippers_are_the_two_clamps(twin: Twin, hanging: np.ndarray) -> None:
    world = World(twin)
    world.set_points(hanging)
    assert [nodes.tolist() for nodes in world.gripper_nodes] == [[0, 1], [11, 12]]
    np.testing.assert_array_equal(world.gripper_position[0], hanging[[0, 12]].astype(np.float32))
    assert world.length_m == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(DataError, match="each driven node of the twin once"):
        World(twin, grippers=[[0, 1], [11]])


def test_saved_world_goes_on_bit_for_bit(twin: Twin, hanging: np.ndarray) -> None:
    world = World(twin, worlds=3)
    world.set_points(hanging)
    commands = some_commands(3, 6)
    for frame in range(3):
        world.step(commands[:, frame], dt_s=DT_S)
    saved, forked = world.save(), world.state
    ends = []
    for restore in (None, "bytes", "state"):
        if restore == "bytes":
            world.restore(saved)
        elif restore == "state":
            world.state = forked
        for frame in range(3, 6):
            world.step(commands[:, frame], dt_s=DT_S)
        ends.append(world.state)
    for end in ends[1:]:
        for part in ("position", "velocity", "internal"):
            torch.testing.assert_close(getattr(end, part), getattr(ends[0], part), rtol=0, atol=0)
    assert not torch.equal(ends[0].position, forked.position)


def test_rollout_is_stepping_and_leaves_the_world_alone(twin: Twin, hanging: np.ndarray) -> None:
    world = World(twin, worlds=2)
    world.set_points(hanging)
    start, commands = world.state, some_commands(2, 5)
    predicted = world.rollout(start, commands, dt_s=DT_S)
    assert predicted.shape == (2, 5, 13, 3)
    assert torch.equal(world.state.position, start.position)
    for frame in range(5):
        world.step(commands[:, frame], dt_s=DT_S)
        # Sums of commands are rounded in another order: a few units in the last place (1e-7 m),
        # which a quarter second of motion does not amplify beyond a micrometre.
        torch.testing.assert_close(world.position, predicted[:, frame], rtol=0, atol=1e-6)


def test_a_world_in_a_batch_is_the_world_alone(twin: Twin, hanging: np.ndarray) -> None:
    alone, batch = World(twin), World(twin, worlds=19)
    alone.set_points(hanging)
    commands = some_commands(19, 8)
    together = batch.rollout(alone.state, commands, dt_s=DT_S)
    for index in (0, 7, 18):
        single = alone.rollout(alone.state, commands[index : index + 1], dt_s=DT_S)
        assert torch.equal(single[0], together[index])


def test_grippers_move_as_rigid_bodies(twin: Twin, hanging: np.ndarray) -> None:
    world = World(twin)
    world.set_points(hanging)
    before = world.position[0]
    velocity = torch.tensor([[[0.1, 0.0, 0.2], [0.0, -0.1, 0.0]]])
    world.step(velocity, dt_s=DT_S)
    moved = world.position[0] - before
    for nodes, speed in zip(world.gripper_nodes, velocity[0]):
        # float32 positions near 1 m round to 6e-8 m.
        torch.testing.assert_close(moved[nodes], (DT_S * speed).expand(2, 3), rtol=0, atol=2e-7)


def test_a_gripper_turns_about_its_reference(twin: Twin, hanging: np.ndarray) -> None:
    world = World(twin)
    world.set_points(hanging)
    clamp = (world.position[0, 1] - world.position[0, 0]).numpy()
    spin = torch.zeros(1, 2, 3)
    spin[0, 0, 2] = np.pi / 2 / (10 * DT_S)
    still = torch.zeros(1, 2, 3)
    for _ in range(10):
        world.step(still, gripper_spin=spin, dt_s=DT_S)
    turned = (world.position[0, 1] - world.position[0, 0]).numpy()
    quarter = np.array([-clamp[1], clamp[0], clamp[2]])
    # Ten roundings of float32 coordinates near 1 m.
    np.testing.assert_allclose(turned, quarter, atol=2e-6)
    np.testing.assert_allclose(world.position[0, 0], hanging[0], atol=1e-6)


def test_leaving_the_known_range_warns_once(twin: Twin, hanging: np.ndarray) -> None:
    world = World(twin.replace(validity={"speed_m_s": [0.0, 0.3], "strain": [0.0, 0.05]}))
    world.set_points(hanging)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ValidityWarning)
        world.step(np.full((1, 2, 3), 0.05), dt_s=DT_S)
    with pytest.warns(ValidityWarning, match=r"speed_m_s up to 0\.3"):
        world.step(np.full((1, 2, 3), 1.0), dt_s=DT_S)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ValidityWarning)
        world.step(np.full((1, 2, 3), 1.0), dt_s=DT_S)


def test_bad_input_names_the_node_and_changes_nothing(twin: Twin, hanging: np.ndarray) -> None:
    world = World(twin)
    world.set_points(hanging)
    before = world.state
    holed = hanging.copy()
    holed[4] = np.nan
    with pytest.raises(DataError, match="node 4"):
        world.set_points(holed)
    with pytest.raises(DataError, match="in their order"):
        world.set_points(hanging[:-1])
    with pytest.raises(DataError, match="gripper velocity"):
        world.step(np.zeros((1, 6)), dt_s=DT_S)
    with pytest.raises(DataError, match="not finite"):
        world.step(np.full((1, 2, 3), np.inf), dt_s=DT_S)
    with pytest.raises(DataError, match="not a saved world"):
        world.restore(world.save()[:-40])
    with pytest.raises(DataError, match="a state of shape"):
        World(twin, worlds=2).state = before
    assert torch.equal(world.state.position, before.position)


@pytest.mark.parametrize("curvature_per_m", [0.0, 2.0])
def test_rod_and_cell_agree_although_they_share_no_code(curvature_per_m: float) -> None:
    config = CellConfig(natural_curvature_per_m=curvature_per_m)
    cell, world = SimulatedCell(config), World(true_twin(config))
    points = cell.record(exciting_motion(config, seed=1, duration_s=2.0), 2.0)["points"]
    driven = torch.tensor(points[None, :, config.driven_index], dtype=torch.float32)
    state = world.state_from(points[0])
    predicted = world.solver.rollout(state, driven, 0.01).position[0].numpy()
    error = np.linalg.norm(predicted - points, axis=2).mean()
    moved = np.linalg.norm(points - points[0], axis=2).mean()
    # Markers 0.095 m apart against segments half as long: at rest they differ by 5 mm (the chain's
    # error falls fourfold per halving), and a swing adds as much. A wrong sign of the curvature,
    # a factor 2 in stiffness or no damping give 30 mm and more.
    assert error < 0.015
    assert error < 0.1 * moved
