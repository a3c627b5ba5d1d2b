"""The object without a prompt: beside grippers and walls, flat on the table, hidden for a while.

Scenes are ray cast with bodies, sizes and colours that the soft cell does not have.
"""

from __future__ import annotations

import numpy as np
import pytest
from perception_scene import Body, camera_at, film

from physgym.errors import DataError
from physgym.frames import T_from_parts
from recon.perception.complete import guess_kind
from recon.perception.driven import GripperTrack
from recon.perception.lying import lying_flat
from recon.perception.scene import object_masks
from recon.perception.segment import FlowSegmenter, PackedMasks, mask_iou
from recon.perception.standing import near_gripper
from recon.perception.table import Plane
from recon.tracks import PhysGymWarning

TABLE = Plane(np.array([0, 0, 1.0]), 0.0)
UP = np.array([0, 0, 1.0])
CAMERAS = [
    camera_at([0.55, -0.1, 0.40], [0, 0, 0.06], name="front"),
    camera_at([-0.2, 0.5, 0.45], [0, 0, 0.06], name="side"),
    camera_at([-0.1, -0.55, 0.30], [0, 0, 0.06], name="back"),
]
GREY = np.array([0.6, 0.6, 0.62])


def box(half: list[float], centre: list[float], tint: np.ndarray | None = None) -> Body:
    colour = np.array([0.85, 0.75, 0.2]) if tint is None else tint
    return Body(np.diag(half), np.array(centre), colour, shape="box")


def jaws(height_m: float, gap_m: float, *, tint: np.ndarray = GREY) -> list[Body]:
    """Two fingers at that gap, a palm and an arm that leaves the image, about the z axis."""
    fingers = [
        box([0.01, 0.008, 0.03], [0, s * (gap_m + 0.008), height_m + 0.02], tint) for s in (1, -1)
    ]
    palm = box([0.03, gap_m + 0.03, 0.02], [0, 0, height_m + 0.07], tint)
    return [*fingers, palm, box([0.03, 0.03, 0.4], [0, 0, height_m + 0.49], tint)]


def pose(height_m: float, gap_m: float, *, down: bool = False) -> GripperTrack:
    turn = np.diag([1.0, -1.0, -1.0]) if down else np.eye(3)
    T = T_from_parts(turn, np.array([0.0, 0.0, height_m]))
    return GripperTrack(T[None], np.array([False]), (0.02, gap_m, 0.015))


def ious(scene: list[Body], grippers: list[GripperTrack], count: int) -> list[float]:
    films = [film(camera, [scene], noise=True) for camera in CAMERAS[:count]]
    masks = object_masks([view for view, _ in films], {}, table=TABLE, grippers=grippers)
    return [mask_iou(m[0], owners[0] == 0) for m, (_, owners) in zip(masks, films, strict=True)]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("known", [True, False])
def test_a_gripper_above_is_not_the_object(count: int, known: bool) -> None:
    """The arm has four times the pixels of the object."""
    scene = [box([0.035, 0.05, 0.03], [0.02, 0.01, 0.03]), *jaws(0.17, 0.04)]
    found = ious(scene, [pose(0.17, 0.04, down=count == 2)] if known else [], count)
    # A pixel of rim all round this box of 45 x 35 pixels is a tenth of it.
    assert min(found) > 0.88


def test_jaws_around_the_object_are_told_by_their_pose_and_colour() -> None:
    scene = [box([0.03, 0.03, 0.05], [0, 0, 0.05]), *jaws(0.085, 0.045)]
    # As above; what is hidden between the fingers is not seen by anyone.
    assert min(ious(scene, [pose(0.085, 0.045)], 3)) > 0.8
    with pytest.warns(PhysGymWarning, match="looks like a part of a robot"):
        ious(scene, [], 2)  # without the pose, arm and object are one thing


def test_plates_at_the_sides_of_the_object_are_solid() -> None:
    """Nothing is between a plate and itself: the box of its size is the plate, and no more."""
    half = (0.015, 0.008, 0.045)
    scene = [box([0.05, 0.03, 0.025], [0, 0, 0.025])]
    plates = []
    for side in (1, -1):
        place = np.array([0.0, side * 0.041, 0.055])  # 3 mm beside the object, and higher
        scene.append(box(list(half), list(place), GREY))
        T = T_from_parts(np.eye(3), place)
        plates.append(GripperTrack(T[None], np.array([True]), half, half, jaws=False))
    assert min(ious(scene, plates, 3)) > 0.8  # as above


def test_the_reach_of_a_gripper_spares_what_it_holds() -> None:
    track = pose(0.2, 0.03)
    points = np.array(
        [
            [0.0, 0.0, 0.2],  # between the jaws
            [0.0, 0.0, 0.1],  # in front of them
            [0.0, 0.045, 0.2],  # a finger
            [0.0, 0.0, 0.35],  # the arm
            [0.2, 0.0, 0.2],
        ]
    )
    wanted = [False, False, True, True, False]
    for down in (False, True):  # whichever way its z axis points
        T = pose(0.2, 0.03, down=down).T_world_gripper[0]
        assert near_gripper(T, track.jaw_half_m, points, UP).tolist() == wanted
    c = np.sqrt(0.5)
    tilted = T_from_parts(np.array([[1.0, 0, 0], [0, c, -c], [0, c, c]]), np.array([0, 0, 0.2]))
    # Aslant, which way the arm goes is not known: a ball of 11 cm, but for the box in the jaws.
    found = near_gripper(tilted, track.jaw_half_m, points, UP)
    assert found.tolist() == [False, True, True, False, False]


