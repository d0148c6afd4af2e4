// Maximum over 2x2 windows, stride 2; an odd last row or column is dropped. Of f32 equal to
// backend/cpu/max_pool.rs to the bit.
//
// x, dx: (N, H, W, C); y, dy: (N, H/2, W/2, C); choices: the shape of y, one byte: which of the window's four elements,
// in row-major order, is the maximum. Of equal ones it is the first; NaN counts as the largest.
#include "element.cuh"

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

// The choices of pack i of y.
template <unsigned N>
struct Choices {
    unsigned char at[N];
};

template <unsigned N>
__device__ __forceinline__ Choices<N> load_choices(const unsigned char* choices, u64 i) {
    Choices<N> pack;
    for (unsigned quad = 0; quad < N / 4; ++quad) {
        const uchar4 v = reinterpret_cast<const uchar4*>(choices)[i * (N / 4) + quad];
        pack.at[4 * quad] = v.x;
        pack.at[4 * quad + 1] = v.y;
        pack.at[4 * quad + 2] = v.z;
        pack.at[4 * quad + 3] = v.w;
    }
    return pack;
}

template <unsigned N>
__device__ __forceinline__ void store_choices(unsigned char* choices, u64 i, const Choices<N>& pack) {
    for (unsigned quad = 0; quad < N / 4; ++quad) {
        const unsigned char* v = pack.at + 4 * quad;
        reinterpret_cast<uchar4*>(choices)[i * (N / 4) + quad] = make_uchar4(v[0], v[1], v[2], v[3]);
    }
}

// y = max of the window, and which element it is.
// Reads 4E bytes, writes E + 1 per element of y (an odd last row or column is not read). Overwrites y and choices.
// Launched by max_pool_forward in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void max_pool_forward_body(const T* x, T* y, unsigned char* choices, u64 batch,
                                                      unsigned height, unsigned width, unsigned channels) {
    constexpr unsigned N = WIDTH<T>;
    const unsigned down = height / 2, across = width / 2;
    const u64 windows = batch * down * across;
    if (channels % N == 0 && aligned<N>(x, y, choices)) {
        const unsigned lanes = channels / N;
        GRID_STRIDE_LOOP(i, windows * lanes) {
            const Window at = window_of(i, lanes, across, down);
            const u64 upper = ((at.image * height + 2 * at.row) * width + 2 * at.column) * lanes + at.lane;
            const u64 lower = upper + static_cast<u64>(width) * lanes;
            const Pack<N> a = load_pack<N>(x, upper), b = load_pack<N>(x, upper + lanes);
            const Pack<N> c = load_pack<N>(x, lower), d = load_pack<N>(x, lower + lanes);
            Pack<N> largest;
            Choices<N> chosen;
            for (unsigned e = 0; e < N; ++e) {
                const Best best = best_of(a.at[e], b.at[e], c.at[e], d.at[e]);
                largest.at[e] = best.value;
                chosen.at[e] = best.choice;
            }
            store_pack(y, i, largest);
            store_choices(choices, i, chosen);
        }
        return;
    }
    GRID_STRIDE_LOOP(i, windows * channels) {
        const Window at = window_of(i, channels, across, down);
        const u64 upper = ((at.image * height + 2 * at.row) * width + 2 * at.column) * channels + at.lane;
        const u64 lower = upper + static_cast<u64>(width) * channels;
        const Best best =
            best_of(load(x, upper), load(x, upper + channels), load(x, lower), load(x, lower + channels));
        store(y, i, best.value);
        choices[i] = best.choice;
    }
}

// dx = dy at the chosen elements, 0 elsewhere; where y is given, 0 also where y is not positive (the mask of the ReLU
// before the pooling).
// One thread per window (and channels), so that everything is read once: E + 1 bytes per element of dy (2E + 1 with a
// mask), E written per element of dx, the odd last row and column among them. y may be null. Overwrites dx.
// Launched by max_pool_backward in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void max_pool_backward_body(const T* dy, const unsigned char* choices, const T* y, T* dx,
                                                       u64 batch, unsigned height, unsigned width, unsigned channels) {
    constexpr unsigned N = WIDTH<T>;
    const unsigned down = height / 2, across = width / 2;
    const unsigned all_down = down + height % 2, all_across = across + width % 2;
    const u64 windows = batch * all_down * all_across;
    if (channels % N == 0 && aligned<N>(dy, choices, y, dx)) {
        const unsigned lanes = channels / N;
        GRID_STRIDE_LOOP(i, windows * lanes) {
            const Window at = window_of(i, lanes, all_across, all_down);
            Pack<N> d = {};
            Choices<N> chosen = {};
            if (at.row < down && at.column < across) {
                const u64 from = ((at.image * down + at.row) * across + at.column) * lanes + at.lane;
                d = load_pack<N>(dy, from);
                chosen = load_choices<N>(choices, from);
                if (y) {
                    const Pack<N> m = load_pack<N>(y, from);
                    for (unsigned e = 0; e < N; ++e) d.at[e] = where_positive(m.at[e], d.at[e]);
                }
            }
            const u64 to = ((at.image * height + 2 * at.row) * width + 2 * at.column) * lanes + at.lane;
            for (unsigned choice = 0; choice < 4; ++choice) {
                const unsigned row = choice / 2, column = choice % 2;
                if (2 * at.row + row < height && 2 * at.column + column < width) {
                    Pack<N> part;
                    for (unsigned e = 0; e < N; ++e) part.at[e] = chosen.at[e] == choice ? d.at[e] : 0.0f;
                    store_pack(dx, to + (static_cast<u64>(row) * width + column) * lanes, part);
                }
            }
        }
        return;
    }
    GRID_STRIDE_LOOP(i, windows * channels) {
        const Window at = window_of(i, channels, all_across, all_down);
        float d = 0.0f;
        unsigned chosen = 0;
        if (at.row < down && at.column < across) {
            const u64 from = ((at.image * down + at.row) * across + at.column) * channels + at.lane;
            d = y ? where_positive(load(y, from), load(dy, from)) : load(dy, from);
            chosen = choices[from];
        }
        const u64 to = ((at.image * height + 2 * at.row) * width + 2 * at.column) * channels + at.lane;
        for (unsigned choice = 0; choice < 4; ++choice) {
            const unsigned row = choice / 2, column = choice % 2;
            if (2 * at.row + row < height && 2 * at.column + column < width) {
                store(dx, to + (static_cast<u64>(row) * width + column) * channels, chosen == choice ? d : 0.0f);
            }
        }
    }
}

EXPORT(max_pool_forward,
       (const T* __restrict__ x, T* __restrict__ y, unsigned char* __restrict__ choices, u64 batch, unsigned height,
        unsigned width, unsigned channels),
       (x, y, choices, batch, height, width, channels))
EXPORT(max_pool_backward,
       (const T* __restrict__ dy, const unsigned char* __restrict__ choices, const T* __restrict__ y,
        T* __restrict__ dx, u64 batch, unsigned height, unsigned width, unsigned channels),
       (dy, choices, y, dx, batch, height, width, channels))
