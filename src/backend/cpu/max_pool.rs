//! Maximum over 2x2 windows, stride 2; an odd last row or column is dropped.
//!
//! x and dx: (N, C/16, H, W, 16); y and dy: (N, C/16, H/2, W/2, 16). Saved for the backward pass: which of the window's
//! four elements, in row-major order, is the maximum (u8, the shape of y). Of equal ones it is the first; NaN
//! counts as the largest.

use super::isa::multiversion;
use super::layout::{group_len, groups, image_len, tensor_bytes};
use super::tile::LANES;
use super::{Cpu, Views};
use crate::plan::{DataGradient, Footprint, Step};

pub(super) fn footprint(step: &Step) -> Footprint {
    let elements = step.batch * image_len(step.output);
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        gradient: tensor_bytes(step.batch, step.output),
        saved: elements,
        // y tells whether the ReLU that made x passed the maximum: x itself is not needed for the mask.
        backward_reads_value: step.data_gradient == DataGradient::Masked,
        ..Footprint::default()
    }
}

/// Overwrites y and the choices. A task is one group of one image.
pub(super) fn forward(cpu: &Cpu, step: &Step, views: &mut Views<'_>) {
    let (input, output) = (step.input, step.output);
    let choices: &mut [u8] = bytemuck::cast_slice_mut(views.saved);
    let choices = &mut choices[..step.batch * groups(output.c) * group_len(output)];
    let x = views.input;
    let y = (&mut *views.value, group_len(output));
    cpu.team
        .chunks2(y, (choices, group_len(output)), |task, y, choices| {
            let x = x[task * group_len(input)..].as_chunks().0;
            let rows = y
                .chunks_exact_mut(output.w * LANES)
                .zip(choices.chunks_exact_mut(output.w * LANES));
            for (two_rows, (y, choices)) in x.chunks_exact(2 * input.w).zip(rows) {
                let (upper, lower) = two_rows.split_at(input.w);
                pool_row(
                    cpu.isa,
                    upper,
                    lower,
                    y.as_chunks_mut().0,
                    choices.as_chunks_mut().0,
                );
            }
        });
}

/// A pixel of a group.
type Pixel = [f32; LANES];

multiversion! {
    fn pool_row(upper: &[Pixel], lower: &[Pixel], y: &mut [Pixel], choices: &mut [[u8; LANES]]) {
        let (upper, lower) = (upper.as_chunks::<2>().0, lower.as_chunks::<2>().0);
        for (((y, choice), upper), lower) in y.iter_mut().zip(choices).zip(upper).zip(lower) {
            for l in 0..LANES {
                let (mut best, mut index) = (upper[0][l], 0u32);
                for (i, value) in [(1, upper[1][l]), (2, lower[0][l]), (3, lower[1][l])] {
                    let better = value > best || value.is_nan() && !best.is_nan();
                    best = if better { value } else { best };
                    index = if better { i } else { index };
                }
                y[l] = best;
                choice[l] = index as u8;
            }
        }
    }
}

/// `dx = dy at the chosen elements, 0 elsewhere`; where a mask is asked for, 0 also where y is not positive.
/// Overwrites dx.
pub(super) fn backward(cpu: &Cpu, step: &Step, views: &mut Views<'_>) {
    let masked = match step.data_gradient {
        DataGradient::None => return,
        DataGradient::Plain => false,
        DataGradient::Masked => true,
    };
    let (input, output) = (step.input, step.output);
    let choices: &[u8] = bytemuck::cast_slice(views.saved);
    let (dy, y) = (&*views.gradient, &*views.value);
    cpu.team
        .chunks(views.input_gradient, group_len(input), |task, dx| {
            let start = task * group_len(output);
            for (row, two_rows) in dx.chunks_mut(2 * input.w * LANES).enumerate() {
                if row == output.h {
                    two_rows.fill(0.0); // the odd last row
                    continue;
                }
                let start = start + row * output.w * LANES;
                let at = start..start + output.w * LANES;
                let y = if masked { &y[at.clone()] } else { &y[..0] };
                let (upper, lower) = two_rows.as_chunks_mut().0.split_at_mut(input.w);
                spread_row(
                    cpu.isa,
                    choices[at.clone()].as_chunks().0,
                    dy[at].as_chunks().0,
                    y.as_chunks().0,
                    upper,
                    lower,
                );
            }
        });
}

multiversion! {
    /// An empty y stands for no mask.
    fn spread_row(choices: &[[u8; LANES]], dy: &[Pixel], y: &[Pixel], upper: &mut [Pixel], lower: &mut [Pixel]) {
        let (upper, upper_rest) = upper.as_chunks_mut::<2>();
        let (lower, lower_rest) = lower.as_chunks_mut::<2>();
        upper_rest.as_flattened_mut().fill(0.0); // the odd last column
        lower_rest.as_flattened_mut().fill(0.0);
        let windows = choices.iter().zip(dy).zip(upper).zip(lower);
        if y.is_empty() {
            for (((choice, dy), upper), lower) in windows {
                spread(choice, dy, upper, lower);
            }
        } else {
            for ((((choice, dy), upper), lower), y) in windows.zip(y) {
                let passed: Pixel = std::array::from_fn(|l| if y[l] > 0.0 { dy[l] } else { 0.0 });
                spread(choice, &passed, upper, lower);
            }
        }
    }
}

#[inline(always)]
fn spread(choice: &[u8; LANES], dy: &Pixel, upper: &mut [Pixel; 2], lower: &mut [Pixel; 2]) {
    let at = |index: u8, to: &mut Pixel| {
        for l in 0..LANES {
            to[l] = if choice[l] == index { dy[l] } else { 0.0 };
        }
    };
    at(0, &mut upper[0]);
    at(1, &mut upper[1]);
    at(2, &mut lower[0]);
    at(3, &mut lower[1]);
}
