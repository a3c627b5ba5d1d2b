"""Image terms of MoSA: values, gradients through simulation and drawing, switches, bad input."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from motion_cases import DT_S, block, cube_filling, soft_drop
from video_cases import filmed, ring_of_cameras

from physgym.errors import DataError
from physgym.sim.mpm.material import ElasticLaw, Material, ReturnMap
from physgym.sim.mpm.model import MpmParameters
from physgym.sim.mpm.ride import carry, mount
from physgym.sim.mpm.stress_adapter import AdapterConfig, StressAdapter
from physgym.splats.cloud import GaussianCloud, Gaussians
from recon.identify.mosa_images import IMAGE_TERMS, Film, ImageTerms, optical_flow
from recon.identify.mosa_scene import Scene, Seen
from recon.identify.motion import Pose
from recon.identify.motion_losses import MotionWeights
from recon.identify.start_velocity import fit_start_velocity
from recon.splats.static import initial_cloud
from recon.splats.video import PosedVideo, make_video

FRAMES = 12  # of `soft_drop`; it touches in frame 7 and is as flat as it gets in frame 10
YOUNG_PA, TRUE_PA = 3e4, 5e4
GAP_CELLS = -0.2
# A Gaussian ends where its alpha falls to 1 / 255, and no gradient tells that this edge moves: of
# silhouettes that is some 5 % of the slope, with any engine (positions alone: 0.1 %).
EDGES = 0.08
ELASTIC = Material(ElasticLaw.NEO_HOOKEAN, ReturnMap.NONE)


@cache
def cloud() -> GaussianCloud:
    """Gaussians on the faces of the cube in frame 0, in coloured patches."""
    grid = block(points=9)
    shell = grid[np.abs(grid).max(axis=1) > 0.049]
    patch = np.floor((shell + 1.0) / 0.03).astype(int) % 3
    at = soft_drop().start_pose().apply(shell)
    return initial_cloud(at, np.array([0.2, 0.55, 0.9])[patch], radius_m=0.008, opacity=0.9)


@cache
def true_means() -> torch.Tensor:
    with torch.no_grad():
        particles = simulated(scene_of(whole=True, count=512), TRUE_PA).particles[0]
    ride = mount(cloud().mean.double().numpy(), particles[0].double().numpy())
    return carry(ride, particles)


@cache
def cube_video() -> PosedVideo:
    """A cube that is stiffer, and of more particles, than what is simulated below."""
    rig = ring_of_cameras(3, 96, target_m=0.08)
    images, masks = filmed(cloud(), true_means(), rig)
    return make_video(images, masks, rig, DT_S * np.arange(FRAMES), name="cube")


@cache
def scene_of(material: Material = ELASTIC, whole: bool = False, count: int = 216) -> Scene:
    motion = soft_drop()
    return Scene(
        motion, fit_start_velocity(motion), cube_filling(count), motion.start_pose(),
        points=np.arange(4), material=material, whole=whole,
    )  # fmt: skip


def simulated(scene: Scene, young_pa: float | torch.Tensor = YOUNG_PA, adapter=None) -> Seen:
    parameters = MpmParameters.of(poisson_ratio=0.3, friction=0.3, yield_stress_pa=1e9)
    young = torch.as_tensor(young_pa, dtype=torch.float32).reshape(1, 1)
    return scene.simulate(
        parameters.replace(young_pa=young), torch.tensor([GAP_CELLS]), FRAMES, adapter=adapter
    )


def terms_of(scene: Scene, **more) -> ImageTerms:
    wanted = more.pop("wanted", IMAGE_TERMS)
    film = Film(cube_video(), np.arange(FRAMES), cloud(), **more)
    return ImageTerms(film, scene, soft_drop().start_pose(), wanted)


@pytest.mark.parametrize("name", IMAGE_TERMS)
def test_gradients_to_the_stiffness_are_those_of_differences(name: str) -> None:
    terms = terms_of(scene_of(), wanted=(name,))

    def loss(log_young: torch.Tensor) -> torch.Tensor:
        return terms(simulated(scene_of(), torch.exp(log_young)), 0, FRAMES)[name]

    at = torch.tensor(np.log(YOUNG_PA), dtype=torch.float64, requires_grad=True)
    loss(at).backward()
    with torch.no_grad():
        ends = [float(loss(at + s)) for s in (0.02, -0.02)]
    assert float(at.grad) == pytest.approx((ends[0] - ends[1]) / 0.04, rel=EDGES)
    assert abs(float(at.grad)) > 1e-5


@pytest.mark.parametrize("name", IMAGE_TERMS)
def test_gradients_to_the_adapter_are_those_of_differences(name: str) -> None:
    scene = scene_of()
    terms = terms_of(scene, wanted=(name,))
    adapter = StressAdapter(AdapterConfig(clusters=20), stress_scale_pa=YOUNG_PA, seed=1)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():  # zero heads pass nothing on to the layers before them
        for p in adapter.parameters():
            p += 0.1 * torch.randn(p.shape, generator=rng)
    terms(simulated(scene, adapter=adapter), 0, FRAMES)[name].backward()
    weights = list(adapter.parameters())
    # Along the gradient, where the slope is its length.
    length = float(torch.sqrt(sum(p.grad.square().sum() for p in weights)))
    step = 0.02
    ends = []
    with torch.no_grad():
        for side in (1.0, -2.0):
            for p in weights:
                p += side * step * p.grad / length
            ends.append(float(terms(simulated(scene, adapter=adapter), 0, FRAMES)[name]))
    assert length == pytest.approx((ends[0] - ends[1]) / (2.0 * step), rel=EDGES)


def test_the_right_stiffness_is_the_best() -> None:
    """Each term has its least value near the stiffness of what was filmed."""
    scene = scene_of(count=512)  # as many particles as those that were filmed
    terms = terms_of(scene)
    with torch.no_grad():
        scan = {e: terms(simulated(scene, e), 0, FRAMES) for e in (1.5e4, TRUE_PA, 1.6e5)}
    for name in IMAGE_TERMS:
        assert float(scan[TRUE_PA][name]) < 0.8 * min(float(scan[e][name]) for e in (1.5e4, 1.6e5))


def test_switched_off_terms_are_left_out() -> None:
    scene = scene_of()
    with torch.no_grad():
        seen = simulated(scene)
    for name in IMAGE_TERMS:
        rest = tuple(n for n in IMAGE_TERMS if n != name)
        assert set(terms_of(scene, wanted=rest)(seen, 0, FRAMES)) == set(rest)
    assert terms_of(scene, wanted=())(seen, 0, FRAMES) == {}
    only = MotionWeights().only(("image", "tracks"))
    assert (only.image, only.tracks) == (1.0, 1.0)
    assert only.flow == only.mask == only.scale == only.velocity == 0.0
    assert only.heterogeneity == MotionWeights().heterogeneity
    with pytest.raises(DataError, match="losses colour"):
        MotionWeights().only(("colour",))


def test_frames_outside_the_range_do_not_count() -> None:
    terms = terms_of(scene_of(whole=True))
    with torch.no_grad():
        seen = simulated(scene_of(whole=True))
        one = terms(seen, 3, 4)
        assert set(one) == {"image", "mask"}  # flow needs the next frame, too
        assert terms(seen, FRAMES, FRAMES + 5) == {}
        two = terms(seen, 3, 5)
    assert set(two) == set(IMAGE_TERMS)
    # Free flight: what is drawn is what was filmed but for edges of the masks and the fill.
    assert float(two["flow"]) * 96 < 0.4  # pixels
    assert float(one["mask"]) < 0.06


def test_dynamic_gaussians_take_the_place_of_optical_flow() -> None:
    moving = true_means()

    def at(i: int) -> Gaussians:
        return cloud().replace(mean=moving[i]).gaussians()

    scene = scene_of(whole=True, count=512)
    with torch.no_grad():
        seen = simulated(scene, TRUE_PA)
        images = terms_of(scene)(seen, 0, FRAMES)
        splats = terms_of(scene, moving=at)(seen, 0, FRAMES)
    # Of the very motion that was simulated; optical flow of 60 pixels' width has errors.
    assert float(splats["flow"]) < 0.5 * float(images["flow"])
    assert float(splats["image"]) == pytest.approx(float(images["image"]), rel=1e-6)


def test_optical_flow_is_that_of_the_projected_motion() -> None:
    video, means = cube_video(), true_means().double().numpy()
    before, after = video.frames[2], video.frames[3]
    flow, good = optical_flow(before, after)
    for view, camera in enumerate(before.cameras):
        centre = means[2].mean(axis=0)
        seen = (before.mask[view] > 0.5) & good[view]
        assert float(seen.sum()) > 0.6 * float((before.mask[view] > 0.5).sum())
        (start, end), _ = camera.project(np.stack([centre, means[3].mean(axis=0)]))
        # The body flies without turning: all of it moves by about as much as its middle; points
        # nearer to the camera by a sixth more.
        middle = flow[view][seen].median(dim=0).values.numpy()
        np.testing.assert_allclose(middle, end - start, atol=0.5)


def test_views_go_round() -> None:
    terms = terms_of(scene_of(), views=2)
    assert [terms._views[i] for i in range(3)] == [[0, 1], [0, 2], [1, 2]]
    assert terms_of(scene_of())._views[0] == [0, 1, 2]


def test_a_cloud_in_another_pose_than_at_rest_is_turned() -> None:
    """The body's own frame may be any: what is drawn stays what it is."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec([0.4, -0.9, 0.2]).as_matrix()
    other = Pose(turn, np.array([0.3, 0.1, 0.5]))
    long = cloud().replace(log_scale=cloud().log_scale + torch.tensor([0.5, 0.0, -0.5]))
    motion, made = soft_drop(), []
    for reference in (motion.start_pose(), other):
        scene = Scene(
            motion, fit_start_velocity(motion), cube_filling(216), reference,
            points=np.arange(4), material=ELASTIC, whole=True,
        )  # fmt: skip
        film = Film(cube_video(), np.arange(FRAMES), long)
        with torch.no_grad():
            seen = simulated(scene)
            made.append(ImageTerms(film, scene, reference)(seen, 0, 7))
    for name in IMAGE_TERMS:  # float32 on another lattice of nodes
        assert float(made[0][name]) == pytest.approx(float(made[1][name]), rel=0.01)


