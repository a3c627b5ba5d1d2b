"""Viewer: the server, the loop that steps and draws, and what the page's controls do."""

from __future__ import annotations

import contextlib
import io
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from physgym.errors import DataError, PhysGymError
from physgym.twin import Twin
from physgym.validity import Validity
from physgym.viewer.body_scene import BodyScene
from physgym.viewer.controls import Controls
from physgym.viewer.hand_scene import HandScene, gizmo_scale_m
from physgym.viewer.keys import HeldKeys
from physgym.viewer.pacer import Pacer
from physgym.viewer.playback import Playback
from physgym.viewer.recording import Recording
from physgym.viewer.session import Session
from physgym.viewer.stage import Stage

__all__ = ["Viewer"]

STEP_S = 1 / 60
_DRAW_EVERY_S = 1 / 30
_STATUS_EVERY_S = 0.3
# A step of a heavy body may take longer than a frame; then the page is still served in between.
_WORK_S = 0.05
_FRAMED = 5


class Viewer:
    """A browser page with a twin to play with, recordings to look at, or both.

    All that touches the session or the scene runs in one thread; callbacks of the page only say
    what is to be done.

    Args:
        twin: to play with, or None.
        recordings: to look at.
        host: to listen on; the default is reached from this machine only.
        port: to listen on; 0 takes a free one.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Attributes:
        session: the twin under its hands, or None.
        playback: the recordings, or None.
        updates_per_s: how often of late the pages were told where the body is; nothing is sent
            of a body at rest.

    Raises:
        DataError: if there is nothing to show.
        PhysGymError: if viser is not installed, or the port is taken.
    """

    def __init__(
        self,
        twin: Twin | None = None,
        recordings: Sequence[Recording] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        device: str = "auto",
    ) -> None:
        if twin is None and not recordings:
            raise DataError("nothing to show", where="Viewer", expected="a twin or a recording")
        self.session = None if twin is None else Session(twin, device=device)
        self._server = _serve(host, port, twin.name if twin else recordings[0].name)
        self._todo: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._stage = _stage(self._server, self.session, recordings)
        self._body = self._hands = None
        self.keys: HeldKeys | None = None
        if twin is not None and self.session is not None:
            self._body = BodyScene(self._server, "/twin", twin)
            self._hands = HandScene(self._server, self.session, self._stage.size_m, self._todo.put)
            self._hands.listen(self._body.clickable)
            self._hands.listen_to_rays(self._server.scene, self._splats_are_shown)
            self.keys = HeldKeys(self._server)
            self._validity = Validity.of(twin)
        self.playback = (
            Playback(self._server, recordings, self._stage.size_m) if recordings else None
        )
        self._pacer = Pacer(STEP_S)
        self.playing, self.simulates = True, not recordings
        self.updates_per_s, self._updates = 0.0, 0
        self._controls = Controls(self._server, self, self._stage, self._body, self._todo.put)
        self.choose_mode(self.simulates)
        self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)

    @property
    def url(self) -> str:
        """Where the page is."""
        host = self._server.get_host()
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        return f"http://{shown}:{self._server.get_port()}"

    @property
    def rate(self) -> float:
        """Simulated seconds per second of late."""
        return self._pacer.rate

    @property
    def clients(self) -> list[Any]:
        """Pages that are open."""
        return list(self._server.get_clients().values())

    @property
    def gizmo_scale_m(self) -> float:
        """Length of the arrows that move a hand [m]."""
        return gizmo_scale_m(self._stage.size_m)

    def ask(self, what: Callable[[], None]) -> None:
        """Have something done in the thread that steps and draws.

        Args:
            what: takes no arguments.
        """
        self._todo.put(what)

    def start(self) -> None:
        """Begin to simulate and to draw."""
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it ends.

        Args:
            seconds: at most so long [s]; without end when None.

        Raises:
            Exception: what ended the loop, if it was an error.
        """
        end_s = None if seconds is None else time.monotonic() + seconds
        # In short waits, so that Ctrl-C is heard.
        while not self._ended.wait(0.2):
            if end_s is not None and time.monotonic() >= end_s:
                break
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the loop and close the page."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        with _silence():
            self._server.stop()

    def choose_mode(self, simulates: bool) -> None:
        """Show the live twin, or the recording.

        Args:
            simulates: the twin.
        """
        self.simulates = simulates
        if self._body is not None and self._hands is not None:
            self._body.hide(not simulates)
            self._hands.hide(not simulates)
        if self.playback is not None:
            self.playback.hide(simulates)
        self._pacer.rest()

    def set_speed(self, speed: float) -> None:
        """How fast time passes.

        Args:
            speed: seconds shown per second.
        """
        self._pacer.speed = speed

    def step_once(self) -> None:
        """One step of the simulation, or one frame of the recording."""
        if self.simulates and self.session is not None:
            self.session.advance(STEP_S)
        elif self.playback is not None:
            at = min(self.playback.frame + 1, len(self.playback.recording.time_s) - 1)
            times = self.playback.recording.time_s
            self.playback.seek(float(times[at] - times[0]))

    def reset(self) -> None:
        """Begin anew."""
        if self.simulates and self.session is not None:
            self.session.reset()
        elif self.playback is not None:
            self.playback.seek(0.0)

    def _run(self) -> None:
        # Arrays of one small body: torch's threads would spin for each other, beside a browser
        # that wants the same cores (of a step of 27 ms on a busy machine, 20 ms were that).
        torch.set_num_threads(1)
        try:
            last_s = told_s = time.perf_counter()
            drawn_s = 0.0
            while not self._ended.is_set():
                now_s = time.perf_counter()
                elapsed_s, last_s = now_s - last_s, now_s
                self._do_what_was_asked()
                self._pass(elapsed_s)
                if now_s - drawn_s >= _DRAW_EVERY_S:
                    drawn_s = now_s
                    self._draw()
                if now_s - told_s >= _STATUS_EVERY_S:
                    self._count_updates(now_s - told_s)
                    told_s = now_s
                    self._controls.tell(self.status())
                time.sleep(max(0.0, min(0.004, STEP_S - (time.perf_counter() - now_s))))
        except Exception as error:  # handed to whoever waits; a silent thread helps nobody
            self._error = error
            self._ended.set()

    def _count_updates(self, elapsed_s: float) -> None:
        total = 0 if self._body is None else self._body.updates
        self.updates_per_s = (total - self._updates) / elapsed_s
        self._updates = total

    def _do_what_was_asked(self) -> None:
        while True:
            try:
                what = self._todo.get_nowait()
            except queue.Empty:
                return
            try:
                what()
            except PhysGymError as error:  # a page may ask for what cannot be
                self._controls.complain(error.what)

    def _pass(self, elapsed_s: float) -> None:
        """Let the time pass that passed on the wall."""
        if not self.playing:
            self._pacer.rest()
            return
        if not self.simulates:
            if self.playback is not None:
                self.playback.advance(elapsed_s * self._pacer.speed)
            return
        assert self.session is not None
        steps, begun_s = 0, time.perf_counter()
        for _ in range(self._pacer.due(elapsed_s)):
            self._move_by_keys()
            self.session.advance(STEP_S)
            steps += 1
            if time.perf_counter() - begun_s > _WORK_S:
                break
        self._pacer.done(steps, elapsed_s)

    def _move_by_keys(self) -> None:
        assert self.session is not None
        assert self.keys is not None
        for number in range(min(2, len(self.session.hands))):
            way = self.keys.direction(number)
            if way.any():
                self.session.move_hand(number, STEP_S * self._controls.hand_speed_m_per_s * way)

    def _splats_are_shown(self) -> bool:
        return self.simulates and self._body is not None and self._body.style == "splats"

    def _draw(self) -> None:
        if self.simulates and self.session is not None:
            assert self._body is not None
            assert self._hands is not None
            session = self.session
            self._body.update(session.position, self._controls.colour, session.internal)
            self._hands.update()

    def status(self) -> dict[str, Any]:
        """What there is to tell people and programs.

        Returns:
            JSON values: ``mode``, ``playing``, ``rate``, ``time_s``, and of a twin
            ``updates_per_s`` (to the pages), ``strain`` (the largest of any spring),
            ``trusted_strain`` (the largest that its data covered, None where unknown), ``holds``
            (names of hands that hold) and ``note``.
        """
        made: dict[str, Any] = {
            "mode": "simulation" if self.simulates else "recording",
            "playing": self.playing,
            "rate": round(self.rate, 3),
        }
        if self.simulates and self.session is not None and self._body is not None:
            strain = self._body.colouring.springs.strain(self.session.position)
            trusted = self._validity.strain
            made |= {
                "time_s": self.session.time_s,
                "updates_per_s": round(self.updates_per_s, 1),
                "strain": float(strain.max(initial=0.0)),
                "trusted_strain": float(trusted) if np.isfinite(trusted) else None,
                "holds": [hand.name for hand in self.session.hands if hand.holds],
                "note": self.session.note,
            }
        elif self.playback is not None:
            made["time_s"] = self.playback.time_s
        return made


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """viser prints a banner even when told not to; a program that reads --json wants none."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _serve(host: str, port: int, label: str) -> Any:
    try:
        import viser
    except ModuleNotFoundError as error:
        raise PhysGymError(
            "the package 'viser' is not installed",
            where="viewer",
            expected="the extra `viewer`",
            fix="run `make setup`, or pip install 'physgym[viewer]'",
        ) from error
    try:
        # viser itself tries a thousand ports of an address that is not ours, then waits for ever.
        with socket.create_server((host, 0)):
            pass
    except OSError as error:
        raise PhysGymError(
            f"cannot listen on {host!r}: {error}",
            where="--host",
            expected="an address of this machine, such as 127.0.0.1",
        ) from error
    with _silence():
        server = viser.ViserServer(host=host, port=port, label=f"PhysGym: {label}", verbose=False)
    server.gui.configure_theme(show_logo=False, show_share_button=False)
    server.gui.main_panel.dock_right()
    return server


