"""What an object looks like, learned from the first frame of its recording."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from filmed_block import CAMERAS, TRAIN, filmed, recorded

from physgym.errors import DataError
from physgym.splats import GaussianCloud, rasterize
from physgym.twin import Twin
from recon import appearance, reconstruct
from recon.appearance import AppearanceConfig, appearance_start, fit_appearance
from recon.commands import Reconstruct
from recon.identify.progress import Progress
from recon.perception.perceive_episode import cache_path
from recon.perception.result import Perception
from recon.reconstruct import ReconstructConfig
from recon.render_episode import render_episode
from recon.splats.frame import posed_frame
from recon.splats.posed_images import posed_images
from recon.splats.static import seen_colours
from recon.tracks import PhysGymWarning

QUICK = AppearanceConfig(iterations=60, most_seen=400, most=800)


@pytest.fixture(scope="module")
def scene():
    return filmed()


def first(scene):
    _, seen, images, _ = scene
    return posed_images(list(images[:, 0]), list(seen.masks[:, 0]), seen.cameras)


def test_the_start_has_seen_colours_and_a_closed_back(scene) -> None:
    _, seen, _, _ = scene
    cloud = appearance_start(first(scene), seen, QUICK)
    half = seen.tracked_count
    assert len(cloud) == len(seen.clouds[0]) + seen.surface_count - half
    hidden = slice(len(seen.clouds[0]), None)
    assert torch.allclose(cloud.opacity[: len(seen.clouds[0])], torch.tensor(0.1))
    assert torch.allclose(cloud.opacity[hidden], torch.tensor(0.9))
    rest = np.asarray(seen.tracks.rest_position)[half : seen.surface_count]
    assert np.allclose(cloud.mean[hidden], rest, atol=1e-6)
    seen_colour = seen_colours(first(scene), seen.clouds[0])
    assert np.ptp(seen_colour, axis=0).min() > 0.3  # the paint
    shown = 0.5 + 0.28209479177387814 * cloud.sh[hidden, 0].numpy()
    for place, colour in zip(rest, shown):
        near = np.linalg.norm(seen.clouds[0] - place, axis=1).argsort(kind="stable")
        # ties of a grid may be taken either way: no further than the colours around
        around = seen_colour[near[:14]]
        assert (colour > around.min(axis=0) - 1e-5).all()
        assert (colour < around.max(axis=0) + 1e-5).all()
    assert cloud.log_scale.shape[1] == 1


def test_of_many_seen_points_some_are_taken(scene) -> None:
    _, seen, _, _ = scene
    config = AppearanceConfig(most_seen=10, most=10)
    unseen = seen.surface_count - seen.tracked_count
    assert len(appearance_start(first(scene), seen, config)) == 10 + unseen


def test_without_clouds_the_surface_is_what_is_known(scene) -> None:
    _, seen, _, _ = scene
    bare = dataclasses.replace(seen, clouds=())
    cloud = appearance_start(first(scene), bare, QUICK)
    assert len(cloud) == seen.surface_count


def test_a_fit_shows_the_first_frame_and_rides_on_the_twin(scene) -> None:
    twin, seen, images, moved = scene
    views = first(scene)
    cloud = fit_appearance(views, seen, QUICK)
    with torch.no_grad():
        drawn = rasterize(cloud, views.cameras)
    error = float((drawn.rgb - views.rgb).square().mean())
    assert -10 * np.log10(error) > 24
    solid, mask = drawn.alpha > 0.5, views.mask > 0.5
    # 60 of 300 steps; a pixel of the rim is a fifth of the object
    assert float((solid & mask).sum() / (solid | mask).sum()) > 0.84
    dressed = twin.replace(splats=cloud)
    score = render_episode(dressed, seen, moved, images, train_stop=TRAIN)["parts"]["future"]
    assert score["twin"]["psnr_db"] > score["frozen"]["psnr_db"] + 4
    assert score["twin"]["iou"] > 0.8


def test_what_is_hidden_becomes_as_its_neighbours(scene) -> None:
    """Balls behind the block's face that swelled and turned blue while nobody saw them."""
    views, start = first(scene), scene[0].splats
    inside = start[:6].replace(
        mean=start.mean.mean(dim=0) + 0.0005 * torch.arange(18).reshape(6, 3) / 18,
        log_scale=torch.full((6, 1), float(np.log(0.012))),
        sh=torch.tensor([-1.7, -1.7, 1.7]).expand(6, 1, 3),
        opacity_logit=torch.full((6,), -1.0),
    )
    both = {name: torch.cat([value, getattr(inside, name)]) for name, value in vars(start).items()}
    spoilt = GaussianCloud(**both)
    share = appearance._shown_share(spoilt, views)
    assert (share[-6:] < 0.06).all()
    assert share[:-6].max() > 0.3
    made = appearance._restored(spoilt, views, 0.9)
    assert torch.allclose(made.opacity[-6:], torch.tensor(0.9))
    assert (made.log_scale[-6:] <= start.log_scale.max()).all()
    paint = start.sh[:, 0]  # a mean of it, which the blue of the spoilt ones is far out of
    assert (made.sh[-6:, 0] <= paint.amax(0) + 1e-6).all()
    assert (made.sh[-6:, 0] >= paint.amin(0) - 1e-6).all()
    shown = share >= 0.06
    for name, value in vars(spoilt).items():
        assert torch.equal(getattr(made, name)[shown], value[shown])
    with torch.no_grad():
        before, after = (rasterize(c, views.cameras).rgb for c in (spoilt, made))
    assert float((before - after).abs().max()) < 0.05


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"iterations": 0}, {"most_seen": 3}, {"most": 10}, {"hidden_opacity": 1.0}):
        with pytest.raises(DataError, match="AppearanceConfig"):
            AppearanceConfig(**wrong)


