"""A body in the scene: splats, points or springs that follow its nodes.

Shapes: N nodes, M points shown, S springs, G Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import trimesh
from scipy.interpolate import CubicSpline

from physgym.skinning import Binding, bind, skin
from physgym.twin import Twin
from physgym.viewer.colour import Colouring
from physgym.viewer.held import node_spacing_m

if TYPE_CHECKING:
    import torch
    import viser

    from physgym.viewer.splat_scene import SplatScene

__all__ = ["BodyScene", "points_on"]

# What a browser without a graphics card still draws smoothly.
_MOST_POINTS, _MOST_SPRINGS = 2500, 12000
_FINE_BELOW = 400
_STILL_M = 2e-5
_ROPE_POINTS_PER_EDGE = 14


@dataclass(frozen=True, eq=False)
class _Along:
    """Points on a smooth curve through the nodes of a rope."""

    weight: np.ndarray  # (M, N)

    def __call__(self, value: np.ndarray) -> np.ndarray:
        made = self.weight @ value
        # A smooth curve swings beyond what it goes through; a colour must not.
        return (
            np.clip(made, value.min(axis=0), value.max(axis=0)) if value.dtype == np.uint8 else made
        )


@dataclass(frozen=True, eq=False)
class _OnNodes:
    """Some of the nodes themselves."""

    node: np.ndarray

    def __call__(self, value: np.ndarray) -> np.ndarray:
        return np.asarray(value[self.node])


@dataclass(frozen=True, eq=False)
class _Skinned:
    """Points of the surface that nodes carry."""

    binding: Binding

    def __call__(self, value: np.ndarray) -> np.ndarray:
        if value.dtype == np.uint8:
            mixed = np.einsum("mk,mkc->mc", self.binding.weight, value[self.binding.point_node])
            return np.asarray(mixed + 0.5, np.uint8)
        return skin(self.binding, value[None])[0]


def points_on(twin: Twin) -> tuple[Any, float]:
    """What stands for the body's surface.

    Args:
        twin: the body.

    Returns:
        A function that carries node positions, shape (N, 3), or colours (uint8) over to the points
        shown, and the radius to draw the points with [m].
    """
    spacing_m = node_spacing_m(twin)
    if twin.dynamics == "rod":
        at = np.linspace(0, twin.node_count - 1, (twin.node_count - 1) * _ROPE_POINTS_PER_EDGE + 1)
        curve = CubicSpline(np.arange(twin.node_count), np.eye(twin.node_count))
        return _Along(curve(at)), 0.12 * spacing_m
    surface = twin.parameters.get("surface_position_m")
    if surface is None or not len(surface):
        node = _some(twin.node_count, _MOST_POINTS)
        return _OnNodes(node), 0.45 * spacing_m * (twin.node_count / len(node)) ** (1 / 3)
    shown = np.asarray(surface, np.float64)[_some(len(surface), _MOST_POINTS)]
    area_m2 = len(twin.rest_position) ** (2 / 3) * 6 * spacing_m**2
    radius_m = float(
        np.clip(0.9 * np.sqrt(area_m2 / len(shown)), 0.15 * spacing_m, 0.5 * spacing_m)
    )
    return _Skinned(bind(shown, twin.rest_position)), radius_m


def _some(count: int, most: int) -> np.ndarray:
    """Evenly spread numbers below count, at most so many."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


class BodyScene:
    """Draws one body.

    Args:
        server: the viewer's.
        name: of the scene node that holds it.
        twin: the body; with splats, they are shown first.

    Attributes:
        colouring: what it is coloured by.
        clickable: scene nodes that the mouse can take hold of; splats are none.
        updates: how often it was moved.
    """

    def __init__(self, server: viser.ViserServer, name: str, twin: Twin) -> None:
        self.colouring = Colouring(twin)
        self._server = server
        self._points, radius_m = points_on(twin)
        rest = np.asarray(twin.rest_position, np.float64)
        fine = max(len(self._points(rest)), len(rest)) <= _FINE_BELOW
        ball = trimesh.creation.icosphere(subdivisions=2 if fine else 1)
        scene = server.scene
        self._look, self._shown = ("", ""), rest
        self._root = scene.add_frame(name, show_axes=False)
        self._drawn = _balls(server, f"{name}/points", self._points(rest), ball, radius_m)
        self._joints = _balls(server, f"{name}/nodes", rest, ball, 0.12 * node_spacing_m(twin))
        self._edge = _some(len(self.colouring.springs.edge), _MOST_SPRINGS)
        ends = rest[self.colouring.springs.edge[self._edge]].astype(np.float32)
        self._lines = scene.add_line_segments(
            f"{name}/springs",
            ends,
            np.full(ends.shape, 128, np.uint8),
            thickness=1.5,
            thickness_units="screen",
        )
        self._splats: SplatScene | None = None
        if twin.splats is not None:
            from physgym.viewer.splat_scene import SplatScene  # torch's side of the house

            self._splats = SplatScene(server, f"{name}/splats", twin)
        self.clickable = [self._drawn, self._joints]
        self.updates = 0
        self.style = self.styles[0]
        self.show(self.style)

    @property
    def styles(self) -> tuple[str, ...]:
        """Ways to draw it, the best first."""
        return ("splats", "points", "springs") if self._splats else ("points", "springs")

    def show(self, style: str) -> None:
        """Draw it so from now on.

        Args:
            style: one of `styles`.
        """
        self.style = style
        self._drawn.visible = style == "points"
        self._lines.visible = style == "springs"
        # Balls within splats, even clear ones, would hide what is behind them.
        self._joints.visible = style == "springs"
        if self._splats is not None:
            self._splats.handle.visible = style == "splats"

    def hide(self, hidden: bool) -> None:
        """Take it out of sight, or back.

        Args:
            hidden: whether it is.
        """
        self._root.visible = not hidden

    def update(self, position: np.ndarray, colour: str, internal: torch.Tensor) -> None:
        """Move it.

        Args:
            position: nodes [m], shape (N, 3).
            colour: one of ``colouring.names``.
            internal: what its solver carries besides, shape (M,).
        """
        look = (colour, self.style)
        if look == self._look and np.abs(position - self._shown).max() < _STILL_M:
            return  # a browser that is sent nothing need not draw
        if self.style == "splats" and self._splats is not None and not self._splats.is_due:
            return
        self._look, self._shown = look, position.copy()
        self.updates += 1
        nodes, springs = self.colouring.colours(colour, position, internal)
        with self._server.atomic():
            if self.style == "points":
                self._drawn.batched_positions = self._points(position).astype(np.float32)
                self._drawn.batched_colors = self._points(nodes).astype(np.uint8)
                return
            if self.style == "springs":
                self._joints.batched_positions = position.astype(np.float32)
                self._joints.batched_colors = nodes
                ends = position[self.colouring.springs.edge[self._edge]]
                self._lines.points = ends.astype(np.float32)
                self._lines.colors = np.repeat(springs[self._edge][:, None], 2, axis=1)
            elif self._splats is not None:
                self._splats.update(position, None if colour == "plain" else nodes)


def _balls(
    server: viser.ViserServer, name: str, at: np.ndarray, ball: Any, radius_m: float
) -> viser.BatchedMeshHandle:
    count = len(at)
    return server.scene.add_batched_meshes_simple(
        name,
        np.asarray(ball.vertices * radius_m),
        np.asarray(ball.faces),
        np.tile([1.0, 0.0, 0.0, 0.0], (count, 1)),
        at.astype(np.float32),
        batched_colors=np.full((count, 3), 160, np.uint8),
        lod="off",
    )
