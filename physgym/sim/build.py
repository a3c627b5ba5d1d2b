"""From a twin to the solver that simulates it."""

from __future__ import annotations

from typing import Any

from physgym.errors import TwinError
from physgym.sim.solver import Solver
from physgym.twin import Twin

__all__ = ["build_solver"]


def build_solver(twin: Twin, *, worlds: int = 1, device: str = "auto", **options: Any) -> Solver:
    """Build the solver of a twin's dynamics.

    Args:
        twin: the twin.
        worlds: B.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        **options: passed to the solver (``substeps_per_frame``, ``safety``, ``threads``).

    Returns:
        A solver of B worlds.

    Raises:
        TwinError: if this version knows no such dynamics.
    """
    if twin.dynamics == "rod":
        from physgym.sim.rod import RodModel, RodParameters, RodSolver

        values = dict(twin.parameters)
        model = RodModel(
            node_count=len(twin.rest_position),
            driven_index=tuple(int(i) for i in twin.driven_index),
            gravity_mps2=tuple(float(g) for g in values.pop("gravity_mps2", (0.0, 0.0, -9.81))),
        )
        parameters = RodParameters.from_mapping(values, where=twin.name)
        return RodSolver(model, parameters, worlds=worlds, device=device, **options)
    raise TwinError(
        f"dynamics {twin.dynamics!r}",
        where=f"twin {twin.name}: twin.json, field dynamics",
        expected="'rod'",
        fix="reconstruct the twin with this version",
    )
