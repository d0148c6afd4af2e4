//! `verydeep train`: from flags to a recipe, from a recipe to a run; and `verydeep diff`.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::args::{DiffArgs, TrainArgs};
use super::compute::{Device, check_threads, on_device, on_replicas};
use super::output::{complain, note, print_json, say};
use super::plan::{Division, forecast, micro_batch};
use super::plans;
use super::progress::Progress;
use crate::backend::Backend;
use crate::backend::cuda::{Drift, Options};
use crate::data::decode::DECODER;
use crate::data::preprocess::Preprocess;
use crate::data::resize::RESIZER;
use crate::data::shards::{Dataset, Split};
use crate::error::{Error, Result};
use crate::network::init::Init;
use crate::network::{Config, Network, Spec};
use crate::plan::{Memory, Mode, Plan, WalkOrder};
use crate::train::event::Event;
use crate::train::schedule::Schedule;
use crate::train::{
    Ended, Job, Recipe, Replicas, Start, Stop, check_replicas, compare_classes, create_run, diff as folds,
    equivalence_class, log, write_recipe,
};
use crate::weights::RunFolder;

pub(super) fn train(args: &TrainArgs) -> Result<u8> {
    let stop = Stop::on_signals()?;
    let ended = match &args.resume {
        Some(run) => resume(args, run, stop)?,
        None => new_run(args, stop)?,
    };
    let Some(ended) = ended else { return Ok(0) };
    if args.json {
        print_json(&ended.event);
    }
    match &ended.error {
        Some(error) => complain(error),
        None if !args.json => summarise(&ended, args.resume.as_deref().or(args.run.as_deref())),
        None => {}
    }
    Ok(ended.error.map_or(0, |error| error.exit_code()))
}

fn new_run(args: &TrainArgs, stop: Stop) -> Result<Option<Ended>> {
    let mut recipe = decide(args)?;
    let data = Data::open(&recipe)?;
    let device = open_device(&mut recipe, args)?;
    let network = recipe.spec(data.classes()).build()?;
    if args.dry_run {
        let memory = on_device!(&device, backend => {
            forecast(backend, &network, args.walk.unwrap_or_default(), Division::of(&recipe))?
        });
        dry_run(args, &recipe, &data, &memory);
        return Ok(None);
    }
    let run = args
        .run
        .as_deref()
        .ok_or_else(|| Error::Usage("train: expected --run RUN".into()))?;
    on_device!(&device, backend => check_memory(backend, &network, &recipe, args.walk.unwrap_or_default())?);
    on_device!(&device, backend => prepare(backend, &network, &recipe)?);
    let mut progress = Progress::new(args.quiet);
    on_replicas!(&device, replicas => start_run(replicas, recipe, data, run, stop, args.walk.unwrap_or_default(), &mut progress)).map(Some)
}

/// Refuses before it starts what the device has no memory for.
fn check_memory<B: Backend>(backend: &B, network: &Network, recipe: &Recipe, order: WalkOrder) -> Result<()> {
    let Some(free) = backend.free_bytes()? else {
        return Ok(());
    };
    let needed = |micro_batch: usize| {
        let division = Division {
            micro_batch,
            ..Division::of(recipe)
        };
        Ok::<u64, Error>(forecast(backend, network, order, division)?.device)
    };
    let found = needed(recipe.micro_batch)?;
    if found <= free {
        return Ok(());
    }
    let mut fits = None;
    for micro_batch in (1..recipe.micro_batch).rev() {
        let allowed = recipe.batch.is_multiple_of(micro_batch)
            && check_replicas(recipe.replicas, recipe.batch, micro_batch).is_ok();
        if allowed && needed(micro_batch)? <= free {
            fits = Some(micro_batch);
            break;
        }
    }
    Err(Error::DoesNotFit {
        device: recipe.device.clone(),
        micro_batch: recipe.micro_batch,
        needed: found,
        free,
        fits,
    })
}

/// Refuses before it starts what the device's libraries cannot compute, or not by the plans that the recipe pins.
fn prepare<B: Backend>(backend: &B, network: &Network, recipe: &Recipe) -> Result<()> {
    let preprocess = Preprocess::subtract_mean([0.0; 3]);
    for mode in [Mode::Training, Mode::Evaluation] {
        backend.prepare(&Plan::new(
            network,
            &preprocess,
            recipe.micro_batch,
            mode,
            backend,
        )?)?;
    }
    Ok(())
}

