//! Layers of tiny shapes against the formulas of their documentation.

use super::*;
use crate::network::Builder;
use crate::plan::DataGradient;
use crate::shape::Chw;

/// A single layer after an input of `shape`, with a second one behind it so that it has a data gradient to
/// give.
fn two_convolutions(kernel: usize, channels: (usize, usize), side: (usize, usize)) -> Network {
    let mut net = Builder::new(Chw::new(3, side.0, side.1));
    net.conv("first".into(), 3, channels.0);
    net.relu("relu".into());
    net.conv("second".into(), kernel, channels.1);
    net.linear("scores".into(), 4);
    net.finish()
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_within(1e-6, found, expected, what);
}

fn assert_within(tolerance: f64, found: &[f32], expected: &[f64], what: &str) {
    let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
    let error = found
        .iter()
        .zip(expected)
        .map(|(&f, e)| (f64::from(f) - e).powi(2))
        .sum::<f64>()
        .sqrt();
    assert!(error <= tolerance * norm + 1e-12, "{what}: {error} of {norm}");
}

#[test]
fn direct_convolutions_are_their_definition() {
    convolutions_are_their_definition(ConvAlgorithm::Direct, 1e-6);
}

#[test]
fn winograd_convolutions_are_their_definition() {
    convolutions_are_their_definition(ConvAlgorithm::Winograd4, 3e-6);
    convolutions_are_their_definition(ConvAlgorithm::Winograd2, 2e-6);
}

fn convolutions_are_their_definition(algorithm: ConvAlgorithm, tolerance: f64) {
    let cases = [
        (3, (2, 5), (5, 7)),
        (1, (40, 3), (4, 4)),
        (3, (70, 33), (1, 1)),
        (3, (17, 100), (20, 19)),
        (5, (3, 4), (6, 6)),
    ];
    for (kernel, (c, k), (h, w)) in cases {
        let network = two_convolutions(kernel, (c, k), (h, w));
        let cpu = Cpu::new(2).unwrap().with_convolution(algorithm);
        let mut bench = Bench::new(&network, 3, Mode::Training, cpu);
        let (batch, plane) = (3, h * w);
        let x: Vec<f32> = noise(batch * c * plane, 1).iter().map(|x| x.max(0.0)).collect();
        let dy = noise(batch * k * plane, 2);
        bench.write(1, Tensor::Value, &x);
        bench.run(2, Pass::Forward).unwrap();
        let y_found = bench.tensor(2, Tensor::Value);
        bench.write(2, Tensor::Gradient, &dy);
        assert_eq!(bench.plan.steps[2].data_gradient, DataGradient::Masked);
        bench.run(2, Pass::Backward).unwrap();

        let expected = convolution(&bench, kernel, &x, &dy);
        let parameters = bench.plan.parameters_of(2).to_vec();
        let gradient = bench.gradient.as_slice();
        let dx = bench.tensor(1, Tensor::Gradient);
        assert_within(tolerance, &y_found, &expected.y, "y");
        assert_within(tolerance, &dx, &expected.dx, "dx");
        assert_within(tolerance, &gradient[parameters[0].range()], &expected.dw, "dw");
        assert_within(tolerance, &gradient[parameters[1].range()], &expected.db, "db");
    }
}

/// What a convolution and its gradients should be.
struct Gradients {
    y: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
    db: Vec<f64>,
}

/// Step 2 of the network as it is written down, in f64; dx is masked by x.
fn convolution(bench: &Bench, kernel: usize, x: &[f32], dy: &[f32]) -> Gradients {
    let step = &bench.plan.steps[2];
    let (c, k, h, w) = (step.input.c, step.output.c, step.input.h, step.input.w);
    let (plane, pad) = (h * w, kernel / 2);
    let parameters = bench.plan.parameters_of(2);
    let weights = &bench.weights.as_slice()[parameters[0].range()];
    let bias = &bench.weights.as_slice()[parameters[1].range()];
    let mut found = Gradients {
        y: vec![0.0; dy.len()],
        dx: vec![0.0; x.len()],
        dw: vec![0.0; weights.len()],
        db: vec![0.0; k],
    };
    for (at, &d) in dy.iter().enumerate() {
        let (n, o, i, j) = (at / plane / k, at / plane % k, at % plane / w, at % w);
        let d = f64::from(d);
        let mut sum = f64::from(bias[o]);
        found.db[o] += d;
        for (r, s) in (0..kernel).flat_map(|r| (0..kernel).map(move |s| (r, s))) {
            let (Some(i), Some(j)) = ((i + r).checked_sub(pad), (j + s).checked_sub(pad)) else {
                continue;
            };
            if i >= h || j >= w {
                continue;
            }
            for ch in 0..c {
                let from = (n * c + ch) * plane + i * w + j;
                let weight = ((o * c + ch) * kernel + r) * kernel + s;
                sum += f64::from(weights[weight]) * f64::from(x[from]);
                found.dw[weight] += d * f64::from(x[from]);
                found.dx[from] += f64::from(weights[weight]) * d;
            }
        }
        found.y[at] = sum;
    }
    for (dx, &x) in found.dx.iter_mut().zip(x) {
        *dx = if x > 0.0 { *dx } else { 0.0 };
    }
    found
}

