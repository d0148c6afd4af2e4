// One branch of the reduction tree over the micro-batches' gradients. Equal to backend/cpu/elementwise.rs to the bit.
#include "common.cuh"

// Up to 16 buffers: trees of up to 2^15 micro-batches. Passed by value; unused ones are null.
constexpr unsigned SLOTS = 16;
struct Slots {
    float* buffers[SLOTS];
};

__device__ __forceinline__ float4 add4(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// slots[0] <- slots[0] + (slots[1] + (... + slots[count - 1])), in one pass.
// Every buffer: n elements, one layout; 1 <= count <= 16. Reads 4 * count * n bytes, writes 4n. Overwrites the first.
// Launched by tree_add in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void tree_add(const Slots slots, unsigned count, u64 n) {
    // Unrolled, so that every buffer's address is a constant's place; a loop over `count` would copy them to the stack.
    bool aligned = true;
#pragma unroll
    for (unsigned s = 0; s < SLOTS; ++s) aligned = aligned && (s >= count || aligned16(slots.buffers[s]));
    const u64 quads = aligned ? n / 4 : 0;
    GRID_STRIDE_LOOP(i, quads) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (unsigned s = SLOTS; s-- > 0;) {
            if (s < count) {
                const float4 value = load4(slots.buffers[s], i);
                sum = s + 1 == count ? value : add4(value, sum);
            }
        }
        store4(slots.buffers[0], i, sum);
    }
    const u64 done = 4 * quads;
    GRID_STRIDE_LOOP(i, n - done) {
        float sum = 0.0f;
#pragma unroll
        for (unsigned s = SLOTS; s-- > 0;) {
            if (s < count) {
                const float value = slots.buffers[s][done + i];
                sum = s + 1 == count ? value : value + sum;
            }
        }
        slots.buffers[0][done + i] = sum;
    }
}
