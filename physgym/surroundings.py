"""The same object elsewhere: a twin under another gravity, over another ground."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from physgym.errors import TwinError
from physgym.twin import Twin

__all__ = ["surrounded", "with_coulomb_ground"]

_USUAL = {"friction": 0.5, "restitution": 0.0}  # of a ground that nobody has fitted


def surrounded(
    twin: Twin,
    *,
    gravity_m_per_s2: Sequence[float] | None = None,
    ground_m: float | None = None,
    friction: float | None = None,
) -> Twin:
    """A twin in other surroundings; what is None stays.

    Args:
        twin: of dynamics ``spring_mass`` or ``mpm``.
        gravity_m_per_s2: [m/s^2], 3 numbers.
        ground_m: height of a level ground, z up [m].
        friction: Coulomb coefficient of the ground; a twin whose ground has another law gets a
            ground of Coulomb's, without restitution.

    Returns:
        The twin; itself where nothing changes.

    Raises:
        TwinError: if a number makes no sense, or the twin has no such part.
    """
    if gravity_m_per_s2 is None and ground_m is None and friction is None:
        return twin
    values = dict(twin.parameters)
    if twin.dynamics == "rod":
        raise _wrong(twin, "a rod", "a twin of dynamics spring_mass or mpm")
    if gravity_m_per_s2 is not None:
        gravity = np.asarray(gravity_m_per_s2, np.float64)
        if gravity.shape != (3,) or not np.isfinite(gravity).all():
            raise _wrong(twin, f"gravity {gravity.tolist()}", "three finite numbers")
        values["gravity_m_per_s2"] = gravity
    if ground_m is not None:
        if not np.isfinite(ground_m):
            raise _wrong(twin, f"a ground at {ground_m} m", "a finite height")
        if "ground_normal" not in values and twin.dynamics == "mpm":
            raise _wrong(twin, "a continuum without a ground", "one that had a ground when made")
        if "ground_normal" not in values:
            values |= {key: np.array(value) for key, value in _USUAL.items()}
        values |= {
            "ground_normal": np.array([0.0, 0.0, 1.0]),
            "ground_offset_m": np.array(ground_m),
        }
    if friction is not None:
        if "ground_normal" not in values:
            raise _wrong(twin, "friction without a ground", "a height of the ground too")
        if not (np.isfinite(friction) and friction >= 0.0):
            raise _wrong(twin, f"friction {friction}", "0 or more")
        values = with_coulomb_ground(values)
        old = values["friction"]
        values["friction"] = np.full(old.shape, friction, old.dtype)
    kept = {k: v for k, v in twin.uncertainty.items() if friction is None or k != "friction"}
    return twin.replace(parameters=values, uncertainty=kept)


def with_coulomb_ground(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A network's parameters with a ground of Coulomb's law.

    Args:
        parameters: of a twin with a ground.

    Returns:
        As given where the law is Coulomb's already; else with friction and restitution in place of
        the factor.
    """
    if "ground_law" not in parameters:
        return parameters
    other = ("ground_law", "tangential_factor", "factor_step_s")
    kept = {k: v for k, v in parameters.items() if k not in other}
    return {key: np.array(value) for key, value in _USUAL.items()} | kept


def _wrong(twin: Twin, what: str, expected: str) -> TwinError:
    return TwinError(what, where=f"twin {twin.name}: surroundings", expected=expected)
