"""Baselines: what each must reproduce exactly, and the published table on the real recordings."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq

from physgym.errors import DataError
from physgym.frames import T_from_parts
from recon.baselines import BASELINES
from recon.baselines_episode import predict_carried, predict_frozen
from recon.importers import load_recordings
from recon.importers.deform_dlo import read_clips
from recon.metrics import deform_l1
from recon.perception.driven import GripperTrack
from recon.tracks import PhysGymWarning, Tracks

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "deform_dlo"
INDEX = np.array([0, 1, 7, 8])
# Chains of a few float64 operations on numbers near 1.
CLOSE = 1e-9


def shape() -> np.ndarray:
    """A hanging rope of nine nodes, (9, 3)."""
    x = np.linspace(-0.4, 0.4, 9)
    return np.stack([x, 0.1 * x, 0.5 + x**2], axis=-1)


def turned(angle: float, shift: np.ndarray) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return shape() @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]) + shift


def carried() -> np.ndarray:
    """The shape turned about the vertical and moved, (T, 9, 3)."""
    return np.stack([turned(0.1 * k, np.array([0.02 * k, 0.0, 0.01 * k])) for k in range(10)])


def as_tracks(position: np.ndarray) -> Tracks:
    return Tracks(
        time_s=0.01 * np.arange(len(position)),
        position=position,
        visible=np.isfinite(position).all(-1),
        driven_index=INDEX,
        name="train",
    )


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_keeps_what_is_given(name: str) -> None:
    truth = carried()
    train = [as_tracks(truth + 0.01)]
    guess = BASELINES[name](truth[:, INDEX], truth[:2], driven_index=INDEX, train=train)
    assert guess.shape == truth.shape
    assert np.isfinite(guess).all()
    assert np.array_equal(guess[:2], truth[:2])
    assert np.array_equal(guess[:, INDEX], truth[:, INDEX])


@pytest.mark.parametrize("name", ["rigid", "affine"])
def test_carried_shape_is_exact_for_a_level_turn(name: str) -> None:
    # Frames 0 and 1 differ, so the shape carried is that of frame 1.
    truth = carried()
    guess = BASELINES[name](truth[:, INDEX], truth[:2], driven_index=INDEX)
    assert np.allclose(guess, truth, atol=CLOSE)


def test_affine_follows_a_stretched_chord() -> None:
    truth = np.stack([shape(), shape(), shape() * [1.2, 1.2, 1.0]])
    guess = BASELINES["affine"](truth[:, INDEX], truth[:2], driven_index=INDEX)
    # The chord lies in the vertical plane of the rope, so the stretch is along it.
    assert np.allclose(guess, truth, atol=CLOSE)
    rigid = BASELINES["rigid"](truth[:, INDEX], truth[:2], driven_index=INDEX)
    assert np.abs(rigid - truth).max() > 0.02


def test_hold_and_line_are_exact_where_they_must_be() -> None:
    still = np.repeat(shape()[None], 5, axis=0)
    guess = BASELINES["hold"](still[:, INDEX], still[:2], driven_index=INDEX)
    assert np.array_equal(guess, still)
    straight = np.linspace([0.0, 0.0, 1.0], [0.8, 0.1, 1.2], 9)[None] + np.zeros((5, 1, 1))
    guess = BASELINES["line"](straight[:, INDEX], straight[:2], driven_index=INDEX)
    assert np.allclose(guess, straight, atol=CLOSE)


@pytest.mark.parametrize(
    ("span", "rise"), [(0.5, 0.0), (0.5, 0.3), (0.05, 0.2), (0.699, 0.0), (1e-3, 0.0)]
)
def test_catenary_matches_the_closed_form(span: float, rise: float) -> None:
    """y = c cosh(x / c): compared at given arc lengths with c from bracketing, not Newton."""
    length, count = 0.7, 15
    along = np.linspace(0.0, length, count)
    reach = np.sqrt(length**2 - rise**2)
    c = 1.0 / brentq(
        lambda k: np.log(2.0 * np.sinh(0.5 * span * k) / k) - np.log(reach), 1e-3, 1200.0 / span,
        xtol=1e-14, rtol=1e-14,
    )  # fmt: skip
    middle = c * np.arcsinh(rise / (2.0 * c * np.sinh(0.5 * span / c)))
    x1 = middle - 0.5 * span
    x = c * np.arcsinh(np.sinh(x1 / c) + along / c)
    expected = np.stack([x - x1, np.zeros(count), c * np.cosh(x / c) - c * np.cosh(x1 / c)], -1)
    index = np.array([0, count - 1])
    ends = expected[index]
    ends[1] = [span, 0.0, rise]
    # The given frames tell the edge lengths: a straight rope of the same length.
    rope = np.stack([along, np.zeros(count), np.zeros(count)], axis=-1)
    driven = np.stack([rope[index], rope[index], ends])
    guess = BASELINES["catenary"](driven, np.stack([rope, rope]), driven_index=index)
    # Near the straight line sinh(u)/u - 1 is about 1e-3: its rounding costs half the digits.
    assert np.allclose(guess[2], expected, atol=1e-7)


def test_catenary_of_a_taut_or_upright_rope_stays_finite() -> None:
    rope = np.linspace([0.0, 0.0, 1.0], [0.8, 0.0, 1.0], 9)
    index = np.array([0, 8])
    ends = np.array(
        [
            [rope[0], rope[8]],
            [rope[0], rope[8]],
            [rope[0], rope[0] + [0.9, 0.0, 0.0]],
            [rope[0], rope[0] + [0.0, 0.0, 0.4]],
            [rope[0], rope[0]],
        ]
    )
    guess = BASELINES["catenary"](ends, np.stack([rope, rope]), driven_index=index)
    assert np.allclose(guess[2], np.linspace(ends[2, 0], ends[2, 1], 9), atol=CLOSE)
    # A chain of 0.8 m folded over a rise of 0.4 m hangs 0.2 m below its lower end; node 2 is there.
    assert guess[3, 2, 2] == pytest.approx(0.8, abs=1e-4)
    assert guess[4, 4, 2] == pytest.approx(0.6, abs=1e-4)


def test_knn_finds_the_same_motion_elsewhere_and_skips_unseen_samples() -> None:
    truth = np.repeat(carried(), 8, axis=0)
    moved = np.repeat(carried()[:, None], 8, axis=1).reshape(truth.shape)
    c, s = np.cos(1.0), np.sin(1.0)
    moved = moved @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]) + [3.0, 1.0, 0.2]
    moved[::8, 4] = np.nan
    guess = BASELINES["knn"](
        truth[:, INDEX], truth[:2], driven_index=INDEX, train=[as_tracks(moved)]
    )
    # Tracks are float32 of about 4 m: 5e-7 at most, over a few operations.
    assert np.allclose(guess, truth, atol=3e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_wrong_shapes_and_holes_are_refused(name: str) -> None:
    truth = carried()
    train = [as_tracks(truth)]
    with pytest.raises(DataError, match="driven"):
        BASELINES[name](truth[:, :3], truth[:2], driven_index=INDEX, train=train)
    holed = truth[:2].copy()
    holed[1, 4] = np.nan
    with pytest.raises(DataError, match="not finite"):
        BASELINES[name](truth[:, INDEX], holed, driven_index=INDEX, train=train)


@pytest.mark.parametrize("index", [[0], [0, 4, 8], [1, 8]])
def test_rope_baselines_say_when_it_is_no_rope_held_at_both_ends(index: list[int]) -> None:
    truth = carried()
    with pytest.raises(DataError, match="driven nodes"):
        BASELINES["line"](truth[:, index], truth[:2], driven_index=np.array(index))


TABLE = {
    "DLO1": {"hold": 0.0565, "line": 0.0659, "rigid": 0.0339, "affine": 0.0329,
             "catenary": 0.0206, "knn": 0.0192},
    "DLO2": {"hold": 0.0527, "line": 0.0640, "rigid": 0.0274, "affine": 0.0261,
             "catenary": 0.0219, "knn": 0.0167},
}  # fmt: skip


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the recorded cables are not at {SHARED}")
@pytest.mark.parametrize("cable", TABLE)
def test_scores_reproduce_the_table_of_the_data(cable: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhysGymWarning)
        train = load_recordings(SHARED / f"{cable}_train.npz")
    held_out = read_clips(SHARED / f"{cable}_eval.npz")
    for name, published in TABLE[cable].items():
        guess = [
            BASELINES[name](driven, clip[:2], driven_index=held_out.driven_index, train=train)
            for driven, clip in zip(held_out.driven, held_out.positions)
        ]
        score = deform_l1(np.stack(guess), held_out.positions)
        # The table has three digits; hold, line, rigid and affine leave nothing open. For catenary
        # and knn it does not say how edges and likeness are measured: 3 % (seen 0.7 and 2.2 %).
        rel = 0.03 if name in ("catenary", "knn") else 0.0025
        assert score == pytest.approx(published, rel=rel), name


def block() -> np.ndarray:
    """Points of a block of 20 cm about the origin, (N, 3)."""
    return 0.1 * np.stack(np.meshgrid(*[np.linspace(-1, 1, 7)] * 3), axis=-1).reshape(-1, 3)


def gripper_path(place: list[float], frames: int = 9, closes: int = 3) -> GripperTrack:
    """A gripper that comes from above, closes at a place, then turns about the world's middle."""
    poses = []
    for t in range(frames):
        share = max(t - closes, 0) / (frames - 1 - closes)
        turn = spun(share)
        above = np.array([0.0, 0.0, 0.3 * max(closes - t, 0) / closes])
        poses.append(T_from_parts(turn, turn @ np.add(place, above) + drift(share)))
    return GripperTrack(np.stack(poses), np.arange(frames) >= closes, (0.05, 0.04, 0.03))


