"""Views of an episode whose frames are decoded when they are asked for.

A short recording is decoded once and kept; of a long one, blocks of frames are in memory.
Shapes: T frames, C cameras, H W image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

from recon.episode import Episode, Frame
from recon.perception.lift import View

__all__ = ["FrameBlocks", "episode_views"]

_BLOCK = 16  # frames that are decoded in one go
_BLOCKS_KEPT = 2


class FrameBlocks:
    """Frames of one camera, decoded in blocks; the last two blocks stay in memory.

    Args:
        episode: open for as long as frames are asked for.
        camera: its name.
        numbers: of the camera's frames, shape (T,), increasing.
        keep: keep all of them once they are decoded.
    """

    def __init__(
        self, episode: Episode, camera: str, numbers: np.ndarray, *, keep: bool = False
    ) -> None:
        self.camera = camera
        self.decoded = 0
        self._episode, self._numbers = episode, [int(number) for number in numbers]
        self._blocks: OrderedDict[int, list[Frame]] = OrderedDict()
        self._most = len(numbers) if keep else _BLOCKS_KEPT

    def __len__(self) -> int:
        return len(self._numbers)

    def frame(self, index: int) -> Frame:
        """One of them.

        Args:
            index: from 0; negative numbers count from the end.

        Returns:
            It.

        Raises:
            IndexError: if there is none.
            DataError: if its image does not decode.
        """
        place = range(len(self))[index]
        number = place // _BLOCK
        if number not in self._blocks:
            while len(self._blocks) >= self._most:
                self._blocks.popitem(last=False)
            self._blocks[number] = self._read(number)
        return self._blocks[number][place % _BLOCK]

    def _read(self, block: int) -> list[Frame]:
        wanted = self._numbers[block * _BLOCK : (block + 1) * _BLOCK]
        # One pass from start to end: two that are open at a time would share one file's position.
        every = self._episode.frames(self.camera, wanted[0], wanted[-1] + 1)
        chosen = set(wanted)
        found = [frame for number, frame in enumerate(every, wanted[0]) if number in chosen]
        self.decoded += wanted[-1] + 1 - wanted[0]
        return found


class _Images(Sequence[np.ndarray]):
    """One kind of image of a camera."""

    def __init__(self, blocks: FrameBlocks, take: Callable[[Frame], np.ndarray]) -> None:
        self._blocks, self._take = blocks, take

    def __len__(self) -> int:
        return len(self._blocks)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._take(self._blocks.frame(index))


def episode_views(
    episode: Episode,
    cameras: Sequence[str],
    numbers: np.ndarray,
    *,
    memory_bytes: int = 3 * 2**29,
) -> list[View]:
    """Views of synchronized cameras.

    Args:
        episode: open for as long as the views are used.
        cameras: C names.
        numbers: the cameras' frame numbers, shape (T, C).
        memory_bytes: frames that take no more than this in all are decoded once and kept; else
            each stage of the pipeline decodes them again.

    Returns:
        C views; the depth of a camera without depth is all zero.
    """
    pixels = sum(episode.cameras[c].width * episode.cameras[c].height for c in cameras)
    keep = 7 * pixels * len(numbers) <= memory_bytes  # uint8 colours and a float32
    views = []
    for column, name in enumerate(cameras):
        camera = episode.cameras[name]
        nothing = np.zeros((camera.height, camera.width), np.float32)

        def depth(frame: Frame, nothing: np.ndarray = nothing) -> np.ndarray:
            return nothing if frame.depth_m is None else frame.depth_m

        blocks = FrameBlocks(episode, name, numbers[:, column], keep=keep)
        views.append(View(camera, _Images(blocks, lambda f: f.rgb), _Images(blocks, depth)))
    return views
