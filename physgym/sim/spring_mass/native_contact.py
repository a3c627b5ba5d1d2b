"""Self-collision of one world on CPU: candidate pairs from a uniform grid, impulses pair by pair.

The list holds every pair within contact distance plus a skin and is made anew as soon as a node has
moved half the skin, so no contact is missed however long a frame is. Impulses are taken from one
set of velocities (Jacobi), each divided by the larger contact count of its two nodes: equal and
opposite. The reference is `kernels.pair_impulses`.
"""

from __future__ import annotations

import numpy as np
import torch

from physgym.sim.contact import SelfCollision

__all__ = ["CONTACT", "contact_room", "contact_scalars"]

CONTACT = """
    const bool collide = ci.data[11];
    const int CAP = ci.data[12], MOST = ci.data[13], CELLS = ci.data[14];
    const float reach = cf.data[10], half_skin = cf.data[11], touch = cf.data[12];
    const float pair_e = cf.data[13], pair_mu = cf.data[14];
    int* cell_start = iwork.data;           // CELLS + 1
    int* sorted = cell_start + CELLS + 1;   // nodes by cell
    int* count = sorted + N;                // candidates, then contacts, of each node
    int* pair = count + N;                  // CAP pairs, lower node first
    int* active = pair + 2 * (size_t)CAP;   // pairs in contact
    float* built = fwork.data;              // positions at the last build
    float* change = built + 3 * (size_t)N;  // change of relative velocity of each contact
    int pairs = -1;
    auto excluded = [&](int i, int j) -> bool {
        int low = excluded_start.data[i], high = excluded_start.data[i + 1];
        while (low < high) {
            const int middle = (low + high) / 2;
            if (excluded_node.data[middle] < j) low = middle + 1; else high = middle;
        }
        return low < excluded_start.data[i + 1] && excluded_node.data[low] == j;
    };
    auto build = [&](const float* state) -> bool {
        float lo[3], hi[3];
        for (int a = 0; a < 3; ++a) { lo[a] = hi[a] = state[a]; }
        for (int i = 0; i < N; ++i) for (int a = 0; a < 3; ++a) {
            const float x = state[(size_t)i * 8 + a];
            built[(size_t)i * 3 + a] = x;
            lo[a] = x < lo[a] ? x : lo[a]; hi[a] = x > hi[a] ? x : hi[a];
        }
        float cell = reach;
        int dim[3];
        for (;;) {  // wide scenes get wider cells rather than more of them
            double total = 1.0;
            for (int a = 0; a < 3; ++a) total *= (double)((hi[a] - lo[a]) / cell) + 1.0;
            if (total <= CELLS) break;
            cell *= 1.3f;
        }
        for (int a = 0; a < 3; ++a) dim[a] = (int)((hi[a] - lo[a]) / cell) + 1;
        const int cells = dim[0] * dim[1] * dim[2];
        auto at = [&](int i, int a) -> int {
            int c = (int)((built[(size_t)i * 3 + a] - lo[a]) / cell);
            return c < dim[a] ? c : dim[a] - 1;
        };
        auto cell_of = [&](int i) -> int {
            return (at(i, 0) * dim[1] + at(i, 1)) * dim[2] + at(i, 2);
        };
        for (int c = 0; c <= cells; ++c) cell_start[c] = 0;
        for (int i = 0; i < N; ++i) { ++cell_start[cell_of(i)]; count[i] = 0; }
        for (int c = 0, sum = 0; c <= cells; ++c) { sum += cell_start[c]; cell_start[c] = sum; }
        for (int i = N - 1; i >= 0; --i) sorted[--cell_start[cell_of(i)]] = i;
        pairs = 0;
        for (int i = 0; i < N; ++i) {
            const float* p = built + (size_t)i * 3;
            const int ix = at(i, 0), iy = at(i, 1), iz = at(i, 2);
            for (int cx = ix > 0 ? ix - 1 : 0; cx <= ix + 1 && cx < dim[0]; ++cx)
            for (int cy = iy > 0 ? iy - 1 : 0; cy <= iy + 1 && cy < dim[1]; ++cy)
            for (int cz = iz > 0 ? iz - 1 : 0; cz <= iz + 1 && cz < dim[2]; ++cz) {
                const int c = (cx * dim[1] + cy) * dim[2] + cz;
                for (int k = cell_start[c]; k < cell_start[c + 1]; ++k) {
                    const int j = sorted[k];
                    if (j <= i) continue;
                    const float* q = built + (size_t)j * 3;
                    const float x = q[0] - p[0], y = q[1] - p[1], z = q[2] - p[2];
                    if (x * x + y * y + z * z >= reach * reach || excluded(i, j)) continue;
                    ++count[i]; ++count[j];
                    if (pairs < CAP) { pair[2 * pairs] = i; pair[2 * pairs + 1] = j; }
                    ++pairs;
                }
            }
        }
        int worst = 0;
        for (int i = 1; i < N; ++i) if (count[i] > count[worst]) worst = i;
        if (count[worst] <= MOST) return true;
        status.data[0] = 2; status.data[2] = worst; status.data[3] = count[worst];
        return false;
    };
    // the state holds positions before the substep and velocities before contact
    auto impulses = [&](float* state) -> bool {
        float farthest = 0.0f;
        if (pairs >= 0) for (int i = 0; i < N; ++i) {
            const float* p = state + (size_t)i * 8;
            const float* b = built + (size_t)i * 3;
            const float x = p[0] - b[0], y = p[1] - b[1], z = p[2] - b[2];
            const float d = x * x + y * y + z * z;
            farthest = d > farthest ? d : farthest;
        }
        if ((pairs < 0 || farthest > half_skin * half_skin) && !build(state)) return false;
        int contacts = 0;
        for (int i = 0; i < N; ++i) count[i] = 0;
        for (int k = 0; k < pairs; ++k) {
            const float* p = state + (size_t)pair[2 * k] * 8;
            const float* q = state + (size_t)pair[2 * k + 1] * 8;
            const float gx = q[0] - p[0], gy = q[1] - p[1], gz = q[2] - p[2];
            const float d2 = gx * gx + gy * gy + gz * gz;
            if (d2 >= touch * touch || d2 <= 1.0e-18f) continue;
            const float ux = q[4] - p[4], uy = q[5] - p[5], uz = q[6] - p[6];
            const float length = __builtin_sqrtf(d2);
            const float nx1 = gx / length, ny1 = gy / length, nz1 = gz / length;
            const float un = ux * nx1 + uy * ny1 + uz * nz1;
            if (un >= 0.0f) continue;
            const float tx = ux - un * nx1, ty = uy - un * ny1, tz = uz - un * nz1;
            float speed = __builtin_sqrtf(tx * tx + ty * ty + tz * tz + 1.0e-12f);
            speed = speed > 1.0e-6f ? speed : 1.0e-6f;
            float keep = 1.0f + pair_mu * (1.0f + pair_e) * un / speed;
            keep = keep > 0.0f ? keep - 1.0f : -1.0f;
            const float back = -(1.0f + pair_e) * un;
            float* c = change + 3 * (size_t)contacts;
            c[0] = keep * tx + back * nx1; c[1] = keep * ty + back * ny1;
            c[2] = keep * tz + back * nz1;
            ++count[pair[2 * k]]; ++count[pair[2 * k + 1]];
            active[contacts++] = k;
        }
        for (int k = 0; k < contacts; ++k) {
            const int i = pair[2 * active[k]], j = pair[2 * active[k] + 1];
            const float mi = inv_mass.data[i], mj = inv_mass.data[j];
            const float sum = mi + mj > 1.0e-12f ? mi + mj : 1.0e-12f;
            const int larger = count[i] > count[j] ? count[i] : count[j];
            const float fi = mi / sum / (float)larger, fj = mj / sum / (float)larger;
            float* p = state + (size_t)i * 8 + 4;
            float* q = state + (size_t)j * 8 + 4;
            for (int a = 0; a < 3; ++a) {
                p[a] -= change[3 * k + a] * fi; q[a] += change[3 * k + a] * fj;
            }
        }
        return true;
    };
"""


