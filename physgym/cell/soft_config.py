"""What the soft cell is made of: the body, the cameras and the grippers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from physgym.cell.depth_noise import DepthNoiseConfig
from physgym.errors import DataError

__all__ = ["INTERACTIONS", "KINDS", "SoftCellConfig"]

KINDS = ("block", "toy", "rope", "cloth")
"""Bodies that the soft cell can hold."""

INTERACTIONS = ("lift", "stretch", "push", "squeeze", "fold", "drop")
"""Scripted interactions that `SoftCell.record` plays."""

# Size [m], spacing [m], Young's modulus [Pa], Poisson's ratio, density [kg/m^3], damping [s].
# Moduli and densities are those of soft upholstery foam (block), a stuffed plush (toy), braided
# cotton rope as bending sees it, and woven cotton; the order of magnitude is what matters here.
_DEFAULTS: dict[str, tuple[tuple[float, float, float], float, float, float, float, float]] = {
    "block": ((0.14, 0.10, 0.08), 0.02, 3e4, 0.3, 120.0, 0.02),
    "toy": ((0.15, 0.12, 0.18), 0.02, 2e4, 0.25, 100.0, 0.02),
    "rope": ((0.45, 0.012, 0.012), 0.015, 3e5, 0.3, 700.0, 0.05),
    "cloth": ((0.30, 0.30, 0.002), 0.02, 1e5, 0.2, 150.0, 0.02),
}


@dataclass(frozen=True)
class SoftCellConfig:
    """A soft body on a table, RGB-D cameras around it, one or two free grippers above it.

    Fields of the body that are None take the kind's default (`resolved`).

    Attributes:
        kind: ``"block"`` (tetrahedra in a grid), ``"toy"`` (a closed seated figure of
            tetrahedra), ``"rope"`` (a discrete elastic rod) or ``"cloth"`` (a triangle shell).
        size_m: extent along x, y, z. A rope's is length, diameter, diameter; a cloth's third is
            its thickness; a toy is cut flat below and fills most of it.
        spacing_m: distance between neighbouring vertices, the resolution of the physics.
        young_pa: Young's modulus. A rope does not stretch: there it is seen by bending only.
        poisson: Poisson's ratio, from 0 to below 0.5.
        density_kg_m3: mass over volume.
        damping_s: Rayleigh damping, the time by which stress runs ahead with the strain rate.
        friction: Coulomb friction with table and grippers.
        rolling_friction: what resists a rope's rolling about its own axis, over its weight times
            its radius. At 0 it rolls like a steel bar and nothing holds it sideways; the tail of a
            rope that is lifted then swings far round. Rope of fibres lies flat and hardly rolls.
        start_height_m: gap under the body at reset; 0 starts it settled on the table, anything
            else at rest in the air, not deformed.
        gripper_count: 1 or 2.
        jaw_half_m: half sizes x, y, z of the box between the jaws; closing holds the vertices in
            it. None takes what suits the kind.
        camera_count: cameras, evenly spaced around the table; the first looks along +x.
        camera_width: image width in pixels.
        camera_height: image height in pixels.
        camera_fov_deg: horizontal field of view; a D435's colour camera has 69.
        camera_distance_m: from each camera to the point it looks at. None takes what shows the
            whole kind.
        camera_elevation_deg: of each camera above the table, seen from that point.
        look_at_m: the point all cameras look at.
        shadows: draw shadows; software rendering takes about twice as long.
        depth_noise: what the depth camera does to depth; None for exact depth.
        texture_seed: seed of the body's texture.
        timestep_s: step of the physics, integrated implicitly; 1/240 s fits 30 and 60 fps.
    """

    kind: str = "toy"
    size_m: tuple[float, float, float] | None = None
    spacing_m: float | None = None
    young_pa: float | None = None
    poisson: float | None = None
    density_kg_m3: float | None = None
    damping_s: float | None = None
    friction: float = 0.8
    rolling_friction: float = 0.2
    start_height_m: float = 0.0
    gripper_count: int = 2
    jaw_half_m: tuple[float, float, float] | None = None
    camera_count: int = 3
    camera_width: int = 640
    camera_height: int = 480
    camera_fov_deg: float = 65.0
    camera_distance_m: float | None = None
    camera_elevation_deg: float = 40.0
    look_at_m: tuple[float, float, float] = (0.0, 0.0, 0.10)
    shadows: bool = False
    depth_noise: DepthNoiseConfig | None = None
    texture_seed: int = 0
    timestep_s: float = 1 / 240

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            DataError: naming the field that is out of range.
        """
        if self.kind not in KINDS:
            raise _bad("kind", self.kind, f"one of {', '.join(KINDS)}")
        for name in ("young_pa", "density_kg_m3", "spacing_m", "damping_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise _bad(name, value, "a finite number above zero")
        if self.poisson is not None and not 0 <= self.poisson < 0.5:
            raise _bad("poisson", self.poisson, "at least 0 and below 0.5")
        for name in ("size_m", "jaw_half_m"):
            sides = getattr(self, name)
            if sides is not None and not (len(sides) == 3 and min(sides) > 0):
                raise _bad(name, sides, "three lengths above zero")
        if not 0 <= self.start_height_m <= 1:
            raise _bad("start_height_m", self.start_height_m, "from 0 to 1 m")
        if not 0 <= self.friction <= 2:
            raise _bad("friction", self.friction, "from 0 to 2")
        if not 0 <= self.rolling_friction <= 1:
            raise _bad("rolling_friction", self.rolling_friction, "from 0 to 1")
        if self.gripper_count not in (1, 2):
            raise _bad("gripper_count", self.gripper_count, "1 or 2")
        if not 1e-4 <= self.timestep_s <= 5e-3:
            raise _bad("timestep_s", self.timestep_s, "from 0.0001 to 0.005 s")
        self._check_cameras()
        self._check_resolution()

    def _check_cameras(self) -> None:
        if not 1 <= self.camera_count <= 8:
            raise _bad("camera_count", self.camera_count, "from 1 to 8")
        size = (self.camera_width, self.camera_height)
        if min(size) < 16 or max(size) > 1920:
            raise _bad("camera_width, camera_height", size, "from 16 to 1920 pixels")
        if not 20 <= self.camera_fov_deg <= 120:
            raise _bad("camera_fov_deg", self.camera_fov_deg, "from 20 to 120 degrees")
        if not 0.2 <= self.camera_distance <= 3:
            raise _bad("camera_distance_m", self.camera_distance, "from 0.2 to 3 m")
        if not 5 <= self.camera_elevation_deg <= 85:
            raise _bad("camera_elevation_deg", self.camera_elevation_deg, "from 5 to 85 degrees")

    def _check_resolution(self) -> None:
        size, spacing = self.size, self.spacing
        along = {"rope": size[:1], "cloth": size[:2]}.get(self.kind, size)
        if any(side < 1.5 * spacing for side in along):
            raise _bad("spacing_m", spacing, f"at most two thirds of the sides {along}")
        if math.prod(side / spacing + 1 for side in along) > 6000:
            raise _bad("spacing_m", spacing, "coarser: over 6000 vertices do not run here")

    @property
    def size(self) -> tuple[float, float, float]:
        """Extent along x, y, z [m]."""
        return self.size_m or _DEFAULTS[self.kind][0]

    @property
    def spacing(self) -> float:
        """Distance between neighbouring vertices [m]."""
        return self.spacing_m or _DEFAULTS[self.kind][1]

    @property
    def young(self) -> float:
        """Young's modulus [Pa]."""
        return self.young_pa or _DEFAULTS[self.kind][2]

    @property
    def poisson_ratio(self) -> float:
        """Poisson's ratio."""
        return _DEFAULTS[self.kind][3] if self.poisson is None else self.poisson

    @property
    def density(self) -> float:
        """Mass over volume [kg/m^3]."""
        return self.density_kg_m3 or _DEFAULTS[self.kind][4]

    @property
    def damping(self) -> float:
        """Rayleigh damping [s]."""
        return self.damping_s or _DEFAULTS[self.kind][5]

    @property
    def camera_distance(self) -> float:
        """From each camera to the point it looks at [m]."""
        return self.camera_distance_m or {"rope": 0.6, "cloth": 0.55}.get(self.kind, 0.5)

    @property
    def jaw_half(self) -> tuple[float, float, float]:
        """Half sizes of the box in which closing jaws hold vertices [m]."""
        if self.jaw_half_m:
            return self.jaw_half_m
        reach = max(0.02, 1.01 * self.spacing)
        if self.kind in ("rope", "cloth"):
            return (reach, reach, reach)
        return (reach, max(0.45 * self.size[1], reach), max(0.022, reach))


def _bad(field: str, value: object, expected: str) -> DataError:
    return DataError(
        f"{field} is {value}",
        where=f"SoftCellConfig.{field}",
        expected=expected,
        fix=f"pass another {field}; all units are SI (metres, kilograms, pascals, seconds)",
    )
