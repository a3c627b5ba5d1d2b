"""The rod written for reading: one function per idea, one thread per world; also the CUDA path.

`physgym.sim.rod.native` computes the same numbers fast on CPU. Every entry of ``Motion`` and
``Work`` is written once in a substep, so Warp's adjoint of the kernel is right
(`physgym.sim.rod.gradient`). Edge j joins nodes j and j+1; interior node i joins edges i-1
("before") and i ("after"). Turning angles are pairs along both material directors, as 2 tan(phi/2).

B1 is Bergou et al. 2008, "Discrete elastic rods"; B2 is Bergou et al. 2010, "Discrete viscous
threads".
"""

from __future__ import annotations

import warp as wp

__all__ = ["Motion", "Rod", "Work", "rod_frames_kernel"]

# The largest roll of an edge in a substep [rad]; reached only by a rod far from equilibrium.
_ROLL_LIMIT = wp.constant(0.2)


@wp.struct
class Rod:
    """Constants of all worlds; the first axis is the world."""

    clamp_first: int
    clamp_last: int
    driven_slot: wp.array(dtype=int)  # place of a node in the driven array, -1 where free, (N,)
    clamp_tangent: wp.array2d(dtype=wp.vec3)  # (B, 2)
    clamp_director: wp.array2d(dtype=wp.vec3)  # (B, 2)
    bending: wp.array2d(dtype=float)  # EI over Voronoi length of each node [N m], (B, N)
    rest_angle: wp.array2d(dtype=wp.vec2)  # (B, N)
    rest_length: wp.array2d(dtype=float)  # [m], (B, N-1)
    inv_mass: wp.array2d(dtype=float)  # [1/kg], (B, N)
    twist_stiffness: wp.array(dtype=float)  # GJ [N m^2], (B,)
    bending_damping: wp.array(dtype=float)  # Kelvin-Voigt time [s], (B,)
    drag: wp.array(dtype=float)  # [1/s], (B,)
    drag_quadratic: wp.array(dtype=float)  # [1/m], (B,)
    stretch_stiffness: wp.array(dtype=float)  # EA [N], (B,)
    stretch_damping: wp.array(dtype=float)  # Kelvin-Voigt time [s], (B,)
    friction_ratio: wp.array(dtype=float)  # (B,)
    friction_yield: wp.array(dtype=float)  # [rad], (B,)
    end_roll: wp.array(dtype=float)  # [rad], (B,)


@wp.struct
class Motion:
    """All that changes, at several times: (B, times, N) or, for edges, (B, times, N-1)."""

    x: wp.array3d(dtype=wp.vec3)  # [m]
    v: wp.array3d(dtype=wp.vec3)  # [m/s]
    director: wp.array3d(dtype=wp.vec3)  # first material director of each edge
    tangent: wp.array3d(dtype=wp.vec3)  # the unit tangent that the director belongs to
    angle: wp.array3d(dtype=wp.vec2)  # turning angles after the last roll
    slider: wp.array3d(dtype=wp.vec2)  # turning angles at which the friction is relaxed
    rolled: wp.array3d(dtype=wp.vec2)  # what the last roll added to the turning angles


@wp.struct
class Work:
    """What a substep computes on its way: (B, times, N) or, for edges, (B, times, N-1)."""

    carried: wp.array3d(dtype=wp.vec3)  # director after transport, before the roll
    stretching: wp.array3d(dtype=wp.vec3)  # dE/d(edge) of stretching [N]
    pull_before: wp.array3d(dtype=wp.vec3)  # dE/d(edge before) of bending and twist [N]
    pull_after: wp.array3d(dtype=wp.vec3)
    lever_before: wp.array3d(dtype=wp.vec2)  # -d(turning angles)/d(roll of the edge before)
    lever_after: wp.array3d(dtype=wp.vec2)
    torque: wp.array3d(dtype=wp.vec2)  # on the roll of the edge before, after [N m]
    stiffness: wp.array3d(dtype=wp.vec3)  # of roll: before-before, after-after, before-after
    total: wp.array3d(dtype=wp.vec3)  # dE/d(edge) [N]
    angle: wp.array3d(dtype=wp.vec2)  # turning angles before the roll
    diagonal: wp.array3d(dtype=float)  # of the roll's Newton system [N m]
    unbalanced: wp.array3d(dtype=float)  # its right side [N m]
    pivot: wp.array3d(dtype=float)  # diagonal after elimination
    reduced: wp.array3d(dtype=float)  # right side after elimination
    roll: wp.array3d(dtype=float)  # [rad]


