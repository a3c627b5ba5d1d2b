"""What the tests of the capture nodes talk through: services, diagnostics, images."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger

from physgym.camera import PinholeCamera
from physgym_ros import conversions_capture, qos
from physgym_ros.conversions import Report
from physgym_ros.dds import PROFILE
from physgym_ros.harness import NodeProcess


def start(node: str, tmp_path: Path, domain: int, *, log: str = "", **parameters) -> NodeProcess:
    path = tmp_path / f"{log or node}.log"
    return NodeProcess(node, parameters, domain_id=domain, log=path)


def start_recorder(tmp_path: Path, domain: int, **parameters) -> NodeProcess:
    return start("recorder", tmp_path, domain, out=str(tmp_path / "out"), **parameters)


def recorded(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "out").iterdir()
    assert not path.name.endswith(".partial")
    return path


class Client:
    """A node in this process; a context manager."""

    def __init__(self, domain_id: int) -> None:
        os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(PROFILE))
        self.words: dict[str, Report] = {}
        self._context = Context()
        rclpy.init(
            context=self._context,
            domain_id=domain_id,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self.node = Node("client", context=self._context)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, qos.SENSOR)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._halt.set()
        self._thread.join(timeout=5.0)
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def call(self, name: str, *, timeout_s: float = 30.0) -> Trigger.Response:
        client = self.node.create_client(Trigger, name)
        assert client.wait_for_service(timeout_sec=timeout_s), f"no service {name}"
        future = client.call_async(Trigger.Request())
        assert self.wait(future.done, timeout_s=timeout_s), f"{name} gives no answer"
        return future.result()

    def wait(
        self,
        condition: Callable[[], object],
        *,
        timeout_s: float = 30.0,
        alive: Sequence[NodeProcess] = (),
    ) -> bool:
        end_s = time.monotonic() + timeout_s
        while not condition():
            for process in alive:
                process.check()
            if time.monotonic() > end_s:
                return False
            time.sleep(0.01)
        return True

    def value(self, component: str, key: str) -> str:
        word = self.words.get(component)
        return word.values.get(key, "") if word else ""

    def frames(self, camera: str) -> int:
        """Pictures of a camera that the recorder has kept."""
        return int(self.value("recorder", f"frames.{camera}") or 0)

    def _hear(self, message: DiagnosticArray) -> None:
        self.words.update(conversions_capture.reports(message))

    def _spin(self) -> None:
        while not self._halt.is_set():
            self._executor.spin_once(timeout_sec=0.05)


class ForeignCamera:
    """A camera's driver as others write it: own reliability, own encodings, own frames."""

    def __init__(
        self,
        client: Client,
        camera: PinholeCamera,
        *,
        root: str,
        reliability: ReliabilityPolicy = ReliabilityPolicy.BEST_EFFORT,
    ) -> None:
        self._node = client.node
        self.camera, self.frame = camera, f"{camera.name}_optical"
        profile = QoSProfile(depth=30, reliability=reliability)
        create = client.node.create_publisher
        self.info = create(CameraInfo, f"{root}/color/camera_info", profile)
        self.color = create(Image, f"{root}/color/image_raw", profile)
        self.depth = create(Image, f"{root}/aligned_depth_to_color/image_raw", profile)
        self.place = create(TransformStamped, f"{root}/color/transform", qos.LATCHED)

    def close(self) -> None:
        for publisher in (self.info, self.color, self.depth, self.place):
            self._node.destroy_publisher(publisher)

    def say_place(self) -> None:
        self.place.publish(
            conversions_capture.transform_message(
                self.camera.T_world_cam, parent="world", child=self.frame, stamp_s=1.0
            )
        )

    def heard(self) -> bool:
        topics = (self.info, self.color, self.depth)
        return all(one.get_subscription_count() > 0 for one in topics)

    def send(self, stamp_s: float, color: tuple, depth: tuple | None) -> None:
        """Each as (pixels, encoding)."""
        stamped = {"stamp_s": stamp_s, "frame_id": self.frame}
        make = conversions_capture.image_message
        self.info.publish(conversions_capture.camera_info_message(self.camera, **stamped))
        self.color.publish(make(*color, **stamped))
        if depth is not None:
            self.depth.publish(make(*depth, **stamped))
