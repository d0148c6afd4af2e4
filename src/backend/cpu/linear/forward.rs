//! The forward pass: dot products of rows of weights, read once and in order, with the images' rows.

use super::super::Cpu;
use super::super::isa::Isa;
use super::super::simd::{self, MOST_REGISTERS, Simd, vectorised};
use super::super::stream;
use super::super::team::Parts;
use super::super::tile::LANES;
use super::Shape;

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

/// Overwrites y, padding with zero.
pub(super) fn forward(
    cpu: &Cpu,
    shape: Shape,
    x: &[f32],
    (weights, bias): (&[f32], &[f32]),
    relu: bool,
    y: &mut [f32],
) {
    let y = Parts::new(y);
    let most = most_images(cpu.isa);
    cpu.team.run(shape.outputs.div_ceil(TASK_OUTPUTS), |task, _| {
        let first = task * TASK_OUTPUTS;
        let outputs = TASK_OUTPUTS.min(shape.outputs - first);
        // SAFETY: this task alone has these outputs.
        let row = |n: usize| unsafe { y.range(n * shape.y_stride + first, TASK_OUTPUTS) };
        for n in 0..shape.batch {
            let y = row(n);
            y[..outputs].copy_from_slice(&bias[first..first + outputs]);
            y[outputs..].fill(0.0);
        }
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
                    let mut sums = [[0.0; ROWS]; IMAGES];
                    let next = match strip {
                        0 => weights.as_ptr().wrapping_add(next),
                        _ => std::ptr::null(),
                    };
                    if rows < ROWS {
                        dots_edge(cpu.isa, inputs, w, x, rows, images, &mut sums);
                    } else {
                        match images {
                            1 => dots1(cpu.isa, inputs, w, x, next, &mut sums),
                            2 => dots2(cpu.isa, inputs, w, x, next, &mut sums),
                            3 => dots3(cpu.isa, inputs, w, x, next, &mut sums),
                            4 => dots4(cpu.isa, inputs, w, x, next, &mut sums),
                            5 => dots5(cpu.isa, inputs, w, x, next, &mut sums),
                            _ => dots6(cpu.isa, inputs, w, x, next, &mut sums),
                        }
                    }
                    for (n, sums) in (n..n + images).zip(&sums) {
                        for (y, sum) in row(n)[o..o + rows].iter_mut().zip(sums) {
                            *y += sum;
                        }
                    }
                    n += images;
                }
            }
        }
        if relu {
            for n in 0..shape.batch {
                for y in row(n) {
                    *y = if *y < 0.0 { 0.0 } else { *y };
                }
            }
        }
    });
}

/// `sums[n][r]`: dot products of row r of the weights and row n of the images.
type Sums = [[f32; ROWS]; IMAGES];

/// A matrix and the distance of its rows.
#[derive(Clone, Copy)]
struct Rows<'a>(&'a [f32], usize);

/// The sums of [`ROWS`] rows and M images. The rows at `next`, if it is not null, are fetched meanwhile.
#[inline(always)]
fn full<S: Simd, const M: usize>(
    s: S,
    inputs: usize,
    w: Rows<'_>,
    x: Rows<'_>,
    next: *const f32,
    sums: &mut Sums,
) {
    if S::REGISTERS == 1 {
        dots::<S, ROWS, M>(s, inputs, w, x, next, sums, 0);
    } else {
        dots::<S, { ROWS / 2 }, M>(s, inputs, w, x, next, sums, 0);
        dots::<S, { ROWS / 2 }, M>(s, inputs, w, x, next, sums, ROWS / 2);
    }
}

/// Defines `fn name(isa, inputs, w, x, next, sums)`: [`full`] for a number of images.
macro_rules! full {
    ($($name:ident: $images:literal),*) => {$(
        vectorised! {
            fn $name<S>(s, inputs: usize, w: Rows<'_>, x: Rows<'_>, next: *const f32, sums: &mut Sums) {
                full::<S, $images>(s, inputs, w, x, next, sums);
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
        rows: usize,
        images: usize,
        sums: &mut Sums,
    ) {
        for n in 0..images {
            for r in 0..rows {
                let x = Rows(&x.0[n * x.1..], x.1);
                dots::<S, 1, 1>(s, inputs, w, x, std::ptr::null(), &mut sums[n..], r);
            }
        }
    }
}

/// Sixteen sums side by side, then those, then what is left of the rows.
#[inline(always)]
fn dots<S: Simd, const R: usize, const M: usize>(
    s: S,
    inputs: usize,
    Rows(w, w_stride): Rows<'_>,
    Rows(x, x_stride): Rows<'_>,
    next: *const f32,
    sums: &mut [[f32; ROWS]],
    first: usize,
) {
    let w: [&[f32]; R] = std::array::from_fn(|r| &w[(first + r) * w_stride..][..inputs]);
    let x: [&[f32]; M] = std::array::from_fn(|n| &x[n * x_stride..][..inputs]);
    let (w_pixels, x_pixels) = (
        w.map(|w| w.as_chunks::<LANES>().0),
        x.map(|x| x.as_chunks::<LANES>().0),
    );
    let mut partial = [[[s.zero(); M]; R]; MOST_REGISTERS];
    let steps = inputs / LANES;
    for i in 0..steps {
        if !next.is_null() {
            for r in 0..R {
                stream::prefetch(next.wrapping_add((first + r) * w_stride + i * LANES));
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
            let mut lanes = [0.0; LANES];
            for (register, partial) in partial.iter().take(S::REGISTERS).enumerate() {
                s.store(partial[r][n], &mut lanes, register);
            }
            let rest = (steps * LANES..inputs).map(|i| w[r][i] * x[n][i]);
            sums[n][first + r] = simd::sum(&lanes) + rest.sum::<f32>();
        }
    }
}
