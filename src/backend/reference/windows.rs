//! Windows of a map as rows, for the fully connected layers of dense evaluation.
//!
//! x: (N, C, H, W); y: (N * H' * W', C * R * R) with H' = H - R + 1 and W' = W - R + 1.

use super::{Real, at, grid};
use crate::shape::Chw;

/// The windows of side R of one micro-batch.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    /// (C, H, W).
    pub(super) input: Chw,
    /// R.
    pub(super) side: usize,
    /// (H', W').
    pub(super) count: (usize, usize),
}

impl Windows {
    /// `y[(n * H' + i) * W' + j, (c * R + r) * R + s] = x[n, c, i + r, j + s]`. Overwrites y.
    pub(super) fn forward<T: Real>(self, x: &[T], y: &mut [T]) {
        let (rows, columns) = self.count;
        let window = self.input.c * self.side * self.side;
        for (index, y) in y.chunks_mut(window).enumerate() {
            let (n, i, j) = (index / columns / rows, index / columns % rows, index % columns);
            for c in 0..self.input.c {
                for (r, s) in grid(self.side, self.side) {
                    y[(c * self.side + r) * self.side + s] = x[at(self.input, n, c, i + r, j + s)];
                }
            }
        }
    }
}
