//! Convolution with bias, stride 1, zero padding `P = (kernel - 1) / 2` on every side.
//!
//! x and dx: (N, C, H, W); y and dy: (N, K, H, W); w and dw: (K, C, R, S) with R = S = kernel; b and db: (K).

use super::{Real, at, grid};
use crate::shape::Chw;

/// A convolution of one micro-batch.
#[derive(Clone, Copy)]
pub(super) struct Conv {
    /// N.
    pub(super) batch: usize,
    /// (C, H, W).
    pub(super) input: Chw,
    /// (K, H, W).
    pub(super) output: Chw,
    /// R = S, odd.
    pub(super) kernel: usize,
}

impl Conv {
    /// `y[n,k,i,j] = b[k] + sum over c,r,s of w[k,c,r,s] * x[n,c,i+r-P,j+s-P]`, x being 0 outside. Overwrites y.
    pub(super) fn forward<T: Real>(self, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
        for (n, k) in grid(self.batch, self.output.c) {
            for (i, j) in grid(self.output.h, self.output.w) {
                let mut sum: f64 = b[k].into();
                for c in 0..self.input.c {
                    for (r, s) in grid(self.kernel, self.kernel) {
                        if let Some((row, column)) = self.inside(i + r, j + s, self.pad(), self.pad()) {
                            let x = x[at(self.input, n, c, row, column)];
                            sum += w[self.weight(k, c, r, s)].into() * x.into();
                        }
                    }
                }
                y[at(self.output, n, k, i, j)] = T::round(sum);
            }
        }
    }

    /// `dx[n,c,i,j] = sum over k,r,s of w[k,c,r,s] * dy[n,k,i+P-r,j+P-s]`, dy being 0 outside. Overwrites dx.
    pub(super) fn backward_data<T: Real>(self, w: &[T], dy: &[T], dx: &mut [T]) {
        for (n, c) in grid(self.batch, self.input.c) {
            for (i, j) in grid(self.input.h, self.input.w) {
                let mut sum = 0.0;
                for k in 0..self.output.c {
                    for (r, s) in grid(self.kernel, self.kernel) {
                        if let Some((row, column)) = self.inside(i + self.pad(), j + self.pad(), r, s) {
                            let dy = dy[at(self.output, n, k, row, column)];
                            sum += w[self.weight(k, c, r, s)].into() * dy.into();
                        }
                    }
                }
                dx[at(self.input, n, c, i, j)] = T::round(sum);
            }
        }
    }

    /// `dw[k,c,r,s] = sum over n,i,j of dy[n,k,i,j] * x[n,c,i+r-P,j+s-P]`, x being 0 outside. Overwrites dw.
    pub(super) fn backward_weight<T: Real>(self, x: &[T], dy: &[T], dw: &mut [T]) {
        for (k, c) in grid(self.output.c, self.input.c) {
            for (r, s) in grid(self.kernel, self.kernel) {
                let mut sum = 0.0;
                for n in 0..self.batch {
                    for (i, j) in grid(self.output.h, self.output.w) {
                        if let Some((row, column)) = self.inside(i + r, j + s, self.pad(), self.pad()) {
                            let x = x[at(self.input, n, c, row, column)];
                            sum += dy[at(self.output, n, k, i, j)].into() * x.into();
                        }
                    }
                }
                dw[self.weight(k, c, r, s)] = T::round(sum);
            }
        }
    }

    /// `db[k] = sum over n,i,j of dy[n,k,i,j]`. Overwrites db.
    pub(super) fn backward_bias<T: Real>(self, dy: &[T], db: &mut [T]) {
        for (k, db) in db.iter_mut().enumerate() {
            let mut sum = 0.0;
            for n in 0..self.batch {
                for (i, j) in grid(self.output.h, self.output.w) {
                    sum += dy[at(self.output, n, k, i, j)].into();
                }
            }
            *db = T::round(sum);
        }
    }

    fn pad(self) -> usize {
        (self.kernel - 1) / 2
    }

    /// The pixel `(row - up, column - left)` where there is one; input and output have the same height and width.
    fn inside(self, row: usize, column: usize, up: usize, left: usize) -> Option<(usize, usize)> {
        let row = row.checked_sub(up).filter(|&row| row < self.input.h)?;
        let column = column.checked_sub(left).filter(|&column| column < self.input.w)?;
        Some((row, column))
    }

    /// Index of w\[k,c,r,s\].
    fn weight(self, k: usize, c: usize, r: usize, s: usize) -> usize {
        ((k * self.input.c + c) * self.kernel + r) * self.kernel + s
    }
}
