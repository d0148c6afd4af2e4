//! Sums over the rows of a matrix: gradients of biases, and batch norm. Everything has the bits that the order of
//! columns.cuh gives, wherever the views lie and whatever the grid; and that order is a good one: runs of f32 addends
//! are so short that a sum is as near to the exact one as 64 roundings allow.

use verydeep::backend::cuda::launch::{BatchNorm, Rows, column_sum_bytes};
use verydeep::network::batch_norm::EPSILON;

use super::columns::{Cut, RUN};
use super::device::{Bench, View, launch};
use super::element::{Element, Stored, held};
use super::numbers::{normals, numbers};

/// The additions of a run and what an addend itself takes, half a unit in the last place each.
const ROUNDINGS: f64 = (RUN + 6) as f64 / (1u64 << 24) as f64;

/// `judge` on shapes around slices and groups of columns, and on random ones.
fn on_rows(bench: &mut Bench, least: usize, mut judge: impl FnMut(&mut Bench, Rows, &str)) {
    let mut shapes = vec![
        (0, 5),
        (1, 1),
        (2, 3),
        (64, 32),
        (65, 33),
        (129, 36),
        (513, 5),
        (2500, 4),
        (7, 1029),
    ];
    shapes.push((bench.draw.integer(1..=700), bench.draw.integer(1..=50)));
    shapes.push((bench.draw.integer(1..=300), 4 * bench.draw.integer(1..=30)));
    for (rows, channels) in shapes.into_iter().filter(|(rows, _)| *rows >= least) {
        let shape = Rows { rows, channels };
        judge(bench, shape, &format!("{shape:?}"));
    }
}

/// Of every channel the sum in the kernels' order, which must be near the exact one.
fn sums(shape: Rows, addend: impl Fn(usize) -> f32, exact: impl Fn(usize) -> f64) -> Vec<f64> {
    let cut = Cut::of(shape);
    let sums = cut.total(&cut.parts(addend));
    for (c, found) in sums.iter().enumerate() {
        let addends = (0..shape.rows).map(|row| exact(row * shape.channels + c));
        let (sum, size) = addends.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
        let error = (found - sum).abs();
        assert!(
            error <= ROUNDINGS * size,
            "{shape:?}: {found} is {error:e} from {sum}"
        );
    }
    sums
}

/// f32 of what `of` makes of each number.
fn singles(values: &[f64], of: impl Fn(f64) -> f64) -> Vec<f32> {
    values.iter().map(|&x| of(x) as f32).collect()
}

/// Scratch for `count` sums and `more` f64 behind them.
fn scratch(bench: &mut Bench, shape: Rows, count: usize, more: usize) -> View<f64> {
    bench.output(column_sum_bytes(shape.rows, shape.channels, count) / size_of::<f64>() + more)
}

/// What scratch holds. All of it has been written.
fn written(scratch: &View<f64>, what: &str) -> Vec<f64> {
    let found = scratch.read(what);
    let left = found.iter().any(|x| x.same(f64::SENTINEL));
    assert!(!left, "{what}: scratch is not all written");
    found
}

pub(crate) fn bias_gradient<T: Element>(bench: &mut Bench) {
    on_rows(bench, 0, |bench, shape, what| {
        let dy = held::<T>(normals(&mut bench.draw, shape.rows * shape.channels));
        let sums = sums(shape, |i| dy[i], |i| dy[i].into());
        bench.everywhere(|bench| {
            let (from, to) = (bench.elements::<T>(&dy), bench.output(shape.channels));
            let scratch = scratch(bench, shape, 1, 0);
            let (dy, parts, db) = (from.at(), scratch.at(), to.at());
            launch!(bench, bias_gradient(T::TYPE, shape, dy, parts, db));
            to.holds(&singles(&sums, |sum| sum), what);
            from.unchanged(what);
            written(&scratch, what);
        });
    });
}

/// `fma(x - mean, gamma * inverse, beta - rest * gamma * inverse)`, then the ReLU if there is one.
fn normalised(x: &[f32], [mean, rest, inverse, gamma, beta]: [&[f32]; 5], relu: bool) -> Vec<f32> {
    let channels = mean.len();
    let element = |(i, x): (usize, &f32)| {
        let c = i % channels;
        let factor = gamma[c] * inverse[c];
        let y = (x - mean[c]).mul_add(factor, (-rest[c]).mul_add(factor, beta[c]));
        if relu && y < 0.0 { 0.0 } else { y }
    };
    x.iter().enumerate().map(element).collect()
}

