//! Small shapes against the definitions, any number of threads against one, every instruction-set path
//! against the portable one. The thorough comparison with the reference is in `tests/backend.rs`.

use super::*;
use crate::data::preprocess::Preprocess;
use crate::network::{Builder, Config, Network, Spec, init::Init};
use crate::plan::{Batch, DataGradient, Mode, Tree};
use crate::rng::{Purpose, Stream};
use crate::shape::Chw;

const PARAMS: StepParams = StepParams {
    seed: 5,
    step: 0,
    position: 1 << 33,
    learning_rate: 0.01,
};

/// `len` numbers in [-1, 1), about half of them negative.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, 0, Purpose::Synthetic, 0);
    (0..len).map(|_| (2.0 * stream.uniform() - 1.0) as f32).collect()
}

/// One plan with its memory.
struct Bench {
    cpu: Cpu,
    plan: Plan,
    arena: Buffer,
    weights: Buffer,
    gradient: Buffer,
    pixels: Vec<u8>,
    labels: Vec<u32>,
}

impl Bench {
    fn new(network: &Network, batch: usize, mode: Mode, cpu: Cpu) -> Self {
        let plan = Plan::new(network, &Preprocess::subtract_mean([0.0; 3]), batch, mode, &cpu).unwrap();
        let mut flat = vec![0.0; plan.flat_len];
        network.initialise(Init::He, 3, &mut flat);
        for bias in network.parameters.iter().filter(|p| p.dims.len() == 1) {
            for (value, noise) in flat[bias.range()].iter_mut().zip(noise(bias.len(), 9)) {
                *value += 0.1 * noise;
            }
        }
        let mut weights = cpu.allocate_parameters(plan.flat_len).unwrap();
        cpu.write_parameters(&mut weights, 0, &flat).unwrap();
        let pixels = noise(batch * network.input.len(), 1);
        Self {
            arena: cpu.allocate_arena(plan.arena_bytes).unwrap(),
            weights,
            gradient: cpu.allocate_parameters(plan.flat_len).unwrap(),
            pixels: pixels.iter().map(|x| (127.0 * (x + 1.0)) as u8).collect(),
            labels: (0..batch).map(|n| (n * 7 % network.classes) as u32).collect(),
            cpu,
            plan,
        }
    }

    fn run(&mut self, step: usize, pass: Pass) -> Result<()> {
        let flips = vec![false; self.plan.batch];
        let colours = vec![[0.0; 3]; self.plan.batch];
        let memory = Memory {
            arena: &mut self.arena,
            weights: &self.weights,
            gradient: &mut self.gradient,
            batch: Batch {
                pixels: &self.pixels,
                flips: &flips,
                colours: &colours,
                labels: &self.labels,
            },
        };
        self.cpu.run(&self.plan, step, pass, memory, &PARAMS)
    }

    /// The whole walk; folds of every value and of the gradient.
    fn walk(&mut self) -> Vec<u64> {
        let mut folds = Vec::new();
        for (step, pass) in self.plan.schedule() {
            self.run(step, pass).unwrap();
            folds.push(match pass {
                Pass::Forward => self
                    .cpu
                    .fold_tensor(&self.plan, step, Tensor::Value, &self.arena)
                    .unwrap(),
                Pass::Backward => self
                    .cpu
                    .fold_parameters(&self.gradient, 0..self.plan.flat_len)
                    .unwrap(),
            });
        }
        folds
    }

    fn tensor(&self, step: usize, tensor: Tensor) -> Vec<f32> {
        let mut values = vec![0.0; self.plan.batch * self.plan.steps[step].output.len()];
        self.cpu
            .read_tensor(&self.plan, step, tensor, &self.arena, &mut values)
            .unwrap();
        values
    }

    fn write(&mut self, step: usize, tensor: Tensor, values: &[f32]) {
        self.cpu
            .write_tensor(&self.plan, step, tensor, &mut self.arena, values)
            .unwrap();
    }
}

