//! One sample from compressed bytes to the square of pixels that a view shows, to several of them, or to all of its pixels.

use super::augment::View;
use super::decode::{DecodeError, Decoder, Region};
use super::preprocess::Exif;
use super::resample::Resampler;
use super::resize::{rescaled, square, whole};
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
    /// A worker that has allocated nothing yet. It sees files as they are stored, whatever EXIF says.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with a rule for EXIF orientation.
    pub fn with_exif(exif: Exif) -> Self {
        Self {
            decoder: Decoder::with_exif(exif),
            ..Self::default()
        }
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

    /// Width and height of the image once it is rescaled to `short_side`, from its header.
    pub fn rescaled_size(&mut self, bytes: &[u8], short_side: usize) -> Result<(usize, usize), DecodeError> {
        let header = self.decoder.header(bytes)?;
        Ok(rescaled(header.width, header.height, short_side))
    }

    /// Decodes the image and rescales all of it to `short_side` into `out` (H, W, 3), RGB8, whose size is that of
    /// [`Worker::rescaled_size`]. Returns what is odd about an image that decodes nevertheless.
    pub fn render_whole(
        &mut self,
        bytes: &[u8],
        short_side: usize,
        out: &mut [u8],
    ) -> Result<Option<String>, DecodeError> {
        let image = self.decoder.open(bytes)?;
        let part = whole(short_side, image.header().width, image.header().height);
        let window = self
            .decoder
            .decode_region(image, part.reach(), &mut self.window)?;
        self.resampler.resample(&self.window, window.region, part, out);
        Ok(window.warning)
    }

    /// Decodes the image once and resamples what each of `views` shows into `out` (views, crop, crop, 3). As
    /// [`Worker::render`] does, to the bit, one by one.
    pub fn render_views(
        &mut self,
        bytes: &[u8],
        views: &[View],
        crop: usize,
        out: &mut [u8],
    ) -> Result<Option<String>, DecodeError> {
        let image = self.decoder.open(bytes)?;
        let (width, height) = (image.header().width, image.header().height);
        let all = Region::whole(width, height);
        let window = self.decoder.decode_region(image, all, &mut self.window)?;
        for (view, out) in views.iter().zip(out.chunks_exact_mut(3 * crop * crop)) {
            let part = square(view, crop, width, height);
            self.resampler.resample(&self.window, window.region, part, out);
        }
        Ok(window.warning)
    }

    /// The time spent since the last call of this function.
    pub fn take_times(&mut self) -> RenderTimes {
        std::mem::take(&mut self.times)
    }
}

#[cfg(test)]
mod tests;
