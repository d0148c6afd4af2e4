//! The filter gradient: `dw[k,c,r,s] = sum over n, i, j of dy[n,k,i,j] * x[n, c, i+r-P, j+s-P]`.
//!
//! Rows of a tile are filter elements (r, s, c) of a group of channels, lanes are 16 output channels, the depth is
//! (row, column). A filter element reads the pixels of x in a copy with a border of zeros, shifted; dy is read where
//! it is, and its sum over pixels is made while it is in the cache. Images go in groups of a fixed number, and where there are
//! few filters, the images of a group go to several sums, which are added at the end.

use super::super::super::Cpu;
use super::super::super::layout::{Pixel, groups, lanes};
use super::super::super::reduce::PixelSum;
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

/// Groups of output channels of one tile of the kernel.
const PANELS: usize = 2;

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
    let [copies, sums, dy_sums] = blocks.parts(shape);
    let (copies, rest) = scratch.split_at_mut(copies);
    let (sums, rest) = rest.split_at_mut(sums);
    let dy_sums: &mut [[f64; LANES]] = bytemuck::cast_slice_mut(&mut rest[..dy_sums]);
    for n in (0..shape.batch).step_by(blocks.group) {
        let images = n..shape.batch.min(n + blocks.group);
        copy_images(cpu, shape, &blocks, images.clone(), x, copies);
        accumulate(cpu, shape, &blocks, images, copies, dy, (sums, dy_sums));
    }
    unpack(cpu, shape, &blocks, sums, dw);
    let outputs = groups(shape.outputs);
    for (k, db) in db.iter_mut().enumerate() {
        let images = (0..shape.batch).map(|n| dy_sums[n * outputs + k / LANES][k % LANES]);
        *db = images.sum::<f64>() as f32;
    }
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
/// `dy_sums[n][K/16][16]` are those of dy of every image.
fn accumulate(
    cpu: &Cpu,
    shape: Shape,
    blocks: &Blocks,
    images: std::ops::Range<usize>,
    copies: &[f32],
    dy: &[f32],
    (sums, dy_sums): (&mut [f32], &mut [[f64; LANES]]),
) {
    let (inputs, outputs) = (groups(shape.inputs), groups(shape.outputs));
    let sums = (Parts::new(sums), Parts::new(dy_sums));
    let pairs = outputs.div_ceil(PANELS);
    cpu.team.run(blocks.sums * pairs * inputs, |task, _| {
        let (index, pair, input) = (task / inputs / pairs, task / inputs % pairs, task % inputs);
        let part = Part {
            cpu,
            shape,
            blocks,
            index,
            output: pair * PANELS,
            input,
        };
        match outputs - part.output {
            1 => part.add_images::<1>(images.clone(), copies, dy, sums),
            _ => part.add_images::<PANELS>(images.clone(), copies, dy, sums),
        }
    });
}

/// One task: the filters of some groups of outputs from `output` on and of one group of inputs, of sum `index`.
struct Part<'a> {
    cpu: &'a Cpu,
    shape: Shape,
    blocks: &'a Blocks,
    index: usize,
    output: usize,
    input: usize,
}

