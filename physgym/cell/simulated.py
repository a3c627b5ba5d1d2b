"""SimulatedCell: steps the MuJoCo scene, reads its markers, renders its cameras."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.cell.config import JOINT_NAMES, CellConfig
from physgym.cell.motion import Motion
from physgym.cell.rendering import choose_gl_backend
from physgym.cell.scene import CAMERAS, GRIPPER_MASS_KG, build_mjcf
from physgym.errors import BlowUpError, DataError, DeviceError

choose_gl_backend()
import mujoco  # noqa: E402 - MuJoCo reads MUJOCO_GL when it is imported.

__all__ = ["SimulatedCell"]

_SETTLE_SPEED_M_S = 2e-3
_SETTLE_LIMIT_S = 20.0


@dataclass
class _Snapshot:
    """Everything that `reset` restores."""

    integration: np.ndarray
    setpoint: np.ndarray
    setpoint_velocity: np.ndarray


class SimulatedCell:
    """A robot cell with a cable in two grippers, behind the same calls as real hardware.

    Its physics (rigid segments, hinges, an implicit integrator, a compliant weld) is not the
    twin's, so a plan that works here has crossed a gap. The same calls give the same bits.

    Args:
        config: cable, gantries and limits.

    Attributes:
        config: the configuration.
        joint_names: order of every joint vector, 6 names.
        joint_limits: lowest and highest joint position [m], shape (6, 2).
        velocity_limit: speed limit of each joint [m/s], shape (6,).
        driven_index: markers that the grippers hold, shape (4,).
        cameras: names that `render` accepts.
    """

    joint_names = JOINT_NAMES
    cameras = CAMERAS

    def __init__(self, config: CellConfig | None = None) -> None:
        self.config = config or CellConfig()
        self.joint_limits = self.config.joint_limits
        self.velocity_limit = np.full(6, self.config.velocity_limit_m_s)
        self.driven_index = self.config.driven_index
        self._check_home()
        self._model = mujoco.MjModel.from_xml_string(build_mjcf(self.config))
        self._data = mujoco.MjData(self._model)
        self._joint_qpos = self._addresses("qposadr")
        self._joint_dof = self._addresses("dofadr")
        self._marker_body, self._marker_offset_m = self._markers()
        self._renderer: Any = None
        self._renderer_thread: int | None = None
        self._setpoint = np.zeros(6)
        self._setpoint_velocity = np.zeros(6)
        self._last_target = np.zeros(6)
        self._home = self._settle_at_home()
        self.reset(seed=0)

    def reset(self, seed: int = 0) -> None:
        """Put the cable at rest between the grippers at home, at time zero.

        Args:
            seed: seeds the measurement noise of `object_points`.
        """
        self._rng = np.random.default_rng(seed)
        mujoco.mj_resetData(self._model, self._data)
        mujoco.mj_setState(
            self._model, self._data, self._home.integration, mujoco.mjtState.mjSTATE_INTEGRATION
        )
        self._data.time = 0.0
        self._setpoint = self._home.setpoint.copy()
        self._setpoint_velocity = self._home.setpoint_velocity.copy()
        self._last_target = self._setpoint.copy()
        mujoco.mj_forward(self._model, self._data)

    def step(self, joint_target: np.ndarray, dt_s: float) -> None:
        """Let ``dt_s`` pass while the gantries move towards a target, within their limits.

        A target that moves from call to call is followed; a far one is approached at the speed
        and acceleration limits. Targets outside the joint limits are clamped to them.

        Args:
            joint_target: joint positions wanted at the end of the step [m], shape (6,).
            dt_s: how much time passes, a multiple of the physics step (rounded, at least one).

        Raises:
            DataError: if the target has another shape or is not finite.
            BlowUpError: if the simulation left the finite numbers.
        """
        target = np.asarray(joint_target, dtype=np.float64)
        if target.shape != (6,) or not np.isfinite(target).all():
            raise DataError(
                f"joint target {joint_target!r}",
                where="SimulatedCell.step",
                expected=f"6 finite positions in metres, in the order {', '.join(JOINT_NAMES)}",
                fix="check the planner's output before sending it",
            )
        target = np.clip(target, self.joint_limits[:, 0], self.joint_limits[:, 1])
        physics_dt_s = self.config.timestep_s
        count = max(1, round(dt_s / physics_dt_s))
        velocity = (target - self._last_target) / (count * physics_dt_s)
        # A target that jumps faster than the axis can move is a goal, not a path to follow.
        jump = np.abs(velocity) > self.velocity_limit
        velocity = np.where(jump, 0.0, velocity)
        start = np.where(jump, target, self._last_target)
        for index in range(1, count + 1):
            self._advance_setpoint(start + velocity * index * physics_dt_s, velocity)
            self._data.ctrl[:] = self._setpoint
            mujoco.mj_step(self._model, self._data)
        self._last_target = target
        self._check_finite()

    @property
    def joint_position(self) -> np.ndarray:
        """Measured joint positions [m], shape (6,): where the grippers are in the world."""
        return self._data.qpos[self._joint_qpos].copy()

    @property
    def joint_velocity(self) -> np.ndarray:
        """Measured joint velocities [m/s], shape (6,)."""
        return self._data.qvel[self._joint_dof].copy()

    @property
    def time_s(self) -> float:
        """Time since the last reset [s]."""
        return float(self._data.time)

    @property
    def cable_energy_j(self) -> tuple[float, float]:
        """Potential (gravity and bending) and kinetic energy of the cable alone [J]."""
        mujoco.mj_energyPos(self._model, self._data)
        mujoco.mj_energyVel(self._model, self._data)
        lifted = self._model.body_gravcomp * self._model.body_mass
        grippers_j = lifted @ (self._data.xipos @ self._model.opt.gravity)
        speed_m_s = self.joint_velocity
        potential, kinetic = self._data.energy
        return float(potential + grippers_j), float(
            kinetic - 0.5 * GRIPPER_MASS_KG * speed_m_s @ speed_m_s
        )

    def object_points(self, *, noise_m: float = 0.0) -> np.ndarray:
        """Markers along the cable, from the left end to the right.

        Args:
            noise_m: standard deviation of Gaussian noise on each coordinate.

        Returns:
            World positions [m], shape (N, 3).
        """
        mujoco.mj_kinematics(self._model, self._data)
        rotation = self._data.xmat[self._marker_body].reshape(-1, 3, 3)
        points = self._data.xpos[self._marker_body] + np.einsum(
            "nij,nj->ni", rotation, self._marker_offset_m
        )
        if noise_m > 0:
            points = points + self._rng.normal(0.0, noise_m, points.shape)
        return points

    def gripper_pose(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Pose of one gripper's frame, which is where the cable's end is held.

        Args:
            index: 0 for the left gripper, 1 for the right.

        Returns:
            Position [m], shape (3,), and orientation ``quat_wxyz``, shape (4,).
        """
        body = self._data.body(("left", "right")[index])
        return body.xpos.copy(), body.xquat.copy()

    def render(self, camera: str = "front", *, width: int = 640, height: int = 480) -> np.ndarray:
        """Take a picture. OpenGL is bound to the thread that takes the first one.

        Args:
            camera: one of `cameras`.
            width: image width in pixels, up to 1280.
            height: image height in pixels, up to 960.

        Returns:
            RGB image, uint8, shape (H, W, 3).

        Raises:
            DeviceError: if there is no off-screen OpenGL, or another thread took the first picture.
            DataError: if the camera is unknown.
        """
        if camera not in CAMERAS:
            raise DataError(
                f"no camera {camera!r}",
                where="SimulatedCell.render",
                expected=f"one of {', '.join(CAMERAS)}",
                fix="pass one of these names",
            )
        renderer = self._renderer_for(width, height)
        renderer.update_scene(self._data, camera=camera)
        return np.array(renderer.render())

    def close(self) -> None:
        """Free the renderer, if one was made."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer, self._renderer_thread = None, None

    def record(
        self, motion: Motion, duration_s: float, *, rate_hz: float = 100.0, noise_m: float = 0.0
    ) -> dict[str, np.ndarray]:
        """Play a motion from where the cell is now, and note down what a motion capture sees.

        Args:
            motion: joint targets over time.
            duration_s: how long to record.
            rate_hz: samples per second.
            noise_m: standard deviation of the marker noise.

        Returns:
            Arrays under the keys of a generic tracks file: ``time`` (T,) [s], ``points``
            (T, N, 3) [m], ``visible`` (T, N), ``driven_index`` (4,), and besides
            ``joint_position`` and ``joint_target`` (T, 6) [m].
        """
        frames = round(duration_s * rate_hz) + 1
        start_s = self.time_s
        rows: dict[str, list[Any]] = {
            key: [] for key in ("time", "points", "joint_position", "joint_target")
        }
        for index in range(frames):
            target = motion.joint_target(index / rate_hz)
            if index:
                self.step(target, 1.0 / rate_hz)
            rows["time"].append(self.time_s - start_s)
            rows["points"].append(self.object_points(noise_m=noise_m))
            rows["joint_position"].append(self.joint_position)
            rows["joint_target"].append(target)
        record = {key: np.array(value) for key, value in rows.items()}
        record["visible"] = np.ones(record["points"].shape[:2], dtype=bool)
        record["driven_index"] = self.driven_index.copy()
        return record

    def _addresses(self, kind: str) -> np.ndarray:
        return np.array([getattr(self._model.joint(name), kind)[0] for name in JOINT_NAMES])

    def _check_home(self) -> None:
        home, limits = self.config.home, self.joint_limits
        outside = (home < limits[:, 0]) | (home > limits[:, 1])
        if outside.any():
            name = JOINT_NAMES[int(np.argmax(outside))]
            raise DataError(
                f"home is outside the limits of joint {name}",
                where="CellConfig.home_spacing, CellConfig.home_height_m",
                expected=f"positions within {limits.tolist()}",
                fix="choose a home that the gantries reach",
            )

    def _markers(self) -> tuple[np.ndarray, np.ndarray]:
        """Body that carries each marker and the marker's place in that body's frame."""
        config = self.config
        bodies, offsets = [self._model.body("left").id] * 2, [0.0, -config.clamp_length_m]
        for index in range(1, config.marker_count - 3):
            bodies.append(self._model.body(f"segment_{index * config.segments_per_edge}").id)
            offsets.append(0.0)
        bodies += [self._model.body("tail").id] * 2
        offsets += [0.0, -config.clamp_length_m]
        return np.array(bodies), np.array([[0.0, y, 0.0] for y in offsets])

    def _settle_at_home(self) -> _Snapshot:
        """Bring the grippers from a straight cable to home and wait until the cable is at rest."""
        config = self.config
        half = 0.5 * config.length_m
        straight = np.array([0, half, config.home_height_m, 0, -half, config.home_height_m])
        self._data.qpos[self._joint_qpos] = straight
        self._setpoint, self._setpoint_velocity = straight.copy(), np.zeros(6)
        self._last_target = straight.copy()
        for index in range(int(_SETTLE_LIMIT_S / 0.1)):
            blend = min(1.0, index / 10)
            self._data.ctrl[:] = straight + blend * (config.home - straight)
            mujoco.mj_step(self._model, self._data, round(0.1 / config.timestep_s))
            if index > 12 and self._largest_marker_speed_m_s() < _SETTLE_SPEED_M_S:
                break
        self._data.qvel[:] = 0.0
        self._check_finite()
        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self._model, spec))
        mujoco.mj_getState(self._model, self._data, state, spec)
        return _Snapshot(state, config.home.copy(), np.zeros(6))

    def _largest_marker_speed_m_s(self) -> float:
        before = self.object_points()
        mujoco.mj_step(self._model, self._data)
        moved = np.linalg.norm(self.object_points() - before, axis=1).max()
        return float(moved / self.config.timestep_s)

    def _advance_setpoint(self, reference: np.ndarray, velocity: np.ndarray) -> None:
        """Move the setpoint one physics step towards a moving reference, within the limits."""
        config, dt_s = self.config, self.config.timestep_s
        error = reference - self._setpoint
        distance = np.abs(error)
        # The fastest speed from which the axis can still stop at the reference, and at the very
        # end a smooth approach instead of chatter.
        approach = np.minimum(
            np.sqrt(2 * config.acceleration_limit_m_s2 * distance), distance / 0.02
        )
        wanted = np.clip(
            velocity + np.sign(error) * approach, -self.velocity_limit, self.velocity_limit
        )
        change = config.acceleration_limit_m_s2 * dt_s
        self._setpoint_velocity += np.clip(wanted - self._setpoint_velocity, -change, change)
        self._setpoint += self._setpoint_velocity * dt_s
        np.clip(self._setpoint, *self.joint_limits.T, out=self._setpoint)

    def _check_finite(self) -> None:
        warned = self._data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number
        if warned or not np.isfinite(self._data.qpos).all():
            raise BlowUpError(
                "the simulated cell blew up",
                world=0,
                node=int(np.argmax(~np.isfinite(self._data.qpos))),
                substep=int(self._data.time / self.config.timestep_s),
                fix="lower CellConfig.timestep_s or bending_modulus_pa, or raise damping_pa_s",
            )

    def _renderer_for(self, width: int, height: int) -> Any:
        thread = threading.get_ident()
        if self._renderer is not None and self._renderer_thread != thread:
            raise DeviceError(
                "the cell's cameras belong to another thread",
                where="SimulatedCell.render",
                expected="every picture taken in the thread that took the first one",
                fix="call render() from one thread, or close() it there first",
            )
        if self._renderer is not None and (self._renderer.width, self._renderer.height) == (
            width,
            height,
        ):
            return self._renderer
        self.close()
        try:
            self._renderer = mujoco.Renderer(self._model, height=height, width=width)
        except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
            raise DeviceError(
                f"no off-screen OpenGL: {error}",
                where="SimulatedCell.render",
                expected="EGL or OSMesa (MUJOCO_GL=egl or MUJOCO_GL=osmesa)",
                fix="install Mesa's libEGL (Debian: libegl1) or run without pictures",
            ) from error
        self._renderer_thread = thread
        return self._renderer
