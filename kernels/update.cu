// The update rule (Krizhevsky et al. 2012, section 5), over one array of the flat vectors in whatever order they are
// stored. Equal to backend/cpu/elementwise.rs to the bit.
#include "common.cuh"

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
// weights, momentum, gradient: n elements. Reads 12n bytes, writes 8n. Updates weights and momentum in place.
// Launched by update_parameters in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void update_parameters(float* __restrict__ weights,
                                                                      float* __restrict__ momentum,
                                                                      const float* __restrict__ gradient, u64 n,
                                                                      const StepParams* __restrict__ params,
                                                                      float rate_multiplier, float decay, float factor,
                                                                      float batch) {
    const UpdateRule rule{params->learning_rate * rate_multiplier, decay, factor, batch};
    const u64 quads = aligned16(weights, momentum, gradient) ? n / 4 : 0;
    GRID_STRIDE_LOOP(i, quads) {
        float4 w = load4(weights, i), v = load4(momentum, i);
        const float4 g = load4(gradient, i);
        rule(w.x, v.x, g.x);
        rule(w.y, v.y, g.y);
        rule(w.z, v.z, g.z);
        rule(w.w, v.w, g.w);
        store4(weights, i, w);
        store4(momentum, i, v);
    }
    const u64 done = 4 * quads;
    GRID_STRIDE_LOOP(i, n - done) { rule(weights[done + i], momentum[done + i], gradient[done + i]); }
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
