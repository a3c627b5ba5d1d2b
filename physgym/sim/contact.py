"""Contact: what touches, and the impulse it gets. Configuration for hosts, functions for kernels.

Ground: PhysTwin's impulse (paper, appendix: table contact) with three changes. The time of impact
stays inside the substep, so a node that grazes the plane does not jump; a node under the plane is
put back on it, whatever its velocity; and there is no speed below which contact is ignored. By
choice instead Spring-Gaus's ground, which takes all normal velocity and a share of the rest.
Self-collision: the same impulse between two nodes, weighted alike on both, so momentum is kept.
Box colliders: the ground's impulse against a box that moves as it is told and feels no node.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import warp as wp

from physgym.errors import DataError

__all__ = [
    "BoxCollider",
    "GroundLaw",
    "GroundPlane",
    "SelfCollision",
    "box_response",
    "factor_response",
    "ground_response",
    "pair_velocity_change",
]


class GroundLaw(enum.Enum):
    """What the ground does to a node; the value is its number in kernels and in twins."""

    COULOMB = 0
    """An impulse with restitution and Coulomb friction."""
    FACTOR = 1
    """Spring-Gaus's: no normal velocity, tangential velocity times a factor, over and over."""


@dataclass(frozen=True)
class GroundPlane:
    """A fixed plane; nodes stay where ``normal . x >= offset_m``.

    Attributes:
        normal: unit vector out of the ground.
        offset_m: distance of the plane from the origin along the normal [m].
        law: what it does to a node.
        factor_step_s: of `GroundLaw.FACTOR`: time on the ground for which the factor counts once
            [s]. A substep h takes it to the power ``h / factor_step_s``, so how time is cut does
            not change the friction; Spring-Gaus takes it once a substep, 0.3 ms where 30 ms pass
            from frame to frame.
    """

    normal: tuple[float, float, float] = (0.0, 0.0, 1.0)
    offset_m: float = 0.0
    law: GroundLaw = GroundLaw.COULOMB
    factor_step_s: float = 3e-4

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor_step_s) and self.factor_step_s > 0.0):
            raise DataError(
                f"factor_step_s = {self.factor_step_s}",
                where="GroundPlane.factor_step_s",
                expected="a time of more than 0 s",
                fix="use the substep for which the factor was found",
            )
        length = math.sqrt(sum(c * c for c in self.normal))
        if not abs(length - 1.0) < 1e-5 or not math.isfinite(self.offset_m):
            raise DataError(
                f"ground normal {self.normal} has length {length:.6g}, offset {self.offset_m} m",
                where="GroundPlane",
                expected="a unit normal and a finite offset",
                fix="divide the normal by its length",
            )


@dataclass(frozen=True)
class SelfCollision:
    """Impulses between nodes that come close, springs' neighbours left out.

    Attributes:
        distance_m: nodes nearer than this collide [m].
        restitution: 0 keeps no approach speed, 1 keeps all.
        friction: Coulomb coefficient between nodes.
        excluded_hops: nodes that so many springs (or fewer) join never collide; nor do nodes that
            are nearer than ``distance_m`` in the rest shape.
        skin: the candidate list reaches ``skin * distance_m`` farther than contact and is made anew
            when a node has moved half of that.
        max_neighbours: most candidates of one node; more is an error, never a missed contact.
    """

    distance_m: float
    restitution: float = 0.7
    friction: float = 0.3
    excluded_hops: int = 1
    skin: float = 0.5
    max_neighbours: int = 64

    def __post_init__(self) -> None:
        ranges = {
            "distance_m": self.distance_m > 0.0,
            "restitution": 0.0 <= self.restitution <= 1.0,
            "friction": self.friction >= 0.0,
            "excluded_hops": self.excluded_hops >= 0,
            "skin": self.skin > 0.0,
            "max_neighbours": self.max_neighbours > 0,
        }
        for name, ok in ranges.items():
            if not ok:
                raise DataError(
                    f"{name} = {getattr(self, name)}",
                    where=f"SelfCollision.{name}",
                    expected="distance, skin, list size > 0; restitution in [0, 1]; friction >= 0",
                    fix=f"change {name}",
                )


