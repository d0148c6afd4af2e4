// From 8-bit pixels to the network's input. Of f32 equal to data/preprocess.rs to the bit.
#include "element.cuh"

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
// writes 8E. Overwrites out, the padding with 0.
// Launched by finish_input in backend/cuda/launch/.
template <class T>
__device__ __forceinline__ void finish_input_body(const unsigned char* pixels, const unsigned char* flips,
                                                  const float* colours, T* out, u64 batch, unsigned height,
                                                  unsigned width, const InputMap& map) {
    const bool vector = aligned<INPUT_CHANNELS>(out);
    GRID_STRIDE_LOOP(i, batch * height * width) {
        const Quotient column = divide(i, width);
        const u64 n = divide(column.quotient, height).quotient;
        const unsigned from = flips[n] ? width - 1 - column.remainder : column.remainder;
        const unsigned char* pixel = pixels + (column.quotient * width + from) * 3;
        const float* colour = colours + n * 3;
        const float red = pixel[0] + colour[0], green = pixel[1] + colour[1], blue = pixel[2] + colour[2];
        Pack<INPUT_CHANNELS> input = {};
        input.at[0] = fmaf(map.reversed ? blue : red, map.scale[0], map.shift[0]);
        input.at[1] = fmaf(green, map.scale[1], map.shift[1]);
        input.at[2] = fmaf(map.reversed ? red : blue, map.scale[2], map.shift[2]);
        if (vector) {
            store_pack(out, i, input);
        } else {
            for (unsigned c = 0; c < INPUT_CHANNELS; ++c) store(out, i * INPUT_CHANNELS + c, input.at[c]);
        }
    }
}

EXPORT(finish_input,
       (const unsigned char* __restrict__ pixels, const unsigned char* __restrict__ flips,
        const float* __restrict__ colours, T* __restrict__ out, u64 batch, unsigned height, unsigned width,
        const InputMap map),
       (pixels, flips, colours, out, batch, height, width, map))
