//! The gradients of weights and input.

use super::super::memory::f32_bytes;
use super::super::simd::{MOST_REGISTERS, Simd, vectorised};
use super::super::stream;
use super::super::team::Parts;
use super::super::tile::{self, Depth, LANES, MOST_ROWS, Start, Tile};
use super::super::transpose::transpose;
use super::super::{Buffer, Cpu};
use super::{Rows, Shape};

/// Rows of weights that the data gradient reads side by side. With many more they would fall on one another in the caches:
/// their distance often is a large power of two.
const ROWS: usize = 8;
/// Outputs of one task of the weight gradient at most.
const TASK_OUTPUTS: usize = 256;
/// Outputs that are turned by one task: two cache lines of every row.
const TURNED_OUTPUTS: usize = 2 * LANES;
/// Panels of 16 inputs of one tile of the kernel.
const PANELS: usize = 2;
/// Tasks aimed at, and inputs of one at most.
const TASKS: usize = 32;
const TASK_INPUTS: usize = 1024;
/// Bytes of weights that are in the caches when they are used.
const CACHED_BYTES: usize = 16 << 20;
/// The tasks of each thread where the weights come from memory, and inputs of one at most: the longer the parts of rows that are read side by
/// side, the faster it answers.
const LONG_TASKS: usize = 4;
const LONG_TASK_INPUTS: usize = 4096;

/// Inputs of one task: a multiple of 16. No bit depends on it, and so it may depend on the number of threads.
fn task_inputs(shape: Shape, threads: usize) -> usize {
    let (tasks, most) = match f32_bytes(shape.inputs * shape.outputs) {
        ..=CACHED_BYTES => (TASKS, TASK_INPUTS),
        _ => (LONG_TASKS * threads, LONG_TASK_INPUTS),
    };
    (shape.inputs / tasks).next_multiple_of(LANES).clamp(LANES, most)
}

/// Elements of one worker's packed rows of x, or of its sums of dx.
fn packed(shape: Shape, threads: usize) -> usize {
    task_inputs(shape, threads) * shape.batch
}

/// Elements of scratch of [`weights`] and of [`data`].
pub(super) fn scratch(shape: Shape, threads: usize) -> usize {
    threads * packed(shape, threads)
}

/// Elements of [`by_outputs`].
pub(super) fn by_outputs_len(shape: Shape) -> usize {
    shape.outputs * shape.batch
}

/// dy (N, O) as (O, N): what one output sums over lies together. Rows of dy often are a large power of two apart, and
/// whoever went down a column would have it fall on itself in the caches.
pub(super) fn by_outputs(cpu: &Cpu, shape: Shape, dy: &[f32], turned: &mut [f32]) {
    cpu.team
        .chunks(turned, TURNED_OUTPUTS * shape.batch, |index, turned| {
            let outputs = turned.len() / shape.batch;
            let dy = (&dy[index * TURNED_OUTPUTS..], shape.y_stride);
            transpose(cpu.isa, (shape.batch, outputs), dy, (turned, shape.batch));
        });
}

/// `db[o] = sum over n of dy[n,o]`, of what [`by_outputs`] has turned. Overwrites db.
pub(super) fn bias(shape: Shape, dy: &[f32], db: &mut [f32]) {
    for (db, dy) in db.iter_mut().zip(dy.chunks_exact(shape.batch)) {
        *db = dy.iter().sum();
    }
}

/// Where the gradient of the weights goes: it is written, or added to partial sums (see [`super::backward`]).
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    /// dw, or that part of the first sum.
    to: Parts<'a, f32>,
    adds: bool,
    /// The other sums, and where dw begins there.
    others: &'a [Buffer],
    first: usize,
}

impl<'a> Target<'a> {
    /// dw, or sums if there are any, in which it begins at element `first`.
    pub(super) fn new(dw: &'a mut [f32], (sums, first): (&'a mut [Buffer], usize)) -> Self {
        let len = dw.len();
        match sums.split_first_mut() {
            None => Self {
                to: Parts::new(dw),
                adds: false,
                others: &[],
                first,
            },
            Some((sum, others)) => Self {
                to: Parts::new(&mut sum.as_mut_slice()[first..][..len]),
                adds: true,
                others,
                first,
            },
        }
    }
}

