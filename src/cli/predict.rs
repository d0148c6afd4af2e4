//! `verydeep predict`.

use std::io::stdin;
use std::path::PathBuf;
use std::slice;

use serde::Serialize;
use serde_json::json;

use super::args::{PredictArgs, WeightsArg};
use super::compute::on_device;
use super::eval::open_model;
use super::features::images;
use super::output::{print_json, say};
use crate::backend::Backend;
use crate::data::loader::Action;
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::eval::{Files, Look, Resources, ScoreAverage, posteriors};
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
    if args.batch == 0 {
        return Err(Error::invalid("--batch", "at least 1 image", 0));
    }
    let model = open_model(&args.weights)?;
    model.check_classifier()?;
    let classes = model.spec.classes;
    let top = args.top.unwrap_or(classes.min(5));
    if !(1..=classes).contains(&top) {
        return Err(Error::invalid(
            "--top",
            format_args!("1 to {classes} classes"),
            top,
        ));
    }
    let Some(about) = &model.about else {
        return Err(Error::invalid_hint(
            args.weights.display(),
            "weights that say how their images are preprocessed",
            "a plain weights file",
            "use a run folder or a checkpoint, or convert the file first",
        ));
    };
    let weights = WeightsArg {
        path: args.weights.clone(),
        scales: Vec::new(),
    };
    let look = args.look.decide(&weights, &model);
    let predictions = on_device!(&args.compute.open()?, backend => {
        predictions(backend, args, &model, &about.preprocess, &look, top)?
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
    look: &Look,
    top: usize,
) -> Result<Vec<Prediction>> {
    let names = model.class_names();
    let resources = Resources {
        batch: args.batch,
        threads: args.compute.threads()?,
    };
    let files = Files::new(images(&args.images)?, stdin())?;
    let averages = posteriors(
        slice::from_ref(backend),
        model,
        preprocess,
        &files,
        look,
        resources,
    )?;
    if let Some(bad) = averages.bad().find(|event| event.action == Action::LeftOut) {
        return Err(Error::Sample(Box::new(bad.sample.clone())));
    }
    let prediction = |(index, file): (usize, &PathBuf)| {
        let posteriors = averages.posteriors(index, ScoreAverage::from(args.look.score_average));
        let mut order: Vec<usize> = (0..posteriors.len()).collect();
        // Highest first; a stable sort keeps the lower index first among equals.
        order.sort_by(|&a, &b| posteriors[b].total_cmp(&posteriors[a]));
        let guess = |&index: &usize| Guess {
            class: names.get(index).cloned().unwrap_or_else(|| index.to_string()),
            index,
            probability: posteriors[index],
        };
        Prediction {
            file: file.clone(),
            top: order[..top].iter().map(guess).collect(),
        }
    };
    Ok(files.paths().iter().enumerate().map(prediction).collect())
}
