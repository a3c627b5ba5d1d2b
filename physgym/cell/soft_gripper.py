"""A free gripper of the soft cell: a prescribed pose, fingers, and the vertices it holds."""

from __future__ import annotations

import mujoco
import numpy as np

from physgym.cell.soft_motion import park_position
from physgym.cell.soft_scene import FINGER_HALF_M, OPEN_M

__all__ = ["SoftGripper"]

_FINGER_SPEED_M_S = 0.4
_SHUT_M = 0.002  # gap between closed fingers with nothing in between


class SoftGripper:
    """A body of the scene that goes exactly where it is told.

    Its pose and velocity are written before every step of the physics, so the constraints that
    tie vertices to it see how it moves; after the step its pose is written again.

    Args:
        model: the compiled scene.
        index: number of the gripper.
        jaw_half_m: half sizes of the box in which closing holds vertices.

    Attributes:
        position: jaw centre [m], shape (3,).
        yaw: turn about the vertical [rad]; the jaws close along y at 0.
        position_wanted: where to be at the end of the next step [m], shape (3,).
        yaw_wanted: likewise [rad].
        closed: whether the jaws are closed.
        solid: whether the fingers push what they touch.
        held: vertices tied to the gripper, shape (K,).
    """

    def __init__(
        self, model: mujoco.MjModel, index: int, jaw_half_m: tuple[float, float, float]
    ) -> None:
        joint = model.joint(f"gripper{index}")
        self._qpos, self._dof = int(joint.qposadr[0]), int(joint.dofadr[0])
        self._body = model.body(f"gripper{index}").id
        self._fingers = [model.geom(f"finger{index}_{side}").id for side in ("left", "right")]
        self._vertices = model.flex_vertbodyid.copy()
        self._grips = np.array(
            [model.equality(f"grip{index}_{k}").id for k in range(len(self._vertices))]
        )
        self._jaw_half = np.array(jaw_half_m)
        self.position, self.position_wanted = park_position(index), park_position(index)
        self.yaw = self.yaw_wanted = 0.0
        self.closed = self.solid = False
        self.held = np.zeros(0, dtype=np.int64)
        self._opening_m = self._opening_wanted_m = OPEN_M
        self._next: tuple[np.ndarray, float] = (self.position, 0.0)

    @property
    def quat_wxyz(self) -> np.ndarray:
        """Orientation, shape (4,)."""
        return np.array([np.cos(0.5 * self.yaw), 0.0, 0.0, np.sin(0.5 * self.yaw)])

    def restart(self, model: mujoco.MjModel, data: mujoco.MjData, position: np.ndarray) -> None:
        """Open and go somewhere at once.

        Args:
            model: the scene.
            data: its state.
            position: jaw centre [m], shape (3,).
        """
        self.command_fingers(model, data, closed=False, solid=False)
        self._opening_m = OPEN_M
        self._show_fingers(model)
        self.teleport(data, position, 0.0)

    def teleport(self, data: mujoco.MjData, position: np.ndarray, yaw: float) -> None:
        """Be somewhere else at once, at rest.

        Args:
            data: state of the scene.
            position: jaw centre [m], shape (3,).
            yaw: turn about the vertical [rad].
        """
        self.position, self.yaw = position.copy(), yaw
        self.position_wanted, self.yaw_wanted = position.copy(), yaw
        self._write(data, np.zeros(6))

    def drive(self, model: mujoco.MjModel, data: mujoco.MjData, *, steps_left: int) -> None:
        """Before a step: take the velocity that leads to the wanted pose.

        Args:
            model: the scene.
            data: its state.
            steps_left: steps until the wanted pose must be reached, this one included.
        """
        dt_s = model.opt.timestep
        shift = (self.position_wanted - self.position) / steps_left
        turn = (self.yaw_wanted - self.yaw) / steps_left
        self._write(data, np.array([*shift, 0.0, 0.0, turn]) / dt_s)
        self._next = (self.position + shift, self.yaw + turn)
        reach = _FINGER_SPEED_M_S * dt_s
        self._opening_m += float(np.clip(self._opening_wanted_m - self._opening_m, -reach, reach))
        self._show_fingers(model)

    def arrive(self, data: mujoco.MjData) -> None:
        """After a step: undo what the reaction did to the pose.

        Args:
            data: state of the scene.
        """
        self.position, self.yaw = self._next
        self._write(data, data.qvel[self._dof : self._dof + 6].copy())

    def command_fingers(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        *,
        closed: bool | None = None,
        solid: bool | None = None,
    ) -> None:
        """Close or open the jaws, make the fingers solid or not; None leaves as it is.

        Args:
            model: the scene.
            data: its state.
            closed: closing ties what is between the jaws, opening frees it.
            solid: whether the fingers push what they touch.
        """
        if solid is not None:
            self.solid = solid
            model.geom_conaffinity[self._fingers] = int(solid)
            model.body_conaffinity[self._body] = int(solid)
        if closed is not None and closed != self.closed:
            self.closed = closed
            self.held = np.zeros(0, dtype=np.int64)
            data.eq_active[self._grips] = 0
            if closed:
                self._hold(model, data)
        self._opening_wanted_m = _SHUT_M if self.closed or self.solid else OPEN_M
        if len(self.held):
            across = np.abs(self._local(data)[self.held, 1]).max()
            self._opening_wanted_m = min(OPEN_M, 2 * float(across) + _SHUT_M)

    def _hold(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Tie every vertex between the jaws to where it is now in the gripper's frame."""
        local = self._local(data)
        self.held = np.nonzero((np.abs(local) <= self._jaw_half).all(axis=1))[0]
        rows = self._grips[self.held]
        model.eq_data[rows, :3] = 0.0
        model.eq_data[rows, 3:6] = local[self.held]
        data.eq_active[rows] = 1

    def _local(self, data: mujoco.MjData) -> np.ndarray:
        """All vertices in the gripper's frame [m], shape (N, 3)."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        rotation = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        return np.asarray((data.xpos[self._vertices] - self.position) @ rotation)

    def _show_fingers(self, model: mujoco.MjModel) -> None:
        for geom, sign in zip(self._fingers, (1.0, -1.0)):
            model.geom_pos[geom, 1] = sign * (0.5 * self._opening_m + FINGER_HALF_M[1])

    def _write(self, data: mujoco.MjData, velocity: np.ndarray) -> None:
        data.qpos[self._qpos : self._qpos + 3] = self.position
        data.qpos[self._qpos + 3 : self._qpos + 7] = self.quat_wxyz
        data.qvel[self._dof : self._dof + 6] = velocity
