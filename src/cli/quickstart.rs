//! `verydeep quickstart`: the whole way on real images, in a few minutes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use serde_json::json;

use super::args::{Cli, Command, QuickstartArgs};
use super::compute::{Device, check_threads, on_replicas};
use super::decide::decide;
use super::networks::open_model;
use super::output::{note, print_json, say};
use super::processes::Placement;
use super::progress::Progress;
use super::train::{Data, start_run};
use crate::backend::cpu::Cpu;
use crate::data::shards::{Dataset, Split};
use crate::data::verify::verify;
use crate::error::{Error, Result};
use crate::eval::{Center, evaluate};
use crate::text;
use crate::train::{Recipe, Stop};

/// The recipe, which can also be given to `train --recipe`.
const RECIPE: &str = include_str!("../../recipes/quickstart.toml");

/// Where the images are, below the repository.
const DATA: &str = "examples/quickstart-data";

pub(super) fn quickstart(args: &QuickstartArgs) -> Result<u8> {
    let stop = Stop::on_signals()?;
    let data = match &args.data {
        Some(data) => data.clone(),
        None => find_data()?,
    };
    let run = match &args.run {
        Some(run) => run.clone(),
        None => free_run_folder(Path::new("runs")),
    };
    let threads = check_threads(args.threads)?;

    note(format_args!("1/3  verify {}", data.display()));
    let report = verify(&data, &|_| ())?;
    if let Some(first) = report.bad.into_iter().next() {
        let (bad, samples) = (1, report.samples as u64);
        return Err(Error::BadData {
            bad,
            samples,
            first: Box::new(first),
        });
    }

    let recipe = recipe(&data, &run, args.seed, threads)?;
    note(format_args!(
        "2/3  train net {} at width {} on {} real images for {} epochs, into {}",
        recipe.config,
        recipe.width,
        report.samples,
        recipe.epochs.unwrap_or(0),
        run.display()
    ));
    let device = Device::Cpu(Cpu::new(threads)?, Vec::new());
    let opened = Data::open(&recipe)?;
    let ended = start_run(
        &device,
        recipe.clone(),
        opened,
        &run,
        stop,
        &mut Progress::new(false),
    )?;
    if let Some(error) = ended.error {
        return Err(error);
    }

    note("3/3  evaluate the last checkpoint on the validation images");
    let model = open_model(&run)?;
    let meta = model
        .meta
        .as_ref()
        .ok_or_else(|| Error::invalid(run.display(), "a checkpoint", "a weights file"))?;
    let images = Arc::new(Dataset::open(&data, Split::Validation, recipe.io)?);
    let center = Center {
        scale: meta.scale,
        batch: 32,
        threads,
    };
    let tally =
        on_replicas!(&device, backends => evaluate(backends, &model, &meta.preprocess, images, center)?);
    let (top1, top5) = (100.0 - tally.top1_error(), 100.0 - tally.top5_error());
    if args.json {
        print_json(&json!({
            "run": text::of_path(&run),
            "top1": top1,
            "top5": top5,
            "n": tally.n,
            "weights_sha256": model.weights_sha256,
            "end": ended.event,
        }));
        return Ok(0);
    }
    say(format_args!(
        "trained on real images and evaluated on {} that it has never seen",
        tally.n
    ));
    say(format_args!(
        "run folder {}: recipe.toml, log.jsonl, checkpoints/",
        run.display()
    ));
    say(format_args!("weights_sha256 {}", model.weights_sha256));
    say(format_args!(
        "top-1 {top1:.1} %, top-5 {top5:.1} % (chance {:.1} %)",
        100.0 / model.spec.classes as f64
    ));
    Ok(0)
}

/// The embedded recipe, decided as `train --recipe` would.
fn recipe(data: &Path, run: &Path, seed: u64, threads: usize) -> Result<Recipe> {
    let table: toml::Table =
        toml::from_str(RECIPE).map_err(|e| Error::invalid("recipes/quickstart.toml", "TOML", e))?;
    let mut arguments = vec!["verydeep".to_string(), "train".to_string()];
    arguments.extend(super::recipe_file::flags_of("recipes/quickstart.toml", &table)?);
    arguments.extend([format!("--seed={seed}"), format!("--threads={threads}")]);
    arguments.extend([
        format!("--data={}", data.display()),
        format!("--run={}", run.display()),
    ]);
    let cli = Cli::try_parse_from(arguments).map_err(|e| Error::Usage(e.to_string()))?;
    match cli.command {
        Command::Train(args) => decide(&args, &Placement::alone("cpu")),
        _ => Err(Error::Usage(
            "recipes/quickstart.toml is a recipe of verydeep train".into(),
        )),
    }
}

/// The images: below the present folder, or below one that the program lies in.
fn find_data() -> Result<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let mut places = vec![PathBuf::from(DATA)];
    places.extend(program.ancestors().skip(1).map(|folder| folder.join(DATA)));
    places
        .iter()
        .find(|place| place.is_dir())
        .cloned()
        .ok_or_else(|| {
            Error::invalid_hint(
                "the quick start's images",
                format_args!("the folder {DATA} here or above the program"),
                "no such folder",
                "start it in the repository, or say --data SHARDS",
            )
        })
}

/// `quickstart` in `parent`, or the first `quickstart-N` that does not exist.
fn free_run_folder(parent: &Path) -> PathBuf {
    let first = parent.join("quickstart");
    let others = (2..).map(|n| parent.join(format!("quickstart-{n}")));
    std::iter::once(first)
        .chain(others)
        .find(|folder| !folder.exists())
        .expect("the numbers do not end")
}
