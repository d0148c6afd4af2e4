//! The forward pass: dot products of rows of weights, read once and in order, with the images' rows.

use super::super::Cpu;
use super::super::simd::{Simd, WIDTH, vectorised};
use super::super::team::Parts;
use super::Shape;

/// Rows of weights that are read together.
const ROWS: usize = 4;
/// Images of one tile at most: 12 sums, 3 operands and 1 are the 16 registers of AVX.
const IMAGES: usize = 3;
/// Outputs of one task.
const TASK_OUTPUTS: usize = 16;
/// Inputs of one block: the rows' part (16 KB) stays in the L1 cache for all images, and that of the images in L2.
const BLOCK_INPUTS: usize = 1024;

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
                let weights = &weights[(first + o) * shape.inputs + start..];
                let mut n = 0;
                while n < shape.batch {
                    let images = IMAGES.min(shape.batch - n);
                    let x = &x[n * shape.x_stride + start..];
                    let mut sums = [[0.0; ROWS]; IMAGES];
                    let (w, x) = ((weights, shape.inputs), (x, shape.x_stride));
                    match (rows, images) {
                        (ROWS, 3) => dots3(cpu.isa, inputs, w, x, &mut sums),
                        (ROWS, 2) => dots2(cpu.isa, inputs, w, x, &mut sums),
                        (ROWS, _) => dots1(cpu.isa, inputs, w, x, &mut sums),
                        _ => dots_edge(cpu.isa, inputs, w, x, rows, images, &mut sums),
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
type Rows<'a> = (&'a [f32], usize);

vectorised! {
    fn dots3<S>(s, inputs: usize, w: Rows<'_>, x: Rows<'_>, sums: &mut Sums) {
        dots::<S, ROWS, 3>(s, inputs, w, x, sums);
    }
}

vectorised! {
    fn dots2<S>(s, inputs: usize, w: Rows<'_>, x: Rows<'_>, sums: &mut Sums) {
        dots::<S, ROWS, 2>(s, inputs, w, x, sums);
    }
}

vectorised! {
    fn dots1<S>(s, inputs: usize, w: Rows<'_>, x: Rows<'_>, sums: &mut Sums) {
        dots::<S, ROWS, 1>(s, inputs, w, x, sums);
    }
}

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
        for (n, sums) in sums.iter_mut().enumerate().take(images) {
            for (r, sum) in sums.iter_mut().enumerate().take(rows) {
                let mut one = [[0.0; ROWS]; IMAGES];
                let (w, x) = ((&w.0[r * w.1..], w.1), (&x.0[n * x.1..], x.1));
                dots::<S, 1, 1>(s, inputs, w, x, &mut one);
                *sum = one[0][0];
            }
        }
    }
}

/// Eight sums side by side, then those, then what is left of the rows.
#[inline(always)]
fn dots<S: Simd, const R: usize, const M: usize>(
    s: S,
    inputs: usize,
    (w, w_stride): Rows<'_>,
    (x, x_stride): Rows<'_>,
    sums: &mut Sums,
) {
    let w: [&[f32]; R] = std::array::from_fn(|r| &w[r * w_stride..][..inputs]);
    let x: [&[f32]; M] = std::array::from_fn(|n| &x[n * x_stride..][..inputs]);
    let (w_parts, x_parts) = (
        w.map(|w| w.as_chunks::<WIDTH>().0),
        x.map(|x| x.as_chunks::<WIDTH>().0),
    );
    let mut partial = [[s.zero(); M]; R];
    let steps = inputs / WIDTH;
    for i in 0..steps {
        let mut x = [s.zero(); M];
        for n in 0..M {
            x[n] = s.load(&x_parts[n][..steps][i]);
        }
        for r in 0..R {
            let w = s.load(&w_parts[r][..steps][i]);
            for n in 0..M {
                partial[r][n] = s.mul_add(w, x[n], partial[r][n]);
            }
        }
    }
    for r in 0..R {
        for n in 0..M {
            let rest = (steps * WIDTH..inputs).map(|i| w[r][i] * x[n][i]);
            sums[n][r] = s.sum(partial[r][n]) + rest.sum::<f32>();
        }
    }
}