/// The recipe's device, which follows the recipe's plans. Where they do not hold and drift is allowed, says so and takes
/// them out of the recipe, which would say something else than what is computed.
fn open_device(recipe: &mut Recipe, args: &TrainArgs) -> Result<Device> {
    let options = Options {
        precision: recipe.precision,
        graphs: args.compute.cuda_graph,
    };
    let folders = args.compute.cuda_libs.as_deref();
    let device = Device::open(
        &recipe.device,
        recipe.replicas,
        options,
        recipe.conv_algo,
        recipe.threads,
        folders,
    )?;
    if let Some(plans) = &recipe.plans {
        let drift = if args.allow_drift {
            Drift::Allow
        } else {
            Drift::Refuse
        };
        if let Some(why) = device.follow(plans, drift)? {
            complain(&why);
            note(format_args!(
                "verydeep: --allow-drift: the default rule chooses the plans instead"
            ));
            recipe.plans = None;
        }
    }
    Ok(device)
}

/// Starts a run in a new folder and trains it to its end.
pub(super) fn start_run<B: Backend>(
    replicas: Replicas<'_, B>,
    recipe: Recipe,
    data: Data,
    run: &Path,
    stop: Stop,
    order: WalkOrder,
    progress: &mut Progress,
) -> Result<Ended> {
    let network = recipe.spec(data.classes()).build()?;
    let start = Start::new_run(&recipe, &network)?;
    let run = create_run(run, &recipe)?;
    let class = class_of(replicas.combiner, &recipe, &data, &start);
    let job = Job {
        walk: order,
        ..data.job(recipe, run, network, class, start, stop)
    };
    crate::train::train(replicas, job, progress)
}

fn resume(args: &TrainArgs, root: &Path, stop: Stop) -> Result<Option<Ended>> {
    refuse_new_decisions(args)?;
    let run = RunFolder::new(root);
    if !run.recipe().is_file() {
        return Err(Error::invalid(
            root.display(),
            "a run folder with recipe.toml",
            "none",
        ));
    }
    let mut recipe = Recipe::read(&run.recipe())?;
    if args.epochs.is_some() || args.iterations.is_some() {
        (recipe.epochs, recipe.iterations) = (args.epochs, args.iterations);
    }
    recipe.threads = check_threads(args.compute.threads.or(Some(recipe.threads)))?;
    if let Some(device) = &args.compute.device {
        recipe.device.clone_from(device);
    }
    recipe.replicas = args.compute.replicas.unwrap_or(recipe.replicas);
    recipe.check()?;
    let data = Data::open(&recipe)?;
    let network = recipe.spec(data.classes()).build()?;
    let start = Start::resumed(&run, &recipe, &network)?;
    let device = open_device(&mut recipe, args)?;
    let class = on_device!(&device, backend => class_of(backend, &recipe, &data, &start));
    if let Some(stored) = &start.class
        && !args.allow_drift
    {
        compare_classes(stored, &class)?;
    }
    if start.progress.step >= recipe.total_steps(data.training.len() as u64)
        && let Some(event) = finished(&run)?
    {
        return Ok(Some(Ended { event, error: None }));
    }
    on_device!(&device, backend => check_memory(backend, &network, &recipe, args.walk.unwrap_or_default())?);
    if args.epochs.is_some() || args.iterations.is_some() {
        write_recipe(&run, &recipe)?;
    }
    let job = Job {
        walk: args.walk.unwrap_or_default(),
        ..data.job(recipe, run, network, class, start, stop)
    };
    let mut progress = Progress::new(args.quiet);
    on_replicas!(&device, replicas => crate::train::train(replicas, job, &mut progress)).map(Some)
}

/// The `end` event of a run that is finished already.
fn finished(run: &RunFolder) -> Result<Option<Event>> {
    let last = log::read_log(&run.log())?.pop().map(|line| line.event);
    Ok(last.filter(|event| matches!(event, Event::End { exit: 0, .. })))
}

