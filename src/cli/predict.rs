//! `verydeep predict`.

use std::io::stdin;
use std::path::PathBuf;
use std::slice;

use serde::Serialize;
use serde_json::json;

use super::args::PredictArgs;
use super::compute::on_device;
use super::features::images;
use super::networks::{about_of, name_bad, open_model, resources};
use super::output::{print_json, say};
use crate::data::bad::MaxBad;
use crate::data::loader::Action;
use crate::error::{Error, Result};
use crate::eval::{Averages, Files, posteriors};
use crate::weights::Model;

#[derive(Serialize)]
struct Prediction {
    #[serde(serialize_with = "crate::text::path")]
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
    let resources = resources(args.batch, &args.compute)?;
    args.look.check_score_average([args.look.protocol()])?;
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
    let about = about_of(&model, &args.weights)?;
    let look = args.look.decide(&[], &model)?;
    let files = Files::new(images(&args.images)?, stdin())?;
    let averages = on_device!(&args.compute.open()?, backend => {
        let backends = slice::from_ref(backend);
        let found = posteriors(backends, &model, &about.preprocess, &files, &look, resources);
        found.map_err(Error::of_network(&args.weights))?
    });
    name_bad(averages.bad());
    let predictions = predictions(args, &model, &files, &averages, top);
    if args.json {
        let bad: Vec<_> = averages.bad().collect();
        print_json(&json!({ "predictions": predictions, "bad": bad }));
    } else {
        predictions.iter().for_each(show);
    }
    refuse_left_out(&averages, files.paths().len())?;
    Ok(0)
}

/// The images that cannot be read are an error in the end, when the others have been classified.
fn refuse_left_out(averages: &Averages, images: usize) -> Result<()> {
    let left_out = || averages.bad().filter(|event| event.action == Action::LeftOut);
    match left_out().next() {
        None => Ok(()),
        Some(first) => MaxBad::Count(0).check(left_out().count() as u64, images as u64, &first.sample),
    }
}

fn show(prediction: &Prediction) {
    say(prediction.file.display());
    for guess in &prediction.top {
        say(format_args!(
            "  {:6.2} %  {}",
            100.0 * guess.probability,
            guess.class
        ));
    }
}

/// The best classes of every image that could be read.
fn predictions(
    args: &PredictArgs,
    model: &Model,
    files: &Files,
    averages: &Averages,
    top: usize,
) -> Vec<Prediction> {
    let names = model.class_names();
    let prediction = |(index, file): (usize, &PathBuf)| {
        let posteriors = averages.posteriors(index, args.look.score_average());
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
    let files = files.paths().iter().enumerate();
    files
        .filter(|(index, _)| !averages.is_left_out(*index))
        .map(prediction)
        .collect()
}
