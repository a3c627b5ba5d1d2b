"""Node `recorder`: the topics of cameras, grippers and joints become an episode.

Services ``~/start`` and ``~/stop`` (std_srvs/Trigger). Hears every
``.../color/image_raw``, ``.../color/camera_info`` and ``.../aligned_depth_to_color/image_raw`` that
appears, at any time, ``/tf_static`` (and ``.../color/transform``, where there is no tf2_msgs),
``/gripper<k>/pose`` and ``closed``, ``/plate<k>/pose`` and ``/joint_states``; says on
``/diagnostics`` what is kept and what is not.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TransformStamped
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from physgym.errors import DataError, PhysGymError
from physgym_ros import conversions, conversions_capture, qos
from physgym_ros.dds import PROFILE
from physgym_ros.parameters import Range, declare, parameter
from physgym_ros.process import run_node
from recon import cdr
from recon.capture.live_rig import LiveRig, camera_roots
from recon.capture.recording import LiveRecording, RecordingConfig
from recon.capture.recording_report import RecordingReport

__all__ = ["RecorderNode", "RecorderParameters", "main"]

_SCAN_PERIOD_S = 0.25
_STATUS_PERIOD_S = 0.5
_IMAGE_DEPTH = 30  # images that wait for this node: a second of a camera
_MOTION = re.compile(r"/(gripper|plate)(\d+)/(pose|closed)")


@dataclass(frozen=True)
class RecorderParameters:
    """ROS parameters of `recorder`."""

    out: str = parameter("episodes", "Folder that episodes go into.")
    name: str = parameter("episode", "Episodes are called NAME_DATE-TIME.")
    cameras: tuple[str, ...] = parameter(
        ("",), "Cameras that must send, by name; empty: all that are there when it starts."
    )
    calibration: str = parameter("", "File of `physgym calibrate`; it wins over /tf_static.")
    metadata: str = parameter(
        "", "JSON file with what no topic tells: {object: {mass_kg: 0.2}, grippers: [...]}."
    )
    world_frame: str = parameter("world", "Frame that places refer to.")
    allow_uncalibrated: bool = parameter(
        False, "Record cameras whose place is unknown; opening then asks for a calibration."
    )
    depth: bool = parameter(True, "Cameras send depth aligned to colour.")
    compress: bool = parameter(True, "zstd; off: less work, more disk.")
    queue_images: int = parameter(
        300, "Images that may wait for the disk before any is lost.", span=Range(2, 100_000)
    )
    silence_s: float = parameter(
        1.0, "A camera that sends nothing for this long has stopped [s].", span=Range(0.1, 600)
    )
    autostart: bool = parameter(False, "Record from the start of the node.")


class RecorderNode:
    """The node; the writing is done by `recon.capture.recording.LiveRecording`.

    Args:
        stop: not used: only the user stops a recorder.

    Raises:
        PhysGymError: if the calibration cannot be read, or recording cannot begin.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.exit_code = 0
        self.node = Node("recorder")
        self.config = declare(self.node, RecorderParameters)
        self._rig = self._known_rig()
        self._metadata = {"source": "ROS 2 topics"} | _read_metadata(self.config.metadata)
        self._recording: LiveRecording | None = None
        self._subscriptions: dict[str, tuple[Any, Any]] = {}
        self._placed: set[str] = set()
        self._lost_by_dds: Counter[str] = Counter()
        self._said: set[str] = set()
        self._status = self.node.create_publisher(DiagnosticArray, "/diagnostics", qos.STATE)
        self.node.create_service(Trigger, "~/start", self._on_start)
        self.node.create_service(Trigger, "~/stop", self._on_stop)
        kind = conversions_capture.static_message_type()
        if kind is not None:
            self._subscribe(kind, "/tf_static", self._on_static, qos.STATIC)
        self._subscribe(JointState, "/joint_states", self._on_joints, qos.MOTION)
        self.node.create_timer(_SCAN_PERIOD_S, self._scan)
        self.node.create_timer(_STATUS_PERIOD_S, self._say)
        if self.config.autostart:
            self._begin()

    def _known_rig(self) -> LiveRig:
        calibration = None
        if self.config.calibration:
            from recon.capture.calibration_file import load_calibration

            calibration = load_calibration(Path(self.config.calibration))
        return LiveRig(
            calibration,
            world_frame=self.config.world_frame,
            allow_uncalibrated=self.config.allow_uncalibrated,
        )

    def start(self) -> None:
        """Look around at once."""
        self._scan()

    def stop(self) -> None:
        """Close the episode, if one is being recorded; the context is still valid."""
        if self._recording is not None:
            report = self._end()
            self.node.get_logger().info(f"closed {report.path} with {report.frames} frames")

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._recording is not None:
            text = f"already recording into {self._recording.path}: call ~/stop first"
            return conversions_capture.answer(response, False, text)
        try:
            return conversions_capture.answer(response, True, str(self._begin()))
        except PhysGymError as error:
            return conversions_capture.answer(response, False, str(error))

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._recording is None:
            return conversions_capture.answer(response, False, "nothing is being recorded")
        report = self._end()
        success = not report.problem and sum(report.frames.values()) > 0
        plain = report.plain() | {"problems": self._problems(report)}
        return conversions_capture.answer(response, success, json.dumps(plain))

    def _begin(self) -> Path:
        config = self.config
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
        path = Path(config.out).expanduser() / f"{config.name}_{stamp}"
        expected = [name for name in config.cameras if name] or self._rig.names
        self._recording = LiveRecording(
            path,
            RecordingConfig(
                queue_images=config.queue_images,
                silence_s=config.silence_s,
                depth=config.depth,
                compress=config.compress,
            ),
            expected=expected,
            metadata=self._metadata,
        )
        self._placed, self._said = set(), set()
        self._lost_by_dds.clear()
        self._place()
        self.node.get_logger().info(f"recording into {self._recording.path}")
        return self._recording.path

    def _end(self) -> RecordingReport:
        assert self._recording is not None
        report = self._recording.stop()
        self._say()
        self._recording = None
        return report

    def _scan(self) -> None:
        """Subscribe to what has appeared, and anew where a publisher offers less than before."""
        found = self.node.get_topic_names_and_types()
        kinds = {topic: types[0] for topic, types in found}
        images = [topic for topic, kind in kinds.items() if kind == "sensor_msgs/msg/Image"]
        for root in camera_roots(images):
            name = self._rig.name_of(root)
            self._listen(Image, f"{root}/color/image_raw", self._on_image(name, depth=False))
            self._listen(CameraInfo, f"{root}/color/camera_info", self._on_info(name))
            if self.config.depth:
                depth = f"{root}/aligned_depth_to_color/image_raw"
                self._listen(Image, depth, self._on_image(name, depth=True))
            self._subscribe(
                TransformStamped, f"{root}/color/transform", self._on_transform, qos.STATIC
            )
        for topic in kinds:
            match = _MOTION.fullmatch(topic)
            if match and match[3] == "pose":
                handle = self._on_pose(topic, match[1], int(match[2]))
                self._subscribe(PoseStamped, topic, handle, qos.MOTION)
            elif match and match[1] == "gripper":
                self._subscribe(Bool, topic, self._on_closed(int(match[2])), qos.MOTION)

    def _listen(self, kind: type, topic: str, callback: Callable[[bytes], None]) -> None:
        wanted = qos.as_offered(self.node, topic, depth=_IMAGE_DEPTH)
        if wanted is None:
            return  # nobody publishes it (yet, or any more)
        known = self._subscriptions.get(topic)
        if known is not None and known[1].reliability != wanted.reliability:
            self.node.destroy_subscription(known[0])
            del self._subscriptions[topic]
        self._subscribe(kind, topic, callback, wanted)

    def _subscribe(
        self, kind: type, topic: str, callback: Callable[[Any], None], profile: Any
    ) -> None:
        if topic in self._subscriptions:
            return

        def lost(event: Any) -> None:
            self._lost_by_dds[topic] += event.total_count_change

        events = qos.subscription_events(self.node, topic)
        events = SubscriptionEventCallbacks(
            incompatible_qos=events.incompatible_qos, message_lost=lost
        )
        # As bytes: making a Python message of an image only to take it apart again costs more
        # than everything else here. One transform is small, and no reader of bytes knows it.
        raw = kind is not TransformStamped
        create: Callable[..., Any] = self.node.create_subscription
        made = create(kind, topic, callback, profile, raw=raw, event_callbacks=events)
        self._subscriptions[topic] = made, profile

    def _on_image(self, name: str, *, depth: bool) -> Callable[[bytes], None]:
        def take(raw: bytes) -> None:
            if self._recording is None:
                return
            try:
                self._recording.image(name, cdr.read_image(raw), depth=depth)
            except cdr.CdrError as error:
                self._recording.refuse(name, str(error))

        return take

    def _on_info(self, name: str) -> Callable[[bytes], None]:
        def take(raw: bytes) -> None:
            if self._recording is None or name not in self._placed:
                self._rig.note_info(name, cdr.read_camera_info(raw))
                self._place()

        return take

    def _on_static(self, raw: bytes) -> None:
        self._rig.note_transforms(cdr.read_transforms(raw))
        self._place()

    def _on_transform(self, message: TransformStamped) -> None:
        self._rig.note_transforms([conversions_capture.transform(message)])
        self._place()

    def _place(self) -> None:
        """Tell the recording of cameras that are known by now."""
        if self._recording is None:
            return
        for name in self._rig.names:
            if name in self._placed:
                continue
            try:
                camera = self._rig.camera(name)
            except PhysGymError as error:
                self._recording.refuse(name, error.what)
                self._placed.add(name)
                continue
            if camera is not None:
                self._recording.place(camera, is_placed=self._rig.is_placed(name))
                self._placed.add(name)

    def _on_pose(self, topic: str, kind: str, number: int) -> Callable[[bytes], None]:
        def take(raw: bytes) -> None:
            recording = self._recording
            if recording is None:
                return
            try:
                message = cdr.read_pose(raw)
                position, quat_wxyz = self._rig.pose_in_world(message)
            except (cdr.CdrError, PhysGymError) as error:
                recording.refuse_motion(topic, str(error).splitlines()[0])
                return
            put = recording.gripper_pose if kind == "gripper" else recording.plate_pose
            put(number, 1e-9 * message.stamp_ns, position, quat_wxyz)

        return take

    def _on_closed(self, number: int) -> Callable[[bytes], None]:
        def take(raw: bytes) -> None:
            if self._recording is not None:
                self._recording.gripper_closed(number, cdr.read_bool(raw))

        return take

    def _on_joints(self, raw: bytes) -> None:
        if self._recording is None:
            return
        try:
            found = cdr.read_joint_state(raw)
        except cdr.CdrError as error:
            self._recording.refuse_motion("/joint_states", str(error))
            return
        columns = found.position, found.velocity, found.effort
        self._recording.joints(1e-9 * found.stamp_ns, found.name, *columns)

    def _say(self) -> None:
        now_s = 1e-9 * float(self.node.get_clock().now().nanoseconds)
        if self._recording is None:
            known = {name: self._rig.missing(name) or "ready" for name in self._rig.names}
            word = conversions.Report(now_s, "recorder", 0, "not recording", known)
            self._status.publish(conversions_capture.diagnostics_message([word]))
            return
        report = self._recording.report()
        for text in self._problems(report):
            # Figures change all the time; what is wrong does not.
            kind = re.sub(r"[\d.]+", "#", text)
            if kind not in self._said:
                self._said.add(kind)
                self.node.get_logger().warning(text)
        words = diagnostics(report, now_s, lost_by_dds=self._lost_by_dds)
        self._status.publish(conversions_capture.diagnostics_message(words))

    def _problems(self, report: RecordingReport) -> list[str]:
        unplaced = [name for name, one in report.cameras.items() if one.unplaced]
        missing = {name: self._rig.missing(name) for name in unplaced}
        return [*report.problems(), *(f"{name}: {why}" for name, why in missing.items() if why)]


