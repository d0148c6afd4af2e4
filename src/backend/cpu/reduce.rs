//! Sums over pixels, of 16 channels at a time, in a fixed order: short blocks in f32, the blocks in f64.

use super::isa::{Isa, multiversion};
use super::layout::Pixel;
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

/// [`sum`] of pixels that come in several slices: the same bits as if they were one.
#[derive(Clone, Copy, Default)]
pub(super) struct PixelSum {
    totals: [f64; LANES],
    /// The sum of the last block, which is not full, and its pixels.
    block: [f32; LANES],
    pixels: usize,
}

impl PixelSum {
    /// Adds the pixels of a slice.
    pub(super) fn add(&mut self, isa: Isa, pixels: &[Pixel]) {
        add_pixels(isa, self, pixels);
    }

    /// The sums of all pixels so far.
    pub(super) fn total(&self) -> [f64; LANES] {
        std::array::from_fn(|l| self.totals[l] + f64::from(self.block[l]))
    }
}

multiversion! {
    fn add_pixels(sum: &mut PixelSum, pixels: &[Pixel]) {
        let mut rest = pixels;
        while !rest.is_empty() {
            let (pixels, others) = rest.split_at(rest.len().min(BLOCK - sum.pixels));
            let mut block = sum.block;
            for pixel in pixels {
                for l in 0..LANES {
                    block[l] += pixel[l];
                }
            }
            (sum.block, sum.pixels) = (block, sum.pixels + pixels.len());
            if sum.pixels == BLOCK {
                (sum.totals, sum.block, sum.pixels) = (sum.total(), [0.0; LANES], 0);
            }
            rest = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_slices_is_that_of_the_whole() {
        let x: Vec<f32> = (0..500 * LANES).map(|i| 1.0 / (i + 1) as f32).collect();
        for isa in Isa::all() {
            for len in [1, 63, 64, 65, 130, 224, 500] {
                let mut parts = PixelSum::default();
                let pixels = x.as_chunks().0;
                pixels.chunks(len).for_each(|part| parts.add(isa, part));
                assert_eq!(parts.total(), sum(isa, &x)[0], "slices of {len}");
            }
        }
    }

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
