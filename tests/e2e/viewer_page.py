"""What tests of the viewer do on its page: a body, keys, sliders, and where a point is seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from chromium_page import ChromiumPage

from physgym.frames import matrix_from_quat_wxyz
from physgym.sim.spring_mass import rest_lengths, springs_from_points
from physgym.twin import Twin
from physgym.viewer.app import Viewer
from physgym.viewer.session import Session

SPACING_M = 0.03


def block() -> Twin:
    """A soft block on the ground, as twins from episodes are."""
    axis = np.arange(4) * SPACING_M
    nodes = np.stack(np.meshgrid(axis, 1.5 * axis, axis, indexing="ij"), -1).reshape(-1, 3)
    edges = springs_from_points(nodes, radius_m=1.9 * SPACING_M, max_neighbours=30)
    values = {
        "springs": edges,
        "spring_rest_length_m": rest_lengths(nodes, edges),
        "log_stiffness_ratio": np.zeros(len(edges)),
        "mass_kg": 0.1,
        "gravity_m_per_s2": (0.0, 0.0, -9.81),
        "stiffness_n": 30.0,
        "dashpot_ns_per_m": 0.1,
        "drag_per_s": 1.0,
        "restitution": 0.0,
        "friction": 0.5,
        "ground_normal": (0.0, 0.0, 1.0),
        "ground_offset_m": 0.0,
        "spacing_m": SPACING_M,
        "length_exponent": 0.0,
        "grip_radius_m": 1.5 * SPACING_M,
        "grip_neighbours": np.array(20, np.int32),
        "grip_stiffness_ratio": 1.0,
    }
    parameters = {key: np.asarray(value) for key, value in values.items()}
    return Twin("block", "volume", "spring_mass", "phystwin", nodes, np.zeros(0, int), parameters)


def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def begin_anew(viewer: Viewer, page: ChromiumPage) -> None:
    assert viewer.session is not None
    before_s = viewer.session.time_s
    page.key("R", down=True)
    page.key("R", down=False)
    until(lambda: viewer.session.time_s < before_s)


def pixel_of(viewer: Viewer, page: ChromiumPage, point: np.ndarray) -> tuple[float, float]:
    """Where a point of the world is on the page."""
    camera = viewer.clients[0].camera
    seen = matrix_from_quat_wxyz(camera.wxyz).T @ (point - camera.position)
    box = page.value(
        "(()=>{const b=document.querySelector('canvas').getBoundingClientRect();"
        "return [b.left,b.top,b.width,b.height]})()"
    )
    focal = 0.5 * box[3] / np.tan(0.5 * camera.fov)
    u, v = focal * seen[:2] / seen[2]
    return box[0] + 0.5 * box[2] + u, box[1] + 0.5 * box[3] + v


def released(viewer: Viewer, page: ChromiumPage) -> Session:
    """Anew, paused and in nobody's hands: from here on every step is a key."""
    session = viewer.session
    assert session is not None
    if viewer.playing:
        tap(page, "P")
        until(lambda: not viewer.playing)
    steps(viewer, page, 1)  # so that there is something to reset
    begin_anew(viewer, page)
    viewer.ask(session.release)
    settle(viewer)
    assert not any(hand.holds for hand in session.hands)
    return session


def settle(viewer: Viewer) -> None:
    """Wait until all that was asked for is done."""
    done = threading.Event()
    viewer.ask(done.set)
    assert done.wait(15.0)


def tap(page: ChromiumPage, letter: str) -> None:
    page.key(letter, down=True)
    page.key(letter, down=False)


def steps(viewer: Viewer, page: ChromiumPage, count: int) -> None:
    for _ in range(count):
        one_step(viewer, page)


def one_step(viewer: Viewer, page: ChromiumPage) -> None:
    session = viewer.session
    assert session is not None
    before_s = session.time_s
    tap(page, "N")
    until(lambda: session.time_s > before_s)


def slide(page: ChromiumPage, label: str, share: float) -> None:
    """Drag the knob of a slider to a share of its way."""
    left, width, x, y = resting(lambda: slider_box(page, label))
    end = (left + share * width, y)
    page.drag((x, y), end, steps=3)
    page.mouse("mouseReleased", *end)


def slider_box(page: ChromiumPage, label: str) -> list[float] | None:
    """Left end and width of its track, middle of its knob; None while that cannot be reached."""
    return page.value(
        "(()=>{for(const s of document.querySelectorAll('.mantine-Slider-root')){let row=s;"
        "for(let up=0;up<6&&row;up++,row=row.parentElement)"
        f"if(row.innerText.trim().startsWith({label!r})){{s.scrollIntoView({{block:'center'}});"
        "const t=s.querySelector('.mantine-Slider-track').getBoundingClientRect(),"
        "k=s.querySelector('.mantine-Slider-thumb').getBoundingClientRect(),"
        "x=k.left+k.width/2,y=k.top+k.height/2;"
        "return s.contains(document.elementFromPoint(x,y))?[t.left,t.width,x,y]:null}}"
        "return null})()"
    )


def resting(read: Callable[[], list[float] | None], seconds: float = 15.0) -> list[float]:
    """What is read twice alike: a page that unfolds or scrolls moves what is on it."""
    end, before = time.monotonic() + seconds, None
    while (now := read()) is None or now != before:
        assert time.monotonic() < end, "not in reach"
        before = now
        time.sleep(0.2)
    return now


def close_notice(page: ChromiumPage) -> None:
    """viser's remark on the missing graphics card lies over what is to be clicked."""
    closed = "document.querySelector('.mantine-Notification-closeButton')"
    page.wait_for(f"{closed}!==null")
    page.value(f"{closed}.click()")
    page.wait_for(f"{closed}===null")
