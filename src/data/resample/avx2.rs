//! The two passes with AVX2: the arithmetic of [`portable`](super::portable), bit for bit.
//!
//! Both work on pairs of taps, which one instruction multiplies and adds.

use super::axis::Axis;
use super::portable::Shifts;
use super::{BLOCK, FRACTION, Ring};
use std::arch::x86_64::*;

/// Output pixels that the horizontal pass makes at a time.
const QUAD: usize = 4;

/// Weights of the horizontal pass in the order in which it reads them: (quads, pairs of taps, 4, 4). The third axis
/// are the outputs 0, 2, 1, 3 of the quad; the fourth repeats a pair of weights for red, green, blue and nothing.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Pairs of 16-bit weights.
    weights: Vec<[i32; 16]>,
    /// The first byte of each output's taps, for whole quads; ascending.
    offsets: Vec<[usize; QUAD]>,
    /// Pairs of taps: 1, or an even number.
    pairs: usize,
}

impl Table {
    /// Brings the weights into order.
    pub(super) fn fill(&mut self, axis: &Axis) {
        self.pairs = axis.padded() / 2;
        self.weights.clear();
        self.offsets.clear();
        let starts = axis.starts();
        for first in (0..starts.len()).step_by(QUAD) {
            // A last quad that is not full repeats the last output, whose copies are not read.
            let outputs: [usize; QUAD] = std::array::from_fn(|i| (first + i).min(starts.len() - 1));
            self.offsets.push(outputs.map(|output| 3 * starts[output]));
            let weights = outputs.map(|output| axis.weights(output));
            for pair in 0..self.pairs {
                let words = weights.map(|weights| word(weights, pair));
                self.weights
                    .push(std::array::from_fn(|i| words[[0, 2, 1, 3][i / 4]]));
            }
        }
    }
}

/// Two weights as the multiplication wants them.
fn word(weights: &[i16], pair: usize) -> i32 {
    let [first, second] = [weights[2 * pair], weights[2 * pair + 1]];
    i32::from(first as u16) | i32::from(second) << 16
}

/// As [`portable::horizontal`](super::portable::horizontal). `pixels` goes on for [`SLACK`](super::SLACK) bytes beyond its row.
#[target_feature(enable = "avx2")]
pub(super) fn horizontal(axis: &Axis, table: &Table, pixels: &[u8], out: &mut [i16]) {
    match table.pairs {
        1 => row::<1>(axis, table, pixels, out),
        2 => row::<2>(axis, table, pixels, out),
        _ => row::<0>(axis, table, pixels, out),
    }
}

/// `PAIRS` of taps, or as many as the table has where that is 0.
#[target_feature(enable = "avx2")]
fn row<const PAIRS: usize>(axis: &Axis, table: &Table, pixels: &[u8], out: &mut [i16]) {
    let pairs = if PAIRS == 0 { table.pairs } else { PAIRS };
    let shift = axis.precision() - FRACTION;
    let half = _mm256_set1_epi32(1 << (shift - 1));
    let shift = _mm_cvtsi32_si128(shift as i32);
    let both = |mask: __m128i| _mm256_broadcastsi128_si256(mask);
    // Bytes of four pixels to 16-bit pairs (r0, r1), (g0, g1), (b0, b1), nothing; and the same of the other two.
    let near = both(_mm_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
    ));
    let far = both(_mm_setr_epi8(
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
    ));
    // Drops the fourth channel of two pixels of 16-bit channels.
    let squeeze = both(_mm_setr_epi8(
        0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, -1, -1, -1, -1,
    ));

    let last = table.offsets.last().map_or(0, |offsets| offsets[QUAD - 1]);
    assert!(last + 6 * pairs.saturating_sub(2) + 16 <= pixels.len());
    assert!(table.offsets.len() * 3 * QUAD + 2 <= out.len());
    assert_eq!(table.weights.len(), table.offsets.len() * pairs);
    let weights = table.weights.chunks_exact(pairs);
    for (quad, (offsets, weights)) in table.offsets.iter().zip(weights).enumerate() {
        let taps = |low: usize, high: usize, step: usize| {
            // SAFETY: offsets ascend, so both loads of 16 bytes end where the assertion says or before.
            unsafe {
                let at = |i: usize| pixels.as_ptr().add(offsets[i] + 12 * step).cast::<__m128i>();
                let low = _mm256_castsi128_si256(_mm_loadu_si128(at(low)));
                _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(at(high)))
            }
        };
        let (mut even, mut odd) = (half, half);
        for (step, weights) in weights.chunks(2).enumerate() {
            let (from_even, from_odd) = (taps(0, 2, step), taps(1, 3, step));
            for (weights, mask) in weights.iter().zip([near, far]) {
                // SAFETY: the two loads of 8 words lie in the array of 16.
                let (for_even, for_odd) = unsafe {
                    let words = weights.as_ptr().cast::<__m256i>();
                    (_mm256_loadu_si256(words), _mm256_loadu_si256(words.add(1)))
                };
                let product = |taps, weights| _mm256_madd_epi16(_mm256_shuffle_epi8(taps, mask), weights);
                even = _mm256_add_epi32(even, product(from_even, for_even));
                odd = _mm256_add_epi32(odd, product(from_odd, for_odd));
            }
        }
        let packed = _mm256_packs_epi32(_mm256_sra_epi32(even, shift), _mm256_sra_epi32(odd, shift));
        let values = _mm256_shuffle_epi8(packed, squeeze);
        // SAFETY: a quad is 12 values; the second store ends 2 beyond that, which the assertion allows for the last
        // quad, and which the next one overwrites.
        unsafe {
            let target = out.as_mut_ptr().add(3 * QUAD * quad);
            _mm_storeu_si128(target.cast(), _mm256_castsi256_si128(values));
            _mm_storeu_si128(target.add(6).cast(), _mm256_extracti128_si256::<1>(values));
        }
    }
}

