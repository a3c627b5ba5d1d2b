"""Spring networks: topology, candidates side by side, both stages, the twin that comes out.

Where the data are this package's own simulation, recovery is an inverse crime: it shows that the
search finds what is there, not that springs are a good model. A cloth of MuJoCo's finite elements
is the test of that.
"""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from physgym.errors import DataError, TwinError
from physgym.run_folder import RunFolder
from physgym.sim.build import build_solver
from physgym.sim.contact import GroundPlane
from physgym.sim.spring_mass import SpringMassModel, SpringMassSolver, springs_from_points
from physgym.twin import Twin
from physgym.world import World
from recon.identify.dense_stiffness import Descent, descend
from recon.identify.least_squares import refine
from recon.identify.network_topology import Topology, network_springs
from recon.identify.phystwin import PhysTwinConfig, identify
from recon.identify.problem import cost
from recon.identify.progress import Progress
from recon.identify.spring_network import SpringNetworkProblem
from recon.identify.windows import cut_windows, window_covariance
from recon.predict import predict
from recon.tracks import Tracks

SPACING_M = 0.03
STIFFNESS_N, DASHPOT_NS_PER_M, DRAG_PER_S = 3.0, 0.05, 1.5


def grid(*sides, height=1.0):
    axes = [np.arange(side) * SPACING_M for side in sides]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(sides))
    return np.pad(points, ((0, 0), (0, 3 - len(sides)))) + np.array([0.0, 0.0, height])


def neighbours(rest):
    """Edges and diagonals of a grid's cells."""
    return springs_from_points(rest, radius_m=1.5 * SPACING_M, max_neighbours=8)


