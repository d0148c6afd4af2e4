//! The forward pass: dot products of rows of weights, read once and in order, with the images' rows.

use super::super::Cpu;
use super::super::isa::Isa;
use super::super::simd::{self, MOST_REGISTERS, Simd, vectorised};
use super::super::stream;
use super::super::team::Parts;
use super::super::tile::LANES;
use super::{Rows, Shape};

/// Rows of weights that are read together.
const ROWS: usize = 4;
/// Images of one tile at most.
const IMAGES: usize = 6;
/// Outputs of one task.
const TASK_OUTPUTS: usize = 16;
/// Inputs of one block: the rows' part (16 KB) stays in the L1 cache for all images, and that of the images in L2.
const BLOCK_INPUTS: usize = 1024;

/// Images of one tile: the sums of [`ROWS`] rows and 6 images are 24 of the 32 registers of AVX-512. Elsewhere a sum takes
/// two registers, two rows go first, and those of 3 images are 12 of 16.
fn most_images(isa: Isa) -> usize {
    match isa {
        Isa::Portable => 3,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => 3,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => IMAGES,
    }
}

/// Elements of one worker's sums.
fn sums_len(shape: Shape) -> usize {
    shape.batch * TASK_OUTPUTS * LANES
}

/// Elements of scratch.
pub(super) fn scratch(shape: Shape, threads: usize) -> usize {
    threads * sums_len(shape)
}

/// Overwrites y, padding with zero.
pub(super) fn forward(
    cpu: &Cpu,
    shape: Shape,
    x: &[f32],
    (weights, bias): (&[f32], &[f32]),
    relu: bool,
    scratch: &mut [f32],
    y: &mut [f32],
) {
    let (scratch, y) = (Parts::new(scratch), Parts::new(y));
    let most = most_images(cpu.isa);
    cpu.team
        .run(shape.outputs.div_ceil(TASK_OUTPUTS), |task, worker| {
            let first = task * TASK_OUTPUTS;
            let outputs = TASK_OUTPUTS.min(shape.outputs - first);
            // SAFETY: one task at a time has this worker number.
            let sums = unsafe { scratch.range(worker * sums_len(shape), sums_len(shape)) };
            sums.fill(0.0);
            let sums: &mut [Sums] = sums.as_chunks_mut().0.as_chunks_mut().0;
            for start in (0..shape.inputs).step_by(BLOCK_INPUTS) {
                let inputs = BLOCK_INPUTS.min(shape.inputs - start);
                for o in (0..outputs).step_by(ROWS) {
                    let rows = ROWS.min(outputs - o);
                    let of = |o: usize, start: usize| (first + o) * shape.inputs + start;
                    let w = Rows(&weights[of(o, start)..], shape.inputs);
                    // What is read next: the rows below, or the next block of the first rows.
                    let next = if o + ROWS < outputs {
                        of(o + ROWS, start)
                    } else {
                        of(0, start + BLOCK_INPUTS)
                    };
                    let strips = shape.batch.div_ceil(most);
                    let mut n = 0;
                    for strip in 0..strips {
                        let images = (shape.batch - n).div_ceil(strips - strip);
                        let x = Rows(&x[n * shape.x_stride + start..], shape.x_stride);
                        let next = match strip {
                            0 => weights.as_ptr().wrapping_add(next),
                            _ => std::ptr::null(),
                        };
                        let sums = &mut sums[n..n + images];
                        if rows < ROWS {
                            dots_edge(cpu.isa, inputs, w, x, o, rows, sums);
                        } else {
                            match images {
                                1 => dots1(cpu.isa, inputs, w, x, next, o, sums),
                                2 => dots2(cpu.isa, inputs, w, x, next, o, sums),
                                3 => dots3(cpu.isa, inputs, w, x, next, o, sums),
                                4 => dots4(cpu.isa, inputs, w, x, next, o, sums),
                                5 => dots5(cpu.isa, inputs, w, x, next, o, sums),
                                _ => dots6(cpu.isa, inputs, w, x, next, o, sums),
                            }
                        }
                        n += images;
                    }
                }
            }
            for (n, sums) in sums.iter().enumerate() {
                // SAFETY: this task alone has these outputs.
                let y = unsafe { y.range(n * shape.y_stride + first, TASK_OUTPUTS) };
                y[outputs..].fill(0.0);
                let biases = &bias[first..first + outputs];
                for ((y, sums), bias) in y.iter_mut().zip(sums).zip(biases) {
                    let sum = bias + simd::sum(sums);
                    *y = if relu && sum < 0.0 { 0.0 } else { sum };
                }
            }
        });
}

