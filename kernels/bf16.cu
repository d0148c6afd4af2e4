// Between f32 and bf16.
#include "element.cuh"

struct Same {
    __device__ __forceinline__ float operator()(float x) const { return x; }
};

// y = x rounded to bf16.
// x: n f32; y: n bf16, any layout. Reads 4n bytes, writes 2n. Overwrites y.
// Launched by fp32_to_bf16 in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void fp32_to_bf16(const float* __restrict__ x, bf16* __restrict__ y,
                                                                 u64 n) {
    map_elements(y, n, Same(), x);
}

// y = x, exactly.
// x: n bf16; y: n f32, any layout. Reads 2n bytes, writes 4n. Overwrites y.
// Launched by bf16_to_fp32 in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void bf16_to_fp32(const bf16* __restrict__ x, float* __restrict__ y,
                                                                 u64 n) {
    map_elements(y, n, Same(), x);
}
