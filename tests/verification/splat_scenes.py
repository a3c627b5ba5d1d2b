"""Small scenes of Gaussians, cameras, and losses for the tests of the rasteriser."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from splat_reference import Dense, dense_render

from physgym.camera import PinholeCamera
from physgym.splats import GaussianCloud, Gaussians, Render
from physgym.splats.cloud import matrix_from_quat

__all__ = [
    "CAMERA", "ENGINES", "PLACES", "cloud_of", "dense", "join", "look_at", "one", "raw", "scene",
    "straight", "weights_for",
]  # fmt: skip

ENGINES = ["native", "warp", "plain"]
PLACES = [*((engine, "cpu") for engine in ENGINES)]
PLACES += [pytest.param("warp", "cuda", marks=pytest.mark.gpu)]


def look_at(
    eye: tuple[float, float, float],
    *,
    width: int = 50,
    height: int = 37,
    focal: float = 45.0,
    target: tuple[float, float, float] = (0.0, 0.0, 0.0),
    name: str = "cam",
) -> PinholeCamera:
    """A camera at `eye` that looks at `target`, with an off-centre principal point."""
    forward = np.subtract(target, eye)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.1, 1.0])
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    T[:3, 3] = eye
    K = np.array([[focal, 0, 0.45 * width], [0, 1.1 * focal, 0.55 * height], [0, 0, 1]])
    return PinholeCamera(name, "", width, height, K, T)


CAMERA = look_at((1.2, -1.0, 0.6))


def scene(count: int, *, seed: int = 0, degree: int = 3, size: float = 0.08) -> dict:
    """Float64 tensors: mean, log_scale, quat, opacity_logit, sh of `count` Gaussians near zero."""
    rng = np.random.default_rng(seed)
    made = {
        "mean": rng.normal(scale=0.35, size=(count, 3)),
        "log_scale": np.log(size) + 0.5 * rng.normal(size=(count, 3)),
        "quat_wxyz": rng.normal(size=(count, 4)),
        "opacity_logit": 1.5 * rng.normal(size=count),
        "sh": 0.4 * rng.normal(size=(count, (degree + 1) ** 2, 3)),
    }
    return {name: torch.from_numpy(value) for name, value in made.items()}


def dense(made: dict, camera: PinholeCamera = CAMERA, **options: object) -> Dense:
    """The reference's image of the parameters of a cloud."""
    turn = matrix_from_quat(made["quat_wxyz"]) * made["log_scale"].exp()[:, None]
    pose = options.pop("T_world_cam", torch.from_numpy(camera.T_world_cam.copy()))
    return dense_render(
        made["mean"],
        turn @ turn.transpose(1, 2),
        torch.sigmoid(made["opacity_logit"]),
        made["sh"],
        pose,
        torch.from_numpy(camera.K.copy()),
        camera.width,
        camera.height,
        **options,
    )


def cloud_of(made: dict, *, grad: bool = False, device: str = "cpu") -> GaussianCloud:
    parts = {name: value.detach().float().to(device) for name, value in made.items()}
    return GaussianCloud(**{name: part.requires_grad_(grad) for name, part in parts.items()})


def weights_for(images: list[torch.Tensor], sure: torch.Tensor) -> list[torch.Tensor]:
    """Random weights of a loss, zero where a threshold may fall on either side in float32."""
    draw = torch.Generator().manual_seed(1)
    made = []
    for image in images:
        keep = sure.reshape(sure.shape + (1,) * (image.ndim - sure.ndim))
        made.append(torch.randn(image.shape, generator=draw, dtype=torch.float64) * keep)
    return made


def raw(render: Render, at: int = 0) -> list[torch.Tensor]:
    """Colour, alpha, depth times alpha and features of one camera, as the reference has them."""
    alpha = render.alpha[at]
    made = [render.rgb[at], alpha, render.depth[at] * alpha.clamp(min=1e-10)]
    made += [] if render.features is None else [render.features[at]]
    return [image.cpu() for image in made]


def one(
    mean: tuple[float, float, float] = (0.0, 0.0, 2.0),
    *,
    size: float = 0.05,
    opacity: float = 0.8,
    rgb: tuple[float, float, float] = (1.0, 0.5, 0.2),
) -> Gaussians:
    """One ball in front of a camera that stands in the origin."""
    return Gaussians(
        torch.tensor([mean]),
        (size**2 * torch.eye(3))[None],
        torch.tensor([opacity]),
        torch.tensor([rgb]),
    )


def join(*parts: Gaussians) -> Gaussians:
    names = [field.name for field in dataclasses.fields(Gaussians)]
    return Gaussians(*(torch.cat([getattr(p, n) for p in parts]) for n in names))


def straight(width: int = 33, height: int = 33, focal: float = 100.0) -> PinholeCamera:
    """In the origin, along z, its principal point in the middle pixel."""
    K = np.array([[focal, 0, width // 2], [0, focal, height // 2], [0, 0, 1]])
    return PinholeCamera("straight", "", width, height, K, np.eye(4))
