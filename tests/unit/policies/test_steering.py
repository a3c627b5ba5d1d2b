"""What the policy plans with: settings that say what they mean and refuse what cannot be."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from physgym.errors import DataError
from policies.execution.steering import GOAL_KEY, SteeringConfig, read_goal

NUMBERS = [item for item in fields(SteeringConfig) if isinstance(item.default, int | float)]


def test_every_setting_says_what_it_means_and_every_number_has_a_span():
    for item in fields(SteeringConfig):
        assert item.metadata["description"].endswith("."), item.name
    assert [item.name for item in NUMBERS if item.metadata["span"] is None] == []


@pytest.mark.parametrize("item", NUMBERS, ids=lambda item: item.name)
def test_both_ends_of_a_span_are_taken_and_what_lies_beyond_is_refused(item):
    low, high = item.metadata["span"]
    for value in (low, high):
        assert getattr(replace(SteeringConfig(), **{item.name: value}), item.name) == value
    for value in (low - 1, high + 1, float("nan")):
        with pytest.raises(DataError, match=rf"SteeringConfig\.{item.name}"):
            replace(SteeringConfig(), **{item.name: value})


def test_an_unknown_planner_is_refused():
    with pytest.raises(DataError, match="mppi or cem"):
        SteeringConfig(method="rrt")


def test_a_goal_is_read_and_a_file_without_one_is_named(tmp_path):
    goal = np.arange(12.0).reshape(4, 3)
    path = tmp_path / "goal.npz"
    np.savez(path, **{GOAL_KEY: goal})
    np.testing.assert_array_equal(read_goal(path), goal)
    np.savez(path, other=goal)
    with pytest.raises(DataError, match=r"goal\.npz"):
        read_goal(path)
