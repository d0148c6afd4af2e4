//! The matrix products in between: 36 for every block of tiles.

use super::super::super::Cpu;
use super::super::super::layout::{groups, padded};
use super::super::super::team::Parts;
use super::super::super::tile::{self, Depth, LANES, ROWS, Start};
use super::super::Shape;
use super::{Blocks, ELEMENTS};

/// Groups of input channels whose filters (16 KB) stay in the L1 cache while all tiles of a block use them.
const BLOCK_INPUTS: usize = 16;
/// Tiles of a block of the filter gradient's depth: a panel (16 KB) stays in the L1 cache.
const BLOCK_TILES: usize = 256;
/// Groups of output channels of one task, so that there are a few times as many tasks as threads.
const TASK_OUTPUTS: usize = 8;

/// Where each row of a strip begins: tiles, or channels of a group.
fn offsets(step: usize) -> [usize; ROWS] {
    std::array::from_fn(|r| r * step)
}

/// `M[t] = V[t] * U[t]` for a block of `count` tiles. Overwrites M.
///
/// Rows of a kernel are tiles, lanes are output channels, the depth is the input channels.
pub(super) fn multiply(
    cpu: &Cpu,
    shape: Shape,
    blocks: &Blocks,
    count: usize,
    v: &[f32],
    u: &[f32],
    m: &mut [f32],
) {
    let (inputs, outputs) = (groups(shape.inputs), groups(shape.outputs));
    let chunks = outputs.div_ceil(TASK_OUTPUTS);
    let rows_at = offsets(LANES);
    let m = Parts::new(m);
    cpu.team.run(ELEMENTS * chunks, |task, _| {
        let (t, chunk) = (task / chunks, task % chunks);
        let v = &v[t * blocks.v_stride..][..inputs * blocks.block * LANES];
        let u = &u[t * blocks.u_stride..][..blocks.u_stride];
        let outputs = chunk * TASK_OUTPUTS..outputs.min((chunk + 1) * TASK_OUTPUTS);
        for input in (0..inputs).step_by(BLOCK_INPUTS) {
            let start = if input == 0 { Start::Zero } else { Start::Held };
            let depth = Depth {
                count: [LANES, BLOCK_INPUTS.min(inputs - input), 1],
                a: [1, blocks.block * LANES, 0],
                b: [LANES, LANES * LANES, 0],
            };
            for output in outputs.clone() {
                let u = &u[(output * padded(shape.inputs) + input * LANES) * LANES..];
                for strip in 0..tile::strips(count) {
                    let (first, rows) = tile::strip(count, strip);
                    let v = &v[(input * blocks.block + first) * LANES..];
                    let at = t * blocks.m_stride + (output * blocks.block + first) * LANES;
                    // SAFETY: this task alone has these outputs of this t.
                    let sums = unsafe { m.range(at, rows * LANES) };
                    let sums = sums.as_chunks_mut().0;
                    tile::multiply(cpu.isa, &depth, (v, &rows_at[..rows]), u, start, sums);
                }
            }
        }
    });
}

/// `dU[t] = V[t]^T * dM[t]`, or added to what the blocks before gave (`start`).
///
/// Rows of a kernel are input channels, lanes are output channels, the depth is the tiles.
pub(super) fn multiply_transposed(
    cpu: &Cpu,
    shape: Shape,
    blocks: &Blocks,
    (count, start): (usize, Start),
    (v, dm): (&[f32], &[f32]),
    du: &mut [f32],
) {
    let (inputs, outputs) = (groups(shape.inputs), groups(shape.outputs));
    let chunks = outputs.div_ceil(TASK_OUTPUTS);
    let rows_at = offsets(1);
    let du = Parts::new(du);
    cpu.team.run(ELEMENTS * chunks, |task, _| {
        let (t, chunk) = (task / chunks, task % chunks);
        let v = &v[t * blocks.v_stride..][..blocks.v_stride];
        let dm = &dm[t * blocks.m_stride..][..blocks.m_stride];
        let outputs = chunk * TASK_OUTPUTS..outputs.min((chunk + 1) * TASK_OUTPUTS);
        for first in (0..count).step_by(BLOCK_TILES) {
            let depth = Depth::flat(BLOCK_TILES.min(count - first), LANES);
            let start = if first == 0 { start } else { Start::Held };
            for output in outputs.clone() {
                let dm = &dm[(output * blocks.block + first) * LANES..];
                for input in 0..inputs {
                    let v = &v[(input * blocks.block + first) * LANES..];
                    let at = t * blocks.u_stride + (output * padded(shape.inputs) + input * LANES) * LANES;
                    // SAFETY: this task alone has these outputs of this t.
                    let sums = unsafe { du.range(at, LANES * LANES) };
                    let sums: &mut [[f32; LANES]] = sums.as_chunks_mut().0;
                    for strip in 0..tile::strips(LANES) {
                        let (lane, rows) = tile::strip(LANES, strip);
                        let sums = &mut sums[lane..lane + rows];
                        tile::multiply(cpu.isa, &depth, (&v[lane..], &rows_at[..rows]), dm, start, sums);
                    }
                }
            }
        }
    });
}
