// Dropout (Srivastava et al. 2014), scaled in training. The masks are those of backend/cpu/dropout.rs, the
// bits too where elements are f32.
//
// x, dx, y, dy: (N, plane, C), of one sample plane * C elements. A draw counts a sample's elements in logical order,
// which is channel-major: element (pixel p, channel c) is draw c * plane + p. Element i of sample n is dropped where
// its 32 random bits are below `threshold` = floor(p * 2^32); `scale` = 1 / (1 - p).
#include "element.cuh"

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

// Of one pixel, storage order is draw order, and four neighbours share a block of draws. In packs:
template <class T>
__device__ __forceinline__ void drop_packs(const T* from, T* to, u64 batch, unsigned channels, unsigned layer,
                                           Rule rule, const StepParams& params) {
    constexpr unsigned N = WIDTH<T>;
    const unsigned packs = channels / N;
    GRID_STRIDE_LOOP(i, batch * packs) {
        const Quotient at = divide(i, packs);
        Pack<N> x = load_pack<N>(from, i);
        for (unsigned block = 0; block < N / 4; ++block) {
            const uint4 words = draws(params, at.quotient, layer, at.remainder * (N / 4) + block);
            for (unsigned e = 0; e < 4; ++e) x.at[4 * block + e] = rule(word(words, e), x.at[4 * block + e]);
        }
        store_pack(to, i, x);
    }
}

// And element by element.
template <class T>
__device__ __forceinline__ void drop_quads(const T* from, T* to, u64 batch, unsigned channels, unsigned layer,
                                           Rule rule, const StepParams& params) {
    const unsigned blocks = channels / 4 + (channels % 4 != 0);
    GRID_STRIDE_LOOP(i, batch * blocks) {
        const Quotient at = divide(i, blocks);
        const uint4 words = draws(params, at.quotient, layer, at.remainder);
        const u64 first = at.quotient * channels + 4 * at.remainder;
        const unsigned rest = channels - 4 * at.remainder;
        for (unsigned e = 0; e < 4 && e < rest; ++e) {
            store(to, first + e, rule(word(words, e), load(from, first + e)));
        }
    }
}

// to = 0 where dropped, else from * scale.
template <class T>
__device__ __forceinline__ void drop(const T* from, T* to, u64 batch, unsigned channels, unsigned plane,
                                     unsigned layer, Rule rule, const StepParams& params) {
    const u64 elements = static_cast<u64>(channels) * plane;
    if (plane > 1) {
        GRID_STRIDE_LOOP(i, batch * elements) {
            const Quotient pixel = divide(i, channels);
            const Quotient image = divide(pixel.quotient, plane);
            const u64 draw = static_cast<u64>(pixel.remainder) * plane + image.remainder;
            store(to, i, rule(word(draws(params, image.quotient, layer, draw / 4), draw % 4), load(from, i)));
        }
    } else if (channels % WIDTH<T> == 0 && aligned<WIDTH<T>>(from, to)) {
        drop_packs(from, to, batch, channels, layer, rule, params);
    } else {
        drop_quads(from, to, batch, channels, layer, rule, params);
    }
}

// y = 0 where dropped, else x * scale.
// Reads E bytes per element, writes E. Overwrites y; y may be x.
// Launched by dropout_forward in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void dropout_forward_body(const T* x, T* y, u64 batch, unsigned channels, unsigned plane,
                                                     unsigned layer, Rule rule, const StepParams& params) {
    drop(x, y, batch, channels, plane, layer, rule, params);
}

// dx = 0 where dropped, else dy * scale: the mask is drawn again.
// Reads E bytes per element, writes E. Overwrites dx; dx may be dy.
// Launched by dropout_backward in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void dropout_backward_body(const T* dy, T* dx, u64 batch, unsigned channels, unsigned plane,
                                                      unsigned layer, Rule rule, const StepParams& params) {
    drop(dy, dx, batch, channels, plane, layer, rule, params);
}

struct ScaledMask {
    float scale;
    __device__ __forceinline__ float operator()(float y, float d) const { return where_positive(y, d * scale); }
};

// dx = y > 0 ? dy * scale : 0: after a ReLU, y alone says what was kept and passed.
// y, dy, dx: n elements, one layout. Reads 2E bytes per element, writes E. Overwrites dx; dx may be dy.
// Launched by dropout_backward_masked in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void dropout_backward_masked_body(const T* y, const T* dy, T* dx, u64 n, float scale) {
    map_elements(dx, n, ScaledMask{scale}, y, dy);
}

EXPORT(dropout_forward,
       (const T* x, T* y, u64 batch, unsigned channels, unsigned plane, unsigned layer, unsigned threshold, float scale,
        const StepParams* __restrict__ params),
       (x, y, batch, channels, plane, layer, Rule{threshold, scale}, *params))
EXPORT(dropout_backward,
       (const T* dy, T* dx, u64 batch, unsigned channels, unsigned plane, unsigned layer, unsigned threshold,
        float scale, const StepParams* __restrict__ params),
       (dy, dx, batch, channels, plane, layer, Rule{threshold, scale}, *params))
EXPORT(dropout_backward_masked, (const T* y, const T* dy, T* dx, u64 n, float scale), (y, dy, dx, n, scale))
