"""Native body that sorts Gaussians by depth and lists, tile by tile, those that touch it.

A slot is a pair of a Gaussian and a tile that it reaches with alpha >= 1/255. Slots are counted
Gaussian by Gaussian, so that gradients of one Gaussian lie side by side.
"""

from __future__ import annotations

from functools import cache

from physgym.splats.native_call import NativeBody
from physgym.splats.native_common import COMMON

__all__ = ["bin_body", "bin_work"]

_BIN = """
    unsigned long long* from = (unsigned long long*)work;    // depth less the least, Gaussian
    unsigned long long* to = from + gaussian_count;
    constexpr int DIGIT = 12, BINS = 1 << DIGIT;
    int least = 0x7fffffff, most = 0, seen = 0, histogram[3][BINS];
    for (int g = 0; g < gaussian_count; ++g) {
        const int k = key[g];
        slot_span[2 * g] = slot_span[2 * g + 1] = 0;
        if (k < 0) continue;
        least = k < least ? k : least;
        most = k > most ? k : most;
        from[seen++] = (unsigned long long)k << 32 | (unsigned)g;
    }
    __builtin_memset(histogram, 0, sizeof(histogram));
    for (int k = 0; k < seen; ++k) {
        from[k] -= (unsigned long long)least << 32;
        for (int digit = 0; digit < 3; ++digit)
            ++histogram[digit][from[k] >> (32 + DIGIT * digit) & (BINS - 1)];
    }
    for (int digit = 0; digit < 3 && (most - least) >> (DIGIT * digit); ++digit) {
        int* count = histogram[digit];                       // stable: ties stay in their order
        const int shift = 32 + DIGIT * digit;
        for (int k = 0, sum = 0; k < BINS; ++k) {
            const int n = count[k];
            count[k] = sum;
            sum += n;
        }
        for (int k = 0; k < seen; ++k) to[count[from[k] >> shift & (BINS - 1)]++] = from[k];
        unsigned long long* other = from; from = to; to = other;
    }
    const int tiles = tiles_x * tiles_y;
    __builtin_memset(tile_start, 0, (size_t)(tiles + 1) * sizeof(int));
    int slots = 0;
    for (int rank = 0; rank < seen; ++rank) {
        const int g = (int)(from[rank] & 0xffffffffu);
        if (rank + 8 < seen)
            __builtin_prefetch(record + (from[rank + 8] & 0xffffffffu) * W);
        const vf line = ld(record + (size_t)g * W);
        st(sorted + (size_t)rank * W, line);
        order[rank] = g;
        const int first_slot = slots;
        const float* r = sorted + (size_t)rank * W;
        const float rx = r[REACH_X], ry = r[REACH_Y], mx = r[MX] - 0.5f, my = r[MY] - 0.5f;
        // Rounding may not cut off a pixel; one that is too much is masked later.
        const float slack = 1.0e-3f + 1.0e-4f * ry;
        auto down = [](float a) INLINE -> int { return (int)__builtin_floorf(a); };
        auto up = [](float a) INLINE -> int { return (int)__builtin_ceilf(a); };
        auto clamp = [](float a, float lo, float hi) INLINE -> float {
            a = a < lo ? lo : a;
            return a > hi ? hi : a;
        };
        const int first = up(clamp(mx - rx - slack, 0.0f, (float)width));
        const int last = down(clamp(mx + rx + slack, -1.0f, (float)(width - 1)));
        if (first > last) continue;
        // the ellipse alpha = 1/255: y = tilt x +- half sqrt(1 - (x / rx)^2), highest at x = top
        const float tilt = -0.5f * r[QB] / r[QC], inv_rx = 1.0f / rx;
        const float half = __builtin_sqrtf(r[LEVEL] * (-0.5f * LOG2E) / r[QC]);
        const float top = -0.5f * r[QB] / r[QA] * ry;
        for (int tx = first >> 4; tx <= last >> 4; ++tx) {
            const float left = clamp(tx * 16.0f - mx, -rx, rx);
            const float right = clamp(tx * 16.0f + 15.0f - mx, -rx, rx);
            const float xh = clamp(top, left, right), xl = clamp(-top, left, right);
            const float uh = xh * inv_rx, ul = xl * inv_rx;
            const float yh = tilt * xh + half * __builtin_sqrtf(clamp(1.0f - uh * uh, 0.0f, 1.0f));
            const float yl = tilt * xl - half * __builtin_sqrtf(clamp(1.0f - ul * ul, 0.0f, 1.0f));
            const int y0 = up(clamp(my + yl - slack, 0.0f, (float)height));
            const int y1 = down(clamp(my + yh + slack, -1.0f, (float)(height - 1)));
            // Nearly all columns have one tile or two: both are written, the count says what holds,
            // because a branch that nobody can foretell takes longer.
            const int top_tile = y0 >> 4, tiles_down = y0 > y1 ? 0 : (y1 >> 4) - top_tile + 1;
            auto put = [&](int k) INLINE {
                const int a = k ? 0 : y0 & 15, b = k + 1 < tiles_down ? 15 : y1 & 15;
                slot_tile[slots + k] = (top_tile + k) * tiles_x + tx;
                slot_code[slots + k] = (int)((unsigned)rank << 8 | b << 4 | a);
            };
            if (slots + 2 <= capacity) { put(0); put(1); }
            for (int k = 2; k < tiles_down && slots + k < capacity; ++k) put(k);
            slots += tiles_down;
        }
        slot_span[2 * g] = first_slot;
        slot_span[2 * g + 1] = slots;
    }
    status[0] = seen; status[1] = slots;
    if (slots + 2 > capacity) return;
    for (int s = 0; s < slots; ++s) ++tile_start[slot_tile[s] + 1];
    int* next = (int*)work;                                  // the sort is over
    for (int k = 0; k < tiles; ++k) {
        next[k] = tile_start[k];
        tile_start[k + 1] += tile_start[k];
    }
    for (int s = 0; s < slots; ++s) {
        const int place = next[slot_tile[s]]++;
        entry[place] = slot_code[s];
        entry_slot[place] = s;
    }
"""


def bin_work(gaussians: int, tiles: int) -> int:
    """Integers of working memory.

    Args:
        gaussians: G.
        tiles: of the image.

    Returns:
        Number of integers.
    """
    return max(4 * gaussians, tiles) + 2


@cache
def bin_body() -> NativeBody:
    """The body that sorts and lists, of less than 2^24 Gaussians.

    Returns:
        The body. ``status`` becomes (Gaussians in view, slots); unless ``capacity`` is at least two
        more, the lists are not made. ``slot_span`` is a Gaussian's first slot and the one after its
        last. An entry of a tile is rank << 8 | last row << 4 | first row.
    """
    return NativeBody(
        COMMON + _BIN,
        floats=("record", "sorted"),
        ints=(
            "key", "order", "slot_span", "tile_start", "slot_tile", "slot_code", "entry",
            "entry_slot", "work", "status",
        ),
        counts=("gaussian_count", "tiles_x", "tiles_y", "width", "height", "capacity"),
    )  # fmt: skip
