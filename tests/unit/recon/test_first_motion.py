"""How an object moves in the first frame: against motions in closed form and a cut recording."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from episode_fit_cases import FPS, SPACING_M, block, true_twin
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from physgym.grip import Grip, Pusher, simulate_gripped
from physgym.sim.contact import GroundPlane
from recon.identify import episode_fit
from recon.identify.clip import Clip, make_clip
from recon.identify.dense_stiffness import Descent
from recon.identify.episode_descent import _Adam
from recon.identify.episode_fit import EpisodeConfig, identify_episode
from recon.identify.episode_problem import EpisodeProblem
from recon.identify.first_motion import find_first_motion, moving_clip
from recon.perception.result import Perception
from recon.perception.table import Plane
from recon.predict_episode import predict_episode
from recon.start import Start
from recon.tracks import Tracks

GRAVITY = np.array([0.0, 0.0, -9.81])
TICKS = 20
TIME_S = np.arange(TICKS) / FPS
VELOCITY, SPIN = np.array([0.5, 0.2, 1.0]), np.array([1.0, 2.0, -1.5])
NONE = np.zeros((TICKS, 3))


def moved_clip(
    path: np.ndarray = NONE,
    turn: np.ndarray = NONE,
    *,
    height_m: float = 0.3,
    noise_m: float = 0.0,
    common_m: float = 0.0,
    held: bool = False,
    seed: int = 0,
    nodes: np.ndarray | None = None,
) -> Clip:
    """A body that goes along a path and turns about its middle, one node in ten unseen."""
    rng = np.random.default_rng(seed)
    rest = block(6, 4, 4, height=height_m)[0] if nodes is None else nodes
    middle = rest.mean(axis=0)
    seen = np.stack([Rotation.from_rotvec(w).apply(rest - middle) + middle for w in turn])
    seen += path[:, None] + rng.normal(0.0, noise_m, seen.shape)
    seen += rng.normal(0.0, common_m, (TICKS, 1, 3))
    seen[rng.uniform(size=seen.shape[:2]) > 0.9] = np.nan
    grips = (Grip(np.zeros((TICKS, 3, 3)), 0, TICKS),) if held else ()
    none = tuple(np.zeros((0, 3)) for _ in seen)
    return Clip(
        "made", "volume", 1 / FPS, rest, np.ones(len(rest), bool), seen, none, grips, (),
        GroundPlane(), GRAVITY, 0, TICKS,
    )  # fmt: skip


FLIGHT = VELOCITY * TIME_S[:, None] + 0.5 * GRAVITY * TIME_S[:, None] ** 2
TURN = SPIN * TIME_S[:, None]


def test_a_flight_gives_its_velocity_and_spin() -> None:
    found = find_first_motion(moved_clip(FLIGHT, TURN))
    assert found is not None
    assert found.flying
    # Without noise the fit is exact but for its priors, which are a hundredth of what frames tell.
    assert np.abs(found.velocity_m_per_s - VELOCITY).max() < 1e-3
    assert np.abs(found.spin_rad_per_s - SPIN).max() < 2e-2


@pytest.mark.parametrize("seed", range(4))
def test_three_frames_of_flight_do_where_gravity_shows_in_them(seed: int) -> None:
    """At 30 Hz they sag by 11 mm between two steps, a straight line by none."""
    path = FLIGHT.copy()
    path[3:] = path[2]  # where it landed
    found = find_first_motion(moved_clip(path, noise_m=5e-4, common_m=1e-4, seed=seed))
    assert found is not None
    assert found.flying
    # 1 mm over three frames: a slope is known to 1e-3 / (sqrt(2) / 30) = 21 mm/s.
    assert np.abs(found.velocity_m_per_s - VELOCITY).max() < 4.0 * 0.021
    straight = VELOCITY * TIME_S[:, None]
    straight[3:] = straight[2]
    clip = moved_clip(straight, noise_m=5e-4, common_m=1e-4, seed=seed)
    assert find_first_motion(clip) is None  # pushed by what is not recorded


@pytest.mark.parametrize("seed", range(4))
def test_noise_moves_it_no_further_than_it_says(seed: int) -> None:
    """3 mm at every point, and 1 mm that a frame's points have in common."""
    clip = moved_clip(FLIGHT, TURN, noise_m=3e-3, common_m=1e-3, seed=seed)
    found = find_first_motion(clip)
    assert found is not None
    assert found.flying
    off = found.velocity_m_per_s - VELOCITY, found.spin_rad_per_s - SPIN
    assert np.abs(off[0] / found.velocity_sigma).max() < 4.0
    assert np.abs(off[1] / found.spin_sigma).max() < 4.0
    # 1 mm over seven frames at 30 Hz: a slope is known to 1e-3 / (sqrt(28) / 30) = 6 mm/s.
    assert found.velocity_sigma.max() < 8e-3
    assert found.spin_sigma.max() < 0.25


