//! The gradients of weights and input.

use super::super::Cpu;
use super::super::stream;
use super::super::team::Parts;
use super::super::tile::{self, Ahead, Depth, LANES, MOST_ROWS, Start, Tile};
use super::Shape;

/// Inputs of one task at most: 4 KB of each row of weights.
const TASK_INPUTS: usize = 1024;
/// Outputs of one block of the data gradient: as many rows of weights are read side by side.
const BLOCK_OUTPUTS: usize = 32;
/// Elements by which a row of weights is fetched ahead of its use.
const AHEAD: usize = 8 * LANES;
/// Outputs of one task of the weight gradient at most.
const TASK_OUTPUTS: usize = 96;
/// Tasks aimed at.
const TASKS: usize = 32;

/// Inputs of one task: a multiple of 16.
fn task_inputs(shape: Shape) -> usize {
    (shape.inputs / TASKS)
        .next_multiple_of(LANES)
        .clamp(LANES, TASK_INPUTS)
}

/// Elements of one worker's packed rows of x.
fn packed(shape: Shape) -> usize {
    task_inputs(shape) * shape.batch
}

/// Elements of scratch.
pub(super) fn scratch(shape: Shape, threads: usize) -> usize {
    threads * packed(shape)
}

/// `dw[o,i] = sum over n of dy[n,o] * x[n,i]`: rows of a tile are outputs, lanes are inputs, the depth is the images.
/// Overwrites dw.
pub(super) fn weights(cpu: &Cpu, shape: Shape, x: &[f32], dy: &[f32], scratch: &mut [f32], dw: &mut [f32]) {
    let (task_inputs, part) = (task_inputs(shape), packed(shape));
    let columns = shape.inputs.div_ceil(task_inputs);
    let (scratch, dw) = (Parts::new(scratch), Parts::new(dw));
    let depth = Depth::flat(shape.batch, shape.y_stride);
    let tasks = columns * shape.outputs.div_ceil(TASK_OUTPUTS);
    cpu.team.run(tasks, |task, worker| {
        let (first, i) = (task / columns * TASK_OUTPUTS, task % columns * task_inputs);
        let outputs = TASK_OUTPUTS.min(shape.outputs - first);
        let inputs = task_inputs.min(shape.inputs - i);
        // SAFETY: one task at a time has this worker number.
        let packed = unsafe { scratch.range(worker * part, part) };
        pack_rows(&x[i..], (shape.batch, inputs, shape.x_stride), packed);
        for strip in 0..tile::strips(cpu.isa, outputs) {
            let (o, rows) = tile::strip(cpu.isa, outputs, strip);
            let panels = packed.chunks_exact(shape.batch * LANES);
            for (column, panel) in panels.take(inputs.div_ceil(LANES)).enumerate() {
                let mut sums: Tile = [[0.0; LANES]; MOST_ROWS];
                let sums = &mut sums[..rows];
                tile::multiply(
                    cpu.isa,
                    &depth,
                    (&dy[first + o..], 1),
                    (panel, 0),
                    Start::Zero,
                    [&mut *sums],
                );
                let lanes = LANES.min(inputs - column * LANES);
                for (r, sums) in sums.iter().enumerate() {
                    let start = (first + o + r) * shape.inputs + i + column * LANES;
                    // SAFETY: this task alone writes these inputs of these outputs.
                    let dw = unsafe { dw.range(start, lanes) };
                    match dw.as_chunks_mut().0 {
                        [dw] => stream::store(cpu.isa, sums, dw),
                        _ => dw.copy_from_slice(&sums[..lanes]),
                    }
                }
            }
        }
        stream::fence(cpu.isa);
    });
}

/// `dx[n,i] = sum over o of dy[n,o] * w[o,i]`, zero where the mask is not positive: rows of a tile are images, lanes
/// are inputs, the depth is the outputs. Overwrites dx, padding with zero.
pub(super) fn data(
    cpu: &Cpu,
    shape: Shape,
    weights: &[f32],
    dy: &[f32],
    mask: Option<&[f32]>,
    dx: &mut [f32],
) {
    let task_inputs = task_inputs(shape);
    let dx = Parts::new(dx);
    cpu.team.run(shape.inputs.div_ceil(task_inputs), |task, _| {
        let first = task * task_inputs;
        let inputs = task_inputs.min(shape.inputs - first);
        for o in (0..shape.outputs).step_by(BLOCK_OUTPUTS) {
            let outputs = BLOCK_OUTPUTS.min(shape.outputs - o);
            let (is_first, is_last) = (o == 0, o + outputs == shape.outputs);
            let depth = Depth {
                count: [outputs, 1, 1],
                a: [1, 0, 0],
                b: [shape.inputs, 0, 0],
                ahead: [Ahead::NONE; 2],
            };
            let rows = &weights[o * shape.inputs..][..outputs * shape.inputs];
            for i in (first..first + inputs).step_by(LANES) {
                let lanes = LANES.min(first + inputs - i);
                let mut edge = [[0.0; LANES]; BLOCK_OUTPUTS];
                let (panel, depth) = if lanes == LANES {
                    // Behind the end of a task's columns: the same columns of the next rows.
                    let ahead = match i + AHEAD {
                        ahead if ahead < first + inputs => ahead,
                        ahead => ahead - inputs + BLOCK_OUTPUTS * shape.inputs,
                    };
                    for r in 0..outputs {
                        stream::prefetch(rows.as_ptr().wrapping_add(r * shape.inputs + ahead));
                    }
                    (&rows[i..], &depth)
                } else {
                    for (edge, row) in edge.iter_mut().zip(rows.chunks_exact(shape.inputs)) {
                        edge[..lanes].copy_from_slice(&row[i..i + lanes]);
                    }
                    (edge.as_flattened(), &Depth::flat(outputs, 1))
                };
                for strip in 0..tile::strips(cpu.isa, shape.batch) {
                    let (n, images) = tile::strip(cpu.isa, shape.batch, strip);
                    let place = |r: usize| (n + r) * shape.x_stride + i;
                    // SAFETY: this task alone writes these inputs.
                    let out = |r: usize| unsafe { dx.range(place(r), LANES) };
                    let mut sums: Tile = [[0.0; LANES]; MOST_ROWS];
                    let sums = &mut sums[..images];
                    if !is_first {
                        sums.iter_mut()
                            .enumerate()
                            .for_each(|(r, sums)| sums.copy_from_slice(out(r)));
                    }
                    let dy = (&dy[n * shape.y_stride + o..], shape.y_stride);
                    tile::multiply(cpu.isa, depth, dy, (panel, 0), Start::Held, [&mut *sums]);
                    for (r, sums) in sums.iter_mut().enumerate() {
                        if let (true, Some(mask)) = (is_last, mask) {
                            for (sum, &x) in sums.iter_mut().zip(&mask[place(r)..][..LANES]) {
                                *sum = if x > 0.0 { *sum } else { 0.0 };
                            }
                        }
                        out(r).copy_from_slice(sums);
                    }
                }
            }
        }
    });
}

/// `packed[column, row, lane] = rows[row * stride + 16 * column + lane]`, zero behind the last element of a
/// row.
fn pack_rows(rows: &[f32], (count, len, stride): (usize, usize, usize), packed: &mut [f32]) {
    let packed: &mut [[f32; LANES]] = packed.as_chunks_mut().0;
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