def test_a_reconstruction_carries_its_appearance_unless_told_not_to(
    tmp_path: Path, monkeypatch
) -> None:
    """The physics is put in place of the search: what is tested is what comes after it."""
    twin, path = recorded(tmp_path)
    bare = twin.replace(splats=None, provenance={**twin.provenance, "stopped_early": False})
    monkeypatch.setattr(reconstruct, "_identified", lambda *_: bare)
    monkeypatch.setattr("recon.appearance.AppearanceConfig", lambda seed: QUICK)
    seen = Perception.load(cache_path(path))
    monkeypatch.setattr(reconstruct, "_perceived", lambda *_: seen)
    made = reconstruct.reconstruct_episode(path, tmp_path / "dressed")
    assert made.content_hash() == bare.content_hash()
    loaded = Twin.load(tmp_path / "dressed")
    assert len(loaded.splats) == len(made.splats) > 50
    assert loaded.provenance["seconds"]["appearance_s"] > 0
    plain = ReconstructConfig(appearance=False)
    assert reconstruct.reconstruct_episode(path, tmp_path / "plain", plain).splats is None


def test_without_images_the_twin_has_no_appearance_and_says_so(scene, tmp_path: Path) -> None:
    _, seen, _, _ = scene
    blind = dataclasses.replace(seen, masks=None)
    with pytest.warns(PhysGymWarning, match="no appearance"):
        assert reconstruct._first_views(tmp_path, blind, ReconstructConfig()) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin = scene[0].replace(splats=None)
        same = reconstruct._with_appearance(twin, None, seen, ReconstructConfig(), Progress())
    assert same is twin


@pytest.mark.parametrize("wanted", [True, False])
def test_the_command_hands_the_flag_on(tmp_path: Path, monkeypatch, wanted: bool) -> None:
    given = []

    def reconstructed(source, out, config, progress, settings):
        given.append(config.appearance)
        return filmed()[0]

    monkeypatch.setattr(reconstruct, "is_episode", lambda source: True)
    monkeypatch.setattr(reconstruct, "reconstruct_episode", reconstructed)
    flag = "--appearance" if wanted else "--no-appearance"
    made = tyro.cli(Reconstruct, args=[str(tmp_path), "--out", str(tmp_path / "o"), flag, "--json"])
    assert made.run() == 0
    assert given == [wanted]


def test_ctrl_c_keeps_the_twin(scene, monkeypatch) -> None:
    twin, seen, _, _ = scene

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("recon.appearance.fit_appearance", interrupted)
    bare = twin.replace(splats=None)
    kept = reconstruct._with_appearance(bare, first(scene), seen, ReconstructConfig(), Progress())
    assert kept is bare


def test_an_episode_s_first_frame_is_what_is_fitted(tmp_path: Path) -> None:
    _, path = recorded(tmp_path)
    seen = Perception.load(cache_path(path))
    views = posed_frame(path, seen, 0)
    assert [one.name for one in views.cameras] == [one.name for one in CAMERAS]