@wp.func
def transport(director: wp.vec3, start: wp.vec3, end: wp.vec3):
    """Turn a director by the least rotation from one tangent to another (B1, section 4.2.2).

    One Newton step of 1/sqrt pulls it back to unit length.
    """
    turned = director - wp.dot(director, end) / (1.0 + wp.dot(start, end)) * (start + end)
    return turned * (1.5 - 0.5 * wp.dot(turned, turned))


@wp.func
def held_director(rod: Rod, b: int, end: int, tangent: wp.vec3):
    """The director that a clamp (0 first, 1 last) gives its edge, from the edge's direction."""
    director = transport(rod.clamp_director[b, end], rod.clamp_tangent[b, end], tangent)
    across = wp.cross(tangent, director)
    angle = float(end) * rod.end_roll[b]
    return director * wp.cos(angle) + across * wp.sin(angle)


@wp.func
def curvature_binormal(before: wp.vec3, after: wp.vec3):
    """2 tan(phi/2) about the axis of the turn between two edges (B1, equation 1)."""
    return 2.0 * wp.cross(before, after) / (1.0 + wp.dot(before, after))


@wp.func
def turning_angles(binormal: wp.vec3, director_sum: wp.vec3, across_sum: wp.vec3):
    """The turn along both mean directors (B2, the material curvatures)."""
    return wp.vec2(0.5 * wp.dot(binormal, across_sum), -0.5 * wp.dot(binormal, director_sum))


@wp.func
def twist_angle(director_before: wp.vec3, before: wp.vec3, director_after: wp.vec3, after: wp.vec3):
    """Twist psi between two edges as 2 tan(psi/2): the angle left after parallel transport."""
    chi = 1.0 + wp.dot(before, after)
    moved = director_before - wp.dot(director_before, after) / chi * (before + after)
    sine = -wp.dot(moved, wp.cross(after, director_after))
    return 2.0 * sine / (1.0 + wp.dot(moved, director_after))


@wp.func
def elastic_slip(angle: wp.vec2, slider: wp.vec2, slip: float):
    """Strand friction: a spring on a slider that follows when the spring exceeds its yield."""
    stuck = angle - slider
    if wp.dot(stuck, stuck) > slip * slip:
        stuck = stuck * (slip / (wp.length(stuck) + 1.0e-9))
    return stuck


@wp.func
def drag_velocity(v: wp.vec3, linear: float, quadratic: float, dt: float):
    """Velocity after a substep of air drag, implicit: v / (1 + dt (c1 + c2 |v|))."""
    return v / (1.0 + dt * (linear + quadratic * wp.length(v)))


@wp.func
def edge_stage(b: int, k: int, now: int, after: int, j: int, rod: Rod, motion: Motion, work: Work):
    """Tangent, carried director and stretching of edge j; k, now, after: slots of the arrays."""
    edge = motion.x[k, now, j + 1] - motion.x[k, now, j]
    length = wp.length(edge)
    tangent = edge / length
    last = rod.rest_length.shape[1] - 1
    if j == 0 and rod.clamp_first == 1:
        work.carried[k, now, j] = held_director(rod, b, 0, tangent)
    elif j == last and rod.clamp_last == 1:
        work.carried[k, now, j] = held_director(rod, b, 1, tangent)
    else:
        work.carried[k, now, j] = transport(
            motion.director[k, now, j], motion.tangent[k, now, j], tangent
        )
    motion.tangent[k, after, j] = tangent
    # Kelvin-Voigt: EA (strain + tau dstrain/dt).
    strain = length / rod.rest_length[b, j] - 1.0
    velocity = motion.v[k, now, j + 1] - motion.v[k, now, j]
    rate = wp.dot(velocity, tangent) / rod.rest_length[b, j]
    tension = rod.stretch_stiffness[b] * (strain + rod.stretch_damping[b] * rate)
    work.stretching[k, now, j] = tangent * tension


