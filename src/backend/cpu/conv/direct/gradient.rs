//! The filter gradient: `dw[k,c,r,s] = sum over n, i, j of dy[n,k,i,j] * x[n, c, i+r-P, j+s-P]`.
//!
//! Rows of a tile are filter elements (r, s, c) of a group of channels, lanes are 16 output channels, the depth is
//! (row, column). A filter element reads the pixels of x in a copy with a border of zeros, shifted; dy is read where
//! it is. Images go in groups of a fixed number, and where there are few filters, the images of a group go to several
//! sums, which are added at the end.

use super::super::super::Cpu;
use super::super::super::layout::{groups, lanes};
use super::super::super::reduce::channel_sums;
use super::super::super::team::Parts;
use super::super::super::tile::{self, Ahead, Depth, LANES, Start};
use super::super::Shape;
use super::border::Border;

/// Pixels of a block of the depth, roughly: its panel of dy (16 KB) stays in the L1 cache while all filter elements
/// use it.
const BLOCK_PIXELS: usize = 256;
/// Elements of the copies of one group of images: 4 MB, unless one image is larger.
const GROUP_ELEMENTS: usize = 1 << 20;
/// Elements of all sums together, unless those of one filter bank are more.
const SUM_ELEMENTS: usize = 1 << 16;

/// How the work is cut. A function of the shape alone.
struct Blocks {
    /// The copy of one image.
    border: Border,
    /// Images of one group.
    group: usize,
    /// Sums that the images of a group go to in turn.
    sums: usize,
    /// Rows of one block of the depth.
    rows: usize,
    /// Elements of the filters of 16 output channels.
    panel: usize,
}

impl Blocks {
    fn new(shape: Shape) -> Self {
        let border = Border::new(shape, shape.height);
        let group = (GROUP_ELEMENTS / border.len()).clamp(1, shape.batch);
        let panel = LANES * shape.inputs * shape.taps();
        Self {
            border,
            group,
            sums: (SUM_ELEMENTS / (panel * groups(shape.outputs))).clamp(1, group),
            rows: (BLOCK_PIXELS / shape.width).clamp(1, shape.height),
            panel,
        }
    }

    /// Elements of the group's copies, of the sums, and of the sums of dy with their f64.
    fn parts(&self, shape: Shape) -> [usize; 3] {
        [
            (self.group * self.border.len()).next_multiple_of(2),
            self.sums * groups(shape.outputs) * self.panel,
            2 * shape.batch * groups(shape.outputs) * LANES,
        ]
    }
}

/// Elements of scratch of [`filter_gradient`].
pub(in super::super) fn gradient_scratch(shape: Shape) -> usize {
    Blocks::new(shape).parts(shape).iter().sum()
}

/// dw (K, C, R, R) and db (K), which is the sum of dy over images and pixels. Overwrites both.
///
/// x: (N, C/16, H, W, 16); dy: (N, K/16, H, W, 16).
pub(in super::super) fn filter_gradient(
    cpu: &Cpu,
    shape: Shape,
    (x, dy): (&[f32], &[f32]),
    scratch: &mut [f32],
    (dw, db): (&mut [f32], &mut [f32]),
) {
    let blocks = Blocks::new(shape);
    let [copies, sums, partial] = blocks.parts(shape);
    let (copies, rest) = scratch.split_at_mut(copies);
    let (sums, rest) = rest.split_at_mut(sums);
    for n in (0..shape.batch).step_by(blocks.group) {
        let images = n..shape.batch.min(n + blocks.group);
        copy_images(cpu, shape, &blocks, images.clone(), x, copies);
        accumulate(cpu, shape, &blocks, images, copies, dy, sums);
    }
    unpack(cpu, shape, &blocks, sums, dw);
    let partial = bytemuck::cast_slice_mut(&mut rest[..partial]);
    channel_sums(cpu, shape.batch, shape.plane(), dy, partial, db);
}

