//! Finishing the input: pixels as the loader delivers them to what the first layer reads.
//!
//! pixels: (N, H, W, 3), u8, RGB; y: (N, 3, H, W), channels in the order of the preprocessing.

use super::{Real, at, grid};
use crate::data::preprocess::{Flip, Preprocess};
use crate::plan::Batch;
use crate::shape::Chw;

/// `y[n,c,i,j] = fma(pixel + colour, scale[c], shift[c])`, where pixel and colour shift are those of the colour that
/// channel c shows, at row i and column j, or column `W - 1 - j` of a mirrored image. Overwrites y.
pub(super) fn forward<T: Real>(preprocess: &Preprocess, shape: Chw, batch: Batch<'_>, y: &mut [T]) {
    for (n, rgb) in grid(batch.flips.len(), 3) {
        let c = preprocess.channel_of(rgb);
        let (scale, shift) = (T::from(preprocess.scale[c]), T::from(preprocess.shift[c]));
        let colour = T::from(batch.colours[n][rgb]);
        for (i, j) in grid(shape.h, shape.w) {
            let column = if batch.flips[n] == Flip::Mirror {
                shape.w - 1 - j
            } else {
                j
            };
            let pixel = batch.pixels[((n * shape.h + i) * shape.w + column) * 3 + rgb];
            let pixel = T::from(f32::from(pixel));
            y[at(shape, n, c, i, j)] = (pixel + colour).fma(scale, shift);
        }
    }
}
