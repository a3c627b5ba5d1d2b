"""The benchmark of looks: how its bodies fall and are filmed, and what it says about them."""

from pathlib import Path

import numpy as np
import pytest

from physgym.cell.soft_config import SoftCellConfig
from physgym.errors import DataError
from physgym.twin import Twin
from recon.benchmark_looks import OBJECTS, looks_markdown, run_looks
from recon.benchmark_looks.film import Fall, FallSource, HalvesMaterial, simulate_fall
from recon.benchmark_looks.halves import half_ratio
from recon.benchmark_looks.objects import Setting, contestants_of_object, source_of
from recon.benchmark_looks.without_depth import without_depth
from recon.capture.record import record
from recon.capture.simulated import SimSource
from recon.compare.contestants import check_contestants
from recon.compare.table import MEASURES, baseline_rows
from recon.episode import Episode
from recon.episode_files import read_sidecar
from recon.identify.progress import Progress
from recon.perceive_video import records_depth


def fall(factors: tuple[float, float] = (1.0, 1.0), **more: object) -> Fall:
    cell = SoftCellConfig(
        kind="block", spacing_m=0.035, gripper_count=1, camera_count=2, camera_width=96,
        camera_height=72, camera_fov_deg=45.0, look_at_m=(0.0, 0.0, 0.06),
    )  # fmt: skip
    material = HalvesMaterial(6e3, 0.3, 200.0, damping_s=1e-3, half_factors=factors)
    return Fall(cell, material, **more)  # type: ignore[arg-type]


