"""Recordings in the scene: clouds, cameras with their images, and a prediction beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from physgym.frames import quat_wxyz_from_matrix
from physgym.viewer.recording import Recording

if TYPE_CHECKING:
    import viser

__all__ = ["Playback"]

_PREDICTED, _GOAL = (214, 96, 60), (70, 170, 90)


class Playback:
    """Shows one of several recordings at a time.

    Args:
        server: the viewer's.
        recordings: at least one.
        size_m: of what is shown, for the sizes of cameras and points.

    Attributes:
        recordings: as given.
        chosen: number of the one that is shown.
        time_s: since its first frame.
        frame: that is shown.
    """

    def __init__(
        self, server: viser.ViserServer, recordings: Sequence[Recording], size_m: float
    ) -> None:
        self.recordings = list(recordings)
        self._server, self._size_m = server, size_m
        self._root = server.scene.add_frame("/recording", show_axes=False)
        self._beside = server.scene.add_frame("/prediction", show_axes=False)
        self._frusta: list[viser.CameraFrustumHandle] = []
        self._cloud: viser.PointCloudHandle
        self._predicted: viser.PointCloudHandle | None = None
        self._goal: viser.PointCloudHandle | None = None
        self._apart, self._with_cameras = True, True
        self.chosen, self.frame, self.time_s = 0, 0, 0.0
        self.choose(0)

    @property
    def recording(self) -> Recording:
        """The one that is shown."""
        return self.recordings[self.chosen]

    @property
    def duration_s(self) -> float:
        """From its first frame to its last [s]."""
        return float(self.recording.time_s[-1] - self.recording.time_s[0])

    def choose(self, number: int) -> None:
        """Show a recording from its beginning.

        Args:
            number: which.
        """
        for old in (*self._frusta, *filter(None, (self._predicted, self._goal))):
            old.remove()
        self._frusta, self._predicted, self._goal = [], None, None
        self.chosen, self.time_s, self.frame = number, 0.0, 0
        recording, scene = self.recording, self._server.scene
        radius_m = recording.point_radius_m or 0.006 * self._size_m
        shot = recording.shot(0)
        self._cloud = _cloud(scene, "/recording/cloud", shot.points, shot.colours, radius_m)
        if recording.prediction is not None:
            points = np.asarray(recording.prediction[0])
            self._predicted = _cloud(scene, "/prediction/points", points, _PREDICTED, radius_m)
        if recording.goal is not None:
            self._goal = _cloud(scene, "/recording/goal", recording.goal, _GOAL, 0.8 * radius_m)
        for camera in recording.cameras:
            self._frusta.append(
                scene.add_camera_frustum(
                    f"/recording/cameras/{camera.name}",
                    camera.field_of_view_rad,
                    camera.aspect,
                    scale=0.15 * self._size_m,
                    thickness=0.004 * self._size_m,
                    color=(70, 80, 96),
                    visible=self._with_cameras,
                    wxyz=quat_wxyz_from_matrix(camera.T_world_cam[:3, :3]),
                    position=camera.T_world_cam[:3, 3],
                )
            )
        self.side_by_side(self._apart)
        self._show(0)

    def seek(self, time_s: float) -> None:
        """Show the frame of a time; past the end, the last.

        Args:
            time_s: since the first frame [s].
        """
        self.time_s = float(np.clip(time_s, 0.0, self.duration_s))
        frame = self.recording.frame_at(self.recording.time_s[0] + self.time_s + 1e-9)
        if frame != self.frame:
            self._show(frame)

    def advance(self, elapsed_s: float) -> None:
        """Play on; after the end, from the beginning.

        Args:
            elapsed_s: how far [s].
        """
        ended = self.time_s >= self.duration_s
        self.seek(0.0 if ended else self.time_s + elapsed_s)

    def side_by_side(self, apart: bool) -> None:
        """Put the prediction beside the recording, or upon it.

        Args:
            apart: beside, to the right.
        """
        self._apart = apart
        self._beside.position = (0.0, -self.recording.gap_m if apart else 0.0, 0.0)

    def show_cameras(self, shown: bool) -> None:
        """Show the cameras, or not.

        Args:
            shown: whether.
        """
        self._with_cameras = shown
        for frustum in self._frusta:
            frustum.visible = shown

    def hide(self, hidden: bool) -> None:
        """Take the recording out of sight, or back.

        Args:
            hidden: whether it is.
        """
        self._root.visible = self._beside.visible = not hidden

    def _show(self, frame: int) -> None:
        self.frame = frame
        shot = self.recording.shot(frame)
        with self._server.atomic():
            self._cloud.points, self._cloud.colors = shot.points.astype(np.float32), shot.colours
            if self._predicted is not None and self.recording.prediction is not None:
                self._predicted.points = self.recording.prediction[frame].astype(np.float32)
            for frustum, image in zip(self._frusta, shot.images):
                frustum.image = image


def _cloud(
    scene: viser.SceneApi,
    name: str,
    points: np.ndarray,
    colour: np.ndarray | tuple[int, int, int],
    radius_m: float,
) -> viser.PointCloudHandle:
    return scene.add_point_cloud(
        name,
        points.astype(np.float32),
        colour,
        point_size=2 * radius_m,
        point_shape="circle",
        # Measured colours are shown as they are; a single one is shaded, to tell near from far.
        point_shading="flat" if isinstance(colour, np.ndarray) else "gradient",
        precision="float32",
    )
