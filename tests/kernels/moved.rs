//! Bytes moved: a launch on aligned memory and sizes that are multiples of 4 reads and writes no more than the comment
//! above its kernel states. Kernels over a few channels state nothing: they read and write every argument once.

use std::collections::BTreeSet;

use verydeep::backend::cuda::launch::{
    BatchNorm, INPUT_CHANNELS, Nhwc, Rows, UpdateFactors, column_sum_bytes,
};
use verydeep::data::preprocess::Preprocess;

use super::device::{Bench, launch, traffic};
use super::numbers::{bytes, normals};

/// `moves!(bench, judged, method(arguments) => kernel: read, cached, written; ...)`: the bytes that one launch of each
/// kernel may read, read from a cache on top of that (vectors of C, labels, the step's parameters, what it has just
/// read), and write.
macro_rules! moves {
    ($bench:ident, $judged:ident, $method:ident $arguments:tt =>
        $($kernel:ident: $read:expr, $cached:expr, $written:expr);+) => {
        let kernels = [$(stringify!($kernel)),+];
        let before = kernels.map(traffic);
        launch!($bench, $method $arguments);
        $bench.launcher().synchronize().unwrap();
        let stated = [$([$read, $cached, $written]),+];
        for ((kernel, before), stated) in kernels.into_iter().zip(before).zip(stated) {
            judge(kernel, before, traffic(kernel), stated);
            $judged.insert(kernel.to_string());
        }
    };
}

fn judge(kernel: &str, before: [u64; 3], after: [u64; 3], [stated, cached, writes]: [usize; 3]) {
    let [launches, read, written] = [0, 1, 2].map(|i| (after[i] - before[i]) as usize);
    assert_eq!(launches, 1, "launches of {kernel}");
    assert!(
        read <= stated + cached,
        "{kernel} reads {read} bytes, not {stated} and {cached} from cache"
    );
    assert_eq!(written, writes, "bytes that {kernel} writes");
}

pub(crate) fn bytes_moved(bench: &mut Bench) {
    let mut judged = BTreeSet::new();
    flat(bench, &mut judged);
    images(bench, &mut judged);
    samples(bench, &mut judged);
    sums(bench, &mut judged);
    assert_eq!(judged, super::kernels());
}

/// Threads of a launch that has one for each of so many items.
fn threads(items: usize) -> usize {
    items.next_multiple_of(256)
}

fn flat(bench: &mut Bench, judged: &mut BTreeSet<String>) {
    // Few enough for both grids to have a thread for each quad.
    let n = 8 * bench.draw.integer(100..=1000);
    let x = normals(&mut bench.draw, n);
    let [a, b, c] = [0; 3].map(|_| bench.input(&x));
    let (a, b, c) = (a.at(), b.at(), c.at());
    let (threads, blocks) = (threads(n / 4), threads(n / 4) / 256);
    let (params, sum, half) = (
        bench.input(&[0u64; 4]),
        bench.input(&[0u64]),
        bench.output::<u16>(n),
    );
    let (params, sum, half) = (params.at(), sum.at(), half.at());
    let factors = UpdateFactors {
        rate: 1.0,
        decay: 0.1,
        momentum: 0.9,
        batch: 3.0,
    };
    moves!(bench, judged, relu_forward(a, b, n) => relu_forward: 4 * n, 0, 4 * n);
    moves!(bench, judged, relu_backward(a, b, c, n) => relu_backward: 8 * n, 0, 4 * n);
    moves!(bench, judged, dropout_backward_masked(0.5, a, b, c, n) => dropout_backward_masked: 8 * n, 0, 4 * n);
    moves!(bench, judged, tree_add(&[a, b, c], n) => tree_add: 4 * 3 * n, 0, 4 * n);
    // Every thread asks for the learning rate.
    moves!(bench, judged, update_parameters([a, b, c], n, params, factors) =>
        update_parameters: 12 * n, 4 * threads, 8 * n);
    moves!(bench, judged, update_statistics(a, b, n, 0.1, 3.0) => update_statistics: 8 * n, 0, 4 * n);
    moves!(bench, judged, is_finite(a, n, sum) => is_finite: 4 * n, 0, 0);
    // An atomic addition of 8 bytes per block.
    moves!(bench, judged, fold(a, n, sum) => fold: 4 * n, 8 * blocks, 8 * blocks);
    moves!(bench, judged, fp32_to_bf16(a, half, n) => fp32_to_bf16: 4 * n, 0, 2 * n);
    moves!(bench, judged, bf16_to_fp32(half, b, n) => bf16_to_fp32: 2 * n, 0, 4 * n);
}

