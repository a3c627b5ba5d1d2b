"""Small recordings for the tests of episodes, importers and exporters."""

from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from physgym.camera import PinholeCamera
from physgym.frames import T_from_parts, matrix_from_quat_wxyz
from recon import episode_messages as kinds
from recon.episode import EpisodeWriter

H, W = 48, 64
DT = 1 / 30


def camera(name: str, number: int = 0, *, distortion: bool = False) -> PinholeCamera:
    """Looks down from 0.8 m, turned about z by its number."""
    half = 0.4 * number
    down = matrix_from_quat_wxyz([0.0, 1.0, 0.0, 0.0])
    turn = matrix_from_quat_wxyz([np.cos(half), 0.0, 0.0, np.sin(half)])
    T = T_from_parts(turn @ down, [0.1 * number, 0.05, 0.8])
    K = np.array([[60.0, 0.0, 31.5], [0.0, 61.0, 23.5], [0.0, 0.0, 1.0]])
    bend = np.array([-0.4, 0.05, 0.001, 0.002, 0.0]) if distortion else np.zeros(5)
    return PinholeCamera(name, f"S{number}", W, H, K, T, bend)


def color(number: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(1000 * seed + number)
    return rng.integers(0, 256, (H, W, 3), dtype=np.uint8)


def depth(number: int, seed: int = 0) -> np.ndarray:
    """Whole millimetres, with holes."""
    rng = np.random.default_rng(7 + 1000 * seed + number)
    values = rng.integers(300, 1500, (H, W)).astype(np.float32) * np.float32(1e-3)
    values[:5, :7] = 0
    return values


def write_episode(path: Path, *, frames: int = 12, cameras: int = 2, start_s: float = 0.0) -> Path:
    """An episode with a gripper, joints and masks; camera c is c milliseconds late."""
    own = [camera(f"cam{c}", c) for c in range(cameras)]
    with EpisodeWriter(path, own, metadata={"kind": "test"}) as writer:
        for t in range(frames):
            stamp = start_s + t * DT
            for c, one in enumerate(own):
                late = stamp + 1e-3 * c
                writer.write_frame(one.name, late, color(t, c), depth(t, c))
                mask = np.zeros((H, W), bool)
                mask[t : t + 9, 10:20] = True
                writer.write_mask(one.name, late, "object", mask)
            half = 0.05 * t
            quat = [np.cos(half), 0, 0, np.sin(half)]
            writer.write_gripper(0, stamp, [0.01 * t, 0.2, 0.3], quat, closed=t >= 4)
            writer.write_joints(stamp, ["a", "b"], [0.1 * t, 1.0], velocity=[0.5, 0.0])
    return path


def write_foreign(
    path: Path,
    *,
    storage: StoragePlugin = StoragePlugin.SQLITE3,
    mode: CompressionMode = CompressionMode.NONE,
    roots: tuple[str, ...] = ("/camera/camera",),
    encodings: tuple[str, str] = ("rgb8", "16UC1"),
    frames: int = 8,
    tree: bool = True,
    log_late_ns: int = 3_000_000,
    stamped: bool = True,
    depth_part: str = "aligned_depth_to_color/image_raw",
) -> Path:
    """What `ros2 bag record` makes of realsense-ros: stamps in headers, recorded a little later."""
    make = kinds.MessageFactory()
    writer = Writer(path, version=9, storage_plugin=storage)
    if mode != CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        links = {}

        def put(topic: str, kind: str, log_ns: int, raw: bytes) -> None:
            if topic not in links:
                links[topic] = writer.add_connection(topic, kind, typestore=make.store)
            writer.write(links[topic], log_ns, raw)

        first_ns = 1_700_000_000_000_000_000
        for c, root in enumerate(roots):
            if tree:  # world -> link -> optical frame, as a camera's driver and a robot publish
                T = camera("x", c).T_world_cam
                shift = np.eye(4)
                shift[:3, 3] = [0.0, 0.015, 0.0]
                up = T @ np.linalg.inv(shift)
                put(
                    "/tf_static",
                    kinds.TRANSFORMS,
                    first_ns,
                    make.transforms(first_ns, "world", {f"link{c}": up}),
                )
                put(
                    "/tf_static",
                    kinds.TRANSFORMS,
                    first_ns,
                    make.transforms(first_ns, f"link{c}", {f"optical{c}": shift}),
                )
            for t in range(frames):
                taken = first_ns + round(t * DT * 1e9)
                stamp = taken if stamped else 0
                rgb, metres = color(t, c), depth(t, c)
                pixels = {"rgb8": rgb, "bgr8": rgb[..., ::-1], "mono8": rgb[..., 0]}[encodings[0]]
                deep = np.round(metres * 1e3).astype(np.uint16)
                if encodings[1] == "32FC1":
                    deep = np.where(metres > 0, metres, np.float32(np.nan))
                log, frame = taken + log_late_ns, f"optical{c}"
                info = make.camera_info(stamp, frame, camera("x", c))
                put(
                    f"{root}/color/image_raw",
                    kinds.IMAGE,
                    log,
                    make.image(stamp, frame, encodings[0], pixels),
                )
                put(f"{root}/color/camera_info", kinds.CAMERA_INFO, log, info)
                image = make.image(stamp, frame, encodings[1], deep)
                put(f"{root}/{depth_part}", kinds.IMAGE, log, image)
    return path


class Recorder:
    """Writes a recording message by message; times in nanoseconds, as ROS has them."""

    def __init__(self, path: Path, storage: StoragePlugin = StoragePlugin.MCAP) -> None:
        self.make = kinds.MessageFactory()
        self.writer = Writer(path, version=9, storage_plugin=storage)
        self._links: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> "Recorder":
        self.writer.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.writer.close()

    def announce(self, topic: str, kind: str) -> Any:
        """A topic, perhaps without a message."""
        if (topic, kind) not in self._links:
            link = self.writer.add_connection(topic, kind, typestore=self.make.store)
            self._links[topic, kind] = link
        return self._links[topic, kind]

    def put(self, topic: str, kind: str, log_ns: int, raw: bytes) -> None:
        self.writer.write(self.announce(topic, kind), log_ns, raw)

    def typed(self, topic: str, kind: str, log_ns: int, *fields: Any) -> None:
        """A message by its fields."""
        message = self.make.store.types[kind](*fields)
        self.put(topic, kind, log_ns, self.make.store.serialize_cdr(message, kind))

    def tree(self, parent: str, child: str, T: np.ndarray, topic: str = "/tf_static") -> None:
        self.put(topic, kinds.TRANSFORMS, 1, self.make.transforms(1, parent, {child: T}))

    def frame(
        self, t: int, *, stamp_ns: int | None = None, log_ns: int | None = None, root: str = "/c"
    ) -> None:
        """Colour, depth and intrinsics of frame t, 30 per second from second 100."""
        stamp = (100 + t * DT) * 1e9 if stamp_ns is None else stamp_ns
        log, stamp = round((100 + t * DT) * 1e9) if log_ns is None else log_ns, round(stamp)
        deep = np.round(depth(t) * 1e3).astype(np.uint16)
        images = (("color", "rgb8", color(t)), ("aligned_depth_to_color", "16UC1", deep))
        for part, encoding, pixels in images:
            raw = self.make.image(stamp, "optical", encoding, pixels)
            self.put(f"{root}/{part}/image_raw", kinds.IMAGE, log, raw)
        self.info(log, root=root)

    def info(self, log_ns: int, *, root: str = "/c", **changes: Any) -> None:
        """Intrinsics; ``changes`` by the names of the message's fields."""
        raw = self.make.camera_info(log_ns, "optical", camera("c"))
        message = self.make.store.deserialize_cdr(raw, kinds.CAMERA_INFO)
        for key, value in changes.items():
            object.__setattr__(message, key, value)
        packed = self.make.store.serialize_cdr(message, kinds.CAMERA_INFO)
        self.put(f"{root}/color/camera_info", kinds.CAMERA_INFO, log_ns, packed)