def _stage(server: Any, session: Session | None, recordings: Sequence[Recording]) -> Stage:
    """Ground, light and camera for what is shown first."""
    normal, ground_m = (0.0, 0.0, 1.0), None
    if session is not None:
        ground_m = session.settings.ground_m
        given = session.twin.parameters.get("ground_normal")
        if given is not None:
            normal = (float(given[0]), float(given[1]), float(given[2]))
    if recordings:
        first = recordings[0]
        # Of a few frames: what is lifted is to stay in view.
        some = np.unique(np.linspace(0, len(first.time_s) - 1, _FRAMED).astype(int))
        points = np.concatenate([_middle(first.shot(int(number)).points) for number in some])
        if not len(points):  # no depth, and not perceived: what it is about is among the cameras
            points = np.array([one.T_world_cam[:3, 3] for one in first.cameras] or np.zeros((1, 3)))
        points = np.concatenate([points, points - np.array([0.0, first.gap_m, 0.0])])
        ground_m = first.ground_m if ground_m is None else ground_m
    else:
        assert session is not None
        points = session.position
    return Stage(server, np.asarray(points, np.float64), ground_m=ground_m, normal=normal)


def _middle(points: np.ndarray) -> np.ndarray:
    """Points without the outermost: a stray one must not decide how far away the camera is."""
    if len(points) < 50:
        return points
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    return points[((points >= low) & (points <= high)).all(axis=1)]
