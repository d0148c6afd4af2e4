//! Fully connected layer: `y[n,o] = epilogue(bias[o] + sum over i of w[o,i] * x[n,i])`.
//!
//! y and dy: (N, O); w and dw: (O, I); bias and db: (O). The input, flattened as (C, H, W), has I elements; where it is
//! (N, C/16, H, W, 16) with more than one pixel, it is turned into a matrix first, and its gradient back: both are
//! small beside the weights. Rows of x, y and their gradients are padded to a multiple of 16.
//!
//! With micro-batches of 8 to 32 images, time is what it takes to read (or write) the weights once: each pass
//! streams them in rows and keeps everything else in caches.

mod forward;
mod gradients;

use super::elementwise::mask_in_place;
use super::layout::{self, groups, lanes, padded, tensor_bytes};
use super::memory::f32_bytes;
use super::team::Parts;
use super::tile::LANES;
use super::{Buffer, Cpu, Views};
use crate::plan::{DataGradient, Epilogue, Footprint, Step, ValueGradient};
use crate::shape::Chw;

/// The shape of a fully connected layer.
#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    inputs: usize,
    outputs: usize,
    /// Elements from one row of x, and of dx, to the next.
    x_stride: usize,
    /// Elements from one row of y, and of dy, to the next.
    y_stride: usize,
}

impl Shape {
    fn of(step: &Step) -> Self {
        Self {
            batch: step.batch,
            inputs: step.input.len(),
            outputs: step.output.len(),
            x_stride: padded(step.input.len()),
            y_stride: padded(step.output.len()),
        }
    }
}

/// A matrix and the distance of its rows.
#[derive(Clone, Copy)]
struct Rows<'a>(&'a [f32], usize);

/// Whether the input is a matrix as it lies.
fn is_matrix(input: Chw) -> bool {
    input.plane() == 1
}

/// Elements of the matrix that the input is turned into.
fn matrix(step: &Step) -> usize {
    if is_matrix(step.input) {
        0
    } else {
        step.batch * padded(step.input.len())
    }
}

pub(super) fn footprint(cpu: &Cpu, step: &Step, epilogue: Epilogue) -> Footprint {
    let shape = Shape::of(step);
    let matrix = matrix(step);
    let data = if step.data_gradient == DataGradient::None {
        0
    } else {
        matrix
    };
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        gradient: tensor_bytes(step.batch, step.output),
        saved: 0,
        forward_scratch: f32_bytes(matrix + forward::scratch(shape, cpu.team.threads())),
        backward_scratch: f32_bytes(
            gradients::by_outputs_len(shape) + matrix + data + gradients::scratch(shape, cpu.team.threads()),
        ),
        backward_reads_input: true,
        backward_reads_value: epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw,
    }
}

/// Overwrites y.
pub(super) fn forward(cpu: &Cpu, step: &Step, epilogue: Epilogue, views: &mut Views<'_>) {
    let (x_matrix, scratch) = views.scratch.split_at_mut(matrix(step));
    let x = if is_matrix(step.input) {
        views.input
    } else {
        to_matrix(cpu, step, views.input, x_matrix);
        &*x_matrix
    };
    let [weights, bias, ..] = views.weights;
    let relu = epilogue != Epilogue::None;
    forward::forward(
        cpu,
        Shape::of(step),
        x,
        (weights, bias),
        relu,
        scratch,
        views.value,
    );
}

/// dw, db and, where it is wanted, dx. Overwrites all of them; masks dy in place where that is left to this
/// step. Where there are partial sums of gradients, dw is added to them instead of being written (`sums[0] <- sums[0] + (sums[1] +
/// (... + dw))`).
pub(super) fn backward(
    cpu: &Cpu,
    step: &Step,
    epilogue: Epilogue,
    views: &mut Views<'_>,
    sums: (&mut [Buffer], usize),
) {
    let shape = Shape::of(step);
    if epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw {
        mask_in_place(cpu, views.value, views.gradient);
    }
    let (turned, scratch) = views.scratch.split_at_mut(gradients::by_outputs_len(shape));
    let (x_matrix, scratch) = scratch.split_at_mut(matrix(step));
    let x = if is_matrix(step.input) {
        views.input
    } else {
        to_matrix(cpu, step, views.input, x_matrix);
        &*x_matrix
    };
    let dy = &*views.gradient;
    let [dw, db, ..] = &mut views.weight_gradients;
    gradients::by_outputs(cpu, shape, dy, turned);
    gradients::bias(shape, turned, db);
    let dw = gradients::Target::new(dw, sums);
    let mask = match step.data_gradient {
        DataGradient::None => {
            return gradients::weights(cpu, shape, x, dy, scratch, dw);
        }
        DataGradient::Plain => None,
        DataGradient::Masked => Some(x),
    };
    let weights = views.weights[0];
    if is_matrix(step.input) {
        gradients::weights(cpu, shape, x, dy, scratch, dw);
        gradients::data(cpu, shape, weights, turned, mask, scratch, views.input_gradient);
    } else {
        let (dx, scratch) = scratch.split_at_mut(matrix(step));
        gradients::weights(cpu, shape, x, dy, scratch, dw);
        gradients::data(cpu, shape, weights, turned, mask, scratch, dx);
        from_matrix(cpu, step, dx, views.input_gradient);
    }
}

/// Rows of (C, H, W) of images (C/16, H, W, 16).
fn to_matrix(cpu: &Cpu, step: &Step, images: &[f32], matrix: &mut [f32]) {
    let (input, stride) = (step.input, padded(step.input.len()));
    let matrix = Parts::new(matrix);
    cpu.team.run(step.batch * groups(input.c), |task, _| {
        let (n, group) = (task / groups(input.c), task % groups(input.c));
        let lanes = lanes(input.c, group);
        let image = &images[task * layout::group_len(input)..][..layout::group_len(input)];
        let at = n * stride + group * layout::group_len(input);
        // SAFETY: this task alone has these channels of this row.
        let row = unsafe { matrix.range(at, lanes * input.plane()) };
        layout::group_to_logical(cpu.isa, lanes, image, row);
    });
}

/// Images (C/16, H, W, 16) of rows of (C, H, W).
fn from_matrix(cpu: &Cpu, step: &Step, matrix: &[f32], images: &mut [f32]) {
    let (input, stride) = (step.input, padded(step.input.len()));
    cpu.team.chunks(images, layout::group_len(input), |task, image| {
        let (n, group) = (task / groups(input.c), task % groups(input.c));
        let row = &matrix[n * stride + group * LANES * input.plane()..];
        layout::group_from_logical(cpu.isa, lanes(input.c, group), row, image);
    });
}