fn small(config: Config, batch_norm: bool) -> Network {
    let spec = Spec {
        batch_norm,
        classes: 10,
        crop: 40, // odd sizes after the third pooling
        width: 0.3,
        fc: 50,
        ..Spec::paper(config)
    };
    spec.build().unwrap()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (config, batch_norm) in [(Config::ALrn, false), (Config::C, false), (Config::A, true)] {
        let network = small(config, batch_norm);
        for isa in [Isa::Portable, Isa::best()] {
            let folds = [1, 2, 3].map(|threads| {
                let cpu = Cpu::with(threads, isa).unwrap();
                Bench::new(&network, 5, Mode::Training, cpu).walk()
            });
            assert!(
                folds[0] == folds[1] && folds[0] == folds[2],
                "{config} {batch_norm} {isa:?}"
            );
        }
    }
}

#[test]
fn paths_agree_where_nothing_is_summed() {
    let len = 3 * elementwise::CHUNK / 2 + 5;
    let network = small(Config::A, false);
    let results = [Isa::Portable, Isa::best()].map(|isa| {
        let cpu = Cpu::with(2, isa).unwrap();
        let plan = Plan::new(
            &network,
            &Preprocess::subtract_mean([0.0; 3]),
            2,
            Mode::Training,
            &cpu,
        )
        .unwrap();
        let mut buffers: Vec<Buffer> = (0..4)
            .map(|seed| {
                let mut buffer = cpu.allocate_parameters(plan.flat_len.max(len)).unwrap();
                let noise = noise(buffer.as_slice().len(), seed);
                cpu.write_parameters(&mut buffer, 0, &noise).unwrap();
                buffer
            })
            .collect();
        cpu.tree_add(&mut buffers, 3..len).unwrap();
        let rule = UpdateRule {
            momentum: 0.9,
            weight_decay: 5e-4,
            bias_decay: 0.0,
            bias_lr: 2.0,
            batch: 24,
            micro_batches: 3,
        };
        let [weights, momentum, gradient, _] = &mut buffers[..] else {
            unreachable!()
        };
        for parameter in 0..plan.parameters.len() {
            let state = State {
                weights: &mut *weights,
                momentum: &mut *momentum,
                gradient,
            };
            cpu.update(&plan, parameter, &rule, &PARAMS, state).unwrap();
        }
        [0, 1].map(|i| cpu.fold_parameters(&buffers[i], 0..plan.flat_len).unwrap())
    });
    assert_eq!(results[0], results[1]);
}

#[test]
fn tree_additions_nest_to_the_right() {
    let cpu = Cpu::new(2).unwrap();
    for slots in 1..=5 {
        let len = 40_000;
        let values: Vec<Vec<f32>> = (0..slots).map(|slot| noise(len, slot as u64)).collect();
        let mut buffers: Vec<Buffer> = values
            .iter()
            .map(|values| {
                let mut buffer = cpu.allocate_parameters(len).unwrap();
                cpu.write_parameters(&mut buffer, 0, values).unwrap();
                buffer
            })
            .collect();
        cpu.tree_add(&mut buffers, 7..len - 1).unwrap();
        for (i, &found) in buffers[0].as_slice()[..len].iter().enumerate() {
            let sum = values
                .iter()
                .rev()
                .map(|v| v[i])
                .reduce(|right, left| left + right)
                .unwrap();
            let expected = if (7..len - 1).contains(&i) {
                sum
            } else {
                values[0][i]
            };
            assert_eq!(found, expected);
        }
        assert_eq!(Tree::new(1).slots(), 1);
    }
}

#[test]
fn non_finite_values_are_found_anywhere() {
    let cpu = Cpu::new(2).unwrap();
    let mut buffer = cpu.allocate_parameters(50_000).unwrap();
    assert!(cpu.is_finite(&buffer, 0..50_000).unwrap());
    for (at, value) in [
        (0, f32::NAN),
        (49_999, f32::INFINITY),
        (20_000, f32::NEG_INFINITY),
    ] {
        cpu.write_parameters(&mut buffer, at, &[value]).unwrap();
        assert!(!cpu.is_finite(&buffer, 0..50_000).unwrap());
        assert!(cpu.is_finite(&buffer, at + 1..50_000).unwrap());
        cpu.write_parameters(&mut buffer, at, &[0.0]).unwrap();
    }
    assert_eq!(cpu.is_finite(&buffer, 0..60_000).unwrap_err().exit_code(), 3);
}

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
    let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
    let error = found
        .iter()
        .zip(expected)
        .map(|(&f, e)| (f64::from(f) - e).powi(2))
        .sum::<f64>()
        .sqrt();
    assert!(error <= 1e-6 * norm + 1e-12, "{what}: {error} of {norm}");
}

