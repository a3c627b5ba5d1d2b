"""Start nodes as processes and watch a cell from outside: for the demo, for tests, for scripts."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState, PointCloud2
from trajectory_msgs.msg import JointTrajectory

from physgym.errors import PhysGymError
from physgym_ros import conversions, qos
from physgym_ros.dds import PROFILE, child_environment
from policies.execution.setpoints import JointPath

__all__ = ["CellLog", "CellWatcher", "NodeProcess", "fresh_domain"]


def fresh_domain() -> int:
    """A ROS_DOMAIN_ID that no other PhysGym process of this machine has taken.

    It stays taken until this process ends; what a killed process leaves behind is free again.

    Returns:
        1 to 100: above, the ports of Fast DDS fall into Linux's range for outgoing connections.

    Raises:
        PhysGymError: if all are taken.
    """
    first = os.getpid() % 100
    for domain in (1 + (first + step) % 100 for step in range(100)):
        path = Path(tempfile.gettempdir()) / f"physgym-domain-{domain}.lock"
        lock = _lock(path)
        if lock is not None:
            atexit.register(_release, path, lock, os.getpid())
            return domain
    raise PhysGymError(
        "every ROS_DOMAIN_ID from 1 to 100 is taken",
        where=f"{tempfile.gettempdir()}/physgym-domain-*.lock",
        expected="one that no running process holds",
        fix="end other demos or tests",
    )


def _lock(path: Path) -> IO[bytes] | None:
    """The file, locked and standing under its name; None where another process has it."""
    try:
        lock = open(path, "ab")  # noqa: SIM115  closing it gives the lock back
    except PermissionError:
        return None  # another user's
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its owner may have removed it since it was opened: then somebody may hold a new one.
        if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            return lock
    lock.close()
    return None


def _release(path: Path, lock: IO[bytes], owner: int) -> None:
    # A forked child holds the same lock, but not its end. Removed first and closed then: whoever
    # opens the file in between sees in `_lock` that its name is gone.
    if os.getpid() == owner:
        path.unlink(missing_ok=True)
        lock.close()


class NodeProcess:
    """One node of this package in a process of its own; a context manager that always ends it.

    Args:
        executable: module of this package with a `main`, ``"sim_cell"`` or ``"policy"``.
        parameters: overrides by name.
        domain_id: ROS_DOMAIN_ID of the process.
        log: file that receives what it prints.
        parameter_file: YAML read before ``parameters``.
    """

    def __init__(
        self,
        executable: str,
        parameters: Mapping[str, Any],
        *,
        domain_id: int,
        log: Path,
        parameter_file: Path | None = None,
    ) -> None:
        self.executable, self.log = executable, log
        command = [sys.executable, "-m", f"physgym_ros.{executable}", "--ros-args"]
        if parameter_file is not None:
            command += ["--params-file", str(parameter_file)]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={_yaml(value)}"]
        with open(log, "wb") as stream:
            self.process = subprocess.Popen(
                command,
                env=child_environment(domain_id),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5.0)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def interrupt(self, *, timeout_s: float = 30.0) -> int:
        """Stop it as Ctrl-C does.

        Args:
            timeout_s: how long it may take.

        Returns:
            Its exit code.

        Raises:
            subprocess.TimeoutExpired: if it did not end in time.
        """
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=timeout_s)

    def kill(self) -> None:
        """End it as a crash would: it gets no chance to say anything."""
        self.process.kill()
        self.process.wait()

    def check(self) -> None:
        """Raise if the process has ended by itself.

        Raises:
            PhysGymError: with the end of what it printed.
        """
        code = self.process.poll()
        if code is not None:
            raise PhysGymError(
                f"the node {self.executable} ended with code {code}:\n{self.tail()}",
                where=str(self.log),
            )

    def tail(self, lines: int = 15) -> str:
        """The last lines that the process printed.

        Args:
            lines: how many.

        Returns:
            The text.
        """
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        # YAML 1.1 reads 1e-3 as a string: its floats need a dot.
        return text if "." in text or "inf" in text else text.replace("e", ".0e", 1)
    return str(value) if isinstance(value, int) else f"'{value}'"


@dataclass
class CellLog:
    """What a cell published, in order of arrival; times are this process's monotonic clock [s].

    ``joint_stamp_s`` is the cell's own clock.
    """

    joint_time_s: list[float] = field(default_factory=list)
    joint_stamp_s: list[float] = field(default_factory=list)
    joint_position: list[np.ndarray] = field(default_factory=list)
    joint_velocity: list[np.ndarray] = field(default_factory=list)
    points_time_s: list[float] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    status: list[tuple[float, conversions.Report]] = field(default_factory=list)
    policy: list[tuple[float, conversions.Report]] = field(default_factory=list)
    commands: list[tuple[float, JointPath]] = field(default_factory=list)

    def cut(self) -> CellLog:
        """A copy of what has come until now, every series whole."""
        frames, joints = len(self.points_time_s), len(self.joint_time_s)
        return CellLog(
            self.joint_time_s[:joints],
            self.joint_stamp_s[:joints],
            self.joint_position[:joints],
            self.joint_velocity[:joints],
            self.points_time_s[:frames],
            self.points[:frames],
            list(self.status),
            list(self.policy),
            list(self.commands),
        )

    def latest_status(self) -> conversions.Report | None:
        """The cell's newest word on itself, or None."""
        return self.status[-1][1] if self.status else None

    def latest_policy(self) -> conversions.Report | None:
        """The policy's newest word on itself, or None."""
        return self.policy[-1][1] if self.policy else None


