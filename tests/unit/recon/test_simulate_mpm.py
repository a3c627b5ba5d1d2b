"""`physgym simulate` of twins that fly, fall, follow recordings and are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from episode_fit_cases import block, lifting_gripper, perceived, true_twin

from physgym.cli import main
from physgym.frames import apply_T
from physgym.sim.mpm import Collider, MpmModel, MpmParameters, fill_box
from physgym.sim.mpm.gripped import simulate_mpm
from physgym.sim.mpm.twins import twin_of_mpm
from physgym.twin import Twin
from recon.predict import predict
from recon.predict_episode import predict_episode
from recon.predict_mpm import predict_mpm
from recon.start import Start
from recon.tracks import Tracks

H_M = 0.02
DT_S = 1 / 30
LOW, HIGH = (0.0, 0.0, 0.0), (0.08, 0.06, 0.04)
FALL = (0.0, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0)


def mpm_block(**more) -> Twin:
    x, volume = fill_box(LOW, HIGH, H_M / 2)
    given = {
        "name": "block", "kind": "volume", "method": "given",
        "model": MpmModel(x, volume, H_M, colliders=(Collider.ground(0.0),)),
        "parameters": MpmParameters.of(young_pa=5e4),
    }  # fmt: skip
    return twin_of_mpm(**{**given, **more})


def skin_points() -> np.ndarray:
    fine = fill_box(LOW, HIGH, 0.01)[0]
    return np.concatenate([fine[fine[:, 2] > 0.03] + (0, 0, 0.005), fine[fine[:, 0] < 0.01]])


def simulate(capsys, twin: Twin, folder, *words: object, expect: int = 0):
    """The command on a saved twin; its arrays, or what it said."""
    twin.save(folder / "twin")
    out = folder / "out.npz"
    with pytest.raises(SystemExit) as caught:
        main(["simulate", str(folder / "twin"), "--out", str(out), *map(str, words)])
    said = capsys.readouterr()
    assert (caught.value.code or 0) == expect, said.out + said.err
    if expect:
        assert not out.exists()
        return said.err
    with np.load(out) as arrays:
        return {key: arrays[key] for key in arrays.files}


def test_a_saved_twin_falls_as_it_did_before_to_the_bit(capsys, tmp_path):
    twin = mpm_block(start_velocity_m_per_s=(0.3, 0.0, 0.0), start_spin_rad_per_s=(0, 2, 0))
    made = simulate(
        capsys, twin, tmp_path, "--duration", 0.3, "--initial-pose", *FALL, "--deformation"
    )
    pose = np.eye(4)
    pose[2, 3] = 0.3
    motion = simulate_mpm(
        twin.place(pose), [], DT_S, frames=10,
        velocity_m_per_s=(0.3, 0, 0), spin_rad_per_s=(0, 2, 0),
    )  # fmt: skip
    np.testing.assert_array_equal(made["points"], motion.position)
    np.testing.assert_array_equal(made["particles"], motion.position)
    np.testing.assert_array_equal(made["deformation"], motion.deformation)
    np.testing.assert_allclose(made["time"], DT_S * np.arange(10))
    # Without points of its own, the outer particles are what is seen: all but 6 x 4 x 2 of them.
    assert made["visible_surface"].sum() == 192 - 48


def test_pose_velocity_and_spin_are_those_of_the_flags(capsys, tmp_path):
    twin = mpm_block(surface_position_m=skin_points().astype(np.float32))
    half = np.sqrt(0.5)
    pose = (0.5, -0.2, 1.0, half, 0.0, half, 0.0)
    made = simulate(
        capsys, twin, tmp_path, "--duration", 0.2, "--fps", 50, "--initial-pose", *pose,
        "--initial-velocity", 0.4, -0.1, 0.5, "--initial-spin", 0, 0, 3,
    )  # fmt: skip
    count = len(skin_points())
    assert made["visible_surface"].sum() == count
    turned = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    start = np.concatenate([skin_points(), twin.rest_position]) @ turned.T + pose[:3]
    np.testing.assert_allclose(made["points"][0], start, atol=1e-6)
    time = made["time"][:, None]
    centre = made["points"][:, count:].mean(axis=1)
    exact = centre[0] + time * (0.4, -0.1, 0.5) + 0.5 * time**2 * (0, 0, -9.81)
    # Symplectic Euler falls g t dt / 2 deeper, with at least 10 substeps in a frame.
    np.testing.assert_allclose(centre, exact, atol=9.81 * 0.2 * 0.02 / 10 / 2)
    arm = made["points"][:, count] - centre
    angle = np.unwrap(np.arctan2(arm[:, 1], arm[:, 0]))
    assert angle[-1] - angle[0] == pytest.approx(3 * 0.2, rel=0.02)


def test_without_the_residual_the_adapter_is_left_out(capsys, tmp_path):
    import torch

    from physgym.sim.mpm.stress_adapter import AdapterConfig, StressAdapter

    adapter = StressAdapter(AdapterConfig(strength=0.3), stress_scale_pa=5e4, seed=0)
    with torch.no_grad():
        for value in adapter.parameters():
            value += 0.1
    words = ("--duration", 0.3, "--initial-velocity", 0, 0, -1)
    plain = simulate(capsys, mpm_block(), tmp_path / "a", *words)["points"]
    adapted = simulate(capsys, mpm_block(adapter=adapter), tmp_path / "b", *words)["points"]
    without = simulate(capsys, mpm_block(adapter=adapter), tmp_path / "c", *words, "--no-residual")[
        "points"
    ]
    np.testing.assert_array_equal(without, plain)
    assert np.abs(adapted - plain).max() > 1e-3


def recording(twin: Twin, *, pose=None, frames=12, driven=False, **motion) -> Tracks:
    """Skin points as tracks: the twin's own motion, told by points that are no particles."""
    from physgym.grip import Grip
    from recon.predict_mpm import ridden

    pose = np.eye(4) if pose is None else pose
    placed = twin.place(pose)
    points = apply_T(pose, skin_points())
    hand = np.array([[0.01, 0.02, 0.03], [0.01, 0.04, 0.03], [0.01, 0.03, 0.02]])
    path = hand + np.arange(frames)[:, None, None] * np.array([0.0, 0.002, 0.006])
    grips = [Grip(path, 0, frames)] if driven else []
    made = ridden(placed, simulate_mpm(placed, grips, DT_S, frames=frames, **motion), points)
    if driven:
        made = np.concatenate([path.astype(np.float32), made], axis=1)
    return Tracks(
        time_s=DT_S * np.arange(frames), position=made, visible=np.ones(made.shape[:2], bool),
        driven_index=np.arange(3 if driven else 0), name="throw", source_sha256="a" * 64,
    )  # fmt: skip


