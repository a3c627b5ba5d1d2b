"""SIMD body that blends tiles of 16 x 16 pixels, front to back; the readable form is `plain`.

Gaussians in the outer loop, rows of the tile in the inner one: sixteen pixels are one vector.
"""

from __future__ import annotations

from functools import cache

from physgym.splats.native_call import NativeBody
from physgym.splats.native_common import COMMON

__all__ = ["BLEND", "LISTS", "feature_room", "raster_body"]

LISTS = ("tile_start", "entry")

# What forward and backward do alike, to the bit. T is the light that still passes; it turns
# negative where the next Gaussian would leave 1e-4 or less, which ends the pixel.
BLEND = """
    constexpr int FEATURES = @FEATURES@, CHANNELS = 4 + FEATURES;
    constexpr float MOST = 0.999f;         // alpha at most
    const size_t plane = (size_t)tiles_x * 16 * tiles_y * 16;
    struct Row { vf alpha, weight, pass; vi blend; };
    auto open_tile = [&](int tile, vf* T) INLINE {   // pixels outside the image are over
        const float x0 = (tile % tiles_x) * 16.0f, y0 = (tile / tiles_x) * 16.0f;
        for (int y = 0; y < 16; ++y)
            T[y] = LANE + x0 < (y0 + y < height ? (float)width : 0.0f) ? (vf)1.0f : (vf)-1.0f;
    };
    auto prefetch = [&](int e, int stop) INLINE {    // records lie scattered in the second cache
        if (e + 6 < stop) __builtin_prefetch(sorted + ((unsigned)entry[e + 6] >> 8) * (size_t)W);
    };
    auto all_over = [&](const vf* T) INLINE -> bool {
        vf best = T[0];
#pragma unroll
        for (int y = 1; y < 16; ++y) best = vmax(best, T[y]);
        return !any(best > 0.0f);
    };
    // Where the exponent is far below zero alpha may be anything, and is not looked at.
    auto row_of = [&](vf exponent, vf T) INLINE -> Row {
        Row o;
        o.alpha = vmin(vexp2(exponent), (vf)MOST);
        const vf w = o.alpha * T, left = T - w;
        const vi shown = exponent >= -LOG2_255, stays = left > 1.0e-4f;
        o.blend = shown & stays;
        o.weight = o.blend ? w : (vf)0.0f;
        o.pass = shown ? (stays ? left : -vabs(T)) : T;
        return o;
    };
"""

_RASTER = """
    for (int tile = first_tile; tile < last_tile; ++tile) {
        vf T[16], sum[CHANNELS][16];
        open_tile(tile, T);
        for (int k = 0; k < CHANNELS; ++k) for (int y = 0; y < 16; ++y) sum[k][y] = (vf)0.0f;
        const int tx = tile % tiles_x, ty = tile / tiles_x, stop = tile_start[tile + 1];
        const vf px = LANE + (tx * 16.0f + 0.5f);
        for (int e = tile_start[tile]; e < stop; ++e) {
            if ((e & 7) == 7 && all_over(T)) break;
            const unsigned code = (unsigned)entry[e];
            const float* r = sorted + (size_t)(code >> 8) * W;
            prefetch(e, stop);
            const vf dx = px - r[MX];
            const vf square = fma(dx * r[QA], dx, (vf)r[LOG2_OPACITY]), mixed = dx * r[QB];
            float dy = ty * 16.0f + (code & 15) + 0.5f - r[MY];
            const float qc = r[QC];
            vf value[CHANNELS];
#pragma unroll
            for (int k = 0; k < 4; ++k) value[k] = (vf)r[RED + k];
#pragma unroll
            for (int k = 0; k < FEATURES; ++k) value[4 + k] = (vf)extra[(code >> 8) * FEATURES + k];
            const int last = code >> 4 & 15;
            for (int y = code & 15; y <= last; ++y, dy += 1.0f) {
                const Row o = row_of(fma((vf)dy, mixed + qc * dy, square), T[y]);
                T[y] = o.pass;
#pragma unroll
                for (int k = 0; k < CHANNELS; ++k) sum[k][y] = fma(o.weight, value[k], sum[k][y]);
            }
        }
        float* out = planes + (size_t)ty * 16 * tiles_x * 16 + tx * 16;
        for (int y = 0; y < 16; ++y) {
            for (int k = 0; k < CHANNELS; ++k) st(out + k * plane + y * tiles_x * 16, sum[k][y]);
            st(out + CHANNELS * plane + y * tiles_x * 16, 1.0f - vabs(T[y]));
        }
    }
"""


def feature_room(features: int) -> int:
    """Channels that a body is compiled for: each one more would be another compilation.

    Args:
        features: wanted.

    Returns:
        The same or more.
    """
    return next(room for room in (0, 2, 4, 8, 16, 32) if room >= features)


@cache
def raster_body(features: int) -> NativeBody:
    """The body that blends.

    Args:
        features: channels beside colour and depth, one of `feature_room`.

    Returns:
        The body; it writes red, green, blue, depth, the features and alpha, each a padded plane.
    """
    return NativeBody(
        COMMON + BLEND.replace("@FEATURES@", str(features)) + _RASTER,
        floats=("sorted", "extra", "planes"),
        ints=LISTS,
        counts=("tiles_x", "tiles_y", "width", "height", "first_tile", "last_tile"),
    )