/// The sums of one image and the outputs of a task, 16 side by side: lane l has the inputs whose number is l more than a
/// multiple of 16.
type Sums = [[f32; LANES]; TASK_OUTPUTS];

/// Adds to the sums of [`ROWS`] outputs from number `o` of the task on, and M images. The rows at `next`, if it is not null,
/// are fetched meanwhile.
#[inline(always)]
fn full<S: Simd, const M: usize>(
    s: S,
    inputs: usize,
    w: Rows<'_>,
    x: Rows<'_>,
    next: *const f32,
    o: usize,
    sums: &mut [Sums],
) {
    if S::REGISTERS == 1 {
        dots::<S, ROWS, M>(s, inputs, w, x, (next, 0), o, sums);
    } else {
        dots::<S, { ROWS / 2 }, M>(s, inputs, w, x, (next, 0), o, sums);
        dots::<S, { ROWS / 2 }, M>(s, inputs, w, x, (next, ROWS / 2), o, sums);
    }
}

/// Defines `fn name(isa, inputs, w, x, next, o, sums)`: [`full`] for a number of images.
macro_rules! full {
    ($($name:ident: $images:literal),*) => {$(
        vectorised! {
            fn $name<S>(s, inputs: usize, w: Rows<'_>, x: Rows<'_>, next: *const f32, o: usize, sums: &mut [Sums]) {
                full::<S, $images>(s, inputs, w, x, next, o, sums);
            }
        }
    )*};
}
full!(dots1: 1, dots2: 2, dots3: 3, dots4: 4, dots5: 5, dots6: 6);

vectorised! {
    /// Fewer rows than usual.
    fn dots_edge<S>(
        s,
        inputs: usize,
        w: Rows<'_>,
        x: Rows<'_>,
        first: usize,
        rows: usize,
        sums: &mut [Sums],
    ) {
        for (n, sums) in sums.chunks_mut(1).enumerate() {
            for r in 0..rows {
                let x = Rows(&x.0[n * x.1..], x.1);
                let w = Rows(&w.0[r * w.1..], w.1);
                dots::<S, 1, 1>(s, inputs, w, x, (std::ptr::null(), 0), first + r, sums);
            }
        }
    }
}

/// Adds products to 16 sums side by side. R outputs from number `o` of the task on, and M images; the rows of weights begin
/// at row `skipped` of both `w` and what is next.
#[inline(always)]
fn dots<S: Simd, const R: usize, const M: usize>(
    s: S,
    inputs: usize,
    Rows(w, w_stride): Rows<'_>,
    Rows(x, x_stride): Rows<'_>,
    (next, skipped): (*const f32, usize),
    o: usize,
    sums: &mut [Sums],
) {
    let o = o + skipped;
    let w: [&[f32]; R] = std::array::from_fn(|r| &w[(skipped + r) * w_stride..][..inputs]);
    let x: [&[f32]; M] = std::array::from_fn(|n| &x[n * x_stride..][..inputs]);
    let (w_pixels, x_pixels) = (
        w.map(|w| w.as_chunks::<LANES>().0),
        x.map(|x| x.as_chunks::<LANES>().0),
    );
    let mut partial = [[[s.zero(); M]; R]; MOST_REGISTERS];
    for (register, partial) in partial.iter_mut().take(S::REGISTERS).enumerate() {
        for r in 0..R {
            for n in 0..M {
                partial[r][n] = s.load(&sums[n][o + r], register);
            }
        }
    }
    let steps = inputs / LANES;
    for i in 0..steps {
        if !next.is_null() {
            for r in 0..R {
                stream::prefetch(next.wrapping_add((skipped + r) * w_stride + i * LANES));
            }
        }
        for (register, partial) in partial.iter_mut().take(S::REGISTERS).enumerate() {
            let mut x = [s.zero(); M];
            for n in 0..M {
                x[n] = s.load(&x_pixels[n][..steps][i], register);
            }
            for r in 0..R {
                let w = s.load(&w_pixels[r][..steps][i], register);
                for n in 0..M {
                    partial[r][n] = s.mul_add(w, x[n], partial[r][n]);
                }
            }
        }
    }
    for r in 0..R {
        for n in 0..M {
            let sums = &mut sums[n][o + r];
            for (register, partial) in partial.iter().take(S::REGISTERS).enumerate() {
                s.store(partial[r][n], sums, register);
            }
            for (sum, i) in sums.iter_mut().zip(steps * LANES..inputs) {
                *sum += w[r][i] * x[n][i];
            }
        }
    }
}
