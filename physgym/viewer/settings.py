"""What the viewer's sliders change of a twin: gravity, ground and friction."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from physgym.errors import DataError
from physgym.surroundings import with_coulomb_ground
from physgym.twin import Twin

__all__ = ["Settings", "has_ground", "with_settings"]

_STANDARD_GRAVITY = 9.81
# Of physgym.sim.mpm.collider.Condition: a body may leave the ground and rubs against it.
_SEPARATE = 2
_OF_GROUND = (
    "ground_normal",
    "ground_offset_m",
    "ground_condition",
    "ground_law",
    "tangential_factor",
    "factor_step_s",
    "friction",
    "restitution",
)


@dataclass(frozen=True)
class Settings:
    """The world around a twin.

    Attributes:
        gravity_m_per_s2: strength of gravity, along the twin's own direction.
        ground_m: height of the ground against gravity; None where there is no ground.
        friction: Coulomb coefficient between the body and the ground.
    """

    gravity_m_per_s2: float
    ground_m: float | None
    friction: float

    def __post_init__(self) -> None:
        for name in ("gravity_m_per_s2", "ground_m", "friction"):
            value = getattr(self, name)
            if value is None and name == "ground_m":
                continue
            if not np.isfinite(value) or (name != "ground_m" and value < 0):
                raise DataError(
                    f"{name} = {value}", where="Settings", expected="a finite number, not negative"
                )

    @classmethod
    def of(cls, twin: Twin) -> Settings:
        """The world that the twin was made in.

        Args:
            twin: the twin.

        Returns:
            Its settings.
        """
        values = twin.parameters
        gravity = np.asarray(values.get("gravity_m_per_s2", (0.0, 0.0, -_STANDARD_GRAVITY)))
        ground_m = None
        if "ground_normal" in values:
            # A level ground: its offset along the normal is its height; a steep one keeps its tilt.
            ground_m = float(values["ground_offset_m"])
        friction = float(values["friction"]) if "friction" in values else 0.3
        return cls(float(np.linalg.norm(gravity)), ground_m, friction)

    def replace(self, **changes: float | None) -> Settings:
        """Other settings, checked.

        Args:
            **changes: fields by name.

        Returns:
            The new settings.

        Raises:
            DataError: if a value is impossible.
        """
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def has_ground(twin: Twin) -> bool:
    """Whether its physics knows a ground: a rod's does not.

    Args:
        twin: the twin.

    Returns:
        True if so.
    """
    return twin.dynamics != "rod"


def with_settings(twin: Twin, settings: Settings) -> Twin:
    """The twin in another world.

    Args:
        twin: the twin as made.
        settings: the world.

    Returns:
        The twin to simulate; the same object when nothing differs.

    Raises:
        DataError: if a ground is asked for that its physics does not know.
    """
    if settings == Settings.of(twin):
        return twin
    values = dict(twin.parameters)
    given = np.asarray(values.get("gravity_m_per_s2", (0.0, 0.0, -_STANDARD_GRAVITY)), np.float64)
    size = float(np.linalg.norm(given))
    down = given / size if size > 0 else np.array([0.0, 0.0, -1.0])
    values["gravity_m_per_s2"] = settings.gravity_m_per_s2 * down
    if settings.ground_m is None:
        for name in _OF_GROUND:
            values.pop(name, None)
    elif not has_ground(twin):
        raise DataError(
            f"a ground under {twin.dynamics} dynamics", where=f"twin {twin.name}", expected="none"
        )
    else:
        values.setdefault("ground_normal", -down)
        values["ground_offset_m"] = np.array(settings.ground_m)
        # A ground of Spring-Gaus's law has no coefficient: it stays until somebody asks for one.
        if "ground_law" not in values or settings.friction != Settings.of(twin).friction:
            values = with_coulomb_ground(values) | {"friction": np.array(settings.friction)}
        if twin.dynamics == "spring_mass" and "ground_law" not in values:
            values.setdefault("restitution", np.array(0.0))
        if twin.dynamics == "mpm":
            values.setdefault("ground_condition", np.array(_SEPARATE, np.int64))
    return twin.replace(parameters=values)
