//! One axis of a rescaling: which source pixels an output pixel is made of, and how much each counts.

use std::ops::Range;

/// Fewest fractional bits of a weight. A weight of one then fits 16 signed bits.
const LEAST_PRECISION: u32 = 14;

/// Most fractional bits of a weight: 255 times as much fits 31 bits. Reached where 128 pixels become one, or more.
const MOST_PRECISION: u32 = 21;

/// `len` pixels, from `first` on, of the `target` pixels to which `source` pixels are rescaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Pixels of the whole source image along this axis, at least 1.
    pub source: usize,
    /// Pixels of the whole rescaled image along this axis, at least 1.
    pub target: usize,
    /// The first pixel to make.
    pub first: usize,
    /// The number of pixels to make.
    pub len: usize,
}

impl Span {
    /// All of the rescaled image.
    pub const fn whole(source: usize, target: usize) -> Self {
        Self {
            source,
            target,
            first: 0,
            len: target,
        }
    }

    /// The source pixels that the span is made of.
    pub fn reach(&self) -> Range<usize> {
        match self.len {
            0 => 0..0,
            len => self.triangle(0).pixels().start..self.triangle(len - 1).pixels().end,
        }
    }

    /// Source pixels for each output pixel.
    fn step(&self) -> f64 {
        self.source as f64 / self.target as f64
    }

    /// The weights of output pixel `index`, counted from `first`. Depends on where the pixel is in the whole rescaled
    /// image, not on where the span begins.
    fn triangle(&self, index: usize) -> Triangle {
        Triangle {
            centre: ((self.first + index) as f64 + 0.5) * self.step(),
            reach: self.step().max(1.0),
            size: self.source as f64,
        }
    }
}

/// Weights that fall linearly to zero at a distance of `reach` from `centre`.
#[derive(Debug, Clone, Copy)]
struct Triangle {
    centre: f64,
    reach: f64,
    /// Of the image.
    size: f64,
}

impl Triangle {
    /// The pixels whose centres it covers, inside the image. Never empty: a centre is half a pixel away at most.
    fn pixels(&self) -> Range<usize> {
        let start = (self.centre - self.reach + 0.5).floor().max(0.0);
        let end = (self.centre + self.reach + 0.5).floor().min(self.size);
        start as usize..end as usize
    }

    /// The weight of a pixel, before all of them are divided by their sum.
    fn at(&self, pixel: usize) -> f64 {
        let distance = (pixel as f64 + 0.5 - self.centre).abs();
        (1.0 - distance / self.reach).max(0.0)
    }
}

/// The weights of a span as integers, and where they apply in a window of the source.
#[derive(Debug, Default)]
pub(super) struct Axis {
    /// Fractional bits of the weights.
    precision: u32,
    /// Window pixels that each output pixel is made of; some weights may be zero.
    taps: usize,
    /// `taps` rounded up to whole groups.
    padded: usize,
    /// The first window pixel of each output pixel, ascending; `start + taps` is inside the window.
    starts: Vec<usize>,
    /// (outputs, padded). Every row sums to `1 << precision`.
    weights: Vec<i16>,
}

impl Axis {
    /// Computes the weights of `span` for a window of `len` source pixels from `first` on.
    pub(super) fn weigh(&mut self, span: Span, first: usize, len: usize) {
        let reach = span.reach();
        assert!(
            first <= reach.start && reach.end <= first + len,
            "a window that holds {reach:?}, found {len} pixels from {first}"
        );
        // Weights shrink as the triangle widens; the bits that they leave free become fractional bits.
        let halvings = (span.source / span.target).checked_ilog2().unwrap_or(0);
        self.precision = (LEAST_PRECISION + halvings).min(MOST_PRECISION);
        self.taps = (0..span.len)
            .map(|index| span.triangle(index).pixels().len())
            .max()
            .unwrap_or(0);
        self.padded = match self.taps {
            0..=2 => 2,
            taps => taps.next_multiple_of(4),
        };
        self.starts.clear();
        self.weights.clear();
        self.weights.resize(span.len * self.padded, 0);
        for (index, weights) in self.weights.chunks_exact_mut(self.padded).enumerate() {
            let triangle = span.triangle(index);
            let pixels = triangle.pixels();
            let start = (pixels.start - first).min(len - self.taps);
            let skipped = pixels.start - first - start;
            self.starts.push(start);
            quantise(triangle, self.precision, &mut weights[skipped..]);
        }
    }