/// As [`portable::vertical`](super::portable::vertical).
#[target_feature(enable = "avx2")]
pub(super) fn vertical(axis: &Axis, index: usize, ring: Ring<'_>, out: &mut [u8]) {
    match axis.padded() {
        2 => column::<1>(axis, index, ring, out),
        4 => column::<2>(axis, index, ring, out),
        _ => column::<0>(axis, index, ring, out),
    }
}

/// `PAIRS` of taps, or as many as the axis has where that is 0.
#[target_feature(enable = "avx2")]
fn column<const PAIRS: usize>(axis: &Axis, index: usize, ring: Ring<'_>, out: &mut [u8]) {
    let Shifts { pair, last } = Shifts::new(axis.precision());
    let half = _mm256_set1_epi32(1 << (last - 1));
    let last = _mm_cvtsi32_si128(last as i32);
    let pair_shift = _mm_cvtsi32_si128(pair as i32);
    let weights = axis.weights(index);
    let pairs = if PAIRS == 0 { weights.len() / 2 } else { PAIRS };
    assert!(out.len().next_multiple_of(BLOCK) <= ring.stride);
    for block in (0..out.len()).step_by(BLOCK) {
        let mut sums = [half; 4];
        for tap in 0..pairs {
            let (upper, lower) = (ring.row(2 * tap), ring.row(2 * tap + 1));
            let weights = _mm256_set1_epi32(word(weights, tap));
            for part in 0..2 {
                // SAFETY: rows have `stride` values, and the assertion says that whole blocks fit.
                let (upper, lower) = unsafe {
                    let at = |row: &[i16]| row.as_ptr().add(block + 16 * part).cast::<__m256i>();
                    (_mm256_loadu_si256(at(upper)), _mm256_loadu_si256(at(lower)))
                };
                let pairs = [
                    _mm256_unpacklo_epi16(upper, lower),
                    _mm256_unpackhi_epi16(upper, lower),
                ];
                for (sum, pairs) in sums[2 * part..].iter_mut().zip(pairs) {
                    let product = _mm256_madd_epi16(pairs, weights);
                    // Few taps never have weights so fine that sums must be kept small.
                    let product = if PAIRS == 0 {
                        _mm256_sra_epi32(product, pair_shift)
                    } else {
                        product
                    };
                    *sum = _mm256_add_epi32(*sum, product);
                }
            }
        }
        let [a, b, c, d] = sums.map(|sum| _mm256_sra_epi32(sum, last));
        let bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(bytes);
        match out[block..].first_chunk_mut::<BLOCK>() {
            // SAFETY: the store fills the array.
            Some(out) => unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes) },
            None => {
                let mut all = [0u8; BLOCK];
                // SAFETY: the store fills the array.
                unsafe { _mm256_storeu_si256(all.as_mut_ptr().cast(), bytes) };
                let out = &mut out[block..];
                out.copy_from_slice(&all[..out.len()]);
            }
        }
    }
}