impl Part<'_> {
    /// Adds the products of the part's images, and those of dy, of P groups of outputs.
    fn add_images<const P: usize>(
        &self,
        images: std::ops::Range<usize>,
        copies: &[f32],
        dy: &[f32],
        (sums, dy_sums): (Parts<'_, f32>, Parts<'_, [f64; LANES]>),
    ) {
        let Self { shape, blocks, .. } = *self;
        let outputs = groups(shape.outputs);
        let elements = blocks.border.group(self.input).0 * shape.taps();
        let mut sums: [&mut [Pixel]; P] = std::array::from_fn(|panel| {
            let filters = (self.index * outputs + self.output + panel) * blocks.panel;
            let start = filters + self.input * LANES * shape.taps() * LANES;
            // SAFETY: this task alone has these filters of these sums.
            unsafe { sums.range(start, elements * LANES) }.as_chunks_mut().0
        });
        if images.start == 0 {
            sums.iter_mut().for_each(|sums| sums.fill([0.0; LANES]));
        }
        let plane = shape.plane() * LANES;
        for n in images.clone().skip(self.index).step_by(blocks.sums) {
            let copy = &copies[(n - images.start) * blocks.border.len()..][..blocks.border.len()];
            let first = n * outputs + self.output;
            let dy = &dy[first * plane..][..P * plane];
            let mut totals = [PixelSum::default(); P];
            for row in (0..shape.height).step_by(blocks.rows) {
                let rows = row..shape.height.min(row + blocks.rows);
                self.add_rows(rows.clone(), copy, dy, sums.each_mut().map(|sums| &mut **sums));
                // Every group of inputs meets all of dy: the first one's task adds it up.
                if self.input == 0 {
                    for (total, dy) in totals.iter_mut().zip(dy.chunks_exact(plane)) {
                        let dy = dy.as_chunks().0;
                        total.add(
                            self.cpu.isa,
                            &dy[rows.start * shape.width..rows.end * shape.width],
                        );
                    }
                }
            }
            if self.input == 0 {
                // SAFETY: this task alone has the sums of these outputs of this image.
                let to = unsafe { dy_sums.range(first, P) };
                to.copy_from_slice(&totals.map(|total| total.total()));
            }
        }
    }

    /// Adds the products of some rows of one image.
    fn add_rows<const P: usize>(
        &self,
        rows: std::ops::Range<usize>,
        copy: &[f32],
        dy: &[f32],
        mut sums: [&mut [Pixel]; P],
    ) {
        let Self { shape, blocks, .. } = *self;
        let (lanes, place) = blocks.border.group(self.input);
        let copy_row = blocks.border.columns * lanes;
        let depth = Depth {
            count: [shape.width, rows.len(), 1],
            a: [lanes, copy_row, 0],
            b: [LANES, shape.width * LANES, 0],
            ahead: [Ahead::NONE; 2],
        };
        let x = &copy[place][rows.start * copy_row..];
        let dy = (&dy[rows.start * shape.width * LANES..], shape.plane() * LANES);
        // The elements of one filter row are neighbours in the copy.
        let of_row = shape.kernel * lanes;
        for filter_row in 0..shape.kernel {
            for strip in 0..tile::strips(self.cpu.isa, of_row) {
                let (element, count) = tile::strip(self.cpu.isa, of_row, strip);
                let x = (&x[filter_row * copy_row + element..], 1);
                let first = filter_row * of_row + element;
                let sums = sums.each_mut().map(|sums| &mut sums[first..][..count]);
                tile::multiply(self.cpu.isa, &depth, x, dy, Start::Held, sums);
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::super::super::super::Buffer;
    use super::super::super::super::memory::f32_bytes;
    use super::*;

    #[test]
    fn scratch_may_be_longer_by_any_number_of_elements() {
        let cpu = Cpu::new(1).unwrap();
        let shape = Shape {
            batch: 3,
            inputs: 3,
            outputs: 20,
            height: 5,
            width: 7,
            kernel: 3,
        };
        let tensor = |channels: usize| vec![1.0; shape.batch * groups(channels) * shape.plane() * LANES];
        let (x, dy) = (tensor(shape.inputs), tensor(shape.outputs));
        for more in 0..4 {
            let len = gradient_scratch(shape) + more;
            let mut scratch = Buffer::zeroed("test", f32_bytes(len)).unwrap();
            let scratch = &mut scratch.as_mut_slice()[..len];
            let mut dw = vec![0.0; shape.outputs * shape.inputs * shape.taps()];
            let mut db = vec![0.0; shape.outputs];
            let gradients = (&mut dw[..], &mut db[..]);
            filter_gradient(&cpu, shape, (&x, &dy), scratch, gradients);
            let pixels = (shape.batch * shape.plane()) as f32;
            assert!(db.iter().all(|&db| db == pixels), "{more} more");
            // The tap in the middle never meets the border.
            assert!(
                dw.iter().skip(4).step_by(9).all(|&dw| dw == pixels),
                "{more} more"
            );
        }
    }
}
