"""RGB, depth and masks of the soft cell, off screen."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.camera import PinholeCamera
from physgym.cell.rendering import choose_gl_backend
from physgym.errors import DeviceError

choose_gl_backend()
import mujoco  # noqa: E402 - MuJoCo reads MUJOCO_GL when it is imported.

__all__ = ["RgbdImage", "RgbdRenderer", "SoftFrame"]

_BODY_GROUP = 4  # of the flex, whose surface is drawn instead


@dataclass(frozen=True, eq=False)
class RgbdImage:
    """What one camera sees at one moment.

    Attributes:
        rgb: uint8, shape (H, W, 3).
        depth_m: along the optical axis, float32, shape (H, W), 0 where there is none.
        mask_object: pixels that show the soft body, bool, shape (H, W).
        mask_gripper: pixels that show a gripper, bool, shape (H, W).
    """

    rgb: np.ndarray
    depth_m: np.ndarray
    mask_object: np.ndarray
    mask_gripper: np.ndarray


@dataclass(frozen=True, eq=False)
class SoftFrame:
    """One moment of a recording.

    Attributes:
        time_s: since the start of the recording.
        images: one per camera, in the order of `SoftCell.cameras`.
        vertices: true positions of the body's vertices [m], shape (N, 3).
        surface: true positions of the drawn surface's vertices [m], shape (V, 3).
        gripper_position: jaw centres [m], shape (G, 3).
        gripper_quat_wxyz: orientations, shape (G, 4).
        gripper_closed: shape (G,), bool.
    """

    time_s: float
    images: tuple[RgbdImage, ...]
    vertices: np.ndarray
    surface: np.ndarray
    gripper_position: np.ndarray
    gripper_quat_wxyz: np.ndarray
    gripper_closed: np.ndarray


class RgbdRenderer:
    """Draws the scene. OpenGL stays with the thread that made the renderer.

    Args:
        model: the compiled scene.
        width: image width in pixels, the scene's ``offwidth`` at most.
        height: image height in pixels.

    Raises:
        DeviceError: if there is no off-screen OpenGL.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        self._model = model
        try:
            self._renderer: Any = mujoco.Renderer(model, height=height, width=width, max_geom=1000)
        except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
            raise DeviceError(
                f"no off-screen OpenGL: {error}",
                where="RgbdRenderer",
                expected="EGL or OSMesa (MUJOCO_GL=egl or MUJOCO_GL=osmesa)",
                fix="install Mesa's libEGL (Debian: libegl1) or run without pictures",
            ) from error
        self._thread = threading.get_ident()
        self._option = mujoco.MjvOption()
        self._option.flexgroup[_BODY_GROUP] = 0
        self._is_gripper = np.array(
            [
                model.geom(i).name.startswith(("finger", "palm", "forearm"))
                for i in range(model.ngeom)
            ]
        )
        scale = model.stat.extent
        self._near_m, self._far_m = model.vis.map.znear * scale, model.vis.map.zfar * scale

    def render(
        self,
        data: mujoco.MjData,
        camera: PinholeCamera,
        surface: np.ndarray,
        normals: np.ndarray,
    ) -> RgbdImage:
        """Take a picture.

        Args:
            data: poses of everything but the soft body.
            camera: one of the scene's cameras.
            surface: drawn vertices of the soft body [m], shape (V, 3).
            normals: their normals, shape (V, 3).

        Returns:
            The picture.

        Raises:
            DeviceError: if another thread made the renderer.
        """
        if threading.get_ident() != self._thread:
            raise DeviceError(
                "the cell's cameras belong to another thread",
                where="RgbdRenderer.render",
                expected="every picture taken in the thread that took the first one",
                fix="call render() from one thread, or close() the cell there first",
            )
        renderer = self._renderer
        renderer.update_scene(data, camera=camera.name, scene_option=self._option)
        scene = renderer.scene
        scene.skinvert[:] = surface.astype(np.float32).reshape(scene.skinvert.shape)
        scene.skinnormal[:] = normals.astype(np.float32).reshape(scene.skinnormal.shape)
        rgb = renderer.render()
        shape = rgb.shape[:2]
        colour, raw = np.empty((*shape, 3), np.uint8), np.empty(shape, np.float32)
        flags = scene.flags.copy()
        # One pass without lights gives depth and the identity of every pixel together.
        scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = True
        scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        context = renderer._mjr_context
        rect = mujoco.MjrRect(0, 0, shape[1], shape[0])
        mujoco.mjr_render(rect, scene, context)
        mujoco.mjr_readPixels(colour, raw, rect, context)
        np.copyto(scene.flags, flags)
        is_object, is_gripper = self._masks(scene, np.flipud(colour))
        return RgbdImage(rgb, self._metres(np.flipud(raw)), is_object, is_gripper)

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()

    def _masks(self, scene: Any, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number = colour[..., 0].astype(np.int32) + 256 * colour[..., 1].astype(np.int32)
        objects, grippers = np.zeros(65536, dtype=bool), np.zeros(65536, dtype=bool)
        for geom in scene.geoms[: scene.ngeom]:
            if geom.segid < 0:
                continue
            objects[geom.segid + 1] = geom.objtype == mujoco.mjtObj.mjOBJ_SKIN
            grippers[geom.segid + 1] = (
                geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and self._is_gripper[geom.objid]
            )
        return objects[number], grippers[number]

    def _metres(self, raw: np.ndarray) -> np.ndarray:
        """Metres from the depth buffer, whose zero is the far plane (reversed z).

        Clip depth is ``n (f - z) / (z (f - n))`` for near plane n and far plane f.
        """
        near, far = np.float32(self._near_m), np.float32(self._far_m)
        depth = near * far / (raw * (far - near) + near)
        return np.where(raw > 0, depth, np.float32(0.0))
