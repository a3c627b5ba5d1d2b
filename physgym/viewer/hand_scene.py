"""Hands in the scene: a ball and a gizmo each; the mouse takes hold of the body itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from physgym.frames import matrix_from_quat_wxyz, quat_wxyz_from_matrix
from physgym.viewer.held import grab_radius_m
from physgym.viewer.session import LEFT, MOUSE, RIGHT, Hand, Session

if TYPE_CHECKING:
    import viser

__all__ = ["HandScene", "gizmo_scale_m"]

_COLOURS = ((60, 120, 216), (226, 120, 40), (90, 170, 90))

# What a callback wants done: run in the thread that steps the session.
Todo = Callable[[Callable[[], None]], None]


def gizmo_scale_m(size_m: float) -> float:
    """Length of the arrows that move a hand: they must reach out of the body that hides it.

    Args:
        size_m: of what is shown.

    Returns:
        [m].
    """
    return 0.3 * size_m


class HandScene:
    """Shows the hands of a session and lets the mouse move them.

    Args:
        server: the viewer's.
        session: whose hands.
        size_m: of what is shown.
        todo: takes what is to be done to the session.
    """

    def __init__(
        self, server: viser.ViserServer, session: Session, size_m: float, todo: Todo
    ) -> None:
        self._session, self._todo = session, todo
        self._busy: set[int] = set()  # hands whose gizmo is in the mouse's grip
        self._dragged: int | None = None
        self._balls, self._gizmos = [], []
        for number, hand in enumerate(session.hands):
            colour = _COLOURS[number % len(_COLOURS)]
            self._balls.append(
                server.scene.add_icosphere(
                    f"/hands/{hand.name}", 0.02 * size_m, color=colour, opacity=0.85
                )
            )
            gizmo = server.scene.add_transform_controls(
                f"/gizmos/{hand.name}",
                scale=gizmo_scale_m(size_m),
                line_width=3.0,
                depth_test=False,
            )
            self._attach(gizmo, number)
            self._gizmos.append(gizmo)
        self.hide(False)

    def hide(self, hidden: bool) -> None:
        """Take hands out of sight, or back; the mouse's shows only while it holds.

        Args:
            hidden: whether they are.
        """
        for number, hand in enumerate(self._session.hands):
            mouse = hand.name == "mouse"
            self._balls[number].visible = not hidden and (hand.holds or not mouse)
            self._gizmos[number].visible = not hidden and not mouse

    def update(self) -> None:
        """Move balls to where hands are, and gizmos to where they are wanted."""
        for number, hand in enumerate(self._session.hands):
            ball, gizmo = self._balls[number], self._gizmos[number]
            if not np.array_equal(ball.position, hand.position):
                ball.position = hand.position
            if hand.name == "mouse":
                if ball.visible != hand.holds:
                    ball.visible = hand.holds
            elif number not in self._busy:
                self._follow(gizmo, hand)

    def _follow(self, gizmo: viser.TransformControlsHandle, hand: Hand) -> None:
        """The gizmo goes where keys sent the hand."""
        wxyz = quat_wxyz_from_matrix(hand.target_turn.as_matrix())
        if not np.array_equal(gizmo.position, hand.target):
            gizmo.position = hand.target
        if not np.allclose(gizmo.wxyz, wxyz):
            gizmo.wxyz = wxyz

    def listen(self, nodes: list[Any]) -> None:
        """Let the mouse take hold of the body.

        A drag pulls for as long as it lasts; a click puts the left hand there, shift-click the
        right one.

        Args:
            nodes: scene nodes of the body.
        """
        for node in nodes:
            node.on_drag("left")(self._on_drag)
            node.on_click()(self._on_click_for(LEFT))
            node.on_click(modifier="shift")(self._on_click_for(RIGHT))

    def listen_to_rays(self, scene: viser.SceneApi, wanted: Callable[[], bool]) -> None:
        """Let clicks reach what is no scene node that can be clicked: splats.

        Args:
            scene: the whole of it.
            wanted: whether a click is meant for the body.
        """

        def clicked_for(hand: int) -> Callable[[Any], Any]:
            async def clicked(event: Any) -> None:
                origin, way = np.array(event.ray_origin), np.array(event.ray_direction)
                self._todo(lambda: self._grab_along(hand, origin, way) if wanted() else None)

            return clicked

        scene.on_click()(clicked_for(LEFT))
        scene.on_click(modifier="shift")(clicked_for(RIGHT))

    def _attach(self, gizmo: viser.TransformControlsHandle, number: int) -> None:
        async def moved(event: viser.TransformControlsEvent) -> None:
            target = np.array(event.target.position, np.float64)
            turn = Rotation.from_matrix(matrix_from_quat_wxyz(np.array(event.target.wxyz)))
            if event.phase == "end":
                self._busy.discard(number)
            else:
                self._busy.add(number)
            self._todo(lambda: self._session.place_hand(number, target, turn))

        gizmo.on_update(moved)

    def _on_click_for(self, hand: int) -> Callable[[Any], Any]:
        async def clicked(event: Any) -> None:
            origin, way = np.array(event.ray_origin), np.array(event.ray_direction)
            self._todo(lambda: self._grab_along(hand, origin, way))

        return clicked

    def _grab_along(self, hand: int, origin: np.ndarray, way: np.ndarray) -> None:
        """A hand takes hold where a ray meets the body first."""
        position = self._session.position.astype(np.float64)
        along = (position - origin) @ way
        off = np.linalg.norm(position - origin - along[:, None] * way, axis=1)
        if off.min() > grab_radius_m(self._session.twin):
            return  # past the body
        near = off <= max(1.5 * float(off.min()), 1e-6)
        self._session.grab(position[np.flatnonzero(near)[np.argmin(along[near])]], hand)

    async def _on_drag(self, event: Any) -> None:
        start, end = np.array(event.start_position), np.array(event.end_position)
        phase = event.phase
        self._todo(lambda: self._drag(phase, start, end))

    def _drag(self, phase: str, start: np.ndarray, end: np.ndarray) -> None:
        session = self._session
        if phase == "start":
            self._dragged = session.grab(start, MOUSE if session.can_grab else LEFT)
            self._grip = session.hands[self._dragged].target - start
        if self._dragged is None:
            return
        session.place_hand(self._dragged, end + self._grip)
        if phase == "end":
            if session.can_grab:
                session.release(self._dragged)
            self._dragged = None
