//! The forward pass: dot products of rows of weights, read once and in order, with the images' rows.

use super::super::Cpu;
use super::super::isa::Isa;
use super::super::simd::{self, MOST_REGISTERS, Simd, vectorised};
use super::super::stream;
use super::super::team::Parts;
use super::super::tile::LANES;
use super::{Rows, Shape};

/// Rows of weights whose successors are fetched meanwhile.
const ROWS: usize = 4;
/// Half of them, where the sums of all would not find room in the registers.
const TWO: usize = ROWS / 2;
/// Outputs of one task.
const TASK_OUTPUTS: usize = 16;

/// How the work of a task is cut. No bit depends on it.
struct Cut {
    /// Images of one strip at most: the sums of them and of [`rows`] are in registers.
    images: usize,
    /// Inputs of one block: what strips read again stays in the caches.
    inputs: usize,
    /// Whether rows are fetched while those before are used.
    fetches: bool,
}

/// With AVX-512 the sums of a strip are at most 24 of the 32 registers; elsewhere a sum takes two registers, and those of 2
/// rows and 3 images are 12 of 16.
///
/// One or two images are done as soon as the weights are there, and the processor fetches long rows best by itself. Eight are
/// one strip, with half of the rows: in a second strip nobody would ask for the next weights.
fn cut(isa: Isa, batch: usize) -> Cut {
    let (images, inputs) = match (isa, batch) {
        (Isa::Portable, _) => (3, 1024),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, _) => (3, 1024),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 7 | 8) => (8, 512),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) => (6, 4096),
    };
    match batch {
        ..=2 => Cut {
            images,
            inputs: 1 << 15,
            fetches: false,
        },
        _ => Cut {
            images,
            inputs,
            fetches: true,
        },
    }
}

/// Rows of weights that are read together, for so many images.
const fn rows<S: Simd>(images: usize) -> usize {
    match (S::REGISTERS, images) {
        (1, ..7) => ROWS,
        _ => TWO,
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
    let cut = cut(cpu.isa, shape.batch);
    cpu.team
        .run(shape.outputs.div_ceil(TASK_OUTPUTS), |task, worker| {
            let first = task * TASK_OUTPUTS;
            let outputs = TASK_OUTPUTS.min(shape.outputs - first);
            // SAFETY: one task at a time has this worker number.
            let sums = unsafe { scratch.range(worker * sums_len(shape), sums_len(shape)) };
            sums.fill(0.0);
            let sums: &mut [Sums] = sums.as_chunks_mut().0.as_chunks_mut().0;
            for start in (0..shape.inputs).step_by(cut.inputs) {
                let inputs = cut.inputs.min(shape.inputs - start);
                for o in (0..outputs).step_by(ROWS) {
                    let rows = ROWS.min(outputs - o);
                    let of = |o: usize, start: usize| (first + o) * shape.inputs + start;
                    let w = Rows(&weights[of(o, start)..], shape.inputs);
                    // What is read next: the rows below, or the next block of the first rows.
                    let next = if o + ROWS < outputs {
                        of(o + ROWS, start)
                    } else {
                        of(0, start + cut.inputs)
                    };
                    let strips = shape.batch.div_ceil(cut.images);
                    let mut n = 0;
                    for strip in 0..strips {
                        let images = (shape.batch - n).div_ceil(strips - strip);
                        let x = Rows(&x[n * shape.x_stride + start..], shape.x_stride);
                        let next = match strip {
                            0 if cut.fetches => weights.as_ptr().wrapping_add(next),
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
                                6 => dots6(cpu.isa, inputs, w, x, next, o, sums),
                                7 => dots7(cpu.isa, inputs, w, x, next, o, sums),
                                _ => dots8(cpu.isa, inputs, w, x, next, o, sums),
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
    if const { rows::<S>(M) } == ROWS {
        dots::<S, ROWS, M>(s, inputs, w, x, (next, 0), o, sums);
    } else {
        dots::<S, TWO, M>(s, inputs, w, x, (next, 0), o, sums);
        dots::<S, TWO, M>(s, inputs, w, x, (next, TWO), o, sums);
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
full!(dots1: 1, dots2: 2, dots3: 3, dots4: 4, dots5: 5, dots6: 6, dots7: 7, dots8: 8);

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