def contact_room(nodes: int, collision: SelfCollision | None) -> dict[str, int]:
    """Sizes that the body needs.

    Args:
        nodes: N.
        collision: settings; None makes everything small.

    Returns:
        ``pairs`` (room for pairs), ``cells`` (most grid cells), ``ints`` and ``floats`` of memory.
    """
    if collision is None:
        return {"pairs": 0, "cells": 0, "ints": 1, "floats": 1}
    pairs, cells = nodes * collision.max_neighbours // 2 + 1, max(512, 8 * nodes)
    return {
        "pairs": pairs,
        "cells": cells,
        "ints": cells + 1 + 2 * nodes + 3 * pairs,
        "floats": 3 * nodes + 3 * pairs,
    }


def contact_scalars(nodes: int, collision: SelfCollision | None) -> tuple[np.ndarray, torch.Tensor]:
    """Scalars that the body appends to ``ci`` and ``cf``.

    Args:
        nodes: N.
        collision: settings, or None for off.

    Returns:
        Four ints and five floats.
    """
    if collision is None:
        return np.zeros(4, dtype=np.int32), torch.zeros(5)
    room = contact_room(nodes, collision)
    d = collision.distance_m
    floats = [d * (1.0 + collision.skin), 0.5 * collision.skin * d, d]
    return (
        np.array([1, room["pairs"], collision.max_neighbours, room["cells"]], dtype=np.int32),
        torch.tensor([*floats, collision.restitution, collision.friction]),
    )
