// Batch normalisation per channel (Ioffe and Szegedy 2015, algorithm 1), statistics per micro-batch.
//
// x, dx, y, dy: (rows, C) elements, rows = N * H * W; everything else: (C) f32. y = gamma * z + beta with
// z = (x - mean - rest) * inverse, inverse = 1 / sqrt(variance + epsilon).
//
// The mean is kept as two f32, mean + rest: where the values of a channel nearly coincide, x - mean is as small as what
// rounding takes from the mean. x - mean is exact then, and the rest goes into what is the same for the whole channel.
//
// Training, forward: mean_parts, mean, variance_parts, variance, forward; mean, rest and inverse are kept for
// backward_parts, backward_sums, backward. Evaluation: evaluation, forward. Sums run as in columns.cuh; of f32 the
// element-wise kernels equal backend/cpu/batch_norm.rs to the bit from equal statistics. All are launched by the
// functions of their names in backend/cuda/launch/; the sums in blocks of BLOCK threads.
#include "columns.cuh"
#include "element.cuh"

constexpr float EPSILON = 1e-5f;

__device__ __forceinline__ float inverse_deviation(double variance) {
    return static_cast<float>(1.0 / sqrt(variance + static_cast<double>(EPSILON)));
}

template <class T>
struct MeanTerms {
    const T* x;
    unsigned channels;
    __device__ __forceinline__ void operator()(u64 row, unsigned c, float* t) const {
        t[0] = load(x, row * channels + c);
    }
};

// parts[slice, c] = sum over the slice's rows of x. Reads E bytes per element. Overwrites parts (slices, C) f64.
template <class T>
__device__ __forceinline__ void batch_norm_mean_parts_body(const T* x, u64 rows, unsigned channels, unsigned slices,
                                                           double* parts) {
    column_parts<1>(rows, channels, slices, parts, MeanTerms<T>{x, channels});
}

struct MeanFinish {
    double count;
    float *mean, *rest, *mean_out;
    __device__ __forceinline__ void operator()(unsigned c, const double* sums) const {
        const double exact = sums[0] / count;
        const float rounded = static_cast<float>(exact);
        mean[c] = mean_out[c] = rounded;
        rest[c] = static_cast<float>(exact - static_cast<double>(rounded));
    }
};

// mean + rest = sum of the parts / rows, mean_out = mean. Reads 8 bytes per part, writes 12 per channel. Overwrites all
// three; mean_out is the running mean's place in the gradient.
extern "C" __global__ __launch_bounds__(BLOCK) void batch_norm_mean(const double* __restrict__ parts, u64 rows,
                                                                    unsigned channels, unsigned slices,
                                                                    float* __restrict__ mean,
                                                                    float* __restrict__ rest,
                                                                    float* __restrict__ mean_out) {
    column_sums<1>(parts, channels, slices, MeanFinish{static_cast<double>(rows), mean, rest, mean_out});
}

template <class T>
struct VarianceTerms {
    const T* x;
    const float* mean;
    unsigned channels;
    __device__ __forceinline__ void operator()(u64 row, unsigned c, float* t) const {
        const float centred = load(x, row * channels + c) - mean[c];
        t[0] = centred * centred;
    }
};

// parts[slice, c] = sum over the slice's rows of (x - mean)^2. Reads E bytes per element. Overwrites parts (slices, C).
template <class T>
__device__ __forceinline__ void batch_norm_variance_parts_body(const T* x, const float* mean, u64 rows,
                                                               unsigned channels, unsigned slices, double* parts) {
    column_parts<1>(rows, channels, slices, parts, VarianceTerms<T>{x, mean, channels});
}

struct VarianceFinish {
    double count;
    const float* rest;
    float *inverse, *variance_out;
    __device__ __forceinline__ void operator()(unsigned c, const double* sums) const {
        const double r = rest[c], around = sums[0] - count * r * r;
        const double squares = around > 0.0 ? around : 0.0;
        inverse[c] = inverse_deviation(squares / count);
        variance_out[c] = static_cast<float>(squares / (count > 2.0 ? count - 1.0 : 1.0));
    }
};