/// A resumed run keeps its recipe: what would change it is refused.
fn refuse_new_decisions(args: &TrainArgs) -> Result<()> {
    let network = &args.network;
    let said = [
        ("--data", args.data.is_some()),
        ("--recipe", args.recipe.is_some()),
        ("--config", args.config.is_some()),
        ("--batch-norm", network.batch_norm.is_some()),
        ("--crop", network.crop.is_some()),
        ("--width", network.width.is_some()),
        ("--fc", network.fc.is_some()),
        ("--dropout", args.dropout.is_some()),
        ("--init", args.init.is_some()),
        ("--init-from", args.init_from.is_some()),
        ("--weights", args.weights.is_some()),
        ("--scale", args.scale.is_some()),
        ("--no-augment", args.no_augment.is_some()),
        ("--on-bad", args.on_bad.is_some()),
        ("--io", args.io.is_some()),
        ("--batch", args.batch.is_some()),
        ("--micro-batch", args.micro_batch.is_some()),
        ("--lr", args.lr.is_some()),
        ("--schedule", args.schedule.is_some()),
        ("--plateau-patience", args.plateau_patience.is_some()),
        ("--plateau-drops", args.plateau_drops.is_some()),
        ("--momentum", args.momentum.is_some()),
        ("--weight-decay", args.weight_decay.is_some()),
        ("--bias-decay", args.bias_decay.is_some()),
        ("--bias-lr", args.bias_lr.is_some()),
        ("--seed", args.seed.is_some()),
        ("--checkpoint-every", args.checkpoint_every.is_some()),
        ("--validate-every", args.validate_every.is_some()),
        ("--stop-if-stuck", args.stop_if_stuck.is_some()),
        ("--folds", args.folds.is_some()),
        ("--precision", args.compute.precision.is_some()),
        ("--plans", args.plans.is_some()),
        ("--conv-algo", args.compute.conv_algo.is_some()),
        ("--dry-run", args.dry_run),
    ];
    match said.iter().find(|(_, said)| *said) {
        None => Ok(()),
        Some((flag, _)) => Err(Error::Usage(format!(
            "{flag}: a resumed run keeps its recipe; with --resume only --epochs, --iterations, --device, --replicas, \
             --cuda-graph, --walk and --threads can be said (to fine-tune, start a new run with --weights)"
        ))),
    }
}

/// Every decision, with the paper's number where nothing was said.
pub(super) fn decide(args: &TrainArgs) -> Result<Recipe> {
    let needed = |flag: &str| Error::Usage(format!("train: expected {flag}"));
    let config: Config = args.config.ok_or_else(|| needed("--config"))?;
    let spec: Spec = args.network.spec(config, 1, args.dropout);
    let batch = args.batch.unwrap_or(256);
    let recipe = Recipe {
        data: args.data.clone().ok_or_else(|| needed("--data SHARDS"))?,
        config,
        batch_norm: spec.batch_norm,
        crop: spec.crop,
        scale: args.scale.unwrap_or("256".parse()?),
        width: spec.width,
        fc: spec.fc,
        dropout: spec.dropout,
        init: args.init.unwrap_or(Init::Glorot),
        init_from: args.init_from.clone(),
        weights: args.weights.clone(),
        batch,
        micro_batch: micro_batch(args.micro_batch, batch),
        epochs: match (args.epochs, args.iterations) {
            (None, None) => Some(crate::train::PAPER_EPOCHS),
            (epochs, _) => epochs,
        },
        iterations: args.iterations,
        lr: args.lr.unwrap_or(0.01),
        schedule: args.schedule.unwrap_or(Schedule::Plateau),
        plateau_patience: args.plateau_patience.unwrap_or(5),
        plateau_drops: args.plateau_drops.unwrap_or(3),
        momentum: args.momentum.unwrap_or(0.9),
        weight_decay: args.weight_decay.unwrap_or(5e-4),
        bias_decay: args.bias_decay.unwrap_or(1.0),
        bias_lr: args.bias_lr.unwrap_or(1.0),
        seed: args.seed.unwrap_or(1),
        no_augment: args.no_augment.unwrap_or(false),
        checkpoint_every: args.checkpoint_every,
        validate_every: args.validate_every,
        stop_if_stuck: args.stop_if_stuck,
        folds: args.folds.unwrap_or(false),
        on_bad: args.on_bad.unwrap_or(crate::data::loader::OnBad::Skip),
        device: args.compute.device().into(),
        replicas: args.compute.replicas.unwrap_or(1),
        precision: args.compute.precision(),
        conv_algo: args.compute.convolution(),
        threads: args.compute.threads()?,
        io: args.io.unwrap_or_default(),
        plans: args.plans.as_deref().map(plans::read).transpose()?,
    };
    recipe.check()?;
    Ok(recipe)
}

