//! Maximum over 2x2 windows, stride 2; an odd last row or column is dropped.
//!
//! x and dx: (N, C/16, H, W, 16); y and dy: (N, C/16, H/2, W/2, 16). Saved for the backward pass: which of the window's
//! four elements, in row-major order, is the maximum (u8, the shape of y). Of equal ones it is the first; NaN
//! counts as the largest.

use super::isa::{Isa, multiversion};
use super::layout::{Pixel, group_len, groups, image_len, tensor_bytes};
use super::stream;
use super::tile::LANES;
use super::{Cpu, Views};
use crate::plan::{DataGradient, Footprint, Step};
use crate::shape::Chw;

pub(super) fn footprint(step: &Step) -> Footprint {
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        gradient: tensor_bytes(step.batch, step.output),
        saved: choices_bytes(step.batch, step.output),
        // y tells whether the ReLU that made x passed the maximum: x itself is not needed for the mask.
        backward_reads_value: step.data_gradient == DataGradient::Masked,
        ..Footprint::default()
    }
}

/// Overwrites y and the choices. A task is one group of one image.
pub(super) fn forward(cpu: &Cpu, step: &Step, views: &mut Views<'_>) {
    let choices = choices_mut(step.batch, step.output, views.saved);
    let (x, y) = (views.input.as_chunks().0, views.value.as_chunks_mut().0);
    let (input, Chw { w: width, .. }) = (step.input, step.output);
    let plane = step.output.plane();
    cpu.team
        .chunks2((y, plane), (choices, plane), |task, y, choices| {
            let x: &[Pixel] = &x[task * input.plane()..];
            let rows = y.chunks_exact_mut(width).zip(choices.chunks_exact_mut(width));
            for (two_rows, (y, choices)) in x.chunks_exact(2 * input.w).zip(rows) {
                let (upper, lower) = two_rows.split_at(input.w);
                pool_row(cpu.isa, upper, lower, y, choices);
            }
        });
}

/// The choices for `batch` images of y in saved state.
pub(super) fn choices_mut(batch: usize, output: Chw, saved: &mut [f32]) -> &mut [Choice] {
    let choices: &mut [Choice] = bytemuck::cast_slice_mut(saved);
    &mut choices[..batch * groups(output.c) * output.plane()]
}

/// Bytes of the choices for `batch` images of y.
pub(super) fn choices_bytes(batch: usize, output: Chw) -> usize {
    batch * image_len(output)
}

/// Which element of the window each lane of a pixel comes from.
pub(super) type Choice = [u8; LANES];

multiversion! {
    /// A row of y, of two rows of x; an odd last column is dropped.
    pub(super) fn pool_row(upper: &[Pixel], lower: &[Pixel], y: &mut [Pixel], choices: &mut [Choice]) {
        let (upper, lower) = (upper.as_chunks::<2>().0, lower.as_chunks::<2>().0);
        for (((y, choice), upper), lower) in y.iter_mut().zip(choices).zip(upper).zip(lower) {
            pool_window([&upper[0], &upper[1], &lower[0], &lower[1]], y, choice);
        }
    }
}

/// The maximum of a window, and where it is.
#[inline(always)]
pub(super) fn pool_window(window: [&Pixel; 4], y: &mut Pixel, choice: &mut Choice) {
    for l in 0..LANES {
        let (mut best, mut index) = (window[0][l], 0u32);
        for (i, value) in [(1, window[1][l]), (2, window[2][l]), (3, window[3][l])] {
            let better = value > best || value.is_nan() && !best.is_nan();
            best = if better { value } else { best };
            index = if better { i } else { index };
        }
        y[l] = best;
        choice[l] = index as u8;
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
    let y = masked.then_some(&*views.value);
    spread(
        cpu,
        step.input,
        views.saved,
        views.gradient,
        y,
        views.input_gradient,
    );
}

/// `dx = dy at the chosen elements, 0 elsewhere`, and 0 where a y is given and not positive. Images of dx have the shape
/// `input`.
pub(super) fn spread(cpu: &Cpu, input: Chw, saved: &[f32], dy: &[f32], y: Option<&[f32]>, dx: &mut [f32]) {
    let choices: &[Choice] = bytemuck::cast_slice(saved);
    let (dy, y) = (dy.as_chunks().0, y.map(|y| y.as_chunks().0));
    let (height, width) = (input.h / 2, input.w / 2);
    cpu.team.chunks(dx, group_len(input), |task, dx| {
        for (row, two_rows) in dx.chunks_mut(2 * input.w * LANES).enumerate() {
            if row == height {
                two_rows.fill(0.0); // the odd last row
                continue;
            }
            let at = (task * height + row) * width..(task * height + row + 1) * width;
            let y = y.map_or(&[][..], |y| &y[at.clone()]);
            let (upper, lower) = two_rows.as_chunks_mut().0.split_at_mut(input.w);
            spread_row(cpu.isa, cpu.isa, &choices[at.clone()], &dy[at], y, upper, lower);
        }
        stream::fence(cpu.isa);
    });
}

multiversion! {
    /// An empty y stands for no mask.
    fn spread_row(isa: Isa, choices: &[Choice], dy: &[Pixel], y: &[Pixel], upper: &mut [Pixel], lower: &mut [Pixel]) {
        let (upper, upper_rest) = upper.as_chunks_mut::<2>();
        let (lower, lower_rest) = lower.as_chunks_mut::<2>();
        upper_rest.as_flattened_mut().fill(0.0); // the odd last column
        lower_rest.as_flattened_mut().fill(0.0);
        let windows = choices.iter().zip(dy).zip(upper).zip(lower);
        if y.is_empty() {
            for (((choice, dy), upper), lower) in windows {
                spread_window(isa, choice, dy, upper, lower);
            }
        } else {
            for ((((choice, dy), upper), lower), y) in windows.zip(y) {
                let passed: Pixel = std::array::from_fn(|l| if y[l] > 0.0 { dy[l] } else { 0.0 });
                spread_window(isa, choice, &passed, upper, lower);
            }
        }
    }
}

#[inline(always)]
fn spread_window(isa: Isa, choice: &Choice, dy: &Pixel, upper: &mut [Pixel; 2], lower: &mut [Pixel; 2]) {
    let at = |index: u8, to: &mut Pixel| {
        let chosen: Pixel = std::array::from_fn(|l| if choice[l] == index { dy[l] } else { 0.0 });
        stream::store(isa, &chosen, to);
    };
    at(0, &mut upper[0]);
    at(1, &mut upper[1]);
    at(2, &mut lower[0]);
    at(3, &mut lower[1]);
}
