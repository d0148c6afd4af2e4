//! Samples to pixels, row by row.

use super::colour;
use super::header::Sampling;
use super::upsample;
use crate::data::decode::Region;
use std::ops::Range;

/// Samples of a component: those of the last two rows of MCUs, row `y` at `y % rows`.
#[derive(Debug, Default)]
pub(super) struct Plane {
    samples: Vec<u8>,
    stride: usize,
    rows: usize,
}

impl Plane {
    /// Makes room for `rows` rows; samples that are there are of no use then.
    pub(super) fn resize(&mut self, width: usize, rows: usize) {
        // Pairs of blocks are written whole, and colours converted in groups.
        self.stride = (width + 8).next_multiple_of(colour::GROUP);
        self.rows = rows;
        if self.samples.len() < self.stride * rows {
            self.samples.resize(self.stride * rows, 0);
        }
    }

    /// All from row `y` and column `x` on, and the distance of rows.
    #[inline(always)]
    pub(super) fn from(&mut self, x: usize, y: usize) -> (&mut [u8], usize) {
        (&mut self.samples[y % self.rows * self.stride + x..], self.stride)
    }

    fn row(&self, y: usize) -> &[u8] {
        &self.samples[y % self.rows * self.stride..][..self.stride]
    }
}

/// The row up to which pixels can be made once row `row` of MCUs is there.
pub(super) fn ready(sampling: Sampling, row: usize, is_last: bool, region: Region) -> usize {
    let bottom = region.y + region.height;
    let end = 8 * sampling.blocks().1 * (row + 1);
    match sampling {
        _ if is_last => bottom,
        Sampling::Grey | Sampling::Full | Sampling::HalfWidth => end,
        // The last row looks at the chroma below.
        Sampling::HalfBoth => end - 1,
    }
}

/// Makes rows of pixels.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// A row of Cb and one of Cr at full width.
    chroma: [Vec<u8>; 2],
    sums: Vec<u16>,
}

impl Rows {
    /// Makes `rows` of the image in `rgb`, the pixels of `region`, whose first column is the first of the planes.
    #[target_feature(enable = "avx2")]
    pub(super) fn convert(
        &mut self,
        sampling: Sampling,
        planes: &[Plane; 3],
        region: Region,
        rows: Range<usize>,
        rgb: &mut [u8],
    ) {
        let pitch = 3 * region.width;
        let [luma, chroma @ ..] = planes;
        let width = region.width.div_ceil(2);
        for y in rows {
            let out = &mut rgb[(y - region.y) * pitch..][..pitch];
            match sampling {
                Sampling::Grey => {
                    colour::grey_to_rgb(luma.row(y), out);
                    continue;
                }
                Sampling::Full => {
                    colour::ycc_to_rgb(luma.row(y), chroma[0].row(y), chroma[1].row(y), out);
                    continue;
                }
                Sampling::HalfWidth => {
                    for (plane, wide) in chroma.iter().zip(&mut self.chroma) {
                        upsample::across(&plane.row(y)[..width], &mut self.sums, room(wide, luma.stride));
                    }
                }
                Sampling::HalfBoth => {
                    let near = y / 2;
                    let far = if y % 2 == 0 {
                        near.saturating_sub(1).max(region.y / 2)
                    } else {
                        (near + 1).min((region.y + region.height - 1) / 2)
                    };
                    for (plane, wide) in chroma.iter().zip(&mut self.chroma) {
                        let (near, far) = (&plane.row(near)[..width], &plane.row(far)[..width]);
                        upsample::across_and_down(near, far, &mut self.sums, room(wide, luma.stride));
                    }
                }
            }
            colour::ycc_to_rgb(luma.row(y), &self.chroma[0], &self.chroma[1], out);
        }
    }
}

/// At least `len` bytes.
fn room(bytes: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if bytes.len() < len {
        bytes.resize(len, 0);
    }
    bytes
}