def test_matter_that_yields_carries_gaussians_by_its_positions() -> None:
    plastic = Material(ElasticLaw.HENCKY, ReturnMap.VON_MISES)
    elastic = Material(ElasticLaw.HENCKY, ReturnMap.NONE)
    made = []
    with torch.no_grad():
        for material in (plastic, elastic):  # with a yield stress that is never met
            scene = scene_of(material)
            made.append(terms_of(scene)(simulated(scene), 0, FRAMES))
    for name in IMAGE_TERMS:
        # Means over ten neighbours of F in place of F: the same but for the finest wrinkles.
        assert float(made[0][name]) == pytest.approx(float(made[1][name]), rel=0.05)


def test_bad_films_are_refused() -> None:
    with pytest.raises(DataError, match="ticks"):
        Film(cube_video(), np.arange(3), cloud())
    with pytest.raises(DataError, match="0 views"):
        Film(cube_video(), np.arange(FRAMES), cloud(), views=0)
    film = Film(cube_video(), np.arange(FRAMES), cloud())
    with pytest.raises(DataError, match="depth"):
        ImageTerms(film, scene_of(), soft_drop().start_pose(), ("depth",))
    late = dataclasses.replace(film, tick=np.arange(FRAMES) * 10)
    with pytest.raises(DataError, match="frame 110"):
        ImageTerms(late, scene_of(), soft_drop().start_pose())
