//! Images between their own layout and the transformed ones, `V[t][C/16][tile][16]` and `M[t][K/16][tile][16]`.

use super::super::super::Cpu;
use super::super::super::layout::{Pixel, groups, lanes};
use super::super::super::max_pool::pool_window;
use super::super::super::simd::vectorised;
use super::super::super::stream;
use super::super::super::team::Parts;
use super::super::super::tile::LANES;
use super::super::{Finish, Shape};
use super::Blocks;
use super::tiles::Tiles;
use super::transform::{Minimal, both_ways, for_size};

/// Tiles of one task: what they write in one plane is about a page.
const TASK_TILES: usize = 56;
/// Columns by which pixels are fetched ahead of their use: what it takes to transform the tiles in between is what memory
/// takes to answer.
const AHEAD: usize = 16;
/// Tiles by which lines of V and dM are fetched ahead of their being written where a block is shared (`TO_WRITE`): they are
/// in the last-level cache or another core's, and every store would wait for its line in turn. A block of one thread is in
/// this core's cache, where that would only be more instructions.
const TILES_AHEAD: usize = 2;

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
    /// Fetches the lines that tile number `index` will be written to.
    #[inline(always)]
    fn fetch(&self, elements: usize, index: usize) {
        for t in 0..elements {
            let at = self.start + t * self.stride + index * LANES;
            stream::prefetch_to_write(self.all.address(at));
        }
    }

    /// Element t of the part's tile number `index`.
    ///
    /// # Safety
    /// As for [`Parts::range`].
    #[inline(always)]
    unsafe fn element(&self, t: usize, index: usize) -> &'a mut Pixel {
        let at = self.start + t * self.stride + index * LANES;
        // SAFETY: says the caller.
        let element = unsafe { self.all.range(at, LANES) };
        element.try_into().expect("a pixel")
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
        match blocks.private {
            true => for_size!(blocks.size, F => input_tiles::<F, _, _, 0>(cpu.isa, blocks.tiles, part, x, v)),
            false => {
                for_size!(blocks.size, F => input_tiles::<F, _, _, TILES_AHEAD>(cpu.isa, blocks.tiles, part, x, v))
            }
        }
    });
}

/// Fetches pixels of a tensor (N, C/16, H, W, 16) for the tile [`AHEAD`] behind the part's tile number `index`, and before
/// the first one for those in between: R rows of as many columns as tiles are apart, O, whose first pixel lies `above` rows
/// before the outputs and `right` columns behind their first.
#[inline(always)]
fn fetch_ahead<const R: usize, const O: usize>(
    tiles: &Tiles,
    part: &Part,
    index: usize,
    (above, right): (usize, usize),
    tensor: &[Pixel],
) {
    let ahead = AHEAD / O;
    let first = if index == 0 { 1 } else { index + ahead };
    for index in first..part.count.min(index + ahead + 1) {
        let (n, row, column) = tiles.place(part.tile + index);
        let image = (n * part.groups + part.group) * tiles.plane();
        let pixel = (image + row * tiles.width + column + right).wrapping_sub(above * tiles.width);
        for i in 0..R {
            for j in 0..O {
                let pixel = tensor
                    .as_ptr()
                    .wrapping_add(pixel.wrapping_add(i * tiles.width + j));
                stream::prefetch(pixel.cast());
            }
        }
    }
}

