"""`rasterize`: images of Gaussians, with gradients, on CPU and CUDA.

3D Gaussian splatting (Kerbl et al. 2023) with gsplat's conventions: EWA projection, 0.3 pixels^2
of blur, alpha at most 0.999 and at least 1/255, a pixel ends before its light falls to 1e-4,
Gaussians sorted by the depth of their means. Engines: ``native`` (SIMD, CPU), ``gsplat`` (CUDA),
``warp`` (plain Warp kernels, CUDA and CPU), ``plain`` (torch, anywhere, slow).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch

from physgym.camera import PinholeCamera
from physgym.errors import DataError, DeviceError
from physgym.splats.cloud import GaussianCloud, Gaussians
from physgym.splats.flow import FLOW_CHANNELS, flow_channels, flow_image
from physgym.splats.harmonics import harmonics_degree
from physgym.splats.native_engine import native_render
from physgym.splats.native_view import NativeSettings, usable_threads
from physgym.splats.plain import PlainSettings, Planes, plain_render
from physgym.splats.projection import packed_covariance, project
from physgym.splats.warp_engine import warp_render

__all__ = ["ENGINES", "Render", "rasterize"]

ENGINES = ("auto", "native", "gsplat", "warp", "plain")
_DEVICES = {"native": ("cpu",), "gsplat": ("cuda",), "warp": ("cpu", "cuda")}  # plain: any
_MOST_FEATURES = 26  # beside six channels of flow: 32 is what the bodies are made for
_RIGID_TOLERANCE = 1e-4  # of a float32 pose after some hundred steps of an optimiser


@dataclass(frozen=True, eq=False)
class Render:
    """Images of C cameras.

    Attributes:
        rgb: colour over the background, shape (C, H, W, 3).
        alpha: share of light that Gaussians stop, shape (C, H, W).
        depth: mean depth of what is seen, ``sum w z / sum w`` [m], 0 where nothing is,
            shape (C, H, W).
        flow: where what is seen moves to [pixels], zero where nothing is, shape (C, H, W, 2);
            None unless asked for.
        features: ``sum w f``, shape (C, H, W, F); None unless asked for.
    """

    rgb: torch.Tensor
    alpha: torch.Tensor
    depth: torch.Tensor
    flow: torch.Tensor | None = None
    features: torch.Tensor | None = None


class _Views(NamedTuple):
    T_world_cam: torch.Tensor
    K: torch.Tensor
    width: int
    height: int


def rasterize(
    cloud: GaussianCloud | Gaussians,
    cameras: PinholeCamera | Sequence[PinholeCamera],
    *,
    T_world_cam: torch.Tensor | None = None,
    background: torch.Tensor | None = None,
    features: torch.Tensor | None = None,
    flow_to: GaussianCloud | Gaussians | None = None,
    sh_degree: int | None = None,
    antialiased: bool = False,
    near_m: float = 0.01,
    blur_px2: float = 0.3,
    threads: int | None = None,
    engine: str = "auto",
) -> Render:
    """Draw Gaussians.

    Differentiable along every tensor of the cloud, of `flow_to`, `features`, `background` and
    `T_world_cam`. The gradient of a pose is that of the entries of its matrix, read as
    ``p_cam = R^T (p_world - c)``: put any chart of rotations before it.

    Args:
        cloud: what to draw; its device decides where.
        cameras: one or C cameras with images of one size and no distortion.
        T_world_cam: poses instead of the cameras' own, for gradients, shape (C, 4, 4).
        background: RGB behind everything, shape (3,) or (C, 3); black when None.
        features: more channels per Gaussian, F <= 26, shape (G, F).
        flow_to: the same Gaussians in another state; the flow from `cloud` to it is drawn.
        sh_degree: highest degree of harmonics to use; all when None.
        antialiased: let opacity make up for the blur (Yu et al., "Mip-Splatting", 2024).
        near_m: Gaussians closer than this are left out [m].
        blur_px2: variance added to every Gaussian in the image [pixels^2].
        threads: CPU threads; None takes all that this process may use.
        engine: "native", "gsplat", "warp", "plain", or "auto": native on the CPU; on CUDA gsplat
            where it is installed with its kernels or with nvcc, else warp.

    Returns:
        The images.

    Raises:
        DataError: if cameras differ in size or have distortion, or tensors do not fit or are not
            finite.
        DeviceError: if the engine cannot run there.
    """
    views = _views(cameras, T_world_cam, cloud.mean.device)
    engine = _engine(engine, cloud.mean.device)
    extra = _features(cloud, features, flow_to, views, blur_px2)
    degree = _degree(cloud, sh_degree)
    if engine == "native":
        settings = NativeSettings(
            views.width, views.height, near_m, blur_px2, antialiased,
            isinstance(cloud, GaussianCloud), degree, usable_threads(threads),
        )  # fmt: skip
        given = (*_native_inputs(cloud), extra, views.T_world_cam, views.K)
        planes = native_render(*given, settings=settings)
    else:
        drawn = cloud.gaussians() if isinstance(cloud, GaussianCloud) else cloud
        colour = drawn.colour if drawn.colour.ndim == 3 else drawn.colour[:, None]
        inputs = (
            drawn.mean, packed_covariance(drawn.covariance), drawn.opacity, colour, extra,
            views.T_world_cam, views.K,
            PlainSettings(views.width, views.height, near_m, blur_px2, antialiased, degree),
        )  # fmt: skip
        _check_drawn(*inputs[:5])
        if engine == "gsplat":
            from physgym.splats.gsplat_engine import gsplat_render

            planes = gsplat_render(*inputs)
        elif engine == "warp":
            planes = warp_render(*inputs)
        else:
            planes = plain_render(*inputs)
    return _render(planes, background, features, flow_to)


def _render(
    planes: Planes,
    background: torch.Tensor | None,
    features: torch.Tensor | None,
    flow_to: GaussianCloud | Gaussians | None,
) -> Render:
    """Planes as images."""
    rgb, alpha = planes.rgb, planes.alpha
    if background is not None:
        behind = background.to(rgb).expand(len(rgb), 3)[:, :, None, None]
        rgb = rgb + (1.0 - alpha[:, None]) * behind
    given = 0 if features is None else features.shape[1]
    flow = planes.features[:, given : given + FLOW_CHANNELS]
    return Render(
        rgb=rgb.permute(0, 2, 3, 1),
        alpha=alpha,
        depth=planes.depth / alpha.clamp(min=1e-10),
        flow=None if flow_to is None else flow_image(flow, alpha),
        features=None if features is None else planes.features[:, :given].permute(0, 2, 3, 1),
    )


def _native_inputs(cloud: GaussianCloud | Gaussians) -> tuple[torch.Tensor, ...]:
    if isinstance(cloud, GaussianCloud):
        return cloud.mean, cloud.log_scale, cloud.quat_wxyz, cloud.opacity_logit, cloud.sh
    colour = cloud.colour if cloud.colour.ndim == 3 else cloud.colour[:, None]
    covariance = packed_covariance(cloud.covariance)
    given = (cloud.mean, covariance, cloud.mean.new_zeros(1, 4), cloud.opacity, colour)
    return tuple(tensor.float() for tensor in given)


def _views(
    cameras: PinholeCamera | Sequence[PinholeCamera],
    T_world_cam: torch.Tensor | None,
    device: torch.device,
) -> _Views:
    """Cameras as tensors."""
    group = [cameras] if isinstance(cameras, PinholeCamera) else list(cameras)
    sizes = {(camera.width, camera.height) for camera in group}
    if len(sizes) != 1:
        raise DataError(
            f"{len(group)} cameras with images of sizes {sorted(sizes)}",
            where="rasterize: cameras",
            expected="at least one camera, and images of one size",
            fix="draw each size in a call of its own, or scale cameras with PinholeCamera.scaled",
        )
    bent = [camera.name for camera in group if camera.distortion.any()]
    if bent:
        raise DataError(
            f"cameras {bent} have distortion",
            where="rasterize: cameras",
            expected="pinholes: splats have no distortion",
            fix="undistort the images, and draw cameras without distortion",
        )
    K = torch.from_numpy(np.stack([c.K for c in group])).float().to(device)
    if T_world_cam is None:
        poses = torch.from_numpy(np.stack([c.T_world_cam for c in group])).float().to(device)
    else:
        poses = T_world_cam.float()
        turn = poses.detach()[..., :3, :3]
        if (
            poses.shape != (len(group), 4, 4)
            or poses.device != device
            or not torch.allclose(
                turn @ turn.transpose(-1, -2), torch.eye(3).to(turn), atol=_RIGID_TOLERANCE
            )
        ):
            raise DataError(
                f"poses of shape {tuple(poses.shape)} on {poses.device}",
                where="rasterize: T_world_cam",
                expected=f"rigid transforms of shape {(len(group), 4, 4)} on {device}",
                fix="make the rotation orthonormal, such as by an exponential or a unit quaternion",
            )
    width, height = sizes.pop()
    return _Views(poses, K, width, height)


def _engine(engine: str, device: torch.device) -> str:
    """The engine to use."""
    if engine not in ENGINES:
        raise DeviceError(f"unknown engine {engine!r}", where="rasterize", expected=str(ENGINES))
    if engine == "auto":
        if device.type == "cuda":
            return "gsplat" if _gsplat_is_ready() else "warp"
        return "native" if device.type == "cpu" else "plain"
    if device.type not in _DEVICES.get(engine, (device.type,)):
        raise DeviceError(
            f"engine {engine!r} and a cloud on {device}",
            where="rasterize",
            expected="'native' on the CPU, 'gsplat' on CUDA, 'warp' on both, 'plain' anywhere",
            fix="use engine='auto', or move the cloud with cloud.to(device)",
        )
    return engine


@cache
def _gsplat_is_ready() -> bool:
    """Whether gsplat is there with its kernels, or with what compiles them at the first use."""
    if find_spec("gsplat") is None:
        return False
    return find_spec("gsplat.csrc") is not None or shutil.which("nvcc") is not None


def _degree(cloud: GaussianCloud | Gaussians, wanted: int | None) -> int:
    """Degree to use, -1 for RGB."""
    if isinstance(cloud, Gaussians) and cloud.colour.ndim == 2:
        return -1
    sh = cloud.sh if isinstance(cloud, GaussianCloud) else cloud.colour
    most = harmonics_degree(sh.shape[1])
    if wanted is not None and not 0 <= wanted <= most:
        raise DataError(f"sh_degree {wanted}", where="rasterize", expected=f"0 to {most}")
    return most if wanted is None else wanted


def _features(
    cloud: GaussianCloud | Gaussians,
    features: torch.Tensor | None,
    flow_to: GaussianCloud | Gaussians | None,
    views: _Views,
    blur_px2: float,
) -> torch.Tensor:
    """Channels beside colour and depth, shape (C or 1, G, F)."""
    count = len(cloud)
    made = cloud.mean.new_zeros(1, count, 0, dtype=torch.float32)
    if features is not None:
        if features.ndim != 2 or len(features) != count or features.shape[1] > _MOST_FEATURES:
            raise DataError(
                f"features of shape {tuple(features.shape)}",
                where="rasterize: features",
                expected=f"({count}, F) with F at most {_MOST_FEATURES}",
                fix="draw more channels in several calls",
            )
        _check_finite((features,))
        made = features.float()[None]
    if flow_to is None:
        return made
    if len(flow_to) != count:
        raise DataError(
            f"{len(flow_to)} Gaussians to flow to",
            where="rasterize: flow_to",
            expected=f"{count}, the same Gaussians in another state",
        )
    size = (views.width, views.height)
    seen = [
        project(g.mean, packed_covariance(_covariance(g)), views.T_world_cam, views.K, *size)
        for g in (cloud, flow_to)
    ]
    flow = flow_channels(seen[0], seen[1], *size, blur_px2)
    _check_finite((flow,))
    return torch.cat([made.expand(len(flow), -1, -1), flow], dim=-1)


def _covariance(cloud: GaussianCloud | Gaussians) -> torch.Tensor:
    return cloud.covariance() if isinstance(cloud, GaussianCloud) else cloud.covariance


def _check_drawn(mean: torch.Tensor, covariance: torch.Tensor, *others: torch.Tensor) -> None:
    """What the native engine checks by itself; waits for the device once where all is well."""
    tensors = (mean, covariance, *others)
    wrong = covariance[:, [0, 3, 5]] < 0
    if bool(torch.stack([~wrong.any(), *(torch.isfinite(t).all() for t in tensors)]).all()):
        return
    _check_finite(tensors)
    raise DataError(
        f"Gaussian {int(torch.nonzero(wrong)[0, 0])} has a covariance that is none",
        where="rasterize",
        expected="variances that are not negative",
        fix="remove such Gaussians, or look for the step that made them",
    )


def _check_finite(tensors: Sequence[torch.Tensor]) -> None:
    for tensor in tensors:
        if not torch.isfinite(tensor).all():
            bad = torch.nonzero(~torch.isfinite(tensor))[0].tolist()
            raise DataError(
                f"a number that is not finite, at {bad} of a tensor of shape {tuple(tensor.shape)}",
                where="rasterize",
                expected="finite means, covariances, opacities, colours and features",
                fix="remove such Gaussians, or look for the step that made them",
            )
