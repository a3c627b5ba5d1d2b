"""Keys that are held down, from the browser to Python.

viser moves its camera with W A S D Q E, which are PhysTwin's keys for the left hand, and its
hotkeys know no release. A few lines in the page keep the hands' keys from the camera, and pass on
that they go down and up as hotkeys: the same letter with modifiers that nobody types.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import viser

__all__ = ["MOTION_KEYS", "HeldKeys", "key_script"]

# Key: hand, and direction in the world (x forward, y left, z up), as in PhysTwin's playground.
MOTION_KEYS: dict[str, tuple[int, tuple[float, float, float]]] = {
    "W": (0, (1.0, 0.0, 0.0)),
    "S": (0, (-1.0, 0.0, 0.0)),
    "A": (0, (0.0, 1.0, 0.0)),
    "D": (0, (0.0, -1.0, 0.0)),
    "Q": (0, (0.0, 0.0, 1.0)),
    "E": (0, (0.0, 0.0, -1.0)),
    "I": (1, (1.0, 0.0, 0.0)),
    "K": (1, (-1.0, 0.0, 0.0)),
    "J": (1, (0.0, 1.0, 0.0)),
    "L": (1, (0.0, -1.0, 0.0)),
    "U": (1, (0.0, 0.0, 1.0)),
    "O": (1, (0.0, 0.0, -1.0)),
}
# A key that the page has not spoken of for so long is up: the page hung or went away.
_SILENT_S = 1.0
_DOWN, _UP = "alt+shift", "cmd/ctrl+alt+shift"


def key_script(letters: str) -> str:
    """JavaScript that passes keys on.

    Capital letters of ``letters`` are matched by where they lie on the keyboard, whatever the
    layout. Keys typed into a field stay there.

    Args:
        letters: the keys, such as ``"WASD"``.

    Returns:
        The script; running it twice does nothing more.
    """
    return (
        "if(!window.physgymKeys){const held=window.physgymKeys=new Set();"
        "const pass=(key,up)=>document.body.dispatchEvent(new KeyboardEvent('keydown',"
        "{key:key,altKey:true,shiftKey:true,ctrlKey:up,bubbles:true,cancelable:true}));"
        "const free=()=>{held.forEach(key=>pass(key,true));held.clear();};"
        "const on=event=>{if(!event.isTrusted||event.ctrlKey||event.metaKey||event.altKey)return;"
        "const key=event.code.replace('Key','');"
        f"if(key.length!==1||!'{letters}'.includes(key))return;"
        "const up=event.type==='keyup';"
        "if(!up&&event.target.closest&&event.target.closest('input,textarea,select'))return;"
        "event.stopImmediatePropagation();"
        "if(up?held.delete(key):!held.has(key)){if(!up)held.add(key);pass(key,up);}};"
        "window.addEventListener('keydown',on,true);window.addEventListener('keyup',on,true);"
        "window.addEventListener('blur',free);"
        "setInterval(()=>held.forEach(key=>pass(key,false)),150);}"
    )


class HeldKeys:
    """Which motion keys are down.

    Args:
        server: the viewer's.
    """

    def __init__(self, server: viser.ViserServer) -> None:
        self._heard_s: dict[str, float] = {}
        for key, (hand, _) in MOTION_KEYS.items():
            which = "right" if hand else "left"
            for modifier, is_down in ((_DOWN, True), (_UP, False)):
                word = "moves" if is_down else "stops"
                command = server.gui.add_command(
                    f"{which} hand {word} ({key})",
                    hotkey=key,  # type: ignore[arg-type]
                    modifier=modifier,  # type: ignore[arg-type]
                )
                self._attach(command, key, is_down)
        # A page that goes away never says that its keys are up.
        server.on_client_disconnect(lambda _: self._heard_s.clear())

    @property
    def down(self) -> set[str]:
        """The keys that are down."""
        now_s = time.monotonic()
        return {k for k, heard_s in tuple(self._heard_s.items()) if now_s - heard_s < _SILENT_S}

    def _attach(self, command: viser.CommandHandle, key: str, is_down: bool) -> None:
        async def passed(_: object) -> None:  # async: in the order in which they were typed
            if is_down:
                self._heard_s[key] = time.monotonic()
            else:
                self._heard_s.pop(key, None)

        command.on_trigger(passed)

    def direction(self, hand: int) -> np.ndarray:
        """Where the keys that are down send a hand.

        Args:
            hand: its number.

        Returns:
            Sum of the keys' directions, shape (3,).
        """
        made = np.zeros(3)
        for key in self.down:
            mover, way = MOTION_KEYS[key]
            if mover == hand:
                made += way
        return made
