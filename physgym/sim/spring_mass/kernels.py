"""The spring-mass step as plain Warp kernels: the reference, and what runs on CUDA.

One substep is: spring forces; velocity from forces, gravity and drag; impulses between nodes (if
on); box colliders, one after the other (if any); position and ground. Driven nodes are written to
where they are at the next substep's forces.
Shapes: B worlds, N nodes, S springs, K driven points, R = 2 S row entries, M candidates of a node.
The ends of a directed model's springs are springs of their own here, S first ones, S second ones.
Parameters with a first axis of length 1 are shared by all worlds.
"""

from __future__ import annotations

import warp as wp

from physgym.sim.contact import (
    box_response,
    factor_response,
    ground_response,
    pair_velocity_change,
)

__all__ = [
    "box_contact",
    "collect_candidates",
    "count_contacts",
    "pair_impulses",
    "place_driven",
    "position_step",
    "spring_forces",
    "velocity_step",
]

MIN_LENGTH_M = wp.constant(1.0e-6)
SPEED_LIMIT_M_PER_S = wp.constant(1.0e5)


@wp.func
def _elastic(u: float, coefficient: float, rest: float, kind: int, exponent: float) -> float:
    """Elastic force along the spring for the elongation u; see `force_law`."""
    force = coefficient * u
    if kind == 1:
        force = force * wp.pow(1.0 + wp.abs(u) / rest, exponent)
    if kind == 2:
        # Linear below a micrometre: the power law's slope is unbounded at rest for p < 1.
        force = force * wp.pow(wp.max(wp.abs(u), 1.0e-6), exponent - 1.0)
    return force


@wp.func
def _driven_position(c0: wp.vec3, c1: wp.vec3, weight: float) -> wp.vec3:
    """Linear path of a driven point, exact at its end."""
    return c1 - (1.0 - weight) * (c1 - c0)


@wp.kernel
def place_driven(
    # State in:
    x_in: wp.array2d(dtype=wp.vec3),
    v_in: wp.array2d(dtype=wp.vec3),
    # Model:
    driven_slot: wp.array(dtype=int),
    # Control:
    driven_from: wp.array2d(dtype=wp.vec3),
    driven_to: wp.array2d(dtype=wp.vec3),
    weight: float,
    inv_frame: float,
    # State out:
    x_out: wp.array2d(dtype=wp.vec3),
    v_out: wp.array2d(dtype=wp.vec3),
):
    """Copy the state and put driven nodes on their path; ``inv_frame`` 0 gives them no velocity."""
    b, i = wp.tid()
    slot = driven_slot[i]
    if slot >= 0:
        c0 = driven_from[b, slot]
        c1 = driven_to[b, slot]
        x_out[b, i] = _driven_position(c0, c1, weight)
        v_out[b, i] = (c1 - c0) * inv_frame
    else:
        x_out[b, i] = x_in[b, i]
        v_out[b, i] = v_in[b, i]


@wp.kernel
def spring_forces(
    # State in:
    x_in: wp.array2d(dtype=wp.vec3),
    v_in: wp.array2d(dtype=wp.vec3),
    # Model:
    row_start: wp.array(dtype=int),
    row_node: wp.array(dtype=int),
    row_spring: wp.array(dtype=int),
    stiffness: wp.array2d(dtype=float),
    rest: wp.array2d(dtype=float),
    dashpot: wp.array2d(dtype=float),
    kind: int,
    exponent: float,
    # Out:
    force_out: wp.array2d(dtype=wp.vec3),
):
    """Gather the forces of a node's own springs.

    Apart from `velocity_step` because Warp's reverse pass does not know a sum made in a loop once
    the loop is over: what multiplies the sum would get no gradient.
    """
    b, i = wp.tid()
    wa = wp.min(b, stiffness.shape[0] - 1)
    wr = wp.min(b, rest.shape[0] - 1)
    wd = wp.min(b, dashpot.shape[0] - 1)
    xi = x_in[b, i]
    vi = v_in[b, i]
    force = wp.vec3(0.0, 0.0, 0.0)
    for r in range(row_start[i], row_start[i + 1]):
        j = row_node[r]
        s = row_spring[r]
        gap = x_in[b, j] - xi
        length = wp.sqrt(wp.max(wp.dot(gap, gap), MIN_LENGTH_M * MIN_LENGTH_M))
        along = gap / length
        size = _elastic(length - rest[wr, s], stiffness[wa, s], rest[wr, s], kind, exponent)
        size += dashpot[wd, wp.min(s, dashpot.shape[1] - 1)] * wp.dot(v_in[b, j] - vi, along)
        force += size * along
    force_out[b, i] = force


