// Maximum over 2x2 windows, stride 2; an odd last row or column is dropped. Equal to backend/cpu/max_pool.rs to the
// bit.
//
// x, dx: (N, H, W, C); y, dy: (N, H/2, W/2, C); choices: the shape of y, one byte: which of the window's four elements,
// in row-major order, is the maximum. Of equal ones it is the first; NaN counts as the largest.
#include "common.cuh"

struct Best {
    float value;
    unsigned char choice;
    __device__ __forceinline__ void meet(float other, unsigned char index) {
        const bool better = other > value || (is_nan(other) && !is_nan(value));
        value = better ? other : value;
        choice = better ? index : choice;
    }
};

__device__ __forceinline__ Best best_of(float a, float b, float c, float d) {
    Best best{a, 0};
    best.meet(b, 1);
    best.meet(c, 2);
    best.meet(d, 3);
    return best;
}

// Where window `item / lanes` begins; lane is item % lanes. Windows are `across` a row and `down` an image.
struct Window {
    unsigned lane, column, row;
    u64 image;
};

__device__ __forceinline__ Window window_of(u64 item, unsigned lanes, unsigned across, unsigned down) {
    const Quotient lane = divide(item, lanes);
    const Quotient column = divide(lane.quotient, across);
    const Quotient row = divide(column.quotient, down);
    return {lane.remainder, column.remainder, row.remainder, row.quotient};
}

// y = max of the window, and which element it is.
// Reads 16 bytes, writes 5 per element of y (an odd last row or column is not read). Overwrites y and choices.
// Launched by max_pool_forward in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void max_pool_forward(const float* __restrict__ x,
                                                                     float* __restrict__ y,
                                                                     unsigned char* __restrict__ choices,
                                                                     u64 batch, unsigned height, unsigned width,
                                                                     unsigned channels) {
    const unsigned down = height / 2, across = width / 2;
    const u64 windows = batch * down * across;
    if (channels % 4 == 0 && aligned16(x, y, choices)) {
        const unsigned lanes = channels / 4;
        GRID_STRIDE_LOOP(i, windows * lanes) {
            const Window at = window_of(i, lanes, across, down);
            const u64 upper = ((at.image * height + 2 * at.row) * width + 2 * at.column) * lanes + at.lane;
            const u64 lower = upper + static_cast<u64>(width) * lanes;
            const float4 a = load4(x, upper), b = load4(x, upper + lanes);
            const float4 c = load4(x, lower), d = load4(x, lower + lanes);
            const Best p = best_of(a.x, b.x, c.x, d.x), q = best_of(a.y, b.y, c.y, d.y);
            const Best r = best_of(a.z, b.z, c.z, d.z), s = best_of(a.w, b.w, c.w, d.w);
            store4(y, i, make_float4(p.value, q.value, r.value, s.value));
            reinterpret_cast<uchar4*>(choices)[i] = make_uchar4(p.choice, q.choice, r.choice, s.choice);
        }
        return;
    }
    GRID_STRIDE_LOOP(i, windows * channels) {
        const Window at = window_of(i, channels, across, down);
        const u64 upper = ((at.image * height + 2 * at.row) * width + 2 * at.column) * channels + at.lane;
        const u64 lower = upper + static_cast<u64>(width) * channels;
        const Best best = best_of(x[upper], x[upper + channels], x[lower], x[lower + channels]);
        y[i] = best.value;
        choices[i] = best.choice;
    }
}

// dx = dy at the chosen elements, 0 elsewhere; where y is given, 0 also where y is not positive (the mask of the ReLU
// before the pooling).
// One thread per window (and channels), so that everything is read once: 5 bytes per element of dy (9 with a mask),
// 4 written per element of dx, the odd last row and column among them. y may be null. Overwrites dx.
// Launched by max_pool_backward in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void max_pool_backward(const float* __restrict__ dy,
                                                                      const unsigned char* __restrict__ choices,
                                                                      const float* __restrict__ y,
                                                                      float* __restrict__ dx, u64 batch,
                                                                      unsigned height, unsigned width,
                                                                      unsigned channels) {
    const unsigned down = height / 2, across = width / 2;
    const unsigned all_down = down + height % 2, all_across = across + width % 2;
    const u64 windows = batch * all_down * all_across;
    if (channels % 4 == 0 && aligned16(dy, choices, y, dx)) {
        const unsigned lanes = channels / 4;
        GRID_STRIDE_LOOP(i, windows * lanes) {
            const Window at = window_of(i, lanes, all_across, all_down);
            float4 d = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            uchar4 choice = make_uchar4(0, 0, 0, 0);
            if (at.row < down && at.column < across) {
                const u64 from = ((at.image * down + at.row) * across + at.column) * lanes + at.lane;
                d = load4(dy, from);
                choice = reinterpret_cast<const uchar4*>(choices)[from];
                if (y) {
                    const float4 m = load4(y, from);
                    d = make_float4(where_positive(m.x, d.x), where_positive(m.y, d.y), where_positive(m.z, d.z),
                                    where_positive(m.w, d.w));
                }
            }
            const u64 to = ((at.image * height + 2 * at.row) * width + 2 * at.column) * lanes + at.lane;
            for (unsigned e = 0; e < 4; ++e) {
                const unsigned row = e / 2, column = e % 2;
                if (2 * at.row + row < height && 2 * at.column + column < width) {
                    store4(dx, to + (static_cast<u64>(row) * width + column) * lanes,
                           make_float4(choice.x == e ? d.x : 0.0f, choice.y == e ? d.y : 0.0f,
                                       choice.z == e ? d.z : 0.0f, choice.w == e ? d.w : 0.0f));
                }
            }
        }
        return;
    }
    GRID_STRIDE_LOOP(i, windows * channels) {
        const Window at = window_of(i, channels, all_across, all_down);
        float d = 0.0f;
        unsigned choice = 0;
        if (at.row < down && at.column < across) {
            const u64 from = ((at.image * down + at.row) * across + at.column) * channels + at.lane;
            d = y ? where_positive(y[from], dy[from]) : dy[from];
            choice = choices[from];
        }
        const u64 to = ((at.image * height + 2 * at.row) * width + 2 * at.column) * channels + at.lane;
        for (unsigned e = 0; e < 4; ++e) {
            const unsigned row = e / 2, column = e % 2;
            if (2 * at.row + row < height && 2 * at.column + column < width) {
                dx[to + (static_cast<u64>(row) * width + column) * channels] = choice == e ? d : 0.0f;
            }
        }
    }
}
