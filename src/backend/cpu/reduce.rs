//! Sums in a fixed order: 16 lanes of f32 over short blocks, the blocks in f64.

use super::Cpu;
use super::isa::multiversion;

/// Elements summed in f32 before the sum goes on in f64: 64 per lane.
const BLOCK: usize = 1024;
const LANES: usize = 16;

/// Defines `fn name(isa, a, ...) -> [f64; S]`: S sums over the elements of slices of equal length.
macro_rules! sums {
    (
        $(#[$meta:meta])*
        $name:ident[$count:literal]($first:ident $(, $slice:ident)*; $($factor:ident),*) $term:expr
    ) => {
        multiversion! {
            $(#[$meta])*
            pub(super) fn $name($first: &[f32], $($slice: &[f32],)* $($factor: f32),*) -> [f64; $count] {
                let mut totals = [0.0f64; $count];
                let len = $first.len();
                $(assert_eq!($slice.len(), len, "slices of equal length");)*
                let mut start = 0;
                while start < len {
                    let end = len.min(start + BLOCK);
                    let mut lanes = [[0.0f32; LANES]; $count];
                    let full = start + (end - start) / LANES * LANES;
                    let mut at = start;
                    while at < full {
                        let $first: &[f32; LANES] = $first[at..].first_chunk().expect("a full group");
                        $(let $slice: &[f32; LANES] = $slice[at..].first_chunk().expect("a full group");)*
                        for l in 0..LANES {
                            let ($first, $($slice,)*) = ($first[l], $($slice[l],)*);
                            let terms: [f32; $count] = $term;
                            for (lanes, term) in lanes.iter_mut().zip(terms) {
                                lanes[l] += term;
                            }
                        }
                        at += LANES;
                    }
                    for l in 0..end - full {
                        let ($first, $($slice,)*) = ($first[full + l], $($slice[full + l],)*);
                        let terms: [f32; $count] = $term;
                        for (lanes, term) in lanes.iter_mut().zip(terms) {
                            lanes[l] += term;
                        }
                    }
                    for (total, lanes) in totals.iter_mut().zip(&lanes) {
                        *total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
                    }
                    start = end;
                }
                totals
            }
        }
    };
}

sums!(
    /// `sum of x`.
    sum[1](x;) [x]
);
sums!(
    /// `sum of (x - mean)^2`.
    squares_around[1](x; mean) [(x - mean) * (x - mean)]
);
sums!(
    /// `sum of dy` and `sum of dy * (x - mean)`.
    sum_and_moment[2](dy, x; mean) [dy, dy * (x - mean)]
);

/// `sums[c] = sum over n and p of values[n, c, p]`. values: (N, C, plane). Overwrites the sums.
pub(super) fn channel_sums(cpu: &Cpu, batch: usize, plane: usize, values: &[f32], sums: &mut [f32]) {
    let channels = sums.len();
    cpu.team.chunks(sums, channels.div_ceil(16), |index, sums| {
        let first = index * channels.div_ceil(16);
        for (c, out) in (first..).zip(sums) {
            let images = (0..batch).map(|n| sum(cpu.isa, &values[(n * channels + c) * plane..][..plane])[0]);
            *out = images.sum::<f64>() as f32;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::isa::Isa;
    use super::*;

    #[test]
    fn sums_are_exact_on_integers_and_equal_on_every_path() {
        for len in [0, 1, 15, 16, 17, 1023, 1024, 5000] {
            let x: Vec<f32> = (0..len).map(|i| (i % 17) as f32 - 3.0).collect();
            let y: Vec<f32> = (0..len).map(|i| (i % 5) as f32).collect();
            let expected = [
                y.iter().sum::<f32>() as f64,
                y.iter().zip(&x).map(|(y, x)| y * (x - 2.0)).sum::<f32>() as f64,
            ];
            for isa in [Isa::Portable, Isa::best()] {
                assert_eq!(sum_and_moment(isa, &y, &x, 2.0), expected);
            }
        }
    }
}
