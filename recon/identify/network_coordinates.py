"""What is searched for in every spring network, and what is usual.

Search coordinates are relative to the object (`recon.identify.spring_network`).
"""

from __future__ import annotations

import numpy as np

__all__ = ["CONTACT", "GLOBALS", "MOST_DRAG_PER_S", "TOPOLOGY"]

# PhysTwin's bound. Any drag at all explains what is only pushed slowly: without a bound such a twin
# came out with 990 1/s, and falls as in honey.
MOST_DRAG_PER_S = 20.0

# Coordinate: (prior mean, prior sigma, step of a difference).
GLOBALS: dict[str, tuple[float, float, float]] = {
    # Stiffness over that of an object which its own weight strains by 1 %.
    "log_stiffness": (0.0, 2.0, 1e-2),
    # Damping ratio of neighbouring points against each other; 0.03 is PhysTwin's start.
    "log_damping_ratio": (float(np.log(0.05)), 1.5, 2e-2),
    # 1/s; PhysTwin searches 0 to 20 from 3.
    "log_drag": (0.0, 1.2, 2e-2),
    # Stiffness of a spring goes with this power of its length; the long ones resist bending.
    "length_exponent": (0.0, 1.0, 2e-2),
}
CONTACT: dict[str, tuple[float, float, float]] = {
    "logit_restitution": (-1.0, 1.0, 2e-2),
    "log_friction": (float(np.log(0.4)), 0.7, 2e-2),
}
# PhysTwin, on dense clouds: radius 2 to 10 spacings, 10 to 50 neighbours; driven points 2 to 16
# spacings, 10 to 80. Tracked points are sparser, so the means sit at the lower ends.
TOPOLOGY: dict[str, tuple[float, float, float]] = {
    "log_radius": (float(np.log(2.2)), 0.35, 5e-2),
    "log_neighbours": (float(np.log(14.0)), 0.4, 5e-2),
    "log_driven_radius": (float(np.log(2.5)), 0.4, 5e-2),
    "log_driven_neighbours": (float(np.log(14.0)), 0.5, 5e-2),
}