@wp.kernel
def velocity_step(
    # State in:
    v_in: wp.array2d(dtype=wp.vec3),
    force: wp.array2d(dtype=wp.vec3),
    # Model:
    inv_mass: wp.array2d(dtype=float),
    decay: wp.array(dtype=float),
    gravity: wp.vec3,
    h: float,
    # State out:
    v_out: wp.array2d(dtype=wp.vec3),
):
    """Change velocity: v' = (v + h (F/m + g)) exp(-h c); a driven node keeps that of its path."""
    b, i = wp.tid()
    v = v_in[b, i]
    im = inv_mass[wp.min(b, inv_mass.shape[0] - 1), i]
    if im == 0.0:
        v_out[b, i] = v
    else:
        v_new = v + (h * im) * force[b, i] + h * gravity
        v_out[b, i] = v_new * decay[wp.min(b, decay.shape[0] - 1)]


@wp.kernel
def box_contact(
    # State in:
    x_in: wp.array2d(dtype=wp.vec3),
    v_in: wp.array2d(dtype=wp.vec3),
    # Model:
    driven_slot: wp.array(dtype=int),
    restitution: wp.array(dtype=float),
    friction: wp.array(dtype=float),
    half: wp.vec3,
    margin: float,
    h: float,
    # Control:
    pose_from: wp.array3d(dtype=float),
    pose_to: wp.array3d(dtype=float),
    collider: int,
    weight: float,
    inv_frame: float,
    # State out:
    x_out: wp.array2d(dtype=wp.vec3),
    v_out: wp.array2d(dtype=wp.vec3),
):
    """Contact with one box; see `contact.box_response` for what the outputs mean."""
    b, i = wp.tid()
    x = x_in[b, i]
    v = v_in[b, i]
    x_new = x
    v_new = v
    if driven_slot[i] < 0:
        w = wp.min(b, pose_to.shape[0] - 1)
        c = collider
        c0 = wp.vec3(pose_from[w, c, 0], pose_from[w, c, 1], pose_from[w, c, 2])
        c1 = wp.vec3(pose_to[w, c, 0], pose_to[w, c, 1], pose_to[w, c, 2])
        a0 = pose_from[w, c, 3]
        a = wp.vec3(pose_from[w, c, 4], pose_from[w, c, 5], pose_from[w, c, 6])
        b0 = pose_to[w, c, 3]
        bv = wp.vec3(pose_to[w, c, 4], pose_to[w, c, 5], pose_to[w, c, 6])
        # The quaternion goes straight from a to b; dividing by its square normalises it.
        q0 = b0 - (1.0 - weight) * (b0 - a0)
        q = _driven_position(a, bv, weight)
        square = q0 * q0 + wp.dot(q, q)
        spin = (2.0 * inv_frame / square) * (a0 * bv - b0 * a + wp.cross(a, bv))
        turn = (q0 * q0 - wp.dot(q, q)) * wp.identity(n=3, dtype=float)
        turn = (turn + 2.0 * wp.outer(q, q) + 2.0 * q0 * wp.skew(q)) / square
        x_new, v_new = box_response(
            x,
            v,
            _driven_position(c0, c1, weight),
            turn,
            (c1 - c0) * inv_frame,
            spin,
            half,
            margin,
            restitution[wp.min(b, restitution.shape[0] - 1)],
            friction[wp.min(b, friction.shape[0] - 1)],
            h,
        )
    x_out[b, i] = x_new
    v_out[b, i] = v_new


