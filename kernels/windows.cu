// Dense evaluation: every square window of a map as a row, what the first fully connected layer multiplies.
#include "element.cuh"

// y[(n * H' + i) * W' + j, (c * side + r) * side + s] = x[n, i + r, j + s, c], H' = H - side + 1, W' = W - side + 1.
// x: (N, H, W, C); y: (N * H' * W', C * side * side), in the order of the weights. Reads E per element of y, from caches
// but for the first window that has it, writes as much. Overwrites y.
// Launched by windows in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void windows_body(const T* x, T* y, u64 batch, unsigned height, unsigned width,
                                             unsigned channels, unsigned side) {
    const unsigned rows = height - side + 1, columns = width - side + 1;
    GRID_STRIDE_LOOP(i, batch * rows * columns * channels * side * side) {
        const Quotient column = divide(i, side);
        const Quotient row = divide(column.quotient, side);
        const Quotient channel = divide(row.quotient, channels);
        const Quotient left = divide(channel.quotient, columns);
        const Quotient top = divide(left.quotient, rows);
        const u64 line = top.quotient * height + top.remainder + row.remainder;
        const u64 pixel = line * width + left.remainder + column.remainder;
        store(y, i, load(x, pixel * channels + channel.remainder));
    }
}

EXPORT(windows,
       (const T* __restrict__ x, T* __restrict__ y, u64 batch, unsigned height, unsigned width, unsigned channels,
        unsigned side),
       (x, y, batch, height, width, channels, side))
