"""Gymnasium environments on twins; importing this package registers them."""

import gymnasium

__all__ = ["CABLE_SHAPE"]

CABLE_SHAPE = "physgym/CableShape-v0"
"""Shape a cable with two grippers; see `physgym.envs.tasks.cable.CableShapeEnv`."""

if CABLE_SHAPE not in gymnasium.registry:
    gymnasium.register(
        id=CABLE_SHAPE,
        entry_point="physgym.envs.tasks.cable:CableShapeEnv",
        # 10 s at the default 20 Hz: five times what it takes to cross the workspace.
        max_episode_steps=200,
    )