def spun(share: float) -> np.ndarray:
    c, s = np.cos(0.9 * share), np.sin(0.9 * share)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def drift(share: float) -> np.ndarray:
    return share * np.array([0.05, -0.1, 0.2])


def rigid_truth(frames: int = 9, closes: int = 3) -> np.ndarray:
    shares = [max(t - closes, 0) / (frames - 1 - closes) for t in range(frames)]
    return np.stack([block() @ spun(s).T + drift(s) for s in shares])


@pytest.mark.parametrize("places", [[[0.1, 0, 0]], [[0.1, 0, 0], [-0.1, 0, 0.02]]])
def test_carried_object_is_exact_for_a_rigid_motion(places: list[list[float]]) -> None:
    grippers = [gripper_path(place) for place in places]
    guess = predict_carried(block(), 9, grippers=grippers)
    # float32 of numbers below 1.
    assert np.allclose(guess, rigid_truth(), atol=1e-6)


@pytest.mark.parametrize("count", [60, 5])
def test_hand_carries_the_object_and_a_line_of_points_by_the_least_turn(count: int) -> None:
    # The first five points lie on a line across the axis of the turn.
    hand = np.stack([block()[:count] @ spun(s).T + drift(s) for s in np.linspace(0, 1, 9)])
    guess = predict_carried(block(), 9, hands=[hand])
    assert np.allclose(guess[-1], rigid_truth()[-1], atol=1e-6)