fn images(bench: &mut Bench, judged: &mut BTreeSet<String>) {
    // Sides may be odd: what is dropped must not be read.
    let [n, h, w, c] = [1..=2, 2..=7, 2..=7, 1..=5].map(|range| bench.draw.integer(range));
    let shape = Nhwc { n, h, w, c: 4 * c };
    let (pixels, pitch, scores) = (n * h * w, shape.c + 4, n * shape.c);
    let (count, padded, pooled) = (pixels * shape.c, pixels * pitch, n * (h / 2) * (w / 2) * shape.c);
    let [x, wide] = [count, padded].map(|count| {
        let x = normals(&mut bench.draw, count);
        bench.input(&x)
    });
    let [y, means] = [pooled, scores].map(|count| bench.output::<f32>(count));
    let (choices, sum) = (bench.output::<u8>(pooled), bench.input(&[0u64]));
    let [x, wide, y, means] = [&x, &wide, &y, &means].map(|view| view.at());
    let (choices, sum) = (choices.at(), sum.at());

    moves!(bench, judged, max_pool_forward(shape, x, y, choices) => max_pool_forward: 16 * pooled, 0, 5 * pooled);
    moves!(bench, judged, max_pool_backward(shape, y, choices, None, x) =>
        max_pool_backward: 5 * pooled, 0, 4 * count);
    moves!(bench, judged, max_pool_backward(shape, y, choices, Some(y), x) =>
        max_pool_backward: 9 * pooled, 0, 4 * count);
    moves!(bench, judged, nhwc_from_nchw(shape, pitch, x, wide) => nhwc_from_nchw: 4 * count, 0, 4 * padded);
    moves!(bench, judged, nchw_from_nhwc(shape, pitch, wide, x) => nchw_from_nhwc: 4 * count, 0, 4 * count);
    let blocks = threads(count) / 256;
    moves!(bench, judged, fold_nhwc(shape, pitch, wide, sum) => fold_nhwc: 4 * count, 8 * blocks, 8 * blocks);
    moves!(bench, judged, score_map_average(shape, x, means) => score_map_average: 4 * count, 0, 4 * scores);

    let image = bytes(&mut bench.draw, 3 * pixels);
    let (image, flips) = (bench.input(&image), bench.input(&vec![1u8; n]));
    let (colours, out) = (
        bench.input(&vec![1f32; 3 * n]),
        bench.output::<f32>(INPUT_CHANNELS * pixels),
    );
    let (inputs, out) = ([image.at(), flips.at(), colours.at()], out.at());
    let map = Preprocess::subtract_mean([1.0; 3]);
    // Every pixel asks for its image's flip and colour.
    moves!(bench, judged, finish_input(shape, &map, inputs, out) =>
        finish_input: 3 * pixels, 13 * pixels, 32 * pixels);
}

