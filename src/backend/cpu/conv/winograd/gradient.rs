//! The filter gradient: `dw = G^T [ sum over tiles of (B^T x B) . (A dy A^T) ] G`.

use super::super::super::Cpu;
use super::super::super::tile::{LANES, Start};
use super::super::Shape;
use super::{Blocks, filters, images, products};

/// Elements of the parts' sums of dy of one block.
fn sums(shape: Shape, blocks: &Blocks) -> usize {
    images::parts(shape.outputs, blocks.block) * LANES
}

/// Elements of scratch of [`filter_gradient`], and f64 behind them.
pub(in super::super) fn gradient_scratch(shape: Shape) -> usize {
    let blocks = Blocks::new(shape);
    blocks.parts().iter().sum::<usize>() + sums(shape, &blocks) + 2 * shape.outputs
}

/// dw (K, C, 3, 3) and db (K), which is the sum of dy over images and pixels. Overwrites both.
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
    let [v, m, u] = blocks.parts();
    let (v, rest) = scratch.split_at_mut(v);
    let (dm, rest) = rest.split_at_mut(m);
    let (du, rest) = rest.split_at_mut(u);
    let (sums, rest) = rest.split_at_mut(sums(shape, &blocks));
    let totals: &mut [f64] = bytemuck::cast_slice_mut(&mut rest[..2 * shape.outputs]);
    totals.fill(0.0);
    for (first, count) in blocks.each() {
        let range = (first, count);
        let sums = &mut sums.as_chunks_mut().0[..images::parts(shape.outputs, count)];
        images::transform_input(cpu, &blocks, (shape.inputs, x), range, v);
        images::transform_gradient(cpu, &blocks, (shape.outputs, dy), range, dm, sums);
        images::sum_parts(sums, totals);
        let start = if first == 0 { Start::Zero } else { Start::Held };
        products::multiply_transposed(cpu, shape, &blocks, (count, start), (v, dm), du);
    }
    for (db, total) in db.iter_mut().zip(totals) {
        *db = *total as f32;
    }
    filters::gradient(cpu, shape, blocks.u_stride, du, dw);
}
