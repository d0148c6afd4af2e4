//! The two passes in plain code: the definition of every bit.

use super::axis::Axis;
use super::{BLOCK, FRACTION, Ring};

/// One row: `pixels` (columns, 3) of the window to `out` (outputs, 3) with [`FRACTION`] fractional bits.
pub(super) fn horizontal(axis: &Axis, pixels: &[u8], out: &mut [i16]) {
    let shift = axis.precision() - FRACTION;
    for (index, (&start, out)) in axis.starts().iter().zip(out.chunks_exact_mut(3)).enumerate() {
        let mut sums = [1i32 << (shift - 1); 3];
        let taps = pixels[3 * start..].chunks_exact(3);
        for (&weight, pixel) in axis.weights(index).iter().zip(taps) {
            for c in 0..3 {
                sums[c] += i32::from(weight) * i32::from(pixel[c]);
            }
        }
        for c in 0..3 {
            out[c] = (sums[c] >> shift) as i16;
        }
    }
}

/// Output row `index` from the intermediate rows that it is made of.
pub(super) fn vertical(axis: &Axis, index: usize, ring: Ring<'_>, out: &mut [u8]) {
    let Shifts { pair, last } = Shifts::new(axis.precision());
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let mut sums = [1i32 << (last - 1); BLOCK];
        for (tap, weights) in axis.weights(index).chunks_exact(2).enumerate() {
            let row = |tap: usize| &ring.row(tap)[block * BLOCK..][..BLOCK];
            let (upper, lower) = (row(2 * tap), row(2 * tap + 1));
            let [first, second] = [i32::from(weights[0]), i32::from(weights[1])];
            for ((sum, &upper), &lower) in sums.iter_mut().zip(upper).zip(lower) {
                *sum += (first * i32::from(upper) + second * i32::from(lower)) >> pair;
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = (sum >> last) as u8;
        }
    }
}

/// How the vertical pass keeps its sums inside 32 bits.
pub(super) struct Shifts {
    /// Bits dropped from each pair of products.
    pub(super) pair: u32,
    /// Bits dropped from their sum, after half of the last one was added.
    pub(super) last: u32,
}

impl Shifts {
    /// For weights of `precision` fractional bits.
    pub(super) fn new(precision: u32) -> Self {
        // Values are below 2^15 and weights sum to 2^precision: 16 bits are left for what is summed.
        let pair = precision.saturating_sub(16);
        Self {
            pair,
            last: precision - pair + FRACTION,
        }
    }
}
