//! `verydeep train`: from flags to a recipe, from a recipe to a run; and `verydeep diff`.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::args::{DiffArgs, TrainArgs};
use super::compute::{Device, check_threads, on_device};
use super::decide::{decide, refuse_new_decisions};
use super::output::{complain, note, print_json, say};
use super::plan::{Division, forecast};
use super::processes::{Placement, Processes};
use super::progress::Progress;
use crate::backend::Backend;
use crate::backend::cuda::{Drift, Options};
use crate::data::decode::DECODER;
use crate::data::preprocess::Preprocess;
use crate::data::resize::RESIZER;
use crate::data::shards::{Dataset, Split};
use crate::error::{Error, Result};
use crate::network::Network;
use crate::parallel::control::Control;
use crate::plan::{Memory, Mode, Plan, WalkOrder};
use crate::train::event::Event;
use crate::train::{
    Ended, Job, Recipe, Start, Stop, check_replicas, compare_classes, create_run, diff as folds,
    equivalence_class, log, write_recipe,
};
use crate::weights::RunFolder;

pub(super) fn train(args: &TrainArgs) -> Result<u8> {
    let stop = Stop::on_signals()?;
    let processes = Processes::from_env(&args.timeouts)?;
    let ended = match &args.resume {
        Some(run) => resume(args, run, &processes, stop)?,
        None => new_run(args, &processes, stop)?,
    };
    let Some(ended) = ended else { return Ok(0) };
    if let (true, Some(event)) = (args.json, &ended.event) {
        print_json(event);
    }
    match &ended.error {
        Some(error) => complain(error),
        None if !args.json => summarise(&ended, args.resume.as_deref().or(args.run.as_deref())),
        None => {}
    }
    Ok(ended.error.map_or(0, |error| error.exit_code()))
}

fn new_run(args: &TrainArgs, processes: &Processes, stop: Stop) -> Result<Option<Ended>> {
    let folders = args.compute.cuda_libs.as_deref();
    let place = processes.place(args.compute.device(), args.compute.replicas()?, folders)?;
    let mut recipe = decide(args, &place)?;
    let data = Data::open(&recipe)?;
    let device = open_device(&mut recipe, args, &place)?;
    let network = recipe.spec(data.classes()).build()?;
    if args.dry_run {
        let memory = on_device!(&device, backend => {
            forecast(backend, &network, args.walk.unwrap_or_default(), Division::of(&recipe, &place))?
        });
        dry_run(args, &recipe, &data, &memory);
        return Ok(None);
    }
    let run = args
        .run
        .as_deref()
        .ok_or_else(|| Error::Usage("train: expected --run RUN".into()))?;
    on_device!(&device, backend => check_memory(backend, &place, &network, &recipe, args.walk.unwrap_or_default())?);
    on_device!(&device, backend => prepare(backend, &network, &recipe)?);
    let mut progress = Progress::new(args.quiet);
    let walk = args.walk.unwrap_or_default();
    let start = Start::new_run(&recipe, &network)?;
    let class = on_device!(&device, backend => class_of(backend, &recipe, &data, &start));
    let train = |control: Option<&Arc<Control>>| {
        let run = if processes.is_first() {
            warn_unguarded(create_run(run, &recipe)?)
        } else {
            RunFolder::new(run)
        };
        let job = Job {
            walk,
            ..data.job(recipe, run, network, class.clone(), start, stop)
        };
        device.train(control, job, &mut progress)
    };
    processes
        .together(&device, &class, args.allow_drift, train)
        .map(Some)
}

/// Says where nothing keeps a second process from the folder, and goes on.
fn warn_unguarded(run: RunFolder) -> RunFolder {
    if let Some(warning) = run.unguarded() {
        note(format_args!("verydeep: {warning}"));
    }
    run
}

