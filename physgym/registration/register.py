"""Where an object's nodes are in a cloud: rigid where that explains the cloud, else bent.

Shapes: N nodes, S springs, M cloud points.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.frames import apply_T
from physgym.registration.body import Body
from physgym.registration.rigid import (
    RigidFit,
    best_rigid,
    fit_rigid,
    noise_gap_m,
    turn_angle_rad,
)
from physgym.registration.rope import rope_starts, tube_radius_m
from physgym.registration.shape import ShapeFit, checked_springs, fit_shape
from physgym.registration.surface import Cloud, Surface, checked_points, even_cloud, find_surface

if TYPE_CHECKING:
    from physgym.sim.contact import GroundPlane

__all__ = ["Registration", "RegistrationWarning", "register"]

# Fits that are right end below half of this: ropes and sheets bend and do not stretch.
_STRAIN_WARNING = {"rope": 0.02, "sheet": 0.03, "volume": 0.08}
_TAIL = 1.6  # nine tenths of a normal error are within 2.4 times its median; less, half is flatness
_UNEXPLAINED_WARNING = 0.1  # share of the cloud that is nowhere near the object
_KINDS = ("rope", "sheet", "volume")


class RegistrationWarning(UserWarning):
    """A registration that may be wrong: a gap, a strain, or a second pose as good."""


@dataclass(frozen=True, eq=False)
class Registration:
    """Where the nodes are.

    Attributes:
        position: nodes [m], shape (N, 3), float32.
        T_world_object: the rigid motion from the rest shape that comes nearest, shape (4, 4).
        deformed: whether the shape is another than at rest.
        gap_m: mean distance from the cloud to the nearest outer node; of the order of a third of
            the spacing where the fit is perfect.
        rms_m: root mean square of the same.
        misfit_m: median distance from the cloud to the surface between the nodes: of the order of
            the cloud's noise where the fit is perfect.
        unexplained: share of the cloud that is over one spacing and three times the noise off that
            surface.
        strain_rms: of the springs; 0 of a rigid fit.
        second_T_world_object: the best other pose: turned by over 20 degrees against the one taken,
            of a rope in the other direction, shape (4, 4).
        second_cost_ratio: its cost over that of the one taken, 1 or more; infinite if none is.
        warnings: what speaks against it, in words; the same as were warned of.
    """

    position: np.ndarray
    T_world_object: np.ndarray
    deformed: bool
    gap_m: float
    rms_m: float
    misfit_m: float
    unexplained: float
    strain_rms: float
    second_T_world_object: np.ndarray
    second_cost_ratio: float
    warnings: tuple[str, ...] = ()

    @property
    def ambiguous(self) -> bool:
        """Whether the second pose explains the cloud nearly as well (within a quarter)."""
        return self.second_cost_ratio < 1.25


@dataclass(frozen=True, eq=False)
class _Found:
    """One way to place the nodes."""

    position: np.ndarray
    deformed: bool
    misfit_m: float
    strain_rms: float
    second_T: np.ndarray
    second_ratio: float


def register(
    points: np.ndarray,
    edges: np.ndarray,
    rest_length_m: np.ndarray,
    cloud: np.ndarray,
    *,
    kind: str,
    deform: bool | None = None,
    up: Sequence[float] | np.ndarray | None = (0.0, 0.0, 1.0),
    ground: GroundPlane | None = None,
    surface_mask: np.ndarray | None = None,
    noise_m: float = 0.003,
    radius_m: float | None = None,
) -> Registration:
    """Find where an object's nodes are in a partial cloud of it.

    Args:
        points: nodes at rest [m], shape (N, 3); of a rope in order along it.
        edges: springs as pairs of nodes, shape (S, 2).
        rest_length_m: of the springs [m], shape (S,).
        cloud: what cameras saw of it, and of nothing else [m], shape (M, 3).
        kind: ``"rope"``, ``"sheet"`` or ``"volume"``.
        deform: True bends, False does not; None bends ropes and sheets, and volumes that no rigid
            motion brings onto the cloud within its noise.
        up: the vertical, about which turns are tried first; None tries turns of all kinds.
        ground: what no node of a bent object goes below.
        surface_mask: which nodes can be seen, shape (N,); None finds out.
        noise_m: standard deviation of the cloud; 3 mm suits a D435 at half a metre.
        radius_m: of a rope, whose nodes are on its centre line; None estimates it.

    Returns:
        Where the nodes are, and how good that is.

    Raises:
        DataError: if points, springs or cloud cannot be used.

    Warns:
        RegistrationWarning: if the cloud is not explained, springs are strained beyond what bending
            does, or another pose is as good.
    """
    points = checked_points(points, "points", least=4)
    cloud = checked_points(cloud, "cloud", least=20)
    if kind not in _KINDS:
        raise DataError(f"kind {kind!r}", where="kind", expected=" or ".join(_KINDS))
    if not noise_m > 0:
        raise DataError(f"{noise_m} m", where="noise_m", expected="above zero, such as 0.003")
    surface = find_surface(points, kind=kind, mask=surface_mask)
    thin = even_cloud(cloud, max(0.5 * surface.spacing_m, 1e-4))
    body = Body(points, *checked_springs(edges, rest_length_m, len(points)), ground)
    if kind == "rope" and deform is not False:
        found = _bend_rope(body, surface, thin, cloud, radius_m)
    else:
        axis = None if up is None else np.asarray(up, dtype=np.float64)
        topple = kind == "volume" or deform is False
        rigid = fit_rigid(surface, thin, up=axis, noise_m=noise_m, topple=topple)
        found = _rigid_found(points, rigid)
        fits = rigid.tail_m <= _TAIL * noise_gap_m(surface, noise_m)
        if deform or (deform is None and (kind == "sheet" or not fits)):
            found = _bend(body, surface, thin, rigid, kind)
    return _assess(found, points, surface, cloud, kind=kind, noise_m=noise_m)


def _rigid_found(points: np.ndarray, fit: RigidFit) -> _Found:
    return _Found(
        apply_T(fit.T_world_object, points),
        False,
        fit.gap_m,
        0.0,
        fit.second_T_world_object,
        fit.second_cost_m / max(fit.cost_m, 1e-9),
    )


def _bend(body: Body, surface: Surface, cloud: Cloud, rigid: RigidFit, kind: str) -> _Found:
    """From the best pose, and from the second where it is nearly as good."""
    poses = [rigid.T_world_object]
    if rigid.ambiguous:
        poses.append(rigid.second_T_world_object)
    fits = fit_shape(
        body, surface, cloud, kind=kind, starts=[apply_T(pose, body.rest) for pose in poses]
    )
    if len(fits) > 1:
        return _found(body, surface, fits)
    ratio = rigid.second_cost_m / max(rigid.cost_m, 1e-9)
    best, other = fits[0], rigid.second_T_world_object
    return _Found(best.position, True, best.gap_m, best.strain_rms, other, ratio)


def _bend_rope(
    body: Body, surface: Surface, thin: Cloud, cloud: np.ndarray, radius_m: float | None
) -> _Found:
    """Along the cloud's line in both directions; of equals the one that is nearer to the rest."""
    starts = rope_starts(body.rest, thin.points, thin.cell_m)
    starts.sort(key=lambda start: float(np.linalg.norm(start - body.rest, axis=1).sum()))
    if radius_m is None:
        first = fit_shape(body, surface, thin, kind="rope", starts=starts[:1])[0]
        radius_m = tube_radius_m(first.position, cloud)
    fits = fit_shape(body, surface, thin, kind="rope", starts=starts, radius_m=radius_m)
    # Both directions explain a rope alike but for its rest shape: a tenth is chance.
    if fits[0].start == 1 and fits[1].cost_m < 1.1 * fits[0].cost_m:
        fits.reverse()
    return _found(body, surface, fits)


