//! 3x3 convolution by Winograd's minimal filtering F(4x4, 3x3) or F(2x2, 3x3) (Winograd 1980; Lavin and Gray 2016).
//!
//! The plane is covered by tiles of 4x4 outputs, each made of 6x6 inputs, or of 2x2 outputs, made of 4x4 inputs. With the
//! transforms of [`transform`] a tile of all output channels is
//!
//! ```text
//! Y = A^T [ sum over c of (G w[k,c] G^T) . (B^T x[c] B) ] A          . is element by element
//! ```
//!
//! 36 products instead of 144, or 16 instead of 36, and the sum over channels is a matrix product for each of the 36 or 16
//! elements t:
//!
//! ```text
//! M[t] (tiles, K) = V[t] (tiles, C) * U[t] (C, K)                    V = B^T x B, U = G w G^T, Y = A^T M A
//! ```
//!
//! The data gradient is the same with the filters turned round and the channels exchanged. The filter gradient is the
//! transposed of the forward pass: `dU[t] = V[t]^T * dM[t]` with `dM = A dy A^T`, summed over all tiles, and
//! `dw = G^T dU G`.
//!
//! V, M and U lie in panels of 16 lanes, so that the 6x16 kernel of [`tile`](super::super::tile) reads everything in
//! place: `V[t][C/16][tile][16]`, `M[t][K/16][tile][16]`, `U[t][K/16][C][16]`.
//!
//! Tiles go in blocks, and a block through three phases: transform the input, multiply, transform the output. Where there
//! are many channels, threads share a block that the last-level cache holds, and each phase is parallel over what it writes;
//! where there are few, a block is about as large as one core's cache and one thread's task from end to end. How tiles are cut is
//! a function of the shape alone, and every sum is made by one task in a fixed order.
//!
//! What does not stay in the caches until it is used is written past them, which saves reading it first, and what comes
//! from memory is fetched a few tiles ahead.

mod filters;
mod gradient;
mod images;
mod planes;
mod products;
mod tiles;
mod transform;

pub(super) use gradient::{filter_gradient, gradient_scratch};
pub(super) use tiles::TileSize;

use super::super::Cpu;
use super::super::layout::padded;
use super::super::memory::f32_bytes;
use super::super::team::Parts;
use super::{Finish, Orientation, Shape};
use tiles::Tiles;

/// Elements t of all tiles of one block at most where all threads share it, 128 tiles of 4x4 outputs or 288 of 2x2: with 512
/// channels its transformed inputs and products are 19 MB, a good half of a last-level cache. Fewer would read the filters
/// too often.
const SHARED_ELEMENTS: usize = 128 * 36;
/// Elements between the planes of two elements t, beside their contents. The planes have sizes that are powers of two,
/// and a tile is written to all of them: without it their lines would fall on one another in the caches.
const SKEW: usize = 80;

/// Which blocks are one thread's task, from end to end.
#[derive(Debug, Clone, Copy)]
struct Private {
    /// Elements of one t's transformed filters (C x K) at most. There the products are so few that time is what it takes to
    /// write and read V and M, the more so where others use the last-level cache; with more, it is what it takes to read the
    /// filters.
    filters: usize,
    /// Bytes of the transformed inputs and the products of one block, roughly, with more than [`FEW_FILTERS`].
    bytes: usize,
}

/// Those of a correlation: up to 256 x 256 channels. Their filters find no room in an L2 cache: more tiles, which use them
/// together, gain more than what they lose by being in the last-level cache in part.
const PRIVATE: Private = Private {
    filters: 1 << 16,
    bytes: 2 << 20,
};
/// Elements of one t's transformed filters (64 x 64) up to which a block and its filters are in one core's cache.
const FEW_FILTERS: usize = 1 << 12;
/// Bytes of such a block: an L2 cache.
const SMALL_BYTES: usize = 1 << 20;

/// How the tiles are cut into blocks. A function of the shape and of the size of the tiles alone.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    size: TileSize,
    tiles: Tiles,
    /// Tiles of a block at most.
    block: usize,
    /// Whether a block is one thread's task, from end to end.
    private: bool,
    /// Elements from one t to the next.
    v_stride: usize,
    m_stride: usize,
    u_stride: usize,
}

