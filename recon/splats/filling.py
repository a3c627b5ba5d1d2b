"""Particles inside a body of which Gaussians or points show the surface.

GIC fills a cloud from coarse to fine: what lies inside all silhouettes and behind what is drawn is
inside, and a lattice that grows finer closes the gaps that views leave.
Shapes: G Gaussians, P particles, M candidates, C cameras, H W image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

from physgym.errors import DataError
from physgym.splats.cloud import GaussianCloud, Gaussians
from physgym.splats.rasterize import rasterize
from recon.identify.solid import PointSolid
from recon.splats.posed_images import PosedImages

__all__ = ["fill_volume"]

_MOST_CELLS = 8_000_000
_COARSE = 8  # particles' distances that a cell of the first lattice is wide (GIC: g / 2)
# Of mean, threshold and stamp at the last level. GIC has 20, after which what is left of coarse
# cells may still fill a hollow by a tenth of the body.
_MOST_PASSES, _SETTLED = 200, 1e-3
_Ask = Callable[[int, tuple[np.ndarray, np.ndarray], np.ndarray], np.ndarray]
_FILLED = 0.5  # density that counts as inside on the way (GIC)
_SEEN = 0.5  # alpha from which a pixel is drawn on


def fill_volume(
    body: GaussianCloud | Gaussians | np.ndarray,
    views: PosedImages | None = None,
    *,
    spacing_m: float,
    opacity: float = 0.3,
    density: float = 0.6,
    skin_m: float = 0.0,
) -> np.ndarray:
    """Fill a body with particles.

    With views, by what they show (GIC, coarse to fine; the notes' D2 with ``g = 16 spacing``).
    Without, by closing the points (`recon.identify.solid.PointSolid`), which must then lie on all
    sides of the body or inside it.

    Args:
        body: Gaussians, or points on its surface or inside [m], shape (G, 3).
        views: of the body in the state in which it is given; only with Gaussians.
        spacing_m: distance between particles [m].
        opacity: Gaussians below it are no part of the body.
        density: share of the surroundings of a particle that must be inside: higher ones shave the
            surface, lower ones thicken it. Only with views.
        skin_m: depth is drawn by the centres of Gaussians: each is taken for a ball of this radius
            [m]. Only with views.

    Returns:
        Particles on a lattice [m], shape (P, 3), float64. Each stands for ``spacing_m ** 3``.

    Raises:
        DataError: if nothing solid is given, it spans no volume, views come without Gaussians, or
            the lattice would be too fine.
    """
    shares = 0.0 <= opacity <= 1.0 and 0.0 < density < 1.0
    if not spacing_m > 0.0 or not shares or not skin_m >= 0.0:
        raise DataError(
            f"spacing {spacing_m} m, opacity {opacity}, density {density}, skin {skin_m} m",
            where="fill_volume",
            expected="above 0, 0 to 1, between 0 and 1, and 0 or more",
        )
    if isinstance(body, np.ndarray):
        if views is not None:
            raise DataError(
                "views, but points instead of Gaussians",
                where="fill_volume",
                expected="a cloud that can be drawn into the views",
                fix="make one of the points with recon.splats.static.initial_cloud",
            )
        return _enclosed(body, spacing_m)
    solid = _solid(body, opacity)
    if views is None:
        return _enclosed(solid.mean.double().numpy(), spacing_m)
    return _carved(_Look(solid, views, skin_m), solid, spacing_m, density)


def _solid(body: GaussianCloud | Gaussians, opacity: float) -> Gaussians:
    """Gaussians that count, cut off from autograd."""
    cloud = body.gaussians() if isinstance(body, GaussianCloud) else body
    keep = cloud.opacity >= opacity
    if int(keep.sum()) < 4:
        raise DataError(
            f"{int(keep.sum())} of {len(cloud)} Gaussians are solid",
            where="fill_volume",
            expected=f"at least four with an opacity of {opacity} or more",
            fix="lower the opacity, or fit the cloud to more images",
        )
    parts = (cloud.mean, cloud.covariance, cloud.opacity, cloud.colour)
    return Gaussians(*(part[keep].detach().float() for part in parts))


def _enclosed(points: np.ndarray, spacing_m: float) -> np.ndarray:
    """What points enclose."""
    solid = PointSolid.of(points)
    low, high = solid.points.min(axis=0), solid.points.max(axis=0)
    count = np.maximum(np.ceil((high - low) / spacing_m - 1e-6), 1).astype(int)
    _check_cells(count)
    start = 0.5 * (low + high) - 0.5 * spacing_m * (count - 1)
    lattice = start + spacing_m * np.argwhere(np.ones(count, bool))
    where = ((lattice - solid.low_m) / solid.cell_m).T
    depth = ndimage.map_coordinates(solid.depth_m, where, order=1, mode="nearest")
    return np.asarray(lattice[depth >= 0.0])


def _check_cells(count: np.ndarray) -> None:
    if np.prod(count.astype(float)) > _MOST_CELLS:
        raise DataError(
            f"a lattice of {tuple(int(n) for n in count)} points",
            where="fill_volume: spacing_m",
            expected=f"at most {_MOST_CELLS}",
            fix="raise spacing_m",
        )


def _carved(look: _Look, solid: Gaussians, spacing_m: float, density: float) -> np.ndarray:
    """Coarse to fine from what the views do not rule out."""
    centres = solid.mean.double().numpy()
    centres = centres[look.on_object(centres)]
    if len(centres) < 4:
        raise DataError(
            f"{len(centres)} Gaussians lie inside all silhouettes",
            where="fill_volume",
            expected="Gaussians and masks that agree",
            fix="give the views of the same instant as the Gaussians, and check the calibration",
        )
    coarse_m = _COARSE * spacing_m
    low = centres.min(axis=0) - 0.5 * coarse_m
    shape = np.ceil((np.ptp(centres, axis=0) + coarse_m) / coarse_m).astype(int)
    _check_cells(2 * _COARSE * shape)
    kept = _candidates(look, low, shape, 0.5 * spacing_m)
    told = np.concatenate([kept, centres])
    field = _stamped(np.zeros(shape), told, low, coarse_m)
    cell_m = coarse_m
    while cell_m > 1.5 * spacing_m:
        cell_m *= 0.5
        finer = ndimage.zoom(field, 2, order=1, grid_mode=True, mode="nearest")
        field = _smoothed(finer, told, low, cell_m)
    for _ in range(_MOST_PASSES):
        before, field = field, _smoothed(field, told, low, cell_m)
        if np.allclose(before, field, atol=_SETTLED):
            break
    inside = np.argwhere(_mean(field) >= density)
    return np.asarray(low + cell_m * (inside + 0.5))


def _candidates(look: _Look, low: np.ndarray, shape: np.ndarray, edge_m: float) -> np.ndarray:
    """Points of a fine lattice that every view takes for inside, layer by layer."""
    count = shape * 2 * _COARSE
    axes = [low[a] + edge_m * (np.arange(count[a]) + 0.5) for a in range(3)]
    sheet = np.stack(np.meshgrid(axes[0], axes[1], indexing="ij"), axis=-1).reshape(-1, 2)
    kept = []
    for height in axes[2]:
        layer = np.column_stack([sheet, np.full(len(sheet), height)])
        kept.append(layer[look.behind(layer)])
    return np.concatenate(kept)


def _smoothed(field: np.ndarray, told: np.ndarray, low: np.ndarray, cell_m: float) -> np.ndarray:
    """Mean over neighbours; what is thin goes, what is told comes back."""
    mean = _mean(field)
    return _stamped(np.where(mean < _FILLED, 0.0, mean), told, low, cell_m)


def _mean(field: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.uniform_filter(field, size=3, mode="constant"))


def _stamped(field: np.ndarray, told: np.ndarray, low: np.ndarray, cell_m: float) -> np.ndarray:
    """Ones in the cells in which points are told to be inside."""
    x, y, z = np.floor((told - low) / cell_m).astype(int).T
    field[x, y, z] = 1.0
    return field


class _Look:
    """What views, and what is drawn into them, say of points."""

    def __init__(self, solid: Gaussians, views: PosedImages, skin_m: float) -> None:
        self.cameras = views.cameras
        with torch.no_grad():
            made = rasterize(solid, views.cameras)
        self._drawn = made.alpha.numpy() > _SEEN
        self._depth = made.depth.numpy()
        if skin_m > 0.0:
            for view, camera in enumerate(views.cameras):
                self._thicken(view, skin_m, float(camera.K[0, 0]))
        self._mask, self._known = views.mask.numpy() > _SEEN, views.known.numpy() > 0.5

    def _thicken(self, view: int, skin_m: float, focal_px: float) -> None:
        """Balls around the centres end nearer to the camera, and beside them in the image."""
        depth = np.where(self._drawn[view], self._depth[view], np.inf)
        if not self._drawn[view].any():
            return
        reach_px = round(skin_m * focal_px / float(np.median(depth[self._drawn[view]])))
        self._depth[view] = ndimage.minimum_filter(depth, size=2 * reach_px + 1) - skin_m
        self._drawn[view] = np.isfinite(self._depth[view])

    def on_object(self, points: np.ndarray) -> np.ndarray:
        """Points that no view sees beside the object, shape (M,), bool."""
        return self._asked(points, lambda view, at, depth: self._mask[view][at])

    def behind(self, points: np.ndarray) -> np.ndarray:
        """Points that all views which see them take for inside, and at least one does, (M,)."""
        return self._asked(
            points,
            lambda view, at, depth: (
                self._mask[view][at] & self._drawn[view][at] & (depth > self._depth[view][at])
            ),
        )

    def _asked(self, points: np.ndarray, ask: _Ask) -> np.ndarray:
        good, told = np.ones(len(points), bool), np.zeros(len(points), bool)
        for view, camera in enumerate(self.cameras):
            left = np.flatnonzero(good)
            pixels, depth = camera.project(points[left])
            pixels = np.nan_to_num(pixels, nan=-9.0)
            column, row = np.rint(pixels).astype(int).T
            at = (row.clip(0, camera.height - 1), column.clip(0, camera.width - 1))
            here = camera.visible(pixels) & self._known[view][at]
            good[left] = ~here | ask(view, at, depth)
            told[left] |= here
        return good & told
