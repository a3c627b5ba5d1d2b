"""Session: a twin under two hands, stepped in real time; everything of the viewer but the browser.

Shapes: N nodes, K driven points of one hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from physgym.errors import BlowUpError, DataError
from physgym.sim.build import build_solver
from physgym.sim.model import State
from physgym.twin import Twin
from physgym.viewer.held import (
    Hold,
    can_be_grabbed,
    driven_groups,
    far_ends,
    take_hold,
    with_holds,
)
from physgym.viewer.settings import Settings, has_ground, with_settings

__all__ = ["LEFT", "MOUSE", "RIGHT", "Hand", "Session"]

LEFT, RIGHT, MOUSE = 0, 1, 2
# Limits of a hand's motion. A mouse jumps; a twin that was torn along would blow up.
_SPEED_M_PER_S = 1.0
_SPIN_RAD_PER_S = 4.0
_UNTURNED = Rotation.identity()
# Threads of one small body wait for each other more than they help, the more so beside a browser
# (284 nodes, 2234 springs, busy machine: 2.4 ms a frame with one thread, 13 ms with two).
_ALONE_BELOW = 3000


@dataclass(eq=False)
class Hand:
    """A hand (or gripper): where it is, where it is wanted and what it holds.

    Attributes:
        name: for people.
        fixed: True where it is a gripper of the twin itself, which never lets go.
        position: of the hand [m], shape (3,).
        target: where it is on its way to [m], shape (3,).
        turn: since it took hold.
        target_turn: where it is turning to.
        offset: of its driven points at the time it took hold [m], shape (K, 3).
        driven: the driven points' nodes, shape (K,); of a twin that is held anew in every solver.
    """

    name: str
    fixed: bool
    position: np.ndarray
    target: np.ndarray
    turn: Rotation = _UNTURNED
    target_turn: Rotation = _UNTURNED
    offset: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    driven: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def holds(self) -> bool:
        """Whether it holds anything."""
        return len(self.driven) > 0

    @property
    def points(self) -> np.ndarray:
        """Where its driven points are [m], shape (K, 3)."""
        return self.position + self.turn.apply(self.offset) if self.holds else self.offset

    def take(self, points: np.ndarray, driven: np.ndarray) -> None:
        """Hold driven points from now on, as they are to the hand.

        Args:
            points: where they are [m], shape (K, 3).
            driven: their nodes, shape (K,).
        """
        self.turn = self.target_turn = _UNTURNED
        self.offset, self.driven = points - self.position, driven

    def approach(self, dt_s: float) -> None:
        """Move towards the target, no faster than a hand may.

        Args:
            dt_s: for how long [s].
        """
        way = self.target - self.position
        length = float(np.linalg.norm(way))
        share = min(1.0, _SPEED_M_PER_S * dt_s / length) if length > 0 else 1.0
        self.position = self.position + share * way
        if self.turn is self.target_turn:  # rotations are slow, and mostly there is none
            return
        left = (self.target_turn * self.turn.inv()).as_rotvec()
        angle = float(np.linalg.norm(left))
        if angle <= _SPIN_RAD_PER_S * dt_s:
            self.turn = self.target_turn
        else:
            share = _SPIN_RAD_PER_S * dt_s / angle
            self.turn = Rotation.from_rotvec(share * left) * self.turn


class Session:
    """A twin and the hands that move it.

    A twin that has driven nodes of its own brings its grippers as hands. Any other twin is held by
    two hands at its far ends to begin with; they may let go and take hold anywhere, and a third
    one, the mouse's, comes and goes.

    Args:
        twin: the twin.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        held: take hold of the far ends at the start (of a twin without grippers).

    Attributes:
        twin: as made.
        hands: left, right and mouse; or the grippers of the twin.
        time_s: simulated since the start or the last reset.
        note: the last thing that went wrong, for people; empty when all is well.
    """

    def __init__(self, twin: Twin, *, device: str = "auto", held: bool = True) -> None:
        self.twin = twin
        self._device, self._held_at_start = device, held
        self._settings = Settings.of(twin)
        self._holds: dict[int, Hold] = {}
        self.time_s, self.note = 0.0, ""
        self.hands: list[Hand] = []
        self._state: State
        self.reset()

    @property
    def node_count(self) -> int:
        """N, nodes of the twin; driven points of hands not counted."""
        return self.twin.node_count

    @property
    def position(self) -> np.ndarray:
        """Nodes [m], shape (N, 3), float32; a copy."""
        return self._state.position[0, : self.node_count].cpu().numpy().copy()

    @property
    def velocity(self) -> np.ndarray:
        """Nodes [m/s], shape (N, 3), float32; a copy."""
        return self._state.velocity[0, : self.node_count].cpu().numpy().copy()

    @property
    def internal(self) -> torch.Tensor:
        """What the solver carries besides, as in `State`, shape (M,); to be read, not changed."""
        return self._state.internal[0]

    @property
    def settings(self) -> Settings:
        """Gravity, ground and friction."""
        return self._settings

    @property
    def can_grab(self) -> bool:
        """Whether hands may take hold anywhere."""
        return can_be_grabbed(self.twin) and not self._own_groups

    @property
    def has_ground(self) -> bool:
        """Whether there can be a ground."""
        return has_ground(self.twin)

    def reset(self) -> None:
        """Begin anew: the rest shape, at rest, held as at the start; settings stay."""
        self._holds.clear()
        self._own_groups = driven_groups(self.twin)
        rest = np.asarray(self.twin.rest_position, np.float64)
        if self._own_groups:
            names = ["left", "right"] if len(self._own_groups) <= 2 else []
            places = [rest[nodes].mean(axis=0) for nodes in self._own_groups]
            names += [f"gripper {g + 1}" for g in range(len(names), len(places))]
        else:
            names, ends = ["left", "right", "mouse"], far_ends(rest)
            places = [rest[ends[0]], rest[ends[-1]], rest.mean(axis=0)]
        fixed = bool(self._own_groups)
        self.hands = [Hand(name, fixed, at.copy(), at.copy()) for name, at in zip(names, places)]
        self.time_s, self.note = 0.0, ""
        self._rebuild(rest, np.zeros_like(rest), None)
        if self.can_grab and self._held_at_start:
            for number in (LEFT, RIGHT):
                self.grab(self.hands[number].position, number)

    def configure(self, settings: Settings) -> None:
        """Change the world; the body goes on from where it is.

        Args:
            settings: gravity, ground and friction.

        Raises:
            DataError: if this physics knows no ground.
        """
        with_settings(self.twin, settings)  # refused before anything changes
        self._settings = settings
        self._rebuild(self.position, self.velocity, self._state.internal)

    def advance(self, dt_s: float) -> None:
        """Let time pass; hands move towards their targets.

        Args:
            dt_s: how much time [s]; one frame of the solver.

        Raises:
            DataError: if it is no positive number.
        """
        if not (np.isfinite(dt_s) and dt_s > 0):
            raise DataError(f"dt_s = {dt_s}", where="Session.advance", expected="above zero")
        for hand in self.hands:
            hand.approach(dt_s)
        where = {int(n): p for h in self.hands for n, p in zip(h.driven, h.points)}
        driven = np.array([where[int(n)] for n in self._solver.driven_index], np.float32)
        try:
            self._solver.step(
                self._state, self._state, torch.as_tensor(driven.reshape(1, -1, 3)), dt_s
            )
        except BlowUpError as error:
            self.reset()
            self.note = f"begun anew: {error.what}"
            return
        self.time_s += dt_s

    def grab(self, point: np.ndarray, hand: int = LEFT) -> int:
        """A hand goes to a point and takes hold of what is there.

        A twin that has grippers of its own cannot be held elsewhere: the nearest gripper answers.

        Args:
            point: [m], shape (3,).
            hand: its number.

        Returns:
            The number of the hand that now has it.

        Raises:
            DataError: if there is no such hand, or the point is not finite.
        """
        point = np.asarray(point, np.float64)
        if point.shape != (3,) or not np.isfinite(point).all():
            raise DataError(f"{point}", where="Session.grab", expected="three numbers in metres")
        self._check_hand(hand)
        if not self.can_grab:
            return int(np.argmin([np.linalg.norm(h.position - point) for h in self.hands]))
        now = self.position
        self._holds.pop(hand, None)
        taken = take_hold(self.twin, now, point, tuple(self._holds.values()))
        self._holds[hand] = taken
        mine = self.hands[hand]
        mine.position = mine.target = point.copy()
        mine.take(now[taken.node].astype(np.float64), taken.node)
        self._rebuild(now, self.velocity, self._state.internal)
        return hand

    def release(self, hand: int | None = None) -> None:
        """Let go; grippers of the twin itself never do.

        Args:
            hand: its number; all hands when None.

        Raises:
            DataError: if there is no such hand.
        """
        for number in range(len(self.hands)) if hand is None else [hand]:
            self._check_hand(number)
            if not self.hands[number].fixed and self._holds.pop(number, None) is not None:
                self.hands[number].take(np.zeros((0, 3)), np.zeros(0, np.int64))
        self._rebuild(self.position, self.velocity, self._state.internal)

    def move_hand(self, hand: int, delta: np.ndarray) -> None:
        """Move a hand's target.

        Args:
            hand: its number.
            delta: by how much [m], shape (3,).

        Raises:
            DataError: if there is no such hand, or the numbers are not finite.
        """
        self._check_hand(hand)
        self.place_hand(hand, self.hands[hand].target + np.asarray(delta, np.float64))

    def place_hand(self, hand: int, target: np.ndarray, turn: Rotation | None = None) -> None:
        """Say where a hand is to go; it gets there no faster than a hand may.

        Args:
            hand: its number.
            target: [m], shape (3,).
            turn: rotation since it took hold; as it is when None.

        Raises:
            DataError: if there is no such hand, or the numbers are not finite.
        """
        self._check_hand(hand)
        target = np.asarray(target, np.float64)
        if target.shape != (3,) or not np.isfinite(target).all():
            raise DataError(f"{target}", where="Session.place_hand", expected="three numbers")
        self.hands[hand].target = target
        if turn is not None:
            self.hands[hand].target_turn = turn

    def _check_hand(self, hand: int) -> None:
        if not 0 <= hand < len(self.hands):
            raise DataError(f"hand {hand}", where="Session", expected=f"0 to {len(self.hands) - 1}")

    def _rebuild(
        self, position: np.ndarray, velocity: np.ndarray, internal: torch.Tensor | None
    ) -> None:
        """A solver for what is held now, with the state taken over."""
        body = with_settings(self.twin, self._settings)
        held, groups = with_holds(body, list(self._holds.values()))
        small = held.dynamics != "mpm" and held.node_count < _ALONE_BELOW
        self._solver = build_solver(held, device=self._device, **({"threads": 1} if small else {}))
        for group, nodes in enumerate(self._own_groups):
            hand = self.hands[group]
            if not hand.holds:
                hand.take(position[nodes].astype(np.float64), nodes)
        for number, driven in zip(self._holds, groups):
            self.hands[number].driven = driven
        extra = [self.hands[number].points for number in self._holds]
        count = held.node_count - self.node_count
        added = np.concatenate([np.zeros((0, 3)), *extra])[:count] if count else np.zeros((0, 3))
        whole = np.concatenate([position, added]).astype(np.float32)
        speed = np.concatenate([velocity, np.zeros_like(added)]).astype(np.float32)
        self._state = self._solver.initial_state(torch.as_tensor(whole), torch.as_tensor(speed))
        if internal is not None and internal.shape == self._state.internal.shape:
            self._state.internal = internal.clone()