@wp.kernel
def position_step(
    # State in:
    x_in: wp.array2d(dtype=wp.vec3),
    v_in: wp.array2d(dtype=wp.vec3),
    # Model:
    driven_slot: wp.array(dtype=int),
    restitution: wp.array(dtype=float),
    friction: wp.array(dtype=float),
    ground: int,
    normal: wp.vec3,
    offset: float,
    h: float,
    # Control:
    driven_from: wp.array2d(dtype=wp.vec3),
    driven_to: wp.array2d(dtype=wp.vec3),
    next_weight: float,
    inv_frame: float,
    first_bad: wp.array(dtype=wp.int64),
    bad_key: wp.int64,
    # State out:
    x_out: wp.array2d(dtype=wp.vec3),
    v_out: wp.array2d(dtype=wp.vec3),
):
    """Move, meet the ground, put driven nodes where the next forces need them, watch for
    blow-up."""
    b, i = wp.tid()
    slot = driven_slot[i]
    x = x_in[b, i]
    v = v_in[b, i]
    if slot >= 0:
        c0 = driven_from[b, slot]
        c1 = driven_to[b, slot]
        x_out[b, i] = _driven_position(c0, c1, next_weight)
        v_out[b, i] = (c1 - c0) * inv_frame
    else:
        x_new = x + v * h
        v_new = v
        if ground == 2:
            x_new, v_new = factor_response(
                x, v, normal, offset, friction[wp.min(b, friction.shape[0] - 1)], h
            )
        elif ground == 1:
            x_new, v_new = ground_response(
                x,
                v,
                normal,
                offset,
                restitution[wp.min(b, restitution.shape[0] - 1)],
                friction[wp.min(b, friction.shape[0] - 1)],
                h,
            )
        x_out[b, i] = x_new
        v_out[b, i] = v_new
        if not (wp.dot(v_new, v_new) < SPEED_LIMIT_M_PER_S * SPEED_LIMIT_M_PER_S):
            wp.atomic_min(first_bad, b, bad_key + wp.int64(i))


@wp.kernel(enable_backward=False)
def collect_candidates(
    x: wp.array2d(dtype=wp.vec3),
    world: int,
    grid: wp.uint64,
    reach: float,
    excluded_start: wp.array(dtype=int),
    excluded_node: wp.array(dtype=int),
    candidate: wp.array3d(dtype=int),
    candidate_count: wp.array2d(dtype=int),
):
    """List the nodes within reach of each node; the count goes on beyond the room, to be
    reported."""
    i = wp.tid()
    xi = x[world, i]
    found = int(0)
    for j in wp.hash_grid_query(grid, xi, reach):
        if j != i and wp.length(x[world, j] - xi) < reach:
            low = excluded_start[i]
            high = excluded_start[i + 1]
            while low < high:
                middle = (low + high) // 2
                if excluded_node[middle] < j:
                    low = middle + 1
                else:
                    high = middle
            if low == excluded_start[i + 1] or excluded_node[low] != j:
                if found < candidate.shape[2]:
                    candidate[world, i, found] = j
                found += 1
    candidate_count[world, i] = found


@wp.kernel(enable_backward=False)
def count_contacts(
    x: wp.array2d(dtype=wp.vec3),
    v: wp.array2d(dtype=wp.vec3),
    candidate: wp.array3d(dtype=int),
    candidate_count: wp.array2d(dtype=int),
    distance: float,
    contacts: wp.array2d(dtype=int),
):
    """Count the approaching nodes within the contact distance."""
    b, i = wp.tid()
    total = int(0)
    for k in range(wp.min(candidate_count[b, i], candidate.shape[2])):
        j = candidate[b, i, k]
        gap = x[b, j] - x[b, i]
        if wp.length(gap) < distance and wp.dot(gap, v[b, j] - v[b, i]) < 0.0:
            total += 1
    contacts[b, i] = total


@wp.kernel
def pair_impulses(
    # State in:
    x: wp.array2d(dtype=wp.vec3),
    v_in: wp.array2d(dtype=wp.vec3),
    # Model:
    inv_mass: wp.array2d(dtype=float),
    candidate: wp.array3d(dtype=int),
    candidate_count: wp.array2d(dtype=int),
    contacts: wp.array2d(dtype=int),
    distance: float,
    restitution: float,
    friction: float,
    # State out:
    v_out: wp.array2d(dtype=wp.vec3),
):
    """Apply the impulses of all contacts of a node, each divided by the larger contact count."""
    b, i = wp.tid()
    wm = wp.min(b, inv_mass.shape[0] - 1)
    xi = x[b, i]
    vi = v_in[b, i]
    total = wp.vec3(0.0, 0.0, 0.0)
    for k in range(wp.min(candidate_count[b, i], candidate.shape[2])):
        j = candidate[b, i, k]
        change = pair_velocity_change(
            x[b, j] - xi, v_in[b, j] - vi, distance, restitution, friction
        )
        share = inv_mass[wm, i] / wp.max(inv_mass[wm, i] + inv_mass[wm, j], 1.0e-12)
        total -= change * share / float(wp.max(1, wp.max(contacts[b, i], contacts[b, j])))
    v_out[b, i] = vi + total
