"""Single frames of recordings: images where the perception's cameras and masks are."""

import dataclasses
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from physgym.errors import DataError
from recon.perception.perceive_episode import cache_path
from recon.perception.result import Perception
from recon.splats.frame import posed_frame, recorded_images

sys.path.insert(0, str(Path(__file__).parents[1]))  # scenes of the tests of recon
from filmed_block import CAMERAS, FRAMES, H, W, filmed, recorded


@pytest.fixture(scope="module")
def episode(tmp_path_factory) -> tuple[Path, Perception, np.ndarray]:
    _, path = recorded(tmp_path_factory.mktemp("ep"))
    return path, Perception.load(cache_path(path)), filmed()[2]


def test_images_are_the_recorded_ones(episode) -> None:
    path, seen, images = episode
    with recorded_images(path, seen) as found:
        assert len(found) == len(CAMERAS)
        for c in range(len(CAMERAS)):
            assert len(found[c]) == FRAMES
            assert np.array_equal(np.stack(found[c][:]), images[c])
            assert np.array_equal(found[c][-1], images[c, -1])
        with pytest.raises(IndexError):
            found[0][FRAMES]


def test_a_frame_is_cut_to_the_object_with_what_hides_it(episode) -> None:
    path, seen, images = episode
    for frame in (0, FRAMES - 1):
        views = posed_frame(path, seen, frame)
        assert len(views) == len(CAMERAS)
        for c, camera in enumerate(views.cameras):
            mask = seen.masks[c, frame]
            assert int(views.mask[c].sum()) == mask.sum()
            shift = np.rint(CAMERAS[c].K[:2, 2] - camera.K[:2, 2]).astype(int)
            rows, columns = np.nonzero(views.mask[c].numpy())
            rgb = images[c, frame, rows + shift[1], columns + shift[0]]
            assert np.allclose(255 * views.rgb[c].numpy()[rows, columns], rgb, atol=1e-3)
            # the hand over the first three columns, and what is beyond the image
            inside = (np.arange(camera.width) + shift[0] >= 0) & (
                np.arange(camera.width) + shift[0] < W
            )
            hand = np.arange(camera.width) + shift[0] < 3
            row = int(H // 2 - shift[1])
            assert np.array_equal(views.known[c, row].numpy() > 0.5, inside & ~hand)


def test_images_are_brought_to_the_size_of_the_cameras(episode) -> None:
    path, seen, images = episode
    half = dataclasses.replace(seen, cameras=tuple(one.scaled(0.5) for one in CAMERAS), masks=None)
    with recorded_images(path, half) as found:
        small = cv2.resize(images[0, 2], (W // 2, H // 2), interpolation=cv2.INTER_AREA)
        assert np.array_equal(found[0][2], small)


def test_a_case_has_its_images_beside_it(tmp_path: Path) -> None:
    _, seen, images, _ = filmed()
    case = tmp_path / "case"
    for c in range(len(CAMERAS)):
        (case / "color" / str(c)).mkdir(parents=True)
        for t in (0, 3):
            cv2.imwrite(str(case / "color" / str(c) / f"{t}.png"), images[c, t, ..., ::-1])
    (case / "final_data.pkl").write_bytes(b"object_points, and no more of it is read")
    with recorded_images(case, seen) as found:
        assert np.array_equal(found[1][3], images[1, 3])
        with pytest.raises(DataError, match=r"2\.png"):
            found[0][2]


def test_frames_that_are_not_there_are_refused(episode) -> None:
    path, seen, _ = episode
    with pytest.raises(DataError, match=f"frame {FRAMES}"):
        posed_frame(path, seen, FRAMES)
    with pytest.raises(DataError, match="no masks"):
        posed_frame(path, dataclasses.replace(seen, masks=None))
    with pytest.raises(DataError):
        posed_frame(path.with_name("nothing"), seen)
