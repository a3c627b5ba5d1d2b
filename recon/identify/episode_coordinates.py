"""What is searched for in an episode beside what every spring network has, and what is usual."""

from __future__ import annotations

import numpy as np

from recon.identify.clip import Clip
from recon.identify.problem import Prior

__all__ = ["COLLISION", "coordinates_of", "without"]

# Coordinate: (prior mean, prior sigma, step of a difference).
COLLISION: dict[str, tuple[float, float, float]] = {
    # Distance at which nodes collide, in spacings. PhysTwin's 1 to 5 cm are 2 to 10 spacings, but
    # it lets neighbours collide, which damps; here they never do.
    "log_collision_distance": (float(np.log(0.7)), 0.3, 5e-2),
    "logit_collision_restitution": (-1.0, 1.0, 5e-2),
    "log_collision_friction": (float(np.log(0.3)), 0.7, 5e-2),
}
_GRIP: dict[str, tuple[float, float, float]] = {
    # Stiffness of a grip's springs over those of the object.
    "log_grip_stiffness": (0.0, 1.0, 2e-2),
}
_FRICTION: dict[str, tuple[float, float, float]] = {
    # Of most things with most tables. What is lifted or stands still says nothing about it, and a
    # wide prior lets it take the blame for something else; a push shifts it by many sigmas.
    "log_friction": (float(np.log(0.5)), 0.35, 2e-2),
}
_PUSH: dict[str, tuple[float, float, float]] = {
    "log_pusher_friction": (float(np.log(0.5)), 0.7, 5e-2),
}
_STRAIGHT: dict[str, tuple[float, float, float]] = {
    # How far the natural shape of a rope is from how it lay (0) to straight (1).
    "logit_straightness": (0.0, 1.5, 5e-2),
}
_SHEET: dict[str, tuple[float, float, float]] = {
    # Peirce's bending length (D / weight per area)^(1/3) [m], 1 to 5 cm of fabrics ("The handle of
    # cloth as a measurable quantity", 1930), more of paper.
    "log_bending_length": (float(np.log(0.025)), 0.5, 2e-2),
    # A lifted sheet drags its tail: low friction and high bending stiffness look alike there, and
    # what the model cannot follow decides between them (0.17 found for 0.4, 0.08 for 0.8): held.
    "log_friction": (float(np.log(0.5)), 0.03, 2e-2),
    # The springs of a membrane are all about as long.
    "length_exponent": (0.0, 0.3, 2e-2),
}


def coordinates_of(
    clip: Clip, usual: dict[str, tuple[float, float, float]], *, self_collision: bool
) -> dict[str, tuple[float, float, float]]:
    """Global coordinates of an episode.

    Args:
        clip: the episode.
        usual: those of any spring network.
        self_collision: whether nodes collide.

    Returns:
        Prior mean, prior sigma and step of a difference by name.
    """
    table = usual | (_GRIP if clip.grips else {})
    table |= _PUSH if clip.pushers else {}
    table |= _FRICTION if clip.ground is not None else {}
    table |= _SHEET if clip.kind == "sheet" else {}
    # A sheet that touches itself little says nothing about how; searched for, collisions far apart
    # took the blame for friction and bending (fitted on one lift, a fold was 12 mm off, not 5).
    table |= COLLISION if self_collision and clip.kind != "sheet" else {}
    return table | (_STRAIGHT if clip.straight_position is not None else {})


def without(prior: Prior, names: tuple[str, ...]) -> Prior:
    """A prior of fewer coordinates.

    Args:
        prior: all.
        names: those that go.

    Returns:
        The rest, in the same order.
    """
    keep = [i for i, name in enumerate(prior.names) if name not in names]
    left = tuple(prior.names[i] for i in keep)
    return Prior(left, prior.mean[keep], prior.sigma[keep], prior.step[keep])
