"""The viewer in a real browser: headless Chromium, real keys and a real mouse."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium_page import ChromiumPage, find_chromium

pytest.importorskip("viser", reason="the extra `viewer` is not installed")

from viewer_page import (
    SPACING_M,
    begin_anew,
    block,
    close_notice,
    pixel_of,
    released,
    slide,
    steps,
    tap,
    until,
)

from physgym.viewer.app import Viewer
from physgym.viewer.session import LEFT, MOUSE, RIGHT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]


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
        close_notice(made)
        yield made
    finally:
        made.close()


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


@pytest.fixture(scope="module")
def world(page: ChromiumPage) -> ChromiumPage:
    """The page with the folder of gravity, ground and friction open."""
    page.value(
        "[...document.querySelectorAll('.mantine-Paper-root')]"
        ".filter(e=>e.innerText.trim()==='world').at(-1).click()"
    )
    page.wait_for("document.body.innerText.includes('friction')")
    return page


def test_the_gravity_slider_changes_how_it_falls(viewer: Viewer, world: ChromiumPage):
    slide(world, "ground at", 0.1)
    until(lambda: viewer.session.settings.ground_m < -0.1)  # far below
    slow, fast = (speed_after_steps(viewer, world, gravity) for gravity in (4.0, 18.0))
    assert fast < 3 * slow < 0
    set_gravity(viewer, world, 9.81)


def speed_after_steps(viewer: Viewer, page: ChromiumPage, gravity_m_per_s2: float) -> float:
    set_gravity(viewer, page, gravity_m_per_s2)
    session = released(viewer, page)
    steps(viewer, page, 6)
    speed = float(session.velocity[:, 2].mean())
    # With drag k = 1/s: v = -(g / k) (1 - exp(-k t)); springs do not change the mean. The body is
    # float32, and its drag is of first order over a hundred substeps.
    gravity = session.settings.gravity_m_per_s2
    assert speed == pytest.approx(-gravity * (1 - np.exp(-session.time_s)), rel=0.01)
    return speed


def set_gravity(viewer: Viewer, page: ChromiumPage, gravity_m_per_s2: float) -> None:
    slide(page, "gravity", gravity_m_per_s2 / 20.0)  # that is its end
    # A pixel of the slider's 135 is 0.15 m/s^2; the knob is grabbed a few beside its middle.
    near = pytest.approx(gravity_m_per_s2, abs=0.5)
    until(lambda: viewer.session.settings.gravity_m_per_s2 == near)


def test_it_comes_to_rest_where_the_ground_slider_says(viewer: Viewer, world: ChromiumPage):
    slide(world, "ground at", 0.45)
    until(lambda: -0.1 < viewer.session.settings.ground_m < -0.01)
    session = released(viewer, world)
    tap(world, "P")
    until(lambda: session.time_s > 1.5)
    # Contact stops nodes at the ground: what is left is float32.
    assert session.position[:, 2].min() == pytest.approx(session.settings.ground_m, abs=1e-4)
    slide(world, "ground at", 0.5)


def test_the_friction_slider_decides_how_far_it_slides(viewer: Viewer, world: ChromiumPage):
    slide(world, "friction", 0.0)
    until(lambda: viewer.session.settings.friction == 0.0)
    far = slid_after_a_push(viewer, world)
    slide(world, "friction", 0.6)
    until(lambda: 1.0 < viewer.session.settings.friction < 1.4)
    near = slid_after_a_push(viewer, world)
    # In 0.2 s it hardly slows without friction; with that of 1.2 it loses 12 m/s^2 and stands.
    assert far > 0.05
    assert near < 0.5 * far


def slid_after_a_push(viewer: Viewer, page: ChromiumPage) -> float:
    session = released(viewer, page)
    # A hand in its middle moves it along x, at a hand's speed of 1 m/s, and lets go.
    viewer.ask(lambda: session.grab(session.position.mean(axis=0).astype(np.float64), LEFT))
    viewer.ask(lambda: session.move_hand(LEFT, np.array([0.1, 0.0, 0.0])))
    until(lambda: session.hands[LEFT].holds)
    steps(viewer, page, 6)
    viewer.ask(session.release)
    until(lambda: not session.hands[LEFT].holds)
    before = session.position[:, 0].mean()
    steps(viewer, page, 12)
    return float(session.position[:, 0].mean() - before)


def test_a_click_puts_a_hand_on_the_node_that_was_clicked(viewer: Viewer, page: ChromiumPage):
    session = released(viewer, page)
    page.wait_until_drawn()
    nodes = session.position.astype(np.float64)
    # On the top, which the camera looks down on, away from the arrows of the hands below.
    top = np.flatnonzero(nodes[:, 2] > nodes[:, 2].max() - 0.5 * SPACING_M)
    away = np.linalg.norm(nodes[top] - viewer.clients[0].camera.position, axis=1)
    nearest, farthest = nodes[top[away.argmin()]], nodes[top[away.argmax()]]
    page.click(*pixel_of(viewer, page, nearest))
    until(lambda: session.hands[LEFT].holds)
    assert session.hands[LEFT].position == pytest.approx(nearest, abs=1e-6)
    page.click(*pixel_of(viewer, page, farthest), modifiers=8)  # shift
    until(lambda: session.hands[RIGHT].holds)
    assert session.hands[RIGHT].position == pytest.approx(farthest, abs=1e-6)
    # What it clicked is held: it goes where the hand goes, and the rest sags behind.
    viewer.ask(lambda: session.move_hand(RIGHT, np.array([0.0, 0.0, 0.05])))
    steps(viewer, page, 10)
    moved = session.position[top[away.argmax()]] - farthest
    assert moved[2] > 0.02
    tap(page, "P")
    until(lambda: viewer.playing)


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


@pytest.fixture
def painted(page: ChromiumPage) -> Iterator[Viewer]:
    """A block of red splats, in the page in place of the other one."""
    pytest.importorskip("torch")
    import torch

    from physgym.splats import GaussianCloud

    twin = block()
    centre, count = torch.tensor(twin.rest_position).float(), twin.node_count
    red = torch.tensor([0.9, 0.1, 0.1]) - 0.5
    splats = GaussianCloud(
        centre,
        torch.full((count, 3), float(np.log(0.4 * SPACING_M))),
        torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        torch.full((count,), 4.0),
        (red * 2 * np.sqrt(np.pi)).repeat(count, 1)[:, None],
    )
    made = Viewer(twin.replace(splats=splats))
    made.start()
    try:
        page.call("Page.navigate", url=made.url)
        page.wait_for("document.querySelector('canvas')!==null && !!window.physgymKeys")
        until(lambda: bool(made.clients) and np.linalg.norm(made.clients[0].camera.position) < 1)
        close_notice(page)
        yield made
    finally:
        page.call("Page.navigate", url="about:blank")
        made.stop()


def test_splats_are_grabbed_by_a_click_and_go_where_the_body_goes(
    painted: Viewer, page: ChromiumPage, tmp_path: Path
):
    from PIL import Image

    session = painted.session
    assert session is not None

    def redness(point: np.ndarray) -> float:
        picture = np.asarray(Image.open(page.screenshot(tmp_path / "splats.png")).convert("RGB"))
        x, y = pixel_of(painted, page, point)
        patch = picture[int(y) - 4 : int(y) + 4, int(x) - 4 : int(x) + 4].astype(int)
        return float((patch[..., 0] - patch[..., 1:].max(axis=-1)).mean())

    released(painted, page)
    nodes = session.position.astype(np.float64)
    top = np.flatnonzero(nodes[:, 2] > nodes[:, 2].max() - 0.5 * SPACING_M)
    away = np.linalg.norm(nodes[top] - painted.clients[0].camera.position, axis=1)
    clicked = nodes[top[away.argmin()]]
    middle = nodes.mean(axis=0)
    above = middle + np.array([0.0, 0.0, 0.12])
    until(lambda: redness(middle) > 80)
    assert redness(above) < 20
    page.click(*pixel_of(painted, page, clicked))
    until(lambda: session.hands[LEFT].holds)
    assert session.hands[LEFT].position == pytest.approx(clicked, abs=1e-6)
    page.click(*pixel_of(painted, page, middle + np.array([0.0, 0.0, 0.25])))  # past it
    painted.ask(lambda: session.move_hand(LEFT, np.array([0.0, 0.0, 0.15])))
    tap(page, "P")
    until(lambda: session.position.mean(axis=0)[2] > middle[2] + 0.08)
    assert session.hands[LEFT].position[:2] == pytest.approx(clicked[:2], abs=1e-6)
    until(lambda: redness(session.position.mean(axis=0).astype(np.float64)) > 80)


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
