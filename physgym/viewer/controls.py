"""The panel beside the scene: what people set, what they are told."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from physgym.viewer.colour import legend_colours
from physgym.viewer.keys import MOTION_KEYS, key_script
from physgym.viewer.session import LEFT, RIGHT

if TYPE_CHECKING:
    import viser

    from physgym.viewer.app import Viewer
    from physgym.viewer.body_scene import BodyScene
    from physgym.viewer.stage import Stage

__all__ = ["Controls"]

Todo = Callable[[Callable[[], None]], None]
# An image of one clear pixel: the page runs what stands in its onload.
_PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
_HAND_SPEED_M_PER_S = 0.15  # of PhysTwin's playground: 5 mm a frame at 30 Hz
_SMALL = "padding:0 1em 0.4em;font-size:0.8em;line-height:1.5"


class Controls:
    """Builds the panel and passes on what people do in it.

    Args:
        server: the viewer's.
        viewer: whose panel.
        stage: the ground that a slider moves.
        body: the twin in the scene, or None.
        todo: takes what is to be done in the viewer's thread.

    Attributes:
        colour: what the twin is coloured by.
        hand_speed_m_per_s: of keys.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        viewer: Viewer,
        stage: Stage,
        body: BodyScene | None,
        todo: Todo,
    ) -> None:
        self._server, self._viewer, self._stage, self._body = server, viewer, stage, body
        self._todo = todo
        self.colour, self.hand_speed_m_per_s = "plain", _HAND_SPEED_M_PER_S
        self._status = server.gui.add_html("")
        if viewer.playback is not None:
            self._add_mode()
        self._add_time()
        if viewer.playback is not None:
            self._add_recording()
        if body is not None:
            self._add_look(body)
            self._add_world()
            self._add_hands()

    def tell(self, status: dict[str, Any]) -> None:
        """Show how things stand.

        Args:
            status: of the viewer.
        """
        lines = []
        if status["mode"] == "simulation":
            rate = f"{status['rate']:.2f} x real time" if status["playing"] else "paused"
            shown = f"{status['updates_per_s']:.0f} pictures/s"
            lines.append(f"<b>{status['time_s']:.2f} s</b> &nbsp; {rate} &nbsp; {shown}")
            strain, trusted = status["strain"], status["trusted_strain"]
            text = f"largest strain {100 * strain:.1f} %"
            if trusted is not None:
                word = "the data went to" if strain <= trusted else "beyond the data:"
                text += f" ({word} {100 * trusted:.1f} %)"
            lines.append(text)
            lines.append(f"held by: {', '.join(status['holds']) or 'nobody'}")
            if status["note"]:
                lines.append(f"<b>{html.escape(status['note'])}</b>")
        else:
            duration_s = self._viewer.playback.duration_s if self._viewer.playback else 0.0
            lines.append(f"<b>{status['time_s']:.2f} s</b> of {duration_s:.2f} s")
            self._follow(status["time_s"])
        self._status.content = f"<div style='{_SMALL}'>{'<br>'.join(lines)}</div>"
        self._show_legend()

    def complain(self, what: str) -> None:
        """Say why something that was asked for was not done.

        Args:
            what: a sentence.
        """
        self._server.add_notification("Not done", what, color="red")

    def _add_mode(self) -> None:
        if self._viewer.session is None:
            return
        choice = self._server.gui.add_button_group("show", ("recording", "twin"))

        async def chosen(_: object) -> None:
            simulates = choice.value == "twin"
            self._todo(lambda: self._viewer.choose_mode(simulates))

        choice.on_click(chosen)

    def _add_time(self) -> None:
        gui, viewer = self._server.gui, self._viewer
        icons = _icons()
        play = gui.add_button("pause", icon=icons.PLAYER_PAUSE)
        step = gui.add_button("step", icon=icons.PLAYER_SKIP_FORWARD)
        again = gui.add_button("reset", icon=icons.REFRESH)
        speed = gui.add_slider("speed", 0.1, 2.0, 0.1, 1.0)

        def toggle() -> None:
            viewer.playing = not viewer.playing
            play.label = "pause" if viewer.playing else "play"
            play.icon = icons.PLAYER_PAUSE if viewer.playing else icons.PLAYER_PLAY

        def one_step() -> None:
            if viewer.playing:
                toggle()
            viewer.step_once()

        play.on_click(self._asked(toggle))
        step.on_click(self._asked(one_step))
        again.on_click(self._asked(viewer.reset))
        speed.on_update(self._asked(lambda: viewer.set_speed(float(speed.value))))
        self._hotkey("play or pause", "P", toggle)
        self._hotkey("one step", "N", one_step)
        self._hotkey("reset", "R", viewer.reset)

    def _add_recording(self) -> None:
        gui, playback = self._server.gui, self._viewer.playback
        assert playback is not None
        with gui.add_folder("recording"):
            names = tuple(recording.name for recording in playback.recordings)
            choice = gui.add_dropdown("which", names) if len(names) > 1 else None
            self._slider = gui.add_slider(
                "time [s]", 0.0, max(playback.duration_s, 0.01), 0.01, 0.0
            )
            cameras = gui.add_checkbox("cameras", True)
            apart = gui.add_checkbox("prediction beside it", True)
        cameras.visible = any(recording.cameras for recording in playback.recordings)
        apart.visible = any(r.prediction is not None for r in playback.recordings)

        async def slid(event: Any) -> None:
            if event.client is not None:  # a person's hand, not ours
                time_s = float(self._slider.value)
                self._todo(lambda: self._seek(time_s))

        self._slider.on_update(slid)
        cameras.on_update(self._asked(lambda: playback.show_cameras(cameras.value)))
        apart.on_update(self._asked(lambda: playback.side_by_side(apart.value)))
        if choice is not None:

            def choose() -> None:
                playback.choose(names.index(choice.value))
                self._slider.max = max(playback.duration_s, 0.01)

            choice.on_update(self._asked(choose))

    def _seek(self, time_s: float) -> None:
        assert self._viewer.playback is not None
        self._viewer.playing = False
        self._viewer.playback.seek(time_s)

    def _follow(self, time_s: float) -> None:
        """The slider goes along while the recording plays."""
        if self._viewer.playing:
            self._slider.value = round(time_s, 2)  # type: ignore[misc]  # viser says it may be set

    def _add_look(self, body: BodyScene) -> None:
        gui = self._server.gui
        with gui.add_folder("look"):
            style = gui.add_dropdown("show as", body.styles, initial_value=body.style)
            colour = gui.add_dropdown("colour by", body.colouring.names)
            self._legend = gui.add_html("")

        def recolour() -> None:
            self.colour = colour.value

        style.on_update(self._asked(lambda: body.show(style.value)))
        colour.on_update(self._asked(recolour))

    def _show_legend(self) -> None:
        if self._body is None:
            return
        if self.colour == "plain":
            self._legend.content = ""
            return
        colouring = self._body.colouring
        unit, factor = colouring.unit(self.colour), 100.0 if self.colour == "strain" else 1.0
        low, high = (f"{factor * end:.3g} {unit}" for end in (colouring.low, colouring.high))
        bar = f"linear-gradient(to right,{','.join(legend_colours(self.colour))})"
        self._legend.content = (
            f"<div style='{_SMALL}'><div style='height:0.8em;border-radius:3px;background:{bar}'>"
            f"</div><span>{low}</span><span style='float:right'>{high}</span></div>"
        )

    def _add_world(self) -> None:
        session = self._viewer.session
        assert session is not None
        gui, start = self._server.gui, session.settings
        height_m = 0.0 if start.ground_m is None else start.ground_m
        reach_m = 2.0 * self._stage.size_m
        with gui.add_folder("world", expand_by_default=False):
            top = max(20.0, 2 * start.gravity_m_per_s2)
            gravity = gui.add_slider("gravity [m/s²]", 0.0, top, 0.01, start.gravity_m_per_s2)
            ground = gui.add_checkbox("ground", start.ground_m is not None)
            height = gui.add_slider(
                "ground at [m]", height_m - reach_m, height_m + reach_m, 0.001, height_m
            )
            friction = gui.add_slider("friction", 0.0, 2.0, 0.01, min(2.0, start.friction))
        for handle in (ground, height, friction):
            handle.disabled = not session.has_ground

        def configure() -> None:
            at_m = float(height.value) if ground.value else None
            changed = session.settings.replace(
                gravity_m_per_s2=float(gravity.value), ground_m=at_m, friction=float(friction.value)
            )
            session.configure(changed)
            self._stage.place_ground(at_m)

        for handle in (gravity, ground, height, friction):
            handle.on_update(self._asked(configure))

    def _add_hands(self) -> None:
        session = self._viewer.session
        assert session is not None
        gui = self._server.gui
        with gui.add_folder("hands"):
            speed = gui.add_slider("key speed [m/s]", 0.01, 0.5, 0.01, _HAND_SPEED_M_PER_S)
            if session.can_grab:
                for hand, key in ((LEFT, "G"), (RIGHT, "H")):
                    change = self._hold_or_let_go(hand)
                    name = session.hands[hand].name
                    button = gui.add_button(f"{name}: hold or let go ({key})")
                    button.on_click(self._asked(change))
                    self._hotkey(f"{name} hand: hold or let go", key, change)
            gui.add_html(_help(session.can_grab))

        def faster() -> None:
            self.hand_speed_m_per_s = float(speed.value)

        speed.on_update(self._asked(faster))

    def _hold_or_let_go(self, hand: int) -> Callable[[], None]:
        session = self._viewer.session
        assert session is not None

        def change() -> None:
            if session.hands[hand].holds:
                session.release(hand)
            else:
                session.grab(session.hands[hand].position, hand)

        return change

    def _asked(self, what: Callable[[], None]) -> Callable[[Any], Any]:
        async def asked(_: object) -> None:  # async: in the order in which people asked
            self._todo(what)

        return asked

    def _hotkey(self, label: str, key: Any, what: Callable[[], None]) -> None:
        command = self._server.gui.add_command(label, hotkey=key)
        command.on_trigger(self._asked(what))


def _icons() -> Any:
    import viser

    return viser.Icon


def _help(can_grab: bool) -> str:
    mouse = "drag points or springs to pull; click: the left hand holds there, with shift the right"
    if not can_grab:
        mouse = "drag points or springs, or arrows and rings, to move the nearer gripper"
    script = html.escape(key_script("".join(MOTION_KEYS)), quote=True)
    return (
        f"<div style='{_SMALL}'><b>keys</b> (click the scene first)<br>"
        "left hand W S A D, up Q, down E<br>right hand I K J L, up U, down O<br>"
        "P play or pause, N one step, R reset<br>"
        f"<b>mouse</b> {mouse}<br><img src='{_PIXEL}' onload=\"{script}\" alt=''></div>"
    )
