//! Resampling by a triangle: Pillow's `BILINEAR`, cut out of the rescaled image without making the rest of it.
//!
//! The result is within half a level, and a few hundredths for rounding on the way, of the exact weighted mean
//! (`tests::the_definition_is_met`). Weights are computed in f64, once per image and axis; after that there is only
//! integer arithmetic, so every processor gives the same bits.
//!
//! Rows go through the horizontal pass one by one, into a ring of just as many as one output row needs: the
//! intermediate image stays in the nearest cache. It has 7 bits below the unit of a pixel.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod axis;
mod portable;

use super::decode::Region;
use axis::Axis;
pub use axis::Span;
use std::ops::RangeFrom;

/// Fractional bits of what lies between the passes: 255 times 128 still fits 16 signed bits.
const FRACTION: u32 = 7;

/// Bytes that the horizontal pass may read beyond the end of a row: taps with a weight of zero, and what else the
/// loads hold.
const SLACK: usize = 16;

/// Values of a row that the vertical pass makes at a time.
const BLOCK: usize = 32;

/// The part of a rescaled image to make, as one span for each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Columns.
    pub across: Span,
    /// Rows.
    pub down: Span,
}

impl Part {
    /// The pixels of the source image that the part is made of.
    pub fn reach(&self) -> Region {
        let (columns, rows) = (self.across.reach(), self.down.reach());
        Region {
            x: columns.start,
            y: rows.start,
            width: columns.len(),
            height: rows.len(),
        }
    }
}

/// Which kernels run. All give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Portable,
    /// Made by [`Path::best`] only, after asking the processor.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Path {
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Self::Avx2;
        }
        Self::Portable
    }
}

/// Resamples; holds weights and scratch memory, which grow to what the largest image needs.
#[derive(Debug)]
pub struct Resampler {
    path: Path,
    across: Axis,
    down: Axis,
    #[cfg(target_arch = "x86_64")]
    table: avx2::Table,
    /// A row of the source that too little follows, and [`SLACK`].
    padded: Vec<u8>,
    /// Intermediate rows (rows, stride), row `y` of the source at `y % rows`.
    ring: Vec<i16>,
}

impl Default for Resampler {
    fn default() -> Self {
        Self::with(Path::best())
    }
}

impl Resampler {
    /// A resampler for the instruction set of this processor; the result does not depend on it.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(path: Path) -> Self {
        Self {
            path,
            across: Axis::default(),
            down: Axis::default(),
            #[cfg(target_arch = "x86_64")]
            table: avx2::Table::default(),
            padded: Vec::new(),
            ring: Vec::new(),
        }
    }

    /// Fills `out` (rows, columns, 3) with `part` of the rescaled image. `pixels` (height, width, 3) are those of
    /// `window`, a part of the source image.
    ///
    /// # Panics
    ///
    /// If the window does not hold all that [`Part::reach`] names, or `pixels` or `out` have another size.
    pub fn resample(&mut self, pixels: &[u8], window: Region, part: Part, out: &mut [u8]) {
        let (pitch, values) = (3 * window.width, 3 * part.across.len);
        assert_eq!(pixels.len(), window.height * pitch, "pixels of the window");
        assert_eq!(out.len(), part.down.len * values, "pixels of the part");
        if out.is_empty() {
            return;
        }
        self.across.weigh(part.across, window.x, window.width);
        self.down.weigh(part.down, window.y, window.height);
        #[cfg(target_arch = "x86_64")]
        self.table.fill(&self.across);
        // The horizontal pass writes four pixels at a time, and a little more.
        let stride = values.next_multiple_of(BLOCK) + BLOCK;
        let rows = self.down.taps();
        self.ring.resize(rows * stride, 0);

        let mut next = 0;
        for (index, out) in out.chunks_exact_mut(values).enumerate() {
            let first = self.down.starts()[index];
            for row in next.max(first)..first + rows {
                self.horizontal(&pixels[row * pitch..], pitch, row % rows * stride..);
            }
            next = first + rows;
            let ring = Ring {
                values: &self.ring,
                stride,
                first: first % rows,
            };
            self.vertical(index, ring, out);
        }
    }

    /// One row of `pitch` bytes, the first of `pixels`, to its place in the ring.
    fn horizontal(&mut self, pixels: &[u8], pitch: usize, place: RangeFrom<usize>) {
        let pixels = if pixels.len() < pitch + SLACK {
            self.padded.clear();
            self.padded.extend_from_slice(&pixels[..pitch]);
            self.padded.resize(pitch + SLACK, 0);
            &self.padded
        } else {
            pixels
        };
        let out = &mut self.ring[place];
        match self.path {
            Path::Portable => portable::horizontal(&self.across, pixels, out),
            // SAFETY: `Path::Avx2` is made only where the processor has AVX2.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { avx2::horizontal(&self.across, &self.table, pixels, out) },
        }
    }

    /// One row of the result.
    fn vertical(&self, index: usize, ring: Ring<'_>, out: &mut [u8]) {
        match self.path {
            Path::Portable => portable::vertical(&self.down, index, ring, out),
            // SAFETY: `Path::Avx2` is made only where the processor has AVX2.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { avx2::vertical(&self.down, index, ring, out) },
        }
    }
}

/// The intermediate rows that one output row is made of.
#[derive(Clone, Copy)]
struct Ring<'a> {
    /// (rows, stride).
    values: &'a [i16],
    stride: usize,
    /// Where the row of the first tap is.
    first: usize,
}

impl Ring<'_> {
    /// The row of a tap; taps beyond the last, whose weight is zero, get the last one's.
    #[inline(always)]
    fn row(&self, tap: usize) -> &[i16] {
        let rows = self.values.len() / self.stride;
        let slot = self.first + tap.min(rows - 1);
        let slot = if slot < rows { slot } else { slot - rows };
        &self.values[slot * self.stride..][..self.stride]
    }
}

#[cfg(test)]
mod tests;
