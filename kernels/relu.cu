// Rectification. Equal to backend/cpu/elementwise.rs to the bit.
#include "common.cuh"

__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }

// y = x < 0 ? 0 : x. NaN passes through, so that divergence stays visible.
// x, y: n elements, any layout; y may be x. Reads 4n bytes, writes 4n. Overwrites y.
// Launched by relu_forward in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void relu_forward(const float* x, float* y, u64 n) {
    const u64 quads = aligned16(x, y) ? n / 4 : 0;
    GRID_STRIDE_LOOP(i, quads) {
        const float4 v = load4(x, i);
        store4(y, i, make_float4(relu(v.x), relu(v.y), relu(v.z), relu(v.w)));
    }
    const u64 done = 4 * quads;
    GRID_STRIDE_LOOP(i, n - done) { y[done + i] = relu(x[done + i]); }
}

// dx = y > 0 ? dy : 0.
// y, dy, dx: n elements, one layout; dx may be dy. Reads 8n bytes, writes 4n. Overwrites dx.
// Launched by relu_backward in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void relu_backward(const float* y, const float* dy, float* dx, u64 n) {
    const u64 quads = aligned16(y, dy, dx) ? n / 4 : 0;
    GRID_STRIDE_LOOP(i, quads) {
        const float4 m = load4(y, i);
        const float4 d = load4(dy, i);
        store4(dx, i,
               make_float4(where_positive(m.x, d.x), where_positive(m.y, d.y), where_positive(m.z, d.z),
                           where_positive(m.w, d.w)));
    }
    const u64 done = 4 * quads;
    GRID_STRIDE_LOOP(i, n - done) { dx[done + i] = where_positive(y[done + i], dy[done + i]); }
}
