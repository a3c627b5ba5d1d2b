"""The MuJoCo model of the cell, written as MJCF.

MuJoCo 4 no longer has the `composite` element nor the cable plugin, so the cable is an explicit
chain; the same text loads in MuJoCo 3.3 and later.
"""

from __future__ import annotations

import math

from physgym.cell.config import JOINT_NAMES, CellConfig

__all__ = ["CAMERAS", "GRIPPER_MASS_KG", "build_mjcf"]

CAMERAS = ("front", "side", "top")
"""Names of the cameras of the scene."""

GRIPPER_MASS_KG = 1.0
"""Mass of each gantry axis triple, jaws included; its weight is compensated."""

# The right jaws are the chain's last body. Their mass and inertia make the weld that closes the
# loop stiff: MuJoCo regularises a constraint by the inverse inertia of the bodies it joins.
_JAW_MASS_KG = 0.3
_JAW_INERTIA_KG_M2 = 1e-3
# 300 rad/s: the gantry follows its setpoint within 7 ms, and the physics step resolves it.
_GANTRY_RATE_PER_S = 300.0

_VISUAL = """
  <visual>
    <global offwidth="1280" offheight="960" fovy="45"/>
    <quality shadowsize="2048" offsamples="4"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.45 0.45 0.45" specular="0.1 0.1 0.1"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="0.92 0.94 0.97" rgb2="0.62 0.68 0.76"
             width="64" height="384"/>
    <texture name="grid" type="2d" builtin="checker" rgb1="0.78 0.74 0.68" rgb2="0.72 0.68 0.62"
             width="256" height="256"/>
    <material name="table" texture="grid" texrepeat="8 8" reflectance="0.05"/>
    <material name="cable" rgba="0.85 0.25 0.10 1"/>
    <material name="gripper" rgba="0.20 0.24 0.30 1"/>
    <material name="mast" rgba="0.55 0.58 0.62 0.35"/>
  </asset>"""


def build_mjcf(config: CellConfig) -> str:
    """Write the scene.

    Args:
        config: cable and gantries.

    Returns:
        MJCF text. The cable starts straight, its left end in the left gripper's frame, lying
        along -y; joints of the gantries are world coordinates of the gripper frames.
    """
    reach = config.length_m
    step, clamp = config.timestep_s, config.clamp_length_m
    stiffness = GRIPPER_MASS_KG * _GANTRY_RATE_PER_S**2
    damping = 2 * GRIPPER_MASS_KG * _GANTRY_RATE_PER_S
    force = config.force_limit_n
    actuators = "".join(
        f'\n    <position name="{name}" joint="{name}" kp="{stiffness}" kv="{damping}" '
        f'forcelimited="true" forcerange="{-force} {force}"/>'
        for name in JOINT_NAMES
    )
    left, right = (
        _gripper(side, inner) for side, inner in (("left", _cable(config)), ("right", ""))
    )
    # The dense Jacobian is twice as fast for a chain of this size.
    return f"""<mujoco model="physgym cell">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{step}" integrator="implicitfast" jacobian="dense" gravity="0 0 -9.81">
    <flag energy="enable"/>
  </option>{_VISUAL}
  <worldbody>
    <light pos="-0.8 0.6 {1.5 + reach}" dir="0.35 -0.25 -1" diffuse="0.6 0.6 0.6"/>
    <camera name="front" pos="{1.35 * reach} 0 {0.85 * reach}" xyaxes="0 1 0 -0.25 0 1"/>
    <camera name="side" pos="{1.0 * reach} {-1.0 * reach} {0.9 * reach}"
            xyaxes="0.707 0.707 0 -0.25 0.25 1"/>
    <camera name="top" pos="0 0 {2.4 * reach}" xyaxes="0 -1 0 1 0 0"/>
    <geom name="table" type="box" size="{0.6 * reach} {0.8 * reach} 0.02" pos="0 0 -0.02"
          material="table" contype="1" conaffinity="1" friction="0.6 0.005 0.0001"/>
{left}{right}
  </worldbody>
  <actuator>{actuators}
  </actuator>
  <equality>
    <weld body1="right" body2="tail" relpose="0 {clamp} 0 1 0 0 0" solref="{2 * step} 1"
          solimp="0.9999 0.9999 0.001"/>
  </equality>
</mujoco>"""


