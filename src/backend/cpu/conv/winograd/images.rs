//! Images between their own layout and the transformed ones, `V[t][C/16][tile][16]` and `M[t][K/16][tile][16]`.

use super::super::super::Cpu;
use super::super::super::layout::{groups, lanes};
use super::super::super::simd::{WIDTH, vectorised};
use super::super::super::team::Parts;
use super::super::super::tile::LANES;
use super::super::{Finish, Shape};
use super::tiles::Tiles;
use super::transform::{self, both_ways};
use super::{Blocks, INPUTS, OUTPUTS};
use crate::plan::Epilogue;

/// Tiles of one task: what they write in one plane are a few whole pages' worth of lines.
const TASK_TILES: usize = 24;

/// A pixel of a group.
type Pixel = [f32; LANES];

/// One task of a phase: some tiles of one group of channels.
#[derive(Clone, Copy)]
struct Part {
    group: usize,
    groups: usize,
    /// First tile within the block, and its number within the micro-batch.
    slot: usize,
    tile: usize,
    count: usize,
}

/// Calls `call` for every part of a block, in parallel.
fn for_each_part(
    cpu: &Cpu,
    groups: usize,
    (first, count): (usize, usize),
    call: impl Fn(usize, Part) + Sync,
) {
    let parts = count.div_ceil(TASK_TILES);
    cpu.team.run(groups * parts, |task, _| {
        let slot = task % parts * TASK_TILES;
        let part = Part {
            group: task / parts,
            groups,
            slot,
            tile: first + slot,
            count: TASK_TILES.min(count - slot),
        };
        call(task, part);
    });
}

/// The planes of V or M, as one part sees them.
#[derive(Clone, Copy)]
struct Planes<'a> {
    all: Parts<'a, f32>,
    /// Where the part begins in a plane.
    start: usize,
    /// Elements from one plane to the next.
    stride: usize,
}

impl<'a> Planes<'a> {
    /// Half of element t of the part's tile number `index`.
    ///
    /// # Safety
    /// As for [`Parts::range`].
    #[inline(always)]
    unsafe fn register(&self, t: usize, index: usize, half: usize) -> &'a mut [f32; WIDTH] {
        let at = self.start + t * self.stride + index * LANES + half * WIDTH;
        // SAFETY: says the caller.
        let register = unsafe { self.all.range(at, WIDTH) };
        register.try_into().expect("a register")
    }
}

/// Where a part begins in a plane of V or M.
fn start(part: Part, block: usize) -> usize {
    (part.group * block + part.slot) * LANES
}

/// `V = B^T x B` of the tiles of one block. x: (N, C/16, H, W, 16) of `channels` channels.
pub(super) fn transform_input(
    cpu: &Cpu,
    blocks: &Blocks,
    (channels, x): (usize, &[f32]),
    range: (usize, usize),
    v: &mut [f32],
) {
    let all = Parts::new(v);
    let x = x.as_chunks().0;
    for_each_part(cpu, groups(channels), range, |_, part| {
        let v = Planes {
            all,
            start: start(part, blocks.block),
            stride: blocks.v_stride,
        };
        input_tiles(cpu.isa, blocks.tiles, part, x, v);
    });
}

vectorised! {
    fn input_tiles<S>(
        s,
        tiles: Tiles,
        part: Part,
        x: &[Pixel],
        v: Planes<'_>,
    ) {
        for index in 0..part.count {
            let (n, row, column) = tiles.place(part.tile + index);
            let x = &x[(n * part.groups + part.group) * tiles.plane()..][..tiles.plane()];
            // One row and one column of the input are before the outputs, one behind.
            let inside = row > 0
                && column > 0
                && row + OUTPUTS < tiles.height
                && column + OUTPUTS < tiles.width;
            let pixel = |i: usize, j: usize| {
                let (row, column) = ((row + i).wrapping_sub(1), (column + j).wrapping_sub(1));
                (inside || row < tiles.height && column < tiles.width).then(|| &x[row * tiles.width + column])
            };
            for half in 0..2 {
                both_ways(
                    |i, j| pixel(i, j).map_or(s.zero(), |pixel| s.load(&pixel.as_chunks().0[half])),
                    |d| transform::input(s, d),
                    |i, j, value| {
                        // SAFETY: the task alone has these tiles of this group.
                        s.store(value, unsafe { v.register(INPUTS * i + j, index, half) });
                    },
                );
            }
        }
    }
}

/// `dM = A dy A^T` of the tiles of one block, and for every part the sums of dy, one per channel (see [`sum_parts`]).
/// dy: (N, K/16, H, W, 16) of `channels` channels.
pub(super) fn transform_gradient(
    cpu: &Cpu,
    blocks: &Blocks,
    (channels, dy): (usize, &[f32]),
    range: (usize, usize),
    dm: &mut [f32],
    sums: &mut [Pixel],
) {
    let (all, sums) = (Parts::new(dm), Parts::new(sums));
    let dy = dy.as_chunks().0;
    for_each_part(cpu, groups(channels), range, |task, part| {
        let dm = Planes {
            all,
            start: start(part, blocks.block),
            stride: blocks.m_stride,
        };
        // SAFETY: this task alone has this part.
        let sum = &mut unsafe { sums.range(task, 1) }[0];
        gradient_tiles(cpu.isa, blocks.tiles, part, dy, dm, sum);
    });
}

