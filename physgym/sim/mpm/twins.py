"""A continuum object as a Twin, and the model, parameters and solver of such a twin.

Parameters of a twin of dynamics ``mpm``, besides the fields of `MpmParameters` that its material
uses (0-d or (P,)): ``particle_volume_m3`` (P,), ``spacing_m``, ``elastic_law`` and ``return_map``
(positions in `ElasticLaw` and `ReturnMap`: linear, neo-hookean, fixed-corotated, stvk, fluid; none,
von-mises, drucker-prager, herschel-bulkley), ``gravity_m_per_s2`` (3,), of the recording it was
made from ``start_velocity_m_per_s`` (3,) and ``start_spin_rad_per_s`` (3,), and where there are any
``heterogeneity`` (P,), ``driven_mass_factor``, ``domain_m`` (2, 3), ``surface_position_m`` (M, 3),
``ground_normal`` (3,) with ``ground_offset_m``, ``friction``, ``ground_condition`` (`Condition`)
and, where it was fitted, ``ground_gap_m``: how far under the ground the plane is that stops the
filled body, with a layer of grid nodes on it. How it is handled: ``grip_radius_m``,
``pusher_friction``. Weights of the stress adapter and of the heterogeneity field are its residual
(``adapter.*``, ``heterogeneity.*``).
Shapes: P particles, M surface points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from physgym.errors import DataError, TwinError
from physgym.frames import matrix_from_quat_wxyz
from physgym.sim.mpm.collider import Collider, Condition, Plane
from physgym.sim.mpm.material import ElasticLaw, Material, ReturnMap
from physgym.sim.mpm.model import MpmModel, MpmParameters
from physgym.sim.mpm.solver import MpmSolver
from physgym.twin import Kind, Twin

if TYPE_CHECKING:
    from physgym.sim.mpm.heterogeneity import HeterogeneityField
    from physgym.sim.mpm.stress_adapter import StressAdapter
    from physgym.sim.solver import Solver

__all__ = [
    "MpmParts",
    "mpm_of",
    "solver_of_mpm",
    "turned_residual",
    "twin_of_mpm",
]

_ON_PLANE = 1e-4  # of a cell
_ADAPTER, _FIELD = "adapter.", "heterogeneity."
# What says how a body is gripped, seen and started, not how it moves by itself.
_HANDLING = ("grip_radius_m", "pusher_friction", "surface_position_m")


@dataclass(frozen=True, eq=False)
class MpmParts:
    """What the solver of a twin is made of.

    Attributes:
        model: particles, material, ground.
        parameters: of one world.
        adapter: correction of the stress, or None.
        start_velocity_m_per_s: of the centre, in the recording that the twin was made from, (3,).
        start_spin_rad_per_s: about the centre, in that recording, shape (3,).
    """

    model: MpmModel
    parameters: MpmParameters
    adapter: StressAdapter | None
    start_velocity_m_per_s: np.ndarray
    start_spin_rad_per_s: np.ndarray

    @property
    def keeps_total_deformation(self) -> bool:
        """Whether F tells where points between particles are: not of what yields or flows."""
        material = self.model.material
        return material.return_map is ReturnMap.NONE and material.law is not ElasticLaw.FLUID

    def solver(self, *, worlds: int = 1, device: str = "auto", **options: Any) -> Solver:
        """The solver, with the adapter where there is one.

        Args:
            worlds: B.
            device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            **options: of `MpmSolver`.

        Returns:
            A solver of B worlds.
        """
        plain = MpmSolver(self.model, self.parameters, worlds=worlds, device=device, **options)
        if self.adapter is None:
            return plain
        from physgym.sim.mpm.adapted_solver import AdaptedMpmSolver

        return AdaptedMpmSolver(plain, self.adapter)


def twin_of_mpm(
    *,
    name: str,
    kind: Kind,
    method: str,
    model: MpmModel,
    parameters: MpmParameters,
    adapter: StressAdapter | None = None,
    field: HeterogeneityField | None = None,
    start_velocity_m_per_s: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    start_spin_rad_per_s: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    surface_position_m: np.ndarray | None = None,
    handling: Mapping[str, float] | None = None,
    ground_gap_m: float | None = None,
    **notes: Any,
) -> Twin:
    """Make a twin of a continuum object.

    Args:
        name: what people call it.
        kind: ``"volume"``, ``"sheet"`` or ``"rope"``.
        method: which method identified it.
        model: particles, material and at most one boundary, a plane: the ground.
        parameters: of one world; ``heterogeneity`` holds the factors that ``field`` gave.
        adapter: correction of the stress.
        field: what the factors were learned as; kept so that learning can go on.
        start_velocity_m_per_s: of the centre in the recording it was made from, shape (3,).
        start_spin_rad_per_s: angular velocity about the centre in that recording, shape (3,).
        surface_position_m: points to show that are no particles, at rest [m], shape (M, 3).
        handling: ``grip_radius_m`` [m], how far a gripper's points reach, and ``pusher_friction``.
        ground_gap_m: how far under the ground the plane and a layer of nodes are that stop the
            filled body; None leaves plane and grid where they are, and a boundary that acts on
            nodes acts in steps of a whole cell.
        **notes: ``uncertainty``, ``provenance``, ``metrics``, ``validity`` of `Twin`.

    Returns:
        The twin.

    Raises:
        TwinError: if the model has boundaries other than one plane, or a frozen stress operator.
        DataError: if the parameters do not fit the model or are impossible.
    """
    parameters.check(model, 1)
    if parameters.stress_operator is not None:
        raise TwinError(
            "a stress operator",
            where=f"twin_of_mpm {name}: parameters.stress_operator",
            expected="None: a twin keeps the adapter that makes it",
            fix="pass the adapter",
        )
    values: dict[str, Any] = {
        "particle_volume_m3": model.volume_m3,
        "spacing_m": np.array(float(model.spacing_m)),
        "elastic_law": np.array(model.material.law.kernel_kind, np.int64),
        "return_map": np.array(model.material.return_map.kernel_kind, np.int64),
        "gravity_m_per_s2": np.array(model.gravity_m_per_s2, np.float64),
        "start_velocity_m_per_s": np.array(start_velocity_m_per_s, np.float64),
        "start_spin_rad_per_s": np.array(start_spin_rad_per_s, np.float64),
        **{key: _stored(getattr(parameters, key)) for key in model.material.used},
        **_ground_values(model, parameters, name),
        **{key: np.array(float(value)) for key, value in (handling or {}).items()},
    }
    if parameters.heterogeneity.numel() > 1 or float(parameters.heterogeneity) != 1.0:
        factor = parameters.heterogeneity.detach().cpu().expand(1, model.particle_count)
        values["heterogeneity"] = factor[0].numpy()
    if len(model.driven_index):
        values["driven_mass_factor"] = np.array(float(model.driven_mass_factor))
    if model.domain_m is not None:
        values["domain_m"] = np.array(model.domain_m, np.float64)
    if ground_gap_m is not None and model.colliders:
        values["ground_gap_m"] = np.array(float(ground_gap_m))
    if surface_position_m is not None:
        values["surface_position_m"] = np.asarray(surface_position_m)
    weights: dict[str, np.ndarray] = {}
    for part in (adapter, field):
        weights |= {} if part is None else part.to_arrays()
    twin = Twin(
        name=name, kind=kind, dynamics="mpm", method=method, rest_position=model.rest_position,
        driven_index=model.driven_index.astype(np.int64), parameters=values, residual=weights,
        **notes,
    )  # fmt: skip
    mpm_of(twin)
    return twin


def _stored(value: torch.Tensor) -> np.ndarray:
    """A parameter of one world as a twin keeps it: 0-d, or (P,)."""
    array = value.detach().cpu().numpy()[0]
    return np.array(array[0] if array.shape == (1,) else array)


def _ground_values(model: MpmModel, parameters: MpmParameters, name: str) -> dict[str, np.ndarray]:
    if not model.colliders:
        return {}
    ground = model.colliders[0]
    if len(model.colliders) > 1 or not isinstance(ground.shape, Plane):
        raise TwinError(
            f"{len(model.colliders)} boundaries, the first a {type(ground.shape).__name__}",
            where=f"twin_of_mpm {name}: model.colliders",
            expected="one plane, the ground, or none: other boundaries belong to a scene",
            fix="take them out of the model",
        )
    normal = matrix_from_quat_wxyz(ground.quat_wxyz)[:, 2]  # where z of the plane's frame points
    return {
        "ground_normal": normal,
        "ground_offset_m": np.array(float(normal @ np.array(ground.position_m))),
        "ground_condition": np.array(ground.condition.value, np.int64),
        "friction": _stored(parameters.friction),
    }


def mpm_of(twin: Twin) -> MpmParts:
    """Model, parameters and adapter of a twin.

    Args:
        twin: of dynamics ``mpm``.

    Returns:
        Its parts.

    Raises:
        TwinError: naming the parameter, if one is missing, misshapen, unknown or impossible.
    """
    values = {k: v for k, v in twin.parameters.items() if k not in _HANDLING}
    try:
        material = Material(
            _member(twin, ElasticLaw, values.pop("elastic_law")),
            _member(twin, ReturnMap, values.pop("return_map")),
        )
        if material.damped:
            values.setdefault("viscosity_pa_s", np.array(0.0))  # of twins made before solids had it
        used = {name: _tensor(values.pop(name)) for name in material.used}
        colliders: tuple[Collider, ...] = ()
        lattice = (0.0, 0.0, 0.0)
        if "ground_normal" in values:
            colliders = (_ground(twin, values),)
            lattice = _lattice(values, colliders[0])
            used["friction"] = _tensor(values.pop("friction"))
        if "heterogeneity" in values:
            used["heterogeneity"] = _tensor(values.pop("heterogeneity"))
        velocity = _sized(twin, values, "start_velocity_m_per_s", (3,))
        spin = _sized(twin, values, "start_spin_rad_per_s", (3,))
        model = _model(twin, values, material, colliders, lattice)
        parameters = MpmParameters(**used)
        parameters.check(model, 1)
    except KeyError as error:
        raise _wrong(twin, str(error.args[0]), "the parameter is missing") from error
    except (TypeError, ValueError) as error:
        raise _wrong(twin, "", f"a parameter is misshapen: {error}") from error
    except DataError as error:
        raise _as_twin_error(twin, error, "parameters") from error
    if values:
        expected = "the parameters that physgym.sim.mpm.twins lists, of this material only"
        raise _wrong(twin, min(values), "an unknown parameter", expected)
    return MpmParts(model, parameters, _adapter_of(twin), velocity, spin)


def _model(
    twin: Twin,
    values: dict[str, np.ndarray],
    material: Material,
    colliders: tuple[Collider, ...],
    lattice_m: tuple[float, float, float],
) -> MpmModel:
    gravity = _sized(twin, values, "gravity_m_per_s2", (3,))
    more: dict[str, Any] = {}
    if "driven_mass_factor" in values:
        more["driven_mass_factor"] = float(values.pop("driven_mass_factor"))
    if "domain_m" in values:
        low, high = _sized(twin, values, "domain_m", (2, 3)).tolist()
        more["domain_m"] = (tuple(low), tuple(high))
    return MpmModel(
        twin.rest_position,
        _sized(twin, values, "particle_volume_m3", (twin.node_count,)),
        float(values.pop("spacing_m")),
        material,
        colliders,
        driven_index=twin.driven_index,
        gravity_m_per_s2=(float(gravity[0]), float(gravity[1]), float(gravity[2])),
        lattice_m=lattice_m,
        **more,
    )


def _sized(
    twin: Twin, values: dict[str, np.ndarray], key: str, shape: tuple[int, ...]
) -> np.ndarray:
    value = values.pop(key)
    if value.shape != shape:
        raise _wrong(twin, key, f"shape {value.shape}", f"{shape}")
    return np.array(value, np.float64)


def _tensor(value: np.ndarray) -> torch.Tensor:
    """A stored parameter as (1, 1) or (1, P), in its own precision."""
    return torch.as_tensor(np.array(value)).reshape(1, -1)


def _member(twin: Twin, choices: Any, value: np.ndarray) -> Any:
    members = list(choices)
    index = int(value)
    if value.dtype.kind != "i" or not 0 <= index < len(members):
        name = {ElasticLaw: "elastic_law", ReturnMap: "return_map", Condition: "ground_condition"}
        listed = ", ".join(f"{i} {m.name.lower()}" for i, m in enumerate(members))
        raise _wrong(twin, name[choices], f"{value.dtype} {value}", f"an integer: {listed}")
    return members[index]


def _ground(twin: Twin, values: dict[str, np.ndarray]) -> Collider:
    normal = np.asarray(values.pop("ground_normal"), np.float64)
    offset_m = float(values.pop("ground_offset_m"))
    condition = _member(twin, Condition, values.pop("ground_condition"))
    if normal.shape != (3,):
        raise _wrong(twin, "ground_normal", f"shape {normal.shape}", "(3,)")
    x, y, z = (float(c) for c in normal)
    if "ground_gap_m" in values:
        # Nodes on the plane count as inside whatever the last digit of their height says.
        offset_m += _ON_PLANE * float(values["spacing_m"]) - float(values["ground_gap_m"])
    return Collider.ground(offset_m, normal=(x, y, z), condition=condition)


def _lattice(values: dict[str, np.ndarray], ground: Collider) -> tuple[float, float, float]:
    """A node under the ground by the gap that was fitted; the world's origin without one."""
    if values.pop("ground_gap_m", None) is None:
        return (0.0, 0.0, 0.0)
    normal = matrix_from_quat_wxyz(ground.quat_wxyz)[:, 2]
    node = np.array(ground.position_m) - _ON_PLANE * float(values["spacing_m"]) * normal
    return (float(node[0]), float(node[1]), float(node[2]))


