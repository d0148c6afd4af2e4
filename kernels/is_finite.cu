// Looks for infinities and NaN.
#include "common.cuh"

__device__ __forceinline__ bool finite_bits(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

// *found |= 1 where a value is not finite; the launcher has cleared it. Bits commute, so the order of the atomics does not
// matter.
// values: n elements, any layout. Reads 4n bytes.
// Launched by is_finite in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void is_finite(const float* __restrict__ values, u64 n,
                                                              unsigned* __restrict__ found) {
    bool finite = true;
    const u64 quads = aligned16(values) ? n / 4 : 0;
    GRID_STRIDE_LOOP(i, quads) {
        const float4 v = load4(values, i);
        finite = finite && finite_bits(v.x) && finite_bits(v.y) && finite_bits(v.z) && finite_bits(v.w);
    }
    const u64 done = 4 * quads;
    GRID_STRIDE_LOOP(i, n - done) { finite = finite && finite_bits(values[done + i]); }
    if (!finite) atomicOr(found, 1u);
}
