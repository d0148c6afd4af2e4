//! Kernels that know rows, columns and channels: pooling, layouts, folds of a tensor, inputs, means.

use verydeep::backend::cuda::launch::{INPUT_CHANNELS, Nhwc};
use verydeep::backend::fold_element;
use verydeep::data::preprocess::{ChannelOrder, Preprocess};

use super::device::{Bench, launch};
use super::element::{Bf16, Element, held};
use super::numbers::{bytes, equals, normals, numbers};

/// `judge` on small shapes around every edge, and on random ones.
fn on_shapes(bench: &mut Bench, mut judge: impl FnMut(&mut Bench, Nhwc, &str)) {
    let mut shapes = vec![
        (0, 2, 2, 4),
        (1, 1, 1, 1),
        (1, 1, 7, 3),
        (3, 5, 1, 4),
        (2, 2, 2, 33),
        (1, 33, 3, 32),
        (1, 8, 8, 129),
    ];
    let draw = &mut bench.draw;
    let mut random = |quantum: usize| {
        let [n, h, w] = [3, 17, 17].map(|most| draw.integer(1..=most));
        (n, h, w, quantum * draw.integer(1..=64 / quantum))
    };
    shapes.extend([random(1), random(1), random(4), random(4)]);
    for (n, h, w, c) in shapes {
        let shape = Nhwc { n, h, w, c };
        bench.everywhere(|bench| judge(bench, shape, &format!("{shape:?}")));
    }
}

fn len(shape: Nhwc) -> usize {
    shape.n * shape.h * shape.w * shape.c
}

/// The index of element (image, row, column, channel).
fn index(shape: Nhwc, [n, row, column, c]: [usize; 4]) -> usize {
    ((n * shape.h + row) * shape.w + column) * shape.c + c
}

/// Maxima and choices, the first of equals, NaN as the largest; then the gradient with and without a mask.
pub(crate) fn max_pool<T: Element>(bench: &mut Bench) {
    on_shapes(bench, |bench, shape, what| {
        let pooled = Nhwc {
            h: shape.h / 2,
            w: shape.w / 2,
            ..shape
        };
        let [x, dy] = [len(shape), len(pooled)].map(|count| held::<T>(equals(&mut bench.draw, count)));
        let (mut maxima, mut choices) = (vec![0.0; dy.len()], vec![0; dy.len()]);
        let (mut dx, mut masked) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        for i in 0..dy.len() {
            let (pixel, c) = (i / pooled.c, i % pooled.c);
            let (n, row, column) = (
                pixel / pooled.w / pooled.h,
                pixel / pooled.w % pooled.h,
                pixel % pooled.w,
            );
            let window = [0, 1, 2, 3].map(|e| index(shape, [n, 2 * row + e / 2, 2 * column + e % 2, c]));
            let mut best = 0;
            for e in 1..4 {
                let (value, most) = (x[window[e]], x[window[best]]);
                if value > most || (value.is_nan() && !most.is_nan()) {
                    best = e;
                }
            }
            (maxima[i], choices[i]) = (x[window[best]], best as u8);
            dx[window[best]] = dy[i];
            masked[window[best]] = if maxima[i] > 0.0 { dy[i] } else { 0.0 };
        }
        let (from, to) = (bench.elements::<T>(&x), bench.output::<T>(dy.len()));
        let chosen = bench.output(dy.len());
        launch!(
            bench,
            max_pool_forward(T::TYPE, shape, from.at(), to.at(), chosen.at())
        );
        to.rounds(&maxima, what);
        chosen.holds(&choices, what);
        from.unchanged(what);

        let [gradient, y] = [&dy, &maxima].map(|values| bench.elements::<T>(values));
        let chosen = bench.input(&choices);
        for (mask, expected) in [(None, &dx), (Some(y.at()), &masked)] {
            let (to, dy, choices) = (bench.output::<T>(x.len()), gradient.at(), chosen.at());
            launch!(
                bench,
                max_pool_backward(T::TYPE, shape, dy, choices, mask, to.at())
            );
            to.rounds(expected, what);
        }
        gradient.unchanged(what);
        chosen.unchanged(what);
        y.unchanged(what);
    });
}

/// Both ways between (N, C, plane) and (N, plane, pitch), and the fold of the second by the index of the first.
pub(crate) fn layouts(bench: &mut Bench) {
    layouts_of::<f32, f32>(bench);
    layouts_of::<f32, Bf16>(bench);
    layouts_of::<Bf16, f32>(bench);
    layouts_of::<Bf16, Bf16>(bench);
}

fn layouts_of<From: Element, To: Element>(bench: &mut Bench) {
    let elements = [From::TYPE, To::TYPE];
    on_shapes(bench, |bench, shape, what| {
        let pitch = match bench.draw.integer(0..=2) {
            0 => shape.c,
            1 => shape.c.next_multiple_of(8),
            _ => shape.c + bench.draw.integer(1..=40),
        };
        let what = &format!("{what}, pitch {pitch}, {elements:?}");
        let (plane, pixels) = (shape.h * shape.w, shape.n * shape.h * shape.w);
        let outside = held::<From>(numbers(&mut bench.draw, len(shape)));
        // Channels innermost, between them what no kernel may count.
        let mut inside = vec![0.0; pixels * pitch];
        for (i, &x) in outside.iter().enumerate() {
            let (n, c, pixel) = (i / plane / shape.c, i / plane % shape.c, i % plane);
            inside[(n * plane + pixel) * pitch + c] = x;
        }
        let (from, to) = (bench.elements::<From>(&outside), bench.output::<To>(inside.len()));
        launch!(bench, nhwc_from_nchw(elements, shape, pitch, from.at(), to.at()));
        to.rounds(&inside, what);
        from.unchanged(what);

        for (i, x) in inside
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| i % pitch >= shape.c)
        {
            *x = i as f32;
        }
        let (from, to) = (bench.elements::<From>(&inside), bench.output::<To>(outside.len()));
        launch!(bench, nchw_from_nhwc(elements, shape, pitch, from.at(), to.at()));
        to.rounds(&outside, what);

        let before = bench.draw.bits();
        let elements = outside.iter().enumerate().map(|(i, &x)| fold_element(i, x));
        let expected = elements.fold(before, u64::wrapping_add);
        let sum = bench.input(&[before]);
        launch!(bench, fold_nhwc(From::TYPE, shape, pitch, from.at(), sum.at()));
        sum.holds(&[expected], what);
        from.unchanged(what);
    });
}

