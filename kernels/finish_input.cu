// From 8-bit pixels to the network's input. Equal to data/preprocess.rs to the bit.
#include "common.cuh"

// Channels of the input as stored; those from the third on are 0.
constexpr unsigned INPUT_CHANNELS = 8;

// One affine map per channel of the input. Passed by value; the twin of a #[repr(C)] struct in backend/cuda/launch/.
struct InputMap {
    float scale[3];
    float shift[3];
    unsigned reversed;  // not 0: the channels of the input are blue, green, red
};

// input[c] = fma(pixel[rgb] + colour[rgb], scale[c], shift[c]), c = rgb or 2 - rgb, of the mirrored image where the
// sample's flip is not 0.
// pixels: (N, H, W, 3) u8, RGB; flips: (N) u8; colours: (N, 3) f32, RGB; out: (N, H, W, 8). Reads 3 bytes per pixel,
// writes 32. Overwrites out, the padding with 0.
// Launched by finish_input in backend/cuda/launch/.
extern "C" __global__ __launch_bounds__(BLOCK) void finish_input(const unsigned char* __restrict__ pixels,
                                                                 const unsigned char* __restrict__ flips,
                                                                 const float* __restrict__ colours,
                                                                 float* __restrict__ out, u64 batch, unsigned height,
                                                                 unsigned width, const InputMap map) {
    const bool vector = aligned16(out);
    GRID_STRIDE_LOOP(i, batch * height * width) {
        const Quotient column = divide(i, width);
        const u64 n = divide(column.quotient, height).quotient;
        const unsigned from = flips[n] ? width - 1 - column.remainder : column.remainder;
        const unsigned char* pixel = pixels + (column.quotient * width + from) * 3;
        const float* colour = colours + n * 3;
        const float red = pixel[0] + colour[0], green = pixel[1] + colour[1], blue = pixel[2] + colour[2];
        const float4 first = make_float4(fmaf(map.reversed ? blue : red, map.scale[0], map.shift[0]),
                                         fmaf(green, map.scale[1], map.shift[1]),
                                         fmaf(map.reversed ? red : blue, map.scale[2], map.shift[2]), 0.0f);
        if (vector) {
            store4(out, 2 * i, first);
            store4(out, 2 * i + 1, make_float4(0.0f, 0.0f, 0.0f, 0.0f));
        } else {
            float* to = out + i * INPUT_CHANNELS;
            to[0] = first.x;
            to[1] = first.y;
            to[2] = first.z;
            for (unsigned c = 3; c < INPUT_CHANNELS; ++c) to[c] = 0.0f;
        }
    }
}
