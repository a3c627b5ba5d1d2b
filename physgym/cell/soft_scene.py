"""The soft cell as MJCF, and the calibration of its cameras.

It needs MuJoCo 4: the ``discrete`` integrator, which integrates flex elasticity implicitly, and
elastic constants that are what their names say (changelog 4.0, item 11).
"""

from __future__ import annotations

import math

import numpy as np

from physgym.camera import PinholeCamera
from physgym.cell.soft_body import SoftBody
from physgym.cell.soft_config import SoftCellConfig
from physgym.cell.soft_surface import RopeSurface, SheetSurface

__all__ = ["FINGER_HALF_M", "OPEN_M", "TABLE_HALF_M", "build_cameras", "build_soft_mjcf"]

TABLE_HALF_M = (0.6, 0.5, 0.02)
"""Half sizes of the table top; its upper side is z = 0."""

FINGER_HALF_M = (0.012, 0.006, 0.030)
"""Half sizes of a finger; the jaw's centre is 1 cm above the fingertips."""

OPEN_M = 0.11
"""Gap between open fingers."""

_FLOOR_Z_M = -0.75
# The gripper's motion is prescribed; with this mass no soft body turns it aside within a step.
_GRIPPER_MASS_KG = 100.0


def build_cameras(config: SoftCellConfig) -> tuple[PinholeCamera, ...]:
    """Cameras on a circle around the table, looking at one point.

    Args:
        config: how many, how far, how wide.

    Returns:
        Cameras ``cam0``, ``cam1``, ... in order of their azimuth; ``cam0`` is behind the table
        (at -x), looking along +x.
    """
    focal_px = 0.5 * config.camera_width / math.tan(0.5 * math.radians(config.camera_fov_deg))
    K = np.array(
        [
            [focal_px, 0, 0.5 * (config.camera_width - 1)],
            [0, focal_px, 0.5 * (config.camera_height - 1)],
            [0, 0, 1],
        ]
    )
    rise = math.radians(config.camera_elevation_deg)
    cameras = []
    for index in range(config.camera_count):
        azimuth = math.pi + 2 * math.pi * index / config.camera_count
        out = np.array(
            [
                math.cos(rise) * math.cos(azimuth),
                math.cos(rise) * math.sin(azimuth),
                math.sin(rise),
            ]
        )
        forward = -out
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        T_world_cam = np.eye(4)
        T_world_cam[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        T_world_cam[:3, 3] = np.array(config.look_at_m) + config.camera_distance * out
        cameras.append(
            PinholeCamera(
                name=f"cam{index}",
                serial=f"sim{index:06d}",
                width=config.camera_width,
                height=config.camera_height,
                K=K,
                T_world_cam=T_world_cam,
            )
        )
    return tuple(cameras)


def build_soft_mjcf(
    config: SoftCellConfig,
    body: SoftBody,
    surface: SheetSurface | RopeSurface,
    cameras: tuple[PinholeCamera, ...],
) -> str:
    """Write the scene.

    Args:
        config: the cell.
        body: the soft body at rest.
        surface: what is drawn of it.
        cameras: their calibration.

    Returns:
        MJCF text that refers to the assets ``body.png`` and ``table.png``. Vertex i of the body is
        the MuJoCo body ``soft_i``; the drawn surface is a skin whose vertices the renderer sets.
    """
    return f"""<mujoco model="soft cell">
{_settings(config, body)}
  <worldbody>
    <light pos="0.3 -0.4 1.6" dir="-0.2 0.25 -1" diffuse="0.55 0.55 0.55" specular="0 0 0"
           castshadow="{str(config.shadows).lower()}"/>
    <geom name="floor" type="plane" pos="0 0 {_FLOOR_Z_M}" size="4 4 0.1" material="floor"
          contype="0" conaffinity="0"/>
    <geom name="table" type="box" pos="0 0 {-TABLE_HALF_M[2]}"
          size="{_text(TABLE_HALF_M)}" material="table" friction="{config.friction}"
          contype="0" conaffinity="1" solref="0.01 1"/>
    <body name="skin_frame"/>
{"".join(_camera(camera) for camera in cameras)}
{"".join(_gripper(index, config) for index in range(config.gripper_count))}
{_flex(config, body)}
  </worldbody>
  <deformable>
{_skin(surface)}
  </deformable>
  <equality>
{_grips(config, len(body.vertices))}
  </equality>
</mujoco>"""


def _settings(config: SoftCellConfig, body: SoftBody) -> str:
    shadow = 2048 if config.shadows else 0
    # Conjugate gradients are twice as fast on these meshes, Newton on the stiff rod. The limit of
    # iterations also caps the smooth solve, which thin tetrahedra bring to some two hundred.
    solver = "Newton" if body.dim == 1 else "CG"
    return f"""  <option timestep="{config.timestep_s}" integrator="discrete" solver="{solver}"
          tolerance="1e-6" iterations="1000" gravity="0 0 -9.81"/>
  <statistic extent="1" center="0 0 0.1"/>
  <visual>
    <global offwidth="{config.camera_width}" offheight="{config.camera_height}"/>
    <quality shadowsize="{shadow}" offsamples="0"/>
    <map znear="0.02" zfar="8"/>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.25 0.25 0.25" specular="0 0 0"/>
  </visual>
  <asset>
    <texture name="body" type="2d" file="body.png"/>
    <texture name="table" type="2d" file="table.png"/>
    <material name="body" texture="body" specular="0.05" shininess="0.1"/>
    <material name="table" texture="table" texuniform="true" texrepeat="3 3" specular="0"/>
    <material name="gripper" rgba="0.16 0.20 0.45 1" specular="0.1"/>
    <material name="floor" rgba="0.35 0.36 0.38 1" specular="0"/>
  </asset>"""


def _skin(surface: SheetSurface | RopeSurface) -> str:
    """Topology and texture of the drawn surface, on a body that never moves."""
    count = len(surface.texcoord)
    return f"""    <skin name="surface" material="body" vertex="{_text(np.zeros(3 * count))}"
          texcoord="{_text(surface.texcoord)}" face="{_text(surface.faces)}">
      <bone body="skin_frame" bindpos="0 0 0" bindquat="1 0 0 0"
            vertid="{_text(np.arange(count))}" vertweight="{_text(np.ones(count))}"/>
    </skin>"""


def _camera(camera: PinholeCamera) -> str:
    """MuJoCo's camera looks along -z with y up."""
    turn = camera.T_world_cam[:3, :3]
    fovy_deg = math.degrees(2 * math.atan(0.5 * camera.height / camera.K[1, 1]))
    return (
        f'    <camera name="{camera.name}" pos="{_text(camera.position)}" '
        f'xyaxes="{_text(turn[:, 0])} {_text(-turn[:, 1])}" fovy="{fovy_deg!r}"/>\n'
    )


def _gripper(index: int, config: SoftCellConfig) -> str:
    """Two fingers under a palm under a forearm; the frame's origin lies between the fingers."""
    tip = FINGER_HALF_M[2] - 0.01  # height of the fingers' centre over the jaw's
    palm = tip + FINGER_HALF_M[2] + 0.012
    plain = 'material="gripper" contype="0" conaffinity="0"'
    fingers = "".join(
        f'      <geom name="finger{index}_{side}" type="box" size="{_text(FINGER_HALF_M)}" '
        f'pos="0 {sign * (0.5 * OPEN_M + FINGER_HALF_M[1])} {tip}" {plain} '
        f'friction="{config.friction}" solref="0.01 1"/>\n'
        for side, sign in (("left", 1), ("right", -1))
    )
    return f"""    <body name="gripper{index}" pos="0 0 1" gravcomp="1">
      <freejoint name="gripper{index}"/>
      <inertial pos="0 0 0" mass="{_GRIPPER_MASS_KG}" diaginertia="1 1 1"/>
{fingers}
      <geom name="palm{index}" type="box" size="0.016 0.068 0.012" pos="0 0 {palm}" {plain}/>
      <geom name="forearm{index}" type="capsule" size="0.016" {plain}
            fromto="0 0 {palm + 0.02} 0 0 {palm + 0.30}"/>
    </body>
"""


def _flex(config: SoftCellConfig, body: SoftBody) -> str:
    """The body itself, in group 4, which the cameras do not draw."""
    # Folded cloth and crossing rope touch themselves; solids here do not reach around.
    selfcollide = "none" if body.dim == 3 else "auto"
    shell = f'thickness="{2 * body.radius_m}" elastic2d="both"' if body.dim == 2 else ""
    # So stiff that a rope's edges stay within 0.3 % of their length when it is folded in a second.
    stretch = '<edge equality="true" solref="0.002 1" solimp="0.98 0.995 0.001"/>'
    stretch = stretch if body.dim == 1 else ""
    return f"""    <flexcomp name="soft" type="direct" dim="{body.dim}" radius="{body.radius_m}"
              mass="{_text(body.vertex_mass_kg.sum())}" point="{_text(body.vertices)}"
              element="{_text(body.elements)}" group="4">
      <contact contype="1" conaffinity="1" condim="3" friction="{config.friction}"
               solref="0.01 1" selfcollide="{selfcollide}"/>
      {stretch}
      <elasticity young="{config.young}" poisson="{config.poisson_ratio}"
                  damping="{config.damping}" {shell}/>
    </flexcomp>"""


def _grips(config: SoftCellConfig, vertex_count: int) -> str:
    """One constraint for every vertex and gripper; closing activates those between the jaws."""
    return "\n".join(
        f'    <connect name="grip{gripper}_{vertex}" body1="soft_{vertex}" '
        f'body2="gripper{gripper}" anchor="0 0 0" active="false" solref="0.008 1" '
        f'solimp="0.95 0.99 0.001"/>'
        for gripper in range(config.gripper_count)
        for vertex in range(vertex_count)
    )


def _text(values: object) -> str:
    return " ".join(repr(value) for value in np.asarray(values).ravel().tolist())
