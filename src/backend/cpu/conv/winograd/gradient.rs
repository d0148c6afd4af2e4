//! The filter gradient: `dw = G^T [ sum over tiles of (B^T x B) . (A dy A^T) ] G`.

use super::super::super::Cpu;
use super::super::super::layout::padded;
use super::super::super::memory::f32_bytes;
use super::super::super::team::Parts;
use super::super::super::tile::{LANES, Start};
use super::super::Shape;
use super::tiles::Tiles;
use super::{Blocks, FEW_FILTERS, Private, SMALL_BYTES, TileSize, filters, images, products};

/// Sums of dU that the blocks go to in parallel, where a block is one thread's task: a power of two, at most so many, and
/// [`sums_bytes`] together.
const MOST_SUMS: usize = 32;

/// Bytes of all sums of dU: eight where the channels are as many as they can be.
fn sums_bytes(size: TileSize) -> usize {
    match size {
        TileSize::Two => 36 << 20,
        TileSize::Four => 24 << 20,
    }
}

/// Which blocks are one thread's: up to 64 x 64 or 256 x 256 channels, since a block reads and writes all of one t's sums of dU,
/// and tiles of 2x2 outputs have less than half as many elements t. Bits depend on it.
fn private(size: TileSize) -> Private {
    Private {
        filters: match size {
            TileSize::Two => 1 << 16,
            TileSize::Four => FEW_FILTERS,
        },
        bytes: SMALL_BYTES,
    }
}

/// Tiles of a micro-batch from which on a block may be one thread's: with fewer, the sums of dU, which are added in the end,
/// are as much to read and write as all of V and dM. Bits depend on it.
const PRIVATE_TILES: usize = 2048;

/// How the blocks are dealt to sums of dU. A function of the shape and of the size of the tiles alone.
struct Sums {
    blocks: Blocks,
    count: usize,
    /// Blocks of each.
    each: usize,
    /// Elements of dU, and of its f64 sums of dy.
    du: usize,
    totals: usize,
    /// Elements of V, dM and the parts' sums of dy, all of one block.
    block: [usize; 3],
}

impl Sums {
    fn new(shape: Shape, size: TileSize) -> Self {
        let private = match Tiles::new(shape, size).count {
            ..PRIVATE_TILES => Private {
                filters: 0,
                ..private(size)
            },
            _ => private(size),
        };
        let blocks = Blocks::new(shape, size, private);
        let [v, dm, du] = blocks.parts();
        let most = match blocks.private {
            true => 1 << (sums_bytes(size) / f32_bytes(du)).clamp(1, MOST_SUMS).ilog2(),
            false => 1,
        };
        let each = blocks.count().div_ceil(most);
        Self {
            blocks,
            count: blocks.count().div_ceil(each),
            each,
            du,
            totals: padded(shape.outputs),
            block: [v, dm, images::parts(shape.outputs, blocks.block) * LANES],
        }
    }
}

/// Elements of scratch of [`filter_gradient`].
pub(in super::super) fn gradient_scratch(shape: Shape, size: TileSize, threads: usize) -> usize {
    let sums = Sums::new(shape, size);
    let workers = if sums.blocks.private { threads } else { 1 };
    sums.count * (sums.du + 2 * sums.totals) + workers * sums.block.iter().sum::<usize>()
}

/// dw (K, C, 3, 3) and db (K), which is the sum of dy over images and pixels. Overwrites both.
///
/// x: (N, C/16, H, W, 16); dy: (N, K/16, H, W, 16).
pub(in super::super) fn filter_gradient(
    cpu: &Cpu,
    (shape, size): (Shape, TileSize),
    (x, dy): (&[f32], &[f32]),
    scratch: &mut [f32],
    (dw, db): (&mut [f32], &mut [f32]),
) {
    let sums = Sums::new(shape, size);
    let blocks = &sums.blocks;
    let (du, rest) = scratch.split_at_mut(sums.count * sums.du);
    let (totals, scratch) = rest.split_at_mut(2 * sums.count * sums.totals);
    let totals: &mut [f64] = bytemuck::cast_slice_mut(totals);
    totals.fill(0.0);
    // The blocks of one sum, in order.
    let sum = |index: usize, scratch: &mut [f32], du: &mut [f32], totals: &mut [f64]| {
        let [v, dm, _] = sums.block;
        let (v, rest) = scratch.split_at_mut(v);
        let (dm, rest) = rest.split_at_mut(dm);
        let first = index * sums.each;
        for block in first..blocks.count().min(first + sums.each) {
            let range = blocks.range(block);
            let dy_sums = &mut rest.as_chunks_mut().0[..images::parts(shape.outputs, range.1)];
            images::transform_input(cpu, blocks, (shape.inputs, x), range, v);
            images::transform_gradient(cpu, blocks, (shape.outputs, dy), range, dm, dy_sums);
            images::sum_parts(dy_sums, totals);
            let start = if block == first { Start::Zero } else { Start::Held };
            products::multiply_transposed(cpu, shape, blocks, (range.1, start), (v, dm), du);
        }
    };
    if blocks.private {
        let len = sums.block.iter().sum::<usize>();
        let (scratch, du, totals) = (Parts::new(scratch), Parts::new(du), Parts::new(totals));
        cpu.team.run(sums.count, |index, worker| {
            // SAFETY: one task at a time has this worker number, and this task alone has this sum.
            let (scratch, du, totals) = unsafe {
                (
                    scratch.range(worker * len, len),
                    du.range(index * sums.du, sums.du),
                    totals.range(index * sums.totals, sums.totals),
                )
            };
            sum(index, scratch, du, totals);
        });
    } else {
        sum(0, scratch, du, totals);
    }
    for (k, db) in db.iter_mut().enumerate() {
        let totals = totals.iter().skip(k).step_by(sums.totals);
        *db = totals.sum::<f64>() as f32;
    }
    filters::gradient(cpu, (shape, size), (blocks.u_stride, sums.du), du, dw);
}
