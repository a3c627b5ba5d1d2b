"""Progress of a reconstruction on its way to a topic, and how it is cancelled."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
node = pytest.importorskip("physgym_ros.reconstruct", reason="physgym_ros is not installed")


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(node, "_PERIOD_S", 0.0)  # else only some of the steps are told
    found: list[tuple[str, float, str]] = []
    return found, node.StageProgress(lambda *word: found.append(word))


def test_a_stage_goes_from_0_to_1(told):
    found, progress = told
    with progress.stage("search", 4) as tick:
        tick(1, 0.5)
        progress.say("a line")
        tick(9, 0.25)  # more steps than were announced
    assert found == [
        ("search", 0.0, ""),
        ("search", 0.25, "step 1 of 4, cost 0.5"),
        ("search", -1.0, "a line"),
        ("search", 1.0, "step 9 of 4, cost 0.25"),
        ("search", 1.0, ""),
    ]


def test_a_stage_of_no_steps(told):
    found, progress = told
    with progress.stage("nothing", 0):
        pass
    assert [fraction for _, fraction, _ in found] == [0.0, 1.0]


def test_cancel_ends_one_search_and_what_comes_after_it_runs(told):
    _, progress = told
    progress.cancel()
    with pytest.raises(KeyboardInterrupt), progress.stage("search", 3) as tick:
        tick(1, 0.0)
    with progress.stage("write the twin", 3) as tick:
        tick(1, 0.0)
        tick(2, 0.0)
