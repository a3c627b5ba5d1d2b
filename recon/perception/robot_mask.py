"""Where a known robot hides the object: the arm drawn from its joint states into every camera.

Shapes: C cameras, T frames, J joints, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError, DeviceError
from physgym.frames import inverse_T, quat_wxyz_from_matrix
from recon.episode_motion import JointTrack

__all__ = ["robot_masks"]

# Calibration, joint offsets and lens distortion, which the drawing leaves out, move an edge by so
# much; a mask too large costs a rim of the object, one too small makes the robot part of it.
_GROW_PX = 4


def robot_masks(
    model_file: Path,
    joints: JointTrack,
    time_s: np.ndarray,
    cameras: Sequence[PinholeCamera],
    *,
    T_world_base: np.ndarray | None = None,
    grow_px: int = _GROW_PX,
) -> list[list[np.ndarray]]:
    """Draw a robot as it stood at every stamp.

    Args:
        model_file: its MJCF or URDF, base at the model's origin.
        joints: recorded joint states; names as in the model.
        time_s: of the frames [s], shape (T,).
        cameras: C calibrated cameras.
        T_world_base: pose of the model's origin; the world when None.
        grow_px: masks are grown by so many pixels.

    Returns:
        Masks, C of T of shape (H, W), bool: the robot, whatever else may stand before it.

    Raises:
        DataError: if the model cannot be read, or none of its joints was recorded.
        DeviceError: if there is no off-screen OpenGL.
    """
    from physgym.cell.rendering import choose_gl_backend

    choose_gl_backend()  # MuJoCo reads it when it is imported
    import mujoco

    base = np.eye(4) if T_world_base is None else np.asarray(T_world_base, np.float64)
    try:
        spec = mujoco.MjSpec.from_file(str(model_file))
        for index, camera in enumerate(cameras):
            _add_camera(spec, f"physgym{index}", camera, base)
        spec.visual.global_.offwidth = max(camera.width for camera in cameras)
        spec.visual.global_.offheight = max(camera.height for camera in cameras)
        model = spec.compile()
    except (ValueError, OSError, mujoco.FatalError) as error:
        raise DataError(
            f"{error}", where=str(model_file), expected="an MJCF or URDF that MuJoCo can load"
        ) from error
    address, values = _joint_values(model, joints, time_s, model_file)
    data = mujoco.MjData(model)
    kernel = np.ones((2 * grow_px + 1,) * 2, np.uint8)
    masks: list[list[np.ndarray]] = []
    for index, camera in enumerate(cameras):
        try:
            renderer = mujoco.Renderer(model, height=camera.height, width=camera.width)
        except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
            raise DeviceError(
                f"no off-screen OpenGL: {error}",
                where="robot_masks",
                expected="EGL or OSMesa (MUJOCO_GL=egl or MUJOCO_GL=osmesa)",
                fix="install Mesa's libEGL (Debian: libegl1)",
            ) from error
        renderer.enable_segmentation_rendering()
        drawn = []
        for now in values:
            data.qpos[address] = now
            mujoco.mj_kinematics(model, data)
            mujoco.mj_camlight(model, data)
            renderer.update_scene(data, camera=f"physgym{index}")
            solid = (renderer.render()[..., 0] >= 0).astype(np.uint8)
            drawn.append(cv2.dilate(solid, kernel).astype(bool) if grow_px else solid.astype(bool))
        renderer.close()
        masks.append(drawn)
    return masks


def _add_camera(spec: object, name: str, camera: PinholeCamera, base: np.ndarray) -> None:
    T = inverse_T(base) @ camera.T_world_cam
    # MuJoCo's camera looks along -z with y up, ours along z with y down.
    turn = T[:3, :3] @ np.diag([1.0, -1.0, -1.0])
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    size = [camera.width, camera.height]
    spec.worldbody.add_camera(  # type: ignore[attr-defined]
        name=name,
        pos=T[:3, 3],
        quat=quat_wxyz_from_matrix(turn),
        resolution=size,
        # Any sensor size will do: lengths in pixels are what is asked for.
        sensor_size=[1e-5 * camera.width, 1e-5 * camera.height],
        focal_pixel=[fx, fy],
        principal_pixel=[0.5 * (camera.width - 1) - cx, 0.5 * (camera.height - 1) - cy],
    )


def _joint_values(
    model: object, joints: JointTrack, time_s: np.ndarray, where: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Addresses in qpos (J,), and values at the stamps (T, J)."""
    import mujoco

    address, columns = [], []
    for j in range(model.njnt):  # type: ignore[attr-defined]
        joint = model.joint(j)  # type: ignore[attr-defined]
        kind = int(model.jnt_type[j])  # type: ignore[attr-defined]
        moves = kind in (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
        if not moves or joint.name not in joints.names:
            continue
        column = joints.position[:, joints.names.index(joint.name)]
        known = np.isfinite(column)
        if known.any():
            address.append(int(model.jnt_qposadr[j]))  # type: ignore[attr-defined]
            columns.append(np.interp(time_s, joints.time_s[known], column[known]))
    if not address:
        raise DataError(
            f"joints {list(joints.names)[:8]} were recorded",
            where=f"{where}: joints",
            expected="at least one of the model's joints, by its name",
            fix="use the model that published /joint_states",
        )
    return np.array(address), np.stack(columns, axis=1)
