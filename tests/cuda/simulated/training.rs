//! Training of a small network that has every kind of layer.

use verydeep::backend::Backend;
use verydeep::backend::cuda::{Cuda, Options};
use verydeep::data::preprocess::{Flip, Preprocess};
use verydeep::error::Result;
use verydeep::exec::{Score, Shape, SharedParameters, Training, Unwatched};
use verydeep::network::{Builder, Network};
use verydeep::parallel::{Group as _, Local};
use verydeep::plan::{Batch, StepParams, Tree, UpdateRule, WalkOrder};
use verydeep::rng::{Purpose, Stream};
use verydeep::shape::Chw;
use verydeep::weights::CheckpointView;

use super::simulator::{calls, libraries};

/// One of every kind of layer.
fn network() -> Network {
    let mut net = Builder::new(Chw::new(3, 4, 4));
    net.conv("conv".into(), 3, 4);
    net.relu("conv_relu".into());
    net.lrn("lrn".into());
    net.conv("conv_norm".into(), 3, 4);
    net.batch_norm("norm".into());
    net.relu("norm_relu".into());
    net.max_pool("pool".into()).unwrap();
    net.linear("fc".into(), 6);
    net.relu("fc_relu".into());
    net.dropout("drop".into(), 0.5);
    net.linear("scores".into(), 3);
    net.finish()
}

/// What a run ends with.
pub(crate) struct Trained {
    pub(crate) weights: Vec<f32>,
    /// Calls until here; what follows only tidies up.
    pub(crate) calls: [u64; 5],
}

/// Pixels that no other micro-batch has.
fn fill(pixels: &mut [u8], micro_batch: u64) {
    let mut stream = Stream::new(1, micro_batch, Purpose::Synthetic, 0);
    pixels.fill_with(|| stream.next_u32() as u8);
}

fn batch(pixels: &[u8]) -> Batch<'_> {
    Batch {
        pixels,
        flips: &[Flip::Keep, Flip::Mirror],
        colours: &[[0.0; 3]; 2],
        labels: &[0, 2],
    }
}

/// From opening the device to reading the weights: steps of two micro-batches and an update, each with an evaluation.
/// All images pass through one slot of pinned memory, which is overwritten as soon as it may be.
pub(crate) fn train(options: Options, order: WalkOrder, steps: u64) -> Result<Trained> {
    let cuda = Cuda::open(0, libraries(), options)?;
    let network = network();
    let preprocess = Preprocess::standardize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let rule = UpdateRule {
        momentum: 0.9,
        weight_decay: 5e-4,
        bias_decay: 1.0,
        bias_lr: 1.0,
        batch: 4,
        micro_batches: 2,
    };
    let weights: Vec<f32> = (0..network.flat_len())
        .map(|i| 0.1 * (i % 7) as f32 - 0.25)
        .collect();
    let parameters = SharedParameters::new(&cuda, &network, &weights, &vec![0.0; network.flat_len()])?;
    let shape = Shape {
        micro_batch: 2,
        tree: Tree::new(rule.micro_batches),
        order,
    };
    let mut training = Training::new(&cuda, &network, &preprocess, shape, parameters)?;
    let mut group = Local::alone(&cuda, training.parameters());
    let mut slot = cuda.allocate_host(2 * network.input.len())?;
    for step in 0..steps {
        let params = |micro_batch| StepParams {
            seed: 1,
            step,
            position: 4 * step + 2 * micro_batch,
            learning_rate: 0.01,
        };
        for micro_batch in 0..2 {
            fill(slot.as_mut(), 2 * step + micro_batch);
            let (batch, params) = (batch(slot.as_ref()), params(micro_batch));
            training.micro_batch(micro_batch as usize, batch, &params, &mut Unwatched)?;
        }
        fill(slot.as_mut(), u64::MAX);
        for _ in 0..2 {
            let losses = &training.outcomes()?.losses;
            assert!(losses.iter().all(|loss| *loss > 0.0), "{losses:?}");
        }
        group.update(&mut training, &rule, &params(0))?;
        let mut validation = training.validation();
        validation.submit(batch(slot.as_ref()))?;
        validation.collect()?;
    }
    let mut trained = vec![0.0; network.flat_len()];
    let view = training.parameters().view(&cuda);
    for parameter in &network.parameters {
        view.weights(parameter, &mut trained[parameter.range()])?;
    }
    Ok(Trained {
        weights: trained,
        calls: calls(),
    })
}