@wp.func
def node_stage(
    b: int,
    k: int,
    now: int,
    after: int,
    i: int,
    dt: float,
    rod: Rod,
    motion: Motion,
    work: Work,
):
    """Bending and twist at interior node i: gradients to both edges, and what rolls them."""
    t0 = motion.tangent[k, after, i - 1]
    t1 = motion.tangent[k, after, i]
    d0 = work.carried[k, now, i - 1]
    d1 = work.carried[k, now, i]
    a0 = wp.cross(t0, d0)
    a1 = wp.cross(t1, d1)
    inv_chi = 1.0 / (1.0 + wp.dot(t0, t1))
    binormal = curvature_binormal(t0, t1)
    angle = turning_angles(binormal, d0 + d1, a0 + a1)
    psi = twist_angle(d0, t0, d1, t1)

    # Moments. EI (kappa - kappa_rest + tau dkappa/dt) + friction; ``static`` leaves out the rate of
    # the last roll, because the roll's own step is implicit in the damping.
    bending = rod.bending[b, i]
    damping = rod.bending_damping[b] / dt
    stuck = elastic_slip(angle, motion.slider[k, now, i], rod.friction_yield[b])
    motion.slider[k, after, i] = angle - stuck
    strain = angle - rod.rest_angle[b, i] + damping * (angle - motion.angle[k, now, i])
    static = bending * (strain + rod.friction_ratio[b] * stuck)
    moment = static + bending * damping * motion.rolled[k, now, i]
    twisting = rod.twist_stiffness[b] * 2.0 / (rod.rest_length[b, i - 1] + rod.rest_length[b, i])
    twist_moment = (
        twisting * psi * (1.0 + 0.25 * psi * psi)
    )  # dE/dpsi of E = GJ/l (2 tan psi/2)^2/2

    # Gradients of the turning angles and of the twist to the edge vectors (B2, appendix).
    along = (t0 + t1) * (inv_chi * wp.dot(angle, moment))
    bent = ((a0 + a1) * moment[0] - (d0 + d1) * moment[1]) * inv_chi
    spin = binormal * (0.5 * twist_moment)
    length0 = wp.length(motion.x[k, now, i] - motion.x[k, now, i - 1])
    length1 = wp.length(motion.x[k, now, i + 1] - motion.x[k, now, i])
    work.pull_before[k, now, i] = (wp.cross(t1, bent) - along + spin) / length0
    work.pull_after[k, now, i] = (spin - wp.cross(t0, bent) - along) / length1

    # Rolling an edge by an angle takes lever * angle off the turning angles.
    lever0 = 0.5 * wp.vec2(wp.dot(binormal, d0), wp.dot(binormal, a0))
    lever1 = 0.5 * wp.vec2(wp.dot(binormal, d1), wp.dot(binormal, a1))
    work.lever_before[k, now, i] = lever0
    work.lever_after[k, now, i] = lever1
    work.torque[k, now, i] = wp.vec2(
        wp.dot(static, lever0) + twist_moment, wp.dot(static, lever1) - twist_moment
    )
    stiff = bending * (1.0 + rod.friction_ratio[b] + damping)
    work.stiffness[k, now, i] = wp.vec3(
        twisting + stiff * wp.dot(lever0, lever0),
        twisting + stiff * wp.dot(lever1, lever1),
        stiff * wp.dot(lever0, lever1) - twisting,
    )
    work.angle[k, now, i] = angle


@wp.func
def gather_stage(k: int, now: int, j: int, edges: int, work: Work):
    """Sum over the nodes of edge j: dE/d(edge), and row j of the roll's Newton system."""
    total = work.stretching[k, now, j]
    diagonal = float(0.0)
    torque = float(0.0)
    if j > 0:
        total += work.pull_after[k, now, j]
        diagonal += work.stiffness[k, now, j][1]
        torque += work.torque[k, now, j][1]
    if j < edges - 1:
        total += work.pull_before[k, now, j + 1]
        diagonal += work.stiffness[k, now, j + 1][0]
        torque += work.torque[k, now, j + 1][0]
    work.total[k, now, j] = total
    work.diagonal[k, now, j] = diagonal
    work.unbalanced[k, now, j] = torque


@wp.func
def roll_stage(b: int, k: int, now: int, first: int, last: int, rod: Rod, work: Work):
    """One Newton step towards the quasi-static roll of edges first..last (Thomas' algorithm)."""
    edges = rod.rest_length.shape[1]
    slowed = float(0.0)
    if first == 0 and last == edges - 1:
        # Without a clamp a straight rod does not resist being rolled as a whole.
        slowed = 1.0e-3 * rod.twist_stiffness[b] / rod.rest_length[b, 0]
    for j in range(edges):
        if j > first and j <= last:
            side = work.stiffness[k, now, j][2]
            below = side / work.pivot[k, now, j - 1]
            work.pivot[k, now, j] = work.diagonal[k, now, j] - below * side
            work.reduced[k, now, j] = (
                work.unbalanced[k, now, j] - below * work.reduced[k, now, j - 1]
            )
        else:  # the first free edge, and those that do not roll
            work.pivot[k, now, j] = work.diagonal[k, now, j] + slowed
            work.reduced[k, now, j] = work.unbalanced[k, now, j]
    for back in range(edges):
        j = edges - 1 - back
        if j < first or j > last:
            work.roll[k, now, j] = 0.0
        else:
            right = work.reduced[k, now, j]
            if j < last:
                right = right - work.stiffness[k, now, j + 1][2] * work.roll[k, now, j + 1]
            work.roll[k, now, j] = wp.clamp(
                right / work.pivot[k, now, j], -_ROLL_LIMIT, _ROLL_LIMIT
            )


