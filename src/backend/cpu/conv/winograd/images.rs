//! Images between their own layout and the transformed ones, `V[t][C/16][tile][16]` and `M[t][K/16][tile][16]`.

use super::super::super::Cpu;
use super::super::super::layout::{Pixel, groups, lanes};
use super::super::super::max_pool::pool_window;
use super::super::super::simd::{WIDTH, halves, halves_mut, vectorised};
use super::super::super::team::Parts;
use super::super::super::tile::LANES;
use super::super::{Finish, Shape};
use super::tiles::Tiles;
use super::transform::{self, both_ways};
use super::{Blocks, INPUTS, OUTPUTS};

/// Tiles of one task: what they write in one plane are a few whole pages' worth of lines.
const TASK_TILES: usize = 24;

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
            let mut patch = [[[0.0; LANES]; INPUTS]; INPUTS];
            let inside = row > 0
                && column > 0
                && row + OUTPUTS < tiles.height
                && column + OUTPUTS < tiles.width;
            let (x, width) = if inside {
                (&x[(row - 1) * tiles.width + column - 1..], tiles.width)
            } else {
                for (i, patch) in patch.iter_mut().enumerate() {
                    for (j, pixel) in patch.iter_mut().enumerate() {
                        let (row, column) = ((row + i).wrapping_sub(1), (column + j).wrapping_sub(1));
                        if row < tiles.height && column < tiles.width {
                            *pixel = x[row * tiles.width + column];
                        }
                    }
                }
                (patch.as_flattened(), INPUTS)
            };
            for half in 0..2 {
                both_ways!(
                    s, transform::input, INPUTS to INPUTS,
                    (i, j) => s.load(&halves(&x[i * width + j])[half]),
                    (i, j, value) => {
                        // SAFETY: the task alone has these tiles of this group.
                        s.store(value, unsafe { v.register(INPUTS * i + j, index, half) })
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
            let mut patch = [[[0.0; LANES]; OUTPUTS]; OUTPUTS];
            for (i, patch) in patch.iter_mut().enumerate().take(rows) {
                let dy = &dy[(row + i) * tiles.width + column..][..columns];
                patch[..columns].copy_from_slice(dy);
            }
            for half in 0..2 {
                let sum = &mut halves_mut(sums)[half];
                let mut total = s.load(sum);
                both_ways!(
                    s, transform::output_gradient, OUTPUTS to INPUTS,
                    (i, j) => {
                        let dy = s.load(&halves(&patch[i][j])[half]);
                        total = s.add(total, dy);
                        dy
                    },
                    (i, j, value) => {
                        // SAFETY: the task alone has these tiles of this group.
                        s.store(value, unsafe { dm.register(INPUTS * i + j, index, half) })
                    },
                );
                s.store(total, sum);
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
        let lanes = lanes(shape.outputs, part.group);
        let sums = Sums {
            m: &m[start(part, blocks.block)..],
            stride: blocks.m_stride,
            bias: finish.bias(part.group, lanes),
            lanes,
        };
        output_tiles(cpu.isa, blocks.tiles, part, &sums, finish, y);
    });
}

/// What the outputs of one part are made of.
struct Sums<'a> {
    /// M from the part's first tile on, and the elements from one plane to the next.
    m: &'a [f32],
    stride: usize,
    bias: Pixel,
    /// Channels that are no padding.
    lanes: usize,
}

vectorised! {
    fn output_tiles<S>(
        s,
        tiles: Tiles,
        part: Part,
        sums: &Sums<'_>,
        finish: Finish<'_>,
        y: Parts<'_, Pixel>,
    ) {
        for index in 0..part.count {
            let (n, row, column) = tiles.place(part.tile + index);
            let (rows, columns) = (OUTPUTS.min(tiles.height - row), OUTPUTS.min(tiles.width - column));
            let first = (n * part.groups + part.group) * tiles.plane() + row * tiles.width + column;
            let mut values = [[0.0; LANES]; OUTPUTS * OUTPUTS];
            for half in 0..2 {
                let bias = s.load(&halves(&sums.bias)[half]);
                both_ways!(
                    s, transform::output, INPUTS to OUTPUTS,
                    (i, j) => {
                        let at = (INPUTS * i + j) * sums.stride + index * LANES + half * WIDTH;
                        s.load(sums.m[at..].first_chunk().expect("a register"))
                    },
                    (i, j, sum) => {
                        let value = match finish {
                            Finish::Forward { relu: false, .. } => s.add(sum, bias),
                            Finish::Forward { relu: true, .. } | Finish::Pooled { .. } => s.relu(s.add(sum, bias)),
                            Finish::Masked { input } if i < rows && j < columns => {
                                let input: &Pixel = &input.as_chunks().0[first + i * tiles.width + j];
                                s.where_positive(sum, s.load(&halves(input)[half]))
                            }
                            Finish::Masked { .. } | Finish::Plain => sum,
                        };
                        s.store(value, &mut halves_mut(&mut values[OUTPUTS * i + j])[half]);
                    },
                );
            }
            if sums.lanes < LANES {
                values.iter_mut().for_each(|value| value[sums.lanes..].fill(0.0));
            }
            if let Finish::Pooled { choices, .. } = finish {
                let (height, width) = (tiles.height / 2, tiles.width / 2);
                let image = (n * part.groups + part.group) * height * width;
                for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let (row, column) = (row / 2 + i, column / 2 + j);
                    if row < height && column < width {
                        let at = image + row * width + column;
                        // SAFETY: the task alone has these tiles of this group, and windows do not cross tiles.
                        let (y, choice) = unsafe { (&mut y.range(at, 1)[0], &mut choices.range(at, 1)[0]) };
                        let window = [0, 1, OUTPUTS, OUTPUTS + 1].map(|k| &values[2 * (OUTPUTS * i + j) + k]);
                        pool_window(window, y, choice);
                    }
                }
                continue;
            }
            for i in 0..rows {
                // SAFETY: the task alone has these tiles of this group.
                let y = unsafe { y.range(first + i * tiles.width, columns) };
                y.copy_from_slice(&values[OUTPUTS * i..][..columns]);
            }
        }
    }
}
