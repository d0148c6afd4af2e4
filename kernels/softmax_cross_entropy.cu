// Soft-max, cross-entropy and the rank of the true class. From equal scores the bits are those of backend/cpu/loss.rs
// (of NaN, any NaN): exponentials and logarithms are the ones of the crate libm, in f64, and sums run in class order.
//
// Scores x and dx: (N, classes) elements; posteriors y: (N, classes) f32; losses: (N) f32; labels: (N) u32, each below
// classes: the launcher's caller has checked.
#include "element.cuh"

// 2^k for -1022 <= k <= 1023.
__device__ __forceinline__ double power_of_two(int k) {
    return __longlong_as_double(static_cast<long long>(static_cast<u64>(1023 + k) << 52));
}

// The bits of `high`, then zeros, as a number.
__device__ __forceinline__ double from_high_word(unsigned high) {
    return __longlong_as_double(static_cast<long long>(static_cast<u64>(high) << 32));
}

// exp(x) for x <= 0 or NaN, as libm computes it (FreeBSD's e_exp.c):
// x = k ln 2 + r; exp(r) = 1 + r + r c / (2 - c) with c = r - r^2 (P1 + r^2 (P2 + ...)).
__device__ __forceinline__ double exp_of_negative(double x) {
    if (is_nan(x)) return x;
    if (x < -745.13321910194110842) return 0.0;
    const double size = -x;
    double high = x, low = 0.0;
    int k = 0;
    if (size >= from_high_word(0x3fd62e43)) {  // more than ln 2 / 2
        // 1.5 ln 2 and more: the nearest integer, ties away from 0.
        k = size >= from_high_word(0x3ff0a2b2) ? static_cast<int>(1.44269504088896338700e+00 * x + -0.5) : -1;
        high = x - k * 6.93147180369123816490e-01;
        low = k * 1.90821492927058770002e-10;
        x = high - low;
    } else if (size < from_high_word(0x3e300001)) {  // 2^-28 and less
        return 1.0 + x;
    }
    const double square = x * x;
    double series = -1.65339022054652515390e-06 + square * 4.13813679705723846039e-08;
    series = 6.61375632143793436117e-05 + square * series;
    series = -2.77777777770155933842e-03 + square * series;
    series = 1.66666666666666019037e-01 + square * series;
    const double c = x - square * series;
    double y = 1.0 + (x * c / (2.0 - c) - low + high);
    if (k < -1022) {  // in two factors, of which only the last can leave the normal numbers
        y *= power_of_two(-969);
        k += 969;
    }
    return y * power_of_two(k);
}

