//! Means over the parts of a map, whatever its size.
//!
//! x: (N, C, H, W); y: (N, C, R, R). Part (i, j) has the rows from floor(i H / R) up to ceil((i + 1) H / R), and the columns
//! likewise, as PyTorch's adaptive pooling.

use super::{Real, at, grid};
use crate::plan::Step;

/// `y[n, c, i, j] = (sum of x[n, c, r, s] over the part, row by row) / its pixels`. Overwrites y.
pub(super) fn forward<T: Real>(step: &Step, side: usize, x: &[T], y: &mut [T]) {
    for (n, c) in grid(step.batch, step.input.c) {
        for (i, j) in grid(side, side) {
            let (rows, columns) = step.part(side, (i, j));
            let pixels = (rows.len() * columns.len()) as f64;
            let mut sum = 0.0;
            for row in rows {
                for column in columns.clone() {
                    sum += x[at(step.input, n, c, row, column)].into();
                }
            }
            y[at(step.output, n, c, i, j)] = T::round(sum / pixels);
        }
    }
}
