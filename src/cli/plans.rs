//! `verydeep bench tune`, and reading the plan files that it makes.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::args::{BenchTuneArgs, ComputeArgs};
use super::compute::Device;
use super::output::{print_json, say};
use crate::backend::cuda::plans::PlanFile;
use crate::backend::cuda::{Drift, Tuned};
use crate::data::preprocess::Preprocess;
use crate::durable;
use crate::error::{Error, Result};
use crate::plan::{Mode, Plan};
use crate::text;

/// Reads a plan file, or the one that a recipe (`recipe.toml` of a run folder) holds.
pub(super) fn read(path: &Path) -> Result<PlanFile> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let name = path.display().to_string();
    if text.trim_start().starts_with('{') {
        return PlanFile::parse(&text, &name);
    }
    let mut recipe: toml::Table =
        toml::from_str(&text).map_err(|why| Error::invalid(&name, "a plan file, or a recipe", why))?;
    let plans = recipe
        .remove("plans")
        .ok_or_else(|| Error::invalid(&name, "a recipe that holds plans", "one without"))?;
    let plans: PlanFile = plans
        .try_into()
        .map_err(|why| Error::invalid(&name, "a recipe that holds whole plans", why))?;
    plans.check(&format!("{name}, plans"))?;
    Ok(plans)
}

/// Opens the device of a benchmark, to compute as a plan file says where one was said.
pub(super) fn open(compute: &ComputeArgs, plans: Option<&Path>) -> Result<Device> {
    let device = compute.open()?;
    if let Some(path) = plans {
        device.follow(&read(path)?, Drift::Refuse)?;
    }
    Ok(device)
}

/// Refuses `--cuda-graph` where steps are executed one by one.
pub(super) fn refuse_graphs(compute: &ComputeArgs, what: &str) -> Result<()> {
    if !compute.cuda_graph {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "--cuda-graph: expected with train, eval, predict or bench train|infer, found {what}, which executes step by step"
    )))
}

pub(super) fn tune(args: &BenchTuneArgs) -> Result<u8> {
    args.compute.check()?;
    refuse_graphs(&args.compute, "bench tune")?;
    if args.micro_batch == 0 {
        return Err(Error::invalid("--micro-batch", "at least 1", 0));
    }
    let network = args.network.spec(args.config, args.classes, None).build()?;
    let Device::Cuda(devices) = args.compute.open()? else {
        return Err(Error::Usage(format!(
            "bench tune: expected --device cuda or cuda:N, found {}; the CPU has nothing to tune",
            args.compute.device()
        )));
    };
    // Minutes go by before it is written.
    let folder = args.out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        std::fs::read_dir(folder).map_err(Error::io("write into", folder))?;
    }
    let preprocess = Preprocess::subtract_mean([0.0; 3]);
    let device = &devices[0];
    let plan = |mode| Plan::new(&network, &preprocess, args.micro_batch, mode, device);
    let (file, tuned) = device.tune(&[plan(Mode::Training)?, plan(Mode::Evaluation)?])?;
    let text = file.to_json();
    durable::write_atomically(&args.out, |to| to.write_all(text.as_bytes()))?;
    let seconds = |of: &dyn Fn(&Tuned) -> f64| -> f64 { tuned.iter().map(of).sum() };
    let (before, after) = (seconds(&|t| t.default.1), seconds(&|t| t.fastest.1));
    if args.json {
        print_json(&json!({
            "file": text::of_path(&args.out),
            "sha256": file.sha256(),
            "device": args.compute.device(),
            "precision": args.compute.precision().name(),
            "micro_batch": args.micro_batch,
            "plans": tuned.iter().map(|found| json!({
                "layer": found.layer,
                "what": found.what,
                "tried": found.tried,
                "default": found.default.0,
                "default_seconds": found.default.1,
                "fastest": found.fastest.0,
                "fastest_seconds": found.fastest.1,
            })).collect::<Vec<_>>(),
            "default_seconds": before,
            "fastest_seconds": after,
        }));
        return Ok(0);
    }
    say(format_args!(
        "{:<9} {:<26} {:>5} {:>11} {:>11} {:>6}  the fastest",
        "layer", "what", "tried", "default ms", "fastest ms", "gain"
    ));
    for found in &tuned {
        say(format_args!(
            "{:<9} {:<26} {:>5} {:>11.3} {:>11.3} {:>5.2}x  {}",
            found.layer,
            found.what,
            found.tried,
            1e3 * found.default.1,
            1e3 * found.fastest.1,
            found.default.1 / found.fastest.1,
            found.fastest.0
        ));
    }
    say(format_args!(
        "all of them once: {:.3} ms by the default rule, {:.3} ms as tuned",
        1e3 * before,
        1e3 * after
    ));
    say(format_args!(
        "{}: sha256 {}; train with --plans {}",
        args.out.display(),
        file.sha256(),
        args.out.display()
    ));
    Ok(0)
}
