//! Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3).
//!
//! x, dx, y, dy and d: (N, C/16, H, W, 16). `y[c] = x[c] * d[c]^-beta` with `d[c] = k + alpha * sum of x[j]^2` over
//! the window `c - 2 ..= c + 2`, cut at the ends. Saved for the backward pass: d.

use super::isa::multiversion;
use super::layout::{Pixel, groups, lanes, tensor_bytes};
use super::team::Parts;
use super::tile::LANES;
use super::{Cpu, Views};
use crate::network::lrn::{ALPHA, BETA, K, N};
use crate::plan::{DataGradient, Footprint, Step};
use crate::shape::Chw;

/// Pixels of one task.
const PIXELS: usize = 256;

pub(super) fn footprint(step: &Step) -> Footprint {
    let bytes = tensor_bytes(step.batch, step.output);
    Footprint {
        value: bytes,
        gradient: bytes,
        saved: bytes,
        backward_reads_input: true,
        ..Footprint::default()
    }
}

/// Some pixels of one image.
#[derive(Clone, Copy)]
struct Block {
    shape: Chw,
    image: usize,
    first: usize,
    count: usize,
}

impl Block {
    fn of(step: &Step, task: usize) -> Self {
        let plane = step.output.plane();
        let parts = plane.div_ceil(PIXELS);
        let first = task % parts * PIXELS;
        Self {
            shape: step.output,
            image: task / parts,
            first,
            count: PIXELS.min(plane - first),
        }
    }

    fn tasks(step: &Step) -> usize {
        step.batch * step.output.plane().div_ceil(PIXELS)
    }

    /// Number of the pixel `p` of a group.
    #[inline(always)]
    fn at(self, group: usize, p: usize) -> usize {
        (self.image * groups(self.shape.c) + group) * self.shape.plane() + self.first + p
    }

    /// The channels of one pixel of a tensor; those of padding are 0.
    #[inline(always)]
    fn read(self, tensor: &[Pixel], group: usize, p: usize) -> Pixel {
        let mut pixel = tensor[self.at(group, p)];
        pixel[lanes(self.shape.c, group)..].fill(0.0);
        pixel
    }
}

/// For every channel the window `c - 2 ..= c + 2`: what lies beyond the ends is 0. `make(group)` is made once for every
/// group, in order; `call` gets the group and its channels with two more on either side.
#[inline(always)]
fn slide(groups: usize, make: impl Fn(usize) -> Pixel, mut call: impl FnMut(usize, &[f32; LANES + N - 1])) {
    const SIDE: usize = N / 2;
    let mut wide = [0.0; LANES + N - 1];
    let mut next = make(0);
    for group in 0..groups {
        wide.copy_within(LANES.., 0);
        wide[SIDE..SIDE + LANES].copy_from_slice(&next);
        next = if group + 1 < groups {
            make(group + 1)
        } else {
            [0.0; LANES]
        };
        wide[SIDE + LANES..].copy_from_slice(&next[..SIDE]);
        call(group, &wide);
    }
}

/// Overwrites y and d.
pub(super) fn forward(cpu: &Cpu, step: &Step, views: &mut Views<'_>) {
    let x = views.input.as_chunks().0;
    let y = Parts::new(views.value.as_chunks_mut().0);
    let d = Parts::new(views.saved.as_chunks_mut().0);
    cpu.team.run(Block::tasks(step), |task, _| {
        normalise(cpu.isa, Block::of(step, task), x, d, y);
    });
}

multiversion! {
    /// `d = fma(alpha, sum of squares, k)`; `y = x * d^-0.75`.
    fn normalise(block: Block, x: &[Pixel], d: Parts<'_, Pixel>, y: Parts<'_, Pixel>) {
        for p in 0..block.count {
            slide(groups(block.shape.c), |group| block.read(x, group, p), |group, wide| {
                let at = block.at(group, p);
                // SAFETY: the task alone has these pixels.
                let (d, y) = unsafe { (&mut d.range(at, 1)[0], &mut y.range(at, 1)[0]) };
                for l in 0..LANES {
                    let mut sum = 0.0f32;
                    for &x in &wide[l..l + N] {
                        sum = x.mul_add(x, sum);
                    }
                    d[l] = ALPHA.mul_add(sum, K);
                    y[l] = wide[l + N / 2] * power_minus_beta(d[l]);
                }
            });
        }
    }
}

/// `d^-0.75` by square roots: correctly rounded on every host.
#[inline(always)]
fn power_minus_beta(d: f32) -> f32 {
    let root = d.sqrt();
    1.0 / (root * root.sqrt())
}

/// `dx[c] = dy[c] * d[c]^-beta - 2 * alpha * beta * x[c] * sum of dy[j] * x[j] * d[j]^(-beta - 1)` over the
/// window, zero where a mask is asked for and x is not positive. Overwrites dx.
pub(super) fn backward(cpu: &Cpu, step: &Step, views: &mut Views<'_>) {
    let masked = match step.data_gradient {
        DataGradient::None => return,
        DataGradient::Plain => false,
        DataGradient::Masked => true,
    };
    let operands = Operands {
        x: views.input.as_chunks().0,
        d: views.saved.as_chunks().0,
        dy: views.gradient.as_chunks().0,
    };
    let dx = Parts::new(views.input_gradient.as_chunks_mut().0);
    cpu.team.run(Block::tasks(step), |task, _| {
        differentiate(cpu.isa, Block::of(step, task), masked, operands, dx);
    });
}

#[derive(Clone, Copy)]
struct Operands<'a> {
    x: &'a [Pixel],
    d: &'a [Pixel],
    dy: &'a [Pixel],
}

multiversion! {
    /// Terms `dy * x * d^(-beta - 1)`, then `dx = fma(-2 alpha beta * x, sum of terms, dy * d^-beta)`.
    fn differentiate(block: Block, masked: bool, operands: Operands<'_>, dx: Parts<'_, Pixel>) {
        let Operands { x, d, dy } = operands;
        for p in 0..block.count {
            let term = |group: usize| {
                let (x, dy) = (block.read(x, group, p), block.read(dy, group, p));
                let d = &d[block.at(group, p)];
                std::array::from_fn(|l| dy[l] * x[l] * (power_minus_beta(d[l]) / d[l]))
            };
            slide(groups(block.shape.c), term, |group, terms| {
                let at = block.at(group, p);
                let (x, dy) = (block.read(x, group, p), block.read(dy, group, p));
                let d = &d[at];
                // SAFETY: the task alone has these pixels.
                let dx = &mut unsafe { dx.range(at, 1) }[0];
                for l in 0..LANES {
                    let mut sum = 0.0f32;
                    for &term in &terms[l..l + N] {
                        sum += term;
                    }
                    let gradient = (-2.0 * ALPHA * BETA * x[l]).mul_add(sum, dy[l] * power_minus_beta(d[l]));
                    let passes = !masked || x[l] > 0.0;
                    dx[l] = if passes { gradient } else { 0.0 };
                }
            });
        }
    }
}
