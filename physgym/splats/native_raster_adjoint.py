"""SIMD body of the gradient of the blending, front to back with a running remainder.

Nothing is kept per pixel but the sums: with v_i the gradient of the loss along Gaussian i's
channels at a pixel and w_i its weight, the remainder sum_{j>i} w_j v_j is the total less what was
passed. Each slot gets a record of its own, so that no two threads add to one number.
"""

from __future__ import annotations

from functools import cache

from physgym.splats.native_call import NativeBody
from physgym.splats.native_common import COMMON
from physgym.splats.native_raster import BLEND, LISTS

__all__ = ["raster_adjoint_body"]

# A record: sums of d loss / d ln alpha times 1, dx, dy, dx^2, dx dy, dy^2; then of the channels.
_ADJOINT = """
    constexpr int LINE = (6 + CHANNELS + W - 1) / W * W;
    for (int tile = first_tile; tile < last_tile; ++tile) {
        const int tx = tile % tiles_x, ty = tile / tiles_x, stop = tile_start[tile + 1];
        const size_t corner = (size_t)ty * 16 * tiles_x * 16 + tx * 16;
        vf T[16], slope[CHANNELS + 1][16], rest[16];   // slope: of the loss along each channel
        open_tile(tile, T);
        for (int y = 0; y < 16; ++y) {
            rest[y] = (vf)0.0f;
            for (int k = 0; k <= CHANNELS; ++k) {
                const size_t at = k * plane + corner + y * tiles_x * 16;
                slope[k][y] = ld(grad_planes + at);
                rest[y] = fma(slope[k][y], ld(planes + at), rest[y]);
            }
        }
        const vf px = LANE + (tx * 16.0f + 0.5f);
        int e = tile_start[tile];
        for (; e < stop; ++e) {
            if ((e & 7) == 7 && all_over(T)) break;
            const unsigned code = (unsigned)entry[e];
            const float* r = sorted + (size_t)(code >> 8) * W;
            prefetch(e, stop);
            if (e + 6 < stop) __builtin_prefetch(slot_grad + (size_t)entry_slot[e + 6] * LINE, 1);
            const vf dx = px - r[MX];
            const vf square = fma(dx * r[QA], dx, (vf)r[LOG2_OPACITY]), mixed = dx * r[QB];
            float dy = ty * 16.0f + (code & 15) + 0.5f - r[MY];
            const float qc = r[QC];
            vf value[CHANNELS], got[CHANNELS];
#pragma unroll
            for (int k = 0; k < 4; ++k) value[k] = (vf)r[RED + k];
#pragma unroll
            for (int k = 0; k < FEATURES; ++k) value[4 + k] = (vf)extra[(code >> 8) * FEATURES + k];
#pragma unroll
            for (int k = 0; k < CHANNELS; ++k) got[k] = (vf)0.0f;
            vf one = (vf)0.0f, along = (vf)0.0f, twice = (vf)0.0f;
            const int last = code >> 4 & 15;
            for (int y = code & 15; y <= last; ++y, dy += 1.0f) {
                const vf exponent = fma((vf)dy, mixed + qc * dy, square);
                const Row o = row_of(exponent, T[y]);
                vf v = slope[CHANNELS][y];                 // alpha: a channel that is 1
#pragma unroll
                for (int k = 0; k < CHANNELS; ++k) {
                    v = fma(slope[k][y], value[k], v);
                    got[k] = fma(o.weight, slope[k][y], got[k]);
                }
                rest[y] = fma(-o.weight, v, rest[y]);
                // d loss / d alpha = T v - rest / (1 - alpha); times alpha
                vf g = fma(o.weight, v, -rest[y] * o.alpha / (1.0f - o.alpha));
                g = (o.blend & (o.alpha < MOST)) ? g : (vf)0.0f;
                T[y] = o.pass;
                const vf gy = g * dy;
                one += g; along += gy; twice = fma(gy, (vf)dy, twice);
            }
            vf line[LINE];
#pragma unroll
            for (int k = 0; k < LINE; ++k) line[k] = (vf)0.0f;
            line[0] = one; line[1] = one * dx; line[2] = along;
            line[3] = line[1] * dx; line[4] = along * dx; line[5] = twice;
#pragma unroll
            for (int k = 0; k < CHANNELS; ++k) line[6 + k] = got[k];
            float* out = slot_grad + (size_t)entry_slot[e] * LINE;
#pragma unroll
            for (int k = 0; k < LINE; k += W) st(out + k, lane_sums(line + k));
        }
        for (; e < stop; ++e) {
            float* out = slot_grad + (size_t)entry_slot[e] * LINE;
            for (int k = 0; k < LINE; k += W) st(out + k, (vf)0.0f);
        }
    }
"""


@cache
def raster_adjoint_body(features: int) -> NativeBody:
    """The body that turns gradients of the planes into a record per slot.

    Args:
        features: as of `native_raster.raster_body`.

    Returns:
        The body.
    """
    return NativeBody(
        COMMON + BLEND.replace("@FEATURES@", str(features)) + _ADJOINT,
        floats=("sorted", "extra", "planes", "grad_planes", "slot_grad"),
        ints=(*LISTS, "entry_slot"),
        counts=("tiles_x", "tiles_y", "width", "height", "first_tile", "last_tile"),
    )
