"""A scene whose stress a torch function gives in every substep."""

from __future__ import annotations

from typing import Any

from physgym.sim.mpm.model import MpmParameters
from physgym.sim.mpm.solver import MpmSolver
from recon.identify.mosa_scene import Scene

__all__ = ["HookedScene"]


class HookedScene(Scene):
    """A `Scene` that takes as its adapter anything with a method ``hook`` (see `StressHook`)."""

    def _solver(
        self,
        parameters: MpmParameters,
        held: list[int],
        boxes: list[Any],
        worlds: int,
        adapter: Any,
        threads: int | None,
    ) -> Any:
        return MpmSolver(
            self.model(held, boxes), parameters, worlds=worlds, device="cpu", hook=adapter.hook()
        )
