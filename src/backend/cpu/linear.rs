//! Fully connected layer: `y[n,o] = epilogue(bias[o] + sum over i of w[o,i] * x[n,i])`.
//!
//! x and dx: (N, I), flattened as (C, H, W); y and dy: (N, O); w and dw: (O, I); bias and db: (O).
//!
//! With micro-batches of 8 to 32 images, time is what it takes to read (or write) the weights once: each pass
//! streams them in rows and keeps everything else in caches.

use super::elementwise::mask_in_place;
use super::memory::f32_bytes;
use super::team::Parts;
use super::tile::{self, Depth, LANES, ROWS, Tile, transpose};
use super::{Cpu, Views};
use crate::plan::{DataGradient, Epilogue, Footprint, Step, ValueGradient};

/// Inputs of one block of the forward pass: a strip of weights (24 KB) for all images.
const FORWARD_INPUTS: usize = 1024;
/// Inputs of one task of the backward pass at most: 4 KB of each row of weights.
const BACKWARD_INPUTS: usize = 1024;
/// Outputs of one block of the data gradient: 256 KB of packed weights.
const BACKWARD_OUTPUTS: usize = 64;
/// Outputs of one task at most.
const TASK_OUTPUTS: usize = 96;
/// Tasks aimed at.
const TASKS: usize = 32;

/// The shape of a fully connected layer and how its work is cut.
#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    inputs: usize,
    outputs: usize,
}

impl Shape {
    fn of(step: &Step) -> Self {
        Self {
            batch: step.batch,
            inputs: step.input.len(),
            outputs: step.output.len(),
        }
    }

    /// Panels of 16 images.
    fn panels(self) -> usize {
        self.batch.div_ceil(LANES)
    }

    /// Outputs of one task.
    fn task_outputs(self) -> usize {
        (self.outputs / TASKS).clamp(ROWS, TASK_OUTPUTS)
    }

    /// Inputs of one task of the backward pass: a multiple of 16.
    fn task_inputs(self) -> usize {
        (self.inputs / TASKS)
            .next_multiple_of(LANES)
            .clamp(LANES, BACKWARD_INPUTS)
    }

    /// Elements of x transposed, and of one worker's sums.
    fn forward_parts(self) -> (usize, usize) {
        (
            self.panels() * self.inputs * LANES,
            self.panels() * self.task_outputs() * LANES,
        )
    }

    /// Elements of one worker's packed operand in the backward pass.
    fn backward_part(self) -> usize {
        self.task_inputs() * BACKWARD_OUTPUTS.max(self.batch)
    }
}

pub(super) fn footprint(step: &Step, epilogue: Epilogue, threads: usize) -> Footprint {
    let shape = Shape::of(step);
    let (transposed, sums) = shape.forward_parts();
    Footprint {
        value: f32_bytes(step.batch * shape.outputs),
        gradient: f32_bytes(step.batch * shape.outputs),
        saved: 0,
        forward_scratch: f32_bytes(transposed + threads * sums),
        backward_scratch: f32_bytes(threads * shape.backward_part()),
        backward_reads_input: true,
        backward_reads_value: epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw,
    }
}

/// Overwrites y. Rows of a tile are outputs, lanes are images, the depth is the inputs.
pub(super) fn forward(cpu: &Cpu, step: &Step, epilogue: Epilogue, views: &mut Views<'_>) {
    let shape = Shape::of(step);
    let (transposed, sums) = shape.forward_parts();
    let (transposed, scratch) = views.scratch.split_at_mut(transposed);
    transpose_images(cpu, shape, views.input, transposed);
    let transposed = &*transposed;

    let [weights, bias, ..] = views.weights;
    let (value, scratch) = (Parts::new(views.value), Parts::new(scratch));
    let task_outputs = shape.task_outputs();
    cpu.team
        .run(shape.outputs.div_ceil(task_outputs), |task, worker| {
            // SAFETY: one task at a time has this worker number.
            let sums = unsafe { scratch.range(worker * sums, sums) };
            let sums: &mut [[f32; LANES]] = bytemuck::cast_slice_mut(sums);
            let first = task * task_outputs;
            let outputs = task_outputs.min(shape.outputs - first);
            for (panel, sums) in sums.chunks_exact_mut(task_outputs).enumerate() {
                for (o, sums) in sums[..outputs].iter_mut().enumerate() {
                    sums.fill(bias[first + o]);
                }
                debug_assert!(panel < shape.panels());
            }
            for i in (0..shape.inputs).step_by(FORWARD_INPUTS) {
                let depth = Depth::flat(FORWARD_INPUTS.min(shape.inputs - i), 1);
                for strip in 0..tile::strips(outputs) {
                    let (o, rows) = tile::strip(outputs, strip);
                    let offsets: [usize; ROWS] = std::array::from_fn(|r| r * shape.inputs);
                    let weights = &weights[(first + o) * shape.inputs + i..];
                    for (panel, sums) in sums.chunks_exact_mut(task_outputs).enumerate() {
                        let images = &transposed[(panel * shape.inputs + i) * LANES..];
                        let sums = &mut sums[o..o + rows];
                        let mut acc: Tile = [[0.0; LANES]; ROWS];
                        acc[..rows].copy_from_slice(sums);
                        tile::multiply(cpu.isa, &depth, weights, &offsets[..rows], images, &mut acc);
                        sums.copy_from_slice(&acc[..rows]);
                    }
                }
            }
            for n in 0..shape.batch {
                // SAFETY: this task alone writes these outputs.
                let y = unsafe { value.range(n * shape.outputs + first, outputs) };
                for (o, y) in y.iter_mut().enumerate() {
                    let sum = sums[n / LANES * task_outputs + o][n % LANES];
                    *y = if epilogue != Epilogue::None && sum < 0.0 {
                        0.0
                    } else {
                        sum
                    };
                }
            }
        });
}

