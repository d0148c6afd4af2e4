// Dense evaluation: the mean of every class's score map.
#include "common.cuh"

// y[n, k] = (sum over the pixels of x[n, p, k], in order, in f64) / plane.
// x: (N, plane, classes); y: (N, classes). Reads 4 * N * plane * classes bytes, writes 4 * N * classes. Overwrites y.
// Launched by score_map_average in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void score_map_average(const float* __restrict__ x,
                                                                      float* __restrict__ y, u64 batch, unsigned plane,
                                                                      unsigned classes) {
    GRID_STRIDE_LOOP(i, batch * classes) {
        const Quotient at = divide(i, classes);
        const float* map = x + at.quotient * plane * classes + at.remainder;
        double sum = 0.0;
        for (unsigned p = 0; p < plane; ++p) sum += map[static_cast<u64>(p) * classes];
        y[i] = static_cast<float>(sum / plane);
    }
}
