"""Finite elements under the cell's cameras: multi-view RGB-D episodes of bodies that fall.

MuJoCo's soft contact swallows an impact (`physgym.cell.soft`): a flex that falls sinks into the
table and hardly rebounds. Here the motion is that of `physgym.cell.finite_elements`, whose contact
is exact and whose stiffness may vary over the body, and only the pictures are the cell's.
Shapes: T frames, N nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.camera import PinholeCamera
from physgym.cell.depth_noise import add_depth_noise
from physgym.cell.fem_bodies import TetBody, tet_volumes
from physgym.cell.fem_material import FemMaterial
from physgym.cell.fem_recording import MotionRecording
from physgym.cell.fem_scenes import drop
from physgym.cell.soft_body import SoftBody, build_body
from physgym.cell.soft_config import SoftCellConfig
from physgym.cell.soft_render import RgbdImage, RgbdRenderer
from physgym.cell.soft_scene import build_cameras, build_soft_mjcf
from physgym.cell.soft_surface import SheetSurface, body_texture, build_surface, table_texture
from recon.capture.sources import Item, Picture, Source
from recon.tracks import Tracks

__all__ = ["Fall", "FallSource", "HalvesMaterial", "simulate_fall"]


@dataclass(frozen=True)
class HalvesMaterial(FemMaterial):
    """A body whose two halves along an axis differ in stiffness.

    Attributes:
        half_axis: 0 for x, 1 for y, 2 for z, of the body at rest.
        half_factors: on all stiffness of the lower and of the upper half.
    """

    half_axis: int = 0
    half_factors: tuple[float, float] = (1.0, 1.0)

    def stiffness_factor(self, points: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """See `FemMaterial.stiffness_factor`; a point in the middle has the mean of both."""
        along = nodes[:, self.half_axis]
        side = np.sign(points[:, self.half_axis] - 0.5 * (along.min() + along.max()))
        low, high = self.half_factors
        return np.asarray(0.5 * (low + high) + 0.5 * side * (high - low))


@dataclass(frozen=True)
class Fall:
    """A body that falls onto the table.

    Attributes:
        cell: shape, look and cameras; its own physics and its grippers are not used.
        material: of the body.
        height_m: gap under the body in frame 0.
        velocity_m_per_s: in frame 0.
        quat_wxyz: rotation in frame 0.
        friction: of the table.
        frames: T.
        fps: frames per second.
        seed: of the depth noise.
    """

    cell: SoftCellConfig
    material: FemMaterial
    height_m: float = 0.02
    velocity_m_per_s: tuple[float, float, float] = (0.0, 0.0, 0.0)
    quat_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    friction: float = 0.5
    frames: int = 30
    fps: float = 60.0
    seed: int = 0


def simulate_fall(fall: Fall) -> tuple[SoftBody, MotionRecording]:
    """The true motion.

    Args:
        fall: what falls.

    Returns:
        The cell's body at rest, and the motion of its vertices.

    Raises:
        DataError: if a field is out of range.
        BlowUpError: if a tetrahedron turned inside out.
    """
    body = build_body(fall.cell)
    surface = np.zeros(len(body.vertices), bool)
    surface[np.unique(body.faces)] = True
    volume = tet_volumes(body.vertices, body.elements)
    share = np.bincount(body.elements.ravel(), np.repeat(volume / 4, 4), len(body.vertices))
    tets = TetBody(fall.cell.kind, body.vertices, body.elements, body.faces, surface, share)
    motion = drop(
        tets,
        fall.material,
        height_m=fall.height_m,
        quat_wxyz=fall.quat_wxyz,
        velocity_m_per_s=fall.velocity_m_per_s,
        frames=fall.frames,
        fps=fall.fps,
        friction=fall.friction,
        name=f"{fall.cell.kind} fall",
    )
    return body, motion


@dataclass(eq=False)
class _Set:
    """The scene while it is filmed."""

    body: SoftBody
    surface: SheetSurface
    motion: MotionRecording
    cameras: tuple[PinholeCamera, ...]
    renderer: RgbdRenderer
    data: Any


class FallSource(Source):
    """A fall as a recording of RGB-D cameras, with the true motion of every node.

    Args:
        fall: what falls, under which cameras.
    """

    def __init__(self, fall: Fall) -> None:
        super().__init__()
        self.fall = fall
        self._set: _Set | None = None

    def start(self) -> Mapping[str, PinholeCamera]:
        """See `Source.start`; the motion is simulated here.

        Raises:
            DataError: if a field is out of range.
            DeviceError: if there is no off-screen OpenGL.
            BlowUpError: if a tetrahedron turned inside out.
        """
        import mujoco

        cell = self.fall.cell
        body, motion = simulate_fall(self.fall)
        surface, cameras = build_surface(body, cell.kind), build_cameras(cell)
        assert isinstance(surface, SheetSurface)  # a solid's; finite elements know no ropes
        model = mujoco.MjModel.from_xml_string(
            build_soft_mjcf(cell, body, surface, cameras),
            {
                "body.png": body_texture(cell.kind, cell.texture_seed),
                "table.png": table_texture(cell.texture_seed),
            },
        )
        data = mujoco.MjData(model)
        _park(model, data)
        renderer = RgbdRenderer(model, cell.camera_width, cell.camera_height)
        self._set = _Set(body, surface, motion, cameras, renderer, data)
        self.metadata = {
            "source": "finite elements under the simulated cell's cameras",
            "simulated": True,
            "object": {
                "kind": cell.kind,
                "mass_kg": float(
                    self.fall.material.density_kg_per_m3 * motion.node_volume_m3.sum()
                ),
                "simulated": True,
            },
            "interaction": "fall",
            "seed": self.fall.seed,
            "depth_noise": cell.depth_noise is not None,
            "truth": motion.material,
        }
        return {camera.name: camera for camera in cameras}

    def items(self) -> Iterator[Item]:
        """See `Source.items`."""
        made = self._started
        for t, time_s in enumerate(made.motion.time_s.tolist()):
            for index, camera in enumerate(made.cameras):
                if self.stopped:
                    return
                image = self._picture(made, t, index)
                yield Picture(camera.name, time_s, image.rgb, image.depth_m)
            self.watch("film", t + 1, len(made.motion.time_s))

    def ground_truth(self) -> Tracks | None:
        """Every node at every frame."""
        if self._set is None:
            return None
        motion = self._set.motion
        position = motion.points.astype(np.float32)
        return Tracks(
            time_s=motion.time_s.copy(),
            position=position,
            visible=np.ones(position.shape[:2], bool),
            driven_index=np.zeros(0, np.int64),
            name=f"{motion.name}, true nodes",
            rest_position=self._set.body.vertices,
        )

    def close(self) -> None:
        """See `Source.close`."""
        if self._set is not None:
            self._set.renderer.close()

    def _picture(self, made: _Set, t: int, index: int) -> RgbdImage:
        camera, noise = made.cameras[index], self.fall.cell.depth_noise
        mesh = made.surface.mesh(made.motion.points[t])
        image = made.renderer.render(made.data, camera, *mesh)
        if noise is None:
            return image
        depth_m = add_depth_noise(
            image.depth_m,
            focal_px=float(camera.K[0, 0]),
            config=noise,
            seed=(self.fall.seed, index, t),
        )
        return RgbdImage(image.rgb, depth_m, image.mask_object, image.mask_gripper)

    @property
    def _started(self) -> _Set:
        assert self._set is not None, "start() comes first"
        return self._set


def _park(model: Any, data: Any) -> None:
    """Grippers out of every picture: the scene cannot be built without one."""
    import mujoco

    for index in range(model.njnt):
        joint = model.joint(index)
        if joint.name.startswith("gripper"):
            data.qpos[joint.qposadr[0] : joint.qposadr[0] + 3] = (0.0, 0.0, 50.0)
    mujoco.mj_forward(model, data)