vectorised! {
    fn input_tiles<S, F: Minimal<O, I>, const O: usize, const I: usize, const TO_WRITE: usize>(
        s,
        tiles: Tiles,
        part: Part,
        x: &[Pixel],
        v: Planes<'_>,
    ) {
        let mut patch = [[[0.0; LANES]; I]; I];
        for index in 0..part.count {
            fetch_ahead::<I, O>(&tiles, &part, index, (1, 1), x);
            if TO_WRITE > 0 {
                v.fetch(I * I, index + TO_WRITE);
            }
            let (n, row, column) = tiles.place(part.tile + index);
            let x = &x[(n * part.groups + part.group) * tiles.plane()..][..tiles.plane()];
            // One row and one column of the input are before the outputs, one behind.
            let inside = row > 0
                && column > 0
                && row + O < tiles.height
                && column + O < tiles.width;
            let rows: [&[Pixel; I]; I] = if inside {
                let first = (row - 1) * tiles.width + column - 1;
                std::array::from_fn(|i| x[first + i * tiles.width..].first_chunk().expect("a row of a tile"))
            } else {
                for (i, patch) in patch.iter_mut().enumerate() {
                    for (j, pixel) in patch.iter_mut().enumerate() {
                        let (row, column) = ((row + i).wrapping_sub(1), (column + j).wrapping_sub(1));
                        *pixel = if row < tiles.height && column < tiles.width {
                            x[row * tiles.width + column]
                        } else {
                            [0.0; LANES]
                        };
                    }
                }
                patch.each_ref()
            };
            for register in 0..S::REGISTERS {
                both_ways!(
                    s, F::input, I to I,
                    (i, j) => s.load(&rows[i][j], register),
                    (i, j, value) => {
                        // SAFETY: the task alone has these tiles of this group.
                        s.store(value, unsafe { v.element(I * i + j, index) }, register)
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
        let tiles = blocks.tiles;
        match blocks.private {
            true => {
                for_size!(blocks.size, F => gradient_tiles::<F, _, _, 0>(cpu.isa, tiles, part, dy, dm, sum))
            }
            false => {
                for_size!(blocks.size, F => gradient_tiles::<F, _, _, TILES_AHEAD>(cpu.isa, tiles, part, dy, dm, sum))
            }
        }
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
    fn gradient_tiles<S, F: Minimal<O, I>, const O: usize, const I: usize, const TO_WRITE: usize>(
        s,
        tiles: Tiles,
        part: Part,
        dy: &[Pixel],
        dm: Planes<'_>,
        sums: &mut Pixel,
    ) {
        *sums = [0.0; LANES];
        let mut patch = [[[0.0; LANES]; O]; O];
        for index in 0..part.count {
            fetch_ahead::<O, O>(&tiles, &part, index, (0, 0), dy);
            if TO_WRITE > 0 {
                dm.fetch(I * I, index + TO_WRITE);
            }
            let (n, row, column) = tiles.place(part.tile + index);
            let dy = &dy[(n * part.groups + part.group) * tiles.plane()..][..tiles.plane()];
            let (rows, columns) = tiles.outputs(row, column);
            let first = row * tiles.width + column;
            let rows: [&[Pixel; O]; O] = if (rows, columns) == (O, O) {
                std::array::from_fn(|i| dy[first + i * tiles.width..].first_chunk().expect("a row of a tile"))
            } else {
                for (i, patch) in patch.iter_mut().enumerate() {
                    for (j, pixel) in patch.iter_mut().enumerate() {
                        *pixel = if i < rows && j < columns {
                            dy[first + i * tiles.width + j]
                        } else {
                            [0.0; LANES]
                        };
                    }
                }
                patch.each_ref()
            };
            for register in 0..S::REGISTERS {
                let mut total = s.load(sums, register);
                both_ways!(
                    s, F::output_gradient, O to I,
                    (i, j) => {
                        let dy = s.load(&rows[i][j], register);
                        total = s.add(total, dy);
                        dy
                    },
                    (i, j, value) => {
                        // SAFETY: the task alone has these tiles of this group.
                        s.store(value, unsafe { dm.element(I * i + j, index) }, register)
                    },
                );
                s.store(total, sums, register);
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
    y: Parts<'_, Pixel>,
) {
    let streams = shape.streams();
    for_each_part(cpu, groups(shape.outputs), range, |_, part| {
        let lanes = lanes(shape.outputs, part.group);
        let sums = Sums {
            m: &m[start(part, blocks.block)..],
            stride: blocks.m_stride,
            bias: finish.bias(part.group, lanes),
            lanes,
            streams,
        };
        for_size!(blocks.size, F => output_tiles::<F, _, _>(cpu.isa, blocks.tiles, part, &sums, finish, y));
        if streams {
            stream::fence(cpu.isa);
        }
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
    /// Whether outputs are written past the caches.
    streams: bool,
}

vectorised! {
    fn output_tiles<S, F: Minimal<O, I>, const O: usize, const I: usize>(
        s,
        tiles: Tiles,
        part: Part,
        sums: &Sums<'_>,
        finish: Finish<'_>,
        y: Parts<'_, Pixel>,
    ) {
        let mut values = [[[0.0; LANES]; O]; O];
        for index in 0..part.count {
            if let Finish::Masked { input } = finish {
                fetch_ahead::<O, O>(&tiles, &part, index, (0, 0), input.as_chunks().0);
            }
            let (n, row, column) = tiles.place(part.tile + index);
            let (rows, columns) = tiles.outputs(row, column);
            let first = (n * part.groups + part.group) * tiles.plane() + row * tiles.width + column;
            // SAFETY: the task alone has these tiles of this group.
            let y_row = |i: usize| unsafe { y.range(first + i * tiles.width, columns) };
            let is_pooled = matches!(finish, Finish::Pooled { .. });
            let in_place = !is_pooled
                && (rows, columns, sums.lanes) == (O, O, LANES)
                && !(sums.streams && S::REGISTERS > 1);
            let mut targets: [&mut [Pixel; O]; O] = if in_place {
                std::array::from_fn(|i| y_row(i).try_into().expect("a row of a tile"))
            } else {
                values.each_mut()
            };
            for register in 0..S::REGISTERS {
                let bias = s.load(&sums.bias, register);
                both_ways!(
                    s, F::output, I to O,
                    (i, j) => {
                        let at = (I * i + j) * sums.stride + index * LANES;
                        s.load(sums.m[at..].first_chunk().expect("a pixel"), register)
                    },
                    (i, j, sum) => {
                        let value = match finish {
                            Finish::Forward { relu: false, .. } => s.add(sum, bias),
                            Finish::Forward { relu: true, .. } | Finish::Pooled { .. } => s.relu(s.add(sum, bias)),
                            Finish::Masked { input } if i < rows && j < columns => {
                                let input: &Pixel = &input.as_chunks().0[first + i * tiles.width + j];
                                s.where_positive(sum, s.load(input, register))
                            }
                            Finish::Masked { .. } | Finish::Plain => sum,
                        };
                        if in_place && sums.streams {
                            s.stream(value, &mut targets[i][j], register);
                        } else {
                            s.store(value, &mut targets[i][j], register);
                        }
                    },
                );
            }
            if in_place {
                continue;
            }
            if sums.lanes < LANES {
                for pixel in targets.iter_mut().flat_map(|row| row.iter_mut()) {
                    pixel[sums.lanes..].fill(0.0);
                }
            }
            if let Finish::Pooled { choices, .. } = finish {
                let (height, width) = (tiles.height / 2, tiles.width / 2);
                let image = (n * part.groups + part.group) * height * width;
                for i in 0..O / 2 {
                    for j in 0..O / 2 {
                        let (row, column) = (row / 2 + i, column / 2 + j);
                        if row < height && column < width {
                            let at = image + row * width + column;
                            // SAFETY: the task alone has these tiles of this group, and windows do not cross tiles.
                            let (y, choice) = unsafe { (&mut y.range(at, 1)[0], &mut choices.range(at, 1)[0]) };
                            let window = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(k, l)| &targets[2 * i + k][2 * j + l]);
                            pool_window(window, y, choice);
                        }
                    }
                }
                continue;
            }
            for (i, row) in targets.iter().enumerate().take(rows) {
                if sums.streams {
                    for (y, pixel) in y_row(i).iter_mut().zip(row.iter()) {
                        for register in 0..S::REGISTERS {
                            s.stream(s.load(pixel, register), y, register);
                        }
                    }
                } else {
                    y_row(i).copy_from_slice(&row[..columns]);
                }
            }
        }
    }
}
