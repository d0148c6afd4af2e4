//! The filter gradient: `dw[k,c,r,s] = sum over n, i, j of dy[n,k,i,j] * x[n, c, i+r-P, j+s-P]`.
//!
//! Rows of a tile are filter elements (c, r, s), lanes are 16 output channels, the depth is (image, row,
//! column). A filter element reads the pixels of x in place, shifted, in a copy of x with a border of zeros;
//! dy is packed with its channels as lanes. Images go in groups of a fixed number; each sum runs over images,
//! rows and columns in order.

use super::super::Cpu;
use super::super::team::Parts;
use super::super::tile::{self, Depth, LANES, ROWS, Tile, transpose};
use super::Shape;

/// Pixels of a block of the depth: its panel of dy (16 KB) stays in the L1 cache while all filter elements
/// use it.
const BLOCK_PIXELS: usize = 256;
/// Elements of the copies of x and dy of one group of images: 4 MB, unless one image is larger.
const GROUP_ELEMENTS: usize = 1 << 20;
/// Tasks aimed at, so that threads end together.
const TASKS: usize = 48;

/// How the work is cut. A function of the shape alone.
struct Blocks {
    /// Panels of 16 output channels.
    panels: usize,
    /// Filter elements over one input image: C * R * R.
    elements: usize,
    /// Height and width of the bordered copy of x.
    bordered: (usize, usize),
    /// Images of one group.
    group: usize,
    /// Images and rows of one block of the depth.
    block: (usize, usize),
    /// Strips of filter elements of one task.
    task_strips: usize,
}

impl Blocks {
    fn new(shape: Shape) -> Self {
        let panels = shape.outputs.div_ceil(LANES);
        let elements = shape.inputs * shape.taps();
        let bordered = (shape.height + shape.kernel - 1, shape.width + shape.kernel - 1);
        let image = shape.inputs * bordered.0 * bordered.1 + panels * LANES * shape.plane();
        let group = (GROUP_ELEMENTS / image).clamp(1, shape.batch);
        let block = match BLOCK_PIXELS / shape.plane() {
            0 => (1, (BLOCK_PIXELS / shape.width).clamp(1, shape.height)),
            images => (images.min(group), shape.height),
        };
        Self {
            panels,
            elements,
            bordered,
            group,
            block,
            task_strips: (tile::strips(elements) * panels / TASKS).clamp(1, tile::strips(elements)),
        }
    }

    /// Elements of one image's bordered copy.
    fn bordered_image(&self, shape: Shape) -> usize {
        shape.inputs * self.bordered.0 * self.bordered.1
    }

    /// Elements of the group's bordered copies, packed dy, and the sums.
    fn parts(&self, shape: Shape) -> [usize; 3] {
        [
            self.group * self.bordered_image(shape),
            self.group * self.panels * LANES * shape.plane(),
            self.panels * LANES * self.elements,
        ]
    }
}

/// Elements of scratch.
pub(super) fn scratch(shape: Shape) -> usize {
    Blocks::new(shape).parts(shape).iter().sum()
}

/// Overwrites dw. x: (N, C, H, W); dy: (N, K, H, W); dw: (K, C, R, R).
pub(super) fn gradient(cpu: &Cpu, shape: Shape, x: &[f32], dy: &[f32], scratch: &mut [f32], dw: &mut [f32]) {
    let blocks = Blocks::new(shape);
    let [bordered, packed, sums] = blocks.parts(shape);
    let (bordered, rest) = scratch.split_at_mut(bordered);
    let (packed, rest) = rest.split_at_mut(packed);
    let sums = &mut rest[..sums];
    for n in (0..shape.batch).step_by(blocks.group) {
        let images = blocks.group.min(shape.batch - n);
        copy_with_border(
            cpu,
            shape,
            &blocks,
            &x[n * shape.inputs * shape.plane()..],
            images,
            bordered,
        );
        pack_channels(
            cpu,
            shape,
            &blocks,
            &dy[n * shape.outputs * shape.plane()..],
            images,
            packed,
        );
        accumulate(cpu, shape, &blocks, (n == 0, images), bordered, packed, sums);
    }
    // (panel, element, lane) to (k, element)
    let dw_panel = LANES * blocks.elements;
    cpu.team.chunks(dw, dw_panel, |panel, dw| {
        let sums = &sums[panel * dw_panel..][..dw_panel];
        let channels = dw.len() / blocks.elements;
        transpose(
            cpu.isa,
            (blocks.elements, channels),
            (sums, LANES),
            (dw, blocks.elements),
        );
    });
}