/// A value that is not finite reaches every output that it belongs to, and none of another image.
#[test]
fn values_that_are_not_finite_propagate() {
    let (channels, side) = ((20, 18), (6, 7));
    let network = two_convolutions(3, channels, side);
    let plane = side.0 * side.1;
    for algorithm in [
        ConvAlgorithm::Winograd4,
        ConvAlgorithm::Winograd2,
        ConvAlgorithm::Direct,
    ] {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let cpu = Cpu::new(2).unwrap().with_convolution(algorithm);
            let mut bench = Bench::new(&network, 2, Mode::Training, cpu);
            let mut x = vec![1.0; 2 * channels.0 * plane];
            x[2 * plane + 3 * side.1 + 3] = value; // channel 2, row 3, column 3 of the first image
            bench.write(1, Tensor::Value, &x);
            bench.run(2, Pass::Forward).unwrap();
            let y = bench.tensor(2, Tensor::Value);
            let (first, second) = y.split_at(channels.1 * plane);
            assert!(second.iter().all(|y| y.is_finite()), "{algorithm:?}, {value}");
            for k in 0..channels.1 {
                let around = first[k * plane + 2 * side.1 + 2];
                let is_large = !around.is_finite() || around.abs() > 1e30;
                assert!(is_large, "{algorithm:?}, {value}: {around}");
            }
            bench.write(2, Tensor::Gradient, &y);
            bench.run(2, Pass::Backward).unwrap();
            let dw = &bench.gradient.as_slice()[bench.plan.parameters_of(2)[0].range()];
            assert!(dw.iter().any(|dw| !dw.is_finite()), "{algorithm:?}, {value}");
        }
    }
}

#[test]
fn fully_connected_layers_are_their_definition() {
    for (batch, inputs, outputs) in [(1, 5, 3), (8, 2100, 70), (33, 40, 130)] {
        let mut net = Builder::new(Chw::new(3, 1, 1));
        net.linear("first".into(), inputs);
        net.relu("relu".into());
        net.linear("second".into(), outputs);
        let mut bench = Bench::new(&net.finish(), batch, Mode::Training, Cpu::new(3).unwrap());
        let x: Vec<f32> = noise(batch * inputs, 1).iter().map(|x| x.max(0.0)).collect();
        let dy = noise(batch * outputs, 2);
        bench.write(1, Tensor::Value, &x);
        bench.run(2, Pass::Forward).unwrap();
        let found = bench.tensor(2, Tensor::Value);
        bench.write(2, Tensor::Gradient, &dy);
        bench.run(2, Pass::Backward).unwrap();

        let parameters = bench.plan.parameters_of(2).to_vec();
        let weights = &bench.weights.as_slice()[parameters[0].range()];
        let bias = &bench.weights.as_slice()[parameters[1].range()];
        let (mut y, mut dx) = (vec![0.0; found.len()], vec![0.0; x.len()]);
        let (mut dw, mut db) = (vec![0.0; weights.len()], vec![0.0; outputs]);
        for (n, o) in (0..batch).flat_map(|n| (0..outputs).map(move |o| (n, o))) {
            let d = f64::from(dy[n * outputs + o]);
            y[n * outputs + o] = f64::from(bias[o]);
            db[o] += d;
            for i in 0..inputs {
                let (weight, x) = (f64::from(weights[o * inputs + i]), f64::from(x[n * inputs + i]));
                y[n * outputs + o] += weight * x;
                dw[o * inputs + i] += d * x;
                dx[n * inputs + i] += if x > 0.0 { d * weight } else { 0.0 };
            }
        }
        let gradient = bench.gradient.as_slice();
        assert_close(&found, &y, "y");
        assert_close(&bench.tensor(1, Tensor::Gradient), &dx, "dx");
        assert_close(&gradient[parameters[0].range()], &dw, "dw");
        assert_close(&gradient[parameters[1].range()], &db, "db");
    }
}