def _found(body: Body, surface: Surface, fits: list[ShapeFit]) -> _Found:
    best, second = fits
    apart = float(np.linalg.norm(best.position - second.position, axis=1).mean())
    ratio = float("inf")  # two starts that end in one place are one pose
    if apart > 0.5 * surface.spacing_m:
        ratio = max(1.0, second.cost_m / max(best.cost_m, 1e-9))
    other = _nearest_rigid(body.rest, second.position)
    return _Found(best.position, True, best.gap_m, best.strain_rms, other, ratio)


def _assess(
    found: _Found,
    points: np.ndarray,
    surface: Surface,
    cloud: np.ndarray,
    *,
    kind: str,
    noise_m: float,
) -> Registration:
    distance, _ = cKDTree(found.position[surface.index]).query(cloud)
    far = surface.spacing_m + 3.0 * noise_m
    unexplained = float((distance > far).mean())
    pose = _nearest_rigid(points, found.position)
    notes = []
    if unexplained > _UNEXPLAINED_WARNING:
        notes.append(
            f"{100 * unexplained:.0f} % of the cloud is over {1e3 * far:.0f} mm off the object: "
            "check the mask, and that it is this object"
        )
    if found.strain_rms > _STRAIN_WARNING[kind]:
        notes.append(
            f"springs are strained by {100 * found.strain_rms:.1f} % (rms): the shape was "
            "probably not found, or it is another object"
        )
    if found.second_ratio < 1.25:
        turn = np.rad2deg(turn_angle_rad(pose, found.second_T))
        notes.append(
            f"another pose, turned by {turn:.0f} degrees, explains the cloud as well "
            f"(cost ratio {found.second_ratio:.2f})"
        )
    for note in notes:
        warnings.warn(note, RegistrationWarning, stacklevel=5)
    return Registration(
        position=found.position.astype(np.float32),
        T_world_object=pose,
        deformed=found.deformed,
        gap_m=float(distance.mean()),
        rms_m=float(np.sqrt((distance**2).mean())),
        misfit_m=found.misfit_m,
        unexplained=unexplained,
        strain_rms=found.strain_rms,
        second_T_world_object=found.second_T,
        second_cost_ratio=found.second_ratio,
        warnings=tuple(notes),
    )


def _nearest_rigid(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    turn, shift = best_rigid(start[None], end, np.ones((1, len(start))))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn[0], shift[0]
    return pose
