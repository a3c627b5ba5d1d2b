"""Table, prompts, masks over time and rendered masks, on ray-cast scenes and real pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from perception_scene import Body, camera_at, film, lifted_ball, render

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts
from recon.perception.prompt import Prompt, mask_from_prompt
from recon.perception.segment import FlowSegmenter, mask_iou, rendered_mask
from recon.perception.table import Plane, fit_table

CAMERA = camera_at([0.45, -0.1, 0.35], [0, 0, 0.07])
VIEWS4 = Path(__file__).parents[4] / "shared" / "data" / "views4"


def test_the_table_is_found_through_noise_and_clutter() -> None:
    view, _ = film(CAMERA, lifted_ball(1), noise=True)
    table, share = fit_table(CAMERA.unproject(view.depth_m[0]), up=np.array([0, 0, 1.0]))
    # Noise of 0.5 mm per pixel over tens of thousands of pixels: far below a tenth of it.
    assert table.offset_m == pytest.approx(0.0, abs=2e-4)
    assert table.normal[2] > 1 - 1e-6
    assert 0.9 < share < 1.0  # the ball covers a few per cent


def test_no_plane_is_found_in_a_cloud_without_one() -> None:
    cloud = np.random.default_rng(0).normal(size=(500, 3))  # a metre wide
    with pytest.raises(DataError, match="no plane"):
        fit_table(cloud)


@pytest.mark.parametrize("way", ["box", "clicks", "colour"])
def test_a_prompt_finds_the_ball(way: str) -> None:
    rgb, _, owner = render(CAMERA, lifted_ball(1)[0])
    truth = owner == 0
    v, u = np.argwhere(truth).mean(axis=0)
    reach = 10 + int(np.sqrt(truth.sum() / np.pi))
    prompt = {
        "box": Prompt(box=(int(u) - reach, int(v) - reach, int(u) + reach, int(v) + reach)),
        "clicks": Prompt(clicks=np.array([[u, v], [u + 8, v - 8]])),
        "colour": Prompt(rgb=tuple(rgb[truth].mean(axis=0).astype(int)), colour_distance=30.0),
    }[way]
    # A rim of one pixel all round this ball of radius 26 pixels is 8 % of it.
    assert mask_iou(mask_from_prompt(rgb, prompt), truth) > 0.92


def test_a_prompt_beside_the_object_says_so() -> None:
    rgb, _, owner = render(CAMERA, lifted_ball(1)[0])
    with pytest.raises(DataError, match="no pixels"):
        mask_from_prompt(rgb, Prompt(clicks=np.array([[3, 3]])), candidate=owner == 0)
    with pytest.raises(DataError, match="one of"):
        Prompt(clicks=np.zeros((1, 2)), rgb=(1, 2, 3))


def test_the_mask_follows_the_ball_behind_noise() -> None:
    view, owners = film(CAMERA, lifted_ball(12), noise=True)
    table = Plane(np.array([0, 0, 1.0]), 0.0)
    masks = FlowSegmenter(CAMERA, table).propagate(view.rgb, view.depth_m, owners[0] == 0)
    iou = [mask_iou(mask, owner == 0) for mask, owner in zip(masks, owners, strict=True)]
    assert min(iou) > 0.92  # as above: one pixel of rim


def test_the_mask_leaves_out_what_hides_the_object() -> None:
    ball = lifted_ball(1)[0][0]
    frames = []
    for share in np.linspace(0, 1, 8):
        front = Body(np.eye(3) * 0.015, np.array([0.12, -0.09 + 0.09 * share, 0.11]), shape="box")
        front.tint = np.array([0.2, 0.2, 0.25])
        frames.append([ball, front])
    view, owners = film(CAMERA, frames)
    blocked = [owner == 1 for owner in owners]
    masks = FlowSegmenter(CAMERA, blocked=blocked).propagate(view.rgb, view.depth_m, owners[0] == 0)
    assert (owners[-1] == 1).sum() > 200  # it does hide a part
    assert mask_iou(masks[-1], owners[-1] == 0) > 0.9


def test_a_rendered_box_matches_the_ray_cast_one_and_hides_behind_others() -> None:
    box = Body(np.diag([0.02, 0.03, 0.04]), np.array([0.0, 0.0, 0.06]), shape="box")
    mesh = trimesh.creation.box(2 * np.array([0.02, 0.03, 0.04]))
    vertices = np.asarray(mesh.vertices) + box.centre
    _, _, owner = render(CAMERA, [box])
    mask = rendered_mask(CAMERA, vertices, mesh.faces, margin_px=0)
    assert mask_iou(mask, owner == 0) > 0.95  # edges fall on either side of pixel centres
    front = Body(np.eye(3) * 0.02, np.array([0.12, -0.03, 0.12]))
    _, depth, both = render(CAMERA, [box, front])
    hidden = rendered_mask(CAMERA, vertices, mesh.faces, depth_m=depth, margin_px=0)
    assert (both == 1)[owner == 0].sum() > 100  # the ball does cover a part of the box
    # The depth of a triangle is taken as one, which is 2 cm off at the corners of this box.
    assert mask_iou(hidden, both == 0) > 0.85


@pytest.mark.skipif(not VIEWS4.is_dir(), reason="shared/data/views4 is not here")
def test_prompts_find_a_real_rope() -> None:
    plain = json.loads((VIEWS4 / "cameras.json").read_text())["cameras"][0]
    pose = T_from_parts(np.array(plain["cam_to_world_R"]), np.array(plain["cam_to_world_t"]))
    camera = PinholeCamera("0", "", 640, 480, np.array(plain["K"]), pose)
    rgb = cv2.cvtColor(cv2.imread(str(VIEWS4 / "img_0.png")), cv2.COLOR_BGR2RGB)
    truth = cv2.imread(str(VIEWS4 / "mask_0.png"), cv2.IMREAD_GRAYSCALE) > 0
    # The part of the table where the rope may be; these pictures have no depth.
    space = trimesh.creation.box(bounds=[[0.02, -0.19, -0.05], [0.65, 0.22, 0.01]])
    candidate = rendered_mask(camera, space.vertices, space.faces)
    v, u = np.argwhere(truth).T
    box = (int(u.min()) - 6, int(v.min()) - 6, int(u.max()) + 7, int(v.max()) + 7)
    for prompt in (Prompt(rgb=(222, 180, 126)), Prompt(box=box)):
        found = mask_from_prompt(rgb, prompt, candidate=candidate)
        # A rope 14 pixels wide: half a pixel on either side is 7 %, its taped ends as much again.
        assert mask_iou(found, truth) > 0.85
