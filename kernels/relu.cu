// Rectification. Of f32 equal to backend/cpu/elementwise.rs to the bit.
#include "element.cuh"

struct Relu {
    __device__ __forceinline__ float operator()(float x) const { return x < 0.0f ? 0.0f : x; }
};

struct Mask {
    __device__ __forceinline__ float operator()(float y, float d) const { return where_positive(y, d); }
};

// y = x < 0 ? 0 : x. NaN passes through, so that divergence stays visible.
// x, y: n elements, any layout; y may be x. Reads E * n bytes, writes E * n. Overwrites y.
// Launched by relu_forward in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void relu_forward_body(const T* x, T* y, u64 n) {
    map_elements(y, n, Relu(), x);
}

// dx = y > 0 ? dy : 0.
// y, dy, dx: n elements, one layout; dx may be dy. Reads 2E * n bytes, writes E * n. Overwrites dx.
// Launched by relu_backward in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void relu_backward_body(const T* y, const T* dy, T* dx, u64 n) {
    map_elements(dx, n, Mask(), y, dy);
}

EXPORT(relu_forward, (const T* x, T* y, u64 n), (x, y, n))
EXPORT(relu_backward, (const T* y, const T* dy, T* dx, u64 n), (y, dy, dx, n))
