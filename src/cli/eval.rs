//! `verydeep eval`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::args::{EvalArgs, LookArgs, WeightsArg};
use super::compute::{Device, on_replicas};
use super::output::{note, print_json, say};
use crate::data::preprocess::Preprocess;
use crate::data::shards::{Dataset, IoMode, Split};
use crate::error::{Error, Result};
use crate::eval::{
    Averages, Center, Ensemble, Look, Member, Protocol, Resources, ScoreAverage, Tally, evaluate, posteriors,
};
use crate::weights::Model;

pub(super) fn eval(args: &EvalArgs) -> Result<u8> {
    args.compute.dealt()?;
    if args.batch == 0 {
        return Err(Error::invalid("--batch", "at least 1 image", 0));
    }
    let data = Arc::new(validation_of(&args.data, args.io)?);
    let started = Instant::now();
    let outcome = match args.weights.as_slice() {
        [weights] if args.posteriors.is_empty() && args.save_posteriors.is_none() => {
            let model = open_model(&weights.path)?;
            let look = args.look.decide(weights, &model);
            if look.protocol == Protocol::Center && look.scales.len() == 1 && !look.flip {
                centre(args, &data, &model, look)?
            } else {
                let device = args.compute.open_dealt()?;
                averaged(args, &data, one_network(args, &data, &device, &model, look)?)?
            }
        }
        weights => fused(args, &data, weights)?,
    };
    report(
        args,
        &outcome,
        outcome.tally.n as f64 / started.elapsed().as_secs_f64(),
    );
    check_bad(args, &outcome.tally, data.len())?;
    Ok(0)
}

/// The images to evaluate.
pub(super) fn validation_of(path: &Path, io: IoMode) -> Result<Dataset> {
    let data = Dataset::open(path, Split::Validation, io)?;
    if data.is_empty() {
        return Err(Error::invalid_hint(
            format_args!("{}: the validation split", path.display()),
            "images to evaluate",
            "none",
            "pack takes them from DIR/val/<class>/",
        ));
    }
    Ok(data)
}

/// Too many images that are not counted are an error, after the result, which names them.
fn check_bad(args: &EvalArgs, tally: &Tally, images: usize) -> Result<()> {
    let left_out: Vec<_> = tally.left_out().collect();
    match (args.max_bad, left_out.first()) {
        (Some(limit), Some(first)) => limit.check(left_out.len() as u64, images as u64, first),
        _ => Ok(()),
    }
}

/// What an evaluation found.
struct Outcome {
    tally: Tally,
    /// By [`ScoreAverage`], where a score map was averaged.
    averages: Option<[Tally; 2]>,
    members: Vec<Member>,
}

/// The centre crops of one scale, counted on the way: no posteriors are kept.
fn centre(args: &EvalArgs, data: &Arc<Dataset>, model: &Model, look: Look) -> Result<Outcome> {
    let preprocess = preprocess_of(model, data);
    let center = Center {
        scale: look.scales[0],
        batch: args.batch,
        threads: args.compute.threads()?,
    };
    let tally = on_replicas!(&args.compute.open_dealt()?, backends => {
        evaluate(backends, model, &preprocess, Arc::clone(data), center)?
    });
    Ok(Outcome {
        tally,
        averages: None,
        members: vec![member(model, look)],
    })
}

/// Several networks, some of them computed and saved earlier.
fn fused(args: &EvalArgs, data: &Dataset, weights: &[WeightsArg]) -> Result<Outcome> {
    let classes = data.manifest().classes.len();
    let mut fused: Option<Ensemble> = None;
    let mut add = |one: Ensemble| match &mut fused {
        None => fused = Some(one),
        Some(fused) => fused.add(&one),
    };
    let device = (!weights.is_empty())
        .then(|| args.compute.open_dealt())
        .transpose()?;
    for (weights, device) in weights.iter().zip(std::iter::repeat(&device)) {
        let model = open_model(&weights.path)?;
        let look = args.look.decide(weights, &model);
        if let Some(device) = device {
            add(one_network(args, data, device, &model, look)?);
        }
    }
    for path in &args.posteriors {
        add(Ensemble::load(path, data, classes, &data.manifest().sha256())?);
    }
    let fused =
        fused.ok_or_else(|| Error::Usage("--weights: expected a run or a file, found none".into()))?;
    averaged(args, data, fused)
}

/// The posteriors of one network.
fn one_network(
    args: &EvalArgs,
    data: &Dataset,
    device: &Device,
    model: &Model,
    look: Look,
) -> Result<Ensemble> {
    check_classes(data, model)?;
    let preprocess = preprocess_of(model, data);
    let resources = Resources {
        batch: args.batch,
        threads: args.compute.threads()?,
    };
    let averages: Averages = on_replicas!(device, backends => {
        posteriors(backends, model, &preprocess, data, &look, resources)?
    });
    Ok(Ensemble {
        averages,
        members: vec![member(model, look)],
    })
}

fn member(model: &Model, look: Look) -> Member {
    Member {
        weights_sha256: model.weights_sha256.clone(),
        look,
    }
}

