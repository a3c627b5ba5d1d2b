"""Gaussians in the scene: they follow the nodes, turn and stretch, as often as there is time.

Shapes: N nodes, G Gaussians.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from physgym.twin import Twin
from physgym.viewer.splat_motion import SplatMotion

if TYPE_CHECKING:
    import viser

    from physgym.splats.cloud import GaussianCloud

__all__ = ["SplatScene", "weightiest"]

# Every update sends all of them, 32 bytes each, and a page sorts them anew.
_MOST = 30_000
# No more often than a page without a graphics card can bear, and no more of the time than this:
# the rest belongs to the simulation.
_EVERY_S, _SHARE = 0.05, 0.25
# viser keeps covariances as float16, whose steps are 6e-8: of square metres that is too coarse for
# Gaussians of a millimetre. Of square centimetres it is not.
_UNIT_M = 0.01


class SplatScene:
    """Draws the Gaussians of a twin.

    Args:
        server: the viewer's.
        name: of the scene node.
        twin: the body, with splats.

    Attributes:
        handle: of the scene node.
        left_out: Gaussians that are not shown because there are too many.
    """

    def __init__(self, server: viser.ViserServer, name: str, twin: Twin) -> None:
        assert twin.splats is not None
        shown = weightiest(twin.splats.detach(), _MOST)
        self.left_out = len(twin.splats) - len(shown)
        self._motion = SplatMotion(twin.replace(splats=shown))
        # The part of the colour that does not depend on the direction: Y00 = 1 / (2 sqrt(pi)).
        own = shown.sh.numpy()[:, 0] / (2.0 * np.sqrt(np.pi)) + 0.5
        self._own = np.clip(own, 0.0, 1.0)
        self._opacity = shown.opacity.numpy()[:, None]
        self._due_s = 0.0
        self.handle = server.scene.add_gaussian_splats(
            name,
            self._motion.mean / _UNIT_M,
            self._motion.covariance / _UNIT_M**2,
            self._own,
            self._opacity,
            scale=_UNIT_M,
        )

    @property
    def is_due(self) -> bool:
        """Whether there is time to move them again."""
        return time.monotonic() >= self._due_s

    def update(self, position: np.ndarray, colours: np.ndarray | None) -> None:
        """Move, turn and stretch them.

        Args:
            position: nodes [m], shape (N, 3).
            colours: of nodes, uint8, shape (N, 3); their own when None.
        """
        begun_s = time.monotonic()
        mean, covariance = self._motion.at(position)
        shown = self._own if colours is None else self._motion.blend(colours) / 255.0
        self.handle.set_gaussians(
            mean / _UNIT_M, covariance / _UNIT_M**2, np.clip(shown, 0.0, 1.0), self._opacity
        )
        taken_s = time.monotonic() - begun_s
        self._due_s = begun_s + max(_EVERY_S, taken_s / _SHARE)


def weightiest(cloud: GaussianCloud, most: int) -> GaussianCloud:
    """The Gaussians that a picture would miss most: by opacity times area.

    Args:
        cloud: any.
        most: how many at most.

    Returns:
        Some of them, in their order; all where there are no more.
    """
    if len(cloud) <= most:
        return cloud
    area = (2.0 * cloud.log_scale.mean(dim=1)).exp()
    chosen = (cloud.opacity * area).topk(most).indices
    return cloud[chosen.sort().values]
