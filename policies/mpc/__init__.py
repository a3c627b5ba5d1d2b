"""Model-predictive control: plan gripper motions by rolling the twin out many times."""

from policies.mpc.cem import Cem, CemConfig
from policies.mpc.cost import ShapeCost
from policies.mpc.mppi import Mppi, MppiConfig
from policies.mpc.planner import Plan, Planner, PlannerConfig

__all__ = [
    "Cem",
    "CemConfig",
    "Mppi",
    "MppiConfig",
    "Plan",
    "Planner",
    "PlannerConfig",
    "ShapeCost",
]
