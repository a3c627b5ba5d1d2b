"""Progress of a long job: a live line with time left for people, silence for machines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "RichProgress"]

Tick = Callable[[int, float], None]


class Progress:
    """Says nothing; what a library call gets when nobody watches."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Tick]:
        """One stage of a job.

        Args:
            name: what is done.
            total: how many steps at most.

        Yields:
            A function that is told step and current cost.
        """
        yield lambda step, value: None

    def say(self, text: str) -> None:
        """One line for people.

        Args:
            text: the line.
        """


class RichProgress(Progress):
    """A bar with elapsed and remaining time on stderr, so that stdout stays clean for --json."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(file=sys.stderr)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Tick]:
        """See `Progress.stage`."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[cost]}"),
        )
        with Bar(*columns, console=self._console) as bar:
            task = bar.add_task(name, total=total, cost="")
            yield lambda step, value: bar.update(task, completed=step, cost=f"cost {value:.4g}")
            bar.update(task, total=bar.tasks[0].completed)

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        # Names of recordings may hold brackets, which are no markup.
        self._console.print(text, markup=False, highlight=False)
