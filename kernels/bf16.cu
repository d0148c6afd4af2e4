// Between fp32 and bf16, which is its upper half.
#include "common.cuh"

// Round to nearest, ties to even; NaN stays NaN (made quiet), infinities stay.
__device__ __forceinline__ unsigned bf16(float x) {
    const unsigned bits = __float_as_uint(x);
    return is_nan(x) ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

__device__ __forceinline__ unsigned bf16_pair(float low, float high) { return bf16(low) | bf16(high) << 16; }

// y = bf16(x).
// x: n f32; y: n bf16, any layout. Reads 4n bytes, writes 2n. Overwrites y.
// Launched by fp32_to_bf16 in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void fp32_to_bf16(const float* __restrict__ x,
                                                                 unsigned short* __restrict__ y, u64 n) {
    const u64 octets = aligned16(x, y) ? n / 8 : 0;
    GRID_STRIDE_LOOP(i, octets) {
        const float4 a = load4(x, 2 * i), b = load4(x, 2 * i + 1);
        reinterpret_cast<uint4*>(y)[i] =
            make_uint4(bf16_pair(a.x, a.y), bf16_pair(a.z, a.w), bf16_pair(b.x, b.y), bf16_pair(b.z, b.w));
    }
    const u64 done = 8 * octets;
    GRID_STRIDE_LOOP(i, n - done) { y[done + i] = static_cast<unsigned short>(bf16(x[done + i])); }
}

__device__ __forceinline__ float low_half(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

// y = x, exactly.
// x: n bf16; y: n f32, any layout. Reads 2n bytes, writes 4n. Overwrites y.
// Launched by bf16_to_fp32 in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void bf16_to_fp32(const unsigned short* __restrict__ x,
                                                                 float* __restrict__ y, u64 n) {
    const u64 octets = aligned16(x, y) ? n / 8 : 0;
    GRID_STRIDE_LOOP(i, octets) {
        const uint4 v = reinterpret_cast<const uint4*>(x)[i];
        store4(y, 2 * i, make_float4(low_half(v.x), high_half(v.x), low_half(v.y), high_half(v.y)));
        store4(y, 2 * i + 1, make_float4(low_half(v.z), high_half(v.z), low_half(v.w), high_half(v.w)));
    }
    const u64 done = 8 * octets;
    GRID_STRIDE_LOOP(i, n - done) { y[done + i] = low_half(x[done + i]); }
}
