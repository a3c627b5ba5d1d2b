"""An `EpisodeWriter` whose cameras may come while it writes."""

from __future__ import annotations

from pathlib import Path

from physgym.camera import PinholeCamera
from recon import episode_messages as messages
from recon.episode_write import EpisodeWriter

__all__ = ["GrowingWriter"]


class GrowingWriter(EpisodeWriter):
    """Takes a first camera, and more at any time; safe to call from several threads.

    Args:
        path: the episode's folder; must not exist.
        camera: the first.
        is_placed: whether its ``T_world_cam`` means anything; if not, no transform is written of
            it, and opening asks for a calibration.
        compress: zstd chunks.

    Raises:
        DataError: if the folder exists, or a camera cannot be named so.
    """

    def __init__(
        self, path: Path, camera: PinholeCamera, *, is_placed: bool, compress: bool
    ) -> None:
        self._placed = {camera.name} if is_placed else set()
        super().__init__(path, [camera], compress=compress)

    def add_camera(self, camera: PinholeCamera, stamp_s: float, *, is_placed: bool) -> None:
        """Take a camera from now on, and write the places of all again.

        Args:
            camera: with a name of its own, which is a ROS name.
            stamp_s: of its first picture [s].
            is_placed: see the class.

        Raises:
            DataError: if the disk is full.
        """
        with self._lock:
            self.cameras[camera.name] = camera
            if is_placed:
                self._placed.add(camera.name)
            stamp_ns = self._stamp_ns(stamp_s)
            # All of them: who joins a playback late gets the last message only.
            self._write("/tf_static", messages.TRANSFORMS, stamp_ns, self._poses(stamp_ns))

    def _poses(self, stamp_ns: int) -> bytes:
        frames = {
            f"{camera.name}_color_optical_frame": camera.T_world_cam
            for camera in self.cameras.values()
            if camera.name in self._placed
        }
        return self._make.transforms(stamp_ns, "world", frames)