/// Refuses before it starts what the device has no memory for.
fn check_memory<B: Backend>(
    backend: &B,
    place: &Placement,
    network: &Network,
    recipe: &Recipe,
    order: WalkOrder,
) -> Result<()> {
    let Some(free) = backend.free_bytes()? else {
        return Ok(());
    };
    let needed = |micro_batch: usize| {
        let division = Division {
            micro_batch,
            ..Division::of(recipe, place)
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
fn open_device(recipe: &mut Recipe, args: &TrainArgs, place: &Placement) -> Result<Device> {
    let options = Options {
        precision: recipe.precision,
        graphs: args.compute.cuda_graph,
    };
    let device = Device::open(
        &place.device,
        place.local_replicas(),
        options,
        recipe.conv_algo,
        recipe.threads,
        args.compute.cuda_libs.as_deref(),
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

/// Starts a run in a new folder and trains it to its end, in one process.
pub(super) fn start_run(
    device: &Device,
    recipe: Recipe,
    data: Data,
    run: &Path,
    stop: Stop,
    progress: &mut Progress,
) -> Result<Ended> {
    let network = recipe.spec(data.classes()).build()?;
    let start = Start::new_run(&recipe, &network)?;
    let run = warn_unguarded(create_run(run, &recipe)?);
    let class = on_device!(device, backend => class_of(backend, &recipe, &data, &start));
    device.train(None, data.job(recipe, run, network, class, start, stop), progress)
}

fn resume(args: &TrainArgs, root: &Path, processes: &Processes, stop: Stop) -> Result<Option<Ended>> {
    refuse_new_decisions(args)?;
    let mut run = RunFolder::new(root);
    if !run.recipe().is_file() {
        return Err(Error::invalid(
            root.display(),
            "a run folder with recipe.toml",
            "none",
        ));
    }
    if processes.is_first() {
        run = warn_unguarded(run.locked()?);
    }
    let mut recipe = Recipe::read(&run.recipe())?;
    if args.epochs.is_some() || args.iterations.is_some() {
        (recipe.epochs, recipe.iterations) = (args.epochs, args.iterations);
    }
    recipe.max_bad = args.max_bad.or(recipe.max_bad);
    recipe.threads = check_threads(args.compute.threads.or(Some(recipe.threads)))?;
    recipe.audit_every = args.audit_every.or(recipe.audit_every);
    if let Some(device) = &args.compute.device {
        recipe.device.clone_from(device);
    }
    // Threads that share a processor stay as many; how many GPUs there are is another question every time.
    let kept = (recipe.device == "cpu").then_some(recipe.replicas);
    let folders = args.compute.cuda_libs.as_deref();
    let place = processes.place(&recipe.device, args.compute.replicas()?.or(kept), folders)?;
    recipe.replicas = place.replicas;
    place.check(recipe.reduce)?;
    recipe.check()?;
    let data = Data::open(&recipe)?;
    let network = recipe.spec(data.classes()).build()?;
    let start = Start::resumed(&run, &recipe, &network)?;
    let device = open_device(&mut recipe, args, &place)?;
    let class = on_device!(&device, backend => class_of(backend, &recipe, &data, &start));
    if let Some(stored) = &start.class
        && !args.allow_drift
    {
        compare_classes(stored, &class)?;
    }
    if start.progress.step >= recipe.total_steps(data.training.len() as u64)
        && let Some(event) = finished(&run)?
    {
        return Ok(Some(Ended {
            event: Some(event),
            error: None,
        }));
    }
    on_device!(&device, backend => check_memory(backend, &place, &network, &recipe, args.walk.unwrap_or_default())?);
    let changed = args.epochs.is_some() || args.iterations.is_some() || args.max_bad.is_some();
    let walk = args.walk.unwrap_or_default();
    let mut progress = Progress::new(args.quiet);
    let train = |control: Option<&Arc<Control>>| {
        if changed && processes.is_first() {
            write_recipe(&run, &recipe)?;
        }
        let job = Job {
            walk,
            ..data.job(recipe, run, network, class.clone(), start, stop)
        };
        device.train(control, job, &mut progress)
    };
    processes
        .together(&device, &class, args.allow_drift, train)
        .map(Some)
}

/// The `end` event of a run that is finished already.
fn finished(run: &RunFolder) -> Result<Option<Event>> {
    let last = log::read_log(&run.log())?.pop().map(|line| line.event);
    Ok(last.filter(|event| matches!(event, Event::End { exit: 0, .. })))
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
        recipe.check_watched(Some(&data.validation))?;
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
        let preprocess = Preprocess {
            exif: recipe.exif,
            ..Preprocess::subtract_mean(self.training.manifest().mean_rgb)
        };
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
    let Some(Event::End {
        step,
        weights_sha256,
        images_per_sec,
        top1,
        top5,
        ..
    }) = &ended.event
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