impl Blocks {
    fn new(shape: Shape, size: TileSize, private: Private) -> Self {
        let tiles = Tiles::new(shape, size);
        let (inputs, outputs) = (padded(shape.inputs), padded(shape.outputs));
        let tile_bytes = f32_bytes(size.elements() * (inputs + outputs));
        let is_private = inputs * outputs <= private.filters;
        let bytes = match inputs * outputs {
            ..=FEW_FILTERS => SMALL_BYTES,
            _ => private.bytes,
        };
        let most = match is_private {
            true => (bytes / tile_bytes).max(1),
            false => SHARED_ELEMENTS / size.elements(),
        };
        let block = tiles.count.div_ceil(tiles.count.div_ceil(most));
        Self {
            size,
            tiles,
            block,
            private: is_private,
            v_stride: block * inputs + SKEW,
            m_stride: block * outputs + SKEW,
            u_stride: inputs * outputs + SKEW,
        }
    }

    /// How many blocks.
    fn count(&self) -> usize {
        self.tiles.count.div_ceil(self.block)
    }

    /// First tile of a block, and tiles.
    fn range(&self, block: usize) -> (usize, usize) {
        let first = block * self.block;
        (first, self.block.min(self.tiles.count - first))
    }

    /// Elements of V, M and U.
    fn parts(self) -> [usize; 3] {
        [self.v_stride, self.m_stride, self.u_stride].map(|stride| self.size.elements() * stride)
    }
}

/// Elements of scratch of [`correlate`].
pub(super) fn scratch(shape: Shape, size: TileSize, threads: usize) -> usize {
    let blocks = Blocks::new(shape, size, PRIVATE);
    let [v, m, u] = blocks.parts();
    u + (v + m) * if blocks.private { threads } else { 1 }
}

/// `y[n,k] = finish(sum over c, r, s of filters[k,c,r,s] * x[n, c, i+r-1, j+s-1])`. Overwrites y.
///
/// x: (N, C/16, H, W, 16); weights: (K, C, 3, 3), or (C, K, 3, 3) where they are to be turned; y: (N, K/16, H, W, 16).
pub(super) fn correlate(
    cpu: &Cpu,
    (shape, size): (Shape, TileSize),
    x: &[f32],
    (weights, orientation): (&[f32], Orientation),
    finish: Finish<'_>,
    scratch: &mut [f32],
    y: &mut [f32],
) {
    let (u, scratch) = scratch.split_at_mut(filter_elements(shape, size));
    transform_filters(cpu, (shape, size), (weights, orientation), u);
    correlate_with(cpu, (shape, size), x, u, finish, scratch, y);
}

/// Elements of the transformed filters.
pub(super) fn filter_elements(shape: Shape, size: TileSize) -> usize {
    let [_, _, u] = Blocks::new(shape, size, PRIVATE).parts();
    u
}

/// U of the filters.
pub(super) fn transform_filters(
    cpu: &Cpu,
    (shape, size): (Shape, TileSize),
    (weights, orientation): (&[f32], Orientation),
    u: &mut [f32],
) {
    let stride = Blocks::new(shape, size, PRIVATE).u_stride;
    filters::transform(cpu, (shape, size), weights, orientation, stride, u);
}

/// [`correlate`] with filters that are transformed already.
pub(super) fn correlate_with(
    cpu: &Cpu,
    (shape, size): (Shape, TileSize),
    x: &[f32],
    u: &[f32],
    finish: Finish<'_>,
    scratch: &mut [f32],
    y: &mut [f32],
) {
    let blocks = Blocks::new(shape, size, PRIVATE);
    let [v, m, _] = blocks.parts();
    let y = Parts::new(y.as_chunks_mut().0);
    let phases = |range: (usize, usize), scratch: &mut [f32]| {
        let (v, m) = scratch.split_at_mut(v);
        images::transform_input(cpu, &blocks, (shape.inputs, x), range, v);
        products::multiply(cpu, shape, &blocks, range.1, v, u, m);
        images::transform_output(cpu, shape, &blocks, range, m, finish, y);
    };
    if blocks.private {
        let scratch = Parts::new(scratch);
        cpu.team.run(blocks.count(), |block, worker| {
            // SAFETY: one task at a time has this worker number.
            phases(blocks.range(block), unsafe {
                scratch.range(worker * (v + m), v + m)
            });
        });
    } else {
        for block in 0..blocks.count() {
            phases(blocks.range(block), &mut scratch[..v + m]);
        }
    }
}