fn inverse_deviation(variance: f64) -> f64 {
    1.0 / (variance + f64::from(EPSILON)).sqrt()
}

/// Mean and its rest, inverse of the (biased) deviation, unbiased variance, and what becomes of x.
pub(crate) fn batch_norm_forward<T: Element>(bench: &mut Bench) {
    on_rows(bench, 1, |bench, shape, what| {
        let (count, channels, rows) = (shape.rows * shape.channels, shape.channels, shape.rows as f64);
        let shifted = normals(&mut bench.draw, count).iter().map(|x| x + 1.5).collect();
        let x = held::<T>(shifted);
        let [gamma, beta] = [0; 2].map(|_| normals(&mut bench.draw, channels));
        let totals = sums(shape, |i| x[i], |i| x[i].into());
        let means = singles(&totals, |sum| sum / rows);
        let rests = singles(&totals, |sum| sum / rows - f64::from((sum / rows) as f32));
        let centred = |i: usize| x[i] - means[i % channels];
        let exact = |i: usize| (f64::from(x[i]) - f64::from(means[i % channels])).powi(2);
        let mut squares = sums(shape, |i| centred(i) * centred(i), exact);
        for (sum, &rest) in squares.iter_mut().zip(&rests) {
            *sum = (*sum - rows * f64::from(rest) * f64::from(rest)).max(0.0);
        }
        let inverses = singles(&squares, |sum| inverse_deviation(sum / rows));
        let variances = singles(&squares, |sum| sum / (rows - 1.0).max(1.0));
        bench.everywhere(|bench| {
            let [relu, in_place] = [0; 2].map(|_| bench.draw.integer(0..=1) == 1);
            let what = &format!("{what}, relu {relu}, in place {in_place}");
            let (input, output) = (bench.elements::<T>(&x), bench.output(count));
            let [g, b] = [&gamma, &beta].map(|values| bench.input(values));
            let [mean, rest, inverse, mean_out, variance_out] = [0; 5].map(|_| bench.output(channels));
            let scratch = scratch(bench, shape, 1, 0);
            let y = if in_place { &input } else { &output };
            let norm = BatchNorm {
                element: T::TYPE,
                x: input.at(),
                mean: mean.at(),
                rest: rest.at(),
                inverse: inverse.at(),
                gamma: g.at(),
                beta: b.at(),
                y: y.at(),
            };
            let (statistics, parts) = ([mean_out.at(), variance_out.at()], scratch.at());
            launch!(bench, batch_norm_forward(shape, norm, statistics, parts, relu));
            mean.holds(&means, what);
            mean_out.holds(&means, what);
            rest.holds(&rests, what);
            inverse.holds(&inverses, what);
            variance_out.holds(&variances, what);
            let expected = normalised(&x, [&means, &rests, &inverses, &gamma, &beta], relu);
            y.rounds(&expected, what);
            written(&scratch, what);
            g.unchanged(what);
            b.unchanged(what);
            if !in_place {
                input.unchanged(what);
            }
        });
    });
}

/// The same from given statistics.
pub(crate) fn batch_norm_evaluation<T: Element>(bench: &mut Bench) {
    on_rows(bench, 0, |bench, shape, what| {
        let (count, channels) = (shape.rows * shape.channels, shape.channels);
        let x = held::<T>(numbers(&mut bench.draw, count));
        let [means, gamma, beta] = [0; 3].map(|_| normals(&mut bench.draw, channels));
        let variances = bench.draw.normals(channels);
        let variances = singles(&variances, |x| x * x);
        let inverse = |&variance: &f32| inverse_deviation(variance.into()) as f32;
        let inverses: Vec<f32> = variances.iter().map(inverse).collect();
        bench.everywhere(|bench| {
            let relu = bench.draw.integer(0..=1) == 1;
            let what = &format!("{what}, relu {relu}");
            let (input, y) = (bench.elements::<T>(&x), bench.output::<T>(count));
            let running = [&means, &variances].map(|values| bench.input(values));
            let [g, b] = [&gamma, &beta].map(|values| bench.input(values));
            let [mean, rest, inverse] = [0; 3].map(|_| bench.output(channels));
            let norm = BatchNorm {
                element: T::TYPE,
                x: input.at(),
                mean: mean.at(),
                rest: rest.at(),
                inverse: inverse.at(),
                gamma: g.at(),
                beta: b.at(),
                y: y.at(),
            };
            let statistics = [running[0].at(), running[1].at()];
            launch!(bench, batch_norm_evaluation(shape, norm, statistics, relu));
            let none = vec![0.0; channels];
            mean.holds(&means, what);
            rest.holds(&none, what);
            inverse.holds(&inverses, what);
            let expected = normalised(&x, [&means, &none, &inverses, &gamma, &beta], relu);
            y.rounds(&expected, what);
            input.unchanged(what);
            for view in [&running[0], &running[1], &g, &b] {
                view.unchanged(what);
            }
        });
    });
}

