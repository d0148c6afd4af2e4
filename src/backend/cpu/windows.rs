//! Windows of a map as rows, for the fully connected layers of dense evaluation.
//!
//! x: (N, C/16, H, W, 16); y: (N * H' * W', C * R * R), rows padded to a multiple of 16, with H' = H - R + 1 and
//! W' = W - R + 1. A window's row is in the order (C, R, R), that of the weights: the product that follows reads them once,
//! in place, for all windows of all images.

use super::layout::{group_len, groups, image_len, lanes, tensor_bytes};
use super::tile::LANES;
use super::transpose::transpose;
use super::{Cpu, Views};
use crate::plan::{Footprint, Step};

pub(super) fn footprint(step: &Step) -> Footprint {
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        ..Footprint::default()
    }
}

/// `y[(n * H' + i) * W' + j, (c * R + r) * R + s] = x[n, c, i + r, j + s]`. Overwrites y, padding with zero.
pub(super) fn forward(cpu: &Cpu, step: &Step, side: usize, views: &mut Views<'_>) {
    let (rows, columns) = step.windows(side);
    let (input, x, area) = (step.input, views.input, side * side);
    cpu.team.chunks(views.value, image_len(step.output), |task, y| {
        let (n, i, j) = (task / columns / rows, task / columns % rows, task % columns);
        y[step.output.len()..].fill(0.0);
        for group in 0..groups(input.c) {
            let plane = &x[n * image_len(input) + group * group_len(input)..][..group_len(input)];
            let lanes = lanes(input.c, group);
            for r in 0..side {
                let pixels = &plane[((i + r) * input.w + j) * LANES..][..side * LANES];
                let y = &mut y[group * LANES * area + r * side..];
                transpose(cpu.isa, (side, lanes), (pixels, LANES), (y, area));
            }
        }
    });
}