def test_a_wall_is_not_the_object() -> None:
    wall = box([0.02, 2.0, 0.3], [-0.5, 0, 0.3], GREY)
    assert min(ious([box([0.04, 0.04, 0.03], [0, 0, 0.03]), wall], [], 1)) > 0.88


def test_a_cloth_that_lies_flat_is_found_by_its_colour() -> None:
    # Two millimetres high: less than the noise of depth.
    scene = [box([0.09, 0.12, 0.001], [0.02, 0.0, 0.001], np.array([0.85, 0.3, 0.25]))]
    assert min(ious([*scene, *jaws(0.3, 0.04)], [pose(0.3, 0.04)], 2)) > 0.85
    # A shadow has the table's hue, and a table of one colour nothing on it.
    view, owners = film(CAMERAS[0], [[]], noise=True)
    shadow = np.zeros(owners[0].shape, bool)
    shadow[100:160, 120:200] = True
    view.rgb[0][shadow] = view.rgb[0][shadow] * 0.5
    assert not lying_flat([view], TABLE)[0].any()
    with pytest.raises(DataError, match="differs from it in colour"):
        object_masks([view], {}, table=TABLE)


def test_a_camera_that_does_not_see_the_object_is_left_out() -> None:
    away = camera_at([0.55, 1.5, 0.40], [0.3, 1.2, 0.0], name="away")
    scene = [box([0.04, 0.04, 0.03], [0, 0, 0.03])]
    films = [film(camera, [scene, scene], noise=True) for camera in (CAMERAS[0], away)]
    with pytest.warns(PhysGymWarning, match="'away' does not see the object"):
        masks = object_masks([view for view, _ in films], {}, table=TABLE)
    assert mask_iou(masks[0][1], films[0][1][1] == 0) > 0.88
    assert not masks[1][0].any()
    assert not masks[1][1].any()


def test_what_comes_out_from_behind_something_is_the_object_again() -> None:
    """A post passes in front of a bar: one end and then the other is hidden."""
    bar = box([0.02, 0.12, 0.03], [0, 0, 0.03])
    frames = []
    for y in np.linspace(-0.16, 0.02, 10):
        frames.append([bar, box([0.01, 0.03, 0.12], [0.2, y, 0.12], GREY)])
    view, owners = film(CAMERAS[0], frames, noise=True)
    whole = FlowSegmenter(CAMERAS[0], TABLE).propagate(view.rgb, view.depth_m, owners[0] == 0)
    truth = owners[-1] == 0
    assert min((owner == 0)[truth].mean() for owner in owners) < 0.5  # most of it was hidden
    assert mask_iou(whole[-1], truth) > 0.85


def test_packed_masks_come_back_as_they_were() -> None:
    masks = np.random.default_rng(0).random((5, 7, 9)) < 0.5
    packed = PackedMasks(masks)
    assert len(packed) == 5
    np.testing.assert_array_equal(np.stack(list(packed)), masks)
    np.testing.assert_array_equal(packed[-1], masks[-1])
    np.testing.assert_array_equal(np.stack(list(packed[1:3])), masks[1:3])
    with pytest.raises(IndexError):
        packed[5]


def test_a_flat_top_that_stays_up_is_a_slab_and_not_a_sheet() -> None:
    top = np.random.default_rng(0).uniform(-0.1, 0.1, (4000, 3)) * [1, 0.7, 0.005]
    assert guess_kind(top + np.array([0, 0, 0.03]), table=TABLE) == "volume"
    assert guess_kind(top + np.array([0, 0, 0.004]), table=TABLE) == "sheet"
    assert guess_kind(top) == "sheet"


def test_jaws_that_hide_all_but_a_little_are_told_by_the_arms_colour() -> None:
    """The object lies wholly in the gripper's reach: only colours part it from the fingers."""
    scene = [box([0.045, 0.03, 0.025], [0, 0, 0.025]), *jaws(0.06, 0.036)]
    # The rim, as above; two fingers of 16 mm hide a part of its sides.
    assert min(ious(scene, [pose(0.06, 0.036)], 3)) > 0.8


def test_a_gripper_alone_is_nothing() -> None:
    for tint in (GREY, np.array([0.15, 0.15, 0.15])):
        fingers, rest = jaws(0.06, 0.036, tint=tint)[:2], jaws(0.06, 0.036)[2:]
        with pytest.raises(DataError, match="nothing stands"):
            ious([box([0.01] * 3, [0, 0, -1.0]), *fingers, *rest], [pose(0.06, 0.036)], 2)