/// The two splits of a run.
pub(super) struct Data {
    training: Arc<Dataset>,
    validation: Arc<Dataset>,
}

impl Data {
    /// Opens both splits.
    pub(super) fn open(recipe: &Recipe) -> Result<Self> {
        let open = |split| Dataset::open(&recipe.data, split, recipe.io).map(Arc::new);
        let data = Self {
            training: open(Split::Train)?,
            validation: open(Split::Validation)?,
        };
        if data.training.is_empty() {
            return Err(Error::invalid(recipe.data.display(), "training images", "none"));
        }
        recipe.training_views(data.training.manifest())?;
        Ok(data)
    }

    fn classes(&self) -> usize {
        self.training.manifest().classes.len()
    }

    fn job(
        self,
        recipe: Recipe,
        run: RunFolder,
        network: crate::network::Network,
        class: serde_json::Value,
        start: Start,
        stop: Stop,
    ) -> Job {
        let preprocess = Preprocess::subtract_mean(self.training.manifest().mean_rgb);
        let validation = Some(self.validation);
        Job {
            recipe,
            run,
            network,
            preprocess,
            training: self.training,
            validation,
            class,
            start,
            stop,
            walk: WalkOrder::default(),
            flip: None,
        }
    }
}

fn class_of<B: Backend>(backend: &B, recipe: &Recipe, data: &Data, start: &Start) -> serde_json::Value {
    let images = format!("{DECODER}; {RESIZER}");
    let data = data.training.manifest().sha256();
    equivalence_class(recipe, &data, &images, &start.initial_sha256, &backend.class())
}

fn dry_run(args: &TrainArgs, recipe: &Recipe, data: &Data, memory: &Memory) {
    let steps = recipe.total_steps(data.training.len() as u64);
    if args.json {
        print_json(&json!({ "recipe": recipe, "steps": steps, "memory": memory }));
        return;
    }
    say(recipe.to_toml().trim_end());
    say(format_args!(
        "# {} training and {} validation images, {} classes: {steps} steps, {:.1} MiB of memory",
        data.training.len(),
        data.validation.len(),
        data.classes(),
        memory.total as f64 / f64::from(1 << 20)
    ));
}

fn summarise(ended: &Ended, run: Option<&Path>) {
    let Event::End {
        step,
        weights_sha256,
        images_per_sec,
        top1,
        top5,
        ..
    } = &ended.event
    else {
        return;
    };
    say(format_args!(
        "finished after {step} steps, {images_per_sec:.1} images/s"
    ));
    if let (Some(top1), Some(top5)) = (top1, top5) {
        say(format_args!("validation: top-1 {top1:.1} %, top-5 {top5:.1} %"));
    }
    say(format_args!("weights_sha256 {weights_sha256}"));
    if let Some(run) = run {
        say(format_args!("run folder {}", run.display()));
    }
}

pub(super) fn diff(args: &DiffArgs) -> Result<u8> {
    let read = |run: &Path| log::read_log(&RunFolder::new(run).log());
    let (left, right) = (read(&args.left)?, read(&args.right)?);
    let name = |run: &Path| run.display().to_string();
    let comparison = folds::diff((&name(&args.left), &left), (&name(&args.right), &right))?;
    if args.json {
        print_json(&comparison);
    } else {
        match &comparison.first {
            None => say(format_args!("equal: {} steps compared", comparison.steps)),
            Some(d) => say(format_args!(
                "first difference: step {}, micro-batch {}, layer {}, pass {}: {} and {}",
                d.step,
                d.micro_batch,
                d.layer,
                json!(d.pass).as_str().unwrap_or_default(),
                d.left,
                d.right
            )),
        }
    }
    Ok(u8::from(!comparison.equal))
}
