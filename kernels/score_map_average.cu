// Dense evaluation: the mean of every class's score map.
#include "element.cuh"

// y[n, k] = (sum over the pixels of x[n, p, k], in order, in f64) / plane.
// x: (N, plane, classes); y: (N, classes). Reads E * N * plane * classes bytes, writes E * N * classes. Overwrites y.
// Launched by score_map_average in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void score_map_average_body(const T* x, T* y, u64 batch, unsigned plane, unsigned classes) {
    GRID_STRIDE_LOOP(i, batch * classes) {
        const Quotient at = divide(i, classes);
        const T* map = x + at.quotient * plane * classes + at.remainder;
        double sum = 0.0;
        for (unsigned p = 0; p < plane; ++p) sum += load(map, static_cast<u64>(p) * classes);
        store(y, i, static_cast<float>(sum / plane));
    }
}

EXPORT(score_map_average,
       (const T* __restrict__ x, T* __restrict__ y, u64 batch, unsigned plane, unsigned classes),
       (x, y, batch, plane, classes))