def _gripper(side: str, inner: str) -> str:
    joints = "".join(
        f'<joint name="{side}_{axis}" type="slide" axis="{vector}"/>'
        for axis, vector in (("x", "1 0 0"), ("y", "0 1 0"), ("z", "0 0 1"))
    )
    off = 'contype="0" conaffinity="0"'
    outward = 0.018 if side == "left" else -0.018
    mass = GRIPPER_MASS_KG - (0.0 if side == "left" else _JAW_MASS_KG)
    return f"""
    <body name="{side}" gravcomp="1">{joints}
      <geom type="box" size="0.018 0.026 0.016" pos="0 {outward} 0.02" mass="{mass}"
            material="gripper" {off}/>
      <geom type="cylinder" fromto="0 {outward} 0.03 0 {outward} 0.8" size="0.008" mass="0"
            material="mast" {off}/>{inner}
    </body>"""


def _cable(config: CellConfig) -> str:
    """The chain, from the clamp in the left gripper to the clamp that is welded to the right."""
    line_density = config.mass_kg / config.length_m
    clamp, segment = config.clamp_length_m, config.segment_length_m

    def capsule(length: float) -> str:
        # Touches the table (bit 1) and nothing else: neither grippers nor itself.
        return (
            f'<geom type="capsule" fromto="0 0 0 0 {-length} 0" size="{config.radius_m}" '
            f'mass="{line_density * length}" material="cable" contype="2" conaffinity="1" '
            f'condim="3" friction="0.6 0.005 0.0001"/>'
        )

    chain = ""
    for index in reversed(range(config.segment_count + 1)):
        last = index == config.segment_count
        name = "tail" if last else f"segment_{index}"
        # A hinge stands for the cable half way to its neighbours: at a clamp that is half a
        # segment, since the clamped side does not bend.
        share = segment / 2 if index == 0 or last else segment
        start = clamp if index == 0 else segment
        opening = f'<body name="{name}" pos="0 {-start} 0"' + (' gravcomp="1">' if last else ">")
        content = _jaws(config) + capsule(clamp) if last else capsule(segment)
        chain = f"\n      {opening}{_hinges(name, config, share)}{content}{chain}</body>"
    return capsule(clamp) + chain


def _jaws(config: CellConfig) -> str:
    """Inertia of the right jaws, about the end of the cable that they hold."""
    inertia = _JAW_INERTIA_KG_M2
    return (
        f'<inertial pos="0 {-config.clamp_length_m} 0" mass="{_JAW_MASS_KG}" '
        f'diaginertia="{inertia} {inertia} {inertia}"/>'
    )


def _hinges(name: str, config: CellConfig, share_m: float) -> str:
    """Bending about x and z and twist about y of the piece of cable that a hinge stands for."""
    area_moment = math.pi * config.radius_m**4 / 4  # m^4; the polar moment is twice this
    ratio = config.twist_modulus_pa / config.bending_modulus_pa
    bend = config.bending_modulus_pa * area_moment / share_m  # N m / rad
    bend_damping = config.damping_pa_s * area_moment / share_m  # N m s / rad
    rest = config.natural_curvature_per_m * share_m
    rows = (
        ("bend_x", "1 0 0", bend, bend_damping, 0.0),
        ("bend_z", "0 0 1", bend, bend_damping, rest),
        ("twist", "0 1 0", 2 * ratio * bend, 2 * ratio * bend_damping, 0.0),
    )
    return "".join(
        f'<joint name="{name}_{kind}" type="hinge" axis="{axis}" stiffness="{stiffness}" '
        f'damping="{damping}" springref="{spring}"/>'
        for kind, axis, stiffness, damping, spring in rows
    )