def test_two_carriers_that_part_leave_the_object_between_them() -> None:
    left, right = gripper_path([0.1, 0, 0]), gripper_path([-0.1, 0, 0])
    for gripper, way in ((left, 0.02), (right, -0.02)):
        poses = np.repeat(gripper.T_world_gripper[3:4], 9, axis=0)
        poses[:, 0, 3] += way * np.linspace(0, 1, 9) ** 2 * (np.arange(9) > 3)
        poses[:, 2, 3] += 0.1 * (np.arange(9) > 3)
        gripper.T_world_gripper[:] = poses
    guess = predict_carried(block(), 9, grippers=[left, right])
    # Pulled apart alike, lifted together: no turn, no shift along the pull.
    assert np.allclose(guess[-1], block() + np.array([0.0, 0.0, 0.1]), atol=1e-6)


def test_a_tool_pushes_from_touch_on_and_an_opened_gripper_leaves_it() -> None:
    way = np.linspace(-0.3, 0.1, 9)  # the near side is at -0.1, the box 0.03 long
    poses = np.repeat(np.eye(4)[None], 9, axis=0)
    poses[:, 0, 3] = way
    tool = GripperTrack(poses, np.zeros(9, bool), (0.03, 0.03, 0.03))
    guess = predict_carried(block(), 9, grippers=[tool])
    touch = int(np.argmax(way + 0.03 > -0.11))
    expected = block() + np.maximum(way - way[touch], 0.0)[:, None, None] * [1.0, 0.0, 0.0]
    assert np.allclose(guess, expected, atol=1e-6)
    held = gripper_path([0.1, 0, 0])
    held.closed[6:] = False
    guess = predict_carried(block(), 9, grippers=[held])
    assert np.allclose(guess[:6], rigid_truth()[:6], atol=1e-6)
    assert np.array_equal(guess[6:], np.repeat(guess[5:6], 3, axis=0))


def test_without_a_carrier_the_object_is_frozen() -> None:
    far = GripperTrack(
        np.repeat(T_from_parts(np.eye(3), [5.0, 0, 0])[None], 4, axis=0),
        np.ones(4, bool),
        (1e-2,) * 3,
    )
    frozen = predict_frozen(block(), 4)
    assert np.array_equal(predict_carried(block(), 4, grippers=[far]), frozen)
    assert np.array_equal(frozen[3], block().astype(np.float32))
    with pytest.raises(DataError, match="grippers and hands"):
        predict_carried(block(), 5, grippers=[far])
