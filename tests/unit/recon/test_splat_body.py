"""One frame shows too little of a shape: what is carried out of a later one is no part of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from perception_scene import camera_at
from scipy.spatial.transform import Rotation
from video_cases import GROUND, HALF_M, block_cloud, filmed

from physgym.errors import DataError
from physgym.splats.cloud import GaussianCloud
from recon.identify import mosa_start
from recon.identify.mosa_start import film_start
from recon.identify.progress import Progress
from recon.identify.video_scene import VideoScene, hull_of
from recon.splats import splat_body as body_module
from recon.splats.dynamic_cloud import DynamicCloud
from recon.splats.splat_body import never_underground, splat_body
from recon.splats.splat_motion import motion_from_splats
from recon.splats.static import initial_cloud
from recon.splats.video import PosedVideo, make_video

DT_S = 1 / 60
VELOCITY, SPIN = np.array([0.2, 0.1, 0.3]), np.array([3.0, -4.0, 0.0])


def carried(cloud: GaussianCloud, spin: np.ndarray, time_s: np.ndarray) -> DynamicCloud:
    """Gaussians that fly and turn with the block."""
    rest, centre = cloud.mean.double().numpy(), block_cloud().mean.double().numpy().mean(axis=0)
    mean, quat = [], []
    for t in time_s:
        turn = Rotation.from_rotvec(spin * t)
        shift = t * VELOCITY - 0.5 * 9.81 * t**2 * np.array([0.0, 0.0, 1.0])
        mean.append(centre + turn.apply(rest - centre) + shift)
        quat.append(np.tile(np.roll(turn.as_quat(), 1), (len(rest), 1)))
    means, quats = (torch.tensor(np.array(part)).float() for part in (mean, quat))
    none = torch.zeros(len(time_s), len(cloud), 3)
    return DynamicCloud(cloud, means, quats, none, time_s, np.arange(len(time_s)), "block")


def flight(spin: np.ndarray, frames: int) -> tuple[DynamicCloud, PosedVideo]:
    """A block that flies and turns, as it is and filmed by four cameras above it."""
    time_s = DT_S * np.arange(frames)
    made = carried(block_cloud(), spin, time_s)
    rig = [
        camera_at([0.3 * np.cos(a), 0.3 * np.sin(a), 0.45], [0, 0, 0.13], width=112, name=f"c{i}")
        for i, a in enumerate(0.3 + 0.5 * np.pi * np.arange(4))
    ]
    return made, make_video(*filmed(made.cloud, made.mean, rig), rig, time_s, name="block")


def too_deep(points: np.ndarray) -> float:
    """Volume under the block, from 1 cm on, in volumes of it: Gaussians are 7 mm wide."""
    edge_m = np.diff(np.unique(points[:, 2].round(6))).min()
    own = points - block_cloud().mean.double().numpy().mean(axis=0)
    below = own[:, 2] < -HALF_M[2] - 0.01
    return float(below.sum() * edge_m**3 / (8.0 * np.prod(HALF_M)))


def test_later_silhouettes_show_the_underside() -> None:
    # Half a turn about a level axis: cameras above see what was below.
    spin = np.array([0.0, np.pi / 0.25, 0.0])
    moving, video = flight(spin, 16)
    # Static Gaussians start from the hull, and where no camera sees them they stay.
    hull, _ = hull_of(video.frames[0], 2000)
    hull = hull[(np.abs(hull - moving.cloud.mean.numpy().mean(axis=0)) < 0.07).all(axis=1)]
    faint = initial_cloud(hull, radius_m=0.006, opacity=0.15)
    both = [torch.cat(part) for part in zip(vars(moving.cloud).values(), vars(faint).values())]
    moving = carried(GaussianCloud(*both), spin, moving.time_s)
    one = dataclasses.replace(
        moving, mean=moving.mean[:1], quat_wxyz=moving.quat_wxyz[:1],
        log_stretch=moving.log_stretch[:1], time_s=moving.time_s[:1], index=moving.index[:1],
    )  # fmt: skip
    free = VideoScene.plain(video)
    alone = splat_body(one, video.first(1), free)
    whole = splat_body(moving, video, free)
    # Pixels of 4 mm are not sharp: some is left.
    assert too_deep(alone) > 0.2
    assert too_deep(whole) < 0.4 * too_deep(alone)
    # Nothing of the block itself is lost: its middle half is full.
    spacing_m = np.diff(np.unique(whole[:, 2].round(6))).min()
    own = np.abs(whole - block_cloud().mean.double().numpy().mean(axis=0))
    inner = (own < 0.5 * HALF_M).all(axis=1).sum() * spacing_m**3
    assert inner == pytest.approx(np.prod(HALF_M), rel=0.25)  # a cell of 3 mm on 30


def test_what_something_hides_is_not_cut_away() -> None:
    moving, video = flight(np.zeros(3), 3)
    free = VideoScene.plain(video)
    wanted = splat_body(moving, video, free)
    blind = video.frames[2]
    blind = dataclasses.replace(
        blind, mask=torch.zeros_like(blind.mask), known=torch.zeros_like(blind.known)
    )
    hidden = dataclasses.replace(video, frames=(*video.frames[:2], blind))
    assert len(splat_body(moving, hidden, free)) >= len(wanted)
    empty = dataclasses.replace(blind, known=torch.ones_like(blind.known))
    gone = dataclasses.replace(video, frames=(*video.frames[:2], empty))
    with pytest.raises(DataError, match="no volume"):
        motion_from_splats(moving, gone, free)


def test_one_place_fills_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    moving, video = flight(np.zeros(3), 3)
    calls, fill = [], body_module.fill_volume
    monkeypatch.setattr(
        body_module, "fill_volume", lambda *a, **k: calls.append(k["spacing_m"]) or fill(*a, **k)
    )
    scene = VideoScene.plain(video, ground=GROUND)
    motion = motion_from_splats(moving, video, scene)
    assert len(calls) == 1
    assert np.array_equal(motion.solid.points, splat_body(moving, video, scene))
    assert len(never_underground(motion.solid.points, moving, scene)) == len(motion.solid.points)


def test_velocity_and_spin_are_found_from_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosa_start, "_STEPS", 25)
    moving, video = flight(SPIN, 5)
    scene = VideoScene.plain(video)
    # Dynamic Gaussians that turn by a third too little: images before contact tell better.
    lazy = carried(moving.cloud, 2.0 * SPIN / 3.0, moving.time_s)
    motion = motion_from_splats(lazy, video, scene)
    found = film_start(video, scene, lazy, motion, Progress())
    centre = moving.cloud.mean.double().numpy().mean(axis=0)
    # Pixels of 4 mm over 67 ms: a tenth of one is 6 mm/s, and 0.12 rad/s at the block's ends.
    assert np.linalg.norm(found.at(centre) - VELOCITY) < 0.02
    assert np.linalg.norm(found.angular_rad_per_s - SPIN) < 0.3
    assert found.contact_frame == 5
