//! `verydeep predict`.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::args::{PredictArgs, Protocol};
use super::compute::on_device;
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
    let classes = model.spec.classes;
    let top = args.top.unwrap_or(classes.min(5));
    if !(1..=classes).contains(&top) {
        return Err(Error::invalid(
            "--top",
            format_args!("1 to {classes} classes"),
            top,
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
    let predictions = on_device!(&args.compute.open()?, backend => {
        predictions(backend, args, &model, &meta.preprocess, scale, top)?
    });
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
    top: usize,
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
                top: order[..top].iter().map(guess).collect(),
            })
        })
        .collect()
}
