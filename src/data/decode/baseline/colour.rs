//! YCbCr to RGB, as libjpeg-turbo's vector code computes it (jdcolext-avx2.asm), to the bits of jdcolor.c.

use std::arch::x86_64::*;

/// Pixels that are converted together: rows of samples go on for as many beyond their end.
pub(super) const GROUP: usize = 32;

/// `value` with 16 fractional bits.
const fn fix(value: f64) -> i32 {
    (value * 65_536.0 + 0.5) as i32
}

/// Where the bytes of red, green and blue (second index) of 16 pixels go in each of their three vectors (first index).
const MASKS: [[[i8; 16]; 3]; 3] = {
    let mut masks = [[[-1; 16]; 3]; 3];
    let mut byte = 0;
    while byte < 48 {
        masks[byte / 16][byte % 3][byte % 16] = (byte / 3) as i8;
        byte += 1;
    }
    masks
};

/// A row of pixels (width, 3). The samples go on to a multiple of [`GROUP`].
#[target_feature(enable = "avx2")]
pub(super) fn ycc_to_rgb(y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    let (y, cb, cr) = (y.as_chunks().0, cb.as_chunks().0, cr.as_chunks().0);
    let (groups, last) = rgb.as_chunks_mut::<{ 3 * GROUP }>();
    let whole = groups.len();
    for (((y, cb), cr), out) in y.iter().zip(cb).zip(cr).zip(groups) {
        group(y, cb, cr, out);
    }
    if !last.is_empty() {
        let mut out = [0; 3 * GROUP];
        group(&y[whole], &cb[whole], &cr[whole], &mut out);
        last.copy_from_slice(&out[..last.len()]);
    }
}

/// A row of pixels (width, 3) of equal samples.
pub(super) fn grey_to_rgb(y: &[u8], rgb: &mut [u8]) {
    let (pixels, _) = rgb.as_chunks_mut::<3>();
    for (pixel, &sample) in pixels.iter_mut().zip(y) {
        *pixel = [sample; 3];
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn group(y: &[u8; GROUP], cb: &[u8; GROUP], cr: &[u8; GROUP], rgb: &mut [u8; 3 * GROUP]) {
    // SAFETY: the arrays are as long as a vector.
    let (y, cb, cr) = unsafe {
        (
            _mm256_loadu_si256(y.as_ptr().cast()),
            _mm256_loadu_si256(cb.as_ptr().cast()),
            _mm256_loadu_si256(cr.as_ptr().cast()),
        )
    };
    let zero = _mm256_setzero_si256();
    let low = half(
        _mm256_unpacklo_epi8(y, zero),
        _mm256_unpacklo_epi8(cb, zero),
        _mm256_unpacklo_epi8(cr, zero),
    );
    let high = half(
        _mm256_unpackhi_epi8(y, zero),
        _mm256_unpackhi_epi8(cb, zero),
        _mm256_unpackhi_epi8(cr, zero),
    );
    // Each half of a vector has 16 pixels.
    let channels = [
        _mm256_packus_epi16(low[0], high[0]),
        _mm256_packus_epi16(low[1], high[1]),
        _mm256_packus_epi16(low[2], high[2]),
    ];
    for (part, masks) in MASKS.iter().enumerate() {
        let mut bytes = zero;
        for (channel, mask) in channels.iter().zip(masks) {
            // SAFETY: the mask is as long as the vector.
            let mask = unsafe { _mm_loadu_si128(mask.as_ptr().cast()) };
            let placed = _mm256_shuffle_epi8(*channel, _mm256_broadcastsi128_si256(mask));
            bytes = _mm256_or_si256(bytes, placed);
        }
        // SAFETY: `part` is at most 2, so both stores of 16 bytes end within the 96.
        unsafe {
            let at = rgb.as_mut_ptr().add(16 * part);
            _mm_storeu_si128(at.cast(), _mm256_castsi256_si128(bytes));
            _mm_storeu_si128(at.add(48).cast(), _mm256_extracti128_si256::<1>(bytes));
        }
    }
}

/// Red, green and blue of samples of 16 bits, not clamped.
#[inline]
#[target_feature(enable = "avx2")]
fn half(y: __m256i, cb: __m256i, cr: __m256i) -> [__m256i; 3] {
    let centre = _mm256_set1_epi16(128);
    let (cb, cr) = (_mm256_sub_epi16(cb, centre), _mm256_sub_epi16(cr, centre));
    // R = Y + 1.402 Cr, B = Y + 1.772 Cb: what is beyond whole numbers is multiplied.
    let red = _mm256_add_epi16(cr, times(cr, fix(1.402) - fix(1.0)));
    let blue = _mm256_add_epi16(_mm256_add_epi16(cb, cb), times(cb, fix(1.772) - fix(2.0)));
    // G = Y - 0.34414 Cb + 0.28586 Cr - Cr.
    let factors = _mm256_set1_epi32((-fix(0.34414) & 0xFFFF) | (fix(1.0) - fix(0.71414)) << 16);
    let one_half = _mm256_set1_epi32(1 << 15);
    let low = _mm256_madd_epi16(_mm256_unpacklo_epi16(cb, cr), factors);
    let high = _mm256_madd_epi16(_mm256_unpackhi_epi16(cb, cr), factors);
    let green = _mm256_packs_epi32(
        _mm256_srai_epi32::<16>(_mm256_add_epi32(low, one_half)),
        _mm256_srai_epi32::<16>(_mm256_add_epi32(high, one_half)),
    );
    [
        _mm256_add_epi16(y, red),
        _mm256_add_epi16(y, _mm256_sub_epi16(green, cr)),
        _mm256_add_epi16(y, blue),
    ]
}

/// Numbers times a fraction with 16 bits, rounded.
#[inline]
#[target_feature(enable = "avx2")]
fn times(numbers: __m256i, fraction: i32) -> __m256i {
    let twice = _mm256_add_epi16(numbers, numbers);
    let product = _mm256_mulhi_epi16(twice, _mm256_set1_epi16(fraction as i16));
    _mm256_srai_epi16::<1>(_mm256_add_epi16(product, _mm256_set1_epi16(1)))
}
