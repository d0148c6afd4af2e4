//! `verydeep eval`.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::args::{EvalArgs, Protocol};
use super::compute::on_device;
use super::output::{note, print_json, say};
use crate::data::preprocess::Preprocess;
use crate::data::shards::{Dataset, Split};
use crate::error::{Error, Result};
use crate::eval::{Center, Tally, evaluate};
use crate::weights::Model;

pub(super) fn eval(args: &EvalArgs) -> Result<u8> {
    args.compute.check()?;
    let Protocol::Center = args.protocol;
    let [weights] = args.weights.as_slice() else {
        return Err(Error::Usage(
            "--weights: this version evaluates one network at a time".into(),
        ));
    };
    if args.batch == 0 {
        return Err(Error::invalid("--batch", "at least 1 image", 0));
    }
    let model = open_model(weights)?;
    let data = Arc::new(Dataset::open(&args.data, Split::Validation, args.io)?);
    let preprocess = match &model.meta {
        Some(meta) => meta.preprocess.clone(),
        None => {
            note("the weights do not say how images are preprocessed: pixels minus the data set's mean RGB");
            Preprocess::subtract_mean(data.manifest().mean_rgb)
        }
    };
    let scale = scale_of(&args.scales, &model)?;
    let threads = args.compute.threads()?;
    let center = Center {
        scale,
        batch: args.batch,
        threads,
    };
    let started = Instant::now();
    let tally = on_device!(&args.compute.open()?, backend => {
        evaluate(backend, &model, &preprocess, Arc::clone(&data), center)?
    });
    let images_per_sec = tally.n as f64 / started.elapsed().as_secs_f64();
    report(args, &model, &tally, scale, images_per_sec);
    Ok(0)
}

/// Opens weights and names what was passed over.
pub(super) fn open_model(path: &std::path::Path) -> Result<Model> {
    let model = Model::open(path)?;
    model
        .passed_over
        .iter()
        .for_each(|error| note(format_args!("passed over: {error}")));
    Ok(model)
}

/// Q: as said, or what the weights say, or the paper's 256.
pub(super) fn scale_of(said: &[usize], model: &Model) -> Result<usize> {
    match said {
        [] => Ok(model
            .meta
            .as_ref()
            .map_or(model.spec.crop.max(256), |meta| meta.scale)),
        [scale] => Ok(*scale),
        _ => Err(Error::Usage(
            "--scales: this version evaluates at one scale at a time".into(),
        )),
    }
}

fn report(args: &EvalArgs, model: &Model, tally: &Tally, scale: usize, images_per_sec: f64) {
    let (top1_error, top5_error) = (tally.top1_error(), tally.top5_error());
    if args.json {
        print_json(&json!({
            "top1": 100.0 - top1_error,
            "top5": 100.0 - top5_error,
            "top1_error": top1_error,
            "top5_error": top5_error,
            "loss": tally.mean_loss(),
            "n": tally.n,
            "protocol": "center",
            "scales": [scale],
            "bad": tally.left_out().collect::<Vec<_>>(),
            "images_per_sec": images_per_sec,
            "weights_sha256": [model.weights_sha256],
        }));
        return;
    }
    for bad in &tally.bad {
        say(format_args!("bad: {}", bad.sample));
    }
    say(format_args!(
        "{} {}, Q = {scale}, centre crop: top-1 {:.2} %, top-5 {:.2} % (errors {top1_error:.2} and {top5_error:.2}), \
         loss {:.4}, {} images at {images_per_sec:.1} images/s",
        args.data.display(),
        Split::Validation.as_str(),
        100.0 - top1_error,
        100.0 - top5_error,
        tally.mean_loss(),
        tally.n,
    ));
    say(format_args!("weights_sha256 {}", model.weights_sha256));
}
