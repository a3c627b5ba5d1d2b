"""VideoScene: what is known of a video besides its images.

Shapes: T frames of the video, M points.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from physgym.errors import DataError
from physgym.sim.contact import GroundPlane
from recon.identify.clip import above_ground, ground_of, thinned_nodes
from recon.identify.even_clock import EvenClock, even_clock
from recon.identify.handling import Handling, Simulate, handling_of
from recon.perception.result import Kind, Perception
from recon.splats.video import PosedVideo
from recon.splats.visual_hull import visual_hull

if TYPE_CHECKING:
    from recon.splats.posed_images import PosedImages

__all__ = ["VideoScene", "hull_of"]

_FEWEST_MEASURED = 20  # points of a surface that is worth to start from
_HULL_CELLS = 30  # along the longest side of the box that all cameras look at


@dataclass(frozen=True, eq=False)
class VideoScene:
    """World, clock and first shape of a video.

    Attributes:
        kind: what the object is.
        gravity: [m/s^2], shape (3,).
        ground: what it may fall on, or None.
        surface: points on its surface in frame 0 [m], shape (M, 3); empty where only masks tell.
        inside: points inside of it [m], shape (K, 3).
        clock: of the recording, which may go on after the video.
        tick: of the frames of the video, shape (T,).
        source_sha256: of the recording, or "".
        recorded_frames: of the recording.
        perception: of it, for what holds and pushes the object; None where nothing does.
    """

    kind: Kind
    gravity: np.ndarray
    ground: GroundPlane | None
    surface: np.ndarray
    inside: np.ndarray
    clock: EvenClock
    tick: np.ndarray
    source_sha256: str = ""
    recorded_frames: int = 0
    perception: Perception | None = field(default=None, repr=False)

    @classmethod
    def plain(
        cls,
        video: PosedVideo,
        *,
        gravity: tuple[float, float, float] = (0.0, 0.0, -9.81),
        ground: GroundPlane | None = None,
        kind: Kind = "volume",
    ) -> VideoScene:
        """Of images and masks alone; nothing holds or pushes the object.

        Args:
            video: the video.
            gravity: [m/s^2].
            ground: what the object may fall on, or None.
            kind: what the object is.

        Returns:
            The scene.
        """
        none = np.zeros((0, 3))
        clock = even_clock(video.time_s)
        return cls(
            kind, np.array(gravity, float), ground, none, none, clock, clock.tick,
            recorded_frames=len(video),
        )  # fmt: skip

    @classmethod
    def of(cls, perception: Perception, video: PosedVideo) -> VideoScene:
        """Of an episode.

        Args:
            perception: of it.
            video: some of its frames.

        Returns:
            The scene.

        Raises:
            DataError: if the video is not of these frames.
        """
        clock = even_clock(perception.time_s)
        frames = len(perception.time_s)
        fits = video.index[-1] < frames and np.allclose(
            perception.time_s[video.index], video.time_s, atol=1e-6
        )
        if not fits:
            raise DataError(
                f"frames up to {video.index[-1]} and {frames} perceived ones, with other stamps",
                where=f"{video.name}: video",
                expected="frames of the episode that was perceived",
                fix="make the video with recon.splats.video.posed_video",
            )
        ground = ground_of(perception)
        rest = np.asarray(perception.tracks.rest_position, np.float64)
        seen = [np.asarray(c, np.float64) for c in perception.clouds[:1]]
        surface = np.concatenate([rest[: perception.surface_count], *seen])
        return cls(
            perception.kind,
            np.asarray(perception.tracks.gravity, np.float64),
            ground,
            above_ground(surface, ground),
            above_ground(rest[perception.surface_count :], ground),
            clock,
            clock.tick[video.index],
            perception.tracks.source_sha256,
            frames,
            perception,
        )

    def handling(self, nodes: np.ndarray, simulate: Simulate | None = None) -> Handling:
        """What holds and pushes the object (`recon.identify.handling`).

        Args:
            nodes: in frame 0 [m], shape (N, 3).
            simulate: tells where nodes are when a gripper closes late, or None.

        Returns:
            Grips and pushers on the clock's ticks.
        """
        if self.perception is None:
            return Handling([], [], self.clock.ticks)
        found = partial(handling_of, self.perception, self.clock, nodes)
        return found(simulate=simulate)

    @property
    def has_surface(self) -> bool:
        """Whether frame 0 was measured; else the masks alone tell its shape."""
        return len(self.surface) >= _FEWEST_MEASURED

    def start_points(self, views: PosedImages, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Where Gaussians of frame 0 start, and what is inside.

        Args:
            views: of frame 0.
            most: Gaussians.

        Returns:
            Points of the surface, and points inside [m], shapes (G, 3) and (K, 3).
        """
        if self.has_surface:
            keep, _ = thinned_nodes(self.surface, 1e-4, most)
            return self.surface[keep], self.inside
        hull, spacing_m = hull_of(views, most)
        hull = above_ground(hull, self.ground)
        rng = np.random.default_rng(0)
        if len(hull) > most:
            hull = hull[np.sort(rng.permutation(len(hull))[:most])]
        # Off the lattice, whose rows would show as stripes.
        shaken = hull + rng.uniform(-0.25, 0.25, hull.shape) * spacing_m
        return above_ground(shaken, self.ground), np.zeros((0, 3))


def hull_of(views: PosedImages, most: int) -> tuple[np.ndarray, float]:
    """The visual hull, in a box around where the cameras look.

    Args:
        views: with masks.
        most: points that are worth having; the lattice is chosen for it.

    Returns:
        Points [m], shape (K, 3), and their spacing [m].

    Raises:
        DataError: if one camera alone says nothing of depth.
    """
    rays = [_mask_ray(views, v) for v in range(len(views))]
    origin, way, size = (np.array(part) for part in zip(*rays))
    across = np.eye(3) - way[:, :, None] * way[:, None]
    system = across.sum(axis=0)
    if np.linalg.cond(system) > 1e4:
        raise DataError(
            "one camera sees the object in the first frame"
            if len(views) == 1
            else f"{len(views)} cameras that look the same way see the object in the first frame",
            where="visual hull",
            expected="two cameras from different sides, or depth images",
            fix="use a recording with depth, or add a camera",
        )
    centre = np.linalg.solve(system, (across @ origin[:, :, None]).sum(axis=0)[:, 0])
    half = 0.75 * float((size * np.linalg.norm(centre - origin, axis=1)).max())
    coarse = visual_hull(views, centre - half, centre + half, spacing_m=2 * half / _HULL_CELLS)
    low, high = coarse.min(axis=0), coarse.max(axis=0)
    edge = 2 * half / _HULL_CELLS
    volume = len(coarse) * edge**3
    spacing = max((volume / most) ** (1.0 / 3.0), 0.2 * edge)
    return visual_hull(views, low - edge, high + edge, spacing_m=spacing), spacing


def _mask_ray(views: PosedImages, view: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Origin and direction towards the middle of a mask, and its size over its distance."""
    camera, mask = views.cameras[view], views.mask[view].numpy() > 0.5
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return camera.position, camera.T_world_cam[:3, 2].copy(), 0.0
    middle = np.array([[columns.mean(), rows.mean()]])
    way = camera.T_world_cam[:3, :3] @ camera.pixel_rays(middle)[0]
    size = max(np.ptp(columns) / camera.K[0, 0], np.ptp(rows) / camera.K[1, 1])
    return camera.position, way / np.linalg.norm(way), float(size)