@wp.func
def remember_edge(k: int, now: int, after: int, j: int, motion: Motion, work: Work):
    """The director of edge j after its roll (a small turn; unit length returns in `transport`)."""
    director = work.carried[k, now, j]
    across = wp.cross(motion.tangent[k, after, j], director)
    motion.director[k, after, j] = director + across * work.roll[k, now, j]


@wp.func
def remember_node(k: int, now: int, after: int, i: int, motion: Motion, work: Work):
    """The turning angles of node i after the rolls of both edges."""
    rolled = -(
        work.lever_before[k, now, i] * work.roll[k, now, i - 1]
        + work.lever_after[k, now, i] * work.roll[k, now, i]
    )
    motion.rolled[k, after, i] = rolled
    motion.angle[k, after, i] = work.angle[k, now, i] + rolled


@wp.func
def move_stage(
    b: int,
    k: int,
    now: int,
    after: int,
    i: int,
    dt: float,
    gravity: wp.vec3,
    rod: Rod,
    motion: Motion,
    work: Work,
):
    """Symplectic Euler of a free node: velocity, drag, then position."""
    force = wp.vec3()
    if i > 0:
        force = force - work.total[k, now, i - 1]
    if i < rod.rest_length.shape[1]:
        force = force + work.total[k, now, i]
    v = motion.v[k, now, i] + dt * (rod.inv_mass[b, i] * force + gravity)
    v = drag_velocity(v, rod.drag[b], rod.drag_quadratic[b], dt)
    motion.v[k, after, i] = v
    motion.x[k, after, i] = motion.x[k, now, i] + dt * v


@wp.func
def copy_motion(source: Motion, b: int, at: int, target: Motion, k: int, slot: int, nodes: int):
    """Copy all but the positions of one world and one time."""
    for i in range(nodes):
        target.v[k, slot, i] = source.v[b, at, i]
        target.angle[k, slot, i] = source.angle[b, at, i]
        target.slider[k, slot, i] = source.slider[b, at, i]
        target.rolled[k, slot, i] = source.rolled[b, at, i]
        if i < nodes - 1:
            target.director[k, slot, i] = source.director[b, at, i]
            target.tangent[k, slot, i] = source.tangent[b, at, i]


@wp.kernel
def rod_frames_kernel(
    first_world: int,
    first_frame: int,
    frames: int,
    substeps: int,
    dt: float,
    gravity: wp.vec3,
    rod: Rod,
    driven: wp.array3d(dtype=wp.vec3),  # (B, T, K)
    saved: Motion,
    motion: Motion,
    work: Work,
):
    """Advance one world from frame ``first_frame`` of ``saved`` by ``frames`` frames.

    The slots of ``motion`` and ``work`` are reused in turn: two are enough for the forward run,
    the adjoint needs one per substep and one more. ``saved.x`` keeps every frame; where the other
    arrays of ``saved`` have fewer slots, the last one holds the newest.
    """
    k = wp.tid()
    b = first_world + k
    nodes = rod.inv_mass.shape[1]
    edges = nodes - 1
    slots = motion.x.shape[1]
    first_free = rod.clamp_first  # edges whose roll is free: all but the clamped ones
    last_free = edges - 1 - rod.clamp_last

    for i in range(nodes):
        motion.x[k, 0, i] = saved.x[b, first_frame, i]
    copy_motion(saved, b, first_frame, motion, k, 0, nodes)
    for step in range(frames * substeps):
        frame = first_frame + step // substeps
        part = step % substeps
        now = step % slots
        after = (step + 1) % slots
        for j in range(edges):
            edge_stage(b, k, now, after, j, rod, motion, work)
        for i in range(1, edges):
            node_stage(b, k, now, after, i, dt, rod, motion, work)
        for j in range(edges):
            gather_stage(k, now, j, edges, work)
        roll_stage(b, k, now, first_free, last_free, rod, work)
        for j in range(edges):
            remember_edge(k, now, after, j, motion, work)
        for i in range(1, edges):
            remember_node(k, now, after, i, motion, work)
        for i in range(nodes):
            slot = rod.driven_slot[i]
            if slot < 0:
                move_stage(b, k, now, after, i, dt, gravity, rod, motion, work)
            else:
                start = driven[b, frame, slot]
                end = driven[b, frame + 1, slot]
                weight = float(part + 1) / float(substeps)
                motion.v[k, after, i] = (end - start) / (dt * float(substeps))
                motion.x[k, after, i] = start * (1.0 - weight) + end * weight
        if part == substeps - 1:
            for i in range(nodes):
                saved.x[b, frame + 1, i] = motion.x[k, after, i]
            newest = wp.min(frame + 1, saved.v.shape[1] - 1)
            copy_motion(motion, k, after, saved, b, newest, nodes)
