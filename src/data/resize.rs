//! Rescaling: the geometry of "shorter side S, then a crop", and the resampling of just that crop.
//!
//! The crop is resampled straight from the source pixels under it, so neither the rescaled image nor the rest of the
//! source is ever made. The filter is Pillow's `BILINEAR` (a triangle, widened when shrinking).

use super::augment::View;
use super::decode::{DecodeError, Region};
use fast_image_resize as fr;

/// Name and rules of the resampler. Part of the equivalence class: other rules give other bits.
pub const RESIZER: &str = "fast_image_resize 6 bilinear-antialiased";

/// Where a crop comes from in the source image, in source pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CropBox {
    /// Left edge.
    pub x: f64,
    /// Upper edge.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

/// Width and height after rescaling so that the shorter side is `short_side`: the longer one is
/// `floor(short_side * long / short)`.
pub fn rescaled(width: usize, height: usize, short_side: usize) -> (usize, usize) {
    let long_side = |long: usize, short: usize| (short_side as u64 * long as u64 / short as u64) as usize;
    if width <= height {
        (short_side, long_side(height, width))
    } else {
        (long_side(width, height), short_side)
    }
}

impl CropBox {
    /// The source of `view`'s square of `crop` pixels in an image of `width` x `height`.
    pub fn new(view: &View, crop: usize, width: usize, height: usize) -> Self {
        let (new_width, new_height) = rescaled(width, height, view.short_side);
        let (x, y) = view.place.offset((new_width - crop, new_height - crop));
        let step_x = width as f64 / new_width as f64;
        let step_y = height as f64 / new_height as f64;
        Self {
            x: x as f64 * step_x,
            y: y as f64 * step_y,
            width: crop as f64 * step_x,
            height: crop as f64 * step_y,
        }
    }

    /// The source pixels that resampling to `crop` pixels reads, in an image of `width` x `height`.
    pub fn reach(&self, crop: usize, width: usize, height: usize) -> Region {
        let range = |start: f64, len: f64, size: usize| {
            // The triangle reaches one pixel of the coarser grid; one more for rounding.
            let support = (len / crop as f64).max(1.0) + 1.0;
            let first = (start - support).floor().max(0.0) as usize;
            let end = ((start + len + support).ceil() as usize).min(size);
            (first, end - first)
        };
        let (x, columns) = range(self.x, self.width, width);
        let (y, rows) = range(self.y, self.height, height);
        Region {
            x,
            y,
            width: columns,
            height: rows,
        }
    }
}

/// Resamples crops; holds the library's scratch memory.
#[derive(Debug, Default)]
pub struct Resampler {
    resizer: fr::Resizer,
}

impl Resampler {
    /// A resampler for the instruction set of this processor; the result does not depend on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills `out` (crop, crop, 3) with `source`'s part of the image. `pixels` (height, width, 3) are those of
    /// `window`, which covers [`CropBox::reach`].
    pub fn resample(
        &mut self,
        pixels: &[u8],
        window: Region,
        source: CropBox,
        crop: usize,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let failed = |error: &dyn std::fmt::Display| DecodeError(format!("cannot be rescaled: {error}"));
        let (width, height) = (window.width as u32, window.height as u32);
        let from = fr::images::ImageRef::new(width, height, pixels, fr::PixelType::U8x3)
            .map_err(|error| failed(&error))?;
        let side = crop as u32;
        let mut to = fr::images::Image::from_slice_u8(side, side, out, fr::PixelType::U8x3)
            .map_err(|error| failed(&error))?;
        let x = source.x - window.x as f64;
        let y = source.y - window.y as f64;
        // Rounding may carry the far edges past the image by a part in 2^50, which the library refuses.
        let options = fr::ResizeOptions::new()
            .resize_alg(fr::ResizeAlg::Convolution(fr::FilterType::Bilinear))
            .crop(
                x,
                y,
                source.width.min(window.width as f64 - x),
                source.height.min(window.height as f64 - y),
            );
        self.resizer
            .resize(&from, &mut to, &options)
            .map_err(|error| failed(&error))
    }
}
