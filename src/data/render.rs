//! One sample from compressed bytes to the square of pixels that a view shows.

use super::augment::View;
use super::decode::{DecodeError, Decoder};
use super::resample::Resampler;
use super::resize::square;
use std::time::{Duration, Instant};

/// What one thread needs to render samples; reused from sample to sample.
#[derive(Debug, Default)]
pub struct Worker {
    decoder: Decoder,
    resampler: Resampler,
    window: Vec<u8>,
    times: RenderTimes,
}

/// Time spent in the stages of rendering.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RenderTimes {
    /// Compressed bytes to source pixels.
    pub decode: Duration,
    /// Source pixels to the crop.
    pub resize: Duration,
}

impl Worker {
    /// A worker that has allocated nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes the part of the image that `view` shows and resamples it into `out` (crop, crop, 3), RGB8.
    ///
    /// The view's flip and colour shift are not applied: they belong to [`finish`](super::preprocess::finish). The
    /// view's shorter side is at least `crop`. Returns what is odd about an image that decodes nevertheless.
    pub fn render(
        &mut self,
        bytes: &[u8],
        view: &View,
        crop: usize,
        out: &mut [u8],
    ) -> Result<Option<String>, DecodeError> {
        let start = Instant::now();
        let image = self.decoder.open(bytes)?;
        let (width, height) = (image.header().width, image.header().height);
        let part = square(view, crop, width, height);
        let window = self
            .decoder
            .decode_region(image, part.reach(), &mut self.window)?;
        let decoded = Instant::now();
        self.resampler.resample(&self.window, window.region, part, out);
        self.times.decode += decoded - start;
        self.times.resize += decoded.elapsed();
        Ok(window.warning)
    }

    /// The time spent since the last call of this function.
    pub fn take_times(&mut self) -> RenderTimes {
        std::mem::take(&mut self.times)
    }
}

#[cfg(test)]
mod tests;