def test_wild_tracks_do_not_spoil_it() -> None:
    clip = moved_clip(FLIGHT, TURN, noise_m=5e-4)
    wild = clip.position.copy()
    wild[1:, ::6] = clip.rest_position[::6] + 0.02  # a sixth stays on the background
    found = find_first_motion(dataclasses.replace(clip, position=wild))
    assert found is not None
    # A sixth at full weight would take a sixth off: 0.17 m/s.
    assert np.abs(found.velocity_m_per_s - VELOCITY).max() < 0.03


@pytest.mark.parametrize("height_m", [0.0, 0.3], ids=["standing", "nothing seen below it"])
@pytest.mark.parametrize("noise_m", [0.0, 1e-3, 3e-3, 8e-3])
def test_what_is_still_has_no_motion_at_all(height_m: float, noise_m: float) -> None:
    for seed in range(8):
        clip = moved_clip(height_m=height_m, noise_m=noise_m, common_m=1e-3, seed=seed)
        assert find_first_motion(clip) is None


@pytest.mark.parametrize("begin", range(6))
@pytest.mark.parametrize("acceleration", [1.0, 5.0, 20.0])
def test_what_is_taken_along_from_rest_has_none(begin: int, acceleration: float) -> None:
    """A parabola through such frames has a velocity; a hand may start at any of them."""
    path = 0.5 * acceleration * (TIME_S - TIME_S[begin]).clip(0.0)[:, None] ** 2 * [0, 0, 1]
    turn = 5.0 * path[:, [2, 0, 0]]  # [rad]
    for noise_m in (0.0, 3e-3):
        how = {"height_m": 0.0, "held": True, "noise_m": noise_m, "common_m": noise_m / 3}
        for each in (moved_clip(path, **how), moved_clip(NONE, turn, **how)):
            assert find_first_motion(each) is None


def test_what_falls_from_rest_starts_with_nothing() -> None:
    for seed in range(4):
        path = 0.5 * GRAVITY * TIME_S[:, None] ** 2
        assert find_first_motion(moved_clip(path, noise_m=1e-3, seed=seed)) is None


def test_what_slides_is_braked_and_does_not_fly() -> None:
    path = (0.6 * TIME_S - 1.5 * TIME_S**2)[:, None] * [1, 0, 0]
    found = find_first_motion(moved_clip(path, height_m=0.0, noise_m=1e-3))
    assert found is not None
    assert not found.flying
    # The braking is found too, which costs a factor of four: 0.02 m/s.
    assert np.abs(found.velocity_m_per_s - [0.6, 0.0, 0.0]).max() < 0.06
    assert 0.015 < found.velocity_sigma.max() < 0.03


def test_a_rope_that_is_held_and_swings_has_a_spin() -> None:
    """Its turn about itself is in no track; what its nodes do is."""
    along = np.linspace(0.0, 0.5, 40)
    around = 0.003 * np.stack([np.sin(1.57 * np.arange(40)), np.cos(1.57 * np.arange(40))])
    rope = np.stack([along, around[0], 0.5 + around[1]], axis=1)
    angle = 0.25 * (np.cos(4 * TIME_S + 0.7) - np.cos(0.7))
    clip = moved_clip(NONE, angle[:, None] * [0, 0, 1], held=True, noise_m=1e-3, nodes=rope)
    found = find_first_motion(clip)
    assert found is not None
    assert not found.flying
    truth = -0.25 * 4 * np.sin(0.7)
    # A swing is a parabola for 0.2 s to about a twentieth.
    assert found.spin_rad_per_s[2] == pytest.approx(truth, rel=0.15)
    assert abs(found.spin_rad_per_s[0]) * 0.003 < 0.01  # [m/s], of a node on its skin