/// `dw[o,i] = sum over n of dy[n,o] * x[n,i]`: rows of a tile are outputs, lanes are inputs, the depth is the images.
pub(super) fn weights(cpu: &Cpu, shape: Shape, x: &[f32], dy: &[f32], scratch: &mut [f32], dw: Target<'_>) {
    let threads = cpu.team.threads();
    let (task_inputs, part) = (task_inputs(shape, threads), packed(shape, threads));
    let columns = shape.inputs.div_ceil(task_inputs);
    let scratch = Parts::new(scratch);
    let depth = Depth::flat(shape.batch, shape.y_stride);
    let tasks = columns * shape.outputs.div_ceil(TASK_OUTPUTS);
    cpu.team.run(tasks, |task, worker| {
        let (first, i) = (task / columns * TASK_OUTPUTS, task % columns * task_inputs);
        let outputs = TASK_OUTPUTS.min(shape.outputs - first);
        let inputs = task_inputs.min(shape.inputs - i);
        // SAFETY: one task at a time has this worker number.
        let packed = unsafe { scratch.range(worker * part, part) };
        pack_rows(&x[i..], (shape.batch, inputs, shape.x_stride), packed);
        let mut sums: [Tile; PANELS] = [[[0.0; LANES]; MOST_ROWS]; PANELS];
        let panel = shape.batch * LANES;
        for strip in 0..tile::strips(cpu.isa, outputs) {
            let (o, rows) = tile::strip(cpu.isa, outputs, strip);
            let dy = (&dy[first + o..], 1);
            for column in (0..inputs.div_ceil(LANES)).step_by(PANELS) {
                let x = (&packed[column * panel..], panel);
                let [one, two] = sums.each_mut().map(|sums| &mut sums[..rows]);
                if inputs > (column + 1) * LANES {
                    tile::multiply(cpu.isa, &depth, dy, x, Start::Zero, [one, two]);
                } else {
                    tile::multiply(cpu.isa, &depth, dy, x, Start::Zero, [one]);
                }
                let places = Places {
                    dw,
                    start: (first + o) * shape.inputs + i + column * LANES,
                    stride: shape.inputs,
                    lanes: inputs - column * LANES,
                };
                if dw.adds {
                    add_to_sums(cpu.isa, rows, &sums, places);
                } else {
                    store_rows(cpu.isa, rows, &sums, places);
                }
            }
        }
        stream::fence(cpu.isa);
    });
}

/// Where the rows of some panels go.
#[derive(Clone, Copy)]
struct Places<'a> {
    dw: Target<'a>,
    /// Of the first row.
    start: usize,
    /// Elements from one row to the next.
    stride: usize,
    /// Elements of a row that are left: those of the panels, or fewer.
    lanes: usize,
}

vectorised! {
    /// Writes the first rows of panels past the caches.
    fn store_rows<S>(s, rows: usize, panels: &[Tile; PANELS], places: Places<'_>) {
        for r in 0..rows {
            let start = places.start + r * places.stride;
            // SAFETY: the task alone writes these inputs of these outputs.
            let dw = unsafe { places.dw.to.range(start, places.lanes.min(PANELS * LANES)) };
            let (full, rest) = dw.as_chunks_mut();
            for (dw, panel) in full.iter_mut().zip(panels) {
                for register in 0..S::REGISTERS {
                    s.stream(s.load(&panel[r], register), dw, register);
                }
            }
            if !rest.is_empty() {
                rest.copy_from_slice(&panels[full.len()][r][..rest.len()]);
            }
        }
    }
}

vectorised! {
    /// Adds the first rows of panels to partial sums; fetches what the next panels are added to.
    fn add_to_sums<S>(s, rows: usize, panels: &[Tile; PANELS], places: Places<'_>) {
        let Target { to, others, first, .. } = places.dw;
        for r in 0..rows {
            let start = places.start + r * places.stride;
            let len = places.lanes.min(PANELS * LANES);
            for line in 0..PANELS {
                let next = start + (PANELS + line) * LANES;
                stream::prefetch_to_write(to.address(next));
                for sum in others {
                    stream::prefetch(sum.as_slice().as_ptr().wrapping_add(first + next));
                }
            }
            // SAFETY: the task alone writes these inputs of these outputs.
            let dw = unsafe { to.range(start, len) };
            let (full, rest) = dw.as_chunks_mut::<LANES>();
            for (p, (dw, panel)) in full.iter_mut().zip(panels).enumerate() {
                for register in 0..S::REGISTERS {
                    let mut sum = s.load(&panel[r], register);
                    for other in others.iter().rev() {
                        sum = s.add(s.load(&part(other, first + start, len).as_chunks().0[p], register), sum);
                    }
                    s.store(s.add(s.load(dw, register), sum), dw, register);
                }
            }
            let done = full.len();
            for (l, dw) in rest.iter_mut().enumerate() {
                let leaf = panels[done][r][l];
                let others = others.iter().rev();
                *dw += others.fold(leaf, |sum, other| part(other, first + start, len)[done * LANES + l] + sum);
            }
        }
    }
}

#[inline(always)]
fn part(buffer: &Buffer, start: usize, len: usize) -> &[f32] {
    &buffer.as_slice()[start..][..len]
}