def test_halves_are_parted_in_the_middle() -> None:
    material = HalvesMaterial(1e4, half_factors=(2.0, 0.5), half_axis=1)
    nodes = np.array([[0.0, -0.25, 0.0], [0.0, 0.25, 0.0]])
    points = np.array([[9.0, -0.05, 0.0], [0.0, 0.05, 9.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(material.stiffness_factor(points, nodes), [2.0, 0.5, 1.25])


def test_it_falls_freely_until_it_lands() -> None:
    body, motion = simulate_fall(fall(height_m=0.05, frames=12))
    time = motion.time_s
    flying = time < np.sqrt(2 * 0.05 / 9.81)
    centre = np.average(motion.points, axis=1, weights=motion.node_volume_m3)
    expected = centre[0, 2] - 0.5 * 9.81 * time**2
    # Symplectic Euler is ahead by g t dt / 2: 0.7 mm after 0.1 s with substeps of 1.4 ms.
    np.testing.assert_allclose(centre[flying, 2], expected[flying], atol=8e-4)
    assert motion.points[..., 2].min() > -1e-9
    assert centre[-1, 2] > expected[-1] + 0.05  # the table stopped it
    assert motion.points.shape[1] == len(body.vertices)


def test_the_soft_half_gives_way_more() -> None:
    body, motion = simulate_fall(fall((2.0, 0.35), height_m=0.05, frames=10))
    height = []
    for side in (body.vertices[:, 0] < -0.03, body.vertices[:, 0] > 0.03):
        z = motion.points[:, side, 2]
        height.append(float((z.max(axis=1) - z.min(axis=1)).min()))
    stiff, soft = 0.08 - np.array(height)
    # A spring under an impact gives way as one over the root of its stiffness: a factor of 2.4; the
    # halves hold each other.
    assert soft > 1.3 * stiff > 0


def test_the_film_shows_what_the_truth_says(tmp_path: Path) -> None:
    taken = fall(height_m=0.03, frames=4)
    report = record(FallSource(taken), tmp_path / "ep")
    assert not report.losses
    with Episode.open(tmp_path / "ep") as episode:
        truth = episode.ground_truth()
        assert truth is not None
        assert truth.position.shape == (4, len(truth.rest_position), 3)
        assert len(episode.cameras) == 2
        for name, camera in episode.cameras.items():
            for t in range(4):
                top = truth.position[
                    t, truth.position[t, :, 2] > truth.position[t, :, 2].max() - 1e-3
                ]
                middle = top.mean(axis=0, keepdims=True)
                (u, v), depth = camera.project(middle)[0][0], camera.project(middle)[1][0]
                frame = episode.frame(name, t)
                # Depth is in whole millimetres; a pixel is 5 mm of a face seen from 40 degrees.
                assert frame.depth_m[round(v), round(u)] == pytest.approx(depth, abs=0.005)
                red, _, blue = frame.rgb[round(v), round(u)].astype(int)
                assert red > blue + 20  # the block's colour, not the grey table's
    notes = read_sidecar(tmp_path / "ep")["metadata"]
    # 14 x 10 x 8 cm of 200 kg/m^3, which reconstruction takes for the truth.
    assert notes["object"]["mass_kg"] == pytest.approx(0.14 * 0.10 * 0.08 * 200.0)
    assert notes["truth"]["half_factors"] == [1.0, 1.0]
    without_depth(tmp_path / "ep", tmp_path / "film")
    assert not records_depth(tmp_path / "film")
    with Episode.open(tmp_path / "ep") as whole, Episode.open(tmp_path / "film") as bare:
        assert np.array_equal(bare.frame("cam1", 3).rgb, whole.frame("cam1", 3).rgb)
        assert np.array_equal(bare.ground_truth().position, whole.ground_truth().position)
        assert bare.metadata["object"] == whole.metadata["object"]


def twin_of(dynamics: str, **parameters: np.ndarray) -> Twin:
    rest = np.array([[x, y, 0.0] for x in (-0.03, -0.01, 0.01, 0.03) for y in (0.0, 0.02)])
    return Twin(
        name="t", kind="volume", dynamics=dynamics, method="x",
        rest_position=rest.astype(np.float32), driven_index=np.zeros(0, np.int64),
        parameters=parameters,
    )  # type: ignore[arg-type]  # fmt: skip


def test_the_ratio_of_halves_is_that_of_their_springs_or_particles() -> None:
    # Left: springs of 1 along x and y; right: twice as stiff, and one twice as long.
    edges = np.array([[0, 1], [0, 2], [4, 5], [4, 6]])
    ratio = np.log([1.0, 1.0, 2.0, 2.0])
    made = twin_of("spring_mass", springs=edges, log_stiffness_ratio=ratio)
    assert half_ratio(made) == pytest.approx(2.0)
    factors = np.array([2.0] * 4 + [0.5] * 4)
    assert half_ratio(twin_of("mpm", heterogeneity=factors)) == pytest.approx(0.25)
    assert half_ratio(twin_of("mpm")) == 1.0
    assert half_ratio(twin_of("rod")) is None


@pytest.mark.parametrize("quick", [False, True])
def test_every_object_has_every_method_and_the_block_one_stiffness_too(quick: bool) -> None:
    setting = Setting(quick)
    for name in OBJECTS:
        rows = contestants_of_object(name, setting)
        check_contestants(rows)
        assert {one.method for one in rows} == {"phystwin", "spring-gaus", "mosa"}
        single = [one for one in rows if one.options.get("per_anchor") is False]
        assert len(single) == (name == "halves")
    assert (setting.train, setting.frames) == ((16, 24) if quick else (20, 30))
    lift = source_of("lift", setting)
    assert isinstance(lift, SimSource)
    assert lift.recording.frame_count == setting.frames
    drop = source_of("drop", setting)
    assert isinstance(drop, FallSource)
    assert drop.fall.frames == setting.frames


def compared(track_m: float, *, failed: bool = False) -> dict:
    part = {
        "start": 1,
        "stop": 3,
        **{row: {"track_m": track_m * k} for row, k in (("twin", 1), ("frozen", 3), ("rigid", 2))},
    }
    row = {
        "name": "mosa", "status": "done", "parts": {"train": part, "future": part},
        "seconds": {"learn": 5.0}, "peak_memory_mb": 700.0, "resumed": False,
    }  # fmt: skip
    lost = {"name": "phystwin", "status": "failed", "error": {"what": "no", "where": "", "fix": ""}}
    rows = [row, lost] if failed else [row]
    return {
        "contestants": rows,
        "baselines": baseline_rows(rows, {}),
        "measures": list(MEASURES),
        "stopped": False,
    }


def test_one_table_of_all_objects() -> None:
    result = {
        "objects": {
            "drop": {"compared": compared(0.004)},
            "halves": {
                "compared": compared(0.01, failed=True),
                "half_ratio": {"truth": 0.175, "mosa": 0.5},
            },
        }
    }
    lines = looks_markdown(result).splitlines()
    assert lines[0] == "| object | part | who | track [mm] | learn [s] | memory [MB] |"
    assert lines[2] == "| drop | future | mosa | **4.0** | 5 | 700 |"
    assert "| halves | train | rigid | 20.0 |  |  |" in lines
    assert "halves, phystwin: no" in lines
    assert lines[-1].endswith("truth 0.17, mosa 0.50.") or lines[-1].endswith(
        "truth 0.18, mosa 0.50."
    )


def test_another_setting_wants_another_folder(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"quick": true, "seed": 0}')
    with pytest.raises(DataError, match="a run with"):
        run_looks(tmp_path, quick=False, progress=Progress())
