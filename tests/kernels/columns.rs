//! Sums over rows, in the order of columns.cuh.

use verydeep::backend::cuda::launch::Rows;

/// Lanes of a block: each has every eighth row of a slice, and every eighth slice.
const LANES: usize = 8;

/// Rows of a lane that are summed in f32.
pub(crate) const RUN: usize = 64;

/// Rows between the starts of two runs of the same lane.
pub(crate) const RUN_ROWS: usize = RUN * LANES;

/// A matrix, cut into slices of rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) rows: usize,
    pub(crate) channels: usize,
    pub(crate) slices: usize,
}

impl Cut {
    /// As launchers cut it.
    pub(crate) fn of(shape: Rows) -> Self {
        let groups = shape.channels.div_ceil(32);
        let most = shape.rows.div_ceil(64).max(1);
        Self {
            rows: shape.rows,
            channels: shape.channels,
            slices: (1024 / groups).clamp(1, most),
        }
    }

    /// (slices, channels): the sum of what `addend` gives for every element of the slice's rows.
    pub(crate) fn parts(self, addend: impl Fn(usize) -> f32) -> Vec<f64> {
        let each = self.rows.div_ceil(self.slices);
        let part = |i: usize| {
            let (slice, c) = (i / self.channels, i % self.channels);
            let last = self.rows.min((slice + 1) * each);
            over_lanes(|lane| {
                let rows: Vec<usize> = (slice * each + lane..last).step_by(LANES).collect();
                let run = |rows: &[usize]| {
                    let addends = rows.iter().map(|row| addend(row * self.channels + c));
                    f64::from(addends.fold(0.0, |sum: f32, x| sum + x))
                };
                rows.chunks(RUN).fold(0.0, |sum, rows| sum + run(rows))
            })
        };
        (0..self.slices * self.channels).map(part).collect()
    }

    /// (channels): the sum of the slices' parts.
    pub(crate) fn total(self, parts: &[f64]) -> Vec<f64> {
        let part = |slice: usize, c: usize| parts[slice * self.channels + c];
        let total = |c: usize| {
            over_lanes(|lane| {
                let slices = (lane..self.slices).step_by(LANES);
                slices.fold(0.0, |sum, slice| sum + part(slice, c))
            })
        };
        (0..self.channels).map(total).collect()
    }
}

/// The sum of the lanes' sums, the first lane's first.
fn over_lanes(sum: impl Fn(usize) -> f64) -> f64 {
    (1..LANES).fold(sum(0), |total, lane| total + sum(lane))
}