// ln(x) for x >= 1 or NaN, as libm computes it (FreeBSD's e_log.c): x = 2^k (1 + f), 1 + f within sqrt(2) of 1;
// with s = f / (2 + f), ln(1 + f) = f - f^2 / 2 + s (f^2 / 2 + R(s^2)).
__device__ __forceinline__ double log_from_one(double x) {
    const u64 bits = static_cast<u64>(__double_as_longlong(x));
    if (bits >> 52 >= 0x7ff) return x;  // infinite or NaN
    if (x == 1.0) return 0.0;
    const unsigned shifted = static_cast<unsigned>(bits >> 32) + (0x3ff00000 - 0x3fe6a09e);
    const int k = static_cast<int>(shifted >> 20) - 0x3ff;
    const u64 high = (shifted & 0x000fffff) + 0x3fe6a09e;
    const double f = __longlong_as_double(static_cast<long long>(high << 32 | (bits & 0xffffffff))) - 1.0;
    const double half_square = 0.5 * f * f;
    const double s = f / (2.0 + f);
    const double z = s * s;
    const double w = z * z;
    const double even = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    const double odd =
        z * (6.666666666666735130e-01 +
             w * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
    const double r = odd + even;
    const double dk = k;
    return s * (half_square + r) + dk * 1.90821492927058770002e-10 - half_square + f + dk * 6.93147180369123816490e-01;
}

// Exponentials that wait in shared memory for the one thread that adds them.
constexpr unsigned CHUNK = 4 * BLOCK;

// y[k] = exp(x[k] - max x) / sum of exp(x - max x); loss = ln sum - (x[label] - max x); rank = how many classes come
// before the true one: all but those with a lower score, or an equal one and a higher index. A NaN score or an infinite
// maximum makes y and loss NaN, and a NaN score ranks before the true class.
// A block per sample. x comes from device memory once and twice more from cache: reads E bytes per class, writes 4, and
// 12 per sample. Overwrites y, losses and ranks.
// Launched by softmax_cross_entropy_forward in backend/cuda/launch/; blocks of BLOCK threads.
template <class T>
__device__ __forceinline__ void softmax_cross_entropy_forward_body(const T* x, const unsigned* labels, float* y,
                                                                   float* losses, unsigned* ranks, u64 batch,
                                                                   unsigned classes) {
    __shared__ double exponentials[CHUNK];
    __shared__ double total;
    BLOCK_STRIDE_LOOP(n, batch) {
        const T* scores = x + n * classes;
        const unsigned label = labels[n];
        const float target = load(scores, label);
        float largest = -__uint_as_float(0x7f800000);  // -infinity; NaN never replaces it
        unsigned before = 0;
        for (unsigned k = threadIdx.x; k < classes; k += BLOCK) {
            const float score = load(scores, k);
            largest = fmaxf(largest, score);
            const bool after = k == label || score < target || (score == target && k > label);
            before += after ? 0 : 1;
        }
        const double max = block_reduce(largest, Max());
        const unsigned rank = block_reduce(before, Add());

        double sum = 0.0;  // of thread 0
        for (unsigned start = 0; start < classes; start += CHUNK) {
            const unsigned count = classes - start < CHUNK ? classes - start : CHUNK;
            for (unsigned k = threadIdx.x; k < count; k += BLOCK) {
                exponentials[k] = exp_of_negative(load(scores, start + k) - max);
            }
            __syncthreads();
            if (threadIdx.x == 0) {
                for (unsigned k = 0; k < count; ++k) sum += exponentials[k];
            }
            __syncthreads();
        }
        if (threadIdx.x == 0) {
            total = sum;
            losses[n] = static_cast<float>(log_from_one(sum) - (target - max));
            ranks[n] = rank;
        }
        __syncthreads();
        for (unsigned k = threadIdx.x; k < classes; k += BLOCK) {
            y[n * classes + k] = static_cast<float>(exp_of_negative(load(scores, k) - max) / total);
        }
        __syncthreads();  // everyone has read `total`
    }
}

// dx[k] = y[k] - (1 where k = label, else 0): the gradient of the SUM of the losses.
// Reads 4 bytes per element (and the labels), writes E. Overwrites dx; dx may be y where both are f32.
// Launched by softmax_cross_entropy_backward in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void softmax_cross_entropy_backward_body(const float* y, const unsigned* labels, T* dx,
                                                                    u64 batch, unsigned classes) {
    GRID_STRIDE_LOOP(i, batch * classes) {
        const Quotient at = divide(i, classes);
        store(dx, i, at.remainder == labels[at.quotient] ? y[i] - 1.0f : y[i]);
    }
}

EXPORT_WITHIN(softmax_cross_entropy_forward, (BLOCK, 4),
              (const T* __restrict__ x, const unsigned* __restrict__ labels, float* __restrict__ y,
               float* __restrict__ losses, unsigned* __restrict__ ranks, u64 batch, unsigned classes),
              (x, labels, y, losses, ranks, batch, classes))
EXPORT(softmax_cross_entropy_backward,
       (const float* y, const unsigned* __restrict__ labels, T* dx, u64 batch, unsigned classes),
       (y, labels, dx, batch, classes))
