//! Maximum over 2x2 windows, stride 2; an odd last row or column is dropped.
//!
//! x and dx: (N, C, H, W); y and dy: (N, C, H/2, W/2). Saved for the backward pass: which of the window's
//! four elements, in row-major order, is the maximum (u8, the shape of y). Of equal ones it is the first; NaN
//! counts as the largest.

use super::isa::multiversion;
use super::memory::f32_bytes;
use super::{Cpu, Views};
use crate::plan::{DataGradient, Footprint, Step};

/// Elements of x in one task, roughly.
const CHUNK: usize = 1 << 14;

pub(super) fn footprint(step: &Step) -> Footprint {
    let elements = step.batch * step.output.len();
    Footprint {
        value: f32_bytes(elements),
        gradient: f32_bytes(elements),
        saved: elements.next_multiple_of(size_of::<f32>()),
        // y tells whether the ReLU that made x passed the maximum: x itself is not needed for the mask.
        backward_reads_value: step.data_gradient == DataGradient::Masked,
        ..Footprint::default()
    }
}

/// Channels (of all images) in one task.
fn task_planes(step: &Step) -> usize {
    (CHUNK / step.input.plane()).max(1)
}

/// Overwrites y and the choices.
pub(super) fn forward(cpu: &Cpu, step: &Step, views: &mut Views<'_>) {
    let (input, output) = (step.input, step.output);
    let planes = task_planes(step);
    let y_chunk = planes * output.plane();
    let choices: &mut [u8] = &mut bytemuck::cast_slice_mut(views.saved)[..step.batch * output.len()];
    let x = views.input;
    cpu.team
        .chunks2((views.value, y_chunk), (choices, y_chunk), |task, y, choices| {
            let x = x[task * planes * input.plane()..].chunks_exact(input.plane());
            let y = y
                .chunks_exact_mut(output.plane())
                .zip(choices.chunks_exact_mut(output.plane()));
            for (x, (y, choices)) in x.zip(y) {
                let rows = y
                    .chunks_exact_mut(output.w)
                    .zip(choices.chunks_exact_mut(output.w));
                for (two_rows, (y, choices)) in x.chunks_exact(2 * input.w).zip(rows) {
                    let (upper, lower) = two_rows.split_at(input.w);
                    pool_row(cpu.isa, upper, lower, y, choices);
                }
            }
        });
}

multiversion! {
    fn pool_row(upper: &[f32], lower: &[f32], y: &mut [f32], choices: &mut [u8]) {
        let (upper, lower) = (upper.as_chunks::<2>().0, lower.as_chunks::<2>().0);
        for (((y, choice), upper), lower) in y.iter_mut().zip(choices).zip(upper).zip(lower) {
            let (mut best, mut index) = (upper[0], 0u8);
            for (i, value) in [(1, upper[1]), (2, lower[0]), (3, lower[1])] {
                let better = value > best || value.is_nan() && !best.is_nan();
                best = if better { value } else { best };
                index = if better { i } else { index };
            }
            *y = best;
            *choice = index;
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
    let planes = task_planes(step);
    let choices: &[u8] = bytemuck::cast_slice(views.saved);
    let (dy, y) = (&*views.gradient, &*views.value);
    cpu.team
        .chunks(views.input_gradient, planes * input.plane(), |task, dx| {
            for (plane, dx) in (task * planes..).zip(dx.chunks_exact_mut(input.plane())) {
                for (row, two_rows) in dx.chunks_mut(2 * input.w).enumerate() {
                    if row == output.h {
                        two_rows.fill(0.0); // the odd last row
                        continue;
                    }
                    let start = plane * output.plane() + row * output.w;
                    let at = start..start + output.w;
                    let y = if masked { &y[at.clone()] } else { &y[..0] };
                    let (upper, lower) = two_rows.split_at_mut(input.w);
                    spread_row(cpu.isa, &choices[at.clone()], &dy[at], y, upper, lower);
                }
            }
        });
}

multiversion! {
    /// An empty y stands for no mask.
    fn spread_row(choices: &[u8], dy: &[f32], y: &[f32], upper: &mut [f32], lower: &mut [f32]) {
        let (upper, upper_rest) = upper.as_chunks_mut::<2>();
        let (lower, lower_rest) = lower.as_chunks_mut::<2>();
        upper_rest.fill(0.0); // the odd last column
        lower_rest.fill(0.0);
        let windows = choices.iter().zip(dy).zip(upper).zip(lower);
        if y.is_empty() {
            for (((&choice, &dy), upper), lower) in windows {
                spread(choice, dy, upper, lower);
            }
        } else {
            for ((((&choice, &dy), upper), lower), &y) in windows.zip(y) {
                spread(choice, if y > 0.0 { dy } else { 0.0 }, upper, lower);
            }
        }
    }
}

#[inline(always)]
fn spread(choice: u8, dy: f32, upper: &mut [f32; 2], lower: &mut [f32; 2]) {
    let at = |index: u8| if choice == index { dy } else { 0.0 };
    *upper = [at(0), at(1)];
    *lower = [at(2), at(3)];
}
