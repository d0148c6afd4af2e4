// The 64-bit fold of a tensor: a wrapping sum of mixes of every element's logical index and bits (fold_element in
// backend/mod.rs). Integer sums commute, so the order of the atomics does not matter.
#include "element.cuh"

// The finaliser of SplitMix64.
__device__ __forceinline__ u64 fold_element(u64 index, float value) {
    u64 x = index << 32 | __float_as_uint(value);
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

__device__ __forceinline__ void add_block(u64 part, u64* sum) {
    const u64 total = block_reduce(part, Add());
    if (threadIdx.x == 0) atomicAdd(sum, total);
}

// *sum += the fold of values whose logical indices are first .. first + n in storage order.
// Reads 4n bytes. Accumulates: the launcher clears *sum.
// Launched by fold in backend/cuda/launch/; blocks of BLOCK threads.
extern "C" __global__ __launch_bounds__(BLOCK) void fold(const float* __restrict__ values, u64 n, u64 first,
                                                         u64* __restrict__ sum) {
    u64 part = 0;
    const u64 quads = aligned16(values) ? n / 4 : 0;
    GRID_STRIDE_LOOP(i, quads) {
        const float4 v = load4(values, i);
        const u64 index = first + 4 * i;
        part += fold_element(index, v.x) + fold_element(index + 1, v.y) + fold_element(index + 2, v.z) +
                fold_element(index + 3, v.w);
    }
    const u64 done = 4 * quads;
    GRID_STRIDE_LOOP(i, n - done) { part += fold_element(first + done + i, values[done + i]); }
    add_block(part, sum);
}

// *sum += the fold of values stored as (N, plane, pitch), of which the first `channels` of every pixel count, by
// logical index first + (n * channels + c) * plane + p. Also for filters (K, R * S, C) and for weights after a
// flattening. A bf16 counts as the f32 that it stands for.
// Reads E * N * plane * channels bytes. Accumulates: the launcher clears *sum.
// Launched by fold_nhwc in backend/cuda/launch/; blocks of BLOCK threads.
template <class T>
__device__ __forceinline__ void fold_nhwc_body(const T* values, u64 batch, unsigned plane, unsigned channels,
                                               unsigned pitch, u64 first, u64* sum) {
    u64 part = 0;
    GRID_STRIDE_LOOP(i, batch * plane * channels) {
        const Quotient pixel = divide(i, channels);
        const Quotient image = divide(pixel.quotient, plane);
        const u64 index = first + (image.quotient * channels + pixel.remainder) * plane + image.remainder;
        part += fold_element(index, load(values, pixel.quotient * pitch + pixel.remainder));
    }
    add_block(part, sum);
}

EXPORT(fold_nhwc,
       (const T* __restrict__ values, u64 batch, unsigned plane, unsigned channels, unsigned pitch, u64 first,
        u64* __restrict__ sum),
       (values, batch, plane, channels, pitch, first, sum))
