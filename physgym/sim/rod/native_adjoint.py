"""The rod's adjoint for CPU: 16 worlds in the lanes of one vector, a whole rollout in one call.

Forward it keeps the state at every frame; backward it runs a frame again, keeps what every substep
computed, and goes back through it by hand. `physgym.sim.rod.kernels` is the same rod written for
reading, and Warp's adjoint of it the reference that a test compares this with.
"""

from __future__ import annotations

import warp as wp

from physgym.sim.rod.adjoint_source import BACKWARD, FORWARD, SETUP

__all__ = ["ADJOINT_FLOATS", "KEPT_FLOATS", "STATE_FLOATS", "rod_adjoint_kernel"]

# Floats per node and lane of a state (position, velocity, director, tangent, memory), of what a
# substep keeps besides, and of the adjoints on their way.
STATE_FLOATS = 18
KEPT_FLOATS = 25
ADJOINT_FLOATS = 28

_RUN = r"""
auto copy = [&](V* to, const V* from) { for (int k = 0; k < state_size; ++k) to[k] = from[k]; };
auto edge_at = [&](int s) { return (Edge*)(edges + (long long)s * edge_size); };
auto node_at = [&](int s) { return (Node*)(nodes + (long long)s * node_size); };
if (!adjoint) {
  for (int frame = 0; frame < frames; ++frame) {
    const V3* d0 = driven + (long long)frame * driven_count;
    copy(states, saved + (long long)frame * state_size);
    for (int s = 0; s < substeps; ++s) {
      forward(state_at(states), state_at(states + state_size), edge_at(0), node_at(0),
              d0, d0 + driven_count, s);
      copy(states, states + state_size);
    }
    copy(saved + (long long)(frame + 1) * state_size, states);
  }
} else {
  for (int frame = frames - 1; frame >= 0; --frame) {
    const V3* d0 = driven + (long long)frame * driven_count;
    V3* d0_ = driven_ + (long long)frame * driven_count;
    copy(states, saved + (long long)frame * state_size);
    for (int s = 0; s < substeps; ++s)
      forward(state_at(states + (long long)s * state_size),
              state_at(states + (long long)(s + 1) * state_size), edge_at(s), node_at(s),
              d0, d0 + driven_count, s);
    State z = state_at(saved_adj + (long long)(frame + 1) * state_size);
    for (int s = substeps - 1; s >= 0; --s)
      backward(state_at(states + (long long)s * state_size), edge_at(s), node_at(s), z,
               d0, d0 + driven_count, d0_, d0_ + driven_count, s);
    V* before = saved_adj + (long long)frame * state_size;
    const V* made = saved_adj + (long long)(frame + 1) * state_size;
    for (int k = 0; k < state_size; ++k) before[k] += made[k];
  }
}
#undef INL
"""


@wp.func_native(SETUP + FORWARD + BACKWARD + _RUN)
def _adjoint_group(
    group: int,
    node_count: int,
    clamp_first: int,
    clamp_last: int,
    given_saved: wp.array(dtype=float),
    given_clamp_tangent: wp.array(dtype=float),
    given_clamp_director: wp.array(dtype=float),
    given_bend: wp.array(dtype=float),
    given_rest: wp.array(dtype=float),
    given_inv_mass: wp.array(dtype=float),
    given_scalar: wp.array(dtype=float),
    given_driven: wp.array(dtype=float),
    adjoint_saved: wp.array(dtype=float),
    adjoint_clamp_tangent: wp.array(dtype=float),
    adjoint_clamp_director: wp.array(dtype=float),
    adjoint_bend: wp.array(dtype=float),
    adjoint_rest: wp.array(dtype=float),
    adjoint_inv_mass: wp.array(dtype=float),
    adjoint_scalar: wp.array(dtype=float),
    adjoint_driven: wp.array(dtype=float),
    given_scratch: wp.array(dtype=float),
    given_driven_slot: wp.array(dtype=int),
    driven_count: int,
    frames: int,
    substeps: int,
    dt: float,
    gx: float,
    gy: float,
    gz: float,
    adjoint: int,
) -> None: ...


@wp.kernel(enable_backward=False)
def rod_adjoint_kernel(
    first_group: int,
    node_count: int,
    clamp_first: int,
    clamp_last: int,
    given_saved: wp.array(dtype=float),
    given_clamp_tangent: wp.array(dtype=float),
    given_clamp_director: wp.array(dtype=float),
    given_bend: wp.array(dtype=float),
    given_rest: wp.array(dtype=float),
    given_inv_mass: wp.array(dtype=float),
    given_scalar: wp.array(dtype=float),
    given_driven: wp.array(dtype=float),
    adjoint_saved: wp.array(dtype=float),
    adjoint_clamp_tangent: wp.array(dtype=float),
    adjoint_clamp_director: wp.array(dtype=float),
    adjoint_bend: wp.array(dtype=float),
    adjoint_rest: wp.array(dtype=float),
    adjoint_inv_mass: wp.array(dtype=float),
    adjoint_scalar: wp.array(dtype=float),
    adjoint_driven: wp.array(dtype=float),
    given_scratch: wp.array(dtype=float),
    given_driven_slot: wp.array(dtype=int),
    driven_count: int,
    frames: int,
    substeps: int,
    dt: float,
    gx: float,
    gy: float,
    gz: float,
    adjoint: int,
) -> None:
    """Run group ``first_group`` + thread through all frames, forward or (``adjoint``) back.

    Forward fills ``given_saved`` from its frame 0. Backward turns ``adjoint_saved`` from adjoints
    of the saved frames into that of frame 0 and adds to the other adjoints. One launch runs its
    groups one after the other, so they share the scratch.
    """
    _adjoint_group(
        first_group + wp.tid(), node_count, clamp_first, clamp_last, given_saved,
        given_clamp_tangent, given_clamp_director, given_bend, given_rest, given_inv_mass,
        given_scalar, given_driven, adjoint_saved, adjoint_clamp_tangent,
        adjoint_clamp_director, adjoint_bend, adjoint_rest, adjoint_inv_mass,
        adjoint_scalar, adjoint_driven, given_scratch, given_driven_slot, driven_count,
        frames, substeps, dt, gx, gy, gz, adjoint,
    )  # fmt: skip
