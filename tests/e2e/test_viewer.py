"""The viewer in a real browser: headless Chromium, real keys and a real mouse."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium_page import ChromiumPage, find_chromium

pytest.importorskip("viser", reason="the extra `viewer` is not installed")

from physgym.frames import matrix_from_quat_wxyz
from physgym.sim.spring_mass import rest_lengths, springs_from_points
from physgym.twin import Twin
from physgym.viewer.app import Viewer
from physgym.viewer.session import LEFT, MOUSE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]
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


@pytest.fixture(scope="module")
def viewer() -> Iterator[Viewer]:
    made = Viewer(block())
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def page(viewer: Viewer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromiumPage]:
    made = ChromiumPage(viewer.url, tmp_path_factory.mktemp("profile"))
    try:
        made.wait_for("document.querySelector('canvas')!==null && !!window.physgymKeys")
        # Every page begins with viser's own view, then takes ours, which is much nearer.
        until(
            lambda: bool(viewer.clients) and np.linalg.norm(viewer.clients[0].camera.position) < 1
        )
        yield made
    finally:
        made.close()


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


def test_keys_move_the_left_hand_and_not_the_camera(viewer: Viewer, page: ChromiumPage):
    session = viewer.session
    assert session is not None
    before, camera = session.position, viewer.clients[0].camera.position.copy()
    hand = session.hands[LEFT].position.copy()
    page.key("Q", down=True)
    until(lambda: session.hands[LEFT].position[2] > hand[2] + 0.05)
    page.key("Q", down=False)
    until(lambda: viewer.keys is not None and not viewer.keys.down)
    # Both hands hold a far end: the end that the left one holds goes up with it.
    moved = session.position - before
    near = np.linalg.norm(before - hand, axis=1) < 2 * SPACING_M
    assert moved[near, 2].mean() > 0.03
    assert viewer.clients[0].camera.position == pytest.approx(camera)
    time.sleep(0.2)  # a step that had begun ends
    here = session.hands[LEFT].target.copy()
    time.sleep(0.3)
    assert session.hands[LEFT].target == pytest.approx(here)  # the key is up: it stays


def test_a_gizmo_moves_its_hand(viewer: Viewer, page: ChromiumPage):
    session = viewer.session
    assert session is not None
    begin_anew(viewer, page)
    hand = session.hands[LEFT].target.copy()
    page.wait_until_drawn()  # the gizmo went back with the hand
    left = np.array([0.0, 1.0, 0.0])  # the arrow that points away from the body
    reach_m = 0.93 * viewer.gizmo_scale_m
    end = pixel_of(viewer, page, hand + (reach_m + 0.05) * left)
    page.drag(pixel_of(viewer, page, hand + reach_m * left), end)
    page.mouse("mouseReleased", *end)
    until(lambda: session.hands[LEFT].position[1] > hand[1] + 0.025)
    aside = session.hands[LEFT].target[[0, 2]] - hand[[0, 2]]
    assert aside == pytest.approx([0, 0], abs=1e-3)  # that arrow moves along y only


def test_the_mouse_drags_the_body_and_lets_go(viewer: Viewer, page: ChromiumPage):
    session = viewer.session
    assert session is not None
    begin_anew(viewer, page)
    viewer.ask(session.release)
    until(lambda: not session.hands[LEFT].holds)
    page.wait_until_drawn()
    middle = session.position.astype(np.float64)
    top = middle[np.argmin(np.linalg.norm(middle - viewer.clients[0].camera.position, axis=1))]
    start = pixel_of(viewer, page, top)
    end = (start[0], start[1] - 120)
    page.drag(start, end)
    until(lambda: session.hands[MOUSE].holds)
    until(lambda: float(session.position[:, 2].mean()) > float(middle[:, 2].mean()) + 0.02)
    page.mouse("mouseReleased", *end)
    until(lambda: not session.hands[MOUSE].holds)


def test_the_page_shows_the_body_and_complains_of_nothing(
    viewer: Viewer, page: ChromiumPage, tmp_path: Path
):
    from PIL import Image

    def body_is_there() -> bool:
        picture = np.asarray(Image.open(page.screenshot(tmp_path / "viewer.png")).convert("RGB"))
        x, y = pixel_of(viewer, page, viewer.session.position.mean(axis=0))
        patch = picture[int(y) - 10 : int(y) + 10, int(x) - 10 : int(x) + 10].reshape(-1, 3)
        # The body is brown, the ground nearly white and grey.
        red, blue = patch[:, 0].astype(int), patch[:, 2].astype(int)
        return bool(np.median(red - blue) > 25)

    # Other tests have pulled at it, and without a graphics card a picture may be a while late.
    begin_anew(viewer, page)
    until(body_is_there)
    assert page.errors == []


def test_the_command_says_where_it_is_and_ends_with_ctrl_c(tmp_path: Path):
    block().save(tmp_path / "block")
    command = [sys.executable, "-m", "physgym.cli", "play", str(tmp_path / "block")]
    with subprocess.Popen(
        [*command, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        about = json.loads(process.stdout.readline())
        assert about["twin"] == "block"
        assert about["url"].startswith("http://127.0.0.1:")
        with urllib.request.urlopen(about["url"], timeout=10) as page:
            assert b"<html" in page.read()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert rest == ""  # one document and nothing else on stdout