/// Counts, and saves where that is asked for.
fn averaged(args: &EvalArgs, data: &Dataset, ensemble: Ensemble) -> Result<Outcome> {
    if let Some(path) = &args.save_posteriors {
        ensemble.save(path, &data.manifest().sha256())?;
    }
    let [scores, posteriors] = ScoreAverage::ALL.map(|average| ensemble.averages.tally(data, average));
    let tallies = [scores?, posteriors?];
    let protocols = ensemble.members.iter().map(|member| member.look.protocol);
    let mut with_maps = protocols.filter(|protocol| protocol.is_dense());
    Ok(Outcome {
        tally: tallies[ScoreAverage::from(args.look.score_average) as usize].clone(),
        averages: with_maps.next().map(|_| tallies),
        members: ensemble.members,
    })
}

pub(super) fn check_classes(data: &Dataset, model: &Model) -> Result<()> {
    model.check_classifier()?;
    let classes = data.manifest().classes.len();
    if classes == model.spec.classes {
        return Ok(());
    }
    Err(Error::invalid_hint(
        "the data set",
        format_args!("{} classes, as the weights have", model.spec.classes),
        classes,
        "weights and shards belong to different data sets",
    ))
}

/// As the weights say, or the data set's mean.
pub(super) fn preprocess_of(model: &Model, data: &Dataset) -> Preprocess {
    match &model.about {
        Some(about) => about.preprocess.clone(),
        None => {
            note("the weights do not say how images are preprocessed: pixels minus the data set's mean RGB");
            Preprocess::subtract_mean(data.manifest().mean_rgb)
        }
    }
}

/// Opens weights and names what was passed over.
pub(super) fn open_model(path: &Path) -> Result<Model> {
    let model = Model::open(path)?;
    model
        .passed_over
        .iter()
        .for_each(|error| note(format_args!("passed over: {error}")));
    Ok(model)
}

impl LookArgs {
    /// Scales: the network's own, or as said for all, or what the weights say, or the paper's 256.
    pub(super) fn decide(&self, weights: &WeightsArg, model: &Model) -> Look {
        let scales = match (weights.scales.as_slice(), self.scales.as_slice()) {
            ([], []) => vec![model.scale()],
            ([], said) => said.to_vec(),
            (own, _) => own.to_vec(),
        };
        Look {
            protocol: self.protocol.into(),
            scales,
            flip: self.flip,
        }
    }
}

fn report(args: &EvalArgs, outcome: &Outcome, images_per_sec: f64) {
    if args.json {
        print_json(&json_report(args, outcome, images_per_sec));
        return;
    }
    let tally = &outcome.tally;
    for bad in &tally.bad {
        say(format_args!("bad: {}", bad.sample));
    }
    let looks: Vec<String> = outcome
        .members
        .iter()
        .map(|member| member.look.to_string())
        .collect();
    say(format_args!(
        "{} {}, {}: {}, loss {:.4}, {} images at {images_per_sec:.1} images/s",
        args.data.display(),
        Split::Validation.as_str(),
        looks.join(" + "),
        accuracies(tally),
        tally.mean_loss(),
        tally.n,
    ));
    for (average, tally) in ScoreAverage::ALL.iter().zip(outcome.averages.iter().flatten()) {
        say(format_args!(
            "  score maps, mean of {}: {}",
            average.name(),
            accuracies(tally)
        ));
    }
    for member in &outcome.members {
        say(format_args!("weights_sha256 {}", member.weights_sha256));
    }
}

fn accuracies(tally: &Tally) -> String {
    let (top1, top5) = (tally.top1_error(), tally.top5_error());
    format!(
        "top-1 {:.2} %, top-5 {:.2} % (errors {top1:.2} and {top5:.2})",
        100.0 - top1,
        100.0 - top5
    )
}

/// The fields of what was counted.
fn counted(tally: &Tally) -> Value {
    let (top1_error, top5_error) = (tally.top1_error(), tally.top5_error());
    json!({
        "top1": 100.0 - top1_error,
        "top5": 100.0 - top5_error,
        "top1_error": top1_error,
        "top5_error": top5_error,
        "loss": tally.mean_loss(),
        "n": tally.n,
    })
}

fn json_report(args: &EvalArgs, outcome: &Outcome, images_per_sec: f64) -> Value {
    let mut report = counted(&outcome.tally);
    let members = &outcome.members;
    let mut scales: Vec<usize> = Vec::new();
    for &scale in members.iter().flat_map(|member| &member.look.scales) {
        if !scales.contains(&scale) {
            scales.push(scale);
        }
    }
    let protocol = members[0].look.protocol;
    let alike = members.iter().all(|member| member.look.protocol == protocol);
    report["protocol"] = if alike {
        protocol.name().into()
    } else {
        "mixed".into()
    };
    report["scales"] = json!(scales);
    report["flip"] = json!(members.iter().all(|member| member.look.flip));
    report["bad"] = json!(outcome.tally.left_out().collect::<Vec<_>>());
    report["images_per_sec"] = json!(images_per_sec);
    let hashes: Vec<&str> = members
        .iter()
        .map(|member| member.weights_sha256.as_str())
        .collect();
    report["weights_sha256"] = json!(hashes);
    if members.len() > 1 {
        report["networks"] = json!(members);
    }
    if let Some(averages) = &outcome.averages {
        report["score_average"] = ScoreAverage::from(args.look.score_average).name().into();
        for (average, tally) in ScoreAverage::ALL.iter().zip(averages) {
            report["averages"][average.name()] = counted(tally);
        }
    }
    report
}