def moved(rest, driven, *, frames, fps, seed=0):
    """Paths of driven points: sines of a few centimetres that begin at rest."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)[:, None, None] / fps
    shape = (len(driven), 3)
    size, rate, phase = (rng.uniform(*r, shape) for r in ((0.03, 0.05), (3.0, 7.0), (0.0, 6.3)))
    ramp = np.minimum(1.0, 2.0 * t)
    return rest[driven] + ramp * size * (np.sin(rate * t + phase) - np.sin(phase))


def own_recording(
    rest,
    edges,
    driven,
    *,
    log_ratio=0.0,
    seconds=1.4,
    fps=60,
    ground=None,
    velocity_m_per_s=(0.0, 0.0, 0.0),
    **more,
):
    """What our own solver makes of known parameters."""
    driven = np.array(driven, dtype=int)
    model = SpringMassModel(rest, edges, driven_index=driven, ground=ground)
    parameters = model.default_parameters(
        stiffness=STIFFNESS_N,
        mass_kg=1e-3 * len(rest),
        dashpot_ns_per_m=DASHPOT_NS_PER_M,
        drag_per_s=DRAG_PER_S,
        **more,
    )
    ratio = torch.as_tensor(np.broadcast_to(log_ratio, len(edges)).copy())
    parameters = parameters.replace(log_stiffness=parameters.log_stiffness + ratio[None])
    frames = round(seconds * fps) + 1
    path = moved(rest, driven, frames=frames, fps=fps)
    solver = SpringMassSolver(model, parameters, device="cpu")
    velocity = torch.tensor(velocity_m_per_s).expand(len(rest), 3)
    state = solver.initial_state(torch.as_tensor(rest), velocity)
    position = solver.rollout(state, torch.as_tensor(path)[None], 1.0 / fps).position[0].numpy()
    visible = np.ones(position.shape[:2], bool)
    return Tracks(np.arange(frames) / fps, position, visible, driven, "own")


def problem_of(tracks, edges, *, window_s=0.25, **more):
    windows = cut_windows(tracks, 0, tracks.frame_count, round(window_s / tracks.dt_s))
    free = len(tracks.free_index)
    problem = SpringNetworkProblem([tracks], windows, mass_kg=1e-3 * free, **more)
    length = np.linalg.norm(np.diff(problem.rest_position[edges], axis=1)[:, 0], axis=-1)
    return problem, problem.frozen(Topology(edges, length))


def values_of(problem, theta):
    found = problem.scalars(torch.as_tensor(theta)[None], [problem.topology])
    return {name: float(value) for name, value in found.items()}


# --- topology -----------------------------------------------------------------------------------


def springs(rest, driven, radius=1.1, driven_radius=1.5):
    return network_springs(
        rest,
        np.array(driven, dtype=int),
        radius_m=radius * SPACING_M,
        neighbours=8,
        driven_radius_m=driven_radius * SPACING_M,
        driven_neighbours=4,
        shortest_m=0.1 * SPACING_M,
    )


def test_no_point_falls_off_however_small_the_radius():
    rest = grid(4, 4)
    rest[5:] += np.array([0.02, 0.0, 0.0])  # a crack wider than the radius
    edges = springs(rest, [0], radius=0.9)
    reached = {0}
    for _ in range(len(rest)):
        reached |= {int(n) for pair in edges if set(map(int, pair)) & reached for n in pair}
    assert reached == set(range(len(rest)))


def test_driven_points_beside_the_object_hold_it_and_not_each_other():
    sheet = grid(4, 4)
    hand = sheet[:2] + np.array([0.0, 0.0, 0.012])
    edges = springs(np.concatenate([sheet, hand]), [16, 17])
    held = edges[np.isin(edges, [16, 17]).any(axis=1)]
    assert {16, 17} <= set(held.ravel().tolist())
    assert not np.isin(edges, [16, 17]).all(axis=1).any()


def test_a_driven_point_far_off_holds_the_nearest_one():
    rest = np.concatenate([grid(4, 4), [[0.0, 0.0, 1.5]]])
    assert (springs(rest, [16]) == 16).any()


def test_object_without_free_points_is_refused():
    tracks = own_recording(grid(2, 2), neighbours(grid(2, 2)), [0, 1, 2, 3], seconds=0.3)
    with pytest.raises(DataError, match="free point"):
        problem_of(tracks, neighbours(grid(2, 2)))


# --- candidates side by side --------------------------------------------------------------------


def test_candidates_of_different_topology_run_as_if_alone():
    rest = grid(5, 5)
    tracks = own_recording(rest, neighbours(rest), [0, 20], seconds=0.4)
    problem, _ = problem_of(tracks, neighbours(rest), window_s=0.1, substeps_per_frame=40)
    rng = np.random.default_rng(2)
    theta = problem.prior.mean + 0.6 * problem.prior.sigma * rng.standard_normal((5, 8))
    assert len({len(problem.topology_of(one).edges) for one in theta}) > 1
    together = problem.simulate(theta, problem.segments)
    for q, one in enumerate(theta):
        alone = problem.simulate(one[None], problem.segments)[:, 0]
        # Springs of weight 0 only change the order of float32 sums: 240 substeps of 1e-7 m.
        np.testing.assert_allclose(together[:, q], alone, atol=2e-5)


def test_too_stiff_a_candidate_loses_instead_of_stalling_the_rest():
    rest = grid(4, 4)
    tracks = own_recording(rest, neighbours(rest), [0, 12], seconds=0.4)
    problem, _ = problem_of(tracks, neighbours(rest), window_s=0.1)
    theta = np.stack([problem.prior.mean, problem.prior.mean])
    theta[1, 0] += 12.0
    values = cost(problem, theta, [0])
    assert np.isfinite(values).all()
    assert values[1] > values[0]


# --- both stages on data of known parameters (an inverse crime) -----------------------------------


def test_global_parameters_are_recovered_within_their_error_bars():
    rest = grid(6, 6)
    edges = neighbours(rest)
    tracks = own_recording(rest, edges, [0, 30])
    _, problem = problem_of(tracks, edges)
    everything = list(range(len(problem.segments)))
    fit = refine(problem, problem.prior.mean, everything)
    sigma = np.sqrt(np.diag(window_covariance(problem, fit, everything)))
    found = values_of(problem, fit.theta)
    # Starts come from central differences of 60 Hz samples: that, not noise, is the error here.
    assert abs(np.log(found["stiffness_n"] / STIFFNESS_N)) < 0.1
    assert abs(np.log(found["stiffness_n"] / STIFFNESS_N)) < 3.0 * sigma[0]
    assert abs(np.log(found["drag_per_s"] / DRAG_PER_S)) < 3.0 * sigma[2]
    assert abs(np.log(found["dashpot_ns_per_m"] / DASHPOT_NS_PER_M)) < 3.0 * np.hypot(
        sigma[1], 0.5 * sigma[0]
    )
    assert abs(found["length_exponent"]) < 3.0 * sigma[3]


def test_descent_finds_which_half_is_stiffer():
    rest = grid(6, 6)
    edges = neighbours(rest)
    ratio = np.where(rest[edges].mean(axis=1)[:, 1] < 2.5 * SPACING_M, 0.7, -0.7)
    tracks = own_recording(rest, edges, [0, 30], log_ratio=ratio)
    _, problem = problem_of(tracks, edges)
    fit = refine(problem, problem.prior.mean, list(range(len(problem.segments))))
    costs = []
    found = descend(
        problem,
        Descent(fit.theta, np.zeros(len(edges))),
        iterations=48,
        on_step=lambda step, best: costs.append(best.train_cost),
    )
    # 0.6 is far from chance (0.0 +- 0.1 for 110 springs); it is not 1, because springs at the free
    # edge carry little and keep to the prior.
    assert np.corrcoef(found.log_offset, ratio)[0, 1] > 0.6
    assert costs[11] < costs[0]  # the first 12 steps share one length of window


def test_hidden_points_and_nearest_point_distances():
    rest = grid(5, 5)
    edges = neighbours(rest)
    whole = own_recording(rest, edges, [0, 20], seconds=0.6)
    seen = np.ones(whole.visible.shape, bool)
    seen[10:14, 3:9] = False  # hidden for a while, whole at the starts of windows
    position = np.where(seen[..., None], whole.position, np.nan)
    tracks = Tracks(whole.time_s, position, seen, whole.driven_index, "hidden")
    _, problem = problem_of(tracks, edges, window_s=0.1, chamfer=True)
    everything = list(range(len(problem.segments)))
    fit = refine(problem, problem.prior.mean, everything, max_steps=4)
    assert fit.steps > 0
    best = descend(problem, Descent(fit.theta, np.zeros(len(edges))), iterations=8)
    assert np.isfinite(best.train_cost)
    assert np.isfinite(best.log_offset).all()


def test_friction_is_recovered_and_restitution_that_shows_nowhere_is_not_claimed():
    rest = grid(3, 3, 3, height=0.001)
    edges = springs_from_points(rest, radius_m=1.5 * SPACING_M, max_neighbours=18)
    tracks = own_recording(
        rest,
        edges,
        [],
        seconds=0.3,
        ground=GroundPlane(),
        restitution=0.2,
        friction=0.25,
        velocity_m_per_s=(0.8, 0.0, 0.0),
    )
    _, problem = problem_of(tracks, edges, window_s=0.15, ground=GroundPlane())
    everything = list(range(len(problem.segments)))
    fit = refine(problem, problem.prior.mean, everything)
    sigma = dict(
        zip(problem.prior.names, np.sqrt(np.diag(window_covariance(problem, fit, everything))))
    )
    error = abs(np.log(values_of(problem, fit.theta)["friction"] / 0.25))
    assert error < 0.1  # the block trembles as it slides, so its weight on the ground does
    assert error < 3.0 * sigma["log_friction"]
    assert sigma["log_friction"] < 0.5 * problem.prior.sigma[-1]
    # Nothing falls, so what a bounce returns stays as unknown as it was.
    assert sigma["logit_restitution"] > 0.8 * problem.prior.sigma[-2]


# --- the whole way ------------------------------------------------------------------------------


def flex_recording(side=7, seconds=1.6, fps=50, seed=2):
    """A cloth of MuJoCo's finite elements, dropped while two corners move."""
    mujoco = pytest.importorskip("mujoco")
    step_s = 5e-4
    size = f"{SPACING_M} {SPACING_M} {SPACING_M}"
    model = mujoco.MjModel.from_xml_string(f"""<mujoco>
      <option timestep="{step_s}" solver="CG" tolerance="1e-6" integrator="discrete"/>
      <worldbody>
        <flexcomp name="sheet" type="grid" count="{side} {side} 1" spacing="{size}" pos="0 0 1"
                  dim="2" radius=".001" mass="{1e-3 * side * side}">
          <contact selfcollide="none" contype="0" conaffinity="0"/>
          <elasticity young="2e5" poisson="0.3" thickness="1e-3" damping="1e-3" elastic2d="both"/>
        </flexcomp>
      </worldbody></mujoco>""")
    model.dof_damping[:] = 1.5e-3
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    driven = np.array([0, (side - 1) * side])
    rest = data.flexvert_xpos.copy()
    substeps, frames = round(1.0 / fps / step_s), round(seconds * fps) + 1
    ticks = (frames - 1) * substeps + 1
    path = moved(rest, driven, frames=ticks, fps=1.0 / step_s, seed=seed) - rest[driven]
    position = [rest]
    for tick in range(1, len(path)):
        mujoco.mj_step(model, data)
        for k, node in enumerate(driven):
            data.qpos[3 * node : 3 * node + 3] = path[tick, k]
            data.qvel[3 * node : 3 * node + 3] = (path[tick, k] - path[tick - 1, k]) / step_s
        if tick % substeps == 0:
            mujoco.mj_kinematics(model, data)
            mujoco.mj_flex(model, data)
            position.append(data.flexvert_xpos.copy())
    seen = np.ones((frames, side * side), bool)
    return Tracks(np.arange(frames) / fps, np.array(position), seen, driven, "flex")