def test_frames_after_a_touch_tell_nothing() -> None:
    """A plate stops the flight after the second frame; and fewer than three frames are too few."""
    clip = moved_clip(FLIGHT)
    pose = np.tile([0.0, 0.0, 9.0, 1.0, 0.0, 0.0, 0.0], (TICKS, 1))
    pose[4:, :3] = clip.rest_position.mean(axis=0)
    stopped = clip.position.copy()
    stopped[4:] = stopped[3]
    plate = Pusher(pose, (0.02, 0.02, 0.02), 0, TICKS)
    found = find_first_motion(dataclasses.replace(clip, position=stopped, pushers=(plate,)))
    assert found is not None
    assert np.abs(found.velocity_m_per_s - VELOCITY).max() < 5e-3
    early = dataclasses.replace(plate, pose=np.concatenate([pose[2:], pose[-2:]]))
    assert find_first_motion(dataclasses.replace(clip, pushers=(early,))) is None


def test_what_closes_on_a_moving_object_ends_what_is_learned() -> None:
    clip = moved_clip(FLIGHT)
    hand = Grip(np.zeros((TICKS, 3, 3)), 0, TICKS)
    jaws = Grip(np.zeros((TICKS, 3, 3)), 9, TICKS)
    cut = moving_clip(dataclasses.replace(clip, grips=(hand, jaws)))
    assert cut.grips == (hand,)
    assert cut.stop == 9
    with pytest.raises(DataError, match="closes in frame 4"):
        moving_clip(dataclasses.replace(clip, grips=(dataclasses.replace(jaws, start=4),)))


FRAMES, CUT, NOISE_M = 40, 4, 5e-4


@pytest.fixture(scope="module")
def swung():
    """A bar that is held at one end and swings down; the first frames were not recorded.

    Returns:
        The perception, the true nodes (T, N, 3) and their true velocity in its first frame (N, 3).
    """
    nodes, surface = block(10, 2, 2, height=0.6)
    twin = true_twin(nodes, stiffness_n=3.0, drag_per_s=0.3)
    frames = FRAMES + CUT
    hand = np.repeat(nodes[nodes[:, 0] < 1.5 * SPACING_M][None], frames, axis=0)
    moved = simulate_gripped(twin, [Grip(hand, 0, frames)], 1 / FPS, frames=frames)
    speed = (moved[CUT + 1] - moved[CUT - 1]) * FPS / 2
    rng = np.random.default_rng(0)
    noisy = moved[CUT:] + rng.normal(0.0, NOISE_M, moved[CUT:].shape)
    noisy[0] = moved[CUT]
    clouds = noisy[:, :surface] + rng.normal(0.0, NOISE_M, (FRAMES, surface, 3))
    seen = np.arange(len(nodes)) < surface // 2
    tracks = Tracks(
        np.arange(FRAMES) / FPS,
        np.where(seen[:, None], noisy, np.nan),
        np.tile(seen, (FRAMES, 1)),
        np.zeros(0, int),
        "swing",
        rest_position=moved[CUT].astype(float),
        source_sha256="c" * 64,
    )
    found = Perception(
        tracks,
        surface // 2,
        surface,
        "volume",
        clouds=tuple(clouds.astype(np.float32)),
        hands=(hand[CUT:],),
        table=Plane(np.array([0.0, 0.0, 1.0]), 0.0),
    )
    return found, moved[CUT:], speed


@pytest.fixture(scope="module")
def moving(swung):
    clip, _, _ = make_clip(swung[0], most_nodes=200, stop_frame=16)
    first_motion = find_first_motion(clip)
    assert first_motion is not None
    return EpisodeProblem(clip, mass_kg=0.1, first_motion=first_motion)


