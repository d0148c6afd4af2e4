// Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3). Of f32 equal to
// backend/cpu/lrn.rs to the bit.
//
// x, dx, y, dy: (pixels, channels), pixels = N * H * W. y[c] = x[c] * d[c]^-beta with
// d[c] = k + alpha * sum of x[j]^2 over the window c - 2 ..= c + 2, cut at the ends. d is not kept: the backward pass
// makes it again from x, which costs less than reading it.
//
// A block takes a tile of consecutive elements, whichever pixels they belong to, through shared memory: with the
// tile's edges everything is read about once.
#include "element.cuh"

constexpr unsigned REACH = 2;  // channels of the window on either side
constexpr float ALPHA = 1e-4f;
constexpr float BETA = 0.75f;
constexpr float K = 2.0f;

constexpr unsigned TILE = 4 * BLOCK;

// Channels of the window below and above channel c.
__device__ __forceinline__ unsigned below(unsigned c) { return c < REACH ? c : REACH; }
__device__ __forceinline__ unsigned above(unsigned c, unsigned channels) {
    return channels - 1 - c < REACH ? channels - 1 - c : REACH;
}

// d of the element at x[0], which is channel c.
__device__ __forceinline__ float denominator(const float* x, unsigned c, unsigned channels) {
    float sum = 0.0f;
    const int last = static_cast<int>(above(c, channels));
    for (int j = -static_cast<int>(below(c)); j <= last; ++j) sum = fmaf(x[j], x[j], sum);
    return fmaf(ALPHA, sum, K);
}

// d^-0.75 by square roots: correctly rounded everywhere.
__device__ __forceinline__ float power_minus_beta(float d) {
    const float root = sqrtf(d);
    return 1.0f / (root * sqrtf(root));
}

// tile[i] = x[base + i - edge], or 0 outside x, for i below TILE + 2 * edge.
template <class T>
__device__ __forceinline__ void load_tile(const T* x, u64 n, u64 base, unsigned edge, float* tile) {
    for (unsigned i = threadIdx.x; i < TILE + 2 * edge; i += blockDim.x) {
        const bool inside = base + i >= edge && base + i - edge < n;
        tile[i] = inside ? load(x, base + i - edge) : 0.0f;
    }
}

// y = x * d^-beta.
// Reads E * (1 + 4 / 1024) bytes per element, writes E. Overwrites y.
// Launched by lrn_forward in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void lrn_forward_body(const T* x, T* y, u64 pixels, unsigned channels) {
    __shared__ float tile[TILE + 2 * REACH];
    const u64 n = pixels * channels;
    BLOCK_STRIDE_LOOP(block, (n + TILE - 1) / TILE) {
        const u64 base = block * TILE;
        load_tile(x, n, base, REACH, tile);
        __syncthreads();
        const unsigned first = divide(base, channels).remainder;
        for (unsigned i = threadIdx.x; i < TILE && base + i < n; i += blockDim.x) {
            const unsigned c = (first + i) % channels;
            const float* at = tile + REACH + i;
            store(y, base + i, *at * power_minus_beta(denominator(at, c, channels)));
        }
        __syncthreads();
    }
}

// dx[c] = dy[c] * d[c]^-beta - 2 * alpha * beta * x[c] * sum of dy[j] * x[j] * d[j]^(-beta - 1) over the window; where
// `masked` is not 0, 0 also where x is not positive (the mask of the ReLU before).
// Reads 2E * (1 + 6 / 1024) bytes per element, writes E. Overwrites dx.
// Launched by lrn_backward in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void lrn_backward_body(const T* x, const T* dy, T* dx, u64 pixels, unsigned channels,
                                                  unsigned masked) {
    __shared__ float x_tile[TILE + 4 * REACH];
    __shared__ float dy_tile[TILE + 2 * REACH];
    __shared__ float terms[TILE + 2 * REACH];   // dy * x * d^(-beta - 1)
    __shared__ float powers[TILE + 2 * REACH];  // d^-beta
    const u64 n = pixels * channels;
    BLOCK_STRIDE_LOOP(block, (n + TILE - 1) / TILE) {
        const u64 base = block * TILE;
        load_tile(x, n, base, 2 * REACH, x_tile);
        load_tile(dy, n, base, REACH, dy_tile);
        __syncthreads();
        const unsigned first = divide(base, channels).remainder;
        for (unsigned i = threadIdx.x; i < TILE + 2 * REACH; i += blockDim.x) {
            // Element base + i - REACH; a multiple of the channels keeps its channel from going below 0. Elements
            // outside x have x = dy = 0 and are in no window.
            const unsigned c = (first + i + REACH * channels - REACH) % channels;
            const float* at = x_tile + REACH + i;
            const float d = denominator(at, c, channels);
            powers[i] = power_minus_beta(d);
            terms[i] = dy_tile[i] * *at * (powers[i] / d);
        }
        __syncthreads();
        for (unsigned i = threadIdx.x; i < TILE && base + i < n; i += blockDim.x) {
            const unsigned c = (first + i) % channels;
            float sum = 0.0f;
            const int last = static_cast<int>(above(c, channels));
            for (int j = -static_cast<int>(below(c)); j <= last; ++j) sum += terms[static_cast<int>(REACH + i) + j];
            const float here = x_tile[2 * REACH + i];
            const float gradient =
                fmaf(-2.0f * ALPHA * BETA * here, sum, dy_tile[REACH + i] * powers[REACH + i]);
            store(dx, base + i, masked ? where_positive(here, gradient) : gradient);
        }
        __syncthreads();
    }
}

EXPORT(lrn_forward, (const T* __restrict__ x, T* __restrict__ y, u64 pixels, unsigned channels),
       (x, y, pixels, channels))
EXPORT(lrn_backward,
       (const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx, u64 pixels, unsigned channels,
        unsigned masked),
       (x, dy, dx, pixels, channels, masked))
