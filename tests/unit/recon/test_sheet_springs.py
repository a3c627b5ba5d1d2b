"""Sheets: struts give the bending stiffness that was asked for, and the twin is what was fitted."""

import dataclasses

import numpy as np
import pytest
import torch
from episode_fit_cases import FPS, SPACING_M, lifting_gripper, perceived, true_twin

from physgym.grip import simulate_gripped
from physgym.sim.build import network_of
from physgym.sim.spring_mass import (
    SpringMassModel,
    SpringMassParameters,
    SpringMassSolver,
    rest_lengths,
)
from recon.identify.clip import make_clip
from recon.identify.dense_stiffness import Descent
from recon.identify.episode_descent import _Adam
from recon.identify.episode_fit import EpisodeConfig, _Job, _make_twin
from recon.identify.episode_problem import EpisodeProblem
from recon.identify.network_topology import Topology
from recon.identify.progress import Progress
from recon.identify.sheet_springs import preloaded, sheet_springs

H = 0.01
FRAMES = 24


def grid(columns, rows, spacing=H):
    x, y = np.meshgrid(np.arange(columns) * spacing, np.arange(rows) * spacing, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)


def sheet(nodes, bending_nm3, membrane_n=50.0):
    """Springs, log stiffness and natural lengths of a sheet of these nodes at rest."""
    edges, strut = sheet_springs(nodes, spacing_m=H, shortest_m=0.1 * H)
    topology = Topology(edges, rest_lengths(nodes, edges), strut)
    count = len(edges)
    stiff, natural = preloaded(
        topology,
        torch.ones(count, dtype=bool),
        torch.full((1, count), float(np.log(membrane_n)), dtype=torch.float64),
        torch.zeros(count, dtype=torch.float64),
        torch.tensor([bending_nm3], dtype=torch.float64),
    )
    return topology, stiff, natural


def test_every_curvature_costs_half_bending_stiffness_times_area_times_its_square():
    """The springs' own energy on cylinders in four directions, on points without order."""
    rng = np.random.default_rng(1)
    nodes = grid(24, 24)
    nodes[:, :2] += rng.uniform(-0.3 * H, 0.3 * H, (len(nodes), 2))
    bending = 3e-6
    topology, stiff, natural = sheet(nodes, bending)
    stiffness, natural = stiff[0].exp().numpy(), natural[0].numpy()

    def energy(at):
        length = rest_lengths(at, topology.edges)
        return 0.5 * np.sum(stiffness / natural * (length - natural) ** 2)

    flat, found = energy(nodes), []
    for angle in (0.0, np.pi / 4, np.pi / 2, 0.75 * np.pi):
        along = nodes[:, :2] @ np.array([np.cos(angle), np.sin(angle)])
        across = nodes[:, :2] @ np.array([-np.sin(angle), np.cos(angle)])
        curvature = 1.5  # beyond, the membrane itself resists: it cannot follow
        bent = np.stack(
            [
                np.sin(curvature * along) / curvature,
                across,
                (1 - np.cos(curvature * along)) / curvature,
            ],
            axis=1,
        )
        found.append((energy(bent) - flat) / (0.5 * bending * curvature**2))
    # A disturbed square grid has more struts along some directions than along others; on average
    # over directions only the few nodes are left.
    assert found == pytest.approx([1.0] * 4, rel=0.12), found
    assert np.mean(found) == pytest.approx(1.0, abs=0.04)


def test_a_cantilever_hangs_by_its_weight_as_a_plate_does():
    """Tip of a clamped heavy plate: L^4 / (8 l^3) at bending length l (Euler and Bernoulli)."""
    columns, rows, mass_kg, bending_length = 14, 9, 0.02, 0.12
    nodes = grid(columns, rows)
    weight = mass_kg * 9.81
    topology, stiff, natural = sheet(nodes, weight * bending_length**3)
    clamped = np.flatnonzero(nodes[:, 0] < 1.5 * H)
    model = SpringMassModel(nodes, topology.edges, driven_index=clamped)
    given = SpringMassParameters(
        log_stiffness=stiff.float(),
        rest_length_m=natural.float(),
        dashpot_ns_per_m=torch.full((1, 1), 1e-2),
        mass_kg=torch.full((1, len(nodes)), mass_kg / len(nodes)),
        drag_per_s=torch.tensor([12.0]),
        restitution=torch.zeros(1),
        friction=torch.zeros(1),
    )
    solver = SpringMassSolver(model, given, device="cpu")
    start = torch.as_tensor(nodes, dtype=torch.float32)[None]
    held = torch.as_tensor(nodes[clamped], dtype=torch.float32).expand(1, 46, -1, 3)
    rolled = solver.rollout(solver.initial_state(start), held, 1 / 30).position[0].numpy()
    tip = -rolled[-1].reshape(columns, rows, 3)[-1, :, 2].mean()
    assert -rolled[-10].reshape(columns, rows, 3)[-1, :, 2].mean() == pytest.approx(tip, rel=0.02)
    # From between the clamped rows, and half a cell of weight beyond the last nodes.
    length = (columns - 1) * H - 0.5 * H
    # Free long edges let the plate bend across too (up to 1 / (1 - 1/9)); the grid, which has few
    # cells to the length, does the rest.
    assert tip == pytest.approx(length**4 / (8 * bending_length**3), rel=0.2)


