"""From a twin to the solver that simulates it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.errors import TwinError
from physgym.sim.solver import Solver
from physgym.twin import Twin

if TYPE_CHECKING:
    from physgym.sim.contact import GroundPlane, SelfCollision
    from physgym.sim.spring_mass import ForceLaw, SpringMassModel, SpringMassParameters

__all__ = ["build_solver", "law_code", "network_of"]

_NETWORK_SCALARS = ("stiffness_n", "dashpot_ns_per_m", "drag_per_s", "restitution", "friction")
# What each law of a ground asks for, by the law's number, and what it is where nothing asks for it.
_OF_LAW: tuple[dict[str, np.ndarray], ...] = (
    {"restitution": np.array(0.0), "friction": np.array(0.0)},
    {"tangential_factor": np.array(1.0)},
)
# Elastic laws by their number in the parameter ``force_law``; without it the law is the first.
_LAWS = ("strain", "hooke", "soft", "power")
# What says how a network starts, is gripped and is seen, not how it moves by itself.
_HANDLING = (
    "bending_length_m",
    "grip_radius_m",
    "grip_neighbours",
    "grip_stiffness_ratio",
    "length_exponent",
    "pusher_friction",
    "spacing_m",
    "start_spin_rad_per_s",
    "start_velocity_m_per_s",
    "surface_position_m",
)


def build_solver(twin: Twin, *, worlds: int = 1, device: str = "auto", **options: Any) -> Solver:
    """Build the solver of a twin's dynamics.

    Args:
        twin: the twin.
        worlds: B.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        **options: passed to the solver (``substeps_per_frame``, ``safety``, ``threads``).

    Returns:
        A solver of B worlds.

    Raises:
        TwinError: if this version knows no such dynamics.
    """
    if twin.dynamics == "spring_mass":
        return _spring_mass(twin, worlds, device, options)
    if twin.dynamics == "mpm":
        from physgym.sim.mpm.twins import solver_of_mpm

        return solver_of_mpm(twin, worlds=worlds, device=device, **options)
    if twin.dynamics == "rod":
        from physgym.sim.rod import RodModel, RodParameters, RodSolver

        values = dict(twin.parameters)
        gravity = values.pop("gravity_m_per_s2", (0.0, 0.0, -9.81))
        model = RodModel(
            node_count=len(twin.rest_position),
            driven_index=tuple(int(i) for i in twin.driven_index),
            gravity_m_per_s2=(float(gravity[0]), float(gravity[1]), float(gravity[2])),
        )
        parameters = RodParameters.from_mapping(values, where=twin.name)
        return RodSolver(model, parameters, worlds=worlds, device=device, **options)
    raise TwinError(
        f"dynamics {twin.dynamics!r}",
        where=f"twin {twin.name}: twin.json, field dynamics",
        expected="'mpm', 'rod' or 'spring_mass'",
        fix="reconstruct the twin with this version",
    )


def _spring_mass(twin: Twin, worlds: int, device: str, options: dict[str, Any]) -> Solver:
    from physgym.sim.spring_mass import SpringMassSolver

    model, parameters = network_of(twin)
    if "substeps_per_frame" in options:
        options = {**options, "substeps": options["substeps_per_frame"]}
        del options["substeps_per_frame"]
    return SpringMassSolver(model, parameters, worlds=worlds, device=device, **options)


def law_code(law: ForceLaw) -> int:
    """The number of an elastic law in a twin's parameter ``force_law``.

    Args:
        law: of the springs.

    Returns:
        0 strain, 1 hooke, 2 soft, 3 power.
    """
    return _LAWS.index(law.value)


def network_of(twin: Twin) -> tuple[SpringMassModel, SpringMassParameters]:
    """Model and parameters of a spring network; a driven node's own mass plays no part.

    Args:
        twin: of dynamics ``spring_mass``. ``force_law`` (a number, see `law_code`) and
            ``law_power`` are optional: PhysTwin's strain law where they are missing. So are
            ``spring_asymmetry``, shape (S,), which makes the model directed, and ``ground_law``
            (the number of a `physgym.sim.contact.GroundLaw`): where it is that of
            ``GroundLaw.FACTOR``, ``tangential_factor`` and ``factor_step_s`` take the place of
            friction and restitution.

    Returns:
        What `physgym.sim.spring_mass.SpringMassSolver` is made of.

    Raises:
        TwinError: if a parameter is missing, misshapen or unknown.
    """
    import torch

    from physgym.sim.spring_mass import SpringMassModel, SpringMassParameters

    values = {k: v for k, v in twin.parameters.items() if k not in _HANDLING}
    try:
        gravity = values.pop("gravity_m_per_s2")
        law, power = _law_of(twin, values)
        edges, length = values.pop("springs"), values.pop("spring_rest_length_m")
        # Springs of a sheet push or pull at rest; that is how it resists bending.
        natural = np.array(length) * (1.0 + np.array(values.pop("spring_preload", 0.0)))
        ratio, mass_kg = values.pop("log_stiffness_ratio"), float(values.pop("mass_kg"))
        directed = "spring_asymmetry" in values
        asymmetry = np.array(values.pop("spring_asymmetry", 0.0)).reshape(1, -1)
        ground, collision = _contacts(twin, values)
        one = {name: torch.tensor([float(values.pop(name))]) for name in _NETWORK_SCALARS}
        factor = torch.tensor([float(values.pop("tangential_factor"))])
    except (KeyError, IndexError, TypeError) as error:
        raise _parameter_error(twin, f"a parameter is missing or misshapen: {error}") from error
    if values:
        raise _parameter_error(twin, f"an unknown parameter {min(values)!r}")
    model = SpringMassModel(
        twin.rest_position,
        edges,
        driven_index=twin.driven_index,
        law=law,
        law_exponent=power,
        gravity_m_per_s2=(float(gravity[0]), float(gravity[1]), float(gravity[2])),
        ground=ground,
        self_collision=collision,
        directed=directed,
    )
    free = max(1, twin.node_count - len(twin.driven_index))
    return model, SpringMassParameters(
        log_stiffness=one["stiffness_n"].log() + torch.as_tensor(np.array(ratio))[None],
        rest_length_m=torch.as_tensor(natural)[None],
        dashpot_ns_per_m=one["dashpot_ns_per_m"][None],
        mass_kg=torch.full((1, twin.node_count), mass_kg / free),
        drag_per_s=one["drag_per_s"],
        restitution=one["restitution"],
        friction=one["friction"],
        tangential_factor=factor,
        asymmetry=torch.as_tensor(asymmetry),
    )


def _law_of(twin: Twin, values: dict[str, np.ndarray]) -> tuple[ForceLaw, float]:
    """Elastic law and exponent, taken out of the parameters."""
    from physgym.sim.spring_mass import ForceLaw

    code, power = int(values.pop("force_law", 0)), float(values.pop("law_power", 0.5))
    if not 0 <= code < len(_LAWS):
        raise _parameter_error(twin, f"force_law {code}, of {len(_LAWS)} that are known")
    return ForceLaw(_LAWS[code]), power


def _contacts(
    twin: Twin, values: dict[str, np.ndarray]
) -> tuple[GroundPlane | None, SelfCollision | None]:
    """What touches, taken out of the parameters; in them stay numbers for every law of a ground."""
    from physgym.sim.contact import GroundLaw, GroundPlane, SelfCollision

    ground, collision = None, None
    if "ground_normal" in values:
        normal, code = values.pop("ground_normal"), int(values.pop("ground_law", 0))
        if code not in {law.value for law in GroundLaw}:
            raise _parameter_error(twin, f"ground_law {code}, of {len(GroundLaw)} that are known")
        law = GroundLaw(code)
        idle = _OF_LAW[1 - code]
        if stray := idle.keys() & values.keys():
            raise _parameter_error(twin, f"{min(stray)!r} with a ground of law {law.name.lower()}")
        values |= idle
        step = {k: float(values.pop(k)) for k in ("factor_step_s",) if law is GroundLaw.FACTOR}
        ground = GroundPlane(
            (float(normal[0]), float(normal[1]), float(normal[2])),
            float(values.pop("ground_offset_m")),
            law,
            **step,
        )
    else:  # nothing to bounce off or to rub against
        values |= _OF_LAW[0] | _OF_LAW[1]
    if "collision_distance_m" in values:
        collision = SelfCollision(
            float(values.pop("collision_distance_m")),
            restitution=float(values.pop("collision_restitution")),
            friction=float(values.pop("collision_friction")),
        )
    return ground, collision


def _parameter_error(twin: Twin, what: str) -> TwinError:
    return TwinError(
        what,
        where=f"twin {twin.name}: parameters",
        expected="gravity_m_per_s2, springs, spring_rest_length_m, log_stiffness_ratio, mass_kg, "
        + ", ".join(_NETWORK_SCALARS)
        + " (the last two only with ground_normal and ground_offset_m, and tangential_factor and "
        "factor_step_s in their place with ground_law 1)",
        fix="reconstruct the twin with this version",
    )
