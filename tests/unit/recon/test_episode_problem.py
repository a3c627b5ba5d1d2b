"""One episode as an identification problem: clock, clip, rollouts, losses and their gradient."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from episode_fit_cases import FPS, SPACING_M, block, lifting_gripper, perceived, true_twin

from physgym.errors import DataError
from physgym.grip import simulate_gripped
from recon.identify.clip import make_clip
from recon.identify.dense_stiffness import Descent
from recon.identify.episode_descent import _Adam
from recon.identify.episode_problem import EpisodeProblem
from recon.identify.even_clock import even_clock
from recon.identify.handling import handling_of
from recon.identify.problem import cost, warn_unusual
from recon.perception.driven import GripperTrack
from recon.tracks import PhysGymWarning

FRAMES = 30


@pytest.fixture(scope="module")
def lifted():
    nodes, surface = block(6, 3, 3)
    twin = true_twin(nodes)
    gripper = lifting_gripper(nodes, FRAMES)
    return (twin, gripper, surface, *perceived(twin, gripper, surface=surface))


@pytest.fixture(scope="module")
def problem(lifted):
    clip, _, _ = make_clip(lifted[3], most_nodes=200, stop_frame=21)
    return EpisodeProblem(clip, mass_kg=0.1)


def theta_of(problem, **values):
    theta = problem.prior.mean.copy()
    for name, value in values.items():
        theta[problem.prior.names.index(name)] = value
    return theta


def test_a_clock_puts_frames_back_where_they_were():
    stamps = np.delete(np.arange(40) / FPS, [7, 8, 20]) + 100.0
    clock = even_clock(stamps)
    assert clock.ticks == 40
    assert clock.dt_s == pytest.approx(1 / FPS)
    assert list(clock.tick) == list(np.round((stamps - 100.0) * FPS).astype(int))
    line = 3.0 * (stamps - 100.0)[:, None] + np.array([1.0, -2.0])
    assert clock.at_ticks(line)[7] == pytest.approx([1.7, -1.3])
    assert clock.at_stamps(clock.at_ticks(line)) == pytest.approx(line)
    with pytest.raises(DataError, match="2 frames"):
        even_clock(np.array([0.0, 0.1]))
    jumped = np.where(np.arange(40) > 10, stamps[:1] + 1000.0, 0.0)[: len(stamps)] + stamps
    with pytest.raises(DataError, match="no frame for 1100 s after frame 10"):
        even_clock(jumped)


def test_a_clip_starts_before_the_first_motion_and_above_the_table(lifted):
    perception = lifted[3]
    rest = perception.tracks.rest_position - [0, 0, 0.003]
    sunk = dataclasses.replace(
        perception, tracks=dataclasses.replace(perception.tracks, rest_position=rest)
    )
    clip, keep, _ = make_clip(sunk, most_nodes=40, stop_frame=21)
    assert clip.first == 4  # jaws close in frame 5
    assert clip.stop == 21
    assert len(keep) <= 40
    assert clip.rest_position[:, 2].min() == pytest.approx(0.0, abs=1e-9)
    assert clip.straight_position is None
    with pytest.raises(DataError, match="learning ends before"):
        make_clip(perception, most_nodes=200, stop_frame=7)


def test_nothing_that_holds_is_said(lifted):
    alone = dataclasses.replace(lifted[3], grippers=())
    with pytest.warns(PhysGymWarning, match="nothing holds"):
        clip, _, _ = make_clip(alone, most_nodes=200, stop_frame=21)
    assert clip.first == 0


def test_the_true_parameters_fit_and_others_do_not(lifted, problem):
    """The problem simulates as `physgym.grip` does: same springs, same motion, noise left over."""
    twin, _, _, _, moved = lifted
    theta = true_theta(problem, twin)
    rolled = problem.roll(theta[None]).position[0]
    first = problem.clip.first
    off = rolled[:, : len(twin.rest_position)] - moved[first : problem.stop]
    # The grip's springs start from the first tick here, from frame 5 there; float32 and another
    # number of substeps do the rest.
    assert np.abs(off).max() < 1e-3
    stiff, slow = theta.copy(), theta.copy()
    stiff[problem.prior.names.index("log_stiffness")] += 0.5
    slow[problem.prior.names.index("log_drag")] += 2.0
    asked = np.stack([theta, stiff, slow])
    values = cost(problem, asked, [0]) - problem.prior.penalty(asked)
    # What is left is the noise of the cameras.
    assert values[0] < 0.5 * values[1:].min()


def true_theta(problem, twin):
    """Search coordinates of the true twin."""
    theta = theta_of(
        problem,
        length_exponent=0.0,
        log_drag=np.log(float(twin.parameters["drag_per_s"])),
        log_radius=np.log(1.8 * SPACING_M / problem.spacing_m),
        log_neighbours=np.log(20),
        log_driven_radius=np.log(1.6 * SPACING_M / problem.spacing_m),
        log_driven_neighbours=np.log(14),
        logit_restitution=np.log(0.1 / 0.9),
        log_friction=np.log(0.5),
    )
    topology = problem.topology_of(theta)
    at = problem.scalars(torch.as_tensor(theta[None]), [topology])
    change = np.log(float(twin.parameters["stiffness_n"]) / float(at["stiffness_n"][0]))
    names = problem.prior.names
    theta[names.index("log_stiffness")] += change
    dashpot = float(at["dashpot_ns_per_m"][0]) * np.exp(0.5 * change)
    ratio = float(twin.parameters["dashpot_ns_per_m"]) / dashpot
    theta[names.index("log_damping_ratio")] += np.log(ratio)
    return theta


def test_candidates_side_by_side_are_as_alone(problem):
    rng = np.random.default_rng(0)
    theta = problem.prior.mean + 0.7 * rng.standard_normal((6, len(problem.prior.mean))) * (
        problem.prior.sigma
    )
    together = problem.roll(theta).position
    for one, seen in zip(theta, together):
        alone = problem.roll(one[None]).position[0]
        if np.isfinite(seen).all():
            # Alone it may take fewer substeps than beside a stiffer one; so compare loosely.
            assert np.abs(alone - seen).max() < 5e-3


def test_a_world_that_blows_up_spoils_no_other(problem):
    good = problem.prior.mean
    bad = theta_of(problem, log_stiffness=20.0)
    made = problem.roll(np.stack([bad, good])).position
    assert np.isnan(made[0]).all()
    assert np.isfinite(made[1]).all()
    assert cost(problem, np.stack([bad, good]), [0])[0] > 10 * cost(problem, good[None], [0])[0]


def test_a_released_object_falls_in_the_search_too(lifted):
    """Springs of a grip that has let go pull at nothing: as `physgym.grip`, which has them not."""
    twin, _, surface, _, _ = lifted
    nodes = np.asarray(twin.rest_position, float)
    gripper = lifting_gripper(nodes, FRAMES, opens=18)
    perception, moved = perceived(twin, gripper, surface=surface)
    clip, _, _ = make_clip(perception, most_nodes=200, stop_frame=28)
    problem = EpisodeProblem(clip, mass_kg=0.1)
    rolled = problem.roll(true_theta(problem, twin)[None]).position[0]
    off = rolled[:, : len(nodes)] - moved[clip.first : 28]
    assert moved[17, :, 2].mean() - moved[27, :, 2].mean() > 0.02  # it does fall
    # Natural lengths are right to first order in the sag of a few millimetres; a quarter of a
    # second of free fall and swing later that is this.
    assert np.abs(off).max() < 6e-3


def test_clouds_alone_tell_candidates_apart(lifted, problem):
    """Without a single track: every cloud point against the nearest surface node."""
    twin, _, _, perception, _ = lifted
    blind = np.full_like(perception.tracks.position, np.nan)
    blind[0] = perception.tracks.position[0]
    tracks = dataclasses.replace(
        perception.tracks, position=blind, visible=np.isfinite(blind).all(-1)
    )
    clip, _, _ = make_clip(
        dataclasses.replace(perception, tracks=tracks), most_nodes=200, stop_frame=21
    )
    clouds_only = EpisodeProblem(clip, mass_kg=0.1)
    theta = true_theta(clouds_only, twin)
    soft = theta.copy()
    soft[clouds_only.prior.names.index("log_stiffness")] -= 1.5
    values = cost(clouds_only, np.stack([theta, soft]), [0])
    assert values[0] < values[1]


def test_the_descent_has_the_right_gradient(problem):
    """Adam's gradient through the windows against central differences of the same loss."""
    # At this friction no node is just between sticking and sliding, where the loss has a kink.
    theta = theta_of(problem, log_friction=np.log(0.4))[: problem.global_count] + 0.2
    topology = problem.topology_of(problem.prior.mean)
    frozen = problem.frozen(topology)
    rng = np.random.default_rng(3)
    offset = 0.1 * rng.standard_normal(len(topology.edges))
    job = _Adam(frozen, Descent(theta, offset))
    rolled = problem.frozen(topology, job._offset().detach().numpy()).roll(theta[None])

    def value():
        return job._error(rolled)

    value().backward()
    for tensor, index in ((job.theta, 0), (job.theta, 2), (job.offset, 5), (job.offset, 40)):
        found = float(tensor.grad[index])
        step = 2e-2
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor[index] += sign * step
                values.append(float(value()))
                tensor[index] -= sign * step
        expected = (values[0] - values[1]) / (2 * step)
        # float32 rollouts and a kink where the nearest node of a cloud point changes.
        assert found == pytest.approx(expected, rel=0.05, abs=2e-5 * values[0])


