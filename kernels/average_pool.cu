// Means over the parts of a map, whatever its size: adaptive average pooling, and the global average.
#include "element.cuh"

// y[n, i, j, c] = (sum of x[n, r, s, c], row by row, in f64) / pixels, over the rows r from floor(i * H / side) up to
// ceil((i + 1) * H / side) and the columns s likewise. x: (N, H, W, C); y: (N, side, side, C).
// Reads E per pixel and channel of every part, of which neighbours share what they cannot divide, from caches; writes
// E * N * side * side * C. Overwrites y. Launched by average_pool in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void average_pool_body(const T* x, T* y, u64 batch, unsigned height, unsigned width,
                                                  unsigned channels, unsigned side) {
    GRID_STRIDE_LOOP(at, batch * side * side * channels) {
        const Quotient channel = divide(at, channels);
        const Quotient column = divide(channel.quotient, side);
        const Quotient row = divide(column.quotient, side);
        const unsigned i = row.remainder, j = column.remainder;
        const unsigned top = i * height / side, bottom = ((i + 1) * height + side - 1) / side;
        const unsigned left = j * width / side, right = ((j + 1) * width + side - 1) / side;
        double sum = 0.0;
        for (unsigned r = top; r < bottom; ++r) {
            const u64 line = (row.quotient * height + r) * width;
            for (unsigned s = left; s < right; ++s) sum += load(x, (line + s) * channels + channel.remainder);
        }
        store(y, at, static_cast<float>(sum / ((bottom - top) * (right - left))));
    }
}

EXPORT(average_pool,
       (const T* __restrict__ x, T* __restrict__ y, u64 batch, unsigned height, unsigned width, unsigned channels,
        unsigned side),
       (x, y, batch, height, width, channels, side))
