"""The benchmark of continuum twins: scores and curves against closed forms, and very small runs."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from physgym.cell.fem_bodies import ball
from physgym.cell.fem_material import FemMaterial, effective_modulus
from physgym.cell.fem_scenes import drop
from physgym.errors import DataError
from physgym.frames import matrix_from_quat_wxyz
from recon.benchmark_mosa import PARTS, run_mosa
from recon.benchmark_mosa.compression import angles_deg, compare_curves, directions
from recon.benchmark_mosa.cylinder import MATERIAL, pressed_motions
from recon.benchmark_mosa.fits import ballistic, contact_frame, score
from recon.benchmark_mosa.generalisation import mean_of_tests
from recon.benchmark_mosa.objects import object_named
from recon.benchmark_mosa.presets import preset_motion
from recon.benchmark_mosa.settings import QUICK
from recon.identify import mosa_config
from recon.identify.progress import Progress
from recon.identify.start_velocity import fit_start_velocity

TINY = dataclasses.replace(
    QUICK, particles=120, points=30, frames=18, cell_m=0.025,
    cylinder_particles=120, presets=("bird",),
    laws=("stvk",), black_box_steps=1, black_box_particles=120,
)  # fmt: skip


@pytest.fixture(scope="module")
def recording():
    return drop(ball(0.05, 0.025), FemMaterial(6e4, 0.3, 800.0), height_m=0.05, frames=12)


@pytest.fixture
def short_searches(monkeypatch):
    monkeypatch.setitem(mosa_config._GENERATIONS, "quick", 1)
    monkeypatch.setitem(mosa_config._JOINT_STEPS, "quick", 1)


def test_the_rigid_guess_is_the_truth_until_contact_and_rests_on_the_ground_after(recording):
    guess, stop = ballistic(recording), contact_frame(recording)
    # 5 cm take sqrt(2 h / g) = 0.101 s, which is frame 6.06 of 60 a second.
    assert stop == 7
    # Free fall is exact but for the symplectic Euler steps of the truth: g t dt / 2 with dt < 1 ms.
    assert np.abs(guess[:stop] - recording.points[:stop]).max() < 9.81 * 0.1 * 0.5e-3
    assert guess[stop:, :, 2].min(axis=1) == pytest.approx(0.0, abs=1e-12)


def test_scores_of_a_shifted_truth_are_the_shift(recording):
    shift = np.array([0.0, 0.003, 0.004])
    found = score(recording.points + shift, recording)
    assert found["node_m"] == pytest.approx(0.005)
    assert found["node_m_after_contact"] == pytest.approx(0.005)
    assert 0.0 < found["chamfer_m"] <= 0.005 + 1e-12
    late = recording.points.copy()
    late[contact_frame(recording) :] += shift
    share = 1.0 - contact_frame(recording) / len(late)
    assert score(late, recording)["node_m"] == pytest.approx(0.005 * share)


def test_a_drop_that_cannot_be_simulated_counts_as_infinitely_wrong():
    row = {"train": {"node_m_after_contact": 9.0}, "test 1": {"node_m_after_contact": 1.0}}
    assert mean_of_tests(row) == 1.0
    assert mean_of_tests({**row, "test 2": None}) == math.inf


def test_curves_are_compared_with_and_without_their_mean():
    truth = effective_modulus(MATERIAL, directions(angles_deg()))
    same = compare_curves(1.1 * truth, truth)
    assert same["largest_error"] == pytest.approx(0.1)
    assert same["shape_largest_error"] == pytest.approx(0.0, abs=1e-12)
    assert same["correlation"] == pytest.approx(1.0)
    flat = compare_curves(np.full_like(truth, truth.mean()), truth)
    assert flat["spread"] == 1.0
    assert flat["correlation"] == 0.0
    assert flat["largest_error"] > 0.3  # the truth is twice as stiff along as across


@pytest.mark.parametrize("truth", ["simulator", "finite elements"])
def test_a_pressed_cylinder_is_shorter_and_then_let_go(truth):
    motions = pressed_motions(truth, 0.025, 150)
    assert len(motions) == 4
    for motion in motions:
        height = np.ptp(motion.position[..., 2], axis=1)
        # Bonded layers move as one piece, so the whole body is 15 % shorter when the plate stops.
        # Nodes of the surface ride on particles up to 1 cm inside, which are fewer than 200 here.
        assert height[12] == pytest.approx(0.85 * height[0], rel=0.05)
        assert height[12:].max() > 0.95 * height[0]  # it springs back
        assert motion.ground is None
        assert fit_start_velocity(motion).contact_frame == 0


def test_fibres_make_the_cylinder_bulge_less_along_them():
    """Pressed along its axis, a body with fibres in the plane is wider across than along them."""
    position = pressed_motions("finite elements", 0.025, 150)[0].position
    along = np.array(MATERIAL.fibre_direction)
    across = np.cross([0.0, 0.0, 1.0], along)
    middle = np.abs(position[0, :, 2] - 0.05) < 0.03
    widths = [np.ptp(position[12, middle] @ axis) for axis in (along, across)]
    rest = [np.ptp(position[0, middle] @ axis) for axis in (along, across)]
    assert widths[1] - rest[1] > 1.3 * (widths[0] - rest[0]) > 0.0


def test_rolled_bodies_lie_on_their_side():
    up = np.array([0.0, 0.0, 1.0])
    for name in ("cylinder", "ring"):
        item = object_named(name)
        first, turned = (matrix_from_quat_wxyz(s.quat_wxyz) for s in (item.train, item.tests[1]))
        assert (first @ up)[2] == pytest.approx(0.0, abs=1e-12)
        assert turned @ up == pytest.approx(first @ up)
        # Rolled by 45 degrees about that axis.
        assert np.trace(first.T @ turned) == pytest.approx(1.0 + 2.0 * math.cos(math.pi / 4))


def test_a_preset_falls_freely_and_lands_in_the_fifth_frame():
    motion = preset_motion("torus", "same grid", TINY)
    start = fit_start_velocity(motion)
    assert start.contact_frame in (5, 6)
    # Particles start at rest; float32 over 0.4 m and four frames leaves some tenths of a mm/s.
    assert np.abs(start.linear_m_per_s).max() < 0.01
    assert motion.position[-1, :, 2].min() > -0.5 * 0.02


def test_wrong_parts_and_other_settings_are_refused(tmp_path):
    with pytest.raises(DataError, match="presents"):
        run_mosa(tmp_path, parts=["presents"], settings=TINY, progress=Progress())
    run_mosa(tmp_path, parts=[], settings=TINY, progress=Progress())
    other = dataclasses.replace(TINY, particles=130)
    again = dict(parts=[], settings=other, progress=Progress())
    with pytest.raises(DataError, match="particles"):
        run_mosa(tmp_path, **again)


def test_presets_are_recovered_and_kept(tmp_path, short_searches):
    first = run_mosa(tmp_path, parts=["presets"], settings=TINY, progress=Progress())
    found = first["parts"]["presets"]["bird"]["same grid"]["parameters"]
    assert set(found) == {"young_pa", "poisson_ratio"}
    # One generation with 40 particles: no more than the order of magnitude.
    assert abs(math.log10(1.0 + found["young_pa"]["error"])) < 1.0
    marked = json.loads((tmp_path / "presets" / "presets.json").read_text())
    marked["figures"]["bird"]["same grid"]["seconds"] = -1.0
    (tmp_path / "presets" / "presets.json").write_text(json.dumps(marked))
    again = run_mosa(tmp_path, parts=["presets"], settings=TINY, progress=Progress())
    assert again["parts"]["presets"]["bird"]["same grid"]["seconds"] == -1.0


@pytest.mark.slow
@pytest.mark.timeout(900)  # two minutes alone, more beside other work
def test_all_parts_run_and_are_shown(tmp_path, short_searches):
    result = run_mosa(tmp_path, settings=TINY, progress=Progress())
    assert set(result["parts"]) == set(PARTS)
    rows = result["parts"]["generalisation"]["ball"]["rows"]
    assert set(rows) == {"frozen", "rigid", "isotropic", "full"}
    assert rows["isotropic"]["train"]["node_m"] < rows["frozen"]["train"]["node_m"]
    curves = result["parts"]["compression"]["simulator"]["compared"]
    assert curves["isotropic"]["spread"] == pytest.approx(1.0, abs=1e-4)
    assert result["parts"]["isotropic"]["anisotropy"] < 0.05
    for name in ("mosa.json", "mosa.md", "mosa_moduli_simulator.png", "mosa_drops.png"):
        assert (tmp_path / name).stat().st_size > 100
