//! `verydeep eval`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::args::{DEFAULT_BATCH, EvalArgs, WeightsArg};
use super::compute::{Device, on_replicas};
use super::eval_report::report;
use super::networks::{check_bad, check_output, open_model, preprocess_of, resources};
use super::output::note;
use crate::data::shards::{Dataset, IoMode, Split};
use crate::error::{Error, Result};
use crate::eval::{
    Averages, Center, Ensemble, Look, Member, Protocol, Resources, ScoreAverage, Tally, check_classes,
    evaluate, posteriors,
};
use crate::weights::Model;

pub(super) fn eval(args: &EvalArgs) -> Result<u8> {
    let resources = resources(args.batch.unwrap_or(DEFAULT_BATCH), &args.compute)?;
    args.compute.dealt()?;
    refuse_unused(args)?;
    if let Some(path) = &args.save_posteriors {
        check_output(path)?;
    }
    let data = Arc::new(validation_of(&args.data, args.io)?);
    let networks = args
        .weights
        .iter()
        .map(|said| Network::look_up(args, said, &data));
    let networks: Vec<Network> = networks.collect::<Result<_>>()?;
    check_members(args, &networks, &data)?;
    let started = Instant::now();
    let outcome = match networks.as_slice() {
        [
            Network {
                model: Some(model),
                member,
                said,
            },
        ] if member.look.is_one_centre() && args.posteriors.is_empty() && args.save_posteriors.is_none() => {
            centre(args, &data, model, &member.look, resources).map_err(Error::of_network(&said.path))?
        }
        _ => averaged(args, &data, fused(args, &data, networks, resources)?)?,
    };
    // Where all posteriors were saved before, nobody has looked at an image.
    let images_per_sec = match args.weights.as_slice() {
        [] => 0.0,
        _ => outcome.tally.n as f64 / started.elapsed().as_secs_f64(),
    };
    report(args, &outcome, images_per_sec);
    check_bad(args.max_bad, outcome.tally.left_out(), data.len())?;
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

/// Refuses flags that nothing would come of: those of score maps where there are none, and those of networks where all
/// posteriors were saved before.
fn refuse_unused(args: &EvalArgs) -> Result<()> {
    if args.posteriors.is_empty() {
        args.look.check_score_average([args.look.protocol()])?;
    }
    if !args.weights.is_empty() {
        return Ok(());
    }
    let (look, compute) = (&args.look, &args.compute);
    let said = [
        ("--protocol", look.protocol.is_some()),
        ("--scales", !look.scales.is_empty()),
        ("--flip", look.flip),
        ("--batch", args.batch.is_some()),
        ("--device", compute.device.is_some()),
        ("--cuda-libs", compute.cuda_libs.is_some()),
        ("--replicas", !compute.replicas.is_empty()),
        ("--precision", compute.precision.is_some()),
        ("--cuda-graph", compute.cuda_graph),
        ("--conv-algo", compute.conv_algo.is_some()),
        ("--threads", compute.threads.is_some()),
    ];
    match said.iter().find(|(_, said)| *said) {
        None => Ok(()),
        Some((flag, _)) => Err(Error::Usage(format!(
            "{flag}: expected with --weights; saved posteriors are averaged as they are"
        ))),
    }
}

/// A network that was opened once, to say early what is wrong with it.
struct Network<'a> {
    said: &'a WeightsArg,
    member: Member,
    /// Kept where it is the only one: of several, one at a time is in memory.
    model: Option<Model>,
}

impl<'a> Network<'a> {
    fn look_up(args: &EvalArgs, said: &'a WeightsArg, data: &Dataset) -> Result<Self> {
        let model = open_model(&said.path)?;
        check_classes(&model, data.manifest().classes.len())?;
        let look = args.look.decide(&said.scales, &model)?;
        Ok(Self {
            said,
            member: member(&model, look),
            model: (args.weights.len() == 1).then_some(model),
        })
    }

