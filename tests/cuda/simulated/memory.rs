//! What is forecast of a device's memory is what is allocated there, to the byte.

use verydeep::backend::cuda::{Cuda, Options};
use verydeep::backend::{Backend, Precision};
use verydeep::data::preprocess::{Flip, Preprocess};
use verydeep::exec::{IN_FLIGHT, Inference, Score, Shape, SharedParameters, Training, Unwatched};
use verydeep::network::{Config, Network, Spec};
use verydeep::parallel::{Group as _, Local};
use verydeep::plan::{Batch, Lowering, Memory, Mode, Plan, StepParams, Tree, UpdateRule, WalkOrder};

use super::simulator::{libraries, most_used, reports};

const MICRO_BATCH: usize = 2;
const MICRO_BATCHES: usize = 2;

/// The workspace is forecast as large as convolutions may make it; the simulated cuDNN never asks for more than products
/// get at once.
const LARGEST_WORKSPACE: u64 = 256 << 20;
const WORKSPACE: u64 = 32 << 20;

fn networks() -> Vec<(&'static str, Network)> {
    let specs = [
        ("A", false),
        ("A-LRN", false),
        ("C", false),
        ("D", false),
        ("A", true),
    ];
    let build = |(config, batch_norm): (&'static str, bool)| {
        let spec = Spec {
            batch_norm,
            classes: 4,
            crop: 32,
            width: 0.0625,
            fc: 16,
            ..Spec::paper(config.parse::<Config>().unwrap())
        };
        (config, spec.build().unwrap())
    };
    specs.into_iter().map(build).collect()
}

/// Of every network, precision, and with and without graphs.
fn each(test: impl Fn(&str, &Network, Options)) {
    for (config, network) in networks() {
        for precision in [Precision::Fp32, Precision::Bf16] {
            for graphs in [false, true] {
                let what = format!(
                    "{config}, {} arrays, {precision:?}, graphs: {graphs}",
                    network.parameters.len()
                );
                test(&what, &network, Options { precision, graphs });
            }
        }
    }
    assert_eq!(reports(), 0);
}

fn preprocess() -> Preprocess {
    Preprocess::subtract_mean([120.0; 3])
}

fn batch(pixels: &[u8]) -> Batch<'_> {
    Batch {
        pixels,
        flips: &[Flip::Keep; MICRO_BATCH],
        colours: &[[0.0; 3]; MICRO_BATCH],
        labels: &[0, 3],
    }
}

/// A step with a validation, or as many as it takes until every graph has been captured.
fn train(cuda: &Cuda, network: &Network, order: WalkOrder) {
    let weights = vec![0.01; network.flat_len()];
    let parameters = SharedParameters::new(cuda, network, &weights, &[]).unwrap();
    let shape = Shape {
        micro_batch: MICRO_BATCH,
        tree: Tree::new(MICRO_BATCHES),
        order,
    };
    let mut training = Training::new(cuda, network, &preprocess(), shape, parameters).unwrap();
    let mut group = Local::alone(cuda, training.parameters());
    let rule = UpdateRule {
        momentum: 0.9,
        weight_decay: 5e-4,
        bias_decay: 1.0,
        bias_lr: 1.0,
        batch: MICRO_BATCH * MICRO_BATCHES,
        micro_batches: MICRO_BATCHES,
    };
    let pixels = vec![100; MICRO_BATCH * network.input.len()];
    let steps = if cuda.captures() { 3 } else { 1 };
    for step in 0..steps {
        let params = StepParams {
            seed: 1,
            step,
            position: 0,
            learning_rate: 0.01,
        };
        for micro_batch in 0..MICRO_BATCHES {
            training
                .micro_batch(micro_batch, batch(&pixels), &params, &mut Unwatched)
                .unwrap();
        }
        training.outcomes().unwrap();
        group.update(&mut training, &rule, &params).unwrap();
        let mut validation = training.validation();
        validation.submit(batch(&pixels)).unwrap();
        validation.collect().unwrap();
    }
}

#[test]
fn a_training_run_allocates_what_was_forecast() {
    each(|what, network, options| {
        for order in WalkOrder::ALL {
            most_used(); // since now
            let cuda = Cuda::open(0, libraries(), options).unwrap();
            let plan = |mode| Plan::new(network, &preprocess(), MICRO_BATCH, mode, &cuda).unwrap();
            let plans = [&plan(Mode::Training), &plan(Mode::Evaluation)];
            let forecast = Memory::training(&cuda, plans, Tree::new(MICRO_BATCHES), order, 0, [1, 1]);
            train(&cuda, network, order);
            let expected = forecast.device - LARGEST_WORKSPACE + WORKSPACE;
            assert_eq!(most_used(), expected, "{what}, {order}: {forecast:?}");
        }
    });
}

#[test]
fn an_evaluation_allocates_what_its_plan_says() {
    each(|what, network, options| {
        most_used(); // since now
        let cuda = Cuda::open(0, libraries(), options).unwrap();
        let weights = vec![0.01; network.flat_len()];
        let mut inference = Inference::new(&cuda, network, &preprocess(), MICRO_BATCH, &weights).unwrap();
        let pixels = vec![100; MICRO_BATCH * network.input.len()];
        for _ in 0..6 {
            inference.run(batch(&pixels)).unwrap();
        }
        let plan = inference.plan();
        let activations = plan.arena_bytes + plan.outcome_bytes(IN_FLIGHT);
        // The driver refuses to allocate nothing, which is what the leaf of an evaluation takes.
        let no_gradient = size_of::<f32>() as u64;
        let expected =
            cuda.weight_bytes(plan) + no_gradient + activations as u64 + cuda.workspace_bytes(plan)
                - LARGEST_WORKSPACE
                + WORKSPACE;
        assert_eq!(most_used(), expected, "{what}");
    });
}

/// A device that was opened has taken its workspace already, which is among what is forecast.
#[test]
fn what_an_open_device_holds_is_there_for_a_run() {
    let cuda = Cuda::open(0, libraries(), Options::default()).unwrap();
    let all = cuda.free_bytes().unwrap().unwrap();
    // The simulated device's, unless CUDASIM_MEMORY_MB says otherwise.
    assert_eq!(all, 16 << 30);
}