/// `dx[n,i] = sum over o of dy[n,o] * w[o,i]`, zero where the mask is not positive. Overwrites dx, padding with zero.
///
/// A task has some columns of the weights, and adds a few rows at a time to the sums of its inputs. dy: (O, N), of
/// [`by_outputs`].
pub(super) fn data(
    cpu: &Cpu,
    shape: Shape,
    weights: &[f32],
    dy: &[f32],
    mask: Option<&[f32]>,
    scratch: &mut [f32],
    dx: &mut [f32],
) {
    let threads = cpu.team.threads();
    let (task_inputs, part) = (task_inputs(shape, threads), packed(shape, threads));
    let (scratch, dx) = (Parts::new(scratch), Parts::new(dx));
    cpu.team.run(shape.inputs.div_ceil(task_inputs), |task, worker| {
        let first = task * task_inputs;
        let inputs = task_inputs.min(shape.inputs - first);
        let (columns, rest) = (inputs / LANES, inputs % LANES);
        // SAFETY: one task at a time has this worker number.
        let sums = unsafe { scratch.range(worker * part, part) };
        sums.fill(0.0);
        let sums: &mut [[f32; LANES]] = sums.as_chunks_mut().0;
        for o in (0..shape.outputs).step_by(ROWS) {
            let rows = ROWS.min(shape.outputs - o);
            let factors = &dy[o * shape.batch..][..rows * shape.batch];
            let w = Rows(&weights[o * shape.inputs + first..], shape.inputs);
            add_rows(cpu.isa, w, columns, factors, shape.batch, sums);
            if rest > 0 {
                let mut edge = [[0.0; LANES]; ROWS];
                for (r, edge) in edge.iter_mut().enumerate().take(rows) {
                    edge[..rest].copy_from_slice(&w.0[r * shape.inputs + columns * LANES..][..rest]);
                }
                let sums = &mut sums[columns * shape.batch..];
                let edge = Rows(edge.as_flattened(), LANES);
                add_rows(cpu.isa, edge, 1, factors, shape.batch, sums);
            }
        }
        for column in 0..inputs.div_ceil(LANES) {
            for (n, sums) in sums[column * shape.batch..][..shape.batch].iter().enumerate() {
                let place = n * shape.x_stride + first + column * LANES;
                // SAFETY: this task alone writes these inputs.
                let dx = unsafe { dx.range(place, LANES) };
                dx.copy_from_slice(sums);
                if let Some(mask) = mask {
                    for (dx, &x) in dx.iter_mut().zip(&mask[place..][..LANES]) {
                        *dx = if x > 0.0 { *dx } else { 0.0 };
                    }
                }
            }
        }
    });
}

vectorised! {
    /// `sums[column, n, lane] += sum over r of factors[r, n] * w[r, 16 * column + lane]`, in the order of r. The rows behind
    /// these, as many, are fetched meanwhile.
    fn add_rows<S>(
        s,
        w: Rows<'_>,
        columns: usize,
        factors: &[f32],
        batch: usize,
        sums: &mut [[f32; LANES]],
    ) {
        let Rows(w, stride) = w;
        let rows = factors.len() / batch;
        for column in 0..columns {
            for r in 0..rows {
                stream::prefetch(w.as_ptr().wrapping_add((rows + r) * stride + column * LANES));
            }
            let w = Rows(&w[column * LANES..], stride);
            let sums = &mut sums[column * batch..][..batch];
            let mut n = 0;
            while n < batch {
                n += match batch - n {
                    16.. if S::REGISTERS == 1 => add_pixels::<S, 16>(s, w, factors, n, sums),
                    8.. if S::REGISTERS == 1 => add_pixels::<S, 8>(s, w, factors, n, sums),
                    4.. => add_pixels::<S, 4>(s, w, factors, n, sums),
                    2.. => add_pixels::<S, 2>(s, w, factors, n, sums),
                    _ => add_pixels::<S, 1>(s, w, factors, n, sums),
                };
            }
        }
    }
}

/// [`add_rows`] for one column and M images from `first` on; returns M.
#[inline(always)]
fn add_pixels<S: Simd, const M: usize>(
    s: S,
    Rows(w, stride): Rows<'_>,
    factors: &[f32],
    first: usize,
    sums: &mut [[f32; LANES]],
) -> usize {
    let batch = sums.len();
    let sums: &mut [[f32; LANES]; M] = sums[first..].first_chunk_mut().expect("as many images");
    let mut partial = [[s.zero(); M]; MOST_REGISTERS];
    for (register, partial) in partial.iter_mut().take(S::REGISTERS).enumerate() {
        for n in 0..M {
            partial[n] = s.load(&sums[n], register);
        }
    }
    for (r, factors) in factors.chunks_exact(batch).enumerate() {
        let factors: &[f32; M] = factors[first..].first_chunk().expect("as many images");
        let w: &[f32; LANES] = w[r * stride..].first_chunk().expect("a column");
        for (register, partial) in partial.iter_mut().take(S::REGISTERS).enumerate() {
            let w = s.load(w, register);
            for n in 0..M {
                partial[n] = s.mul_add(s.splat(factors[n]), w, partial[n]);
            }
        }
    }
    for (register, partial) in partial.iter().take(S::REGISTERS).enumerate() {
        for n in 0..M {
            s.store(partial[n], &mut sums[n], register);
        }
    }
    M
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