#[test]
fn pooling_takes_the_first_maximum_and_lets_nan_through() {
    let mut net = Builder::new(Chw::new(3, 3, 5));
    net.conv("conv".into(), 3, 1);
    net.max_pool("pool".into()).unwrap();
    net.linear("scores".into(), 2);
    let mut bench = Bench::new(&net.finish(), 1, Mode::Training, Cpu::new(1).unwrap());
    let nan = f32::NAN;
    bench.write(
        1,
        Tensor::Value,
        &[1., 2., nan, 0., 9., 2., 2., 5., nan, 9., 9., 9., 9., 9., 9.],
    );
    bench.run(2, Pass::Forward).unwrap();
    let y = bench.tensor(2, Tensor::Value);
    assert!(y[0] == 2.0 && y[1].is_nan());
    bench.write(2, Tensor::Gradient, &[3.0, 4.0]);
    bench.run(2, Pass::Backward).unwrap();
    let dx = [0., 3., 4., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.];
    assert_eq!(bench.tensor(1, Tensor::Gradient), dx);
}

#[test]
fn batch_norm_normalises_and_reports_its_statistics() {
    let mut net = Builder::new(Chw::new(3, 4, 4));
    net.conv("conv".into(), 3, 6);
    net.batch_norm("bn".into());
    net.linear("scores".into(), 2);
    let network = net.finish();
    let mut bench = Bench::new(&network, 3, Mode::Training, Cpu::new(2).unwrap());
    bench.run(0, Pass::Forward).unwrap();
    let x: Vec<f32> = noise(3 * 96, 4).iter().map(|x| 3.0 * x + 5.0).collect();
    bench.write(1, Tensor::Value, &x);
    bench.run(2, Pass::Forward).unwrap();
    let y = bench.tensor(2, Tensor::Value);
    bench.write(2, Tensor::Gradient, &[0.0; 288]);
    bench.run(2, Pass::Backward).unwrap();
    let arrays = bench.plan.parameters_of(2).to_vec();
    for c in 0..6 {
        let channel = |values: &[f32]| -> Vec<f64> {
            (0..3)
                .flat_map(|n| {
                    values[(n * 6 + c) * 16..][..16]
                        .iter()
                        .map(|&v| f64::from(v))
                        .collect::<Vec<_>>()
                })
                .collect()
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / 48.0;
        let x = channel(&x);
        let squares: f64 = x.iter().map(|v| (v - mean(&x)).powi(2)).sum();
        let at = |flat: &Buffer, array: usize| f64::from(flat.as_slice()[arrays[array].offset + c]);
        assert!((at(&bench.gradient, 2) - mean(&x)).abs() < 1e-5);
        assert!((at(&bench.gradient, 3) - squares / 47.0).abs() < 1e-5);
        let y = channel(&y);
        assert!((mean(&y) - at(&bench.weights, 1)).abs() < 1e-5);
        let spread = y.iter().map(|v| (v - mean(&y)).powi(2)).sum::<f64>() / 48.0;
        assert!((spread.sqrt() - at(&bench.weights, 0)).abs() < 1e-4);
    }
}

#[test]
fn dropout_follows_the_stream() {
    let mut net = Builder::new(Chw::new(3, 1, 1));
    net.linear("fc".into(), 3001);
    net.dropout("drop".into(), 0.25);
    net.linear("scores".into(), 2);
    let mut bench = Bench::new(&net.finish(), 2, Mode::Training, Cpu::new(2).unwrap());
    let ones = vec![1.0; 6002];
    bench.write(1, Tensor::Value, &ones);
    bench.run(2, Pass::Forward).unwrap();
    let y = bench.tensor(2, Tensor::Value);
    for n in 0..2 {
        let mut stream = Stream::new(PARAMS.seed, PARAMS.position + n as u64, Purpose::Dropout, 1);
        for y in &y[n * 3001..][..3001] {
            let kept = stream.next_u32() >= 1 << 30;
            assert_eq!(*y, if kept { 1.0 / 0.75 } else { 0.0 });
        }
    }
    bench.write(2, Tensor::Gradient, &ones);
    bench.run(2, Pass::Backward).unwrap();
    assert_eq!(bench.tensor(1, Tensor::Gradient), y);
}
