// CUDA C++ for g++: what kernels may use, for code that runs as fibers of the simulator (simt.rs).
#pragma once

typedef unsigned long long cudasim_u64;

extern "C" {
struct cudasim_dim3 { unsigned x, y, z; };
// The running thread's place.
struct cudasim_place { cudasim_dim3 thread, block, block_size, grid_size; };
extern cudasim_place cudasim_here;
// All threads of the block meet here; `site` tells barriers apart.
void cudasim_barrier(const char* file, int line);
// An atomic update of `bytes` bytes is about to happen.
void cudasim_atomic(void* address, unsigned bytes);

// One kernel of a module: what cuModuleGetFunction and cuLaunchKernel need.
struct cudasim_kernel {
    const char* name;
    void (*call)(void** arguments);
    unsigned count;
    const unsigned* sizes;
};
}

#define threadIdx (cudasim_here.thread)
#define blockIdx (cudasim_here.block)
#define blockDim (cudasim_here.block_size)
#define gridDim (cudasim_here.grid_size)

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) alignas(n)
// The blocks of a launch run one after the other on one thread of the host, so shared memory is that thread's: the
// simulator knows where thread-local storage lies and checks it as shared memory.
#define __shared__ static thread_local
#define __syncthreads() cudasim_barrier(__FILE__, __LINE__)

// Vector types: aligned to their size, accessed in one piece.
#define CUDASIM_VECTOR2(T, name) struct alignas(2 * sizeof(T)) name##2 { T x, y; }; \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }
#define CUDASIM_VECTOR4(T, name) struct alignas(4 * sizeof(T)) name##4 { T x, y, z, w; }; \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDASIM_VECTOR2(float, float)
CUDASIM_VECTOR4(float, float)
CUDASIM_VECTOR2(unsigned, uint)
CUDASIM_VECTOR4(unsigned, uint)
CUDASIM_VECTOR4(int, int)
CUDASIM_VECTOR4(unsigned char, uchar)
CUDASIM_VECTOR4(unsigned short, ushort)

#define fmaf __builtin_fmaf
#define fmaxf __builtin_fmaxf
#define fminf __builtin_fminf
#define sqrtf __builtin_sqrtf
#define sqrt __builtin_sqrt

// The same bits, read as another type.
template <class To, class From>
static inline To cudasim_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    __builtin_memcpy(&to, &from, sizeof(to));
    return to;
}
static inline unsigned __float_as_uint(float x) { return cudasim_bits<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return cudasim_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return cudasim_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return cudasim_bits<double>(x); }

#define CUDASIM_UNSEEN __attribute__((no_sanitize("thread"), noinline))
template <class T>
CUDASIM_UNSEEN static T atomicAdd(T* address, T value) {
    cudasim_atomic(address, sizeof(T));
    const T old = *address;
    *address = old + value;
    return old;
}
template <class T>
CUDASIM_UNSEEN static T atomicOr(T* address, T value) {
    cudasim_atomic(address, sizeof(T));
    const T old = *address;
    *address = old | value;
    return old;
}

// Calls a kernel with arguments by address, as cuLaunchKernel has them.
template <unsigned... I> struct cudasim_indices {};
template <unsigned N, unsigned... I> struct cudasim_count : cudasim_count<N - 1, N - 1, I...> {};
template <unsigned... I> struct cudasim_count<0, I...> { typedef cudasim_indices<I...> type; };
template <class F> struct cudasim_signature;
template <class... A> struct cudasim_signature<void (*)(A...)> {
    static constexpr unsigned count = sizeof...(A);
    static constexpr unsigned sizes[sizeof...(A) + 1] = {static_cast<unsigned>(sizeof(A))..., 0};
    template <void (*kernel)(A...), unsigned... I>
    CUDASIM_UNSEEN static void spread(void** arguments, cudasim_indices<I...>) {
        kernel(*static_cast<A*>(arguments[I])...);
    }
    template <void (*kernel)(A...)>
    CUDASIM_UNSEEN static void call(void** arguments) {
        spread<kernel>(arguments, typename cudasim_count<sizeof...(A)>::type());
    }
};
#define CUDASIM_KERNEL(k) \
    {#k, &cudasim_signature<decltype(&k)>::template call<&k>, cudasim_signature<decltype(&k)>::count, \
     cudasim_signature<decltype(&k)>::sizes}
