//! Bytes moved: a launch on aligned memory and sizes that are multiples of 4 reads and writes no more than the comment
//! above its kernel states. Kernels over a few channels state nothing: they read and write every argument once.

use std::collections::BTreeSet;

use verydeep::backend::cuda::launch::{
    BatchNorm, Dropout, INPUT_CHANNELS, Nhwc, Rows, UpdateFactors, column_sum_bytes,
};
use verydeep::data::preprocess::Preprocess;

use super::device::{Bench, launch, traffic};
use super::element::{Bf16, Element, kernel, kernel_of_pair};
use super::numbers::{bytes, normals};

/// `moves!(bench, judged, method(arguments) => kernel: read, cached, written; ...)`: the bytes that one launch of each
/// kernel may read, read from a cache on top of that (vectors of C, labels, the step's parameters, what it has just
/// read), and write. `kernel[T]` for that of a type of elements, `kernel[From, To]` for that of a pair.
macro_rules! moves {
    ($bench:ident, $judged:ident, $method:ident $arguments:tt =>
        $($kernel:ident $([$($element:ident),+])?: $read:expr, $cached:expr, $written:expr);+) => {
        let kernels = [$(name!($kernel $($($element),+)?)),+];
        let before = kernels.each_ref().map(|kernel| traffic(kernel));
        launch!($bench, $method $arguments);
        $bench.launcher().synchronize().unwrap();
        let stated = [$([$read, $cached, $written]),+];
        for ((kernel, before), stated) in kernels.into_iter().zip(before).zip(stated) {
            judge(&kernel, before, traffic(&kernel), stated);
            $judged.insert(kernel);
        }
    };
}

