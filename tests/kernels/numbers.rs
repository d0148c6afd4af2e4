//! Random sizes and values.

use super::device::Bench;
use super::draw::{Draw, singles};

/// Numbers of many magnitudes and both signs, one in 16 of them special: zeros, infinities, NaN, the smallest and the
/// largest.
pub(crate) fn numbers(draw: &mut Draw, count: usize) -> Vec<f32> {
    const SPECIAL: [f32; 8] = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MIN_POSITIVE / 8.0,
        f32::MIN,
        f32::MAX,
    ];
    let number = |bits: u64| match bits >> 60 {
        0 => SPECIAL[(bits >> 40) as usize % SPECIAL.len()],
        // 2^-16 to 2^16.
        _ => f32::from_bits((bits as u32 & 0x807F_FFFF) | (111 + (bits >> 40) as u32 % 32) << 23),
    };
    (0..count).map(|_| number(draw.bits())).collect()
}

/// Few different numbers, so that many are equal, and some NaN.
pub(crate) fn equals(draw: &mut Draw, count: usize) -> Vec<f32> {
    const FEW: [f32; 8] = [-1.0, -0.0, 0.0, 1.0, 1.0, 2.0, 2.0, f32::NAN];
    (0..count).map(|_| FEW[draw.integer(0..=7)]).collect()
}

/// Standard normal numbers.
pub(crate) fn normals(draw: &mut Draw, count: usize) -> Vec<f32> {
    singles(&draw.normals(count))
}

/// Random bytes.
pub(crate) fn bytes(draw: &mut Draw, count: usize) -> Vec<u8> {
    (0..count).map(|_| draw.bits() as u8).collect()
}

/// `judge` on lengths around the edges of vectors and blocks, and on one that the small grid takes in several rounds.
pub(crate) fn on_lengths(bench: &mut Bench, mut judge: impl FnMut(&mut Bench, usize, &str)) {
    let mut lengths = vec![0, 1, 3, 4, 5, 7, 8, 9, 33, 129, 1024];
    lengths.extend([0; 2].map(|_| bench.draw.integer(10..=2000)));
    lengths.push(bench.draw.integer(8193..=20_000));
    for n in lengths {
        bench.everywhere(|bench| judge(bench, n, &format!("{n} elements")));
    }
}
