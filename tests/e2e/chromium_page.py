"""A page in headless Chromium, driven through its DevTools protocol: real keys, mouse, pixels."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

# WebGL without a graphics card (SwiftShader); no sandbox, as root in a container has none.
FLAGS = (
    "--headless=new",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--remote-debugging-port=0",
    "--window-size=800,560",
)
# Of Chromium on a listener of viser's, while an arrow is dragged; the drag goes on as it should.
_REMARK = "Unable to preventDefault inside passive event listener"


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class ChromiumPage:
    """Opens a page; ``errors`` collects what its console complains of."""

    def __init__(self, url: str, profile: Path) -> None:
        binary = find_chromium()
        assert binary is not None
        self.errors: list[str] = []
        self._number = 0
        self._process = subprocess.Popen(
            [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._browser = connect(self._endpoint(), max_size=None)
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)

    def _endpoint(self) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"ws://\S+", line):
                return found.group(0)
        raise RuntimeError("Chromium ended before it listened")

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._browser.send(json.dumps(message))
        while True:
            answer = json.loads(self._browser.recv(timeout=60))
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict) -> None:
        about = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(about["exceptionDetails"].get("exception", about)))
        if event.get("method") == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.errors.append(" ".join(str(a.get("value", a)) for a in about["args"]))
        entry = about.get("entry", {})
        if entry.get("level") == "error" and _REMARK not in entry["text"]:
            self.errors.append(str(entry))

    def call(self, method: str, **parameters: Any) -> dict:
        return self._call(method, self._session, **parameters)

    def value(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    def wait_until_drawn(self) -> None:
        """What was sent by now is on the screen; without a graphics card that takes a while."""
        time.sleep(0.3)
        twice = "new Promise(r=>requestAnimationFrame(()=>requestAnimationFrame(()=>r(1))))"
        self.call("Runtime.evaluate", expression=twice, awaitPromise=True)

    def wait_for(self, script: str, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.1)

    def mouse(self, kind: str, x: float, y: float, *, held: bool = False, modifiers: int = 0):
        button = "none" if kind == "mouseMoved" and not held else "left"
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button=button,
            buttons=int(held or kind == "mousePressed"),
            clickCount=0 if kind == "mouseMoved" else 1,
            modifiers=modifiers,
        )

    def click(self, x: float, y: float, *, modifiers: int = 0) -> None:
        self.mouse("mouseMoved", x, y, modifiers=modifiers)
        self.mouse("mousePressed", x, y, modifiers=modifiers)
        self.mouse("mouseReleased", x, y, modifiers=modifiers)

    def drag(self, start: tuple[float, float], end: tuple[float, float], *, steps: int = 5) -> None:
        """Press, move and stay; `mouse("mouseReleased", ...)` lets go."""
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start)
        for step in range(1, steps + 1):
            share = step / steps
            at = [a + share * (b - a) for a, b in zip(start, end)]
            self.mouse("mouseMoved", *at, held=True)
            time.sleep(0.04)

    def key(self, letter: str, *, down: bool) -> None:
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown" if down else "keyUp",
            key=letter.lower(),
            code=f"Key{letter}",
            windowsVirtualKeyCode=ord(letter),
            **({"text": letter.lower()} if down else {}),
        )

    def screenshot(self, path: Path) -> Path:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def close(self) -> None:
        try:
            self._call("Browser.close")
            self._browser.close()
            self._process.wait(timeout=10)
        except Exception:  # whatever it is, the process must not stay
            self._process.kill()
            self._process.wait(timeout=10)
