//! Small shapes against the definitions, any number of threads against one, every instruction-set path
//! against the portable one. The thorough comparison with the reference is in `tests/backend.rs`.

mod definitions;

use super::*;
use crate::data::preprocess::{Flip, Preprocess};
use crate::network::{Config, Network, Spec, init::Init};
use crate::plan::{Batch, Mode};
use crate::rng::{Purpose, Stream};

const PARAMS: StepParams = StepParams {
    seed: 5,
    step: 0,
    position: 1 << 33,
    learning_rate: 0.01,
};

/// Both sizes of Winograd's tiles, and direct sums where those do not pay.
const ALGORITHMS: [ConvAlgorithm; 2] = [ConvAlgorithm::Auto, ConvAlgorithm::Winograd2];

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
        let flips = vec![Flip::Keep; self.plan.batch];
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

    fn run_and_add(&mut self, step: usize, sums: &mut [Buffer]) -> Result<bool> {
        let memory = Memory {
            arena: &mut self.arena,
            weights: &self.weights,
            gradient: &mut self.gradient,
            batch: Batch {
                labels: &self.labels,
                ..Batch::NONE
            },
        };
        self.cpu.run_and_add(&self.plan, step, memory, sums, &PARAMS)
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
        for isa in Isa::all() {
            for algorithm in ALGORITHMS {
                let folds = [1, 2, 3].map(|threads| {
                    let cpu = Cpu::with(threads, isa).unwrap().with_convolution(algorithm);
                    Bench::new(&network, 5, Mode::Training, cpu).walk()
                });
                assert!(
                    folds[0] == folds[1] && folds[0] == folds[2],
                    "{config} {batch_norm} {isa:?} {algorithm:?}"
                );
            }
        }
    }
}

/// Where weights come from memory, tasks of the fully connected gradients depend on the number of threads; and how forward
/// passes are cut depends on the number of images.
#[test]
fn large_weights_give_the_same_bits_on_any_number_of_threads() {
    let spec = Spec {
        fc: 2100, // fc7 has 17.6 MB
        classes: 10,
        crop: 32,
        width: 0.05,
        ..Spec::paper(Config::A)
    };
    let network = spec.build().unwrap();
    for isa in Isa::all() {
        for batch in [1, 3, 8, 13] {
            let [one, two, three] = [1, 2, 3].map(|threads| {
                let cpu = Cpu::with(threads, isa).unwrap();
                Bench::new(&network, batch, Mode::Training, cpu).walk()
            });
            assert!(one == two && one == three, "{isa:?}, batch {batch}");
        }
    }
}

/// What the equivalence class promises: a run may go on, or be repeated, on a processor with other vectors.
#[test]
fn paths_of_the_same_arithmetic_give_the_same_bits() {
    for (config, batch_norm) in [(Config::ALrn, false), (Config::C, false), (Config::A, true)] {
        let network = small(config, batch_norm);
        let folds = |isa: Isa, algorithm: ConvAlgorithm| {
            let cpu = Cpu::with(2, isa).unwrap().with_convolution(algorithm);
            Bench::new(&network, 7, Mode::Training, cpu).walk()
        };
        let all = Isa::all();
        for (&one, &other) in all.iter().zip(&all[1..]) {
            for algorithm in ALGORITHMS {
                let same = one.arithmetic() == other.arithmetic();
                assert_eq!(
                    folds(one, algorithm) == folds(other, algorithm),
                    same,
                    "{config} {batch_norm} {one:?} {other:?} {algorithm:?}"
                );
            }
        }
    }
}

#[test]
fn kept_filters_follow_the_weights() {
    for algorithm in ALGORITHMS {
        for mode in [Mode::Evaluation, Mode::Training] {
            kept_filters_of(algorithm, mode);
        }
    }
}

