"""The viewer without a browser: hands, settings, colours, pace and recordings."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from physgym.grip import Grip, simulate_gripped
from physgym.sim.build import network_of
from physgym.sim.spring_mass import rest_lengths, springs_from_points
from physgym.twin import Twin
from physgym.viewer.body_scene import points_on
from physgym.viewer.colour import Colouring, springs_of
from physgym.viewer.held import driven_groups, far_ends, take_hold, with_holds
from physgym.viewer.pacer import Pacer
from physgym.viewer.recording import Recording, Shot
from physgym.viewer.session import LEFT, MOUSE, RIGHT, Session
from physgym.viewer.settings import Settings

DT_S = 1 / 60
SPACING_M = 0.02
GRIP = {
    "grip_radius_m": 1.5 * SPACING_M,
    "grip_neighbours": np.array(20, np.int32),
    "grip_stiffness_ratio": 1.0,
    "length_exponent": 0.0,
    "spacing_m": SPACING_M,
}


def network(*, driven=(), gravity=(0.0, 0.0, -9.81), **more):
    """A block of 5 x 3 x 3 nodes whose longest axis is y."""
    axes = (np.arange(3), np.arange(5), np.arange(3))
    nodes = SPACING_M * np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    edges = springs_from_points(nodes, radius_m=1.8 * SPACING_M, max_neighbours=30)
    values = {
        "springs": edges,
        "spring_rest_length_m": rest_lengths(nodes, edges),
        "log_stiffness_ratio": np.zeros(len(edges)),
        "mass_kg": 0.1,
        "gravity_m_per_s2": gravity,
        "stiffness_n": 20.0,
        "dashpot_ns_per_m": 0.05,
        "drag_per_s": 1.0,
        **more,
    }
    parameters = {key: np.asarray(value) for key, value in values.items()}
    index = np.asarray(driven, np.int64)
    return Twin("block", "volume", "spring_mass", "phystwin", nodes, index, parameters)


GROUND = {
    "ground_normal": (0.0, 0.0, 1.0),
    "ground_offset_m": 0.0,
    "restitution": 0.0,
    "friction": 0.4,
}


def rope():
    count = 11
    x = np.linspace(0, 1, count)
    nodes = np.stack([0 * x, 0.5 - x, 0 * x], axis=1)
    values = {
        "rest_length_m": np.full(count - 1, 0.1),
        "linear_density_kg_per_m": 0.02,
        "bending_stiffness_nm2": np.full(count - 2, 1e-3),
        "natural_curvature_rad": np.zeros((count - 2, 2)),
        "twist_stiffness_nm2": 1e-3,
        "bending_damping_s": 0.01,
        "friction_ratio": 0.0,
        "friction_yield_rad": 0.1,
        "drag_per_s": 0.5,
        "drag_quadratic_per_m": 0.0,
        "stretch_stiffness_n": 100.0,
        "stretch_damping_s": 1e-3,
        "end_roll_rad": 0.0,
        "clamp_tangent": [[0.0, -1.0, 0.0], [0.0, -1.0, 0.0]],
        "clamp_director": [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]],
    }
    parameters = {key: np.asarray(value, np.float64) for key, value in values.items()}
    ends = np.array([0, 1, count - 2, count - 1])
    return Twin("rope", "rope", "rod", "phystwin", nodes, ends, parameters)


def run(session, seconds):
    for _ in range(round(seconds / DT_S)):
        session.advance(DT_S)


def test_two_hands_hold_the_far_ends_left_first():
    session = Session(network(**GRIP))
    assert [hand.name for hand in session.hands] == ["left", "right", "mouse"]
    assert session.hands[LEFT].position[1] > session.hands[RIGHT].position[1]
    assert session.hands[LEFT].holds
    assert session.hands[RIGHT].holds
    assert not session.hands[MOUSE].holds


@pytest.mark.parametrize("gripped", [GRIP, {}], ids=["springs", "nodes"])
def test_a_lifted_hand_lifts_what_it_holds_and_let_go_it_falls(gripped):
    session = Session(network(**gripped))
    for hand in (LEFT, RIGHT):
        session.move_hand(hand, np.array([0.0, 0.0, 0.1]))
    run(session, 1.5)
    assert session.hands[LEFT].position[2] == pytest.approx(session.hands[LEFT].target[2])
    low = session.position[:, 2].mean()
    assert low > 0.05  # it hangs, sagging, from where it began at 0.02
    session.release()
    before = session.velocity[:, 2].mean()
    session.advance(0.1)
    # Free fall but for drag of 1/s: at most a tenth less than g.
    assert before - session.velocity[:, 2].mean() == pytest.approx(0.981, rel=0.12)


def test_a_grip_is_that_of_simulate_gripped():
    twin = network(**GRIP)
    session = Session(twin, held=False)
    point = twin.rest_position[0].astype(float)
    session.grab(point, LEFT)
    hand = session.hands[LEFT]
    points = [hand.points]
    speed = np.array([0.3, 0.0, 0.3])
    for _ in range(20):
        session.move_hand(LEFT, speed * DT_S)
        session.advance(DT_S)
        points.append(hand.points)
    path = np.stack(points)
    expected = simulate_gripped(twin, [Grip(path, 0, 21)], DT_S, frames=21)
    # The same springs and the same solver, but for one thread and steps that begin anew: float32.
    assert session.position == pytest.approx(expected[-1], abs=2e-6)


def test_held_nodes_do_not_make_the_others_heavier():
    twin = network()
    hold = take_hold(twin, twin.rest_position, twin.rest_position[0])
    held, _ = with_holds(twin, [hold])
    (_, free), (_, fewer) = network_of(twin), network_of(held)
    # The mass is stored as float64 and handed over as float32.
    assert fewer.mass_kg[0, -1] == pytest.approx(float(free.mass_kg[0, -1]), rel=1e-6)


def test_a_node_is_in_one_hand_only():
    session = Session(network(), held=False)
    session.grab(session.position[0], LEFT)
    session.grab(session.position[0], RIGHT)
    left, right = session.hands[LEFT].driven, session.hands[RIGHT].driven
    assert len(left)
    assert len(right)
    assert not set(left) & set(right)
    run(session, 0.2)


def test_a_hand_is_no_faster_than_a_hand():
    session = Session(network(**GRIP))
    start = session.hands[LEFT].position.copy()
    session.move_hand(LEFT, np.array([5.0, 0.0, 0.0]))
    session.advance(DT_S)
    assert session.hands[LEFT].position[0] - start[0] == pytest.approx(1.0 * DT_S)


def test_a_turned_hand_turns_its_points_about_itself():
    session = Session(network(gravity=(0, 0, 0)))
    hand = session.hands[LEFT]
    before = hand.points - hand.position
    quarter = Rotation.from_rotvec([0.0, 0.0, np.pi / 2])
    session.place_hand(LEFT, hand.position, quarter)
    run(session, 1.0)
    assert hand.points - hand.position == pytest.approx(quarter.apply(before), abs=1e-9)


def test_grippers_of_a_rope_are_its_hands_and_never_let_go():
    session = Session(rope())
    assert [hand.fixed for hand in session.hands] == [True, True]
    assert [list(hand.driven) for hand in session.hands] == [[0, 1], [9, 10]]
    assert session.grab(np.array([0.0, -0.6, 0.0]), LEFT) == RIGHT  # the nearer one answers
    session.release()
    session.move_hand(RIGHT, np.array([0.0, 0.3, 0.0]))
    run(session, 2.0)
    assert session.position[10] == pytest.approx([0.0, -0.2, 0.0], abs=1e-5)
    assert session.position[5, 2] < -0.15  # slack hangs down


def test_reset_brings_back_the_very_beginning():
    session = Session(network(**GRIP))
    begun = session.position
    run(session, 0.3)
    first = session.position
    session.grab(first[4], MOUSE)
    session.reset()
    assert session.time_s == 0
    assert (session.position == begun).all()
    run(session, 0.3)
    assert (session.position == first).all()  # the same bits


def test_gravity_off_and_it_stays_where_it_is():
    session = Session(network(), held=False)
    session.configure(session.settings.replace(gravity_m_per_s2=0.0))
    before = session.position
    run(session, 0.3)
    assert session.position == pytest.approx(before, abs=1e-6)
    session.configure(session.settings.replace(gravity_m_per_s2=3.0))
    session.advance(0.1)
    assert session.velocity[:, 2].mean() == pytest.approx(-0.3, rel=0.1)  # drag of 1/s


def test_a_ground_can_be_laid_under_what_has_none():
    session = Session(network(), held=False)
    assert session.settings.ground_m is None
    session.configure(session.settings.replace(ground_m=-0.05))
    run(session, 1.5)
    assert session.position[:, 2].min() == pytest.approx(-0.05, abs=2e-3)
    session.configure(session.settings.replace(ground_m=None))
    run(session, 0.3)
    assert session.position[:, 2].max() < -0.1


def test_settings_are_those_of_the_twin_and_its_solver_takes_others():
    twin = network(**GROUND)
    assert Settings.of(twin) == Settings(9.81, 0.0, 0.4)
    session = Session(twin, held=False)
    session.configure(Settings(9.81, 0.0, 1.2))
    assert float(session._solver.parameters.friction) == pytest.approx(1.2)


def test_a_rope_has_no_ground():
    session = Session(rope())
    assert not session.has_ground
    with pytest.raises(DataError, match="ground"):
        session.configure(session.settings.replace(ground_m=0.0))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s: s.grab(np.array([np.nan, 0, 0])),
        lambda s: s.grab(np.zeros(3), 7),
        lambda s: s.place_hand(LEFT, np.zeros(2)),
        lambda s: s.advance(0.0),
        lambda s: s.configure(s.settings.replace(gravity_m_per_s2=-1.0)),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(wrong):
    session = Session(network(**GRIP))
    before = session.position
    with pytest.raises(DataError):
        wrong(session)
    assert (session.position == before).all()
    assert session.hands[LEFT].holds
    run(session, 0.05)


def test_torn_apart_it_begins_anew_and_says_so():
    session = Session(rope())
    session.move_hand(LEFT, np.array([0.0, 40.0, 0.0]))
    for _ in range(200):
        session.advance(0.1)
        if session.note:
            break
    assert "anew" in session.note
    assert np.isfinite(session.position).all()


def test_driven_nodes_part_where_there_is_a_gap():
    twin = network(driven=[0, 1, 2, 42, 43, 44])
    groups = [sorted(group) for group in driven_groups(twin)]
    assert sorted(groups) == [[0, 1, 2], [42, 43, 44]]
    assert far_ends(np.array([[0, -1, 0], [0, 0, 0], [0, 2, 0.0]])) == [2, 0]


def test_strain_and_force_of_a_stretched_body():
    twin = network()
    colouring = Colouring(twin)
    stretched = twin.rest_position * 1.05
    nodes, springs = colouring.values("strain", stretched)
    # Positions are float32 [m]; springs are 2 cm or longer.
    assert springs == pytest.approx(0.05, abs=1e-5)
    assert nodes == pytest.approx(0.05, abs=1e-5)
    _, force = colouring.values("force", stretched)
    assert force == pytest.approx(1.0, abs=2e-4)  # 20 N times 5 %


def test_colours_tell_soft_from_stiff():
    twin = network()
    ratio = np.where(twin.rest_position[twin.parameters["springs"][:, 0], 1] > 0.03, 1.0, -1.0)
    twin = twin.replace(parameters={**twin.parameters, "log_stiffness_ratio": ratio})
    colouring = Colouring(twin)
    assert colouring.names == ("plain", "stiffness", "strain", "force")
    nodes, springs = colouring.colours("stiffness", twin.rest_position)
    assert nodes.dtype == springs.dtype == np.uint8
    left, right = (twin.rest_position[:, 1] > 0.07), (twin.rest_position[:, 1] < 0.01)
    assert nodes[left, 1].mean() > nodes[right, 1].mean() + 50  # viridis: violet to yellow
    with pytest.raises(DataError):
        colouring.values("taste", twin.rest_position)


def test_the_scale_of_strain_does_not_shrink_at_once():
    twin = network()
    colouring = Colouring(twin)
    colouring.colours("strain", twin.rest_position * 1.2)
    high = colouring.high
    colouring.colours("strain", twin.rest_position)
    assert 0.98 * high < colouring.high < high


def test_a_rope_is_drawn_through_its_nodes():
    twin = rope()
    carry, radius_m = points_on(twin)
    bent = twin.rest_position + np.random.default_rng(0).normal(0, 0.03, (11, 3))
    shown = carry(bent)
    away = np.linalg.norm(bent[:, None] - shown[None], axis=-1).min(axis=1)
    assert away.max() < 1e-6
    assert len(shown) > 100
    assert 0 < radius_m < 0.05


def test_surface_points_follow_the_nodes_rigidly():
    twin = network()
    surface = twin.rest_position + np.array([0.0, 0.0, 0.005])
    twin = twin.replace(parameters={**twin.parameters, "surface_position_m": surface})
    carry, _ = points_on(twin)
    turn = Rotation.from_rotvec([0.3, -0.5, 0.9])
    there = np.array([0.1, 0.2, 0.3])
    moved = turn.apply(twin.rest_position) + there
    # Skinning pulls a rotation to the one before by a thousandth: some um of these 5 mm.
    assert carry(moved) == pytest.approx(turn.apply(surface) + there, abs=1e-5)


def test_near_pairs_stand_for_springs_where_there_are_none():
    twin = network()
    springs = springs_of(twin.replace(dynamics="mpm", parameters={"spacing_m": np.array(0.02)}))
    assert springs.stiffness_n is None
    assert springs.strain(1.1 * twin.rest_position) == pytest.approx(0.1, abs=1e-5)


def test_the_pace_is_that_of_the_wall_and_lost_time_is_dropped():
    pacer = Pacer(0.01)
    total = 0
    for _ in range(100):
        steps = pacer.due(0.025)
        pacer.done(steps, 0.025)
        total += steps
    assert total == pytest.approx(250, abs=1)
    assert pacer.rate == pytest.approx(1.0, abs=0.1)
    assert pacer.due(60.0) == 10  # a minute was lost: a tenth of a second is made up for
    pacer.rest()
    pacer.speed = 0.5
    assert pacer.due(0.0401) == 2


def test_a_recording_knows_its_frame_at_a_time():
    def shot(number):
        return Shot(np.zeros((0, 3)), np.zeros((0, 3), np.uint8))

    recording = Recording("r", np.array([0.0, 0.1, 0.3]), shot)
    assert [recording.frame_at(t) for t in (-1, 0.0, 0.05, 0.1, 0.29, 0.3, 9)] == [
        *(0, 0, 0, 1, 1, 2, 2)
    ]
    with pytest.raises(DataError, match="stamps"):
        Recording("r", np.array([0.0, 0.0]), shot)
    with pytest.raises(DataError, match="prediction"):
        Recording("r", np.array([0.0, 0.1]), shot, prediction=np.zeros((3, 5, 3)))