def _read_metadata(path: str) -> dict[str, Any]:
    if not path:
        return {}
    where = "parameter metadata of node recorder"
    try:
        found = json.loads(Path(path).expanduser().read_text("utf-8"))
    except (OSError, ValueError) as error:
        what = f"{path} cannot be read: {error}"
        raise DataError(what, where=where, expected="a JSON file") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no object", where=where, expected="keys and values")
    return found


def diagnostics(
    report: RecordingReport, now_s: float, *, lost_by_dds: Counter[str]
) -> list[conversions.Report]:
    """What a recorder says of a recording: one report on the whole, one on each camera.

    Args:
        report: the recording so far.
        now_s: [s].
        lost_by_dds: messages that DDS itself reports as lost, by topic.

    Returns:
        The reports.
    """
    problems = report.problems()
    values = {
        "episode": str(report.path),
        "duration_s": f"{report.duration_s:.1f}",
        "waiting": str(report.waiting),
        "mb_written": f"{1e-6 * report.bytes_written:.1f}",
        **{f"frames.{name}": str(count) for name, count in report.frames.items()},
        **{f"messages.{name}": str(count) for name, count in report.motion.items()},
        **{f"lost_by_dds.{topic}": str(count) for topic, count in lost_by_dds.items()},
    }
    level = 2 if report.problem else int(bool(problems))
    text = "; ".join(problems) or "recording"
    words = [conversions.Report(now_s, "recorder", level, text, values)]
    for name, one in report.cameras.items():
        counts = {
            key: str(getattr(one, key))
            for key in ("frames", "received", "missing", "overflowed", "unpaired", "unplaced")
        }
        counts["refused"] = str(one.refused)
        counts["silent_s"] = f"{one.silent_s:.1f}"
        level = 2 if one.silent_s else int(bool(one.problem))
        text = one.problem or "recording"
        words.append(conversions.Report(now_s, f"recorder: {name}", level, text, counts))
    return words


def main(argv: list[str] | None = None) -> int:
    """Entry point of `ros2 run physgym_ros recorder`.

    Args:
        argv: command line; None takes the process's own.

    Returns:
        The exit code.
    """
    os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(PROFILE))
    return run_node(RecorderNode, argv)


if __name__ == "__main__":
    sys.exit(main())
