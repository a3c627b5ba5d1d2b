"""Node `camera`: what realsense-ros publishes, from a recording, a simulated cell or RealSense.

Per camera ``/<camera_namespace>/<camera>/color/image_raw`` (rgb8), ``color/camera_info``,
``aligned_depth_to_color/image_raw`` (16UC1) and ``aligned_depth_to_color/camera_info``; where the
source knows them, ``/gripper<k>/pose`` and ``closed``, ``/plate<k>/pose``, ``/joint_states``.
Places of cameras are on ``/tf_static`` where tf2_msgs is installed (it comes with ROS, not as a
wheel) and always, one transform each, latched, on
``/<camera_namespace>/<camera>/color/transform``.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool

from physgym.camera import PinholeCamera
from physgym.errors import DataError, PhysGymError
from physgym_ros import conversions, conversions_capture, qos
from physgym_ros.dds import PROFILE
from physgym_ros.parameters import Range, declare, parameter
from physgym_ros.process import run_node
from recon.capture.live_sources import (
    EpisodeSource,
    JointValues,
    LiveItem,
    LiveSource,
    PlatePose,
    SoftCellSource,
)
from recon.capture.sources import GripperPose, Picture, Source

__all__ = ["CameraNode", "CameraParameters", "main", "make_source"]

_STATUS_PERIOD_S = 0.5
_WAIT_S = 0.02
_ARRIVAL_S = 5.0  # a recorder on a busy machine takes a second of images in less
_EMPTY = ("",)  # rclpy takes an empty list for one of bytes


@dataclass(frozen=True)
class CameraParameters:
    """ROS parameters of `camera`."""

    source: str = parameter("", "An episode's folder, `simulated`, or `realsense`.")
    camera_namespace: str = parameter("camera", "First part of the cameras' topics.")
    loop: bool = parameter(False, "Start again at the end; stamps go on.")
    restamp: bool = parameter(
        False, "Stamps of a recording are moved so that it happens now; else they are its own."
    )
    speed: float = parameter(1.0, "Playback: seconds of recording a second.", span=Range(0.01, 100))
    await_subscribers: int = parameter(
        0,
        "Begin when all topics of images and motion have so many subscribers.",
        span=Range(0, 100),
    )
    exit_at_end: bool = parameter(True, "End the node when the source has ended.")
    calibration: str = parameter("", "File of `physgym calibrate`; empty: as the source says.")
    files: tuple[str, ...] = parameter(_EMPTY, "realsense: recordings (.db3) instead of hardware.")
    serials: tuple[str, ...] = parameter(
        _EMPTY, "realsense: NAME=SERIAL of each camera; empty: all connected ones."
    )
    width: int = parameter(640, "Image width [px]: simulated, realsense.", span=Range(16, 1920))
    height: int = parameter(480, "Image height [px]: simulated, realsense.", span=Range(16, 1920))
    fps: int = parameter(30, "Pictures a second: simulated, realsense.", span=Range(1, 90))
    kind: str = parameter("toy", "simulated: block, toy, rope or cloth.")
    cameras: int = parameter(3, "simulated: number of cameras.", span=Range(1, 8))
    interaction: str = parameter("lift", "simulated: what the grippers do.")
    duration_s: float = parameter(3.0, "simulated: of one interaction [s].", span=Range(0.1, 600))
    seed: int = parameter(0, "simulated: of the first interaction.", span=Range(0, 2**31 - 1))


def make_source(config: CameraParameters) -> Source:
    """What the parameters name.

    Args:
        config: the parameters.

    Returns:
        The source, not started.

    Raises:
        PhysGymError: if it cannot be opened, or nothing is named.
    """
    if config.source == "simulated":
        from physgym.cell.soft_config import SoftCellConfig

        return SoftCellSource(
            SoftCellConfig(
                kind=config.kind,
                camera_count=config.cameras,
                camera_width=config.width,
                camera_height=config.height,
            ),
            interaction=config.interaction,
            duration_s=config.duration_s,
            fps=config.fps,
            seed=config.seed,
            loop=config.loop,
        )
    if config.source == "realsense":
        return _realsense(config)
    if not config.source:
        raise DataError(
            "no source",
            where="parameter source of node camera",
            expected="an episode's folder, `simulated` or `realsense`",
            fix="add `-p source:=EPISODE`",
        )
    calibration = Path(config.calibration) if config.calibration else None
    return EpisodeSource(config.source, loop=config.loop, calibration=calibration)


def _realsense(config: CameraParameters) -> Source:
    from recon.capture.calibration_file import load_calibration
    from recon.capture.realsense import RealSenseConfig
    from recon.capture.sources import RigSource

    pairs = [text.partition("=") for text in config.serials if text]
    if any(not name or not serial for name, _, serial in pairs):
        raise DataError(
            f"{list(config.serials)}",
            where="parameter serials of node camera",
            expected="NAME=SERIAL of each camera",
        )
    return RigSource(
        [Path(file) for file in config.files if file],
        names={name: serial for name, _, serial in pairs} or None,
        calibration=load_calibration(Path(config.calibration)) if config.calibration else None,
        config=RealSenseConfig(width=config.width, height=config.height, fps=config.fps),
    )


class CameraNode:
    """The source, its node and the thread that moves items from one to the other.

    Args:
        stop: set from here when the source ends or fails, so that the process ends.

    Raises:
        PhysGymError: if the source cannot be opened.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.exit_code = 0
        self.node = Node("camera")
        self._stop_process = stop
        self.config = declare(self.node, CameraParameters)
        self._source = make_source(self.config)
        self._halt = threading.Event()
        self._cameras: dict[str, PinholeCamera] = {}
        self._publishers: dict[str, Any] = {}
        self._sent: Counter[str] = Counter()
        self._shift_s: float | None = None
        self._began_s = self._first_s = self._last_s = 0.0
        self._next_status_s = 0.0
        self._status = self.node.create_publisher(DiagnosticArray, "/diagnostics", qos.STATE)
        # Drawing and librealsense belong to one thread, so the source is started there as well.
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)

    def start(self) -> None:
        """Start the source."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the source."""
        self._halt.set()
        self._source.stop()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        try:
            self._cameras = dict(self._source.start())
            self._announce()
            if self._await_subscribers():
                for item in self._source.items():
                    self._wait_until_due(item.stamp_s)
                    if self._halt.is_set():
                        break
                    self._publish(item)
            self._say(0, "the source has ended", now=True)
        except Exception as error:  # whatever it is: a thread must not die without a word
            self.exit_code = 1
            known = isinstance(error, PhysGymError)
            why = str(error) if known else traceback.format_exc()
            self.node.get_logger().fatal(f"the source failed: {why}")
            self._say(2, why.splitlines()[0 if known else -1], now=True)
            self._stop_process.set()
        finally:
            self._source.close()
        if self.config.exit_at_end:
            self._await_arrival()
            self._stop_process.set()

    def _await_arrival(self) -> None:
        """Until every subscriber that asked for all has all; it would be lost with the process."""
        until_s = time.monotonic() + _ARRIVAL_S
        for publisher in (*self._publishers.values(), self._status):
            left_s = max(until_s - time.monotonic(), 0.0)
            publisher.wait_for_all_acked(Duration(seconds=left_s))

    def _announce(self) -> None:
        """Make the cameras' topics and say where they are."""
        log, found = self.node.get_logger(), []
        now_s = self._now_s()
        for name, camera in self._cameras.items():
            for part in ("color", "aligned_depth_to_color"):
                self._publisher(Image, f"{self._root(name)}/{part}/image_raw", qos.IMAGES)
                self._publisher(CameraInfo, f"{self._root(name)}/{part}/camera_info", qos.IMAGES)
            if self._source.calibrated:
                message = conversions_capture.transform_message(
                    camera.T_world_cam, parent="world", child=_frame(name), stamp_s=now_s
                )
                topic = f"{self._root(name)}/color/transform"
                self._publisher(type(message), topic, qos.LATCHED).publish(message)
                found.append(message)
        for mover in self._source.motion if isinstance(self._source, LiveSource) else ():
            if mover == "joint_states":
                self._publisher(JointState, "/joint_states", qos.STATE)
                continue
            self._publisher(PoseStamped, f"/{mover}/pose", qos.STATE)
            if mover.startswith("gripper"):
                self._publisher(Bool, f"/{mover}/closed", qos.STATE)
        kind = conversions_capture.static_message_type()
        if kind is not None and found:
            places = conversions_capture.transforms_message(found)
            self._publisher(kind, "/tf_static", qos.LATCHED).publish(places)
        if not self._source.calibrated:
            log.warning("nothing says where the cameras are: give `calibration`")
        log.info(f"cameras {', '.join(self._cameras)} from {self.config.source}")

    def _await_subscribers(self) -> bool:
        wanted = self.config.await_subscribers
        # Nobody needs the intrinsics of aligned depth or both kinds of places.
        optional = ("/aligned_depth_to_color/camera_info", "/color/transform", "/tf_static")
        needed = [p for topic, p in self._publishers.items() if not topic.endswith(optional)]
        while any(one.get_subscription_count() < wanted for one in needed):
            self._say(0, f"waiting for {wanted} subscribers of images and motion")
            if self._halt.wait(_WAIT_S):
                return False
        return True

    def _wait_until_due(self, stamp_s: float) -> None:
        if self._shift_s is None:
            simulated = isinstance(self._source, SoftCellSource)
            moved = simulated or (self.config.restamp and self.config.source != "realsense")
            self._shift_s = self._now_s() - stamp_s if moved else 0.0
            self._began_s, self._first_s = time.monotonic(), stamp_s
        self._last_s = stamp_s
        if self.config.source == "realsense":
            return  # it comes when it comes
        due_s = self._began_s + (stamp_s - self._first_s) / self.config.speed
        left_s = due_s - time.monotonic()
        if left_s > 0.0:
            self._halt.wait(left_s)

    def _publish(self, item: LiveItem) -> None:
        stamp_s = item.stamp_s + (self._shift_s or 0.0)
        make = conversions_capture
        if isinstance(item, Picture):
            self._publish_picture(item, stamp_s)
        elif isinstance(item, GripperPose):
            # Before the pose: a Bool has no stamp, so the next pose dates it.
            topic, truth = f"/gripper{item.number}/closed", make.bool_message(item.closed)
            self._publisher(Bool, topic, qos.STATE).publish(truth)
            self._publish_pose(f"/gripper{item.number}/pose", item, stamp_s)
        elif isinstance(item, PlatePose):
            self._publish_pose(f"/plate{item.number}/pose", item, stamp_s)
        elif isinstance(item, JointValues):
            message = conversions.joint_state_message(
                item.names, item.position, item.velocity, stamp_s=stamp_s
            )
            self._publisher(JointState, "/joint_states", qos.STATE).publish(message)
        self._say(0, "running")

    def _publish_picture(self, item: Picture, stamp_s: float) -> None:
        make, root, frame = conversions_capture, self._root(item.camera), _frame(item.camera)
        stamped: dict[str, Any] = {"stamp_s": stamp_s, "frame_id": frame}
        info = make.camera_info_message(self._cameras[item.camera], **stamped)
        images = [("color", make.image_message(item.rgb, "rgb8", **stamped))]
        if item.depth is not None:
            depth = make.depth_message(item.depth, **stamped)
            images.append(("aligned_depth_to_color", depth))
        for part, image in images:
            self._publishers[f"{root}/{part}/camera_info"].publish(info)
            self._publishers[f"{root}/{part}/image_raw"].publish(image)
        self._sent[item.camera] += 1

    def _publish_pose(self, topic: str, item: GripperPose | PlatePose, stamp_s: float) -> None:
        message = conversions_capture.pose_message(item.position, item.quat_wxyz, stamp_s=stamp_s)
        self._publisher(PoseStamped, topic, qos.STATE).publish(message)

    def _publisher(self, kind: type, topic: str, profile: Any) -> Any:
        if topic not in self._publishers:
            events = qos.publisher_events(self.node, topic)
            create: Callable[..., Any] = self.node.create_publisher
            self._publishers[topic] = create(kind, topic, profile, event_callbacks=events)
        return self._publishers[topic]

    def _root(self, camera: str) -> str:
        return f"/{self.config.camera_namespace}/{camera}"

    def _now_s(self) -> float:
        return 1e-9 * float(self.node.get_clock().now().nanoseconds)

    def _say(self, level: int, text: str, *, now: bool = False) -> None:
        if time.monotonic() < self._next_status_s and not now:
            return
        self._next_status_s = time.monotonic() + _STATUS_PERIOD_S
        elapsed_s = max(time.monotonic() - self._began_s, 1e-6) if self._began_s else 0.0
        played_s = self._last_s - self._first_s
        values = {f"frames.{name}": str(self._sent[name]) for name in self._cameras}
        values["real_time_factor"] = f"{played_s / elapsed_s:.3f}" if elapsed_s else "0"
        word = conversions.Report(self._now_s(), "camera", level, text, values)
        self._status.publish(conversions.status_message(word))


def _frame(camera: str) -> str:
    return f"{camera}_color_optical_frame"


def main(argv: list[str] | None = None) -> int:
    """Entry point of `ros2 run physgym_ros camera`.

    Args:
        argv: command line; None takes the process's own.

    Returns:
        The exit code.
    """
    # An image does not fit Fast DDS's usual segment of shared memory: half of them are lost there.
    os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(PROFILE))
    return run_node(CameraNode, argv)


if __name__ == "__main__":
    sys.exit(main())
