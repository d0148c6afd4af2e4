//! The accurate integer inverse DCT, two blocks at a time.
//!
//! The arithmetic is that of libjpeg-turbo's vector code (jidctint-avx2.asm), which differs from jidctint.c where
//! coefficients are absurd: dequantised values and the sums in front of a multiplication are taken modulo 2^16, what
//! a pass gives is clamped to 16 bits. The algorithm is Loeffler's, Ligtenberg's and Moschytz's, ICASSP 1989.

use super::entropy::{PAIR, Pair, place};
use super::header::Quantisers;
use std::arch::x86_64::*;

/// Fractional bits of the constants.
const CONST_BITS: i32 = 13;

/// Fractional bits between the passes.
const PASS1_BITS: i32 = 2;

/// A constant of the algorithm.
const fn fix(value: f64) -> i32 {
    (value * (1 << CONST_BITS) as f64 + 0.5) as i32
}

/// Bytes in a row of two blocks.
pub(super) const WIDTH: usize = 16;

/// A quantisation table in the order of a [`Pair`], once for each block.
pub(super) fn quantisers(table: Quantisers<'_>) -> [i16; PAIR] {
    let mut values = [0; PAIR];
    for zigzag in 0..64 {
        values[place(zigzag)] = table.at(zigzag);
        values[place(zigzag) + 8] = table.at(zigzag);
    }
    values
}

/// Transforms a pair of blocks into 8 rows of [`WIDTH`] samples, `stride` bytes apart, and clears it.
#[target_feature(enable = "avx2")]
pub(super) fn transform(pair: &mut Pair, quantisers: &[i16; PAIR], out: &mut [u8], stride: usize) {
    assert!(out.len() >= 7 * stride + WIDTH);
    let zero = _mm256_setzero_si256();
    let mut rows = [zero; 8];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: both arrays hold at least 8 rows of 16 numbers, each a vector.
        unsafe {
            let at = pair.as_mut_ptr().add(16 * i).cast();
            *row = _mm256_loadu_si256(at);
            _mm256_storeu_si256(at, zero);
        }
    }
    let coefficients = rows;
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: as above.
        let factors = unsafe { _mm256_loadu_si256(quantisers.as_ptr().add(16 * i).cast()) };
        *row = _mm256_mullo_epi16(*row, factors);
    }
    let dc = rows[0];
    let mut rows = pass::<{ CONST_BITS - PASS1_BITS }>(rows);
    without_ac(coefficients, dc, &mut rows);
    let rows = transpose(pass::<{ CONST_BITS + PASS1_BITS + 3 }>(transpose(rows)));
    let centre = _mm256_set1_epi8(-128);
    for i in 0..4 {
        let samples = _mm256_add_epi8(_mm256_packs_epi16(rows[2 * i], rows[2 * i + 1]), centre);
        let samples = _mm256_permute4x64_epi64::<0b11_01_10_00>(samples);
        // SAFETY: the assertion says that `out` goes on for 16 bytes from the start of the eighth row.
        unsafe {
            let at = out.as_mut_ptr().add(2 * i * stride);
            _mm_storeu_si128(at.cast(), _mm256_castsi256_si128(samples));
            _mm_storeu_si128(at.add(stride).cast(), _mm256_extracti128_si256::<1>(samples));
        }
    }
}

/// The vector code leaves the first pass out where only the first row of a block has coefficients, and then its
/// results are not clamped but taken modulo 2^16. `rows` are those of the first pass.
#[inline]
#[target_feature(enable = "avx2")]
fn without_ac(coefficients: [__m256i; 8], dc: __m256i, rows: &mut [__m256i; 8]) {
    let scaled = _mm256_slli_epi16::<PASS1_BITS>(dc);
    let fits = _mm256_cmpeq_epi16(_mm256_srai_epi16::<PASS1_BITS>(scaled), dc);
    if _mm256_movemask_epi8(fits) == -1 {
        return;
    }
    let mut any = _mm256_setzero_si256();
    for row in &coefficients[1..] {
        any = _mm256_or_si256(any, *row);
    }
    // Any coefficient of a block, in all words of its half.
    let any = _mm256_or_si256(any, _mm256_shuffle_epi32::<0b01_00_11_10>(any));
    let any = _mm256_or_si256(any, _mm256_shuffle_epi32::<0b10_11_00_01>(any));
    let none = _mm256_cmpeq_epi32(any, _mm256_setzero_si256());
    for row in rows {
        *row = _mm256_blendv_epi8(*row, scaled, none);
    }
}

/// 16 numbers of 32 bits: those of the lower and of the upper four elements of each half of a row.
#[derive(Clone, Copy)]
struct Wide(__m256i, __m256i);

