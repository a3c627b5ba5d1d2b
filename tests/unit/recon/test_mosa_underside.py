"""The underside that no camera sees: how it is moved, and that landing on it tells where it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from motion_cases import cube_filling, soft_drop

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts
from recon.identify import mosa_underside
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_underside import (
    RaisedSolid,
    Underside,
    find_underside,
    with_underside,
)
from recon.identify.motion import Motion
from recon.identify.progress import Progress
from recon.identify.solid import GivenSolid
from recon.identify.start_velocity import StartVelocity, fit_start_velocity

UP = np.array([0.0, 0.0, 1.0])
CONFIG = MosaConfig(
    particles=512, points=60, adapter=False, heterogeneity=False, density_kg_per_m3=1000.0,
    train_share=1.0,
)  # fmt: skip


def camera_at(*places: tuple[float, float, float]) -> list[PinholeCamera]:
    K = np.array([[50.0, 0, 20], [0, 50.0, 20], [0, 0, 1]])
    return [
        PinholeCamera(f"c{i}", "", 41, 41, K, T_from_parts(np.eye(3), np.array(at)))
        for i, at in enumerate(places)
    ]


ABOVE = camera_at((0.4, 0.0, 0.5), (-0.4, 0.0, 0.5), (0.0, 0.4, 0.5))


def dropped() -> tuple[Motion, StartVelocity]:
    """The cube of `soft_drop` in the world of frame 0; what only the upper half shows of it."""
    motion = soft_drop()
    world = np.asarray(motion.position[0])
    centre = world.mean(axis=0)
    upper = np.flatnonzero(world[:, 2] > centre[2])
    volume = cube_filling(512).volume_m3
    whole = dataclasses.replace(motion, rest=world, solid=GivenSolid(world, volume), frames=None)
    start = fit_start_velocity(whole)
    seen = dataclasses.replace(whole, position=motion.position[:, upper], rest=world[upper])
    return seen, start


def test_the_underside_moves_and_the_top_stays() -> None:
    box = cube_filling(1000).position * np.array([1.0, 0.8, 0.6])
    flat = Underside.of(box, 2.0 * UP)
    same, factor = flat.move(box)
    assert np.array_equal(same, box)
    assert (factor == 1.0).all()
    moved = dataclasses.replace(flat, rise=np.array([0.05, 0.0, 0.08]))
    assert np.array_equal(moved.move(box[box[:, 2] > flat.high_m])[0], box[box[:, 2] > flat.high_m])
    low = np.array([[0.0, 0.0, flat.low_m], *(flat.low_m * UP + flat.half_m * flat.axes[:2])])
    there, _ = moved.move(low)
    # Half the width is 45 mm: 2.25 mm in the middle, and 3.6 mm more at the end of the tilt. What
    # keeps it from turning inside out takes 1 to 3 % off.
    wanted = flat.half_m * np.array([0.05, 0.05, 0.13])
    assert np.allclose((there - low)[:, 2], wanted, rtol=0.06)
    assert np.allclose((there - low)[:, :2], 0.0, atol=1e-12)


def test_volumes_change_as_the_map_says() -> None:
    box = cube_filling(216).position
    raised = dataclasses.replace(Underside.of(box, UP), rise=np.array([0.2, -0.1, 0.3]))
    some, step = box[::7] * 0.8, 1e-6  # away from the kink at the top
    columns = [
        (raised.move(some + step * e)[0] - raised.move(some - step * e)[0]) / (2.0 * step)
        for e in np.eye(3)
    ]
    assert np.allclose(np.linalg.det(np.stack(columns, axis=-1)), raised.move(some)[1], atol=1e-6)
    far = dataclasses.replace(raised, rise=np.array([9.0, 9.0, 0.0]))
    assert (far.move(box)[1] >= 0.5 - 1e-9).all()  # never inside out
    solid = RaisedSolid(GivenSolid(box, np.full(len(box), 1e-3 / len(box))), raised)
    assert solid.volume_m3 == pytest.approx(float(raised.move(box)[1].mean()) * 1e-3)


def test_landing_tells_where_the_underside_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cube whose lower side was taken to be 9 mm too low at one end, as hulls have it."""
    monkeypatch.setattr(mosa_underside, "_GENERATIONS", 8)
    motion, start = dropped()
    true = motion.solid.fill(512)
    wrong = dataclasses.replace(Underside.of(true.position, UP), rise=np.array([-0.1, 0.0, -0.1]))
    guess = dataclasses.replace(motion, solid=RaisedSolid(motion.solid, wrong))
    found = find_underside(guess, start, ABOVE, CONFIG, Progress())
    assert found is not None
    made, moved = with_underside(guess, start, found)
    lower = true.position[:, 2] < true.position[:, 2].min() + 0.03

    def off_m(solid: RaisedSolid) -> float:
        return float(np.abs(solid.fill(512).position - true.position)[lower, 2].mean())

    assert isinstance(guess.solid, RaisedSolid)
    assert isinstance(made.solid, RaisedSolid)
    # The gap, which the truth has, too, is the one thing that a rise cannot be told from.
    assert off_m(made.solid) < 0.6 * off_m(guess.solid)
    # Gravity pulls at the new centre of mass; no point of the body has another velocity.
    filling = made.solid.fill(2000)
    centre = np.average(filling.position, axis=0, weights=filling.volume_m3)
    assert np.allclose(moved.centre_m, centre)
    assert np.allclose(moved.at(true.position), start.at(true.position))


def test_an_underside_that_lands_well_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosa_underside, "_GENERATIONS", 4)
    motion, start = dropped()
    found = find_underside(motion, start, ABOVE, CONFIG, Progress())
    assert found is not None
    assert not found.rise.any()
    assert with_underside(motion, start, found) == (motion, start)


def test_where_nothing_is_hidden_or_landed_on_there_is_none() -> None:
    motion, start = dropped()
    around = camera_at((0.4, 0.0, 0.5), (0.0, 0.4, -0.4), (-0.4, 0.0, 0.1))
    assert find_underside(motion, start, around, CONFIG, Progress()) is None
    free = dataclasses.replace(motion, ground=None)
    assert find_underside(free, start, ABOVE, CONFIG, Progress()) is None
    short = dataclasses.replace(motion, position=motion.position[: start.contact_frame + 2])
    assert find_underside(short, start, ABOVE, CONFIG, Progress()) is None


def test_it_is_kept_in_a_file(tmp_path: Path) -> None:
    made = dataclasses.replace(
        Underside.of(cube_filling(216).position, np.array([0.1, 0.2, 1.0])), rise=np.arange(3.0)
    )
    made.save(tmp_path / "underside.npz")
    read = Underside.load(tmp_path / "underside.npz")
    assert all(np.array_equal(v, vars(read)[name]) for name, v in vars(made).items())
    np.savez(tmp_path / "bad.npz", centre=np.zeros(3))
    with pytest.raises(DataError, match="no array axes"):
        Underside.load(tmp_path / "bad.npz")
