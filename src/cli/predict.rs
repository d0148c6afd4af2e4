//! `verydeep predict`.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::args::{PredictArgs, Protocol};
use super::compute::Device;
use super::eval::{open_model, scale_of};
use super::output::{print_json, say};
use crate::backend::Backend;
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::eval::Classifier;
use crate::weights::Model;

#[derive(Serialize)]
struct Prediction {
    file: PathBuf,
    top: Vec<Guess>,
}

#[derive(Serialize)]
struct Guess {
    class: String,
    index: usize,
    /// 0 to 1.
    probability: f32,
}

pub(super) fn predict(args: &PredictArgs) -> Result<u8> {
    args.compute.check()?;
    let Protocol::Center = args.protocol;
    let model = open_model(&args.weights)?;
    if args.top == 0 || args.top > model.spec.classes {
        return Err(Error::invalid(
            "--top",
            format_args!("1 to {} classes", model.spec.classes),
            args.top,
        ));
    }
    let Some(meta) = &model.meta else {
        return Err(Error::invalid_hint(
            args.weights.display(),
            "weights that say how their images are preprocessed",
            "a plain weights file",
            "use a run folder or a checkpoint",
        ));
    };
    let scale = scale_of(&args.scales, &model)?;
    let predictions = match &Device::open(args.compute.device(), args.compute.threads()?)? {
        Device::Cpu(cpu) => predictions(cpu, args, &model, &meta.preprocess, scale)?,
    };
    if args.json {
        print_json(&json!({ "predictions": predictions }));
        return Ok(0);
    }
    for prediction in &predictions {
        say(prediction.file.display());
        for guess in &prediction.top {
            say(format_args!(
                "  {:6.2} %  {}",
                100.0 * guess.probability,
                guess.class
            ));
        }
    }
    Ok(0)
}

fn predictions<B: Backend>(
    backend: &B,
    args: &PredictArgs,
    model: &Model,
    preprocess: &Preprocess,
    scale: usize,
) -> Result<Vec<Prediction>> {
    let names = model.class_names();
    let mut classifier = Classifier::new(backend, model, preprocess, scale)?;
    args.images
        .iter()
        .map(|file| {
            let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
            let posteriors = classifier.classify(&file.display().to_string(), &bytes)?;
            let mut order: Vec<usize> = (0..posteriors.len()).collect();
            // Highest first; a stable sort keeps the lower index first among equals.
            order.sort_by(|&a, &b| posteriors[b].total_cmp(&posteriors[a]));
            let guess = |&index: &usize| Guess {
                class: names.get(index).cloned().unwrap_or_else(|| index.to_string()),
                index,
                probability: posteriors[index],
            };
            Ok(Prediction {
                file: file.clone(),
                top: order[..args.top].iter().map(guess).collect(),
            })
        })
        .collect()
}
