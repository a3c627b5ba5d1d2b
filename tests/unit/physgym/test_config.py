"""Configurations to plain YAML types and back: nothing unknown, nothing half right."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from physgym.config import config_from_plain, config_to_plain
from physgym.errors import DataError


class Topology(enum.Enum):
    CHAIN = 1
    BALL = 2


@dataclass(frozen=True)
class Search:
    budget: Literal["quick", "full"] = "quick"
    range_pa: tuple[float, float] = (1e3, 1e7)

    def __post_init__(self) -> None:
        if self.range_pa[0] >= self.range_pa[1]:
            raise DataError(
                "range_pa is empty", where="range_pa", expected="low < high", fix="swap"
            )


@dataclass(frozen=True)
class Job:
    source: Path
    steps: int = 10
    rate: float | None = None
    topology: Topology = Topology.CHAIN
    search: Search = Search()
    seeds: tuple[int, ...] = ()
    notes: list[str] = field(default_factory=list)
    gains: dict[str, float] = field(default_factory=dict)
    either: int | str = 3
    verbose: bool = False


FULL = Job(
    Path("runs/a"),
    steps=3,
    rate=2.5,
    topology=Topology.BALL,
    search=Search("full", (1.0, 2.0)),
    seeds=(1, 2),
    notes=["a", "b"],
    gains={"p": 1.0},
    either="x",
    verbose=True,
)


@pytest.mark.parametrize("job", [Job(Path("x")), FULL])
def test_round_trip(job: Job) -> None:
    """What was written is read back equal, types included."""
    plain = config_to_plain(job)
    again = config_from_plain(Job, plain)
    assert again == job
    assert isinstance(again.source, Path)
    assert isinstance(again.seeds, tuple)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"stepz": 3}, ["stepz", "steps"]),
        ({"search": {"budgets": "quick"}}, ["budgets", "'search'"]),
        ({"search": {"budget": "huge"}}, ["'huge'", "'quick', 'full'", "'budget'"]),
        ({"search": {"range_pa": [1.0]}}, ["a list of 2", "'range_pa'"]),
        ({"search": 3}, ["a mapping", "'search'"]),
        ({"steps": 2.5}, ["a whole number", "'steps'"]),
        ({"steps": True}, ["a whole number", "'steps'"]),
        ({"steps": "3"}, ["a whole number", "'steps'"]),
        ({"verbose": 1}, ["true or false", "'verbose'"]),
        ({"rate": "fast"}, ["a number", "'rate'"]),
        ({"topology": "STAR"}, ["CHAIN, BALL", "'topology'"]),
        ({"seeds": [1, "two"]}, ["'two'", "[1]"]),
        ({"seeds": "12"}, ["a list", "'seeds'"]),
        ({"gains": [1]}, ["a mapping", "'gains'"]),
        ({"either": [1]}, ["a whole number or text", "'either'"]),
        ({"source": 3}, ["a path", "'source'"]),
    ],
)
def test_wrong_key_or_value_is_named(change: dict[str, Any], names: list[str]) -> None:
    """The error says which key, what it holds and what it may hold."""
    with pytest.raises(DataError) as caught:
        config_from_plain(Job, {"source": "x", **change}, where="config.yaml")
    for name in ["config.yaml", *names]:
        assert name in str(caught.value)


def test_missing_key_is_named() -> None:
    """A field without a default must be there."""
    with pytest.raises(DataError, match=r"missing key\(s\): source"):
        config_from_plain(Job, {})


def test_own_validation_runs() -> None:
    """A file cannot get round what the dataclass checks."""
    with pytest.raises(DataError, match="range_pa is empty"):
        config_from_plain(Job, {"source": "x", "search": {"range_pa": [2.0, 1.0]}})


def test_whole_number_stands_for_a_number() -> None:
    """People write 1 for 1.0 in YAML."""
    again = config_from_plain(Job, {"source": "x", "rate": 2})
    assert again.rate == 2.0
    assert isinstance(again.rate, float)


def test_array_is_refused() -> None:
    """Arrays belong into files of their own."""
    with pytest.raises(DataError, match="ndarray"):
        config_to_plain({"rest": np.zeros(3)})