@dataclass(frozen=True)
class BoxCollider:
    """A box that moves as it is told and pushes nodes: a plate, closed fingers.

    Its frame is at its centre, with the axes along its edges; the pose comes with each rollout.

    Attributes:
        half_m: half the edge lengths [m], shape (3,).
        margin_m: nodes are kept this far off the box [m], which rounds its edges. Nodes are points:
            half the distance of neighbouring nodes stops a box from slipping between them.
    """

    half_m: tuple[float, float, float]
    margin_m: float = 0.0

    def __post_init__(self) -> None:
        half = tuple(float(c) for c in self.half_m)
        margin = float(self.margin_m)
        fits = len(half) == 3 and all(0.0 < c < math.inf for c in half)
        if not fits or not 0.0 <= margin < math.inf:
            raise DataError(
                f"half_m = {half}, margin_m = {margin}",
                where="BoxCollider",
                expected="three half edges > 0 and a margin >= 0, finite, metres",
                fix="give half of each edge; a thin plate still has a thickness",
            )
        object.__setattr__(self, "half_m", half)
        object.__setattr__(self, "margin_m", margin)


@wp.func
def coulomb_scale(
    normal_speed: float, tangent_speed: float, restitution: float, friction: float
) -> float:
    """What is left of the tangential velocity after an impact: 0 sticks, 1 slides freely."""
    return wp.max(
        0.0, 1.0 - friction * (1.0 + restitution) * normal_speed / wp.max(tangent_speed, 1.0e-6)
    )


@wp.func
def ground_response(
    x: wp.vec3,
    v: wp.vec3,
    normal: wp.vec3,
    offset: float,
    restitution: float,
    friction: float,
    h: float,
) -> tuple[wp.vec3, wp.vec3]:
    """Position and velocity after one substep near a plane.

    Args:
        x: position at the start [m].
        v: velocity during the substep, before contact [m/s].
        normal: unit normal of the plane.
        offset: distance of the plane from the origin along the normal [m].
        restitution: 0 to 1.
        friction: Coulomb coefficient.
        h: length of the substep [s].

    Returns:
        Position [m] and velocity [m/s] at the end.
    """
    height = wp.dot(normal, x) - offset
    vn = wp.dot(normal, v)
    v_new = v
    x_new = x + v * h
    if height + vn * h < 0.0:
        if vn < 0.0:
            vt = v - vn * normal
            speed = wp.sqrt(wp.dot(vt, vt) + 1.0e-12)
            v_new = (
                coulomb_scale(-vn, speed, restitution, friction) * vt - (restitution * vn) * normal
            )
            toi = wp.clamp(-height / vn, 0.0, h)
            x_new = x + v * toi + v_new * (h - toi)
        depth = wp.dot(normal, x_new) - offset
        if depth < 0.0:
            x_new = x_new - depth * normal
    return x_new, v_new


@wp.func
def factor_response(
    x: wp.vec3, v: wp.vec3, normal: wp.vec3, offset: float, factor: float, h: float
) -> tuple[wp.vec3, wp.vec3]:
    """Position and velocity after one substep near Spring-Gaus's ground.

    Zhong et al., ECCV 2024, as their code has it: what ends on the plane or under it is put on it,
    loses its normal velocity, and keeps a share of its tangential one.

    Args:
        x: position at the start [m].
        v: velocity during the substep, before contact [m/s].
        normal: unit normal of the plane.
        offset: distance of the plane from the origin along the normal [m].
        factor: share of the tangential velocity that is kept, 0 to 1.
        h: length of the substep [s].

    Returns:
        Position [m] and velocity [m/s] at the end.
    """
    x_new = x + v * h
    v_new = v
    height = wp.dot(normal, x_new) - offset
    if height <= 0.0:
        x_new = x_new - height * normal
        v_new = factor * (v - wp.dot(normal, v) * normal)
    return x_new, v_new