/// The bordered copies of a group of images.
fn copy_images(
    cpu: &Cpu,
    shape: Shape,
    blocks: &Blocks,
    images: std::ops::Range<usize>,
    x: &[f32],
    copies: &mut [f32],
) {
    let inputs = groups(shape.inputs);
    let copies = Parts::new(copies);
    cpu.team.run(images.len() * inputs, |task, _| {
        let (image, group) = (task / inputs, task % inputs);
        let place = blocks.border.group(group).1;
        // SAFETY: this task alone has this group of this image.
        let copy = unsafe { copies.range(image * blocks.border.len() + place.start, place.len()) };
        blocks.border.copy(x, images.start + image, group, 0, copy);
    });
}

/// `sums[image of the group % sums][K/16][C/16][r][s][c][16] += dy * x`; they start at 0 with the first group.
fn accumulate(
    cpu: &Cpu,
    shape: Shape,
    blocks: &Blocks,
    images: std::ops::Range<usize>,
    copies: &[f32],
    dy: &[f32],
    sums: &mut [f32],
) {
    let (inputs, outputs) = (groups(shape.inputs), groups(shape.outputs));
    let all = Parts::new(sums);
    cpu.team.run(blocks.sums * outputs * inputs, |task, _| {
        let (index, output, input) = (task / inputs / outputs, task / inputs % outputs, task % inputs);
        let (lanes, place) = blocks.border.group(input);
        let elements = lanes * shape.taps();
        let start = (index * outputs + output) * blocks.panel + input * LANES * shape.taps() * LANES;
        // SAFETY: this task alone has these filters of these sums.
        let sums = unsafe { all.range(start, elements * LANES) };
        if images.start == 0 {
            sums.fill(0.0);
        }
        let sums: &mut [[f32; LANES]] = sums.as_chunks_mut().0;
        for n in images.clone().skip(index).step_by(blocks.sums) {
            let x = &copies[(n - images.start) * blocks.border.len()..][place.clone()];
            let dy = &dy[(n * outputs + output) * shape.plane() * LANES..];
            for row in (0..shape.height).step_by(blocks.rows) {
                let rows = blocks.rows.min(shape.height - row);
                let depth = Depth {
                    count: [shape.width, rows, 1],
                    a: [lanes, blocks.border.columns * lanes, 0],
                    b: [LANES, shape.width * LANES, 0],
                    ahead: [Ahead::NONE; 2],
                };
                let x = &x[row * blocks.border.columns * lanes..];
                let dy = &dy[row * shape.width * LANES..];
                // The elements of one filter row are neighbours in the copy.
                let of_row = shape.kernel * lanes;
                for (filter_row, sums) in sums.chunks_exact_mut(of_row).enumerate() {
                    for strip in 0..tile::strips(cpu.isa, of_row) {
                        let (element, count) = tile::strip(cpu.isa, of_row, strip);
                        let x = (&x[filter_row * blocks.border.columns * lanes + element..], 1);
                        let sums = &mut sums[element..element + count];
                        tile::multiply(cpu.isa, &depth, x, (dy, 0), Start::Held, [sums]);
                    }
                }
            }
        }
    });
}

/// The total of the sums, in order, to (K, C, R, R).
fn unpack(cpu: &Cpu, shape: Shape, blocks: &Blocks, sums: &[f32], dw: &mut [f32]) {
    let (taps, outputs) = (shape.taps(), groups(shape.outputs));
    let filter = shape.inputs * taps;
    cpu.team.chunks(dw, LANES * filter, |output, dw| {
        for group in 0..groups(shape.inputs) {
            let inputs = lanes(shape.inputs, group);
            for element in 0..inputs * taps {
                let (tap, c) = (element / inputs, group * LANES + element % inputs);
                let at = output * blocks.panel + (group * LANES * taps + element) * LANES;
                for (l, dw) in dw.chunks_exact_mut(filter).enumerate() {
                    let all = (0..blocks.sums).map(|index| sums[index * outputs * blocks.panel + at + l]);
                    dw[c * taps + tap] = all.sum();
                }
            }
        }
    });
}