/// `transposed[panel, i, lane] = x[16 * panel + lane, i]`, zero where there is no such image.
fn transpose_images(cpu: &Cpu, shape: Shape, x: &[f32], transposed: &mut [f32]) {
    let chunks = shape.inputs.div_ceil(FORWARD_INPUTS);
    let transposed = Parts::new(transposed);
    cpu.team.run(shape.panels() * chunks, |task, _| {
        let (panel, i) = (task / chunks, task % chunks * FORWARD_INPUTS);
        let inputs = FORWARD_INPUTS.min(shape.inputs - i);
        // SAFETY: this task alone writes these inputs of this panel.
        let transposed = unsafe { transposed.range((panel * shape.inputs + i) * LANES, inputs * LANES) };
        let images = LANES.min(shape.batch - panel * LANES);
        if images < LANES {
            transposed.fill(0.0);
        }
        let x = &x[panel * LANES * shape.inputs + i..];
        transpose(cpu.isa, (images, inputs), (x, shape.inputs), (transposed, LANES));
    });
}

/// dw, db and, where it is wanted, dx. Overwrites all of them; masks dy in place where that is left to this
/// step.
pub(super) fn backward(cpu: &Cpu, step: &Step, epilogue: Epilogue, views: &mut Views<'_>) {
    let shape = Shape::of(step);
    if epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw {
        mask_in_place(cpu, views.value, views.gradient);
    }
    let dy = &*views.gradient;
    let [dw, db, ..] = &mut views.weight_gradients;
    weight_gradient(cpu, shape, views.input, dy, views.scratch, dw);
    for (o, db) in db.iter_mut().enumerate() {
        *db = (0..shape.batch).map(|n| dy[n * shape.outputs + o]).sum();
    }
    let mask = match step.data_gradient {
        DataGradient::None => return,
        DataGradient::Plain => None,
        DataGradient::Masked => Some(views.input),
    };
    data_gradient(
        cpu,
        shape,
        views.weights[0],
        dy,
        mask,
        views.scratch,
        views.input_gradient,
    );
}

/// `dw[o,i] = sum over n of dy[n,o] * x[n,i]`: rows are outputs, lanes are inputs, the depth is the images.
fn weight_gradient(cpu: &Cpu, shape: Shape, x: &[f32], dy: &[f32], scratch: &mut [f32], dw: &mut [f32]) {
    let (task_inputs, part) = (shape.task_inputs(), shape.backward_part());
    let columns = shape.inputs.div_ceil(task_inputs);
    let (scratch, dw) = (Parts::new(scratch), Parts::new(dw));
    let depth = Depth::flat(shape.batch, shape.outputs);
    let offsets: [usize; ROWS] = std::array::from_fn(|r| r);
    cpu.team
        .run(columns * shape.outputs.div_ceil(TASK_OUTPUTS), |task, worker| {
            let (first, i) = (task / columns * TASK_OUTPUTS, task % columns * task_inputs);
            let (outputs, inputs) = (
                TASK_OUTPUTS.min(shape.outputs - first),
                task_inputs.min(shape.inputs - i),
            );
            // SAFETY: one task at a time has this worker number.
            let packed = unsafe { scratch.range(worker * part, part) };
            pack_rows(&x[i..], (shape.batch, inputs, shape.inputs), packed);
            for strip in 0..tile::strips(outputs) {
                let (o, rows) = tile::strip(outputs, strip);
                for (column, packed) in packed
                    .chunks_exact(shape.batch * LANES)
                    .take(inputs.div_ceil(LANES))
                    .enumerate()
                {
                    let mut acc: Tile = [[0.0; LANES]; ROWS];
                    tile::multiply(
                        cpu.isa,
                        &depth,
                        &dy[first + o..],
                        &offsets[..rows],
                        packed,
                        &mut acc,
                    );
                    let lanes = LANES.min(inputs - column * LANES);
                    for (r, acc) in acc[..rows].iter().enumerate() {
                        let start = (first + o + r) * shape.inputs + i + column * LANES;
                        // SAFETY: this task alone writes these inputs of these outputs.
                        unsafe { dw.range(start, lanes) }.copy_from_slice(&acc[..lanes]);
                    }
                }
            }
        });
}

