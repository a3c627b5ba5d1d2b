"""The same drop in MuJoCo: a second solver that is neither the twins' nor the finite elements."""

from __future__ import annotations

import math

import numpy as np

from physgym.cell.fem_bodies import TetBody
from physgym.cell.fem_material import FemMaterial
from physgym.cell.fem_recording import FrameKeeper, MotionRecording, check_scene, place
from physgym.cell.rendering import choose_gl_backend
from physgym.errors import BlowUpError, DataError, DeviceError

choose_gl_backend()
import mujoco  # noqa: E402 - MuJoCo reads MUJOCO_GL when it is imported.

__all__ = ["flex_drop"]

_GRAVITY = (0.0, 0.0, -9.81)


def flex_drop(
    body: TetBody,
    material: FemMaterial,
    *,
    height_m: float,
    quat_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0),
    velocity_m_per_s: tuple[float, float, float] = (0.0, 0.0, 0.0),
    frames: int = 30,
    fps: float = 60.0,
    friction: float = 0.3,
    timestep_s: float = 5e-4,
    name: str = "flex drop",
) -> MotionRecording:
    """Let a body fall onto the ground at z = 0, simulated by a MuJoCo flex.

    Its elasticity is Saint Venant-Kirchhoff's, which agrees with neo-Hookean at small strain and
    gives way where it is pressed hard, until elements turn inside out: drop stiff bodies from low.
    Its contact is soft, and nodes sink into the ground by some
    millimetres during the impact. Damping is MuJoCo's, with the same time. Time stepping is
    implicit, which takes some energy too.

    Args:
        body: at rest.
        material: isotropic and homogeneous.
        height_m: gap between the ground and the lowest node at first.
        quat_wxyz: initial rotation from the body's frame to the world.
        velocity_m_per_s: initial velocity.
        frames: how many, the first at time 0.
        fps: frames per second.
        friction: Coulomb coefficient of the ground.
        timestep_s: longest step of the physics.
        name: of the recording.

    Returns:
        The recording.

    Raises:
        DataError: if an argument is out of range or the material has fibres or a gradient.
        BlowUpError: if MuJoCo left the finite numbers or a tetrahedron turned inside out.
        DeviceError: if MuJoCo is older than 4.
    """
    _check_material(material)
    check_scene(
        frames=frames, fps=fps, height_m=height_m, quat_wxyz=quat_wxyz,
        velocity_m_per_s=velocity_m_per_s, friction=friction,
    )  # fmt: skip
    if not 1e-6 <= timestep_s <= 5e-3:
        raise DataError(
            f"timestep_s is {timestep_s}",
            where="flex_drop, timestep_s",
            expected="from 1e-6 to 5e-3 s",
            fix="pass another timestep_s",
        )
    steps = max(1, math.ceil(1 / fps / timestep_s))
    model = mujoco.MjModel.from_xml_string(_mjcf(body, material, friction, 1 / fps / steps))
    data = mujoco.MjData(model)
    bodies = model.flex_vertbodyid
    joint = model.body_jntadr[bodies]
    coordinate = model.jnt_qposadr[joint][:, None] + np.arange(3)
    speed = model.jnt_dofadr[joint][:, None] + np.arange(3)
    # MuJoCo gives every node an equal share; here it has the mass of the material around it.
    mass = material.density_kg_per_m3 * body.node_volume_m3
    model.body_inertia[bodies] *= (mass / model.body_mass[bodies])[:, None]
    model.body_mass[bodies] = mass
    mujoco.mj_setConst(model, data)
    data.qpos[coordinate] = place(body, quat_wxyz, height_m) - model.body_pos[bodies]
    data.qvel[speed] = velocity_m_per_s
    keeper = FrameKeeper(body, material, "mujoco flex")
    for index in range(frames):
        if index:
            mujoco.mj_step(model, data, nstep=steps)
        _check_finite(data, index * steps)
        mujoco.mj_kinematics(model, data)
        keeper.keep(index / fps, data.xpos[bodies], data.qvel[speed], substep=index * steps)
    return keeper.recording(
        name, quat_wxyz=quat_wxyz, height_m=height_m, velocity_m_per_s=velocity_m_per_s,
        gravity_m_per_s2=_GRAVITY, friction=friction,
    )  # fmt: skip


def _mjcf(body: TetBody, material: FemMaterial, friction: float, timestep_s: float) -> str:
    """A flex with a node's freedom each, over a plane; see `soft_scene` for the cell's own."""
    mass = material.density_kg_per_m3 * float(body.node_volume_m3.sum())
    # Twice the step is the stiffest contact that MuJoCo takes.
    contact = f'friction="{friction}" solref="{max(0.002, 2 * timestep_s)!r} 1"'
    return f"""<mujoco model="flex drop">
  <option timestep="{timestep_s!r}" integrator="discrete" solver="CG" tolerance="1e-8"
          iterations="1000" gravity="{_text(_GRAVITY)}"/>
  <worldbody>
    <geom name="ground" type="plane" size="5 5 0.1" contype="0" conaffinity="1" {contact}/>
    <flexcomp name="soft" type="direct" dim="3" radius="0" mass="{mass!r}"
              point="{_text(body.nodes)}" element="{_text(body.tets)}">
      <contact contype="1" conaffinity="1" condim="3" selfcollide="none" {contact}/>
      <elasticity young="{material.young_pa}" poisson="{material.poisson_ratio}"
                  damping="{material.damping_s}"/>
    </flexcomp>
  </worldbody>
</mujoco>"""


def _check_material(material: FemMaterial) -> None:
    if not material.isotropic or material.gradient_direction is not None:
        raise DataError(
            "a MuJoCo flex with fibres or a stiffness gradient",
            where="flex_drop, material",
            expected="an isotropic, homogeneous material",
            fix="use drop(), or a material with fibre_modulus_pa=0 and no gradient_direction",
        )
    if int(mujoco.__version__.split(".")[0]) < 4:
        raise DeviceError(
            f"MuJoCo {mujoco.__version__}",
            where="flex_drop",
            expected="MuJoCo 4 or newer, which integrates flexes implicitly",
            fix="pip install 'mujoco>=4'",
        )


def _check_finite(data: mujoco.MjData, step: int) -> None:
    if data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number or not np.isfinite(data.qpos).all():
        raise BlowUpError(
            "MuJoCo's flex blew up",
            world=0,
            node=0,
            substep=step,
            fix="lower timestep_s, the height or the stiffness",
        )


def _text(values: object) -> str:
    return " ".join(repr(value) for value in np.asarray(values).ravel().tolist())
