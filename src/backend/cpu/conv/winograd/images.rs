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
use super::planes::{Extent, Planes, PlanesMut};
use super::tiles::{Place, Tiles};
use super::transform::{Minimal, both_ways, for_size, in_halves};

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

impl Part {
    /// The pixel of the first output of a tile, in a tensor (N, C/16, H, W, 16).
    #[inline(always)]
    fn pixel(&self, tiles: &Tiles, place: Place) -> usize {
        let image = (place.image * self.groups + self.group) * tiles.plane();
        image + place.row * tiles.width + place.column
    }

    /// The plane of a tensor (N, C/16, H, W, 16) that a tile is in.
    #[inline(always)]
    fn plane<'a>(&self, tiles: &Tiles, tensor: &'a [Pixel], place: Place) -> &'a [Pixel] {
        &tensor[(place.image * self.groups + self.group) * tiles.plane()..][..tiles.plane()]
    }

    /// Where the part's tiles are in V or M, whose planes are `stride` elements apart.
    fn extent(&self, block: usize, stride: usize) -> Extent {
        Extent {
            start: (self.group * block + self.slot) * LANES,
            stride,
            count: self.count,
        }
    }
}

/// `V = B^T x B` of the tiles of one block. x: (N, C/16, H, W, 16) of `channels` channels.
pub(super) fn transform_input(
    cpu: &Cpu,
    blocks: &Blocks,
    (channels, x): (usize, &[f32]),
    range: (usize, usize),
    v: &mut [f32],
) {
    let v = Parts::new(v);
    let x = x.as_chunks().0;
    for_each_part(cpu, groups(channels), range, |_, part| {
        let extent = part.extent(blocks.block, blocks.v_stride);
        let (isa, tiles) = (cpu.isa, &blocks.tiles);
        match blocks.private {
            true => for_size!(blocks.size, F => input_tiles::<F, _, _, 0>(isa, tiles, part, x, v, extent)),
            false => {
                for_size!(blocks.size, F => input_tiles::<F, _, _, TILES_AHEAD>(isa, tiles, part, x, v, extent))
            }
        }
    });
}

/// Fetches the pixels of tiles [`AHEAD`] columns before they are used: R rows of as many columns as tiles are apart, O.
struct Lookahead<'a, const R: usize, const O: usize> {
    tiles: &'a Tiles,
    part: Part,
    tensor: &'a [Pixel],
    /// Rows between the first pixel and the first output, and columns between the first output and the first pixel.
    above: usize,
    right: usize,
    /// The next tile to be fetched, and how many are left.
    next: Place,
    left: usize,
}

impl<'a, const R: usize, const O: usize> Lookahead<'a, R, O> {
    /// Fetches the first tiles but the very first, which is late anyway.
    #[inline(always)]
    fn new(tiles: &'a Tiles, part: Part, tensor: &'a [Pixel], (above, right): (usize, usize)) -> Self {
        let mut new = Self {
            tiles,
            part,
            tensor,
            above,
            right,
            next: tiles.place(part.tile + 1),
            left: part.count - 1,
        };
        for _ in 1..AHEAD / O {
            new.fetch();
        }
        new
    }

    /// Fetches the next tile.
    #[inline(always)]
    fn fetch(&mut self) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let width = self.tiles.width;
        let first = self.part.pixel(self.tiles, self.next) + self.right;
        let first = self
            .tensor
            .as_ptr()
            .wrapping_add(first)
            .wrapping_sub(self.above * width);
        for i in 0..R {
            for j in 0..O {
                stream::prefetch(first.wrapping_add(i * width + j).cast());
            }
        }
        self.next = self.tiles.next(self.next);
    }
}

/// The N x N pixels of a plane from row `top` and column `left` on, zero where they are outside; both may be -1, which is
/// `usize::MAX`. In the patch if some are.
#[inline(always)]
fn square<'a, const N: usize>(
    tiles: &Tiles,
    plane: &'a [Pixel],
    (top, left): (usize, usize),
    patch: &'a mut [[Pixel; N]; N],
) -> [&'a [Pixel; N]; N] {
    let (height, width) = (tiles.height, tiles.width);
    if top < height && height - top >= N && left < width && width - left >= N {
        let first = top * width + left;
        return std::array::from_fn(|i| plane[first + i * width..].first_chunk().expect("a row of a tile"));
    }
    for (i, patch) in patch.iter_mut().enumerate() {
        let row = top.wrapping_add(i);
        if row >= height {
            *patch = [[0.0; LANES]; N];
            continue;
        }
        let pixels = &plane[row * width..][..width];
        for (j, pixel) in patch.iter_mut().enumerate() {
            *pixel = *pixels.get(left.wrapping_add(j)).unwrap_or(&[0.0; LANES]);
        }
    }
    patch.each_ref()
}