def test_struts_are_along_the_sheet_and_join_no_two_layers():
    half = grid(20, 8)
    above = half + np.array([0.0, 0.0, 2.0 * H])
    turn = np.array([[20 * H, y * H, z * H] for y in range(8) for z in (0.5, 1.5)])
    nodes = np.concatenate([half, turn, above])
    edges, strut = sheet_springs(nodes, spacing_m=H, shortest_m=0.1 * H)
    far = (nodes[edges, 0] < 15 * H).all(axis=1)
    apart = np.abs(np.diff(nodes[edges, 2], axis=1))[:, 0] > H
    assert strut[far].sum() > strut.sum() // 2
    assert not (far & apart).any()
    assert apart.any()  # around the turn
    length = rest_lengths(nodes, edges)
    assert length[~strut].max() < 1.6 * H < length[strut].min() < length[strut].max() < 2.7 * H
    inner = np.flatnonzero((nodes[:, 0] == 8 * H) & (nodes[:, 1] == 4 * H) & (nodes[:, 2] == 0))
    meets = (edges == inner[0]).any(axis=1)
    assert ((meets & ~strut).sum(), (meets & strut).sum()) == (8, 12)


@pytest.fixture(scope="module")
def lifted():
    """A sheet on a table, taken by one end."""
    nodes = grid(9, 6, SPACING_M)
    nodes[:, 2] = 1e-4
    gripper = lifting_gripper(nodes, FRAMES)
    gripper = dataclasses.replace(gripper, jaw_half_m=(0.03, 0.06, 0.01))
    found, _ = perceived(true_twin(nodes), gripper, surface=len(nodes))
    found = dataclasses.replace(found, kind="sheet")
    clip, _, _ = make_clip(found, most_nodes=200, stop_frame=20)
    return found, EpisodeProblem(clip, mass_kg=0.02)


def test_a_sheet_has_its_own_coordinates(lifted):
    _, problem = lifted
    assert "log_bending_length" in problem.prior.names
    assert not {"log_radius", "log_neighbours"} & set(problem.prior.names)
    theta = torch.as_tensor(problem.prior.mean[None])
    topology = problem.topology_of(problem.prior.mean)
    given = problem.scalars(theta, [topology])
    # Collisions of a sheet are not searched for, but nodes do collide.
    touching = EpisodeProblem(problem.clip, mass_kg=0.02, self_collision=True)
    assert touching.prior.names == problem.prior.names
    found = touching.scalars(theta, [topology])
    assert float(found["collision_distance_m"]) == pytest.approx(0.7 * problem.spacing_m)
    assert float(found["collision_friction"]) == pytest.approx(0.3)
    own = problem.grip_of_spring(topology.edges) < 0
    length = topology.rest_length_m[own & ~topology.strut]
    # The prior's mean: a membrane that its own weight strains by 1 %, so speed^2 = 100 g size.
    speed2 = float(given["stiffness_n"]) * length.sum() / problem.mass_kg
    assert speed2 == pytest.approx(100 * 9.81 * problem.size_m, rel=1e-6)


def test_the_twin_of_a_sheet_moves_as_it_was_fitted(lifted):
    perception, problem = lifted
    job = _Job(problem, EpisodeConfig(mass_kg=0.02), Progress(), None)
    job.theta[list(problem.prior.names).index("log_bending_length")] = np.log(0.02)
    twin = _make_twin(job, perception, 20, "sheet")
    assert float(twin.parameters["bending_length_m"]) == pytest.approx(0.02)
    # Registration compares these with a cloud: they are those of the sheet as it lies.
    assert twin.parameters["spring_rest_length_m"] == pytest.approx(
        rest_lengths(twin.rest_position, twin.parameters["springs"]), rel=1e-4
    )
    natural = network_of(twin)[1].rest_length_m[0].numpy()
    ratio = natural / twin.parameters["spring_rest_length_m"]
    assert set(np.round(ratio[ratio > 1], 6)) == {2.0}
    assert ratio[ratio < 1].max() < 1.0
    rolled = problem.roll(job.theta[None]).position[0, :, : problem.object_count]
    clip = problem.clip
    # Held from the first tick on, so that grip springs are as long as in the search.
    cut = [
        dataclasses.replace(
            g, position=g.position[clip.first : problem.stop], start=0, stop=len(rolled)
        )
        for g in clip.grips
    ]
    moved = simulate_gripped(twin, cut, 1 / FPS, frames=len(rolled))
    assert np.abs(moved[-1] - moved[0]).max() > 0.03
    # One tick more in the grip; its solver counts its own substeps.
    assert np.abs(moved - rolled).max() < 1e-3


def test_bending_has_the_right_gradient(lifted):
    """Adam's gradient to the bending length against central differences of the same loss."""
    _, problem = lifted
    theta = problem.prior.mean[: problem.global_count].copy()
    topology = problem.topology_of(problem.prior.mean)
    frozen = problem.frozen(topology)
    job = _Adam(frozen, Descent(theta, np.zeros(len(topology.edges))))
    rolled = frozen.roll(theta[None])
    job._error(rolled).backward()
    index = list(problem.global_names).index("log_bending_length")
    found, step, values = float(job.theta.grad[index]), 2e-2, []
    for sign in (1, -1):
        with torch.no_grad():
            job.theta[index] += sign * step
            values.append(float(job._error(rolled)))
            job.theta[index] -= sign * step
    expected = (values[0] - values[1]) / (2 * step)
    # float32 rollouts, and kinks where a node touches the table or another node is the nearest.
    assert found == pytest.approx(expected, rel=0.05, abs=2e-5 * values[0])
    # Struts stay alike.
    assert not bool(job.own[torch.as_tensor(topology.strut)].any())