def test_a_bar_in_the_middle_of_a_swing(moving, swung) -> None:
    _, moved, truth = swung
    middle = moving.prior.mean
    scalars = moving.scalars(torch.as_tensor(middle[None]), [moving.topology_of(middle)])
    found = moving.start_velocity(scalars)[0, : moving.object_count].numpy()
    same = np.linalg.norm(moving.clip.rest_position[:, None] - moved[0], axis=-1).argmin(axis=1)
    assert not moving.first_motion.flying
    # It bends as it swings, so no rigid motion is right everywhere; half of it is much.
    off = np.linalg.norm(found - truth[same], axis=1)
    assert off.mean() < 0.5 * np.linalg.norm(truth, axis=1).mean()


def test_candidates_start_as_fast_as_they_say(moving) -> None:
    names = moving.prior.names
    theta = np.stack([moving.prior.mean] * 2)
    theta[1, names.index("start_velocity_y")] = 3.0
    made = moving.roll(theta)
    by = made.velocity[1, 0] - made.velocity[0, 0]
    count = moving.object_count
    sigma = moving.first_motion.velocity_sigma[1]
    assert by[:count, 1] == pytest.approx(np.full(count, 3.0 * sigma), rel=1e-3)
    assert not by[count:].any()
    assert np.abs(made.position[1, 3] - made.position[0, 3]).max() > sigma / FPS


def test_the_descent_has_the_gradient_to_the_start(moving) -> None:
    """Against central differences, as `test_episode_problem` has it for stiffness."""
    theta = moving.prior.mean[: moving.global_count] + 0.1
    topology = moving.topology_of(moving.prior.mean)
    frozen = moving.frozen(topology)
    job = _Adam(frozen, Descent(theta, np.zeros(len(topology.edges))))
    # Windows after the first start where this rollout was, whatever the start is varied to.
    rolled = frozen.roll(theta[None])
    job._error(rolled).backward()
    for name in ("start_velocity_z", "start_velocity_x", "start_spin_y"):
        index = moving.prior.names.index(name)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                job.theta[index] += 0.2 * sign
                values.append(float(job._error(rolled)))
                job.theta[index] -= 0.2 * sign
        expected = (values[0] - values[1]) / 0.4
        # float32 rollouts, and a kink where the nearest node of a cloud point changes.
        assert float(job.theta.grad[index]) == pytest.approx(expected, rel=0.05, abs=2e-5)
        assert abs(expected) > 1e-4


@pytest.fixture
def short(monkeypatch):
    """Few generations: what is asked is what the start does."""
    monkeypatch.setitem(episode_fit._GENERATIONS, "quick", 5)
    monkeypatch.setitem(episode_fit._DESCENT_STEPS, "quick", 5)


def test_a_twin_starts_as_its_recording_did(swung, short, monkeypatch) -> None:
    perception, moved, _ = swung
    config = EpisodeConfig(mass_kg=0.1)
    found = identify_episode(perception, config)
    monkeypatch.setattr(episode_fit, "find_first_motion", lambda clip: None)
    still = identify_episode(perception, config)
    assert "start_velocity_m_per_s" not in still.parameters
    assert found.uncertainty["start_velocity_m_per_s"].shape == (3,)
    assert found.uncertainty["start_spin_rad_per_s"].shape == (3,)

    def off(twin):
        predicted = predict_episode(twin, perception)
        nodes = predicted.points[:, ~predicted.visible_surface]
        same = np.linalg.norm(nodes[0][None] - moved[0][:, None], axis=-1).argmin(axis=1)
        return np.linalg.norm(nodes[:, same] - moved, axis=-1).mean(axis=1)

    # Later the hand has brought both along.
    assert off(found)[1:8].mean() < 0.5 * off(still)[1:8].mean()
    assert found.provenance["cost"]["springs"] < 0.7 * still.provenance["cost"]["springs"]
    # In a recording that is not its own it starts at rest, as every twin does.
    other = dataclasses.replace(
        perception, tracks=dataclasses.replace(perception.tracks, source_sha256="d" * 64)
    )
    nodes = predict_episode(found, other).points
    told = predict_episode(found, other, start=Start.of(None, (0.0, 0.0, 0.0), None)).points
    assert np.array_equal(nodes, told)
