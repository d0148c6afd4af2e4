//! The sum that forward pass and data gradient share:
//! `y[n,k,p] = sum over (c,r,s) of w[k,(c,r,s)] * panel[(c,r,s),p]`.
//!
//! Rows of a tile are output channels, lanes are pixels, the depth is (channel, filter row, filter column).
//! Filters are read where they are; pixels are packed by whoever multiplies by them, in blocks that stay in
//! its L2 cache.

use super::super::Cpu;
use super::super::team::Parts;
use super::super::tile::{self, Depth, LANES, ROWS, Tile};
use super::Shape;
use super::pack::pack_panel;
use crate::plan::Epilogue;

/// Depth of a block at most: a panel of pixels (18 KB) and a strip of filters (7 KB) fit the L1 cache
/// together.
const BLOCK_DEPTH: usize = 288;
/// Panels of one task at most: 290 KB of packed pixels.
const BLOCK_PANELS: usize = 16;
/// Filters that are multiplied with all panels of a task before the next ones: 110 KB.
const BLOCK_FILTERS: usize = 96;
/// Tasks aimed at, so that threads end together.
const TASKS: usize = 32;

/// What happens to the sums before they are written.
#[derive(Clone, Copy)]
pub(super) enum Finish<'a> {
    /// Start at the bias (K); the epilogue at the end.
    Forward { bias: &'a [f32], epilogue: Epilogue },
    /// Zero where the input, of the shape of the sums, is not positive.
    Masked { input: &'a [f32] },
    /// Nothing.
    Plain,
}

/// How a correlation is cut. A function of the shape alone.
struct Blocks {
    /// Panels of one image.
    image_panels: usize,
    /// Panels of the micro-batch.
    panels: usize,
    /// Panels of one task.
    task_panels: usize,
    /// Channels of one block of the depth.
    channels: usize,
}

impl Blocks {
    fn new(shape: Shape) -> Self {
        let image_panels = shape.plane().div_ceil(LANES);
        let panels = image_panels * shape.batch;
        Self {
            image_panels,
            panels,
            task_panels: (panels / TASKS).clamp(1, BLOCK_PANELS),
            channels: (BLOCK_DEPTH / shape.taps()).clamp(1, shape.inputs),
        }
    }
}

/// Elements of scratch.
pub(super) fn scratch(shape: Shape, threads: usize) -> usize {
    let blocks = Blocks::new(shape);
    threads * blocks.task_panels * blocks.channels * shape.taps() * LANES
}

/// `y[n,k] = finish(sum over c, r, s of filters[k,c,r,s] * x[n, c, i+r-P, j+s-P])`. Overwrites y.
///
/// x: (N, inputs, H, W); filters: (outputs, inputs, R, R); y: (N, outputs, H, W).
pub(super) fn correlate(
    cpu: &Cpu,
    shape: Shape,
    x: &[f32],
    filters: &[f32],
    finish: Finish<'_>,
    scratch: &mut [f32],
    y: &mut [f32],
) {
    let blocks = Blocks::new(shape);
    let depth = shape.inputs * shape.taps();
    let block_depth = blocks.channels * shape.taps();
    let scratch = Parts::new(scratch);
    let y = Parts::new(y);
    cpu.team
        .run(blocks.panels.div_ceil(blocks.task_panels), |task, worker| {
            let size = blocks.task_panels * block_depth * LANES;
            // SAFETY: one task at a time has this worker number.
            let packed = unsafe { scratch.range(worker * size, size) };
            let packed: &mut [[f32; LANES]] = bytemuck::cast_slice_mut(packed);
            let first = task * blocks.task_panels;
            let panels = first..blocks.panels.min(first + blocks.task_panels);

            for c in (0..shape.inputs).step_by(blocks.channels) {
                let channels = (c, shape.inputs.min(c + blocks.channels));
                let this_depth = (channels.1 - channels.0) * shape.taps();
                for (panel, packed) in panels.clone().zip(packed.chunks_exact_mut(block_depth)) {
                    let (n, pixel) = (panel / blocks.image_panels, panel % blocks.image_panels * LANES);
                    pack_panel(cpu.isa, shape, x, n, channels, pixel, packed);
                }
                let stage = Stage {
                    shape,
                    finish,
                    is_first: c == 0,
                    is_last: channels.1 == shape.inputs,
                };
                for block in (0..shape.outputs).step_by(BLOCK_FILTERS) {
                    let count = BLOCK_FILTERS.min(shape.outputs - block);
                    for (panel, packed) in panels.clone().zip(packed.chunks_exact(block_depth)) {
                        let (n, pixel) = (panel / blocks.image_panels, panel % blocks.image_panels * LANES);
                        for strip in 0..tile::strips(count) {
                            let (row, rows) = tile::strip(count, strip);
                            let k = block + row;
                            let offsets: [usize; ROWS] = std::array::from_fn(|r| r * depth);
                            let mut acc: Tile = [[0.0; LANES]; ROWS];
                            // SAFETY: this task alone writes the pixels of its panels.
                            let out = |r: usize| unsafe { stage.row(&y, n, k + r, pixel) };
                            stage.load(&mut acc[..rows], k, out);
                            tile::multiply(
                                cpu.isa,
                                &Depth::flat(this_depth, 1),
                                &filters[k * depth + c * shape.taps()..],
                                &offsets[..rows],
                                packed.as_flattened(),
                                &mut acc,
                            );
                            stage.store(&mut acc[..rows], (n, k, pixel), out);
                        }
                    }
                }
            }
        });
}

/// One block of the depth, as the tiles see it.
struct Stage<'a> {
    shape: Shape,
    finish: Finish<'a>,
    is_first: bool,
    is_last: bool,
}

