"""Gaussians of the first frame for Spring-Gaus: where they are, then what they look like.

Shapes: G Gaussians.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from physgym.splats.cloud import GaussianCloud
from recon.identify.progress import Progress
from recon.identify.register_scan import (
    RegisterConfig,
    load_scan,
    perceptual_loss,
    register_scan,
)
from recon.identify.spring_gaus_config import SpringGausConfig
from recon.splats.posed_images import PosedImages
from recon.splats.static import StaticConfig, fit_static, initial_cloud, seen_colours

__all__ = ["appearance", "scanned_cloud", "static_cloud", "unseen", "whole_body"]

_SOLID = 0.1  # opacity from which a Gaussian is part of the body
_JOINED = 4.0  # usual distances of neighbours that a gap within a body may have
_FEWEST = 8
_DRIFT = 0.7  # usual distances of neighbours that a Gaussian may have moved from its start
_LEAST_LEFT = 0.5  # of the Gaussians; more that turn transparent are a failed fit


def static_cloud(
    surface: np.ndarray, views: PosedImages, config: SpringGausConfig, progress: Progress
) -> GaussianCloud:
    """Isotropic Gaussians of one radius, fitted to the first frame (section 4.1).

    Args:
        surface: where they start [m], shape (G, 3).
        views: of the first frame.
        config: how many steps.
        progress: told about them.

    Returns:
        Those that are solid and hang together.
    """
    gap, _ = cKDTree(surface).query(surface, k=4)
    radius_m = float(np.sqrt(np.median((gap[:, 1:] ** 2).mean(axis=1))))
    start = initial_cloud(surface, seen_colours(views, surface), radius_m=radius_m)
    steps = config.steps("static")
    settings = StaticConfig(iterations=steps, radius_m=radius_m, densify=None, seed=config.seed)
    with progress.stage("static Gaussians", steps) as tick:
        return whole_body(fit_static(start, views, settings, on_step=tick))


def unseen(surface: np.ndarray, cloud: GaussianCloud, views: PosedImages) -> np.ndarray:
    """Points of the surface whose Gaussians are gone and which no mask contradicts.

    Images tell nothing of an underside, and Gaussians there fade or drift. A body filled without
    its lower corners stands on what is left, and turns when it lands.

    Args:
        surface: points that the Gaussians started from, measured or completed, or of the visual
            hull where nothing was measured [m], shape (G, 3).
        cloud: what is left of them.
        views: of the first frame.

    Returns:
        Some of the points, shape (K, 3).
    """
    gap, _ = cKDTree(surface).query(surface, k=2)
    far, _ = cKDTree(cloud.mean.double().numpy()).query(surface)
    gone = surface[far > _DRIFT * float(np.median(gap[:, 1]))]
    fits = np.ones(len(gone), bool)
    for v, camera in enumerate(views.cameras):
        pixel, _ = camera.project(gone)
        # A pixel more on every side: points are as noisy as depth images.
        allowed = ndimage.binary_dilation(
            ((views.mask[v] >= 0.5) | (views.known[v] < 0.5)).numpy(), np.ones((3, 3))
        )
        inside = camera.visible(pixel)
        column, row = np.rint(pixel[inside]).astype(int).T
        fits[inside] &= allowed[row, column]
    return gone[fits]


def scanned_cloud(path: str, views: PosedImages, progress: Progress) -> GaussianCloud:
    """Gaussians of a static scan, brought to where the first frame has the object.

    Args:
        path: a 3DGS PLY in units and axes of its own.
        views: of the first frame.
        progress: told about the registration.

    Returns:
        Those that are solid and hang together.

    Raises:
        DataError: if the scan cannot be used, or is of another object.
    """
    scan, steps = load_scan(path), RegisterConfig.steps
    with progress.stage("registration of the scan", steps) as tick:
        pose = register_scan(scan, views, perceptual=perceptual_loss(), on_step=tick)
    progress.say(f"the scan covers {100 * pose.iou:.0f} % of the masks, scale {pose.scale:.3g}")
    return whole_body(pose.apply(scan))


def appearance(
    cloud: GaussianCloud, views: PosedImages, config: SpringGausConfig, progress: Progress
) -> GaussianCloud:
    """Colours, opacities and radii with the centres where they are (figure 2 b).

    Args:
        cloud: from `static_cloud`.
        views: of the first frame.
        config: how many steps.
        progress: told about them.

    Returns:
        The cloud, without Gaussians that turned transparent.
    """
    steps = config.steps("appearance")
    settings = StaticConfig(
        iterations=steps,
        still=True,
        densify=None,
        dssim=config.dssim,
        isotropic=cloud.log_scale.shape[1] == 1,  # a scan's Gaussians may have axes
        sh_degree=cloud.sh_degree,
        seed=config.seed,
    )
    with progress.stage("appearance", steps) as tick:
        made = fit_static(cloud, views, settings, on_step=tick)
    return made if len(made) >= _LEAST_LEFT * len(cloud) else cloud


def whole_body(cloud: GaussianCloud) -> GaussianCloud:
    """Gaussians that are solid and hang together; what floats beside the body is left out.

    Args:
        cloud: of one object.

    Returns:
        The largest body of the cloud.
    """
    solid = cloud[cloud.opacity >= _SOLID]
    if len(solid) < _FEWEST:
        return cloud
    at = solid.mean.double().numpy()
    tree = cKDTree(at)
    gap, _ = tree.query(at, k=2)
    pairs = tree.query_pairs(_JOINED * float(np.median(gap[:, 1])), output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(at),) * 2)
    _, label = connected_components(graph, directed=False)
    largest = int(np.bincount(label).argmax())
    return solid[torch.as_tensor(label == largest)]
