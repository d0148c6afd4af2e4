// The types that activations and their gradients have in memory: f32 and bf16. All arithmetic is in f32: a kernel
// widens what it reads, which is exact, and rounds what it writes once, to nearest, ties to even.
//
// A kernel over elements is a template, NAME_body, on their type, T. A line at the end of its file exports it for every
// type; README.md has the names that it gets. E in comments: the bytes of an element, 4 or 2.
#pragma once

#include "common.cuh"

// The upper half of an f32.
struct bf16 {
    unsigned short bits;
};

// Round to nearest, ties to even; NaN stays NaN (made quiet), infinities stay.
__device__ __forceinline__ unsigned round_to_bf16(float x) {
    const unsigned bits = __float_as_uint(x);
    return is_nan(x) ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

// Element i.
__device__ __forceinline__ float load(const float* p, u64 i) { return p[i]; }
__device__ __forceinline__ float load(const bf16* p, u64 i) {
    return __uint_as_float(static_cast<unsigned>(p[i].bits) << 16);
}

__device__ __forceinline__ void store(float* p, u64 i, float value) { p[i] = value; }
__device__ __forceinline__ void store(bf16* p, u64 i, float value) {
    p[i].bits = static_cast<unsigned short>(round_to_bf16(value));
}

// N neighbours, in f32.
template <unsigned N>
struct Pack {
    float at[N];
};

// The pack of a type: as many elements as 16 bytes hold.
template <class T>
constexpr unsigned WIDTH = 16 / sizeof(T);

template <unsigned N, class T>
constexpr unsigned ALIGNMENT = N * sizeof(T) < 16 ? N * sizeof(T) : 16;

// Whether packs of N elements can be read from and written to all these pointers. A null pointer can.
template <unsigned N, class... T>
__device__ __forceinline__ bool aligned(const T*... pointers) {
    return ((reinterpret_cast<u64>(pointers) & (ALIGNMENT<N, T> - 1)) | ...) == 0;
}

// Elements index * N .. index * N + N - 1, 16 bytes at a time (8 where N bf16 are no more). `p` is aligned.
template <unsigned N>
__device__ __forceinline__ Pack<N> load_pack(const float* p, u64 index) {
    Pack<N> pack;
    for (unsigned quad = 0; quad < N / 4; ++quad) {
        const float4 v = load4(p, index * (N / 4) + quad);
        pack.at[4 * quad] = v.x;
        pack.at[4 * quad + 1] = v.y;
        pack.at[4 * quad + 2] = v.z;
        pack.at[4 * quad + 3] = v.w;
    }
    return pack;
}

template <unsigned N>
__device__ __forceinline__ void store_pack(float* p, u64 index, const Pack<N>& pack) {
    for (unsigned quad = 0; quad < N / 4; ++quad) {
        const float* v = pack.at + 4 * quad;
        store4(p, index * (N / 4) + quad, make_float4(v[0], v[1], v[2], v[3]));
    }
}

// Two bf16 in one word, the first in its low half.
__device__ __forceinline__ void widen_pair(unsigned pair, float* values) {
    values[0] = __uint_as_float(pair << 16);
    values[1] = __uint_as_float(pair & 0xffff0000u);
}

__device__ __forceinline__ unsigned round_pair(const float* values) {
    return round_to_bf16(values[0]) | round_to_bf16(values[1]) << 16;
}

template <unsigned N>
__device__ __forceinline__ Pack<N> load_pack(const bf16* p, u64 index) {
    static_assert(N == 4 || N == 8, "8 or 16 bytes");
    Pack<N> pack;
    if constexpr (N == 4) {
        const uint2 v = reinterpret_cast<const uint2*>(p)[index];
        widen_pair(v.x, pack.at);
        widen_pair(v.y, pack.at + 2);
    } else {
        const uint4 v = reinterpret_cast<const uint4*>(p)[index];
        widen_pair(v.x, pack.at);
        widen_pair(v.y, pack.at + 2);
        widen_pair(v.z, pack.at + 4);
        widen_pair(v.w, pack.at + 6);
    }
    return pack;
}

template <unsigned N>
__device__ __forceinline__ void store_pack(bf16* p, u64 index, const Pack<N>& pack) {
    static_assert(N == 4 || N == 8, "8 or 16 bytes");
    const float* v = pack.at;
    if constexpr (N == 4) {
        reinterpret_cast<uint2*>(p)[index] = make_uint2(round_pair(v), round_pair(v + 2));
    } else {
        reinterpret_cast<uint4*>(p)[index] =
            make_uint4(round_pair(v), round_pair(v + 2), round_pair(v + 4), round_pair(v + 6));
    }
}

// f of every element of packs.
template <class F, unsigned N, class... P>
__device__ __forceinline__ Pack<N> map_packs(F f, const Pack<N>& first, const P&... others) {
    Pack<N> y;
    for (unsigned e = 0; e < N; ++e) y.at[e] = f(first.at[e], others.at[e]...);
    return y;
}

// y[i] = f(x[i], ...) for every i below n, in packs where the pointers allow. y may be an x.
template <class T, class F, class... X>
__device__ __forceinline__ void map_elements(T* y, u64 n, F f, const X*... x) {
    constexpr unsigned N = WIDTH<T>;
    const u64 packs = aligned<N>(y, x...) ? n / N : 0;
    GRID_STRIDE_LOOP(i, packs) { store_pack(y, i, map_packs(f, load_pack<N>(x, i)...)); }
    const u64 done = N * packs;
    GRID_STRIDE_LOOP(i, n - done) { store(y, done + i, f(load(x, done + i)...)); }
}

// EXPORT(name, (parameters), (arguments)): the kernels of name_body. In the parameters, T is the type of the elements.
#define EXPORT(name, parameters, arguments) EXPORT_WITHIN(name, (BLOCK), parameters, arguments)

// The same with launch bounds of its own.
#define EXPORT_WITHIN(name, bounds, parameters, arguments)          \
    inline namespace f32_elements {                                 \
    using T = float;                                                \
    KERNEL(name, name##_body, bounds, parameters, arguments)        \
    }                                                               \
    inline namespace bf16_elements {                                \
    using T = bf16;                                                 \
    KERNEL(name##_bf16, name##_body, bounds, parameters, arguments) \
    }

// EXPORT_PAIRS(name, (parameters), (arguments)): the kernels of name_body from every type, From, to every type, To.
#define EXPORT_PAIRS(name, parameters, arguments)                                   \
    EXPORT_PAIR(name, name##_body, float, float, parameters, arguments)             \
    EXPORT_PAIR(name##_f32_bf16, name##_body, float, bf16, parameters, arguments)   \
    EXPORT_PAIR(name##_bf16_f32, name##_body, bf16, float, parameters, arguments)   \
    EXPORT_PAIR(name##_bf16, name##_body, bf16, bf16, parameters, arguments)

#define EXPORT_PAIR(name, body, from, to, parameters, arguments) \
    inline namespace from##_to_##to {                            \
    using From = from;                                           \
    using To = to;                                               \
    KERNEL(name, body, (BLOCK), parameters, arguments)           \
    }

#define KERNEL(name, body, bounds, parameters, arguments) \
    extern "C" __global__ __launch_bounds__ bounds void name parameters { body arguments; }
