// Between the logical layout, channels outside, and the device's, channels innermost.
//
// One pair of kernels for activations (N, C, H * W) <-> (N, H * W, pitch), filters (K, C, R * S) <-> (K, R * S, pitch)
// and the weights of a fully connected layer that follows a flattening, (O, C, H * W) <-> (O, H * W, C). Each from and
// to every type of elements; E of from is E_from, of to E_to.
#include "element.cuh"

// A block turns tiles of 32 channels by 32 pixels through shared memory, so that both sides are coalesced.
constexpr unsigned SIDE = 32;
constexpr unsigned ROWS = BLOCK / SIDE;

struct Tile {
    u64 batch;
    unsigned pixel, channel;
};

__device__ __forceinline__ unsigned sides(unsigned length) { return length / SIDE + (length % SIDE != 0); }

// Tile `item` of those that cover `channels` by `plane`, channels fastest.
__device__ __forceinline__ Tile tile_of(u64 item, unsigned channels, unsigned plane) {
    const Quotient channel = divide(item, sides(channels));
    const Quotient pixel = divide(channel.quotient, sides(plane));
    return {pixel.quotient, pixel.remainder * SIDE, channel.remainder * SIDE};
}

__device__ __forceinline__ u64 tiles(u64 batch, unsigned channels, unsigned plane) {
    return batch * sides(channels) * sides(plane);
}

// to[n, p, c] = from[n, c, p] for c below channels, 0 for c from there to pitch.
// Reads E_from * N * channels * plane bytes, writes E_to * N * pitch * plane. Overwrites to.
// Launched by nhwc_from_nchw in backend/cuda/launch/; blocks of BLOCK threads.
template <class From, class To>
__device__ __forceinline__ void nhwc_from_nchw_body(const From* from, To* to, u64 batch, unsigned channels,
                                                    unsigned plane, unsigned pitch) {
    __shared__ float values[SIDE][SIDE + 1];  // [channel][pixel]; the extra column keeps columns off one bank
    const unsigned x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    BLOCK_STRIDE_LOOP(item, tiles(batch, pitch, plane)) {
        const Tile at = tile_of(item, pitch, plane);
        for (unsigned row = y; row < SIDE; row += ROWS) {
            const unsigned c = at.channel + row;
            const unsigned p = at.pixel + x;
            const bool inside = c < channels && p < plane;
            values[row][x] = inside ? load(from, (at.batch * channels + c) * plane + p) : 0.0f;
        }
        __syncthreads();
        for (unsigned row = y; row < SIDE; row += ROWS) {
            const unsigned c = at.channel + x;
            const unsigned p = at.pixel + row;
            if (c < pitch && p < plane) store(to, (at.batch * plane + p) * pitch + c, values[x][row]);
        }
        __syncthreads();
    }
}

// to[n, c, p] = from[n, p, c] for c below channels; the padding up to pitch is not read.
// Reads E_from * N * channels * plane bytes, writes E_to * N * channels * plane. Overwrites to.
// Launched by nchw_from_nhwc in backend/cuda/launch/; blocks of BLOCK threads.
template <class From, class To>
__device__ __forceinline__ void nchw_from_nhwc_body(const From* from, To* to, u64 batch, unsigned channels,
                                                    unsigned plane, unsigned pitch) {
    __shared__ float values[SIDE][SIDE + 1];  // [pixel][channel]
    const unsigned x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    BLOCK_STRIDE_LOOP(item, tiles(batch, channels, plane)) {
        const Tile at = tile_of(item, channels, plane);
        for (unsigned row = y; row < SIDE; row += ROWS) {
            const unsigned c = at.channel + x;
            const unsigned p = at.pixel + row;
            if (c < channels && p < plane) values[row][x] = load(from, (at.batch * plane + p) * pitch + c);
        }
        __syncthreads();
        for (unsigned row = y; row < SIDE; row += ROWS) {
            const unsigned c = at.channel + row;
            const unsigned p = at.pixel + x;
            if (c < channels && p < plane) store(to, (at.batch * channels + c) * plane + p, values[x][row]);
        }
        __syncthreads();
    }
}

EXPORT_PAIRS(nhwc_from_nchw,
             (const From* __restrict__ from, To* __restrict__ to, u64 batch, unsigned channels, unsigned plane,
              unsigned pitch),
             (from, to, batch, channels, plane, pitch))
EXPORT_PAIRS(nchw_from_nhwc,
             (const From* __restrict__ from, To* __restrict__ to, u64 batch, unsigned channels, unsigned plane,
              unsigned pitch),
             (from, to, batch, channels, plane, pitch))