// inverse from the biased variance; variance_out = the unbiased one. Reads 8 bytes per part and 4 per channel, writes 8
// per channel. Overwrites both; variance_out is the running variance's place in the gradient.
extern "C" __global__ __launch_bounds__(BLOCK) void batch_norm_variance(const double* __restrict__ parts,
                                                                        const float* __restrict__ rest, u64 rows,
                                                                        unsigned channels, unsigned slices,
                                                                        float* __restrict__ inverse,
                                                                        float* __restrict__ variance_out) {
    column_sums<1>(parts, channels, slices, VarianceFinish{static_cast<double>(rows), rest, inverse, variance_out});
}

// For evaluation: mean, rest (0) and inverse of the running statistics. Reads 8 bytes per channel, writes 12. Overwrites
// all three.
extern "C" __global__ __launch_bounds__(BLOCK) void batch_norm_evaluation(const float* __restrict__ running_mean,
                                                                          const float* __restrict__ running_variance,
                                                                          unsigned channels, float* __restrict__ mean,
                                                                          float* __restrict__ rest,
                                                                          float* __restrict__ inverse) {
    GRID_STRIDE_LOOP(c, channels) {
        mean[c] = running_mean[c];
        rest[c] = 0.0f;
        inverse[c] = inverse_deviation(static_cast<double>(running_variance[c]));
    }
}

__device__ __forceinline__ float normalise(float x, float mean, float rest, float inverse, float gamma, float beta,
                                           unsigned relu) {
    const float factor = gamma * inverse;
    const float y = fmaf(x - mean, factor, fmaf(-rest, factor, beta));
    return relu && y < 0.0f ? 0.0f : y;
}

// y = fma(x - mean, gamma * inverse, beta - rest * gamma * inverse), then the ReLU where `relu` is not 0.
// Reads E bytes per element, writes E; the (C) vectors come from cache. Overwrites y; y may be x.
template <class T>
__device__ __forceinline__ void batch_norm_forward_body(const T* x, const float* mean, const float* rest,
                                                        const float* inverse, const float* gamma, const float* beta,
                                                        T* y, u64 rows, unsigned channels, unsigned relu) {
    constexpr unsigned N = WIDTH<T>;
    if (channels % N == 0 && aligned<N>(x, mean, rest, inverse, gamma, beta, y)) {
        const unsigned lanes = channels / N;
        GRID_STRIDE_LOOP(i, rows * lanes) {
            const unsigned c = divide(i, lanes).remainder;
            Pack<N> v = load_pack<N>(x, i);
            const Pack<N> m = load_pack<N>(mean, c), r = load_pack<N>(rest, c), s = load_pack<N>(inverse, c);
            const Pack<N> g = load_pack<N>(gamma, c), b = load_pack<N>(beta, c);
            for (unsigned e = 0; e < N; ++e) {
                v.at[e] = normalise(v.at[e], m.at[e], r.at[e], s.at[e], g.at[e], b.at[e], relu);
            }
            store_pack(y, i, v);
        }
        return;
    }
    GRID_STRIDE_LOOP(i, rows * channels) {
        const unsigned c = divide(i, channels).remainder;
        store(y, i, normalise(load(x, i), mean[c], rest[c], inverse[c], gamma[c], beta[c], relu));
    }
}

template <class T>
struct BackwardTerms {
    const T *x, *dy;
    const float* mean;
    unsigned channels;
    __device__ __forceinline__ void operator()(u64 row, unsigned c, float* t) const {
        const u64 i = row * channels + c;
        t[0] = load(dy, i);
        t[1] = t[0] * (load(x, i) - mean[c]);
    }
};

// parts[0, slice, c] = sum of dy, parts[1, slice, c] = sum of dy * (x - mean) over the slice's rows.
// Reads 2E bytes per element. Overwrites parts (2, slices, C) f64.
template <class T>
__device__ __forceinline__ void batch_norm_backward_parts_body(const T* x, const T* dy, const float* mean, u64 rows,
                                                               unsigned channels, unsigned slices, double* parts) {
    column_parts<2>(rows, channels, slices, parts, BackwardTerms<T>{x, dy, mean, channels});
}

struct BackwardFinish {
    double count;
    const float *rest, *inverse;
    float *dgamma, *dbeta, *level, *slope;
    __device__ __forceinline__ void operator()(unsigned c, const double* sums) const {
        const double scale = inverse[c], r = rest[c];
        const double moment = sums[1] - r * sums[0];
        const double steepness = -(moment * scale * scale / count);
        dgamma[c] = static_cast<float>(moment * scale);
        dbeta[c] = static_cast<float>(sums[0]);
        level[c] = static_cast<float>(sums[0] / count + r * steepness);
        slope[c] = static_cast<float>(steepness);
    }
};