def test_simulated_as_the_twin_is(lifted):
    """`simulate_gripped` of the true twin is the reference everywhere above: it must move."""
    twin, gripper, _, _, moved = lifted
    again = simulate_gripped(twin, [], 1 / FPS, frames=3)
    assert np.abs(again - moved[0]).max() < 2e-3  # without a grip it stays on its table
    assert np.abs(moved[-1] - moved[0]).max() > 0.05
    assert gripper.closed.sum() == FRAMES - 5


def test_what_closes_on_nothing_pushes_and_what_closes_on_the_object_holds(lifted):
    twin, gripper, _, perception, _ = lifted
    nodes = np.asarray(twin.rest_position, float)
    clock = even_clock(perception.time_s)
    grips, pushers, until = handling_of(perception, clock, nodes)
    assert until == FRAMES
    assert [(g.start, g.stop) for g in grips] == [(5, FRAMES)]
    assert pushers == []
    away = gripper.T_world_gripper.copy()
    away[:, 0, 3] += 0.3
    beside = dataclasses.replace(
        gripper, T_world_gripper=away, tool_half_m=(0.01, 0.02, 0.03), tool_centre_m=(0, 0, 0.02)
    )
    grips, (pusher,), _ = handling_of(
        dataclasses.replace(perception, grippers=(beside,)), clock, nodes
    )
    assert grips == []
    assert (pusher.start, pusher.stop) == (5, FRAMES)
    assert pusher.pose[0, :3] == pytest.approx(away[0, :3, 3] + [0, 0, 0.02])
    assert pusher.pose[:, 3:] == pytest.approx(np.tile([1.0, 0, 0, 0], (FRAMES, 1)))
    # A plate pushes even where it starts around nodes; one that never closes is solid throughout.
    plate = dataclasses.replace(gripper, jaws=False, closed=np.zeros(FRAMES, bool))
    other = dataclasses.replace(perception, grippers=(plate,))
    grips, (pusher,), _ = handling_of(other, clock, nodes)
    assert grips == []
    assert (pusher.start, pusher.stop) == (0, FRAMES)


