//! Maximum over 2x2 windows, stride 2; an odd last row or column is dropped.
//!
//! x and dx: (N, C, H, W); y and dy: (N, C, H / 2, W / 2).

use super::{Real, at, grid};
use crate::shape::Chw;

/// A pooling of one micro-batch.
#[derive(Clone, Copy)]
pub(super) struct MaxPool {
    /// N.
    pub(super) batch: usize,
    /// (C, H, W).
    pub(super) input: Chw,
    /// (C, H / 2, W / 2).
    pub(super) output: Chw,
}

impl MaxPool {
    /// `y[i,j] = maximum of x[2i..2i+2,2j..2j+2]`. Overwrites y.
    pub(super) fn forward<T: Real>(self, x: &[T], y: &mut [T]) {
        self.for_each_window(x, |output, largest| y[output] = x[largest]);
    }

    /// `dx = dy at the largest element of its window, else 0`. Overwrites dx.
    pub(super) fn backward<T: Real>(self, x: &[T], dy: &[T], dx: &mut [T]) {
        dx.fill(T::default());
        self.for_each_window(x, |output, largest| dx[largest] = dy[output]);
    }

    /// Calls `visit(index of the output, index of its window's largest element)`. Among equals the first in row-major
    /// order is taken; NaN counts as larger than any number, so that divergence stays visible.
    fn for_each_window<T: Real>(self, x: &[T], mut visit: impl FnMut(usize, usize)) {
        for (n, c) in grid(self.batch, self.output.c) {
            for (i, j) in grid(self.output.h, self.output.w) {
                let mut largest = at(self.input, n, c, 2 * i, 2 * j);
                for (r, s) in grid(2, 2) {
                    let index = at(self.input, n, c, 2 * i + r, 2 * j + s);
                    if x[index] > x[largest] || is_nan(x[index]) && !is_nan(x[largest]) {
                        largest = index;
                    }
                }
                visit(at(self.output, n, c, i, j), largest);
            }
        }
    }
}

fn is_nan<T: Real>(x: T) -> bool {
    x.into().is_nan()
}
