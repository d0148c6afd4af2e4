// Sums over the rows of a matrix (rows, channels), one per channel, always in the same order, without atomics.
//
// In NHWC a row is a pixel. Stage one cuts the rows into `slices` and writes a partial sum (f64) per slice and channel;
// stage two adds the slices. The launcher derives `slices` from the shape alone, so results depend neither on the grid
// nor on the device:
//     groups = ceil(channels / 32);  slices = clamp(1024 / groups, 1, ceil(rows / 64))
// Partial sums: (sum, slice, channel) f64, sums * slices * channels of them.
#pragma once

#include "common.cuh"

// A block is 8 lanes of rows by 32 columns, so that a warp reads 128 contiguous bytes of f32, 64 of bf16.
constexpr unsigned COLUMNS = 32;
constexpr unsigned LANES = BLOCK / COLUMNS;
// Rows that a lane sums in f32 before the sum goes on in f64.
constexpr unsigned RUN = 64;
// Rows that a lane loads before it adds the first of them, so that many loads are under way.
constexpr unsigned BATCH = 8;

__device__ __forceinline__ unsigned column_groups(unsigned channels) {
    return channels / COLUMNS + (channels % COLUMNS != 0);
}

// The sum of the 8 lanes' values of this thread's column, lane 0 first, in every thread.
__device__ __forceinline__ double sum_lanes(double value) {
    __shared__ double values[BLOCK];
    const unsigned column = threadIdx.x % COLUMNS;
    __syncthreads();  // an earlier call's values have been read
    values[threadIdx.x] = value;
    __syncthreads();
    double sum = values[column];
    for (unsigned lane = 1; lane < LANES; ++lane) sum += values[lane * COLUMNS + column];
    return sum;
}

// run[s] += the addends of BATCH rows, LANES apart, first row first.
template <unsigned SUMS, class Terms>
__device__ __forceinline__ void add_rows(u64 row, unsigned channel, Terms terms, float* run) {
    float addends[BATCH][SUMS];
    for (unsigned i = 0; i < BATCH; ++i) terms(row + i * LANES, channel, addends[i]);
    for (unsigned i = 0; i < BATCH; ++i) {
        for (unsigned s = 0; s < SUMS; ++s) run[s] += addends[i][s];
    }
}

// Stage one, for blocks of BLOCK threads. `terms(row, channel, t)` sets t[0 .. SUMS] to a row's addends.
template <unsigned SUMS, class Terms>
__device__ __forceinline__ void column_parts(u64 rows, unsigned channels, unsigned slices, double* parts, Terms terms) {
    const unsigned lane = threadIdx.x / COLUMNS;
    const unsigned groups = column_groups(channels);
    const u64 slice_rows = (rows + slices - 1) / slices;
    BLOCK_STRIDE_LOOP(item, static_cast<u64>(groups) * slices) {
        const Quotient at = divide(item, groups);
        const unsigned channel = at.remainder * COLUMNS + threadIdx.x % COLUMNS;
        const u64 first = at.quotient * slice_rows;
        const u64 last = first + slice_rows < rows ? first + slice_rows : rows;
        double totals[SUMS] = {};
        if (channel < channels) {
            u64 row = first + lane;
            for (; row + (RUN - 1) * LANES < last; row += RUN * LANES) {
                float run[SUMS] = {};
                for (unsigned i = 0; i < RUN; i += BATCH) add_rows<SUMS>(row + i * LANES, channel, terms, run);
                for (unsigned s = 0; s < SUMS; ++s) totals[s] += run[s];
            }
            float rest[SUMS] = {};
            for (; row < last; row += LANES) {
                float addends[SUMS];
                terms(row, channel, addends);
                for (unsigned s = 0; s < SUMS; ++s) rest[s] += addends[s];
            }
            for (unsigned s = 0; s < SUMS; ++s) totals[s] += rest[s];
        }
        for (unsigned s = 0; s < SUMS; ++s) {
            const double total = sum_lanes(totals[s]);
            if (lane == 0 && channel < channels) {
                parts[(s * static_cast<u64>(slices) + at.quotient) * channels + channel] = total;
            }
        }
    }
}

// Stage two, for blocks of BLOCK threads: calls `finish(channel, sums)` once per channel.
template <unsigned SUMS, class Finish>
__device__ __forceinline__ void column_sums(const double* parts, unsigned channels, unsigned slices, Finish finish) {
    const unsigned lane = threadIdx.x / COLUMNS;
    BLOCK_STRIDE_LOOP(group, column_groups(channels)) {
        const unsigned channel = static_cast<unsigned>(group) * COLUMNS + threadIdx.x % COLUMNS;
        double sums[SUMS];
        for (unsigned s = 0; s < SUMS; ++s) {
            double total = 0.0;
            if (channel < channels) {
                for (unsigned slice = lane; slice < slices; slice += LANES) {
                    total += parts[(s * static_cast<u64>(slices) + slice) * channels + channel];
                }
            }
            sums[s] = sum_lanes(total);
        }
        if (lane == 0 && channel < channels) finish(channel, sums);
    }
}