/// dgamma and dbeta, and dx of them: none, in place, or elsewhere.
pub(crate) fn batch_norm_backward<T: Element>(bench: &mut Bench) {
    on_rows(bench, 1, |bench, shape, what| {
        let (count, channels, rows) = (shape.rows * shape.channels, shape.channels, shape.rows as f64);
        let [x, dy] = [0; 2].map(|_| held::<T>(normals(&mut bench.draw, count)));
        let [mean, inverse, gamma] = [0; 3].map(|_| normals(&mut bench.draw, channels));
        // Larger than rounding leaves it, so that it shows.
        let rest: Vec<f32> = normals(&mut bench.draw, channels)
            .iter()
            .map(|x| x * 0.01)
            .collect();
        let beta = sums(shape, |i| dy[i], |i| dy[i].into());
        let exact = |i: usize| f64::from(dy[i]) * (f64::from(x[i]) - f64::from(mean[i % channels]));
        let mut moments = sums(shape, |i| dy[i] * (x[i] - mean[i % channels]), exact);
        for (c, moment) in moments.iter_mut().enumerate() {
            *moment -= f64::from(rest[c]) * beta[c];
        }
        let scaled = |of: &dyn Fn(f64, f64) -> f64| -> Vec<f32> {
            let pairs = moments.iter().zip(&inverse);
            pairs
                .map(|(&moment, &inverse)| of(moment, inverse.into()) as f32)
                .collect()
        };
        let dgammas = scaled(&|moment, inverse| moment * inverse);
        let slopes = scaled(&|moment, inverse| -(moment * inverse * inverse / rows));
        let dbetas = singles(&beta, |sum| sum);
        let levels: Vec<f32> = (0..channels)
            .map(|c| {
                let inverse = f64::from(inverse[c]);
                let slope = -(moments[c] * inverse * inverse / rows);
                (beta[c] / rows + f64::from(rest[c]) * slope) as f32
            })
            .collect();
        let differentiated = |i: usize| {
            let c = i % channels;
            gamma[c] * inverse[c] * (x[i] - mean[c]).mul_add(slopes[c], dy[i] - levels[c])
        };
        let expected: Vec<f32> = (0..count).map(differentiated).collect();
        bench.everywhere(|bench| {
            let place = bench.draw.integer(0..=2);
            let [input, gradient] = [&x, &dy].map(|values| bench.elements::<T>(values));
            let output = bench.output(count);
            let [m, r, s, g] = [&mean, &rest, &inverse, &gamma].map(|values| bench.input(values));
            let [dgamma, dbeta] = [0; 2].map(|_| bench.output(channels));
            // Behind the partial sums: level and slope, of a channel 8 bytes.
            let scratch = scratch(bench, shape, 2, channels);
            let dx = [None, Some(&gradient), Some(&output)][place];
            // Of beta and y the backward pass has no use.
            let norm = BatchNorm {
                element: T::TYPE,
                x: input.at(),
                mean: m.at(),
                rest: r.at(),
                inverse: s.at(),
                gamma: g.at(),
                beta: 0,
                y: 0,
            };
            let (dy, sums, to) = (gradient.at(), [dgamma.at(), dbeta.at()], dx.map(View::at));
            launch!(
                bench,
                batch_norm_backward(shape, norm, dy, sums, to, scratch.at())
            );
            dgamma.holds(&dgammas, what);
            dbeta.holds(&dbetas, what);
            let dx = dx.inspect(|dx| dx.rounds(&expected, what));
            if dx.is_none_or(|dx| dx.at() != dy) {
                gradient.unchanged(what);
            }
            written(&scratch, what);
            input.unchanged(what);
            for view in [&m, &r, &s, &g] {
                view.unchanged(what);
            }
        });
    });
}