/// The name of a kernel, of a type of elements or of a pair.
macro_rules! name {
    ($kernel:ident) => {
        stringify!($kernel).to_string()
    };
    ($kernel:ident $element:ident) => {
        kernel::<$element>(stringify!($kernel))
    };
    ($kernel:ident $from:ident, $to:ident) => {
        kernel_of_pair::<$from, $to>(stringify!($kernel))
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
    of_elements::<f32>(bench, &mut judged);
    of_elements::<Bf16>(bench, &mut judged);
    assert_eq!(judged, super::kernels());
}

fn of_elements<T: Element>(bench: &mut Bench, judged: &mut BTreeSet<String>) {
    masks::<T>(bench, judged);
    images::<T>(bench, judged);
    input::<T>(bench, judged);
    layouts::<T, f32>(bench, judged);
    layouts::<T, Bf16>(bench, judged);
    samples::<T>(bench, judged);
    sums::<T>(bench, judged);
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
    let (params, sum) = (bench.input(&[0u64; 4]), bench.input(&[0u64]));
    let half = bench.output::<Bf16>(n);
    let (params, sum, half) = (params.at(), sum.at(), half.at());
    let factors = UpdateFactors {
        rate: 1.0,
        decay: 0.1,
        momentum: 0.9,
        batch: 3.0,
    };
    moves!(bench, judged, tree_add(&[a, b, c], n) => tree_add: 4 * 3 * n, 0, 4 * n);
    // Every thread asks for the learning rate.
    moves!(bench, judged, update_parameters([a, b, c], None, n, params, factors) =>
        update_parameters: 12 * n, 4 * threads, 8 * n);
    moves!(bench, judged, update_parameters([a, b, c], Some(half), n, params, factors) =>
        update_parameters: 12 * n, 4 * threads, 10 * n);
    moves!(bench, judged, update_statistics(a, b, n, 0.1, 3.0) => update_statistics: 8 * n, 0, 4 * n);
    moves!(bench, judged, is_finite(a, n, sum) => is_finite: 4 * n, 0, 0);
    // An atomic addition of 8 bytes per block.
    moves!(bench, judged, fold(a, n, sum) => fold: 4 * n, 8 * blocks, 8 * blocks);
    moves!(bench, judged, fp32_to_bf16(a, half, n) => fp32_to_bf16: 4 * n, 0, 2 * n);
    moves!(bench, judged, bf16_to_fp32(half, b, n) => bf16_to_fp32: 2 * n, 0, 4 * n);
}

fn masks<T: Element>(bench: &mut Bench, judged: &mut BTreeSet<String>) {
    let (e, n) = (size_of::<T>(), 8 * bench.draw.integer(100..=1000));
    let x = normals(&mut bench.draw, n);
    let [a, b, c] = [0; 3].map(|_| bench.elements::<T>(&x));
    let (a, b, c) = (a.at(), b.at(), c.at());
    moves!(bench, judged, relu_forward(T::TYPE, a, b, n) => relu_forward[T]: e * n, 0, e * n);
    moves!(bench, judged, relu_backward(T::TYPE, a, b, c, n) => relu_backward[T]: 2 * e * n, 0, e * n);
    moves!(bench, judged, dropout_backward_masked(T::TYPE, 0.5, a, b, c, n) =>
        dropout_backward_masked[T]: 2 * e * n, 0, e * n);
}

/// Sides may be odd: what is dropped must not be read.
fn shape(bench: &mut Bench) -> Nhwc {
    let [n, h, w, c] = [1..=2, 2..=7, 2..=7, 1..=5].map(|range| bench.draw.integer(range));
    Nhwc { n, h, w, c: 4 * c }
}

fn images<T: Element>(bench: &mut Bench, judged: &mut BTreeSet<String>) {
    let (e, shape) = (size_of::<T>(), shape(bench));
    let Nhwc { n, h, w, c } = shape;
    let (count, pooled, averages) = (n * h * w * c, n * (h / 2) * (w / 2) * c, n * 2 * 2 * c);
    let x = normals(&mut bench.draw, count);
    let x = bench.elements::<T>(&x);
    let windows = n * (h - 1) * (w - 1) * c * 4;
    let [y, means, gathered] = [pooled, averages, windows].map(|count| bench.output::<T>(count));
    let choices = bench.output::<u8>(pooled);
    let (x, y, means, choices) = (x.at(), y.at(), means.at(), choices.at());
    let gathered = gathered.at();

    moves!(bench, judged, windows(T::TYPE, shape, 2, x, gathered) =>
        windows[T]: e * windows, 0, e * windows);
    moves!(bench, judged, max_pool_forward(T::TYPE, shape, x, y, choices) =>
        max_pool_forward[T]: 4 * e * pooled, 0, (e + 1) * pooled);
    moves!(bench, judged, max_pool_backward(T::TYPE, shape, y, choices, None, x) =>
        max_pool_backward[T]: (e + 1) * pooled, 0, e * count);
    moves!(bench, judged, max_pool_backward(T::TYPE, shape, y, choices, Some(y), x) =>
        max_pool_backward[T]: (2 * e + 1) * pooled, 0, e * count);
    // Of an odd edge, two parts share the line in the middle.
    let shared = n * c * ((h + h % 2) * (w + w % 2) - h * w);
    moves!(bench, judged, average_pool(T::TYPE, shape, 2, x, means) =>
        average_pool[T]: e * count, e * shared, e * averages);
}

fn layouts<From: Element, To: Element>(bench: &mut Bench, judged: &mut BTreeSet<String>) {
    let (shape, elements) = (shape(bench), [From::TYPE, To::TYPE]);
    let ([from, to], pitch) = ([size_of::<From>(), size_of::<To>()], shape.c + 4);
    let [count, padded] = [shape.c, pitch].map(|channels| shape.n * shape.h * shape.w * channels);
    let x = normals(&mut bench.draw, padded);
    let (x, y, sum) = (
        bench.elements::<From>(&x),
        bench.output::<To>(padded),
        bench.input(&[0u64]),
    );
    let (x, y, sum) = (x.at(), y.at(), sum.at());
    moves!(bench, judged, nhwc_from_nchw(elements, shape, pitch, x, y) =>
        nhwc_from_nchw[From, To]: from * count, 0, to * padded);
    moves!(bench, judged, nchw_from_nhwc(elements, shape, pitch, x, y) =>
        nchw_from_nhwc[From, To]: from * count, 0, to * count);
    let blocks = threads(count) / 256;
    moves!(bench, judged, fold_nhwc(From::TYPE, shape, pitch, x, sum) =>
        fold_nhwc[From]: from * count, 8 * blocks, 8 * blocks);
}

fn input<T: Element>(bench: &mut Bench, judged: &mut BTreeSet<String>) {
    let (e, shape) = (size_of::<T>(), shape(bench));
    let pixels = shape.n * shape.h * shape.w;
    let image = bytes(&mut bench.draw, 3 * pixels);
    let (image, flips) = (bench.input(&image), bench.input(&vec![1u8; shape.n]));
    let colours = bench.input(&vec![1f32; 3 * shape.n]);
    let out = bench.output::<T>(INPUT_CHANNELS * pixels);
    let (inputs, out) = ([image.at(), flips.at(), colours.at()], out.at());
    let map = Preprocess::subtract_mean([1.0; 3]);
    // Every pixel asks for its image's flip and colour.
    moves!(bench, judged, finish_input(T::TYPE, shape, &map, inputs, out) =>
        finish_input[T]: 3 * pixels, 13 * pixels, 8 * e * pixels);
}

fn samples<T: Element>(bench: &mut Bench, judged: &mut BTreeSet<String>) {
    let (rows, columns) = (bench.draw.integer(2..=40), 4 * bench.draw.integer(1..=40));
    let (e, n) = (size_of::<T>(), rows * columns);
    let shape = Rows {
        rows,
        channels: columns,
    };
    let values = normals(&mut bench.draw, n);
    let [x, y, z] = [0; 3].map(|_| bench.elements::<T>(&values));
    let (x, y, z) = (x.at(), y.at(), z.at());

    // With a tile of 1024 elements go its edges.
    moves!(bench, judged, lrn_forward(T::TYPE, shape, x, y) =>
        lrn_forward[T]: e * n + e * n * 4 / 1024, 0, e * n);
    moves!(bench, judged, lrn_backward(T::TYPE, shape, x, y, z, true) =>
        lrn_backward[T]: 2 * e * n + 2 * e * n * 6 / 1024, 0, e * n);

    let params = bench.input(&[1u64, 2, 3, 4]);
    let dropout = Dropout {
        p: 0.3,
        layer: 1,
        params: params.at(),
    };
    // Of one pixel, four neighbours share a draw; every draw asks for seed and position.
    for (h, draws) in [(1, n / 4), (2, n)] {
        let [n, h, w, c] = [rows, h, 1, columns / h];
        let (shape, n) = (Nhwc { n, h, w, c }, rows * columns);
        moves!(bench, judged, dropout_forward(T::TYPE, shape, dropout, x, y) =>
            dropout_forward[T]: e * n, 16 * draws, e * n);
        moves!(bench, judged, dropout_backward(T::TYPE, shape, dropout, x, y) =>
            dropout_backward[T]: e * n, 16 * draws, e * n);
    }

    let (labels, posteriors) = (bench.input(&vec![1u32; rows]), bench.input(&values));
    let (losses, ranks) = (bench.output::<f32>(rows), bench.output::<u32>(rows));
    let (labels, y) = (labels.at(), posteriors.at());
    let outputs = [y, losses.at(), ranks.at()];
    // The scores twice more, and every thread of a block asks for the label and its score.
    moves!(bench, judged, softmax_cross_entropy_forward(T::TYPE, rows, columns, x, labels, outputs) =>
        softmax_cross_entropy_forward[T]: e * n + 4 * rows, 2 * e * n + (4 + e) * 256 * rows, 4 * n + 8 * rows);
    moves!(bench, judged, softmax_cross_entropy_backward(T::TYPE, rows, columns, y, labels, z) =>
        softmax_cross_entropy_backward[T]: 4 * n, 4 * n, e * n);
}

fn sums<T: Element>(bench: &mut Bench, judged: &mut BTreeSet<String>) {
    let (rows, c) = (bench.draw.integer(60..=400), 4 * bench.draw.integer(1..=15));
    let (e, n, shape) = (size_of::<T>(), rows * c, Rows { rows, channels: c });
    let x = normals(&mut bench.draw, n);
    let [x, dy] = [0; 2].map(|_| bench.elements::<T>(&x));
    let vectors = [0; 7].map(|_| bench.input(&vec![1f32; c]));
    let parts = column_sum_bytes(rows, c, 1);
    let scratch = bench.output::<f64>(2 * parts / 8 + c);
    let (x, dy, scratch) = (x.at(), dy.at(), scratch.at());
    let [mean, rest, inverse, gamma, beta, one, two] = vectors.each_ref().map(|view| view.at());
    let norm = BatchNorm {
        element: T::TYPE,
        x,
        mean,
        rest,
        inverse,
        gamma,
        beta,
        y: x,
    };
    moves!(bench, judged, bias_gradient(T::TYPE, shape, x, scratch, one) =>
        bias_gradient_parts[T]: e * n, 0, parts; bias_gradient: parts, 0, 4 * c);
    moves!(bench, judged, batch_norm_evaluation(shape, norm, [one, two], false) =>
        batch_norm_evaluation: 8 * c, 0, 12 * c; batch_norm_forward[T]: e * n, 20 * n, e * n);
    moves!(bench, judged, batch_norm_forward(shape, norm, [one, two], scratch, false) =>
        batch_norm_mean_parts[T]: e * n, 0, parts;
        batch_norm_mean: parts, 0, 12 * c;
        batch_norm_variance_parts[T]: e * n, 4 * n, parts;
        batch_norm_variance: parts + 4 * c, 0, 8 * c;
        batch_norm_forward[T]: e * n, 20 * n, e * n);
    moves!(bench, judged, batch_norm_backward(shape, norm, dy, [one, two], Some(dy), scratch) =>
        batch_norm_backward_parts[T]: 2 * e * n, 4 * n, 2 * parts;
        batch_norm_backward_sums: 2 * parts + 8 * c, 0, 16 * c;
        batch_norm_backward[T]: 2 * e * n, 20 * n, e * n);
}