// dgamma = sum of dy * z, dbeta = sum of dy; level and slope (scratch) are what `batch_norm_backward` needs of them.
// Reads 8 bytes per part and 8 per channel, writes 16 per channel. Overwrites all four.
extern "C" __global__ __launch_bounds__(BLOCK) void batch_norm_backward_sums(
    const double* __restrict__ parts, const float* __restrict__ rest, const float* __restrict__ inverse, u64 rows,
    unsigned channels, unsigned slices, float* __restrict__ dgamma, float* __restrict__ dbeta,
    float* __restrict__ level, float* __restrict__ slope) {
    column_sums<2>(parts, channels, slices,
                   BackwardFinish{static_cast<double>(rows), rest, inverse, dgamma, dbeta, level, slope});
}

__device__ __forceinline__ float differentiate(float x, float dy, float mean, float inverse, float gamma, float level,
                                               float slope) {
    return gamma * inverse * fmaf(x - mean, slope, dy - level);
}

// dx = gamma * inverse * (dy - dbeta / rows - z * dgamma / rows) = gamma * inverse * fma(x - mean, slope, dy - level):
// the rest of the mean is in level.
// Reads 2E bytes per element, writes E; the (C) vectors come from cache. Overwrites dx; dx may be dy.
template <class T>
__device__ __forceinline__ void batch_norm_backward_body(const T* x, const T* dy, const float* mean,
                                                         const float* inverse, const float* gamma, const float* level,
                                                         const float* slope, T* dx, u64 rows, unsigned channels) {
    constexpr unsigned N = WIDTH<T>;
    if (channels % N == 0 && aligned<N>(x, dy, mean, inverse, gamma, level, slope, dx)) {
        const unsigned lanes = channels / N;
        GRID_STRIDE_LOOP(i, rows * lanes) {
            const unsigned c = divide(i, lanes).remainder;
            const Pack<N> v = load_pack<N>(x, i), m = load_pack<N>(mean, c), s = load_pack<N>(inverse, c);
            const Pack<N> g = load_pack<N>(gamma, c), l = load_pack<N>(level, c), p = load_pack<N>(slope, c);
            Pack<N> d = load_pack<N>(dy, i);
            for (unsigned e = 0; e < N; ++e) {
                d.at[e] = differentiate(v.at[e], d.at[e], m.at[e], s.at[e], g.at[e], l.at[e], p.at[e]);
            }
            store_pack(dx, i, d);
        }
        return;
    }
    GRID_STRIDE_LOOP(i, rows * channels) {
        const unsigned c = divide(i, channels).remainder;
        store(dx, i, differentiate(load(x, i), load(dy, i), mean[c], inverse[c], gamma[c], level[c], slope[c]));
    }
}

EXPORT(batch_norm_mean_parts,
       (const T* __restrict__ x, u64 rows, unsigned channels, unsigned slices, double* __restrict__ parts),
       (x, rows, channels, slices, parts))
EXPORT(batch_norm_variance_parts,
       (const T* __restrict__ x, const float* __restrict__ mean, u64 rows, unsigned channels, unsigned slices,
        double* __restrict__ parts),
       (x, mean, rows, channels, slices, parts))
EXPORT(batch_norm_forward,
       (const T* x, const float* __restrict__ mean, const float* __restrict__ rest, const float* __restrict__ inverse,
        const float* __restrict__ gamma, const float* __restrict__ beta, T* y, u64 rows, unsigned channels,
        unsigned relu),
       (x, mean, rest, inverse, gamma, beta, y, rows, channels, relu))
EXPORT(batch_norm_backward_parts,
       (const T* __restrict__ x, const T* __restrict__ dy, const float* __restrict__ mean, u64 rows, unsigned channels,
        unsigned slices, double* __restrict__ parts),
       (x, dy, mean, rows, channels, slices, parts))
EXPORT(batch_norm_backward,
       (const T* __restrict__ x, const T* dy, const float* __restrict__ mean, const float* __restrict__ inverse,
        const float* __restrict__ gamma, const float* __restrict__ level, const float* __restrict__ slope, T* dx,
        u64 rows, unsigned channels),
       (x, dy, mean, inverse, gamma, level, slope, dx, rows, channels))
