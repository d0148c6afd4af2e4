//! Chroma to full size by a triangle: libjpeg's fancy upsampling (`h2v1_fancy_upsample` and `h2v2_fancy_upsample` in
//! jdsample.c), whose sums need no more than 16 bits.

/// One row twice as wide: 3/4 of the nearer sample and 1/4 of the further, rounded up and down by turns.
#[inline(always)]
pub(super) fn across(row: &[u8], sums: &mut Vec<u16>, out: &mut [u8]) {
    let sums = framed(sums, row.len());
    for (sum, &sample) in sums[1..].iter_mut().zip(row) {
        *sum = u16::from(sample);
    }
    widen::<2, 1, 2>(sums, row.len(), out);
}

/// As `across`, of a row between `near` and `far`: 3/4 of the one and 1/4 of the other.
#[inline(always)]
pub(super) fn across_and_down(near: &[u8], far: &[u8], sums: &mut Vec<u16>, out: &mut [u8]) {
    let sums = framed(sums, near.len());
    for ((sum, &near), &far) in sums[1..].iter_mut().zip(near).zip(far) {
        *sum = 3 * u16::from(near) + u16::from(far);
    }
    widen::<4, 8, 7>(sums, near.len(), out);
}

/// Room for `len` sums and one on either side.
fn framed(sums: &mut Vec<u16>, len: usize) -> &mut [u16] {
    if sums.len() < len + 2 {
        sums.resize(len + 2, 0);
    }
    &mut sums[..len + 2]
}

/// Two samples of each of `len` sums, the first of which is `sums[1]`: towards the one before, with `LEFT` added for
/// rounding, and towards the one behind, with `RIGHT`.
#[inline(always)]
fn widen<const SHIFT: u16, const LEFT: u16, const RIGHT: u16>(sums: &mut [u16], len: usize, out: &mut [u8]) {
    sums[0] = sums[1];
    sums[len + 1] = sums[len];
    let (before, here, behind) = (&sums[..len], &sums[1..=len], &sums[2..]);
    let (out, _) = out[..2 * len].as_chunks_mut::<2>();
    for (((out, &before), &here), &behind) in out.iter_mut().zip(before).zip(here).zip(behind) {
        let (left, right) = (
            (3 * here + before + LEFT) >> SHIFT,
            (3 * here + behind + RIGHT) >> SHIFT,
        );
        *out = (left | right << 8).to_le_bytes();
    }
}
