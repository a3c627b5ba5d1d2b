"""SoftCell: a soft body, free grippers and RGB-D cameras in MuJoCo, the stand-in for hardware."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from physgym.camera import PinholeCamera
from physgym.cell.depth_noise import add_depth_noise
from physgym.cell.rendering import choose_gl_backend
from physgym.cell.soft_body import SoftBody, build_body, lay_out
from physgym.cell.soft_config import SoftCellConfig
from physgym.cell.soft_gripper import SoftGripper
from physgym.cell.soft_motion import GripperMotion, park_position, scripted_motion
from physgym.cell.soft_render import RgbdImage, RgbdRenderer, SoftFrame
from physgym.cell.soft_scene import build_cameras, build_soft_mjcf
from physgym.cell.soft_surface import body_texture, build_surface, table_texture
from physgym.errors import BlowUpError, DataError, DeviceError

choose_gl_backend()
import mujoco  # noqa: E402 - MuJoCo reads MUJOCO_GL when it is imported.

__all__ = ["SoftCell"]

_SETTLE_SPEED_M_S = 1e-3
_SETTLE_LIMIT_S = 4.0
_YAW_RANGE_RAD = 0.35
_SHIFT_RANGE_M = 0.01


class SoftCell:
    """A soft body on a table under calibrated cameras, moved by free grippers.

    Its physics (finite elements or a discrete rod, integrated implicitly by MuJoCo) is not the
    twin's. The grippers go exactly where they are told; closing one ties the vertices between its
    jaws to it. Contact is soft: bodies sink into the table by some tenths of a millimetre at rest
    and by up to a centimetre for a frame when they are dropped. The same calls give the same bits.

    Args:
        config: body, cameras and grippers.

    Attributes:
        config: the configuration.
        cameras: calibration of every camera, in `render`'s order.
        body: the body at rest: elements, faces, masses.

    Raises:
        DeviceError: if MuJoCo is older than 4.
    """

    def __init__(self, config: SoftCellConfig | None = None) -> None:
        self.config = config or SoftCellConfig()
        if int(mujoco.__version__.split(".")[0]) < 4:
            raise DeviceError(
                f"MuJoCo {mujoco.__version__}",
                where="SoftCell",
                expected="MuJoCo 4 or newer, which integrates flexes implicitly",
                fix="pip install 'mujoco>=4'",
            )
        self.cameras: tuple[PinholeCamera, ...] = build_cameras(self.config)
        self.body: SoftBody = build_body(self.config)
        self._surface = build_surface(self.body, self.config.kind)
        self._model = mujoco.MjModel.from_xml_string(
            build_soft_mjcf(self.config, self.body, self._surface, self.cameras),
            {
                "body.png": body_texture(self.config.kind, self.config.texture_seed),
                "table.png": table_texture(self.config.texture_seed),
            },
        )
        self._data = mujoco.MjData(self._model)
        self._bodies = self._model.flex_vertbodyid.copy()
        self._qpos = self._model.jnt_qposadr[self._model.body_jntadr[self._bodies]]
        self._dof = self._model.jnt_dofadr[self._model.body_jntadr[self._bodies]]
        self._lump_masses()
        if self.body.dim == 1:
            self._resist_rolling()
        self._grippers = [
            SoftGripper(self._model, k, self.config.jaw_half)
            for k in range(self.config.gripper_count)
        ]
        self._renderer: RgbdRenderer | None = None
        self._seed = 0
        self._settled = self._settle()
        self.reset(seed=0)

    def reset(self, seed: int = 0) -> None:
        """Lay the body on the table again, turned and shifted a little, grippers open and away.

        Args:
            seed: decides turn (up to 20 degrees), shift (up to 1 cm) and the depth noise.
        """
        rng = np.random.default_rng([seed, 3])
        self._seed = seed
        yaw, shift = rng.uniform(-_YAW_RANGE_RAD, _YAW_RANGE_RAD), rng.uniform(-1, 1, 2)
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        vertices = self._settled.copy()
        vertices[:, :2] = vertices[:, :2] @ turn.T + _SHIFT_RANGE_M * shift
        mujoco.mj_resetData(self._model, self._data)
        self._place(vertices)
        for index, gripper in enumerate(self._grippers):
            gripper.restart(self._model, self._data, park_position(index))
        mujoco.mj_forward(self._model, self._data)
        self._surface.restart(self.vertices)

    def command(
        self,
        gripper: int,
        *,
        position: np.ndarray | None = None,
        yaw_rad: float | None = None,
        closed: bool | None = None,
        solid: bool | None = None,
    ) -> None:
        """Tell a gripper where to be at the end of the next step; what is None stays.

        Args:
            gripper: its index.
            position: of the jaws' centre [m], shape (3,).
            yaw_rad: turn about the vertical; the jaws close along y at 0.
            closed: closing ties the vertices between the jaws to the gripper, opening frees them.
            solid: whether the fingers push what they touch; only of use with nothing gripped.

        Raises:
            DataError: if the gripper or the position is none.
        """
        if not 0 <= gripper < len(self._grippers):
            raise _bad(f"gripper {gripper}", f"0 to {len(self._grippers) - 1}")
        target = self._grippers[gripper]
        if position is not None:
            wanted = np.asarray(position, dtype=np.float64)
            if wanted.shape != (3,) or not np.isfinite(wanted).all():
                raise _bad(f"position {position!r}", "three finite coordinates in metres")
            target.position_wanted = wanted.copy()
        if yaw_rad is not None:
            target.yaw_wanted = float(yaw_rad)
        if closed is not None or solid is not None:
            target.command_fingers(self._model, self._data, closed=closed, solid=solid)

    def step(self, dt_s: float) -> None:
        """Let time pass while the grippers go straight to where they were told to be.

        Args:
            dt_s: a multiple of the physics step (rounded, at least one).

        Raises:
            BlowUpError: if the simulation left the finite numbers.
        """
        count = max(1, round(dt_s / self.config.timestep_s))
        for index in range(count):
            for gripper in self._grippers:
                gripper.drive(self._model, self._data, steps_left=count - index)
            mujoco.mj_step(self._model, self._data)
            for gripper in self._grippers:
                gripper.arrive(self._data)
            mujoco.mj_kinematics(self._model, self._data)
            self._surface.advance(self.vertices)
        self._check_finite()

    @property
    def time_s(self) -> float:
        """Time since the last reset [s]."""
        return float(self._data.time)

    @property
    def vertices(self) -> np.ndarray:
        """True positions of the body's vertices [m], shape (N, 3): the ground-truth tracks."""
        return self._data.xpos[self._bodies].copy()

    @property
    def surface(self) -> np.ndarray:
        """True positions of the drawn surface's vertices [m], shape (V, 3): material points.

        Of a rope they lie on the tube, of a cloth on either side; `vertices` are in the middle.
        """
        return self._surface.mesh(self.vertices)[0]

    @property
    def surface_faces(self) -> np.ndarray:
        """Triangles of `surface`, counter-clockwise from outside, shape (F, 3)."""
        return self._surface.faces.copy()

    @property
    def energy_j(self) -> tuple[float, float]:
        """Potential energy in gravity, above the table, and kinetic energy of the body [J].

        MuJoCo does not count the elastic energy of a flex, which is positive.
        """
        velocity = self._data.qvel[self._dof[:, None] + np.arange(3)]
        mass = self._model.body_mass[self._bodies]
        height = -(self.vertices @ self._model.opt.gravity)
        return float(mass @ height), float(0.5 * mass @ (velocity**2).sum(axis=1))

    def gripper_pose(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Pose of one gripper's jaws.

        Args:
            index: its index.

        Returns:
            Position of the jaws' centre [m], shape (3,), and ``quat_wxyz``, shape (4,): the jaws
            close along y, the forearm points along +z.
        """
        gripper = self._grippers[index]
        return gripper.position.copy(), gripper.quat_wxyz

    def gripper_closed(self, index: int) -> bool:
        """Whether a gripper's jaws are closed.

        Args:
            index: its index.

        Returns:
            True from the command to close to the command to open.
        """
        return self._grippers[index].closed

    def gripped_vertices(self, index: int) -> np.ndarray:
        """Vertices tied to a gripper.

        Args:
            index: its index.

        Returns:
            Vertex numbers, shape (K,).
        """
        return self._grippers[index].held.copy()

    def render(self, camera: int | str = 0, *, noise: bool = True) -> RgbdImage:
        """Take a picture. OpenGL is bound to the thread that takes the first one.

        Args:
            camera: index or name.
            noise: False for exact depth even where the configuration has depth noise.

        Returns:
            The picture.

        Raises:
            DataError: if the camera is unknown.
            DeviceError: if there is no off-screen OpenGL, or another thread took the first picture.
        """
        names = [c.name for c in self.cameras]
        index = names.index(camera) if camera in names else camera
        if not isinstance(index, int) or not 0 <= index < len(names):
            raise _bad(f"camera {camera!r}", f"an index or one of {', '.join(names)}")
        if self._renderer is None:
            self._renderer = RgbdRenderer(
                self._model, self.config.camera_width, self.config.camera_height
            )
        mesh = self._surface.mesh(self.vertices)
        image = self._renderer.render(self._data, self.cameras[index], *mesh)
        if not noise or self.config.depth_noise is None:
            return image
        moment = round(self._data.time / self.config.timestep_s)
        depth_m = add_depth_noise(
            image.depth_m,
            focal_px=float(self.cameras[index].K[0, 0]),
            config=self.config.depth_noise,
            seed=(self._seed, index, moment),
        )
        return RgbdImage(image.rgb, depth_m, image.mask_object, image.mask_gripper)

    def record(
        self,
        interaction: str | GripperMotion,
        duration_s: float = 3.0,
        *,
        fps: float = 30.0,
        seed: int = 0,
        images: bool = True,
    ) -> Iterator[SoftFrame]:
        """Play an interaction from a fresh reset and yield every frame as it happens.

        Nothing is kept: the next frame is simulated and drawn when it is asked for.

        Args:
            interaction: name of a script (`physgym.cell.soft_config.INTERACTIONS`) or a motion.
            duration_s: frames are at 0, 1/fps, ... below this time.
            fps: frames per second.
            seed: of `reset` and of the script.
            images: False leaves ``images`` empty, for ground truth alone.

        Yields:
            The frames.

        Raises:
            DataError: if the interaction or the rate does not fit.
            BlowUpError: if the simulation left the finite numbers.
        """
        if not 0 < fps <= 1 / self.config.timestep_s:
            raise _bad(f"{fps} frames a second", f"up to {1 / self.config.timestep_s:.0f}")
        self.reset(seed)
        motion = (
            interaction
            if isinstance(interaction, GripperMotion)
            else scripted_motion(
                interaction, self.config, self.vertices, duration_s=duration_s, seed=seed
            )
        )
        for gripper, position, yaw in zip(self._grippers, *motion.at(0.0)[:2]):
            gripper.teleport(self._data, position, float(yaw))
        mujoco.mj_forward(self._model, self._data)
        for index in range(max(1, round(duration_s * fps))):
            while self.time_s < index / fps - 0.5 * self.config.timestep_s:
                self._follow(motion, self.time_s + self.config.timestep_s)
                self.step(self.config.timestep_s)
            yield self._frame(images)

    def close(self) -> None:
        """Free the OpenGL context; the next picture makes a new one."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None

    def _frame(self, images: bool) -> SoftFrame:
        return SoftFrame(
            time_s=self.time_s,
            images=tuple(self.render(k) for k in range(len(self.cameras))) if images else (),
            vertices=self.vertices,
            surface=self.surface,
            gripper_position=np.stack([g.position for g in self._grippers]),
            gripper_quat_wxyz=np.stack([g.quat_wxyz for g in self._grippers]),
            gripper_closed=np.array([g.closed for g in self._grippers]),
        )

    def _follow(self, motion: GripperMotion, time_s: float) -> None:
        position, yaw, closed, solid = motion.at(time_s)
        for index, gripper in enumerate(self._grippers):
            changed = (gripper.closed, gripper.solid) != (bool(closed[index]), bool(solid[index]))
            self.command(
                index,
                position=position[index],
                yaw_rad=float(yaw[index]),
                closed=bool(closed[index]) if changed else None,
                solid=bool(solid[index]) if changed else None,
            )

    def _lump_masses(self) -> None:
        """Give every vertex the mass of the material around it, not an equal share."""
        ratio = self.body.vertex_mass_kg / self._model.body_mass[self._bodies]
        self._model.body_mass[self._bodies] *= ratio
        self._model.body_inertia[self._bodies] *= ratio[:, None]
        mujoco.mj_setConst(self._model, self._data)

    def _resist_rolling(self) -> None:
        """Dry friction at a rod's rolling joints (``soft_twist*``, one an edge).

        MuJoCo's rod rolls about its own axis and touches at its surface, so without it a rope on
        a table moves sideways for nothing. It acts in the air too, and holds a little twist there.
        """
        share = -self._model.opt.gravity[2] * float(self.body.vertex_mass_kg.sum())
        torque = self.config.rolling_friction * self.body.radius_m * share / len(self.body.elements)
        for index in range(self._model.njnt):
            joint = self._model.joint(index)
            if joint.name.startswith("soft_twist"):
                self._model.dof_frictionloss[joint.dofadr] = torque

    def _place(self, vertices: np.ndarray) -> None:
        """Put the vertices somewhere, at rest."""
        slides = self._qpos[:, None] + np.arange(3)
        self._data.qpos[slides] = vertices - self._model.body_pos[self._bodies]
        self._data.qvel[:] = 0.0

    def _settle(self) -> np.ndarray:
        """Vertices at rest on the table, or at rest in the air, shape (N, 3)."""
        start = lay_out(self.body)
        if self.config.start_height_m > 0:
            return start + np.array([0.0, 0.0, self.config.start_height_m])
        self._place(start)
        for index, gripper in enumerate(self._grippers):
            gripper.teleport(self._data, park_position(index), 0.0)
        while self._data.time < _SETTLE_LIMIT_S:
            self.step(0.1)
            speed = np.abs(self._data.qvel[self._dof[:, None] + np.arange(3)]).max()
            if speed < _SETTLE_SPEED_M_S:
                break
        settled = self.vertices
        settled[:, :2] -= settled[:, :2].mean(axis=0)
        return settled

    def _check_finite(self) -> None:
        warned = self._data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number
        if warned or not np.isfinite(self._data.qpos).all():
            raise BlowUpError(
                "the soft cell blew up",
                world=0,
                node=int(np.argmax(~np.isfinite(self.vertices).all(axis=1))),
                substep=round(self._data.time / self.config.timestep_s),
                fix="lower SoftCellConfig.timestep_s or young_pa, or move the grippers slower",
            )


def _bad(what: str, expected: str) -> DataError:
    return DataError(
        f"{what} does not exist or does not fit",
        where="SoftCell",
        expected=expected,
        fix="see SoftCellConfig for what this cell has",
    )
