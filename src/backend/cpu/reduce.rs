//! Sums over pixels, of 16 channels at a time, in a fixed order: short blocks in f32, the blocks in f64.

use super::Cpu;
use super::isa::multiversion;
use super::layout::groups;
use super::team::Parts;
use super::tile::LANES;

/// Pixels summed in f32 before the sum goes on in f64.
const BLOCK: usize = 64;

/// Defines `fn name(isa, a, ...) -> [[f64; 16]; S]`: S sums over the pixels of slices of equal length, for each of 16
/// channels. Factors have one value per channel.
macro_rules! sums {
    (
        $(#[$meta:meta])*
        $name:ident[$count:literal]($first:ident $(, $slice:ident)*; $($factor:ident),*) $term:expr
    ) => {
        multiversion! {
            $(#[$meta])*
            pub(super) fn $name(
                $first: &[f32],
                $($slice: &[f32],)*
                $($factor: &[f32; LANES]),*
            ) -> [[f64; LANES]; $count] {
                let mut totals = [[0.0f64; LANES]; $count];
                let $first = $first.as_chunks::<LANES>().0;
                $(let $slice = &$slice.as_chunks::<LANES>().0[..$first.len()];)*
                for start in (0..$first.len()).step_by(BLOCK) {
                    let mut sums = [[0.0f32; LANES]; $count];
                    for p in start..$first.len().min(start + BLOCK) {
                        for l in 0..LANES {
                            let ($first, $($slice,)*) = ($first[p][l], $($slice[p][l],)*);
                            $(let $factor = $factor[l];)*
                            let terms: [f32; $count] = $term;
                            for (sums, term) in sums.iter_mut().zip(terms) {
                                sums[l] += term;
                            }
                        }
                    }
                    for (totals, sums) in totals.iter_mut().zip(&sums) {
                        for (total, &sum) in totals.iter_mut().zip(sums) {
                            *total += f64::from(sum);
                        }
                    }
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

/// `sums[c] = sum over n and p of values[n, c, p]`. values: (N, C/16, plane, 16); partial: as many f64 as N * C,
/// padding included. Overwrites the sums.
pub(super) fn channel_sums(
    cpu: &Cpu,
    batch: usize,
    plane: usize,
    values: &[f32],
    partial: &mut [f64],
    sums: &mut [f32],
) {
    let groups = groups(sums.len());
    let parts = Parts::new(partial);
    cpu.team.run(batch * groups, |task, _| {
        // SAFETY: this task alone has this group of this image.
        let part = unsafe { parts.range(task * LANES, LANES) };
        let values = &values[task * plane * LANES..][..plane * LANES];
        part.copy_from_slice(&sum(cpu.isa, values)[0]);
    });
    for (c, out) in sums.iter_mut().enumerate() {
        let images = (0..batch).map(|n| partial[n * groups * LANES + c]);
        *out = images.sum::<f64>() as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::super::isa::Isa;
    use super::*;

    #[test]
    fn sums_are_exact_on_integers_and_equal_on_every_path() {
        for pixels in [0, 1, 63, 64, 65, 500] {
            let x: Vec<f32> = (0..pixels * LANES).map(|i| (i % 17) as f32 - 3.0).collect();
            let y: Vec<f32> = (0..pixels * LANES).map(|i| (i % 5) as f32).collect();
            for isa in Isa::all() {
                let found = sum_and_moment(isa, &y, &x, &[2.0; LANES]);
                for l in 0..LANES {
                    let channel = (0..pixels).map(|p| (y[p * LANES + l], x[p * LANES + l]));
                    let sum: f32 = channel.clone().map(|(y, _)| y).sum();
                    let moment: f32 = channel.map(|(y, x)| y * (x - 2.0)).sum();
                    assert_eq!([found[0][l], found[1][l]], [f64::from(sum), f64::from(moment)]);
                }
            }
        }
    }
}
