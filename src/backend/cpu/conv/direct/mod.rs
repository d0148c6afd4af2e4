//! Convolution as it is written down: for the first layer, whose three channels leave nothing to save, for filters
//! that are not 3x3, and wherever it is asked for.
//!
//! Rows of a tile are pixels of an image row, lanes are 16 output channels, the depth is (filter row, filter column,
//! channel). Pixels are read in place in a copy of a few image rows with a border of zeros. In front of a pooling, two rows
//! of outputs are held until their windows are complete: the full-size activation never exists.

mod border;
mod gradient;

pub(super) use gradient::{filter_gradient, gradient_scratch};

use super::super::Cpu;
use super::super::layout::{Pixel, groups, lanes};
use super::super::max_pool;
use super::super::simd::{Simd, vectorised};
use super::super::stream;
use super::super::team::Parts;
use super::super::tile::{self, Ahead, Depth, LANES, MOST_ROWS, Start, Tile};
use super::{Finish, Orientation, Shape};
use border::Border;

/// Elements of one task's copy of image rows, roughly: 256 KB.
const COPY_ELEMENTS: usize = 1 << 16;

/// Groups of output channels of one tile of the kernel.
const PANELS: usize = 2;

/// Image rows of one task: an even number, so that no 2x2 window lies in two tasks.
fn task_rows(shape: Shape) -> usize {
    let row = Border::new(shape, 1).len() / shape.kernel;
    (COPY_ELEMENTS / row)
        .saturating_sub(2 * shape.pad())
        .min(shape.height)
        .next_multiple_of(2)
        .max(2)
}

/// Elements of two rows of outputs of one tile's groups, which wait for their pooling.
fn held_rows(shape: Shape) -> usize {
    PANELS * 2 * shape.width * LANES
}

/// Elements of the packed filters.
fn packed_filters(shape: Shape) -> usize {
    groups(shape.outputs) * LANES * shape.inputs * shape.taps()
}

/// Elements of scratch of [`correlate`].
pub(super) fn scratch(shape: Shape, threads: usize) -> usize {
    packed_filters(shape) + threads * (Border::new(shape, task_rows(shape)).len() + held_rows(shape))
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
    let (finish, choices) = match finish {
        Finish::Pooled { bias, choices } => (Finish::Forward { bias, relu: true }, Some(choices)),
        Finish::Forward { .. } | Finish::Masked { .. } | Finish::Plain => (finish, None),
    };
    // An odd last row is in no window.
    let height = if choices.is_some() {
        shape.height & !1
    } else {
        shape.height
    };
    let streams = shape.streams() && choices.is_none();
    let rows = task_rows(shape);
    let border = Border::new(shape, rows);
    let part = border.len() + held_rows(shape);
    let (scratch, y) = (Parts::new(scratch), Parts::new(y.as_chunks_mut().0));
    let row_tasks = height.div_ceil(rows);
    cpu.team.run(shape.batch * row_tasks, |task, worker| {
        let (n, first) = (task / row_tasks, task % row_tasks * rows);
        // SAFETY: one task at a time has this worker number.
        let (copy, held) = unsafe { scratch.range(worker * part, part) }.split_at_mut(border.len());
        let held: &mut [Pixel] = held.as_chunks_mut().0;
        for group in 0..groups(shape.inputs) {
            let place = border.group(group).1;
            border.copy(x, n, group, first, &mut copy[place]);
        }
        let copy = &*copy;
        let outputs = groups(shape.outputs);
        let mut sums: [Tile; PANELS] = [[[0.0; LANES]; MOST_ROWS]; PANELS];
        for output in (0..outputs).step_by(PANELS) {
            let panels = PANELS.min(outputs - output);
            let ends: [End<'_>; PANELS] = std::array::from_fn(|panel| {
                End::new(shape, finish, (output + panel).min(outputs - 1), streams)
            });
            for row in first..height.min(first + rows) {
                for strip in 0..tile::strips(cpu.isa, shape.width) {
                    let (column, pixels) = tile::strip(cpu.isa, shape.width, strip);
                    let [one, two] = sums.each_mut().map(|panel| &mut panel[..pixels]);
                    let at = (row - first, column);
                    if panels == PANELS {
                        sum(cpu, shape, &border, at, copy, (filters, output), [one, two]);
                    } else {
                        sum(cpu, shape, &border, at, copy, (filters, output), [one]);
                    }
                    for (panel, sums) in sums.iter().enumerate().take(panels) {
                        let at = (n * outputs + output + panel) * shape.plane() + row * shape.width + column;
                        let y = match choices {
                            Some(_) => &mut held[(2 * panel + row % 2) * shape.width + column..][..pixels],
                            // SAFETY: this task alone writes these rows.
                            None => unsafe { y.range(at, pixels) },
                        };
                        finish_pixels(cpu.isa, &ends[panel], at, &sums[..pixels], y);
                    }
                }
                if let (Some(choices), 1) = (choices, row % 2) {
                    for (panel, rows) in held.chunks_exact(2 * shape.width).enumerate().take(panels) {
                        let (upper, lower) = rows.split_at(shape.width);
                        let plane = (n * outputs + output + panel) * (shape.height / 2);
                        let (at, width) = ((plane + row / 2) * (shape.width / 2), shape.width / 2);
                        // SAFETY: this task alone writes these rows.
                        let (y, choices) = unsafe { (y.range(at, width), choices.range(at, width)) };
                        max_pool::pool_row(cpu.isa, upper, lower, y, choices);
                    }
                }
            }
        }
        if streams {
            stream::fence(cpu.isa);
        }
    });
}

