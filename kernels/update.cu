// The update rule (Krizhevsky et al. 2012, section 5), over one array of the flat vectors in whatever order they are
// stored. Equal to backend/cpu/elementwise.rs to the bit.
#include "element.cuh"

struct UpdateRule {
    float rate, decay, factor, batch;
    __device__ __forceinline__ void operator()(float& w, float& v, float g) const {
        const float t = fmaf(decay, w, g / batch);
        v = fmaf(factor, v, -(rate * t));
        w += v;
    }
};

// t = fma(decay, w, g / batch); v = fma(factor, v, -(rate * t)); w = w + v, with the step's learning rate times
// rate_multiplier as rate.
// weights, momentum, gradient: n f32; copy: null, or n bf16, the new weights rounded. Reads 12n bytes, writes 8n (10n
// with a copy). Updates weights and momentum in place, overwrites copy.
// Launched by update_parameters in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void update_parameters(float* __restrict__ weights,
                                                                      float* __restrict__ momentum,
                                                                      const float* __restrict__ gradient,
                                                                      bf16* __restrict__ copy, u64 n,
                                                                      const StepParams* __restrict__ params,
                                                                      float rate_multiplier, float decay, float factor,
                                                                      float batch) {
    const UpdateRule rule{params->learning_rate * rate_multiplier, decay, factor, batch};
    const u64 quads = aligned<4>(weights, momentum, gradient, copy) ? n / 4 : 0;
    // Unrolled, it would spill on sm_100; as it is, 48 bytes a thread are under way.
#pragma unroll 1
    GRID_STRIDE_LOOP(i, quads) {
        Pack<4> w = load_pack<4>(weights, i), v = load_pack<4>(momentum, i);
        const Pack<4> g = load_pack<4>(gradient, i);
        for (unsigned e = 0; e < 4; ++e) rule(w.at[e], v.at[e], g.at[e]);
        store_pack(weights, i, w);
        store_pack(momentum, i, v);
        if (copy) store_pack(copy, i, w);
    }
    const u64 done = 4 * quads;
    GRID_STRIDE_LOOP(i, n - done) {
        float w = weights[done + i], v = momentum[done + i];
        rule(w, v, gradient[done + i]);
        weights[done + i] = w;
        momentum[done + i] = v;
        if (copy) store(copy, done + i, w);
    }
}

// r = fma(weight, g / micro_batches - r, r) for running statistics; g is the sum of the micro-batches' statistics.
// running, sums: n elements (channels; not worth vectors). Reads 8n bytes, writes 4n. Updates running in place.
// Launched by update_statistics in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void update_statistics(float* __restrict__ running,
                                                                      const float* __restrict__ sums, u64 n,
                                                                      float weight, float micro_batches) {
    GRID_STRIDE_LOOP(i, n) {
        const float r = running[i];
        running[i] = fmaf(weight, sums[i] / micro_batches - r, r);
    }
}