impl Wide {
    /// Sums of products of two rows with two constants.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn products(a: __m256i, b: __m256i, by_a: i32, by_b: i32) -> Self {
        let constants = _mm256_set1_epi32((by_a & 0xFFFF) | by_b << 16);
        Self(
            _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), constants),
            _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), constants),
        )
    }

    /// A row times 2^[`CONST_BITS`].
    #[inline]
    #[target_feature(enable = "avx2")]
    fn scaled(a: __m256i) -> Self {
        let zero = _mm256_setzero_si256();
        Self(
            _mm256_srai_epi32::<{ 16 - CONST_BITS }>(_mm256_unpacklo_epi16(zero, a)),
            _mm256_srai_epi32::<{ 16 - CONST_BITS }>(_mm256_unpackhi_epi16(zero, a)),
        )
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(self, other: Self) -> Self {
        Self(
            _mm256_add_epi32(self.0, other.0),
            _mm256_add_epi32(self.1, other.1),
        )
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn sub(self, other: Self) -> Self {
        Self(
            _mm256_sub_epi32(self.0, other.0),
            _mm256_sub_epi32(self.1, other.1),
        )
    }

    /// A row again, without the lowest `SHIFT` bits, rounded and clamped.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn descale<const SHIFT: i32>(self) -> __m256i {
        let half = _mm256_set1_epi32(1 << (SHIFT - 1));
        _mm256_packs_epi32(
            _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(self.0, half)),
            _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(self.1, half)),
        )
    }
}

/// One dimension of the transform: element `i` of each result is made of the elements `i` of the rows.
#[inline]
#[target_feature(enable = "avx2")]
fn pass<const SHIFT: i32>(rows: [__m256i; 8]) -> [__m256i; 8] {
    // Even part.
    let (a, b) = (fix(0.541196100), fix(0.765366865));
    let outer = Wide::products(rows[2], rows[6], a + b, a);
    let inner = Wide::products(rows[2], rows[6], a, a - fix(1.847759065));
    let sum = Wide::scaled(_mm256_add_epi16(rows[0], rows[4]));
    let difference = Wide::scaled(_mm256_sub_epi16(rows[0], rows[4]));
    let (even_0, even_3) = (sum.add(outer), sum.sub(outer));
    let (even_1, even_2) = (difference.add(inner), difference.sub(inner));

    // Odd part.
    let z3 = _mm256_add_epi16(rows[7], rows[3]);
    let z4 = _mm256_add_epi16(rows[5], rows[1]);
    let z5 = fix(1.175875602);
    let with_3 = Wide::products(z3, z4, z5 - fix(1.961570560), z5);
    let with_4 = Wide::products(z3, z4, z5, z5 - fix(0.390180644));
    let (z1, z2) = (fix(0.899976223), fix(2.562915447));
    let odd_0 = Wide::products(rows[7], rows[1], -z1, fix(1.501321110) - z1).add(with_4);
    let odd_1 = Wide::products(rows[5], rows[3], -z2, fix(3.072711026) - z2).add(with_3);
    let odd_2 = Wide::products(rows[5], rows[3], fix(2.053119869) - z2, -z2).add(with_4);
    let odd_3 = Wide::products(rows[7], rows[1], fix(0.298631336) - z1, -z1).add(with_3);
    [
        even_0.add(odd_0).descale::<SHIFT>(),
        even_1.add(odd_1).descale::<SHIFT>(),
        even_2.add(odd_2).descale::<SHIFT>(),
        even_3.add(odd_3).descale::<SHIFT>(),
        even_3.sub(odd_3).descale::<SHIFT>(),
        even_2.sub(odd_2).descale::<SHIFT>(),
        even_1.sub(odd_1).descale::<SHIFT>(),
        even_0.sub(odd_0).descale::<SHIFT>(),
    ]
}

/// Exchanges rows and columns within both halves.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let (ab_low, ab_high) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi16(c, d), _mm256_unpackhi_epi16(c, d));
    let (ef_low, ef_high) = (_mm256_unpacklo_epi16(e, f), _mm256_unpackhi_epi16(e, f));
    let (gh_low, gh_high) = (_mm256_unpacklo_epi16(g, h), _mm256_unpackhi_epi16(g, h));
    let (up_01, up_23) = (
        _mm256_unpacklo_epi32(ab_low, cd_low),
        _mm256_unpackhi_epi32(ab_low, cd_low),
    );
    let (up_45, up_67) = (
        _mm256_unpacklo_epi32(ab_high, cd_high),
        _mm256_unpackhi_epi32(ab_high, cd_high),
    );
    let (down_01, down_23) = (
        _mm256_unpacklo_epi32(ef_low, gh_low),
        _mm256_unpackhi_epi32(ef_low, gh_low),
    );
    let (down_45, down_67) = (
        _mm256_unpacklo_epi32(ef_high, gh_high),
        _mm256_unpackhi_epi32(ef_high, gh_high),
    );
    [
        _mm256_unpacklo_epi64(up_01, down_01),
        _mm256_unpackhi_epi64(up_01, down_01),
        _mm256_unpacklo_epi64(up_23, down_23),
        _mm256_unpackhi_epi64(up_23, down_23),
        _mm256_unpacklo_epi64(up_45, down_45),
        _mm256_unpackhi_epi64(up_45, down_45),
        _mm256_unpacklo_epi64(up_67, down_67),
        _mm256_unpackhi_epi64(up_67, down_67),
    ]
}
