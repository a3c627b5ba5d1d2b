"""Recordings without depth, on disk: a soft box that falls, filmed by four cameras."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from mosa_video_cases import FPS, FilmedDrop

from recon.episode import EpisodeWriter
from recon.tracks import Tracks


def write_film(
    path: Path, drop: FilmedDrop, *, frames: int = 22, masks: int = 99, truth: bool = False
) -> Path:
    """Colour images, masks of the first so many frames, and the true motion where it is wanted."""
    with EpisodeWriter(path, drop.cameras, metadata={"object": {"mass_kg": 0.24}}) as writer:
        for t, stamp in enumerate(drop.time_s[:frames]):
            for c, camera in enumerate(drop.cameras):
                writer.write_frame(camera.name, stamp, drop.images[c][t], None)
                if t < masks:
                    writer.write_mask(camera.name, stamp, "object", drop.masks[c][t])
        if truth:
            points = drop.points[:frames].astype(np.float32)
            seen = np.ones(points.shape[:2], bool)
            writer.set_ground_truth(
                Tracks(drop.time_s[:frames], points, seen, np.zeros(0, np.int64), "box")
            )
    return path


def write_photos(path: Path, drop: FilmedDrop, frames: int = 22) -> Path:
    """A folder of images with a cameras file: no masks, no depth."""
    cameras = {}
    for c, camera in enumerate(drop.cameras):
        place = path / "color" / camera.name
        place.mkdir(parents=True)
        cameras[camera.name] = {"K": camera.K.tolist(), "T_world_cam": camera.T_world_cam.tolist()}
        for t in range(frames):
            cv2.imwrite(str(place / f"{t}.png"), drop.images[c][t][..., ::-1])
    (path / "cameras.json").write_text(json.dumps({"fps": FPS, "cameras": cameras}))
    return path


def boxes(drop: FilmedDrop) -> list[str]:
    """A box around the object in every first image, as it is typed."""
    made = []
    for c, camera in enumerate(drop.cameras):
        low, high = (f(np.argwhere(drop.masks[c][0]), axis=0) for f in (np.min, np.max))
        sides = [low[1] - 4, low[0] - 4, high[1] + 5, high[0] + 5]
        made.append(f"{camera.name}:{','.join(str(int(side)) for side in sides)}")
    return made