impl Stage<'_> {
    /// First element of channel `k` of image `n`, and how many of the 16 pixels from `pixel` on there are.
    fn place(&self, n: usize, k: usize, pixel: usize) -> (usize, usize) {
        let plane = self.shape.plane();
        (
            (n * self.shape.outputs + k) * plane + pixel,
            LANES.min(plane - pixel),
        )
    }

    /// # Safety
    /// As for [`Parts::range`].
    unsafe fn row<'y>(&self, y: &Parts<'y, f32>, n: usize, k: usize, pixel: usize) -> &'y mut [f32] {
        let (start, len) = self.place(n, k, pixel);
        // SAFETY: says the caller.
        unsafe { y.range(start, len) }
    }

    /// Where the sums of `acc.len()` channels from `k` on begin.
    #[inline(always)]
    fn load<'y>(&self, acc: &mut [[f32; LANES]], k: usize, row: impl Fn(usize) -> &'y mut [f32]) {
        for (r, acc) in acc.iter_mut().enumerate() {
            match (self.is_first, self.finish) {
                (true, Finish::Forward { bias, .. }) => acc.fill(bias[k + r]),
                (true, Finish::Masked { .. } | Finish::Plain) => acc.fill(0.0),
                (false, _) => copy_lanes(row(r), acc),
            }
        }
    }

    /// Writes the sums back, finished after the last block.
    #[inline(always)]
    fn store<'y>(
        &self,
        acc: &mut [[f32; LANES]],
        (n, k, pixel): (usize, usize, usize),
        row: impl Fn(usize) -> &'y mut [f32],
    ) {
        for (r, acc) in acc.iter_mut().enumerate() {
            if self.is_last {
                match self.finish {
                    Finish::Forward { epilogue, .. } if epilogue != Epilogue::None => {
                        for sum in acc.iter_mut() {
                            *sum = if *sum < 0.0 { 0.0 } else { *sum };
                        }
                    }
                    Finish::Masked { input } => {
                        let (start, len) = self.place(n, k + r, pixel);
                        for (sum, &x) in acc.iter_mut().zip(&input[start..start + len]) {
                            *sum = if x > 0.0 { *sum } else { 0.0 };
                        }
                    }
                    Finish::Forward { .. } | Finish::Plain => {}
                }
            }
            let row = row(r);
            match row.first_chunk_mut() {
                Some(row) => *row = *acc,
                None => row.copy_from_slice(&acc[..row.len()]),
            }
        }
    }
}

/// All lanes, or as many as there are.
#[inline(always)]
fn copy_lanes(from: &[f32], to: &mut [f32; LANES]) {
    match from.first_chunk() {
        Some(from) => *to = *from,
        None => to[..from.len()].copy_from_slice(from),
    }
}

/// Filters (K, C, R, R) turned round for the data gradient:
/// `turned[c, k, r, s] = filters[k, c, R-1-r, R-1-s]`.
pub(super) fn turn_filters(cpu: &Cpu, shape: Shape, filters: &[f32], turned: &mut [f32]) {
    let taps = shape.taps();
    cpu.team.chunks(turned, shape.outputs * taps, |c, turned| {
        for (k, turned) in turned.chunks_exact_mut(taps).enumerate() {
            let filter = &filters[(k * shape.inputs + c) * taps..][..taps];
            for (turned, &w) in turned.iter_mut().zip(filter.iter().rev()) {
                *turned = w;
            }
        }
    });
}
