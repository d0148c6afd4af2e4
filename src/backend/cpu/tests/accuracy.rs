//! How much rounding Winograd's method costs: its error and that of direct sums, against sums in f64.

use std::io::Write;

use super::definitions::{Gradients, convolution};
use super::*;

/// Most that an error may be of the norm of what is computed, for every pass.
const OF_NORM: f64 = 3e-6;
/// Most that it may be of the error of direct sums, in the forward pass and the filter gradient.
const OF_DIRECT: f64 = 3.0;

#[test]
fn winograd_is_accurate() {
    let mut table = String::from("C -> K, HxW: error of winograd4 / direct of the norm; y, dx, dw\n");
    for (channels, side, batch) in [
        ((16, 16), (17, 19), 2),
        ((64, 64), (28, 28), 1),
        ((70, 33), (9, 5), 3),
        ((128, 256), (14, 14), 1),
        ((512, 512), (7, 7), 1),
    ] {
        let network = definitions::two_convolutions(3, channels, side);
        let (mut results, mut expected) = (Vec::new(), None);
        for algorithm in [ConvAlgorithm::Winograd4, ConvAlgorithm::Direct] {
            let cpu = Cpu::new(2).unwrap().with_convolution(algorithm);
            let mut bench = Bench::new(&network, batch, Mode::Training, cpu);
            let plane = side.0 * side.1;
            let x: Vec<f32> = normal(batch * channels.0 * plane, 1);
            let dy = normal(batch * channels.1 * plane, 2);
            bench.write(1, Tensor::Value, &x);
            bench.run(2, Pass::Forward).unwrap();
            let y = bench.tensor(2, Tensor::Value);
            bench.write(2, Tensor::Gradient, &dy);
            bench.run(2, Pass::Backward).unwrap();
            let dw = bench.gradient.as_slice()[bench.plan.parameters_of(2)[0].range()].to_vec();
            results.push([y, bench.tensor(1, Tensor::Gradient), dw]);
            expected.get_or_insert_with(|| convolution(&bench, 3, &x, &dy));
        }
        let Gradients { y, dx, dw, .. } = expected.unwrap();
        let errors: Vec<[f64; 2]> = [y, dx, dw]
            .iter()
            .enumerate()
            .map(|(pass, expected)| [0, 1].map(|algorithm| error(&results[algorithm][pass], expected)))
            .collect();
        let cells: Vec<String> = errors.iter().map(|[w, d]| format!("{w:.2e} / {d:.2e}")).collect();
        table += &format!("{channels:?}, {side:?}: {}\n", cells.join(", "));
        for (pass, [winograd, direct]) in errors.iter().enumerate() {
            assert!(*winograd <= OF_NORM, "{table}");
            assert!(pass == 1 || *winograd <= OF_DIRECT * direct, "{table}");
        }
    }
    writeln!(std::io::stderr(), "{table}").unwrap();
}

/// A value that is not finite reaches every output that it belongs to, and none of another image.
#[test]
fn values_that_are_not_finite_propagate() {
    let (channels, side) = ((20, 18), (6, 7));
    let network = definitions::two_convolutions(3, channels, side);
    let plane = side.0 * side.1;
    for algorithm in [ConvAlgorithm::Winograd4, ConvAlgorithm::Direct] {
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

/// Standard normal numbers.
fn normal(len: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, 0, Purpose::Synthetic, 0);
    (0..len).map(|_| stream.normal() as f32).collect()
}

/// The norm of the difference, of the norm of what is expected.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let difference = squares(&mut found.iter().zip(expected).map(|(&f, e)| f64::from(f) - e));
    (difference / squares(&mut expected.iter().copied())).sqrt()
}