def test_its_own_recording_starts_where_the_twin_rests(capsys, tmp_path):
    throw = {"velocity_m_per_s": (0.2, 0.0, 0.8), "spin_rad_per_s": (0.0, 3.0, 0.0)}
    tracks = recording(mpm_block(), **throw)
    twin = mpm_block(
        start_velocity_m_per_s=throw["velocity_m_per_s"],
        start_spin_rad_per_s=throw["spin_rad_per_s"],
        provenance={"recordings": [{"name": "throw", "source_sha256": "a" * 64}]},
    )
    (predicted,) = predict(twin, [tracks])
    # Round-off of a tracked point chooses among particles that are equally near.
    np.testing.assert_allclose(predicted, tracks.position, rtol=0, atol=1e-4)
    tracks.save(tmp_path / "throw.npz")
    made = simulate(capsys, twin, tmp_path, "--tracks", tmp_path / "throw.npz", "--json")
    np.testing.assert_array_equal(made["points"], predicted)
    assert str(made["name"]) == "throw"


def test_another_recording_is_found_and_its_velocity_read():
    pose = np.eye(4)
    pose[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    pose[:3, 3] = (0.2, 0.1, 0.3)
    tracks = recording(
        mpm_block(), pose=pose, velocity_m_per_s=(0.5, 0.2, 1.0), spin_rad_per_s=(0, 0, 2.0)
    )
    twin = mpm_block(surface_position_m=skin_points().astype(np.float32))
    given, _ = predict_mpm(twin, tracks, start=Start(T_world_object=pose))
    # The velocity is told by three frames, to second order; turning adds (w dt)^3 / 3 of the arm.
    assert np.linalg.norm(given - tracks.position, axis=-1).max() < 2e-3
    found, _ = predict_mpm(twin, tracks)
    # A registration of this coarse block is right to a few millimetres.
    assert np.linalg.norm(found - tracks.position, axis=-1).mean() < 8e-3
    later = tracks.position.copy()
    later[3:] += 0.1
    np.testing.assert_array_equal(predict_mpm(twin, replace(tracks, position=later))[0], found)


def test_driven_points_grip_and_the_rest_follows():
    tracks = recording(mpm_block(), driven=True)
    made, motion = predict_mpm(mpm_block(), tracks, start=Start(T_world_object=np.eye(4),
                               velocity_m_per_s=np.zeros(3)))  # fmt: skip
    np.testing.assert_array_equal(made[:, :3], tracks.driven)
    # As above: particles that are equally near.
    np.testing.assert_allclose(made, tracks.position, rtol=0, atol=2e-4)
    assert motion.position[-1, :, 2].min() > 0.02


def test_points_that_are_not_on_the_body_are_refused():
    tracks = recording(mpm_block())
    far = Start(T_world_object=np.block([[np.eye(3), np.full((3, 1), 0.5)], [0, 0, 0, 1]]))
    with pytest.raises(Exception, match="from the body at the start"):
        predict_mpm(mpm_block(), tracks, start=far)
    with pytest.raises(Exception, match="gravity"):
        predict_mpm(mpm_block(), replace(tracks, gravity=np.array([0, -9.81, 0])))


def springs(**more) -> Twin:
    nodes, _ = block(4, 3, 3, height=0.0)
    twin = true_twin(nodes)
    return twin.replace(parameters={**twin.parameters, **more})


def test_a_spring_network_is_thrown_the_same_way(capsys, tmp_path):
    twin = springs(drag_per_s=np.array(0.0))
    made = simulate(
        capsys, twin, tmp_path, "--duration", 0.2, "--initial-pose", 0.1, 0, 1.0, 0, 0, 0, 1,
        "--initial-velocity", 0, 0.5, 1, "--initial-spin", 0, 0, 2,
    )  # fmt: skip
    count = twin.node_count
    half_turn = twin.rest_position * (-1, -1, 1) + (0.1, 0, 1.0)
    np.testing.assert_allclose(made["points"][0, count:], half_turn, atol=1e-6)
    assert made["visible_surface"].sum() == count
    time = made["time"][:, None]
    centre = made["points"][:, count:].mean(axis=1)
    exact = centre[0] + time * (0, 0.5, 1) + 0.5 * time**2 * (0, 0, -9.81)
    # Symplectic Euler falls g t dt / 2 deeper, with at least 4 substeps in a frame.
    np.testing.assert_allclose(centre, exact, atol=9.81 * 0.2 * DT_S / 4 / 2)
    arm = made["points"][:, count] - centre
    angle = np.unwrap(np.arctan2(arm[:, 1], arm[:, 0]))
    assert angle[-1] - angle[0] == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "one of --episode, --tracks and --duration"),
        (("--duration", 1, "--tracks", "x.npz"), "--tracks and --duration"),
        (("--duration", 0), "0.0 s at 30"),
        (("--duration", "nan"), "nan s"),
        (("--duration", 1, "--initial-pose", 0, 0, 0.1, 1, 1, 0, 0), "length 1.414"),
        (("--duration", 1, "--initial-pose", 0, 0, "nan", 1, 0, 0, 0), "--initial-pose"),
        (("--duration", 1, "--initial-velocity", 0, 0, "inf"), "--initial-velocity"),
        (("--duration", 1, "--initial-pose", 0, 0, -0.1, 1, 0, 0, 0), "below the ground"),
    ],
)
@pytest.mark.parametrize("make", [mpm_block, springs])
def test_wrong_use_is_refused(capsys, tmp_path, make, words, message):
    assert message in simulate(capsys, make(), tmp_path, *words, expect=2)


