// Dropout (Srivastava et al. 2014), scaled in training. The masks and the bits are those of backend/cpu/dropout.rs.
//
// x, dx, y, dy: (N, plane, C), of one sample plane * C elements. A draw counts a sample's elements in logical order,
// which is channel-major: element (pixel p, channel c) is draw c * plane + p. Element i of sample n is dropped where
// its 32 random bits are below `threshold` = floor(p * 2^32); `scale` = 1 / (1 - p).
#include "common.cuh"

constexpr unsigned PURPOSE = 5;  // rng::Purpose::Dropout

// One block of Philox4x32-10 (Salmon et al. 2011), as in rng.rs.
__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, unsigned key0, unsigned key1) {
    for (unsigned round = 0; round < 10; ++round) {
        const u64 p0 = 0xD2511F53ull * counter.x, p1 = 0xCD9E8D57ull * counter.z;
        counter = make_uint4(static_cast<unsigned>(p1 >> 32) ^ counter.y ^ key0, static_cast<unsigned>(p1),
                             static_cast<unsigned>(p0 >> 32) ^ counter.w ^ key1, static_cast<unsigned>(p0));
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// Draws 4 * block .. 4 * block + 3 of sample n of the micro-batch.
__device__ __forceinline__ uint4 draws(const StepParams& params, u64 n, unsigned layer, u64 block) {
    const u64 position = params.position + n;
    const uint4 counter = make_uint4(static_cast<unsigned>(position), static_cast<unsigned>(position >> 32),
                                     PURPOSE | layer << 16, static_cast<unsigned>(block));
    return philox4x32_10(counter, static_cast<unsigned>(params.seed), static_cast<unsigned>(params.seed >> 32));
}

__device__ __forceinline__ unsigned word(uint4 words, unsigned i) {
    return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

struct Rule {
    unsigned threshold;
    float scale;
    __device__ __forceinline__ float operator()(unsigned bits, float x) const {
        return bits < threshold ? 0.0f : x * scale;
    }
};

// to = 0 where dropped, else from * scale.
__device__ __forceinline__ void drop(const float* from, float* to, u64 batch, unsigned channels, unsigned plane,
                                     unsigned layer, Rule rule, const StepParams& params) {
    const u64 elements = static_cast<u64>(channels) * plane;
    if (plane > 1) {
        GRID_STRIDE_LOOP(i, batch * elements) {
            const Quotient pixel = divide(i, channels);
            const Quotient image = divide(pixel.quotient, plane);
            const u64 draw = static_cast<u64>(pixel.remainder) * plane + image.remainder;
            to[i] = rule(word(draws(params, image.quotient, layer, draw / 4), draw % 4), from[i]);
        }
        return;
    }
    // One pixel: storage order is draw order, and four neighbours share a block.
    const unsigned blocks = channels / 4 + (channels % 4 != 0);
    const bool vector = channels % 4 == 0 && aligned16(from, to);
    GRID_STRIDE_LOOP(i, batch * blocks) {
        const Quotient at = divide(i, blocks);
        const uint4 words = draws(params, at.quotient, layer, at.remainder);
        if (vector) {
            const float4 x = load4(from, i);
            store4(to, i, make_float4(rule(words.x, x.x), rule(words.y, x.y), rule(words.z, x.z), rule(words.w, x.w)));
        } else {
            const u64 first = at.quotient * channels + 4 * at.remainder;
            const unsigned rest = channels - 4 * at.remainder;
            for (unsigned e = 0; e < 4 && e < rest; ++e) to[first + e] = rule(word(words, e), from[first + e]);
        }
    }
}

// y = 0 where dropped, else x * scale.
// Reads 4 bytes per element, writes 4. Overwrites y; y may be x.
// Launched by dropout_forward in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void dropout_forward(const float* x, float* y, u64 batch,
                                                                    unsigned channels, unsigned plane, unsigned layer,
                                                                    unsigned threshold, float scale,
                                                                    const StepParams* __restrict__ params) {
    drop(x, y, batch, channels, plane, layer, Rule{threshold, scale}, *params);
}

// dx = 0 where dropped, else dy * scale: the mask is drawn again.
// Reads 4 bytes per element, writes 4. Overwrites dx; dx may be dy.
// Launched by dropout_backward in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void dropout_backward(const float* dy, float* dx, u64 batch,
                                                                     unsigned channels, unsigned plane, unsigned layer,
                                                                     unsigned threshold, float scale,
                                                                     const StepParams* __restrict__ params) {
    drop(dy, dx, batch, channels, plane, layer, Rule{threshold, scale}, *params);
}

// dx = y > 0 ? dy * scale : 0: after a ReLU, y alone says what was kept and passed.
// y, dy, dx: n elements, one layout. Reads 8 bytes per element, writes 4. Overwrites dx; dx may be dy.
// Launched by dropout_backward in backend/cuda/launch/ where the data gradient is masked.
extern "C" __global__ __launch_bounds__(BLOCK) void dropout_backward_masked(const float* y, const float* dy, float* dx,
                                                                            u64 n, float scale) {
    const u64 quads = aligned16(y, dy, dx) ? n / 4 : 0;
    GRID_STRIDE_LOOP(i, quads) {
        const float4 m = load4(y, i), d = load4(dy, i);
        store4(dx, i,
               make_float4(where_positive(m.x, d.x * scale), where_positive(m.y, d.y * scale),
                           where_positive(m.z, d.z * scale), where_positive(m.w, d.w * scale)));
    }
    const u64 done = 4 * quads;
    GRID_STRIDE_LOOP(i, n - done) { dx[done + i] = where_positive(y[done + i], dy[done + i] * scale); }
}