fn kept_filters_of(algorithm: ConvAlgorithm, mode: Mode) {
    let network = small(Config::A, false);
    let cpu = |threads| Cpu::new(threads).unwrap().with_convolution(algorithm);
    let mut bench = Bench::new(&network, 2, mode, cpu(2));
    // The first of two walks makes the filters where they are kept. The second meets a whole gradient, whatever was there.
    let walk = |bench: &mut Bench| {
        bench.walk();
        bench.walk()
    };
    let without = walk(&mut bench);
    bench.plan = bench.plan.walked(2);
    bench.cpu.prepare(&bench.plan).unwrap();
    assert_eq!(bench.walk(), without, "made");
    assert_eq!(bench.walk(), without, "kept");
    let first = bench.plan.parameters_of(2)[0].offset;
    bench
        .cpu
        .write_parameters(&mut bench.weights, first, &[0.5])
        .unwrap();
    let changed = walk(&mut bench);
    assert_ne!(changed, without, "other weights");
    assert_eq!(walk(&mut Bench { cpu: cpu(1), ..bench }), changed, "not kept");
}

/// Rows of the fully connected layers end inside a panel.
#[test]
fn leaves_are_added_to_sums_as_by_the_tree() {
    let network = small(Config::A, false);
    for isa in Isa::all() {
        let mut bench = Bench::new(&network, 3, Mode::Training, Cpu::with(2, isa).unwrap());
        bench.walk();
        let leaf = bench.gradient.as_slice().to_vec();
        for count in 0..4 {
            let slots = || {
                let values = (0..count).map(|seed| noise(leaf.len(), seed));
                let buffers = values.chain([leaf.clone()]).map(|values| {
                    let mut buffer = Cpu::new(1).unwrap().allocate_parameters(values.len()).unwrap();
                    buffer.as_mut_slice()[..values.len()].copy_from_slice(&values);
                    buffer
                });
                buffers.collect::<Vec<_>>()
            };
            let (mut expected, mut found) = (slots(), slots());
            bench.cpu.tree_add(&mut expected, 0..leaf.len()).unwrap();
            found.pop();
            for (step, pass) in bench.plan.schedule() {
                if pass == Pass::Forward {
                    bench.run(step, pass).unwrap();
                    continue;
                }
                let is_added = bench.run_and_add(step, &mut found).unwrap();
                let is_linear = matches!(bench.plan.steps[step].op, StepOp::Linear { .. });
                assert_eq!(
                    is_added,
                    is_linear && count > 0,
                    "{}",
                    bench.plan.steps[step].name
                );
                for array in bench.plan.parameters_of(step) {
                    let (found, expected) = match is_added {
                        true => (found[0].as_slice(), expected[0].as_slice()),
                        false => (bench.gradient.as_slice(), &leaf[..]),
                    };
                    let range = array.range();
                    assert!(
                        found[range.clone()] == expected[range],
                        "{isa:?}, {count} sums, {}",
                        array.name
                    );
                }
            }
        }
    }
}

#[test]
fn training_keeps_filters_where_steps_have_several_micro_batches_of_few_images() {
    let network = small(Config::A, false);
    let cpu = Cpu::new(1).unwrap();
    let plan =
        |batch, mode| Plan::new(&network, &Preprocess::subtract_mean([0.0; 3]), batch, mode, &cpu).unwrap();
    let bytes = |plan: Plan| conv::kept_bytes(&cpu, &plan);
    assert_eq!(bytes(plan(2, Mode::Training)), 0);
    assert_eq!(bytes(plan(9, Mode::Training).walked(2)), 0);
    // Both ways round; the second layer is the first with a data gradient.
    let (training, evaluation) = (
        bytes(plan(2, Mode::Training).walked(2)),
        bytes(plan(2, Mode::Evaluation)),
    );
    assert!(
        evaluation < training && training <= 2 * evaluation,
        "{training} and {evaluation}"
    );
}

#[test]
fn paths_agree_where_nothing_is_summed() {
    let len = 3 * elementwise::CHUNK / 2 + 5;
    let network = small(Config::A, false);
    let results = Isa::all().into_iter().map(|isa| {
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
    let results: Vec<_> = results.collect();
    assert!(results.iter().all(|result| result == &results[0]));
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