fn samples(bench: &mut Bench, judged: &mut BTreeSet<String>) {
    let (rows, columns) = (bench.draw.integer(2..=40), 4 * bench.draw.integer(1..=40));
    let n = rows * columns;
    let x = normals(&mut bench.draw, n);
    let [x, y, z] = [0; 3].map(|_| bench.input(&x));
    let (x, y, z) = (x.at(), y.at(), z.at());

    // With a tile of 1024 elements go its edges.
    moves!(bench, judged, lrn_forward(x, y, rows, columns) => lrn_forward: 4 * n + 4 * n * 4 / 1024, 0, 4 * n);
    moves!(bench, judged, lrn_backward(x, y, z, rows, columns, true) =>
        lrn_backward: 8 * n + 8 * n * 6 / 1024, 0, 4 * n);

    let params = bench.input(&[1u64, 2, 3, 4]);
    let params = params.at();
    // Of one pixel, four neighbours share a draw; every draw asks for seed and position.
    for (h, draws) in [(1, n / 4), (2, n)] {
        let [n, h, w, c] = [rows, h, 1, columns / h];
        let (shape, n) = (Nhwc { n, h, w, c }, rows * columns);
        moves!(bench, judged, dropout_forward(shape, 0.3, 1, params, x, y) =>
            dropout_forward: 4 * n, 16 * draws, 4 * n);
        moves!(bench, judged, dropout_backward(shape, 0.3, 1, params, x, y) =>
            dropout_backward: 4 * n, 16 * draws, 4 * n);
    }

    let labels = bench.input(&vec![1u32; rows]);
    let (losses, ranks) = (bench.output::<f32>(rows), bench.output::<u32>(rows));
    let (labels, outputs) = (labels.at(), [y, losses.at(), ranks.at()]);
    // The scores twice more, and every thread of a block asks for the label and its score.
    moves!(bench, judged, softmax_cross_entropy_forward(rows, columns, x, labels, outputs) =>
        softmax_cross_entropy_forward: 4 * n + 4 * rows, 8 * n + 8 * 256 * rows, 4 * n + 8 * rows);
    moves!(bench, judged, softmax_cross_entropy_backward(rows, columns, y, labels, z) =>
        softmax_cross_entropy_backward: 4 * n, 4 * n, 4 * n);
}

fn sums(bench: &mut Bench, judged: &mut BTreeSet<String>) {
    let (rows, c) = (bench.draw.integer(60..=400), 4 * bench.draw.integer(1..=15));
    let (shape, n) = (Rows { rows, channels: c }, rows * c);
    let x = normals(&mut bench.draw, n);
    let (x, dy) = (bench.input(&x), bench.input(&x));
    let vectors = [0; 7].map(|_| bench.input(&vec![1f32; c]));
    let parts = column_sum_bytes(rows, c, 1);
    let scratch = bench.output::<f64>(2 * parts / 8 + c);
    let (x, dy, scratch) = (x.at(), dy.at(), scratch.at());
    let [mean, rest, inverse, gamma, beta, one, two] = vectors.each_ref().map(|view| view.at());
    let norm = BatchNorm {
        x,
        mean,
        rest,
        inverse,
        gamma,
        beta,
        y: x,
    };
    moves!(bench, judged, bias_gradient(x, rows, c, scratch, one) =>
        bias_gradient_parts: 4 * n, 0, parts; bias_gradient: parts, 0, 4 * c);
    moves!(bench, judged, batch_norm_evaluation(shape, norm, [one, two], false) =>
        batch_norm_evaluation: 8 * c, 0, 12 * c; batch_norm_forward: 4 * n, 20 * n, 4 * n);
    moves!(bench, judged, batch_norm_forward(shape, norm, [one, two], scratch, false) =>
        batch_norm_mean_parts: 4 * n, 0, parts;
        batch_norm_mean: parts, 0, 12 * c;
        batch_norm_variance_parts: 4 * n, 4 * n, parts;
        batch_norm_variance: parts + 4 * c, 0, 8 * c;
        batch_norm_forward: 4 * n, 20 * n, 4 * n);
    moves!(bench, judged, batch_norm_backward(shape, norm, dy, [one, two], Some(dy), scratch) =>
        batch_norm_backward_parts: 8 * n, 4 * n, 2 * parts;
        batch_norm_backward_sums: 2 * parts + 8 * c, 0, 16 * c;
        batch_norm_backward: 8 * n, 20 * n, 4 * n);
}
