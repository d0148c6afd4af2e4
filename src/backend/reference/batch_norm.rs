//! Batch normalisation per channel (Ioffe and Szegedy 2015, algorithm 1).
//!
//! x, dx, y and dy: (N, C, H, W); factor gamma, summand beta, mean and variance: (C). A channel has m = N*H*W elements.

use super::{Real, at, grid};
use crate::network::batch_norm::EPSILON;
use crate::shape::Chw;

/// A batch normalisation of one micro-batch.
#[derive(Clone, Copy)]
pub(super) struct BatchNorm {
    /// N.
    pub(super) batch: usize,
    /// (C, H, W), of the input and of the output.
    pub(super) shape: Chw,
}

/// Mean and variance of one channel.
#[derive(Clone, Copy)]
pub(super) struct Statistics {
    /// `sum of x / m`.
    pub(super) mean: f64,
    /// Biased: `sum of (x - mean)^2 / m`. What training normalises with.
    pub(super) variance: f64,
}

impl Statistics {
    /// `1 / sqrt(variance + epsilon)`.
    fn inverse_deviation(self) -> f64 {
        1.0 / (self.variance + f64::from(EPSILON)).sqrt()
    }
}

impl BatchNorm {
    /// Statistics of channel `c` of `x`.
    pub(super) fn statistics<T: Real>(self, x: &[T], c: usize) -> Statistics {
        let count = self.count() as f64;
        let mean = self.sum(c, |i| x[i].into()) / count;
        let deviation = |i: usize| x[i].into() - mean;
        let variance = self.sum(c, |i| deviation(i) * deviation(i)) / count;
        Statistics { mean, variance }
    }

    /// `variance * m / (m - 1)`, or the variance itself where m = 1: what the running variance averages.
    pub(super) fn unbiased(self, variance: f64) -> f64 {
        match self.count() {
            1 => variance,
            count => variance * count as f64 / (count - 1) as f64,
        }
    }

    /// `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta` in channel `c`. Overwrites the channel.
    pub(super) fn forward<T: Real>(
        self,
        c: usize,
        x: &[T],
        gamma: T,
        beta: T,
        statistics: Statistics,
        y: &mut [T],
    ) {
        for i in self.channel(c) {
            let normalised = (x[i].into() - statistics.mean) * statistics.inverse_deviation();
            y[i] = T::round(gamma.into() * normalised + beta.into());
        }
    }

    /// With `z = (x - mean) / sqrt(variance + epsilon)`, the statistics being functions of x: returns
    /// `(dgamma, dbeta) = (sum of dy * z, sum of dy)` of channel `c` and sets
    /// `dx = gamma / sqrt(variance + epsilon) * (dy - dbeta / m - z * dgamma / m)`. Overwrites the channel of dx.
    pub(super) fn backward<T: Real>(
        self,
        c: usize,
        x: &[T],
        gamma: T,
        dy: &[T],
        dx: Option<&mut [T]>,
    ) -> (f64, f64) {
        let statistics = self.statistics(x, c);
        let inverse = statistics.inverse_deviation();
        let z = |i: usize| (x[i].into() - statistics.mean) * inverse;
        let dgamma = self.sum(c, |i| dy[i].into() * z(i));
        let dbeta = self.sum(c, |i| dy[i].into());
        if let Some(dx) = dx {
            let count = self.count() as f64;
            for i in self.channel(c) {
                let centred = dy[i].into() - dbeta / count - z(i) * dgamma / count;
                dx[i] = T::round(gamma.into() * inverse * centred);
            }
        }
        (dgamma, dbeta)
    }

    /// m.
    fn count(self) -> usize {
        self.batch * self.shape.plane()
    }

    /// Indices of the elements of channel `c`.
    fn channel(self, c: usize) -> impl Iterator<Item = usize> {
        grid(self.batch, self.shape.plane()).map(move |(n, i)| at(self.shape, n, c, 0, 0) + i)
    }

    fn sum(self, c: usize, term: impl Fn(usize) -> f64) -> f64 {
        self.channel(c).map(term).sum()
    }
}