/// Parts of a block of `count` tiles.
pub(super) fn parts(channels: usize, count: usize) -> usize {
    groups(channels) * count.div_ceil(TASK_TILES)
}

/// Adds the parts' sums of one block to the sum of every channel, in order.
pub(super) fn sum_parts(parts: &[Pixel], totals: &mut [f64]) {
    let groups = groups(totals.len());
    for (group, parts) in parts.chunks_exact(parts.len() / groups).enumerate() {
        let totals = totals[group * LANES..].iter_mut().take(LANES);
        for (l, total) in totals.enumerate() {
            *total += parts.iter().map(|sums| f64::from(sums[l])).sum::<f64>();
        }
    }
}

vectorised! {
    fn gradient_tiles<S>(
        s,
        tiles: Tiles,
        part: Part,
        dy: &[Pixel],
        dm: Planes<'_>,
        sums: &mut Pixel,
    ) {
        *sums = [0.0; LANES];
        for index in 0..part.count {
            let (n, row, column) = tiles.place(part.tile + index);
            let dy = &dy[(n * part.groups + part.group) * tiles.plane()..][..tiles.plane()];
            let (rows, columns) = (OUTPUTS.min(tiles.height - row), OUTPUTS.min(tiles.width - column));
            let pixel = |i: usize, j: usize| {
                (i < rows && j < columns).then(|| &dy[(row + i) * tiles.width + column + j])
            };
            for half in 0..2 {
                let sum: &mut [f32; WIDTH] = &mut sums.as_chunks_mut().0[half];
                let total = std::cell::Cell::new(s.load(sum));
                both_ways(
                    |i, j| {
                        let dy = pixel(i, j).map_or(s.zero(), |pixel| s.load(&pixel.as_chunks().0[half]));
                        total.set(s.add(total.get(), dy));
                        dy
                    },
                    |dy| transform::output_gradient(s, dy),
                    |i, j, value| {
                        // SAFETY: the task alone has these tiles of this group.
                        s.store(value, unsafe { dm.register(INPUTS * i + j, index, half) });
                    },
                );
                s.store(total.get(), sum);
            }
        }
    }
}

/// `y = finish(A^T M A)` of the tiles of one block. y: (N, K/16, H, W, 16); its padding becomes zero.
pub(super) fn transform_output(
    cpu: &Cpu,
    shape: Shape,
    blocks: &Blocks,
    range: (usize, usize),
    m: &[f32],
    finish: Finish<'_>,
    y: &mut [f32],
) {
    let y = Parts::new(y.as_chunks_mut().0);
    for_each_part(cpu, groups(shape.outputs), range, |_, part| {
        let m = &m[start(part, blocks.block)..];
        let lanes = lanes(shape.outputs, part.group);
        let bias = finish.bias(part.group, lanes);
        output_tiles(
            cpu.isa,
            blocks.tiles,
            part,
            &bias,
            lanes,
            m,
            blocks.m_stride,
            finish,
            y,
        );
    });
}

vectorised! {
    fn output_tiles<S>(
        s,
        tiles: Tiles,
        part: Part,
        bias: &Pixel,
        lanes: usize,
        m: &[f32],
        stride: usize,
        finish: Finish<'_>,
        y: Parts<'_, Pixel>,
    ) {
        let relu = match finish {
            Finish::Forward { epilogue, .. } => epilogue != Epilogue::None,
            Finish::Masked { .. } | Finish::Plain => false,
        };
        let mask: Option<&[Pixel]> = match finish {
            Finish::Masked { input } => Some(input.as_chunks().0),
            Finish::Forward { .. } | Finish::Plain => None,
        };
        for index in 0..part.count {
            let (n, row, column) = tiles.place(part.tile + index);
            let image = (n * part.groups + part.group) * tiles.plane();
            let (rows, columns) = (OUTPUTS.min(tiles.height - row), OUTPUTS.min(tiles.width - column));
            for half in 0..2 {
                let bias = s.load(&bias.as_chunks().0[half]);
                both_ways(
                    |i, j| {
                        let at = (INPUTS * i + j) * stride + index * LANES + half * WIDTH;
                        s.load(m[at..].first_chunk().expect("a register"))
                    },
                    |m| transform::output(s, m),
                    |i, j, value| {
                        if i >= rows || j >= columns {
                            return;
                        }
                        let at = image + (row + i) * tiles.width + column + j;
                        let mut value = s.add(value, bias);
                        if relu {
                            value = s.relu(value);
                        }
                        if let Some(mask) = mask {
                            value = s.where_positive(value, s.load(&mask[at].as_chunks().0[half]));
                        }
                        // SAFETY: the task alone has these tiles of this group.
                        let to = &mut unsafe { y.range(at, 1) }[0];
                        s.store(value, &mut to.as_chunks_mut().0[half]);
                        if half == 1 {
                            to[lanes..].fill(0.0);
                        }
                    },
                );
            }
        }
    }
}
