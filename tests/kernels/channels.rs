//! Kernels over the channels of a pixel or the classes of a sample: LRN, soft-max and loss.

use verydeep::backend::cuda::launch::Rows;
use verydeep::network::lrn::{ALPHA, BETA, K, N};

use super::device::{Bench, launch};
use super::element::{Element, held};
use super::numbers::{equals, numbers};

/// `judge` on shapes around tiles and chunks of 1024 elements, on random ones, and on `more`.
fn on_rows(
    bench: &mut Bench,
    more: &[(usize, usize)],
    mut judge: impl FnMut(&mut Bench, usize, usize, &str),
) {
    let mut shapes = vec![(0, 3), (1, 1), (5, 2), (7, 3), (9, 129), (33, 64), (1, 1029)];
    shapes.extend([0; 2].map(|_| (bench.draw.integer(1..=40), bench.draw.integer(1..=200))));
    shapes.extend(more);
    for (rows, columns) in shapes {
        let what = format!("{rows} x {columns}");
        bench.everywhere(|bench| judge(bench, rows, columns, &what));
    }
}

/// `x * d^-0.75`, `d = fma(alpha, sum of squares, k)`; the gradient with and without the mask.
pub(crate) fn lrn<T: Element>(bench: &mut Bench) {
    on_rows(
        bench,
        &[(2049, 1), (341, 3), (2900, 3)],
        |bench, pixels, channels, what| {
            let count = pixels * channels;
            let [x, dy] = [0; 2].map(|_| held::<T>(numbers(&mut bench.draw, count)));
            let window = |i: usize| {
                let (first, c) = (i - i % channels, i % channels);
                first + c.saturating_sub(N / 2)..first + channels.min(c + N / 2 + 1)
            };
            let denominator =
                |i: usize| ALPHA.mul_add(window(i).fold(0.0, |sum, j| x[j].mul_add(x[j], sum)), K);
            let power = |d: f32| 1.0 / (d.sqrt() * d.sqrt().sqrt());
            let d: Vec<f32> = (0..count).map(denominator).collect();
            let y: Vec<f32> = (0..count).map(|i| x[i] * power(d[i])).collect();
            let term = |j: usize| dy[j] * x[j] * (power(d[j]) / d[j]);
            let gradient = |i: usize| {
                let sum = window(i).fold(0.0, |sum, j| sum + term(j));
                (-2.0 * ALPHA * BETA * x[i]).mul_add(sum, dy[i] * power(d[i]))
            };
            let dx: Vec<f32> = (0..count).map(gradient).collect();
            let masked: Vec<f32> = dx
                .iter()
                .zip(&x)
                .map(|(&d, &x)| if x > 0.0 { d } else { 0.0 })
                .collect();

            let shape = Rows {
                rows: pixels,
                channels,
            };
            let (from, to) = (bench.elements::<T>(&x), bench.output::<T>(count));
            launch!(bench, lrn_forward(T::TYPE, shape, from.at(), to.at()));
            to.rounds(&y, what);
            let gradient = bench.elements::<T>(&dy);
            for (mask, expected) in [(false, &dx), (true, &masked)] {
                let to = bench.output::<T>(count);
                let (x, dy) = (from.at(), gradient.at());
                launch!(bench, lrn_backward(T::TYPE, shape, x, dy, to.at(), mask));
                to.rounds(expected, what);
            }
            from.unchanged(what);
            gradient.unchanged(what);
        },
    );
}

/// Posteriors, losses and ranks with the exponentials and logarithms of the crate libm; then the gradient.
pub(crate) fn softmax_cross_entropy<T: Element>(bench: &mut Bench) {
    on_rows(bench, &[(1, 2100)], |bench, batch, classes, what| {
        let count = batch * classes;
        let draw = &mut bench.draw;
        let x = held::<T>(match draw.integer(0..=2) {
            0 => numbers(draw, count),
            1 => equals(draw, count),
            _ => draw.normals(count).into_iter().map(|x| 20.0 * x as f32).collect(),
        });
        let labels: Vec<u32> = (0..batch).map(|_| draw.integer(0..=classes - 1) as u32).collect();
        let (mut posteriors, mut losses, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
        for (x, &label) in x.chunks_exact(classes).zip(&labels) {
            let label = label as usize;
            let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let exponentials: Vec<f64> = x.iter().map(|&x| libm::exp(f64::from(x) - max)).collect();
            let sum = exponentials.iter().fold(0.0, |sum, x| sum + x);
            posteriors.extend(exponentials.iter().map(|x| (x / sum) as f32));
            losses.push((libm::log(sum) - (f64::from(x[label]) - max)) as f32);
            let after = |k: usize| x[k] < x[label] || (x[k] == x[label] && k >= label) || k == label;
            ranks.push((0..classes).filter(|&k| !after(k)).count() as u32);
        }
        let is_label = |i: usize| i % classes == labels[i / classes] as usize;
        let of = |(i, &y): (usize, &f32)| if is_label(i) { y - 1.0 } else { y };
        let dx: Vec<f32> = posteriors.iter().enumerate().map(of).collect();

        let (scores, labels) = (bench.elements::<T>(&x), bench.input(&labels));
        let (y, loss, rank) = (bench.output(count), bench.output(batch), bench.output(batch));
        let outputs = [y.at(), loss.at(), rank.at()];
        let (x, label) = (scores.at(), labels.at());
        launch!(
            bench,
            softmax_cross_entropy_forward(T::TYPE, batch, classes, x, label, outputs)
        );
        y.holds(&posteriors, what);
        loss.holds(&losses, what);
        rank.holds(&ranks, what);
        scores.unchanged(what);

        let (y, to) = (bench.input(&posteriors), bench.output::<T>(count));
        let from = y.at();
        launch!(
            bench,
            softmax_cross_entropy_backward(T::TYPE, batch, classes, from, label, to.at())
        );
        to.rounds(&dx, what);
        // In place, where both are f32.
        let (both, f32) = (bench.input(&posteriors), f32::TYPE);
        let at = both.at();
        launch!(
            bench,
            softmax_cross_entropy_backward(f32, batch, classes, at, label, at)
        );
        both.holds(&dx, what);
        y.unchanged(what);
        labels.unchanged(what);
    });
}
