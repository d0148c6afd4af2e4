// Kernels that break one rule each, and three that break none: for tests/planted.rs.
typedef unsigned long long u64;
constexpr unsigned BLOCK = 256;

// Right: y = 2 x.
extern "C" __global__ void planted_double(const float* x, float* y, unsigned n) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = 2.0f * x[i];
}

// Right: y[block] = the sum of the block's values, in shared memory.
extern "C" __global__ void planted_sum(const float* x, float* y) {
    __shared__ float values[BLOCK];
    values[threadIdx.x] = x[blockIdx.x * BLOCK + threadIdx.x];
    __syncthreads();
    for (unsigned half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) values[threadIdx.x] += values[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) y[blockIdx.x] = values[0];
}

// Right: y = 2 y in 16 bits, two neighbours to a word.
extern "C" __global__ void planted_halves(unsigned short* y) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = static_cast<unsigned short>(2 * y[i]);
}

// The other half of the word is another thread's.
extern "C" __global__ void planted_other_half(unsigned short* y) {
    y[threadIdx.x] = static_cast<unsigned short>(2 * y[threadIdx.x ^ 1]);
}

// One element too many.
extern "C" __global__ void planted_off_by_one(float* y, unsigned n) {
    if (threadIdx.x <= n) y[threadIdx.x] = 1.0f;
}

// No barrier between writing and reading shared memory.
extern "C" __global__ void planted_no_barrier(float* y) {
    __shared__ float values[BLOCK];
    values[threadIdx.x] = 0.0f;
    __syncthreads();
    values[threadIdx.x] = 1.0f;
    y[threadIdx.x] = values[BLOCK - 1 - threadIdx.x];
}

// Half of the block at a barrier.
extern "C" __global__ void planted_divergent(float* y) {
    if (threadIdx.x < BLOCK / 2) __syncthreads();
    y[threadIdx.x] = 1.0f;
}

// Shared memory that nobody has written.
extern "C" __global__ void planted_unwritten(float* y) {
    __shared__ float values[BLOCK];
    if (blockIdx.x == 1) values[threadIdx.x] = 1.0f;  // a block that there is not
    y[threadIdx.x] = values[threadIdx.x];
}

// A vector at an odd address.
extern "C" __global__ void planted_misaligned(const float4* x, float* y) {
    if (threadIdx.x == 0) *reinterpret_cast<float4*>(y + 1) = x[0];
}

// Every block writes the same element.
extern "C" __global__ void planted_blocks_collide(float* y) {
    if (threadIdx.x == 0) y[0] = blockIdx.x;
}