    /// Opens it again, where it was not kept. What was passed over has been named; a run may have got on.
    fn open(self, data: &Dataset) -> Result<(Model, Look)> {
        let model = match self.model {
            Some(model) => model,
            None => Model::open(&self.said.path)?,
        };
        check_classes(&model, data.manifest().classes.len())?;
        Ok((model, self.member.look))
    }
}

/// Refuses saved posteriors that do not fit, before anything is computed, and names a network that would count twice.
fn check_members(args: &EvalArgs, networks: &[Network], data: &Dataset) -> Result<()> {
    let mut members: Vec<Member> = networks.iter().map(|network| network.member.clone()).collect();
    for path in &args.posteriors {
        members.extend(load(path, data)?.members);
    }
    for (i, member) in members.iter().enumerate() {
        if members[..i].contains(member) {
            note(format_args!(
                "the same network counts twice: {}, weights_sha256 {}",
                member.look, member.weights_sha256
            ));
        }
    }
    args.look
        .check_score_average(members.iter().map(|member| member.look.protocol))
}

fn load(path: &Path, data: &Dataset) -> Result<Ensemble> {
    let manifest = data.manifest();
    Ensemble::load(path, data, manifest.classes.len(), &manifest.sha256())
}

/// What an evaluation found.
pub(super) struct Outcome {
    pub(super) tally: Tally,
    /// By [`ScoreAverage`], where a score map was averaged.
    pub(super) averages: Option<[Tally; 2]>,
    pub(super) members: Vec<Member>,
}

/// The centre crops of one scale, counted on the way: no posteriors are kept.
fn centre(
    args: &EvalArgs,
    data: &Arc<Dataset>,
    model: &Model,
    look: &Look,
    resources: Resources,
) -> Result<Outcome> {
    let preprocess = preprocess_of(model, data);
    let center = Center {
        scale: look.scales[0],
        batch: resources.batch,
        threads: resources.threads,
    };
    let tally = on_replicas!(&args.compute.open_dealt()?, backends => {
        evaluate(backends, model, &preprocess, Arc::clone(data), center)?
    });
    Ok(Outcome {
        tally,
        averages: None,
        members: vec![member(model, look.clone())],
    })
}

/// One or several networks, some of them computed and saved earlier.
fn fused(args: &EvalArgs, data: &Dataset, networks: Vec<Network>, resources: Resources) -> Result<Ensemble> {
    let mut fused: Option<Ensemble> = None;
    let mut add = |one: Ensemble| match &mut fused {
        None => fused = Some(one),
        Some(fused) => fused.add(&one),
    };
    if !networks.is_empty() {
        let device = args.compute.open_dealt()?;
        for network in networks {
            let path = &network.said.path;
            let (model, look) = network.open(data)?;
            add(one_network(&device, data, &model, look, resources).map_err(Error::of_network(path))?);
        }
    }
    for path in &args.posteriors {
        add(load(path, data)?);
    }
    fused.ok_or_else(|| Error::Usage("--weights: expected a run or a file, found none".into()))
}

/// The posteriors of one network.
fn one_network(
    device: &Device,
    data: &Dataset,
    model: &Model,
    look: Look,
    resources: Resources,
) -> Result<Ensemble> {
    let preprocess = preprocess_of(model, data);
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
    let [scores, posteriors] = ScoreAverage::ALL.map(|average| ensemble.averages.tally(data, average));
    let tallies = [scores?, posteriors?];
    if let Some(path) = &args.save_posteriors {
        ensemble.save(path, &data.manifest().sha256())?;
    }
    let protocols = ensemble.members.iter().map(|member| member.look.protocol);
    let has_maps = protocols.into_iter().any(Protocol::is_dense);
    Ok(Outcome {
        tally: tallies[args.look.score_average() as usize].clone(),
        averages: has_maps.then_some(tallies),
        members: ensemble.members,
    })
}