vectorised! {
    fn input_tiles<S, F: Minimal<O, I>, const O: usize, const I: usize, const TO_WRITE: usize>(
        s,
        tiles: &Tiles,
        part: Part,
        x: &[Pixel],
        v: Parts<'_, f32>,
        extent: Extent,
    ) {
        // SAFETY: the task alone has these tiles of this group.
        let v: PlanesMut<'_, I> = unsafe { PlanesMut::new(v, extent) };
        let mut ahead = Lookahead::<I, O>::new(tiles, part, x, (1, 1));
        let mut next = tiles.place(part.tile);
        let mut patch = [[[0.0; LANES]; I]; I];
        for index in 0..part.count {
            let place = next;
            next = tiles.next(place);
            ahead.fetch();
            if TO_WRITE > 0 {
                v.fetch_to_write(index + TO_WRITE);
            }
            // One row and one column of the input are before the outputs, one behind.
            let first = (place.row.wrapping_sub(1), place.column.wrapping_sub(1));
            let rows = square(tiles, part.plane(tiles, x, place), first, &mut patch);
            for register in 0..S::REGISTERS {
                in_halves!(
                    s, F::input, I to I, rows,
                    (i, j) => s.load(&rows[i][j], register),
                    (i, j, value) => {
                        // SAFETY: the part has this tile; each of its pixels is written once.
                        s.store(value, unsafe { v.pixel(i, j, index) }, register)
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
    let (dm, sums) = (Parts::new(dm), Parts::new(sums));
    let dy = dy.as_chunks().0;
    for_each_part(cpu, groups(channels), range, |task, part| {
        let extent = part.extent(blocks.block, blocks.m_stride);
        // SAFETY: this task alone has this part.
        let sum = &mut unsafe { sums.range(task, 1) }[0];
        let (isa, tiles) = (cpu.isa, &blocks.tiles);
        match blocks.private {
            true => {
                for_size!(blocks.size, F => gradient_tiles::<F, _, _, 0>(isa, tiles, part, dy, dm, extent, sum))
            }
            false => {
                for_size!(blocks.size, F => gradient_tiles::<F, _, _, TILES_AHEAD>(isa, tiles, part, dy, dm, extent, sum))
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
        tiles: &Tiles,
        part: Part,
        dy: &[Pixel],
        dm: Parts<'_, f32>,
        extent: Extent,
        sums: &mut Pixel,
    ) {
        // SAFETY: the task alone has these tiles of this group.
        let dm: PlanesMut<'_, I> = unsafe { PlanesMut::new(dm, extent) };
        let mut ahead = Lookahead::<O, O>::new(tiles, part, dy, (0, 0));
        let mut next = tiles.place(part.tile);
        *sums = [0.0; LANES];
        let mut patch = [[[0.0; LANES]; O]; O];
        for index in 0..part.count {
            let place = next;
            next = tiles.next(place);
            ahead.fetch();
            if TO_WRITE > 0 {
                dm.fetch_to_write(index + TO_WRITE);
            }
            let rows = square(tiles, part.plane(tiles, dy, place), (place.row, place.column), &mut patch);
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
                        // SAFETY: the part has this tile; each of its pixels is written once.
                        s.store(value, unsafe { dm.pixel(i, j, index) }, register)
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
            m,
            extent: part.extent(blocks.block, blocks.m_stride),
            bias: finish.bias(part.group, lanes),
            lanes,
            streams,
        };
        let (isa, tiles) = (cpu.isa, &blocks.tiles);
        for_size!(blocks.size, F => match finish {
            Finish::Plain => output_tiles::<F, _, _, PLAIN>(isa, tiles, part, &sums, finish, y),
            Finish::Forward { relu: false, .. } => output_tiles::<F, _, _, BIASED>(isa, tiles, part, &sums, finish, y),
            Finish::Forward { relu: true, .. } | Finish::Pooled { .. } => {
                output_tiles::<F, _, _, RECTIFIED>(isa, tiles, part, &sums, finish, y)
            }
            Finish::Masked { .. } => output_tiles::<F, _, _, MASKED>(isa, tiles, part, &sums, finish, y),
        });
        if streams {
            stream::fence(cpu.isa);
        }
    });
}

/// What becomes of a sum ([`Finish`]), as a number: a function is compiled for each, and no sum asks again.
const PLAIN: usize = 0;
const BIASED: usize = 1;
const RECTIFIED: usize = 2;
const MASKED: usize = 3;

/// What the outputs of one part are made of.
struct Sums<'a> {
    m: &'a [f32],
    /// Where in M.
    extent: Extent,
    bias: Pixel,
    /// Channels that are no padding.
    lanes: usize,
    /// Whether outputs are written past the caches.
    streams: bool,
}

vectorised! {
    fn output_tiles<S, F: Minimal<O, I>, const O: usize, const I: usize, const END: usize>(
        s,
        tiles: &Tiles,
        part: Part,
        sums: &Sums<'_>,
        finish: Finish<'_>,
        y: Parts<'_, Pixel>,
    ) {
        let m: Planes<'_, I> = Planes::new(sums.m, sums.extent);
        let mask = match finish {
            Finish::Masked { input } => input.as_chunks().0,
            Finish::Forward { .. } | Finish::Pooled { .. } | Finish::Plain => &[],
        };
        let mut ahead = (!mask.is_empty()).then(|| Lookahead::<O, O>::new(tiles, part, mask, (0, 0)));
        let mut next = tiles.place(part.tile);
        let mut values = [[[0.0; LANES]; O]; O];
        let mut patch = [[[0.0; LANES]; O]; O];
        for index in 0..part.count {
            let place = next;
            next = tiles.next(place);
            let mut mask_rows = [&patch[0]; O];
            if let Some(ahead) = &mut ahead {
                ahead.fetch();
                let first = (place.row, place.column);
                mask_rows = square(tiles, part.plane(tiles, mask, place), first, &mut patch);
            }
            let (rows, columns) = tiles.outputs(place);
            let first = part.pixel(tiles, place);
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
                        // SAFETY: the part has this tile.
                        s.load(unsafe { m.pixel(i, j, index) }, register)
                    },
                    (i, j, sum) => {
                        let value = match END {
                            BIASED => s.add(sum, bias),
                            RECTIFIED => s.relu(s.add(sum, bias)),
                            MASKED => s.where_positive(sum, s.load(&mask_rows[i][j], register)),
                            _ => sum,
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
                let image = (place.image * part.groups + part.group) * height * width;
                for i in 0..O / 2 {
                    for j in 0..O / 2 {
                        let (row, column) = (place.row / 2 + i, place.column / 2 + j);
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