def test_a_pushed_object_is_rolled_out_as_its_twin_is(lifted):
    """A plate from the side: `EpisodeProblem` against `simulate_gripped`."""
    twin = lifted[0]
    nodes = np.asarray(twin.rest_position, float)
    pose = np.tile(np.eye(4), (FRAMES, 1, 1))
    pose[:, :3, 3] = [-0.05, 0.02, 0.02]
    pose[:, 0, 3] += np.linspace(0, 0.1, FRAMES)
    half = (0.01, 0.05, 0.05)
    plate = GripperTrack(pose, np.ones(FRAMES, bool), half, half, jaws=False)
    perception, moved = perceived(twin, plate, surface=lifted[2])
    assert np.abs(moved[-1] - moved[0]).max() > 0.04
    clip, _, _ = make_clip(perception, most_nodes=200, stop_frame=28)
    problem = EpisodeProblem(clip, mass_kg=0.1)
    assert clip.first > 2  # the plate is on its way
    theta = true_theta(problem, twin)
    rolled = problem.roll(theta[None]).position[0]
    off = rolled[:, : len(nodes)] - moved[clip.first : 28]
    # Another spacing and so another margin of the plate: 0.15 of the difference, half a millimetre.
    assert np.abs(off).max() < 2e-3


def test_a_second_grip_ends_what_is_learned_but_not_what_is_predicted(lifted):
    """Taken, put down, and taken again: by then only a simulation knows where the object is."""
    twin, gripper, _, perception, _ = lifted
    nodes = np.asarray(twin.rest_position, float)
    closed = np.asarray(gripper.closed).copy()
    closed[12:18] = False
    again = dataclasses.replace(perception, grippers=(dataclasses.replace(gripper, closed=closed),))
    clock = even_clock(perception.time_s)
    grips, pushers, until = handling_of(again, clock, nodes)
    assert [(g.start, g.stop) for g in grips] == [(5, 12)]
    assert (pushers, until) == ([], 18)
    clip, _, _ = make_clip(again, most_nodes=200, stop_frame=28)
    assert clip.stop == 18
    asked = []

    def simulate(grips, pushers, tick):
        asked.append((len(grips), len(pushers), tick))
        return nodes + gripper.T_world_gripper[tick, :3, 3] - gripper.T_world_gripper[0, :3, 3]

    grips, pushers, until = handling_of(again, clock, nodes, simulate=simulate)
    assert asked == [(1, 0, 18)]
    assert [(g.start, g.stop) for g in grips] == [(5, 12), (18, FRAMES)]
    assert (pushers, until) == ([], FRAMES)
    # Of what moves from the start, the first grip too must be asked for.
    asked.clear()
    handling_of(again, clock, nodes, simulate=simulate, moving=True)
    assert asked == [(0, 0, 5), (1, 0, 18)]


def test_what_no_object_has_is_warned_of(problem):
    usual = problem.prior.mean + 3.0 * problem.prior.sigma
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_unusual(problem.prior, usual[:4], "toy")
    odd = usual.copy()
    odd[2] = problem.prior.mean[2] - 5.0 * problem.prior.sigma[2]
    with pytest.warns(PhysGymWarning, match=rf"toy: .*{problem.prior.names[2]} by -5 "):
        warn_unusual(problem.prior, odd, "toy")
    with pytest.warns(PhysGymWarning, match="log_drag at its bound"):
        warn_unusual(problem.prior, theta_of(problem, log_drag=3.0), "toy", {"log_drag": 2.9})
