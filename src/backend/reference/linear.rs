//! Fully connected layer with bias.
//!
//! x and dx: (N, I), an image flattened as (C, H, W); y and dy: (N, O); w and dw: (O, I); b and db: (O).

use super::{Real, grid};

/// A fully connected layer of one micro-batch.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    /// N.
    pub(super) batch: usize,
    /// I.
    pub(super) inputs: usize,
    /// O.
    pub(super) outputs: usize,
}

impl Linear {
    /// `y[n,o] = b[o] + sum over i of w[o,i] * x[n,i]`. Overwrites y.
    pub(super) fn forward<T: Real>(self, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
        for (n, o) in grid(self.batch, self.outputs) {
            let mut sum: f64 = b[o].into();
            for i in 0..self.inputs {
                sum += w[o * self.inputs + i].into() * x[n * self.inputs + i].into();
            }
            y[n * self.outputs + o] = T::round(sum);
        }
    }

    /// `dx[n,i] = sum over o of w[o,i] * dy[n,o]`. Overwrites dx.
    pub(super) fn backward_data<T: Real>(self, w: &[T], dy: &[T], dx: &mut [T]) {
        for (n, i) in grid(self.batch, self.inputs) {
            let mut sum = 0.0;
            for o in 0..self.outputs {
                sum += w[o * self.inputs + i].into() * dy[n * self.outputs + o].into();
            }
            dx[n * self.inputs + i] = T::round(sum);
        }
    }

    /// `dw[o,i] = sum over n of dy[n,o] * x[n,i]`. Overwrites dw.
    pub(super) fn backward_weight<T: Real>(self, x: &[T], dy: &[T], dw: &mut [T]) {
        for (o, i) in grid(self.outputs, self.inputs) {
            let mut sum = 0.0;
            for n in 0..self.batch {
                sum += dy[n * self.outputs + o].into() * x[n * self.inputs + i].into();
            }
            dw[o * self.inputs + i] = T::round(sum);
        }
    }

    /// `db[o] = sum over n of dy[n,o]`. Overwrites db.
    pub(super) fn backward_bias<T: Real>(self, dy: &[T], db: &mut [T]) {
        for (o, db) in db.iter_mut().enumerate() {
            let sum = (0..self.batch).map(|n| dy[n * self.outputs + o].into()).sum();
            *db = T::round(sum);
        }
    }
}
