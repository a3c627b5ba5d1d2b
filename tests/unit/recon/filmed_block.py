"""The block that a gripper lifts, filmed: its twin, its perception and a recording of images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from episode_fit_cases import FPS, block, lifting_gripper, perceived, settled, true_twin

from physgym.camera import PinholeCamera
from physgym.frames import T_from_parts
from physgym.splats import GaussianCloud, rasterize
from physgym.splats.follower import Follower
from physgym.twin import Twin
from recon.episode import EpisodeWriter
from recon.perception.perceive_episode import cache_path, episode_fingerprint
from recon.perception.result import Perception

FRAMES, TRAIN = 12, 8
H, W = 60, 80
MIDDLE = np.array([0.05, 0.02, 0.04])
TABLE_RGB = (70, 60, 50)


def camera(angle: float, name: str) -> PinholeCamera:
    """Half a metre from the block, looking at it from above."""
    place = MIDDLE + np.array([0.4 * np.cos(angle), 0.4 * np.sin(angle), 0.3])
    ahead = (MIDDLE - place) / np.linalg.norm(MIDDLE - place)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(ahead, right), ahead], axis=1)
    K = np.array([[110.0, 0, (W - 1) / 2], [0, 110.0, (H - 1) / 2], [0, 0, 1]])
    return PinholeCamera(name, "", W, H, K, T_from_parts(turn, place))


CAMERAS = (camera(0.3, "left"), camera(2.2, "right"))


def painted(nodes: np.ndarray, surface: int) -> GaussianCloud:
    """Opaque balls on the surface nodes, coloured by place."""
    mean = torch.tensor(nodes[:surface], dtype=torch.float32)
    low, high = mean.amin(0), mean.amax(0)
    rgb = 0.2 + 0.7 * (mean - low) / (high - low)
    quat = torch.zeros(len(mean), 4)
    quat[:, 0] = 1.0
    return GaussianCloud(
        mean,
        torch.full((len(mean), 1), float(np.log(0.009))),
        quat,
        torch.full((len(mean),), 4.0),
        ((rgb - 0.5) / 0.28209479177387814)[:, None],
    )


def filmed(sha: str = "a" * 64) -> tuple[Twin, Perception, np.ndarray, np.ndarray]:
    """The twin with its appearance, what was perceived, images (C, T, H, W, 3), true nodes."""
    nodes, surface = block(6, 3, 3, height=0.01)
    twin = true_twin(nodes)
    gripper = lifting_gripper(nodes, FRAMES, closes=2)
    seen, moved = perceived(twin, gripper, surface=surface, noise_m=0.0, sha=sha)
    rest = settled(twin)
    twin = twin.replace(
        rest_position=rest,
        parameters={**twin.parameters, "surface_position_m": rest[:surface].astype(np.float32)},
        splats=painted(rest, surface),
        provenance={
            "train": {"source_sha256": sha, "train_stop_frame": TRAIN, "frames": FRAMES},
        },
    )
    follower = Follower(twin)
    images = np.empty((len(CAMERAS), FRAMES, H, W, 3), np.uint8)
    masks = np.empty(images.shape[:-1], bool)
    for t in range(FRAMES):
        with torch.no_grad():
            drawn = rasterize(
                follower.at(moved[t]), CAMERAS, background=torch.tensor(TABLE_RGB) / 255
            )
        images[:, t] = np.rint(255 * drawn.rgb.clamp(0, 1).numpy())
        masks[:, t] = drawn.alpha.numpy() > 0.5
    return twin, dataclasses.replace(seen, cameras=CAMERAS, masks=masks), images, moved


def recorded(folder: Path) -> tuple[Twin, Path]:
    """The same as an episode on disk with its perception beside it; and the twin."""
    _, seen, images, _ = filmed()
    path = folder / "lift"
    with EpisodeWriter(path, CAMERAS) as writer:
        for t in range(FRAMES):
            for c, one in enumerate(CAMERAS):
                depth = np.full((H, W), 0.5, np.float32)
                writer.write_frame(one.name, t / FPS, images[c, t], depth)
                writer.write_mask(one.name, t / FPS, "object", seen.masks[c, t])
                hand = np.zeros((H, W), bool)
                hand[:, :3] = True
                writer.write_mask(one.name, t / FPS, "hand", hand)
    sha = episode_fingerprint(path)
    twin, seen, _, _ = filmed(sha)
    seen.save(cache_path(path))
    return twin, path