def _adapter_of(twin: Twin) -> StressAdapter | None:
    unknown = [key for key in twin.residual if not key.startswith((_ADAPTER, _FIELD))]
    if unknown:
        raise TwinError(
            f"unknown weights {min(unknown)!r}",
            where=f"twin {twin.name}: residual",
            expected=f"names that begin with {_ADAPTER!r} or {_FIELD!r}",
            fix="reconstruct the twin with this version",
        )
    arrays = {key: value for key, value in twin.residual.items() if key.startswith(_ADAPTER)}
    if not arrays:
        return None
    from physgym.sim.mpm.stress_adapter import StressAdapter

    try:
        return StressAdapter.from_arrays(arrays)
    except DataError as error:
        raise _as_twin_error(twin, error, "residual") from error


def turned_residual(twin: Twin, turn: np.ndarray) -> dict[str, np.ndarray]:
    """The weights of a twin whose rest shape is turned: material axes turn with the matter.

    Args:
        twin: of dynamics ``mpm``.
        turn: rotation, shape (3, 3).

    Returns:
        The residual of the turned twin; factors of a field belong to particles and stay.
    """
    adapter = _adapter_of(twin)
    if adapter is None:
        return dict(twin.residual)
    return {**twin.residual, **adapter.turned(torch.as_tensor(turn)).to_arrays()}


def solver_of_mpm(twin: Twin, *, worlds: int, device: str, **options: Any) -> Solver:
    """Build the solver of a twin.

    Args:
        twin: of dynamics ``mpm``.
        worlds: B.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        **options: of `MpmSolver`; ``substeps_per_frame`` is its ``substeps``.

    Returns:
        A solver of B worlds.

    Raises:
        TwinError: if a parameter is missing, misshapen, unknown or impossible.
    """
    if "substeps_per_frame" in options:
        options = {**options, "substeps": options["substeps_per_frame"]}
        del options["substeps_per_frame"]
    return mpm_of(twin).solver(worlds=worlds, device=device, **options)


def _wrong(twin: Twin, key: str, what: str, expected: str = "") -> TwinError:
    return TwinError(
        what,
        where=f"twin {twin.name}: parameters" + (f"[{key!r}]" if key else ""),
        expected=expected or "the parameters that physgym.sim.mpm.twins lists",
        fix="reconstruct the twin with this version",
    )


def _as_twin_error(twin: Twin, error: DataError, group: str) -> TwinError:
    where = f"twin {twin.name}, {group}: {error.where}"
    return TwinError(error.what, where=where, expected=error.expected, fix=error.fix)
