//! Every call of the driver that can fail, failing in turn: a typed error with the right exit code, nothing leaked, and a
//! process that can try again.

use verydeep::backend::Precision;
use verydeep::backend::cuda::Cuda;
use verydeep::data::preprocess::{Flip, Preprocess};
use verydeep::error::{Error, Result};
use verydeep::exec::{Training, Unwatched};
use verydeep::network::{Builder, Network};
use verydeep::plan::{Batch, StepParams, UpdateRule};
use verydeep::shape::Chw;
use verydeep::weights::CheckpointView;

use super::simulator::{calls, fail, libraries, reports};

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
struct Trained {
    weights: Vec<f32>,
    /// Calls until here; what follows only tidies up.
    calls: [u64; 5],
}

/// From opening the device to reading the weights: two micro-batches, an update, an evaluation.
fn train() -> Result<Trained> {
    let cuda = Cuda::open(0, libraries(), Precision::Fp32)?;
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
    let mut training = Training::new(&cuda, &network, &preprocess, rule)?;
    let weights: Vec<f32> = (0..network.flat_len())
        .map(|i| 0.1 * (i % 7) as f32 - 0.25)
        .collect();
    training.set_state(&weights, &vec![0.0; network.flat_len()])?;
    let pixels: Vec<u8> = (0..2 * network.input.len()).map(|i| (i * 37) as u8).collect();
    let batch = Batch {
        pixels: &pixels,
        flips: &[Flip::Keep, Flip::Mirror],
        colours: &[[0.0; 3]; 2],
        labels: &[0, 2],
    };
    let params = StepParams {
        seed: 1,
        step: 0,
        position: 0,
        learning_rate: 0.01,
    };
    for micro_batch in 0..2 {
        training.micro_batch(micro_batch, batch, &params, &mut Unwatched)?;
    }
    training.update(&params)?;
    training.evaluate(batch)?;
    let mut trained = vec![0.0; network.flat_len()];
    for parameter in &network.parameters {
        training.weights(parameter, &mut trained[parameter.range()])?;
    }
    Ok(Trained {
        weights: trained,
        calls: calls(),
    })
}

/// Makes call 1, 2, ... of a kind fail until there are no more.
fn each_in_turn(kind: &str, place: usize, check: impl Fn(&Error)) {
    fail("none");
    let expected = train().unwrap();
    let (until_the_end, all) = (expected.calls[place], calls()[place]);
    assert!(until_the_end > 0, "there are calls of kind {kind}");
    for number in 1..=all {
        let at = format!("{kind} call {number} of {all}");
        fail(&format!("{kind}:{number}"));
        match train() {
            Err(error) => check(&error),
            Ok(trained) => {
                assert!(number > until_the_end, "{at} failed and nobody noticed");
                assert_eq!(trained.weights, expected.weights, "{at}");
            }
        }
        assert_eq!(reports(), 0, "{at}");
    }
    fail("none");
    let again = train().unwrap();
    assert_eq!(again.weights, expected.weights, "as if nothing had been");
    assert_eq!(reports(), 0);
}

#[test]
fn an_allocation_that_fails_is_out_of_memory() {
    each_in_turn("alloc", 0, |error| {
        assert!(
            matches!(error, Error::OutOfMemory { bytes, .. } if *bytes > 0),
            "{error:?}"
        );
        assert_eq!(error.exit_code(), 5);
    });
}

fn is_of_the_device(error: &Error) {
    assert!(
        matches!(error, Error::Device { device, .. } if device == "cuda:0"),
        "{error:?}"
    );
    assert_eq!(error.exit_code(), 4);
}

#[test]
fn a_launch_that_fails_is_an_error_of_the_device() {
    each_in_turn("launch", 1, is_of_the_device);
}

#[test]
fn a_copy_that_fails_is_an_error_of_the_device() {
    each_in_turn("copy", 2, is_of_the_device);
}

#[test]
fn any_other_call_that_fails_is_an_error_of_the_device() {
    each_in_turn("other", 4, |error| {
        assert_eq!(error.exit_code(), 4, "{error:?}");
    });
}