/// `dx[n,i] = sum over o of dy[n,o] * w[o,i]`, zero where the mask is not positive: rows are images, lanes
/// are inputs, the depth is the outputs.
fn data_gradient(
    cpu: &Cpu,
    shape: Shape,
    weights: &[f32],
    dy: &[f32],
    mask: Option<&[f32]>,
    scratch: &mut [f32],
    dx: &mut [f32],
) {
    let (task_inputs, part) = (shape.task_inputs(), shape.backward_part());
    let (scratch, dx) = (Parts::new(scratch), Parts::new(dx));
    let offsets: [usize; ROWS] = std::array::from_fn(|r| r * shape.outputs);
    cpu.team.run(shape.inputs.div_ceil(task_inputs), |task, worker| {
        let i = task * task_inputs;
        let inputs = task_inputs.min(shape.inputs - i);
        // SAFETY: one task at a time has this worker number.
        let packed = unsafe { scratch.range(worker * part, part) };
        for o in (0..shape.outputs).step_by(BACKWARD_OUTPUTS) {
            let outputs = BACKWARD_OUTPUTS.min(shape.outputs - o);
            let (is_first, is_last) = (o == 0, o + outputs == shape.outputs);
            pack_rows(
                &weights[o * shape.inputs + i..],
                (outputs, inputs, shape.inputs),
                packed,
            );
            let columns = packed.chunks_exact(outputs * LANES).take(inputs.div_ceil(LANES));
            for (column, packed) in columns.enumerate() {
                let lanes = LANES.min(inputs - column * LANES);
                for strip in 0..tile::strips(shape.batch) {
                    let (n, rows) = tile::strip(shape.batch, strip);
                    let place = |r: usize| (n + r) * shape.inputs + i + column * LANES;
                    // SAFETY: this task alone writes these inputs.
                    let out = |r: usize| unsafe { dx.range(place(r), lanes) };
                    let mut acc: Tile = [[0.0; LANES]; ROWS];
                    if !is_first {
                        (0..rows).for_each(|r| acc[r][..lanes].copy_from_slice(out(r)));
                    }
                    let dy = &dy[n * shape.outputs + o..];
                    tile::multiply(
                        cpu.isa,
                        &Depth::flat(outputs, 1),
                        dy,
                        &offsets[..rows],
                        packed,
                        &mut acc,
                    );
                    for (r, acc) in acc[..rows].iter_mut().enumerate() {
                        if let (true, Some(mask)) = (is_last, mask) {
                            for (sum, &x) in acc.iter_mut().zip(&mask[place(r)..][..lanes]) {
                                *sum = if x > 0.0 { *sum } else { 0.0 };
                            }
                        }
                        out(r).copy_from_slice(&acc[..lanes]);
                    }
                }
            }
        }
    });
}

/// `packed[column, row, lane] = rows[row * stride + 16 * column + lane]`, zero behind the last element of a
/// row.
fn pack_rows(rows: &[f32], (count, len, stride): (usize, usize, usize), packed: &mut [f32]) {
    let packed: &mut [[f32; LANES]] = bytemuck::cast_slice_mut(packed);
    for row in 0..count {
        let (full, rest) = rows[row * stride..][..len].as_chunks::<LANES>();
        for (column, lanes) in full.iter().enumerate() {
            packed[column * count + row] = *lanes;
        }
        if !rest.is_empty() {
            let lanes = &mut packed[full.len() * count + row];
            lanes[..rest.len()].copy_from_slice(rest);
            lanes[rest.len()..].fill(0.0);
        }
    }
}
