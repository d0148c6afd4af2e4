//! Copies of images with a border of zeros, so that every tap of a filter finds a pixel.

use super::super::super::layout::{Pixel, groups, lanes};
use super::super::super::tile::LANES;
use super::super::Shape;

/// Lanes of a pixel that are copied at a time where it has no more, as that of a coloured image.
const FEW_LANES: usize = 4;

/// A copy of some rows of an image: (C/16, rows + 2P, W + 2P, channels of the group), padding of channels left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Border {
    shape: Shape,
    /// Rows and columns of the copy.
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Border {
    /// Of `rows` rows of an image.
    pub(super) fn new(shape: Shape, rows: usize) -> Self {
        Self {
            shape,
            rows: rows + 2 * shape.pad(),
            columns: shape.width + 2 * shape.pad(),
        }
    }

    /// Elements of the copy.
    pub(super) fn len(&self) -> usize {
        self.shape.inputs * self.rows * self.columns
    }

    /// Channels of a group, and where it lies in the copy.
    pub(super) fn group(&self, group: usize) -> (usize, std::ops::Range<usize>) {
        let lanes = lanes(self.shape.inputs, group);
        let plane = self.rows * self.columns;
        let start = group * LANES * plane;
        (lanes, start..start + lanes * plane)
    }

    /// Copies one group of image `n` of x (N, C/16, H, W, 16); row 0 of the copy is row `first - P` of the image.
    pub(super) fn copy(&self, x: &[f32], n: usize, group: usize, first: usize, to: &mut [f32]) {
        let Shape {
            height,
            width,
            inputs,
            ..
        } = self.shape;
        let pad = self.shape.pad();
        let lanes = lanes(inputs, group);
        let x = &x[(n * groups(inputs) + group) * height * width * LANES..][..height * width * LANES];
        for (row, to) in to.chunks_exact_mut(self.columns * lanes).enumerate() {
            let source = (first + row).wrapping_sub(pad);
            if source >= height {
                to.fill(0.0);
                continue;
            }
            let x = x[source * width * LANES..][..width * LANES].as_chunks().0;
            to[..pad * lanes].fill(0.0);
            to[(pad + width) * lanes..].fill(0.0);
            let inside = &mut to[pad * lanes..(pad + width) * lanes];
            match lanes {
                ..=FEW_LANES => copy_pixels::<FEW_LANES>(x, lanes, inside),
                _ => copy_pixels::<LANES>(x, lanes, inside),
            }
        }
    }
}

/// Copies the first `lanes` lanes of every pixel, N of them at a time, at least as many: what is too much lies where the next
/// pixel goes, and a copy of a fixed length is no call.
fn copy_pixels<const N: usize>(pixels: &[Pixel], lanes: usize, to: &mut [f32]) {
    // Those whose N lanes lie inside.
    let whole = (to.len() + lanes).saturating_sub(N) / lanes;
    let (first, last) = pixels.split_at(whole.min(pixels.len()));
    for (p, pixel) in first.iter().enumerate() {
        let to: &mut [f32; N] = to[p * lanes..].first_chunk_mut().expect("a whole pixel");
        *to = *pixel.first_chunk().expect("at most 16 lanes");
    }
    let rest = to[first.len() * lanes..].chunks_exact_mut(lanes);
    for (to, pixel) in rest.zip(last) {
        to.copy_from_slice(&pixel[..lanes]);
    }
}