def rigid_with_chord(tracks):
    """The second frame's shape, turned by the least that follows the chord of two driven points."""
    start, path = tracks.position[1].astype(float), tracks.driven.astype(float)
    chord = path[:, 1] - path[:, 0]
    chord /= np.linalg.norm(chord, axis=1, keepdims=True)
    own = chord[1]
    arm = start - path[1].mean(axis=0)
    made = []
    for t, target in enumerate(chord):
        axis, cosine = np.cross(own, target), own @ target
        skew = np.cross(np.eye(3), axis)
        turn = np.eye(3) + skew + skew @ skew / (1.0 + cosine)
        assert np.allclose(turn @ own, target, atol=1e-9)
        made.append(arm @ turn.T + path[t].mean(axis=0))
    return np.array(made)


def mean_error(position, tracks):
    off = np.linalg.norm(position - tracks.position, axis=-1)
    return float(off[2:, tracks.free_index].mean())


def test_twin_of_a_finite_element_cloth_predicts_what_it_has_not_seen(tmp_path):
    tracks = flex_recording()
    cut = round(0.7 * tracks.frame_count)
    train, held = tracks.slice(0, cut), tracks.slice(cut, tracks.frame_count)
    twin = identify([train], name="cloth")
    assert (twin.kind, twin.dynamics, twin.method) == ("sheet", "spring_mass", "phystwin")
    assert "mass_kg" in twin.provenance["assumed"]
    assert set(twin.uncertainty) >= {"stiffness_n", "dashpot_ns_per_m", "drag_per_s"}
    error = mean_error(predict(twin, [held])[0], held)
    frozen = mean_error(np.repeat(held.position[1:2], held.frame_count, axis=0), held)
    rigid = mean_error(rigid_with_chord(held), held)
    print(json.dumps({"twin_m": error, "frozen_m": frozen, "rigid_m": rigid}))
    # Measured over seeds 0, 1, 2: a seventh to a fifteenth of frozen, a fourth to a fifteenth of
    # rigid; a third leaves room for other versions of the libraries.
    assert error < frozen / 3
    assert error < rigid / 3
    twin.save(tmp_path / "cloth")
    again = Twin.load(tmp_path / "cloth")
    assert again.content_hash() == twin.content_hash()
    world = World(again, worlds=2)
    world.set_points(held.position[0].copy())
    world.step(np.zeros((2, 2, 3)), dt_s=0.02)
    assert torch.isfinite(world.position).all()
    assert torch.equal(world.position[0], world.position[1])


