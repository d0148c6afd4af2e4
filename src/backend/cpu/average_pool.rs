//! Means over the parts of a map, whatever its size: torchvision's adaptive average pooling, and the global average.
//!
//! x: (N, C/16, H, W, 16); y: (N, C/16, R, R, 16). The sum of a part is in f64, row by row, as on every back end.

use super::layout::{Pixel, group_len, tensor_bytes};
use super::tile::LANES;
use super::{Cpu, Views};
use crate::plan::{Footprint, Step};

pub(super) fn footprint(step: &Step) -> Footprint {
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        ..Footprint::default()
    }
}

/// `y[n, c, i, j] = (sum of x[n, c, r, s] over part (i, j)) / its pixels`. Overwrites y, padding with zero.
pub(super) fn forward(cpu: &Cpu, step: &Step, side: usize, views: &mut Views<'_>) {
    let (input, x) = (step.input, views.input);
    cpu.team.chunks(views.value, group_len(step.output), |group, y| {
        let (pixels, _) = x[group * group_len(input)..][..group_len(input)].as_chunks::<LANES>();
        for (index, y) in y.as_chunks_mut().0.iter_mut().enumerate() {
            let (rows, columns) = step.part(side, (index / side, index % side));
            let row = |row: usize| &pixels[row * input.w..][columns.clone()];
            *y = mean(rows.clone().flat_map(row), rows.len() * columns.len());
        }
    });
}

fn mean<'a>(pixels: impl Iterator<Item = &'a Pixel>, count: usize) -> Pixel {
    let mut sums = [0.0f64; LANES];
    for pixel in pixels {
        for (sum, &x) in sums.iter_mut().zip(pixel) {
            *sum += f64::from(x);
        }
    }
    sums.map(|sum| (sum / count as f64) as f32)
}
