//! What the simulated cuDNN computes: plain loops in f64, rounded once to f32, and to the tensor's type where that is
//! narrower. Engines differ in what they do to the factors before.
//!
//! Tensors are addressed by strides, so that any layout is right; the order of the sums is fixed.

use super::graph::Tensor;

/// Stride 1, dilation 1; `padding` zeros on every side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) padding: [i64; 2],
}

/// A tensor's elements in host memory.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) tensor: &'a Tensor,
    /// Address of the first.
    pub(super) start: usize,
    /// What becomes of an element that is a factor of a product.
    pub(super) rounding: fn(f32) -> f32,
}

impl View<'_> {
    fn offset(&self, index: [i64; 4]) -> usize {
        let strides = self.tensor.strides;
        let offset: i64 = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        offset as usize
    }

    pub(super) fn get(&self, index: [i64; 4]) -> f32 {
        // SAFETY: the index is below the tensor's dimensions, and the whole tensor was checked to lie in one allocation;
        // the simulator runs one operation at a time.
        unsafe { self.tensor.float.read(self.start, self.offset(index)) }
    }

    /// All elements as factors, in f64, where products of two are exact; the axes in the given order, the last one dense.
    fn factors(&self, order: [usize; 4]) -> Vec<f64> {
        let factor = |at: [i64; 4]| {
            let mut index = [0; 4];
            order.iter().zip(at).for_each(|(axis, i)| index[*axis] = i);
            f64::from((self.rounding)(self.get(index)))
        };
        indices(order.map(|axis| self.tensor.dims[axis]))
            .map(factor)
            .collect()
    }

    pub(super) fn set(&self, index: [i64; 4], value: f32) {
        // SAFETY: as for `get`.
        unsafe { self.tensor.float.write(self.start, self.offset(index), value) }
    }
}

/// Every index of a tensor, the last axis fastest.
pub(super) fn indices([a, b, c, d]: [i64; 4]) -> impl Iterator<Item = [i64; 4]> {
    let row = move |i, j, k| (0..d).map(move |l| [i, j, k, l]);
    let plane = move |i, j| (0..c).flat_map(move |k| row(i, j, k));
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| plane(i, j)))
}

/// The taps of a filter that fall inside an image: (row of the filter, row of the image).
fn taps(at: i64, kernel: i64, padding: i64, size: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..kernel)
        .map(move |r| (r, at + r - padding))
        .filter(move |(_, row)| (0..size).contains(row))
}

/// Orders of axes: channels last, and the outputs' or the inputs' channels of a filter last.
const NHWC: [usize; 4] = [0, 2, 3, 1];
const RSCK: [usize; 4] = [2, 3, 1, 0];
const RSKC: [usize; 4] = [2, 3, 0, 1];

/// sums[i] += x * factors[i]: the order of each sum is that of the calls.
fn add_products(sums: &mut [f64], x: f64, factors: &[f64]) {
    sums.iter_mut().zip(factors).for_each(|(sum, y)| *sum += x * y);
}

/// y[n, k, p, q] = sum of x[n, c, p + r - pad, q + s - pad] * w[r, s, c, k], over r, s and c in this order.
fn correlate(padding: [i64; 2], x: View<'_>, w: &[f64], kernel: [i64; 2], y: View<'_>) {
    let [_, channels, height, width] = x.tensor.dims;
    let [images, outputs, rows, columns] = y.tensor.dims;
    let factors = x.factors(NHWC);
    let (channels, outputs) = (channels as usize, outputs as usize);
    let mut sums = vec![0.0; outputs];
    for [n, p, q, _] in indices([images, rows, columns, 1]) {
        sums.fill(0.0);
        for (r, row) in taps(p, kernel[0], padding[0], height) {
            for (s, column) in taps(q, kernel[1], padding[1], width) {
                let pixel = ((n * height + row) * width + column) as usize;
                let tap = (r * kernel[1] + s) as usize;
                let pixel = &factors[pixel * channels..][..channels];
                let tap = w[tap * channels * outputs..].chunks_exact(outputs);
                pixel
                    .iter()
                    .zip(tap)
                    .for_each(|(x, w)| add_products(&mut sums, *x, w));
            }
        }
        for (k, sum) in (0..).zip(&sums) {
            y.set([n, k, p, q], *sum as f32);
        }
    }
}

/// y[n, k, p, q] = sum of x[n, c, p + r - pad, q + s - pad] * w[k, c, r, s].
pub(super) fn forward(geometry: Geometry, x: View<'_>, w: View<'_>, y: View<'_>) {
    let [_, _, kernel_h, kernel_w] = w.tensor.dims;
    correlate(geometry.padding, x, &w.factors(RSCK), [kernel_h, kernel_w], y);
}

/// dx[n, c, i, j] = sum of dy[n, k, i - r + pad, j - s + pad] * w[k, c, r, s].
pub(super) fn data_gradient(geometry: Geometry, dx: View<'_>, w: View<'_>, dy: View<'_>) {
    let [outputs, channels, kernel_h, kernel_w] = w.tensor.dims;
    // A tap at r of the forward pass is one at kernel - 1 - r of the backward pass.
    let back = [
        kernel_h - 1 - geometry.padding[0],
        kernel_w - 1 - geometry.padding[1],
    ];
    let taps = w.factors(RSKC);
    let flipped: Vec<f64> = taps
        .chunks_exact((outputs * channels) as usize)
        .rev()
        .flatten()
        .copied()
        .collect();
    correlate(back, dy, &flipped, [kernel_h, kernel_w], dx);
}

/// dw[k, c, r, s] = sum of x[n, c, p + r - pad, q + s - pad] * dy[n, k, p, q], over n, p and q in this order.
pub(super) fn filter_gradient(geometry: Geometry, x: View<'_>, dw: View<'_>, dy: View<'_>) {
    let [_, channels, height, width] = x.tensor.dims;
    let [images, outputs, rows, columns] = dy.tensor.dims;
    let [_, _, kernel_h, kernel_w] = dw.tensor.dims;
    let (values, gradients) = (x.factors(NHWC), dy.factors(NHWC));
    let (channels, outputs) = (channels as usize, outputs as usize);
    // (R, S, C, K).
    let mut sums = vec![0.0; channels * outputs * (kernel_h * kernel_w) as usize];
    let places = indices([images, rows, columns, 1]);
    for ([n, p, q, _], gradient) in places.zip(gradients.chunks_exact(outputs)) {
        for (r, row) in taps(p, kernel_h, geometry.padding[0], height) {
            for (s, column) in taps(q, kernel_w, geometry.padding[1], width) {
                let pixel = ((n * height + row) * width + column) as usize;
                let tap = (r * kernel_w + s) as usize;
                let pixel = &values[pixel * channels..][..channels];
                let tap = sums[tap * channels * outputs..].chunks_exact_mut(outputs);
                pixel
                    .iter()
                    .zip(tap)
                    .for_each(|(x, sums)| add_products(sums, *x, gradient));
            }
        }
    }
    let places = indices([kernel_h, kernel_w, channels as i64, outputs as i64]);
    for ([r, s, c, k], sum) in places.zip(&sums) {
        dw.set([k, c, r, s], *sum as f32);
    }
}