#[test]
fn convolutions_are_their_definition() {
    let cases = [
        (3, (2, 5), (5, 7)),
        (1, (40, 3), (4, 4)),
        (3, (70, 33), (1, 1)),
        (3, (17, 100), (20, 19)),
        (5, (3, 4), (6, 6)),
    ];
    for (kernel, (c, k), (h, w)) in cases {
        let network = two_convolutions(kernel, (c, k), (h, w));
        let mut bench = Bench::new(&network, 3, Mode::Training, Cpu::new(2).unwrap());
        let (batch, pad, plane) = (3, kernel / 2, h * w);
        let x: Vec<f32> = noise(batch * c * plane, 1).iter().map(|x| x.max(0.0)).collect();
        let dy = noise(batch * k * plane, 2);
        bench.write(1, Tensor::Value, &x);
        bench.run(2, Pass::Forward).unwrap();
        let y_found = bench.tensor(2, Tensor::Value);
        bench.write(2, Tensor::Gradient, &dy);
        assert_eq!(bench.plan.steps[2].data_gradient, DataGradient::Masked);
        bench.run(2, Pass::Backward).unwrap();

        let parameters = bench.plan.parameters_of(2).to_vec();
        let weights = &bench.weights.as_slice()[parameters[0].range()];
        let bias = &bench.weights.as_slice()[parameters[1].range()];
        let (mut y, mut dx) = (vec![0.0; y_found.len()], vec![0.0; x.len()]);
        let (mut dw, mut db) = (vec![0.0; weights.len()], vec![0.0; k]);
        for (at, y) in y.iter_mut().enumerate() {
            let (n, o, i, j) = (at / plane / k, at / plane % k, at % plane / w, at % w);
            *y = f64::from(bias[o]);
            db[o] += f64::from(dy[at]);
            for tap in 0..c * kernel * kernel {
                let (ch, r, s) = (tap / kernel / kernel, tap / kernel % kernel, tap % kernel);
                let (Some(i), Some(j)) = ((i + r).checked_sub(pad), (j + s).checked_sub(pad)) else {
                    continue;
                };
                if i < h && j < w {
                    let from = (n * c + ch) * plane + i * w + j;
                    let weight = o * c * kernel * kernel + tap;
                    *y += f64::from(weights[weight]) * f64::from(x[from]);
                    dw[weight] += f64::from(dy[at]) * f64::from(x[from]);
                    if x[from] > 0.0 {
                        dx[from] += f64::from(weights[weight]) * f64::from(dy[at]);
                    }
                }
            }
        }
        let gradient = bench.gradient.as_slice();
        assert_close(&y_found, &y, "y");
        assert_close(&bench.tensor(1, Tensor::Gradient), &dx, "dx");
        assert_close(&gradient[parameters[0].range()], &dw, "dw");
        assert_close(&gradient[parameters[1].range()], &db, "db");
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

#[test]
fn a_label_without_a_class_is_an_error() {
    let network = small(Config::A, false);
    let mut bench = Bench::new(&network, 2, Mode::Evaluation, Cpu::new(1).unwrap());
    bench.labels[1] = 10;
    let last = bench.plan.steps.len() - 1;
    assert_eq!(bench.run(last, Pass::Forward).unwrap_err().exit_code(), 3);
}

#[test]
fn losses_and_ranks_come_out() {
    let network = small(Config::A, false);
    let mut bench = Bench::new(&network, 3, Mode::Evaluation, Cpu::new(2).unwrap());
    let last = bench.plan.steps.len() - 1;
    bench.write(last - 1, Tensor::Value, &noise(30, 1));
    bench.run(last, Pass::Forward).unwrap();
    let posteriors = bench.tensor(last, Tensor::Value);
    let (mut losses, mut ranks) = ([0.0; 3], [0; 3]);
    bench
        .cpu
        .outcomes(&bench.plan, &bench.arena, &mut losses, &mut ranks)
        .unwrap();
    for n in 0..3 {
        let posteriors = &posteriors[n * 10..][..10];
        let truth = posteriors[bench.labels[n] as usize];
        assert!((posteriors.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((-truth.ln() - losses[n]).abs() < 1e-5 * losses[n].max(1.0));
        assert_eq!(posteriors.iter().filter(|&&p| p > truth).count() as u32, ranks[n]);
    }
}
