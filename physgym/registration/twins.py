"""Twins moved to where another recording has the object: `Twin.place` and `Twin.register`."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from physgym._twin_splats import placed_splats
from physgym.errors import TwinError
from physgym.frames import apply_T
from physgym.registration.register import Registration, RegistrationWarning, register
from physgym.twin import Twin

__all__ = ["place_twin", "register_twin"]

_RIGID_TOLERANCE = 1e-5  # poses pass through float32 and through YAML with 6 digits
# Directions that are fixed to the object: they turn with it. A rod's natural curvature does not, it
# is stated in the material's own directors, which `clamp_director` gives.
_TURNS = ("clamp_tangent", "clamp_director")
# Places on the object, beside its nodes.
_MOVES = ("surface_position_m",)
# Stated in the world, or no direction for all that their last axis may be three long.
_STAYS = (
    "gravity_m_per_s2",
    "ground_normal",
    "ground_offset_m",
    "rest_length_m",
    "bending_stiffness_nm2",
    "natural_curvature_rad",
    "springs",
    "spring_rest_length_m",
    "log_stiffness_ratio",
    "spring_asymmetry",
    "start_velocity_m_per_s",
    "start_spin_rad_per_s",
    "domain_m",
    "particle_volume_m3",
    "heterogeneity",
    "young_pa",
    "poisson_ratio",
    "density_kg_per_m3",
    "yield_stress_pa",
    "friction_angle_rad",
    "cohesion_strain",
    "viscosity_pa_s",
    "bulk_modulus_pa",
)


def place_twin(twin: Twin, T_world_object: np.ndarray) -> Twin:
    """Move a twin rigidly (`Twin.place`).

    Args:
        twin: the twin.
        T_world_object: shape (4, 4).

    Returns:
        The moved twin.

    Raises:
        TwinError: if the matrix is not rigid, or a parameter may be a direction that this version
            does not know how to turn.

    Warns:
        RegistrationWarning: if the twin has a learned residual and is turned.
    """
    pose = _rigid(T_world_object)
    turn = pose[:3, :3]
    parameters, uncertainty = dict(twin.parameters), dict(twin.uncertainty)
    for key, value in twin.parameters.items():
        if key in _TURNS:
            parameters[key] = (value.astype(np.float64) @ turn.T).astype(value.dtype)
            if key in uncertainty:  # exact for components that are independent of each other
                sigma = uncertainty[key].astype(np.float64)
                uncertainty[key] = np.sqrt(sigma**2 @ (turn**2).T).astype(uncertainty[key].dtype)
        elif key in _MOVES:
            parameters[key] = apply_T(pose, value).astype(value.dtype)
        elif key not in _STAYS and value.dtype.kind == "f" and value.shape[-1:] == (3,):
            raise TwinError(
                f"{key} of shape {value.shape} may hold directions or positions",
                where=f"twin {twin.name}: parameters[{key!r}]",
                expected="parameters that this version knows to turn or to leave",
                fix="place it with the version that made it",
            )
    residual = dict(twin.residual)
    if twin.dynamics == "mpm":
        from physgym.sim.mpm.twins import turned_residual

        residual = turned_residual(twin, turn)
    elif twin.residual and not np.allclose(turn, np.eye(3), atol=1e-3):
        warnings.warn(
            f"twin {twin.name} has a learned residual, which knows the object only as it lay "
            "when it was learned: turned, its corrections may be wrong",
            RegistrationWarning,
            stacklevel=3,
        )
    moved = apply_T(pose, twin.rest_position.astype(np.float64))
    return twin.replace(
        rest_position=moved,
        parameters=parameters,
        uncertainty=uncertainty,
        residual=residual,
        splats=placed_splats(twin.splats, pose),
    )


def register_twin(twin: Twin, cloud: np.ndarray, **options: Any) -> Registration:
    """Find a twin in a cloud (`Twin.register`).

    Args:
        twin: the twin.
        cloud: [m], shape (M, 3).
        **options: of `physgym.registration.register`.

    Returns:
        Where its nodes are.

    Raises:
        TwinError: if the twin has neither springs nor a chain of nodes, or is of particles and is
            to be bent.
        DataError: if the cloud cannot be used.
    """
    rest = twin.rest_position.astype(np.float64)
    if twin.dynamics == "mpm":
        return _register_particles(twin, rest, cloud, options)
    if twin.dynamics == "rod":
        node = np.arange(twin.node_count - 1)
        edges = np.stack([node, node + 1], axis=1)
        length = np.asarray(twin.parameters.get("rest_length_m", ()), dtype=np.float64)
        if length.shape != (len(edges),):  # one per world, or none: the rest shape has them
            length = np.linalg.norm(np.diff(rest, axis=0), axis=1)
    else:
        try:
            edges = np.array(twin.parameters["springs"])
            length = np.array(twin.parameters["spring_rest_length_m"])
        except KeyError as error:
            raise TwinError(
                f"no {error.args[0]}",
                where=f"twin {twin.name}: parameters",
                expected="springs and spring_rest_length_m",
                fix="reconstruct the twin with this version",
            ) from error
    options.setdefault("up", _up(twin))
    if "surface_mask" not in options and twin.dynamics != "rod" and len(twin.driven_index):
        options["surface_mask"] = _seen_mask(twin, rest)
    return register(rest, edges, length, cloud, kind=twin.kind, **options)


def _register_particles(
    twin: Twin, rest: np.ndarray, cloud: np.ndarray, options: dict[str, Any]
) -> Registration:
    """Rigidly: a body of particles has no springs that say how it bends."""
    if options.pop("deform", False):
        raise TwinError(
            "deform=True of a body of particles",
            where=f"twin {twin.name}: register",
            expected="deform=False or None: it is placed rigidly",
            fix="begin where the object has its rest shape",
        )
    options.setdefault("up", _up(twin))
    points = rest
    if "surface_position_m" in twin.parameters:  # particles lie inside of what cameras see
        points = twin.parameters["surface_position_m"].astype(np.float64)
        options.setdefault("surface_mask", np.ones(len(points), bool))
    # Rigidly placed points need no springs; `register` takes those to the nearest one.
    distance, near = cKDTree(points).query(points, k=2)
    edges = np.stack([np.arange(len(points)), near[:, 1]], axis=1)
    length = np.maximum(distance[:, 1], 1e-9)
    found = register(points, edges, length, cloud, kind=twin.kind, deform=False, **options)
    moved = apply_T(found.T_world_object, rest).astype(np.float32)
    return dataclasses.replace(found, position=moved)


def _up(twin: Twin) -> np.ndarray:
    gravity = np.asarray(twin.parameters.get("gravity_m_per_s2", (0.0, 0.0, -9.81)), np.float64)
    strength = float(np.linalg.norm(gravity))
    return -gravity / strength if strength > 0 else np.array([0.0, 0.0, 1.0])


def _seen_mask(twin: Twin, rest: np.ndarray) -> np.ndarray | None:
    """Outer nodes without driven points: those may be a hand's, which is not the object."""
    from physgym.registration.surface import find_surface

    free = np.setdiff1d(np.arange(len(rest)), twin.driven_index)
    if len(free) < 4:
        return None
    mask = np.zeros(len(rest), dtype=bool)
    mask[free[find_surface(rest[free], kind=twin.kind).index]] = True
    return mask


def _rigid(T_world_object: np.ndarray) -> np.ndarray:
    try:
        pose = np.asarray(T_world_object, dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.zeros(0)
    good = pose.shape == (4, 4) and bool(np.isfinite(pose).all())
    if good:
        turn = pose[:3, :3]
        good = (
            np.allclose(turn @ turn.T, np.eye(3), atol=_RIGID_TOLERANCE)
            and np.linalg.det(turn) > 0
            and np.array_equal(pose[3], [0, 0, 0, 1])
        )
    if not good:
        raise TwinError(
            f"no rigid transform: {pose.tolist()}",
            where="Twin.place: T_world_object",
            expected="a rotation and a shift in metres, shape (4, 4), last row 0 0 0 1",
            fix="springs would have other rest lengths: leave out scale, shear and mirroring",
        )
    # To the nearest rotation, so that lengths hold to the last digit.
    u, _, vt = np.linalg.svd(pose[:3, :3])
    exact = pose.copy()
    exact[:3, :3] = u @ vt
    return exact
