//! Convolution as it is written down: for the first layer, whose three channels leave nothing to save, for filters
//! that are not 3x3, and wherever it is asked for.
//!
//! Rows of a tile are pixels of an image row, lanes are 16 output channels, the depth is (filter row, filter column,
//! channel). Pixels are read in place in a copy of a few image rows with a border of zeros.

mod border;
mod gradient;

pub(super) use gradient::{filter_gradient, gradient_scratch};

use super::super::Cpu;
use super::super::layout::{groups, lanes};
use super::super::simd::{halves, halves_mut, vectorised};
use super::super::team::Parts;
use super::super::tile::{self, Depth, LANES, ROWS, Start, Tile};
use super::{Finish, Orientation, Shape};
use border::Border;

/// Elements of one task's copy of image rows, roughly: 256 KB.
const COPY_ELEMENTS: usize = 1 << 16;

/// Image rows of one task.
fn task_rows(shape: Shape) -> usize {
    let row = Border::new(shape, 1).len() / shape.kernel;
    (COPY_ELEMENTS / row)
        .saturating_sub(2 * shape.pad())
        .clamp(1, shape.height)
}

/// Elements of the packed filters.
fn packed_filters(shape: Shape) -> usize {
    groups(shape.outputs) * LANES * shape.inputs * shape.taps()
}

/// Elements of scratch of [`correlate`].
pub(super) fn scratch(shape: Shape, threads: usize) -> usize {
    packed_filters(shape) + threads * Border::new(shape, task_rows(shape)).len()
}

/// `y[n,k] = finish(sum over c, r, s of filters[k,c,r,s] * x[n, c, i+r-P, j+s-P])`. Overwrites y.
///
/// x: (N, C/16, H, W, 16); weights: (K, C, R, R), or (C, K, R, R) where they are to be turned; y: (N, K/16, H, W, 16).
pub(super) fn correlate(
    cpu: &Cpu,
    shape: Shape,
    x: &[f32],
    (weights, orientation): (&[f32], Orientation),
    finish: Finish<'_>,
    scratch: &mut [f32],
    y: &mut [f32],
) {
    let (filters, scratch) = scratch.split_at_mut(packed_filters(shape));
    pack_filters(cpu, shape, weights, orientation, filters);
    let filters = &*filters;
    let rows = task_rows(shape);
    let border = Border::new(shape, rows);
    let (scratch, y) = (Parts::new(scratch), Parts::new(y));
    let row_tasks = shape.height.div_ceil(rows);
    cpu.team.run(shape.batch * row_tasks, |task, worker| {
        let (n, first) = (task / row_tasks, task % row_tasks * rows);
        // SAFETY: one task at a time has this worker number.
        let copy = unsafe { scratch.range(worker * border.len(), border.len()) };
        for group in 0..groups(shape.inputs) {
            let place = border.group(group).1;
            border.copy(x, n, group, first, &mut copy[place]);
        }
        let copy = &*copy;
        for output in 0..groups(shape.outputs) {
            let filters = &filters[output * LANES * shape.inputs * shape.taps()..];
            for row in first..shape.height.min(first + rows) {
                for strip in 0..tile::strips(shape.width) {
                    let (column, pixels) = tile::strip(shape.width, strip);
                    let mut sums: Tile = [[0.0; LANES]; ROWS];
                    let sums = &mut sums[..pixels];
                    let at = (row - first, column);
                    sum(cpu, shape, &border, at, copy, filters, sums);
                    let plane = (n * groups(shape.outputs) + output) * shape.plane();
                    let at = (plane + row * shape.width + column) * LANES;
                    // SAFETY: this task alone writes these rows.
                    let y = unsafe { y.range(at, pixels * LANES) };
                    finish_pixels(cpu.isa, shape, output, finish, at, sums, y.as_chunks_mut().0);
                }
            }
        }
    });
}

/// The sums of some pixels of a row, from (row, column) on, for one group of outputs.
fn sum(
    cpu: &Cpu,
    shape: Shape,
    border: &Border,
    (row, column): (usize, usize),
    copy: &[f32],
    filters: &[f32],
    sums: &mut [[f32; LANES]],
) {
    for group in 0..groups(shape.inputs) {
        let (lanes, place) = border.group(group);
        let taps = shape.kernel * lanes; // of one filter row: they are neighbours in the copy, too
        let depth = Depth {
            count: [taps, shape.kernel, 1],
            a: [1, border.columns * lanes, 0],
            b: [LANES, taps * LANES, 0],
        };
        let x = &copy[place][(row * border.columns + column) * lanes..];
        let pixels: [usize; ROWS] = std::array::from_fn(|r| r * lanes);
        let filters = &filters[group * LANES * shape.taps() * LANES..];
        let start = if group == 0 { Start::Zero } else { Start::Held };
        tile::multiply(cpu.isa, &depth, (x, &pixels[..sums.len()]), filters, start, sums);
    }
}

vectorised! {
    /// `at` is the first element of y; padding becomes zero.
    fn finish_pixels<S>(
        s,
        shape: Shape,
        group: usize,
        finish: Finish<'_>,
        at: usize,
        sums: &[[f32; LANES]],
        y: &mut [[f32; LANES]],
    ) {
        let lanes = lanes(shape.outputs, group);
        let bias = finish.bias(group, lanes);
        for (index, (y, sums)) in y.iter_mut().zip(sums).enumerate() {
            for half in 0..2 {
                let sum = s.load(&halves(sums)[half]);
                let value = match finish {
                    Finish::Forward { relu, .. } => {
                        let value = s.add(sum, s.load(&halves(&bias)[half]));
                        if relu { s.relu(value) } else { value }
                    }
                    Finish::Pooled { .. } => unreachable!("the direct method pools afterwards"),
                    Finish::Masked { input } => {
                        let input: &[f32; LANES] = input[at + index * LANES..].first_chunk().expect("a pixel");
                        s.where_positive(sum, s.load(&halves(input)[half]))
                    }
                    Finish::Plain => sum,
                };
                s.store(value, &mut halves_mut(y)[half]);
            }
            y[lanes..].fill(0.0);
        }
    }
}

/// Packs filters as `[K/16][C/16][r][s][channel of the group][16]`, zero for padding of outputs.
fn pack_filters(cpu: &Cpu, shape: Shape, weights: &[f32], orientation: Orientation, packed: &mut [f32]) {
    let taps = shape.taps();
    cpu.team
        .chunks(packed, LANES * shape.inputs * taps, |output, packed| {
            let count = lanes(shape.outputs, output);
            for (group, packed) in packed.chunks_mut(LANES * LANES * taps).enumerate() {
                let inputs = lanes(shape.inputs, group);
                for (index, lanes) in packed.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                    let (tap, c) = (index / inputs, group * LANES + index % inputs);
                    *lanes = [0.0; LANES];
                    for (l, weight) in lanes[..count].iter_mut().enumerate() {
                        let k = output * LANES + l;
                        *weight = weights[match orientation {
                            Orientation::Straight => (k * shape.inputs + c) * taps + tap,
                            Orientation::Turned => (c * shape.outputs + k) * taps + taps - 1 - tap,
                        }];
                    }
                }
            }
        });
}