/// `fma(pixel + colour, scale, shift)`, mirrored where flipped, in the order of the channels, then zeros.
pub(crate) fn finish_input<T: Element>(bench: &mut Bench) {
    on_shapes(bench, |bench, shape, what| {
        let numbers = normals(&mut bench.draw, 6);
        let preprocess = Preprocess {
            channels: [ChannelOrder::Rgb, ChannelOrder::Bgr][bench.draw.integer(0..=1)],
            scale: std::array::from_fn(|i| numbers[i]),
            shift: std::array::from_fn(|i| 100.0 * numbers[3 + i]),
            ..Preprocess::subtract_mean([0.0; 3])
        };
        let image = shape.h * shape.w;
        let pixels = bytes(&mut bench.draw, shape.n * image * 3);
        // Any other number than 0 mirrors.
        let flips: Vec<u8> = bytes(&mut bench.draw, shape.n).iter().map(|x| x % 3).collect();
        let colours = normals(&mut bench.draw, shape.n * 3);
        let mut expected = vec![0.0; shape.n * image * INPUT_CHANNELS];
        for (i, out) in expected.chunks_exact_mut(INPUT_CHANNELS).enumerate() {
            let (n, column) = (i / image, i % shape.w);
            let from = if flips[n] == 0 {
                column
            } else {
                shape.w - 1 - column
            };
            for (c, out) in out[..3].iter_mut().enumerate() {
                let rgb = preprocess.channel_of(c);
                let pixel = pixels[(i - column + from) * 3 + rgb];
                let sum = f32::from(pixel) + colours[n * 3 + rgb];
                *out = sum.mul_add(preprocess.scale[c], preprocess.shift[c]);
            }
        }
        let what = &format!("{what}, {:?}", preprocess.channels);
        let [pixels, flips] = [&pixels, &flips].map(|values| bench.input(values));
        let (colours, to) = (bench.input(&colours), bench.output::<T>(expected.len()));
        let inputs = [pixels.at(), flips.at(), colours.at()];
        launch!(bench, finish_input(T::TYPE, shape, &preprocess, inputs, to.at()));
        to.rounds(&expected, what);
        pixels.unchanged(what);
        flips.unchanged(what);
        colours.unchanged(what);
    });
}

/// Every window, its channels outermost.
pub(crate) fn windows<T: Element>(bench: &mut Bench) {
    on_shapes(bench, |bench, shape, what| {
        let side = bench.draw.integer(1..=shape.h.min(shape.w).min(7));
        let what = &format!("{what}, side {side}");
        let x = held::<T>(numbers(&mut bench.draw, len(shape)));
        let mut expected = Vec::new();
        for n in 0..shape.n {
            for (i, j) in (0..=shape.h - side).flat_map(|i| (0..=shape.w - side).map(move |j| (i, j))) {
                for c in 0..shape.c {
                    let taps = (0..side * side).map(|tap| [n, i + tap / side, j + tap % side, c]);
                    expected.extend(taps.map(|at| x[index(shape, at)]));
                }
            }
        }
        let (from, to) = (bench.elements::<T>(&x), bench.output::<T>(expected.len()));
        launch!(bench, windows(T::TYPE, shape, side, from.at(), to.at()));
        to.rounds(&expected, what);
        from.unchanged(what);
    });
}

/// Rows and columns of part (i, j) of side x side, as PyTorch defines them.
fn part(shape: Nhwc, side: usize, (i, j): (usize, usize)) -> [std::ops::Range<usize>; 2] {
    [(i, shape.h), (j, shape.w)].map(|(i, edge)| i * edge / side..((i + 1) * edge).div_ceil(side))
}

/// Means over the parts of a map, added up row by row in f64; of one part, of few, and of more than there are pixels.
pub(crate) fn average_pool<T: Element>(bench: &mut Bench) {
    on_shapes(bench, |bench, shape, what| {
        for side in [1, 2, 7, bench.draw.integer(3..=9)] {
            let what = &format!("{what}, side {side}");
            let x = held::<T>(numbers(&mut bench.draw, len(shape)));
            let mean = |place: usize| {
                let (c, pixel) = (place % shape.c, place / shape.c);
                let (n, i, j) = (pixel / side / side, pixel / side % side, pixel % side);
                let [rows, columns] = part(shape, side, (i, j));
                let pixels = (rows.len() * columns.len()) as f64;
                let taps = rows.flat_map(|row| columns.clone().map(move |column| [n, row, column, c]));
                let sum = taps.fold(0.0, |sum, at| sum + f64::from(x[index(shape, at)]));
                (sum / pixels) as f32
            };
            let expected: Vec<f32> = (0..shape.n * side * side * shape.c).map(mean).collect();
            let (from, to) = (bench.elements::<T>(&x), bench.output::<T>(expected.len()));
            launch!(bench, average_pool(T::TYPE, shape, side, from.at(), to.at()));
            to.rounds(&expected, what);
            from.unchanged(what);
        }
    });
}