/// The sums of some pixels of a row, from (row, column) on, for P groups of outputs from `output` on.
fn sum<const P: usize>(
    cpu: &Cpu,
    shape: Shape,
    border: &Border,
    (row, column): (usize, usize),
    copy: &[f32],
    (filters, output): (&[f32], usize),
    mut sums: [&mut [[f32; LANES]]; P],
) {
    let panel = LANES * shape.inputs * shape.taps();
    for group in 0..groups(shape.inputs) {
        let (lanes, place) = border.group(group);
        let taps = shape.kernel * lanes; // of one filter row: they are neighbours in the copy, too
        let depth = Depth {
            count: [taps, shape.kernel, 1],
            a: [1, border.columns * lanes, 0],
            b: [LANES, taps * LANES, 0],
            ahead: [Ahead::NONE; 2],
        };
        let x = (&copy[place][(row * border.columns + column) * lanes..], lanes);
        let filters = &filters[output * panel + group * LANES * shape.taps() * LANES..];
        let start = if group == 0 { Start::Zero } else { Start::Held };
        let sums = sums.each_mut().map(|panel| &mut **panel);
        tile::multiply(cpu.isa, &depth, x, (filters, panel), start, sums);
    }
}

/// What becomes of the sums of one group of outputs.
struct End<'a> {
    finish: Finish<'a>,
    bias: Pixel,
    /// Channels that are no padding.
    lanes: usize,
    /// Whether outputs are written past the caches.
    streams: bool,
}

impl<'a> End<'a> {
    fn new(shape: Shape, finish: Finish<'a>, group: usize, streams: bool) -> Self {
        let lanes = lanes(shape.outputs, group);
        Self {
            finish,
            bias: finish.bias(group, lanes),
            lanes,
            streams: streams && lanes == LANES,
        }
    }
}

vectorised! {
    /// Outputs of the sums of some pixels, of which `at` is the first; padding becomes zero.
    fn finish_pixels<S>(s, end: &End<'_>, at: usize, sums: &[Pixel], y: &mut [Pixel]) {
        match (end.finish, end.streams) {
            (Finish::Forward { relu: true, .. }, true) => add_bias::<S, true, true>(s, &end.bias, sums, y),
            (Finish::Forward { relu: true, .. }, false) => add_bias::<S, true, false>(s, &end.bias, sums, y),
            (Finish::Forward { relu: false, .. }, true) => add_bias::<S, false, true>(s, &end.bias, sums, y),
            (Finish::Forward { relu: false, .. }, false) => add_bias::<S, false, false>(s, &end.bias, sums, y),
            (Finish::Pooled { .. }, _) => unreachable!("rows are pooled when they are whole"),
            (Finish::Masked { input }, _) => {
                let inputs = &input.as_chunks().0[at..];
                for ((y, sum), input) in y.iter_mut().zip(sums).zip(inputs) {
                    for register in 0..S::REGISTERS {
                        let value = s.where_positive(s.load(sum, register), s.load(input, register));
                        put(s, value, y, register, end.streams);
                    }
                }
            }
            (Finish::Plain, _) => {
                for (y, sum) in y.iter_mut().zip(sums) {
                    for register in 0..S::REGISTERS {
                        put(s, s.load(sum, register), y, register, end.streams);
                    }
                }
            }
        }
        if end.lanes < LANES {
            y.iter_mut().for_each(|y| y[end.lanes..].fill(0.0));
        }
    }
}

#[inline(always)]
fn add_bias<S: Simd, const RELU: bool, const STREAMS: bool>(
    s: S,
    bias: &Pixel,
    sums: &[Pixel],
    y: &mut [Pixel],
) {
    for (y, sum) in y.iter_mut().zip(sums) {
        for register in 0..S::REGISTERS {
            let sum = s.add(s.load(sum, register), s.load(bias, register));
            let value = if RELU { s.relu(sum) } else { sum };
            put(s, value, y, register, STREAMS);
        }
    }
}

/// Writes to the caches or past them.
#[inline(always)]
fn put<S: Simd>(s: S, value: S::V, y: &mut Pixel, register: usize, streams: bool) {
    if streams {
        s.stream(value, y, register);
    } else {
        s.store(value, y, register);
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
