"""Node `sim_cell`: the simulated cell behind the topics of a real one.

Publishes ``joint_states``, ``object/points`` and ``cell/status``; follows
``<controller>/joint_trajectory``. The physics runs in a thread of its own, so a slow callback never
bends time. When the command stream goes quiet in motion, the cell slows down to rest and says so.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import JointState, PointCloud2
from trajectory_msgs.msg import JointTrajectory

from physgym.cell import CellConfig, SimulatedCell
from physgym.errors import DataError, PhysGymError
from physgym_ros import conversions, qos
from physgym_ros.parameters import Range, declare, parameter
from physgym_ros.process import run_node
from policies.execution.setpoints import SetpointTracker

__all__ = ["SimCellNode", "SimCellParameters", "main"]

_STATUS_PERIOD_S = 0.1
_GIVE_UP_S = 0.5


@dataclass(frozen=True)
class SimCellParameters:
    """ROS parameters of `sim_cell`; those of the cable itself are ``cell.*`` (`CellConfig`)."""

    rate_hz: float = parameter(
        100.0, "Rate of joint states and set points [Hz].", span=Range(10, 500)
    )
    points_rate_hz: float = parameter(50.0, "Rate of object points [Hz].", span=Range(1, 500))
    controller: str = parameter("cable_controller", "Name of the trajectory controller.")
    frame_id: str = parameter("world", "Frame of the object points.")
    command_timeout_s: float = parameter(
        0.4,
        "Slow down when no command came for this long in motion [s]; 0: never.",
        span=Range(0, 60),
    )
    ramp_s: float = parameter(
        0.25, "Time from full motion to rest when slowing down [s].", span=Range(0.01, 5)
    )
    marker_noise_m: float = parameter(
        0.0005, "Standard deviation of the noise on object points [m].", span=Range(0, 0.05)
    )
    seed: int = parameter(0, "Seed of the cell and its noise.", span=Range(0, 2**31 - 1))


class SimCellNode:
    """The cell, its node and its physics thread.

    Args:
        stop: set from here when the physics fails, so that the process ends.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.exit_code = 0
        self.node = Node("sim_cell")
        self._stop_process = stop
        self.config = declare(self.node, SimCellParameters)
        self._cell = SimulatedCell(declare(self.node, CellConfig, prefix="cell."))
        self._cell.reset(seed=self.config.seed)
        self._names = tuple(self._cell.joint_names)
        self._tracker = SetpointTracker(
            np.asarray(self._cell.joint_position),
            names=self._names,
            limits=np.asarray(self._cell.joint_limits),
            velocity_limit=np.asarray(self._cell.velocity_limit),
            timeout_s=self.config.command_timeout_s,
            ramp_s=self.config.ramp_s,
        )
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self._command_time_s = time.monotonic()
        self._accepted = self._rejected = 0
        self._last_rejection = ""
        self._said: tuple[str, str] = ("", "")
        self._next_status_s = 0.0
        self._started_s = 0.0
        self._last_step_s = time.monotonic()
        # When the set point holds: a tick's due time, not when a busy machine came round to it.
        self._setpoint_s = time.monotonic()
        self._longest_gap_s = 0.0
        self._make_topics()
        self._thread = threading.Thread(target=self._run, name="physics", daemon=True)

    def _make_topics(self) -> None:
        node, topic = self.node, f"{self.config.controller}/joint_trajectory"

        def publisher(kind: type, name: str):  # type: ignore[no-untyped-def]
            events = qos.publisher_events(node, name)
            return node.create_publisher(kind, name, qos.STATE, event_callbacks=events)

        self._joints = publisher(JointState, "joint_states")
        self._points = publisher(PointCloud2, "object/points")
        self._status = publisher(DiagnosticArray, "cell/status")
        node.create_subscription(
            JointTrajectory,
            topic,
            self._on_command,
            qos.COMMAND,
            event_callbacks=qos.subscription_events(node, topic),
        )

    def start(self) -> None:
        """Start the physics."""
        self._started_s = self._last_step_s = self._setpoint_s = time.monotonic()
        self._thread.start()
        self.node.get_logger().info(f"cell is up: joints {', '.join(self._names)}")

    def stop(self) -> None:
        """Stop the physics and say so."""
        self._halt.set()
        self._thread.join(timeout=2.0)
        self._say(level=0, mode="stopped", reason="the cell was shut down")
        # The process ends next; on a busy machine the last word would end with it.
        self._status.wait_for_all_acked(Duration(seconds=1.0))

    def _on_command(self, message: JointTrajectory) -> None:
        try:
            path = conversions.joint_path(message, self._names)
            stamp_s = conversions.stamp_s(message.header)
            now_s = 1e-9 * self.node.get_clock().now().nanoseconds
            with self._lock:
                # Ticks that are late are caught up with in a burst: a path whose start were counted
                # from now would lie behind them, and the next one would have to leap.
                behind_s = time.monotonic() - self._setpoint_s
                start_in_s = stamp_s - now_s + behind_s if stamp_s > 0.0 else 0.0
                self._tracker.accept(path, start_in_s=start_in_s)
                self._command_time_s = time.monotonic()
                self._accepted += 1
        except DataError as error:
            self._rejected += 1
            self._last_rejection = error.what
            self._next_status_s = 0.0
            self.node.get_logger().error(f"command rejected: {error}")

    def _run(self) -> None:
        dt_s = 1.0 / self.config.rate_hz
        every = max(1, round(self.config.rate_hz / self.config.points_rate_hz))
        tick, due_s = 0, time.monotonic()
        try:
            while not self._halt.is_set():
                self._step(dt_s, due_s=due_s, with_points=tick % every == 0)
                tick, due_s = tick + 1, due_s + dt_s
                left_s = due_s - time.monotonic()
                if left_s > 0.0:
                    self._halt.wait(left_s)
                elif left_s < -_GIVE_UP_S:
                    # This machine is too slow: cell time falls behind, and the status shows it.
                    due_s = time.monotonic()
        except Exception as error:  # whatever it is: a thread must not die without a word
            self.exit_code = 1
            known = isinstance(error, PhysGymError)
            why = str(error) if known else traceback.format_exc()
            self.node.get_logger().fatal(f"the physics failed: {why}")
            self._say(level=2, mode="failed", reason=why.splitlines()[0 if known else -1])
            self._stop_process.set()

    def _step(self, dt_s: float, *, due_s: float, with_points: bool) -> None:
        with self._lock:
            now_s = time.monotonic()
            # A watchdog can bite no sooner than at the next step: how late it may be is told.
            self._longest_gap_s = max(self._longest_gap_s, now_s - self._last_step_s)
            self._last_step_s, self._setpoint_s = now_s, due_s
            age_s = now_s - self._command_time_s
            target = self._tracker.advance(dt_s, command_age_s=age_s)
            mode, reason = self._tracker.mode, self._tracker.reason
        self._cell.step(target, dt_s)
        stamp_s = 1e-9 * self.node.get_clock().now().nanoseconds
        self._joints.publish(
            conversions.joint_state_message(
                self._names, self._cell.joint_position, self._cell.joint_velocity, stamp_s=stamp_s
            )
        )
        if with_points:
            cloud = self._cell.object_points(noise_m=self.config.marker_noise_m)
            frame = self.config.frame_id
            self._points.publish(
                conversions.point_cloud_message(cloud, stamp_s=stamp_s, frame_id=frame)
            )
        if time.monotonic() >= self._next_status_s or (mode, reason) != self._said:
            self._next_status_s = time.monotonic() + _STATUS_PERIOD_S
            quiet = reason.startswith("watchdog")
            self._say(level=1 if quiet else 0, mode=mode, reason=reason)

    def _say(self, *, level: int, mode: str, reason: str) -> None:
        if (mode, reason) != self._said:
            log = self.node.get_logger()
            if level == 0:
                log.info(f"{mode}: {reason}")
            else:
                log.warning(f"{mode}: {reason}")
        self._said = (mode, reason)
        elapsed_s = max(time.monotonic() - self._started_s, 1e-6)
        values = {
            "mode": mode,
            "accepted": str(self._accepted),
            "rejected": str(self._rejected),
            "clamped": str(self._tracker.clamped),
            "last_rejection": self._last_rejection,
            "command_age_s": f"{time.monotonic() - self._command_time_s:.3f}",
            "setpoint_speed": f"{float(np.abs(self._tracker.velocity).max()):.4f}",
            "cell_time_s": f"{self._cell.time_s:.3f}",
            "longest_gap_s": f"{self._longest_gap_s:.4f}",
            "real_time_factor": f"{self._cell.time_s / elapsed_s:.3f}",
        }
        self._longest_gap_s = 0.0
        stamp_s = 1e-9 * self.node.get_clock().now().nanoseconds
        word = conversions.Report(stamp_s, "sim_cell", level, reason, values)
        self._status.publish(conversions.status_message(word))


def main(argv: list[str] | None = None) -> int:
    """Entry point of `ros2 run physgym_ros sim_cell`.

    Args:
        argv: command line; None takes the process's own.

    Returns:
        The exit code.
    """
    return run_node(SimCellNode, argv)


if __name__ == "__main__":
    sys.exit(main())
