"""The visual hull of a ball holds the ball, and more views leave less around it."""

import numpy as np
import pytest
import torch
from ball_views import RADIUS_M, around

from physgym.errors import DataError
from recon.splats.posed_images import PosedImages
from recon.splats.visual_hull import visual_hull

SPACING_M = 0.005
LOW, HIGH = np.full(3, -0.08), np.full(3, 0.08)


def ball_views(count: int) -> PosedImages:
    """Exact silhouettes: rays that pass the centre nearer than the radius."""
    cameras = around(count)
    masks = []
    for camera in cameras:
        rays = camera.pixel_rays() @ camera.T_world_cam[:3, :3].T
        rays /= np.linalg.norm(rays, axis=2, keepdims=True)
        to = -camera.position
        masks.append(np.linalg.norm(to - (rays @ to)[..., None] * rays, axis=2) < RADIUS_M)
    mask = torch.tensor(np.stack(masks), dtype=torch.float32)
    rgb = mask[..., None].expand(-1, -1, -1, 3) * 0.5
    return PosedImages(rgb, mask, torch.ones_like(mask), cameras)


def test_the_hull_holds_the_ball_and_shrinks_with_views() -> None:
    volume = []
    for count in (1, 2, 3, 6):
        found = visual_hull(ball_views(count), LOW, HIGH, spacing_m=SPACING_M)
        volume.append(len(found) * SPACING_M**3)
        grid = np.arange(LOW[0] + SPACING_M / 2, HIGH[0], SPACING_M)
        cells = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), -1).reshape(-1, 3)
        inside = cells[np.linalg.norm(cells, axis=1) < RADIUS_M]
        known = {tuple(np.rint(p / SPACING_M * 2).astype(int)) for p in found}
        assert all(tuple(np.rint(p / SPACING_M * 2).astype(int)) in known for p in inside)
    assert volume == sorted(volume, reverse=True)
    assert volume[-1] < 0.55 * volume[0]
    # a pixel is 3.5 mm there and masks are widened by one: six views leave half as much again
    assert volume[-1] < 1.9 * 4 / 3 * np.pi * RADIUS_M**3


def test_what_hides_the_object_takes_nothing_away() -> None:
    views = ball_views(3)
    left = torch.ones_like(views.known)
    left[:, :, : views.mask.shape[2] // 2] = 0.0
    half = PosedImages(views.rgb * left[..., None], views.mask * left, left, views.cameras)
    whole = visual_hull(views, LOW, HIGH, spacing_m=SPACING_M)
    assert len(visual_hull(half, LOW, HIGH, spacing_m=SPACING_M)) > len(whole)


def test_masks_that_disagree_and_boxes_too_fine_are_refused() -> None:
    views = ball_views(2)
    with pytest.raises(DataError, match="no point lies inside"):
        visual_hull(views, LOW + 1.0, HIGH + 1.0, spacing_m=SPACING_M)
    with pytest.raises(DataError, match="cells"):
        visual_hull(views, LOW, HIGH, spacing_m=1e-4)