    /// Fractional bits of the weights, 14 to 21.
    pub(super) fn precision(&self) -> u32 {
        self.precision
    }

    /// Window pixels that each output pixel is made of.
    pub(super) fn taps(&self) -> usize {
        self.taps
    }

    /// Weights of each output pixel: 2, or a multiple of 4. Those from [`Axis::taps`] on are zero.
    pub(super) fn padded(&self) -> usize {
        self.padded
    }

    /// The first window pixel of each output pixel, ascending.
    pub(super) fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// The weights of an output pixel, [`Axis::padded`] of them, none negative.
    pub(super) fn weights(&self, index: usize) -> &[i16] {
        &self.weights[index * self.padded..][..self.padded]
    }
}

/// The weights of a triangle as integers that sum to `1 << precision`.
///
/// Running sums are rounded, not weights: what rounding takes from one pixel its neighbour gets, which hardly differs.
fn quantise(triangle: Triangle, precision: u32, weights: &mut [i16]) {
    let pixels = triangle.pixels();
    let total: f64 = pixels.clone().map(|pixel| triangle.at(pixel)).sum();
    let unit = f64::from(1u32 << precision) / total;
    let (mut sum, mut given) = (0.0, 0);
    for (pixel, weight) in pixels.zip(weights) {
        sum += triangle.at(pixel);
        let rounded = (sum * unit + 0.5) as i32;
        *weight = (rounded - given) as i16;
        given = rounded;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{between, fresh_seed, stream};

    /// Every row of weights: its sum, and that no weight is negative, as one that does not fit would be.
    fn check(span: Span, context: &str) {
        let mut axis = Axis::default();
        let reach = span.reach();
        axis.weigh(span, reach.start, reach.len());
        for index in 0..span.len {
            let weights = axis.weights(index);
            let sum: i32 = weights.iter().map(|&weight| i32::from(weight)).sum();
            assert_eq!(sum, 1 << axis.precision(), "{context}, {span:?}, output {index}");
            assert!(
                weights.iter().all(|&weight| weight >= 0),
                "{context}, {span:?}: {weights:?}"
            );
            assert!(
                weights[axis.taps()..].iter().all(|&weight| weight == 0),
                "{context}"
            );
            assert!(axis.starts()[index] + axis.taps() <= reach.len(), "{context}");
        }
        assert!(axis.starts().is_sorted(), "{context}, {span:?}");
    }

    #[test]
    fn weights_fit_and_sum_to_one() {
        for source in 1..150 {
            for target in 1..150 {
                check(Span::whole(source, target), "all small sizes");
            }
        }
        let seed = fresh_seed();
        let mut stream = stream(seed);
        for _ in 0..300 {
            let target = between(&mut stream, 1, 2_000);
            let first = between(&mut stream, 0, target - 1);
            let span = Span {
                source: between(&mut stream, 1, 65_500),
                target,
                first,
                len: between(&mut stream, 1, (target - first).min(30)),
            };
            check(span, &format!("seed {seed}"));
        }
    }

    #[test]
    fn a_pixel_has_the_same_weights_in_every_span() {
        let whole = Span::whole(375, 256);
        let part = Span {
            first: 17,
            len: 100,
            ..whole
        };
        let (mut all, mut some) = (Axis::default(), Axis::default());
        all.weigh(whole, 0, 375);
        some.weigh(part, 3, 300);
        for index in 0..100 {
            assert_eq!(some.weights(index), all.weights(index + 17));
            assert_eq!(some.starts()[index] + 3, all.starts()[index + 17]);
        }
    }
}
