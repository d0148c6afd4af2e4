// Gradient of a bias: a sum over all pixels of all images, in a fixed order (columns.cuh).
#include "columns.cuh"

struct BiasTerms {
    const float* dy;
    unsigned channels;
    __device__ __forceinline__ void operator()(u64 row, unsigned channel, float* t) const {
        t[0] = dy[row * channels + channel];
    }
};

struct BiasFinish {
    float* db;
    __device__ __forceinline__ void operator()(unsigned channel, const double* sums) const {
        db[channel] = static_cast<float>(sums[0]);
    }
};

// parts[slice, c] = sum over the slice's rows of dy[row, c].
// dy: (rows, channels), rows = N * H * W; parts: (slices, channels) f64. Reads 4 * rows * channels bytes, writes
// 8 * slices * channels. Overwrites parts.
// Launched by bias_gradient in backend/cuda/launch/; blocks of BLOCK threads, `slices` as columns.cuh says.
extern "C" __global__ __launch_bounds__(BLOCK) void bias_gradient_parts(const float* __restrict__ dy, u64 rows,
                                                                        unsigned channels, unsigned slices,
                                                                        double* __restrict__ parts) {
    column_parts<1>(rows, channels, slices, parts, BiasTerms{dy, channels});
}

// db[c] = sum over the slices of parts[slice, c].
// db: (channels). Reads 8 * slices * channels bytes, writes 4 * channels. Overwrites db.
// Launched by bias_gradient in backend/cuda/launch/; blocks of BLOCK threads.
extern "C" __global__ __launch_bounds__(BLOCK) void bias_gradient(const double* __restrict__ parts, unsigned channels,
                                                                  unsigned slices, float* __restrict__ db) {
    column_sums<1>(parts, channels, slices, BiasFinish{db});
}
