// Gradient of a bias: a sum over all pixels of all images, in a fixed order (columns.cuh).
#include "columns.cuh"
#include "element.cuh"

template <class T>
struct BiasTerms {
    const T* dy;
    unsigned channels;
    __device__ __forceinline__ void operator()(u64 row, unsigned channel, float* t) const {
        t[0] = load(dy, row * channels + channel);
    }
};

struct BiasFinish {
    float* db;
    __device__ __forceinline__ void operator()(unsigned channel, const double* sums) const {
        db[channel] = static_cast<float>(sums[0]);
    }
};

// parts[slice, c] = sum over the slice's rows of dy[row, c].
// dy: (rows, channels), rows = N * H * W; parts: (slices, channels) f64. Reads E * rows * channels bytes, writes
// 8 * slices * channels. Overwrites parts.
// Launched by bias_gradient in backend/cuda/launch/; blocks of BLOCK threads, `slices` as columns.cuh says.
template <class T>
__device__ __forceinline__ void bias_gradient_parts_body(const T* dy, u64 rows, unsigned channels, unsigned slices,
                                                         double* parts) {
    column_parts<1>(rows, channels, slices, parts, BiasTerms<T>{dy, channels});
}

// db[c] = sum over the slices of parts[slice, c].
// db: (channels) f32. Reads 8 * slices * channels bytes, writes 4 * channels. Overwrites db.
// Launched by bias_gradient in backend/cuda/launch/; blocks of BLOCK threads.
extern "C" __global__ __launch_bounds__(BLOCK) void bias_gradient(const double* __restrict__ parts, unsigned channels,
                                                                  unsigned slices, float* __restrict__ db) {
    column_sums<1>(parts, channels, slices, BiasFinish{db});
}

EXPORT(bias_gradient_parts,
       (const T* __restrict__ dy, u64 rows, unsigned channels, unsigned slices, double* __restrict__ parts),
       (dy, rows, channels, slices, parts))
