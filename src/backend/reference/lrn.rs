//! Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3).
//!
//! x, dx, y and dy: (N, C, H, W). The window of channel c is `c - 2 ..= c + 2`, cut at the ends.

use std::ops::Range;

use super::{Real, at, grid};
use crate::network::lrn::{ALPHA, BETA, K, N};
use crate::shape::Chw;

/// A local response normalisation of one micro-batch.
#[derive(Clone, Copy)]
pub(super) struct Lrn {
    /// N.
    pub(super) batch: usize,
    /// (C, H, W), of the input and of the output.
    pub(super) shape: Chw,
}

impl Lrn {
    /// `y[c] = x[c] * d[c]^-beta` with `d[c] = k + alpha * sum over the window of x^2`. Overwrites y.
    pub(super) fn forward<T: Real>(self, x: &[T], y: &mut [T]) {
        for (n, c) in grid(self.batch, self.shape.c) {
            for (i, j) in grid(self.shape.h, self.shape.w) {
                let index = at(self.shape, n, c, i, j);
                let d = self.denominator(x, n, c, i, j);
                y[index] = T::round(x[index].into() * power_minus_beta(d));
            }
        }
    }

    /// `dx[c] = dy[c] * d[c]^-beta - 2 * alpha * beta * x[c] * sum over the window of dy * x * d^(-beta - 1)`.
    /// Overwrites dx.
    pub(super) fn backward<T: Real>(self, x: &[T], dy: &[T], dx: &mut [T]) {
        for (n, c) in grid(self.batch, self.shape.c) {
            for (i, j) in grid(self.shape.h, self.shape.w) {
                let mut sum = 0.0;
                for other in self.window(c) {
                    let index = at(self.shape, n, other, i, j);
                    let d = self.denominator(x, n, other, i, j);
                    sum += dy[index].into() * x[index].into() * power_minus_beta(d) / d;
                }
                let index = at(self.shape, n, c, i, j);
                let direct = dy[index].into() * power_minus_beta(self.denominator(x, n, c, i, j));
                let factor = 2.0 * f64::from(ALPHA) * f64::from(BETA);
                dx[index] = T::round(direct - factor * x[index].into() * sum);
            }
        }
    }

    fn denominator<T: Real>(self, x: &[T], n: usize, c: usize, i: usize, j: usize) -> f64 {
        let squares = self.window(c).map(|c| {
            let x: f64 = x[at(self.shape, n, c, i, j)].into();
            x * x
        });
        f64::from(K) + f64::from(ALPHA) * squares.sum::<f64>()
    }

    fn window(self, c: usize) -> Range<usize> {
        c.saturating_sub(N / 2)..(c + N / 2 + 1).min(self.shape.c)
    }
}

/// `d^-0.75`, by square roots: they are exact on every host.
fn power_minus_beta(d: f64) -> f64 {
    let root = d.sqrt();
    1.0 / (root * root.sqrt())
}
