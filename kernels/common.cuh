// What every kernel may use. README.md in this folder has the rules; NVRTC, nvcc and host g++ read the same text.
#pragma once

using u64 = unsigned long long;

// Threads of a block. Kernels that share memory rely on exactly this size; the others take any.
constexpr unsigned BLOCK = 256;

// What varies between two runs of the same plan, in device memory, so that a captured graph can be replayed with other
// values. The twin of the #[repr(C)] struct in backend/cuda/launch/: 32 bytes, no implicit padding.
struct StepParams {
    u64 seed;             // key of every random draw
    u64 step;             // the optimisation step, counted from 0
    u64 position;         // absolute stream position of the micro-batch's first sample
    float learning_rate;  // of this step
    unsigned reserved;    // 0
};

// Every i below n, shared out over all threads of the launch: the grid decides only about speed.
#define GRID_STRIDE_LOOP(i, n)                                                      \
    for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); \
         i += static_cast<u64>(gridDim.x) * blockDim.x)

// Every work item of a block below n; all threads of a block see the same items, so barriers inside are allowed.
#define BLOCK_STRIDE_LOOP(item, n) for (u64 item = blockIdx.x; item < (n); item += gridDim.x)

// Whether all these pointers can be read and written 16 bytes at a time. A null pointer can.
template <class... P>
__device__ __forceinline__ bool aligned16(const P*... pointers) {
    return ((reinterpret_cast<u64>(pointers) | ...) & 15) == 0;
}

// Elements quad * 4 .. quad * 4 + 3. `p` is 16-byte aligned.
__device__ __forceinline__ float4 load4(const float* p, u64 quad) {
    return reinterpret_cast<const float4*>(p)[quad];
}

__device__ __forceinline__ void store4(float* p, u64 quad, float4 value) {
    reinterpret_cast<float4*>(p)[quad] = value;
}

// a / b and a % b; 32-bit division, which is much faster, wherever a fits.
struct Quotient {
    u64 quotient;
    unsigned remainder;
};

__device__ __forceinline__ Quotient divide(u64 a, unsigned b) {
    if ((a >> 32) == 0) {
        const unsigned small = static_cast<unsigned>(a);
        return {small / b, small % b};
    }
    return {a / b, static_cast<unsigned>(a % b)};
}

template <class T>
__device__ __forceinline__ bool is_nan(T x) {
    return x != x;
}

// d where the ReLU that made y let the value pass, else 0.
__device__ __forceinline__ float where_positive(float y, float d) { return y > 0.0f ? d : 0.0f; }

// op over the values of all threads of a block of BLOCK threads, in a fixed order, in every thread.
template <class T, class Op>
__device__ __forceinline__ T block_reduce(T value, Op op) {
    __shared__ T values[BLOCK];
    __syncthreads();  // the result of an earlier call has been read
    values[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) values[threadIdx.x] = op(values[threadIdx.x], values[threadIdx.x + half]);
        __syncthreads();
    }
    return values[0];
}

struct Add {
    template <class T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        return a + b;
    }
};

struct Max {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
