"""Node `policy`: plans on a twin and streams joint trajectories to a cell, real or simulated.

Hears ``joint_states`` and ``object/points`` (and ``goal/points``), publishes
``<controller>/joint_trajectory``, ``policy/status`` and ``policy/success``. Planning runs in a
thread of its own; what goes out has passed the safety filter; when observations grow old it brakes;
on SIGINT and SIGTERM its last command is to brake.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import JointState, PointCloud2
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from physgym.errors import DataError, PhysGymError
from physgym_ros import conversions, qos
from physgym_ros.parameters import Range, declare, parameter
from physgym_ros.process import run_node
from policies.execution.chunks import Chunk, Stream, brake, move
from policies.execution.steering import Steering, SteeringConfig, read_goal

__all__ = ["PolicyNode", "PolicyParameters", "main"]

_LOST_M = 0.03
"""Joints this far from what was commanded at rest were moved by somebody else."""


@dataclass(frozen=True)
class PolicyParameters:
    """ROS parameters of `policy`; those of the planner are ``plan.*`` (`SteeringConfig`)."""

    twin: str = parameter("", "Folder of the twin to plan on.")
    goal: str = parameter("", "File .npz with the goal under `points`; empty: topic goal/points.")
    controller: str = parameter("cable_controller", "Name of the trajectory controller.")
    joints: tuple[str, ...] = parameter(
        ("left_x", "left_y", "left_z", "right_x", "right_y", "right_z"),
        "Joints that move the grippers: x, y, z of the first, then of the second.",
    )
    observation_timeout_s: float = parameter(
        0.5, "Brake when joint states or points are older than this [s].", span=Range(0.05, 60)
    )
    lead_s: float = parameter(
        0.02, "A trajectory goes out at least this long before it starts [s].", span=Range(0, 1)
    )
    success_distance_m: float = parameter(
        0.02, "Mean distance to the goal that counts as reached [m].", span=Range(1e-4, 1)
    )
    success_hold_s: float = parameter(
        0.5, "The distance must stay below for this long [s].", span=Range(0, 60)
    )
    exit_on_success: bool = parameter(False, "End the node when the goal is reached.")


class PolicyNode:
    """The node and its planning thread.

    Args:
        stop: set from here on failure, or on success when so configured.

    Raises:
        PhysGymError: if the twin or the goal cannot be used.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.exit_code = 0
        self.node = Node("policy")
        self._stop_process = stop
        self.config = declare(self.node, PolicyParameters)
        steering = declare(self.node, SteeringConfig, prefix="plan.")
        if not self.config.twin:
            raise PhysGymError(
                "no twin to plan on",
                where="parameter twin of node policy",
                expected="a folder that `physgym reconstruct` wrote",
                fix="add `-p twin:=FOLDER`",
            )
        self._steering = Steering(Path(self.config.twin), steering)
        self._period_s = steering.period_s
        if self.config.goal:
            self._steering.set_goal(read_goal(Path(self.config.goal)))
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self._joints: tuple[float, conversions.JointReading] | None = None
        self._points_s = 0.0
        self._new_goal: np.ndarray | None = None
        self._stream = Stream()
        self._braking: Chunk | None = None
        self._below_since_s: float | None = None
        self._succeeded = False
        self._overruns = 0
        self._problem = ""
        self._said = ""
        self._make_topics()
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)

    def _make_topics(self) -> None:
        node, command = self.node, f"{self.config.controller}/joint_trajectory"
        self._command = node.create_publisher(
            JointTrajectory,
            command,
            qos.COMMAND,
            event_callbacks=qos.publisher_events(node, command),
        )
        self._status = node.create_publisher(DiagnosticArray, "policy/status", qos.STATE)
        self._success = node.create_publisher(Bool, "policy/success", qos.LATCHED)
        self._success.publish(conversions.success_message(False))
        for kind, topic, callback, profile in (
            (JointState, "joint_states", self._on_joints, qos.SENSOR),
            (PointCloud2, "object/points", self._on_points, qos.SENSOR),
            (PointCloud2, "goal/points", self._on_goal, qos.LATCHED),
        ):
            events = qos.subscription_events(node, topic)
            node.create_subscription(kind, topic, callback, profile, event_callbacks=events)

    def start(self) -> None:
        """Start planning."""
        self._thread.start()

    def stop(self) -> None:
        """Stop planning and leave the robot braking: the context is still valid here."""
        self._halt.set()
        self._thread.join(timeout=5.0)
        self._brake("stopped: the node was shut down", level=0)
        # The message is on its way through shared memory or a socket; give it a moment to leave.
        time.sleep(0.1)

    def _now_s(self) -> float:
        return 1e-9 * float(self.node.get_clock().now().nanoseconds)

    def _on_joints(self, message: JointState) -> None:
        try:
            reading = conversions.joint_reading(message, self.config.joints)
        except DataError as error:
            self._complain(error)
            return
        with self._lock:
            if self._joints is None or reading.stamp_s > self._joints[1].stamp_s:
                self._joints = (time.monotonic(), reading)

    def _on_points(self, message: PointCloud2) -> None:
        try:
            cloud = conversions.points(message)
            with self._lock:
                if self._steering.see(conversions.stamp_s(message.header), cloud):
                    self._points_s = time.monotonic()
        except DataError as error:
            self._complain(error)

    def _on_goal(self, message: PointCloud2) -> None:
        try:
            goal = conversions.points(message).copy()
        except DataError as error:
            self._complain(error)
            return
        with self._lock:
            self._new_goal = goal

    def _take_goal(self) -> None:
        """Head for the newest goal; between two plans, so that none is planned for half of it."""
        with self._lock:
            goal, self._new_goal = self._new_goal, None
        if goal is None:
            return
        try:
            self._steering.set_goal(goal)
        except DataError as error:
            self._complain(error)
            return
        self._succeeded, self._below_since_s = False, None
        self._success.publish(conversions.success_message(False))
        self.node.get_logger().info("a new goal has come")

    def _complain(self, error: DataError) -> None:
        if error.what != self._problem:
            self.node.get_logger().error(str(error))
        self._problem = error.what

    def _run(self) -> None:
        try:
            while not self._halt.is_set():
                self._cycle()
        except Exception as error:  # whatever it is: the robot must be stopped and told why
            self.exit_code = 1
            known = isinstance(error, PhysGymError)
            why = str(error) if known else traceback.format_exc()
            self.node.get_logger().fatal(f"planning failed: {why}")
            self._brake(f"failed: {why.splitlines()[0 if known else -1]}", level=2)
            self._stop_process.set()

    def _cycle(self) -> None:
        self._take_goal()
        missing = self._missing()
        if missing:
            self._brake(missing, level=1)
            self._halt.wait(0.02)
            return
        switch_s = self._next_switch_s()
        with self._lock:
            assert self._joints is not None
            arrived_s, reading = self._joints
            seen = self._steering.latest()
            goal_distance_m = self._steering.distance_m()
            arrived_s = min(arrived_s, self._points_s)
        joints, _ = self._commanded(switch_s, reading)
        wanted = self._steering.act(seen, joints.reshape(-1, 3), at_s=switch_s)
        late = self._now_s() + self.config.lead_s > switch_s
        if late:
            self._overruns += 1
            switch_s = self._now_s() + self.config.lead_s
        joints, before = self._commanded(switch_s, reading)
        safe = self._steering.safe(
            wanted, joints.reshape(-1, 3), seen_s=arrived_s, now_s=time.monotonic()
        )
        self._send(
            move(
                self.config.joints,
                joints,
                before,
                safe.velocity.reshape(-1),
                start_s=switch_s,
                period_s=self._period_s,
                grace_s=self._steering.config.grace_s,
                deceleration=self._steering.config.acceleration_m_s2,
            )
        )
        self._judge(goal_distance_m)
        self._halt.wait(max(0.0, switch_s - self._now_s()))

    def _missing(self) -> str:
        """What keeps it from planning, or an empty text."""
        with self._lock:
            joints, points_s = self._joints, self._points_s
            goal = self._steering.has_goal
        if not goal:
            return "waiting for a goal on goal/points"
        for what, at_s in (
            ("joint states", joints[0] if joints else 0.0),
            ("object points", points_s),
        ):
            if at_s == 0.0:
                return f"waiting for {what}" + (f" ({self._problem})" if self._problem else "")
            if time.monotonic() - at_s > self.config.observation_timeout_s:
                return f"watchdog: {what} have not come for too long"
        return ""

    def _next_switch_s(self) -> float:
        """When the next chunk takes over: one period after the last, unless that has passed."""
        earliest = self._now_s() + self._period_s
        if self._stream.last is None:
            return earliest
        planned = self._stream.last.start_s + self._period_s
        return planned if planned > self._now_s() + self.config.lead_s else earliest

    def _commanded(
        self, at_s: float, reading: conversions.JointReading
    ) -> tuple[np.ndarray, np.ndarray]:
        """Joint positions and velocities that hold at a time if nothing new is sent."""
        measured = reading.position, np.zeros_like(reading.position)
        if self._stream.last is None:
            return measured
        position, velocity = self._stream.at(at_s)
        lost = np.abs(position - reading.position).max() > _LOST_M
        return measured if lost and self._stream.resting(at_s) else (position, velocity)

    def _send(self, chunk: Chunk) -> None:
        # Nothing moves and nothing shall: a stream of equal points would only hide silence.
        still = chunk.path.velocity is not None and not chunk.path.velocity.any()
        if still and self._stream.last is not None and self._stream.resting(self._now_s()):
            return
        self._stream.add(chunk)
        self._command.publish(
            conversions.joint_trajectory_message(chunk.path, stamp_s=chunk.start_s)
        )

    def _brake(self, why: str, *, level: int) -> None:
        now_s = self._now_s()
        braking = self._stream.last is not None and self._stream.last is self._braking
        if not braking and not self._stream.resting(now_s):
            position, velocity = self._stream.at(now_s)
            config = self._steering.config
            self._send(
                brake(
                    self.config.joints,
                    position,
                    velocity,
                    start_s=now_s,
                    deceleration=config.acceleration_m_s2,
                )
            )
            self._steering.rest()
            self._braking = self._stream.last
        if why != self._said:
            self._say(why, level=level, values={})

    def _judge(self, distance_m: float) -> None:
        now_s = time.monotonic()
        if distance_m > self.config.success_distance_m:
            self._below_since_s = None
        elif self._below_since_s is None:
            self._below_since_s = now_s
        held = self._below_since_s is not None and (
            now_s - self._below_since_s >= self.config.success_hold_s
        )
        if held and not self._succeeded:
            self._succeeded = True
            self.node.get_logger().info(f"goal reached: {1e3 * distance_m:.1f} mm")
            self._success.publish(conversions.success_message(True))
        values = self._steering.figures() | {
            "distance_m": f"{distance_m:.5f}",
            "overruns": str(self._overruns),
            "success": str(self._succeeded),
        }
        self._say("goal reached" if self._succeeded else "on the way", level=0, values=values)
        if self._succeeded and self.config.exit_on_success:
            self._stop_process.set()
            self._halt.set()

    def _say(self, text: str, *, level: int, values: dict[str, str]) -> None:
        if text != self._said:
            log = self.node.get_logger()
            if level == 0:
                log.info(text)
            else:
                log.warning(text)
        self._said = text
        word = conversions.Report(self._now_s(), "policy", level, text, values)
        self._status.publish(conversions.status_message(word))


def main(argv: list[str] | None = None) -> int:
    """Entry point of `ros2 run physgym_ros policy`.

    Args:
        argv: command line; None takes the process's own.

    Returns:
        The exit code.
    """
    return run_node(PolicyNode, argv)


if __name__ == "__main__":
    sys.exit(main())
