//! Fresh random images for the tests of this floor. Every assertion names the seed; `VERYDEEP_TEST_SEED=N` repeats it.

use crate::rng::{Purpose, Stream};

/// A seed that differs from run to run, unless `VERYDEEP_TEST_SEED` fixes it.
pub(crate) fn fresh_seed() -> u64 {
    if let Ok(seed) = std::env::var("VERYDEEP_TEST_SEED") {
        return seed.parse().expect("VERYDEEP_TEST_SEED is a number");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("the clock is after 1970").as_nanos() as u64
}

/// The numbers of one test.
pub(crate) fn stream(seed: u64) -> Stream {
    Stream::new(seed, 0, Purpose::Synthetic, 0)
}

/// A number in `from..=to`.
pub(crate) fn between(stream: &mut Stream, from: usize, to: usize) -> usize {
    from + stream.below((to - from + 1) as u64) as usize
}

/// RGB8 (height, width, 3): coloured waves, a few hard edges and some noise, so that every frequency occurs.
pub(crate) fn picture(stream: &mut Stream, width: usize, height: usize) -> Vec<u8> {
    let waves: Vec<[f64; 3]> = (0..3)
        .map(|_| {
            [
                stream.uniform() * 0.6 - 0.3,
                stream.uniform() * 0.6 - 0.3,
                stream.uniform() * 6.0,
            ]
        })
        .collect();
    let edge = [stream.uniform() * width as f64, stream.uniform() * height as f64];
    let mut rgb = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let beyond = (x as f64 > edge[0]) != (y as f64 > edge[1]);
            for wave in &waves {
                let phase = wave[0] * x as f64 + wave[1] * y as f64 + wave[2];
                let noise = f64::from(stream.next_u32() % 32);
                let level = 100.0 + 60.0 * phase.sin() + noise + if beyond { 40.0 } else { 0.0 };
                rgb.push(level as u8);
            }
        }
    }
    rgb
}

/// A lossless file of any pixels.
pub(crate) fn png(pixels: &[u8], width: usize, height: usize, color: png::ColorType) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().expect("a valid PNG header");
    writer
        .write_image_data(pixels)
        .expect("pixels of the announced size");
    writer.finish().expect("a vector can be written to");
    bytes
}

/// How a test JPEG is compressed.
#[cfg(feature = "turbojpeg")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct JpegKind {
    /// Chroma subsampling.
    pub(crate) subsampling: turbojpeg::Subsamp,
    /// Progressive rather than baseline.
    pub(crate) progressive: bool,
    /// RGB or CMYK input.
    pub(crate) pixels: turbojpeg::PixelFormat,
}

/// A JPEG of quality 92.
#[cfg(feature = "turbojpeg")]
pub(crate) fn jpeg(pixels: &[u8], width: usize, height: usize, kind: JpegKind) -> Vec<u8> {
    let mut compressor = turbojpeg::Compressor::new().expect("a compressor");
    compressor
        .set_subsamp(kind.subsampling)
        .expect("a known subsampling");
    compressor.set_quality(92).expect("a quality of 1 to 100");
    compressor
        .set_progressive(kind.progressive)
        .expect("a known parameter");
    let image = turbojpeg::Image {
        pixels,
        width,
        pitch: width * kind.pixels.size(),
        height,
        format: kind.pixels,
    };
    compressor
        .compress_to_vec(image)
        .expect("an image that can be compressed")
}