def test_what_a_kind_of_twin_cannot_do_is_refused(capsys, tmp_path):
    held = springs().replace(driven_index=np.array([0]))
    assert "--tracks" in simulate(capsys, held, tmp_path, "--duration", 1, expect=2)
    said = simulate(capsys, springs(), tmp_path, "--duration", 1, "--deformation", expect=2)
    assert "--deformation" in said
    recording(mpm_block()).save(tmp_path / "t.npz")
    said = simulate(
        capsys, springs(), tmp_path, "--tracks", tmp_path / "t.npz", "--initial-velocity", 0, 0, 1,
        expect=2,
    )  # fmt: skip
    assert "--initial-velocity" in said
    damaged = mpm_block()
    damaged = damaged.replace(parameters={**damaged.parameters, "poisson_ratio": np.array(0.5)})
    assert "poisson_ratio" in simulate(capsys, damaged, tmp_path, "--duration", 1, expect=2)


@pytest.fixture(scope="module")
def lifted():
    """An episode of a block of springs that a gripper lifts from a table."""
    nodes, surface = block(4, 3, 3)
    perception, _ = perceived(true_twin(nodes), lifting_gripper(nodes, 30), surface=surface)
    return nodes, perception


def mpm_of_nodes(nodes: np.ndarray, sha: str = "") -> Twin:
    low = tuple(nodes.min(axis=0) - (0.005, 0.005, 0.0))
    x, volume = fill_box(low, tuple(nodes.max(axis=0) + 0.005), 0.01)
    model = MpmModel(x, volume, 0.02, colliders=(Collider.ground(0.0),))
    return twin_of_mpm(
        name="block", kind="volume", method="given", model=model,
        parameters=MpmParameters.of(young_pa=5e4, density_kg_per_m3=500.0),
        surface_position_m=nodes.astype(np.float32),
        provenance={"train": {"source_sha256": sha}},
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:another pose")  # a block looks alike from both ends
def test_an_episode_lifts_a_continuum(lifted):
    nodes, perception = lifted
    made = predict_episode(mpm_of_nodes(nodes, "a" * 64), perception)
    assert not made.registered
    assert made.points.shape == (30, len(nodes) + len(mpm_of_nodes(nodes).rest_position), 3)
    np.testing.assert_allclose(made.points[0, : len(nodes)], nodes, atol=1e-6)
    gripper = perception.grippers[0].T_world_gripper[:, :3, 3]
    end = np.linalg.norm(nodes - gripper[0], axis=1).argmin()
    # What lies between the jaws goes where they go.
    np.testing.assert_allclose(
        made.points[-1, end] - made.points[0, end], gripper[-1] - gripper[0], atol=5e-3
    )
    other = predict_episode(mpm_of_nodes(nodes), perception)
    assert other.registered
    # The block looks alike from both ends, so particles may have changed places.
    assert np.linalg.norm(other.points[-1].mean(axis=0) - made.points[-1].mean(axis=0)) < 0.01


def test_a_known_pose_replaces_the_registration(lifted):
    nodes, perception = lifted
    shifted = np.eye(4)
    shifted[:3, 3] = (0.3, 0.1, 0.0)
    back = np.linalg.inv(shifted)
    for twin in (mpm_of_nodes(nodes), true_twin(nodes)):
        direct = predict_episode(twin, perception, start=Start(T_world_object=np.eye(4)))
        moved = predict_episode(twin.place(back), perception, start=Start(T_world_object=shifted))
        assert not moved.registered
        # Rest positions are float32: placed away and back they are off by round-off, which grows.
        assert np.linalg.norm(moved.points - direct.points, axis=-1).max() < 2e-3


@pytest.mark.filterwarnings("ignore:another pose")  # a block looks alike from both ends
def test_nothing_but_the_start_of_an_episode_is_looked_at(lifted):
    nodes, perception = lifted
    lost = replace(
        perception, clouds=(perception.clouds[0], *[c[:0] for c in perception.clouds[1:]])
    )
    twin = mpm_of_nodes(nodes)
    np.testing.assert_array_equal(
        predict_episode(twin, perception).points, predict_episode(twin, lost).points
    )


def test_the_summary_can_be_read_by_machines(capsys, tmp_path):
    mpm_block().save(tmp_path / "twin")
    out = tmp_path / "o.npz"
    with pytest.raises(SystemExit):
        main(["simulate", str(tmp_path / "twin"), "--duration", "0.1", "--out", str(out), "--json"])
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "frames": 4, "points": 192}
