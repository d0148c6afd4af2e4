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

    /// An element as a factor, in f64: products of two are exact.
    fn factor(&self, index: [i64; 4]) -> f64 {
        f64::from((self.rounding)(self.get(index)))
    }

    pub(super) fn set(&self, index: [i64; 4], value: f32) {
        // SAFETY: as for `get`.
        unsafe { self.tensor.float.write(self.start, self.offset(index), value) }
    }
}

/// Every index of a tensor.
pub(super) fn indices(dims: [i64; 4]) -> impl Iterator<Item = [i64; 4]> {
    let [n, c, h, w] = dims;
    (0..n * c * h * w).map(move |i| [i / (c * h * w), i / (h * w) % c, i / w % h, i % w])
}

/// The taps of a filter that fall inside an image: (row of the filter, row of the image).
fn taps(at: i64, kernel: i64, padding: i64, size: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..kernel)
        .map(move |r| (r, at + r - padding))
        .filter(move |(_, row)| (0..size).contains(row))
}

/// y[n, k, p, q] = sum of x[n, c, p + r - pad, q + s - pad] * w[k, c, r, s].
pub(super) fn forward(geometry: Geometry, x: View<'_>, w: View<'_>, y: View<'_>) {
    let [_, channels, height, width] = x.tensor.dims;
    let [_, _, kernel_h, kernel_w] = w.tensor.dims;
    for [n, k, p, q] in indices(y.tensor.dims) {
        let mut sum = 0.0f64;
        for (r, row) in taps(p, kernel_h, geometry.padding[0], height) {
            for (s, column) in taps(q, kernel_w, geometry.padding[1], width) {
                for c in 0..channels {
                    sum += x.factor([n, c, row, column]) * w.factor([k, c, r, s]);
                }
            }
        }
        y.set([n, k, p, q], sum as f32);
    }
}

/// dx[n, c, i, j] = sum of dy[n, k, i - r + pad, j - s + pad] * w[k, c, r, s].
pub(super) fn data_gradient(geometry: Geometry, dx: View<'_>, w: View<'_>, dy: View<'_>) {
    let [_, outputs, height, width] = dy.tensor.dims;
    let [_, _, kernel_h, kernel_w] = w.tensor.dims;
    // A tap at r of the forward pass is one at kernel - 1 - r of the backward pass.
    let back = [
        kernel_h - 1 - geometry.padding[0],
        kernel_w - 1 - geometry.padding[1],
    ];
    for [n, c, i, j] in indices(dx.tensor.dims) {
        let mut sum = 0.0f64;
        for (r, row) in taps(i, kernel_h, back[0], height) {
            for (s, column) in taps(j, kernel_w, back[1], width) {
                for k in 0..outputs {
                    let weight = w.factor([k, c, kernel_h - 1 - r, kernel_w - 1 - s]);
                    sum += dy.factor([n, k, row, column]) * weight;
                }
            }
        }
        dx.set([n, c, i, j], sum as f32);
    }
}

/// dw[k, c, r, s] = sum of x[n, c, p + r - pad, q + s - pad] * dy[n, k, p, q].
pub(super) fn filter_gradient(geometry: Geometry, x: View<'_>, dw: View<'_>, dy: View<'_>) {
    let [_, _, height, width] = x.tensor.dims;
    let [images, _, rows, columns] = dy.tensor.dims;
    for [k, c, r, s] in indices(dw.tensor.dims) {
        let mut sum = 0.0f64;
        for n in 0..images {
            for p in 0..rows {
                let row = p + r - geometry.padding[0];
                if !(0..height).contains(&row) {
                    continue;
                }
                for q in 0..columns {
                    let column = q + s - geometry.padding[1];
                    if (0..width).contains(&column) {
                        sum += x.factor([n, c, row, column]) * dy.factor([n, k, p, q]);
                    }
                }
            }
        }
        dw.set([k, c, r, s], sum as f32);
    }
}