class Impatient(Progress):
    """Presses Ctrl-C after so many steps of a stage."""

    def __init__(self, stage, steps):
        self.at, self.steps, self.said = stage, steps, []

    @contextmanager
    def stage(self, name, total):
        def tick(step, value):
            if name.startswith(self.at) and step >= self.steps:
                raise KeyboardInterrupt

        yield tick

    def say(self, text):
        self.said.append(text)


@pytest.mark.parametrize(("stage", "steps"), [("search", 3), ("refine every", 25)])
def test_interrupt_keeps_the_best_and_a_run_goes_on(tmp_path, stage, steps):
    rest = grid(4, 4)
    tracks = own_recording(rest, neighbours(rest), [0, 12], seconds=0.35)
    config = PhysTwinConfig(kind="network", mass_kg=0.014, ground_height_m=0.5)
    with RunFolder(tmp_path / "run", config) as run:
        first = identify([tracks], config, progress=Impatient(stage, steps), run=run)
        assert first.provenance["stopped_early"]
        assert "mass_kg" not in first.provenance["assumed"]
        assert build_solver(first).model.ground == GroundPlane(offset_m=0.5)
        saved = run.latest_checkpoint()
    assert (saved is None) == (stage == "search")
    if saved is not None:
        assert 20 <= saved.meta["steps_done"] <= steps
        with RunFolder(tmp_path / "run", config, resume=True) as run:
            again = identify([tracks], config, run=run)
        assert not again.provenance["stopped_early"]
        assert np.array_equal(again.parameters["springs"], first.parameters["springs"])


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_damaged_parameters_are_named(change):
    rest = grid(3, 3)
    edges = neighbours(rest)
    parameters = {
        "springs": edges,
        "spring_rest_length_m": np.full(len(edges), SPACING_M),
        "log_stiffness_ratio": np.zeros(len(edges)),
        "stiffness_n": np.array(1.0),
        "dashpot_ns_per_m": np.array(0.0),
        "drag_per_s": np.array(0.0),
        "mass_kg": np.array(0.01),
        "gravity_m_per_s2": np.array([0.0, 0.0, -9.81]),
    }
    twin = Twin("t", "sheet", "spring_mass", "phystwin", rest, np.array([0]), parameters)
    assert build_solver(twin).node_count == 9
    if change == "missing":
        del parameters["drag_per_s"]
    else:
        parameters["viscosity"] = np.array(1.0)
    with pytest.raises(TwinError, match=r"drag_per_s|viscosity"):
        build_solver(twin.replace(parameters=parameters))