/// `bordered[n, c, i + P, j + P] = x[n, c, i, j]`, zero around it.
fn copy_with_border(
    cpu: &Cpu,
    shape: Shape,
    blocks: &Blocks,
    x: &[f32],
    images: usize,
    bordered: &mut [f32],
) {
    let (width, pad) = (blocks.bordered.1, shape.pad());
    let plane = blocks.bordered.0 * width;
    let bordered = &mut bordered[..images * shape.inputs * plane];
    cpu.team.chunks(bordered, plane, |channel, bordered| {
        let x = &x[channel * shape.plane()..][..shape.plane()];
        let (top, rest) = bordered.split_at_mut(pad * width);
        let (rows, bottom) = rest.split_at_mut(shape.height * width);
        top.fill(0.0);
        bottom.fill(0.0);
        for (row, x) in rows.chunks_exact_mut(width).zip(x.chunks_exact(shape.width)) {
            row[..pad].fill(0.0);
            row[pad..pad + shape.width].copy_from_slice(x);
            row[pad + shape.width..].fill(0.0);
        }
    });
}

/// `packed[panel, n, pixel, lane] = dy[n, 16 * panel + lane, pixel]`, zero where there is no such channel.
fn pack_channels(cpu: &Cpu, shape: Shape, blocks: &Blocks, dy: &[f32], images: usize, packed: &mut [f32]) {
    let plane = shape.plane();
    let packed = &mut packed[..blocks.panels * images * plane * LANES];
    cpu.team.chunks(packed, plane * LANES, |index, packed| {
        let (panel, n) = (index / images, index % images);
        let k = panel * LANES;
        let channels = LANES.min(shape.outputs - k);
        if channels < LANES {
            packed.fill(0.0);
        }
        let dy = &dy[(n * shape.outputs + k) * plane..];
        transpose(cpu.isa, (channels, plane), (dy, plane), (packed, LANES));
    });
}

/// `sums[panel, (c,r,s), lane] += sum over the group's pixels`; starts at 0 with the first group.
fn accumulate(
    cpu: &Cpu,
    shape: Shape,
    blocks: &Blocks,
    (is_first, images): (bool, usize),
    bordered: &[f32],
    packed: &[f32],
    sums: &mut [f32],
) {
    let strips = tile::strips(blocks.elements);
    let panel_tasks = strips.div_ceil(blocks.task_strips);
    let image = blocks.bordered_image(shape);
    let (block_images, block_rows) = blocks.block;
    let panel_pixels = images * shape.plane() * LANES;
    let sums = Parts::new(sums);
    cpu.team.run(blocks.panels * panel_tasks, |task, _| {
        let (panel, first_strip) = (task / panel_tasks, task % panel_tasks * blocks.task_strips);
        let packed = &packed[panel * panel_pixels..][..panel_pixels];
        for n in (0..images).step_by(block_images) {
            for row in (0..shape.height).step_by(block_rows) {
                let block_images = block_images.min(images - n);
                let block_rows = block_rows.min(shape.height - row);
                let depth = Depth {
                    count: [shape.width, block_rows, block_images],
                    a: [1, blocks.bordered.1, image],
                    b: [LANES, LANES * shape.width, LANES * shape.plane()],
                };
                let x = &bordered[n * image + row * blocks.bordered.1..];
                let dy = &packed[(n * shape.plane() + row * shape.width) * LANES..];
                for strip in first_strip..strips.min(first_strip + blocks.task_strips) {
                    let (element, rows) = tile::strip(blocks.elements, strip);
                    let start = (panel * blocks.elements + element) * LANES;
                    // SAFETY: this task alone has these strips of this panel.
                    let sums = unsafe { sums.range(start, rows * LANES) };
                    let sums: &mut [[f32; LANES]] = bytemuck::cast_slice_mut(sums);
                    let offsets: [usize; ROWS] = std::array::from_fn(|r| shift(shape, blocks, element + r));
                    let mut acc: Tile = [[0.0; LANES]; ROWS];
                    if !(is_first && n == 0 && row == 0) {
                        acc[..rows].copy_from_slice(sums);
                    }
                    tile::multiply(cpu.isa, &depth, x, &offsets[..rows], dy, &mut acc);
                    sums.copy_from_slice(&acc[..rows]);
                }
            }
        }
    });
}

/// Where filter element (c, r, s) finds the pixel that belongs to pixel 0 of dy, in the bordered copy of an
/// image.
fn shift(shape: Shape, blocks: &Blocks, element: usize) -> usize {
    let (c, tap) = (element / shape.taps(), element % shape.taps());
    let (r, s) = (tap / shape.kernel, tap % shape.kernel);
    (c * blocks.bordered.0 + r) * blocks.bordered.1 + s
}