class CellWatcher:
    """A node in this process that records a cell's topics and can send it commands.

    Args:
        joint_names: joints to record, in this order.
        domain_id: ROS_DOMAIN_ID.
        controller: name of the trajectory controller.
    """

    def __init__(
        self, joint_names: Sequence[str], *, domain_id: int, controller: str = "cable_controller"
    ) -> None:
        # Read by Fast DDS when the first participant of this process is made.
        os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(PROFILE))
        self.log = CellLog()
        self._names = tuple(joint_names)
        self._context = Context()
        # No handlers: Ctrl-C belongs to the program that watches.
        rclpy.init(
            context=self._context,
            domain_id=domain_id,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self._node = Node("watcher", context=self._context)
        topic = f"{controller}/joint_trajectory"
        self._command = self._node.create_publisher(JointTrajectory, topic, qos.COMMAND)
        listen = self._node.create_subscription
        listen(JointState, "joint_states", self._on_joints, qos.SENSOR)
        listen(PointCloud2, "object/points", self._on_points, qos.SENSOR)
        listen(DiagnosticArray, "cell/status", self._on_status, qos.SENSOR)
        listen(DiagnosticArray, "policy/status", self._on_policy, qos.SENSOR)
        listen(JointTrajectory, topic, self._on_command, qos.COMMAND)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="watcher", daemon=True)
        self._thread.start()

    def __enter__(self) -> CellWatcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._halt.set()
        self._thread.join(timeout=5.0)
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def wait(
        self,
        condition: Callable[[CellLog], bool],
        *,
        timeout_s: float,
        alive: Sequence[NodeProcess] = (),
    ) -> bool:
        """Wait until a condition on the log holds.

        Args:
            condition: asked again and again.
            timeout_s: give up after this long.
            alive: processes that must not end meanwhile.

        Returns:
            Whether the condition came true in time.

        Raises:
            PhysGymError: if one of the processes ended.
        """
        end_s = time.monotonic() + timeout_s
        while not condition(self.log):
            for process in alive:
                process.check()
            if time.monotonic() > end_s:
                return False
            time.sleep(0.01)
        return True

    def listeners(self) -> int:
        """How many subscribers the command topic has besides this watcher."""
        return self._command.get_subscription_count() - 1

    def send(self, path: JointPath) -> None:
        """Publish a trajectory that starts now.

        Args:
            path: what to send.
        """
        self._command.publish(conversions.joint_trajectory_message(path))

    def send_message(self, message: JointTrajectory) -> None:
        """Publish a message as it is, right or wrong.

        Args:
            message: what to send.
        """
        self._command.publish(message)

    def _spin(self) -> None:
        while not self._halt.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def _on_joints(self, message: JointState) -> None:
        reading = conversions.joint_reading(message, self._names)
        self.log.joint_position.append(reading.position)
        self.log.joint_velocity.append(reading.velocity)
        self.log.joint_stamp_s.append(reading.stamp_s)
        self.log.joint_time_s.append(time.monotonic())

    def _on_points(self, message: PointCloud2) -> None:
        self.log.points.append(conversions.points(message).copy())
        self.log.points_time_s.append(time.monotonic())

    def _on_status(self, message: DiagnosticArray) -> None:
        self.log.status.append((time.monotonic(), conversions.report(message)))

    def _on_policy(self, message: DiagnosticArray) -> None:
        self.log.policy.append((time.monotonic(), conversions.report(message)))

    def _on_command(self, message: JointTrajectory) -> None:
        with contextlib.suppress(PhysGymError):  # a wrong command is the cell's to refuse
            path = conversions.joint_path(message, self._names)
            self.log.commands.append((time.monotonic(), path))