@wp.func
def pair_velocity_change(
    gap: wp.vec3, approach: wp.vec3, distance: float, restitution: float, friction: float
) -> wp.vec3:
    """Change of the relative velocity of two nodes that collide; zero where they do not.

    Args:
        gap: position of the second node minus the first [m].
        approach: velocity of the second node minus the first [m/s].
        distance: contact distance [m].
        restitution: 0 to 1.
        friction: Coulomb coefficient.

    Returns:
        Change of ``approach`` [m/s].
    """
    change = wp.vec3(0.0, 0.0, 0.0)
    length = wp.length(gap)
    if length < distance and length > 1.0e-9:
        n = gap / length
        un = wp.dot(approach, n)
        if un < 0.0:
            ut = approach - un * n
            speed = wp.sqrt(wp.dot(ut, ut) + 1.0e-12)
            keep = coulomb_scale(-un, speed, restitution, friction)
            change = (keep - 1.0) * ut - ((1.0 + restitution) * un) * n
    return change


@wp.func
def _box_distance(p: wp.vec3, half: wp.vec3, margin: float) -> tuple[float, wp.vec3]:
    """Signed distance and normal in the box's frame; the margin's value where p is far off."""
    sign = wp.vec3(
        wp.where(p[0] < 0.0, -1.0, 1.0),
        wp.where(p[1] < 0.0, -1.0, 1.0),
        wp.where(p[2] < 0.0, -1.0, 1.0),
    )
    q = wp.cw_mul(sign, p) - half
    deepest = wp.max(q[0], wp.max(q[1], q[2]))
    distance = wp.max(deepest - margin, 0.0)
    normal = wp.vec3(0.0, 0.0, sign[2])
    if deepest < margin:
        if deepest > 0.0:  # outside: the nearest face, edge or corner
            s = wp.vec3(wp.max(q[0], 0.0), wp.max(q[1], 0.0), wp.max(q[2], 0.0))
            length = wp.sqrt(wp.max(wp.dot(s, s), 1.0e-30))
            distance = length - margin
            normal = wp.cw_mul(sign, s) / length
        else:  # inside: the nearest face
            distance = deepest - margin
            if q[0] == deepest:
                normal = wp.vec3(sign[0], 0.0, 0.0)
            elif q[1] == deepest:
                normal = wp.vec3(0.0, sign[1], 0.0)
    return distance, normal


@wp.func
def box_response(
    x: wp.vec3,
    v: wp.vec3,
    centre: wp.vec3,
    rotation: wp.mat33,
    velocity: wp.vec3,
    spin: wp.vec3,
    half: wp.vec3,
    margin: float,
    restitution: float,
    friction: float,
    h: float,
) -> tuple[wp.vec3, wp.vec3]:
    """Start position and velocity with which a free substep ends as contact with the box makes it.

    The impulse is the ground's, in the motion relative to the box's surface. The start is moved
    instead of the end, so that the ground can have its turn afterwards.

    Args:
        x: position at the start of the substep [m].
        v: velocity during the substep, before contact [m/s].
        centre: centre of the box at the end of the substep [m].
        rotation: from the box's frame to the world's, at the end of the substep.
        velocity: of the centre [m/s].
        spin: angular velocity of the box in the world's frame [rad/s].
        half: half the edge lengths [m].
        margin: distance that nodes keep [m].
        restitution: 0 to 1.
        friction: Coulomb coefficient.
        h: length of the substep [s].

    Returns:
        x' [m] and v' [m/s]; the substep ends at x' + h v'.
    """
    r = x + v * h - centre
    distance, local = _box_distance(wp.transpose(rotation) * r, half, margin)
    x_new = x
    v_new = v
    if distance < 0.0:
        n = rotation * local
        slip = v - velocity - wp.cross(spin, r)
        vn = wp.dot(slip, n)
        if vn < 0.0:
            vt = slip - vn * n
            speed = wp.sqrt(wp.dot(vt, vt) + 1.0e-12)
            keep = coulomb_scale(-vn, speed, restitution, friction)
            change = (keep - 1.0) * vt - ((1.0 + restitution) * vn) * n
            # How long the impact is over at the end of the substep.
            left = wp.clamp(distance / vn, 0.0, h)
            push = wp.max(left * (1.0 + restitution) * vn - distance, 0.0)
            x_new = x - (h - left) * change + push * n
            v_new = v + change
        else:
            x_new = x - distance * n
    return x_new, v_new
