"""The baseline of what flies alone: where it falls, for whom there is none, and its row."""

import dataclasses
from pathlib import Path

import numpy as np
from compare_cases import DT_S, FRAMES, cube, fallen, perceived

from recon.falling import HullFall, fall_of
from recon.perception.driven import GripperTrack
from recon.perception.result import Perception
from recon.score_episode import rows_of, score_prediction

TRAIN = 14
NOWHERE = Path("a recording with depth is not read again")


def held(seen: Perception) -> Perception:
    """A gripper that was recorded beside it."""
    poses = np.repeat(np.eye(4)[None], FRAMES, axis=0)
    gripper = GripperTrack(poses, np.zeros(FRAMES, bool), (0.03, 0.03, 0.03))
    return dataclasses.replace(seen, grippers=(gripper,))


def test_a_rigid_fall_is_a_parabola_until_it_lands() -> None:
    fall = fall_of(NOWHERE, perceived(fallen(0.06, speed_m_s=0.3)), TRAIN)
    assert fall is not None
    points = np.array([[0.01, 0.02, 0.1], [0.0, 0.0, 0.16]])
    made = fall.carry(points)
    time = DT_S * np.arange(FRAMES)
    drop = np.minimum(0.06, 0.3 * time + 0.5 * 9.81 * time**2)
    # It stays in the frame in which it would be below the table: exactly on it. The velocity is
    # fitted to float32 tracks.
    np.testing.assert_allclose(made, points - drop[:, None, None] * [0, 0, 1], atol=2e-4)
    assert made.shape == (FRAMES, 2, 3)


def test_what_stands_is_held_or_no_volume_does_not_fall() -> None:
    still = np.repeat(cube(0.0)[None], FRAMES, axis=0)
    assert fall_of(NOWHERE, perceived(still), TRAIN) is None
    assert fall_of(NOWHERE, perceived(kind="sheet"), TRAIN) is None
    assert fall_of(NOWHERE, held(perceived()), TRAIN) is None


def test_where_too_few_frames_or_points_show_the_flight_there_is_no_fall() -> None:
    landing = fallen(0.002, speed_m_s=0.3)  # on the table in the first frame after the given one
    assert fall_of(NOWHERE, perceived(landing), TRAIN) is None
    assert fall_of(NOWHERE, perceived(), 2) is None
    seen = perceived()
    lost = dataclasses.replace(seen.tracks, visible=np.arange(216) < np.full((FRAMES, 1), 3))
    assert fall_of(NOWHERE, dataclasses.replace(seen, tracks=lost), TRAIN) is None


def test_frames_that_are_predicted_have_no_part_in_it() -> None:
    high = fallen(0.6, speed_m_s=0.1)  # it does not land
    other = high.copy()
    other[4:] += [0.05, 0.0, 0.1]  # as no free flight goes on
    points = cube(0.6)
    falls = [fall_of(NOWHERE, perceived(way), 4) for way in (high, other)]
    assert None not in falls
    np.testing.assert_array_equal(*(fall.carry(points) for fall in falls if fall))
    # Of a recording that was never learned from, the whole flight tells: frames before the kick.
    unseen = fall_of(NOWHERE, perceived(other), None)
    assert unseen is not None
    np.testing.assert_allclose(unseen.carry(points), high, atol=2e-4)


def test_a_falling_cube_is_scored_beside_its_fall_and_a_held_one_is_not() -> None:
    seen = perceived(fallen(0.06, speed_m_s=0.3))
    guess = np.asarray(fallen(0.06, speed_m_s=0.3) + np.array([0.01, 0, 0]), np.float32)
    for train_stop in (TRAIN, None):
        fall = fall_of(NOWHERE, seen, train_stop)
        score = score_prediction(seen, guess, seen.surface, train_stop=train_stop, fall=fall)
        assert rows_of(score) == ["twin", "frozen", "rigid", "falling"]
        for part in score["parts"].values():
            for key in ("chamfer_m", "track_m"):
                assert part["falling"][key] < 2e-4  # it is what happened, see above
                assert 0.009 < part["twin"][key] < 0.011
                assert part["frozen"][key] > part["twin"][key] + 0.005
            assert part["falling"]["frames_of"] == part["twin"]["frames_of"]
        assert score["frame0"]["falling"] == score["frame0"]["frozen"]
    fixed = held(seen)
    fall = fall_of(NOWHERE, fixed, TRAIN)
    score = score_prediction(fixed, guess, fixed.surface, train_stop=TRAIN, fall=fall)
    assert rows_of(score) == ["twin", "frozen", "rigid"]
    assert "falling" not in score["parts"]["future"]


def test_a_hull_falls_as_it_is_told() -> None:
    way = np.outer(np.arange(3), [0.1, 0.0, -0.2])
    made = HullFall(way).carry(np.array([[1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(made[:, 0], [[1, 2, 3], [1.1, 2, 2.8], [1.2, 2, 2.6]], atol=1e-6)
